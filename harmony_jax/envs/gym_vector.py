"""A `gymnasium.vector.VectorEnv` as rows that look like single environments, for `gym`.

It steps all rows at once, where ours begin and end one by one. Where it can reset some rows alone,
each with a seed of its own (`options={'reset_mask': …}`, as Gymnasium's and ale-py's do), every
episode is that of the single environment, whatever its autoreset mode: a row that is to begin takes
an action that counts for nothing, and is then reset. Where it cannot, it must reset an ended row
in the step after (NEXT_STEP): then only episodes that all rows begin together have a seed, one for
all, and an evaluation plays in waves. In SAME_STEP alone, the first action of an episode would be
taken before anybody has seen its beginning: that is refused.

A row cannot idle within an episode while others step, so an interrupted run begins its running
episodes anew.
"""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

STEPS = 100  # in which a row should have left its first observation
# How seeds [N] are given for the rows of a mask [N].
FORMS = (lambda seeds, mask: seeds.tolist(), lambda seeds, mask: seeds[mask])


class Vector:
  """All rows.

  Attributes:
    rows: what looks like single environments; `move` decides what their next `reset` or `step` is.
    masked: rows are reset alone.

  Raises:
    ValueError: it cannot be stepped as an agent needs it.
  """

  def __init__(self, env: Any):
    from gymnasium.vector import AutoresetMode

    self.env, self.count = env, env.num_envs
    self.rows = [Row(self, index) for index in range(self.count)]
    self.results: list[Any] = [None] * self.count
    declared = (env.metadata or {}).get('autoreset_mode')
    if declared is None:  # by another one than it has, episodes would end with the next one's start
      modes = ', '.join(mode.value for mode in AutoresetMode)
      raise ValueError(f"its metadata say no 'autoreset_mode': expected one of {modes}")
    self.mode = AutoresetMode(declared)
    self._modes = AutoresetMode
    self._ended, self._lost = np.zeros(self.count, bool), np.zeros(self.count, bool)
    self._form = next((form for form in FORMS if self._takes(form)), None)
    self.masked = self._form is not None and self._resets_alone()
    if not self.masked and self.mode != AutoresetMode.NEXT_STEP:
      raise ValueError(
        f'its autoreset mode is {self.mode.value} and it does not reset rows alone '
        "(options={'reset_mask': …}): expected NextStep"
      )

  def move(
    self, translate: Callable[[int], Any], restart: np.ndarray, seeds: np.ndarray, idle: np.ndarray
  ) -> None:
    """Do what the next `reset` or `step` of every row that is not idle tells.

    Args:
      translate: from the number of a row to its action.
    """
    begins, steps = restart & ~idle, ~restart & ~idle
    if (steps & self._lost).any():
      raise ValueError('a row of a vector environment cannot idle within an episode')
    if steps.any():
      if not (self.masked or (begins <= self._ended).all()):
        raise ValueError('a row of this vector environment cannot begin before it has ended')
      self._lost |= idle
      self._step([translate(index) for index in range(self.count)], steps, begins)
      begins = begins & self.masked
    if begins.any():
      self._lost |= idle & (not self.masked)
      self._begin(begins, seeds)
    self._lost &= ~restart | idle

  def _step(self, actions, steps, begins):
    from gymnasium.vector import utils

    space, count = self.env.single_action_space, self.count
    batch = utils.concatenate(space, actions, utils.create_empty_array(space, count))
    whole, rewards, terminated, truncated, infos = self.env.step(batch)
    self._ended = np.logical_or(terminated, truncated)
    renewed = self.mode == self._modes.DISABLED and self._ended.any()
    # A reset may write into the same arrays, over the last observation of an episode.
    observations = self._split(copy.deepcopy(whole) if renewed else whole)
    for index in np.flatnonzero(steps):
      observation, info = observations[index], _row(infos, index, count)
      if self._ended[index] and self.mode == self._modes.SAME_STEP:
        observation, info = info['final_obs'], info.get('final_info', {})
      elif self._ended[index] and 'final_obs' in info:
        raise ValueError(f"its autoreset mode is {self.mode.value}, and its info has a 'final_obs'")
      ends = terminated[index], truncated[index]
      self.results[index] = observation, rewards[index], *ends, info
    for index in np.flatnonzero(begins):
      self.results[index] = observations[index], _row(infos, index, count)
    if renewed:
      self._reset(np.zeros(count, int), self._ended)  # so that the others can step

  def _begin(self, mask, seeds):
    whole, infos = self._reset(
      np.asarray(seeds), mask if self.masked else np.ones(self.count, bool)
    )
    for index, observation in enumerate(self._split(whole)):
      if mask[index]:
        self.results[index] = observation, _row(infos, index, self.count)
    self._ended &= ~mask & self.masked

  def _reset(self, seeds, mask):
    given = self._form(seeds, mask) if self._form else int(seeds[0])
    return self.env.reset(seed=given, options=None if mask.all() else {'reset_mask': mask.copy()})

  def _split(self, whole):
    from gymnasium.vector import utils

    return list(utils.iterate(self.env.observation_space, whole))

  def _takes(self, form):
    try:
      self.env.reset(seed=form(np.arange(self.count), np.ones(self.count, bool)))
    except Exception:  # whatever it raises for what it does not know
      return False
    return True

  def _resets_alone(self):
    """Whether the other rows stay where they are when the first is reset.

    They must have left the place where they began, or a reset of all would look the same.
    """
    if self.count == 1:
      return True
    self.env.action_space.seed(0)
    every, seeds = np.ones(self.count, bool), np.arange(self.count)
    others = lambda whole: copy.deepcopy(self._split(whole)[1:])
    begun = before = others(self._reset(seeds, every)[0])
    for attempt in range(STEPS):
      whole, _, terminated, truncated, _ = self.env.step(self.env.action_space.sample())
      if np.logical_or(terminated, truncated).any():  # too soon: other episodes may be longer
        begun = before = others(self._reset(seeds + attempt, every)[0])
      elif not _same(before := others(whole), begun):
        break
    try:
      after = others(self._reset(seeds, seeds == 0)[0])
    except Exception:
      return False
    return _same(before, after) and not _same(before, begun)


