"""λ-returns, the percentile normaliser of returns, and slow copies. Float32 throughout."""

from typing import Any

import chex
import flax.struct
import jax
import jax.numpy as jnp

from harmony_jax import replicas


def lambda_returns(
  reward: jax.Array, discount: jax.Array, value: jax.Array, bootstrap: jax.Array, lam: float
) -> jax.Array:
  """Return Rₜ = rₜ₊₁ + γₜ₊₁ [(1-λ) vₜ₊₁ + λ Rₜ₊₁], with R_H = v_H.

  Args:
    reward: [H, ...] rewards r₁ … r_H of the states that follow.
    discount: [H, ...] γ₁ … γ_H, the discount times the probability to go on in the state that
      follows.
    value: [H, ...] v₁ … v_H.
    bootstrap: [...] v_H.
    lam: λ.

  Returns: [H, ...] R₀ … R_{H-1}.
  """
  chex.assert_equal_shape([reward, discount, value])
  chex.assert_equal_shape([value[-1], bootstrap])
  inputs = reward + discount * (1 - lam) * value

  def step(future, inputs_discount):
    now = inputs_discount[0] + inputs_discount[1] * lam * future
    return now, now

  return jax.lax.scan(step, bootstrap, (inputs, discount), reverse=True, unroll=4)[1]


@flax.struct.dataclass
class Percentiles:
  """Moving averages of a low and a high percentile of the returns; from 0, without correction."""

  low: jax.Array
  high: jax.Array

  @classmethod
  def zeros(cls) -> 'Percentiles':
    """Return the start."""
    return cls(jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32))

  def update(
    self, returns: jax.Array, decay: float = 0.99, low: float = 5.0, high: float = 95.0
  ) -> 'Percentiles':
    """Move towards the percentiles of `returns`, any shape, of the whole batch."""
    returns = replicas.everywhere(jax.lax.stop_gradient(returns.astype(jnp.float32)))
    new_low, new_high = jnp.percentile(returns, jnp.array([low, high]))
    move = lambda old, new: decay * old + (1 - decay) * new
    return Percentiles(move(self.low, new_low), move(self.high, new_high))

  def scale(self, minimum: float = 1.0) -> jax.Array:
    """Return max(minimum, high - low): small returns are not blown up."""
    return jnp.maximum(minimum, self.high - self.low)


def ema_update(slow: Any, fast: Any, step: jax.Array, fraction: float, every: int) -> Any:
  """Return slow + f (fast - slow) in every `every`-th update; the first one (step 0) copies."""
  mix = jnp.where(step == 0, 1.0, jnp.where(step % every == 0, fraction, 0.0))
  return jax.tree.map(lambda s, f: (1 - mix) * s + mix * f, slow, fast)
