"""A test of the environment convention, for environments of your own.

from harmony_jax.envs.check import check
check(MyEnv(num_envs=2))
"""

import inspect

import numpy as np

from harmony_jax.envs import base
from harmony_jax.envs.episodes import random_policy

# What is stored beside the observations, under these names.
RESERVED = ('action', 'reward', 'is_first', 'is_last', 'is_terminal')


def check(env: base.Environment, steps: int = 50, deterministic: bool = True) -> None:
  """Plays a little and verifies what `base` promises.

  Args:
    env: at least one environment; best with two or more.
    steps: random steps to take.
    deterministic: an episode is a function of its seed and the actions. Give
      False for simulators that cannot keep this; then it is not verified.

  Raises:
    AssertionError: says in one line what is wrong.
  """
  _check_spec(env)
  seeds = np.arange(env.num_envs) + 7
  played = _play(env, seeds, steps)
  if deterministic:
    for index, (old, new) in enumerate(zip(played, _play(env, seeds, steps))):
      _assert_same(old, new, slice(None), f'same seeds and actions, but step {index} differs')
  _check_restart(env, seeds)
  _check_idle(env, seeds)


def _require(fact, message):
  """Raise what `assert` would, which Python leaves out with -O."""
  if not fact:
    raise AssertionError(message)


def _check_spec(env):
  for name in ('spec', 'num_envs', 'step', 'close'):
    _require(hasattr(env, name), f'{type(env).__name__} has no {name!r}')
  signature = inspect.signature(env.step)
  try:
    signature.bind(None, None, None, idle=None)
  except TypeError:
    raise AssertionError(
      f'step takes {signature}, not (actions, restart, seeds, idle=None)'
    ) from None
  spec = env.spec
  _require(isinstance(spec, base.Spec), f'env.spec is a {type(spec).__name__}, not a Spec')
  _require(isinstance(env.num_envs, int) and env.num_envs > 0, f'num_envs is {env.num_envs!r}')
  _require(spec.observation, 'spec.observation is empty')
  _require(spec.num_actions >= 1 and spec.action_repeat >= 1, f'impossible counts in {spec}')
  _require(
    isinstance(spec.choices, tuple) and all(type(size) is int for size in spec.choices),
    f'spec.choices is {spec.choices!r}, not a tuple of integers',
  )
  for name, array in spec.observation.items():
    _require(
      name not in RESERVED,
      f'an observation cannot be named {name!r}: the replay stores something else there',
    )
    _require(
      isinstance(array, base.ArraySpec),
      f'the spec of observation {name!r} is {array!r}, not an ArraySpec',
    )
    rank, dtype = len(array.shape), np.dtype(array.dtype)
    _require(
      rank in (0, 1, 3),
      f'observation {name!r} has shape {array.shape}: neither [H, W, C] nor a vector or scalar',
    )
    _require(
      rank < 3 or dtype == np.uint8,
      f'observation {name!r} is an image of {dtype}; images are uint8',
    )


def _play(env, seeds, steps):
  """The time steps of `steps` random steps; ended environments begin their episode anew."""
  policy = random_policy(env.spec, seed=0)
  none, everyone = np.zeros(env.num_envs, bool), np.ones(env.num_envs, bool)
  timestep = env.step(base.zero_actions(env.spec, env.num_envs), everyone, seeds)
  _check_timestep(env, timestep, everyone)
  played = [timestep]
  for _ in range(steps):
    before = base.copy_timestep(timestep)
    restart = timestep.is_last.copy() | none
    following = env.step(policy(timestep), restart, seeds)
    _assert_same(timestep, before, slice(None), 'a step changed the arrays of the time step before')
    _check_timestep(env, following, restart)
    timestep = following
    played.append(timestep)
  return played


def _check_timestep(env, timestep, restart):
  """Keys, shapes and dtypes; flags that agree with each other and with `restart` [N]."""
  _require(isinstance(timestep, base.TimeStep), f'step returned a {type(timestep).__name__}')
  specs = env.spec.observation
  _require(
    timestep.observation.keys() == specs.keys(),
    f'observation has {sorted(timestep.observation)}, the spec {sorted(specs)}',
  )
  for name, spec in specs.items():
    array = timestep.observation[name]
    _check_array(f'observation {name!r}', array, (env.num_envs, *spec.shape), spec.dtype)
    bad = array[~np.isfinite(array)]
    _require(not bad.size, f'observation {name!r} has {next(iter(bad), 0)} in it')
  _check_array('reward', timestep.reward, (env.num_envs,), np.float32)
  for name in ('is_first', 'is_last', 'is_terminal'):
    _check_array(name, getattr(timestep, name), (env.num_envs,), bool)
  first, last = timestep.is_first, timestep.is_last
  _require(np.isfinite(timestep.reward).all(), f'reward is {timestep.reward}')
  _require((first == restart).all(), f'restart was {restart}, is_first is {first}')
  _require(not (first & last).any(), 'is_first and is_last at once: an episode without a step')
  _require(
    (timestep.reward[first] == 0).all(), f'reward {timestep.reward} where is_first is {first}'
  )
  _require((last | ~timestep.is_terminal).all(), 'is_terminal without is_last')
  for name, array in getattr(env, 'measures', {}).items():
    _check_array(f'measure {name!r}', array, (env.num_envs,), np.float32)


def _check_array(name, array, shape, dtype):
  _require(isinstance(array, np.ndarray), f'{name} is a {type(array).__name__}, not a NumPy array')
  _require(array.shape == shape, f'{name} has shape {array.shape}, not {shape}')
  _require(array.dtype == dtype, f'{name} has dtype {array.dtype}, not {np.dtype(dtype)}')


def _check_restart(env, seeds):
  """One environment restarts in the middle of its episode."""
  everyone, only = np.ones(env.num_envs, bool), np.arange(env.num_envs) == 0
  actions = base.zero_actions(env.spec, env.num_envs)
  timestep = env.step(actions, everyone, seeds)
  timestep = env.step(actions, timestep.is_last, seeds)
  restart = only | timestep.is_last
  _check_timestep(env, env.step(actions, restart, seeds), restart)


def _check_idle(env, seeds):
  """An idle environment repeats its time step, whatever its action, and then goes on."""
  everyone, only = np.ones(env.num_envs, bool), np.arange(env.num_envs) == 0
  actions = base.zero_actions(env.spec, env.num_envs)
  before = env.step(actions, everyone, seeds)
  for restart in (before.is_last, before.is_last | only):
    after = env.step(actions, restart, seeds, idle=only)
    _assert_same(before, after, only, 'an idle environment did not repeat its time step')
  after = env.step(actions, after.is_last, seeds)
  _require(not after.is_first[0], 'an environment began anew after it was idle')


def _assert_same(a, b, rows, message):
  for name in a.observation:
    same = np.array_equal(a.observation[name][rows], b.observation[name][rows])
    _require(same, f'{message} (observation {name!r})')
  for name in ('reward', 'is_first', 'is_last', 'is_terminal'):
    _require(np.array_equal(getattr(a, name)[rows], getattr(b, name)[rows]), f'{message} ({name})')
