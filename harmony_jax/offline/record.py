"""Recording a buffer: policies that need no training, or a trained agent, in one environment.

A policy here is `act(timestep, rng) -> [1, A]`: a time step of one environment, the generator of
its episode, and the action as methods and the replay have it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from harmony_jax.envs import episode_seed
from harmony_jax.envs.base import (
  Environment,
  TimeStep,
  random_vectors,
  to_environment,
  zero_actions,
)
from harmony_jax.errors import UserError
from harmony_jax.offline.buffer import FORMAT, ROWS, Buffer
from harmony_jax.trained import Agent

Policy = Callable[[TimeStep, np.random.Generator], np.ndarray]
MEMORY, LARGEST = 0.9, 2.0  # ρ, and the largest scale


def random(env: Environment) -> Policy:
  """Return the policy of uniform actions."""
  return lambda timestep, rng: random_vectors(env.spec, 1, rng)


def smooth(env: Environment) -> Policy:
  """Return the policy aₜ = clip(s nₜ, -1, 1), nₜ = ρ nₜ₋₁ + √(1-ρ²) εₜ with n₀, εₜ ~ N(0, 1).

  ρ is 0.9 (an Ornstein-Uhlenbeck process of variance 1 in discrete time) and s ~ U(0, 2) is drawn
  once an episode, so that a buffer has calm and wild ones.

  Raises:
    UserError: the environment has actions that are choices.
  """
  spec = env.spec
  if spec.factors:
    raise UserError('--policy=smooth is for continuous actions, here are choices: use random')
  noise, scale = np.zeros((1, spec.num_actions)), 1.0

  def act(timestep, rng):
    nonlocal noise, scale
    drawn = rng.normal(size=noise.shape)
    if timestep.is_first[0]:
      noise, scale = drawn, rng.uniform(0, LARGEST)
    else:
      noise = MEMORY * noise + math.sqrt(1 - MEMORY**2) * drawn
    return np.clip(scale * noise, -1, 1).astype(np.float32)

  return act


def scripted(env: Environment) -> Policy:
  """Return the policy that was written by hand for the environment's task.

  Raises:
    UserError: there is none.
  """
  if not hasattr(env, 'scripted'):
    raise UserError('--policy=scripted: this suite has no policies written by hand; metaworld has')
  return lambda timestep, rng: env.scripted()  # pyright: ignore[reportAttributeAccessIssue]


def mixed(policies: Sequence[Policy]) -> Policy:
  """Return the policy that is one of these in each episode, drawn with equal shares."""
  current = policies[0]

  def act(timestep, rng):
    nonlocal current
    if timestep.is_first[0]:
      current = policies[rng.integers(len(policies))]
    return current(timestep, rng)

  return act if len(policies) > 1 else current


def trained(agent: Agent) -> Policy:
  """Return the policy of a trained agent, as it is evaluated."""
  state = None

  def act(timestep, rng):
    nonlocal state
    _, state = agent.policy(timestep.observation, state, timestep.is_first)
    return np.asarray(state.action)

  return act


POLICIES = {'random': random, 'smooth': smooth, 'scripted': scripted}


def record(
  env: Environment,
  policy: Policy,
  episodes: int,
  length: int,
  seed: int,
  header: Mapping[str, Any],
  tell: Callable[[int], None] = lambda episode: None,
) -> Buffer:
  """Play episodes of at most `length` steps, the first observation being one, in an environment.

  Each has a seed of its own, for the environment and for the policy. An environment with
  `state() -> [1, S]` and `state_names` is asked for its true state at every step.

  Args:
    header: what is to be told beside that. tell: called with the number of each episode that ended.
  """
  seen, actions, states, starts = [], [], [], [0]
  state = getattr(env, 'state', lambda: np.zeros((1, 0)))
  for episode in range(episodes):
    rng = np.random.default_rng((seed, episode))
    number, restart = np.array([episode_seed(seed, 'train', 0, episode)]), np.ones(1, bool)
    action = zero_actions(env.spec, 1)
    for step in range(length):
      timestep = env.step(action, restart, number)
      states.append(np.array(state()[0]))  # it may be the simulator's own, as may an action be
      vector = policy(timestep, rng)
      action, restart = to_environment(vector, env.spec), np.zeros(1, bool)
      actions.append(np.array(vector[0]))
      timestep.is_last[0] |= step == length - 1
      seen.append(timestep)
      if timestep.is_last[0]:
        break
    starts.append(len(seen))
    tell(episode)
  whole = {
    **header,
    'format': FORMAT,
    'seed': seed,
    'episodes': episodes,
    'length': length,
    'spec': env.spec.to_json(),
    'state_names': list(getattr(env, 'state_names', ())),
  }
  observation = {
    name: np.concatenate([each.observation[name] for each in seen]) for name in env.spec.observation
  }
  rows = {name: np.concatenate([getattr(each, name) for each in seen]) for name in ROWS[1:]}
  rows['action'] = np.array(actions, np.float32)
  return Buffer(whole, observation, rows, np.array(starts), np.array(states, np.float32))
