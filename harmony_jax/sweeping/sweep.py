"""Jobs run to their ends: failed ones are tried again, and on a signal all of them save and end."""

import contextlib
import dataclasses
import signal
import time
from collections.abc import Callable, Iterator, Sequence

from harmony_jax.errors import InUse, UserError
from harmony_jax.sweeping.executors import LOST, Executor
from harmony_jax.sweeping.job import Job, last_line
from harmony_jax.training.interruption import heard

# First those that deserve most attention.
STATES = ('running', 'failed', 'in use', 'stopped', 'finished', 'waiting')
RUNNING, FAILED, IN_USE, STOPPED, FINISHED, WAITING = STATES
PAUSE = 0.5  # seconds between two looks


@dataclasses.dataclass
class Row:
  """How a job stands: state, steps made, failed attempts, and what the last of those came to.

  `begun` is the size of its output when it was submitted; None while the executor has it not.
  """

  job: Job
  state: str = WAITING
  step: int = 0
  failures: int = 0
  reason: str = ''
  begun: int | None = None

  def __str__(self):
    text = f'{self.job.name}: {self.state}, step {self.step:,}/{self.job.steps:,}'
    return f'{text}; {self.reason}' if self.reason else text


class Sweep:
  """Jobs and how they stand: `rows`. Those that are complete already are finished."""

  def __init__(self, jobs: Sequence[Job]):
    self.rows = [Row(job, FINISHED if job.is_complete() else WAITING, job.step()) for job in jobs]

  def unfinished(self) -> list[Row]:
    """Return the rows of jobs that have not reached their ends."""
    return [row for row in self.rows if row.state != FINISHED]

  def counts(self) -> str:
    """Return such as '2 running, 3 finished of 5'."""
    states = [row.state for row in self.rows]
    found = [f'{states.count(state)} {state}' for state in STATES if state in states]
    return f'{", ".join(found)} of {len(states)}'

  def submit(self, executor: Executor):
    """Hand over as many waiting jobs as the executor has room for."""
    rows = self._where(begun=False)
    if executor.room is not None:
      rows = rows[: executor.room - len(self._where(begun=True))]
    for row in rows:
      row.begun = _size(row.job.output)
    executor.submit([row.job for row in rows])

  def run(self, executor: Executor, retries: int, show: Callable[[], object]) -> str:
    """Run all unfinished jobs; what fails is tried again `retries` times, from its checkpoint.

    Returns:
      The name of the signal on which the jobs were asked to save; '' where there was none.
    """
    with signals_received() as received:
      stops = 0
      while self._where(begun=True) or (self._where(begun=False) and not received):
        if not received:
          self.submit(executor)
        if stops < len(received):  # one at a time: equal signals in a row would reach them as one
          stops += 1
          for row in self._where(begun=True):
            executor.stop(row.job)
            row.reason = f'{received[0]}: saving; once more to end at once'
        for row in self._where(begun=True):
          self._look(row, executor.exit_code(row.job), retries, bool(received))
        show()
        time.sleep(PAUSE)
      for row in self._where(begun=False):
        row.state = STOPPED
      show()
    return received[0] if received else ''

  def _where(self, begun):
    states = (WAITING, RUNNING)
    return [row for row in self.rows if row.state in states and begun == (row.begun is not None)]

  def _look(self, row, code, retries, stopping):
    row.step = row.job.step()
    if code is None:
      row.state = RUNNING if _size(row.job.output) > row.begun else WAITING
      return
    row.begun = None
    if row.job.is_complete():
      row.state, row.reason = FINISHED, ''
    elif stopping:
      row.state, row.reason = STOPPED, ''
    elif code in (UserError.exit_code, InUse.exit_code):  # another attempt would not help
      row.state = FAILED if code == UserError.exit_code else IN_USE
      row.reason = last_line(row.job.output)
    else:
      row.failures += 1
      row.state = WAITING if row.failures <= retries else FAILED
      said = 'lost' if code == LOST else f'exit code {code}, {last_line(row.job.output)}'
      row.reason = f'failed {row.failures} times ({said})'


def _size(path):
  return path.stat().st_size if path.exists() else 0


@contextlib.contextmanager
def signals_received() -> Iterator[list[str]]:
  """Yield a list that the names of signals are added to, in place of what they do."""
  received = []
  handle = lambda number, _: received.append(signal.Signals(number).name)
  before = {number: signal.signal(number, handle) for number in heard()}
  try:
    yield received
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
