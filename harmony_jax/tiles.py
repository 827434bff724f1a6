"""Pictures as rows of bytes that an accelerator keeps as they are, from the replay to an update.

A TPU lays the last two axes of bytes out in tiles of 32 × 128. Of pictures [64, 64, 3] it would pad
the channels, 42 times the memory; of flat ones [12288] it interleaves those of 32 steps, so that to
store one step it copies all; and what gathers them does not compile, as there is no room to
rearrange bytes (v5e, benchmarks/NOTES.md). As [96, 128] one picture is three tiles, and stays so
until an update takes it apart, in wider numbers.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import DTypeLike

ROW, TILE = 128, 32 * 128  # bytes


def stored(shape: tuple[int, ...], dtype: DTypeLike) -> tuple[int, ...]:
  """Return the shape in which an item is stored: (rows, 128) of a picture that fills a tile, with
  zeros behind it where they are needed; else flat, () of a single number.
  """
  size = math.prod(shape)
  if np.dtype(dtype) == np.uint8 and size >= TILE:
    return -(-size // ROW), ROW
  return () if size == 1 else (size,)


def fold(array: Any, shape: tuple[int, ...]) -> Any:
  """[..., *shape] -> [items, *stored], of NumPy or of JAX as the array is."""
  into, size = stored(shape, array.dtype), math.prod(shape)
  flat = array.reshape(-1, size)
  more = math.prod(into) - size
  pad = jnp.pad if isinstance(flat, jax.Array) else np.pad
  flat = pad(flat, ((0, 0), (0, more))) if more else flat
  return flat.reshape(-1, *into)


def unfold(array: Any, shape: tuple[int, ...], axes: int) -> Any:
  """[..., *stored] -> [..., *shape], with so many axes in front."""
  lead, size = array.shape[:axes], math.prod(shape)
  flat = array.reshape(*lead, -1)
  return (flat if flat.shape[-1] == size else flat[..., :size]).reshape(*lead, *shape)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Tiles:
  """Pictures as they are stored, [..., rows, 128]; `shape` is that of one."""

  rows: Any
  shape: tuple[int, ...] = dataclasses.field(metadata={'static': True})

  def pictures(self) -> Any:
    """Return uint8 [..., *shape], of NumPy or of JAX as they are."""
    rows = self.rows
    if isinstance(rows, jax.Array):
      # The barrier keeps the compiler from rearranging bytes again; bfloat16 holds all of them.
      rows = jax.lax.optimization_barrier(rows.astype(jnp.bfloat16))
    return unfold(rows, self.shape, rows.ndim - 2).astype(np.uint8)


def apart(batch: Mapping[str, Any]) -> dict[str, Any]:
  """Return a batch whose pictures have their shape."""
  return {k: x.pictures() if isinstance(x, Tiles) else x for k, x in batch.items()}
