"""Denoised MDP's second way to learn a policy: a soft actor critic on the batch's own transitions.

States are x alone, rewards x's share of what the model predicts, both before the model's update.
Nothing is imagined, and no transition is an end.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from harmony_jax import method, replicas
from harmony_jax.envs.base import Spec
from harmony_jax.methods.denoised_mdp import DenoisedMDP
from harmony_jax.methods.denoised_mdp_networks import ELU, Scalar, drawn
from harmony_jax.methods.denoised_mdp_settings import DenoisedMDPSettings
from harmony_jax.methods.dreamer_parts import Draws, Params, TrainState
from harmony_jax.networks import Head
from harmony_jax.optimizers import descend, make_optimizer

sg = jax.lax.stop_gradient


class Transitions(NamedTuple):
  """Steps of a batch, N = B (T-1); noise is standard normal, of the policy in both states."""

  state: jax.Array  # [N, F] of x
  action: jax.Array  # [N, A]
  reward: jax.Array  # [N]
  after: jax.Array  # [N, F]
  noise: jax.Array  # [N, A]
  noise_after: jax.Array  # [N, A]


class DenoisedSAC(DenoisedMDP):
  """Params by `world_model`, `actor`, `critic` (two values) and `temperature` (its logarithm)."""

  def __init__(self, settings: DenoisedMDPSettings, spec: Spec):
    super().__init__(settings, spec)
    inputs = self.rssm.features['x'] + spec.num_actions
    dtype = jnp.dtype(settings.compute_dtype)
    self.critic: Any = Scalar(Head(inputs, settings.critic, (1,), 1.0, ELU, dtype))
    for name in ('actor', 'critic', 'temperature'):
      self.optimizers[name] = make_optimizer(settings.sac.opt)

  def values(self, critic: Params, state: jax.Array, action: jax.Array) -> jax.Array:
    """Return both values [2, N]."""
    pair = jnp.concatenate([state, action], -1)
    return jnp.stack([self.critic.mean(critic[name], pair) for name in ('q0', 'q1')])

  def transitions(
    self, params: Params, post: Any, batch: method.Batch, draws: Draws
  ) -> Transitions:
    """Return the steps of a batch; params are the world model's before its update."""
    size, length = batch['is_first'].shape
    feature = sg(post.x.feature())  # [B, T, F]
    reward = sg(self.reward.mean(params['reward'], feature))  # [B, T]
    noise = draws.action[:2].reshape(2, size, length, -1)[:, :, :-1]  # [2, B, T-1, A]
    rows = feature[:, :-1], batch['action'][:, :-1], reward[:, 1:], feature[:, 1:], *noise
    return Transitions(*(x.reshape(-1, *x.shape[2:]) for x in rows))

  def critic_target(
    self, params: Mapping[str, Params], slow: Params, step: Transitions
  ) -> jax.Array:
    """Return r + γ [min Q'(x', a') - α log π(a' | x')], [N], for a' of the policy.

    As in the authors' code the density is that of this state's action a, drawn by the policy in x,
    under the policy in x' (`sac.target`).
    """
    policy = self.actor.policy(params['actor'], step.after)
    action = policy.sample(step.noise_after)
    judged = action
    if self.settings.sac.target == 'code':
      judged = self.actor.policy(params['actor'], step.state).sample(step.noise)
    future = self.values(slow, step.after, action).min(0)
    entropy = jnp.exp(params['temperature']['log']) * policy.log_prob(judged)
    return sg(step.reward + self.settings.behavior.discount * (future - entropy))

  def update(
    self, state: TrainState, batch: method.Batch
  ) -> tuple[TrainState, method.Metrics, dict[str, Any], tuple[Any, Draws]]:
    """Return (next state, metrics, gradients by subtree, (posterior states, draws))."""
    draws = self.draws(jax.random.fold_in(state.rng, state.step), *batch['is_first'].shape)
    before = state.params['world_model']
    state, metrics, gradient, post = self.learn_model(state, batch, draws)
    step = self.transitions(before, post, batch, draws)
    state, more, gradients = self.learn_behavior(state, step)
    gradients['world_model'] = gradient
    return state, replicas.mean(metrics | more), gradients, (post, draws)

  def learn_behavior(
    self, state: TrainState, step: Transitions
  ) -> tuple[TrainState, method.Metrics, dict[str, Any]]:
    """Learn values, policy by the new values, temperature, slow values.

    Returns: (state, metrics, gradients by subtree).
    """
    slow, params, opt = state.targets['critic'], dict(state.params), dict(state.opt_state)
    gradients, metrics = {}, {}
    target, temperature = self.critic_target(params, slow, step), params['temperature']['log']

    def critic_loss(critic):
      losses = 0.5 * jnp.square(self.values(critic, step.state, step.action) - target).mean(-1)
      return losses.sum(), {'loss/q0': losses[0], 'loss/q1': losses[1]}

    def actor_loss(actor):
      policy = self.actor.policy(actor, step.state)
      action = policy.sample(step.noise)
      likely = policy.log_prob(action)  # [N]
      value = self.values(params['critic'], step.state, action).min(0)
      loss = (jnp.exp(temperature) * likely - value).mean()
      found = {'actor/entropy': -likely.mean(), 'critic/value': value.mean()}
      return loss, found | {'loss/actor': loss}

    def temperature_loss(log):  # towards an entropy of -A
      loss = log['log'] * (metrics['actor/entropy'] + self.spec.num_actions)
      return loss, {'loss/temperature': loss, 'actor/temperature': jnp.exp(log['log'])}

    losses = {'critic': critic_loss, 'actor': actor_loss, 'temperature': temperature_loss}
    for name, loss in losses.items():
      params[name], opt[name], gradients[name], more = descend(
        self.optimizers[name], loss, params[name], opt[name]
      )
      metrics |= more
    tau = self.settings.sac.tau
    slow = jax.tree.map(lambda a, b: a + tau * (b - a), slow, params['critic'])
    state = state.replace(
      params=params, opt_state=opt, targets={'critic': slow}, step=state.step + 1
    )
    return state, metrics, gradients

  def init(self, key: jax.Array) -> TrainState:
    """Return a fresh state; the slow values are copies."""
    state = super().init(key)
    return state.replace(targets={'critic': jax.tree.map(jnp.copy, state.params['critic'])})

  def init_behavior(self, key: jax.Array, model_key: jax.Array) -> dict[str, Params]:
    """Return the parameters beside the world model's."""
    made = super().init_behavior(key, model_key)
    both: Params = dict.fromkeys(('q0', 'q1'), made['critic'])
    log = jnp.log(jnp.float32(self.settings.sac.temperature))
    values = drawn(jax.random.fold_in(key, 100), both)  # beyond the keys of `made`
    return {**made, 'critic': values, 'temperature': {'log': log}}
