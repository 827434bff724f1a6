"""How a sweep stands: a live table on a terminal, plain lines anywhere else."""

import contextlib
import time

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from harmony_jax.sweeping.sweep import FAILED, FINISHED, RUNNING, STATES, Sweep

STYLES = {FINISHED: 'green', RUNNING: 'cyan', FAILED: 'red'}
INTERVAL = 60.0  # seconds between two summaries, where there is no terminal


class Display(contextlib.ExitStack):
  """Show a sweep while this context is open."""

  def __init__(self, sweep: Sweep, console: Console | None = None):
    super().__init__()
    self._sweep, self._console = sweep, console or Console()
    self._told, self._time = _states(sweep), float('-inf')
    if self._console.is_terminal:
      live = Live(console=console, get_renderable=lambda: table(sweep), refresh_per_second=2)
      self.enter_context(live)

  def tell(self):
    """Without a terminal, print each job whose state has changed, and now and then all counts."""
    if self._console.is_terminal:
      return
    told, self._told = self._told, _states(self._sweep)
    lines = [str(row) for row, a, b in zip(self._sweep.rows, told, self._told) if a != b]
    if time.monotonic() > self._time + INTERVAL:
      self._time = time.monotonic()
      lines.append(self._sweep.counts())
    for line in lines:
      self._console.print(time.strftime('%X'), line, markup=False, highlight=False, soft_wrap=True)


def table(sweep: Sweep) -> Group:
  """Return all jobs as a table, those first that tell most: a terminal shows what fits."""
  shown = Table('run', 'state', 'step', '', box=None)
  for row in sorted(sweep.rows, key=lambda row: STATES.index(row.state)):
    step = f'{row.step:,}/{row.job.steps:,}'
    cells = map(Text, (row.job.name, row.state, step, row.reason))
    shown.add_row(*cells, style=STYLES.get(row.state))
  return Group(Text(sweep.counts()), shown)


def _states(sweep):
  return [(row.state, row.reason) for row in sweep.rows]
