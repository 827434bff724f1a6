"""Crafter (Hafner 2021): survival in a small open world, with 22 achievements.

The game as it is published: 64 × 64 pictures of a 9 × 9 view, 17 actions, reward 1 for each
achievement that an episode unlocks first and ±0.1 for each point of health, at most 10,000 steps.
An end by death is terminal, one by the limit is not.

Its package picks creatures out of Python sets, whose order is that of addresses in memory; here
they are in the order in which they came to be, so that an episode is a function of its seed and
its actions.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from harmony_jax.envs import base
from harmony_jax.settings import setting

ACHIEVEMENTS = (
  'collect_coal',
  'collect_diamond',
  'collect_drink',
  'collect_iron',
  'collect_sapling',
  'collect_stone',
  'collect_wood',
  'defeat_skeleton',
  'defeat_zombie',
  'eat_cow',
  'eat_plant',
  'make_iron_pickaxe',
  'make_iron_sword',
  'make_stone_pickaxe',
  'make_stone_sword',
  'make_wood_pickaxe',
  'make_wood_sword',
  'place_furnace',
  'place_plant',
  'place_stone',
  'place_table',
  'wake_up',
)


@dataclasses.dataclass(frozen=True)
class Options(base.Options):
  """Options of `Crafter`."""

  length: int = setting(10_000, 'steps that end an episode', least=1)


class Crafter:
  """N worlds.

  Attributes:
    measures: {achievement: [N] float32}, 1 where the episode has unlocked it.

  Raises:
    RuntimeError: the package is missing.
  """

  def __init__(self, task: str, num_envs: int, **options: Any):
    self.require()
    import crafter

    length = Options.of(options).length
    self.canonical(task)
    self.num_envs = num_envs
    self._worlds = [crafter.Env(length=length, seed=0) for _ in range(num_envs)]
    for world in self._worlds:
      world._balance_chunk = functools.partial(_in_order, world, world._balance_chunk)
    self.spec = base.Spec(
      {'image': base.ArraySpec((64, 64, 3), np.uint8)}, True, 17, 1, episode_limit=length
    )
    self.measures = {name: np.zeros(num_envs, np.float32) for name in ACHIEVEMENTS}
    self._last = base.empty_timestep(self.spec, num_envs)

  @staticmethod
  def require() -> None:
    """Raise RuntimeError where the package is missing."""
    try:
      import crafter  # noqa: F401
    except ImportError:
      raise RuntimeError(
        "Crafter is not installed: pip install 'crafter>=1.8.3,<2' (harmony-jax[crafter])"
      ) from None

  @staticmethod
  def tasks() -> list[str]:
    """Names of all tasks."""
    return ['crafter']

  @staticmethod
  def canonical(task: str) -> str:
    """'crafter', the only task."""
    if task.lower() != 'crafter':
      raise base.unknown('Crafter task', task, ['crafter'])
    return 'crafter'

  def step(
    self,
    actions: np.ndarray,
    restart: np.ndarray,
    seeds: np.ndarray,
    idle: np.ndarray | None = None,
  ) -> base.TimeStep:
    """See `base`."""
    last = self._last
    idle = np.zeros(self.num_envs, bool) if idle is None else idle
    for index in np.flatnonzero(~idle):
      world = self._worlds[index]
      if restart[index]:
        world._seed, world._episode = int(seeds[index]), 0
        image, reward, done, info = world.reset(), 0.0, False, {}
      else:
        image, reward, done, info = world.step(int(actions[index]))
      last.observation['image'][index] = image
      last.reward[index], last.is_first[index], last.is_last[index] = reward, restart[index], done
      last.is_terminal[index] = done and info['discount'] == 0
      for name, unlocked in self.measures.items():
        unlocked[index] = info.get('achievements', {}).get(name, 0) > 0
    return base.copy_timestep(last)

  def close(self) -> None:
    """Nothing is held."""


def _in_order(world, balance, chunk, objs):
  """The package's balance of a part of the world, whose set of creatures has an order."""
  order = {id(each): place for place, each in enumerate(world._world.objects)}
  balance(chunk, sorted(objs, key=lambda each: order[id(each)]))


def score(rates: Mapping[str, float]) -> float:
  """Return Crafter's score of success rates in [0, 1]: exp(mean log(1 + sᵢ)) − 1 of percents sᵢ."""
  percents = 100 * np.array([rates[name] for name in ACHIEVEMENTS])
  return float(np.exp(np.log1p(percents).mean()) - 1)


def _protocol(config):
  length = base.evaluation_options(config).get('length', 10_000)
  facts = {'action_repeat': 1, 'length': length, 'observation': '64 × 64 images'}
  return facts, [f'episodes of at most {length:,} steps', '64 × 64 images', 'reward with health']


SUITE = base.Suite(
  environment=Crafter,
  title='Crafter',
  protocol=_protocol,
  summary=lambda rates: {'crafter_score': score(rates)},
  slow=True,
)
