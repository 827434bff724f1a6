"""Checkpoints of a training state, with orbax underneath.

Every checkpoint is a folder named by its step. It appears under that name when
it is whole; orbax writes it in the background. Beside the arrays it holds a
small JSON dict (`meta`), the name, shape and dtype of every array, so that a
state of another configuration is told from a damaged file, and checksums of the
arrays' contents and of all this, for orbax does not see a flipped bit in them.
"""

import json
import logging
import pathlib
import zlib

import jax
import numpy as np
import orbax.checkpoint as ocp

from harmony_jax.errors import UserError, one_line

_log = logging.getLogger(__name__)


class Checkpoints:
  """The checkpoints in a folder, the newest few of them.

  Args:
    folder: where they are; made where it does not exist.
    keep: how many to keep; None for all.
    read_only: for those who look into a run that may be going on: nothing is
      created, tidied up or saved.
  """

  def __init__(self, folder, keep=2, read_only=False):
    _quieten()
    self._folder = pathlib.Path(folder).expanduser().absolute()
    self._damaged = []  # steps that could not be restored
    if read_only and not self._folder.is_dir():
      raise UserError(f'no checkpoints: {self._folder} does not exist')
    if not read_only:
      self._folder.mkdir(parents=True, exist_ok=True)
    self._options = ocp.CheckpointManagerOptions(
      max_to_keep=keep,
      create=False,
      cleanup_tmp_directories=not read_only,
      read_only=read_only,
      multiprocessing_options=_alone(),
      # else one damaged file of metadata keeps all checkpoints from being opened
      lightweight_initialize=True,
    )
    self._manager = self._open()

  def _open(self):
    return ocp.CheckpointManager(
      self._folder,
      # Named here, for a manager that has not saved yet to read them.
      item_handlers={
        'state': ocp.StandardCheckpointHandler(multiprocessing_options=_alone()),
        'meta': ocp.JsonCheckpointHandler(multiprocessing_options=_alone()),
      },
      options=self._options,
    )

  def __enter__(self):
    return self

  def __exit__(self, *unused):
    self.close()

  def save(self, step, state, meta):
    """Saves a state; returns as soon as its arrays are copied to the host.

    Args:
      step: the name of the checkpoint, larger than those there.
      state: a pytree of arrays, typed PRNG keys among them; the caller may
        donate it right after.
      meta: a dict that JSON can hold; the caller may change it right after.

    Raises:
      ValueError: `step` is not larger than the newest one.
    """
    self._set_damaged_aside()
    newest = self._manager.latest_step()
    if newest is not None and step <= newest:
      raise ValueError(f'checkpoint {step} is not newer than {newest} in {self._folder}')
    # A copy, for orbax writes it in the background, when the caller's lists may have grown.
    saved = json.loads(
      json.dumps({'meta': meta, 'structure': _structure(state), 'checksums': _checksums(state)})
    )
    self._manager.save(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(_portable(state)),
        meta=ocp.args.JsonSave({'saved': saved, 'checksum': _checksum_of_json(saved)}),
      ),
    )

  def latest(self):
    """The step of the newest checkpoint, or None. Leaves out those found damaged."""
    return max(self._usable(), default=None)

  def steps(self):
    """The steps of all checkpoints, in order. Leaves out those found damaged."""
    return sorted(self._usable())

  def restore(self, like_state, step=None, check=None, part=False):
    """Reads a checkpoint.

    Where `step` is None and the newest checkpoint is damaged, a warning names
    it and the one before it is read. The damaged one is moved to the folder
    `damaged` by the next `save`.

    Args:
      like_state: a state of the same structure: arrays, or what
        `jax.eval_shape` returns. Arrays say on which devices to restore.
      step: which checkpoint; None for the newest that is intact.
      check: called with the `meta` of a checkpoint before its arrays are read,
        for what is stored elsewhere (the replay); a ValueError from it means
        that this is damaged.
      part: `like_state` is nested dicts with some of the state's arrays, and
        only those are read, whatever else there is.

    Returns:
      `(state, meta)`.

    Raises:
      UserError: there is none, none can be read, or it is of another structure
        (names the first array that differs).
    """
    self.wait()
    steps = self._usable() if step is None else [step]
    if not steps or (step is not None and step not in self._manager.all_steps()):
      raise UserError(f'no checkpoint{"" if step is None else f" {step}"} in {self._folder}')
    failures = {}
    for candidate in sorted(steps, reverse=True):
      try:
        restored = self._restore(like_state, candidate, check, part)
      except UserError:  # whole, but of something else: an older one is no help
        raise
      except Exception as error:  # whatever orbax and the system have for damage
        failures[candidate] = _first_line(error)
        continue
      for damaged, reason in failures.items():
        _log.warning(
          'checkpoint %d in %s is damaged (%s): going on from checkpoint %d',
          damaged,
          self._folder,
          reason,
          candidate,
        )
      self._damaged += failures
      return restored
    reasons = '; '.join(f'{bad}: {reason}' for bad, reason in failures.items())
    raise UserError(f'no checkpoint in {self._folder} can be read ({reasons})')

  def go_back(self, step):
    """Has later checkpoints than `step` count as damaged: of several processes, one found them so."""
    self._damaged += [later for later in self._usable() if later > step]

  def meta(self, step):
    """The `meta` of a checkpoint, to know of what structure it is.

    Raises:
      UserError: there is none of this step, or it cannot be read.
    """
    if step not in self._manager.all_steps():
      raise UserError(f'no checkpoint {step} in {self._folder}')
    try:
      return self._read_meta(step)['meta']
    except Exception as error:  # whatever orbax and the system have for damage
      raise UserError(
        f'checkpoint {step} in {self._folder} cannot be read: {_first_line(error)}'
      ) from None

  def checksums(self, step):
    """`{name of an array: CRC-32 of its bytes}` of a checkpoint: what two runs that shall be equal
    have in common.
    """
    return self._read_meta(step)['checksums']

  def wait(self):
    """Waits until what was saved is on disk; raises what went wrong in it."""
    self._manager.wait_until_finished()

  def close(self):
    """Waits, and frees orbax's threads."""
    self.wait()
    self._manager.close()

  def _usable(self):
    return [step for step in self._manager.all_steps() if step not in self._damaged]

  def _restore(self, like_state, step, check, part):
    """One checkpoint, or whatever exception its damage causes."""
    saved, wanted = self._read_meta(step), _structure(like_state)
    there = (
      {name: saved['structure'].get(name, 'nothing') for name in wanted}
      if part
      else saved['structure']
    )
    difference = _difference(there, wanted)
    if difference:
      raise UserError(
        f'checkpoint {step} in {self._folder} is of another configuration: {difference}'
      )
    if check:
      check(saved['meta'])
    target = jax.tree.map(_target, like_state)
    if part:
      state = ocp.PyTreeCheckpointHandler().restore(
        self._folder / str(step) / 'state',
        args=ocp.args.PyTreeRestore(
          target,
          restore_args=ocp.checkpoint_utils.construct_restore_args(target),
          partial_restore=True,
        ),
      )
    else:
      state = self._manager.restore(
        step, args=ocp.args.Composite(state=ocp.args.StandardRestore(target))
      ).state
    state = jax.tree.map(_as_asked, like_state, state)
    for name, checksum in _checksums(state).items():
      if checksum != saved['checksums'][name]:
        raise ValueError(f'{name} is not what was saved')
    return state, saved['meta']

  def _read_meta(self, step):
    file = self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore())).meta
    if file['checksum'] != _checksum_of_json(file['saved']):
      raise ValueError('its meta is not what was saved')
    return file['saved']

  def _set_damaged_aside(self):
    """Moves damaged checkpoints away, for their steps are about to be saved again.

    Done by `save` and not by `restore`: a reader of the folder changes nothing.
    """
    if not self._damaged:
      return
    aside = self._folder / 'damaged'
    aside.mkdir(exist_ok=True)
    for step in self._damaged:
      target, count = aside / str(step), 1
      while target.exists():
        target, count = aside / f'{step}.{count}', count + 1
      (self._folder / str(step)).rename(target)
    self._damaged.clear()
    self._manager.close()
    self._manager = self._open()


