"""Results as files: for each method one JSON of all its runs, and one CSV of all scores beside
them.

    write(records, 'results/atari100k')     # dreamerv3-harmony-cpu.json, dreamerv3-none-cpu.json,
    scores.csv read('results/atari100k/dreamerv3-harmony-cpu.json')    # the records again

A file holds everything that reports are made from, the protocol and what the runs' configurations
have in common once, and for each run what is its own: {'format', 'suite', 'method', 'score',
'protocol', 'config', 'runs': [{'task', 'seed', 'complete', 'commit', …, 'evaluations': {'step':
[…], …}, 'final_scores': […], 'metrics': {'step': […], …}}]}. Runs are added to what a file holds
already, so that 26 games can come one by one.
"""

import csv
import functools
import io
import json
import os
import pathlib

from harmony_jax.errors import UserError, one_line
from harmony_jax.reporting import form, protocol
from harmony_jax.training.run_folder import atomic_write

FORMAT = 'harmony-jax results, version 1'
HEADER = ['method', 'task', 'seed', 'step', 'return']
_COLUMNS = {
  'step': 'step',
  'frame': 'frame',
  'update': 'update',
  'hours': 'hours',
  'eval_mean': 'mean',
  'eval_std': 'std',
  'eval_episodes': 'episodes',
  'train_mean': 'train_mean',
  'train_episodes': 'train_episodes',
}


class NoResults(UserError):
  """A JSON file that is none of ours."""


def read(path) -> list:
  """The records of one results file.

  Raises:
    NoResults: the file is something else.
    UserError: it cannot be read, is damaged, or of another version; names the file.
  """
  path = pathlib.Path(path)
  content = _content(path)
  try:
    found = [_record(content, run, f'{path}') for run in content['runs']]
    if len({form.place(record) for record in found}) < len(found):
      raise ValueError('a run is in it twice')
    return found
  except (KeyError, TypeError, AttributeError, ValueError, OverflowError, RecursionError) as error:
    told = f'it has no {error}' if isinstance(error, KeyError) else error
    raise UserError(f'{path} is damaged: {told}') from None


def write(records, folder, replace=False) -> tuple:
  """Writes records to `<method>.json` and scores.csv in a folder; to folders by suite in it, if
  there are several.

  What the files hold already stays: runs that are not among the records, and of one run the longer
  record.

  Args:
    records: of `records.collect`, one per suite, method, task and seed.
    folder: made with its parents where it does not exist.
    replace: take the record given where the file has a different run in its place.

  Returns:
    ([paths written], [a line for each run that was left out, for the file has a different one]).

  Raises:
    UserError: the folder cannot be written, or a file in the way is not one of these files. Nothing
    is written then.
  """
  folder, suites = pathlib.Path(os.path.expanduser(folder)), {record['suite'] for record in records}
  groups = {}
  for record in records:
    place = folder / record['suite'] if len(suites) > 1 else folder
    groups.setdefault(place / f'{record["method"]}.json', []).append(record)
  texts, problems = {}, []
  for path, group in sorted(groups.items()):
    group, kept = _merged(path, group, replace)
    problems += kept
    texts[path] = to_text(group)
    groups[path] = group
  for parent in sorted({path.parent for path in groups}):
    texts[parent / 'scores.csv'] = _table(
      parent, {path: group for path, group in groups.items() if path.parent == parent}
    )
  try:
    for path, text in texts.items():
      path.parent.mkdir(parents=True, exist_ok=True)
      with atomic_write(path) as file:
        file.write(text)
  except OSError as error:
    raise UserError(f'cannot write to {folder}: {error.strerror}') from None
  return list(texts), problems


# --------------------------------------------------------------------------------------------------


def _content(path):
  """The JSON of a results file."""
  try:
    text = path.read_text(encoding='utf-8')
  except OSError as error:
    raise UserError(f'{path} cannot be read: {error.strerror}') from None
  except ValueError as error:
    raise UserError(f'{path} cannot be read: {error}') from None
  try:
    content = json.loads(text, parse_constant=_refuse)
  except (ValueError, RecursionError) as error:
    raise UserError(f'{path} cannot be read as JSON: {error}') from None
  if isinstance(content, dict) and content.keys() == {'config', 'runs'}:
    raise UserError(
      f'{path} is of an older format: write it anew from its runs, by python -m experiments.results'
    )
  if not isinstance(content, dict) or not str(content.get('format')).startswith(
    'harmony-jax results'
  ):
    raise NoResults(f'{path} is no results file')
  if content['format'] != FORMAT:
    raise UserError(f'{path} is of another format: {content["format"]}, not {FORMAT}')
  return content


