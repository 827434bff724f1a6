"""Tables of a report, as data first: the same table is HTML in the page and text on a terminal."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from harmony_jax.reporting import published, statistics
from harmony_jax.reporting.figures import decimals, number, percent
from harmony_jax.reporting.plots import AGGREGATES, References, title_of_scores
from harmony_jax.reporting.schema import Record

MISSING = 'missing'


@dataclasses.dataclass
class Cell:
  """`text` with smaller `notes` under it; `strong` is bold."""

  text: str
  notes: Sequence[str] = ()
  strong: bool = False


@dataclasses.dataclass
class Table:
  """A caption, the headers, and rows of cells; a row of one cell is a heading within the table."""

  caption: str
  header: list[str]
  rows: list[list[Cell]]
  left: int = 1  # columns of text at the left
  beside: Sequence[str] = ()  # columns that are context, too wide for a terminal

  def lines(self) -> list[str]:
    """Return the table as aligned text; rows in which all of ours is missing in one line."""
    at = [i for i, name in enumerate(self.header) if name not in self.beside]
    ours = range(
      1 + max([i for i, name in enumerate(self.header) if name in self.beside], default=0),
      len(self.header),
    )
    absent = [
      row[0].text for row in self.rows if len(row) > 1 and all(row[i].text == MISSING for i in ours)
    ]
    rows = [[self.header[i] for i in at]]
    for row in self.rows:
      if row[0].text not in absent:
        cells = row if len(row) == 1 else [row[i] for i in at]
        rows.append(
          [' '.join([cell.text, *(f'({note})' for note in cell.notes)]) for cell in cells]
        )
    full = [row for row in rows if len(row) > 1]
    widths = [max(map(len, column)) for column in zip(*full)]
    pad = lambda i, text: text.ljust(widths[i]) if i < self.left else text.rjust(widths[i])
    text = [
      '  '.join(itertools.starmap(pad, enumerate(row))).rstrip() if len(row) > 1 else row[0]
      for row in rows
    ]
    return [self.caption, *text, *([f'missing: {", ".join(absent)}'] if absent else [])]


def finals(records: Sequence[Record]) -> dict[str, dict[str, list[float]]]:
  """Return {method: {task: [score of each complete run]}}, of methods that have any."""
  found = {}
  for record in records:
    if record.complete and record.final is not None:
      found.setdefault(record.method, {}).setdefault(record.task, []).append(record.final)
  return found


def scores(records: Sequence[Record], references: References) -> Table:
  """Return a row per task in the layout of the paper's Table 2: references, for Atari the published
  columns, then of each method evaluation and training returns."""
  atari = records[0].suite == 'atari'
  tasks = sorted({record.task for record in records})
  tasks = (
    [
      *published.RANDOM_AND_HUMAN,
      *(task for task in tasks if task not in published.RANDOM_AND_HUMAN),
    ]
    if atari
    else tasks
  )
  columns = published.TABLE_2 if atari else {}
  names = list(dict.fromkeys(name for task in tasks for name in references.get(task, {})))
  methods = {}
  for record in records:
    methods.setdefault(record.method, []).append(record)
  seeds = {
    authors: sorted({r.seed for r in records if (r.method in published.AUTHORS) == authors})
    for authors in (False, True)
  }
  measured = {r.judged_by for r in records} != {'return'}
  header = ['Task', *names, *columns]
  for method in methods:
    header += [method, *([f'{method}, return'] if measured else []), f'{method}, training']
  rows = []
  for task in tasks:
    own = {method: [r for r in group if r.task == task] for method, group in methods.items()}
    means = {column: each.get(task) for column, each in columns.items()}
    means |= {method: _mean(_scores(group)) for method, group in own.items()}
    best = within_5_percent(means)
    cells = [Cell(task), *(Cell(_reference(references.get(task, {}).get(name))) for name in names)]
    cells += [Cell(number(means[column]), strong=column in best) for column in columns]
    for method, group in own.items():
      cell = summary(group, seeds[method in published.AUTHORS])
      cell.strong = method in best
      done = [record for record in group if record.complete and record.final is not None]
      returns = [Cell(number(_mean([r.evaluations['eval_mean'][-1] for r in done])))]
      training = Cell(number(_mean([r.evaluations['train_mean'][-1] for r in done])))
      cells += [cell, *(returns if measured else []), training]
    rows.append(cells)
  unit = title_of_scores(records)
  return Table(f'{unit} per task', header, rows, beside=tuple(columns))


def summary(runs: Sequence[Record], seeds: Sequence[int] = ()) -> Cell:
  """Return 'mean ± std' over the complete runs of a task and method; range and number of seeds
  below, how far the others are, and which of `seeds` there are no runs of."""
  values, notes = _scores(runs), []
  shown = percent if any(record.judged_by == 'success' for record in runs) else number
  if len(values) == 1:
    notes.append('1 seed')
  elif values:
    notes.append(f'{shown(min(values))} to {shown(max(values))}, {len(values)} seeds')
  notes += [f'seed {r.seed} not complete: {progress(r)}' for r in runs if not r.complete]
  without = sum(record.complete and record.final is None for record in runs)
  notes += [f'{without} complete without a score'] if without else []
  absent = [str(seed) for seed in seeds if runs and seed not in {r.seed for r in runs}]
  notes += [f'missing: seed{"s" * (len(absent) > 1)} {", ".join(absent)}'] if absent else []
  if not values:
    return Cell(MISSING if not runs else 'not complete', notes)
  mean = _mean(values)
  if len(values) == 1:
    return Cell(shown(mean), notes)
  std = float(np.std(values, ddof=1))
  spread = percent(std) if shown is percent else number(std, decimals(mean) if mean else None)
  return Cell(f'{shown(mean)} ± {spread}', notes)


def progress(record: Record) -> str:
  """Return how far a run is by what it wrote last: 'step 14,000 of 100,000 (14 %)'."""
  done = max([0, *record.evaluations['step'], *record.metrics['step']])
  return (
    f'step {done:,} of {record.steps:,} ({100 * done / record.steps:.0f} %)'
    if done
    else 'nothing written yet'
  )


def within_5_percent(scores: Mapping[str, float | None]) -> set[str]:
  """Return those that the paper's Table 2 prints in bold: not more than 5 % of the best below it."""
  known = {key: score for key, score in scores.items() if score is not None}
  best = max(known.values(), default=0)
  bold = {key for key, score in known.items() if score >= best - 0.05 * abs(best)}
  return bold if len(known) > 1 else set()


