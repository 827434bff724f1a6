"""TD-MPC's networks, as Flax modules: latent states before actions, channels last.

Weights are orthogonal, biases zero, and so are the last layers of reward and values at first.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from harmony_jax.convolution import product

KERNELS = 7, 5, 3, 3  # of the convolutions, all with stride 2 and without padding
SMALLEST = 39  # pixels of a picture's side that leave something behind them


class Linear(nn.Module):
  """x W + b."""

  units: int
  zero: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    init = nn.initializers.zeros if self.zero else nn.initializers.orthogonal()
    kernel = self.param('kernel', init, (x.shape[-1], self.units))
    bias = self.param('bias', nn.initializers.zeros, (self.units,))
    return product(x.astype(self.dtype), kernel.astype(self.dtype)) + bias.astype(self.dtype)


class Encoder(nn.Module):
  """Stacks of pictures [..., S, S, C] in 0 … 255, or vectors [..., D] -> latent states [..., Z]."""

  latent: int
  channels: int
  units: int
  pictures: bool
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    if self.pictures:
      lead, x = x.shape[:-3], x.reshape(-1, *x.shape[-3:]).astype(self.dtype) / 255
      for index, size in enumerate(KERNELS):
        how: dict[str, Any] = dict(strides=2, padding='VALID', dtype=self.dtype)
        how['kernel_init'] = nn.initializers.orthogonal(2**0.5)
        x = nn.relu(nn.Conv(self.channels, (size, size), name=f'conv_{index}', **how)(x))
      x = x.reshape(*lead, -1)
    else:
      x = nn.elu(Linear(self.units, dtype=self.dtype, name='dense')(x))
    return Linear(self.latent, dtype=self.dtype, name='out')(x).astype(jnp.float32)


class Head(nn.Module):
  """Inputs that are put together -> two hidden layers -> [..., outputs]."""

  units: int
  outputs: int
  zero: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, *inputs: jax.Array) -> jax.Array:
    x = jnp.concatenate(inputs, -1)
    for index in range(2):
      x = nn.elu(Linear(self.units, dtype=self.dtype, name=f'dense_{index}')(x))
    out = Linear(self.outputs, self.zero, self.dtype, name='out')
    return out(x).astype(jnp.float32)


class Value(nn.Module):
  """Latent states and actions -> values [...]; the first layer has a norm and tanh."""

  units: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, latent: jax.Array, action: jax.Array) -> jax.Array:
    x = Linear(self.units, dtype=self.dtype, name='dense_0')(jnp.concatenate([latent, action], -1))
    norm = nn.LayerNorm(1e-5, dtype=jnp.float32, use_fast_variance=False, name='norm')
    x = nn.elu(Linear(self.units, dtype=self.dtype, name='dense_1')(jnp.tanh(norm(x))))
    return Linear(1, True, self.dtype, name='out')(x).astype(jnp.float32)[..., 0]
