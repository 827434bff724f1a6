"""Networks of observations: the encoder, and the decoder that mirrors it.

Pictures go through a network of images.py, vectors through an MLP. Both are frozen dataclasses
around Flax modules: parameters and running statistics come as arguments.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, Unpack

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from harmony_jax import convolution
from harmony_jax.distributions import symexp, symlog
from harmony_jax.images import KINDS, ImageSettings
from harmony_jax.networks import LINEAR, Dense, Layers, Style, mlp

Shapes = Mapping[str, tuple[int, ...]]


class _VectorDown(nn.Module):
  """[N, inputs] -> [N, units]."""

  config: ImageSettings
  inputs: int
  style: Style
  dtype: Any

  def setup(self):
    c = self.config
    self.h = mlp(self.inputs, c.mlp_layers, c.mlp_units, style=self.style, dtype=self.dtype)

  def __call__(self, x):
    for layer in self.h:
      x = layer(x)
    return x


class _VectorUp(nn.Module):
  """Features [N, F] -> {name: [N, ...]}."""

  config: ImageSettings
  inputs: int
  shapes: Shapes
  style: Style
  dtype: Any

  def setup(self):
    c = self.config
    self.h = mlp(self.inputs, c.mlp_layers, c.mlp_units, style=self.style, dtype=self.dtype)
    width = c.mlp_units if c.mlp_layers else self.inputs
    linear: dict[str, Any] = dict(inputs=width, style=LINEAR, dtype=self.dtype)
    self.out = {k: Dense(units=math.prod(shape), **linear) for k, shape in self.shapes.items()}

  def __call__(self, x):
    for layer in self.h:
      x = layer(x)
    return {k: self.out[k](x).astype(jnp.float32).reshape(-1, *s) for k, s in self.shapes.items()}


@dataclasses.dataclass(frozen=True)
class Encoder:
  """Observations {name: [..., *shape]} -> embedding [..., E], with any leading axes.

  uint8 images are scaled to [-0.5, 0.5]; vectors pass an MLP, after symlog if `symlog`. Where there
  are both, the images' part comes first.
  """

  images: Shapes
  vectors: Shapes
  down: Any  # None without images
  mlp: Any  # None without vectors
  symlog: bool

  @classmethod
  def make(
    cls, config: ImageSettings, shapes: Shapes, symlog: bool, **layers: Unpack[Layers]
  ) -> 'Encoder':
    """Return an encoder. ValueError for shapes it cannot have."""
    images, vectors = split_shapes(shapes)
    down = vector = None
    if images:
      side, channels = _side_and_channels(images)
      down = KINDS[config.kind][0](config=config, channels=channels, side=side, **layers)
      down.size  # noqa: B018  raises for sides that it cannot have
    if vectors:
      size = sum(math.prod(shape) for shape in vectors.values())
      vector = _VectorDown(config, size, **layers)
    return cls(images, vectors, down, vector, symlog)

  @property
  def size(self) -> int:
    """E."""
    size = self.down.size if self.down else 0
    if self.mlp:
      c = self.mlp.config
      size += c.mlp_units if c.mlp_layers else self.mlp.inputs
    return size

  def init(self, key: jax.Array) -> dict[str, Any]:
    """Return {'params': …} and, with batch norms, 'batch_stats'."""
    made: dict[str, Any] = {'params': {}}
    if self.down:
      side, channels = self.down.side, self.down.channels
      made = dict(self.down.init(key, jnp.zeros((1, side, side, channels))))
    if self.mlp:
      of_vectors = self.mlp.init(key, jnp.zeros((1, self.mlp.inputs)))['params']
      made['params'] = {**made['params'], **of_vectors}
    return made

  def __call__(
    self, params: Any, statistics: Any, observation: Mapping[str, jax.Array], train: bool = False
  ) -> tuple[jax.Array, Any]:
    """Return (embedding [..., E], running statistics of batch norms, None without any).

    `train` takes the batch's statistics instead of the running ones.
    """
    name, shape = next(iter({**self.images, **self.vectors}.items()))
    lead = observation[name].shape[: observation[name].ndim - len(shape)]
    flat = lambda shapes: {k: observation[k].reshape(-1, *s) for k, s in shapes.items()}
    parts = []
    if self.down:
      frames = self.down.frame_bytes
      if frames:
        run = lambda params, images: self.down.apply({'params': params}, _join(images))
        size = convolution.frames_at_once(frames)
        x = convolution.apply_in_chunks(run, params, flat(self.images), size)
      else:
        x, statistics = apply_norms(self.down, params, statistics, _join(flat(self.images)), train)
      parts.append(x.reshape(x.shape[0], -1))
    if self.mlp:
      x = [each.astype(jnp.float32).reshape(len(each), -1) for each in flat(self.vectors).values()]
      x = jnp.concatenate(x, -1)
      parts.append(self.mlp.apply({'params': params}, symlog(x) if self.symlog else x))
    x = jnp.concatenate([part.astype(jnp.float32) for part in parts], -1)
    return x.reshape(*lead, -1), statistics


@dataclasses.dataclass(frozen=True)
class Decoder:
  """Features [..., F] -> observations: images in [0, 1], vectors; and the losses of these.

  -log p(observation) up to a constant, summed over each observation's own axes. likelihood
  'symlog': squared error of images and of vectors in symlog space, without the ½ of a unit Gaussian
  (as in the authors' DreamerV3). 'gaussian': half the squared error of both (DreamerV2).
  """

  images: Shapes
  vectors: Shapes
  up: Any  # None without images
  mlp: Any  # None without vectors
  inputs: int
  likelihood: str

  @classmethod
  def make(
    cls,
    config: ImageSettings,
    shapes: Shapes,
    inputs: int,
    likelihood: str,
    **layers: Unpack[Layers],
  ) -> 'Decoder':
    """Return a decoder of features of size `inputs`."""
    images, vectors = split_shapes(shapes)
    up = vector = None
    if images:
      side, channels = _side_and_channels(images)
      made = dict(config=config, inputs=inputs, channels=channels, side=side)
      up = KINDS[config.kind][1](**made, **layers)
    if vectors:
      vector = _VectorUp(config, inputs, vectors, **layers)
    return cls(images, vectors, up, vector, inputs, likelihood)

  def init(self, key: jax.Array) -> dict[str, Any]:
    """Return {'params': …} and, with batch norms, 'batch_stats'."""
    made: dict[str, Any] = {'params': {}}
    features = jnp.zeros((1, self.inputs))
    if self.up:
      made = dict(self.up.init(key, features, method=lambda net, x: net.finish(net.begin(x))))
    if self.mlp:
      made['params'] = {**made['params'], **self.mlp.init(key, features)['params']}
    return made

  def losses(
    self, params: Any, statistics: Any, feature: jax.Array, observation: Mapping[str, jax.Array]
  ) -> tuple[dict[str, jax.Array], Any]:
    """Return (means over [B, T] of the losses of images and vectors, by these names; statistics).

    The images of plain decoders are taken some frames at a time: nobody needs all of them at once.
    """
    feature = feature.reshape(-1, feature.shape[-1])  # [B T, F]
    target = {k: observation[k].reshape(-1, *s) for k, s in self.images.items()}
    found = {}
    if self.up and self.up.frame_bytes:
      start = self.up.apply({'params': params}, feature, method='begin')
      run = lambda part, start, target: self.error(
        self._split(self.up.apply({'params': part}, start, method='finish')), target
      )
      size = convolution.frames_at_once(self.up.frame_bytes)
      part = self.up.finishing(params)
      found['image'] = convolution.mean_in_chunks(run, part, start, target, size)
    elif self.up:
      pictures, statistics = self._pictures(params, statistics, feature, True)
      found['image'] = self.error(self._split(pictures), target).mean()
    if self.mlp:
      target = {k: observation[k].reshape(-1, *s) for k, s in self.vectors.items()}
      found['vector'] = self.error(self.mlp.apply({'params': params}, feature), target).mean()
    return found, statistics

  def error(self, outputs: Mapping[str, jax.Array], target: Mapping[str, jax.Array]) -> jax.Array:
    """Return the loss of outputs {name: [N, ...]}, summed over names, [N]."""
    total = jnp.float32(0)
    for k, out in outputs.items():
      wanted = scale_image(target[k]) if k in self.images else target[k].astype(jnp.float32)
      if self.likelihood == 'symlog' and k in self.vectors:
        wanted = symlog(wanted)
      squares = jnp.square(out - wanted.reshape(out.shape)).reshape(out.shape[0], -1).sum(-1)
      total += squares if self.likelihood == 'symlog' else 0.5 * squares
    return total

  def decode(
    self, params: Any, statistics: Any, feature: jax.Array, train: bool = False
  ) -> dict[str, jax.Array]:
    """Return {name: [..., *shape]} as put out: vectors in the space of the likelihood."""
    flat, found = feature.reshape(-1, feature.shape[-1]), {}
    if self.up:
      found |= self._split(self._pictures(params, statistics, flat, train)[0])
    if self.mlp:
      found |= self.mlp.apply({'params': params}, flat)
    return {k: v.reshape(*feature.shape[:-1], *v.shape[1:]) for k, v in found.items()}

  def predict(self, params: Any, statistics: Any, feature: jax.Array) -> dict[str, jax.Array]:
    """Return observations {name: [..., *shape]}: vectors back from symlog space."""
    found = self.decode(params, statistics, feature)
    back = symexp if self.likelihood == 'symlog' else lambda x: x
    return {k: back(v) if k in self.vectors else v for k, v in found.items()}

  def _pictures(self, params, statistics, feature, train):
    run = lambda net, x, train: net.finish(net.begin(x), train)
    return apply_norms(self.up, params, statistics, feature, train, run)

  def _split(self, pictures):
    """All pictures together [N, H, W, C] -> {name: [N, H, W, c]} in [0, 1]."""
    pictures = pictures.astype(jnp.float32) + 0.5
    ends = np.cumsum([shape[2] for shape in self.images.values()])
    starts = [0, *ends[:-1]]
    return {k: pictures[..., a:b] for k, a, b in zip(self.images, starts, ends)}


def apply_norms(
  net: nn.Module, params: Any, statistics: Any, x: jax.Array, train: bool, method: Any = None
) -> tuple[jax.Array, Any]:
  """Run a network that may have batch norms; return (outputs, running statistics)."""
  run: Any = functools.partial(net.apply, method=method)
  if statistics is None:
    return run({'params': params}, x, train), None
  variables = {'params': params, 'batch_stats': statistics}
  if not train:
    return run(variables, x, train), statistics
  out, changed = run(variables, x, train, mutable=['batch_stats'])
  return out, jax.lax.stop_gradient(changed['batch_stats'])


def split_shapes(shapes: Shapes) -> tuple[dict, dict]:
  """Return ({images [H, W, C]}, {vectors or scalars}), each sorted by name.

  Raises:
    ValueError: shapes of another rank.
  """
  images = {k: tuple(shapes[k]) for k in sorted(shapes) if len(shapes[k]) == 3}
  vectors = {k: tuple(shapes[k]) for k in sorted(shapes) if len(shapes[k]) < 2}
  other = set(shapes) - set(images) - set(vectors)
  if other:
    raise ValueError(f'observations must be images [H, W, C], vectors or scalars, got {other}')
  return images, vectors


def _side_and_channels(images: Shapes) -> tuple[int, int]:
  sides = {shape[:2] for shape in images.values()}
  if len(sides) != 1 or len(set(*sides)) != 1:
    raise ValueError(f'images must be square and of one size, got {sorted(sides)}')
  return next(iter(sides))[0], sum(shape[2] for shape in images.values())


def _join(images: Mapping[str, jax.Array]) -> jax.Array:
  """{name: [N, H, W, c]} -> [N, H, W, C] in [-0.5, 0.5]."""
  return jnp.concatenate([scale_image(images[k]) for k in sorted(images)], -1) - 0.5


def scale_image(image: jax.Array) -> jax.Array:
  """uint8 [..., H, W, C] -> float32 in [0, 1]; floats pass."""
  return image.astype(jnp.float32) / 255 if image.dtype == jnp.uint8 else image
