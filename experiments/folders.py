"""The run folders of a start: whose they are, and that several processes agree on them."""

import contextlib
import functools

from harmony_jax import config as config_
from harmony_jax.config import Config
from harmony_jax.errors import UserError
from harmony_jax.processes import ProcessGroup
from harmony_jax.training import origin, run_folder
from harmony_jax.training.run_folder import RunFolder


def open_runs(
  stack: contextlib.ExitStack,
  places: list[tuple[Config, str]],
  group: ProcessGroup,
  source: str | None = None,
) -> list[tuple[Config, RunFolder]]:
  """Return (configuration, locked folder) of those runs that are not complete.

  `stack` closes the folders; where it ends with a refusal, those of runs that had not begun are
  nobody's again. `source`: the run folder that all of them start from.
  """
  runs = []
  for config, place in places:
    folder = stack.enter_context(_open_folder(place, config, group, source))
    if folder.is_complete():
      # it may have been killed before that
      dropped = folder.drop_replay(config) if group.leads else ''
      print(f'this run is complete: {folder.path}{dropped}')
    else:
      stack.push(functools.partial(_forget, folder))
      runs.append((config, folder))
  return runs


def _prepare(logdir, config, source):
  start = {'from': origin.facts(source, logdir, config.run.method)} if source else {}
  return run_folder.prepare(logdir, config, run_folder.identity(config) | start)


def _open_folder(logdir, config, group, source):
  """Return `run_folder.prepare`. Of several processes, process 0 does it, and all learn of it."""
  if group.count == 1:
    return _prepare(logdir, config, source)
  _check_equal(group.exchange({**config.to_json(), '--from': source}))
  folder = told = None
  if group.leads:
    try:
      folder = _prepare(logdir, config, source)
      told = {'path': str(folder.path.absolute()), 'complete': folder.is_complete()}
    except UserError as error:
      told = {'refused': str(error)}
  told = group.exchange(told)[0]
  if 'refused' in told:
    group.exchange(None)  # process 0 keeps the others together until all have heard
    raise UserError(told['refused'])
  folder = folder or run_folder.RunFolder(told['path'])
  if not (folder.is_complete() if told['complete'] else (folder / 'config.json').exists()):
    raise UserError(
      f'{told["path"]} of process 0 is not there for process {group.index}: all need a '
      'folder that they share'
    )
  return folder


def _check_equal(trees):
  """Refuse processes that were started with different settings."""
  for index, other in enumerate(trees):
    differing = [
      f'{name}: process 0 has {ours!r}, process {index} has {theirs!r}'
      for name, (ours, theirs) in config_.difference(trees[0], other).items()
      if name not in run_folder.FREE
    ]
    if differing:
      raise UserError(f'the processes of a run need the same settings ({"; ".join(differing)})')


def _forget(folder, kind, error, trace):
  """Take a run's marks off a folder in which it was refused before it began."""
  if folder.resumed or not isinstance(error, UserError):
    return
  begun = [folder / name for name in ('metrics.jsonl', 'scores.jsonl', 'checkpoints')]
  if any(
    path.stat().st_size if path.is_file() else path.is_dir() and any(path.iterdir())
    for path in begun
  ):
    return
  for name in ('config.json', 'environment.txt', 'metrics.jsonl', 'scores.jsonl', '.lock'):
    (folder / name).unlink(missing_ok=True)
  for path in (folder / 'checkpoints', folder.path):
    with contextlib.suppress(OSError):  # not there, or not empty
      path.rmdir()
