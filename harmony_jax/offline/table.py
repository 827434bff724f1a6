"""The tables of a study: every measure of every variant, and its difference to one of them; after
the last update, and as a mean over all measurements, which says who is early.

Runs of one buffer and seed are a pair: they saw the same batches from the same first parameters.
Intervals are 95 % bootstrap intervals over pairs of the mean difference.
"""

import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas

from harmony_jax import config, weighting
from harmony_jax.errors import UserError
from harmony_jax.offline.study import Study
from harmony_jax.reporting import analysis, figures, statistics
from harmony_jax.reporting.curves import METHODS
from harmony_jax.training import recording
from harmony_jax.training.run_folder import atomic_write

Pair = tuple[int, int]  # buffer, seed
Curve = dict[int, dict[Pair, float]]  # by update
Curves = dict[str, dict[str, Curve]]  # by measure, label
COLUMNS = ['label', 'measure', 'update', 'n', 'mean', 'lowest', 'highest']
COLUMNS += ['pairs', 'difference', 'difference_low', 'difference_high']


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
  """Return what finished runs have measured, and `optimum/<task>`: the task's weight over the one
  that eq. 13 gives its loss on training windows, or that its harmonizer comes to rest at where that
  is another (see `weighting.rest`). Above 1 it has still to fall, below to rise.

  Of an update where nothing was finite there is nothing.

  Args:
    measures: beginnings of the names that are wanted; all by default.

  Raises:
    UserError: no run is finished, or nothing is measured that begins so.
  """
  found: Curves = {}
  finished = [run for run in study.runs() if study.finished(run)]
  if not finished:
    raise UserError(f'{study.path} has no finished run yet, of {len(study.runs())}')
  base = config.nested_flat(study.plan.get('settings', {}))
  rests = {
    label: weighting.rest({**base, **study.plan['variants'][label]}) for label in study.labels
  }
  for run in finished:
    for line in study.lines(run):
      optima = _optima(line['measures'], rests[run.label])
      for name, value in {**line['measures'], **optima}.items():
        if name.startswith(tuple(measures) or ''):
          by_update = found.setdefault(name, {}).setdefault(run.label, {})
          values = by_update.setdefault(line['update'], {})
          if value is not None:  # else it was not finite
            values[run.buffer, run.seed] = value
  found = {
    name: kept
    for name, by_label in found.items()
    if (kept := {label: each for label, each in by_label.items() if any(each.values())})
  }
  if not found:
    raise UserError(f'--measures={",".join(measures)}: nothing that is measured begins so')
  return found


def _optima(measures, rest):
  """{'optimum/<task>': w σ*} of the tasks that have a weight and a loss; None where these are not
  above 0.
  """
  found = {}
  for task in [name.split('/')[1] for name in measures if name.endswith('/weight')]:
    if (loss := f'loss/{task}/training') in measures:
      both = measures[f'harmony/{task}/weight'], measures[loss]
      there = all(x is not None and x > 0 for x in both)
      found[f'optimum/{task}'] = both[0] * math.exp(rest(both[1], task)) if there else None
  return found


def write(
  folder: str | pathlib.Path,
  measures: Sequence[str] = (),
  reference: str = '',
  variants: Sequence[str] = (),
  output: str | pathlib.Path | None = None,
) -> tuple[str, list[Any]]:
  """Write table.md, table.csv and curves.png (and .svg) into a study's folder, or another.

  Args:
    measures: as for `curves`. reference: the variant that others are compared with; the first one.
    variants: those that are shown, in this order; all by default. output: the other folder. Of a
      measure or variant 'NAME=WORDS' the figure shows the words.

  Returns: (the tables as Markdown, the paths).

  Raises:
    UserError: nothing is finished, measured or called so, or it cannot be written.
  """
  study = Study(folder)
  output = recording.writable(output) if output else study.path
  words = {name: text for name, _, text in (each.partition('=') for each in (*measures, *variants))}
  measures, variants = (
    [each.partition('=')[0] for each in names] for names in (measures, variants)
  )
  for flag, labels in (('variants', variants), ('reference', [reference] if reference else [])):
    for label in labels:
      if label not in study.labels:
        known = ', '.join(study.labels)
        raise UserError(f'--{flag}={label}: {study.path} has the variants {known}')
    study.labels = list(variants) or study.labels
  reference = reference or study.labels[0]
  found = curves(study, measures)
  text = (
    f'{_title(study, reference)}\n\n{markdown(study, found, reference, last(study.updates))}\n\n'
    f'Mean over all measurements\n\n{markdown(study, found, reference, whole)}'
  )
  paths = [output / 'table.md', output / 'table.csv']
  try:
    for path, content in zip(paths, (f'{text}\n', _csv(found, reference))):
      with atomic_write(path) as file:
        file.write(content)
    paths += figures.save(_figure(study, found, words), output)
  except OSError as error:
    raise UserError(f'cannot write to {output} ({error.strerror})') from None
  return text, paths


