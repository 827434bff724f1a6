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
from typing import Any

import pandas
from flax import traverse_util

from harmony_jax.errors import UserError, one_line
from harmony_jax.paths import local_path
from harmony_jax.reporting import protocol
from harmony_jax.reporting.schema import DAMAGES, FACTS, Record
from harmony_jax.training.run_folder import alone_in, atomic_write

FORMAT = 'harmony-jax results, version 1'
HEADER = ['method', 'task', 'seed', 'step']  # and the score: return, success, …
_FIELDS = 'complete hours steps_per_second frames_per_step evaluations final_scores metrics'.split()
_OWN = {('task',), ('seed',)}  # keys of a configuration that no two runs share
_GUARDED = tuple("=+-@\t\r'")


class NoResults(UserError):
  """A JSON file that is none of ours."""


def read(path: str | os.PathLike) -> list[Record]:
  """Return the records of one results file.

  Raises:
    NoResults: the file is something else.
    UserError: it cannot be read, is damaged, or of another version; names the file.
  """
  path = pathlib.Path(path)
  content = read_json(path, f'{path}')
  if content.keys() == {'config', 'runs'}:
    again = 'write it anew from its runs, by python -m experiments.results'
    raise UserError(f'{path} is of an older format: {again}')
  version = str(content.get('format'))
  if not version.startswith('harmony-jax results'):
    raise NoResults(f'{path} is no results file')
  if version != FORMAT:
    raise UserError(f'{path} is of another format: {version}, not {FORMAT}')
  try:
    found = [_record(content, run, f'{path}') for run in content['runs']]
    if len({record.place for record in found}) < len(found):
      raise ValueError('a run is in it twice')
  except DAMAGES as error:
    raise damaged(path, error) from None
  return found


def read_json(path: pathlib.Path, name: str) -> dict:
  """Return the table that a JSON file holds, {} where it holds something else.

  Raises:
    UserError: it cannot be read; begins with `name`.
  """
  try:
    content = json.loads(path.read_text(encoding='utf-8'), parse_constant=refuse)
  except (OSError, ValueError, RecursionError) as error:
    told = getattr(error, 'strerror', None) or f'as JSON: {error}'
    raise UserError(f'{name} cannot be read ({told})') from None
  return content if isinstance(content, dict) else {}


def refuse(name: str) -> None:
  """Raise ValueError: JSON has neither NaN nor infinities, though Python reads them."""
  raise ValueError(f'{name} is no number')


def damaged(path: pathlib.Path, error: Exception) -> UserError:
  """Return the line for what a record could not be made of."""
  told = f'it has no {error}' if isinstance(error, LookupError) else error
  return UserError(f'{path} is damaged: {told}')


def write(
  records: Iterable[Record], folder: str | os.PathLike, replace: bool = False
) -> tuple[list[pathlib.Path], list[str]]:
  """Write records to `<method>.json` and scores.csv in a folder; of several suites, in one each.

  What the files hold already stays: runs that are not among the records, of one run the longer
  record, and a different run in the place of one given, unless `replace` is true.

  Returns:
    ([paths written], [a line for each run that was left out, for the file has a different one, and
    for each file beside them that cannot be read, whose runs scores.csv goes without]).

  Raises:
    UserError: the folder cannot be written, or a file in the way is not one of these files. Nothing
      is written then.
  """
  folder, groups = local_path(folder), {}
  for record in records:
    groups.setdefault(record.suite, []).append(record)
  places = {suite: folder / suite if len(groups) > 1 else folder for suite in sorted(groups)}
  try:
    with contextlib.ExitStack() as stack:
      for parent in places.values():
        parent.mkdir(parents=True, exist_ok=True)
        stack.enter_context(alone_in(parent))
      texts, problems = _merged(groups, places, replace)
      for path, text in texts.items():
        with atomic_write(path) as file:
          file.write(text)
  except OSError as error:
    raise UserError(f'cannot write to {folder}: {error.strerror}') from None
  return list(texts), problems


