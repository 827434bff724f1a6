"""DreamerPro's objective, in place of reconstruction (Deng et al. 2022, arXiv 2110.14565).

K prototypes, unit vectors of size P, divide the embeddings of a batch among them as equally as a
Sinkhorn iteration makes it. The model predicts to which prototypes a slow copy of its encoder
assigns each observation:

    swav      from the other of two shifted views of it: what a look says about the scene
    temporal  from the latent state: what the dynamics must know of it
    norm      that projections are of length 1 before they are made so; optional

Every loss is a cross entropy -Σₖ qₖ log pₖ, p = softmax(⟨prototypeₖ, projection⟩ / temperature).
B sequences seen twice are 2B rows, the first view of all, then the second; T steps, E embedding,
F feature.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from harmony_jax import replicas
from harmony_jax.encoders import Encoder, Losses, Objective, Params, scale_image
from harmony_jax.networks import LINEAR, Dense
from harmony_jax.optimizers import ema_update
from harmony_jax.settings import setting

sg = jax.lax.stop_gradient


@dataclasses.dataclass(frozen=True)
class PrototypeSettings:
  """Assignments to prototypes in place of reconstruction."""

  count: int = setting(2500, 'prototypes, K', least=1)
  size: int = setting(32, 'their dimensions, P', least=1)
  temperature: float = setting(0.1, 'of the predicted assignments', above=0)
  sinkhorn_epsilon: float = setting(0.0125, 'of the target assignments', above=0)
  sinkhorn_iterations: int = setting(3, 'rounds in which they are made equal shares', least=1)
  warm_up: int = setting(
    1, 'first steps of a sequence, whose states know too little, that are not predicted'
  )
  norm: float = setting(0.0, 'weight of the loss that holds projections at length 1')
  freeze: int = setting(10_000, 'updates during which the prototypes stay as they were drawn')
  slow_fraction: float = setting(
    0.05, 'how far the slow encoder goes towards the encoder in one of its updates', most=1
  )
  slow_every: int = setting(1, 'updates between two of them', least=1)
  max_shift: float = setting(3.0, 'pixels by which the two views of a sequence are shifted at most')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prototypes(Objective):
  """The losses, and the slow copies of encoder and projection that they learn from."""

  config: PrototypeSettings
  encoder: Encoder
  feature: int  # F
  tasks = ('swav', 'temporal')
  views = 2

  @property
  def _layer(self):
    return Dense(self.config.size, LINEAR)

  def init(self, key: jax.Array) -> tuple[dict, dict]:
    """Return vectors [K, P], and the projections of embeddings and features."""
    keys = jax.random.split(key, 3)
    draw = lambda key, size: self._layer.init(key, jnp.zeros((1, size)))['params']
    vectors = jax.random.normal(keys[0], (self.config.count, self.config.size))
    projections = {
      'embed': draw(keys[1], self.encoder.size),
      'feature': draw(keys[2], self.feature),
    }
    return {'prototypes': {'vectors': vectors, **projections}}, {}

  def noise(self, key: jax.Array) -> Float[Array, '{self.views} 2']:
    """Draw the shifts (dx, dy) of a sequence's views."""
    limit = self.config.max_shift
    return jax.random.uniform(key, (self.views, 2), minval=-limit, maxval=limit)

  def view(self, batch: Params, noise: Float[Array, 'N 2'] | None) -> Params:
    """Return the batch with its images shifted by `noise` pixels."""
    if noise is None:
      return batch
    images = {k: shift(scale_image(batch[k]), noise) for k in self.encoder.images}
    return {**batch, **images}

  def slow(self, params: Params) -> dict:
    """Return the encoder and the projection of embeddings."""
    return {'encoder': params['encoder'], 'embed': params['prototypes']['embed']}

  def update_slow(self, slow: Params, params: Params, step: Int[Array, '']) -> dict:
    """Return slow + f (fast - slow); the first update copies."""
    c = self.config
    return ema_update(slow, self.slow(params), step, c.slow_fraction, c.slow_every)

  def project(self, params: Params) -> Params:
    """Return prototypes of length 1: set before each update, whose gradient takes them so."""
    head = params['prototypes']
    return {**params, 'prototypes': {**head, 'vectors': unit(head['vectors'])}}

  def mask(self, gradient: Params, step: Int[Array, '']) -> Params:
    """Return the gradient, without that of the prototypes while they are frozen."""
    head = gradient['prototypes']
    vectors = jnp.where(step < self.config.freeze, 0.0, head['vectors'])
    return {**gradient, 'prototypes': {**head, 'vectors': vectors}}

  def projection(self, layer: Params, x: Float[Array, '*batch inputs']) -> Float[Array, '*batch P']:
    """Return projections, not yet of length 1, by a layer's parameters."""
    out: Any = self._layer.apply({'params': layer}, x)
    return out

  def scores(
    self, params: Params, projection: Float[Array, '*batch P']
  ) -> Float[Array, '*batch K']:
    """Return ⟨prototypeₖ, projection⟩ of unit vectors; `params` as `project` has them."""
    return unit(projection) @ params['prototypes']['vectors'].T

  def assignments(
    self, params: Params, slow: Params, slow_embed: Float[Array, 'N T E']
  ) -> Float[Array, 'N T-{self.config.warm_up} K']:
    """Return targets from slow embeddings; by view."""
    scores = self.scores(params, self.projection(slow['embed'], slow_embed))
    scores = scores[:, self.config.warm_up :]
    views = sg(scores).reshape(2, -1, self.config.count)  # [2, B (T - warm_up), K]
    return jax.vmap(self._balance)(views).reshape(scores.shape)

  def _balance(self, scores):
    return sinkhorn(scores, self.config.sinkhorn_epsilon, self.config.sinkhorn_iterations)

  def losses(
    self,
    params: Params,
    slow: Params,
    statistics: Params,
    batch: Params,
    embed: Float[Array, 'N T E'],
    feature: Float[Array, 'N T F'],
  ) -> tuple[Losses, dict]:
    """Return `swav`, `temporal`, and `norm` where it counts; `params` as `project` has them."""
    c, slow = self.config, sg(slow)
    slow_embed, _ = self.encoder(slow['encoder'], None, batch)
    targets = self.assignments(params, slow, slow_embed)  # [2B, T - warm_up, K]
    by_embed = self.projection(params['prototypes']['embed'], embed)  # [2B, T, P]
    by_feature = self.projection(params['prototypes']['feature'], feature)  # [2B, T, P]
    log_p = lambda projection: jax.nn.log_softmax(
      self.scores(params, projection[:, c.warm_up :]) / c.temperature
    )
    other = jnp.roll(targets, targets.shape[0] // 2, 0)  # the other view's
    losses = {
      'swav': -(other * log_p(by_embed)).sum(-1).mean(),
      'temporal': -(targets * log_p(by_feature)).sum(-1).mean(),
    }
    if c.norm:
      lengths = [jnp.linalg.norm(each, axis=-1) for each in (by_embed, by_feature)]
      losses['norm'] = c.norm * sum(
        (jnp.square(length - 1).mean() for length in lengths), jnp.float32(0)
      )
    return losses, {}

  def predict(
    self, params: Params, statistics: Params, feature: Float[Array, '*batch F']
  ) -> dict[str, Float[Array, '*batch K']]:
    """Return {'prototype': probabilities}, p of the loss `temporal`."""
    projection = self.projection(params['prototypes']['feature'], feature)
    scores = self.scores(self.project(params), projection)
    return {'prototype': jax.nn.softmax(scores / self.config.temperature)}

  def assign(self, params: Params, observation: Params) -> Float[Array, 'N T K']:
    """Return assignments of observations [N, T, ...], each sequence's balanced.

    As the losses' targets, but by the encoder itself in place of its slow copy.
    """
    embed, _ = self.encoder(params['encoder'], None, observation)
    projection = self.projection(params['prototypes']['embed'], embed)
    return jax.vmap(self._balance)(self.scores(self.project(params), projection))


def unit(x: Float[Array, '*batch P']) -> Float[Array, '*batch P']:
  """Return x / max(‖x‖, 10⁻⁶) over the last axis."""
  return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), 1e-12))


