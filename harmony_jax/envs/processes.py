"""N environments in N processes: for simulators whose rendering is slow and holds Python.

    env = Processes(functools.partial(envs.make, 'dmc', 'cheetah_run', 1), num_envs=4)

Time steps lie in memory that all processes share; only actions and short
answers go through pipes. The numbers are bitwise those of one process, as
every episode is a function of its seed and its actions.

A script that makes such environments must do so under
`if __name__ == '__main__':`, since every worker imports the script anew.
"""

import contextlib
import multiprocessing
import multiprocessing.connection
import multiprocessing.resource_tracker
import os
import signal
import tempfile
import threading
import time
import traceback
from typing import NamedTuple

import numpy as np

from harmony_jax.envs import base

# What workers find in their environment, unless the user has set it. They share the machine: one thread each for
# linear algebra and for Mesa's software rendering, and no accelerator, which belongs to the training.
VARIABLES = {
    'OMP_NUM_THREADS': '1', 'OPENBLAS_NUM_THREADS': '1', 'MKL_NUM_THREADS': '1', 'LP_NUM_THREADS': '1',
    'JAX_PLATFORMS': 'cpu'}

CLOSE_SECONDS = 2  # for the workers to close their simulators; one that takes longer is killed


class Processes:
  """The environments of N processes behind the convention of `base`.

  Args:
    factory: makes an environment of `num_envs` 1; called without arguments in
      every worker, so it must be picklable: a function of a module, or
      functools.partial of one.
    num_envs: N.

  Attributes:
    spec: of the environments.
    measures: `{name: [N] float32}` of the last step, where the environments
      have measures.

  Raises:
    ValueError, RuntimeError: as the factory raised it in a worker. Later, in
      `step`, a RuntimeError tells which worker raised what, or died of what;
      whenever `step` raises, all workers are ended.
  """

  def __init__(self, factory, num_envs):
    self.num_envs = num_envs
    self.spec = None
    self._workers = []
    try:
      self._begin(factory)
    except BaseException:
      self._end(grace=0)
      raise

  def step(self, actions, restart, seeds, idle=None):
    """See `base`. All workers move at the same time; those under `idle` are not asked."""
    if not self._workers:
      raise RuntimeError('the environments are closed')
    actions = np.asarray(actions)
    moving = range(self.num_envs) if idle is None else np.flatnonzero(~np.asarray(idle))
    try:
      for index in moving:
        self._send(index, (actions[index], bool(restart[index]), int(seeds[index])))
      self._receive(moving)
    except BaseException:  # Ctrl-C too: answers that are under way would be taken for those of the next step
      self._end(grace=0)
      raise
    return base.copy_timestep(self._last)

  def close(self):
    """Ends all workers, within `CLOSE_SECONDS`. May be called again."""
    self._end(CLOSE_SECONDS)

  def _begin(self, factory):
    context = multiprocessing.get_context('spawn')  # a fork would copy JAX's locks but not its threads
    with _inherited():
      for index in range(self.num_envs):
        pipe, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, index, factory), daemon=True)
        process.start()
        theirs.close()  # so that the worker's death is the end of the pipe
        self._workers.append(_Worker(process, pipe))
    everyone = range(self.num_envs)
    built = self._receive(everyone)
    if any(answer != built[0] for answer in built.values()):
      raise ValueError(f'the environments differ: {built}')
    spec, names = built[0]
    with _shared_file() as file:
      self._last, measures = _map(file.name, self.num_envs, spec, names)
      for index in everyone:
        self._send(index, (file.name, self.num_envs))
      self._receive(everyone)
    if names:
      self.measures = measures
    self.spec = spec

  def _send(self, index, message):
    with contextlib.suppress(OSError):  # it is dead: `_receive` finds out of what
      self._workers[index].pipe.send(message)

  def _receive(self, indices):
    """`{index: answer}` of these workers, in the order in which they come, so that a hang hides no failure."""
    waiting = {self._workers[index].pipe: index for index in indices}
    answers = {}
    while waiting:
      for pipe in multiprocessing.connection.wait(list(waiting)):
        index = waiting.pop(pipe)
        try:
          answers[index] = pipe.recv()
        except (EOFError, OSError):
          raise RuntimeError(f'environment {index}: {_death(self._workers[index].process)}') from None
        if isinstance(answers[index], _Failure):
          raise answers[index].error(index, constructing=self.spec is None)
    return answers

  def _end(self, grace):
    for index in range(len(self._workers)):
      self._send(index, None)
    deadline = time.monotonic() + grace
    for process, pipe in self._workers:
      process.join(max(0, deadline - time.monotonic()))
      if process.exitcode is None:
        process.kill()
        process.join()
      pipe.close()
    self._workers = []


