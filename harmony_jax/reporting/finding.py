"""Where runs and results are below the paths that a user names."""

import difflib
import os
import pathlib

from harmony_jax.reporting import runs


def find(paths):
  """Yields (kind, path or text) in order of the paths, and by name inside of folders.

  Args:
    paths: run folders, folders with run folders at any depth, JSON files, folders with such; or one
      of them alone.

  Yields:
    ('run', folder), ('file', a JSON that was named), ('json', one that lies in a folder), or
    ('problem', one line). Nothing inside of a run folder is looked at, nor hidden folders. A folder
    that links lead to twice is given once.
  """
  seen = set()
  for path in [paths] if isinstance(paths, (str, os.PathLike)) else paths:
    path = pathlib.Path(os.path.expanduser(path))
    try:
      if path.is_dir():
        found = list(_below(path, seen))
        yield from found or [('problem', f'{path} holds no run folder and no results file')]
      elif path.exists() and _of_run(path.parent):
        yield 'problem', f'{path} is a file of a run: name its folder {path.parent}'
      elif path.exists():
        yield 'file', path
      else:
        yield 'problem', _missing(path)
    except (OSError, ValueError) as error:  # a null byte, a name that is too long
      yield 'problem', f'{path} cannot be read: {getattr(error, "strerror", None) or error}'


def _below(top, seen):
  waiting = [top]
  while waiting:
    folder = waiting.pop()
    try:
      real = os.path.realpath(folder)
      known, names = real in seen, sorted(os.listdir(folder))
    except OSError as error:
      yield 'problem', f'{folder} cannot be read: {error.strerror}'
      continue
    if known:
      yield 'again', folder
      continue
    seen.add(real)
    if _of_run(folder):
      yield 'run', folder
      continue
    paths = [folder / name for name in names if not name.startswith('.')]
    yield from (('json', path) for path in paths if path.suffix == '.json' and path.is_file())
    waiting += [path for path in reversed(paths) if path.is_dir()]


def _of_run(folder):
  return any((folder / name).exists() for name in runs.FILES)


def _missing(path):
  """'runs/atary does not exist; the nearest there is: runs/atari'."""
  parts = [path, *path.parents]
  at = next((index for index, part in enumerate(parts) if part.is_dir()), len(parts) - 1)
  try:
    names = sorted(os.listdir(parts[at]))
  except OSError:
    names = []
  near = difflib.get_close_matches(parts[at - 1].name, names, n=1, cutoff=0.5)
  return f'{path} does not exist' + (
    f'; the nearest there is: {parts[at] / near[0]}' if near else ''
  )
