"""Flax linen layers: dense, strided convolutions, MLP heads, and networks of pictures.

A `Style` (normalization, activation, initialisation) is what the hidden layers of a method have in
common: DreamerV3's have a layer norm in place of a bias and SiLU, DreamerV2's a bias and ELU.
Output layers are linear with a bias. Parameters are float32; `dtype` is what products are computed
in; norms, and everything that leaves an encoder, decoder or head, are float32. Layouts: images
NHWC, dense kernels [in, out].
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, TypedDict, Unpack

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from harmony_jax import convolution
from harmony_jax import distributions as dists
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
    'silu', 'after the norm or bias', choices=('silu', 'elu', 'relu', 'tanh')
  )
  init: str = setting(
    'normal', 'initial weights: truncated normal, or Glorot uniform', choices=('normal', 'uniform')
  )


EPSILON = 1e-3  # of layer norms
LINEAR = Style('none', 'none', 'uniform')  # output layers


class Layers(TypedDict, total=False):
  """What the hidden layers of all parts are made with."""

  style: Style
  dtype: DTypeLike


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
  bins: int = setting(255, 'bins of two_hot', least=1, only='.distribution=two_hot')


def initializer(kind: str, scale: float = 1.0) -> Callable:
  """Return an initialiser: 'normal' (truncated), 'uniform' (Glorot), 'fan_in' (PyTorch's default).

  The first two have variance scale / average fan; the last is uniform within ±1/√inputs. A scale of
  0 gives zeros.
  """
  if not scale:
    return nn.initializers.zeros
  if kind == 'fan_in':
    return nn.initializers.variance_scaling(scale / 3, 'fan_in', 'uniform')
  distribution = 'truncated_normal' if kind == 'normal' else 'uniform'
  return nn.initializers.variance_scaling(scale, 'fan_avg', distribution)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalized(
  x: Float[Array, '*batch C'], scale: Float[Array, ' C'], bias: Float[Array, ' C'], activation: str
) -> Float[Array, '*batch C']:
  """Return act(scale (x - mean) / deviation + bias), the norm in float32, as Flax's `LayerNorm`.

  The gradient is written down: JAX's own of the same norm has more kernels and keeps five arrays of
  the size of x for it, this keeps x (benchmarks/NOTES.md). With u = (x - mean) / deviation, and g
  the gradient of act's argument times scale, that of x is (g - mean(g) - u mean(g u)) / deviation.
  """
  return _normalized_forward(x, scale, bias, activation)[0]


def _normalized_forward(x, scale, bias, activation):
  wide = x.astype(jnp.float32)
  mean, square = (each.mean(-1, keepdims=True) for each in (wide, wide * wide))
  rate = jax.lax.rsqrt(jnp.maximum(0.0, square - mean * mean) + EPSILON)
  out = ((wide - mean) * (rate * scale) + bias).astype(x.dtype)
  return ACTIVATIONS[activation](out), (x, mean, rate, scale, bias)


def _normalized_backward(activation, saved, gradient):
  x, mean, rate, scale, bias = saved
  if jax.default_backend() == 'cpu':  # whose compiler else keeps what was made on the way forward
    x, gradient = jax.lax.optimization_barrier((x, gradient))
  centred = x.astype(jnp.float32) - mean
  out = (centred * (rate * scale) + bias).astype(x.dtype)
  (gradient,) = jax.vjp(ACTIVATIONS[activation], out)[1](gradient)
  gradient, unit = gradient.astype(jnp.float32), centred * rate
  rows = tuple(range(x.ndim - 1))
  of_scale, of_bias = (gradient * unit).sum(rows), gradient.sum(rows)
  gradient = gradient * scale
  level, along = (each.mean(-1, keepdims=True) for each in (gradient, gradient * unit))
  return (rate * (gradient - level - unit * along)).astype(x.dtype), of_scale, of_bias


normalized.defvjp(_normalized_forward, _normalized_backward)


class _Norm(nn.Module):
  """`normalized` with its parameters, which are those of Flax's `LayerNorm`."""

  activation: str

  @nn.compact
  def __call__(self, x):
    scale = self.param('scale', nn.initializers.ones, x.shape[-1:])
    bias = self.param('bias', nn.initializers.zeros, x.shape[-1:])
    return normalized(x, scale, bias, self.activation)


class _Layer(nn.Module):
  """A product, then what all layers have after it."""

  units: int = 0
  style: Style = Style()
  dtype: Any = jnp.float32

  def _finish(self, x, norm_bias='none', limit=0.0):
    """act(norm(x)) or act(x + bias), [..., units], of a product x; `limit`: of a drawn bias."""
    style = self.style
    if style.normalization == 'none' or norm_bias != 'none':
      draw = lambda key, shape: jax.random.uniform(key, shape, jnp.float32, -limit, limit)
      init = draw if norm_bias == 'fan_in' else nn.initializers.zeros
      x = x + self.param('bias', init, (self.units,)).astype(x.dtype)
    if style.normalization != 'none':
      return _Norm(style.activation, name='norm')(x)
    return ACTIVATIONS[style.activation](x)


class Dense(_Layer):
  """act(norm(x W)) or act(x W + b): [..., inputs] -> [..., units].

  x W is taken by `product`: see recurrence.py. With None x is x W already: the share of an input
  that is known before a loop can be multiplied before the loop, by its rows of W. `norm_bias`: a
  bias also before a norm, 'zero' at first, or 'fan_in': drawn uniformly from ±1/√inputs.
  """

  scale: float = 1.0
  norm_bias: str = 'none'

  @nn.compact
  def __call__(self, x: jax.Array, product: Callable | None = convolution.product) -> jax.Array:
    inputs = x.shape[-1]
    if product:
      init = initializer(self.style.init, self.scale)
      kernel = self.param('kernel', init, (inputs, self.units))
      x = product(x.astype(self.dtype), kernel.astype(self.dtype))
    return self._finish(x, self.norm_bias, 1 / math.sqrt(inputs))


def gru(reset: jax.Array, candidate: jax.Array, update: jax.Array, state: jax.Array) -> jax.Array:
  """Return a GRU's next state, [..., units] as all arguments: its normalised gates and state."""
  candidate = jnp.tanh(jax.nn.sigmoid(reset) * candidate)
  update = jax.nn.sigmoid(update - 1)  # starts out remembering
  return update * candidate + (1 - update) * state


class Strided(_Layer):
  """Convolution with stride 2, down or up; see convolution.py for sizes under both paddings."""

  direction: str = 'down'
  kernel_size: int = 4
  padding: str = 'same'

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    down, size = self.direction == 'down', self.kernel_size
    ends = (x.shape[-1], self.units) if down else (self.units, x.shape[-1])
    kernel = self.param('kernel', initializer(self.style.init), (size, size, *ends))
    move = convolution.downsample if down else convolution.upsample
    return self._finish(move(x.astype(self.dtype), kernel.astype(self.dtype), self.padding))


class Head(nn.Module):
  """MLP with linear outputs: [..., inputs] -> float32 [..., outputs[i]] (a tuple if several)."""

  inputs: int
  config: HeadSettings
  outputs: tuple[int, ...]
  out_scale: float = 1.0
  style: Style = Style()
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array | tuple[jax.Array, ...]:
    for i in range(self.config.layers):
      x = Dense(self.config.units, self.style, self.dtype, name=f'h_{i}')(x)
    outputs = []
    for i, size in enumerate(self.outputs):
      layer = Dense(size, LINEAR, self.dtype, scale=self.out_scale, name=f'out_{i}')
      outputs.append(layer(x).astype(jnp.float32))
    return tuple(outputs) if len(outputs) > 1 else outputs[0]


@dataclasses.dataclass(frozen=True)
class ScalarHead:
  """A head whose outputs describe a scalar: symlog bins (DreamerV3) or a unit Gaussian's mean."""

  head: Head
  scalar: dists.Scalar

  @classmethod
  def make(cls, inputs: int, config: ScalarSettings, **layers: Unpack[Layers]) -> 'ScalarHead':
    """Return a head on features of size `inputs`."""
    scalar = dists.scalar(config.distribution, config.bins)
    out_scale = 0.0 if config.distribution == 'two_hot' else 1.0
    return cls(Head(inputs, config, (scalar.size,), out_scale, **layers), scalar)

  def init(self, key: jax.Array) -> Any:
    """Return parameters."""
    return self.head.init(key, jnp.zeros((1, self.head.inputs)))['params']

  def __call__(self, params: Any, feature: jax.Array) -> jax.Array:
    """Return outputs [..., bins] for features [..., F]."""
    out: Any = self.head.apply({'params': params}, feature)
    return out

  def mean(self, params: Any, feature: jax.Array) -> jax.Array:
    """Return the expected scalar [...] for features [..., F]."""
    return self.scalar.mean(self(params, feature))


# --------------------------------------------------------------------------------------------------
# Networks of pictures: strided convolutions down to a vector and up again


class _Plain(nn.Module):
  """What both ways have. `channels`: of all pictures together, C."""

  config: Any  # encoders.ImageSettings
  channels: int
  side: int
  style: Style = Style()
  dtype: Any = jnp.float32

  @property
  def frame_bytes(self) -> int:
    """Bytes of the largest layer's output for one frame."""
    side = self.side // max(2, self.config.patch)
    return side**2 * self.config.depth * jnp.dtype(self.dtype).itemsize


class PlainDown(_Plain):
  """Strided convolutions of doubling depth.

  To `minres` with padding 'same' (DreamerV3), 64 → 2 with 'valid' (DreamerV2). With `patch` > 1 the
  first layer maps each patch × patch block to `depth` channels in one product, which spares a CPU
  the large strided layers; 1 is the published network.
  """

  @property
  def size(self) -> int:
    """Numbers of a result."""
    c = self.config
    bottom = 2 if c.padding == 'valid' else c.minres
    return bottom**2 * c.depth * 2 ** (stages(c, self.side) - (c.patch == 1))

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    c, layer = self.config, Layers(style=self.style, dtype=self.dtype)
    if c.patch > 1:
      x = Dense(units=c.depth, name='stem', **layer)(to_patches(x, c.patch))
    for i in range(stages(c, self.side)):
      units = c.depth * 2 ** (i + (c.patch > 1))
      x = Strided(units=units, padding=c.padding, name=f'down_{i}', **layer)(x)
    return x


class PlainUp(_Plain):
  """The way back: a dense layer, then transposed convolutions, the last one linear.

  The dense layer is linear and has as many units as the small picture has numbers; with `units` it
  has so many, and a norm or bias and activation like the others.
  """

  units: int = 0

  def setup(self):
    c, valid = self.config, self.config.padding == 'valid'
    count = stages(c, self.side) - (c.patch == 1)  # of the transposed convolutions before the last
    small = 32 * c.depth if valid else c.minres**2 * c.depth * 2**count
    style = self.style if self.units else LINEAR
    self.start = Dense(self.units or small, style, self.dtype)
    kernels = (5, 5, 6, 6) if valid else (4,) * (count + 1)
    up: dict[str, Any] = dict(dtype=self.dtype, direction='up', padding=c.padding)
    self.up = [
      Strided(units=c.depth * 2**i, style=self.style, kernel_size=kernel, **up)
      for i, kernel in zip(reversed(range(count)), kernels)
    ]
    if c.patch > 1:
      self.last = Dense(self.channels * c.patch**2, LINEAR, self.dtype)
    else:
      self.last = Strided(units=self.channels, style=LINEAR, kernel_size=kernels[-1], **up)

  def finishing(self, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return those parameters that `finish` needs."""
    begun = 'up_0' if self.config.padding == 'valid' else ''
    return {k: v for k, v in params.items() if k.startswith(('up', 'last')) and k != begun}

  def begin(self, features: jax.Array) -> jax.Array:
    """Features [N, F] -> the small picture [N, s, s, D].

    From a single pixel the first convolution is a dense layer, whose matrix is too large to be
    read again for every few frames.
    """
    valid = self.config.padding == 'valid'
    side = 1 if valid else self.config.minres
    x = self.start(features).reshape(features.shape[0], side, side, -1)
    return self.up[0](x) if valid else x

  def finish(self, x: jax.Array, train: bool = False) -> jax.Array:
    """The small picture -> pictures [N, side, side, C]; every frame by itself."""
    for layer in self.up[self.config.padding == 'valid' :]:
      x = layer(x)
    x = self.last(x)
    return from_patches(x, self.config.patch) if self.config.patch > 1 else x


def stages(config: Any, side: int) -> int:
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


def to_patches(x: jax.Array, patch: int) -> jax.Array:
  """[N, H, W, C] -> [N, H/patch, W/patch, patch² C]."""
  n, height, width, channels = x.shape
  x = x.reshape(n, height // patch, patch, width // patch, patch, channels).swapaxes(2, 3)
  return x.reshape(n, height // patch, width // patch, -1)


def from_patches(x: jax.Array, patch: int) -> jax.Array:
  """The inverse of `to_patches`."""
  n, height, width, _ = x.shape
  x = x.reshape(n, height, width, patch, patch, -1).swapaxes(2, 3)
  return x.reshape(n, height * patch, width * patch, -1)
