"""Runs as reports take them, read from wherever they lie: folders of runs that are done or going
on, results files.

    found, problems = collect(['runs', 'results/atari100k'])
    for record in found:
      print(record.task, record.seed, record.final)
"""

import contextlib
import dataclasses
import difflib
import json
import os
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from harmony_jax import weighting
from harmony_jax.config import LATER, RunSettings, as_before, difference
from harmony_jax.errors import UserError, one_line
from harmony_jax.paths import local_path
from harmony_jax.reporting import protocol, results_files
from harmony_jax.reporting.schema import COUNTS, DAMAGES, FACTS, NUMBERS, Record
from harmony_jax.training.run_folder import FREE

MOST = 200  # points of a metric, beside those of metrics that are written at other steps
METRICS = re.compile(r'loss/.+|harmony/.+/(sigma|weight)')  # those that every record has
_FILES = ('config.json', 'metrics.jsonl', 'scores.jsonl', '.complete')  # any of them makes a run
_VERSIONS = 'jax jaxlib flax optax numpy ale-py gymnasium dm_control mujoco metaworld'.split()
_FREE = {'seed', 'label', *FREE}  # settings that change nothing
_OF_A_RUN = {*(field.name for field in dataclasses.fields(RunSettings)), 'env', 'eval_env'}
_OF_A_RUN |= {'from', 'from_step'}


def read(folder: str | os.PathLike, metrics: Sequence[str] = ()) -> Record:
  """Return the record of one run folder; an unfinished last line of its files is dropped.

  Args:
    metrics: names or prefixes of metrics to keep beside `METRICS`.

  Raises:
    UserError: the folder holds no run, or one that is damaged; names it.
  """
  folder = local_path(folder)
  name = f'{folder} holds no run: its config.json'
  config = results_files.read_json(folder / 'config.json', name)
  try:
    identity = config.get('identity', {})
    source = identity.get('from')
    # parts of its method's name: no run from scratch, a variant of a study
    start = {'from': source['task'], 'from_step': source.get('step')} if source else {}
    made = config['config'] | start
    made |= {'variant': identity['variant']} if 'variant' in identity else {}
    return _record(folder, without_paths(made), tuple(metrics))
  except (OSError, *DAMAGES) as error:
    raise results_files.damaged(folder, error) from None


def collect(
  paths: str | os.PathLike | Iterable[str | os.PathLike],
  metrics: Sequence[str] = (),
  skip: Sequence[str | os.PathLike] = (),
) -> tuple[list[Record], list[str]]:
  """Return the records of all runs below some paths, each run once, and lines of what is wrong.

  Args:
    paths: run folders, results files, folders that hold such at any depth; or one of them.
    metrics: as for `read`. skip: folders that are not looked into.

  Returns:
    ([record], [problem]): what was left out and why (no such path, a run that is damaged, a second,
    different run in the place of another), seeds and tasks of a method whose settings differ, and
    scores of episodes that did not end.
  """
  found, unread = every(paths, metrics, skip)
  found, problems = settled(found)
  return found, unread + problems


def every(
  paths: str | os.PathLike | Iterable[str | os.PathLike],
  metrics: Sequence[str] = (),
  skip: Sequence[str | os.PathLike] = (),
) -> tuple[list[Record], list[str]]:
  """As `collect`, but for runs that have one place: all of them, and no word about that."""
  found, problems, seen = [], [], set(map(os.path.realpath, skip))
  for given in [paths] if isinstance(paths, (str, os.PathLike)) else paths:
    given = local_path(given)
    for path in _find(given, seen, problems):
      try:
        found += [read(path, metrics)] if path.is_dir() else results_files.read(path)
      except results_files.NoResults as error:
        problems += [str(error)] if path == given else []  # other JSON files may lie in folders
      except UserError as error:
        problems.append(str(error))
  return found, [one_line(text) for text in problems]


def settled(found: Sequence[Record]) -> tuple[list[Record], list[str]]:
  """Return the records that a place keeps, and what `collect` tells of them."""
  kept, doubled = _one_per_place(found)
  return kept, [one_line(text) for text in doubled + _unlike(kept) + _cut(kept)]


def stamps(
  paths: Iterable[str | os.PathLike], more: Sequence[str] = ()
) -> dict[pathlib.Path, tuple]:
  """Return {file: (size, time)} of all that is read below some paths; a change in any of them is a
  change in here.

  Args:
    more: folders of a run whose files count, too.
  """
  found, seen = {}, set()
  for given in map(local_path, paths):
    for path in _find(given, seen, []):
      for place in (path, *(path / name for name in (*_FILES, 'environment.txt', *more))):
        with contextlib.suppress(OSError):
          status = place.stat()
          found[place] = status.st_size, status.st_mtime_ns
  return found


