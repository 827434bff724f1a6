"""Tables of a report, as data first: the same table is HTML in the page and text on a terminal."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from harmony_jax.reporting import published, statistics
from harmony_jax.reporting.comparisons import AGGREGATES
from harmony_jax.reporting.curves import References, title_of_scores
from harmony_jax.reporting.figures import decimals, number, percent
from harmony_jax.reporting.schema import Record
from harmony_jax.reporting.statistics import Interval, Scores

MISSING = 'missing'


@dataclasses.dataclass
class Cell:
  """`text` with smaller `notes` under it, and a `spread` that is only in the page."""

  text: str
  notes: Sequence[str] = ()
  spread: str = ''
  strong: bool = False


@dataclasses.dataclass
class Table:
  """A caption, the headers, and rows of cells; a row of one cell is a heading within the table."""

  caption: str
  header: list[str]
  rows: list[list[Cell]]
  left: int = 1  # columns of text at the left
  wide: Sequence[int] = ()  # columns that are context, and not on a terminal
  missing: Sequence[str] = ()  # what there might be a row for

  def lines(self) -> list[str]:
    """Return the table as aligned text."""
    rows = [[Cell(name) for name in self.header], *self.rows]
    kept = [
      [' '.join([cell.text, *cell.notes]) for at, cell in enumerate(row) if at not in self.wide]
      for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*(row for row in kept if len(row) > 1))]
    text = [self.caption]
    for row in kept:
      aligned = [each.ljust(width) for each, width in zip(row[: self.left], widths)]
      aligned += [each.rjust(width) for each, width in zip(row[self.left :], widths[self.left :])]
      text.append('  '.join(aligned).rstrip())
    return text + ([f'missing: {", ".join(self.missing)}'] if self.missing else [])


def counts(record: Record) -> bool:
  """Return whether a run is in the means: complete, with a score at its end."""
  return record.complete and record.final is not None


def mean_and_std(scores: Sequence[float]) -> tuple[float | None, float | None]:
  """Return mean and standard deviation of the sample; None where there are too few."""
  return _mean(scores), float(np.std(scores, ddof=1)) if len(scores) > 1 else None


def finals(records: Sequence[Record]) -> dict[str, dict[str, list[float]]]:
  """Return {method: {task: [score of each complete run]}}, of methods that have any."""
  found = {}
  for record in records:
    if counts(record):
      found.setdefault(record.method, {}).setdefault(record.task, []).append(record.final)
  return found


def scores(records: Sequence[Record], references: References) -> Table:
  """Return a row per task in the layout of the paper's Table 2: references, for Atari the published
  columns, then of each method evaluation and training returns."""
  atari = records[0].suite == 'atari'
  columns = published.TABLE_2 if atari else {}
  tasks = sorted({record.task for record in records})
  names = list(dict.fromkeys(name for task in tasks for name in references.get(task, {})))
  header, by_method = ['Task', *names, *columns], {}
  for record in records:
    by_method.setdefault(record.method, []).append(record)
  extra = {'return': 'eval_mean'} if any(r.judged_by != 'return' for r in records) else {}
  if any(value is not None for r in records for value in r.evaluations['train_mean']):
    extra['training'] = 'train_mean'
  for method in by_method:
    header += [method, *(f'{method}, {name}' for name in extra)]
  rows = []
  for task in tasks:
    own = {method: [r for r in group if r.task == task] for method, group in by_method.items()}
    done = {method: [r for r in group if counts(r)] for method, group in own.items()}
    means = {column: each.get(task) for column, each in columns.items()}
    row = [Cell(task), *(Cell(_printed(references.get(task, {}).get(name))) for name in names)]
    means |= {method: _mean([r.final for r in group]) for method, group in done.items()}
    bold = within_5_percent(means)
    row += [Cell(number(means[column]), strong=column in bold) for column in columns]
    for method, group in own.items():
      authors = method in published.AUTHORS
      seeds = {r.seed for r in records if (r.method in published.AUTHORS) == authors}
      row.append(dataclasses.replace(summary(group, sorted(seeds)), strong=method in bold))
      for column in extra.values():
        row.append(Cell(number(_mean([r.evaluations[column][-1] for r in done[method]]))))
    rows.append(row)
  wide = range(1 + len(names), 1 + len(names) + len(columns))
  missing = [game for game in published.RANDOM_AND_HUMAN if atari and game not in tasks]
  return Table(f'{title_of_scores(records)} per task', header, rows, wide=wide, missing=missing)


def summary(runs: Sequence[Record], seeds: Sequence[int] = ()) -> Cell:
  """Return 'mean ± std' over the complete runs of a task and method; notes tell how far the others
  are, and which of `seeds` there are no runs of."""
  values = [record.final for record in runs if counts(record)]
  shown = percent if any(record.judged_by == 'success' for record in runs) else number
  notes = [f'(seed {r.seed} not complete: {progress(r)})' for r in runs if not r.complete]
  without = sum(record.complete and record.final is None for record in runs)
  notes += [f'({without} complete without a score)'] if without else []
  absent = [str(seed) for seed in seeds if runs and seed not in {r.seed for r in runs}]
  notes += [f'(missing: seed{"s" * (len(absent) > 1)} {", ".join(absent)})'] if absent else []
  if len(values) < 2:
    text = shown(values[0]) if values else 'not complete' if runs else MISSING
    return Cell(text, [*(['(1 seed)'] if values else []), *notes])
  mean, std = mean_and_std(values)
  deviation = percent(std) if shown is percent else number(std, decimals(mean) if mean else None)
  spread = f'{shown(min(values))} to {shown(max(values))}, {len(values)} seeds'
  return Cell(f'{shown(mean)} ± {deviation}', notes, spread)


def progress(record: Record) -> str:
  """Return how far a run is by what it wrote last: 'step 14,000 of 100,000 (14 %)'."""
  done = max([0, *record.evaluations['step'], *record.metrics['step']])
  part = f'step {done:,} of {record.steps:,} ({100 * done / record.steps:.0f} %)'
  return part if done else 'nothing written yet'


def within_5_percent(scores: Mapping[str, float | None]) -> set[str]:
  """Return those that the paper's Table 2 prints in bold: not more than 5 % of the best below it."""
  known = {key: score for key, score in scores.items() if score is not None}
  best = max(known.values(), default=0)
  bold = {key for key, score in known.items() if score >= best - 0.05 * abs(best)}
  return bold if len(known) > 1 else set()


