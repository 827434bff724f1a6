"""One training step shared among more and more devices, and the bytes that its replicas tell each
other.
"""

import time

import jax
import numpy as np

from harmony_jax import parallel
from harmony_jax.agent import parameter_count
from harmony_jax.benchmarking import subject, timing

WARM_UP = 3


def measure(config, actions=0, repeats=0) -> dict:
  """Times the update of the whole batch on 1, 2, 4, … devices of this process, as many as can share
  it.

  Args:
    actions: number of actions; 0 takes the suite's. repeats: timed steps; 0 for a number that suits
      them.

  Returns: {`by_devices`: {number: seconds of an update from call to result, `begin_ms` until the
  call returns (no other Python runs meanwhile), `weights_ms` to take the copy that acting uses,
  `speedup` and `efficiency` (speedup per device) over one device}, …}. `mapped` is one device by
  the mapped program: what the mapping itself costs. `reduced_bytes` are summed over replicas in an
  update: the gradients of all parameters, and imagined returns.
  """
  spec = subject.make_spec(config, actions)
  agent = subject.make_agent(config, spec)
  batch = subject.random_batch(config, spec)
  most = parallel.choose_devices(0, config.batch_size)
  counts = [count for count in range(1, most + 1) if config.batch_size % count == 0]
  found = {
    str(count): _time(parallel.compile_agent(agent, count), batch, repeats) for count in counts
  }
  alone = found['1']['seconds_median']
  for count in counts:
    speedup = alone / found[str(count)]['seconds_median']
    found[str(count)] |= {'speedup': speedup, 'efficiency': speedup / count}
  if len(counts) == 1:
    functions = parallel.compile_agent(agent) | parallel.Replicas(agent, 1).functions()
    found['mapped'] = _time(functions, batch, repeats)
  return {'devices': most, 'by_devices': found, 'reduced_bytes': reduced_bytes(agent, config)}


def reduced_bytes(agent, config) -> int:
  """Bytes of float32 that an update sums or gathers over replicas: gradients, and the returns for
  their percentiles.
  """
  params = jax.eval_shape(agent.init, jax.random.key(0)).params
  gradients = 4 * parameter_count(params)
  behavior = agent.behavior
  returns = (
    4 * behavior.horizon * config.batch_size * config.batch_length if behavior.normalize else 0
  )
  return gradients + returns


def _time(functions, batch, repeats) -> dict:
  state, batch = functions['init'](jax.random.key(0)), functions['put'](batch)
  began = {'begin': [], 'weights': []}

  def step():
    nonlocal state
    start = time.perf_counter()
    state, metrics = functions['train_step'](state, batch)
    began['begin'].append(time.perf_counter() - start)
    jax.block_until_ready((state, metrics))
    start = time.perf_counter()
    functions['weights'](state)
    began['weights'].append(time.perf_counter() - start)

  for _ in range(WARM_UP):
    step()
  for times in began.values():
    times.clear()
  times = timing.repeat(step, repeats)
  return timing.spread(times) | {
    f'{name}_ms': 1e3 * float(np.median(values)) for name, values in began.items()
  }
