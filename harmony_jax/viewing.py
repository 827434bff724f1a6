"""What a method has to look at: its capabilities, and those of the Dreamers.

A method's capabilities (`Method.capabilities`) are pure functions by these names; all are optional:

    report(variables, batch, context, key)      a batch [B, T, ...] as training draws it: the first
                                                `context` steps filtered, the others imagined
    open_loop(variables, carries, actions, context, key)    windows of an episode that was played:
                                                leaves of the policy's carries [W, T, ...], actions
                                                [W, T, A] taken after each step
    dream(variables, key, count, length)        N = `count` episodes that the model makes up
    assign(variables, observation)              assignments to prototypes [N, T, K]
    features(variables, batch, context, key)    what harmony_jax/offline measures: of a batch [B, T,
                                                ...] that is seen to its end 'feature' [B, T, F],
                                                'reward' and, if there is one, 'kl' [B, T]; and
                                                'open_loop' [B, T - context], rewards imagined
                                                after `context` steps

The first three return what they predict of each step: 'observation' {name: [N, T, ...]} (pictures
in [0, 1]; those that the model can draw, perhaps none), 'reward' [N, T], 'continue' [N, T];
'prototype' [N, T, K] where there are prototypes, and perhaps 'value' [N, T]. Of a model in parts
there is 'parts' {name: {part: [N, T, ...]}}, too: pictures in which all parts but one stand still.
A dream has 'action' [N, T, A], too, and a report of a model with prototypes 'assigned' [N, T, K].
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

Variables = Mapping[str, Any]


def of(dreamer: Any) -> dict[str, Callable]:
  """Return a Dreamer's capabilities; it dreams if there is something to be seen of its dreams."""
  found = {'report': report, 'open_loop': open_loop, 'features': features}
  if dreamer.draws_pictures():
    found['dream'] = dream
  if hasattr(dreamer.objective, 'assign'):
    found['assign'] = assign
  return {name: functools.partial(function, dreamer) for name, function in found.items()}


def report(dreamer: Any, variables: Variables, batch: Any, context: int, key: Any) -> dict:
  """Predict a batch of training; see above."""
  posterior, future, _ = _filter(dreamer, variables, batch, context, context, key)
  feature = jnp.concatenate([posterior.feature(), future.feature()], 1)  # [B, T, F]
  found = dreamer.predict(variables, feature)
  if hasattr(dreamer.objective, 'assign'):
    found['assigned'] = assign(dreamer, variables, {k: batch[k] for k in dreamer.shapes})
  return found


def features(dreamer: Any, variables: Variables, batch: Any, context: int, key: Any) -> dict:
  """Return features, rewards and KL[q ‖ p] of a batch; see above."""
  length = batch['is_first'].shape[1]
  posterior, future, prior = _filter(dreamer, variables, batch, length, context, key)
  reward = lambda states: dreamer.reward.mean(variables['world_model']['reward'], states.feature())
  return {
    'feature': posterior.feature(),
    'reward': reward(posterior),
    'kl': dreamer.rssm.latents.kl(posterior.stats, prior),
    'open_loop': reward(future),
  }


def open_loop(
  dreamer: Any, variables: Variables, carries: Any, actions: jax.Array, context: int, key: Any
) -> dict:
  """Predict windows of an episode whose first `context` steps are known; see above."""
  known = jax.tree.map(lambda x: x[:, :context], carries.latent)  # [W, context, ...]
  start = jax.tree.map(lambda x: x[:, -1], known)
  noise = dreamer.rssm.latents.noise(key, actions[:, context:].shape[:2])
  future = dreamer.rssm.rollout(
    variables['world_model']['rssm'], start, actions[:, context - 1 : -1], noise
  )
  feature = jnp.concatenate([known.feature(), future.feature()], 1)  # [W, T, F]
  return _predict_one_by_one(dreamer, variables, feature)


def dream(dreamer: Any, variables: Variables, key: Any, count: int, length: int) -> dict:
  """Make episodes up, with the policy's actions, from the model's own idea of a beginning."""
  first, latents, actions = jax.random.split(key, 3)
  noise = dreamer.rssm.latents.noise
  # An episode's first state follows the initial one by an action of zero; here unobserved.
  carry = dreamer.initial_carry(variables, count)
  model = variables['world_model']
  start = dreamer.rssm.imagine(model['rssm'], *carry, noise(first, (count,)))
  found = dreamer.imagine(
    model,
    variables['actor'],
    start,
    jnp.ones(count),
    latent=noise(latents, (length - 1, count)),
    action=dreamer.actor.noise(actions, (length, count)),
    horizon=length - 1,
  )
  predicted = _predict_one_by_one(dreamer, variables, found.feature.swapaxes(0, 1))
  return predicted | {'action': found.action.swapaxes(0, 1)}


def assign(dreamer: Any, variables: Variables, observation: Any) -> jax.Array:
  """Assign observations to prototypes; see above."""
  return dreamer.objective.assign(variables['world_model'], observation)


def _filter(dreamer, variables, batch, seen, context, key):
  """(posterior states of the first `seen` steps, those imagined from `context` on, prior)."""
  model, size = variables['world_model']['rssm'], len(batch['is_first'])
  carry = dreamer.carry_before(variables, batch)
  previous = jnp.concatenate([carry.action[:, None], batch['action'][:, :-1]], 1)  # [B, T, A]
  noise = dreamer.draws(key, *batch['is_first'].shape).posterior
  noise = None if noise is None else noise[:size]
  first = lambda x: None if x is None else x[:, :seen]
  embed = dreamer.encode(variables, {k: first(batch[k]) for k in dreamer.shapes})
  start = dreamer.rssm.initial(model, size)
  posterior, prior = dreamer.rssm.observe(
    model, start, embed, first(previous), first(batch['is_first']), first(noise)
  )
  start = jax.tree.map(lambda x: x[:, context - 1], posterior)
  unseen = None if noise is None else noise[:, context:]
  return posterior, dreamer.rssm.rollout(model, start, previous[:, context:], unseen), prior


def _predict_one_by_one(dreamer, variables, feature):
  """Predict [W, T, F] a window at a time: its pictures are large."""
  return jax.lax.map(lambda window: dreamer.predict(variables, window), feature)
