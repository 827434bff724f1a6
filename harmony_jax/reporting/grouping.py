"""Records of runs, arranged as a report needs them: by suite, method and task; what counts, and on
which steps.

A record is one run of `records.collect`. Only complete runs are in tables, by their last
evaluation; curves show all.
"""

import math

import numpy as np

from harmony_jax.reporting import published
from harmony_jax.reporting import records as records_of
from harmony_jax.reporting.atari_scores import human_normalized

# what `published.read_scores` calls their runs
AUTHORS = {method for method, _ in published.FILES.values()}


def by_suite(records) -> dict:
  """{suite: [record]}, Atari first, then by name."""
  suites = sorted({record['suite'] for record in records}, key=lambda name: (name != 'atari', name))
  return {suite: [record for record in records if record['suite'] == suite] for suite in suites}


def by_method(records) -> dict:
  """{method: [record in order of seeds]}; ours first, and harmony first, as the paper's claim is
  about it.
  """

  def order(record):
    weighting = str(record.get('weighting'))
    return (
      record['method'] in AUTHORS,
      weighting != 'harmony',
      weighting != 'none',
      record['method'],
      str(record['task']),
      str(record['seed']),
    )

  methods = {}
  for record in sorted(records, key=order):
    methods.setdefault(record['method'], []).append(record)
  return methods


def by_task(records) -> dict:
  """{task: {method: [record]}}, tasks by name."""
  tasks = {}
  for task in sorted({record['task'] for record in records}):
    tasks[task] = by_method([record for record in records if record['task'] == task])
  return tasks


def told_apart(records) -> list:
  """The records; where runs of one task are judged by different things, those not by the return
  have a task of their own, 'lever_pull (by success)', as their numbers cannot stand in one mean,
  curve or comparison."""
  kinds = {}
  for record in records:
    kinds.setdefault((record['suite'], record['task']), set()).add(record['score'])
  return [
    {**record, 'task': f'{record["task"]} (by {record["score"]})'}
    if len(kinds[record['suite'], record['task']]) > 1 and record['score'] != 'return'
    else record
    for record in records
  ]


def judged_by(records) -> str:
  """What the scores of records are: 'Evaluation return', 'Success rate', or 'Score' where they are
  of several kinds.
  """
  kinds = {record['score'] for record in records}
  if len(kinds) != 1:
    return 'Score'
  return {'return': 'Evaluation return', 'success': 'Success rate'}.get(
    min(kinds), f'Evaluation’s {min(kinds)}'
  )


def seeds(records) -> dict:
  """{whether they are the authors': the seeds} of the runs of a suite: what each group of them
  might have, too.
  """
  return {
    authors: sorted(
      {str(record['seed']) for record in records if (record['method'] in AUTHORS) is authors},
      key=lambda text: (len(text), text),
    )
    for authors in (False, True)
  }


def number_or_none(value):
  """A finite number, or None for what is none (missing, NaN, text)."""
  if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
    return None
  return float(value)


def value(record, evaluation):
  """What the suite is judged by: an evaluation's mean return or its measure; None where it is
  missing or not finite.
  """
  return number_or_none(records_of.value(evaluation, record))


def final(record) -> dict | None:
  """{'value', 'train', 'evaluation'} of a complete run's last evaluation; None where the run is not
  complete or has no finite score there."""
  if not record['complete'] or not record['evaluations']:
    return None
  evaluation = record['evaluations'][-1]
  score = value(record, evaluation)
  if score is None:
    return None
  return {
    'value': score,
    'train': number_or_none(evaluation.get('train_mean')),
    'evaluation': evaluation,
  }


def finals(records) -> dict:
  """{task: [score of each complete run]} of one method's records."""
  scores = {}
  for record in records:
    last = final(record)
    if last is not None:
      scores.setdefault(record['task'], []).append(last['value'])
  return scores


def normalized(scores) -> dict:
  """{game: [human-normalised score]} of `finals`, of the games that have references."""
  return {
    game: [human_normalized(game, each) for each in values]
    for game, values in scores.items()
    if human_normalized(game, 0.0) is not None
  }


def points(record, x='frame') -> list:
  """[(frame, x, score)] of a run's evaluations that have all three; x: 'frame', 'step' or 'hours'."""
  found = []
  for evaluation in record['evaluations']:
    frame, place, score = (
      evaluation.get('frame'),
      number_or_none(evaluation.get(x)),
      value(record, evaluation),
    )
    if frame is not None and place is not None and score is not None:
      found.append((frame, place, score))
  return found


def averaged(records, x='frame') -> tuple:
  """([points of each run that a mean is over], [points of the others]): complete runs where there
  are any, else all.

  Runs without points are in neither. records: of one task and method.
  """
  pairs = [(record['complete'], found) for record in records if (found := points(record, x))]
  done, others = (
    [found for complete, found in pairs if complete is wanted] for wanted in (True, False)
  )
  return (done, others) if done else (others, [])


def common_grid(runs) -> tuple:
  """(rows, width): evaluations that all seeds have, on which their mean can be taken.

  Args:
    runs: [[(frame, x, score)]] of `points`, a list per seed.

  Returns:
    [(x: the mean over seeds, [score of each seed])], in order, and None; where the seeds share
    fewer than two frames, means over bins of frames that all seeds have points in, and the width of
    a bin in frames.
  """
  runs = [run for run in runs if run]
  if not runs:
    return [], None
  tables = [{frame: (x, score) for frame, x, score in run} for run in runs]
  shared = sorted(set.intersection(*map(set, tables)))
  width = None
  if len(shared) < 2 and min(map(len, runs)) > 1:
    width = int(max(np.median(np.diff(sorted(table))) for table in tables)) or 1
    tables = [_binned(table, width) for table in tables]
    shared = sorted(set.intersection(*map(set, tables)))
  return [
    (float(np.mean([table[at][0] for table in tables])), [table[at][1] for table in tables])
    for at in shared
  ], width


def _binned(table, width):
  bins = {}
  for frame, pair in table.items():
    bins.setdefault(int(frame // width), []).append(pair)
  return {at: tuple(np.mean(pairs, 0)) for at, pairs in bins.items()}
