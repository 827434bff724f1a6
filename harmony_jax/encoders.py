"""Networks of observations: the encoder, the decoder that mirrors it, and learning from both.

Pictures go through a network of a kind (`KINDS`), vectors through an MLP. Encoder and decoder are
frozen dataclasses around Flax modules: parameters and running statistics come as arguments.

An `Objective` is what a world model learns its representation from: it says in how many views a
batch is seen, which tasks are weighed in the place of `observation`, and what they lose.
`Reconstruction` is one, prototypes.py another. Its parameters are entries of the world model's.
B rows, V views, T steps, E embedding, F feature.
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
from harmony_jax.networks import LINEAR, Dense, Layers, PlainDown, PlainUp, Style
from harmony_jax.residual import ResidualDown, ResidualUp
from harmony_jax.settings import setting

Shapes = Mapping[str, tuple[int, ...]]
Params = Mapping[str, Any]
Losses = dict[str, jax.Array]

# Kinds of networks of pictures, down and up: pairs of Flax modules, made with `config`, `channels`
# (of all pictures together), `side`, `style` and `dtype`:
#
#     down    pictures [N, side, side, C] in [-0.5, 0.5] -> anything [N, ...] of `size` numbers
#     up      features [N, F] -> pictures, in two parts: `begin` for all frames, `finish`
#
# `frame_bytes` is the size of the largest layer's output for one frame where frames do not depend
# on each other, so that a CPU can take a few at a time (convolution.py); 0 where they do (batch
# norms).
KINDS = {'plain': (PlainDown, PlainUp), 'residual': (ResidualDown, ResidualUp)}


@dataclasses.dataclass(frozen=True)
class ImageSettings:
  """A network of images and vectors: the encoder, and the decoder that mirrors it."""

  kind: str = setting(
    'plain',
    'plain: strided convolutions; residual: residual.py, with batch norms',
    choices=KINDS,
    only='pictures',
  )
  depth: int = setting(
    32, 'channels of the first convolution; doubled by every further one', least=1, only='pictures'
  )
  minres: int = setting(
    4,
    'side of the last feature map, with padding same',
    least=1,
    only='pictures .kind=plain .padding=same',
  )
  patch: int = setting(
    1,
    'side of the blocks that one product maps to `depth` channels; 1: none; for CPUs',
    least=1,
    only='pictures',
  )
  padding: str = setting(
    'same',
    'of the convolutions: same, or valid as DreamerV2',
    choices=('same', 'valid'),
    only='pictures .kind=plain',
  )
  mlp_layers: int = setting(2, 'hidden layers for vector observations', only='vectors')
  mlp_units: int = setting(512, 'their width', least=1, only='vectors .mlp_layers')


class _VectorDown(nn.Module):
  """[N, inputs] -> [N, units]."""

  config: ImageSettings
  inputs: int
  style: Style
  dtype: Any

  @nn.compact
  def __call__(self, x):
    for i in range(self.config.mlp_layers):
      x = Dense(self.config.mlp_units, self.style, self.dtype, name=f'h_{i}')(x)
    return x


class _VectorUp(nn.Module):
  """Features [N, F] -> {name: [N, ...]}."""

  config: ImageSettings
  shapes: Shapes
  style: Style
  dtype: Any

  @nn.compact
  def __call__(self, x):
    for i in range(self.config.mlp_layers):
      x = Dense(self.config.mlp_units, self.style, self.dtype, name=f'h_{i}')(x)
    found = {}
    for name, shape in self.shapes.items():
      out = Dense(math.prod(shape), LINEAR, self.dtype, name=f'out_{name}')(x)
      found[name] = out.astype(jnp.float32).reshape(-1, *shape)
    return found


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
    # {name: [N, H, W, c]} -> [N, H, W, C] in [-0.5, 0.5]
    join = lambda images: jnp.concatenate([scale_image(images[k]) for k in self.images], -1) - 0.5
    parts = []
    if self.down and self.down.frame_bytes:
      run = lambda params, images: self.down.apply({'params': params}, join(images))
      size = convolution.frames_at_once(self.down.frame_bytes)
      x = convolution.apply_in_chunks(run, params, flat(self.images), size)
      parts.append(x.reshape(x.shape[0], -1))
    elif self.down:
      x, statistics = apply_norms(self.down, params, statistics, join(flat(self.images)), train)
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
      up = KINDS[config.kind][1](config=config, channels=channels, side=side, **layers)
    if vectors:
      vector = _VectorUp(config, vectors, **layers)
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
      near = self.likelihood == 'symlog' and k in self.vectors
      wanted = symlog(wanted) if near else wanted
      squares = jnp.square(out - wanted.reshape(out.shape)).reshape(out.shape[0], -1)
      if near:  # numbers within 10⁻⁴ are right, as the authors have it
        squares = jnp.where(squares < 1e-8, 0.0, squares)
      total += squares.sum(-1) * (1.0 if self.likelihood == 'symlog' else 0.5)
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


def scale_image(image: jax.Array) -> jax.Array:
  """uint8 [..., H, W, C] -> float32 in [0, 1]; floats pass."""
  return image.astype(jnp.float32) / 255 if image.dtype == jnp.uint8 else image


# --------------------------------------------------------------------------------------------------
# What a world model learns its representation from


class Objective:
  """The interface, with what most objectives have in common.

  Attributes:
    tasks: those that stand for `observation` in the weighting. views: V.
  """

  tasks: tuple[str, ...] = ('observation',)
  views: int = 1

  def init(self, key: jax.Array) -> tuple[dict, dict]:
    """Return (parameters by entry of the world model, running statistics by entry)."""
    raise NotImplementedError

  def losses(
    self,
    params: Params,
    slow: Params,
    statistics: Params,
    batch: Params,
    embed: jax.Array,
    feature: jax.Array,
  ) -> tuple[Losses, dict]:
    """Return (means by name, running statistics by entry).

    Args:
      params: the world model's. slow: as `slow` gave it. batch: as the model saw it.
      embed: [V B, T, E]. feature: [V B, T, F].
    """
    raise NotImplementedError

  def elements(self) -> dict[str, int]:
    """Return over how many numbers the loss of each task is summed, where it is not one."""
    return {}

  def predict(self, params: Params, statistics: Params, feature: jax.Array) -> dict[str, Any]:
    """Return what the model makes of features [..., F], for looking at."""
    return {}

  def noise(self, key: jax.Array) -> Any:
    """Draw what `view` needs for one row; with several views."""
    raise NotImplementedError

  def view(self, batch: Params, noise: Any) -> Params:
    """Return a batch [V B, ...] in its V > 1 views as the model sees it; noise [V B, ...]."""
    raise NotImplementedError

  def slow(self, params: Params) -> dict:
    """Return the parameters of which slow copies are kept."""
    return {}

  def update_slow(self, slow: Params, params: Params, step: jax.Array) -> dict:
    """Return the slow copies after update number `step`."""
    return {}

  def project(self, params: Params) -> Params:
    """Return the parameters as an update begins with them."""
    return params

  def mask(self, gradient: Params, step: jax.Array) -> Params:
    """Return the gradient of those parameters that learn in update number `step`."""
    return gradient


@dataclasses.dataclass(frozen=True)
class Reconstruction(Objective):
  """-log p(observation | state), by a decoder.

  Vectors are a loss of their own, `vector`, with weight 1 as the authors ran it, or part of
  `observation` (`harmonize_vector`).
  """

  decoder: Decoder
  harmonize_vector: bool = False

  @property
  def tasks(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
    """`observation`, unless there are vectors only and they are a loss of their own."""
    return ('observation',) if self.decoder.images or self.harmonize_vector else ()

  def elements(self) -> dict[str, int]:
    """Return the numbers of an observation: H·W·C of pictures."""
    counted = {**self.decoder.images, **(self.decoder.vectors if self.harmonize_vector else {})}
    return dict.fromkeys(self.tasks, sum(math.prod(shape) for shape in counted.values()))

  def init(self, key: jax.Array) -> tuple[dict, dict]:
    """Return the decoder's."""
    made = self.decoder.init(key)
    statistics = {'decoder': made['batch_stats']} if 'batch_stats' in made else {}
    return {'decoder': made['params']}, statistics

  def losses(
    self,
    params: Params,
    slow: Params,
    statistics: Params,
    batch: Params,
    embed: jax.Array,
    feature: jax.Array,
  ) -> tuple[Losses, dict]:
    """Return `observation` and `vector`."""
    found, after = self.decoder.losses(params['decoder'], statistics.get('decoder'), feature, batch)
    if self.harmonize_vector or 'vector' not in found:
      losses = {'observation': sum(found.values(), jnp.float32(0))}
    else:
      losses = {'observation' if k == 'image' else k: v for k, v in found.items()}
    return losses, {} if after is None else {'decoder': after}

  def predict(self, params: Params, statistics: Params, feature: jax.Array) -> dict[str, Any]:
    """Return {'observation': {name: [..., *shape]}}, images in [0, 1]."""
    decoded = self.decoder.predict(params['decoder'], statistics.get('decoder'), feature)
    return {'observation': decoded}
