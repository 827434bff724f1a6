"""Flax linen layers: dense, strided convolutions, MLP heads, and networks of observations.

A `Style` (normalization, activation, initialisation) is what the hidden layers of a method have in
common: DreamerV3's have a layer norm in place of a bias and SiLU, DreamerV2's a bias and ELU.
Output layers are linear with a bias. Parameters are float32; `dtype` is what products are computed
in; norms, and everything that leaves an encoder, decoder or head, are float32. Layouts: images
NHWC, dense kernels [in, out].
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, TypedDict, Unpack

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

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
  bins: int = setting(255, 'bins of two_hot', least=1)


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


class _NormAct(nn.Module):
  """What follows a product: bias or norm, then the activation. Base of the layers below."""

  style: Style = Style()
  dtype: Any = jnp.float32

  def _setup(self, units: int, norm_bias: str = 'none', limit: float = 0.0):
    """`norm_bias`: a bias also before a norm, 'zero' or drawn from ±limit ('fan_in')."""
    if self.style.normalization != 'none':
      self.norm = nn.LayerNorm(epsilon=EPSILON, dtype=jnp.float32)
    self.bias = None
    if self.style.normalization == 'none' or norm_bias != 'none':
      draw = lambda key, shape: jax.random.uniform(key, shape, jnp.float32, -limit, limit)
      init = draw if norm_bias == 'fan_in' else nn.initializers.zeros
      self.bias = self.param('bias', init, (units,))

  def finish(self, x: jax.Array) -> jax.Array:
    """Return act(norm(x)) or act(x + bias), [..., units]."""
    if self.bias is not None:
      x = x + self.bias.astype(x.dtype)
    if self.style.normalization != 'none':
      x = self.norm(x).astype(x.dtype)
    return ACTIVATIONS[self.style.activation](x)


class Dense(_NormAct):
  """act(norm(x W)) or act(x W + b): [..., inputs] -> [..., units].

  `part` gives the product with some rows of W only, so that the share of an input that is known
  before a loop can be computed before the loop: `finish(part(a, 0) + part(b, a.shape[-1]))` equals
  `__call__(concatenate([a, b]))`. `norm_bias`: a bias also before a norm, 'zero' at first, or
  'fan_in': drawn uniformly from ±1/√inputs. Called with a `product`, it has x W
  taken by that: see recurrence.py.
  """

  inputs: int = 0
  units: int = 0
  scale: float = 1.0
  norm_bias: str = 'none'

  def setup(self):
    init = initializer(self.style.init, self.scale)
    self.kernel = self.param('kernel', init, (self.inputs, self.units))
    self._setup(self.units, self.norm_bias, 1 / math.sqrt(self.inputs))

  def __call__(self, x: jax.Array, product: Callable = convolution.product) -> jax.Array:
    return self.finish(product(x.astype(self.dtype), self.kernel.astype(self.dtype)))

  def part(self, x: jax.Array, start: int = 0) -> jax.Array:
    """Return x W[start : start + x.shape[-1]]."""
    whole = x.shape[-1] == self.inputs
    rows = self.kernel if whole else self.kernel[start : start + x.shape[-1]]
    return convolution.product(x.astype(self.dtype), rows.astype(self.dtype))


def gru(reset: jax.Array, candidate: jax.Array, update: jax.Array, state: jax.Array) -> jax.Array:
  """Return a GRU's next state, [..., units] as all arguments: its normalised gates and state."""
  candidate = jnp.tanh(jax.nn.sigmoid(reset) * candidate)
  update = jax.nn.sigmoid(update - 1)  # starts out remembering
  return update * candidate + (1 - update) * state


class Strided(_NormAct):
  """Convolution with stride 2, down or up; see convolution.py for sizes under both paddings."""

  inputs: int = 0
  units: int = 0
  direction: str = 'down'
  kernel_size: int = 4
  padding: str = 'same'

  def setup(self):
    ends = (self.inputs, self.units) if self.direction == 'down' else (self.units, self.inputs)
    shape = (self.kernel_size, self.kernel_size, *ends)
    self.kernel = self.param('kernel', initializer(self.style.init), shape)
    self._setup(self.units)

  def __call__(self, x: jax.Array) -> jax.Array:
    move = convolution.downsample if self.direction == 'down' else convolution.upsample
    return self.finish(move(x.astype(self.dtype), self.kernel.astype(self.dtype), self.padding))


def mlp(inputs: int, layers: int, units: int, **layer: Unpack[Layers]) -> list[Dense]:
  """Return hidden layers."""
  widths = [inputs] + [units] * layers
  return [Dense(inputs=a, units=b, **layer) for a, b in zip(widths[:-1], widths[1:])]


class Head(nn.Module):
  """MLP with linear outputs: [..., inputs] -> float32 [..., outputs[i]] (a tuple if several)."""

  inputs: int
  config: HeadSettings
  outputs: tuple[int, ...]
  out_scale: float = 1.0
  style: Style = Style()
  dtype: Any = jnp.float32

  def setup(self):
    c = self.config
    self.h = mlp(self.inputs, c.layers, c.units, style=self.style, dtype=self.dtype)
    width = c.units if c.layers else self.inputs
    linear: dict[str, Any] = dict(style=LINEAR, scale=self.out_scale, dtype=self.dtype)
    self.out = [Dense(inputs=width, units=size, **linear) for size in self.outputs]

  def __call__(self, x: jax.Array) -> jax.Array | tuple[jax.Array, ...]:
    for layer in self.h:
      x = layer(x)
    outputs = [layer(x).astype(jnp.float32) for layer in self.out]
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
