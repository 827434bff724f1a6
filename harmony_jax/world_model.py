"""The world model: encoder, RSSM, decoder, reward and continue heads, and its losses by name.

    observation   -log p(oₜ | zₜ)   squared error of images, summed over pixels
    reward        -log p(rₜ | zₜ)   cross entropy over two-hot symlog bins, or ½ squared error
    dynamics      α max(1, KL[sg(q) ‖ p]) + (1-α) max(1, KL[q ‖ sg(p)])                     (eq. 14,
    15) continue      -log p(not terminalₜ | zₜ), weight 1, never harmonized (as in the authors'
    code); optional vector        squared error of vector observations (as in the authors' code,
    weight 1 unless `harmonize_vector`
                  makes it part of `observation`)

Without a decoder, DreamerPro has in place of `observation` (prototypes.py, eq. 16):

    swav, temporal   -Σ q log p of assignments to prototypes, over two shifted views of the batch

and, for people to look at, if asked for a probe: a decoder that learns from the states and that
nothing learns from.

A weighting rule (`harmony.py`) makes one scalar of them. The harmonizers are leaves of this model's
parameters.
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from harmony_jax import distributions as dists
from harmony_jax import harmony, replicas
from harmony_jax.chunks import apply_in_chunks, frames_at_once, mean_in_chunks
from harmony_jax.networks import (
  Decoder,
  Encoder,
  Head,
  Style,
  finishing,
  frame_bytes,
  predictions,
  reconstruction_losses,
  scale_image,
)
from harmony_jax.prototypes import Prototypes, shift
from harmony_jax.rssm import RSSM, State
from harmony_jax.weighting import balance, make_weighting


class Outputs(NamedTuple):
  """One forward pass over a batch: leaves [B, T, ...], or [2B, T, ...] where it is seen in two
  views.
  """

  embed: jax.Array
  posterior: State
  prior_stats: jax.Array
  decoded: Mapping[str, jax.Array]
  reward_logits: jax.Array
  continue_logit: jax.Array | None  # None without that head
  # running statistics of the networks after this batch; empty where there are none
  statistics: dict


@dataclasses.dataclass(frozen=True)
class WorldModel:
  """The parts and how their losses are put together. Build one with `from_config`."""

  encoder: Encoder
  rssm: RSSM
  # with prototypes None, or a probe whose parameters are not among the model's
  decoder: Decoder | None
  reward_head: Head
  reward: dists.Scalar
  continue_head: Head | None
  weighting: harmony.Weighting
  tasks: tuple[str, ...]
  likelihood: str = 'symlog'
  free_nats: float = 1.0
  free_average: bool = False  # clamp the batch's mean KL instead of every step's
  dynamics_balance: float = 0.5 / 0.6
  harmonize_vector: bool = False
  # what the head predicts where an episode goes on: 1, or the discount (DreamerV2)
  continue_target: float = 1.0
  continue_scale: float = 1.0
  continue_gradient: bool = True  # False: the head learns from features that do not learn from it
  prototypes: Prototypes | None = None

  @classmethod
  def from_config(cls, config, shapes: Mapping[str, tuple], actions: int, dtype) -> 'WorldModel':
    """`config` as in configs/dreamerv3.py, `shapes` {name: shape} of the observations, `actions` A."""
    shapes, losses, style = dict(shapes), config.losses, Style(**config.network)
    shared = dict(style=style, dtype=dtype)
    encoder = Encoder(shapes, symlog=losses.likelihood == 'symlog', **config.encoder, **shared)
    rssm = RSSM(actions, encoder.size(), **config.rssm, **shared)
    features = rssm.feature_size
    weighting, tasks = make_weighting(config, shapes)
    reward = dists.scalar(config.reward_head.distribution, config.reward_head.bins)
    out_scale = 0.0 if config.reward_head.distribution == 'two_hot' else 1.0
    head, gamma = config.continue_head, config.behavior.discount
    prototypes = dict(config.prototypes)
    enabled = prototypes.pop('enabled')
    if enabled and (
      encoder.kind != 'plain' or not any(len(shape) == 3 for shape in shapes.values())
    ):
      raise ValueError('prototypes are for pictures and plain encoders')
    decoder = dict(config.decoder)
    probe = decoder.pop('probe')
    if probe and not enabled:
      raise ValueError(
        'decoder.probe is for models without a decoder of their own: those with prototypes.enabled'
      )
    if probe and decoder['kind'] != 'plain':
      raise ValueError(f"with decoder.probe decoder.kind must be 'plain', not {decoder['kind']!r}")
    return cls(
      encoder,
      rssm,
      Decoder(features, shapes, **decoder, **shared) if probe or not enabled else None,
      Head(
        features,
        config.reward_head.layers,
        config.reward_head.units,
        (reward.size,),
        out_scale,
        **shared,
      ),
      reward,
      Head(features, head.layers, head.units, (1,), **shared) if head.enabled else None,
      weighting,
      tasks,
      losses.likelihood,
      losses.free_nats,
      losses.free_average,
      balance(config),
      config.weighting.harmonize_vector,
      gamma if head.predicts == 'discount' else 1.0,
      head.scale,
      head.gradient,
      Prototypes(encoder.size(), features, **prototypes) if enabled else None,
    )

  def init(self, key) -> tuple[dict, dict, object]:
    """(parameters, running statistics, state of the weighting rule).

    Only networks with batch norms have statistics. Functions that encode or decode find them in
    `params` under the key `statistics` (`with_statistics`); they are no parameters and no optimiser
    sees them.
    """
    keys = jax.random.split(key, 5)
    features = jnp.zeros((1, self.rssm.feature_size))
    observation = {k: jnp.zeros((1, *shape)) for k, shape in self.encoder.shapes.items()}
    harmonizers, weighting_state = self.weighting.init(self.tasks)
    made = {'encoder': self.encoder.init(keys[0], observation)}
    if self.decoder and not self.probing:
      made['decoder'] = self.decoder.init(keys[2], features)
    params = {
      **{name: network['params'] for name, network in made.items()},
      'rssm': self.rssm.init(keys[1]),
      'reward': self.reward_head.init(keys[3], features)['params'],
      'harmony': harmonizers,
    }
    if self.continue_head:
      params['continue'] = self.continue_head.init(keys[4], features)['params']
    if self.prototypes:
      params['prototypes'] = self.prototypes.init(keys[2])
    statistics = {
      name: network['batch_stats'] for name, network in made.items() if 'batch_stats' in network
    }
    return params, statistics, weighting_state

  @property
  def views(self) -> int:
    """How often each sequence of a batch is seen."""
    return 2 if self.prototypes else 1

  @property
  def probing(self) -> bool:
    """Whether the decoder is a probe."""
    return bool(self.decoder and self.prototypes)

  def noise(self, key, length: int) -> dict:
    """The draws for one sequence: 'latent' [views, T, ...]; 'shift' [views, 2] where it is seen in
    shifted views.
    """
    draws = {'latent': self.rssm.latents.noise(key, (self.views, length))}
    if self.prototypes:
      limit = self.prototypes.max_shift
      draws['shift'] = jax.random.uniform(
        jax.random.fold_in(key, 1), (self.views, 2), minval=-limit, maxval=limit
      )
    return draws

  # What is beside the parameters in DreamerPro; nothing elsewhere.

  def targets(self, params) -> dict:
    """The slow copies that the losses learn from."""
    if not self.prototypes:
      return {}
    return {'encoder': params['encoder'], 'embed': params['prototypes']['embed']}

  def update_targets(self, targets, params, step) -> dict:
    """The slow copies after update number `step`."""
    return (
      self.prototypes.slow_update(targets, self.targets(params), step) if self.prototypes else {}
    )

  def prepared(self, params) -> dict:
    """The parameters as an update begins with them."""
    return (
      params | {'prototypes': self.prototypes.prepared(params['prototypes'])}
      if self.prototypes
      else params
    )

  def frozen(self, gradient, step) -> dict:
    """The gradient of those parameters that learn in this update."""
    if not self.prototypes:
      return gradient
    return {**gradient, 'prototypes': self.prototypes.frozen(gradient['prototypes'], step)}

  def init_probe(self, key) -> dict:
    """Parameters of the probing decoder."""
    return self.decoder.init(key, jnp.zeros((1, self.rssm.feature_size)))['params']

  def probe_loss(self, probe, outputs: Outputs, batch, noise):
    """(The loss of the first view's reconstruction from its states, which do not learn from it;
    metrics).
    """
    count = len(batch['is_first'])
    feature = jax.lax.stop_gradient(outputs.posterior.feature()[:count])
    if noise is not None:
      batch = self._shifted(batch, noise['shift'][:count])
    losses, _ = self._reconstruction({'decoder': probe}, feature, batch)
    loss = sum(losses.values())
    return loss, {'loss/probe': loss}

  # ------------------------------------------------------------------------------------------------

  def encode(self, params, observation):
    """Observations with any leading axes [..., *shape] -> embedding [..., E]."""
    return self._encode(params, observation, train=False)[0]

  def decode(self, params, feature):
    """Features [..., F] -> decoder outputs {name: [..., *shape]}, none where `params` have no
    decoder.
    """
    return self._decode(params, feature, train=False)[0]

  def _encode(self, params, observation, train):
    lead = _lead(observation, self.encoder.shapes)
    flat = {k: observation[k].reshape(-1, *shape) for k, shape in self.encoder.shapes.items()}
    frame = frame_bytes(self.encoder)
    if frame:
      encode = lambda params, flat: self.encoder.apply({'params': params}, flat)
      out, statistics = apply_in_chunks(encode, params['encoder'], flat, frames_at_once(frame)), {}
    else:
      out, statistics = _apply(self.encoder, params, 'encoder', flat, train)
    return out.reshape(*lead, -1), statistics

  def _decode(self, params, feature, train):
    if 'decoder' not in params:
      return {}, {}
    lead = feature.shape[:-1]
    out, statistics = _apply(
      self.decoder, params, 'decoder', feature.reshape(-1, feature.shape[-1]), train
    )
    return {k: v.reshape(*lead, *v.shape[1:]) for k, v in out.items()}, statistics

  def reward_logits(self, params, feature):
    """[..., F] -> [..., bins], or [..., 1] where the head is a Gaussian's mean."""
    return self.reward_head.apply({'params': params['reward']}, feature)

  def continue_logit(self, params, feature):
    """[..., F] -> [...]; None without that head."""
    if not self.continue_head:
      return None
    return self.continue_head.apply({'params': params['continue']}, feature)[..., 0]

  def views_of(self, state: State, batch, previous_action, noise):
    """The arguments as the model sees them: twice, with images shifted, where it has prototypes."""
    if not self.prototypes:
      return state, batch, previous_action
    state, batch, previous_action = jax.tree.map(
      lambda x: jnp.concatenate([x, x]), (state, batch, previous_action)
    )
    return state, batch if noise is None else self._shifted(batch, noise['shift']), previous_action

  def _shifted(self, batch, by):
    """The batch with images moved by [B, 2] pixels."""
    return {**batch, **{k: shift(scale_image(batch[k]), by) for k in self.encoder_images()}}

  def forward(self, params, state: State, batch, previous_action, noise) -> Outputs:
    """All outputs for a batch, as of `views_of`.

    Args:
      state: latent state before the batch, leaves [B, ...]; a constant.
      batch: observations and `is_first` [B, T].
      previous_action: [B, T, A], the action taken before each observation.
      noise: as of `noise`, rows of all sequences' first views before the second; or None for modes.
    """
    outputs = self._outputs(params, state, batch, previous_action, noise)
    decoded, more = self._decode(params, outputs.posterior.feature(), train=True)
    return outputs._replace(decoded=decoded, statistics=outputs.statistics | more)

  def _outputs(self, params, state, batch, previous_action, noise) -> Outputs:
    """`forward` without decoding."""
    embed, statistics = self._encode(params, batch, train=True)
    posterior, prior_stats = self.rssm.observe(
      params['rssm'], state, embed, previous_action, batch['is_first'], noise and noise['latent']
    )
    feature = posterior.feature()
    return Outputs(
      embed,
      posterior,
      prior_stats,
      {},
      self.reward_logits(params, feature),
      self.continue_logit(
        params, feature if self.continue_gradient else jax.lax.stop_gradient(feature)
      ),
      statistics,
    )

  def step_losses(self, outputs: Outputs, batch) -> dict:
    """Every loss per step, {name: [B, T]}; `dyn` and `rep` are the two halves of the dynamics."""
    lead = outputs.reward_logits.shape[:2]
    flat = {k: v.reshape(-1, *v.shape[2:]) for k, v in outputs.decoded.items()}
    parts = reconstruction_losses(flat, _flat(batch, flat), self.likelihood)
    return self._by_task({k: v.reshape(lead) for k, v in parts.items()}) | self._latent_losses(
      outputs, batch
    )

  def _by_task(self, parts) -> dict:
    """Reconstruction losses by observation -> by task: `observation`, and `vector` where that is
    one of its own.
    """
    images = [v for k, v in parts.items() if k in self.encoder_images()]
    vectors = [v for k, v in parts.items() if k not in self.encoder_images()]
    if self.harmonize_vector or not vectors:
      return {'observation': sum(images + vectors)}
    return {**({'observation': sum(images)} if images else {}), 'vector': sum(vectors)}

  def _reconstruction(self, params, feature, batch) -> tuple[dict, dict]:
    """(reconstruction losses by task, means over B and T; statistics after this batch).

    The images of plain decoders are taken some frames at a time: nobody needs all of them at once.
    """
    feature = feature.reshape(-1, feature.shape[-1])
    target = _flat(batch, self.decoder.shapes)
    mean = lambda decoded: {
      k: v.mean() for k, v in reconstruction_losses(decoded, target, self.likelihood).items()
    }
    frame = frame_bytes(self.decoder)
    if not frame:
      decoded, statistics = _apply(self.decoder, params, 'decoder', feature, train=True)
      return self._by_task(mean(decoded)), statistics
    variables = {'params': params['decoder']}
    images = self.encoder_images()

    def image_loss(part, start, target):
      decoded = self.decoder.apply({'params': part}, start, method='finish_images')
      return sum(reconstruction_losses(decoded, target, self.likelihood).values())

    start = self.decoder.apply(variables, feature, method='start_images')
    loss = mean_in_chunks(
      image_loss,
      finishing(self.decoder, params['decoder']),
      start,
      {k: target[k] for k in images},
      frames_at_once(frame),
    )
    # The images' losses enter every task as their sum, so one name may stand for all.
    return self._by_task(
      {images[0]: loss} | mean(self.decoder.apply(variables, feature, method='decode_vectors'))
    ), {}

  def _latent_losses(self, outputs: Outputs, batch) -> dict:
    """The losses per step of what is predicted in latent space, {name: [B, T]}."""
    losses, stop = {}, jax.lax.stop_gradient
    post, prior = outputs.posterior.stats, outputs.prior_stats
    losses['reward'] = self.reward.loss(outputs.reward_logits, batch['reward'])
    if self.continue_head:
      target = self.continue_target * (1 - batch['is_terminal'].astype(jnp.float32))
      losses['continue'] = self.continue_scale * dists.bernoulli_loss(
        outputs.continue_logit, target
      )
    losses['dyn'] = self.rssm.latents.kl(stop(post), prior)
    losses['rep'] = self.rssm.latents.kl(post, stop(prior))
    return (
      losses if self.free_average else losses | {k: self._clamp(losses[k]) for k in ('dyn', 'rep')}
    )

  def _clamp(self, kl):
    return jnp.maximum(self.free_nats, kl)

  def losses(
    self, params, state: State, batch, previous_action, noise, targets=None
  ) -> tuple[dict, Outputs]:
    """The tasks' scalar losses by name (means over B, T), and the outputs, without what was
    decoded.

    `targets` are as of the function of that name.
    """
    state, batch, previous_action = self.views_of(state, batch, previous_action, noise)
    outputs = self._outputs(params, state, batch, previous_action, noise)
    feature = outputs.posterior.feature()
    if self.prototypes:
      slow = jax.lax.stop_gradient(targets)
      means = self.prototypes.losses(
        params['prototypes'], slow, outputs.embed, self.encode(slow, batch), feature
      )
    else:
      means, statistics = self._reconstruction(params, feature, batch)
      outputs = outputs._replace(statistics=outputs.statistics | statistics)
    means = means | {k: v.mean() for k, v in self._latent_losses(outputs, batch).items()}
    # before anything that is not linear in them: free nats, some rules
    means = replicas.mean(means)
    dyn, rep = means.pop('dyn'), means.pop('rep')
    if self.free_average:
      dyn, rep = self._clamp(dyn), self._clamp(rep)
    return {
      **means,
      'dynamics': self.dynamics_balance * dyn + (1 - self.dynamics_balance) * rep,
    }, outputs

  def loss(
    self, params, weighting_state, state: State, batch, previous_action, noise, targets=None
  ):
    """(total, (weighting state, outputs, metrics)): the scalar to differentiate."""
    losses, outputs = self.losses(params, state, batch, previous_action, noise, targets)
    total, weighting_state, weights = self.weighting.weigh(
      losses, params['harmony'], weighting_state
    )
    metrics = {f'loss/{k}': v for k, v in losses.items()} | {
      f'harmony/{k}': v for k, v in weights.items()
    }
    metrics['loss/world_model'] = total
    return total, (weighting_state, outputs, metrics)

  def open_loop(
    self, params, batch, previous_action, context: int, noise: jax.Array | None
  ) -> dict:
    """`predict` [B, T, ...]: from posteriors for the first `context` steps, imagined states
    afterwards.
    """
    rssm, size = params['rssm'], batch['is_first'].shape[0]
    embed = self.encode(params, {k: v[:, :context] for k, v in batch.items()})
    posterior, _ = self.rssm.observe(
      rssm,
      self.rssm.initial(rssm, size),
      embed,
      previous_action[:, :context],
      batch['is_first'][:, :context],
      None if noise is None else noise[:, :context],
    )
    start = jax.tree.map(lambda x: x[:, -1], posterior)
    future = self.follow(
      params, start, previous_action[:, context:], None if noise is None else noise[:, context:]
    )
    return self.predict(params, jnp.concatenate([posterior.feature(), future.feature()], 1))

  def follow(self, params, start: State, action, noise: jax.Array | None) -> State:
    """The states that actions lead to, without observations.

    Args:
      start: leaves [B, ...]. action: [B, T, A], each leads to the next state. noise: [B, T, S], or
        None for modes.

    Returns: the states after each action, leaves [B, T, ...].
    """
    draws = (action,) if noise is None else (action, noise)

    def step(state, inputs):
      state = self.rssm.imagine(
        params['rssm'], state, inputs[0], inputs[1] if len(inputs) > 1 else None
      )
      return state, state

    _, states = jax.lax.scan(step, start, jax.tree.map(lambda x: x.swapaxes(0, 1), draws))
    return jax.tree.map(lambda x: x.swapaxes(0, 1), states)

  def predict(self, params, feature) -> dict:
    """What the model makes of features [..., F].

    Returns: {'observation': {name: [..., *shape]} with images in [0, 1], none without a decoder;
      'reward' [...]; 'continue' [...], the probability that the episode goes on, 1 without a head;
      'prototype' [..., K], the probabilities of the observation's assignment, where there are
      prototypes}.
    """
    logit = self.continue_logit(params, feature)
    keep = (
      jnp.ones(feature.shape[:-1])
      if logit is None
      else jax.nn.sigmoid(logit) / self.continue_target
    )
    found = {
      'observation': predictions(self.decode(params, feature), self.likelihood),
      'reward': self.reward.mean(self.reward_logits(params, feature)),
      'continue': keep,
    }
    if self.prototypes:
      found['prototype'] = self.prototypes.predict(params['prototypes'], feature)
    return found

  def assign(self, params, observation):
    """Assignments to prototypes [N, T, K] of observations [N, T, ...], each sequence's balanced
    over its steps.

    As the losses' targets, but by the encoder itself in place of its slow copy. For models with
    prototypes.
    """
    return jax.vmap(lambda one: self.prototypes.assign(params['prototypes'], one))(
      self.encode(params, observation)
    )

  def encoder_images(self):
    """Names of the image observations."""
    return tuple(k for k, shape in self.encoder.shapes.items() if len(shape) == 3)


def with_statistics(params, statistics) -> dict:
  """A world model's parameters as `encode` and `decode` want them, where its networks keep running
  statistics.
  """
  return {**params, 'statistics': statistics} if statistics else params


def _apply(network, params, name, inputs, train):
  """(outputs, {name: statistics after this batch}) of an encoder or a decoder."""
  statistics = params.get('statistics', {}).get(name)
  if statistics is None:
    return network.apply({'params': params[name]}, inputs), {}
  variables = {'params': params[name], 'batch_stats': statistics}
  if not train:
    return network.apply(variables, inputs), {name: statistics}
  out, changed = network.apply(variables, inputs, True, mutable=['batch_stats'])
  return out, {name: jax.lax.stop_gradient(changed['batch_stats'])}


def _flat(batch, names) -> dict:
  """{name: [B, T, ...]} -> {name: [B·T, ...]} of the names."""
  return {k: batch[k].reshape(-1, *batch[k].shape[2:]) for k in names}


def _lead(observation, shapes):
  name, shape = next(iter(shapes.items()))
  return observation[name].shape[: observation[name].ndim - len(shape)]
