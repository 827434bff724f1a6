"""What a world model expects, for people to look at: an episode's open-loop prediction, and dreams.

A method's capabilities (`Method.capabilities`) are pure functions by these names; all are optional:

    report(variables, batch, context, key)      a batch [B, T, ...] as training draws it: the first
                                                `context` steps filtered, the others imagined
    open_loop(variables, carries, actions, context, key)    windows of an episode that was played:
                                                leaves of the policy's carries [W, T, ...], actions
                                                [W, T, A] taken after each step
    dream(variables, key, count, length)        N = `count` episodes that the model makes up
    assign(variables, observation)              assignments to prototypes [N, T, K] of observations

The first three return what they predict, of [N, T]: 'observation' {name: [N, T, ...]} (pictures in
[0, 1]; those that it can draw, perhaps none), 'reward' [N, T], 'continue' [N, T]; 'prototype'
[N, T, K] where there are prototypes; a dream also 'action' [N, T, A]; a report 'assigned' [N, T, K].

Pure functions of an agent and its weights (`TrainState.weights`). T steps, N episodes, W windows, S
latent groups.
"""

import dataclasses

import jax
import jax.numpy as jnp

from harmony_jax.agent import Agent
from harmony_jax.behavior import Noise


def open_loop(agent: Agent, weights, latents, actions, context: int, key) -> dict:
  """Predictions for windows of episodes whose first `context` steps are known.

  Args:
    latents: posterior states of every step, leaves [W, T, ...]; those after the context are not
      looked at.
    actions: [W, T, A], taken after each step. key: randomness.

  Returns: of `WorldModel.predict`, leaves [W, T, ...].
  """
  model, params = agent.world_model, weights['world_model']
  known = jax.tree.map(lambda x: x[:, :context], latents)
  start = jax.tree.map(lambda x: x[:, -1], known)
  future = model.follow(
    params,
    start,
    actions[:, context - 1 : -1],
    _latent_noise(agent, key, actions[:, context:].shape[:2]),
  )
  feature = jnp.concatenate([known.feature(), future.feature()], 1)
  return _predict_one_by_one(model, params, feature)


def dream(agent: Agent, weights, key, count: int, length: int) -> dict:
  """Episodes that the world model makes up, with the policy's actions, from its own idea of a first
  observation.

  Returns: of `WorldModel.predict`, leaves [N, T, ...], N = `count`, T = `length`; and 'action' [N,
  T, A].
  """
  model, params = agent.world_model, weights['world_model']
  keys = jax.random.split(key, 3)
  # An episode's first state follows the initial one by an action of zero; here without an
  # observation.
  carry = agent.initial_carry(weights, count)
  start = model.rssm.imagine(
    params['rssm'], carry.latent, carry.action, _latent_noise(agent, keys[0], (count,))
  )
  noise = Noise(
    _latent_noise(agent, keys[1], (length - 1, count)),
    agent.behavior.actor.noise(keys[2], (length, count)),
  )
  behavior = dataclasses.replace(agent.behavior, horizon=length - 1)
  trajectory = behavior.imagine(model, params, weights['actor'], start, jnp.ones(count), noise)
  found = _predict_one_by_one(model, params, trajectory.feature.swapaxes(0, 1))
  return found | {'action': trajectory.action.swapaxes(0, 1)}


def _latent_noise(agent, key, shape):
  return agent.world_model.rssm.latents.noise(key, shape)


def _predict_one_by_one(model, params, feature):
  """`WorldModel.predict` of [W, T, F], a window at a time: its pictures are large."""
  return jax.lax.map(lambda window: model.predict(params, window), feature)