def without_paths(entry: object) -> object:
  """Return a configuration's entry with but the last part of every absolute path: '…/pictures'."""
  if isinstance(entry, dict):
    return {key: without_paths(inner) for key, inner in entry.items()}
  if isinstance(entry, list):
    return [without_paths(inner) for inner in entry]
  if isinstance(entry, str) and entry.startswith(('/', '~')):
    return f'…/{entry.rstrip("/").rpartition("/")[2]}'
  return entry


def _record(folder, config, asked):
  lines = {line['step']: line for line in _lines(folder / 'scores.jsonl')}
  lines = [lines[step] for step in sorted(lines)]
  logged = _lines(folder / 'metrics.jsonl')
  timed = {line['step']: line['time/hours'] for line in logged + lines if 'time/hours' in line}
  last = max(timed, default=None)
  frames = [
    line['frame'] // line['step'] for line in logged + lines if line['step'] and 'frame' in line
  ]
  return Record(
    config=config,
    complete=(folder / '.complete').exists(),
    source=str(folder),
    environment=_environment(_bytes(folder / 'environment.txt').decode(errors='replace')),
    evaluations=_evaluations(lines),
    final_scores=lines[-1]['eval_scores'] if lines else None,
    metrics=_metrics(logged, asked),
    hours=timed.get(last),
    steps_per_second=last / timed[last] / 3600 if timed.get(last) else None,
    frames_per_step=max(1, frames[-1]) if frames else protocol.facts(config)['frames_per_step'],
  )


def _bytes(path):
  return path.read_bytes() if path.exists() else b''


def _lines(path):
  """The lines of JSON of a file; the last one may be unfinished."""
  *whole, unfinished = _bytes(path).split(b'\n')
  found = []
  for number, text in enumerate([*whole, unfinished], 1):
    try:
      line = json.loads(text.decode(), parse_constant=results_files.refuse)
      if type(line['step']) is not int:
        raise ValueError('no step')
      found.append(line)
    except DAMAGES:
      if number <= len(whole):
        raise ValueError(f'line {number} of {path.name} cannot be read') from None
  return found


def _evaluations(lines):
  """The lines of scores.jsonl as columns."""
  column = lambda name: [line.get(name) for line in lines]
  scores, stds, training = map(column, ('eval_scores', 'eval_std', 'train_scores'))
  names = {name for line in lines for name in line if name.startswith('eval_')}
  names -= {'eval_mean', 'eval_std', 'eval_scores', 'eval_lengths'}
  return {
    **{name: column(name) for name in COUNTS + NUMBERS},
    'hours': column('time/hours'),
    'eval_std': [
      std if std is not None or not each else float(np.std(each)) for each, std in zip(scores, stds)
    ],
    'eval_episodes': [len(each) or 'none' for each in scores],
    'train_episodes': [None if each is None else len(each) for each in training],
    'measures': {name.removeprefix('eval_'): column(name) for name in sorted(names)},
  }


def _metrics(lines, asked):
  """The metrics, 6 digits each, at the steps of `_spread` of each of them; None where a value was
  not finite, or not written."""
  written = {}
  for line in lines:
    for name in line:
      if name != 'step' and (METRICS.fullmatch(name) or name.startswith(asked)):
        written.setdefault(name, {})[line['step']] = line[name]
  steps = sorted({step for each in written.values() for step in _spread(each)})
  short = lambda value: float(f'{value:.6g}') if isinstance(value, float) else value
  metrics = {name: [short(written[name].get(step)) for step in steps] for name in sorted(written)}
  return {'step': steps} | {name: each for name, each in metrics.items() if set(each) != {None}}


def _spread(steps):
  """At most `MOST` of some steps, evenly spaced, the first and last among them."""
  steps = sorted(steps)
  indices = np.linspace(0, len(steps) - 1, min(MOST, len(steps))).round().astype(int)
  return [steps[index] for index in indices]


def _environment(text):
  """What a run's environment.txt says of its first start, as far as it belongs beside a score; of
  commits those of all starts."""
  first, versions, commits = {}, {}, []
  for line in text.splitlines():
    key, colon, fact = line.partition(':')
    name, equals, version = line.partition('==')
    if line.startswith('# '):
      first.setdefault('date', line[2:].strip())
    elif equals and name in _VERSIONS:
      versions.setdefault(name, version.strip())
    elif colon and key == 'commit':
      commits.append(fact.strip())
    elif colon and key in FACTS:
      first.setdefault(key, fact.strip())
  if commits:
    first['commit'] = '; '.join(dict.fromkeys(commits))
  if 'command' in first:  # without the paths of its machine
    pairs = [word.split('=', 1) for word in first['command'].split()]
    words = ['='.join(map(without_paths, pair)) for pair in pairs]
    first['command'] = ' '.join(['python', *words[1:]])
  return {**dict.fromkeys(FACTS), **first, 'versions': versions}


