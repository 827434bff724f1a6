"""Environments: one file per suite, one `make`, one time-step convention (`base`).

    env = make('atari', 'Pong', num_envs=4)
    episodes = Episodes(env, run_seed=0, stream='train')
    timestep = episodes.step(None)            # the first call begins all episodes
    timestep = episodes.step(actions)         # ended ones begin again by themselves
"""

import importlib

from harmony_jax.envs.base import ArraySpec
from harmony_jax.envs.base import Spec
from harmony_jax.envs.base import TimeStep
from harmony_jax.envs.base import unknown
from harmony_jax.envs.episodes import EpisodeResult
from harmony_jax.envs.episodes import Episodes
from harmony_jax.envs.episodes import episode_seed
from harmony_jax.envs.episodes import random_policy
from harmony_jax.envs.episodes import run_episodes

__all__ = ['ArraySpec', 'EpisodeResult', 'Episodes', 'Spec', 'SUITES', 'TimeStep', 'canonical', 'episode_seed',
           'make', 'random_policy', 'run_episodes']

# Suite -> class, named rather than imported: no suite needs another's simulator.
SUITES = {
    'atari': 'harmony_jax.envs.atari:Atari',
    'catch': 'harmony_jax.envs.catch:Catch',
}


def make(suite, task, num_envs, **options):
  """Makes N environments of one task.

  Args:
    suite: a key of `SUITES`.
    task: e.g. 'Pong' for 'atari'.
    num_envs: N.
    **options: of the suite's class, e.g. `frame_cap` for 'atari'.

  Returns:
    An environment as described in `base`.

  Raises:
    ValueError: an unknown suite or task; the text names the nearest known one.
  """
  return _suite(suite)(task, num_envs, **options)


def canonical(suite, task):
  """The task's one true name ('ms_pacman' -> 'MsPacman'), without making an environment. Raises as `make` does."""
  return _suite(suite).canonical(task)


def _suite(suite):
  if suite not in SUITES:
    raise unknown('suite', suite, list(SUITES))
  module, name = SUITES[suite].split(':')
  return getattr(importlib.import_module(module), name)
