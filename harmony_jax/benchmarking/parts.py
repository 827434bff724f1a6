"""The parts that are measured: an update and its compiling, and what is around it in a run."""

# pyright: reportArgumentType=false
# (batches are NumPy here)

import contextlib
import functools
import io
import itertools
import os
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from harmony_jax import envs, parallel
from harmony_jax.benchmarking import flops, machine
from harmony_jax.benchmarking.machine import repeat, spread
from harmony_jax.benchmarking.subject import Subject, row
from harmony_jax.config import Config
from harmony_jax.device_replay import DeviceReplay
from harmony_jax.envs.base import to_environment
from harmony_jax.optimizers import parameter_count
from harmony_jax.training import evaluation, run_folder, setup
from harmony_jax.training.loop import Trainer


def measure(part: str, config: Config, repeats: int, size: int) -> dict[str, Any]:
  """Return a part's record; it and the ceilings around it come from processes of their own.

  Args:
    repeats: of what the part times; 0 for what suits it. size: of the products of the ceiling.
  """
  fresh = machine.in_fresh_process
  if part in ('env', 'compile', 'precision'):
    return fresh(_record, part, config, repeats)
  ceilings = functools.partial(fresh, machine.ceilings, size, config.agent.matmul_precision)
  before, record, after = ceilings(), fresh(_record, part, config, repeats), ceilings()
  record |= {name: max(value, after[name]) for name, value in before.items()}
  record['product_size'] = size
  if 'flops' in record:
    short = config.agent.compute_dtype == 'bfloat16' and 'matmul_gflops_bfloat16' in record
    rate = record['matmul_gflops_bfloat16' if short else 'matmul_gflops']
    record['gflops_achieved'] = 1e-9 * record['flops'] / record['seconds_median']
    record['floor_seconds'] = 1e-9 * record['flops'] / rate
    record['floor_ratio'] = record['seconds_median'] / record['floor_seconds']
  return record


def _record(part, config, repeats):
  """Return what a part finds out, in a process that has done nothing else."""
  if part == 'compile':  # which has processes of its own, and must not take their accelerator
    found = compilation(config)
  else:
    parallel.use_compilation_cache()
    parallel.keep_freed_memory()
    measure: Callable[..., dict] = PARTS[part]
    found = measure(config if part in ('env', 'precision') else Subject(config), repeats)
  run = {name: getattr(config.run, name) for name in ('suite', 'task', 'method', 'preset')}
  names = ('compute_dtype', 'matmul_precision', 'batch_size', 'batch_length')
  agent = {name: getattr(config.agent, name) for name in names}
  return {'what': part, **machine.describe_machine(), **run, **agent, **found}


def updates(step: Any, state: Any, batch: Any) -> Callable[[], Any]:
  """Return what does one update after the other on one batch, and returns all that it makes."""
  made = [(state, None)]

  def update():
    made[0] = step(made[0][0], batch)
    return made[0]

  return update


def train_step(subject: Subject, repeats: int) -> dict[str, Any]:
  """Measure the update of a batch that lies on the device, and how it is compiled."""
  jax.config.update('jax_enable_compilation_cache', False)
  state, batch = subject.state(), subject.compiled.put(subject.batch())
  program, found = _compile(subject.compiled.train_step, state, batch)
  update = updates(program, state, batch)
  repeat(update, 1)
  cpu = time.process_time()
  times = repeat(update, repeats, warm_up=0)
  found['cpu_seconds'] = (time.process_time() - cpu) / len(times)
  found |= spread(times) | machine.peak_memory()
  found['planned'] = machine.planned_memory(program.memory_analysis())
  state = jax.eval_shape(subject.method.init, jax.random.key(0))
  found['parameters'] = parameter_count(state.params)
  found['actions'] = subject.spec.num_actions
  try:
    found['flops'] = flops.count(subject.method.train_step, state, batch)
  except flops.Uncountable as error:
    found['flops_unknown'] = str(error)
  return found


def _compile(function, *arguments):
  """Return (the program, its seconds: `compile_seconds` hold `trace_seconds`)."""
  began = time.perf_counter()
  lowered = function.lower(*arguments)
  traced = time.perf_counter() - began
  program = lowered.compile()
  return program, {'trace_seconds': traced, 'compile_seconds': time.perf_counter() - began}


def scaling(subject: Subject, repeats: int) -> dict[str, Any]:
  """Measure the update of the whole batch on 1, 2, 4, … devices, and as `mapped` on one.

  `begin_ms`: until the call of one update returned; `speedup`: over one device.
  """
  method, batch = subject.method, subject.batch()
  rows, found = len(batch['is_first']), {}
  counts = [n for n in range(1, parallel.choose_devices(0, rows) + 1) if rows % n == 0]
  ways: dict[str, Any] = {str(count): parallel.compile_method(method, count) for count in counts}
  for name, way in (ways | {'mapped': parallel.Replicas(method, 1)}).items():
    update = updates(way.train_step, way.init(jax.random.key(0)), way.put(batch))
    found[name] = spread(repeat(update, repeats, warm_up=3))
    began = time.perf_counter()
    update()
    found[name]['begin_ms'] = 1e3 * (time.perf_counter() - began)
    found[name]['speedup'] = found['1']['seconds_median'] / found[name]['seconds_median']
  state = jax.eval_shape(method.init, jax.random.key(0))
  reduced = flops.exchanged_bytes(method.train_step, state, batch)
  return {'by_devices': found, 'reduced_bytes': reduced}


