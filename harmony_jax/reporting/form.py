"""A record: one run, one seed of one task, as reports take it, wherever it was read from.

    {'suite': 'atari', 'task': 'Pong', 'method': 'dreamerv3-harmony-cpu', 'base': 'dreamerv3',
    'weighting': 'harmony',
     'preset': 'cpu', 'seed': 0, 'complete': True, 'source': 'runs/atari/…/seed0', 'config': {…},
     'planned_steps': 100000, 'action_repeat': 4,         # frames per step
     'score': 'return',                                   # what the suite is judged by: the return,
     or a measure 'environment': {'command', 'commit', 'python', 'devices', 'date', 'versions': {}},
      # None where it is not known 'evaluations': [{'step', 'frame', 'update', 'hours', 'mean',
      'std', 'episodes', 'train_mean', 'train_episodes',
                      'scores', 'measures': {}}],         # by steps; `scores`, of all episodes, of
                      the last one only
     'metrics': {'loss/reward': [[step, …], [value, …]]},  # losses, harmonizers' weights and
     sigmas; `MOST` points each 'hours': 1.56, 'steps_per_second': 17.8}             # of the whole
     run so far, evaluations included

A record holds no path of the machine that the run was on, but for `source`.
"""

import math
import re
import shlex

import numpy as np

from harmony_jax.errors import UserError
from harmony_jax.reporting import protocol

MOST = 200  # points of each metric
VERSIONS = (
  'jax',
  'jaxlib',
  'flax',
  'optax',
  'numpy',
  'ale-py',
  'gymnasium',
  'dm_control',
  'mujoco',
  'metaworld',
)
FACTS = ('command', 'commit', 'python', 'devices', 'date')
NO_ENVIRONMENT = {**dict.fromkeys(FACTS), 'versions': {}}
_NAME = re.compile(r'\w[\w.+-]*')  # of what becomes part of a file's name
_SUMMARY = ('mean', 'std', 'scores', 'lengths')


def from_run(run) -> dict:
  """The record of a run of `runs.read`.

  Raises:
    UserError: its files lack something, or hold something else than they should; names the folder.
  """
  try:
    return _from_run(run)
  except (KeyError, TypeError, AttributeError, ValueError, OverflowError, RecursionError) as error:
    raise UserError(f'{run["folder"]} is damaged: {_told(error)}') from None


def _from_run(run):
  lines, config = run['scores'], run['config']
  evaluations = [
    _evaluation(line) for _, line in sorted({line['step']: line for line in lines}.items())
  ]
  for evaluation in evaluations[:-1]:
    evaluation['scores'] = None
  timed = [line for line in [*run['metrics'], *lines] if _is_number(line.get('time/hours'))]
  last = max(timed, key=lambda line: line['step'], default=None)
  hours = run['hours'] if run['hours'] is not None else last and last['time/hours']
  speed = last['step'] / last['time/hours'] / 3600 if last and last['time/hours'] > 0 else None
  return make(
    config,
    run['complete'],
    str(run['folder']),
    _environment(run['environment']),
    evaluations,
    _thinned(run['metrics']),
    hours,
    speed,
    _action_repeat(config, run['metrics'] + lines),
  )


def make(
  config,
  complete,
  source,
  environment,
  evaluations,
  metrics,
  hours,
  steps_per_second,
  action_repeat,
) -> dict:
  """A checked record. Raises ValueError, KeyError or TypeError where something is missing or is of
  another kind.
  """
  config = without_paths(config)
  base, rule, preset = config['method'], config['weighting']['rule'], config['preset']
  record = {
    'suite': config['suite'],
    'task': config['task'],
    'method': f'{base}-{rule}-{preset}',
    'base': base,
    'weighting': rule,
    'preset': preset,
    'seed': config['seed'],
    'complete': complete,
    'source': source,
    'config': config,
    'planned_steps': config['steps'],
    'action_repeat': action_repeat,
    'score': config.get('score', 'return'),
    'environment': environment,
    'evaluations': evaluations,
    'metrics': metrics,
    'hours': hours,
    'steps_per_second': steps_per_second,
  }
  check(record)
  return record


