"""A recorded buffer of episodes: one .npz file, its windows and its held-out episodes.

Shapes: E episodes, R rows (steps) of all of them, S numbers of the simulator's state. Row t holds
the observation, the reward of the step that led there, and the action taken after it, as replay.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from harmony_jax.envs.base import Spec
from harmony_jax.errors import UserError
from harmony_jax.paths import local_path
from harmony_jax.training.run_folder import atomic_write

FORMAT = 1
HELD_OUT = 5  # every fifth episode is held out
FLAGS = ('is_first', 'is_last', 'is_terminal')
ROWS = ('action', 'reward', *FLAGS)
_OBSERVATION = 'observation/'


@dataclasses.dataclass(frozen=True)
class Buffer:
  """Episodes, one after the other.

  Attributes:
    header: how they were recorded: 'suite', 'task', 'env', 'policy', 'seed', 'spec', …
    observation: {name: [R, ...]}. rows: {name: [R, ...]} of `ROWS`.
    starts: [E + 1], the first row of each episode, and R.
    state: [R, S], what the simulator knows, named by header['state_names']; S may be 0.
  """

  header: Mapping[str, Any]
  observation: Mapping[str, np.ndarray]
  rows: Mapping[str, np.ndarray]
  starts: np.ndarray
  state: np.ndarray

  @property
  def spec(self) -> Spec:
    """Return the spec of the environment that it was recorded in."""
    return Spec.from_json(self.header['spec'])

  def episodes(self, held_out: bool) -> np.ndarray:
    """Return the numbers of the episodes that are held out, or of the others."""
    numbers = np.arange(len(self.starts) - 1)
    return numbers[(numbers % HELD_OUT == HELD_OUT - 1) == held_out]

  def windows(self, length: int, held_out: bool) -> np.ndarray:
    """Return the first row of every window of so many steps that lies in one episode.

    Raises:
      UserError: there is none.
    """
    episodes = self.episodes(held_out)
    starts = self.starts.tolist()
    found = [np.arange(starts[e], starts[e + 1] - length + 1) for e in episodes]
    windows = np.concatenate([np.zeros(0, int), *found])
    if not len(windows):
      kind = 'held-out' if held_out else 'training'
      longest = max(np.diff(self.starts)[episodes], default=0)
      raise UserError(
        f'the buffer has no {kind} episode of {length} steps: it has {len(episodes)} of that kind '
        f'(every {HELD_OUT}th is held out), the longest of {longest} steps'
      )
    return windows

  def gather(self, first: np.ndarray, length: int, reward_scale: float = 1.0) -> dict[str, Any]:
    """Return a batch [B, T, ...] of the windows that begin in these rows, as replay gives it."""
    rows = np.asarray(first)[:, None] + np.arange(length)
    batch = {name: array[rows] for name, array in {**self.observation, **self.rows}.items()}
    batch['reward'] = batch['reward'] * np.float32(reward_scale)
    batch['is_first'][:, 0] = True  # a window begins without a memory
    return batch

  def describe(self) -> str:
    """Return what it is, in a line."""
    h, lengths, reward = self.header, np.diff(self.starts), self.rows['reward']
    return (
      f'{h["suite"]} {h["task"]}, policy {h["policy"]}, seed {h["seed"]}: {len(lengths)} episodes, '
      f'{len(reward):,} steps; reward {reward.mean():.3g} ± {reward.std():.3g} a step, from '
      f'{reward.min():.3g} to {reward.max():.3g}; {self.state.shape[1]} numbers of state'
    )

  def save(self, path: str | os.PathLike) -> None:
    """Write the file; it appears under its name whole, or not at all."""
    arrays: dict[str, Any] = {f'{_OBSERVATION}{k}': v for k, v in self.observation.items()}
    arrays |= {**self.rows, 'starts': self.starts, 'state': self.state}
    arrays['header'] = np.array(json.dumps(self.header))
    with atomic_write(local_path(path), binary=True) as file:
      np.savez_compressed(file, **arrays)


def evenly(windows: np.ndarray, count: int) -> np.ndarray:
  """Return `count` of the windows, evenly spread over them; all where there are not so many."""
  count = min(count, len(windows))
  return windows[np.linspace(0, len(windows) - 1, count).round().astype(int)]


def batch_windows(windows: np.ndarray, count: int, seed: int, update: int) -> np.ndarray:
  """Return the windows [B] of an update: uniform, and a function of (seed, update) alone."""
  return windows[np.random.default_rng((seed, update)).integers(len(windows), size=count)]


def load(path: str | os.PathLike) -> Buffer:
  """Return the buffer in a file.

  Raises:
    UserError: no such file, or one that is no buffer: says what is missing.
  """
  path = local_path(path)
  try:
    with np.load(path, allow_pickle=False) as file:
      arrays = {name: file[name] for name in file.files}
  except OSError as error:
    raise UserError(f'{path} cannot be read ({error.strerror or error})') from None
  except Exception as error:  # zipfile, zlib and NumPy each have their own
    raise UserError(f'{path} is no buffer: {error}') from None
  return _checked(path, arrays)


def same_recording(a: Buffer, b: Buffer) -> bool:
  """Return whether most episodes of one of two buffers of one task begin as some of the other: of
  the same seed, say, or of one run's replay at two times.

  The other may have more episodes, or longer ones.
  """
  there: dict[tuple, list] = {}
  for first, actions in _episodes(b):
    there.setdefault(first, []).append(actions)
  alike = lambda x, y: np.array_equal(x[: len(y)], y[: len(x)])
  same = sum(
    any(alike(actions, other) for other in there.get(first, [])) for first, actions in _episodes(a)
  )
  return 2 * same > min(len(each.starts) - 1 for each in (a, b))


def _episodes(buffer: Buffer) -> Iterator[tuple[tuple, np.ndarray]]:
  """Yield (the first observation, the actions [T - 1, A]: the last one may be none)."""
  for i, j in zip(buffer.starts[:-1], buffer.starts[1:]):
    first = tuple(buffer.observation[name][i].tobytes() for name in sorted(buffer.observation))
    yield first, buffer.rows['action'][i : j - 1]


def checksum(path: str | os.PathLike) -> str:
  """Return the SHA-256 of a file."""
  with open(local_path(path), 'rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def _checked(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> Buffer:
  """Return the buffer of these arrays, or UserError."""
  told = f'{path} is no buffer of `experiments.offline record`'
  if missing := [name for name in ('header', 'starts', 'state', *ROWS) if name not in arrays]:
    raise UserError(f'{told}: it has no {", ".join(missing)}')
  try:
    header = json.loads(str(arrays['header']))
    if header['format'] != FORMAT:
      raise UserError(f'{path} has format {header["format"]}: this version reads {FORMAT}')
    buffer = Buffer(
      header,
      {k.removeprefix(_OBSERVATION): v for k, v in arrays.items() if k.startswith(_OBSERVATION)},
      {name: arrays[name] for name in ROWS},
      arrays['starts'],
      arrays['state'],
    )
    specs = {name: each.shape for name, each in buffer.spec.observation.items()}
    names = list(header['state_names'])
  except (ValueError, KeyError, TypeError) as error:
    raise UserError(f'{told}: {type(error).__name__} in its header ({error})') from None
  shapes = {name: array.shape[1:] for name, array in buffer.observation.items()}
  if shapes != specs:
    raise UserError(f'{told}: its observations are {shapes}, its spec has {specs}')
  if buffer.state.ndim != 2 or buffer.state.shape[1] != len(names):
    raise UserError(f'{told}: its state is {[*buffer.state.shape]}, of which it names {len(names)}')
  counts = {len(array) for array in (*buffer.observation.values(), *buffer.rows.values())}
  starts = buffer.starts
  if (
    counts != {len(buffer.state)}
    or starts[0]
    or starts[-1] not in counts
    or (np.diff(starts) < 1).any()
  ):
    raise UserError(f'{told}: its arrays have {sorted(counts)} rows, its starts do not fit')
  return buffer
