"""Flax linen layers: dense, strided convolutions, MLP heads, and the encoder and decoder of observations.

Layers with a norm have no bias. Parameters are float32; `dtype` is what products are computed in; norms, and everything
that leaves an encoder, decoder or head, are float32. Layouts: images NHWC, dense kernels [in, out].
"""

import math
from typing import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from harmony_jax import convolution
from harmony_jax.distributions import symexp, symlog

ACTIVATIONS = {'none': lambda x: x, 'silu': jax.nn.silu, 'elu': jax.nn.elu, 'relu': jax.nn.relu, 'tanh': jnp.tanh}


def initializer(kind: str, scale: float = 1.0):
  """'normal': truncated normal, 'uniform': Glorot uniform; both of variance scale / average fan. Scale 0 is zeros."""
  if not scale:
    return nn.initializers.zeros
  distribution = {'normal': 'truncated_normal', 'uniform': 'uniform'}[kind]
  return nn.initializers.variance_scaling(scale, 'fan_avg', distribution)


class _Finish(nn.Module):
  """What follows a product: bias or norm, then the activation. Base of the layers below."""

  def _setup_finish(self, units):
    if self.normalization == 'none':
      self.bias = self.param('bias', nn.initializers.zeros, (units,))
    else:
      self.norm = nn.LayerNorm(epsilon=1e-3, dtype=jnp.float32)

  def finish(self, x):
    """act(norm(x)) or act(x + bias), [..., units]."""
    if self.normalization == 'none':
      x = x + self.bias.astype(x.dtype)
    else:
      x = self.norm(x).astype(x.dtype)
    return ACTIVATIONS[self.activation](x)


class Dense(_Finish):
  """act(norm(x W)): [..., inputs] -> [..., units].

  `part` gives the product with some rows of W only, so that the share of an input that is known before a loop can be
  computed before the loop; `finish(part(a, 0) + part(b, a.shape[-1]))` equals `__call__(concatenate([a, b]))`.
  """
  inputs: int
  units: int
  normalization: str = 'layer'
  activation: str = 'silu'
  init_kind: str = 'normal'
  scale: float = 1.0
  dtype: jnp.dtype = jnp.float32

  def setup(self):
    self.kernel = self.param('kernel', initializer(self.init_kind, self.scale), (self.inputs, self.units))
    self._setup_finish(self.units)

  def __call__(self, x):
    return self.finish(self.part(x))

  def part(self, x, start: int = 0):
    """x W[start : start + x.shape[-1]]."""
    rows = self.kernel if x.shape[-1] == self.inputs else self.kernel[start:start + x.shape[-1]]
    return convolution.product(x.astype(self.dtype), rows.astype(self.dtype))


class Strided(_Finish):
  """Convolution with kernel 4 and stride 2, halving (`direction='down'`) or doubling ('up') the resolution."""
  inputs: int
  units: int
  direction: str
  normalization: str = 'layer'
  activation: str = 'silu'
  init_kind: str = 'normal'
  dtype: jnp.dtype = jnp.float32

  def setup(self):
    ends = (self.inputs, self.units) if self.direction == 'down' else (self.units, self.inputs)
    self.kernel = self.param('kernel', initializer(self.init_kind), (4, 4, *ends))
    self._setup_finish(self.units)

  def __call__(self, x):
    move = convolution.downsample if self.direction == 'down' else convolution.upsample
    return self.finish(move(x.astype(self.dtype), self.kernel.astype(self.dtype)))


class Head(nn.Module):
  """MLP with one or more linear outputs: [..., inputs] -> float32 [..., outputs[i]] each (a tuple if more than one)."""
  inputs: int
  layers: int
  units: int
  outputs: tuple[int, ...]
  out_scale: float = 1.0
  normalization: str = 'layer'
  activation: str = 'silu'
  dtype: jnp.dtype = jnp.float32

  def setup(self):
    self.h = _mlp(self)
    width = self.units if self.layers else self.inputs
    self.out = [Dense(width, size, 'none', 'none', 'uniform', self.out_scale, self.dtype) for size in self.outputs]

  def __call__(self, x):
    for layer in self.h:
      x = layer(x)
    outputs = tuple(layer(x).astype(jnp.float32) for layer in self.out)
    return outputs if len(outputs) > 1 else outputs[0]


