"""Tables of a report: data frames of texts, HTML in the page and aligned on a terminal.

A cell's first line is its number, further lines say what belongs to it. `attrs` holds 'caption',
'bold': {(row, column)}, and 'note', a line below the table.
"""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas

from harmony_jax.reporting import curves, published, statistics
from harmony_jax.reporting.comparisons import AGGREGATES
from harmony_jax.reporting.curves import References, title_of_scores
from harmony_jax.reporting.figures import decimals, number, percent, ranges
from harmony_jax.reporting.schema import Record
from harmony_jax.reporting.statistics import Interval, Scores

MISSING = 'missing'


def lines(table: pandas.DataFrame) -> list[str]:
  """Return a table as text, without the published columns, which are too wide for a terminal."""
  shown = table.drop(columns=list(published.TABLE_2), errors='ignore')
  text = shown.map(lambda cell: cell.replace('\n', ' ')).to_string(index=False)
  return [table.attrs['caption'], *text.splitlines(), *filter(None, [table.attrs['note']])]


def finals(records: Sequence[Record]) -> dict[str, dict[str, list[float]]]:
  """Return {method: {task: [score of each complete run]}}, of methods that have any."""
  found = {}
  for record in records:
    if record.complete and record.final is not None:
      found.setdefault(record.method, {}).setdefault(record.task, []).append(record.final)
  return found


def scores(records: Sequence[Record], references: References) -> pandas.DataFrame:
  """Return a row per task in the layout of the paper's Table 2: references, for Atari the published
  columns, then of each method evaluation and training returns."""
  columns = published.TABLE_2 if records[0].suite == 'atari' else {}
  tasks, methods = sorted({r.task for r in records}), list(dict.fromkeys(r.method for r in records))
  names = list(dict.fromkeys(name for task in tasks for name in references[task]))
  extra = {'training': 'train_mean'}
  if any(record.judged_by != 'return' for record in records):
    extra = {'return': 'eval_mean', **extra}
  found, rows, bold = finals(records), [], set()
  for task in tasks:
    row = {'Task': task, **{name: _printed(references[task].get(name)) for name in names}}
    means = {column: scores.get(task) for column, scores in columns.items()}
    row |= {column: number(mean) for column, mean in means.items()}
    for method in methods:
      own = [record for record in records if (record.method, record.task) == (method, task)]
      others = [
        r for r in records if (r.method in published.AUTHORS) == (method in published.AUTHORS)
      ]
      row[method] = summary(own, sorted({record.seed for record in others}))
      means[method] = _mean(found.get(method, {}).get(task, []))
      done = [record for record in own if record.complete and record.final is not None]
      for name, column in extra.items():
        values = [r.evaluations[column][-1] for r in done]
        few = len(values) - values.count(None)  # no training episode may have ended
        some = f'\n(of {few} of {len(values)} runs)' if 0 < few < len(values) else ''
        row[f'{method}, {name}'] = number(_mean(values)) + some
    bold |= {(len(rows), list(row).index(name)) for name in within_5_percent(means)}
    rows.append(row)
  absent = [game for game in published.RANDOM_AND_HUMAN if columns and game not in tasks]
  note = f'No run of {", ".join(absent)}.' if absent else ''
  table = _table(f'{title_of_scores(records)} per task', rows, bold, note)
  empty = [name for name in table if name.endswith(', training') and set(table[name]) == {MISSING}]
  return table.drop(columns=empty)


def summary(runs: Sequence[Record], seeds: Sequence[int] = ()) -> str:
  """Return 'mean ± std' over the complete runs of a task and method; further lines tell how far the
  others are, and which of `seeds` there are no runs of."""
  values = [record.final for record in runs if record.complete and record.final is not None]
  shown = percent if any(record.judged_by == 'success' for record in runs) else number
  text = shown(_mean(values)) if values else 'not complete' if runs else MISSING
  if len(values) > 1:
    mean, std = _mean(values), float(np.std(values, ddof=1))
    digits = decimals(mean) if abs(mean) >= 1e-3 else None
    text += f' ± {percent(std) if shown is percent else number(std, digits)}'
  counted = [record.seed for record in runs if record.complete and record.final is not None]
  notes = [curves.seeds_of([counted])] if values else []
  notes += [f'seed {r.seed} not complete: {progress(r)}' for r in runs if not r.complete]
  without = sum(record.complete and record.final is None for record in runs)
  notes += [f'{without} complete without a score'] if without else []
  absent = [seed for seed in seeds if runs and seed not in {r.seed for r in runs}]
  notes += [f'missing: seed{"s" * (len(absent) > 1)} {ranges(absent)}'] if absent else []
  return '\n'.join([text, *(f'({note})' for note in notes)])


def progress(record: Record) -> str:
  """Return how far a run is by what it wrote last: 'step 14,000 of 100,000 (14 %)'."""
  done = max([0, *record.evaluations['step'], *record.metrics['step']])
  part = f'step {done:,} of {record.steps:,} ({100 * done / record.steps:.0f} %)'
  return part if done else 'nothing written yet'


