"""How a sweep's runs stand, read from their folders: a live table on a terminal, plain lines
anywhere else.
"""

import dataclasses
import json
import os
import pathlib
import sys
import time

from harmony_jax.sweeping.job import FAILED, FINISHED, LOCKED, STOPPED, read_record
from harmony_jax.training.progress import format_number

WAITING, RUNNING = 'waiting', 'running'
STATES = (FINISHED, RUNNING, WAITING, STOPPED, LOCKED, FAILED)
STYLES = {FINISHED: 'green', RUNNING: 'cyan', FAILED: 'red', LOCKED: 'yellow', STOPPED: 'yellow'}
TAIL = 65_536  # bytes at a file's end in which its last whole line is looked for first


@dataclasses.dataclass
class Row:
  """One run's state: `step` of run.steps, hours and last score (None before there is one), and why
  it failed.
  """

  run: object
  job: object
  state: str = WAITING
  failures: int = 0
  reason: str = ''
  step: int = 0
  hours: float = 0.0
  score: float | None = None

  def text(self):
    """The state in words: 'running (failed once)'."""
    times = {0: '', 1: ' (failed once)'}.get(self.failures, f' (failed {self.failures} times)')
    return self.state + times if self.state != FAILED or self.failures > 1 else self.state


class Board:
  """The state of every run of a sweep.

  Args:
    jobs: of `plan.make`. records: {job's name: path of its record}.
  """

  def __init__(self, jobs, records):
    self.rows = [Row(run, job) for job in jobs for run in job.runs]
    self._records, self._outcomes, self._seen, self._told = records, {}, {}, {}

  def end(self, outcomes):
    """Takes {job's name: Outcome}."""
    self._outcomes |= outcomes

  def refresh(self):
    """Reads folders and records; returns the rows whose state has changed."""
    records = {}
    changed = []
    for row in self.rows:
      if row.state != FINISHED:  # nothing changes there any more
        name = row.job.name
        if name not in records:
          records[name] = read_record(self._records[name])
        self._read(row)
        self._settle(row, self._outcomes.get(name), *records[name])
      told = row.state, row.failures
      if self._told.get(id(row), (WAITING, 0)) != told:
        changed.append(row)
      self._told[id(row)] = told
    return changed

  def counts(self):
    """{state: number of runs}, of the states that occur."""
    found = [row.state for row in self.rows]
    return {state: found.count(state) for state in STATES if state in found}

  def _settle(self, row, outcome, begun, failures, reason):
    row.failures, row.reason = failures, reason
    if row.run.is_complete():
      row.state = FINISHED
      end = end_of(row.run.folder)
      row.step, row.hours = end.get('step', row.step), end.get('hours', row.hours)
      row.score = end.get('score', row.score)
    elif outcome is not None:
      row.state = outcome.state if outcome.state != FINISHED else FAILED
      row.failures = max(failures, outcome.failures)
      row.reason = outcome.reason or reason
    else:
      row.state = RUNNING if begun else WAITING

  def _read(self, row):
    """Progress and score from the run folder, whose files may be half written or not there."""
    folder = pathlib.Path(row.run.folder)
    metrics = self._last_line(folder / 'metrics.jsonl')
    scores = self._last_line(folder / 'scores.jsonl')
    row.step = max(number(metrics.get('step')) or 0, number(scores.get('step')) or 0)
    row.hours = max(
      number(metrics.get('time/hours')) or 0.0, number(scores.get('time/hours')) or 0.0
    )
    key = 'eval_mean' if row.run.score == 'return' else f'eval_{row.run.score}'
    row.score = number(scores.get(key))

  def _last_line(self, path):
    """`last_line`, read again where the file has changed."""
    try:
      status = os.stat(path)
    except OSError:
      return {}
    stamp = status.st_mtime_ns, status.st_size
    if self._seen.get(path, (None, None))[0] != stamp:
      self._seen[path] = stamp, last_line(path)
    return self._seen[path][1]

  # ------------------------------------------------------------------------------------------------

  def describe(self, row):
    """One line for a change of state."""
    parts = [f'{row.run.label}: {row.text()}' if row.state != LOCKED else row.run.label]
    if row.state in (FINISHED, RUNNING, STOPPED) and row.step:
      parts.append(f'step {row.step:,}/{row.run.steps:,}')
    if row.state == FINISHED:
      parts += [f'score {shown(row.score)}', f'{row.hours:.3g} h']
    if row.reason and (row.failures or row.state in (FAILED, LOCKED)):
      parts.append(row.reason)
    return ', '.join(parts)

  def summary(self, most=4):
    """All runs in one line; of those that run, the first few."""
    running = [
      f'{row.run.label} {row.step:,}/{row.run.steps:,}' for row in self.rows if row.state == RUNNING
    ]
    more = f' and {len(running) - most} more' if len(running) > most else ''
    counts = ', '.join(f'{number} {state}' for state, number in self.counts().items())
    return f'{counts} of {len(self.rows)}' + (
      f'  [{"; ".join(running[:most])}{more}]' if running else ''
    )

  def table(self, height=None):
    """A rich table; where there are more rows than `height`, those that tell most, and how many
    were left out.
    """
    from rich.table import Table

    table = Table(
      box=None, pad_edge=False, title=self.summary(0).split('  [')[0], title_justify='left'
    )
    for name, justify in (
      ('task', 'left'),
      ('method', 'left'),
      ('seed', 'right'),
      ('state', 'left'),
      ('step', 'right'),
      ('hours', 'right'),
      ('score', 'right'),
      ('', 'left'),
    ):
      table.add_column(name, justify=justify, no_wrap=True)
    rows = self.rows
    if height is not None and len(rows) > height:
      order = {RUNNING: 0, FAILED: 1, LOCKED: 1, STOPPED: 2, FINISHED: 3, WAITING: 4}
      rows = sorted(rows, key=lambda row: order[row.state])[: max(1, height - 1)]
    for row in rows:
      run = row.run
      table.add_row(
        run.task,
        f'{run.method}-{run.weighting}',
        str(run.seed),
        row.text(),
        f'{row.step:,}/{run.steps:,}',
        f'{row.hours:.3g}' if row.hours else '',
        shown(row.score),
        row.reason if row.state in (FAILED, LOCKED) else '',
        style=STYLES.get(row.state, ''),
      )
    if len(rows) < len(self.rows):
      table.add_row(f'… {len(self.rows) - len(rows)} more')
    return table