class _Worker(NamedTuple):
  """What the parent holds of a worker."""
  process: multiprocessing.process.BaseProcess
  pipe: multiprocessing.connection.Connection


class _Failure(NamedTuple):
  """An exception in a worker: the name of its type, its text, its traceback."""
  name: str
  text: str
  traceback: str

  def error(self, index, constructing):
    """The exception to raise in the parent: while constructing, as if the environment were made there."""
    if constructing and self.name in ('ValueError', 'RuntimeError'):
      error = {'ValueError': ValueError, 'RuntimeError': RuntimeError}[self.name](self.text)
    else:
      error = RuntimeError(f'environment {index}: {self.name}: {self.text}')
    error.add_note(f'In the process of environment {index}:\n{self.traceback}')  # shown, but no part of str(error)
    return error


def _work(pipe, index, factory):
  """The life of a worker: builds its environment, answers steps, ends with None or with the parent."""
  threading.Thread(target=_end_with_parent, daemon=True).start()
  try:
    env = factory()
    if env.num_envs != 1:
      raise ValueError(f'the factory makes {env.num_envs} environments, and each worker holds one')
    names = list(getattr(env, 'measures', {}))
    pipe.send((env.spec, names))
    message = pipe.recv()
    if message is not None:
      rows, measures = _map(*message, env.spec, names)
      pipe.send('mapped')
      while (message := pipe.recv()) is not None:
        action, restart, seed = message
        timestep = env.step(action[None], np.array([restart]), np.array([seed]))
        for name, array in timestep.observation.items():
          rows.observation[name][index] = array[0]
        for row, array in zip(rows[1:], timestep[1:]):
          row[index] = array[0]
        for name, array in measures.items():
          array[index] = env.measures[name][0]
        pipe.send('stepped')
    env.close()
  except (EOFError, BrokenPipeError):  # the parent is gone
    pass
  except Exception as error:
    pipe.send(_Failure(type(error).__name__, str(error), traceback.format_exc()))


def _end_with_parent():
  """Ends a worker whose simulator hangs when the parent is gone; one that waits finds the pipe closed by itself."""
  multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
  os._exit(1)


def _map(path, num_envs, spec, names):
  """The memory of a file as (`TimeStep`, `{name: [N] float32}` of the measures); it lives as long as its arrays."""
  blank = base.empty_timestep(spec, num_envs)
  arrays = [*blank.observation.values(), *blank[1:], *(np.zeros(num_envs, np.float32) for _ in names)]
  starts = np.cumsum([0] + [-(-array.nbytes // 64) * 64 for array in arrays])  # each aligned to 64 bytes
  memory = np.memmap(path, np.uint8, 'r+', shape=(int(starts[-1]),))
  views = [np.frombuffer(memory, array.dtype, array.size, start).reshape(array.shape)
           for array, start in zip(arrays, starts)]
  count = len(spec.observation)
  observation = dict(zip(spec.observation, views))
  return base.TimeStep(observation, *views[count:count + 4]), dict(zip(names, views[count + 4:]))


def _shared_file():
  """A file in memory, deleted after the `with`: by then all have mapped it, and a killed run leaves nothing behind."""
  folder = '/dev/shm' if os.path.isdir('/dev/shm') else None
  return tempfile.NamedTemporaryFile(prefix='harmony-jax-', dir=folder)


@contextlib.contextmanager
def _inherited():
  """What processes started here inherit: SIGINT blocked, so that Ctrl-C is the parent's alone, and `VARIABLES`."""
  multiprocessing.resource_tracker.ensure_running()  # now, as its own start unblocks SIGINT
  mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
  missing = {name: value for name, value in VARIABLES.items() if name not in os.environ}
  os.environ.update(missing)
  try:
    yield
  finally:
    for name in missing:
      del os.environ[name]
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _death(process):
  """What a process died of, in words."""
  process.join(1)
  code = process.exitcode
  cause = f' ({signal.Signals(-code).name})' if code is not None and code < 0 else ''
  return f'its process died with exit code {code}{cause}'
