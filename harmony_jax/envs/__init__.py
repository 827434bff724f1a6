"""Environments: one file per suite, one `make`, one time-step convention (`base`).

env = make('atari', 'Pong', num_envs=4)
episodes = Episodes(env, run_seed=0, stream='train')
timestep = episodes.step(None)            # the first call begins all episodes
timestep = episodes.step(actions)         # ended ones begin again by themselves
"""

import functools
import importlib
import pkgutil
from typing import Any

from harmony_jax import host
from harmony_jax.envs.base import ArraySpec, Environment, Options, Spec, Suite, TimeStep, unknown
from harmony_jax.envs.episodes import (
  EpisodeResult,
  Episodes,
  count_ended,
  episode_seed,
  play,
  random_policy,
  run_episodes,
)
from harmony_jax.envs.processes import Processes

__all__ = [
  'ArraySpec',
  'Environment',
  'EpisodeResult',
  'Episodes',
  'Options',
  'Processes',
  'Spec',
  'Suite',
  'TimeStep',
  'canonical',
  'count_ended',
  'episode_seed',
  'is_pure',
  'make',
  'options',
  'names',
  'play',
  'random_policy',
  'require',
  'run_episodes',
  'tasks',
  'suite',
]


def make(
  suite: str, task: str, /, num_envs: int, processes: bool | str = False, **options: Any
) -> Environment:
  """Makes N environments of one task.

  Args:
    suite: one of `names()`.
    task: e.g. 'Pong' for 'atari'.
    num_envs: N.
    processes: run each environment in a process of its own, side by side: for simulators that are
      slow to render, fail at times, or allow one per process. 'auto': several of a slow suite,
      where each has a core of its own.
    **options: of the suite's class, e.g. `frame_cap` for 'atari'.

  Returns:
    An environment as described in `base`.

  Raises:
    ValueError: an unknown suite or task; the text names the nearest known one.
  """
  if processes == 'auto':
    processes = 1 < num_envs <= len(host.cores()) and _suite(suite).slow
  if processes:
    return Processes(functools.partial(make, suite, task, 1, **options), num_envs)
  return _class(suite)(task, num_envs, **options)


def canonical(suite: str, task: str) -> str:
  """The task's one true name ('ms_pacman' -> 'MsPacman'), without making an environment. Raises as
  `make` does.
  """
  return _class(suite).canonical(task)


def options(suite: str) -> type[Options]:
  """Return the class of a suite's options, without making an environment. Raises as `make` does."""
  module = importlib.import_module(_class(suite).__module__)
  return getattr(module, 'Options', Options)


def tasks(suite: str) -> list[str]:
  """Names of all tasks of a suite; [] where they cannot be counted."""
  return list(getattr(_class(suite), 'tasks', list)())


def require(suite: str) -> None:
  """Raises RuntimeError, saying what to install, where the suite's simulator is missing; before
  anything is written.
  """
  getattr(_class(suite), 'require', lambda: None)()


def suite(name: str) -> Suite:
  """Return the suite that is the module of this package with that name.

  Raises:
    ValueError: there is none; the text names the nearest.
  """
  if name in _modules():
    # imported only here: no suite needs another's simulator
    module = importlib.import_module(f'{__name__}.{name}')
    if hasattr(module, 'SUITE'):
      return module.SUITE
  raise unknown('suite', name, names())


def is_pure(name: str) -> bool:
  """Return whether a suite's environment is JAX itself: see `pure`."""
  from harmony_jax.envs.pure import Environment  # and JAX, which reports do without

  return issubclass(_class(name), Environment)


@functools.cache
def names() -> tuple[str, ...]:
  """Return the names of all suites: the modules of this package that hold a `SUITE`."""
  modules = ((name, importlib.import_module(f'{__name__}.{name}')) for name in _modules())
  return tuple(name for name, module in modules if hasattr(module, 'SUITE'))


@functools.cache
def _modules() -> list[str]:
  return [module.name for module in pkgutil.iter_modules(__path__)]


_suite = suite  # where an argument has its name


def _class(name: str) -> type:
  return suite(name).environment
