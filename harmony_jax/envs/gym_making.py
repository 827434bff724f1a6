"""How an environment of Gymnasium's is made: its package, its options, the wrappers around it."""

import copy
import importlib
import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

from harmony_jax.envs import rendering
from harmony_jax.errors import FAULTS, EnvironmentFault, one_line, raised

MOST_WRAPPERS = 99
# What registers ids that begin so, and what pip calls it; others are named as 'package:Name-v0'.
PACKAGES = {
  'ALE/': ('ale_py', 'ale-py'),
  'MiniGrid-': ('minigrid', 'minigrid'),
  'BabyAI-': ('minigrid', 'minigrid'),
  'MiniWorld-': ('miniworld', 'miniworld'),
  'Vizdoom': ('vizdoom.gymnasium_wrapper', 'vizdoom'),
  'gym_pusht/': ('gym_pusht', 'gym-pusht'),
  'highway-': ('highway_env', 'highway-env'),
  'dm_control/': ('shimmy', 'shimmy'),
  'PointMaze_': ('gymnasium_robotics', 'gymnasium-robotics'),
  'AntMaze_': ('gymnasium_robotics', 'gymnasium-robotics'),
  'Fetch': ('gymnasium_robotics', 'gymnasium-robotics'),
  'HandManipulate': ('gymnasium_robotics', 'gymnasium-robotics'),
  'Panda': ('panda_gym', 'panda-gym'),
}


def import_package(task: str, module: str, pip: str = '') -> None:
  """Import what registers or holds something that a task names, from pip's package `pip`."""
  try:
    importlib.import_module(module)
  except ImportError as error:
    if pip and error.name == module.partition('.')[0]:
      raise ValueError(
        f'{task} is of the package {pip}, which is not installed: pip install {pip}'
      ) from None
    raise ValueError(
      f'{task!r} asks for the package {module!r}, which cannot be imported: {one_line(str(error))}'
    ) from None
  except FAULTS as error:
    raise EnvironmentFault(f'{task}: to import {module} raised {raised(error)}') from error


def make(task: str, options: Mapping[str, Any], num_envs: int = 0) -> Any:
  """Make one environment, or with `num_envs` the id's own `VectorEnv`; each has options of its own,
  as it may write into them."""
  import gymnasium

  options = copy.deepcopy(options)
  if 'mujoco' in str(gymnasium.spec(task.rpartition(':')[2]).entry_point):
    try:
      rendering.choose_backend()  # in any case: MuJoCo settles on one when it is imported
    except RuntimeError:
      if 'render_mode' in options:
        raise
  how = {'disable_env_checker': True}
  if num_envs:
    how = {'num_envs': num_envs, 'vectorization_mode': 'vector_entry_point'}
  make = gymnasium.make_vec if num_envs else gymnasium.make
  try:
    return make(task, **how, **options)
  except (ImportError, gymnasium.error.Error) as error:
    raise RuntimeError(f'{task} cannot be made: {one_line(str(error))}') from None
  except TypeError as error:
    if options and re.search('(keyword|positional) argument', str(error)):
      taken = ', '.join(parameters(task) or ['nothing that is known'])
      raise ValueError(
        f'{task} does not take {options}: {one_line(str(error))}; it takes {taken}'
      ) from None
    raise EnvironmentFault(f'{task} cannot be made: {raised(error)}') from error
  except FAULTS as error:
    text = f'does gymnasium.make({task!r}) work by itself?'
    raise EnvironmentFault(f'{task} cannot be made: {raised(error)} ({text})') from error


def parameters(task: str) -> list[str] | None:
  """The names that its constructor takes, without those of `**…`; None where it cannot be known."""
  import gymnasium
  from gymnasium.envs.registration import load_env_creator

  entry = gymnasium.spec(task.rpartition(':')[2]).entry_point
  try:
    made = load_env_creator(entry) if isinstance(entry, str) else entry
    return [
      each.name
      for each in inspect.signature(made).parameters.values()  # pyright: ignore[reportArgumentType]
      if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)
    ]
  except Exception:
    return None


def wrapped(task: str, env: Any, wrappers: Sequence[str]) -> Any:
  """Put the wrappers around it, in this order."""
  for path in wrappers:
    wrap = _wrapper(path)
    try:
      env = wrap(env)
    except FAULTS as error:
      raise EnvironmentFault(f'{task}: its wrapper {path} raised {raised(error)}') from error
  _refuse_running(task, env)
  return env


def _wrapper(path):
  module, _, name = path.partition(':')
  if not name:
    raise ValueError(f'config.env.wrappers has {path!r}: expected my_package:MyWrapper')
  import_package(path, module)
  try:
    return getattr(importlib.import_module(module), name)
  except AttributeError:
    raise ValueError(f'config.env.wrappers has {path!r}: {module} has no {name!r}') from None


def _refuse_running(task, env):
  """Refuse a wrapper that normalises by what its own environment has seen: an evaluation's begins
  from nothing, so that the policy sees, and the score is of, other numbers than in training.
  """
  for _ in range(MOST_WRAPPERS):
    inside = getattr(env, '__dict__', {})
    if inside.keys() & {'obs_rms', 'return_rms'}:  # as Gymnasium's, and copies of it
      raise ValueError(
        f'{task}: its wrapper {type(env).__name__} normalises by running statistics, which each '
        'environment has of its own, those of evaluation too: take one that is the same function '
        'in every step'
      )
    env = inside.get('env')
