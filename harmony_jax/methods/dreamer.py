"""DreamerV3 with harmonizers, from top to bottom.

One update: (1) the world model, harmonizers included, learns from a batch; (2) the actor learns in
imagination with the updated world model, from the states of (1); (3) the critic learns from the
same imagination; (4) the slow critic follows.

Shapes: B sequences, T steps, V views of a batch (1 here), N = V B T rollouts, H imagined steps,
A actions, E embedding, F feature, S numbers or groups of a stochastic state. Time runs over states
0 … H of an imagination; `action[t]` is taken in state t.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from harmony_jax import distributions as dists
from harmony_jax import method, replicas
from harmony_jax.actions import Policy
from harmony_jax.distributions import Percentiles, lambda_returns
from harmony_jax.methods.dreamer_parts import (
  Carry,
  Draws,
  DreamerParts,
  Params,
  TrainState,
  Trajectory,
  imagination_metrics,
)
from harmony_jax.methods.dreamer_settings import SMALL, TOY, DreamerSettings, upgrade
from harmony_jax.optimizers import descend, ema_update, guard, weighed
from harmony_jax.recurrence import steps_at_once
from harmony_jax.rssm import State

sg = jax.lax.stop_gradient


class ActorLoss(NamedTuple):
  """What an actor maximises, [H, N], by `(policy, action, returns, advantage)`."""

  objective: Callable[[Policy, jax.Array, jax.Array, jax.Array], jax.Array]
  through_dynamics: bool  # whether gradients flow through the imagined rollout


# log π(aₜ) sg(Aₜ)
reinforce = ActorLoss(
  lambda policy, action, returns, advantage: policy.log_prob(sg(action)) * sg(advantage), False
)
# Aₜ = (Rₜ - Vₜ) / range, whose gradient flows through the dynamics, and through V.
dynamics = ActorLoss(lambda policy, action, returns, advantage: advantage, True)


class Dreamer(DreamerParts):
  """The algorithm as pure functions over a `TrainState`.

  Attributes:
    shared: the world model's parts that all tasks learn through.
  """

  shared = ('encoder', 'rssm')

  def actor_objective(self) -> ActorLoss:
    """REINFORCE where there is anything to choose, gradients through the dynamics elsewhere."""
    return reinforce if self.chooses else dynamics

  # ------------------------------------------------------------------------------------------------
  # The world model

  def losses(
    self, params: Params, state: TrainState, batch: method.Batch, carry: Carry, draws: Draws
  ) -> tuple[dict[str, jax.Array], State, dict]:
    """Return (every task's loss on a batch, means over B and T; posterior states; statistics).

        observation   -log p(oₜ | zₜ)   squared error of images, summed over pixels
        reward        -log p(rₜ | zₜ)   cross entropy over two-hot symlog bins, or ½ squared error
        dynamics      α max(1, KL[sg(q) ‖ p]) + (1-α) max(1, KL[q ‖ sg(p)])          (eq. 14, 15)
        continue      -log p(not terminalₜ | zₜ), weight 1, not harmonized, as the authors

    Args:
      params: the world model's. carry: before the batch, a constant.
    """
    previous = jnp.concatenate([carry.action[:, None], batch['action'][:, :-1]], 1)  # [B, T, A]
    latent = carry.latent
    if self.objective.views > 1:
      latent, batch, previous = jax.tree.map(
        lambda x: jnp.concatenate([x] * self.objective.views), (latent, batch, previous)
      )  # [V B, ...]
      batch = self.objective.view(batch, draws.view)
    statistics = state.statistics
    embed, of_encoder = self.encoder(
      params['encoder'], statistics.get('encoder'), batch, train=True
    )  # [V B, T, E]
    post, prior = self.rssm.observe(
      params['rssm'], latent, embed, previous, batch['is_first'], draws.posterior
    )  # [V B, T, ...]
    feature = post.feature()  # [V B, T, F]
    losses, of_objective = self.objective.losses(
      params, state.targets.get('world_model', {}), statistics, batch, embed, feature
    )
    out = self.reward(params['reward'], feature)  # [V B, T, bins]
    losses['reward'] = self.reward.scalar.loss(out, batch['reward'])
    if 'continue' in params:
      head = self.settings.continue_head
      logit = self.continue_logit(params, feature if head.gradient else sg(feature))  # [V B, T]
      target = self.continues * (1 - batch['is_terminal'].astype(jnp.float32))
      losses['continue'] = head.scale * dists.bernoulli_loss(logit, target)
    # Before anything that is not linear in the means: some weighting rules.
    losses = replicas.mean({name: loss.mean() for name, loss in losses.items()})
    losses['dynamics'] = self.dynamics_loss(post.stats, prior)
    kept = {} if of_encoder is None else {'encoder': of_encoder}
    return losses, post, kept | of_objective

  def dynamics_loss(self, post: jax.Array, prior: jax.Array) -> jax.Array:
    """Return the loss of the dynamics, for the stats of states [V B, T, ...]."""
    free, kl = self.settings.losses, self.rssm.latents.kl
    clamp = functools.partial(jnp.maximum, free.free_nats)
    halves = kl(sg(post), prior), kl(post, sg(prior))  # [V B, T]
    if not free.free_average:
      halves = map(clamp, halves)
    # Before free nats, which are not linear in the means.
    dyn, rep = replicas.mean([half.mean() for half in halves])
    if free.free_average:
      dyn, rep = clamp(dyn), clamp(rep)
    return self.balance * dyn + (1 - self.balance) * rep

  def weigh(
    self, found: tuple[dict[str, jax.Array], State, dict], harmonizers: dict, weighting: Any
  ) -> tuple[jax.Array, tuple[State, dict[str, Any], method.Metrics]]:
    """Return Σᵢ Lᵢ/σᵢ + log(1 + σᵢ) (eq. 5), or what another rule makes of the losses; and more.

    Args:
      found: by `losses`. weighting: the rule's state.
    """
    losses, post, statistics = found
    total, weighting, weights = self.rule.weigh(losses, harmonizers, weighting)
    metrics = {f'loss/{k}': v for k, v in losses.items()} | {'loss/world_model': total}
    metrics |= {f'harmony/{k}': v for k, v in weights.items()}
    return total, (post, {'statistics': statistics, 'weighting': weighting}, metrics)

  # ------------------------------------------------------------------------------------------------
  # Behaviour, learned in imagination

  def imagine(
    self,
    params: Params,
    actor: Params,
    start: State,
    alive: jax.Array,
    latent: jax.Array | None,
    action: jax.Array | None,
    horizon: int,
  ) -> Trajectory:
    """Roll the policy out inside the world model, for H = `horizon` steps.

    Args:
      params: the world model's. actor: the policy's; it sees stop-gradient features.
      start: posterior states, leaves [N, ...]. alive: [N], 0 where the episode has ended there.
      latent, action: random numbers as in `Draws`.
    """
    start = jax.tree.map(sg, start)
    act = lambda state, noise: self.actor.policy(actor, sg(state.feature())).sample(noise)
    first = act(start, None if action is None else action[0])  # [N, A]

    def step(carry, noise):
      state = self.rssm.imagine(params['rssm'], carry[0], carry[1], noise[0])
      chosen = act(state, noise[1])
      return (state, chosen), (state, chosen)

    noise = (latent, None if action is None else action[1:])
    unroll = steps_at_once(horizon, self.settings.rssm.recurrence)
    _, later = jax.lax.scan(step, (start, first), noise, length=horizon, unroll=unroll)
    whole = lambda a, b: jnp.concatenate([a[None], b], 0)
    states, actions = jax.tree.map(whole, (start, first), later)  # [H+1, N, ...]
    feature = states.feature()  # [H+1, N, F]
    keep, discount, weight = (
      jnp.broadcast_to(x, feature.shape[:-1]) for x in self.discounts(params, feature, alive)
    )
    return Trajectory(feature, actions, keep, discount, sg(weight), states)

  def discounts(
    self, params: Params, feature: jax.Array, alive: jax.Array
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return (keep, discount, weight) of states [H+1, N]: cₜ, γ cₜ, Πᵢ≤ₜ γ cᵢ / γ.

    cₜ is the continue head's mode, and known for the first state. Without that head an episode
    always goes on: [H+1, 1].
    """
    keep = jnp.ones((len(feature), 1), jnp.float32)
    if 'continue' in params:
      keep = (self.continue_logit(params, feature) > 0).astype(jnp.float32).at[0].set(alive)
    gamma = self.settings.behavior.discount
    return keep, gamma * keep, jnp.cumprod(gamma * keep, 0) / gamma

  def returns(
    self, params: Params, critic: Params, trajectory: Trajectory
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return (λ-returns, values, rewards) of states 0 … H-1, [H, N]: V(zₜ) ≈ rₜ₊₁ + γ rₜ₊₂ + …"""
    reward = self.reward.mean(params['reward'], trajectory.feature[1:])  # [H, N]
    value = self.critic.mean(critic, trajectory.feature)  # [H+1, N]
    lam = self.settings.behavior.lam
    returns = lambda_returns(reward, trajectory.discount[1:], value[1:], value[-1], lam)
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

    -[objective(Rₜ, Vₜ) / max(1, range of returns) + η H(π)], weighed by the discounted probability
    to get there: REINFORCE where there are choices, gradients through the dynamics elsewhere.

    Args:
      params: by subtree, the world model's after its update. start, alive: as for `imagine`.
    """
    behavior, kind = self.settings.behavior, self.actor_objective()
    acting = actor if kind.through_dynamics else sg(actor)
    trajectory = self.imagine(
      params['world_model'], acting, start, alive, draws.latent, draws.action, behavior.horizon
    )
    returns, value, reward = self.returns(params['world_model'], params['critic'], trajectory)
    percentiles = (behavior.return_decay, behavior.return_low, behavior.return_high)
    normalizer = state.normalizer.update(returns, *percentiles)
    scale = jnp.maximum(1.0, normalizer.high - normalizer.low)  # small returns are not blown up
    policy = self.actor.policy(actor, sg(trajectory.feature[:-1]))
    entropy = policy.entropy(draws.entropy)  # [H, N]
    advantage = (returns - value) / scale
    objective = kind.objective(policy, trajectory.action[:-1], returns, advantage)
    loss = (-(objective + behavior.entropy * entropy) * trajectory.weight[:-1]).mean()
    metrics = imagination_metrics(loss, returns, value, reward, entropy, advantage) | {
      'return/scale': scale
    }
    return loss, (sg(trajectory), sg(returns), normalizer, metrics)

  def critic_loss(
    self, critic: Params, slow: Params, trajectory: Trajectory, returns: jax.Array
  ) -> tuple[jax.Array, method.Metrics]:
    """-log p(return), and of the slow critic's mean (DreamerV3), weighed as the actor's loss."""
    feature = trajectory.feature[:-1]
    # Of all states, as the returns have them, so that the compiler does it once.
    out = self.critic(critic, trajectory.feature)[:-1]  # [H, N, bins]
    loss = self.critic.scalar.loss(out, returns)  # [H, N]
    weight = self.settings.critic.slow_regularizer
    if weight:
      loss = loss + weight * self.critic.scalar.loss(out, sg(self.critic.mean(slow, feature)))
    loss = (loss * trajectory.weight[:-1]).mean()
    return loss, {'loss/critic': loss}

  # ------------------------------------------------------------------------------------------------
  # One update

  def train_step(self, state: TrainState, batch: method.Batch) -> tuple[TrainState, method.Metrics]:
    """Do one update of everything, unless it is not finite; see `Method.train_step`."""
    return guard(self.update, state, batch, self.settings.skip_nonfinite)

  def update(
    self, state: TrainState, batch: method.Batch
  ) -> tuple[TrainState, method.Metrics, dict[str, Any], tuple[State, Draws]]:
    """Return (next state, metrics, gradients by subtree, (posterior states, draws))."""
    draws = self.draws(jax.random.fold_in(state.rng, state.step), *batch['is_first'].shape)
    gradients = {}
    state, model_metrics, gradients['world_model'], post = self.learn_model(state, batch, draws)

    params, opt = dict(state.params), dict(state.opt_state)
    start, alive = self.starts(post, batch)
    params_then = dict(params)
    params['actor'], opt['actor'], gradients['actor'], more = descend(
      self.optimizers['actor'],
      lambda actor: self.actor_loss(actor, params_then, state, start, alive, draws),
      params['actor'],
      opt['actor'],
    )
    trajectory, returns, normalizer, actor_metrics = more

    params['critic'], opt['critic'], gradients['critic'], critic_metrics = descend(
      self.optimizers['critic'],
      lambda critic: self.critic_loss(critic, state.targets['critic'], trajectory, returns),
      params['critic'],
      opt['critic'],
    )

    metrics = replicas.mean(model_metrics | actor_metrics | critic_metrics)
    state = state.replace(
      params=params,
      opt_state=opt,
      targets=self.slow_copies(state, params),
      normalizer=normalizer,
      step=state.step + 1,
    )
    return state, metrics, gradients, (post, draws)

  def learn_model(
    self, state: TrainState, batch: method.Batch, draws: Draws
  ) -> tuple[TrainState, method.Metrics, Params, State]:
    """Return (state with the world model's update, metrics, gradient, posterior states)."""
    params = self.objective.project(state.params['world_model'])
    carry = sg(self.carry_before(state.params, batch) if 'before' in batch else state.carry)
    params, opt, gradient, (post, kept, metrics) = descend(
      self.optimizers['world_model'],
      lambda model: self.losses(model, state, batch, carry, draws),
      params,
      state.opt_state['world_model'],
      lambda gradient: self.objective.mask(gradient, state.step),
      weighed(self.rule, self.weigh, state.weighting, self.shared),
    )
    last = jax.tree.map(lambda x: x[: len(batch['is_first']), -1], post)  # of the first view
    state = state.replace(
      params={**state.params, 'world_model': params},
      opt_state={**state.opt_state, 'world_model': opt},
      carry=sg(Carry(last, batch['action'][:, -1])),
      **kept,
    )
    return state, metrics, gradient, post

  def model_step(self, state: TrainState, batch: method.Batch) -> tuple[TrainState, method.Metrics]:
    """Do one update of the world model alone, as on recorded experience (appendix C.4)."""

    def update(state, batch):
      draws = self.draws(jax.random.fold_in(state.rng, state.step), *batch['is_first'].shape)
      after, metrics, gradient, _ = self.learn_model(state, batch, draws)
      targets = self.slow_copies(state, after.params)
      after = after.replace(targets=targets, step=state.step + 1)
      return after, replicas.mean(metrics), {'world_model': gradient}

    return guard(update, state, batch, self.settings.skip_nonfinite)

  def slow_copies(self, state: TrainState, params: Mapping[str, Params]) -> dict:
    """Return the slow critic, and what the objective keeps, after an update."""
    c, step = self.settings.critic, state.step
    slow = ema_update(
      state.targets['critic'], params['critic'], step, c.slow_fraction, c.slow_every
    )
    model = self.objective.update_slow(
      state.targets.get('world_model', {}), params['world_model'], step
    )
    return {'critic': slow, **({'world_model': model} if model else {})}

  def starts(self, post: State, batch: method.Batch) -> tuple[State, jax.Array]:
    """Return (states that imagination starts from, whether their episodes go on): N in one row."""
    count = batch['is_first'].shape[1] - self.unstarted
    alive = 1 - batch['is_terminal'].astype(jnp.float32)
    alive = jnp.concatenate([alive] * self.objective.views)  # [V B, T]
    return jax.tree.map(lambda x: x[:, :count].reshape(-1, *x.shape[2:]), (post, alive))

  # ------------------------------------------------------------------------------------------------
  # Acting, and the rest of the protocol

  def act(
    self,
    variables: Mapping[str, Params],
    carry: Carry,
    observation: Mapping[str, jax.Array],
    is_first: jax.Array,
    key: jax.Array | None,
    mode: bool = False,
  ) -> tuple[jax.Array, Carry]:
    """Choose actions [N, A]; see `Method.act`. `mode` leaves the latent state sampled."""
    model, latent_noise, action_noise = variables['world_model'], None, None
    if key is not None and not self.deterministic:
      of_latent, of_action = jax.random.split(key)
      samples = (self.actor.samples,) if mode and self.actor.samples else ()
      draw = functools.partial(replicas.draw_rows, count=len(is_first))
      latent_noise = draw(of_latent, draw=lambda key: self.rssm.latents.noise(key, ()))
      action_noise = draw(of_action, draw=lambda key: self.actor.noise(key, samples))
    embed = self.encode(variables, observation)  # [N, E]
    latent = self.rssm.filter(
      model['rssm'], carry.latent, embed, carry.action, is_first, latent_noise
    )
    policy = self.actor.policy(variables['actor'], latent.feature())
    action = policy.mode(action_noise) if mode else policy.sample(action_noise)
    return action, Carry(latent, action)

  # ------------------------------------------------------------------------------------------------
  # Looking at an update

  def task_losses(self, state: TrainState, batch: method.Batch) -> dict[str, jax.Array]:
    """Return the world model's losses by name on one batch, without training."""
    draws = self.draws(jax.random.fold_in(state.rng, state.step), *batch['is_first'].shape)
    params = self.objective.project(state.params['world_model'])
    carry = self.carry_before(state.params, batch)
    return self.losses(params, state, batch, carry, draws)[0]

  def examine(self, state: TrainState, batch: method.Batch) -> dict[str, Any]:
    """Return what an update uses and makes, stage by stage; see `Method.examine`."""
    after, metrics, gradients, _ = self.update(state, batch)
    return {
      'batch': batch,
      'params': state.params,
      'targets': state.targets,
      'optimizer': state.opt_state,
      'loss': {k: v for k, v in metrics.items() if k.startswith('loss/')},
      **{f'gradient of {k}': gradient for k, gradient in gradients.items()},
      'new params': after.params,
    }


METHOD = method.Entry(
  settings=DreamerSettings(),
  make=Dreamer,
  sizes={'small': SMALL, 'toy': TOY},
  family='dreamer',
  upgrade=upgrade,
)