def _merged(groups, places, replace):
  """({path: text}, lines) of `write`: by suite the records, and the folder that they go to."""
  texts, problems = {}, []
  for suite, parent in places.items():
    group = groups[suite]
    paths = {parent / f'{record.method}.json' for record in group}
    there, unread = _there(parent, suite, paths)
    problems += unread
    for record in group:
      present = there.get(record.place, record)
      if present.is_same_run(record):
        there[record.place] = max(record, present, key=lambda each: each.rank)
      elif replace:
        there[record.place] = record
      else:
        other = f'{parent} holds another run of {record.task}, seed {record.seed}'
        told = f'{record.source} is left out: {other} (--replace puts this one in its place)'
        problems.append(one_line(told))
    everything = [there[place] for place in sorted(there)]
    for path in sorted(paths):
      texts[path] = to_text([record for record in everything if record.method == path.stem])
    rows = [
      [record.method, record.task, record.seed, step, score]
      for record in everything
      for step, score in zip(record.evaluations['step'], record.scores)
    ]
    kinds = {record.judged_by for record in everything}
    texts[parent / 'scores.csv'] = to_csv(rows, kinds.pop() if len(kinds) == 1 else 'score')
  return texts, problems


def to_csv(rows: Iterable[Sequence], score: str = 'return') -> str:
  """Return the table of scores, rows as `HEADER` says and then the score, which is called `score`.

  A name that a spreadsheet would compute gets a ' in front, by which it is a text there.
  """
  guard = lambda cell: f"'{cell}" if isinstance(cell, str) and cell[:1] in _GUARDED else cell
  columns = [*HEADER, guard(score)]
  table = pandas.DataFrame([[*map(guard, row)] for row in rows], columns=columns, dtype=object)
  return table.to_csv(index=False, lineterminator='\n')


def to_text(records: Sequence[Record]) -> str:
  """Return the JSON text of the records of one suite and method."""
  first, configs = records[0], [_flat(record.config) for record in records]
  # 1, 1.0 and true are different
  pairs = [
    {(key, json.dumps(entry, default=str)) for key, entry in config.items()} for config in configs
  ]
  shared = {key for key, _ in set.intersection(*pairs)} - _OWN
  text, runs = protocol.describe(first.config), []
  for record, config in zip(records, configs):
    own = _nested({key: config[key] for key in config.keys() - shared - _OWN})
    told = protocol.describe(record.config)
    run = {'task': record.task, 'seed': record.seed, 'complete': record.complete}
    run |= record.environment | {field: getattr(record, field) for field in _FIELDS}
    run |= {'config': own} if own else {}
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
  return dumps(content) + '\n'


def _flat(config):
  """{('env', 'sticky'): 0.0} of nested dicts: by paths, as a name may hold a dot."""
  return traverse_util.flatten_dict(dict(config), keep_empty_nodes=True)


def _nested(flat):
  """The way back, keys by name, so that the same records give the same text."""
  return traverse_util.unflatten_dict(dict(sorted(flat.items())))


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


def _there(folder, suite, paths):
  """({place: record} of all results files in a folder, a line for each unreadable one); `paths`
  and scores.csv must be ours."""
  found, unread, table = {}, [], folder / 'scores.csv'
  for path in sorted({*folder.glob('*.json'), *(path for path in paths if path.exists())}):
    try:
      found |= {record.place: record for record in read(path)}
    except UserError as error:
      if path in paths:
        raise UserError(f'{path} is in the way, nothing was written: {error}') from None
      if not isinstance(error, NoResults):
        unread.append(one_line(f'{table} is without the runs of {path.name}: {error}'))
  if other := {record.suite for record in found.values()} - {suite}:
    told = f'{folder} holds runs on suite {other.pop()}, not on {suite}'
    raise UserError(f'{told}: choose another --output')
  if table.exists() and not table.read_bytes().startswith(f'{",".join(HEADER)},'.encode()):
    raise UserError(f'{table} is in the way, nothing was written: it is no table of scores')
  return found, unread


def dumps(entry: Any, indent: str = '\n') -> str:
  """Return JSON with a line for each entry of a dict and each dict of a list, but lists of numbers
  on one line; `indent` is what a line begins with."""
  deeper = indent + '  '
  if isinstance(entry, dict) and entry:
    pairs = (f'{dumps(str(key))}: {dumps(inner, deeper)}' for key, inner in entry.items())
    return '{' + deeper + f',{deeper}'.join(pairs) + indent + '}'
  if isinstance(entry, list) and any(isinstance(each, dict) for each in entry):
    return '[' + deeper + f',{deeper}'.join(dumps(each, deeper) for each in entry) + indent + ']'
  text = json.dumps(entry, allow_nan=False, ensure_ascii=False)
  return text if text.isprintable() else json.dumps(entry, allow_nan=False)
