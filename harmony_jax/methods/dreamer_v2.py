"""DreamerV2 with harmonizers, as the paper's authors ran it on robotic tasks: what differs from V3.

Source: the authors' PyTorch code, configurations `metaworld` and `dmc_remastered`, and Table 1 of
the paper. Shapes as on the page of DreamerV3. What suites change stands in their own files.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from harmony_jax import method, replicas, settings
from harmony_jax.actions import Policy
from harmony_jax.distributions import Percentiles, lambda_returns
from harmony_jax.methods import dreamer
from harmony_jax.methods.dreamer_parts import (
  Draws,
  Params,
  TrainState,
  Trajectory,
  imagination_metrics,
)
from harmony_jax.methods.dreamer_settings import DreamerSettings, upgrade
from harmony_jax.rssm import State

sg = jax.lax.stop_gradient
_HEADS = ('reward_head', 'continue_head', 'actor', 'critic')
SETTINGS = settings.replace(
  DreamerSettings(),
  {
    'batch_length': 50,
    'network.normalization': 'none',
    'network.activation': 'elu',
    'network.init': 'uniform',
    **{f'{net}.depth': 48 for net in ('encoder', 'decoder')},
    **{f'{net}.padding': 'valid' for net in ('encoder', 'decoder')},
    **{f'{net}.mlp_layers': 4 for net in ('encoder', 'decoder')},
    **{f'{net}.mlp_units': 400 for net in ('encoder', 'decoder')},
    'rssm.deter': 1024,
    'rssm.units': 1024,
    'rssm.unimix': 0.0,
    'rssm.action_clip': 0.0,
    'rssm.learned_initial': False,
    'rssm.gru_bias': True,
    **{f'{head}.layers': 4 for head in _HEADS},
    **{f'{head}.units': 400 for head in _HEADS},
    'reward_head.distribution': 'gaussian',
    # Off in the paper's configurations: episodes never end early there. RLBench turns it on.
    'continue_head.enabled': False,
    'continue_head.predicts': 'discount',
    'actor.distribution': 'trunc_normal',
    'actor.unimix': 0.0,
    'critic.distribution': 'gaussian',
    'critic.slow_regularizer': 0.0,
    'critic.slow_fraction': 1.0,
    'critic.slow_every': 100,
    'losses.likelihood': 'gaussian',
    'losses.free_average': True,
    'losses.dyn': 0.8,
    'losses.rep': 0.2,
    'weighting.dynamics_regularizer': 'paper',  # here the code has log(1+σ_d) with weight 1, too
    'behavior.discount': 0.99,
    'behavior.entropy': 1e-4,
    'model_opt.lr': 3e-4,
    'model_opt.eps': 1e-5,
    'model_opt.clip': 100.0,
    **{f'{each}_opt.weight_decay': 1e-6 for each in ('model', 'actor', 'critic')},
    **{f'{each}_opt.lr': 8e-5 for each in ('actor', 'critic')},
    'replay.sampling': 'episodes',
    'pretrain': 100,
    'train_ratio': 160.0,  # 16 · 50 / 5: one update every 5 steps
    'prefill': 1000,
    'eval_policy': 'mode',
    'eval_at_start': True,
  },
)

# The patches of the small sizes need the strided layers of DreamerV3; the entropy bonus is relative
# to returns that DreamerV3 normalises and DreamerV2 does not.
_SMALL = {
  'encoder.padding': 'same',
  'decoder.padding': 'same',
  **{f'{head}.layers': 2 for head in _HEADS},
  'prefill': 0,
  'pretrain': 1,
}
_without_entropy = lambda sizes: {k: v for k, v in sizes.items() if k != 'behavior.entropy'}
SMALL = {**_without_entropy(dreamer.SMALL), **_SMALL}
TOY = {**_without_entropy(dreamer.TOY), **_SMALL}


def adapt(traits: method.Traits) -> dict:
  """Turn the continue head on where episodes end early (of the paper's suites only RLBench).

  Choices have the entropy of Atari in DreamerPro's code.
  """
  ends = {'continue_head.enabled': True} if traits.ends_early else {}
  return ends | ({'behavior.entropy': 1e-3} if traits.discrete else {})


# The return itself, whose gradient flows through the dynamics.
dynamics = dreamer.ActorLoss(lambda policy, action, returns, advantage: returns, True)


class DreamerV2(dreamer.Dreamer):
  """The page of DreamerV3, where an action is judged by the value of the state after it."""

  shortest = 2  # horizon: the last state's action has no state after it

  def dynamics_loss(self, post: jax.Array, prior: jax.Array) -> jax.Array:
    """As of DreamerV3. Where both halves weigh the same the authors balance nothing: prior and
    posterior have the whole gradient, and free nats count for every step.
    """
    if self.balance == 0.5:
      kl = jnp.maximum(self.settings.losses.free_nats, self.rssm.latents.kl(post, prior))
      return replicas.mean(kl.mean())
    return super().dynamics_loss(post, prior)

  def actor_objective(self) -> dreamer.ActorLoss:
    """REINFORCE where there are choices, gradients through the dynamics, without V, elsewhere."""
    return dreamer.reinforce if self.chooses else dynamics

  def discounts(
    self, params: Params, feature: jax.Array, alive: jax.Array
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return (keep, discount, weight) of states [H+1, N]: cₜ, γ cₜ, Πᵢ<ₜ γ cᵢ; cₜ is a mean."""
    keep = self.expected_keep(params, feature)
    if 'continue' in params:
      keep = keep.at[0].set(alive)
    return discounted(keep, self.settings.behavior.discount)

  def expected_keep(self, params: Params, feature: jax.Array) -> jax.Array:
    """Return the continue head's mean [H+1, N], 1 where an episode surely goes on."""
    if 'continue' not in params:
      return jnp.ones((len(feature), 1), jnp.float32)
    return jax.nn.sigmoid(self.continue_logit(params, feature)) / self.continues

  def returns(
    self, params: Params, critic: Params, trajectory: Trajectory
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return (λ-returns, values, rewards) of states 0 … H-1, [H, N]: V(zₜ) ≈ rₜ + γ rₜ₊₁ + …"""
    reward = self.reward.mean(params['reward'], trajectory.feature[:-1])  # [H, N]
    value = self.critic.mean(critic, trajectory.feature)  # [H+1, N]
    lam = self.settings.behavior.lam
    returns = lambda_returns(reward, trajectory.discount[:-1], value[1:], value[-1], lam)
    return returns, value[:-1], reward

  def actor_loss(
    self,
    actor: Params,
    params: Mapping[str, Params],
    state: TrainState,
    start: State,
    alive: jax.Array,
    draws: Draws,
  ) -> tuple[jax.Array, tuple[Trajectory, jax.Array, Percentiles, method.Metrics]]:
    """Return (loss, (trajectory, the critic's targets, normalizer, metrics)).

    -[objective(Rₜ₊₁, Vₜ) + η H(π)], weighed by the discounted probability to get there. Returns
    bootstrap from the slow critic and are not normalised. For continuous actions alone the critic's
    targets of states 1 … H-1 contain the entropy bonus: the authors' code, not the paper's eq. 7.
    """
    trajectory, (returns, value, reward) = self.judged(actor, params, state, start, alive, draws)
    policy = self.actor.policy(actor, sg(trajectory.feature[:-2]))
    entropy = policy.entropy(None if draws.entropy is None else draws.entropy[:, :-1])  # [H-1, N]
    bonus = self.settings.behavior.entropy * entropy
    loss, advantage = self.weighed_loss(policy, trajectory, returns[1:], value[:-1], bonus)
    metrics = imagination_metrics(loss, returns, value, reward, entropy, advantage)
    if not self.chooses:
      returns = returns.at[1:].add(bonus)
    return loss, (sg(trajectory), sg(returns), state.normalizer, metrics)

  def judged(
    self,
    actor: Params,
    params: Mapping[str, Params],
    state: TrainState,
    start: State,
    alive: jax.Array,
    draws: Draws,
  ) -> tuple[Trajectory, tuple[jax.Array, jax.Array, jax.Array]]:
    """Return an imagination, and its (returns, values, rewards) by the slow critic."""
    acting = actor if self.actor_objective().through_dynamics else sg(actor)
    model, horizon = params['world_model'], self.settings.behavior.horizon
    trajectory = self.imagine(model, acting, start, alive, draws.latent, draws.action, horizon)
    return trajectory, self.returns(model, state.targets['critic'], trajectory)

  def weighed_loss(
    self,
    policy: Policy,
    trajectory: Trajectory,
    returns: jax.Array,
    value: jax.Array,
    bonus: jax.Array,
  ) -> tuple[jax.Array, jax.Array]:
    """Return (the actor's loss, advantages) for the first states of a trajectory."""
    count, advantage = len(returns), returns - value
    action = trajectory.action[:count]
    objective = self.actor_objective().objective(policy, action, returns, advantage)
    return (-(objective + bonus) * trajectory.weight[:count]).mean(), advantage


def discounted(keep: jax.Array, gamma: float) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Return (keep, γ keep, Πᵢ<ₜ γ keepᵢ), [H+1, N]."""
  discount = gamma * keep
  weight = jnp.cumprod(jnp.concatenate([jnp.ones_like(discount[:1]), discount[:-1]]), 0)
  return keep, discount, weight


METHOD = method.Entry(
  settings=SETTINGS,
  make=DreamerV2,
  sizes={'small': SMALL, 'toy': TOY},
  family='dreamer',
  adapt=adapt,
  upgrade=upgrade,
)