def _refuse(name):
  raise ValueError(f'{name} is no number')


def _merged(path, given, replace):
  """(the records for a file, lines of what was left out): those given, and those that are there
  already.
  """
  there = {}
  if path.exists() or path.is_symlink():
    try:
      there = {form.place(record): record for record in read(path)}
    except UserError as error:
      raise UserError(f'{path} is in the way, nothing was written: {error}') from None
  other = next(
    (record for record in there.values() if form.place(record)[:2] != form.place(given[0])[:2]),
    None,
  )
  if other:
    raise UserError(
      f'{path} holds {other["method"]} on suite {other["suite"]}, not on {given[0]["suite"]}: choose '
      'another --output'
    )
  problems = []
  for record in given:
    present = there.get(form.place(record))
    if present and form.same_run(present, record):
      record = max(record, present, key=form.rank)
    elif present and not replace:
      problems.append(
        one_line(
          f'{record["source"]} is left out: {path} holds another run of {record["task"]}, seed '
          f'{record["seed"]} (--replace puts this one in its place)'
        )
      )
      continue
    there[form.place(record)] = record
  return sorted(there.values(), key=form.place), problems


def _table(folder, groups):
  """scores.csv: all runs of all results files in a folder, and rows of runs that no file has."""
  records = {}
  for path in sorted(folder.glob('*.json')):
    try:
      records |= {
        form.place(record): record for record in (read(path) if path not in groups else [])
      }
    except UserError:  # whatever it is
      pass
  records = {
    **records,
    **{form.place(record): record for group in groups.values() for record in group},
  }.values()
  rows = _rows(folder / 'scores.csv')
  known = {(record['method'], record['task'], str(record['seed'])) for record in records}
  rows = [row for row in rows if tuple(row[:3]) not in known]
  for record in records:
    rows += [
      [
        record['method'],
        record['task'],
        record['seed'],
        evaluation['step'],
        form.value(evaluation, record),
      ]
      for evaluation in record['evaluations']
    ]
  text = io.StringIO(newline='')
  csv.writer(text, lineterminator='\n').writerows(
    [HEADER, *sorted(rows, key=lambda row: (row[0], row[1], int(row[2]), int(row[3])))]
  )
  return text.getvalue()


def _rows(path):
  """The rows of a scores.csv that is there."""
  if not path.exists():
    return []
  try:
    with open(path, newline='', encoding='utf-8') as file:
      header, *rows = csv.reader(file)
    if header != HEADER or not all(
      len(row) == 5 and row[2].isdecimal() and row[3].isdecimal() for row in rows
    ):
      raise ValueError('it has other columns')
    return rows
  except (OSError, ValueError, csv.Error) as error:
    raise UserError(
      f'{path} is in the way, nothing was written: it is no table of scores ({error})'
    ) from None


# --------------------------------------------------------------------------------------------------


def to_text(records) -> str:
  """The JSON text of the records of one suite and method."""
  first = records[0]
  common = functools.reduce(_common, (record['config'] for record in records), first['config'])
  common = {key: entry for key, entry in common.items() if key not in ('task', 'seed')}
  text = protocol.describe(first['config'])
  return (
    _dumps(
      {
        'format': FORMAT,
        'suite': first['suite'],
        'method': first['method'],
        'score': first['score'],
        'protocol': {'text': text, 'facts': protocol.facts(first['config'])},
        'config': _in_order(common),
        'runs': [_entry(record, common, text) for record in records],
      }
    )
    + '\n'
  )


def _entry(record, common, text):
  """A run's own part of the file."""
  told = protocol.describe(record['config'])
  rest = _rest(record['config'], common)
  evaluations = record['evaluations']
  measures = sorted({name for evaluation in evaluations for name in evaluation['measures']})
  return {
    'task': rest.pop('task'),
    'seed': rest.pop('seed'),
    'complete': record['complete'],
    **{fact: record['environment'][fact] for fact in form.NO_ENVIRONMENT},
    'hours': record['hours'],
    'steps_per_second': record['steps_per_second'],
    'frames_per_step': record['action_repeat'],
    **({'config': _in_order(rest)} if rest else {}),
    **({'protocol': told} if told != text else {}),
    'evaluations': {
      **{
        column: [evaluation[field] for evaluation in evaluations]
        for column, field in _COLUMNS.items()
      },
      'measures': {
        name: [evaluation['measures'].get(name) for evaluation in evaluations] for name in measures
      },
    },
    'final_scores': evaluations[-1]['scores'] if evaluations else None,
    'metrics': _joined(record['metrics']),
  }


