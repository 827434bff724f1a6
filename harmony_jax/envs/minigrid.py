"""MiniGrid (Chevalier-Boisvert et al. 2023): small worlds of rooms, doors, keys and lava, seen in
part.

The package's environments behind the adapter of `gym`: 7 actions or less, a reward of
1 − 0.9 · steps / limit at success, else 0 (Dynamic Obstacles: −1 for a collision), and the
package's own limit of steps, at which an episode ends without being terminal.

The mission, a text, is left out: tasks that draw it anew in each episode (Fetch, GoToDoor,
GoToObject, PutNear) cannot be solved by more than luck. Of the direction the agent has a one-hot.
"""

import dataclasses
from typing import Any

import numpy as np

from harmony_jax.envs import base, gym
from harmony_jax.settings import setting

# The package's wrapper that makes a view, and what the agent sees, in words.
VIEWS = {
  'codes': ('OneHotPartialObsWrapper', 'one-hots of the 7 × 7 cells before it'),
  'partial': ('RGBImgPartialObsWrapper', 'a 64 × 64 picture of the 7 × 7 cells before it'),
  'full': ('RGBImgObsWrapper', 'a 64 × 64 picture of the whole world'),
}


@dataclasses.dataclass(frozen=True)
class Options(base.Options):
  """Options of `MiniGrid`."""

  view: str = setting(
    'codes',
    'codes: one-hots of object, colour and state of 7 × 7 cells; partial: their picture; full: a '
    'picture of the whole world',
    choices=tuple(VIEWS),
  )


class MiniGrid:
  """N worlds.

  Attributes:
    measures: {'success': [N] float32}, 1 where the episode has ended with a reward.

  Raises:
    ValueError: an unknown task.
    RuntimeError: the package is missing.
  """

  def __init__(self, task: str, num_envs: int, **options: Any):
    view, _ = VIEWS[Options.of(options).view]
    wrappers, read = (f'minigrid.wrappers:{view}',), ('image:vector',) if 'Hot' in view else ()
    name = _ids()[self.canonical(task)]
    self._worlds = gym.Gym(name, num_envs, wrappers=wrappers, read=read)
    limit = self._worlds.unwrapped.max_steps
    self.num_envs = num_envs
    self.spec = dataclasses.replace(self._worlds.spec, episode_limit=limit)
    self.measures = {'success': np.zeros(num_envs, np.float32)}

  @staticmethod
  def require() -> None:
    """Raise RuntimeError where the package is missing."""
    try:
      import minigrid  # noqa: F401
    except ImportError:
      raise RuntimeError(
        "MiniGrid is not installed: pip install 'minigrid>=3.2,<4' (harmony-jax[minigrid])"
      ) from None

  @staticmethod
  def tasks() -> list[str]:
    """Names of all tasks: the package's ids without 'MiniGrid-' and '-v0'."""
    return list(_ids())

  @classmethod
  def canonical(cls, task: str) -> str:
    """'doorkey-8x8' or 'MiniGrid-DoorKey-8x8-v0' -> 'DoorKey-8x8'."""
    names = {name.lower(): name for name in cls.tasks()}
    short = str(task).lower().removeprefix('minigrid-').removesuffix('-v0')
    if short not in names:
      raise base.unknown('MiniGrid task', task, list(names.values()))
    return names[short]

  def step(
    self,
    actions: np.ndarray,
    restart: np.ndarray,
    seeds: np.ndarray,
    idle: np.ndarray | None = None,
  ) -> base.TimeStep:
    """See `base`."""
    timestep = self._worlds.step(actions, restart, seeds, idle)
    self.measures['success'][:] = timestep.is_last & (timestep.reward > 0)
    return timestep

  def close(self) -> None:
    """Free the worlds."""
    self._worlds.close()


def _ids():
  """{task: id}; those of WFC need packages of their own."""
  MiniGrid.require()
  import gymnasium

  ids = [each for each in gymnasium.registry if each.startswith('MiniGrid-') and 'WFC' not in each]
  return {each.removeprefix('MiniGrid-').removesuffix('-v0'): each for each in sorted(ids)}


def _protocol(config):
  _, seen = VIEWS[base.evaluation_options(config).get('view', 'codes')]
  facts = {'action_repeat': 1, 'episode_steps': "the package's own limit", 'observation': seen}
  return facts, ["the package's own limit of steps", seen, 'its direction', 'no mission']


SUITE = base.Suite(environment=MiniGrid, title='MiniGrid', protocol=_protocol)
