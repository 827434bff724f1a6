"""Slow copies of parameters, which losses learn from."""

import jax
import jax.numpy as jnp


def follow(slow, fast, step, fraction, every):
  """slow + f (fast - slow) in every `every`-th update, f = `fraction`; the first update (step 0)
  copies.
  """
  mix = jnp.where(step == 0, 1.0, jnp.where(step % every == 0, fraction, 0.0))
  return jax.tree.map(lambda s, f: (1 - mix) * s + mix * f, slow, fast)