def last(update: int) -> Callable[[Curve], dict[Pair, float]]:
  """Return what takes the values after an update from a curve."""
  return lambda curve: curve.get(update, {})


def whole(curve: Curve) -> dict[Pair, float]:
  """Return the mean over all measurements, of pairs that have all of them."""
  pairs = set.intersection(*map(set, curve.values())) if curve else ()
  return {pair: float(np.mean([each[pair] for each in curve.values()])) for pair in sorted(pairs)}


def markdown(
  study: Study, found: Curves, reference: str, value: Callable[[Curve], dict[Pair, float]]
) -> str:
  """Return a row per measure and a column per variant, of what `value` takes from its curve."""
  rows = [['measure', *study.labels]]
  for measure in found:
    values = {label: value(found[measure].get(label, {})) for label in study.labels}
    others = lambda label: None if label == reference else values[reference]
    cells = [_text(cell(each, others(label))) if each else '' for label, each in values.items()]
    rows.append([measure, *cells])
  rows.insert(1, ['---'] * len(rows[0]))
  return '\n'.join(f'| {" | ".join(row)} |' for row in rows)


def _title(study, reference):
  plan, runs = study.plan, study.runs()
  done = sum(map(study.finished, runs))
  scale = plan['reward_scale']
  calls = [*plan.get('earlier', []), plan.get('about', {})]
  commits = dict.fromkeys(each['commit'] for each in calls if 'commit' in each)
  changed = ', '.join(calls[-1].get('config', []))
  by = f', by commit {", ".join(commits)}' if commits else ''
  return (
    f'{plan["suite"]} {plan["task"]}, {plan["method"]} {plan["preset"]}'
    f'{f" with {changed}" if changed else ""}, {study.updates:,} updates'
    f'{"" if scale == 1 else f", rewards × {scale:g}"}: {done} of {len(runs)} runs are finished'
    f'{by}. Mean (range, n runs); difference to '
    f'{reference} in the same buffers and seeds [95 % bootstrap interval over pairs].'
  )


def _text(found: Cell) -> str:
  """'0.75 (0.73 to 0.76, n 5); +0.53 [+0.53, +0.54]'."""
  many = f' ({_number(found.lowest)} to {_number(found.highest)}, n {found.n})'
  text = _number(found.mean) + (many if found.n > 1 else ' (n 1)')
  if found.difference is None:
    return text
  signed = lambda x: _number(x, '+')
  text += f'; {signed(found.difference)}'
  text += '' if found.low is None else f' [{signed(found.low)}, {signed(found.high)}]'
  return text if found.pairs == found.n else f'{text} of {found.pairs} of them'


def _number(value, sign=''):
  digits = 2 if abs(value) < 100 else 0
  tiny = 0 < abs(value) < 0.1
  return f'{value:{sign}.2g}' if tiny else f'{value:{sign},.{digits}f}'


def _csv(found, reference):
  rows = []
  for measure, by_label in found.items():
    for label, by_update in by_label.items():
      for update, values in by_update.items():
        others = by_label.get(reference, {}).get(update) if label != reference else None
        rows += [(label, measure, update, *cell(values, others))] if values else []
  table = pandas.DataFrame(rows, columns=pandas.Index(COLUMNS), dtype=object)
  return table.to_csv(index=False, lineterminator='\n')


def _figure(study, found, words):
  """A panel per measure: means over runs by update, each run thin behind them."""
  count = len(figures.PALETTE)  # variants beyond it are dashed
  looks = {
    label: (color, style)
    for labels, style in ((study.labels[:count], 'solid'), (study.labels[count:], 'dashed'))
    for label, color in figures.colors_of(labels, METHODS).items()
  }

  called = lambda name: words.get(name) or name

  def panel(name):
    low = -0.5 if name.startswith(('reward/', 'state')) else None  # R² may be anything below
    logarithmic = name.endswith('/weight') or name.startswith('optimum/')
    return analysis.over_updates(called(name), found[name], looks, logarithmic, low)

  panels = [panel(name) for name in found]
  legend = [(called(label), *look) for label, look in looks.items()]
  task = f'{study.plan["suite"]} {study.plan["task"]}'
  return figures.Figure('curves', f'{task}, {study.plan["method"]}', '', panels, legend)