def _record(content, run, source):
  """The record of a run's part of a file."""
  config = _merge(content['config'], run.get('config', {})) | {
    'task': run['task'],
    'seed': run['seed'],
  }
  columns = run['evaluations']
  steps, measures = columns['step'], columns['measures']
  if any(
    len(column) != len(steps)
    for column in [*(columns[name] for name in _COLUMNS), *measures.values()]
  ):
    raise ValueError('the evaluations have columns of different lengths')
  evaluations = [
    {
      **{field: columns[column][index] for column, field in _COLUMNS.items()},
      'scores': None,
      'measures': {
        name: column[index] for name, column in measures.items() if column[index] is not None
      },
    }
    for index in range(len(steps))
  ]
  if evaluations:
    evaluations[-1]['scores'] = run['final_scores']
  record = form.make(
    config,
    run['complete'],
    source,
    {fact: run[fact] for fact in form.NO_ENVIRONMENT},
    evaluations,
    _parted(run['metrics']),
    run['hours'],
    run['steps_per_second'],
    run['frames_per_step'],
  )
  if (record['suite'], record['method']) != (content['suite'], content['method']):
    raise ValueError(f'its configuration is that of {record["suite"]} {record["method"]}')
  return record


def _joined(metrics):
  """{name: [steps, values]} with the steps once: {'step': […], name: [value or None, …]}."""
  steps = sorted({step for points, _ in metrics.values() for step in points})
  known = {name: dict(zip(*points)) for name, points in sorted(metrics.items())}
  return {
    'step': steps,
    **{name: [points.get(step) for step in steps] for name, points in known.items()},
  }


def _parted(joined):
  steps, metrics = joined['step'], {}
  for name, values in joined.items():
    if len(values) != len(steps):
      raise ValueError(f'{name} has {len(values)} values for {len(steps)} steps')
    pairs = [(step, number) for step, number in zip(steps, values) if number is not None]
    metrics[name] = [[step for step, _ in pairs], [number for _, number in pairs]]
  del metrics['step']
  return metrics


def _common(a, b):
  """What two nested dicts have in common."""
  both = {}
  for key in a.keys() & b.keys():
    if isinstance(a[key], dict) and isinstance(b[key], dict):
      both[key] = _common(a[key], b[key])
    elif json.dumps(a[key]) == json.dumps(b[key]):  # 1, 1.0 and true are different
      both[key] = a[key]
  return both


def _in_order(entry):
  """Nested dicts with their keys by name, so that the same records give the same text."""
  return {key: _in_order(entry[key]) for key in sorted(entry)} if isinstance(entry, dict) else entry


def _rest(config, common):
  """What of a nested dict is not in `common`, which holds nothing else."""
  rest = {}
  for key, entry in config.items():
    if key not in common:
      rest[key] = entry
    elif isinstance(entry, dict):
      inner = _rest(entry, common[key])
      rest |= {key: inner} if inner else {}
  return rest


def _merge(common, rest):
  merged = dict(common)
  for key, entry in rest.items():
    nested = isinstance(entry, dict) and isinstance(merged.get(key), dict)
    merged[key] = _merge(merged[key], entry) if nested else entry
  return merged


def _dumps(entry, indent=''):
  """JSON with a line for each entry of a dict and each dict of a list, but lists of numbers on one
  line.
  """
  if isinstance(entry, dict) and entry:
    inner = (
      f'{indent}  {_dumps(str(key))}: {_dumps(inner, indent + "  ")}'
      for key, inner in entry.items()
    )
    return '{\n' + ',\n'.join(inner) + f'\n{indent}}}'
  if isinstance(entry, list) and any(isinstance(each, dict) for each in entry):
    return (
      '[\n'
      + ',\n'.join(f'{indent}  {_dumps(each, indent + "  ")}' for each in entry)
      + f'\n{indent}]'
    )
  text = json.dumps(entry, allow_nan=False, ensure_ascii=False)
  return text if text.isprintable() else json.dumps(entry, allow_nan=False)
