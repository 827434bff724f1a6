"""A replay on disk: files of steps that are written once, and a manifest that says which of them
count.

    manifest.json                               layout, the names of the files in order, the counts
    of the last saves steps-000000000000-000000004096-1a2b3c4d.npz    {name: [N, C, ...]} of steps 0
    … 4095; the last word is its CRC-32

What a file holds never changes, so that a crash at any moment leaves what was saved before. The
manifest is replaced whole after the new files are there; files that it does not name are garbage
and go with the next save.
"""

import io
import json
import os
import pathlib
import re
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

# in a file, over all environments: a save needs no more memory than this beside the ring
MOST_STEPS = 4096
# of how many last saves the steps are kept: a run goes back to one of its two newest checkpoints
SAVES = 3

Steps = dict[str, np.ndarray]  # leaves [N, C, ...]

_NAME = re.compile(r'steps-(\d{12})-(\d{12})-([0-9a-f]{8})\.npz')


def part(folder: str | pathlib.Path, index: int, count: int) -> pathlib.Path:
  """The folder of one of `count` processes' parts of a replay; the folder itself where there is
  one.
  """
  return pathlib.Path(folder) / f'{index + 1}-of-{count}' if count > 1 else pathlib.Path(folder)


def save(
  folder: str | pathlib.Path,
  layout: Mapping[str, Any],
  read: Callable[[int, int], Steps],
  saved: int,
  steps: int,
  rows: int,
):
  """Adds the steps since the last save, and drops files that no recent save needs.

  Args:
    folder: made where it does not exist.
    layout: dict that JSON can hold, with `num_envs`; `load` compares it.
    read: function (first, end) -> {name: [N, end - first, ...]}.
    saved: steps at the save that the present steps follow; later files are of a future that a run
      went back from.
    steps: steps now. rows: of these, how many are still stored; a sample may need all of them.
  """
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  present = {'files': [], 'saves': []}
  if saved:
    try:
      present = _manifest(folder)
    except ValueError:  # somebody harmed it since: all that is still stored is written again
      saved = 0
  files = [name for name in present['files'] if _span(name)[1] <= saved]
  size = max(1, MOST_STEPS // layout['num_envs'])
  for first in range(max(saved, steps - rows), steps, size):
    end = min(first + size, steps)
    buffer = io.BytesIO()
    np.savez(buffer, **read(first, end))  # pyright: ignore[reportArgumentType]
    data = buffer.getbuffer()
    files.append(f'steps-{first:012d}-{end:012d}-{zlib.crc32(data):08x}.npz')
    replace(folder / files[-1], data)
  saves = [count for count in present['saves'] if count <= saved and count < steps][1 - SAVES :] + [
    steps
  ]
  files = [name for name in files if _span(name)[1] > saves[0] - rows]
  replace(
    folder / 'manifest.json',
    json.dumps({**layout, 'saves': saves, 'files': files}, indent=1).encode(),
  )
  for path in folder.iterdir():
    if path.name not in files and (_NAME.fullmatch(path.name) or path.suffix == '.tmp'):
      path.unlink()


def load(
  folder: str | pathlib.Path,
  layout: Mapping[str, Any],
  write: Callable[[int, Steps], None],
  steps: int | None,
  kept: int,
  rows: int,
) -> int:
  """Reads the steps that were stored when `steps` were appended.

  Args:
    layout: as of `save`. write: function (first, {name: [N, C, ...]}), called in order.
    steps: a count at which a save was made, or None for the last one.
    kept: steps before it that must be there (all, where there were fewer). rows: how many are
      wanted.

  Returns: the number of steps.

  Raises:
    ValueError: no replay there, another layout, steps that are not in it, or a damaged file. One
    line, with its name.
  """
  folder = pathlib.Path(folder)
  manifest = _manifest(folder)
  for name, ours in layout.items():
    if manifest.get(name) != ours:
      raise ValueError(
        f'the replay in {folder} has {name} {manifest.get(name)}; this run has {ours}'
      )
  steps = int(manifest['saves'][-1]) if steps is None else steps
  files = [name for name in manifest['files'] if steps - rows < _span(name)[1] <= steps]
  arrived = _span(files[0])[0] if files else 0
  if arrived > max(0, steps - kept):
    raise ValueError(
      f'the replay in {folder} has steps from {arrived} on; those from {max(0, steps - kept)} were '
      'asked for'
    )
  for name in files:
    first, end, _ = _span(name)
    if first != arrived:
      raise ValueError(f'steps {arrived}–{first} of the replay in {folder} are missing')
    skipped = max(0, steps - rows - first)
    arrays = _read(folder / name, layout, end - first)
    write(first + skipped, {name: array[:, skipped:] for name, array in arrays.items()})
    arrived = end
  if arrived != steps:
    raise ValueError(
      f'the replay in {folder} has no save at {steps} steps; {arrived} is the last before it'
    )
  return steps


def stored(folder: str | pathlib.Path) -> Steps:
  """Returns what is stored of the last save: {name: [N, T, ...]}, the newest T steps in order.

  Raises:
    ValueError: as of `load`.
  """
  manifest, parts = _manifest(pathlib.Path(folder)), []
  layout = {name: value for name, value in manifest.items() if name not in ('saves', 'files')}
  everything = int(manifest['saves'][-1])
  load(folder, layout, lambda first, arrays: parts.append(arrays), None, 0, everything)
  if not parts:
    raise ValueError(f'the replay in {folder} holds no steps')
  return {name: np.concatenate([part[name] for part in parts], 1) for name in parts[0]}


def _manifest(folder):
  """The manifest, with what `load` and `save` read of it in the form that they expect."""
  path = folder / 'manifest.json'
  try:
    manifest = json.loads(path.read_text(encoding='utf-8'))
    counts = manifest['saves']
    if (
      not counts
      or counts != sorted(counts)
      or not all(type(count) is int and count >= 0 for count in counts)
    ):
      raise ValueError
    if [_span(name)[:2] for name in manifest['files']] != sorted(
      _span(name)[:2] for name in manifest['files']
    ):
      raise ValueError
  except (OSError, ValueError, TypeError, KeyError, AttributeError):
    raise ValueError(
      f'no replay can be read in {folder}: {path.name} is missing or damaged'
    ) from None
  return manifest


def _span(name):
  """(first step, end, CRC-32) of a file's name."""
  match = _NAME.fullmatch(name)
  if not match or int(match[1]) >= int(match[2]):
    raise ValueError(f'{name} is not the name of a file of steps')
  return int(match[1]), int(match[2]), int(match[3], 16)


def _read(path, layout, count):
  """{name: [N, count, ...]} of a file; all that its checksum does not vouch for is checked here."""
  try:
    data = path.read_bytes()
  except OSError as error:
    raise ValueError(f'{path} cannot be read: {error.strerror}') from None
  if zlib.crc32(data) != _span(path.name)[2]:
    raise ValueError(f'{path} is damaged: its checksum differs')
  try:
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
      arrays = dict(file)
    found = {name: [list(array.shape), array.dtype.str] for name, array in arrays.items()}
  except Exception as error:  # zipfile and NumPy each have their own
    raise ValueError(f'{path} cannot be read: {str(error).splitlines()[0]}') from None
  wanted = {
    name: [[layout['num_envs'], count, *shape], dtype]
    for name, (shape, dtype) in layout['specs'].items()
  }
  if found != wanted:
    raise ValueError(f'{path} does not hold {wanted}')
  return arrays


def replace(path: pathlib.Path, data: Any) -> None:
  """Puts a file in place whole."""
  temporary = path.with_name(path.name + '.tmp')
  with open(temporary, 'wb') as file:
    file.write(data)
    file.flush()
    os.fsync(file.fileno())
  os.replace(temporary, path)
