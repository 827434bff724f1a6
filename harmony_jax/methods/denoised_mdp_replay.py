"""The replay of Denoised MDP: windows of complete episodes, all equally likely but the last one."""

import dataclasses
from typing import Any

import numpy as np

from harmony_jax import sampling
from harmony_jax.method import ReplaySettings
from harmony_jax.replay import Replay
from harmony_jax.settings import setting


@dataclasses.dataclass(frozen=True)
class EpisodeSettings(ReplaySettings):
  """How windows are drawn."""

  ends: bool = setting(
    False, "sequences may reach an episode's last step; the authors never learn its reward"
  )


class Complete(sampling.Episodes):
  """Uniform over all windows that lie in a complete episode, without its last one.

  Where no complete episode is stored, those that are not complete take their place.

  Args:
    ends: with the last one. prioritize_ends: see `sampling.Episodes`.
  """

  wants = 'an episode of more than config.batch_length steps: take fewer'

  def __init__(self, *sizes: int, ends: bool = False, prioritize_ends: bool = False):
    super().__init__(*sizes, prioritize_ends=prioritize_ends)
    self.ends = ends

  @property
  def shortest(self) -> int:
    """As long as a sequence, and its last step where none may hold that."""
    return self.length + (not self.ends)

  def _episodes(self, steps):
    """([E, 3]: environment, first and last step of each episode; [E]: how many windows it has)."""
    first = np.maximum(self._begun, max(0, steps - self.kept))
    running = np.stack([np.arange(self.num_envs), first, np.full_like(first, steps - 1)], 1)
    for episodes in (self._stored(steps), running):
      counts = np.maximum(0, episodes[:, 2] - episodes[:, 1] + 1 - self.length + self.ends)
      if counts.any():
        break
    return episodes, counts

  def windows(self, steps: int) -> int:
    """Of all episodes."""
    return int(self._episodes(steps)[1].sum())

  def filled(self, steps: int, batch_size: int, prefill: int) -> bool:
    """Where there is a window."""
    return steps * self.num_envs >= max(prefill, 1) and self.windows(steps) > 0

  def choose(
    self, rng: np.random.Generator, count: int, steps: int
  ) -> tuple[np.ndarray, np.ndarray]:
    """An episode by its number of windows, then one of these."""
    episodes, counts = self._episodes(steps)
    if not counts.any():
      raise sampling.Empty(f'replay holds no episode of {self.length} steps (config.batch_length)')
    chosen = rng.choice(len(counts), count, p=counts / counts.sum())
    offsets = rng.integers(counts[chosen] + self.length * self.prioritize_ends)
    envs, first, _ = episodes[chosen].T
    return envs, first + np.minimum(offsets, counts[chosen] - 1)


class EpisodeReplay(Replay):
  """A replay that draws by `Complete`; `ends` is an option of that, the others of `Replay`."""

  def __init__(self, *args: Any, ends: bool = False, prioritize_ends: bool = False, **options: Any):
    super().__init__(*args, **options)
    sizes = self.num_envs, self.kept, self._rows, self.length
    self._rule = Complete(*sizes, ends=ends, prioritize_ends=prioritize_ends)
