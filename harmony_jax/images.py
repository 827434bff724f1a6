"""Networks of pictures: strided convolutions down to a vector and up again.

A kind is a pair of Flax modules in `KINDS`, made with `config`, `channels` (of all pictures
together), `side`, `style` and `dtype`:

    down    pictures [N, side, side, C] in [-0.5, 0.5] -> anything [N, ...] of `size` numbers
    up      features [N, F] -> pictures, in two parts: `begin` for all frames, `finish`

`frame_bytes` is the size of the largest layer's output for one frame where frames do not depend on
each other, so that a CPU can take a few at a time (convolution.py); 0 where they do (batch norms).
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from harmony_jax.networks import LINEAR, Dense, Strided, Style
from harmony_jax.residual import ResidualDown, ResidualUp
from harmony_jax.settings import setting


class PlainDown(nn.Module):
  """Strided convolutions of doubling depth.

  To `minres` with padding 'same' (DreamerV3), 64 → 2 with 'valid' (DreamerV2). With `patch` > 1 the
  first layer maps each patch × patch block to `depth` channels in one product, which spares a CPU
  the large strided layers; 1 is the published network.
  """

  config: 'ImageSettings'
  channels: int
  side: int
  style: Style = Style()
  dtype: Any = jnp.float32

  @property
  def size(self) -> int:
    """Numbers of a result."""
    c = self.config
    bottom = 2 if c.padding == 'valid' else c.minres
    return bottom**2 * c.depth * 2 ** (stages(c, self.side) - (c.patch == 1))

  @property
  def frame_bytes(self) -> int:
    """Bytes of the largest layer's output for one frame."""
    return _frame_bytes(self)

  def setup(self):
    c = self.config
    shared: dict[str, Any] = dict(style=self.style, dtype=self.dtype)
    depths = [c.depth * 2**i for i in range(stages(c, self.side) + (c.patch > 1))]
    if c.patch > 1:
      self.stem = Dense(inputs=self.channels * c.patch**2, units=c.depth, **shared)
    else:
      depths = [self.channels, *depths]
    self.down = [
      Strided(inputs=a, units=b, padding=c.padding, **shared)
      for a, b in zip(depths[:-1], depths[1:])
    ]

  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    if self.config.patch > 1:
      x = self.stem(to_patches(x, self.config.patch))
    for layer in self.down:
      x = layer(x)
    return x


class PlainUp(nn.Module):
  """The way back: a dense layer, then transposed convolutions, the last one linear."""

  config: 'ImageSettings'
  inputs: int
  channels: int
  side: int
  style: Style = Style()
  dtype: Any = jnp.float32

  @property
  def frame_bytes(self) -> int:
    """Bytes of the largest layer's output for one frame."""
    return _frame_bytes(self)

  @property
  def _valid(self) -> bool:
    return self.config.padding == 'valid'

  def setup(self):
    c, count = self.config, stages(self.config, self.side)
    top = 32 * c.depth if self._valid else c.depth * 2 ** (count - (c.patch == 1))
    side = 1 if self._valid else c.minres
    self.start = Dense(inputs=self.inputs, units=side**2 * top, style=LINEAR, dtype=self.dtype)
    kernels = (5, 5, 6, 6) if self._valid else (4,) * count
    up: dict[str, Any] = dict(direction='up', padding=c.padding, dtype=self.dtype)
    depths = [top] + [c.depth * 2**i for i in reversed(range(count - (c.patch == 1)))]
    self.up = [
      Strided(inputs=a, units=b, kernel_size=kernel, style=self.style, **up)
      for a, b, kernel in zip(depths[:-1], depths[1:], kernels)
    ]
    if c.patch > 1:
      units = self.channels * c.patch**2
      self.last = Dense(inputs=depths[-1], units=units, style=LINEAR, dtype=self.dtype)
    else:
      self.last = Strided(
        inputs=depths[-1], units=self.channels, kernel_size=kernels[-1], style=LINEAR, **up
      )

  def finishing(self, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return those parameters that `finish` needs."""
    count = stages(self.config, self.side) - (self.config.patch == 1)
    return {k: params[k] for k in [*(f'up_{i}' for i in range(self._valid, count)), 'last']}

  def begin(self, features: jax.Array) -> jax.Array:
    """Features [N, F] -> the small picture [N, s, s, D].

    From a single pixel the first convolution is a dense layer, whose matrix is too large to be
    read again for every few frames.
    """
    side = 1 if self._valid else self.config.minres
    x = self.start(features).reshape(features.shape[0], side, side, -1)
    return self.up[0](x) if self._valid else x

  def finish(self, x: jax.Array, train: bool = False) -> jax.Array:
    """The small picture -> pictures [N, side, side, C]; every frame by itself."""
    for layer in self.up[self._valid :]:
      x = layer(x)
    return from_patches(self.last(x), self.config.patch)


def stages(config: 'ImageSettings', side: int) -> int:
  """Return how many convolutions a plain network has.

  Raises:
    ValueError: it cannot have pictures of this side.
  """
  patch, minres = config.patch, config.minres
  if config.padding == 'valid':
    if side != 64 or patch != 1:
      raise ValueError(
        f"padding 'valid' is for images of side 64 without patches, got side {side}, patch {patch}"
      )
    return 4  # 64 → 31 → 14 → 6 → 2, and 1 → 5 → 13 → 30 → 64
  count = round(math.log2(side / patch / minres))
  if patch * minres * 2**count != side or count < 1:
    raise ValueError(f'image side {side} must be {patch * minres} times a power of two')
  return count


def _frame_bytes(net: PlainDown | PlainUp) -> int:
  side = net.side // max(2, net.config.patch)
  return side**2 * net.config.depth * jnp.dtype(net.dtype).itemsize


def to_patches(x: jax.Array, patch: int) -> jax.Array:
  """[N, H, W, C] -> [N, H/patch, W/patch, patch² C]."""
  n, height, width, channels = x.shape
  x = x.reshape(n, height // patch, patch, width // patch, patch, channels).swapaxes(2, 3)
  return x.reshape(n, height // patch, width // patch, -1)


def from_patches(x: jax.Array, patch: int) -> jax.Array:
  """The inverse of `to_patches`."""
  if patch == 1:
    return x
  n, height, width, _ = x.shape
  x = x.reshape(n, height, width, patch, patch, -1).swapaxes(2, 3)
  return x.reshape(n, height * patch, width * patch, -1)


KINDS = {'plain': (PlainDown, PlainUp), 'residual': (ResidualDown, ResidualUp)}


@dataclasses.dataclass(frozen=True)
class ImageSettings:
  """A network of images and vectors: the encoder, and the decoder that mirrors it."""

  kind: str = setting(
    'plain', 'plain: strided convolutions; residual: residual.py, with batch norms', choices=KINDS
  )
  depth: int = setting(
    32, 'channels of the first convolution; doubled by every further one', least=1
  )
  minres: int = setting(4, 'side of the last feature map, with padding same', least=1)
  patch: int = setting(
    1, 'side of the blocks that one product maps to `depth` channels; 1: none; for CPUs', least=1
  )
  padding: str = setting(
    'same', 'of the convolutions: same, or valid as DreamerV2', choices=('same', 'valid')
  )
  mlp_layers: int = setting(2, 'hidden layers for vector observations')
  mlp_units: int = setting(512, 'their width', least=1)
