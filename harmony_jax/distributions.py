"""Small probability: symlog, two-hot, straight-through one-hots, Gaussians; λ-returns, and the
range of returns. Everything here is float32.

Draws take their noise as an argument instead of a key, so that the caller prepares all of it before
a loop. `None` in place of the noise means the distribution's mode (mean for a Gaussian): that is
how the algorithm is made deterministic for comparisons with other implementations.
"""

import math
import typing
from collections.abc import Callable
from typing import NamedTuple

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from harmony_jax import replicas


def symlog(x: Float[Array, '*shape']) -> Float[Array, '*shape']:
  """sign(x) log(1 + |x|), elementwise."""
  return jnp.sign(x) * jnp.log1p(jnp.abs(x))


def symexp(x: Float[Array, '*shape']) -> Float[Array, '*shape']:
  """sign(x) (exp|x| - 1), the inverse of symlog."""
  return jnp.sign(x) * jnp.expm1(jnp.abs(x))


def two_hot_bins(count: int = 255, limit: float = 20.0) -> Float[np.ndarray, ' {count}']:
  """`count` bins, evenly spaced in symlog space over [-limit, limit]."""
  return np.linspace(-limit, limit, count).astype(np.float32)


def two_hot(
  x: Float[Array, '*batch'], bins: Float[Array | np.ndarray, ' K']
) -> Float[Array, '*batch K']:
  """The weights of the two bins around x, so that Σ weightᵢ binᵢ = x; x outside the bins takes the
  end bin.

  Args:
    x: values in the space of the bins (symlog already taken).
    bins: ascending.

  Returns: non-negative, summing to 1.
  """
  bins = jnp.asarray(bins)
  count = bins.shape[-1]
  lower, higher = bins <= x[..., None], bins > x[..., None]
  below = jnp.clip(lower.sum(-1) - 1, 0, count - 1)
  above = jnp.clip(count - higher.sum(-1), 0, count - 1)
  same = below == above
  # The bins at these places: taken by index they would be a gather, which nothing fuses with.
  low, high = jnp.where(lower, bins, bins[0]).max(-1), jnp.where(higher, bins, bins[-1]).min(-1)
  to_below = jnp.where(same, 1, jnp.abs(low - x))
  to_above = jnp.where(same, 1, jnp.abs(high - x))
  span = to_below + to_above
  return (
    jax.nn.one_hot(below, count) * (to_above / span)[..., None]
    + jax.nn.one_hot(above, count) * (to_below / span)[..., None]
  )


def two_hot_loss(
  logits: Float[Array, '*batch K'], target: Float[Array, '*batch']
) -> Float[Array, '*batch']:
  """-Σ twohot(symlog(target)) log softmax(logits): cross entropy over symlog bins."""
  logits = logits.astype(jnp.float32)
  chex.assert_shape(target, logits.shape[:-1])
  weights = two_hot(symlog(target.astype(jnp.float32)), two_hot_bins(logits.shape[-1]))
  return -(jax.lax.stop_gradient(weights) * jax.nn.log_softmax(logits)).sum(-1)


def two_hot_mean(logits: Float[Array, '*batch K']) -> Float[Array, '*batch']:
  """symexp(Σ softmax(logits) bins): the expectation is taken in symlog space."""
  logits = logits.astype(jnp.float32)
  return symexp((jax.nn.softmax(logits) * two_hot_bins(logits.shape[-1])).sum(-1))


class Scalar(NamedTuple):
  """How a head's K = `size` outputs describe a scalar: -log p of a target, mean, largest mean."""

  size: int
  loss: Callable[[Float[Array, '*batch K'], Float[Array, '*batch']], Float[Array, '*batch']]
  mean: Callable[[Float[Array, '*batch K']], Float[Array, '*batch']]
  largest: float = math.inf


def scalar(distribution: str, bins: int = 255) -> Scalar:
  """'two_hot': symlog bins (DreamerV3). 'gaussian': unit variance, ½(x - target)² without the
  constant (DreamerV2).
  """
  if distribution == 'gaussian':
    mean = lambda out: out[..., 0].astype(jnp.float32)
    return Scalar(
      1, lambda out, target: 0.5 * jnp.square(mean(out) - jax.lax.stop_gradient(target)), mean
    )
  return Scalar(bins, two_hot_loss, two_hot_mean, math.expm1(two_hot_bins(bins)[-1]))


def unimix(logits: Float[Array, '*batch K'], fraction: float) -> Float[Array, '*batch K']:
  """Log-probabilities of (1-fraction) softmax(logits) + fraction uniform, over the last axis;
  float32.
  """
  logits = logits.astype(jnp.float32)
  if not fraction:
    return jax.nn.log_softmax(logits)
  probs = (1 - fraction) * jax.nn.softmax(logits) + fraction / logits.shape[-1]
  return jnp.log(probs)