def within_5_percent(scores: Mapping[str, float | None]) -> set[str]:
  """Return what the paper's Table 2 prints in bold: not more than 5 % of the best below it."""
  known = {key: score for key, score in scores.items() if score is not None}
  best = max(known.values(), default=0)
  bold = {key for key, score in known.items() if score >= best - 0.05 * abs(best)}
  return bold if len(known) > 1 else set()


def task_sets(found: Mapping[str, Scores]) -> list[tuple[list[str], list[str]]]:
  """Return (tasks, methods that have all of them): the tasks that all methods share, then what
  single methods have more."""
  own = {method: sorted(each) for method, each in found.items() if each}
  shared = sorted(set.intersection(*map(set, own.values()))) if own else []
  sets = []
  for tasks in [shared, *sorted(own.values(), key=len, reverse=True)]:
    sets += [tasks] if tasks and tasks not in sets else []
  return [(tasks, [m for m in own if set(tasks) <= set(own[m])]) for tasks in sets]


def aggregates(
  found: Mapping[str, Scores], caption: str, names: Sequence[str], games: Sequence[str] = ()
) -> pandas.DataFrame:
  """Return aggregates over each of `task_sets`; where the benchmark's games are given published
  columns below ours, of which only mean and median can be told."""
  rows = []
  for tasks, methods in task_sets(found):
    over = ', '.join(tasks) if len(tasks) < 4 else f'{len(tasks)}'
    over = {'Tasks': f'{over} of {len(games)}' if games else over}
    for method in methods:
      each = statistics.aggregates({task: found[method][task] for task in tasks})
      cells = {AGGREGATES[name]: interval(each[name]) for name in names}
      seeds = sorted({len(found[method][task]) for task in tasks})
      runs = {'Runs per task': ' or '.join(map(str, seeds))}
      rows.append({'Method': method, **cells, **over, **runs})
    for column, points in published_points(tasks).items() if games else ():
      cells = {AGGREGATES[name]: f'{points[name]:.3f}' if name in points else '–' for name in names}
      rows.append(
        {'Method': f'{column}, published', **cells, **over, 'Runs per task': 'means only'}
      )
  return _table(caption, rows)


def published_points(games: Sequence[str]) -> dict[str, dict[str, float]]:
  """Return {column of Table 2: {'mean', 'median'}} over games: all that one mean each can tell."""
  found = {}
  for column, each in published.TABLE_2.items():
    points = statistics.points(published.normalized({game: [each[game]] for game in games}))
    found[column] = {name: points[name] for name in ('mean', 'median')}
  return found


def improvements(found: Mapping[str, Scores]) -> dict[tuple[str, str], Interval]:
  """Return {(x, y): P(x > y)} of each pair of methods that share tasks."""
  pairs = itertools.combinations(found, 2)
  known = {(x, y): statistics.probability_of_improvement(found[x], found[y]) for x, y in pairs}
  return {pair: each for pair, each in known.items() if each.point is not None}


def improvement(
  pairs: Mapping[tuple[str, str], Interval], found: Mapping[str, Scores]
) -> pandas.DataFrame:
  """Return the table of `improvements`, each with the tasks that both have."""
  title, rows = 'P(first > second)', []
  for (x, y), each in pairs.items():
    tasks = sorted(task for task in found[x] if found[x][task] and found[y].get(task))
    over = {'Tasks': ', '.join(tasks) if len(tasks) < 4 else f'{len(tasks)}'}
    rows.append({'First': x, 'Second': y, title: interval(each), **over})
  return _table('Probability of improvement', rows)


def interval(each: Interval) -> str:
  """Return '1.364', and on a second line '[1.191, 1.577]'."""
  bounds = '(no interval: 1 run)' if each.low is None else f'[{each.low:.3f}, {each.high:.3f}]'
  return f'{each.point:.3f}\n{bounds}'


def runs(records: Sequence[Record]) -> pandas.DataFrame:
  """Return a row per run: how far it is, its last evaluation, what it took, where it came from."""
  rows = []
  for r in records:
    state = {
      'State': 'complete' if r.complete else progress(r),
      'Score': number(r.final),
      'Training': number(r.evaluations['train_mean'][-1] if r.scores else None),
      'Hours': number(r.hours),
      'Steps/s': number(r.steps_per_second),
    }
    who = {name: str(getattr(r, name)) for name in ('task', 'method', 'weighting', 'seed')}
    facts = {name: r.environment[name] or MISSING for name in ('commit', 'devices', 'python')}
    who, facts = ({k.capitalize(): v for k, v in each.items()} for each in (who, facts))
    rows.append({**who, **state, **facts, 'Read from': r.source})
  return _table('Every run', rows)


def _table(caption, rows, bold=(), note=''):
  table = pandas.DataFrame(rows)
  table.attrs = {'caption': caption, 'bold': bold, 'note': note}
  return table


def _mean(values):
  return statistics.mean_interval(values).point


def _printed(value):
  """A number that others printed, with its own digits: '−20.7', '0.1', '7,128'."""
  short = value is not None and abs(value) < 1000
  return f'{value:g}'.replace('-', '−') if short else number(value)
