"""DreamerPro's head: what takes the place of reconstruction (Deng et al. 2022, arXiv 2110.14565).

K prototypes, unit vectors of size P, divide the embeddings of a batch among them as equally as a
Sinkhorn iteration makes it. The model predicts to which prototypes a slow copy of its encoder
assigns each observation:

    swav      from the other of two shifted views of it: what a look says about the scene
    temporal  from the latent state: what the dynamics must know of it
    norm      that projections are of length 1 before they are made so; optional

Every loss is a cross entropy -Σₖ qₖ log pₖ, p = softmax(⟨prototypeₖ, projection⟩ / temperature). B
sequences seen twice are 2B rows, the first view of all, then the second; T steps, E embedding, F
feature.
"""

import dataclasses

import jax
import jax.numpy as jnp

from harmony_jax import replicas
from harmony_jax.networks import LINEAR, Dense
from harmony_jax.settings import setting
from harmony_jax.targets import follow

sg = jax.lax.stop_gradient


@dataclasses.dataclass(frozen=True)
class PrototypeSettings:
  """DreamerPro's head: assignments to prototypes in place of reconstruction."""

  count: int = setting(2500, 'prototypes, K', least=1)
  size: int = setting(32, 'their dimensions, P', least=1)
  temperature: float = setting(0.1, 'of the predicted assignments', above=0)
  sinkhorn_epsilon: float = setting(0.0125, 'of the target assignments', above=0)
  sinkhorn_iterations: int = setting(3, 'rounds in which they are made equal shares')
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


@dataclasses.dataclass(frozen=True)
class Prototypes:
  """Sizes, losses and the slow copies of the head; the fields are those of configs/dreamerv3.py:
  prototypes.
  """

  embed: int  # E
  feature: int  # F
  count: int = 2500  # K
  size: int = 32  # P
  temperature: float = 0.1
  sinkhorn_epsilon: float = 0.0125
  sinkhorn_iterations: int = 3
  # first steps of a sequence, whose states know too little, are not predicted
  warm_up: int = 1
  norm: float = 0.0  # weight of the norm loss
  freeze: int = 10_000  # updates during which the prototypes stay as they were drawn
  slow_fraction: float = 0.05  # how far the slow encoder goes towards the encoder
  slow_every: int = 1
  max_shift: float = 3.0  # pixels

  def _layer(self, inputs):
    return Dense(inputs, self.size, LINEAR)

  def init(self, key) -> dict:
    """Parameters: vectors [K, P], and the projections of embeddings and features."""
    keys = jax.random.split(key, 3)
    return {
      'vectors': jax.random.normal(keys[0], (self.count, self.size)),
      'embed': self._layer(self.embed).init(keys[1], jnp.zeros((1, self.embed)))['params'],
      'feature': self._layer(self.feature).init(keys[2], jnp.zeros((1, self.feature)))['params'],
    }

  def prepared(self, params) -> dict:
    """The parameters with prototypes of length 1: set before each update, whose gradient takes them
    as they are.
    """
    return {**params, 'vectors': unit(params['vectors'])}

  def frozen(self, gradient, step):
    """The gradient, without that of the prototypes while they are frozen."""
    return {**gradient, 'vectors': jnp.where(step < self.freeze, 0.0, gradient['vectors'])}

  def project(self, params, name, x):
    """Projections [..., P] of 'embed' or 'feature', not yet of length 1."""
    return self._layer(x.shape[-1]).apply({'params': params[name]}, x)

  def scores(self, params, projection):
    """⟨prototypeₖ, projection⟩ of unit vectors, [..., K]; `params` are prepared."""
    return unit(projection) @ params['vectors'].T

  def assignments(self, params, slow, slow_embed):
    """Targets [2B, T - warm_up, K] from the slow encoder's embeddings [2B, T, E]; each view is
    balanced by itself.
    """
    scores = self.scores(params, self.project(slow, 'embed', slow_embed))[:, self.warm_up :]
    views = sg(scores).reshape(2, -1, *scores.shape[1:])
    balance = lambda one: sinkhorn(
      one.reshape(-1, self.count), self.sinkhorn_epsilon, self.sinkhorn_iterations
    )
    return jax.vmap(balance)(views).reshape(scores.shape)

  def losses(self, params, slow, embed, slow_embed, feature) -> dict:
    """{'swav', 'temporal', and 'norm' where it counts: means over 2B and T}.

    Args:
      params: prepared. slow: the slow projection. embed, slow_embed: [2B, T, E]. feature: [2B, T,
        F].
    """
    targets = self.assignments(params, slow, slow_embed)
    by_embed, by_feature = (
      self.project(params, 'embed', embed),
      self.project(params, 'feature', feature),
    )
    logits = lambda projection: jax.nn.log_softmax(
      self.scores(params, projection[:, self.warm_up :]) / self.temperature
    )
    other = jnp.roll(targets, targets.shape[0] // 2, 0)  # the other view's
    losses = {
      'swav': -(other * logits(by_embed)).sum(-1).mean(),
      'temporal': -(targets * logits(by_feature)).sum(-1).mean(),
    }
    if self.norm:
      lengths = [jnp.linalg.norm(each, axis=-1) for each in (by_embed, by_feature)]
      losses['norm'] = self.norm * sum(jnp.square(length - 1).mean() for length in lengths)
    return losses

  # For people to look at, with parameters that need not be prepared.

  def predict(self, params, feature):
    """Probabilities of the prototypes [..., K], predicted from features [..., F]: p of the loss
    `temporal`.
    """
    scores = self.scores(self.prepared(params), self.project(params, 'feature', feature))
    return jax.nn.softmax(scores / self.temperature)

  def assign(self, params, embed):
    """Assignments [T, K] of one sequence's embeddings [T, E], balanced over it."""
    scores = self.scores(self.prepared(params), self.project(params, 'embed', embed))
    return sinkhorn(scores, self.sinkhorn_epsilon, self.sinkhorn_iterations)

  def slow_update(self, slow, fast, step):
    """slow + f (fast - slow); the first update copies."""
    return follow(slow, fast, step, self.slow_fraction, self.slow_every)


def unit(x):
  """x / max(‖x‖, 10⁻⁶) over the last axis."""
  return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), 1e-12))