class Row:
  """One row, as `gymnasium.Env` has it."""

  def __init__(self, vector: Vector, index: int):
    self._vector, self._index, env = vector, index, vector.env
    self.observation_space, self.action_space = (
      env.single_observation_space,
      env.single_action_space,
    )
    self.metadata, self.spec, self.unwrapped = env.metadata, env.spec, env
    self.env, self.move = env, vector.move  # `env` as a wrapper has it: what is around all rows

  def reset(self, seed: int) -> Any:
    """Return what `Vector.move` has begun."""
    return self._vector.results[self._index]

  def step(self, action: Any) -> Any:
    """Return what `Vector.move` has stepped."""
    return self._vector.results[self._index]

  def close(self) -> None:
    """Close all rows, once."""
    if not self._index:
      self._vector.env.close()


def _row(infos, index, count):
  """The info of one row of so many: what its mask '_name' leaves out is not there."""
  found = {}
  for name, value in infos.items():
    there = infos.get(f'_{name}')
    if name.startswith('_') or (there is not None and not there[index]):
      continue
    if isinstance(value, dict):
      found[name] = _row(value, index, count)
    else:  # what has no rows, or others, is said of all
      rows = isinstance(value, list | tuple) or getattr(value, 'ndim', 0)
      found[name] = value[index] if rows and len(value) == count else value
  return found


def _same(a, b):
  """Whether two observations are equal, or lists of them."""
  if isinstance(a, dict | tuple | list):
    names = a if isinstance(a, dict) else range(len(a))
    return all(_same(a[name], b[name]) for name in names)
  return np.array_equal(a, b)
