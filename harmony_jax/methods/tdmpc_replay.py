"""A replay whose sequences are drawn by priority, as TD-MPC's: what an update was surprised by is
drawn more often, and counts the less for it.

It is the replay of all methods with another rule. A sequence's priority belongs to its first step.
"""

import dataclasses
import io
import pathlib
import re
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from harmony_jax import replay_files, sampling
from harmony_jax.method import ReplaySettings
from harmony_jax.replay import Draw, Replay
from harmony_jax.settings import setting

_NAME = re.compile(r'priorities-(\d{12})\.npz')


@dataclasses.dataclass(frozen=True)
class PrioritySettings(ReplaySettings):
  """How sequences are drawn by priority."""

  priority: float = setting(0.6, 'probabilities are priorities to this power, α')
  correction: float = setting(
    0.4, 'weights are 1 / probabilities to this power, β', only='.priority'
  )
  frames: int = setting(
    3, 'pictures that are seen together, the newest last, F', least=1, only='pictures'
  )
  ends: bool = setting(
    False, "sequences may reach an episode's last step; the authors never learn its reward"
  )


class Priorities(sampling.Sampling):
  """Starts of sequences inside episodes, by their priorities.

  Args:
    sizes: as of all rules. power: α. lead: steps before a sequence that must be stored, too.
    ends: whether sequences may hold an episode's last step.
  """

  wants = 'an episode of config.batch_length steps: take fewer'

  def __init__(self, *sizes: int, power: float, lead: int, ends: bool):
    self.power, self.lead, self.ends = power, lead, ends
    super().__init__(*sizes)

  @property
  def shortest(self) -> int:
    """As long as a sequence, and its last step where none may hold that."""
    return self.length + (not self.ends)

  def restart(self, oldest: int) -> None:
    shape = self.num_envs, self.rows
    self.values = np.zeros(shape, np.float32)  # 0: no sequence can begin there
    self.scaled = np.zeros(shape)  # to the power α
    # First step of each row's episode; of one whose beginning is gone, any that is gone.
    self.begun = np.full(shape, oldest - 1 if oldest else 0)
    self.largest = np.ones(self.num_envs, np.float32)  # priority when the running episode began
    self._oldest = oldest

  def put(self, where: Any, values: ArrayLike) -> None:
    """Set priorities."""
    self.values[where] = values
    exact = np.asarray(values, np.float64)
    self.scaled[where] = np.where(exact > 0, exact**self.power, 0)  # 0⁰ would be 1

  def note(self, step: int, is_first: np.ndarray, is_last: Any) -> None:
    if is_first.any():  # all that is still stored counts
      self.largest[is_first] = self.values.max() or 1
    self._drop(step - self.kept)
    row = step % self.rows
    before = self.begun[:, (step - 1) % self.rows]
    self.begun[:, row] = np.where(is_first, step, before)
    start = step - self.length + 1
    whole = (self.begun[:, row] <= start) & (start >= self._oldest)
    if not self.ends and is_last is not None:
      whole &= ~is_last
    self.put((whole, start % self.rows), self.largest[whole])

  def _drop(self, step):
    """Give up the sequences that need a step."""
    if step < 0:
      return
    for start in range(step, step + self.lead + 1):
      row = start % self.rows
      self.put((np.maximum(start - self.lead, self.begun[:, row]) <= step, row), 0)

  def windows(self, steps: int) -> int:
    return int(np.count_nonzero(self.values))

  def filled(self, steps: int, batch_size: int, prefill: int) -> bool:
    return steps * self.num_envs >= max(prefill, 1) and self.windows(steps) > 0

  def probabilities(self) -> np.ndarray:
    """Return those of all rows, [N · rows]."""
    total = self.scaled.sum()
    if not total:
      raise sampling.Empty(f'replay holds no episode of {self.length} steps (config.batch_length)')
    return self.scaled.reshape(-1) / total

  def choose(
    self, rng: np.random.Generator, count: int, steps: int
  ) -> tuple[np.ndarray, np.ndarray]:
    """With replacement until the replay is full, without afterwards, as the authors."""
    odds = self.probabilities()
    again = steps < self.kept or self.windows(steps) < count
    envs, rows = np.divmod(rng.choice(len(odds), count, replace=again, p=odds), self.rows)
    return envs, steps - 1 - (steps - 1 - rows) % self.rows


