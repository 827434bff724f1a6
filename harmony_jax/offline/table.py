"""The table of a study: every measure of every variant, and its difference to the first one.

Runs of one buffer and seed are a pair: they saw the same batches from the same first parameters.
Intervals are 95 % bootstrap intervals over pairs of the mean difference.
"""

import csv
import io
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from harmony_jax.errors import UserError
from harmony_jax.offline.study import Study
from harmony_jax.reporting import figures, statistics
from harmony_jax.training.run_folder import atomic_write

Pair = tuple[int, int]  # buffer, seed
Curves = dict[str, dict[str, dict[int, dict[Pair, float]]]]  # by measure, label, update
COLUMNS = ('label', 'measure', 'update', 'n', 'mean', 'lowest', 'highest')
COLUMNS += ('pairs', 'difference', 'difference_low', 'difference_high')


class Cell(NamedTuple):
  """A measure of a variant after so many updates, over n pairs; see `COLUMNS`."""

  n: int
  mean: float
  lowest: float
  highest: float
  pairs: int = 0
  difference: float | None = None
  low: float | None = None
  high: float | None = None


def cell(values: dict[Pair, float], reference: dict[Pair, float] | None = None) -> Cell:
  """Return mean and range of values, and the mean of differences to a reference's same pairs."""
  numbers, reference = np.array(list(values.values())), reference or {}
  found = Cell(len(numbers), float(numbers.mean()), float(numbers.min()), float(numbers.max()))
  both = [pair for pair in values if pair in reference]
  if not both:
    return found
  interval = statistics.mean_interval([values[pair] - reference[pair] for pair in both])
  return found._replace(
    pairs=len(both), difference=interval.point, low=interval.low, high=interval.high
  )


def curves(study: Study, measures: Sequence[str] = ()) -> Curves:
  """Return what finished runs have measured.

  Args:
    measures: beginnings of the names that are wanted; all by default.

  Raises:
    UserError: no run is finished, or nothing is measured that begins so.
  """
  found: Curves = {}
  finished = [run for run in study.runs() if study.finished(run)]
  if not finished:
    raise UserError(f'{study.path} has no finished run yet, of {len(study.runs())}')
  for run in finished:
    for line in study.lines(run):
      for name, value in line['measures'].items():
        if value is not None and name.startswith(tuple(measures) or ''):
          by_update = found.setdefault(name, {}).setdefault(run.label, {})
          by_update.setdefault(line['update'], {})[run.buffer, run.seed] = value
  if not found:
    raise UserError(f'--measures={",".join(measures)}: nothing that is measured begins so')
  return found


def write(folder: str | pathlib.Path, measures: Sequence[str] = ()) -> tuple[str, list[Any]]:
  """Write table.md, table.csv and curves.png (and .svg) into a study's folder.

  Returns: (the table as Markdown, the paths).
  """
  study = Study(folder)
  found = curves(study, measures)
  text = f'{_title(study)}\n\n{markdown(study, found)}'
  paths = [study.path / 'table.md', study.path / 'table.csv']
  try:
    for path, content in zip(paths, (f'{text}\n', _csv(study, found))):
      with atomic_write(path) as file:
        file.write(content)
    paths += figures.save(_figure(study, found), study.path)
  except OSError as error:
    raise UserError(f'cannot write to {study.path} ({error.strerror})') from None
  return text, paths


def markdown(study: Study, found: Curves) -> str:
  """Return a row per measure, a column per variant, after the last update."""
  rows = [['measure', *study.labels]]
  for measure in found:
    values = {label: found[measure].get(label, {}).get(study.updates) for label in study.labels}
    reference = values[study.labels[0]]
    cells = [
      _text(cell(each, reference if at else None)) if each else ''
      for at, each in enumerate(values.values())
    ]
    rows.append([measure, *cells])
  rows.insert(1, ['---'] * len(rows[0]))
  return '\n'.join(f'| {" | ".join(row)} |' for row in rows)


def _title(study):
  plan, runs = study.plan, study.runs()
  done = sum(map(study.finished, runs))
  first, scale = study.labels[0], plan['reward_scale']
  return (
    f'{plan["suite"]} {plan["task"]}, {plan["method"]} {plan["preset"]}, {study.updates:,} updates'
    f'{"" if scale == 1 else f", rewards × {scale:g}"}: {done} of {len(runs)} runs are finished. '
    'Mean (range, n runs); difference to '
    f'{first} in the same buffers and seeds [95 % bootstrap interval over pairs].'
  )


def _text(found: Cell) -> str:
  """'0.75 (0.73 to 0.76, n 5); +0.53 [+0.53, +0.54]'."""
  many = f' ({_number(found.lowest)} to {_number(found.highest)}, n {found.n})'
  text = _number(found.mean) + (many if found.n > 1 else ' (n 1)')
  if found.difference is None:
    return text
  signed = lambda x: _number(x, '+')
  text += f'; {signed(found.difference)}'
  return text if found.low is None else f'{text} [{signed(found.low)}, {signed(found.high)}]'


def _number(value, sign=''):
  digits = 2 if abs(value) < 100 else 0
  tiny = 0 < abs(value) < 0.1
  return f'{value:{sign}.2g}' if tiny else f'{value:{sign},.{digits}f}'


def _csv(study, found):
  file = io.StringIO()
  writer = csv.writer(file, lineterminator='\n')
  writer.writerow(COLUMNS)
  first = study.labels[0]
  for measure, by_label in found.items():
    for label, by_update in by_label.items():
      for update, values in by_update.items():
        reference = by_label.get(first, {}).get(update) if label != first else None
        writer.writerow([label, measure, update, *cell(values, reference)])
  return file.getvalue()


def _figure(study, found):
  """A panel per measure: means over runs by update, each run thin behind them."""
  count = len(figures.PALETTE)  # variants beyond it are dashed
  looks = {
    label: (figures.PALETTE[at % count], 'solid' if at < count else 'dashed')
    for at, label in enumerate(study.labels)
  }

  def draw(by_label, low, logarithmic, axis):
    for label, by_update in by_label.items():
      (color, style), updates = looks[label], sorted(by_update)
      how = {'color': color, 'linestyle': figures.STYLES[style]}
      for pair in by_update[updates[-1]]:
        points = [by_update[u].get(pair, np.nan) for u in updates]
        axis.plot(updates, points, **how, linewidth=0.5, alpha=0.4)
      means = [np.mean(list(by_update[u].values())) for u in updates]
      axis.plot(updates, means, **how, linewidth=1.8)
    if low is not None and axis.get_ylim()[0] < low:  # R² may be anything below
      axis.set_ylim(bottom=low)
    if logarithmic and axis.dataLim.ymin > 0:
      axis.set_yscale('log')
      axis.yaxis.set_major_formatter(figures.tick)
    axis.xaxis.set_major_formatter(figures.tick)

  def panel(name):
    low = -0.5 if name.startswith(('reward/', 'state/')) else None
    logarithmic = name.endswith('/weight')
    return figures.Panel(name, 'updates', lambda axis: draw(found[name], low, logarithmic, axis))

  panels = [panel(name) for name in found]
  legend = [(label, *look) for label, look in looks.items()]
  task = f'{study.plan["suite"]} {study.plan["task"]}'
  return figures.Figure('curves', f'{task}, {study.plan["method"]}', '', panels, legend)
