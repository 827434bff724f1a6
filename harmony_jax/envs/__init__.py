"""Environments: one file per suite, one `make`, one time-step convention (`base`).

env = make('atari', 'Pong', num_envs=4)
episodes = Episodes(env, run_seed=0, stream='train')
timestep = episodes.step(None)            # the first call begins all episodes
timestep = episodes.step(actions)         # ended ones begin again by themselves
"""

import functools
import importlib

from harmony_jax.envs.base import ArraySpec, Options, Spec, TimeStep, unknown
from harmony_jax.envs.episodes import (
  EpisodeResult,
  Episodes,
  episode_seed,
  play,
  random_policy,
  run_episodes,
)
from harmony_jax.envs.processes import TIMEOUT, Processes

__all__ = [
  'ArraySpec',
  'EpisodeResult',
  'Episodes',
  'Options',
  'Spec',
  'SUITES',
  'TimeStep',
  'canonical',
  'episode_seed',
  'make',
  'options',
  'play',
  'random_policy',
  'require',
  'run_episodes',
  'tasks',
]

# Suite -> class, named rather than imported: no suite needs another's simulator.
SUITES = {
  'atari': 'harmony_jax.envs.atari:Atari',
  'catch': 'harmony_jax.envs.catch:Catch',
  'dmc': 'harmony_jax.envs.dmc:DMC',
  'dmcr': 'harmony_jax.envs.dmcr:DMCR',
  'metaworld': 'harmony_jax.envs.metaworld:MetaWorld',
  'rlbench': 'harmony_jax.envs.rlbench:RLBench',
  'gym': 'harmony_jax.envs.gym:Gym',
}


def make(suite, task, num_envs, processes=False, timeout=TIMEOUT, **options):
  """Makes N environments of one task.

  Args:
    suite: a key of `SUITES`.
    task: e.g. 'Pong' for 'atari'.
    num_envs: N.
    processes: run each environment in a process of its own, side by side: for simulators that are
      slow to render, fail at times, or allow one per process.
    timeout: of `Processes`: seconds after which one that does not answer is started again; None for
    ever. **options: of the suite's class, e.g. `frame_cap` for 'atari'.

  Returns:
    An environment as described in `base`.

  Raises:
    ValueError: an unknown suite or task; the text names the nearest known one.
  """
  if processes:
    return Processes(functools.partial(make, suite, task, 1, **options), num_envs, timeout)
  return _suite(suite)(task, num_envs, **options)


def canonical(suite, task):
  """The task's one true name ('ms_pacman' -> 'MsPacman'), without making an environment. Raises as
  `make` does.
  """
  return _suite(suite).canonical(task)


def options(suite: str) -> type[Options]:
  """Return the class of a suite's options, without making an environment. Raises as `make` does."""
  module, _ = _place(suite)
  return getattr(module, 'Options', Options)


def tasks(suite):
  """Names of all tasks of a suite; [] where they cannot be counted."""
  return list(getattr(_suite(suite), 'tasks', list)())


def require(suite):
  """Raises RuntimeError, saying what to install, where the suite's simulator is missing; before
  anything is written.
  """
  getattr(_suite(suite), 'require', lambda: None)()


def _suite(suite):
  return getattr(*_place(suite))


def _place(suite):
  if suite not in SUITES:
    raise unknown('suite', suite, list(SUITES))
  module, name = SUITES[suite].split(':')
  return importlib.import_module(module), name
