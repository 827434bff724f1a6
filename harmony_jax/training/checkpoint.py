"""Checkpoints of a training state, with orbax underneath.

Every checkpoint is a folder named by its step. It appears under that name when it is whole; orbax
writes it in the background. Beside the arrays it holds a small JSON dict (`meta`), the shape and
dtype of every array, so that a state of another configuration is told from a damaged file, and
checksums of the arrays and of all this, for orbax does not see a flipped bit in them.
"""

import json
import logging
import pathlib
import shutil
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from harmony_jax.errors import UserError, one_line

KEEP = 2  # of a run's checkpoints
Meta = dict[str, Any]
_log = logging.getLogger(__name__)


class Checkpoints:
  """The checkpoints in a folder, the newest few of them.

  Args:
    folder: where they are; made where it does not exist.
    keep: how many to keep; None for all.
    read_only: for those who look into a run that may be going on: nothing is created, tidied up or
      saved.
  """

  def __init__(self, folder: str | pathlib.Path, keep: int | None = KEEP, read_only: bool = False):
    logging.getLogger('absl').addFilter(_passes)  # a second time changes nothing
    self._folder = pathlib.Path(folder).expanduser().absolute()
    self._damaged: list[int] = []  # steps that could not be restored
    if read_only and not self._folder.is_dir():
      raise UserError(f'no checkpoints: {self._folder} does not exist')
    if not read_only:
      self._folder.mkdir(parents=True, exist_ok=True)
      # orbax would do it in a thread, which complains where the folder of a refused run goes again
      for unfinished in self._folder.glob('*.orbax-checkpoint-tmp*'):
        shutil.rmtree(unfinished, ignore_errors=True)
    self._options = ocp.CheckpointManagerOptions(
      max_to_keep=keep,
      create=False,
      read_only=read_only,
      multiprocessing_options=_alone(),
      # else one damaged file of metadata keeps all checkpoints from being opened
      lightweight_initialize=True,
    )
    self._manager = self._open()

  def _open(self):
    handlers = {  # named here, for a manager that has not saved yet to read them
      'state': ocp.PyTreeCheckpointHandler(multiprocessing_options=_alone()),
      'meta': ocp.JsonCheckpointHandler(multiprocessing_options=_alone()),
    }
    return ocp.CheckpointManager(self._folder, item_handlers=handlers, options=self._options)

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(self, *unused) -> None:
    self.close()

  def save(self, step: int, state: Any, meta: Meta) -> None:
    """Save a state; return as soon as its arrays are copied to the host.

    Args:
      step: the name of the checkpoint, larger than those there.
      state: a pytree of arrays, typed PRNG keys among them; may be donated right after.
      meta: a dict that JSON can hold; may be changed right after.

    Raises:
      ValueError: `step` is not larger than the newest one.
    """
    self._set_damaged_aside()
    newest = self._manager.latest_step()
    if newest is not None and step <= newest:
      raise ValueError(f'checkpoint {step} is not newer than {newest} in {self._folder}')
    copy = jax.tree.map(lambda leaf: np.array(_numbers(leaf)), state)
    saved = {'meta': meta, 'structure': structure(state), 'checksums': _checksums(copy)}
    text = json.dumps(saved)
    file = {'saved': json.loads(text), 'checksum': zlib.crc32(text.encode())}
    args = ocp.args.Composite(state=ocp.args.PyTreeSave(copy), meta=ocp.args.JsonSave(file))
    self._manager.save(step, args=args)

  def latest(self) -> int | None:
    """Return the step of the newest checkpoint that was not found damaged."""
    return max(self.steps(), default=None)

  def steps(self) -> list[int]:
    """Return the steps of all checkpoints that were not found damaged, in order."""
    return sorted(set(self._manager.all_steps()) - set(self._damaged))

  def restore(
    self,
    like: Any,
    step: int | None = None,
    check: Callable[[Meta], None] | None = None,
    part: bool = False,
  ) -> tuple[Any, Meta]:
    """Read a checkpoint.

    Where `step` is None and the newest checkpoint is damaged, a warning names it and the one before
    it is read. The damaged one is moved to the folder `damaged` by the next `save`.

    Args:
      like: a state of the same structure: arrays, or what `jax.eval_shape` returns.
      step: which checkpoint; None for the newest that is intact.
      check: called with the `meta` of a checkpoint before its arrays are read, for what is stored
        elsewhere (the replay); a ValueError from it means that this is damaged.
      part: `like` is nested dicts with some of the state's arrays, and only those are read.

    Returns: (state, meta).

    Raises:
      UserError: there is none, none can be read, or it is of another structure (names the first
        array that differs).
    """
    self.wait()
    if step is not None:
      self._there(step)
    candidates = self.steps() if step is None else [step]
    failures: dict[int, str] = {}
    for candidate in reversed(candidates):
      try:
        restored = self._restore(like, candidate, check, part)
      except UserError:  # whole, but of something else: an older one is no help
        raise
      except Exception as error:  # whatever orbax and the system have for damage
        failures[candidate] = _first_line(error)
        continue
      for damaged, reason in failures.items():
        told = (damaged, self._folder, reason, candidate)
        _log.warning('checkpoint %d in %s is damaged (%s): going on from checkpoint %d', *told)
      self._damaged += failures
      return restored
    if not candidates:
      raise UserError(f'no checkpoint in {self._folder}')
    reasons = '; '.join(f'{bad}: {reason}' for bad, reason in failures.items())
    raise UserError(f'no checkpoint in {self._folder} can be read ({reasons})')

  def go_back(self, step: int) -> None:
    """Count later checkpoints as damaged: of several processes, one found them so."""
    self._damaged += [later for later in self.steps() if later > step]

  def meta(self, step: int) -> Meta:
    """Return the `meta` of a checkpoint, to know of what structure it is.

    Raises:
      UserError: there is none of this step, or it cannot be read.
    """
    return self._described(step)['meta']

  def checksums(self, step: int) -> dict[str, int]:
    """Return {name of an array: CRC-32 of its bytes}: what equal runs have in common.

    Raises:
      UserError: as of `meta`.
    """
    return self._described(step)['checksums']

  def structure(self, step: int) -> dict[str, str]:
    """Return {name of an array: 'float32[512,1024]'}. Raises as `meta`."""
    return self._described(step)['structure']

  def checksum(self, step: int) -> int:
    """Return the CRC-32 of all that `meta`, `structure` and `checksums` say. Raises as `meta`."""
    return zlib.crc32(json.dumps(self._described(step)).encode())

  def newest_intact(self) -> int:
    """Return the newest step whose arrays are those that were saved, whatever they are of.

    Raises:
      UserError: there is none.
    """
    everything = ocp.args.Composite(state=ocp.args.PyTreeRestore())
    for step in reversed(self.steps()):
      try:
        saved = self._read_meta(step)
        restored: Any = self._manager.restore(step, args=everything)
        if _checksums(restored.state) != saved['checksums']:
          raise ValueError('its arrays are not what was saved')
        return step
      except Exception as error:  # whatever orbax and the system have for damage
        _log.warning('checkpoint %d in %s is damaged (%s)', step, self._folder, _first_line(error))
    raise UserError(f'no checkpoint in {self._folder} that can be read')

  def wait(self) -> None:
    """Wait until what was saved is on disk; raise what went wrong in it."""
    self._manager.wait_until_finished()

  def close(self) -> None:
    """Wait, and free orbax's threads."""
    self.wait()
    self._manager.close()

  def _there(self, step):
    if step not in self._manager.all_steps():
      raise UserError(f'no checkpoint {step} in {self._folder}')

  def _described(self, step):
    self._there(step)
    try:
      return self._read_meta(step)
    except Exception as error:  # whatever orbax and the system have for damage
      reason = _first_line(error)
      raise UserError(f'checkpoint {step} in {self._folder} cannot be read: {reason}') from None

  def _restore(self, like, step, check, part):
    """One checkpoint, or whatever exception its damage causes."""
    saved, wanted = self._read_meta(step), structure(like)
    for name in [*wanted, *([] if part else saved['structure'])]:
      there, here = (where.get(name, 'nothing') for where in (saved['structure'], wanted))
      if there != here:
        raise UserError(
          f'checkpoint {step} in {self._folder} is of another configuration: '
          f'{name} is {there} there, {here} here'
        )
    if check:
      check(saved['meta'])
    target = jax.tree.map(_empty, like)
    how = ocp.args.PyTreeRestore(
      target, ocp.checkpoint_utils.construct_restore_args(target), partial_restore=part
    )
    restored: Any = self._manager.restore(step, args=ocp.args.Composite(state=how))
    state = restored.state
    for name, checksum in _checksums(state).items():
      if checksum != saved['checksums'][name]:
        raise ValueError(f'{name} is not what was saved')
    return jax.tree.map(_as_asked, like, state), saved['meta']

  def _read_meta(self, step):
    how = ocp.args.Composite(meta=ocp.args.JsonRestore())
    restored: Any = self._manager.restore(step, args=how)
    file = restored.meta
    # JSON keeps the order of keys, so that the text is the same before and after a file
    if file['checksum'] != zlib.crc32(json.dumps(file['saved']).encode()):
      raise ValueError('its meta is not what was saved')
    return file['saved']

  def _set_damaged_aside(self):
    """Move damaged checkpoints away, for their steps are about to be saved again.

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


def _by_name(state):
  leaves = jax.tree.leaves_with_path(state)
  return {jax.tree_util.keystr(path, simple=True, separator='/'): leaf for path, leaf in leaves}


def structure(state: Any) -> dict[str, str]:
  """Return {name of a leaf: 'float32[512,1024]'}, of arrays and of their shapes."""
  return {
    name: f'{leaf.dtype}[{",".join(map(str, leaf.shape))}]'
    for name, leaf in _by_name(state).items()
  }


def _checksums(state):
  """{name of a leaf: CRC-32 of its bytes}, of NumPy arrays."""
  return {
    name: zlib.crc32(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data)
    for name, leaf in _by_name(state).items()
  }


def _alone():
  """Every process reads by itself, and one saves: orbax would have all of them take part."""
  if jax.process_count() == 1:
    return ocp.options.MultiprocessingOptions()
  index = jax.process_index()
  return ocp.options.MultiprocessingOptions(
    primary_host=index, active_processes={index}, barrier_sync_key_prefix=f'process{index}'
  )


def _is_key(leaf):
  return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _numbers(leaf):
  """A key's numbers; anything else as it is. Stored so, it fits whatever devices read it."""
  return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _empty(leaf):
  """Zeros in NumPy of what is stored of a leaf."""
  numbers = jax.eval_shape(_numbers, leaf)
  return np.zeros(numbers.shape, numbers.dtype)


def _as_asked(like, leaf):
  """A restored leaf on JAX's first device; in NumPy where it was asked for so."""
  if isinstance(like, np.ndarray):
    return leaf
  array = jax.device_put(leaf)
  return jax.random.wrap_key_data(array) if _is_key(like) else array


def _first_line(error):
  return one_line((str(error).strip() or type(error).__name__).splitlines()[0][:200])


def _passes(record):
  """Whether a log record may pass: orbax reports each of its steps through absl."""
  return record.levelno >= logging.ERROR or 'orbax' not in record.pathname