class Screen:
  """Shows a board: a table that is drawn anew on a terminal; else a line per change and a summary
  now and then.

  Args:
    board: a `Board`. interval: seconds between two summaries, where there is no terminal. file:
      standard output by default. live: None to ask the file itself.
  """

  def __init__(self, board, interval=60.0, file=None, live=None):
    self._board, self._interval, self._file = board, interval, file or sys.stdout
    self._shown, self._live = time.monotonic(), None
    if self._file.isatty() if live is None else live:
      from rich.console import Console
      from rich.live import Live

      console = Console(file=self._file)
      self._live = Live(
        console=console,
        get_renderable=lambda: board.table(console.height - 3),
        refresh_per_second=2,
      )

  def __enter__(self):
    if self._live:
      self._live.start()
    return self

  def __exit__(self, *unused):
    if self._live:
      self._live.stop()

  def update(self):
    """Reads the board anew and shows it."""
    changed = self._board.refresh()
    if self._live:
      return
    for row in changed:
      self.line(self._board.describe(row))
    if time.monotonic() - self._shown >= self._interval:
      self._shown = time.monotonic()
      self.line(self._board.summary())

  def line(self, text):
    """One line that stays."""
    if self._live:
      self._live.console.print(text, markup=False, highlight=False)
    else:
      print(f'{time.strftime("%H:%M:%S")} {text}', file=self._file, flush=True)


def end_of(folder):
  """What a finished run's `.complete` tells: {'step', 'update', 'hours', 'score'}; {} where it
  tells nothing.
  """
  try:
    end = json.loads((pathlib.Path(folder) / '.complete').read_text(encoding='utf-8'))
  except (OSError, ValueError, RecursionError):
    return {}
  return (
    {name: value for name, value in end.items() if number(value) is not None}
    if isinstance(end, dict)
    else {}
  )


def last_line(path):
  """The last whole line of a file of JSON objects, as a dict; {} where there is none."""
  try:
    with open(path, 'rb') as file:
      size = file.seek(0, os.SEEK_END)
      for length in (TAIL, size):
        file.seek(max(0, size - length))
        for text in reversed(file.read().split(b'\n')):
          try:
            line = json.loads(text)
          except (ValueError, RecursionError):
            continue
          if isinstance(line, dict):
            return line
        if length >= size:
          break
  except OSError:
    pass
  return {}


def number(value):
  """`value` where it is a number, else None."""
  return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def shown(score):
  """A score for people; '' where there is none."""
  return '' if score is None else format_number(score)