def value(evaluation, record) -> float | None:
  """What the run's suite is judged by, of one evaluation: its mean return, or a measure such as
  'success'.
  """
  return (
    evaluation['mean']
    if record['score'] == 'return'
    else evaluation['measures'].get(record['score'])
  )


def final(record) -> float | None:
  """`value` of the last evaluation; None without any."""
  return value(record['evaluations'][-1], record) if record['evaluations'] else None


def place(record) -> tuple:
  """(suite, method, task, seed): one run can stand there."""
  return record['suite'], record['method'], record['task'], record['seed']


def same_run(a, b) -> bool:
  """Whether two records of one place are the same run, be it that one was read later: by the
  evaluations both have.
  """
  common = min(len(a['evaluations']), len(b['evaluations']))
  first, second = (
    [(each['step'], each['mean']) for each in record['evaluations'][:common]] for record in (a, b)
  )
  return first == second and (common > 0 or a['environment']['date'] == b['environment']['date'])


def rank(record) -> tuple:
  """The greater, the more there is of a run."""
  return record['complete'], len(record['evaluations']), bool(record['metrics'])


# --------------------------------------------------------------------------------------------------


def check(record):
  """Raises ValueError where a record is not of the form; names the field."""
  for field in ('suite', 'base', 'weighting', 'preset'):
    _demand(
      isinstance(record[field], str) and _NAME.fullmatch(record[field]),
      field,
      'a name',
      record[field],
    )
  for field in ('task', 'score', 'source'):
    text = record[field]
    _demand(
      isinstance(text, str) and text.strip() and (field == 'source' or text.isprintable()),
      field,
      'a text',
      text,
    )
  for field, least in (('seed', 0), ('planned_steps', 1), ('action_repeat', 1)):
    _demand(
      _is_count(record[field]) and record[field] >= least,
      field,
      f'a whole number from {least}',
      record[field],
    )
  _demand(isinstance(record['complete'], bool), 'complete', 'true or false', record['complete'])
  for field in ('hours', 'steps_per_second'):
    _demand(record[field] is None or _is_number(record[field]), field, 'a number', record[field])
  for field, known in record['environment'].items():
    _demand(isinstance(known, dict if field == 'versions' else str | None), field, 'a text', known)
  last = -1
  for evaluation in record['evaluations']:
    _check_evaluation(evaluation)
    _demand(evaluation['step'] > last, 'step', 'larger than that before', evaluation['step'])
    last = evaluation['step']
  if (
    record['complete']
    and record['config'].get('final_eval_episodes', 1)
    and last < record['planned_steps']
  ):
    raise ValueError(
      f'it is marked as complete, but its last evaluation is {"none" if last < 0 else f"at step {last}"}'
      f', not at step {record["planned_steps"]}'
    )
  for name, points in record['metrics'].items():
    steps, values = points
    _demand(
      len(steps) == len(values) and all(map(_is_count, steps)) and all(map(_is_number, values)),
      name,
      'steps and numbers',
      points,
    )
  protocol.describe(record['config'])


def _check_evaluation(evaluation):
  for field in ('step', 'frame'):
    _demand(_is_count(evaluation[field]), field, 'a whole number', evaluation[field])
  for field in ('update', 'episodes', 'train_episodes'):
    _demand(
      evaluation[field] is None or _is_count(evaluation[field]),
      field,
      'a whole number',
      evaluation[field],
    )
  _demand(_is_number(evaluation['mean']), 'mean', 'a number', evaluation['mean'])
  for field in ('std', 'hours', 'train_mean'):
    _demand(
      evaluation[field] is None or _is_number(evaluation[field]),
      field,
      'a number',
      evaluation[field],
    )
  for name, number in evaluation['measures'].items():
    _demand(isinstance(name, str) and _is_number(number), name, 'a number', number)
  scores = evaluation['scores']
  _demand(
    scores is None or isinstance(scores, list) and all(map(_is_number, scores)),
    'scores',
    'a list of numbers',
    scores,
  )


def _demand(holds, field, wanted, got):
  if not holds:
    raise ValueError(f'{field} must be {wanted}, not {str(got)[:60]!r}')


