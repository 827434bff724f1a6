"""What runs take on disk: bytes that are there, that are free, and that a run will need."""

import os
import pathlib
import shutil

from harmony_jax import replay_files
from harmony_jax.config import RunSettings
from harmony_jax.replay import MARGIN


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


def replay(run: RunSettings, step: int) -> int:
  """Return the most bytes that a run's replay has on disk, by those of one step.

  Beside what it keeps there are steps that a checkpoint before the newest needs, and the rest of
  their file.
  """
  older = (replay_files.SAVES - 1) * run.checkpoint_every + replay_files.MOST_STEPS
  return step * min(run.steps, run.replay_capacity + MARGIN * run.num_envs + older)


def text(count: float) -> str:
  """Return '1.2 GB' (of 10⁹ bytes), '34 MB' or '5 kB'."""
  for unit, name in ((1e9, 'GB'), (1e6, 'MB')):
    if count >= unit:
      return f'{count / unit:,.1f} {name}'
  return f'{count / 1e3:,.0f} kB'


def room(needed: float, path: str | os.PathLike) -> str:
  """Return ', 34 GB are free', with a warning where more than that is needed."""
  there = free(path)
  told = f', {text(there)} are free'
  return told if needed <= there else f'{told}: WARNING, {text(needed)} are needed'
