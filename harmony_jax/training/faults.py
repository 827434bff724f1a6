"""What goes wrong in a run: numbers that are not finite, and machines that have no more room."""

import errno
import json
import pathlib

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from harmony_jax.agent import FINITE, Agent
from harmony_jax.errors import UserError
from harmony_jax.training.checkpoint import Checkpoints

FOLDER = 'nonfinite'  # in a run folder: the states and batches whose update went wrong
# what a batch holds beside observations
_FLAGS = ('action', 'before', 'reward', 'is_first', 'is_last', 'is_terminal')


def first_not_finite(agent: Agent, state, batch) -> list:
  """['gradient of critic: h_0/kernel', …]: what is not finite in the first of the stages `FINITE`
  of this update.
  """
  for stage, arrays in zip(FINITE, jax.device_get(jax.jit(agent.finite)(state, batch))):
    bad = [f'{stage}: {name}' for name, finite in arrays.items() if not finite]
    if bad:
      return bad
  return []


def dump(agent: Agent, state, batch, folder, meta) -> tuple[list, pathlib.Path]:
  """Writes down an update that went wrong, so that `reproduce` can repeat it.

  Args:
    state: before the update. batch: [B, T, ...]. folder: of the run. meta: dict that JSON can hold.

  Returns: `first_not_finite`, and the folder that was written.
  """
  try:
    names = first_not_finite(agent, state, batch)
  except (
    jax.errors.JaxRuntimeError
  ):  # no room on one device for what several shared: `reproduce` can look elsewhere
    names = []
  batch = jax.tree.map(jnp.asarray, batch)
  path, update = pathlib.Path(folder) / FOLDER, int(state.step)
  with Checkpoints(path, keep=None) as dumps:
    # the same run, continued, fails in the same update
    if dumps.latest() is None or dumps.latest() < update:
      dumps.save(
        update,
        {'train': state, 'batch': batch},
        meta
        | {
          'first': names,
          'discrete': agent.discrete,
          'batch': {name: [list(array.shape), array.dtype.name] for name, array in batch.items()},
        },
      )
  return names, path / str(update)


def reproduce(folder, update=None) -> dict:
  """Repeats an update that `dump` wrote down in the run folder; by default the last one.

  Returns: {'update', 'step', 'recorded', 'found'}: its number, the environment step, and
    `first_not_finite` then and now.

  Raises:
    UserError: no run, or no such dump.
  """
  folder = pathlib.Path(folder)
  try:
    config = ConfigDict(json.loads((folder / 'config.json').read_text(encoding='utf-8'))['config'])
  except (OSError, ValueError, KeyError):
    raise UserError(f'{folder} holds no run: its config.json cannot be read') from None
  if not (folder / FOLDER).is_dir():
    raise UserError(f'{folder} holds no update that was not finite')
  with Checkpoints(folder / FOLDER, keep=None, read_only=True) as dumps:
    update = dumps.latest() if update is None else update
    meta = dumps.meta(update)
    batch = {
      name: jax.ShapeDtypeStruct(shape, dtype) for name, (shape, dtype) in meta['batch'].items()
    }
    shapes = {name: array.shape[2:] for name, array in batch.items() if name not in _FLAGS}
    agent = Agent.from_config(config, shapes, batch['action'].shape[-1], meta['discrete'])
    like = {'train': jax.eval_shape(agent.init, jax.random.key(0)), 'batch': batch}
    saved, _ = dumps.restore(like, update)
  return {
    'update': update,
    'step': meta['step'],
    'recorded': meta['first'],
    'found': first_not_finite(agent, saved['train'], saved['batch']),
  }


def explain(error) -> str | None:
  """One line for an exception that says that a machine, and not the program, is at its limits or
  gone; else None.
  """
  chain = []
  while error is not None and error not in chain:
    chain.append(error)
    error = error.__cause__ or error.__context__
  for error in chain:
    text = str(error)
    number = error.errno if isinstance(error, OSError) else None
    place = f': {error.filename}' if number and error.filename else ''
    if (
      number in (errno.ENOSPC, errno.EDQUOT)
      or 'No space left on device' in text
      or 'Disk quota exceeded' in text
    ):
      return f'the disk is full{place}; what was saved before is whole. Make room and run the same command again'
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
      return f'cannot write{place} ({error.strerror}); what was saved before is whole'
    if 'Gloo' in text or 'heartbeat' in text or 'coordination service' in text.lower():
      return (
        'another process of this run has ended, or cannot be reached: start all of them again, and they continue '
        'from the last checkpoint'
      )
    if isinstance(error, MemoryError) or 'RESOURCE_EXHAUSTED' in text or 'Out of memory' in text:
      return (
        'out of memory: take a smaller batch or model (--config.batch_size=…, --preset=cpu), fewer seeds at a time, '
        'or --replay=host'
      )
  return None
