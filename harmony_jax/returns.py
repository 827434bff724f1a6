"""λ-returns and the percentile normaliser of returns. Float32 throughout."""

import chex
import flax.struct
import jax
import jax.numpy as jnp

from harmony_jax import replicas


def lambda_returns(reward, discount, value, bootstrap, lam: float):
  """Rₜ = rₜ₊₁ + γₜ₊₁ [(1-λ) vₜ₊₁ + λ Rₜ₊₁], with R_H = v_H.

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
  """Moving averages of a low and a high percentile of the returns; they start at 0, without bias
  correction.
  """

  low: jax.Array
  high: jax.Array

  @classmethod
  def zeros(cls):
    return cls(jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32))

  def update(
    self, returns, decay: float = 0.99, low: float = 5.0, high: float = 95.0
  ) -> 'Percentiles':
    """Moves towards the percentiles of `returns` (any shape), those of all replicas."""
    returns = replicas.everywhere(jax.lax.stop_gradient(returns.astype(jnp.float32)))
    new_low, new_high = jnp.percentile(returns, jnp.array([low, high]))
    return Percentiles(
      decay * self.low + (1 - decay) * new_low, decay * self.high + (1 - decay) * new_high
    )

  def scale(self, minimum: float = 1.0):
    """max(minimum, high - low): small returns are not blown up."""
    return jnp.maximum(minimum, self.high - self.low)