def _named_leaves(state):
  leaves, _ = jax.tree.flatten_with_path(state)
  return [(jax.tree_util.keystr(path, simple=True, separator='/'), leaf) for path, leaf in leaves]


def _structure(state):
  """`{name of a leaf: 'float32[512,1024]'}`; works on arrays and their shapes."""
  return {name: _describe(leaf) for name, leaf in _named_leaves(state)}


def _checksums(state):
  """`{name of a leaf: CRC-32 of its bytes}`, for arrays."""
  return {name: _checksum(leaf) for name, leaf in _named_leaves(state) if hasattr(leaf, 'dtype')}


def _checksum(leaf):
  return zlib.crc32(np.ascontiguousarray(_numbers(leaf)).reshape(-1).view(np.uint8))


def _checksum_of_json(value):
  """Of its text, which is the same before and after a file: JSON keeps the order of keys."""
  return zlib.crc32(json.dumps(value).encode())


def _describe(leaf):
  if not hasattr(leaf, 'dtype'):
    return type(leaf).__name__
  return f'{leaf.dtype}[{",".join(map(str, leaf.shape))}]'


def _difference(saved, wanted):
  """What the first leaf is that differs, in words; None where all are equal."""
  for name in [*wanted, *saved]:
    there, here = saved.get(name, 'nothing'), wanted.get(name, 'nothing')
    if there != here:
      return f'{name} is {there} there, {here} here'
  return None


