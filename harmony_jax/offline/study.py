"""A study's folder: its plan, and a file of measurements per run; a killed study goes on with them.

plan.json              everything that its runs are a function of
<label>-s<seed>.jsonl  one line per measurement; of a second buffer <label>-b1-s<seed>.jsonl
<label>-s<seed>.npz    what the model predicts of some held-out windows, if that is asked for
"""

import fcntl
import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any, NamedTuple

import numpy as np

from harmony_jax.errors import UserError
from harmony_jax.paths import local_path
from harmony_jax.training import plans
from harmony_jax.training.run_folder import alone_in, atomic_write

FORMAT = 1
FREE = ('mlp', 'show')  # what a run is does not depend on these


class Run(NamedTuple):
  """One run of a study: which variant of the settings, buffer and seed."""

  label: str
  buffer: int
  seed: int

  @property
  def name(self) -> str:
    """Return the name of its file, without the ending."""
    return f'{self.label}{f"-b{self.buffer}" if self.buffer else ""}-s{self.seed}'


class Study:
  """A folder with a plan.

  Attributes:
    path: of the folder. plan: the tree in plan.json.
  """

  def __init__(self, path: str | pathlib.Path):
    self.path = local_path(path)
    try:
      self.plan = json.loads((self.path / 'plan.json').read_text(encoding='utf-8'))
      self.labels, self.seeds = list(self.plan['variants']), list(self.plan['seeds'])
      self.buffers, self.updates = len(self.plan['buffers']), int(self.plan['updates'])
    except OSError as error:
      raise UserError(
        f'{self.path} holds no study: its plan.json cannot be read ({error.strerror})'
      ) from None
    except (ValueError, KeyError, TypeError) as error:
      raise UserError(f'{self.path}/plan.json is damaged: {type(error).__name__} {error}') from None

  def runs(self) -> list[Run]:
    """Return all runs; those that are compared, of one buffer and seed, stand side by side."""
    return [
      Run(label, buffer, seed)
      for buffer in range(self.buffers)
      for seed in self.seeds
      for label in self.labels
    ]

  def lines(self, run: Run) -> list[dict[str, Any]]:
    """Return the measurements of a run, perhaps none."""
    try:
      text = (self.path / f'{run.name}.jsonl').read_text(encoding='utf-8')
    except FileNotFoundError:
      return []
    return _parsed(text)

  def finished(self, run: Run) -> bool:
    """Return whether a run has come to its end."""
    return _complete(self.lines(run), self.updates)


def open_study(path: str | pathlib.Path, plan: Mapping[str, Any]) -> Study:
  """Return the study in a folder, which is made, or has runs of the same plan.

  Variants, seeds and buffers that are not in its plan are added to it.

  Raises:
    UserError: it has another plan: names what differs first; two of its runs would have one file;
      or it cannot be written.
  """
  path = local_path(path)
  plan = {'format': FORMAT, **plan}
  _check_names(plan)
  try:
    path.mkdir(parents=True, exist_ok=True)
    with alone_in(path):
      plan = _grown(path, plan)
      with atomic_write(path / 'plan.json') as file:
        json.dump(plan, file, indent=1)
  except OSError as error:
    raise UserError(f'--output: cannot write to {path} ({error.strerror})') from None
  return Study(path)


def _grown(path, plan):
  """A plan with what the folder's has, where it has one; UserError as of `open_study`."""
  if (path / 'plan.json').exists():
    old = Study(path).plan
    apart = {
      f'buffer {at}': tuple(each['path'] for each in pair)
      for at, pair in enumerate(zip(old['buffers'], plan['buffers']))
      if pair[0]['sha256'] != pair[1]['sha256']
    }
    plan = plans.grown(path, old, plan, ('buffers', *FREE), apart)
    plan['buffers'] = max(old['buffers'], plan['buffers'], key=len)
  elif any(path.glob('*-s*.jsonl')):
    raise UserError(
      f'{path} holds runs, but no plan.json that says of what: choose another --output'
    )
  _check_names(plan)
  return plan


def _check_names(plan):
  """Refuse labels that say which buffer they are of: one run would count as another one, too."""
  found: dict[str, str] = {}
  for label in plan['variants']:
    for at in range(len(plan['buffers'])):
      name = Run(label, at, 0).name
      if name in found:
        raise UserError(
          f'the variants {found[name]!r} and {label!r} would share the file {name}.jsonl: give one '
          'another label'
        )
      found[name] = label


def write(file: IO[str], lines: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
  """Write a run's measurements as they come, from the beginning of its file; yield them.

  Predictions go into <run>.npz, before the line that says that the run is finished.
  """
  file.seek(0)
  file.truncate()
  for line in lines:
    if 'predictions' in line:
      with atomic_write(pathlib.Path(file.name).with_suffix('.npz'), binary=True) as kept:
        np.savez_compressed(kept, **line.pop('predictions'))
    file.write(json.dumps(_finite(line)) + '\n')
    file.flush()
    yield line


def claim(study: Study, run: Run) -> IO[str] | None:
  """Return the locked file of a run that is not finished; None where it is, or is being written.

  So several processes share the runs of a study. Closing the file frees it.
  """
  file = open(study.path / f'{run.name}.jsonl', 'a+', encoding='utf-8')
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    file.seek(0)
    if not _complete(_parsed(file.read()), study.updates):
      return file
  except BlockingIOError:
    pass
  file.close()
  return None


def _parsed(text):
  """The lines of a file; of a killed process the last one may be half a line."""
  found = []
  for line in text.splitlines():
    try:
      found.append(json.loads(line))
    except ValueError:
      break
  return found


def _complete(lines, updates):
  return bool(lines) and 'measures' in lines[-1] and lines[-1]['update'] == updates


def _finite(line):
  """A line as JSON can have it: None for what is no number."""
  if 'measures' not in line:
    return line
  number = lambda x: x if abs(x) < float('inf') else None  # nor NaN
  return {**line, 'measures': {name: number(x) for name, x in line['measures'].items()}}
