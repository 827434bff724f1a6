"""Residual image networks: what the paper's authors use on RLBench in place of plain strided
convolutions (appendix C).

A block is (conv 3×3, batch norm, ReLU, conv 3×3, batch norm) + skip, then ReLU; a stack is a few
blocks of one depth. Batch norms keep running statistics (the collection `batch_stats`): training
uses those of the batch (of all replicas), acting the running ones. Layout NHWC.
"""

import flax.linen as nn
import jax.numpy as jnp

from harmony_jax import replicas

MOMENTUM, EPSILON = 0.9, 1e-5  # of the running statistics; PyTorch's defaults


class Block(nn.Module):
  """[N, H, W, C] -> [N, H, W, depth]."""

  depth: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x, train: bool):
    norm = lambda x: nn.BatchNorm(
      not train,
      momentum=MOMENTUM,
      epsilon=EPSILON,
      dtype=jnp.float32,
      axis_name=replicas.axis() if train else None,
    )(x).astype(self.dtype)
    conv = lambda size: nn.Conv(self.depth, (size, size), use_bias=size == 1, dtype=self.dtype)
    y = norm(conv(3)(x))
    y = norm(conv(3)(nn.relu(y)))
    skip = x if x.shape[-1] == self.depth else conv(1)(x)
    return nn.relu(y + skip)


class Down(nn.Module):
  """Images [N, H, W, C] in [-0.5, 0.5] -> [N, H/16, W/16, 4 depth]: a strided layer, then three
  stacks, each pooled.
  """

  depth: int = 48
  blocks: int = 2
  stages: int = 3
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x, train: bool):
    x = nn.elu(
      nn.Conv(self.depth, (3, 3), (2, 2), padding=1, dtype=self.dtype)(x.astype(self.dtype))
    )
    for stage in range(self.stages):
      for _ in range(self.blocks):
        x = Block(self.depth * 2**stage, self.dtype)(x, train)
      x = nn.avg_pool(x, (2, 2), (2, 2))
    return x


class Up(nn.Module):
  """[N, h, w, 4 depth] -> [N, 16 h, 16 w, channels]: three times doubled by repetition and a stack,
  then one transposed convolution."""

  channels: int
  depth: int = 48
  blocks: int = 2
  stages: int = 3
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x, train: bool):
    for stage in reversed(range(self.stages)):
      x = x.repeat(2, 1).repeat(2, 2)
      for _ in range(self.blocks):
        x = Block(self.depth * 2**stage, self.dtype)(x, train)
    return nn.ConvTranspose(self.channels, (3, 3), (2, 2), dtype=self.dtype)(x)
