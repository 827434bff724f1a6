"""Flax linen layers: dense, strided convolutions, MLP heads, and the encoder and decoder of
observations.

A `Style` (normalization, activation, initialisation) is what the hidden layers of a method have in
common: DreamerV3's have a layer norm in place of a bias and SiLU, DreamerV2's a bias and ELU.
Output layers are linear with a bias. Parameters are float32; `dtype` is what products are computed
in; norms, and everything that leaves an encoder, decoder or head, are float32. Layouts: images
NHWC, dense kernels [in, out].
"""

import dataclasses
import math
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from harmony_jax import convolution, residual
from harmony_jax.distributions import symexp, symlog
from harmony_jax.settings import setting

ACTIVATIONS = {
  'none': lambda x: x,
  'silu': jax.nn.silu,
  'elu': jax.nn.elu,
  'relu': jax.nn.relu,
  'tanh': jnp.tanh,
}


@dataclasses.dataclass(frozen=True)
class Style:
  """What all hidden layers of a method share; the defaults are DreamerV3's."""

  normalization: str = setting(
    'layer', 'layer norm in place of a bias (layer), or none', choices=('layer', 'none')
  )
  activation: str = setting(
    'silu', 'silu | elu | relu | tanh', choices=('silu', 'elu', 'relu', 'tanh', 'none')
  )
  init: str = setting(
    'normal', 'initial weights: normal | uniform', choices=('normal', 'uniform', 'fan_in')
  )


