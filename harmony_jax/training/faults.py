"""What goes wrong in a run: numbers that are not finite, and machines that have no more room."""

import errno
import os
import pathlib
import traceback
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from harmony_jax import config, method, optimizers, parallel
from harmony_jax.envs.base import ArraySpec, Spec
from harmony_jax.errors import UserError, one_line
from harmony_jax.paths import local_path
from harmony_jax.training.checkpoint import Checkpoints

FOLDER = 'nonfinite'  # in a run folder: the states and batches whose update went wrong
# What a batch held beside observations when dumps did not say yet which are these.
_FLAGS = ('action', 'before', 'reward', 'is_first', 'is_last', 'is_terminal')


def first_not_finite(of: method.Method, state: method.TrainState, batch: method.Batch) -> list[str]:
  """Return what is not finite in the first such stage of an update: ['gradient of critic: h_0/…'].

  The stages are those of `Method.examine`; [] where all is finite.
  """
  stages: list[str] = []  # a dict that comes out of `jit` is sorted

  def examine(state, batch):
    found = optimizers.finite_by_name(of.examine(state, batch))
    stages[:] = found
    return list(found.values())

  look = parallel.jit(examine, of.settings.matmul_precision)
  finites = jax.device_get(look(state, batch))
  for stage, arrays in zip(stages, finites, strict=True):
    bad = [f'{stage}: {name}' for name, fine in arrays.items() if not fine]
    if bad:
      return bad
  return []


def dump(
  of: method.Method,
  state: method.TrainState,
  batch: method.Batch,
  folder: str | pathlib.Path,
  step: int,
  update: int,
) -> tuple[list[str], pathlib.Path]:
  """Write down an update that went wrong, so that `reproduce` can repeat it.

  Args:
    state: before the update. batch: [B, T, ...].
    folder, step: of the run. update: its number there.

  Returns: `first_not_finite`, and the folder that was written.
  """
  try:
    names = first_not_finite(of, state, batch)
  except jax.errors.JaxRuntimeError:
    names = []  # no room on one device for what several shared: `reproduce` can look elsewhere
  batch = jax.tree.map(jnp.asarray, dict(batch))
  path = pathlib.Path(folder) / FOLDER
  arrays = {name: [list(array.shape), array.dtype.name] for name, array in batch.items()}
  actions = {'discrete': of.spec.discrete, 'choices': of.spec.choices}
  meta = {'step': step, 'first': names, **actions, 'batch': arrays}
  meta['observation'] = list(of.spec.observation)  # draws may bring other rows along
  with Checkpoints(path, keep=None) as dumps:
    # the same run, continued, fails in the same update
    newest = dumps.latest()
    if newest is None or newest < update:
      dumps.save(update, {'train': state, 'batch': batch}, meta)
  return names, path / str(update)


def reproduce(
  folder: str | pathlib.Path, update: int | None = None, allow_import: bool = False
) -> dict[str, Any]:
  """Repeat an update that `dump` wrote down in the run folder; by default the last one.

  Args:
    allow_import: as of `Agent.load`.

  Returns: {'update', 'step', 'recorded', 'found'}: its number, the environment step, and
    `first_not_finite` then and now.

  Raises:
    UserError: no run, or no such dump.
  """
  folder = local_path(folder)
  chosen = config.read(folder, allow_import)
  if not (folder / FOLDER).is_dir():
    raise UserError(f'{folder} holds no update that was not finite')
  with Checkpoints(folder / FOLDER, keep=None, read_only=True) as dumps:
    update = dumps.latest() if update is None else update
    if update is None:
      raise UserError(f'{folder / FOLDER} holds no update that was not finite')
    meta = dumps.meta(update)
    arrays = {k: jax.ShapeDtypeStruct(*spec) for k, spec in meta['batch'].items()}
    observed = meta.get('observation', [name for name in arrays if name not in _FLAGS])
    seen = {
      name: ArraySpec(arrays[name].shape[2:], np.dtype(arrays[name].dtype).type)
      for name in observed
    }
    choices = tuple(meta.get('choices', ()))  # older ones have none
    spec = Spec(seen, meta['discrete'], arrays['action'].shape[-1], 1, choices)
    of = method.entry(chosen.run.method).make(chosen.agent, spec)
    like = {'train': jax.eval_shape(of.init, jax.random.key(0)), 'batch': arrays}
    saved, _ = dumps.restore(like, update)
  found = first_not_finite(of, saved['train'], saved['batch'])
  return {'update': update, 'step': meta['step'], 'recorded': meta['first'], 'found': found}


# JAX's runtime has one type for all errors, and says in its message which one: absl's status codes.
_STATUS = {
  'RESOURCE_EXHAUSTED': 'memory',
  'UNAVAILABLE': 'others',
  'DEADLINE_EXCEEDED': 'others',
  'ABORTED': 'others',
}
_TEXTS = {
  'disk': 'the disk is full{place}; what was saved before is whole. Make room and run the same '
  'command again',
  'rights': 'cannot write{place} ({reason}); what was saved before is whole',
  'memory': 'out of memory: take a smaller batch or model (--config.batch_size=…, --preset=cpu), '
  'fewer seeds at a time, or --replay=host',
  'platform': 'JAX cannot start with JAX_PLATFORMS={platforms} ({told}): leave the variable out, '
  'and JAX takes what is there; python -m experiments.doctor says what that is',
  'others': 'another process of this run has ended, or cannot be reached: start all of them again, '
  'and they continue from the last checkpoint',
}


def explain(error: BaseException | None) -> str | None:
  """Return one line for an exception that says that a machine is at its limits or gone; else None.

  The program is not at fault then.
  """
  seen: list[BaseException] = []
  while error is not None and error not in seen:
    seen.append(error)
    kind = _kind(error)
    if kind:
      name = getattr(error, 'filename', None)
      reason = getattr(error, 'strerror', None)
      told = one_line(str(error)).partition(' (set JAX_PLATFORMS')[0] or 'there is no such device'
      platforms = os.environ.get('JAX_PLATFORMS', '')
      place = f': {name}' if name else ''
      return _TEXTS[kind].format(place=place, reason=reason, platforms=platforms, told=told)
    error = error.__cause__ or error.__context__
  return None


def _kind(error: BaseException) -> str | None:
  if isinstance(error, MemoryError):
    return 'memory'
  if isinstance(error, OSError):
    number = error.errno or 0
    full, refused = (errno.ENOSPC, errno.EDQUOT), (errno.EACCES, errno.EPERM, errno.EROFS)
    return 'disk' if number in full else 'rights' if number in refused else None
  text = str(error)
  if isinstance(error, jax.errors.JaxRuntimeError):
    # Gloo reports a process that is gone as FAILED_PRECONDITION or INTERNAL with its name only.
    return 'others' if 'Gloo' in text else next((_STATUS[k] for k in _STATUS if k in text), None)
  # Of a platform that is not there JAX raises one of these two, at times without a word.
  if type(error) in (RuntimeError, AssertionError):
    began = any('xla_bridge.py' in line for line in traceback.format_exception(error))
    return 'platform' if began else None
  # TensorStore, under orbax, passes the system's errors on as a ValueError with their number.
  full = isinstance(error, ValueError) and f"os_error_code='{errno.ENOSPC}'" in text
  return 'disk' if full else None
