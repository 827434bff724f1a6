"""Where a run is: a live panel on a terminal, plain lines anywhere else."""

import collections
import datetime
import sys
import time
from collections.abc import Mapping
from typing import IO, Any


class Progress:
  """Shows the progress of a run.

  Args:
    total: steps of the whole run.
    start: steps already done, in a resumed run; they do not count as speed.
    interval: seconds between two plain lines, where there is no terminal.
    live: True for the panel, False for lines, None to ask the output itself.
    file: where to write; standard output by default.
    prefix: what every plain line begins with, for runs that share an output.
  """

  def __init__(
    self,
    total: int,
    start: int = 0,
    *,
    interval: float = 30.0,
    live: bool | None = None,
    file: IO[str] | None = None,
    prefix: str = '',
  ):
    self._file = file or sys.stdout
    self._prefix = prefix
    self._total = total
    self._step = start
    self._info = {}
    self._interval = interval
    self._printed = -float('inf')
    self._before = ''  # what is done before the first update
    # Pairs (time, step) of about the last minute: a speed over the whole run
    # would hide that it has just become slow.
    self._marks = collections.deque([(time.monotonic(), start)], maxlen=60)
    live = self._file.isatty() if live is None else live
    self._live = _start_live(self._file, self._render) if live else None

  def __enter__(self) -> 'Progress':
    return self

  def __exit__(self, *unused) -> None:
    self.close()

  def update(self, step: int, info: Mapping[str, Any] | None = None) -> None:
    """Tell the step and, where there is news, the numbers to show.

    Args:
      step: steps done.
      info: `{name: number}`; those told before stay. `harmony/<task>/sigma` and
        `harmony/<task>/weight` are shown together, by task.
    """
    self._step = step
    self._info.update(info or {})
    now = time.monotonic()
    if now - self._marks[-1][0] >= 1.0:
      self._marks.append((now, step))
    if self._live is None and now - self._printed >= self._interval:
      self._printed = now
      self._print(self._text())

  def prepare(self, text: str) -> None:
    """Say what is done before the first update, in place of speed and time left.

    Args:
      text: '' at the first update of this process, from which on time is counted.
    """
    if self._before and not text:
      self._marks.clear()
      self._marks.append((time.monotonic(), self._step))
    self._before = text

  def line(self, text: str) -> None:
    """Write one line that stays, above the panel."""
    if self._live is not None:
      self._live.console.print(text, markup=False, highlight=False)
    else:
      self._print(text)

  def close(self) -> None:
    """Leave the last state on the screen."""
    if self._live is not None:
      self._live.stop()
      self._live = None

  def speed(self) -> float:
    """Return steps per second over about the last minute; 0 before the first second."""
    then, step = self._marks[0]
    seconds = time.monotonic() - then
    return (self._step - step) / seconds if seconds > 0.1 else 0.0

  def _print(self, text):
    # The end of the line in the same write: another thread's line could come between two.
    print(f'{self._prefix}{text}\n', end='', file=self._file, flush=True)

  def _headline(self):
    done = f'step {self._step:,}/{self._total:,} ({self._step / max(1, self._total):.1%})'
    if self._before:
      return f'{done}  {self._before}'
    speed = self.speed()
    known = speed > 0 and time.monotonic() - self._marks[0][0] >= 10
    left = format_seconds((self._total - self._step) / speed) if known else '?'
    return f'{done}  {speed:.1f} steps/s  {left} left'

  def _text(self):
    """The state in one plain line."""
    tasks, others = split_tasks(self._info)
    parts = [self._headline()]
    parts += [f'{name} {format_number(value)}' for name, value in others.items()]
    parts += [
      ' '.join([task] + [f'{_SIGN[kind]}={format_number(value)}' for kind, value in kinds.items()])
      for task, kinds in tasks.items()
    ]
    return '  '.join(parts)

  def _render(self):
    """The state as a panel. Called by rich from its own thread."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    tasks, others = split_tasks(dict(self._info))
    rows = [Text(self._headline()), ProgressBar(total=max(1, self._total), completed=self._step)]
    if others:
      rows.append(Text('  '.join(f'{k} {format_number(v)}' for k, v in others.items())))
    if tasks:
      table = Table('task', 'σ', 'weight 1/σ', box=None)
      for task, kinds in tasks.items():
        table.add_row(
          task,
          *(format_number(kinds[kind]) if kind in kinds else '' for kind in ('sigma', 'weight')),
        )
      rows.append(table)
    return Group(*rows)


_SIGN = {'sigma': 'σ', 'weight': 'w'}


def split_tasks(info: Mapping[str, Any]) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
  """Return {task: {'sigma': …, 'weight': …}} and the other entries."""
  tasks, others = {}, {}
  for name, value in info.items():
    match name.split('/'):
      case ['harmony', *task, ('sigma' | 'weight') as kind] if task:
        tasks.setdefault('/'.join(task), {})[kind] = value
      case _:
        others[name] = value
  return tasks, others


def format_number(value: float | str) -> str:
  """Return `1.235e+04` for `12345.678`; a whole number or a text stays as it is."""
  if isinstance(value, str):
    return value
  value = float(value)
  return f'{value:,.0f}' if value.is_integer() else f'{value:.4g}'


def format_seconds(seconds: float) -> str:
  """Return `3:12:11` for `11531`."""
  return str(datetime.timedelta(seconds=round(seconds)))


def _start_live(file, render):
  """A panel that rich draws four times a second; None where rich is missing."""
  try:
    from rich.console import Console
    from rich.live import Live
  except ImportError:
    return None
  live = Live(console=Console(file=file), get_renderable=render, refresh_per_second=4)
  live.start()
  return live
