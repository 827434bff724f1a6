"""Tables of a report, as data first: the same table is HTML in the page and text on a terminal."""

import dataclasses

import numpy as np

from harmony_jax.reporting import comparisons, grouping, published, statistics
from harmony_jax.reporting.atari_scores import RANDOM_AND_HUMAN
from harmony_jax.reporting.charts import decimals, number, percent, reference
from harmony_jax.reporting.curves import references_of

MISSING = 'missing'


@dataclasses.dataclass
class Cell:
  """`text` with smaller `notes` under it; `strong` is bold, `faint` is what is not there."""

  text: str
  notes: tuple = ()
  strong: bool = False
  faint: bool = False


@dataclasses.dataclass
class Table:
  """A caption, the headers, and rows of cells; a row of one cell is a heading within the table."""

  caption: str
  header: list
  rows: list
  left: int = 1  # columns at the left that are text
  beside: tuple = ()  # columns that are context, too wide for a terminal
  own: int = 1  # the first column of ours


def score(value, success=False) -> str:
  """A mean return, or a success rate in percent."""
  return percent(round(value, 4)) if success and value is not None else number(value)


def within_5_percent(scores) -> set:
  """Keys of {key: score} that the paper's Table 2 prints in bold: not more than 5 % of the best
  below it.
  """
  known = {key: each for key, each in scores.items() if each is not None}
  if not known:
    return set()
  best = max(known.values())
  return {key for key, each in known.items() if each >= best - 0.05 * abs(best)}


def summary_of(runs, seeds=()) -> Cell:
  """'mean ± std' over the complete runs of a task, min – max and number of seeds below; how far the
  others are.

  seeds: those that there might be; which of them there are no runs of is named.
  """
  success = any(record['score'] == 'success' for record in runs)
  values = [last['value'] for last in map(grouping.final, runs) if last]
  open_runs = [record for record in runs if not record['complete']]
  without = sum(record['complete'] and grouping.final(record) is None for record in runs)
  notes = []
  if without:
    notes.append(f'{without} complete without a finite score')
  if open_runs:
    notes += [
      f'seed {each["seed"]} {"not complete: " if values else "at "}{progress(each, short=True)}'
      for each in open_runs
    ]
  absent = [seed for seed in seeds if runs and seed not in {str(record['seed']) for record in runs}]
  if absent:
    notes.append(f'missing: seed{"s" if len(absent) > 1 else ""} {", ".join(absent)}')
  if not values:
    return Cell('not complete' if open_runs else MISSING, tuple(notes), faint=True)
  mean = statistics.mean_interval(values).point
  if len(values) == 1:
    return Cell(score(mean, success), ('1 seed', *notes))
  spread = f'{score(min(values), success)} to {score(max(values), success)}, {len(values)} seeds'
  std = float(np.std(values, ddof=1))
  shown = score(std, success) if success else number(std, decimals(mean) if mean else None)
  return Cell(f'{score(mean, success)} ± {shown}', (spread, *notes))


def training_of(runs) -> Cell:
  """Mean of the last training episodes' returns over the complete runs."""
  values = [
    last['train'] for last in map(grouping.final, runs) if last and last['train'] is not None
  ]
  return (
    Cell(number(statistics.mean_interval(values).point)) if values else Cell(MISSING, faint=True)
  )


def progress(record, short=False) -> str:
  """'step 14,000 of 100,000 (14 %)', or only '14 %', by what was written last."""
  steps = [each['step'] for each in record['evaluations']]
  steps += [series[0][-1] for series in record.get('metrics', {}).values() if series[0]]
  done, planned = max(steps, default=None), record.get('planned_steps')
  if done is None:
    return 'nothing written yet'
  if short and planned:
    return f'{100 * done / planned:.0f} %'
  return (
    f'step {done:,} of {planned:,} ({100 * done / planned:.0f} %)' if planned else f'step {done:,}'
  )


def atari(records) -> Table:
  """The layout of the paper's Table 2: random, human, the published columns, ours; aggregates are
  `aggregates`.
  """
  methods = grouping.by_method(records)
  trained = {
    method: any(
      each.get('train_mean') is not None for record in group for each in record['evaluations']
    )
    for method, group in methods.items()
  }
  seeds = grouping.seeds(records)
  header = ['Game', 'Random', 'Human', *published.TABLE_2]
  for method in methods:
    header += [method, *([f'{method}, training'] if trained[method] else [])]
  rows = []
  for game in [
    *RANDOM_AND_HUMAN,
    *sorted({record['task'] for record in records} - set(RANDOM_AND_HUMAN)),
  ]:
    groups = {
      method: [record for record in group if record['task'] == game]
      for method, group in methods.items()
    }
    context = {column: scores.get(game) for column, scores in published.TABLE_2.items()}
    ours = {
      method: values[game] for method, group in groups.items() if (values := grouping.finals(group))
    }
    bold = within_5_percent(
      {**context, **{method: statistics.mean_interval(each).point for method, each in ours.items()}}
    )
    known = RANDOM_AND_HUMAN.get(game, (None, None))
    cells = [Cell(game)] + [Cell(reference(each), faint=each is None) for each in known]
    cells += [
      Cell(number(each), strong=column in bold, faint=each is None)
      for column, each in context.items()
    ]
    for method, group in groups.items():
      cell = summary_of(group, seeds[method in grouping.AUTHORS])
      cell.strong = method in bold
      cells += [cell, *([training_of(group)] if trained[method] else [])]
    rows.append(cells)
  return Table(
    'Scores per game', header, rows, beside=tuple(published.TABLE_2), own=3 + len(published.TABLE_2)
  )


