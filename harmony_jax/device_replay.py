"""Sequence replay on the accelerator: a copy of the host's ring beside the model, so that no batch
has to travel.

The host's `Replay` stays the truth: it chooses the windows, saves and loads. A `DeviceReplay` holds
the same rings in the device's memory and makes of a draw the batch that the host would have made,
bit for bit. What travels is every stored step once (training replays each one many times) and, per
batch, one small array of row numbers.

Layout: an item of shape S is a row of `[N * rows, prod(S)]`, a single number one of `[N * rows]`, a
picture of bytes one of `[N * rows, rows of 128]` (tiles.py says why). The shape comes back when a
batch is gathered; on a TPU, that of pictures in the update, which takes `Tiles`.

Threads: one thread appends and draws, any thread may gather; only gathers touch the device, one
after the other under a lock. A gather first brings over the steps that were stored when its draw
was made, and so never reads a row of the host that is being written. Later gathers overwrite only
rows that the margin has released. Programs on a device run in the order in which they were
dispatched, so a batch is read before its rows are donated to the next write.
"""

import math
import pathlib
import threading
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from harmony_jax import tiles
from harmony_jax.replay import Draw, Replay

__all__ = ['KINDS', 'DeviceReplay', 'choose', 'device_nbytes', 'fits']

KINDS = ('auto', 'host', 'device')
# of a device's memory, that a replay may take: the model, its gradients and batches need the rest
MEMORY_SHARE = 0.4

# Steps travel in chunks padded to a power of two, so that there are few programs to compile. Both
# limits hold.
MOST_STEPS = 1024  # steps of each environment in a chunk; a power of two
MOST_BYTES = 32 * 2**20  # of a chunk: a load needs no more than this beside the two rings


class DeviceReplay:
  """Stands where a `Replay` stands, in a `Prefetcher` too; its batches are arrays on a device.

  What is not defined here (`append`, `draw`, `filled`, `windows`, `steps`, `margin`, `save`, …) is
  the host's own: appending costs no work on the device. The rows are brought over with the next
  gather, all in one program.

  Args:
    replay: the host's replay, empty or filled; from then on it is loaded by `load` here.
    device: a `jax.Device`; by default JAX's, and the batches are then not bound to it
      ("uncommitted"), like those of `jax.device_put(batch)`: a training step compiled for the ones
      takes the others.

  Raises:
    jax.errors.JaxRuntimeError: the device has no room for the rings (see `fits`).
  """

  def __init__(self, replay: Replay, device: Any = None):
    self._replay = replay
    self._device = device
    self._lock = threading.Lock()  # of the two fields that follow
    # {name: [N * rows, *stored]}, donated at every write
    self._buffers = _zeros(replay, device)
    self._written = 0  # steps of each environment, since the run began, that the device has seen
    self._shapes = tuple((name, shape) for name, (shape, _) in replay.specs.items())
    self._chunk = _chunk_steps(replay)

  def __getattr__(self, name):
    # private to the host; and `_replay` itself while an instance is being made
    if name.startswith('_'):
      raise AttributeError(name)
    return getattr(self._replay, name)

  def describe(self) -> str:
    """`'replay: 100,000 steps, 1.23 GB, copied to a device (1.23 GB)'` (of 10⁹ bytes)."""
    return (
      f'{self._replay.describe()}, copied to a device ({device_nbytes(self._replay) / 1e9:.2f} GB)'
    )

  def gather(self, draw: Draw) -> dict:
    """The windows of a draw. May run in another thread than `append`; does not wait for the device.

    Returns:
      `{name: [B, T, ...]}` on the device, equal to `jax.device_put` of the host's batch; pictures
      on a TPU as `Tiles`, which `Compiled.train_step` takes.

    Raises:
      RuntimeError: more than `margin` steps were appended since the draw.
    """
    replay = self._replay
    rows, before = replay.rows(draw).astype(np.int32), replay.rows_before(draw)
    before = before if before is None else before.astype(np.int32)
    with self._lock:
      # The draw's own steps, not all: the newest row may be half written. Fewer are there if an
      # older save was loaded.
      self._bring(min(draw.steps, replay.steps))
      # Asked after the rows were copied: a row overwritten meanwhile belongs to draws that are
      # refused here.
      if not replay.intact(draw):
        raise RuntimeError(
          f'{replay.steps - draw.steps} steps were appended since the batch of update '
          f'{draw.update} was drawn; replay has a margin of {replay.margin}'
        )
      return _read(self._buffers, *jax.device_put((rows, before), self._device), self._shapes)

  def sample(self, update: int) -> dict:
    """The batch of an update, `{name: [B, T, ...]}` on the device, for whoever looks at it."""
    return tiles.apart(self.gather(self._replay.draw(update)))

  def load(self, folder: str | pathlib.Path, steps: int | None = None, parts: int | None = None):
    """Restores the host's replay (see `Replay.load` for its errors) and brings all of it over."""
    with self._lock:
      self._replay.load(folder, steps, parts)
      self._written = 0
      self._bring(self._replay.steps)

  def _bring(self, until):
    """Writes the host's steps before `until` that the device lacks. Called under the lock."""
    replay = self._replay
    for first in range(max(self._written, until - replay._rows), until, self._chunk):
      count = min(self._chunk, until - first)
      values, rows = _chunk(replay, first, count)
      self._buffers = _write(self._buffers, *jax.device_put((values, rows), self._device))
      if count == self._chunk:  # there may be many more: one chunk at a time in the host's memory
        jax.block_until_ready(self._buffers)
    self._written = max(self._written, until)


