"""One training step: time, floor, compilation, memory."""

import ctypes
import pathlib
import resource
import time

import jax

from harmony_jax import parallel
from harmony_jax.agent import parameter_count
from harmony_jax.benchmarking import flops, subject, timing

WARM_UP = 2
PROFILED = 3


def measure(config, actions=0, repeats=0, profile='') -> dict:
  """Compiles and times the training step on a batch of noise that lies on the device.

  Args:
    actions: number of actions; 0 takes the suite's.
    repeats: timed steps; 0: at least 5 and at least 10 seconds worth, at most 200.
    profile: folder for a profiler's trace of three more steps.

  Returns: seconds of a step from call to result; `compile_seconds` from the function to the program
  without any cache, `trace_seconds` being the first part of it (tracing and lowering);
  `peak_memory_bytes` from before the agent was made to the last step, and `…_stepping` without
  compiling; `flops` as in flops.py.
  """
  spec = subject.make_spec(config, actions)
  memory = PeakMemory()
  agent = subject.make_agent(config, spec)
  compiled = parallel.compile_agent(agent)
  state = subject.first_state(compiled)
  batch = jax.block_until_ready(jax.device_put(subject.random_batch(config, spec)))
  step, result = compile_step(compiled['train_step'], state, batch)
  compiling = memory.read()
  memory.reset()
  run = Steps(step, state, batch)
  for _ in range(WARM_UP):
    run()
  cpu = timing.cpu_seconds()
  times = timing.repeat(run, repeats)
  cpu = (timing.cpu_seconds() - cpu) / len(times)
  count, parts = flops.train_step(agent, config.batch_size, config.batch_length)
  result |= timing.spread(times) | {'cpu_seconds': cpu, 'flops': count, 'flops_by_part': parts}
  stepping, rate = memory.read(), 1 / result['seconds_median']
  result |= {
    'updates_per_second': rate,
    'gflops_achieved': 1e-9 * count * rate,
    'peak_memory_bytes': max(compiling, stepping),
    'peak_memory_bytes_stepping': stepping,
    'peak_memory_by': memory.source,
    'parameters': parameter_count(run.state.params),
    'actions': agent.actions,
  }
  if profile:
    with jax.profiler.trace(profile):
      for _ in range(PROFILED):
        run()
    result['profile'] = str(pathlib.Path(profile).absolute())
  return result


def compile_step(function, state, batch):
  """(the program, {'trace_seconds', 'compile_seconds', XLA's own account of its memory})."""
  began, cpu = time.perf_counter(), timing.cpu_seconds()
  lowered = function.lower(state, batch)
  traced = time.perf_counter()
  program = lowered.compile()
  result = {
    'trace_seconds': traced - began,
    'compile_seconds': time.perf_counter() - began,
    'compile_cpu_seconds': timing.cpu_seconds() - cpu,
  }
  account = program.memory_analysis()
  if account is not None:  # not every backend gives one
    result |= {
      'xla_temporary_bytes': account.temp_size_in_bytes,
      'xla_argument_bytes': account.argument_size_in_bytes,
    }
  return program, result


def with_floor(record: dict, ceilings: dict, compute_dtype: str) -> dict:
  """The record with its floor: the time that `flops` take at the measured rate of matrix products
  in that dtype.
  """
  rate = ceilings['matmul_gflops']
  if compute_dtype == 'bfloat16':
    rate = ceilings.get('matmul_gflops_bfloat16', rate)
  floor = 1e-9 * record['flops'] / rate
  return record | {'floor_seconds': floor, 'floor_ratio': record['seconds_median'] / floor}


class Steps:
  """Training steps one after the other on the same batch; each call waits for the whole state and
  all metrics.
  """

  def __init__(self, step, state, batch):
    self.state, self._step, self._batch = state, step, batch

  def __call__(self):
    self.state, metrics = self._step(self.state, self._batch)
    jax.block_until_ready((self.state, metrics))


class PeakMemory:
  """The most bytes in use since it was made, or `reset`: of the device, or of this process where
  that is a CPU.

  `source` says what counts. The peak of an accelerator, and of a process whose mark the system does
  not let us set back, is that since the process began.
  """

  def __init__(self):
    self._device = jax.devices()[0]
    stats = self._device.memory_stats() if self._device.platform != 'cpu' else None
    self.source = 'device' if stats else 'VmHWM' if self.reset() else 'ru_maxrss'

  def reset(self) -> bool:
    """Sets the mark back to what is in use now; whether that was possible."""
    try:
      _release_freed_memory()
      pathlib.Path('/proc/self/clear_refs').write_text('5', encoding='ascii')
      return bool(_status('VmHWM'))
    except OSError:
      return False

  def read(self) -> int:
    """The mark, in bytes."""
    if self.source == 'device':
      return self._device.memory_stats()['peak_bytes_in_use']
    if self.source == 'VmHWM':
      return _status('VmHWM')
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _release_freed_memory():
  """Gives freed memory back to the system, such as the compiler's, so that it does not count as in
  use.
  """
  try:
    ctypes.CDLL(None).malloc_trim(0)
  except (AttributeError, TypeError):  # not glibc
    pass


def _status(name) -> int:
  """A line of /proc/self/status in bytes; 0 where it is not there."""
  for line in pathlib.Path('/proc/self/status').read_text(encoding='ascii').splitlines():
    if line.startswith(name + ':'):
      return 1024 * int(line.split()[1])
  return 0