def task_sets(found: Mapping[str, statistics.Scores]) -> list[tuple[list[str], list[str]]]:
  """Return (tasks, methods that have all of them): the tasks that all methods share, then what
  single methods have more."""
  own = {method: sorted(each) for method, each in found.items() if each}
  shared = sorted(set.intersection(*map(set, own.values()))) if own else []
  sets = [shared] if shared else []
  for tasks in sorted(own.values(), key=len, reverse=True):
    sets += [tasks] if tasks not in sets else []
  return [(tasks, [m for m in own if set(tasks) <= set(own[m])]) for tasks in sets]


def aggregates(
  found: Mapping[str, statistics.Scores], caption: str, names: Sequence[str], total: int = 0
) -> Table:
  """Return aggregates over each of `task_sets`; published columns, of which only mean and median
  can be told, below ours where `total`, the number of the benchmark's games, is given."""
  rows = []
  for tasks, methods in task_sets(found):
    of = f' of {total} games' if total else ' tasks'
    rows.append([Cell(f'{len(tasks)}{of}' + (f': {", ".join(tasks)}' if len(tasks) <= 6 else ''))])
    for method in methods:
      each = statistics.aggregates({task: found[method][task] for task in tasks})
      runs = [len(found[method][task]) for task in tasks]
      count = f'{min(runs)}' if min(runs) == max(runs) else f'{min(runs)} to {max(runs)}'
      rows.append([Cell(method), *(interval(each[name]) for name in names), Cell(count)])
    for column, points in published_points(tasks).items() if total else ():
      cells = [Cell(f'{points[name]:.3f}' if name in points else '–') for name in names]
      rows.append([Cell(f'{column}, published'), *cells, Cell('means only')])
  return Table(caption, ['Method', *(AGGREGATES[name] for name in names), 'Runs per task'], rows)


def published_points(games: Sequence[str]) -> dict[str, dict[str, float]]:
  """Return {column of Table 2: {'mean', 'median'}} over games: all that one mean each can tell."""
  found = {}
  for column, scores in published.TABLE_2.items():
    points = statistics.points(published.normalized({game: [scores[game]] for game in games}))
    found[column] = {name: points[name] for name in ('mean', 'median')}
  return found


def improvements(
  found: Mapping[str, statistics.Scores],
) -> dict[tuple[str, str], statistics.Interval]:
  """Return {(x, y): P(x > y)} of each pair of methods that share tasks."""
  pairs = {
    pair: statistics.probability_of_improvement(found[pair[0]], found[pair[1]])
    for pair in itertools.combinations(found, 2)
  }
  return {pair: each for pair, each in pairs.items() if each.point is not None}


def improvement(pairs: Mapping[tuple[str, str], statistics.Interval]) -> Table:
  """Return the table of `improvements`."""
  rows = [[Cell(x), Cell(y), interval(each)] for (x, y), each in pairs.items()]
  return Table('Probability of improvement', ['First', 'Second', 'P(first > second)'], rows, left=2)


def interval(each: statistics.Interval) -> Cell:
  """Return '1.364' with '[1.191, 1.577]' under it."""
  bounds = 'no interval: 1 run' if each.low is None else f'[{each.low:.3f}, {each.high:.3f}]'
  return Cell(f'{each.point:.3f}', (bounds,))


def runs(records: Sequence[Record]) -> Table:
  """Return a row per run: how far it is, its last evaluation, what it took, where it came from."""
  rows = []
  for r in records:
    shown = percent if r.judged_by == 'success' else number
    training = r.evaluations['train_mean'][-1] if r.scores else None
    state = 'complete' if r.complete else progress(r)
    commit = r.environment['commit'] or MISSING
    numbers = [
      MISSING if r.final is None else shown(r.final),
      *map(number, (training, r.hours, r.steps_per_second)),
    ]
    texts = [r.suite, r.task, r.method, r.weighting, str(r.seed), state, *numbers]
    rows.append(
      [
        Cell(text)
        for text in (
          *texts,
          commit[:10] + commit[40:],
          r.environment['devices'] or MISSING,
          r.source,
        )
      ]
    )
  header = 'Suite Task Method Weighting Seed State Score Training Hours Steps/s Commit Devices'
  return Table('Every run', [*header.split(), 'Read from'], rows, left=6)


def _scores(runs):
  return [record.final for record in runs if record.complete and record.final is not None]


def _mean(values):
  return statistics.mean_interval(values).point


def _reference(value):
  """A number that others printed, with its own digits: '−20.7', '0.1', '7,128'."""
  short = value is not None and abs(value) < 1000
  return f'{value:g}'.replace('-', '−') if short else number(value)