class PriorityReplay(Replay):
  """A replay that draws by priority, with pictures before a sequence for a stack.

  A draw brings `weight` [B] and `run_step` [B] along, the steps of the run that were stored then.
  Where there are pictures, a sequence has `frames` - 1 rows in front, for the first stack: those
  before an episode are its first row.

  Attributes:
    adds: what a draw brings along, by whose names no observation can be called.

  Args:
    args, options: as of `Replay`. priority, correction, frames, ends: see `PrioritySettings`.
  """

  adds = ('weight', 'run_step')

  def __init__(
    self,
    *args: Any,
    priority: float = 0.6,
    correction: float = 0.4,
    frames: int = 3,
    ends: bool = False,
    **options: Any,
  ):
    super().__init__(*args, **options)
    pictures = any(len(shape) == 3 for shape, _ in self.specs.values())
    self.lead, self.correction = frames - 1 if pictures else 0, correction
    sizes = self.num_envs, self.kept, self._rows, self.length
    self._rule = Priorities(*sizes, power=priority, lead=self.lead, ends=ends)

  @property
  def priorities(self) -> np.ndarray:
    """Those of the stored steps, oldest first: [N, steps]; 0 where no sequence can begin."""
    return self._rule.values[:, self._stored()]

  def _stored(self):
    return np.arange(max(0, self.steps - self.kept), self.steps) % self._rows

  def draw(self, update: int) -> Draw:
    """Choose the sequences of an update, with their weights."""
    found = super().draw(update)
    run_step = np.full(self.batch_size, found.steps * self.num_envs * self.part[1], np.int32)
    return found._replace(more={'weight': self.weights(found), 'run_step': run_step})

  def weights(self, draw: Draw) -> np.ndarray:
    """Return (1/p)^β [B] of a draw, over the largest of them.

    A process among others does not know theirs, and leaves that to the update: there p is the mean
    sequence's.
    """
    odds = self._rule.scaled[draw.envs, draw.starts % self._rows]
    unit = odds.min() if self.part[1] == 1 else self._rule.scaled.mean()
    return ((odds / unit) ** -self.correction).astype(np.float32)

  def rows(self, draw: Draw) -> np.ndarray:
    """[B, lead + T]: as of `Replay`, with those in front."""
    begun = self._rule.begun[draw.envs, draw.starts % self._rows]
    steps = draw.starts[:, None] + np.arange(-self.lead, self.length)
    return np.maximum(steps, begun[:, None]) % self._rows + draw.envs[:, None] * self._rows

  def feedback(self, draw: Draw, rows: ArrayLike) -> None:
    """Give the sequences of a draw new priorities [B], those that can still be drawn."""
    where, new = (draw.envs, draw.starts % self._rows), np.asarray(rows)
    kept = (self._rule.values[where] > 0) & (new > 0) & np.isfinite(new)
    self._rule.put(tuple(each[kept] for each in where), new[kept])

  def save(self, folder: str | pathlib.Path) -> None:
    """Add the new steps, and write the priorities of the present."""
    place = replay_files.part(folder, *self.part)
    place.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.savez(buffer, values=self.priorities, largest=self._rule.largest)
    replay_files.replace(place / _name(self.steps), buffer.getbuffer())
    there = {int(found[1]) for each in place.iterdir() if (found := _NAME.fullmatch(each.name))}
    past = sorted(step for step in there if step <= self.steps)
    for step in there - {*past[-replay_files.SAVES :]}:  # others are old, or of another future
      (place / _name(step)).unlink()
    super().save(folder)

  def load(
    self, folder: str | pathlib.Path, steps: int | None = None, parts: int | None = None
  ) -> None:
    """Restore the steps and their priorities; see `Replay.load`."""
    super().load(folder, steps, parts)
    for place, here, there in self.places(folder, parts):
      path = place / _name(self.steps)
      try:
        with np.load(path, allow_pickle=False) as saved:
          values, largest = saved['values'][there], saved['largest'][there]
        self._rule.put((here, self._stored()), values)
        self._rule.largest[here] = largest
      except Exception as error:  # zipfile and NumPy each have their own
        told = (str(error).splitlines() or [''])[0]
        raise ValueError(f'{path} cannot be read: {told}') from None


def _name(steps):
  return f'priorities-{steps:012d}.npz'
