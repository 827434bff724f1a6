"""Denoised MDP's networks, put together from the house's layers, and PyTorch's first parameters."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from harmony_jax.actions import TanhNormal
from harmony_jax.encoders import ImageSettings
from harmony_jax.networks import LINEAR, Dense, Head, PlainDown, Style, stages
from harmony_jax.settings import setting

Params = Mapping[str, Any]
ELU, RELU = (Style('none', name, 'uniform') for name in ('elu', 'relu'))
# softplus(_RAW) = 5: the deviation of a policy that has not learned
_RAW, _LEAST = math.log(math.exp(5) - 1), 1e-4


@dataclasses.dataclass(frozen=True)
class PictureSettings:
  """A network of pictures: the encoder, or the decoder."""

  depth: int = setting(
    32, 'channels of the first convolution; doubled by every further one', least=1
  )
  units: int = setting(
    1024, 'numbers of the embedding, or of what the decoder begins with', least=1
  )
  patch: int = setting(
    1, 'side of the blocks that one product maps to `depth` channels; 1: none; for CPUs', least=1
  )

  @property
  def image(self) -> ImageSettings:
    """The same as the Dreamers' networks have it."""
    padding = 'valid' if self.patch == 1 else 'same'
    return ImageSettings(depth=self.depth, patch=self.patch, padding=padding)


class Down(nn.Module):
  """Pictures [N, S, S, C] -> embedding [N, E]: convolutions, and a linear layer behind them."""

  net: PlainDown
  units: int

  @property
  def size(self) -> int:
    """E; ValueError for pictures that it cannot have."""
    stages(self.net.config, self.side)
    return self.units

  @property
  def frame_bytes(self) -> int:
    """Of the largest layer's output for one frame."""
    return self.net.frame_bytes

  @property
  def side(self) -> int:
    """S."""
    return self.net.side

  @property
  def channels(self) -> int:
    """C."""
    return self.net.channels

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    x = self.net(x).reshape(len(x), self.net.size)
    return Dense(self.units, LINEAR, self.net.dtype, name='out')(x)


@dataclasses.dataclass(frozen=True)
class Scalar:
  """A head of one number, on the first numbers of a feature: those of x stand there."""

  head: Head

  def init(self, key: jax.Array) -> Params:
    """Return parameters."""
    return self.head.init(key, jnp.zeros((1, self.head.inputs)))['params']

  def mean(self, params: Params, feature: jax.Array) -> jax.Array:
    """Return the number [...] for features [..., F]."""
    out: Any = self.head.apply({'params': params}, feature[..., : self.head.inputs])
    return out[..., 0]


@dataclasses.dataclass(frozen=True)
class Rewards:
  """Reward heads of x and of y, each on its share of a feature; what is predicted is the sum."""

  heads: Mapping[str, Scalar]

  def init(self, key: jax.Array) -> Params:
    """Return parameters by part."""
    return {name: head.init(key) for name, head in self.heads.items()}

  def each(self, params: Params, feature: jax.Array) -> dict[str, jax.Array]:
    """Return the parts' rewards [...]; of a feature of x alone that of x."""
    found = {}
    for name, scalar in self.heads.items():
      if feature.shape[-1]:
        found[name] = scalar.mean(params[name], feature)
      feature = feature[..., scalar.head.inputs :]
    return found

  def mean(self, params: Params, feature: jax.Array) -> jax.Array:
    """Return their sum."""
    return sum(self.each(params, feature).values(), jnp.float32(0))


@dataclasses.dataclass(frozen=True)
class Actor:
  """π(a | x): a tanh of normals, on the first numbers of a feature."""

  head: Head  # of 2 A numbers
  samples: int = 0  # no entropy is estimated

  def init(self, key: jax.Array) -> Params:
    """Return parameters."""
    return Scalar(self.head).init(key)

  def policy(self, params: Params, feature: jax.Array) -> TanhNormal:
    """Return the distribution of actions for features [..., F]."""
    out: Any = self.head.apply({'params': params}, feature[..., : self.head.inputs])
    mean, spread = jnp.split(out, 2, -1)
    return TanhNormal(5 * jnp.tanh(mean / 5), jax.nn.softplus(spread + _RAW) + _LEAST)

  def noise(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Draw noise for `sample`, for leading axes `shape`."""
    return TanhNormal.noise(key, shape, self.head.outputs[0] // 2)


def likeliest(policy: TanhNormal, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Return (of the actions that noise [..., tries, A] draws the likeliest, log π of all).

  By the density of the action itself: actions at ±1, which tanh rounds to, win where the policy is
  wide.
  """
  each = TanhNormal(policy.mean[..., None, :], policy.std[..., None, :])
  action = each.sample(noise)
  likely = each.log_prob(action)
  best = likely.argmax(-1)[..., None, None]
  return jnp.take_along_axis(action, best, -2)[..., 0, :], likely


def drawn(key: jax.Array, params: Params) -> Params:
  """Return parameters as PyTorch begins with them: all uniform within ±1/√(inputs of the layer).

  For a transposed convolution, and for both of a GRU's layers, PyTorch takes other numbers for its
  inputs; with kernels as they are stored here, all are the product of all axes but the last.
  """
  layers, tree = jax.tree.flatten(params, is_leaf=lambda x: 'kernel' in x)

  def draw(key, layer):
    limit = 1 / math.sqrt(math.prod(layer['kernel'].shape[:-1]))
    keys = jax.random.split(key)
    return {
      name: jax.random.uniform(each, layer[name].shape, jnp.float32, -limit, limit)
      for each, name in zip(keys, ('kernel', 'bias'))
    }

  return tree.unflatten(map(draw, jax.random.split(key, len(layers)), layers))
