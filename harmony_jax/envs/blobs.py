"""Soft coloured blobs that drift behind a game: they matter to its picture and not to its task."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

PIXELS = 64
LIMIT = 200  # the brightest a blob gets: what matters stays visible before it


class Blobs(NamedTuple):
  """M of them, in pixels."""

  position: jax.Array  # [M, 2] row, column of each centre
  velocity: jax.Array  # [M, 2] pixels per step
  radius: jax.Array  # [M]
  color: jax.Array  # [M, 3] in [0, LIMIT]


def begin(key: jax.Array, count: int, drift: float = 1.0, contrast: float = 1.0) -> Blobs:
  """Return so many blobs somewhere; `drift` multiplies their speed, `contrast` their brightness."""
  uniform = jax.random.uniform(key, (8, count)).T  # one draw, quick to compile
  return Blobs(
    position=PIXELS * uniform[:, 0:2],
    velocity=drift * (8 * uniform[:, 2:4] - 4),
    radius=6 + 8 * uniform[:, 4],
    color=contrast * (LIMIT * uniform[:, 5:8]),
  )


def move(blobs: Blobs) -> Blobs:
  """Return them one step later; they bounce off the picture's borders."""
  position = blobs.position + blobs.velocity
  outside = (position < 0) | (position > PIXELS)
  bounced = jnp.where(position < 0, -position, 2 * PIXELS - position)
  return blobs._replace(
    position=jnp.where(outside, bounced, position),
    velocity=jnp.where(outside, -blobs.velocity, blobs.velocity),
  )


def draw(blobs: Blobs) -> jax.Array:
  """Return their picture, float32 [64, 64, 3] in [0, LIMIT]."""
  pixels = jnp.arange(PIXELS)
  # A blob is a product of a row and a column profile, so all of them are one matrix product.
  profile = jnp.exp(
    -0.5 * ((pixels - blobs.position[..., None]) / blobs.radius[:, None, None]) ** 2
  )
  image = jnp.einsum(
    'mr,mc,mk->rck', profile[:, 0], profile[:, 1], blobs.color, precision='highest'
  )  # the same picture on any device, to rounding
  return jnp.minimum(image, LIMIT)


def paint(image: jax.Array, where: jax.Array, color: tuple[int, int, int]) -> jax.Array:
  """Return the picture with one colour where [64, 64] says so."""
  return jnp.where(where[..., None], jnp.array(color, image.dtype), image)