def compilation(config: Config) -> dict[str, Any]:
  """Measure the first update of two new processes with one cache, which is empty at first."""
  with tempfile.TemporaryDirectory() as folder:
    os.environ['JAX_COMPILATION_CACHE_DIR'] = folder  # for them
    first, second = (machine.in_fresh_process(_first_update, config) for _ in range(2))
  return {**first, 'compile_seconds_cached': second['compile_seconds'], 'second': second}


def _first_update(config):
  subject = Subject(config)
  arguments = subject.state(), subject.compiled.put(subject.batch())
  program, found = _compile(subject.compiled.train_step, *arguments)
  call = functools.partial(program, *arguments)
  return {**found, 'first_call_seconds': repeat(call, 1, warm_up=0)[0]}


def policy(subject: Subject, repeats: int) -> dict[str, Any]:
  """Measure `Player.act` from NumPy to NumPy for 1 and 64 environments."""
  return {f'batch_{count}': _acting(subject, count, repeats) for count in (1, 64)}


def _acting(subject, count, repeats):
  variables, steps = subject.compiled.variables(subject.state()), subject.steps(count)
  (first, _), (timestep, _) = itertools.islice(steps, 2)
  mode, calls = subject.config.agent.eval_policy == 'mode', itertools.count()
  where = subject.method, subject.compiled, variables, count
  player = evaluation.Player(*where, jax.random.key(1), mode)
  player.act(variables, first, next(calls))  # episodes begin: a planner's horizon is chosen there
  times = repeat(lambda: player.act(variables, timestep, next(calls)), repeats)
  return spread(times, 'ms', 1e3) | {'ms_per_step': 1e3 * float(np.median(times)) / count}


