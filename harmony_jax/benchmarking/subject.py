"""What is measured: an agent of a configuration, and random data of the shapes that it sees."""

import dataclasses

import jax
import numpy as np

from harmony_jax import envs
from harmony_jax.agent import Agent
from harmony_jax.envs.base import ArraySpec, Spec, TimeStep
from harmony_jax.errors import UserError

# Suites whose actions are taken as known, so that a training step can be measured without the
# simulator.
ACTIONS = {'atari': (6, True), 'metaworld': (4, False)}


def make_spec(config, actions: int = 0) -> Spec:
  """The suite's specification: of its images and number of actions where known, else of an
  environment of it.

  Args:
    actions: number of actions, where it shall be another; 0 takes the suite's.
  """
  if config.suite in ACTIONS and config.env.get('observe', 'image') == 'image':
    count, discrete = ACTIONS[config.suite]
    spec = Spec({'image': ArraySpec((64, 64, 3), np.uint8)}, discrete, count, 1)
  else:
    env = make_env(config, 1)
    spec = env.spec
    env.close()
  return dataclasses.replace(spec, num_actions=actions) if actions else spec


def make_env(config, num_envs, **options):
  """N environments of the configuration. Raises UserError for a bad option, or where the simulator
  is missing.
  """
  try:
    return envs.make(
      config.suite, config.task, num_envs, config.env_processes, **{**config.env, **options}
    )
  except (ValueError, RuntimeError) as error:
    raise UserError(str(error)) from None


def make_agent(config, spec: Spec) -> Agent:
  """The agent of the configuration for these observations. Raises UserError for sizes that do not
  fit them.
  """
  shapes = {name: array.shape for name, array in spec.observation.items()}
  try:
    return Agent.from_config(config, shapes, spec.num_actions, spec.discrete)
  except ValueError as error:
    raise UserError(str(error)) from None


def random_batch(config, spec: Spec, seed: int = 0) -> dict:
  """A batch [B, T, ...] as replay gives it, of noise, with two ends of episodes in each row."""
  rng, lead = np.random.default_rng(seed), (config.batch_size, config.batch_length)
  batch = _observation(rng, spec, lead) | {
    'action': _actions(rng, spec, lead),
    'reward': rng.normal(size=lead).astype(np.float32),
  }
  last = np.zeros(lead, bool)
  last[:, [lead[1] // 3, lead[1] // 2]] = True
  first = np.roll(last, 1, 1)
  first[:, 0] = True
  if config.replay.first_action:
    first[:, 0] = False
    batch['before'] = _actions(rng, spec, lead[:1])
  return batch | {
    'is_first': first,
    'is_last': last,
    'is_terminal': last & rng.integers(2, size=lead).astype(bool),
  }


def random_timestep(spec: Spec, num_envs: int, seed: int = 0) -> TimeStep:
  """A time step of noise in the middle of N episodes."""
  rng = np.random.default_rng(seed)
  no = np.zeros(num_envs, bool)
  return TimeStep(
    _observation(rng, spec, (num_envs,)), np.zeros(num_envs, np.float32), no, no.copy(), no.copy()
  )


def first_state(compiled, seed: int = 0):
  """A fresh training state, by the agent's compiled functions."""
  return jax.block_until_ready(compiled['init'](jax.random.key(seed)))


def _observation(rng, spec, lead):
  draw = lambda array: (
    rng.integers(0, 256, (*lead, *array.shape), np.uint8)
    if array.dtype == np.uint8
    else rng.normal(size=(*lead, *array.shape)).astype(array.dtype)
  )
  return {name: draw(array) for name, array in spec.observation.items()}


def _actions(rng, spec, lead):
  if spec.discrete:
    return np.eye(spec.num_actions, dtype=np.float32)[rng.integers(spec.num_actions, size=lead)]
  return rng.uniform(-1, 1, (*lead, spec.num_actions)).astype(np.float32)