@dataclasses.dataclass(frozen=True)
class ImageSettings:
  """A network of images and vectors: `Encoder`, and the `Decoder` that mirrors it."""

  kind: str = setting(
    'plain',
    'plain: strided convolutions; residual: residual.py, with batch norms',
    choices=('plain', 'residual'),
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


@dataclasses.dataclass(frozen=True)
class HeadSettings:
  """An MLP from latent states."""

  layers: int = setting(2, 'hidden layers')
  units: int = setting(512, 'their width', least=1)


@dataclasses.dataclass(frozen=True)
class ScalarSettings(HeadSettings):
  """A head that predicts a scalar."""

  distribution: str = setting(
    'two_hot',
    'two_hot: cross entropy over bins in symlog space; gaussian: half squared error',
    choices=('two_hot', 'gaussian'),
  )
  bins: int = setting(255, 'bins of two_hot', least=1)


LINEAR = Style('none', 'none', 'uniform')  # output layers


def initializer(kind: str, scale: float = 1.0):
  """'normal': truncated normal, 'uniform': Glorot uniform; both of variance scale / average fan.
  Scale 0 is zeros.

  'fan_in': uniform within ±1/√(inputs), PyTorch's default for linear layers.
  """
  if not scale:
    return nn.initializers.zeros
  if kind == 'fan_in':
    return nn.initializers.variance_scaling(scale / 3, 'fan_in', 'uniform')
  distribution = {'normal': 'truncated_normal', 'uniform': 'uniform'}[kind]
  return nn.initializers.variance_scaling(scale, 'fan_avg', distribution)


class _Finish(nn.Module):
  """What follows a product: bias or norm, then the activation. Base of the layers below."""

  def _setup_finish(self, units, norm_bias: str = 'none', limit: float = 0.0):
    """`norm_bias`: a bias also before a norm, 'zero' at first or uniformly within ±limit
    ('fan_in').
    """
    if self.style.normalization != 'none':
      self.norm = nn.LayerNorm(epsilon=1e-3, dtype=jnp.float32)
    if self.style.normalization == 'none' or norm_bias != 'none':
      draw = lambda key, shape: jax.random.uniform(key, shape, jnp.float32, -limit, limit)
      self.bias = self.param(
        'bias', draw if norm_bias == 'fan_in' else nn.initializers.zeros, (units,)
      )
    else:
      self.bias = None

  def finish(self, x):
    """act(norm(x)) or act(x + bias), [..., units]."""
    if self.bias is not None:
      x = x + self.bias.astype(x.dtype)
    if self.style.normalization != 'none':
      x = self.norm(x).astype(x.dtype)
    return ACTIVATIONS[self.style.activation](x)


class Dense(_Finish):
  """act(norm(x W)) or act(x W + b): [..., inputs] -> [..., units].

  `part` gives the product with some rows of W only, so that the share of an input that is known
  before a loop can be computed before the loop; `finish(part(a, 0) + part(b, a.shape[-1]))` equals
  `__call__(concatenate([a, b]))`.
  """

  inputs: int
  units: int
  style: Style = Style()
  scale: float = 1.0
  # a bias also before a norm: 'zero' at first, or 'fan_in': drawn uniformly from ±1/√inputs
  norm_bias: str = 'none'
  dtype: jnp.dtype = jnp.float32

  def setup(self):
    self.kernel = self.param(
      'kernel', initializer(self.style.init, self.scale), (self.inputs, self.units)
    )
    self._setup_finish(self.units, self.norm_bias, 1 / math.sqrt(self.inputs))

  def __call__(self, x):
    return self.finish(self.part(x))

  def part(self, x, start: int = 0):
    """x W[start : start + x.shape[-1]]."""
    rows = self.kernel if x.shape[-1] == self.inputs else self.kernel[start : start + x.shape[-1]]
    return convolution.product(x.astype(self.dtype), rows.astype(self.dtype))


class Strided(_Finish):
  """Convolution with stride 2, down or up (`direction`); see convolution.py for sizes under both
  paddings.
  """

  inputs: int
  units: int
  direction: str
  style: Style = Style()
  kernel_size: int = 4
  padding: str = 'same'
  dtype: jnp.dtype = jnp.float32

  def setup(self):
    ends = (self.inputs, self.units) if self.direction == 'down' else (self.units, self.inputs)
    self.kernel = self.param(
      'kernel', initializer(self.style.init), (self.kernel_size, self.kernel_size, *ends)
    )
    self._setup_finish(self.units)

  def __call__(self, x):
    move = convolution.downsample if self.direction == 'down' else convolution.upsample
    return self.finish(move(x.astype(self.dtype), self.kernel.astype(self.dtype), self.padding))


class Head(nn.Module):
  """MLP with one or more linear outputs: [..., inputs] -> float32 [..., outputs[i]] each (a tuple
  if more than one).
  """

  inputs: int
  layers: int
  units: int
  outputs: tuple[int, ...]
  out_scale: float = 1.0
  style: Style = Style()
  dtype: jnp.dtype = jnp.float32

  def setup(self):
    self.h = _mlp(self.inputs, self.layers, self.units, self.style, self.dtype)
    width = self.units if self.layers else self.inputs
    self.out = [
      Dense(width, size, LINEAR, self.out_scale, dtype=self.dtype) for size in self.outputs
    ]

  def __call__(self, x):
    for layer in self.h:
      x = layer(x)
    outputs = tuple(layer(x).astype(jnp.float32) for layer in self.out)
    return outputs if len(outputs) > 1 else outputs[0]


def _mlp(inputs, layers, units, style, dtype):
  widths = [inputs] + [units] * layers
  return [Dense(a, b, style, dtype=dtype) for a, b in zip(widths[:-1], widths[1:])]


def split_keys(shapes: Mapping[str, tuple]) -> tuple[list, list]:
  """(image keys, vector keys), sorted: shapes of rank 3 are images [H, W, C], shorter ones vectors
  or scalars.
  """
  images = sorted(k for k, shape in shapes.items() if len(shape) == 3)
  vectors = sorted(k for k, shape in shapes.items() if len(shape) < 2)
  other = set(shapes) - set(images) - set(vectors)
  if other:
    raise ValueError(f'observations must be images [H, W, C], vectors or scalars, got {other}')
  return images, vectors


@dataclasses.dataclass(frozen=True)
class _ImagePlan:
  """How images [side, side, channels] are taken down and up again, in `stages` strided layers."""

  stages: int
  channels: int  # of all images together
  bottom: int  # resolution after the last layer of the encoder
  start: int  # resolution and
  width: int  # channels that the decoder starts from
  kernels: tuple[int, ...]  # of the decoder's layers

  @classmethod
  def of(cls, net):
    """The plan of an `Encoder` or a `Decoder`."""
    shapes, depth, minres, patch, padding = (
      net.shapes,
      net.depth,
      net.minres,
      net.patch,
      net.padding,
    )
    images, _ = split_keys(shapes)
    sides = {shapes[k][:2] for k in images}
    if len(sides) != 1 or len(set(*sides)) != 1:
      raise ValueError(f'images must be square and of one size, got {sorted(sides)}')
    side, channels = shapes[images[0]][0], sum(shapes[k][2] for k in images)
    if net.kind == 'residual':
      if side % 16 or patch != 1:
        raise ValueError(
          f'residual networks are for image sides divisible by 16, without patches, got {side}, {patch}'
        )
      return cls(4, channels, side // 16, side // 16, 4 * depth, ())
    if padding == 'valid':
      if side != 64 or patch != 1:
        raise ValueError(
          f"padding 'valid' is for images of side 64 without patches, got side {side}, patch {patch}"
        )
      # 64 → 31 → 14 → 6 → 2, and 1 → 5 → 13 → 30 → 64
      return cls(4, channels, 2, 1, 32 * depth, (5, 5, 6, 6))
    stages = round(math.log2(side / patch / minres))
    if patch * minres * 2**stages != side or stages < 1:
      raise ValueError(f'image side {side} must be {patch * minres} times a power of two')
    return cls(
      stages, channels, minres, minres, depth * 2 ** (stages - (patch == 1)), (4,) * stages
    )


def frame_bytes(net) -> int:
  """Bytes of the largest layer's output for one frame, of a plain `Encoder` or `Decoder`; 0 where a
  frame is not on its own (batch norms) or there are no images."""
  images, _ = split_keys(net.shapes)
  if not images or net.kind != 'plain':
    return 0
  side = net.shapes[images[0]][0] // max(2, net.patch)
  return side**2 * net.depth * jnp.dtype(net.dtype).itemsize


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

  uint8 images are scaled to [-0.5, 0.5], then taken down by strided convolutions of doubling depth:
  to `minres` with padding 'same' (DreamerV3), 64 → 2 with 'valid' (DreamerV2). Vectors pass an MLP,
  after symlog if `symlog`. Where there are both, the image's part comes first. With `patch` > 1 the
  first layer maps each patch×patch block to `depth` channels in one product, which spares a CPU the
  large strided layers; 1 is the published network. `kind` 'residual' takes the image network of
  residual.py in their place.
  """

  shapes: Mapping[str, tuple]
  kind: str = 'plain'
  depth: int = 32
  minres: int = 4
  patch: int = 1
  padding: str = 'same'
  symlog: bool = True
  mlp_layers: int = 5
  mlp_units: int = 1024
  style: Style = Style()
  dtype: jnp.dtype = jnp.float32

  def setup(self):
    self.images, self.vectors = split_keys(self.shapes)
    if self.images:
      plan = _ImagePlan.of(self)
      if self.kind == 'residual':
        self.residual = residual.Down(self.depth, dtype=self.dtype)
      else:
        depths = [plan.channels] + [self.depth * 2**i for i in range(plan.stages)]
        if self.patch > 1:
          self.stem = Dense(plan.channels * self.patch**2, self.depth, self.style, dtype=self.dtype)
          depths = [self.depth * 2**i for i in range(plan.stages + 1)]
        self.down = [
          Strided(a, b, 'down', self.style, 4, self.padding, self.dtype)
          for a, b in zip(depths[:-1], depths[1:])
        ]
    if self.vectors:
      self.h = _mlp(
        _vector_size(self.shapes), self.mlp_layers, self.mlp_units, self.style, self.dtype
      )

  def size(self) -> int:
    """E."""
    images, vectors = split_keys(self.shapes)
    size = 0
    if images:
      plan = _ImagePlan.of(self)
      if self.kind == 'residual':
        size += plan.start**2 * plan.width
      else:
        size += (
          plan.bottom**2 * self.depth * 2 ** (plan.stages if self.patch > 1 else plan.stages - 1)
        )
    if vectors:
      size += self.mlp_units if self.mlp_layers else _vector_size(self.shapes)
    return size

  def __call__(self, observation, train: bool = False):
    """`train` matters to residual networks only: batch statistics instead of running ones."""
    parts = []
    if self.images:
      x = jnp.concatenate([scale_image(observation[k]) for k in self.images], -1) - 0.5
      if self.kind == 'residual':
        x = self.residual(x, train)
      else:
        x = self.stem(to_patches(x, self.patch)) if self.patch > 1 else x
        for layer in self.down:
          x = layer(x)
      parts.append(x.reshape(x.shape[0], -1))
    if self.vectors:
      x = _flatten_vectors(observation, self.vectors, self.shapes)
      x = symlog(x) if self.symlog else x
      for layer in self.h:
        x = layer(x)
      parts.append(x)
    return jnp.concatenate([part.astype(jnp.float32) for part in parts], -1)


class Decoder(nn.Module):
  """Features [N, F] -> {name: float32 [N, ...]}: images in [0, 1], vectors (in symlog space under
  likelihood symlog). Mirrors the encoder."""

  inputs: int
  shapes: Mapping[str, tuple]
  kind: str = 'plain'
  depth: int = 32
  minres: int = 4
  patch: int = 1
  padding: str = 'same'
  mlp_layers: int = 5
  mlp_units: int = 1024
  style: Style = Style()
  dtype: jnp.dtype = jnp.float32

  def setup(self):
    self.images, self.vectors = split_keys(self.shapes)
    if self.images:
      self.plan = plan = _ImagePlan.of(self)
      self.start = Dense(self.inputs, plan.start**2 * plan.width, LINEAR, dtype=self.dtype)
    if self.images and self.kind == 'residual':
      self.residual = residual.Up(plan.channels, self.depth, dtype=self.dtype)
    elif self.images:
      depths = [plan.width] + [
        self.depth * 2**i for i in reversed(range(plan.stages - (self.patch == 1)))
      ]
      self.up = [
        Strided(a, b, 'up', self.style, size, self.padding, self.dtype)
        for a, b, size in zip(depths[:-1], depths[1:], plan.kernels)
      ]
      if self.patch > 1:
        self.last = Dense(depths[-1], plan.channels * self.patch**2, LINEAR, dtype=self.dtype)
      else:
        self.last = Strided(
          depths[-1], plan.channels, 'up', LINEAR, plan.kernels[-1], self.padding, self.dtype
        )
    if self.vectors:
      width = self.mlp_units if self.mlp_layers else self.inputs
      self.h = _mlp(self.inputs, self.mlp_layers, self.mlp_units, self.style, self.dtype)
      self.out = {
        k: Dense(width, math.prod(self.shapes[k]), LINEAR, dtype=self.dtype) for k in self.vectors
      }

  def __call__(self, features, train: bool = False):
    """`train` as in `Encoder`."""
    outputs = {}
    if self.images:
      x = self.start_images(features)
      outputs |= (
        self._named(self.residual(x, train)) if self.kind == 'residual' else self.finish_images(x)
      )
    return outputs | self.decode_vectors(features)

  def start_images(self, features):
    """Features [N, F] -> the small picture [N, s, s, C] that is taken up."""
    x = self.start(features).reshape(features.shape[0], self.plan.start, self.plan.start, -1)
    for layer in self.up[: _starting(self)] if self.kind == 'plain' else ():
      x = layer(x)
    return x

  def finish_images(self, x):
    """The rest of a plain network: [N, s, s, C] -> images {name: [N, H, W, C]}; every frame by
    itself.
    """
    for layer in self.up[_starting(self) :]:
      x = layer(x)
    return self._named(from_patches(self.last(x), self.patch) if self.patch > 1 else self.last(x))

  def _named(self, x):
    x = x.astype(jnp.float32) + 0.5
    starts = np.cumsum([0] + [self.shapes[k][2] for k in self.images])
    return {k: x[..., start:end] for k, start, end in zip(self.images, starts[:-1], starts[1:])}

  def decode_vectors(self, x):
    """Features [N, F] -> vectors {name: [N, ...]}."""
    if not self.vectors:
      return {}
    for layer in self.h:
      x = layer(x)
    return {
      k: self.out[k](x).astype(jnp.float32).reshape(-1, *self.shapes[k]) for k in self.vectors
    }


def _starting(decoder) -> int:
  """How many layers are part of `start_images`: one that begins from a single pixel is a dense
  layer, whose matrix is too large to be read again for every few frames."""
  return int(_ImagePlan.of(decoder).start == 1)


def finishing(decoder, params) -> dict:
  """Of a plain decoder's parameters those that `finish_images` needs."""
  layers = [f'up_{index}' for index in range(_starting(decoder), _ImagePlan.of(decoder).stages)] + [
    'last'
  ]
  return {k: v for k, v in params.items() if k in layers}


def scale_image(image):
  """uint8 [..., H, W, C] -> float32 in [0, 1]; floats pass."""
  return image.astype(jnp.float32) / 255 if image.dtype == jnp.uint8 else image


LIKELIHOODS = ('symlog', 'gaussian')


def reconstruction_losses(outputs, observation, likelihood: str = 'symlog'):
  """-log p(observation) up to a constant, summed over each observation's own axes: {name: [N]}.

  'symlog': squared error of images in [0, 1] and of vectors in symlog space, without the ½ of a
  unit Gaussian (as in the authors' DreamerV3). 'gaussian': half the squared error of images and of
  vectors as they are (DreamerV2).
  """
  losses = {}
  for k, out in outputs.items():
    target = scale_image(observation[k]) if out.ndim == 4 else observation[k].astype(jnp.float32)
    if likelihood == 'symlog' and out.ndim != 4:
      target = symlog(target)
    error = jnp.square(out - target.reshape(out.shape)).reshape(out.shape[0], -1).sum(-1)
    losses[k] = error if likelihood == 'symlog' else 0.5 * error
  return losses


def predictions(outputs, likelihood: str = 'symlog'):
  """Decoder outputs as observations: images as they are, vectors back from symlog space."""
  return {
    k: symexp(out) if out.ndim < 4 and likelihood == 'symlog' else out for k, out in outputs.items()
  }


def _vector_size(shapes):
  return sum(math.prod(shapes[k]) for k in split_keys(shapes)[1])


def _flatten_vectors(observation, keys, shapes):
  flat = [observation[k].astype(jnp.float32).reshape(-1, math.prod(shapes[k])) for k in keys]
  return jnp.concatenate(flat, -1)
