"""N environments in N processes: for simulators whose rendering is slow and holds Python, or that
fail at times.

    env = Processes(functools.partial(envs.make, 'dmc', 'cheetah_run', 1), num_envs=4)

Time steps lie in memory that all processes share; only actions and short
answers go through pipes. The numbers are bitwise those of one process, as
every episode is a function of its seed and its actions.

A script that makes such environments must do so under
`if __name__ == '__main__':`, since every worker imports the script anew.
"""

import logging
import math
import multiprocessing.connection
import time
from collections.abc import Callable

import numpy as np

from harmony_jax.envs import base
from harmony_jax.envs.worker import Failure, Task, Worker, map_rows, shared_file

# Seconds for a step or a reset. The slowest simulators need some seconds for a reset, and ten times
# that where many share two cores; a hang is rare, so that waiting long for it costs little, while a
# healthy episode cut off is lost.
TIMEOUT = 120
# the same for building an environment again: imports, and simulators that start with a window
BUILD_SECONDS = 600
IN_A_ROW = 3  # failures that stop the run
CLOSE_SECONDS = 2  # for the workers to close their simulators; one that takes longer is killed
POLL_SECONDS = 1

_logger = logging.getLogger(__name__)


class Processes:
  """The environments of N processes behind the convention of `base`.

  A worker that raises, dies or hangs in a step is killed and started again,
  and its episode is truncated there: its row shows the last observation once
  more, with reward 0 and `is_last`. One that fails when it is to begin an
  episode is started again and begins the same one, in the same call.

  Failures of one environment are in a row as long as no step is completed
  between them. The first time step of an episode does not count, since a
  broken simulator often still begins. Nor do those that play the same episode
  (seed) again, as an evaluation does: it may fail at the same step for ever.

  Args:
    factory: makes an environment of `num_envs` 1; called without arguments in
      every worker, so it must be picklable: a function of a module, or
      functools.partial of one.
    num_envs: N.
    timeout: seconds that a step of one environment may take before it counts
      as hanging; None for ever. Not for the first construction.

  Attributes:
    spec: of the environments.
    measures: `{name: [N] float32}` of the last step, where the environments
      have measures.
    failed: [N] bool, where the last step truncated an episode for a failure.
    failures: how many there were since the beginning; each is logged.

  Raises:
    ValueError, RuntimeError: as the factory raised it in a worker. Later, in
      `step`, a RuntimeError tells what happened to which worker at its third
      failure in a row; whenever `step` raises, all workers are ended.
  """

  def __init__(
    self, factory: Callable[[], base.Environment], num_envs: int, timeout: float | None = TIMEOUT
  ):
    self.num_envs = num_envs
    self.spec: base.Spec  # from `_begin` on
    self.failures = 0
    self.failed = np.zeros(num_envs, bool)
    self._timeout = math.inf if timeout is None else timeout
    self._streaks = [_Streak() for _ in range(num_envs)]
    self._workers = [Worker(index, factory) for index in range(num_envs)]
    self._file = shared_file()
    try:
      self._begin()
    except BaseException:
      self._end(grace=0)
      raise

  def step(
    self,
    actions: np.ndarray,
    restart: np.ndarray,
    seeds: np.ndarray,
    idle: np.ndarray | None = None,
  ) -> base.TimeStep:
    """See `base`. All workers move at the same time; those under `idle` are not asked."""
    if not self._workers:
      raise RuntimeError('the environments are closed')
    actions = np.asarray(actions)
    moving = range(self.num_envs) if idle is None else np.flatnonzero(~np.asarray(idle)).tolist()
    self.failed = np.zeros(self.num_envs, bool)
    try:
      self._do(
        {index: Task(actions[index], bool(restart[index]), int(seeds[index])) for index in moving}
      )
    except (
      BaseException
    ):  # Ctrl-C too: answers that are under way would be taken for those of the next step
      self._end(grace=0)
      raise
    return base.copy_timestep(self._last)

  def close(self) -> None:
    """Ends all workers, within `CLOSE_SECONDS`. May be called again."""
    self._end(CLOSE_SECONDS)

  def _begin(self):
    for worker in self._workers:
      worker.start()
    waiting = {worker.pipe: worker for worker in self._workers}
    built = {}
    while waiting:  # in the order in which they come, so that a hang hides no failure
      for pipe in multiprocessing.connection.wait(list(waiting)):
        worker = waiting.pop(pipe)
        answer = built[worker.index] = worker.receive()
        if isinstance(answer, Failure):
          raise answer.construction_error(worker.index)
    if any(answer != built[0] for answer in built.values()):
      raise ValueError(f'the environments differ: {built}')
    self._built = built[0]
    self.spec, names = self._built
    rows, shared_measures = map_rows(self._file, self.num_envs, self.spec, names)
    # Workers write there, and what one has written is copied when it is complete: some die while
    # they write.
    self._last = base.empty_timestep(self.spec, self.num_envs)
    measures = {name: np.zeros(self.num_envs, np.float32) for name in names}
    self._copies = list(
      zip(_arrays(self._last, measures), _arrays(rows, shared_measures), strict=True)
    )
    if names:
      self.measures = measures
    for worker in self._workers:
      worker.furnish(self._file, self.num_envs)

  def _do(self, tasks):
    """Has workers do `{index: Task}`, each within its time; where one fails, see the class."""
    left = {}  # seconds for each that is not done
    for index, task in tasks.items():
      if self._workers[index].furnished:  # else it is still building, after a failure
        self._workers[index].send(task)
      left[index] = self._limit(index)
    while left:
      for index, answer in self._wait(left).items():
        if self._proceed(index, tasks[index], answer):
          del left[index]
        else:
          left[index] = self._limit(index)

  def _limit(self, index):
    return self._timeout if self._workers[index].furnished else max(self._timeout, BUILD_SECONDS)

  def _wait(self, left):
    """`{index: answer}` of workers that answered, or whose time is up, soon; takes the time from
    `left`.
    """
    pipes = {self._workers[index].pipe: index for index in left}
    started = time.monotonic()
    ready = multiprocessing.connection.wait(list(pipes), min(POLL_SECONDS, *left.values()))
    # what stopped this process for longer stopped them, too
    passed = min(time.monotonic() - started, POLL_SECONDS)
    answers = {pipes[pipe]: self._workers[pipes[pipe]].receive() for pipe in ready}
    for index in left:
      left[index] -= passed
      if left[index] <= 0 and index not in answers:
        answers[index] = self._workers[index].hang(self._limit(index))
    return answers

  def _proceed(self, index, task, answer):
    """Goes on with a task after an answer; whether it is done."""
    worker = self._workers[index]
    if isinstance(answer, Failure):
      self._start_again(index, task, answer)
      return not task.restart
    if not worker.furnished:
      if answer != self._built:
        raise RuntimeError(
          f'environment {index} is another one after its restart: {answer}, before {self._built}'
        )
      worker.furnish(self._file, self.num_envs)
      worker.send(task)
      return False
    for array, shared in self._copies:
      array[index] = shared[index]
    self._streaks[index].completed(task, self._last.is_last[index])
    return True

  def _start_again(self, index, task, failure):
    """Counts a failure, truncates the episode if one runs, and starts the worker again without
    waiting for it.
    """
    self.failures += 1
    if self._streaks[index].failed(task) == IN_A_ROW:
      raise failure.error(index, f' ({IN_A_ROW} failures in a row)')
    then = (
      'it tries the same episode' if task.restart else 'its episode was truncated, and it goes on'
    )
    _logger.warning(
      'environment %d: %s; %s in a new process', index, ' '.join(str(failure).split()), then
    )
    self._workers[index].end()
    self._workers[index].start()
    if not task.restart:
      base.truncate(self._last, index)
      self.failed[index] = True

  def _end(self, grace):
    workers = [worker for worker in self._workers if worker.process]
    for worker in workers:
      worker.send(None)
    deadline = time.monotonic() + grace
    for worker in workers:
      worker.end(deadline)
    self._workers = []
    self._file.close()


class _Streak:
  """Counts the failures in a row of one environment; see `Processes`."""

  def __init__(self):
    self._length = 0
    # seeds: of the running episode, and of the one that failed last
    self._playing = self._failing = None

  def completed(self, task, is_last):
    """A task was completed."""
    if task.restart:
      self._playing = task.seed
    elif is_last or self._playing != self._failing:
      self._length = 0

  def failed(self, task):
    """A task failed; the length of the row."""
    self._failing = task.seed if task.restart else self._playing
    self._length += 1
    return self._length


def _arrays(timestep, measures):
  return [*timestep.observation.values(), *timestep[1:], *measures.values()]