def tasks(suite, records, references=None) -> Table:
  """A row per task and method of the suite: evaluation over seeds, training returns, references,
  hours and speed.
  """
  returns_too = any(record['score'] != 'return' for record in records)
  seeds, all_methods = grouping.seeds(records), grouping.by_method(records)
  names = list(
    dict.fromkeys(
      name for record in records for name in references_of(record['task'], suite, references)
    )
  )
  header = [
    'Task',
    'Method',
    grouping.judged_by(records),
    *(['Evaluation return'] if returns_too else []),
    'Training return',
    *names,
    'Frames',
    'Hours per run',
    'Steps/s',
  ]
  rows = []
  for task, methods in grouping.by_task(records).items():
    lines = references_of(task, suite, references)
    for method in all_methods:
      group = methods.get(method, [])
      done = [record for record in group if grouping.final(record)]
      returns = [grouping.number_or_none(record['evaluations'][-1].get('mean')) for record in done]
      rows.append(
        [
          Cell(task),
          Cell(method),
          summary_of(group, seeds[method in grouping.AUTHORS]),
          *([_mean_cell(returns)] if returns_too else []),
          training_of(group),
          *(Cell(reference(lines.get(name)), faint=name not in lines) for name in names),
          _mean_cell([record['evaluations'][-1].get('frame') for record in done]),
          _mean_cell(
            [record.get('hours') or record['evaluations'][-1].get('hours') for record in done]
          ),
          _mean_cell([record.get('steps_per_second') for record in done]),
        ]
      )
  return Table('Scores per task', header, rows, left=2)


def _mean_cell(values):
  values = [value for value in map(grouping.number_or_none, values) if value is not None]
  return (
    Cell(number(statistics.mean_interval(values).point)) if values else Cell(MISSING, faint=True)
  )


def game_sets(scores) -> list:
  """The sets of games over which methods can be compared: those that all have, then what single
  methods have more.

  scores: {method: {game: [...]}}. Returns [(games in order, [methods that have all of them])].
  """
  own = {method: [game for game in sorted(each)] for method, each in scores.items() if each}
  if not own:
    return []
  shared = [
    game
    for game in sorted(set().union(*own.values()))
    if all(game in games for games in own.values())
  ]
  sets = [shared] if shared else []
  for games in sorted(own.values(), key=len, reverse=True):
    if games not in sets:
      sets.append(games)
  return [(games, [method for method in own if set(games) <= set(own[method])]) for games in sets]


def aggregates(sets, scores) -> Table:
  """Human-normalised mean, median, IQM and optimality gap over each of `game_sets`; published
  columns below ours.
  """
  names = list(comparisons.NAMES)
  rows = []
  for games, methods in sets:
    count = f'{len(games)} of {len(RANDOM_AND_HUMAN)} games'
    rows.append([Cell(count + (f': {", ".join(games)}' if len(games) <= 6 else ''))])
    for method in methods:
      found = statistics.aggregates({game: scores[method][game] for game in games})
      runs = [len(scores[method][game]) for game in games]
      seeds = f'{min(runs)}' if min(runs) == max(runs) else f'{min(runs)} to {max(runs)}'
      rows.append(
        [
          Cell(method),
          *(interval_cell(found[name]) for name in names),
          Cell(f'{len(games)}'),
          Cell(seeds),
        ]
      )
    for column, found in comparisons.published_aggregates(games).items():
      rows.append(
        [
          Cell(f'{column}, published'),
          Cell(f'{found["mean"]:.3f}'),
          Cell(f'{found["median"]:.3f}'),
          Cell('–', faint=True),
          Cell('–', faint=True),
          Cell(f'{len(games)}'),
          Cell('means only', faint=True),
        ]
      )
  return Table(
    'Human-normalised aggregates',
    ['Method', *comparisons.NAMES.values(), 'Games', 'Seeds per game'],
    rows,
  )


def interval_cell(interval) -> Cell:
  """'1.364' with '[1.20, 1.57]' under it."""
  if interval.point is None:
    return Cell(MISSING, faint=True)
  if interval.low is None:
    return Cell(f'{interval.point:.3f}', ('no interval: 1 run',))
  return Cell(f'{interval.point:.3f}', (f'[{interval.low:.3f}, {interval.high:.3f}]',))


