"""Which windows of a replay's stream a batch may hold, and how they are chosen.

A window is `length` contiguous steps of one environment; `is_first` begins an episode. All rules
draw with replacement, and know of the stream only what `note` tells them.
"""

import abc
import logging
from typing import Any

import numpy as np

from harmony_jax.errors import UserError

_log = logging.getLogger(__name__)


class Empty(UserError, ValueError):
  """There is no window to choose."""


class Sampling(abc.ABC):
  """A rule for windows of the last `kept` steps of N environments, stored in `rows` rows each."""

  wants = ''  # what it waits for before a first batch, in words

  def __init__(self, num_envs: int, kept: int, rows: int, length: int):
    self.num_envs, self.kept, self.rows, self.length = num_envs, kept, rows, length
    self.restart(0)

  @property
  def shortest(self) -> int:
    """Steps, with the first, of an episode of which anything is ever drawn."""
    return 1

  def restart(self, oldest: int) -> None:
    """Forget everything: steps are noted again, from the one with this number on."""
    del oldest

  def note(self, step: int, is_first: np.ndarray, is_last: Any) -> None:
    """Take notice of step number `step` of every environment; flags [N]."""
    del step, is_first, is_last

  @staticmethod
  def least(num_envs: int, length: int, batch_size: int, prefill: int) -> int:
    """Return the steps of each environment before which `filled` cannot be."""
    del batch_size
    return max(length, -(-prefill // num_envs))

  @abc.abstractmethod
  def windows(self, steps: int) -> int:
    """Return how many windows there are to choose from after so many steps of each environment."""

  @abc.abstractmethod
  def filled(self, steps: int, batch_size: int, prefill: int) -> bool:
    """Return whether training can begin: `prefill` steps are there, and a first batch."""

  @abc.abstractmethod
  def choose(
    self, rng: np.random.Generator, count: int, steps: int
  ) -> tuple[np.ndarray, np.ndarray]:
    """Return environments and first steps of `count` windows, [count] each."""


class Windows(Sampling):
  """Uniform over all windows of the stream, which may cross ends of episodes (DreamerV3)."""

  wants = 'config.prefill steps, and those of a first batch: take more config.steps'

  @staticmethod
  def least(num_envs: int, length: int, batch_size: int, prefill: int) -> int:
    return -(-max(batch_size * length, prefill) // num_envs) + length - 1

  def windows(self, steps: int) -> int:
    return self.num_envs * max(0, min(steps, self.kept) - self.length + 1)

  def filled(self, steps: int, batch_size: int, prefill: int) -> bool:
    return self.windows(steps) >= max(batch_size * self.length, prefill)

  def choose(
    self, rng: np.random.Generator, count: int, steps: int
  ) -> tuple[np.ndarray, np.ndarray]:
    windows = self.windows(steps)
    if not windows:
      raise ValueError(f'replay holds {steps} steps per environment; a window has {self.length}')
    envs, offsets = np.divmod(rng.integers(windows, size=count), windows // self.num_envs)
    return envs, max(0, steps - self.kept) + offsets


class Episodes(Windows):
  """A complete episode, uniformly, then a start in it, uniformly (DreamerV2).

  An episode shorter than a window is followed by what came after it. Where episodes have become
  longer than what is kept, the parts of episodes that are stored take their place.

  Args:
    prioritize_ends: a start too late for a window, of which there are `length`, counts as the last
      possible one.
  """

  wants = 'a whole episode, which must end and be kept: take a larger config.replay_capacity'
  least = Sampling.least

  def __init__(self, *sizes: int, prioritize_ends: bool = False):
    super().__init__(*sizes)
    self.prioritize_ends = prioritize_ends

  def restart(self, oldest: int) -> None:
    # (environment, first step, last step) of complete episodes, in the order of their ends
    self._ended, self._warned = [], False
    # An episode that begins before the oldest step is not stored whole: its beginning is put there.
    self._begun = np.full(self.num_envs, oldest - 1 if oldest else 0)

  def note(self, step: int, is_first: np.ndarray, is_last: Any) -> None:
    self._begun[is_first] = step
    self._ended += [(env, self._begun[env], step) for env in np.flatnonzero(is_last)]

  def filled(self, steps: int, batch_size: int, prefill: int) -> bool:
    enough = steps * self.num_envs >= max(prefill, self.length * self.num_envs)
    return enough and len(self._stored(steps)) > 0

  def choose(
    self, rng: np.random.Generator, count: int, steps: int
  ) -> tuple[np.ndarray, np.ndarray]:
    episodes = self._stored(steps)
    if not len(episodes):
      episodes = self._parts(steps)
    envs, first, last = episodes[rng.integers(len(episodes), size=count)].T
    latest = np.maximum(0, last - first + 1 - self.length)  # offset of the last window that fits
    offsets = rng.integers(latest + 1 + self.length * self.prioritize_ends)
    return envs, np.minimum(first + np.minimum(offsets, latest), steps - self.length)

  def _parts(self, steps):
    """[N, 3]: as `_stored`, the end of what is stored of every environment."""
    oldest = steps - self.kept
    if oldest <= 0:
      raise Empty('replay holds no complete episode yet')
    if not self._warned:
      self._warned = True
      _log.warning(
        'episodes have become longer than the %s steps that replay keeps of an environment: it '
        'learns from parts of them; a larger config.replay_capacity holds them whole',
        f'{self.kept:,}',
      )
    last = np.full(self.num_envs, steps - 1)
    return np.stack([np.arange(self.num_envs), np.maximum(self._begun, oldest), last], 1)

  def _stored(self, steps):
    """[E, 3]: the complete episodes that are stored whole."""
    oldest = max(0, steps - self.kept)
    self._ended = [episode for episode in self._ended if episode[1] >= oldest]
    return np.array(self._ended, int).reshape(-1, 3)


class Inside(Sampling):
  """Uniform over all windows that lie in one episode, complete or not."""

  wants = 'an episode of config.batch_length steps: take fewer'

  @property
  def shortest(self) -> int:
    """As long as a window."""
    return self.length

  def restart(self, oldest: int) -> None:
    self._begun = np.full(self.num_envs, oldest)
    # [N, rows]: whether the window that begins in a row lies in one episode
    self._whole = np.zeros((self.num_envs, self.rows), bool)

  def note(self, step: int, is_first: np.ndarray, is_last: Any) -> None:
    self._begun[is_first] = step
    self._whole[:, step % self.rows] = False  # its window has not come to its end
    start = step - self.length + 1
    self._whole[:, start % self.rows] = self._begun <= start

  def windows(self, steps: int) -> int:
    return int(self._stored(steps).sum())

  def filled(self, steps: int, batch_size: int, prefill: int) -> bool:
    return steps * self.num_envs >= max(prefill, 1) and self.windows(steps) > 0

  def choose(
    self, rng: np.random.Generator, count: int, steps: int
  ) -> tuple[np.ndarray, np.ndarray]:
    # By rows, so that the order is the same in a run that goes on.
    envs, rows = np.nonzero(self._stored(steps))
    if not len(rows):
      raise Empty(f'replay holds no episode of {self.length} steps (config.batch_length)')
    chosen = rng.integers(len(rows), size=count)
    return envs[chosen], steps - 1 - (steps - 1 - rows[chosen]) % self.rows

  def _stored(self, steps):
    """[N, rows]: `_whole`, without the rows that are older than the capacity."""
    age = (steps - 1 - np.arange(self.rows)) % self.rows
    return self._whole & (age < min(self.kept, steps))


RULES = {'windows': Windows, 'episodes': Episodes, 'inside': Inside}