def task_sets(found: Mapping[str, Scores]) -> list[tuple[list[str], list[str]]]:
  """Return (tasks, methods that have all of them): the tasks that all methods share, then what
  single methods have more."""
  own = {method: sorted(each) for method, each in found.items()}
  shared = sorted(set.intersection(*map(set, own.values()))) if own else []
  sets = []
  for tasks in [shared, *sorted(own.values(), key=len, reverse=True)]:
    sets += [tasks] if tasks and tasks not in sets else []
  return [(tasks, [m for m in own if set(tasks) <= set(own[m])]) for tasks in sets]


def aggregates(
  found: Mapping[str, Scores], caption: str, names: Sequence[str], total: int = 0
) -> Table:
  """Return aggregates over each of `task_sets`; published columns, of which only mean and median
  can be told, below ours where `total`, the number of the benchmark's games, is given."""
  rows = []
  for tasks, methods in task_sets(found):
    of = f'{len(tasks)} of {total} games' if total else f'{len(tasks)} tasks'
    rows.append([Cell(of + (f': {", ".join(tasks)}' if len(tasks) <= 6 else ''))])
    for method in methods:
      each = statistics.aggregates({task: found[method][task] for task in tasks})
      seeds = sorted({len(found[method][task]) for task in tasks})
      cells = [interval(each[name]) for name in names]
      rows.append([Cell(method), *cells, Cell(' or '.join(map(str, seeds)))])
    for column, points in published_points(tasks).items() if total else ():
      cells = [Cell(f'{points[name]:.3f}' if name in points else '–') for name in names]
      rows.append([Cell(f'{column}, published'), *cells, Cell('means only')])
  return Table(caption, ['Method', *(AGGREGATES[name] for name in names), 'Runs per task'], rows)


def published_points(games: Sequence[str]) -> dict[str, dict[str, float]]:
  """Return {column of Table 2: {'mean', 'median'}} over games: all that one mean each can tell."""
  found = {}
  for column, each in published.TABLE_2.items():
    points = statistics.points(published.normalized({game: [each[game]] for game in games}))
    found[column] = {name: points[name] for name in ('mean', 'median')}
  return found


def improvements(found: Mapping[str, Scores]) -> dict[tuple[str, str], Interval]:
  """Return {(x, y): P(x > y)} of each pair of methods that share tasks."""
  known = {}
  for x, y in itertools.combinations(found, 2):
    each = statistics.probability_of_improvement(found[x], found[y])
    known |= {(x, y): each} if each.point is not None else {}
  return known


def improvement(pairs: Mapping[tuple[str, str], Interval]) -> Table:
  """Return the table of `improvements`."""
  rows = [[Cell(x), Cell(y), interval(each)] for (x, y), each in pairs.items()]
  return Table('Probability of improvement', ['First', 'Second', 'P(first > second)'], rows, left=2)


def interval(each: Interval) -> Cell:
  """Return '1.364' with '[1.191, 1.577]' under it."""
  bounds = '(no interval: 1 run)' if each.low is None else f'[{each.low:.3f}, {each.high:.3f}]'
  return Cell(f'{each.point:.3f}', (bounds,))


def runs(records: Sequence[Record]) -> Table:
  """Return a row per run: how far it is, its last evaluation, what it took, where it came from."""
  rows = []
  for r in records:
    training = r.evaluations['train_mean'][-1] if r.scores else None
    numbers = [number(each) for each in (r.final, training, r.hours, r.steps_per_second)]
    facts = [r.environment[name] or MISSING for name in ('commit', 'devices', 'python')]
    state = 'complete' if r.complete else progress(r)
    texts = [r.suite, r.task, r.method, r.weighting, str(r.seed), state, *numbers, *facts, r.source]
    rows.append([Cell(text) for text in texts])
  header = (
    'Suite Task Method Weighting Seed State Score Training Hours Steps/s Commit Devices Python'
  )
  return Table('Every run', [*header.split(), 'Read from'], rows, left=6)


def _mean(values):
  return statistics.mean_interval(values).point


def _printed(value):
  """A number that others printed, with its own digits: '−20.7', '0.1', '7,128'."""
  short = value is not None and abs(value) < 1000
  return f'{value:g}'.replace('-', '−') if short else number(value)
