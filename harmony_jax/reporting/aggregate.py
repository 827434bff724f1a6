"""Scores of many runs as one table: means over seeds, and for Atari the human-normalised scores.

    wanted = [('Pong', 'dreamerv3-harmony', 0), ('Pong', 'dreamerv3-harmony', 1)]
    result = aggregate(finished(records), wanted)
    print('\\n'.join(lines(result)))

A run counts when it is complete, by its last evaluation. Whatever is wanted and not there is
counted as missing and shown, for a mean over the seeds that happen to have ended is not the mean
that was asked for.
"""

import numpy as np

from harmony_jax.reporting import statistics
from harmony_jax.reporting.atari_scores import human_normalized
from harmony_jax.reporting.form import final


def finished(records) -> dict:
  """{(task, 'dreamerv3-harmony', seed): final score} of those of `records.collect` that are
  complete.
  """
  return {
    (record['task'], f'{record["base"]}-{record["weighting"]}', record['seed']): float(
      final(record)
    )
    for record in records
    if record['complete'] and final(record) is not None
  }


def aggregate(scores, wanted, atari=False) -> dict:
  """The table of a set of runs.

  Args:
    scores: {(task, configuration, seed): score}, as of `finished`; what is not wanted is left out.
    wanted: the same keys, of all runs that there should be.
    atari: whether tasks are Atari games, so that scores are human-normalised, too.

  Returns:
    {'runs', 'wanted': numbers, 'configurations': {configuration: {'tasks': {task: {'mean', 'std'
    (of the sample; None for one), 'seeds', 'wanted', 'scores': {seed: score}, 'missing': [seeds],
    'normalized'}}, 'human_normalized': of `human_normalized_summary`, for Atari}}}. Numbers that
    there are no runs for are None.
  """
  wanted = list(dict.fromkeys(wanted))
  result = {
    'runs': sum(key in scores for key in wanted),
    'wanted': len(wanted),
    'configurations': {},
  }
  for configuration in dict.fromkeys(key[1] for key in wanted):
    tasks = {}
    for task in dict.fromkeys(key[0] for key in wanted if key[1] == configuration):
      seeds = sorted(key[2] for key in wanted if key[:2] == (task, configuration))
      tasks[task] = _task(
        task,
        {
          seed: scores[task, configuration, seed]
          for seed in seeds
          if (task, configuration, seed) in scores
        },
        seeds,
        atari,
      )
    entry = result['configurations'][configuration] = {'tasks': tasks}
    if atari:
      entry['human_normalized'] = human_normalized_summary(
        {task: list(each['scores'].values()) for task, each in tasks.items()}
      )
  return result


def _task(task, found, seeds, atari):
  values = list(found.values())
  mean = float(np.mean(values)) if values else None
  entry = {
    'mean': mean,
    'std': float(np.std(values, ddof=1)) if len(values) > 1 else None,
    'seeds': len(values),
    'wanted': len(seeds),
    'scores': found,
    'missing': [seed for seed in seeds if seed not in found],
  }
  if atari:
    entry['normalized'] = human_normalized(task, mean) if values else None
  return entry


def human_normalized_summary(scores) -> dict:
  """Mean and median over games of the games' means over seeds, and the interquartile mean over all
  runs.

  Args:
    scores: {game: [score of each run]}; a game without runs, or without references, is not counted.

  Returns:
    {'mean', 'median', 'iqm' (None without runs), 'games', 'games_wanted', 'runs'}.
  """
  normalized = {
    game: [human_normalized(game, score) for score in each] for game, each in scores.items()
  }
  normalized = {game: each for game, each in normalized.items() if each and None not in each}
  points = statistics.points(normalized)
  return {
    **{name: points[name] for name in ('mean', 'median', 'iqm')},
    'games': len(normalized),
    'games_wanted': len(scores),
    'runs': sum(map(len, normalized.values())),
  }


def lines(result) -> list:
  """The table as lines of text: a row per task, a column per configuration; missing runs are told."""
  configurations = result['configurations']
  tasks = list(dict.fromkeys(task for entry in configurations.values() for task in entry['tasks']))
  rows = [['task', *configurations]]
  rows += [
    [task, *(_cell(entry['tasks'].get(task)) for entry in configurations.values())]
    for task in tasks
  ]
  summaries = [entry.get('human_normalized') for entry in configurations.values()]
  if any(summaries):
    for name, title in (
      ('mean', 'human-normalised mean'),
      ('median', 'human-normalised median'),
      ('iqm', 'IQM of runs'),
    ):
      rows.append([title, *(_number(each[name]) for each in summaries)])
    rows.append(['games', *(f'{each["games"]}/{each["games_wanted"]}' for each in summaries)])
  widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
  text = [
    '  '.join(
      [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))]
    )
    for row in rows
  ]
  missing = [
    f'{task} {configuration}: seed{"s" if len(entry["missing"]) > 1 else ""} '
    f'{", ".join(map(str, entry["missing"]))}'
    for configuration, each in configurations.items()
    for task, entry in each['tasks'].items()
    if entry['missing']
  ]
  text.append(f'{result["runs"]} of {result["wanted"]} runs')
  if missing:
    text.append(
      f'missing: {"; ".join(missing[:10])}'
      + (f' and {len(missing) - 10} more' if len(missing) > 10 else '')
    )
  return text


def _cell(entry):
  """'12.3 ± 1.2', with the number of seeds where it is not that wanted; 'missing' where there are
  none.
  """
  if entry is None:
    return ''
  if not entry['seeds']:
    return 'missing'
  spread = '' if entry['std'] is None else f' ± {_number(entry["std"])}'
  few = f' ({entry["seeds"]}/{entry["wanted"]} seeds)' if entry['missing'] else ''
  return f'{_number(entry["mean"])}{spread}{few}'


def _number(value):
  if value is None:
    return 'none'
  return f'{value:,.0f}' if abs(value) >= 1000 else f'{value:.3g}'
