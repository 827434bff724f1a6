"""Behaviour learned in imagination: the rollout, the actor's loss and the critic's.

Time runs over states 0 … H. `action[t]` is taken in state t, `reward[t]` for t = 0 … H-1 belongs to state t+1, returns
and values cover states 0 … H-1. N = B·T rollouts start from every posterior state of the batch.
"""

import dataclasses
from typing import NamedTuple, Optional

import jax
import jax.numpy as jnp

from harmony_jax import distributions as dists
from harmony_jax.networks import Head
from harmony_jax.returns import Percentiles, lambda_returns
from harmony_jax.rssm import State
from harmony_jax.world_model import WorldModel

sg = jax.lax.stop_gradient


class Trajectory(NamedTuple):
  """One imagination: feature [H+1, N, F], action [H+1, N, A], keep [H+1, N] (0 or 1), weight [H+1, N]."""
  feature: jax.Array
  action: jax.Array
  keep: jax.Array
  weight: jax.Array
  states: State


@dataclasses.dataclass(frozen=True)
class Actor:
  """π(a | z): one-hot categorical with unimix, or independent Gaussians with mean tanh and bounded deviation."""
  head: Head
  discrete: bool
  unimix: float = 0.01
  min_std: float = 0.1
  max_std: float = 1.0

  def __call__(self, params, feature):
    """Policy parameters: log-probabilities [..., A] if discrete, else (mean, std), [..., A] each."""
    out = self.head.apply({'params': params}, feature)
    if self.discrete:
      return dists.unimix(out, self.unimix)
    mean, spread = out
    return jnp.tanh(mean), (self.max_std - self.min_std) * jax.nn.sigmoid(spread + 2) + self.min_std

  def sample(self, policy, noise: Optional[jax.Array]):
    """Action [..., A]. noise: [...] uniform (discrete) or [..., A] standard normal; None takes mode or mean."""
    if self.discrete:
      return dists.straight_through(dists.draw_one_hot(policy, noise), policy)
    mean, std = policy
    return mean if noise is None else mean + std * noise

  def log_prob(self, policy, action):
    """log π(action), [...]."""
    if self.discrete:
      return (action * policy).sum(-1)
    return dists.normal_log_prob(action, *policy).sum(-1)

  def entropy(self, policy):
    """Entropy, [...]."""
    return dists.categorical_entropy(policy) if self.discrete else dists.normal_entropy(policy[1]).sum(-1)

  def noise(self, key, shape):
    """Noise for `sample`, for leading axes `shape`."""
    if self.discrete:
      return jax.random.uniform(key, shape)
    return jax.random.normal(key, (*shape, self.head.outputs[0]))