def _mlp(module):
  widths = [module.inputs] + [module.units] * module.layers
  return [Dense(a, b, module.normalization, module.activation, dtype=module.dtype)
          for a, b in zip(widths[:-1], widths[1:])]


def split_keys(shapes: Mapping[str, tuple]) -> tuple[list, list]:
  """(image keys, vector keys), sorted: shapes of rank 3 are images [H, W, C], shorter ones vectors or scalars."""
  images = sorted(k for k, shape in shapes.items() if len(shape) == 3)
  vectors = sorted(k for k, shape in shapes.items() if len(shape) < 2)
  other = set(shapes) - set(images) - set(vectors)
  if other:
    raise ValueError(f'observations must be images [H, W, C], vectors or scalars, got {other}')
  return images, vectors


def _image_plan(shapes, minres, patch):
  """(number of halvings, channels) of all images together; they must share one square resolution."""
  images, _ = split_keys(shapes)
  sides = {shapes[k][:2] for k in images}
  if len(sides) != 1 or len(set(*sides)) != 1:
    raise ValueError(f'images must be square and of one size, got {sorted(sides)}')
  side = shapes[images[0]][0]
  stages = round(math.log2(side / patch / minres))
  if patch * minres * 2 ** stages != side or stages < 1:
    raise ValueError(f'image side {side} must be {patch * minres} times a power of two')
  return stages, sum(shapes[k][2] for k in images)


