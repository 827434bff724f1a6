"""Videos and pictures that runs have left, as far as a page shows them: the newest of each kind."""

import os
import pathlib
import re
from collections.abc import Iterable
from typing import NamedTuple

from harmony_jax.reporting.schema import Record

FOLDERS = ('videos', 'evaluation')  # of a run
MOST, LARGEST = 24, 8e6  # of a suite; bytes of one
VIDEOS, PICTURES = ('.mp4', '.webm'), ('.gif', '.png', '.webp')


class Media(NamedTuple):
  """A file of a run, and what a page calls it.

  Attributes:
    path: where it is. name: the file beside the page. label: what it shows. changed: its time.
  """

  path: pathlib.Path
  name: str
  label: str
  changed: float

  @property
  def is_video(self) -> bool:
    """Whether it moves by itself only where a reader starts it."""
    return self.path.suffix in VIDEOS


def newest(records: Iterable[Record]) -> list[Media]:
  """Return what runs have to show, of each task and method the newest file of each kind.

  At most `MOST` files, the newest, none larger than `LARGEST` bytes; a record that was read from a
  results file has none.
  """
  found = {}
  for record in records:
    for path, kind, step, changed in _files(pathlib.Path(record.source)):
      key = record.task, record.method, kind, path.suffix
      label = f'{record.task}, {record.method}, seed {record.seed}: {kind.replace("_", " ")}'
      label += f', step {int(step):,}' if step else ''
      words = (record.suite, record.task, record.method, f'seed{record.seed}', path.stem)
      name = re.sub(r'[^\w.+-]+', '-', '-'.join(words).lower()) + path.suffix
      each = Media(path, f'media/{name}', label, changed)
      found[key] = max(found.get(key, each), each, key=lambda one: one.changed)
  kept = sorted(found.values(), key=lambda one: -one.changed)[:MOST]
  return sorted(kept, key=lambda one: one.label)


def _files(run):
  """(path, kind, step, time) of the files of a run folder, without those that vanish meanwhile."""
  found = []
  for folder in FOLDERS:
    try:
      for entry in os.scandir(run / folder):
        path, status = pathlib.Path(entry.path), entry.stat()
        if path.suffix in VIDEOS + PICTURES and 0 < status.st_size <= LARGEST:
          step = re.search(r'\d{4,}', path.stem)
          kind = re.sub(r'_?\d{4,}(-\d+)?', '', path.stem) if folder == 'videos' else 'evaluation'
          found.append((path, kind, step and step[0], status.st_mtime))
    except OSError:
      continue
  return found