def _find(given, seen, problems):
  """Run folders and JSON files below a path, by name.

  Nothing inside of a run folder is looked at but seed0, …, which --num_seeds makes below the
  --logdir of one run, nor hidden folders; a folder that links lead to twice is given once.
  """
  fail = lambda error: problems.append(f'{error.filename} cannot be read: {error.strerror}')
  if not os.path.isdir(given):
    is_file = os.path.isfile(given)
    if is_file and not _is_run(given.parent):
      return [given]
    of_run = f'{given} is a file of a run: name its folder {given.parent}'
    problems.append(of_run if is_file else _missing(given))
    return []
  found, again = [], False
  for name, folders, files in os.walk(given, followlinks=True, onerror=fail):
    folder, real = pathlib.Path(name), os.path.realpath(name)
    if real in seen:
      again = True
      folders.clear()
      continue
    seen.add(real)
    if _is_run(folder):
      found.append(folder)
      folders[:] = sorted(each for each in folders if re.fullmatch(r'seed\d+', each))
    else:
      found += [folder / each for each in sorted(files) if each.endswith('.json')]
      folders[:] = sorted(each for each in folders if not each.startswith('.'))
  if not found and not again:
    problems.append(f'{given} holds no run folder and no results file')
  return found


def _is_run(folder):
  return any((folder / name).exists() for name in _FILES)


def _missing(path):
  """'runs/atary does not exist; the nearest there is: runs/atari'."""
  parent = next(each for each in path.parents if os.path.isdir(each))
  name, there = path.parts[len(parent.parts)], sorted(os.listdir(parent))
  near = difflib.get_close_matches(name, there, n=1, cutoff=0.5)
  nearest = f'; the nearest there is: {parent / near[0]}' if near else ''
  return f'{path} does not exist{nearest}'


def _one_per_place(found):
  """([record], [a line for each place that different runs claim]); of one run that was found twice,
  the longer record."""
  kept, problems = {}, []
  for record in found:
    other = kept.setdefault(record.place, record)
    same = record.is_same_run(other)
    best = max(other, record, key=lambda each: each.rank if same else each.complete)
    kept[record.place] = best
    if not same:
      left, (_, method, task, seed) = other if best is record else record, record.place
      another = f'{best.source} is another run of {task}, {method}, seed {seed}'
      problems.append(f'{left.source} is left out: {another}')
  return list(kept.values()), problems


def _unlike(found):
  """A line for each record whose settings are not those of the first one of its place but for the
  seed, or, the first of a task, not the method's of the first one of another task."""
  first, problems = {}, []
  for record in found:
    of_method = first.setdefault(record.place[:2], record)
    other, kind = first.setdefault(record.place[:3], record), 'a seed of the same method'
    elsewhere = other is record  # where tasks have other steps, evaluations and environments
    if elsewhere:
      other, kind = of_method, 'the same method on another task'
    differing = apart(other.config, record.config)
    if elsewhere:
      differing = {k: v for k, v in differing.items() if k.partition('.')[0] not in _OF_A_RUN}
    if differing:
      of_file = record.source == other.source  # which has many runs
      first_name, name = (
        each.source + (f', {each.task}, seed {each.seed}' if of_file else '')
        for each in (other, record)
      )
      unlike = f'its settings are not those of {first_name}, {kind}'
      problems.append(f'{name}: {unlike}: {protocol.some([*differing.values()], 3)}')
  return problems


def apart(a: Mapping, b: Mapping) -> dict[str, str]:
  """Return {setting: 'setting (its value in b for that in a)'} of what makes two configurations of
  runs others, whatever their seeds. What one of them lacks does only where it is known what was
  done before, or is an option of the simulator."""
  rule = (b.get('weighting') or {}).get('rule', '–')
  idle = _FREE | {f'weighting.{name}' for name in weighting.idle(rule)}
  found = {}
  for key, (old, new) in difference(a, b).items():
    alone = old is None or new is None
    known = key in LATER or key.startswith(('env.', 'eval_env.'))
    same = alone and (not known or as_before(key, new if old is None else old))
    if not same and key not in idle:
      told = ['nothing' if each is None else each for each in (new, old)]
      found[key] = '{} ({} for {})'.format(key, *told)
  return found


def _cut(found):
  """A line for each record whose last evaluation has episodes that did not end."""
  problems = []
  for record in found:
    if count := (record.evaluations['measures'].get('cut') or [0])[-1]:
      of = record.evaluations['eval_episodes'][-1]
      told = f'{count} of {of} episodes of its last evaluation did not end and were cut'
      problems.append(f'{record.source}: {told}: its score is of what was played of them')
  return problems