def sinkhorn(scores, epsilon: float, iterations: int):
  """Assigns N samples to K prototypes by their scores [N, K], with as equal shares as the
  iterations bring about.

  exp(scores / epsilon), then in turns: every prototype's weights are made to sum to N/K, every
  sample's to 1. Returns [N, K] whose rows sum to 1. With several replicas N counts the samples of
  all.
  """
  log = scores / epsilon
  for _ in range(iterations):
    total = (
      jax.nn.logsumexp(replicas.everywhere(jax.nn.logsumexp(log, 0)), 0)
      if replicas.axis()
      else (jax.nn.logsumexp(log, 0))
    )
    log = log - total  # the constants N and K are taken out by the next line
    log = jax.nn.log_softmax(log)
  return jnp.exp(log)


def shift(images, by):
  """Images [N, T, H, W, C] moved by (dx, dy) pixels [N, 2], bilinearly; the edges are continued.

  out[y, x] = in[y - dy, x - dx], coordinates kept in the image; dx and dy need not be whole.
  """
  height, width = images.shape[2:4]
  along = lambda size, by: jax.vmap(lambda one: _weights(size, one))(by)
  rows, columns = along(height, by[:, 1]), along(width, by[:, 0])
  images = jnp.einsum('nyh,nthwc->ntywc', rows, images, precision='highest')
  return jnp.einsum('nxw,ntywc->ntyxc', columns, images, precision='highest')


def _weights(size, by):
  """[size, size]: how a line of pixels moved by `by` is put together from the line."""
  source = jnp.clip(jnp.arange(size) - by, 0, size - 1)
  return jnp.maximum(0.0, 1 - jnp.abs(source[:, None] - jnp.arange(size)))
