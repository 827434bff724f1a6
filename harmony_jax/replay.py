"""Sequence replay on the host: the last steps of every environment, in NumPy.

Batches are windows of `length` contiguous steps of one environment, drawn with replacement by one
of the rules in `sampling.py`. What is drawn for an update depends on the seed, the update and the
stored steps alone, so a resumed run draws what the uninterrupted one would have drawn.
"""

import functools
import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from harmony_jax import replay_files
from harmony_jax import sampling as rules
from harmony_jax.envs import base
from harmony_jax.prefetch import Prefetcher  # a part of replay to its users

__all__ = ['Draw', 'Prefetcher', 'Replay']

MARGIN = 256  # steps per environment, see `Replay`


class Draw(NamedTuple):
  """The windows chosen for one update: plain numbers, no data."""

  update: int
  envs: np.ndarray  # [B] environment of each window
  starts: np.ndarray  # [B] its first step, counted since the run began
  steps: int  # steps per environment that were stored when it was drawn
  more: Mapping[str, np.ndarray] = {}  # rows [B, ...] that join the batch, such as weights


class Replay:
  """A ring of steps per environment, first in first out, all preallocated.

  Args:
    specs: `{name: (shape of one step, dtype)}`; `is_first` is among them.
    num_envs: N, environments that step together.
    capacity: steps kept, over all environments.
    batch_size: B, windows in a batch.
    length: T, steps in a window.
    seed: of the sampling.
    margin: steps per environment that may be appended between `draw` and the
      end of its `gather`. They are stored besides the capacity, so that the
      distribution does not depend on it.
    sampling: a name in `sampling.RULES`. prioritize_ends: for episodes.
    first_action: whether a window of episodes that begins inside one knows the action before it.
    part: (index, count) where count processes have as many environments each, and a replay of their
      own.

  Raises:
    ValueError: no `is_first`, a capacity that holds no window or has no room in memory, or
      `first_action` with other windows or without `action`.
  """

  def __init__(
    self,
    specs: Mapping[str, tuple[Sequence[int], DTypeLike]],
    num_envs: int,
    capacity: int,
    batch_size: int,
    length: int,
    seed: int,
    margin: int = MARGIN,
    sampling: str = 'windows',
    prioritize_ends: bool = False,
    first_action: bool = False,
    part: tuple[int, int] = (0, 1),
  ):
    self.specs = {name: (tuple(shape), np.dtype(dtype)) for name, (shape, dtype) in specs.items()}
    self.num_envs = num_envs
    self.kept = capacity // num_envs  # steps per environment
    self.batch_size = batch_size
    self.length = length
    self.seed = seed
    self.margin = margin
    if 'is_first' not in self.specs:
      raise ValueError(f'replay needs is_first among its specs; got {sorted(self.specs)}')
    if self.kept < length:
      raise ValueError(
        f'capacity {capacity} over {num_envs} environments holds '
        f'{self.kept} steps each; a window has {length}'
      )
    if first_action and sampling != 'episodes':
      raise ValueError(
        f"replay.sampling is {sampling!r}: with replay.first_action it must be 'episodes'"
      )
    if first_action and 'action' not in self.specs:
      raise ValueError(
        f'replay.first_action needs action among the specs; got {sorted(self.specs)}'
      )
    self.part = part
    self.first_action = first_action
    self._rows = self.kept + margin
    row = sum(math.prod(shape) * dtype.itemsize for shape, dtype in self.specs.values())
    self._data: dict[str, np.ndarray] = {}
    try:
      for name, (shape, dtype) in self.specs.items():
        self._data[name] = np.zeros((num_envs, self._rows, *shape), dtype)
    except (MemoryError, ValueError):  # NumPy cannot count so many
      size = num_envs * self._rows * row / 1e9
      raise ValueError(
        f'replay_capacity {capacity:,} takes {size:,.1f} GB of memory, more than this machine '
        'gives: take a smaller config.replay_capacity'
      ) from None
    options = {'prioritize_ends': prioritize_ends} if sampling == 'episodes' else {}
    self._rule = rules.RULES[sampling](num_envs, self.kept, self._rows, length, **options)
    self._steps = 0  # per environment, appended since the run began
    self._saved = 0  # of these, on disk

  @property
  def steps(self) -> int:
    """Steps appended per environment since the run began; a checkpoint records it."""
    return self._steps

  @property
  def windows(self) -> int:
    """Number of windows that a sample chooses from."""
    return self._rule.windows(self._steps)

  def filled(self, prefill: int) -> bool:
    """Whether training can begin: `prefill` steps are there, and a first batch."""
    return self._rule.filled(self._steps, self.batch_size, prefill)

  def lacks(self, prefill: int) -> str:
    """Return what it waits for before training can begin, in words; '' where it can begin."""
    return '' if self.filled(prefill) else self._rule.wants

  def newest(self) -> dict[str, np.ndarray]:
    """Return the last step that is stored, {name: [N, ...]}; {} where there is none."""
    row = (self._steps - 1) % self._rows
    return {name: array[:, row] for name, array in self._data.items()} if self._steps else {}

  @property
  def shortest(self) -> int:
    """Steps, with the first, of an episode of which anything is ever drawn."""
    return self._rule.shortest

  @property
  def full(self) -> bool:
    """Whether each further step takes the place of one that is stored."""
    return self._steps >= self.kept

  @property
  def nbytes(self) -> int:
    """Bytes of memory, all taken from the start."""
    return sum(array.nbytes for array in self._data.values())

  def describe(self) -> str:
    """`'replay: 100,000 steps, 1.23 GB'` (of 10⁹ bytes)."""
    return f'replay: {self.kept * self.num_envs:,} steps, {self.nbytes / 1e9:.2f} GB'

  def append(self, step: Mapping[str, ArrayLike]):
    """Adds one step of every environment; overwrites the oldest where it is full.

    Args:
      step: `{name: [N, ...]}`, exactly the names of the specs.

    Raises:
      ValueError: other names or shapes, or whole numbers that the stored dtype cannot hold.
      TypeError: a dtype that the stored one cannot hold (float into uint8).
    """
    if step.keys() != self.specs.keys():
      raise ValueError(f'replay stores {sorted(self.specs)}; got {sorted(step)}')
    arrays = {name: np.asarray(value) for name, value in step.items()}
    for name, array in arrays.items():
      shape, dtype = self.specs[name]
      if array.shape != (self.num_envs, *shape):
        raise ValueError(f'{name} has shape {array.shape}; replay stores {(self.num_envs, *shape)}')
      if not np.can_cast(array.dtype, dtype, 'same_kind'):
        raise TypeError(f'{name} is {array.dtype}; replay stores {dtype}')
      if not base.holds(dtype, array):
        span = f'{array.min()} to {array.max()}'
        raise ValueError(f'{name} is {array.dtype} from {span}; replay stores {dtype}')
    row = self._steps % self._rows
    # Counted before it is written: a gather in another thread then knows that
    # the row is going.
    self._steps += 1
    for name, array in arrays.items():
      self._data[name][:, row] = array
    self._note(self._steps - 1)

  def _note(self, step):
    flags = [self._data.get(name) for name in ('is_first', 'is_last')]
    self._rule.note(step, *(x if x is None else x[:, step % self._rows] for x in flags))

  def draw(self, update: int) -> Draw:
    """Chooses the windows of an update. Cheap; copies no data.

    Raises:
      ValueError: nothing to choose from yet.
    """
    key = np.array([(self.seed + (self.part[0] << 32)) % 2**64, update], np.uint64)
    rng = np.random.Generator(np.random.Philox(key=key))
    envs, starts = self._rule.choose(rng, self.batch_size, self._steps)
    return Draw(update, envs, starts, self._steps)

  def rows(self, draw: Draw) -> np.ndarray:
    """[B, T]: the rows of a draw's windows, over the environments' rings one after the other."""
    return (draw.starts[:, None] + np.arange(self.length)) % self._rows + draw.envs[
      :, None
    ] * self._rows

  def rows_before(self, draw: Draw) -> np.ndarray | None:
    """[B]: likewise those before the windows, -1 where there is none, or none stored; None without
    `first_action`.
    """
    if not self.first_action:
      return None
    goes_on = ~self._data['is_first'][draw.envs, draw.starts % self._rows]
    stored = draw.starts > max(0, draw.steps - self.kept)
    return np.where(goes_on & stored, (draw.starts - 1) % self._rows + draw.envs * self._rows, -1)

  def intact(self, draw: Draw) -> bool:
    """Whether the steps that `draw` was made of are all still stored."""
    return self._steps - draw.steps <= self.margin

  def gather(self, draw: Draw) -> dict[str, np.ndarray]:
    """Copies the windows of a draw. May run in another thread than `append`.

    Returns:
      `{name: [B, T, ...]}`, contiguous and the caller's own. `is_first[:, 0]`
      is True: a window begins without a memory of what came before it. With
      `first_action` it is as stored, and there is `before` [B, A], the action
      before the window, zeros where that begins with an episode or is not
      stored any more.

    Raises:
      RuntimeError: more than `margin` steps were appended since the draw.
    """
    rows, before = self.rows(draw), self.rows_before(draw)
    flat = {name: array.reshape(-1, *array.shape[2:]) for name, array in self._data.items()}
    batch = {name: array.take(rows, axis=0) for name, array in flat.items()}
    if before is None:
      batch['is_first'][:, 0] = True
    else:
      batch['before'] = np.where(before[:, None] < 0, 0, flat['action'].take(before, axis=0))
    if not self.intact(draw):
      raise RuntimeError(
        f'{self._steps - draw.steps} steps were appended since the batch of update '
        f'{draw.update} was drawn; replay has a margin of {self.margin}'
      )
    return batch

  def sample(self, update: int) -> dict[str, np.ndarray]:
    """The batch of an update, `{name: [B, T, ...]}`: `gather(draw(update))`.

    A pure function of the seed, the update and the stored steps.
    """
    return self.gather(self.draw(update))

  def save(self, folder: str | pathlib.Path):
    """Adds what is new since the last save to the files in `folder`; call it before the checkpoint.

    A crash leaves the earlier saves intact. `load` can then go back to any of the last
    `replay_files.SAVES`.
    """
    replay_files.save(
      replay_files.part(folder, *self.part),
      self._layout(self.num_envs),
      self._read,
      self._saved,
      self._steps,
      self._rows,
    )
    self._saved = self._steps

  def load(self, folder: str | pathlib.Path, steps: int | None = None, parts: int | None = None):
    """Restores what was stored when `steps` were appended, at one of the last saves (default: the
    last).

    Args:
      parts: how many processes saved it (default: as many as there are now). With another number
        each gets the steps of its environments out of the parts that have them.

    Raises:
      ValueError: no replay there, another layout, steps that are not in it, or a damaged file.
    """
    count = self.part[1]
    size = self.num_envs * count // (parts or count)  # environments of a part
    for place, here, there in self.places(folder, parts):
      write = functools.partial(self._write, here, there)
      self._steps = replay_files.load(
        place, self._layout(size), write, steps, self.kept, self._rows
      )
    self._saved = self._steps if parts in (None, count) else 0
    oldest = max(0, self._steps - self.kept)
    self._rule.restart(oldest)
    for step in range(oldest, self._steps):
      self._note(step)

  def places(
    self, folder: str | pathlib.Path, parts: int | None = None
  ) -> Iterator[tuple[pathlib.Path, slice, slice]]:
    """Yield (folder, ours, of these environments the places there) of the parts that have ours."""
    index, count = self.part
    parts = count if parts is None else parts
    # our first environment, environments of a part
    first, size = index * self.num_envs, self.num_envs * count // parts
    for other in range(first // size, -(-(first + self.num_envs) // size)):
      begin = other * size - first  # where its environments begin, counted from our first
      here = slice(max(begin, 0), min(begin + size, self.num_envs))
      there = slice(here.start - begin, here.stop - begin)
      yield replay_files.part(folder, other, parts), here, there

  def _read(self, first, end):
    rows = np.arange(first, end) % self._rows
    return {name: array[:, rows] for name, array in self._data.items()}

  def _write(self, here, there, first, arrays):
    """Stores steps from `first` on of the environments `there` in a file, as those `here`."""
    for name, array in arrays.items():
      rows = np.arange(first, first + array.shape[1]) % self._rows
      self._data[name][here, rows] = array[there]

  def _layout(self, num_envs):
    """What two runs must have in common to read each other's replay."""
    specs = {name: [list(shape), dtype.str] for name, (shape, dtype) in self.specs.items()}
    return {'num_envs': num_envs, 'steps_kept': self.kept, 'specs': specs}