@dataclasses.dataclass(frozen=True)
class Behavior:
  """Actor, critic and their losses."""
  actor: Actor
  critic: Head
  horizon: int = 15
  discount: float = 1 - 1 / 333
  lam: float = 0.95
  entropy: float = 3e-4
  slow_regularizer: float = 1.0
  return_decay: float = 0.99
  return_low: float = 5.0
  return_high: float = 95.0

  @classmethod
  def from_config(cls, config, features: int, actions: int, discrete: bool, dtype) -> 'Behavior':
    """`config` as in configs/dreamerv3.py; features F, actions A."""
    actor, critic, behavior = config.actor, config.critic, config.behavior
    outputs = (actions,) if discrete else (actions, actions)
    return cls(
        Actor(Head(features, actor.layers, actor.units, outputs, dtype=dtype), discrete, actor.unimix, actor.min_std,
              actor.max_std),
        Head(features, critic.layers, critic.units, (critic.bins,), 0.0, dtype=dtype),
        behavior.horizon, 1 - 1 / behavior.discount_horizon, behavior.lam, behavior.entropy,
        critic.slow_regularizer, behavior.return_decay, behavior.return_low, behavior.return_high)

  def init(self, key) -> tuple[dict, dict]:
    """(actor parameters, critic parameters)."""
    actor_key, critic_key = jax.random.split(key)
    feature = jnp.zeros((1, self.critic.inputs))
    return self.actor.head.init(actor_key, feature)['params'], self.critic.init(critic_key, feature)['params']

  def value(self, params, feature):
    """Critic's mean, [...]."""
    return dists.two_hot_mean(self.critic.apply({'params': params}, feature))

  # -------------------------------------------------------------------------------------------------------------------

  def imagine(self, model: WorldModel, params, actor_params, start: State, not_terminal, noise) -> Trajectory:
    """Rolls the policy out inside the world model.

    Args:
      params: world model. actor_params: the policy; it sees stop-gradient features.
      start: posterior states, leaves [N, ...]. not_terminal: [N], 0 where the replayed step ended its episode.
      noise: (latent uniforms [H, N, S], action noise [H+1, N, ...]) or (None, None) for modes.
    """
    start = jax.tree.map(sg, start)
    latent_noise, action_noise = noise
    act = lambda state, noise: self.actor.sample(self.actor(actor_params, sg(state.feature())), noise)
    first = act(start, None if action_noise is None else action_noise[0])

    def step(carry, draws):
      state, action = carry
      latent, chosen = draws if draws is not None else (None, None)
      state = model.rssm.imagine(params['rssm'], state, action, latent)
      action = act(state, chosen)
      return (state, action), (state, action)

    draws = None if latent_noise is None else (latent_noise, action_noise[1:])
    _, (states, actions) = jax.lax.scan(step, (start, first), draws, length=self.horizon)
    states, action = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b], 0), (start, first), (states, actions))
    feature = states.feature()
    keep = (model.continue_logit(params, feature) > 0).astype(jnp.float32).at[0].set(not_terminal)
    weight = sg(jnp.cumprod(self.discount * keep, 0) / self.discount)
    return Trajectory(feature, action, keep, weight, states)

  def evaluate(self, model: WorldModel, params, critic_params, trajectory: Trajectory):
    """(returns, values, rewards), [H, N] each, by the fast critic."""
    reward = dists.two_hot_mean(model.reward_logits(params, trajectory.feature[1:]))
    value = self.value(critic_params, trajectory.feature)
    discount = self.discount * trajectory.keep[1:]
    return lambda_returns(reward, discount, value[1:], value[-1], self.lam), value[:-1], reward

  def actor_loss(self, actor_params, model, params, critic_params, start, not_terminal, noise,
                 normalizer: Percentiles, axis_name=None):
    """(loss, (trajectory, returns, normalizer, metrics)).

    Discrete actions learn by REINFORCE, -log π(aₜ) sg(Aₜ), continuous ones by the gradient of -Aₜ through the
    dynamics; Aₜ = (Rₜ - Vₜ) / max(1, percentile range). Both add -η H(π) and are weighed by the discounted
    probability to get there.
    """
    # With REINFORCE nothing flows through the rollout, so no residuals of it need to be kept.
    acting = sg(actor_params) if self.actor.discrete else actor_params
    trajectory = self.imagine(model, params, acting, start, not_terminal, noise)
    returns, value, reward = self.evaluate(model, params, critic_params, trajectory)
    normalizer = normalizer.update(returns, self.return_decay, self.return_low, self.return_high, axis_name)
    scale = normalizer.scale()
    advantage = (returns - value) / scale
    policy = self.actor(actor_params, sg(trajectory.feature))
    entropy = self.actor.entropy(policy)
    if self.actor.discrete:
      objective = self.actor.log_prob(policy, sg(trajectory.action))[:-1] * sg(advantage)
    else:
      objective = advantage
    loss = (-(objective + self.entropy * entropy[:-1]) * trajectory.weight[:-1]).mean()
    metrics = {'loss/actor': loss, 'actor/entropy': entropy[:-1].mean(), 'actor/advantage': advantage.mean(),
               'return/imagined': returns.mean(), 'return/scale': scale, 'return/imagined_reward': reward.mean(),
               'critic/value': value.mean()}
    return loss, (sg(trajectory), sg(returns), normalizer, metrics)

  def critic_loss(self, critic_params, slow_params, trajectory: Trajectory, returns):
    """Cross entropy to the two-hot return, and to the slow critic's mean, weighed as the actor's loss."""
    feature = trajectory.feature[:-1]
    logits = self.critic.apply({'params': critic_params}, feature)
    slow = sg(self.value(slow_params, feature))
    loss = dists.two_hot_loss(logits, returns) + self.slow_regularizer * dists.two_hot_loss(logits, slow)
    loss = (loss * trajectory.weight[:-1]).mean()
    return loss, {'loss/critic': loss}
