"""λ-returns, the percentile normaliser of returns, and slow copies. Float32 throughout."""

import typing

import chex
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int, PyTree

from harmony_jax import replicas

Params = PyTree[Float[Array, '...'], 'structure']  # all of a call have the same


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

  def scale(self, minimum: float = 1.0) -> Float[Array, '']:
    """Return max(minimum, high - low): small returns are not blown up."""
    return jnp.maximum(minimum, self.high - self.low)


def ema_update(
  slow: Params, fast: Params, step: Int[Array, ''], fraction: float, every: int
) -> Params:
  """Return slow + f (fast - slow) in every `every`-th update; the first one (step 0) copies."""
  mix = jnp.where(step == 0, 1.0, jnp.where(step % every == 0, fraction, 0.0))
  return jax.tree.map(lambda s, f: (1 - mix) * s + mix * f, slow, fast)