def sinkhorn(scores: Float[Array, 'N K'], epsilon: float, iterations: int) -> Float[Array, 'N K']:
  """Assign N samples to K prototypes by their scores, in nearly equal shares.

  exp(scores / epsilon), then in turns: every prototype's weights are made to sum to N/K, every
  sample's to 1. Returns rows that sum to 1. With several replicas N counts all samples.
  """
  log = scores / epsilon
  for _ in range(iterations):
    log = log - replicas.logsumexp(log)  # the constants N and K are taken out by the next line
    log = jax.nn.log_softmax(log)
  return jnp.exp(log)


def shift(images: Float[Array, 'N T H W C'], by: Float[Array, 'N 2']) -> Float[Array, 'N T H W C']:
  """Move images by (dx, dy) pixels, bilinearly; the edges are continued.

  out[y, x] = in[y - dy, x - dx], coordinates kept in the image; dx and dy need not be whole.
  """
  height, width = images.shape[2:4]
  rows = jax.vmap(lambda dy: _weights(height, dy))(by[:, 1])
  columns = jax.vmap(lambda dx: _weights(width, dx))(by[:, 0])
  images = jnp.einsum('nyh,nthwc->ntywc', rows, images, precision='highest')
  return jnp.einsum('nxw,ntywc->ntyxc', columns, images, precision='highest')


def _weights(size, by):
  """[size, size]: how a line of pixels moved by `by` is put together from the line."""
  source = jnp.clip(jnp.arange(size) - by, 0, size - 1)
  return jnp.maximum(0.0, 1 - jnp.abs(source[:, None] - jnp.arange(size)))
