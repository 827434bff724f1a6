"""A run's own experience as a buffer: the episodes in its replay folder.

It is there while a run goes on, and after its end with `keep_replay`. `Buffer.observation` and
`rows` are plain arrays; `minari_data.save` makes a dataset of Minari of them.
"""

import os
import pathlib

import numpy as np

from harmony_jax import config as config_
from harmony_jax import replay_files
from harmony_jax.errors import UserError
from harmony_jax.offline.buffer import FORMAT, ROWS, Buffer
from harmony_jax.paths import local_path
from harmony_jax.training.checkpoint import Checkpoints


def load(folder: str | os.PathLike) -> Buffer:
  """Return the complete episodes that a run has stored at its last save, by environment and time.

  Rewards are as the environment gave them; actions are as methods have them, and zero after an
  episode's last step. The true state is not stored: `state` has no numbers.

  Raises:
    UserError: no run, no replay (any more), a damaged one, or no complete episode in it.
  """
  path = local_path(folder)
  saved = config_.saved(path)['config']
  spec, step, processes = _saved(path)
  parts = [_stored(place) for place in _places(path, processes)]
  rows: dict[str, list] = {name: [] for name in parts[0]}
  starts = [0]
  for part in parts:
    for env in range(len(part['is_first'])):
      for first, end in _episodes(part['is_first'][env], part['is_last'][env]):
        starts.append(starts[-1] + end - first)
        for name, array in part.items():
          rows[name].append(array[env, first:end])
  if len(starts) < 2:
    raise UserError(f'{path} has stored no complete episode yet')
  whole = {name: np.concatenate(each) for name, each in rows.items()}
  header = {
    **{name: saved[name] for name in ('suite', 'task', 'seed', 'env')},
    'policy': f'replay of {saved["method"]} up to step {step}',
    'format': FORMAT,
    'episodes': len(starts) - 1,
    'length': int(np.diff(starts).max()),
    'spec': spec,
    'state_names': [],
  }
  observation = {name: whole[name] for name in spec['observation']}
  state = np.zeros((starts[-1], 0), np.float32)
  return Buffer(header, observation, {k: whole[k] for k in ROWS}, np.array(starts), state)


def _saved(path: pathlib.Path):
  """(the spec of the run's environment as JSON, the step of its last save, whose processes)."""
  with Checkpoints(path / 'checkpoints', read_only=True) as checkpoints:
    step = checkpoints.latest()
    if step is None:
      raise UserError(f'{path} holds no checkpoint yet: the run has not come that far')
    meta = checkpoints.meta(step)
    return meta['spec'], step, meta.get('processes', 1)


def _places(path, processes):
  """The folders of the replay, one for each process; others are of an earlier number of them."""
  replay = path / 'replay'
  if not replay.is_dir():
    raise UserError(
      f'{path} has no replay: it is dropped at the end of a run without --config.keep_replay=True'
    )
  return [replay_files.part(replay, index, processes) for index in range(processes)]


def _stored(place):
  try:
    return replay_files.stored(place)
  except ValueError as error:
    raise UserError(str(error)) from None


def _episodes(is_first, is_last):
  """Yield (first row, row after the last) of each episode that is whole in a stream."""
  starts = np.flatnonzero(is_first).tolist()
  for first, after in zip(starts, [*starts[1:], len(is_first)]):
    ends = np.flatnonzero(is_last[first:after])
    if len(ends):
      yield first, first + int(ends[0]) + 1