def _alone():
  """Every process reads by itself, and one saves: without this, orbax would have all of them take
  part.
  """
  if jax.process_count() == 1:
    return ocp.options.MultiprocessingOptions()
  index = jax.process_index()
  return ocp.options.MultiprocessingOptions(
    primary_host=index, active_processes={index}, barrier_sync_key_prefix=f'process{index}'
  )


def _portable(state):
  """The state as orbax takes it: where there are several processes, it refuses arrays of one's own
  devices.
  """
  if jax.process_count() == 1:
    return state
  return jax.tree.map(
    lambda leaf: np.asarray(_numbers(leaf)) if hasattr(leaf, 'dtype') else leaf, state
  )


def _numbers(leaf):
  """A key's numbers; anything else as it is."""
  return (
    jax.random.key_data(leaf) if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
  )


def _as_asked(like, leaf):
  """A restored leaf as the caller's: what several processes save and restore is NumPy."""
  if isinstance(like, np.ndarray) or not hasattr(like, 'dtype') or isinstance(leaf, jax.Array):
    return leaf
  array = jax.device_put(leaf)
  return (
    jax.random.wrap_key_data(array)
    if jax.dtypes.issubdtype(like.dtype, jax.dtypes.prng_key)
    else array
  )


def _target(leaf):
  """What to restore a leaf as: its shape and dtype, on its device.

  Without a device orbax would look for the one it was saved from, and a
  checkpoint from an accelerator could not be opened on a CPU.
  """
  if isinstance(leaf, np.ndarray) or not hasattr(leaf, 'dtype'):
    return leaf
  if jax.process_count() > 1:
    numbers = jax.eval_shape(_numbers, leaf)
    return np.zeros(numbers.shape, numbers.dtype)
  sharding = getattr(leaf, 'sharding', None)
  sharding = sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _first_line(error):
  text = str(error).strip() or type(error).__name__
  return one_line(text.splitlines()[0][:200])


def _from_orbax(record):
  """Whether a log record may pass: orbax reports each of its steps through absl."""
  return record.levelno >= logging.ERROR or 'orbax' not in record.pathname


def _quieten():
  """Keeps orbax's reports out of the log; adding a filter twice changes nothing."""
  logging.getLogger('absl').addFilter(_from_orbax)