def to_patches(x, patch: int):
  """[N, H, W, C] -> [N, H/patch, W/patch, patch² C]."""
  n, height, width, channels = x.shape
  x = x.reshape(n, height // patch, patch, width // patch, patch, channels).swapaxes(2, 3)
  return x.reshape(n, height // patch, width // patch, -1)


def from_patches(x, patch: int):
  """The inverse of `to_patches`."""
  n, height, width, _ = x.shape
  x = x.reshape(n, height, width, patch, patch, -1).swapaxes(2, 3)
  return x.reshape(n, height * patch, width * patch, -1)


class Encoder(nn.Module):
  """Observations {name: [N, ...]} -> embedding [N, E].

  uint8 images are scaled to [-0.5, 0.5], then halved down to `minres` with doubling depth; vectors pass symlog and an
  MLP. Where there are both, the image's part comes first. With `patch` > 1 the first layer maps each patch×patch block
  to `depth` channels in one product, which spares a CPU the large strided layers; 1 is DreamerV3.
  """
  shapes: Mapping[str, tuple]
  depth: int = 32
  minres: int = 4
  patch: int = 1
  mlp_layers: int = 5
  mlp_units: int = 1024
  dtype: jnp.dtype = jnp.float32

  def setup(self):
    self.images, self.vectors = split_keys(self.shapes)
    if self.images:
      stages, channels = _image_plan(self.shapes, self.minres, self.patch)
      if self.patch > 1:
        self.stem = Dense(channels * self.patch ** 2, self.depth, dtype=self.dtype)
        depths = [self.depth * 2 ** i for i in range(stages + 1)]
      else:
        depths = [channels] + [self.depth * 2 ** i for i in range(stages)]
      self.down = [Strided(a, b, 'down', dtype=self.dtype) for a, b in zip(depths[:-1], depths[1:])]
    if self.vectors:
      widths = [_vector_size(self.shapes)] + [self.mlp_units] * self.mlp_layers
      self.h = [Dense(a, b, dtype=self.dtype) for a, b in zip(widths[:-1], widths[1:])]

  def size(self) -> int:
    """E."""
    images, vectors = split_keys(self.shapes)
    size = 0
    if images:
      stages, _ = _image_plan(self.shapes, self.minres, self.patch)
      size += self.minres ** 2 * self.depth * 2 ** (stages if self.patch > 1 else stages - 1)
    if vectors:
      size += self.mlp_units if self.mlp_layers else _vector_size(self.shapes)
    return size

  def __call__(self, observation):
    parts = []
    if self.images:
      x = jnp.concatenate([scale_image(observation[k]) for k in self.images], -1) - 0.5
      if self.patch > 1:
        x = self.stem(to_patches(x, self.patch))
      for layer in self.down:
        x = layer(x)
      parts.append(x.reshape(x.shape[0], -1))
    if self.vectors:
      x = symlog(_flatten_vectors(observation, self.vectors, self.shapes))
      for layer in self.h:
        x = layer(x)
      parts.append(x)
    return jnp.concatenate([part.astype(jnp.float32) for part in parts], -1)


class Decoder(nn.Module):
  """Features [N, F] -> {name: float32 [N, ...]}: images in [0, 1], vectors in symlog space. Mirrors the encoder."""
  inputs: int
  shapes: Mapping[str, tuple]
  depth: int = 32
  minres: int = 4
  patch: int = 1
  mlp_layers: int = 5
  mlp_units: int = 1024
  dtype: jnp.dtype = jnp.float32

  def setup(self):
    self.images, self.vectors = split_keys(self.shapes)
    if self.images:
      stages, channels = _image_plan(self.shapes, self.minres, self.patch)
      depths = [self.depth * 2 ** i for i in reversed(range(stages + (self.patch > 1)))]
      self.start = Dense(self.inputs, self.minres ** 2 * depths[0], 'none', 'none', 'uniform', dtype=self.dtype)
      self.up = [Strided(a, b, 'up', dtype=self.dtype) for a, b in zip(depths[:-1], depths[1:])]
      if self.patch > 1:
        self.last = Dense(depths[-1], channels * self.patch ** 2, 'none', 'none', 'uniform', dtype=self.dtype)
      else:
        self.last = Strided(depths[-1], channels, 'up', 'none', 'none', 'uniform', self.dtype)
    if self.vectors:
      widths = [self.inputs] + [self.mlp_units] * self.mlp_layers
      self.h = [Dense(a, b, dtype=self.dtype) for a, b in zip(widths[:-1], widths[1:])]
      self.out = {k: Dense(widths[-1], math.prod(self.shapes[k]), 'none', 'none', 'uniform', dtype=self.dtype)
                  for k in self.vectors}

  def __call__(self, features):
    outputs = {}
    if self.images:
      x = self.start(features).reshape(features.shape[0], self.minres, self.minres, -1)
      for layer in self.up:
        x = layer(x)
      x = from_patches(self.last(x), self.patch) if self.patch > 1 else self.last(x)
      x = x.astype(jnp.float32) + 0.5
      at = 0
      for k in self.images:
        outputs[k] = x[..., at:at + self.shapes[k][2]]
        at += self.shapes[k][2]
    if self.vectors:
      x = features
      for layer in self.h:
        x = layer(x)
      for k in self.vectors:
        outputs[k] = self.out[k](x).astype(jnp.float32).reshape(-1, *self.shapes[k])
    return outputs


def scale_image(image):
  """uint8 [..., H, W, C] -> float32 in [0, 1]; floats pass."""
  return image.astype(jnp.float32) / 255 if image.dtype == jnp.uint8 else image


def reconstruction_losses(outputs, observation):
  """Squared error summed over each observation's own axes: {name: [N]}.

  Images are compared in [0, 1] and vectors in symlog space, without the ½ of a unit Gaussian, as in the authors' code.
  """
  losses = {}
  for k, out in outputs.items():
    target = scale_image(observation[k]) if out.ndim == 4 else symlog(observation[k].astype(jnp.float32))
    error = jnp.square(out - target.reshape(out.shape))
    losses[k] = error.reshape(error.shape[0], -1).sum(-1)
  return losses


def predictions(outputs):
  """Decoder outputs as observations: images as they are, vectors back from symlog space."""
  return {k: out if out.ndim >= 4 else symexp(out) for k, out in outputs.items()}


def _vector_size(shapes):
  return sum(math.prod(shapes[k]) for k in split_keys(shapes)[1])


def _flatten_vectors(observation, keys, shapes):
  flat = [observation[k].astype(jnp.float32).reshape(-1, math.prod(shapes[k])) for k in keys]
  return jnp.concatenate(flat, -1)
