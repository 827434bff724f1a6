"""Runs as reports take them, read from wherever they lie: folders of runs that are done or going
on, results files.

    found, problems = collect(['runs', 'results/atari100k'])
    for record in found:
      print(record.task, record.seed, record.final)
"""

import difflib
import json
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from harmony_jax.configuration import ABSENT, difference
from harmony_jax.errors import UserError, one_line
from harmony_jax.reporting import protocol, results_files
from harmony_jax.reporting.schema import COUNTS, FACTS, NUMBERS, Record, is_count, is_number
from harmony_jax.training.run_folder import FREE

MOST = 200  # points of each metric
METRICS = re.compile(r'loss/.+|harmony/.+/(sigma|weight)')  # those that every record has
_FILES = ('config.json', 'metrics.jsonl', 'scores.jsonl', '.complete')  # any of them makes a run
_VERSIONS = 'jax jaxlib flax optax numpy ale-py gymnasium dm_control mujoco metaworld'.split()
_NO_MEASURES = ('eval_mean', 'eval_std', 'eval_scores', 'eval_lengths')
# Settings of harmonizers, which other rules have but do not use.
_HARMONIZERS = ('rate', 'beta2', 'calibrate', 'dynamics_regularizer')


def read(folder: str | os.PathLike, metrics: Sequence[str] = ()) -> Record:
  """Return the record of one run folder.

  A last line that a crash or a running process left unfinished is dropped.

  Args:
    metrics: names or prefixes of metrics to keep beside `METRICS`.

  Raises:
    UserError: the folder holds no run, or one that is damaged; names it.
  """
  folder = pathlib.Path(folder)
  try:
    text = (folder / 'config.json').read_text(encoding='utf-8')
    config = json.loads(text, parse_constant=results_files.refuse)['config']
  except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
    told = getattr(error, 'strerror', None) or error
    raise UserError(f'{folder} holds no run: its config.json cannot be read ({told})') from None
  try:
    return _record(folder, without_paths(config), tuple(metrics))
  except results_files.DAMAGES as error:
    raise UserError(f'{folder} is damaged: {results_files.told(error)}') from None


def collect(
  paths: str | os.PathLike | Iterable[str | os.PathLike], metrics: Sequence[str] = ()
) -> tuple[list[Record], list[str]]:
  """Return the records of all runs below some paths, each run once, and what is wrong with them.

  Args:
    paths: run folders, folders with run folders at any depth, results files, folders with such; or
      one of them.
    metrics: as for `read`.

  Returns:
    ([record], [problem]): a problem is one line, of what was left out and why: a path that is not
    there, a run that is damaged or half written, a second, different run in the place of another;
    or of seeds whose settings differ.
  """
  found, problems, seen = [], [], set()
  for path in [paths] if isinstance(paths, (str, os.PathLike)) else paths:
    path = pathlib.Path(os.path.expanduser(path))
    try:
      for kind, each in _find(path, seen):
        try:
          found += [read(each, metrics)] if kind == 'run' else results_files.read(each)
        except results_files.NoResults as error:
          problems += [str(error)] if each == path else []  # other JSON files may lie in folders
        except UserError as error:
          problems.append(str(error))
    except UserError as error:
      problems.append(str(error))
    except (OSError, ValueError) as error:  # a null byte, a name that is too long
      name = getattr(error, 'filename', None) or path
      told = getattr(error, 'strerror', None) or error
      problems.append(one_line(f'{name} cannot be read: {told}'))
  found, doubled = _one_per_place(found)
  return found, problems + doubled + _unlike_seeds(found)


def without_paths(entry: object) -> object:
  """Return a configuration's entry with but the last part of every absolute path: '…/pictures'."""
  if isinstance(entry, dict):
    return {key: without_paths(inner) for key, inner in entry.items()}
  if isinstance(entry, list):
    return [without_paths(inner) for inner in entry]
  if isinstance(entry, str) and entry.startswith(('/', '~')):
    return f'…/{entry.rstrip("/").rpartition("/")[2]}'
  return entry


# --------------------------------------------------------------------------------------------------
# One run folder


