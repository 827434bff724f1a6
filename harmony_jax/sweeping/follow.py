"""Following a sweep from its start to its end, and stopping it."""

import signal
import time

from harmony_jax.sweeping.board import Screen
from harmony_jax.training.interruption import SIGNALS

PAUSE = 0.5  # seconds between two looks
GRACE = 10.0  # seconds that children have to end after the second signal


class Signals:
  """SIGTERM and Ctrl-C are counted, not obeyed: `count`, and the `name` of the first."""

  def __init__(self):
    self.count, self.name = 0, ''

  def __enter__(self):
    self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
    return self

  def __exit__(self, *unused):
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def _handle(self, number, frame):
    self.count += 1
    self.name = self.name or signal.Signals(number).name


def follow(jobs, records, executor, board, interval=60.0, live=None, file=None):
  """Runs jobs to their ends, or until the first SIGTERM or Ctrl-C: then they save. The second one
  ends them at once.

  Args:
    jobs: those to run. records: {job's name: path of its record}. executor: such as `local.Local`;
      not started yet.
    board: a `Board` of all runs. interval, live, file: of `Screen`.

  Returns:
    The name of the signal that stopped it, or ''.
  """
  pending, stopped, killed = {job.name for job in jobs}, False, None
  with Signals() as signals, Screen(board, interval, file, live) as screen:
    screen.line(f'{len(jobs)} to run, {executor.text}')
    executor.start(jobs, records)
    while pending:
      ended = executor.poll()
      pending -= set(ended)
      board.end(ended)
      screen.update()
      if signals.count and not stopped:
        stopped = True
        screen.line(f'{signals.name}: asking what runs to save; again to leave at once')
        executor.stop()
      if signals.count > 1 and killed is None:
        killed = time.monotonic()
        executor.kill()
      if killed is not None and time.monotonic() - killed > GRACE:
        break
      if pending:
        time.sleep(PAUSE)
    screen.update()
  return signals.name if stopped else ''