def improvement(pairs) -> Table:
  """P(first > second) of `comparisons.improvements`."""
  return Table(
    'Probability of improvement',
    ['First', 'Second', 'P(first > second)', 'Tasks'],
    [
      [Cell(x), Cell(y), interval_cell(interval), Cell(str(len(shared)))]
      for x, y, interval, shared in pairs
    ],
    left=2,
  )


def runs(records) -> Table:
  """What was run: a row per suite and method."""
  rows = []
  for suite, group in grouping.by_suite(records).items():
    for method, each in grouping.by_method(group).items():
      complete = sum(bool(record['complete']) for record in each)
      hours = [
        value for record in each if (value := grouping.number_or_none(hours_of(record))) is not None
      ]
      seeds = sorted({str(record['seed']) for record in each}, key=lambda text: (len(text), text))
      rows.append(
        [
          Cell(suite),
          Cell(method),
          Cell(str(len({record['task'] for record in each}))),
          Cell(', '.join(seeds)),
          Cell(f'{complete} of {len(each)}'),
          Cell(number(sum(hours))) if hours else Cell('not recorded', faint=True),
        ]
      )
  return Table(
    'What was run',
    ['Suite', 'Method', 'Tasks', 'Seeds', 'Runs complete', 'Hours in all'],
    rows,
    left=2,
  )


def each_run(records) -> Table:
  """A row per run: how far it is, its last evaluation, what it took, where it was read from."""
  rows = []
  for record in records:
    last = record['evaluations'][-1] if record['evaluations'] else None
    success = record['score'] == 'success'
    value = grouping.value(record, last) if last else None
    hours, speed = (
      grouping.number_or_none(hours_of(record)),
      grouping.number_or_none(record.get('steps_per_second')),
    )
    train = grouping.number_or_none(last['train_mean']) if last else None
    commit = str((record.get('environment') or {}).get('commit') or MISSING)
    rows.append(
      [
        Cell(record['task']),
        Cell(record['method']),
        Cell(str(record['seed'])),
        Cell('complete') if record['complete'] else Cell(progress(record), faint=True),
        Cell(score(value, success)),
        Cell(number(train)),
        Cell(number(hours)),
        Cell(number(speed)),
        Cell(commit[:10] + (' (dirty)' if 'dirty' in commit else '')),
        Cell(record['source']),
      ]
    )
  return Table(
    'Every run',
    [
      'Task',
      'Method',
      'Seed',
      'State',
      'Last evaluation',
      'Training',
      'Hours',
      'Steps/s',
      'Commit',
      'Read from',
    ],
    rows,
    left=2,
  )


def hours_of(record):
  """A run's hours, by what it recorded last."""
  return record.get('hours') or next(
    (each['hours'] for each in reversed(record['evaluations']) if each.get('hours') is not None),
    None,
  )


def lines(table) -> list:
  """The table as aligned text, without the columns `beside`, of the notes only intervals and what
  is missing, and rows in which all of ours is missing in one line."""
  kept = [at for at, name in enumerate(table.header) if name not in table.beside]
  rows = [[table.header[at] for at in kept]]
  absent = [
    row[0].text
    for row in table.rows
    if len(row) > 1 and all(cell.text == MISSING for cell in row[table.own :])
  ]
  rows += [
    [_flat(row[at]) for at in kept] if len(row) > 1 else [_flat(row[0])]
    for row in table.rows
    if row[0].text not in absent
  ]
  widths = [max(len(row[column]) for row in rows if len(row) > 1) for column in range(len(kept))]
  text = [table.caption]
  for row in rows:
    text.append(
      row[0]
      if len(row) == 1
      else '  '.join(
        cell.ljust(width) if at < table.left else cell.rjust(width)
        for at, (cell, width) in enumerate(zip(row, widths))
      ).rstrip()
    )
  return text + ([f'missing: {", ".join(absent)}'] if absent else [])


def _flat(cell):
  shown = [
    note if note.startswith('[') else f'({note})' for note in cell.notes if ' to ' not in note
  ]
  return ' '.join([cell.text, *shown])


def returns(scaled) -> Table | None:
  """Mean over tasks and interquartile mean of returns / 1000. scaled: {method: {task: [return /
  1000]}}.
  """
  rows = []
  for games, methods in game_sets(scaled):
    if len(games) < 2:
      continue
    rows.append([Cell(f'{len(games)} tasks: {", ".join(games)}')])
    for method in methods:
      found = statistics.aggregates({game: scaled[method][game] for game in games})
      rows.append([Cell(method), interval_cell(found['mean']), interval_cell(found['iqm'])])
  return Table('Return / 1000 over tasks', ['Method', 'Mean', 'IQM'], rows) if rows else None
