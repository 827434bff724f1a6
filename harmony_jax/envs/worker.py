"""One environment in a process of its own: how it starts, lives and ends. `processes` steps N of
them.

A worker writes its time steps into its row of arrays in memory that it shares with its parent.
Through one pipe come its tasks and go its short answers; into another one goes its Python stack
when it crashes, or when it is asked.
"""

import contextlib
import faulthandler
import multiprocessing
import multiprocessing.connection
import multiprocessing.reduction
import multiprocessing.resource_tracker
import os
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from harmony_jax.envs import base
from harmony_jax.errors import EnvironmentFault

# What workers find in their environment, unless the user has set it. They share the machine: one
# thread each for linear algebra and for Mesa's software rendering, and no accelerator, which
# belongs to the training.
VARIABLES = {
  'OMP_NUM_THREADS': '1',
  'OPENBLAS_NUM_THREADS': '1',
  'MKL_NUM_THREADS': '1',
  'LP_NUM_THREADS': '1',
  'JAX_PLATFORMS': 'cpu',
}

STACK_SECONDS = 0.5  # of silence, after which a stack is taken as complete
# for a killed worker to be gone; in a sleep that the system does not interrupt it may take longer
KILL_SECONDS = 2

# runs in several threads would take each other's changes of `os.environ` for the user's
_starting = threading.Lock()


class Task(NamedTuple):
  """What a worker is asked to do: take an action, or begin the episode of a seed."""

  action: np.ndarray
  restart: bool
  seed: int


class Failure(NamedTuple):
  """Why a worker did not do its task: an exception's type and text, or a text alone; and its
  traceback, if known.
  """

  name: str
  text: str
  traceback: str

  def __str__(self):
    return f'{self.name}: {self.text}' if self.name else self.text

  def error(self, index: int, remark: str = '') -> Exception:
    """The exception to raise in the parent."""
    return self._noted(index, EnvironmentFault(f'environment {index}: {self}{remark}'))

  def construction_error(self, index: int) -> Exception:
    """The same for the first construction: as if the environment were made in the parent."""
    kinds = (ValueError, RuntimeError, EnvironmentFault)
    kind = {kind.__name__: kind for kind in kinds}.get(self.name)
    return self._noted(index, kind(self.text)) if kind else self.error(index)

  def _noted(self, index: int, error: Exception) -> Exception:
    if self.traceback:  # shown, but no part of str(error)
      error.add_note(f'In the process of environment {index}:\n{self.traceback}')
    return error


class Worker:
  """A process that holds an environment, as its parent sees it. May be started again after a
  failure.

  Args:
    index: of its environment among the N, which is its row in memory.
    factory: see `Processes`.

  Attributes:
    pipe: becomes ready when there is something to `receive`: first (spec, names of measures) of
      what was built.
    furnished: it has got its memory, and so can take tasks.
  """

  def __init__(self, index: int, factory: Callable[[], base.Environment]):
    self.index, self._factory = index, factory
    self.process: Any = None
    self.pipe: Any = None
    self._stack: Any = None
    self.furnished = False

  def start(self) -> None:
    """Starts the process, which begins to build its environment."""
    # a fork would copy JAX's locks but not its threads
    context = multiprocessing.get_context('spawn')
    with _inherited():
      pipe, theirs = context.Pipe()
      stack, their_stack = context.Pipe(duplex=False)
      process = context.Process(
        target=_work, args=(theirs, their_stack, self.index, self._factory), daemon=True
      )
      process.start()
      self.process, self.pipe, self._stack, self.furnished = process, pipe, stack, False
      theirs.close()  # so that the worker's death is the end of the pipe
      their_stack.close()

  def furnish(self, file: BinaryIO, num_envs: int) -> None:
    """Hands the memory over. Its file has no name, so it goes through the pipe, too."""
    with contextlib.suppress(OSError):  # it is dead, see `send`
      self.pipe.send(num_envs)
      multiprocessing.reduction.send_handle(self.pipe, file.fileno(), self.process.pid)
    self.furnished = True

  def send(self, message: Task | None) -> None:
    """Sends a `Task`, or None to end it."""
    with contextlib.suppress(OSError):  # it is dead: `receive` finds out of what
      self.pipe.send(message)

  def receive(self) -> tuple[base.Spec, list[str]] | str | Failure:
    """Its answer, or the `Failure`: an exception or its death."""
    try:
      return self.pipe.recv()
    except (EOFError, OSError):
      return Failure('', _death(self.process), self._read_stack())

  def hang(self, seconds: float) -> Failure:
    """The `Failure` of not having answered for so long, with the Python stack."""
    with contextlib.suppress(ProcessLookupError):
      os.kill(self.process.pid, signal.SIGUSR1)
    return Failure('', f'it hangs, no answer for {seconds:g} s', self._read_stack())

  def end(self, deadline: float = 0.0) -> None:
    """Waits until `deadline` (of `time.monotonic`) for it to end, then kills it."""
    self.process.join(max(0, deadline - time.monotonic()))
    if self.process.exitcode is None:
      self.process.kill()
      self.process.join(KILL_SECONDS)
    self.pipe.close()
    self._stack.close()

  def _read_stack(self) -> str:
    text = b''
    while multiprocessing.connection.wait([self._stack], STACK_SECONDS):
      part = os.read(self._stack.fileno(), 2**16)
      if not part:
        break
      text += part
    return text.decode(errors='replace')