def draw_one_hot(
  logits: Float[Array, '*batch K'], uniform: Float[Array, '*batch'] | None
) -> Float[Array, '*batch K']:
  """A one-hot sample of softmax(logits) by the inverse of its cumulative distribution, with the
  gradient of the probabilities: sample + probs - sg(probs), straight through.

  Args:
    logits: log-probabilities up to a constant.
    uniform: in [0, 1), or None for the mode.

  Returns: float32 one-hots.
  """
  classes, probs = logits.shape[-1], jax.nn.softmax(logits.astype(jnp.float32))
  if uniform is None:
    index = jnp.argmax(logits, -1)
  else:
    # A triangular matrix product: a cumulative sum that every backend runs fast. With rounded
    # factors, as accelerators have them by default, other classes would be drawn. It is made of
    # operations, as a kernel (resident.py) can hold no constant.
    place = lambda axis: jax.lax.broadcasted_iota(jnp.int32, (classes, classes), axis)
    triangle = (place(0) <= place(1)).astype(jnp.float32)
    cumulative = jnp.matmul(probs, triangle, precision='highest')
    index = (cumulative <= uniform[..., None] * cumulative[..., -1:]).sum(-1)
    index = jnp.minimum(index, classes - 1)
  sample = jax.lax.stop_gradient(jax.nn.one_hot(index, classes, dtype=jnp.float32))
  return sample + (probs - jax.lax.stop_gradient(probs))


def bernoulli_loss(
  logit: Float[Array, '*batch'], target: Float[Array, '*batch']
) -> Float[Array, '*batch']:
  """-[t log σ(x) + (1-t) log(1-σ(x))], numerically safe."""
  logit, target = logit.astype(jnp.float32), target.astype(jnp.float32)
  return -(target * jax.nn.log_sigmoid(logit) + (1 - target) * jax.nn.log_sigmoid(-logit))


def normal_log_prob(
  x: Float[Array, '*#shape'], mean: Float[Array, '*#shape'], std: Float[Array, '*#shape']
) -> Float[Array, '*shape']:
  """log N(x; mean, std), elementwise."""
  return (
    -0.5 * jnp.square((x - mean) / std) - jnp.log(std) - 0.5 * np.log(2 * np.pi).astype(np.float32)
  )


def normal_entropy(std: Float[Array, '*shape']) -> Float[Array, '*shape']:
  """½ log(2πe) + log std, elementwise."""
  return jnp.log(std) + 0.5 * np.log(2 * np.pi * np.e).astype(np.float32)


# --------------------------------------------------------------------------------------------------
# Returns


def lambda_returns(
  reward: Float[Array, ' H *batch'],
  discount: Float[Array, ' H *batch'],
  value: Float[Array, ' H *batch'],
  bootstrap: Float[Array, '*batch'],
  lam: Float[ArrayLike, ''],
) -> Float[Array, ' H *batch']:
  """Return Rₜ = rₜ₊₁ + γₜ₊₁ [(1-λ) vₜ₊₁ + λ Rₜ₊₁], with R_H = v_H.

  Args:
    reward: rewards r₁ … r_H of the states that follow.
    discount: γ₁ … γ_H, the discount times the probability to go on in the state that
      follows.
    value: v₁ … v_H.
    bootstrap: v_H.
    lam: λ.

  Returns: R₀ … R_{H-1}.
  """
  chex.assert_equal_shape([reward, discount, value])
  chex.assert_equal_shape([value[-1], bootstrap])
  inputs = reward + discount * (1 - lam) * value

  def step(future, inputs_discount):
    now = inputs_discount[0] + inputs_discount[1] * lam * future
    return now, now

  return jax.lax.scan(step, bootstrap, (inputs, discount), reverse=True, unroll=4)[1]


@typing.no_type_check  # JAX puts anything in the place of the numbers, such as their shapes
@flax.struct.dataclass
class Percentiles:
  """Moving averages of a low and a high percentile of the returns; from 0, without correction."""

  low: Float[Array, '']
  high: Float[Array, '']

  @classmethod
  def zeros(cls) -> 'Percentiles':
    """Return the start."""
    return cls(jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32))

  def update(
    self, returns: Float[Array, '...'], decay: float = 0.99, low: float = 5.0, high: float = 95.0
  ) -> 'Percentiles':
    """Move towards the percentiles of `returns` of the whole batch."""
    returns = replicas.everywhere(jax.lax.stop_gradient(returns.astype(jnp.float32)))
    new_low, new_high = jnp.percentile(returns, jnp.array([low, high]))
    move = lambda old, new: decay * old + (1 - decay) * new
    return Percentiles(move(self.low, new_low), move(self.high, new_high))
