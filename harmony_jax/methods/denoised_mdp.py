"""Denoised MDP, the world model in parts that the paper compares with: what differs from Dreamer.

A Dreamer of the first generation whose latent state has up to three parts: x, which is controlled
and rewarded, y, which is rewarded and moves by itself, and z, which is not rewarded
(denoised_mdp_dynamics.py). Whatever y and z can explain is cheaper there, for their KL counts
less; policy and value know x alone. One update: (1) the world model learns from a batch; (2) the
policy in imagination of x, with the updated model; (3) the value from the same imagination. Or
(2, 3) by a soft actor critic on the batch (denoised_mdp_sac.py).

Source: the authors' PyTorch code of 2023. No setting of the HarmonyDream authors' runs is known:
the defaults are the code's for the control suite, with the sizes of this project's suites, which is
inferred. Harmony weighs image, reward and KL, which nobody has published.

Shapes as on the page of DreamerV3, with V = 1 view; states 1 … H of an imagination have rewards and
values, the start has none.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from harmony_jax import harmony, method, replicas, viewing
from harmony_jax.distributions import Percentiles, lambda_returns
from harmony_jax.encoders import Decoder, Encoder, Reconstruction
from harmony_jax.envs.base import Spec
from harmony_jax.methods import dreamer
from harmony_jax.methods.denoised_mdp_dynamics import Dynamics
from harmony_jax.methods.denoised_mdp_networks import (
  ELU,
  RELU,
  Actor,
  Down,
  Rewards,
  Scalar,
  drawn,
  likeliest,
)
from harmony_jax.methods.denoised_mdp_replay import EpisodeReplay
from harmony_jax.methods.denoised_mdp_settings import SETTINGS, SMALL, TOY, DenoisedMDPSettings
from harmony_jax.methods.dreamer_parts import Carry, Draws, Params, TrainState, Trajectory
from harmony_jax.networks import Head, PlainDown, PlainUp, stages

sg = jax.lax.stop_gradient


class DenoisedMDP(dreamer.Dreamer):
  """Dreamer on the controllable and rewarded part of a latent state.

  States are of the class `Latent`, wherever Dreamer says `State`.
  """

  replay = EpisodeReplay
  learns_ends = False
  settings: DenoisedMDPSettings  # pyright: ignore[reportIncompatibleVariableOverride]

  def __init__(self, settings: DenoisedMDPSettings, spec: Spec):
    s = settings
    _check(settings, spec)
    self.settings, self.spec, self.deterministic = settings, spec, False
    self.shapes = {name: array.shape for name, array in sorted(spec.observation.items())}
    dtype = jnp.dtype(s.compute_dtype)
    side, channels = 64, sum(shape[2] for shape in self.shapes.values())
    seen: dict[str, Any] = dict(channels=channels, side=side, style=RELU, dtype=dtype)
    down = Down(PlainDown(config=s.encoder.image, **seen), s.encoder.units)
    self.encoder = Encoder(self.shapes, {}, down, None, False)
    sizes = {'actions': spec.num_actions, 'embed': down.size}
    self.rssm = Dynamics(config=s.rssm, dtype=dtype, **sizes)  # pyright: ignore
    size, parts = self.rssm.feature_size, self.rssm.features
    up = PlainUp(config=s.decoder.image, units=s.decoder.units, **seen)
    decoder = Decoder(self.shapes, {}, up, None, size, 'gaussian')
    self.objective = Reconstruction(decoder)
    head = lambda inputs, config, outputs=1: Head(inputs, config, (outputs,), 1.0, ELU, dtype)
    rewards = {k: Scalar(head(parts[k], s.reward_head)) for k in parts if k != 'z'}
    self.reward = Rewards(rewards)  # pyright: ignore[reportAttributeAccessIssue]
    self.actor = Actor(head(parts['x'], s.actor, 2 * spec.num_actions))  # pyright: ignore
    self.critic = Scalar(head(parts['x'], s.critic))  # pyright: ignore
    self.rule, self.tasks = self.make_rule()
    self.optimizers = self.make_optimizers()
    self.capabilities = viewing.of(self)
    if s.eval_as == 'authors':
      self.eval_seed, self.eval_ends = 1841, False

  def make_rule(self) -> tuple[harmony.Weighting, tuple[str, ...]]:
    """Return the weighting rule, and its tasks: `observation`, `reward` and the KLs."""
    w, parts = self.settings.weighting, tuple(self.rssm.sizes)
    kls = ('dynamics',) if w.kl == 'together' else tuple(f'dynamics_{part}' for part in parts)
    if w.rule == 'none':
      return harmony.make('fixed', weights=dict.fromkeys(kls, self.settings.losses.scale)), ()
    weights = {'observation': w.w_o, 'reward': w.w_r, **dict.fromkeys(kls, w.w_d)}
    rule = harmony.make(w.rule, weights=weights, elements=self.objective.elements(), **w.hyper)
    return rule, () if w.rule == 'fixed' else tuple(weights)

  # ------------------------------------------------------------------------------------------------
  # The world model

  def losses(
    self, params: Params, state: TrainState, batch: method.Batch, carry: Carry, draws: Draws
  ) -> tuple[dict[str, jax.Array], Any, dict]:
    """Return (every task's loss on a batch, means over B and T; posterior states; KL by part).

        observation   ½ |oₜ - ôₜ|²              summed over pixels
        reward        ½ (rₜ - r̂ₜ)²              r̂ₜ = rₓ(xₜ) + r_y(yₜ)
        dynamics      Σ β KL[q ‖ p] of x, y, z  that of x at least `free_x` in every step

    -log p of unit Gaussians without their constants, as in the other methods.

    Args:
      params: the world model's. carry: before the batch: nothing, but for the action before it.
    """
    previous = jnp.concatenate([carry.action[:, None], batch['action'][:, :-1]], 1)  # [B, T, A]
    embed, _ = self.encoder(params['encoder'], None, batch, train=True)  # [B, T, E]
    post, prior = self.rssm.observe(
      params['rssm'], carry.latent, embed, previous, batch['is_first'], draws.posterior
    )  # [B, T, ...]
    feature = post.feature()  # [B, T, F]
    losses, _ = self.objective.losses(params, {}, {}, batch, embed, feature)
    losses['reward'] = 0.5 * jnp.square(
      self.reward.mean(params['reward'], feature) - batch['reward']
    )
    kl = self.rssm.latents.each_kl(post.stats, prior)  # [B, T] by part
    kls = {f'dynamics_{part}': self.weighed_kl(part, each) for part, each in kl.items()}
    if self.settings.weighting.kl == 'together':
      kls = {'dynamics': sum(kls.values(), jnp.float32(0))}
    # Before anything that is not linear in the means: some weighting rules.
    means = replicas.mean({name: loss.mean() for name, loss in (losses | kls).items()})
    return means, post, {f'loss/kl_{part}': each.mean() for part, each in kl.items()}

  def weighed_kl(self, part: str, kl: jax.Array) -> jax.Array:
    """Return β max(KL, free), for KL [B, T]; of x also with a share of β that has nothing free."""
    c = self.settings.losses
    beta, free = getattr(c, f'beta_{part}'), getattr(c, f'free_{part}')
    if not free:
      return beta * kl
    kept = min(c.beta_free_x or beta, beta) if part == 'x' else beta
    return kept * jnp.maximum(kl, free) + (beta - kept) * kl

  def weigh(
    self, found: tuple[dict[str, jax.Array], Any, dict], harmonizers: dict, weighting: Any
  ) -> tuple[jax.Array, tuple[Any, dict[str, Any], method.Metrics]]:
    """As Dreamer's; the KL of each part is logged, too, without β and with nothing free."""
    losses, post, kl = found
    total, (post, kept, metrics) = super().weigh((losses, post, {}), harmonizers, weighting)
    return total, (post, kept, metrics | kl)

  # ------------------------------------------------------------------------------------------------
  # Behaviour, learned in imagination of x

  def starts(self, post: Any, batch: method.Batch) -> tuple[Any, jax.Array]:
    """Return (x of all states, whether their episodes go on): N in one row."""
    return super().starts(post.control(), batch)

  def returns(
    self, params: Params, critic: Params, trajectory: Trajectory
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return (λ-returns of states 1 … H-1, [H-1, N]; values and rewards of 1 … H, [H, N]).

    Rᵢ = rᵢ + γ [(1-λ) Vᵢ₊₁ + λ Rᵢ₊₁], with R_H = V_H; rᵢ is x's share of the reward.
    """
    reward = self.reward.mean(params['reward'], trajectory.feature[1:])
    value = self.critic.mean(critic, trajectory.feature[1:])
    discount = jnp.broadcast_to(trajectory.discount[1:-1], reward[:-1].shape)
    lam = self.settings.behavior.lam
    return lambda_returns(reward[:-1], discount, value[1:], value[-1], lam), value, reward

  def actor_loss(
    self,
    actor: Params,
    params: Mapping[str, Params],
    state: TrainState,
    start: Any,
    alive: jax.Array,
    draws: Draws,
  ) -> tuple[jax.Array, tuple[Trajectory, jax.Array, Percentiles, method.Metrics]]:
    """Return (loss, (trajectory, the value's targets, normalizer, metrics)).

    -Rᵢ γⁱ⁻¹ for i = 1 … H-1, whose gradient flows through the dynamics, and through V.
    """
    model, horizon = params['world_model'], self.settings.behavior.horizon
    trajectory = self.imagine(model, actor, start, alive, draws.latent, draws.action, horizon)
    returns, value, reward = self.returns(model, params['critic'], trajectory)
    loss = -(returns * trajectory.weight[: horizon - 1]).mean()
    metrics = {
      'loss/actor': loss,
      'return/imagined': returns.mean(),
      'return/imagined_reward': reward.mean(),
      'critic/value': value.mean(),
    }
    return loss, (sg(trajectory), sg(returns), state.normalizer, metrics)

  def critic_loss(
    self, critic: Params, slow: Params, trajectory: Trajectory, returns: jax.Array
  ) -> tuple[jax.Array, method.Metrics]:
    """½ (Vᵢ - Rᵢ)² γⁱ⁻¹; there is no slow value."""
    del slow
    value = self.critic.mean(critic, trajectory.feature[1:-1])
    loss = (0.5 * jnp.square(value - returns) * trajectory.weight[: len(returns)]).mean()
    return loss, {'loss/critic': loss}

  def slow_copies(self, state: TrainState, params: Mapping[str, Params]) -> dict:
    """Return what there is: none."""
    return state.targets

  # ------------------------------------------------------------------------------------------------
  # Acting

  def act(
    self,
    variables: Mapping[str, Params],
    carry: Carry,
    observation: Mapping[str, jax.Array],
    is_first: jax.Array,
    key: jax.Array | None,
    mode: bool = False,
  ) -> tuple[jax.Array, Carry]:
    """Choose actions [N, A]; see `Method.act`. The latent state is sampled, also with `mode`."""
    of_latent, of_action = jax.random.split(key)  # pyright: ignore[reportArgumentType]
    count = self.settings.behavior.tries if mode else 2
    draw = functools.partial(replicas.draw_rows, count=len(is_first))
    latent = draw(of_latent, draw=lambda key: self.rssm.latents.noise(key, ()))
    noise = draw(of_action, draw=lambda key: self.actor.noise(key, (count,)))  # [N, …, A]
    return self.choose(variables, carry, observation, is_first, latent, noise, mode)

  def choose(
    self,
    variables: Mapping[str, Params],
    carry: Carry,
    observation: Mapping[str, jax.Array],
    is_first: jax.Array,
    latent_noise: jax.Array,
    noise: jax.Array,
    mode: bool,
  ) -> tuple[jax.Array, Carry]:
    """Choose by given noise: [N, ΣS]; and [N, tries, A], or [N, 2, A] for a draw and beside it."""
    embed = self.encode(variables, observation)  # [N, E]
    latent: Any = self.rssm.filter(
      variables['world_model']['rssm'], carry.latent, embed, carry.action, is_first, latent_noise
    )
    policy = self.actor.policy(variables['actor'], latent.feature())
    if mode:
      action, _ = likeliest(policy, noise)
    else:
      action = policy.sample(noise[:, 0]) + self.settings.behavior.exploration * noise[:, 1]
      action = jnp.clip(action, -1, 1)
    return action, Carry(latent, action)

  # ------------------------------------------------------------------------------------------------
  # The rest of the protocol

  def predict(self, variables: Mapping[str, Params], feature: jax.Array) -> dict[str, Any]:
    """Return what the model makes of features [..., T, F], and pictures of each part alone.

    There the other parts stay as they are in the first step: what moves is what the part holds.
    """
    sizes = self.rssm.features
    owner = np.repeat(np.arange(len(sizes)), [*sizes.values()])  # [F]
    moves = owner == np.arange(len(sizes)).reshape(-1, *[1] * feature.ndim)  # [parts, …, F]
    alone = jnp.where(moves, feature, feature[..., :1, :])
    drawn = self.objective.predict(variables['world_model'], {}, alone)['observation']
    parts = {name: dict(zip(sizes, pictures)) for name, pictures in drawn.items()}
    return super().predict(variables, feature) | {'parts': parts}

  def init(self, key: jax.Array) -> TrainState:
    """Return a fresh state, without slow copies."""
    return super().init(key).replace(targets={'critic': {}})

  def init_model(self, key: jax.Array) -> tuple[dict, dict, Any]:
    """Return the world model's (parameters, no running statistics, state of the weighting rule)."""
    made = {
      'encoder': self.encoder.init(key)['params'],
      'rssm': self.rssm.init(),
      'reward': self.reward.init(key),
      **self.objective.init(key)[0],
    }
    harmonizers, weighting = self.rule.init(self.tasks)
    return {**drawn(key, made), 'harmony': harmonizers}, {}, weighting

  def init_behavior(self, key: jax.Array, model_key: jax.Array) -> dict[str, Params]:
    """Return the parameters beside the world model's."""
    return {**drawn(key, {'actor': self.actor.init(key), 'critic': self.critic.init(key)})}


def _check(settings, spec):
  """Raise ValueError, in one line, where the method does not fit."""
  s = settings
  if spec.factors:
    raise ValueError(
      'denoised_mdp has continuous actions; here are choices: take --method=dreamerv3'
    )
  if any(array.shape[:-1] != (64, 64) for array in spec.observation.values()):
    raise ValueError(
      'denoised_mdp sees pictures of 64 × 64 alone; here is '
      f'{spec.spaces.partition(" and ")[0]} (of gymnasium take --observe=render)'
    )
  if s.replay.sampling != 'episodes' or not s.replay.first_action:
    raise ValueError(
      "with denoised_mdp replay.sampling must be 'episodes' and replay.first_action True"
    )
  for name in ('encoder', 'decoder'):
    stages(getattr(s, name).image, 64)  # raises for patches that it cannot have
  if s.decoder.patch > 1 and s.decoder.units % 16:
    raise ValueError(
      f'decoder.units is {s.decoder.units}: with patches it must be 16 times a number'
    )
  for name in 'xyz':
    part = getattr(s.rssm, name)
    if bool(part.deter) != bool(part.stoch) or (name == 'x' and not part.deter):
      both = 'above 0' if name == 'x' else 'above 0, or 0 where there is no such part'
      raise ValueError(
        f'rssm.{name}.deter is {part.deter} and rssm.{name}.stoch {part.stoch}: both must be {both}'
      )
  if s.weighting.kl == 'apart' and harmony.observes(s.weighting.rule):
    raise ValueError(f"weighting.kl is 'apart': with rule {s.weighting.rule} it must be 'together'")


def adapt(traits: method.Traits) -> dict:
  """Learn from an episode's last step, too, where it may end early."""
  return {'replay.ends': True} if traits.ends_early else {}


def make(settings: DenoisedMDPSettings, spec: Spec) -> DenoisedMDP:
  """Return the form of it that the settings name."""
  if settings.behavior.learner == 'imagination':
    return DenoisedMDP(settings, spec)
  from harmony_jax.methods.denoised_mdp_sac import DenoisedSAC  # which is made of this page

  return DenoisedSAC(settings, spec)


METHOD = method.Entry(
  settings=SETTINGS,
  make=make,
  sizes={'small': SMALL, 'toy': TOY},
  family='denoised_mdp',
  adapt=adapt,
  note='the settings of the paper are not known; `paper` is inferred from the code of 2023 for the '
  'control suite, with the steps and evaluations that the other methods have',
)
