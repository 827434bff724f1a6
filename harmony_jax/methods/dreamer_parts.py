"""The parts that a Dreamer is made of, and what the page dreamer.py takes for granted of them:
settings and environment in, networks, first parameters and random numbers out.

Shapes as on that page.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from harmony_jax import harmony, method, replicas, viewing
from harmony_jax.actions import Actor
from harmony_jax.distributions import Percentiles
from harmony_jax.encoders import Decoder, Encoder, Objective, Reconstruction
from harmony_jax.envs.base import Spec
from harmony_jax.methods.dreamer_settings import DreamerSettings
from harmony_jax.networks import Head, Layers, ScalarHead
from harmony_jax.optimizers import make_optimizer
from harmony_jax.rssm import RSSM, State
from harmony_jax.weighting import make_weighting

Params = Mapping[str, Any]


class Carry(NamedTuple):
  """What is carried between steps: latent state, leaves [B, ...], and the last action [B, A]."""

  latent: State
  action: jax.Array


class TrainState(method.TrainState):
  """Params and optimisers by `world_model`, `actor`, `critic`; `carry` is a `Carry`."""

  targets: dict  # slow copies: of the critic, and those that the objective keeps
  statistics: dict  # running statistics of networks with batch norms
  weighting: Any  # state of the weighting rule; empty for harmony
  normalizer: Percentiles


class Draws(NamedTuple):
  """The random numbers of one update; None takes the mode of every draw."""

  posterior: Any = None  # [V B, T, S]
  view: Any = None  # of the objective, leaves [V B, ...]
  latent: Any = None  # [H, N, S]
  action: Any = None  # [H+1, N, ...]
  entropy: Any = None  # [samples, H, N, A], where entropy is estimated


class Trajectory(NamedTuple):
  """One imagination. feature [H+1, N, F], action [H+1, N, A]; the rest [H+1, N].

  keep: probability (or its mode, 0 or 1) that the episode goes on. discount: γ keep. weight: the
  discounted probability to get to a state, by which losses are weighed.
  """

  feature: jax.Array
  action: jax.Array
  keep: jax.Array
  discount: jax.Array
  weight: jax.Array
  states: State


class DreamerParts(method.Method):
  """The parts, their initial parameters, and their random numbers.

  Attributes:
    unstarted: steps at a sequence's end in which no imagination starts.
    shortest: imagination from which an action learns anything.
  """

  unstarted: int = 0
  shortest: int = 1
  settings: DreamerSettings
  acting = ('params', 'statistics')

  def __init__(self, settings: DreamerSettings, spec: Spec, deterministic: bool = False):
    s = settings
    self.settings, self.spec, self.deterministic = settings, spec, deterministic
    self.shapes = {name: array.shape for name, array in spec.observation.items()}
    self.layers: Layers = {'style': s.network, 'dtype': jnp.dtype(s.compute_dtype)}
    layers = self.layers
    if s.behavior.horizon < self.shortest:
      told = f'behavior.horizon is {s.behavior.horizon}'
      raise ValueError(f'{told}: here it must be at least {self.shortest}')
    if s.replay.first_action and s.rssm.learned_initial:
      # It would not learn where sequences begin inside an episode.
      raise ValueError('with replay.first_action rssm.learned_initial must be False')
    symlog = s.losses.likelihood == 'symlog'
    self.encoder = Encoder.make(s.encoder, self.shapes, symlog, **layers)
    sizes = {'actions': spec.num_actions, 'embed': self.encoder.size}
    self.rssm = RSSM(config=s.rssm, **sizes, **layers)
    size = self.rssm.feature_size  # F
    self.objective = self.make_objective()
    self.reward = ScalarHead.make(size, s.reward_head, **layers)
    self.largest_reward = self.reward.scalar.largest
    self.continue_head = Head(size, s.continue_head, (1,), **layers)
    actions = spec.num_actions, spec.discrete, spec.choices
    self.actor = Actor.make(s.actor, size, *actions, **layers)
    self.critic = ScalarHead.make(size, s.critic, **layers)
    # What the continue head predicts where an episode goes on: 1, or the discount (DreamerV2).
    self.continues = s.behavior.discount if s.continue_head.predicts == 'discount' else 1.0
    self.balance = s.losses.balance
    self.chooses = bool(spec.factors)  # whether there is a choice in an action
    self.learns_ends = continues = s.continue_head.enabled
    self.rule, self.tasks = make_weighting(s.weighting, s.losses, self.objective, continues)
    self.optimizers = self.make_optimizers()
    self.capabilities = viewing.of(self)
    if s.weighting.calibrate and self.rule.start:
      count, losses = s.weighting.calibrate, self.task_losses
      self.calibration = method.Calibration(count, losses, self.with_harmonizers)

  def make_optimizers(self) -> dict[str, optax.GradientTransformation]:
    """Return one for each subtree; that of the world model knows the harmonizers' own rates."""
    s = self.settings
    rates = (s.weighting.rate, s.weighting.beta2) if self.rule.init(self.tasks)[0] else ()
    return {
      'world_model': make_optimizer(s.model_opt, *rates),
      'actor': make_optimizer(s.actor_opt),
      'critic': make_optimizer(s.critic_opt),
    }

  def make_objective(self) -> Objective:
    """Return what the representation is learned from."""
    s, size = self.settings, self.rssm.feature_size
    decoder = Decoder.make(s.decoder, self.shapes, size, s.losses.likelihood, **self.layers)
    return Reconstruction(decoder, s.weighting.harmonize_vector)

  def continue_logit(self, params: Params, feature: jax.Array) -> jax.Array:
    """[..., F] -> [...]."""
    logit: Any = self.continue_head.apply({'params': params['continue']}, feature)
    return logit[..., 0]

  def draws(self, key: jax.Array, batch: int, length: int) -> Draws:
    """Draw the random numbers of one update, by the row in the whole batch."""
    if self.deterministic:
      return Draws()
    latents, objective, actor = self.rssm.latents, self.objective, self.actor
    horizon, starts = self.settings.behavior.horizon, length - self.unstarted

    def row(key):
      model, imagined, acting = jax.random.split(key, 3)
      each = (objective.views, starts)
      entropy = (actor.samples, horizon, *each) if actor.samples else ()
      return Draws(
        latents.noise(model, (objective.views, length)),
        objective.noise(jax.random.fold_in(model, 1)) if objective.views > 1 else None,
        latents.noise(imagined, (horizon, *each)),
        actor.noise(acting, (horizon + 1, *each)),
        actor.noise(jax.random.fold_in(acting, 1), entropy) if entropy else None,
      )

    # [B, lead…, V, (T,) …] -> [lead…, V B (T), …]: the first views stand before the second.
    merge = lambda x, lead, axes: jax.lax.collapse(jnp.moveaxis(x, 0, lead + 1), lead, lead + axes)
    drawn = replicas.draw_rows(key, batch, row)
    axes = Draws((0, 2), (0, 2), (1, 3), (1, 3), (2, 3))
    return Draws(*(x if x is None else merge(x, *where) for x, where in zip(drawn, axes)))

  def encode(self, variables: Params, observation: Mapping[str, jax.Array]) -> jax.Array:
    """Return embeddings [..., E] of observations [..., *shape]."""
    statistics = variables.get('statistics', {}).get('encoder')
    return self.encoder(variables['world_model']['encoder'], statistics, observation)[0]

  def predict(self, variables: Mapping[str, Params], feature: jax.Array) -> dict[str, Any]:
    """Return what the model makes of features [..., F]: see viewing.py."""
    model, keep = variables['world_model'], jnp.ones(feature.shape[:-1])
    if 'continue' in model:
      keep = jax.nn.sigmoid(self.continue_logit(model, feature)) / self.continues
    seen = self.objective.predict(model, variables.get('statistics', {}), feature)
    reward = self.reward.mean(model['reward'], feature)
    return {'observation': {}, **seen, 'reward': reward, 'continue': keep}

  def draws_pictures(self) -> bool:
    """Return whether predictions have observations to look at."""
    return isinstance(self.objective, Reconstruction)

  def variables(self, state: Any) -> dict[str, Any]:
    """Return the parameters by subtree, and running statistics where there are any."""
    return {**state.params, **({'statistics': state.statistics} if state.statistics else {})}

  def init(self, key: jax.Array) -> TrainState:
    """Return a fresh state; the slow critic takes the critic's values after the first update."""
    model_key, behavior_key, rng = jax.random.split(key, 3)
    model, statistics, weighting = self.init_model(model_key)
    params = {'world_model': model, **self.init_behavior(behavior_key, model_key)}
    slow = self.objective.slow(model)
    targets = {'critic': params['critic'], **({'world_model': slow} if slow else {})}
    return TrainState(
      params=params,
      opt_state={k: self.optimizers[k].init(params[k]) for k in params},
      targets=jax.tree.map(jnp.copy, targets),
      statistics=statistics,
      weighting=weighting,
      normalizer=Percentiles.zeros(),
      carry=self.initial_carry(params, self.settings.batch_size),
      step=jnp.zeros((), jnp.int32),
      nonfinite=jnp.zeros((), jnp.int32),
      rng=rng,
    )

  def init_behavior(self, key: jax.Array, model_key: jax.Array) -> dict[str, Params]:
    """Return the parameters beside the world model's."""
    actor_key, critic_key = jax.random.split(key)
    actor = self.actor.head.init(actor_key, jnp.zeros((1, self.rssm.feature_size)))['params']
    return {'actor': actor, 'critic': self.critic.init(critic_key)}

  def init_model(self, key: jax.Array) -> tuple[dict, dict, Any]:
    """Return the world model's (parameters, running statistics, state of the weighting rule)."""
    keys = jax.random.split(key, 5)
    encoder = self.encoder.init(keys[0])
    objective, statistics = self.objective.init(keys[2])
    harmonizers, weighting = self.rule.init(self.tasks)
    params = {
      'encoder': encoder['params'],
      'rssm': self.rssm.init(keys[1]),
      'reward': self.reward.init(keys[3]),
      'harmony': harmonizers,
      **objective,
    }
    if self.settings.continue_head.enabled:
      feature = jnp.zeros((1, self.rssm.feature_size))
      params['continue'] = self.continue_head.init(keys[4], feature)['params']
    if 'batch_stats' in encoder:
      statistics = {'encoder': encoder['batch_stats'], **statistics}
    return params, statistics, weighting

  def initial_carry(self, variables: Mapping[str, Params], num_envs: int) -> Carry:
    """Return the initial latent state and a zero action, leaves [N, ...]."""
    latent = self.rssm.initial(variables['world_model']['rssm'], num_envs)
    return Carry(latent, jnp.zeros((num_envs, self.spec.num_actions), jnp.float32))

  def carry_before(self, params: Mapping[str, Params], batch: method.Batch) -> Carry:
    """Return the initial carry, with the action before a batch's sequences where it is known."""
    carry = self.initial_carry(params, len(batch['is_first']))
    return carry._replace(action=batch.get('before', carry.action))

  def task_losses(self, state: TrainState, batch: method.Batch) -> dict[str, jax.Array]:
    """Return the world model's losses by name on one batch, without training."""
    raise NotImplementedError

  def with_harmonizers(self, state: TrainState, losses: Mapping[str, Any]) -> TrainState:
    """Return the state with every harmonizer at its closed form (eq. 12) for the losses."""
    model = state.params['world_model']
    chosen = {k: jnp.asarray(losses[k]) for k in model['harmony']}
    start = harmony.from_losses(chosen, self.rule)
    return state.replace(params={**state.params, 'world_model': {**model, 'harmony': start}})


def imagination_metrics(
  loss: jax.Array,
  returns: jax.Array,
  value: jax.Array,
  reward: jax.Array,
  entropy: jax.Array,
  advantage: jax.Array,
) -> method.Metrics:
  """Return what is logged of an actor's update."""
  return {
    'loss/actor': loss,
    'actor/entropy': entropy.mean(),
    'actor/advantage': advantage.mean(),
    'return/imagined': returns.mean(),
    'return/imagined_reward': reward.mean(),
    'critic/value': value.mean(),
  }
