"""Results as files: for each method one JSON of all its runs, and one CSV of all scores beside
them.

    write(records, 'results/atari100k')   # dreamerv3-harmony-cpu.json, …, scores.csv
    read('results/atari100k/dreamerv3-harmony-cpu.json')    # the records again

A file holds everything that reports are made from: the protocol and what the runs' configurations
have in common once, and for each run what is its own. Runs are added to what a file holds already,
so that 26 games can come one by one.
"""

import contextlib
import json
import os
import pathlib
from collections.abc import Iterable, Sequence

import pandas

from harmony_jax.errors import UserError, one_line
from harmony_jax.reporting import protocol
from harmony_jax.reporting.schema import FACTS, Record
from harmony_jax.training.run_folder import atomic_write

FORMAT = 'harmony-jax results, version 1'
HEADER = ['method', 'task', 'seed', 'step', 'return']
_FIELDS = 'complete hours steps_per_second frames_per_step evaluations final_scores metrics'.split()
# What wrong contents raise while they are read.
DAMAGES = (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError)


class NoResults(UserError):
  """A JSON file that is none of ours."""


def told(error: Exception) -> str:
  """Return what one of `DAMAGES` says, for the line that names the file."""
  return f'it has no {error}' if isinstance(error, KeyError) else str(error)


def refuse(name: str) -> None:
  """Raise ValueError: JSON has neither NaN nor infinities, though Python reads them."""
  raise ValueError(f'{name} is no number')


def read(path: str | os.PathLike) -> list[Record]:
  """Return the records of one results file.

  Raises:
    NoResults: the file is something else.
    UserError: it cannot be read, is damaged, or of another version; names the file.
  """
  path = pathlib.Path(path)
  try:
    content = json.loads(path.read_text(encoding='utf-8'), parse_constant=refuse)
  except (OSError, ValueError, RecursionError) as error:
    why = getattr(error, 'strerror', None) or f'as JSON: {error}'
    raise UserError(f'{path} cannot be read: {why}') from None
  if isinstance(content, dict) and content.keys() == {'config', 'runs'}:
    again = 'write it anew from its runs, by python -m experiments.results'
    raise UserError(f'{path} is of an older format: {again}')
  version = content.get('format') if isinstance(content, dict) else None
  if not isinstance(version, str) or not version.startswith('harmony-jax results'):
    raise NoResults(f'{path} is no results file')
  if version != FORMAT:
    raise UserError(f'{path} is of another format: {version}, not {FORMAT}')
  try:
    found = [_record(content, run, f'{path}') for run in content['runs']]
    if len({record.place for record in found}) < len(found):
      raise ValueError('a run is in it twice')
  except DAMAGES as error:
    raise UserError(f'{path} is damaged: {told(error)}') from None
  return found


def write(
  records: Iterable[Record], folder: str | os.PathLike, replace: bool = False
) -> tuple[list[pathlib.Path], list[str]]:
  """Write records to `<method>.json` and scores.csv in a folder; to a folder per suite in it, if
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
  records, folder = list(records), pathlib.Path(os.path.expanduser(folder))
  several = len({record.suite for record in records}) > 1
  groups = {}
  for record in records:
    parent = folder / record.suite if several else folder
    groups.setdefault(parent / f'{record.method}.json', []).append(record)
  texts, problems = {}, []
  for path, group in sorted(groups.items()):
    groups[path], kept = _merged(path, group, replace)
    problems += kept
    texts[path] = to_text(groups[path])
  for parent in sorted({path.parent for path in groups}):
    own = {path: group for path, group in groups.items() if path.parent == parent}
    texts[parent / 'scores.csv'] = _table(parent, own)
  try:
    for path, text in texts.items():
      path.parent.mkdir(parents=True, exist_ok=True)
      with atomic_write(path) as file:
        file.write(text)
  except OSError as error:
    raise UserError(f'cannot write to {folder}: {error.strerror}') from None
  return list(texts), problems


def to_text(records: Sequence[Record]) -> str:
  """Return the JSON text of the records of one suite and method."""
  first, configs = records[0], [_flat(record.config) for record in records]
  # 1, 1.0 and true are different
  pairs = [{(key, json.dumps(entry)) for key, entry in config.items()} for config in configs]
  shared = {key for key, _ in set.intersection(*pairs)} - {('task',), ('seed',)}
  text, runs = protocol.describe(first.config), []
  for record, config in zip(records, configs):
    own = {key: entry for key, entry in config.items() if key not in shared}
    own_config = _nested({key: own[key] for key in own.keys() - {('task',), ('seed',)}})
    told = protocol.describe(record.config)
    run = {'task': record.task, 'seed': record.seed, 'complete': record.complete}
    run |= record.environment
    run |= {field: getattr(record, field) for field in _FIELDS}
    run |= {'config': own_config} if own_config else {}
    runs.append(run | ({'protocol': told} if told != text else {}))
  content = {
    'format': FORMAT,
    'suite': first.suite,
    'method': first.method,
    'score': first.judged_by,
    'protocol': {'text': text, 'facts': protocol.facts(first.config)},
    'config': _nested({key: configs[0][key] for key in shared}),
    'runs': runs,
  }
  return _dumps(content) + '\n'


# --------------------------------------------------------------------------------------------------


def _record(content, run, source):
  """The record of a run's part of a file."""
  config = _nested(_flat(content['config']) | _flat(run.get('config', {})))
  record = Record(
    config=config | {'task': run['task'], 'seed': run['seed']},
    source=source,
    environment={fact: run[fact] for fact in FACTS},
    **{field: run[field] for field in _FIELDS},
  )
  if (record.suite, record.method) != (content['suite'], content['method']):
    raise ValueError(f'its configuration is that of {record.suite} {record.method}')
  return record


