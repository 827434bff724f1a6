"""Residual image networks: what the paper's authors use on RLBench (appendix C).

A block is (conv 3×3, batch norm, ReLU, conv 3×3, batch norm) + skip, then ReLU; the skip is a
conv 1×1 and batch norm where the depth changes. Batch norms keep running statistics (the
collection `batch_stats`): training uses those of the batch, acting the running ones. Layout NHWC.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from harmony_jax import replicas
from harmony_jax.networks import LINEAR, Dense, Style, initializer

MOMENTUM, EPSILON = 0.9, 1e-5  # of the running statistics; PyTorch's defaults
BLOCKS, STAGES = 2, 3
GLOROT = initializer('uniform')  # of the first and the last layer; blocks have PyTorch's own


class Block(nn.Module):
  """[N, H, W, C] -> [N, H, W, depth]."""

  depth: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    norm = lambda x: nn.BatchNorm(
      not train,
      momentum=MOMENTUM,
      epsilon=EPSILON,
      dtype=jnp.float32,
      axis_name=replicas.axis() if train else None,
    )(x).astype(self.dtype)
    how: dict[str, Any] = dict(use_bias=False, kernel_init=initializer('fan_in'), dtype=self.dtype)
    conv = lambda size: nn.Conv(self.depth, (size, size), **how)
    y = norm(conv(3)(x))
    y = norm(conv(3)(nn.relu(y)))
    skip = x if x.shape[-1] == self.depth else norm(conv(1)(x))
    return nn.relu(y + skip)


class ResidualDown(nn.Module):
  """Pictures -> [N, H/16, W/16, 4 depth]: a strided layer, then three stacks, each pooled."""

  config: Any
  channels: int
  side: int
  style: Style = Style()
  dtype: Any = jnp.float32
  frame_bytes = 0

  @property
  def size(self) -> int:
    """Numbers of a result."""
    check(self.config, self.side)
    return (self.side // 16) ** 2 * 4 * self.config.depth

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    how: dict[str, Any] = dict(padding=1, kernel_init=GLOROT, dtype=self.dtype)
    conv = nn.Conv(self.config.depth, (3, 3), (2, 2), **how)
    x = nn.elu(conv(x.astype(self.dtype)))
    for stage in range(STAGES):
      for _ in range(BLOCKS):
        x = Block(self.config.depth * 2**stage, self.dtype)(x, train)
      x = nn.avg_pool(x, (2, 2), (2, 2))
    return x


class ResidualUp(nn.Module):
  """The way back: three times doubled by repetition and a stack, whose last block halves the depth,
  then a transposed convolution.
  """

  config: Any
  channels: int
  side: int
  style: Style = Style()
  dtype: Any = jnp.float32
  frame_bytes = 0

  def setup(self):
    check(self.config, self.side)
    units = (self.side // 16) ** 2 * 4 * self.config.depth
    self.start = Dense(units, LINEAR, self.dtype)
    depths = [self.config.depth * 2**stage for stage in reversed(range(STAGES))]
    self.stacks = [
      [Block(each, self.dtype) for each in [depth] * (BLOCKS - 1) + [max(1, depth // 2)]]
      for depth in depths
    ]
    # Pixel i adds to 2i-1, 2i and 2i+1, as in PyTorch.
    how: dict[str, Any] = dict(padding=((1, 2), (1, 2)), kernel_init=GLOROT, dtype=self.dtype)
    self.last = nn.ConvTranspose(self.channels, (3, 3), (2, 2), **how)

  def begin(self, features: jax.Array) -> jax.Array:
    """Features [N, F] -> the small picture [N, s, s, 4 depth]."""
    side = self.side // 16
    return self.start(features).reshape(features.shape[0], side, side, -1)

  def finish(self, x: jax.Array, train: bool = False) -> jax.Array:
    """The small picture -> pictures [N, side, side, C]."""
    for stack in self.stacks:
      x = x.repeat(2, 1).repeat(2, 2)
      for block in stack:
        x = block(x, train)
    return self.last(x)


def check(config: Any, side: int):
  """Raise ValueError for pictures that residual networks cannot have."""
  if side % 16 or config.patch != 1:
    raise ValueError(
      'residual networks are for image sides divisible by 16, without patches, '
      f'got {side}, {config.patch}'
    )