def _is_count(number):
  return type(number) is int and 0 <= number < 2**63


def _is_number(number):
  return type(number) in (int, float) and math.isfinite(number) and abs(number) < 1e300


def _told(error):
  return f'it has no {error}' if isinstance(error, KeyError) else str(error)


# --------------------------------------------------------------------------------------------------


def _evaluation(line):
  """One line of scores.jsonl."""
  scores, training = line['eval_scores'], line.get('train_scores')
  std = line.get('eval_std')
  measures = {
    name.removeprefix('eval_'): number
    for name, number in line.items()
    if name.startswith('eval_') and name.removeprefix('eval_') not in _SUMMARY
  }
  _demand(
    isinstance(scores, list) and scores and all(map(_is_number, scores)),
    'eval_scores',
    'a list of numbers',
    scores,
  )
  return {
    'step': line['step'],
    'frame': line['frame'],
    'update': line['update'],
    'hours': line.get('time/hours'),
    'mean': line['eval_mean'],
    'std': float(np.std(scores)) if std is None else std,
    'episodes': len(scores),
    'train_mean': line['train_mean'],
    'train_episodes': None if training is None else len(training),
    'scores': scores,
    'measures': measures,
  }


def _thinned(lines):
  """{name: [steps, values]} of what reports draw, at `MOST` of the lines, evenly spaced, the first
  and last among them.

  Values keep 6 digits. One that was not finite, written as null, is left out."""

  def drawn(name):
    return (
      name.startswith('loss/')
      or name.startswith('harmony/')
      and name.endswith(('/weight', '/sigma'))
    )

  lines = [line for line in lines if any(drawn(name) for name in line)]
  if len(lines) > MOST:
    lines = [lines[index] for index in np.linspace(0, len(lines) - 1, MOST).round().astype(int)]
  metrics = {}
  for name in sorted({name for line in lines for name in line if drawn(name)}):
    points = [(line['step'], line[name]) for line in lines if line.get(name) is not None]
    for _, number in points:
      _demand(_is_number(number), name, 'a number', number)
    metrics[name] = [[step for step, _ in points], [float(f'{number:.6g}') for _, number in points]]
  return {name: points for name, points in metrics.items() if points[0]}


def _action_repeat(config, lines):
  """Frames per step: what was counted, or else what is configured."""
  counted = [
    line['frame'] // line['step']
    for line in lines
    if line['step'] > 0 and _is_count(line.get('frame'))
  ]
  return max(1, counted[-1]) if counted else protocol.action_repeat(config)


def _environment(text):
  """What a run's environment.txt says of its first start, as far as it belongs beside a score."""
  known, versions = dict.fromkeys(FACTS), {}
  for line in text.splitlines():
    key, colon, fact = line.partition(':')
    if line.startswith('# ') and known['date'] is None:
      known['date'] = line[2:].strip()
    elif colon and key in FACTS and known[key] is None:
      known[key] = fact.strip()
    name, equals, version = line.partition('==')
    if equals and name in VERSIONS:
      versions.setdefault(name, version.strip())
  if known['command']:
    known['command'] = _command(known['command'])
  return {**known, 'versions': versions}


def _command(text):
  """A command without the paths of its machine: `python -m experiments.catch --seed=1`."""
  try:
    words = shlex.split(text)
  except ValueError:
    words = text.split()
  kept, skip = ['python'], False
  for word in words[1:]:
    if not skip and word.split('=')[0].lstrip('-') != 'logdir':
      flag, equals, given = word.partition('=')
      kept.append(f'{flag}={without_paths(given)}' if equals else without_paths(word))
    skip = not skip and word.lstrip('-') == 'logdir' and word.startswith('-')
  return shlex.join(kept)


def without_paths(entry):
  """A configuration's entry in which of every absolute path the last part is left: '…/photographs'."""
  if isinstance(entry, dict):
    return {key: without_paths(inner) for key, inner in entry.items()}
  if isinstance(entry, list):
    return [without_paths(inner) for inner in entry]
  if isinstance(entry, str) and entry.startswith(('/', '~')):
    return f'…/{entry.rstrip("/").rpartition("/")[2]}'
  return entry