def _zeros(replay, device):
  """Empty rings. Made by a program, since a transfer of zeros would take the host as much memory
  again.
  """
  sharding = None if device is None else jax.sharding.SingleDeviceSharding(device)
  shapes = {
    name: ((replay.num_envs * replay._rows, *tiles.stored(shape, dtype)), dtype)
    for name, (shape, dtype) in _device_specs(replay).items()
  }
  return jax.jit(
    lambda: {name: jnp.zeros(*spec) for name, spec in shapes.items()}, out_shardings=sharding
  )()


def _device_specs(replay):
  """`{name: (shape, dtype)}` with JAX's dtypes: it stores 64 bits as 32, as `device_put` of a batch
  would.
  """
  return {
    name: (shape, jax.dtypes.canonicalize_dtype(dtype))
    for name, (shape, dtype) in replay.specs.items()
  }


def _chunk_steps(replay):
  """Steps of each environment in a full chunk: a power of two within both limits, at least 1."""
  step = max(1, replay.nbytes // replay._rows)  # bytes, of all environments
  return 2 ** (max(1, min(MOST_STEPS, MOST_BYTES // step)).bit_length() - 1)


def _chunk(replay, first, count):
  """`count` steps of every environment from step `first` on, padded to a power of two.

  Returns:
    `({name: [N * padded, ...] items}, rows [N * padded])`, copies in NumPy. The rows of the padding
    lie behind the ring, where a write is dropped; they differ from each other, as `_write` promises
    XLA.
  """
  padded = 2 ** (count - 1).bit_length()
  place = np.arange(padded)
  source = (first + np.minimum(place, count - 1)) % replay._rows
  values = {
    name: tiles.fold(array[:, source], array.shape[2:]) for name, array in replay._data.items()
  }
  envs = np.arange(replay.num_envs)[:, None]
  beyond = replay.num_envs * replay._rows + envs * padded + place
  rows = np.where(place < count, envs * replay._rows + source, beyond)
  return values, rows.reshape(-1).astype(np.int32)


def write_rows(
  buffers: Mapping[str, jax.Array], values: Mapping[str, jax.Array], rows: jax.Array
) -> dict[str, jax.Array]:
  """Return rings [R, ...] with `values` [K, ...] in `rows` [K], which differ from each other; those
  behind the ring are dropped.
  """
  # Told that rows differ, a GPU writes bytes side by side; otherwise it would guard each one with
  # an atomic operation.
  return {
    name: array.at[rows].set(values[name], mode='drop', unique_indices=True)
    for name, array in buffers.items()
  }


def read_rows(
  buffers: Mapping[str, jax.Array],
  rows: jax.Array,
  before: jax.Array | None,
  shapes: Iterable[tuple[str, tuple[int, ...]]],
) -> dict[str, Any]:
  """Return `{name: [B, T, *shape]}` of rows `[B, T]`, and the beginnings of the windows as in
  `Replay.gather`; on a TPU `Tiles` of pictures.

  Args:
    before: [B] the rows before the windows, -1 where nothing is; None if they are not wanted.
  """
  batch = {}
  for name, shape in shapes:
    found = buffers[name].at[rows].get(mode='promise_in_bounds')
    kept = found.ndim == 4 and jax.default_backend() == 'tpu'
    batch[name] = tiles.Tiles(found, shape) if kept else tiles.unfold(found, shape, 2)
  if before is None:
    return batch | {'is_first': batch['is_first'].at[:, 0].set(True)}
  action = buffers['action'][jnp.maximum(before, 0)].reshape(len(before), *dict(shapes)['action'])
  return batch | {'before': jnp.where(before[:, None] < 0, 0, action)}


_write = jax.jit(write_rows, donate_argnums=0)  # in place: the ring is never there twice
_read = jax.jit(read_rows, static_argnames='shapes')


def device_nbytes(replay: Replay) -> int:
  """Bytes that a replay takes on a device."""
  return sum(
    replay.num_envs * replay._rows * math.prod(tiles.stored(shape, dtype)) * dtype.itemsize
    for shape, dtype in _device_specs(replay).values()
  )


def fits(replay: Replay, device: Any) -> bool:
  """Whether the replay takes at most `MEMORY_SHARE` of a device's memory; False where that is not
  known (CPUs).
  """
  limit = _memory(device)
  return limit is not None and device_nbytes(replay) <= MEMORY_SHARE * limit


def _memory(device):
  """Bytes that JAX may use on a device, or None where it does not say."""
  return (device.memory_stats() or {}).get('bytes_limit')


def choose(kind: str, replay: Replay, device: Any = None) -> Replay | DeviceReplay:
  """The replay to use: the host's own, or one on a device (default: JAX's first).

  Args:
    kind: 'host'; 'device', on a CPU too; or 'auto', on the device if it is an accelerator on which
      it fits.

  Raises:
    ValueError: another kind, or 'device' where the accelerator says that it does not fit.
  """
  if kind not in KINDS:
    raise ValueError(f'replay is {kind!r}: it must be one of {", ".join(KINDS)}')
  if kind == 'host':
    return replay
  target = jax.local_devices()[0] if device is None else device
  accelerator, roomy = target.platform != 'cpu', fits(replay, target)
  if kind == 'auto':
    return DeviceReplay(replay, device) if accelerator and roomy else replay
  limit = _memory(target)
  if accelerator and limit is not None and not roomy:
    raise ValueError(
      f'replay does not fit on {target}: it needs {device_nbytes(replay) / 1e9:.2f} GB, and it may '
      f'take {MEMORY_SHARE * limit / 1e9:.2f} GB of {limit / 1e9:.2f} GB; use a smaller '
      'replay_capacity, or '
      '--replay=host'
    )
  return DeviceReplay(replay, device)