def map_rows(
  file: BinaryIO, num_envs: int, spec: base.Spec, names: Sequence[str]
) -> tuple[base.TimeStep, dict[str, np.ndarray]]:
  """The memory of a file as (`TimeStep`, `{name: [N] float32}` of the measures); it lives as long
  as its arrays.
  """
  blank = base.empty_timestep(spec, num_envs)
  arrays = [
    *blank.observation.values(),
    *blank[1:],
    *(np.zeros(num_envs, np.float32) for _ in names),
  ]
  # each aligned to 64 bytes
  starts = np.cumsum([0] + [-(-array.nbytes // 64) * 64 for array in arrays])
  memory = np.memmap(file, np.uint8, 'r+', shape=(int(starts[-1]),))
  views = [
    np.frombuffer(memory, array.dtype, array.size, start).reshape(array.shape)
    for array, start in zip(arrays, starts)
  ]
  count = len(spec.observation)
  observation = dict(zip(spec.observation, views))
  return base.TimeStep(observation, *views[count : count + 4]), dict(zip(names, views[count + 4 :]))


def shared_file() -> BinaryIO:
  """A file in memory that never had a name: a killed run leaves nothing behind."""
  return tempfile.TemporaryFile(dir='/dev/shm' if os.path.isdir('/dev/shm') else None)


def _work(pipe, stack, index, factory):
  """The life of a worker: builds its environment, does its tasks, ends with None or with the
  parent.
  """
  # rather a stack that is cut off than a crash that waits for a reader
  os.set_blocking(stack.fileno(), False)
  faulthandler.enable(stack)
  faulthandler.register(signal.SIGUSR1, stack)
  threading.Thread(target=_end_with_parent, daemon=True).start()
  try:
    env = factory()
    if env.num_envs != 1:
      raise ValueError(f'the factory makes {env.num_envs} environments, and each worker holds one')
    names = list(getattr(env, 'measures', {}))
    pipe.send((env.spec, names))
    num_envs = pipe.recv()
    if num_envs is not None:
      with os.fdopen(multiprocessing.reduction.recv_handle(pipe), 'r+b') as file:
        rows, measures = map_rows(file, num_envs, env.spec, names)
      while (task := pipe.recv()) is not None:
        timestep = env.step(task.action[None], np.array([task.restart]), np.array([task.seed]))
        for name, array in timestep.observation.items():
          _write(rows.observation[name][index], array[0], name)
        for name, row, array in zip(rows._fields[1:], rows[1:], timestep[1:]):
          _write(row[index : index + 1], array, name)
        for name, array in measures.items():
          array[index] = env.measures[name][0]
        pipe.send('done')
    env.close()
  except BaseException as error:  # simulators exit, too
    with contextlib.suppress(OSError):  # the parent is gone, and this error tells it
      pipe.send(Failure(type(error).__name__, str(error), traceback.format_exc()))


def _write(row, array, name):
  """Write an array where one as declared lies; an assignment would make zeros of floats below 1
  where bytes are declared, and spread one number over a vector.
  """
  kind = np.can_cast(array.dtype, row.dtype, 'same_kind')
  if array.shape != row.shape or not kind or not base.holds(row.dtype, array):
    declared = f'{row.dtype} {list(row.shape)}'
    raise ValueError(f'{name} is {array.dtype} {list(array.shape)}, declared {declared}')
  row[...] = array


def _end_with_parent():
  """Ends a worker whose simulator hangs when the parent is gone; one that waits finds the pipe
  closed by itself.
  """
  parent: Any = multiprocessing.parent_process()
  multiprocessing.connection.wait([parent.sentinel])
  os._exit(1)


@contextlib.contextmanager
def _inherited():
  """What processes started here inherit: SIGINT blocked, so that Ctrl-C is the parent's alone, and
  `VARIABLES`.
  """
  multiprocessing.resource_tracker.ensure_running()  # now, as its own start unblocks SIGINT
  with _starting:
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