def _record(folder, config, asked):
  lines = {line['step']: line for line in _lines(folder / 'scores.jsonl')}
  lines = [lines[step] for step in sorted(lines)]
  logged = _lines(folder / 'metrics.jsonl')
  timed = [line for line in [*logged, *lines] if is_number(line.get('time/hours'))]
  last = max(timed, key=lambda line: line['step'], default={'step': 0, 'time/hours': 0})
  spent = last['time/hours']
  frames = [
    line['frame'] // line['step'] for line in logged + lines if line['step'] and 'frame' in line
  ]
  text = _bytes(folder / 'environment.txt').decode(errors='replace')
  return Record(
    config=config,
    complete=(folder / '.complete').exists(),
    source=str(folder),
    environment=_environment(text),
    evaluations=_evaluations(lines),
    final_scores=lines[-1]['eval_scores'] if lines else None,
    metrics=_metrics(logged, asked),
    hours=_noted_hours(folder / '.complete') or spent or None,
    steps_per_second=last['step'] / spent / 3600 if spent > 0 else None,
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
      if not is_count(line['step']):
        raise ValueError('no step')
      found.append(line)
    except (ValueError, KeyError, TypeError, RecursionError):
      if number <= len(whole):
        raise ValueError(f'line {number} of {path.name} cannot be read') from None
  return found


def _noted_hours(path):
  """The hours that a run's end has noted; None where they cannot be read: no harm to its scores."""
  try:
    hours = json.loads(path.read_bytes())['hours']
    return float(hours) if is_number(hours) and hours >= 0 else None
  except (OSError, ValueError, KeyError, TypeError, RecursionError):
    return None


def _evaluations(lines):
  """The lines of scores.jsonl as columns."""
  scores = [line['eval_scores'] for line in lines]
  if not all(scores):
    raise ValueError('eval_scores must be a list of numbers')
  columns = {name: [line.get(name) for line in lines] for name in COUNTS + NUMBERS}
  training = [line.get('train_scores') for line in lines]
  names = sorted({name for line in lines for name in line if name.startswith('eval_')})
  return {
    **columns,
    'hours': [line.get('time/hours') for line in lines],
    'eval_std': [
      float(np.std(each)) if std is None else std for each, std in zip(scores, columns['eval_std'])
    ],
    'eval_episodes': list(map(len, scores)),
    'train_episodes': [None if each is None else len(each) for each in training],
    'measures': {
      name.removeprefix('eval_'): [line.get(name) for line in lines]
      for name in names
      if name not in _NO_MEASURES
    },
  }


def _metrics(lines, asked):
  """The metrics at `MOST` steps, evenly spaced, the first and last among them; 6 digits each.

  A value that was not finite, written as null, stays None.
  """
  steps = {}
  for line in lines:
    names = [name for name in line if METRICS.fullmatch(name) or name.startswith(asked)]
    if names := [name for name in names if name != 'step']:
      steps.setdefault(line['step'], {}).update({name: line[name] for name in names})
  kept = sorted(steps)
  if len(kept) > MOST:
    kept = [kept[index] for index in np.linspace(0, len(kept) - 1, MOST).round().astype(int)]
  metrics = {'step': kept}
  for name in sorted({name for step in kept for name in steps[step]}):
    values = [steps[step].get(name) for step in kept]
    values = [float(f'{value:.6g}') if is_number(value) else value for value in values]
    if any(value is not None for value in values):
      metrics[name] = values
  return metrics


def _environment(text):
  """What a run's environment.txt says of its first start, as far as it belongs beside a score."""
  first, versions = {}, {}
  for line in text.splitlines():
    key, colon, fact = line.partition(':')
    name, equals, version = line.partition('==')
    if line.startswith('# '):
      first.setdefault('date', line[2:].strip())
    elif equals and name in _VERSIONS:
      versions.setdefault(name, version.strip())
    elif colon and key in FACTS:
      first.setdefault(key, fact.strip())
  if 'command' in first:  # without the paths of its machine
    pairs = [word.split('=', 1) for word in first['command'].split()]
    words = ['='.join(map(without_paths, pair)) for pair in pairs]
    first['command'] = ' '.join(['python', *words[1:]])
  return {**dict.fromkeys(FACTS), **first, 'versions': versions}


# --------------------------------------------------------------------------------------------------
# Many runs


def _find(path, seen) -> Iterator[tuple[str, pathlib.Path]]:
  """Yields ('run', folder) and ('file', JSON) below a path, by name.

  Nothing inside of a run folder is looked at, nor hidden folders; a folder that links lead to twice
  is given once.
  """
  if not path.exists():
    raise UserError(_missing(path))
  if not path.is_dir():
    if _is_run(path.parent):
      raise UserError(f'{path} is a file of a run: name its folder {path.parent}')
    yield 'file', path
    return
  nothing = True
  for folder, folders, files in os.walk(path, followlinks=True, onerror=_fail):
    folder, real = pathlib.Path(folder), os.path.realpath(folder)
    known = real in seen
    seen.add(real)
    run = not known and _is_run(folder)
    own = [] if known or run else sorted(name for name in files if name.endswith('.json'))
    yield from (('file', folder / name) for name in own)
    if run:
      yield 'run', folder
    folders[:] = [] if known or run else sorted(n for n in folders if not n.startswith('.'))
    nothing = nothing and not (known or run or own)
  if nothing:
    raise UserError(f'{path} holds no run folder and no results file')


def _fail(error):
  raise error


def _is_run(folder):
  return any((folder / name).exists() for name in _FILES)


def _missing(path):
  """'runs/atary does not exist; the nearest there is: runs/atari'."""
  parts = [path, *path.parents]
  at = next((index for index, part in enumerate(parts) if part.is_dir()), len(parts) - 1)
  names = sorted(os.listdir(parts[at])) if at else []
  near = difflib.get_close_matches(parts[at - 1].name, names, n=1, cutoff=0.5)
  nearest = f'; the nearest there is: {parts[at] / near[0]}' if near else ''
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
      problems.append(one_line(f'{left.source} is left out: {another}'))
  return list(kept.values()), problems


def _unlike_seeds(found):
  """A line for each record whose settings are not those of the first one of its suite, method and
  task."""
  first, problems = {}, []
  for record in found:
    other = first.setdefault(record.place[:3], record)
    idle = {'seed', *(key.removeprefix('config.') for key in FREE)}
    if not record.weighting.startswith('harmony'):
      idle |= {f'weighting.{name}' for name in _HARMONIZERS}
    differing = [
      f'{key} ({new} for {old})'
      for key, (old, new) in difference(other.config, record.config).items()
      if key not in idle and ABSENT not in (old, new)
    ]
    if differing:
      unlike = f'its settings are not those of {other.source}, a seed of the same method'
      problems.append(one_line(f'{record.source}: {unlike}: {protocol.some(differing, 3)}'))
  return problems