def evaluate(subject: Subject, repeats: int) -> dict[str, Any]:
  """Measure complete episodes of `eval_envs` environments, by default 100, and of one, a 50th."""
  config, found = subject.config, {}
  variables, many = subject.compiled.variables(subject.state()), repeats or 100
  for name, count, episodes in (('one', 1, -(-many // 50)), ('many', config.run.eval_envs, many)):
    sizes = evaluation.group_sizes(min(count, episodes))
    for size in sizes:
      _acting(subject, size, 1)  # compiles it
    groups = [setup.make_env(config, size, **config.eval_env) for size in sizes]
    where = (subject.method, subject.compiled, variables, groups, config.run.seed, 0)
    began = time.perf_counter()
    played = evaluation.evaluate(*where, episodes, config.agent.eval_policy == 'mode')
    seconds, steps = time.perf_counter() - began, sum(result.length for result in played)
    counts = {'environments': sum(sizes), 'episodes': episodes, 'steps': steps}
    found[name] = {**counts, 'seconds': seconds, 'steps_per_second': steps / seconds}
    for env in groups:
      env.close()
  return {**found, 'ratio': found['many']['steps_per_second'] / found['one']['steps_per_second']}


def replay(subject: Subject, repeats: int, stored: int = 10_000) -> dict[str, Any]:
  """Measure one batch, drawn and gathered: on the host, copied from there, kept on the device.

  So many steps are stored, and one of all environments is appended before each batch.
  """
  host, steps = subject.replay(stored), subject.steps(subject.config.run.num_envs)
  append = lambda: repeat(functools.partial(host.append, row(*next(steps))), 1, warm_up=0)
  appended = sum((append() for _ in range(host.kept)), [])
  device, size = DeviceReplay(host), sum(array.nbytes for array in host.sample(0).values())
  found: dict[str, Any] = {'batch_bytes': size, 'append': spread(appended, 'ms', 1e3)}
  for name, way in {
    'host': lambda update: host.gather(host.draw(update)),
    'host_to_device': lambda update: jax.device_put(host.gather(host.draw(update))),
    'device': lambda update: device.gather(device.draw(update)),
  }.items():
    times = []
    for update in range(3 + (repeats or 100)):
      append()
      times += repeat(functools.partial(way, update), 1, warm_up=0)
    found[name] = spread(times[3:], 'ms', 1e3)
    found[name]['gbytes_per_second'] = 1e-6 * size / found[name]['ms_median']
  return found


def environment(config: Config, repeats: int) -> dict[str, Any]:
  """Measure steps of one environment in this process, by default 60, and a sixth as many resets.

  Medians of wall clock and, to compare on a shared machine, of CPU time.
  """
  count, last = repeats or 60, True
  clocks = lambda: np.array([time.perf_counter(), time.process_time()])
  env, took = setup.make_env(config.replace({'env_processes': False}), 1), {True: [], False: []}
  for number in range(1 + count + count // 6):
    vector = evaluation.random_actions(env.spec, 1, config.run.seed, number)
    action = to_environment(vector, env.spec)
    restart, before = last or number <= count // 6, clocks()
    last = env.step(action, np.full(1, restart), np.full(1, number)).is_last.item()
    if number:  # the first one loads the simulator
      took[restart].append(1e3 * (clocks() - before))
  env.close()
  found = {}
  for name, rows in (('reset', took[True]), ('step', took[False])):
    if rows:
      found[f'{name}_ms'], found[f'{name}_cpu_ms'] = np.median(rows, 0).tolist()
  return found


def precision(config: Config, repeats: int) -> dict[str, Any]:
  """Compare bfloat16 with float32: the same updates, by default 300, of the same parameters on the
  same batches of random play.

  `losses`: of each its last mean over `window` updates, and how far later ones are apart at most,
  relative to the mean loss. `curves`: {loss: {precision: [value of each update]}}.
  """
  window, played, names = 20, 2_000, ('float32', 'bfloat16')
  config, count = config.replace({'num_envs': 1}), max(2, (repeats or 300) // window)
  subjects = [Subject(config.replace({'compute_dtype': name})) for name in names]
  recorded, both = _played(subjects[0], played), []
  for subject in subjects:
    state, history = subject.state(), []
    for update in range(count * window):
      state, metrics = subject.compiled.train_step(state, recorded.sample(update))
      history.append({name: metrics[name] for name in metrics if name.startswith('loss/')})
    both.append(jax.tree.map(lambda *each: np.array(each, float), *jax.device_get(history)))
  losses = {}
  for name in both[0]:
    a, b = (each[name].reshape(count, window).mean(1) for each in both)
    apart = float(np.abs(a - b)[1:].max() / np.abs(a).mean())
    last = {f'final_{kind}': float(each[-1]) for kind, each in zip(names, (a, b))}
    losses[name] = {**last, 'largest_difference': apart}
  curves = {name: {k: each[name].tolist() for k, each in zip(names, both)} for name in losses}
  sizes = {'updates': count * window, 'window': window, 'played': played}
  return {**sizes, 'losses': losses, 'curves': curves}


def _played(subject, steps):
  """A replay of so many random steps of one environment."""
  seed, recorded = subject.config.run.seed, subject.replay(steps)
  with contextlib.closing(setup.make_env(subject.config, 1)) as env:
    episodes = envs.Episodes(env, seed, 'train')
    timestep = episodes.step(None)
    for number in range(steps):
      vector = evaluation.random_actions(env.spec, 1, seed, number)
      recorded.append(row(timestep, vector))
      timestep = episodes.step(to_environment(vector, env.spec))
  return recorded


class Enough(Exception):
  """Ends a run."""


class Stretch:
  """A hook that looks at the clocks after 20 updates, and after so many more ends the run."""

  every = 1

  def __init__(self, updates: int):
    self.marks: list[np.ndarray] = []  # updates, steps, seconds, CPU seconds
    self._updates = updates

  def __call__(self, trainer: Trainer) -> None:
    """Look, once all updates so far are done."""
    if trainer.state.update < (self.marks[0][0] + self._updates if self.marks else 20):
      return
    jax.block_until_ready(trainer.updates.state)
    clocks = time.perf_counter(), time.process_time()
    self.marks.append(np.array([trainer.state.update, trainer.state.step, *clocks]))
    if len(self.marks) > 1:
      raise Enough


def loop(subject: Subject, repeats: int) -> dict[str, Any]:
  """Measure a run at one update per step, by default 500, over `step_ms` of updates alone."""
  agent, count = subject.config.agent, repeats or 500
  never = dict.fromkeys(('steps', 'eval_every', 'checkpoint_every', 'video_every'), 10**9)
  often = {'train_ratio': float(agent.batch_size * agent.batch_length), 'pretrain': 1}
  config = subject.config.replace({**never, **often, 'prefill': 0, 'eval_at_start': False})
  stretch = Stretch(count)
  with tempfile.TemporaryDirectory() as folder, run_folder.prepare(folder, config, {}) as opened:
    trainer = Trainer(config, opened, more=[stretch])
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(Enough):
      trainer.run()
  compiled = trainer.updates.compiled
  update = updates(compiled.train_step, trainer.updates.state, compiled.put(subject.batch()))
  repeat(update, 1)
  alone = repeat(lambda: [update() for _ in range(count)][-1], 1, warm_up=0)[0] / count
  done, steps, seconds, cpu = (stretch.marks[1] - stretch.marks[0]).tolist()
  each = {'loop_ms_per_step': 1e3 * seconds / steps, 'loop_cpu_ms_per_step': 1e3 * cpu / steps}
  counts = {'steps': int(steps), 'updates': int(done)}
  return {**each, 'step_ms': 1e3 * alone, 'ratio': seconds / steps / alone, **counts}


PARTS = {'train_step': train_step, 'policy': policy, 'loop': loop, 'eval': evaluate}
PARTS |= {'precision': precision, 'replay': replay, 'env': environment, 'scaling': scaling}
PARTS |= {'compile': compilation}
