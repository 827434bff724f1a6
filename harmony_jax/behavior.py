"""Behaviour learned in imagination: the rollout, the actor's loss and the critic's.

Time runs over states 0 … H; `action[t]` is taken in state t. N = B·T rollouts start from every
posterior state of the batch. Returns and values cover states 0 … H-1, under one of two conventions
for whose reward a value begins with, and an action is judged by the return of the state `lead`
steps after its own:

    reward_of='next', lead=0     V(zₜ) ≈ rₜ₊₁ + γ rₜ₊₂ + …   DreamerV3
    reward_of='present', lead=1  V(zₜ) ≈ rₜ + γ rₜ₊₁ + …     DreamerV2
    reward_of='present', lead=0  the same; rₜ does not depend on the action   DreamerPro
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from harmony_jax import distributions as dists
from harmony_jax.networks import Head, Style
from harmony_jax.returns import Percentiles, lambda_returns
from harmony_jax.rssm import State
from harmony_jax.world_model import WorldModel

sg = jax.lax.stop_gradient


class Noise(NamedTuple):
  """The draws of an imagination; None for modes. latent [H, N, ...], action [H+1, N, ...], entropy:
  of `Actor.entropy` for states 0 … H-1, [samples, H, N, A], where it is estimated."""

  latent: jax.Array | None = None
  action: jax.Array | None = None
  entropy: jax.Array | None = None


class Trajectory(NamedTuple):
  """One imagination. feature [H+1, N, F], action [H+1, N, A]; the rest [H+1, N].

  keep: probability (or its mode, 0 or 1) that the episode goes on in a state. discount: γ keep.
  weight: the discounted probability to get to a state, by which losses are weighed.
  """

  feature: jax.Array
  action: jax.Array
  keep: jax.Array
  discount: jax.Array
  weight: jax.Array
  states: State


@dataclasses.dataclass(frozen=True)
class Actor:
  """π(a | z). Discrete: one-hot categorical with unimix. Continuous, per action:

  'normal': mean tanh(x), deviation from min_std to max_std (DreamerV3). 'trunc_normal': cut to [-1,
  1], mean tanh(x), deviation 2 sigmoid(y/2) + min_std (DreamerV2). 'tanh_normal': the tanh of a
  normal with mean 5 tanh(x/5) and deviation softplus(y) + min_std; its entropy and its mode are
  estimated from `samples` draws (DreamerPro).
  """

  head: Head
  discrete: bool
  distribution: str = 'normal'
  unimix: float = 0.01
  min_std: float = 0.1
  max_std: float = 1.0
  samples: int = 100

  @property
  def estimates(self) -> bool:
    """Whether entropy and mode are estimated from samples."""
    return not self.discrete and self.distribution == 'tanh_normal'

  def __call__(self, params, feature):
    """Policy parameters: log-probabilities [..., A] if discrete, else (mean, std), [..., A] each."""
    out = self.head.apply({'params': params}, feature)
    if self.discrete:
      return dists.unimix(out, self.unimix)
    mean, spread = out
    if self.distribution == 'trunc_normal':
      return dists.TruncatedNormal(jnp.tanh(mean), 2 * jax.nn.sigmoid(spread / 2) + self.min_std)
    if self.distribution == 'tanh_normal':
      return dists.TanhNormal(5 * jnp.tanh(mean / 5), jax.nn.softplus(spread) + self.min_std)
    return jnp.tanh(mean), (self.max_std - self.min_std) * jax.nn.sigmoid(spread + 2) + self.min_std

  def sample(self, policy, noise: jax.Array | None):
    """Action [..., A] for noise as of `noise()`; None takes the mode, the mean, or the median of a
    truncated normal.
    """
    if self.discrete:
      return dists.straight_through(dists.draw_one_hot(policy, noise), policy)
    if self.distribution == 'trunc_normal':
      return policy.sample(0.5 if noise is None else noise)
    if self.distribution == 'tanh_normal':
      return policy.sample(0.0 if noise is None else noise)
    mean, std = policy
    return mean if noise is None else mean + std * noise

  def mode(self, policy, noise: jax.Array | None = None):
    """The most likely action [..., A]; of a tanh_normal the likeliest of draws by `noise` [...,
    samples, A].
    """
    if self.estimates and noise is not None:
      each = jax.tree.map(lambda x: x[..., None, :], policy)
      actions, likely = each.sample(noise), each.log_prob_of(noise).sum(-1)
      return jnp.take_along_axis(actions, likely.argmax(-1)[..., None, None], -2)[..., 0, :]
    if not self.discrete and self.distribution == 'trunc_normal':
      return policy.mode()
    return self.sample(policy, None)

  def log_prob(self, policy, action):
    """log π(action), [...]."""
    if self.discrete:
      return (action * policy).sum(-1)
    if self.distribution == 'trunc_normal':
      return policy.log_prob(action).sum(-1)
    if self.distribution == 'tanh_normal':
      return policy.log_prob(action).sum(-1)
    return dists.normal_log_prob(action, *policy).sum(-1)

  def entropy(self, policy, noise: jax.Array | None = None):
    """Entropy, [...]; of a tanh_normal -log π averaged over draws by `noise` [samples, ..., A]."""
    if self.discrete:
      return dists.categorical_entropy(policy)
    if self.distribution == 'trunc_normal':
      return policy.entropy().sum(-1)
    if self.distribution == 'tanh_normal':
      return -policy.log_prob_of(jnp.zeros((1, 1)) if noise is None else noise).sum(-1).mean(0)
    return dists.normal_entropy(policy[1]).sum(-1)

  def noise(self, key, shape):
    """Noise for `sample`, for leading axes `shape`: uniform, or standard normal [..., A] for
    (tanh-)normal actions.
    """
    if self.discrete:
      return jax.random.uniform(key, shape)
    draw = jax.random.uniform if self.distribution == 'trunc_normal' else jax.random.normal
    return draw(key, (*shape, self.head.outputs[0]))


@dataclasses.dataclass(frozen=True)
class Behavior:
  """Actor, critic and their losses; the fields are those of configs/dreamerv3.py: behavior."""

  actor: Actor
  critic: Head
  scalar: dists.Scalar  # how the critic's outputs describe a value
  slow_regularizer: float = 1.0
  horizon: int = 15
  discount: float = 1 - 1 / 333
  lam: float = 0.95
  entropy: float = 3e-4
  reward_of: str = 'next'
  lead: int = 0  # see above
  # auto: reinforce for discrete actions, else dynamics; both: `mix` of the latter
  gradient: str = 'auto'
  mix: float = 0.1
  # False: no start at the last step of a sequence; the head is asked about the first
  known_ends: bool = True
  # the critic that returns bootstrap from, and baselines come from: fast or slow
  value: str = 'fast'
  # subtract the value where the gradient goes through the dynamics, too
  baseline: bool = True
  normalize: bool = True  # divide by the range of returns
  keep: str = 'mode'  # of the continue head: mode or mean
  critic_entropy: bool = False  # the critic's targets contain the actor's entropy bonus
  return_decay: float = 0.99
  return_low: float = 5.0
  return_high: float = 95.0

  @classmethod
  def from_config(cls, config, features: int, actions: int, discrete: bool, dtype) -> 'Behavior':
    """`config` as in configs/dreamerv3.py; features F, actions A."""
    actor, critic = config.actor, config.critic
    shared = dict(style=Style(**config.network), dtype=dtype)
    outputs = (actions,) if discrete else (actions, actions)
    scalar = dists.scalar(critic.distribution, critic.bins)
    out_scale = 0.0 if critic.distribution == 'two_hot' else 1.0
    return cls(
      Actor(
        Head(features, actor.layers, actor.units, outputs, **shared),
        discrete,
        actor.distribution,
        actor.unimix,
        actor.min_std,
        actor.max_std,
        actor.samples,
      ),
      Head(features, critic.layers, critic.units, (scalar.size,), out_scale, **shared),
      scalar,
      critic.slow_regularizer,
      **config.behavior,
    )

  def init(self, key) -> tuple[dict, dict]:
    """(actor parameters, critic parameters)."""
    actor_key, critic_key = jax.random.split(key)
    feature = jnp.zeros((1, self.critic.inputs))
    return self.actor.head.init(actor_key, feature)['params'], self.critic.init(
      critic_key, feature
    )['params']

  def critic_value(self, params, feature):
    """Critic's mean, [...]."""
    return self.scalar.mean(self.critic.apply({'params': params}, feature))

  # ------------------------------------------------------------------------------------------------

  def imagine(
    self, model: WorldModel, params, actor_params, start: State, not_terminal, noise
  ) -> Trajectory:
    """Rolls the policy out inside the world model.

    Args:
      params: world model. actor_params: the policy; it sees stop-gradient features.
      start: posterior states, leaves [N, ...]. not_terminal: [N], 0 where the replayed step ended
        its episode.
      noise: a `Noise`.
    """
    start = jax.tree.map(sg, start)
    latent_noise, action_noise, _ = noise
    act = lambda state, noise: self.actor.sample(
      self.actor(actor_params, sg(state.feature())), noise
    )
    first = act(start, None if action_noise is None else action_noise[0])

    def step(carry, draws):
      state, action = carry
      latent, chosen = draws if draws is not None else (None, None)
      state = model.rssm.imagine(params['rssm'], state, action, latent)
      action = act(state, chosen)
      return (state, action), (state, action)

    draws = None
    if latent_noise is not None or action_noise is not None:
      draws = (latent_noise, None if action_noise is None else action_noise[1:])
    _, (states, actions) = jax.lax.scan(step, (start, first), draws, length=self.horizon)
    states, action = jax.tree.map(
      lambda a, b: jnp.concatenate([a[None], b], 0), (start, first), (states, actions)
    )
    feature = states.feature()
    keep, discount = self._continuation(model, params, feature, not_terminal)
    if self.reward_of == 'next':
      weight = jnp.cumprod(discount, 0) / self.discount
    else:
      weight = jnp.cumprod(jnp.concatenate([jnp.ones_like(discount[:1]), discount[:-1]]), 0)
    keep, discount, weight = (
      jnp.broadcast_to(x, feature.shape[:-1]) for x in (keep, discount, weight)
    )
    return Trajectory(feature, action, keep, discount, sg(weight), states)

  def _continuation(self, model, params, feature, not_terminal):
    """(keep, γ keep), [H+1, N]; the first state's is known. Without a head an episode always goes
    on: [H+1, 1], of which XLA makes constants in no time."""
    logit = model.continue_logit(params, feature)
    if logit is None:
      keep = jnp.ones((len(feature), 1), jnp.float32)
    elif self.keep == 'mode':
      keep = (logit > 0).astype(jnp.float32)
    else:
      keep = jax.nn.sigmoid(logit) / model.continue_target
    if logit is not None and self.known_ends:
      keep = keep.at[0].set(not_terminal)
    return keep, self.discount * keep

  def evaluate(self, model: WorldModel, params, critic_params, trajectory: Trajectory):
    """(returns, values, rewards), [H, N] each, by the critic that is given."""
    begin = 1 if self.reward_of == 'next' else 0
    of_reward = lambda x: x[begin : begin + self.horizon]
    reward = model.reward.mean(model.reward_logits(params, of_reward(trajectory.feature)))
    value = self.critic_value(critic_params, trajectory.feature)
    returns = lambda_returns(reward, of_reward(trajectory.discount), value[1:], value[-1], self.lam)
    return returns, value[:-1], reward

  def actor_loss(
    self, actor_params, model, params, critics, start, not_terminal, noise, normalizer: Percentiles
  ):
    """(loss, (trajectory, the critic's targets, normalizer, metrics)).

    Discrete actions learn by REINFORCE, -log π(aₜ) sg(Aₜ), continuous ones by the gradient of -Aₜ
    through the dynamics; Aₜ = (Rₜ - Vₜ) / max(1, percentile range) in DreamerV3. In DreamerV2
    returns are not normalised, Rₜ₊₁ takes the place of Rₜ, and there is no baseline under dynamics
    gradients. Both add -η H(π) and are weighed by the discounted probability to get there.
    `critics` is {'fast': parameters, 'slow': parameters}.
    """
    # With REINFORCE nothing flows through the rollout, so no residuals of it need to be kept.
    how = (
      self.gradient
      if self.gradient != 'auto'
      else 'reinforce'
      if self.actor.discrete
      else 'dynamics'
    )
    acting = sg(actor_params) if how == 'reinforce' else actor_params
    trajectory = self.imagine(model, params, acting, start, not_terminal, noise)
    returns, value, reward = self.evaluate(model, params, critics[self.value], trajectory)
    scale = 1.0
    if self.normalize:
      normalizer = normalizer.update(returns, self.return_decay, self.return_low, self.return_high)
      scale = normalizer.scale()
    lead, count = self.lead, self.horizon - self.lead
    policy = self.actor(actor_params, sg(trajectory.feature[:count]))
    entropy = self.actor.entropy(
      policy, None if noise.entropy is None else noise.entropy[:, :count]
    )
    bonus = self.entropy * entropy
    judged = lambda baseline: (returns[lead:] - value[:count] * baseline) / scale
    advantage = judged(self.baseline or how == 'reinforce')
    objective = advantage
    if how != 'dynamics':
      likely = self.actor.log_prob(policy, sg(trajectory.action[:count])) * sg(judged(True))
      objective = likely if how == 'reinforce' else self.mix * advantage + (1 - self.mix) * likely
    loss = (-(objective + bonus) * trajectory.weight[:count]).mean()
    metrics = {
      'loss/actor': loss,
      'actor/entropy': entropy.mean(),
      'actor/advantage': advantage.mean(),
      'return/imagined': returns.mean(),
      'return/scale': scale,
      'return/imagined_reward': reward.mean(),
      'critic/value': value.mean(),
    }
    if self.critic_entropy and not self.actor.discrete:
      returns = returns.at[lead:].add(bonus)
    return loss, (sg(trajectory), sg(returns), normalizer, metrics)

  def critic_loss(self, critic_params, slow_params, trajectory: Trajectory, returns):
    """-log p(return), and of the slow critic's mean (DreamerV3), weighed as the actor's loss."""
    feature = trajectory.feature[:-1]
    out = self.critic.apply({'params': critic_params}, feature)
    loss = self.scalar.loss(out, returns)
    if self.slow_regularizer:
      loss = loss + self.slow_regularizer * self.scalar.loss(
        out, sg(self.critic_value(slow_params, feature))
      )
    loss = (loss * trajectory.weight[:-1]).mean()
    return loss, {'loss/critic': loss}
