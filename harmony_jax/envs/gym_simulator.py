"""One environment of Gymnasium's, held against Gymnasium's conventions at every step."""

import warnings
from typing import Any

import numpy as np

from harmony_jax.errors import FAULTS, EnvironmentFault, one_line, raised

CONVENTION = {
  'reset': 'reset(seed=…, options=…) returns (observation, info)',
  'step': 'step(action) returns (observation, reward, terminated, truncated, info)',
}


class Simulator:
  """One environment, whose faults are its own.

  Raises:
    EnvironmentFault: whatever it raises itself; what it returns does not fit what it declares.
  """

  def __init__(self, task: str, env: Any):
    self.task, self._env, self._steps = task, env, 0
    self.observation_space = self._space('observation_space')
    self.action_space = self._space('action_space')
    self.metadata, self.limit = self._env.metadata, getattr(self._env.spec, 'max_episode_steps', 0)
    self.unwrapped = self._env.unwrapped

  def _space(self, name):
    from gymnasium import Space

    found = getattr(self._env, name, None)
    if not isinstance(found, Space):
      kind = f'{type(found).__module__}.{type(found).__name__}'.removeprefix('builtins.')
      raise EnvironmentFault(f'{self.task}: its {name} is {kind}, not one of gymnasium.spaces')
    return found

  def fault(self, text: str) -> EnvironmentFault:
    """The error that says what it did in which step."""
    at = 'at its start' if not self._steps else f'in step {self._steps} of an episode'
    return EnvironmentFault(f'{self.task}: {text}, {at}')

  def reset(self, seed: int) -> tuple[Any, dict]:
    """(observation, info)."""
    self._steps = 0
    result = self.call('reset', seed=seed)
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)):
      raise self.fault(f'its reset returned {_kind(result)}: {CONVENTION["reset"]}')
    self.require_actions(self.action_space, 'before its reset it had')
    return result

  def require_actions(self, space: Any, which: str) -> None:
    """Refuse actions of another space than the agent's."""
    now = self._env.action_space
    if now is not space and now != space:
      told = f'its action_space is {now}, {which} {space}'
      raise self.fault(f'{one_line(told)}: an agent has one for all episodes')

  def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
    """(observation, reward, terminated, truncated, info)."""
    self._steps += 1
    result = self.call('step', action)
    if not (isinstance(result, tuple) and len(result) == 5 and isinstance(result[4], dict)):
      raise self.fault(f'its step returned {_kind(result)}: {CONVENTION["step"]}')
    observation, reward, terminated, truncated, info = result
    terminated, truncated = self._flag(terminated), self._flag(truncated)
    if terminated and np.all(info.get('TimeLimit.truncated', False)):  # as Gym before 0.26 said it
      terminated, truncated = False, True
    return observation, self._reward(reward), terminated, truncated, info

  def _reward(self, reward):
    found = number(reward)
    if found is None:
      raise self.fault(
        f'its reward is {_kind(reward)}, not one number: put a wrapper around it that makes one, '
        '--config.env.wrappers=my_package:MyWrapper'
      )
    with np.errstate(over='ignore'):
      if not np.isfinite(found.astype(np.float32)).all():
        raise self.fault(f'its reward is {found.item()}, which float32 does not hold')
    return float(found.item())

  def _flag(self, value):
    found = number(False if value is None else value)
    if found is None:
      raise self.fault(f'its end is {_kind(value)}, not true or false: {CONVENTION["step"]}')
    return bool(found.item())

  def draw(self) -> np.ndarray:
    """Its picture."""
    viewer = getattr(getattr(self.unwrapped, 'mujoco_renderer', None), 'viewer', None)
    if viewer is not None:
      # Gymnasium would draw with whichever environment's context came last
      viewer.make_context_current()
    image = self.call('render')
    if getattr(image, 'dtype', None) != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
      raise self.fault(f'its render returned {_kind(image)}, not a picture uint8 [H, W, 3]')
    return image

  def close(self) -> None:
    """Free what it holds; what went wrong or right before is not for its end to change."""
    try:
      self._env.close()
    except FAULTS as error:
      warnings.warn(f'{self.task}: its close raised {raised(error)}', stacklevel=2)

  def call(self, name: str, *args: Any, **how: Any) -> Any:
    """What a method returns; what it raises is the environment's fault."""
    try:
      return getattr(self._env, name)(*args, **how)
    except FAULTS as error:
      told = isinstance(error, (TypeError, ValueError)) and name in CONVENTION
      hint = f' ({CONVENTION[name]})' if told else ''
      raise self.fault(f'its {name} raised {raised(error)}{hint}') from error


def number(value: Any) -> np.ndarray | None:
  """A value as NumPy has it if that is one number, else None, as of a tensor on a device."""
  try:
    found = np.asarray(value)
  except Exception:
    return None
  return found if found.size == 1 and found.dtype.kind in 'biuf' else None


def _kind(value):
  """What something is, in a few words."""
  if isinstance(value, np.ndarray):
    return f'{value.dtype} {list(value.shape)}'
  if isinstance(value, tuple) and len(value) <= 5:  # as of a step
    return f'({", ".join(map(_kind, value))})'
  count = f' of {len(value)}' if isinstance(value, (tuple, list)) else ''
  return f'{type(value).__name__}{count}'