def _merged(path, given, replace):
  """(the records for a file, lines of what was left out): those given, and those there already."""
  there = {}
  if path.exists() or path.is_symlink():
    try:
      there = {record.place: record for record in read(path)}
    except UserError as error:
      raise UserError(f'{path} is in the way, nothing was written: {error}') from None
  if other := next((each.suite for each in there.values() if each.suite != given[0].suite), None):
    raise UserError(
      f'{path} holds runs on suite {other}, not on {given[0].suite}: choose another --output'
    )
  problems = []
  for record in given:
    present = there.get(record.place)
    if present and present.is_same_run(record):
      there[record.place] = max(record, present, key=lambda each: each.rank)
    elif present and not replace:
      problems.append(
        f'{record.source} is left out: {path} holds another run of {record.task}, seed '
        f'{record.seed} (--replace puts this one in its place)'
      )
    else:
      there[record.place] = record
  return sorted(there.values(), key=lambda each: each.place), [one_line(line) for line in problems]


def _table(folder, groups):
  """scores.csv: all runs of all results files in a folder, and rows of runs that no file has."""
  records = [record for group in groups.values() for record in group]
  for path in sorted(folder.glob('*.json')):
    with contextlib.suppress(UserError):  # whatever it is
      records += read(path) if path not in groups else []
  rows = [
    [record.method, record.task, str(record.seed), str(step), '' if score is None else str(score)]
    for record in records
    for step, score in zip(record.evaluations['step'], record.scores)
  ]
  path, there = folder / 'scores.csv', pandas.DataFrame(columns=HEADER, dtype=str)
  try:
    if path.exists():
      there = pandas.read_csv(path, dtype=str, keep_default_na=False)
    if list(there) != HEADER or not there[['seed', 'step']].stack().str.isdecimal().all():
      raise ValueError('it has other columns')
  except (OSError, ValueError) as error:
    why = f'it is no table of scores ({error})'
    raise UserError(f'{path} is in the way, nothing was written: {why}') from None
  known = {(record.method, record.task, str(record.seed)) for record in records}
  others = [row for row in there.values.tolist() if tuple(row[:3]) not in known]
  rows = sorted(others + rows, key=lambda row: (row[0], row[1], int(row[2]), int(row[3])))
  return pandas.DataFrame(rows, columns=HEADER).to_csv(index=False, lineterminator='\n')


def _flat(config, at=()):
  """{('env', 'sticky'): 0.0} of nested dicts; an empty one is a leaf."""
  flat = {}
  for key, entry in config.items():
    nested = isinstance(entry, dict) and entry
    flat |= _flat(entry, (*at, key)) if nested else {(*at, key): entry}
  return flat


def _nested(flat):
  """The way back, keys by name, so that the same records give the same text."""
  nested = {}
  for (*sections, last), entry in sorted(flat.items(), key=lambda pair: pair[0]):
    inner = nested
    for section in sections:
      inner = inner.setdefault(section, {})
    inner[last] = dict(entry) if isinstance(entry, dict) else entry
  return nested


def _dumps(entry, indent='\n'):
  """JSON with a line for each entry of a dict and each dict of a list, but lists of numbers on one
  line."""
  deeper = indent + '  '
  if isinstance(entry, dict) and entry:
    pairs = (f'{_dumps(str(key))}: {_dumps(inner, deeper)}' for key, inner in entry.items())
    return '{' + deeper + f',{deeper}'.join(pairs) + indent + '}'
  if isinstance(entry, list) and any(isinstance(each, dict) for each in entry):
    return '[' + deeper + f',{deeper}'.join(_dumps(each, deeper) for each in entry) + indent + ']'
  text = json.dumps(entry, allow_nan=False, ensure_ascii=False)
  return text if text.isprintable() else json.dumps(entry, allow_nan=False)
