"""What runs take on disk: bytes that are there, that are free, and that a run will need."""

import os
import pathlib
import shutil

from harmony_jax import replay_files

PICTURE = 64 * 64 * 3  # bytes of an observation, where a suite shows pictures


def size(path: str | os.PathLike) -> int:
  """Return the bytes of all files below a folder; 0 where it is not there."""
  total = 0
  for folder, _, files in os.walk(path):
    for name in files:
      try:
        total += os.lstat(os.path.join(folder, name)).st_size
      except OSError:  # gone since
        continue
  return total


def free(path: str | os.PathLike) -> int:
  """Return the free bytes of the disk that a path is on, or will be."""
  path = pathlib.Path(path).absolute()
  return shutil.disk_usage(next(each for each in (path, *path.parents) if each.exists())).free


def replay_steps(steps: int, capacity: int, checkpoint_every: int, margin: int = 0) -> int:
  """Return the largest number of steps that a run's replay has on disk.

  Beside what it keeps there are those that a checkpoint before the newest needs, and the rest of
  their file.
  """
  older = (replay_files.SAVES - 1) * checkpoint_every + replay_files.MOST_STEPS
  return min(steps, capacity + margin + older)


def text(count: float) -> str:
  """Return '1.2 GB' (of 10⁹ bytes), '34 MB' or '5 kB'."""
  for unit, name in ((1e9, 'GB'), (1e6, 'MB')):
    if count >= unit:
      return f'{count / unit:,.1f} {name}'
  return f'{count / 1e3:,.0f} kB'


def warning(needed: float, path: str | os.PathLike) -> str:
  """Return the line that says that a disk has too little room; '' where it has enough."""
  there = free(path)
  lacks = (
    f'warning: {text(needed)} more are needed on the disk of {path}, and {text(there)} are free'
  )
  return lacks if needed > there else ''
