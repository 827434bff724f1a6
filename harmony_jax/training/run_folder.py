"""The folder of one run: what was asked for, with what, and whether it is done.

    config.json        configuration and identity, written once, never changed
    environment.txt    versions, devices, commit and command, one section a start
    .complete          written when the run has reached its end, with a summary
    .lock              held while a process works in the folder

A folder belongs to one configuration. A start with another one is refused, so
that the curve in a folder is always the curve of its config.json. As long as no
checkpoint is in it, a start has nothing to go on with: it belongs to nobody.
"""

import contextlib
import datetime
import fcntl
import functools
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import IO, Any

from harmony_jax import config as config_
from harmony_jax import disk, settings
from harmony_jax.config import Config
from harmony_jax.errors import InUse, UserError
from harmony_jax.paths import local_path

# Settings that change nothing in a run's numbers; a run may go on with others.
FREE = ('env_processes', 'replay_on', 'devices', 'keep_replay', 'eval_in_background')

_OF_SOURCE = [f'identity.from.{name}' for name in ('task', 'method', 'step', 'checksum')]

# never before config.json
_LINES = ('environment.txt', 'metrics.jsonl', 'scores.jsonl')
_LATER = (*_LINES, 'checkpoints', '.complete')
# in the folder replay, whatever the method keeps there by step
_OURS = re.compile(r'manifest\.json|[a-z]+-\d{12}\b.*|\d+-of-\d+|.*\.tmp').fullmatch


class AnotherRun(UserError):
  """A folder with a configuration that is not the command's."""


def identity(config: Config) -> dict[str, Any]:
  """Return what tells one run from another, beside its settings and what it starts from."""
  return {name: getattr(config.run, name) for name in ('suite', 'task', 'method')}


def prepare(
  logdir: str | pathlib.Path, config: config_.Config, identity: Mapping[str, Any]
) -> 'RunFolder':
  """Create or reopen the folder of a run, and lock it.

  Args:
    logdir: the folder; made with its parents where it does not exist.
    config: everything that decides the result.
    identity: what else tells one run from another, as JSON can hold it.

  Returns: a folder to close, or to use in a `with` statement.

  Raises:
    UserError: the folder cannot be written, another process works in it, or it
      holds a run of another configuration (lists each differing key) or of one
      that cannot be told. Nothing is overwritten.
  """
  path = local_path(logdir).absolute()  # some environments go elsewhere
  try:
    path.mkdir(parents=True, exist_ok=True)
    lock = open(path / '.lock', 'a+', encoding='utf-8', errors='replace')
  except OSError as error:
    raise UserError(f'cannot write to the run folder {path}: {error.strerror}') from None
  try:
    _lock(lock, path)
    resumed = _settle_config(path / 'config.json', config, identity)
    with open(path / 'environment.txt', 'a', encoding='utf-8', errors='backslashreplace') as file:
      file.write(describe_environment())
  except OSError as error:
    lock.close()
    raise UserError(f'cannot write to the run folder {path}: {error.strerror}') from None
  except BaseException:
    lock.close()
    raise
  return RunFolder(path, resumed, lock)


class RunFolder:
  """An open, locked run folder; without a lock one that another process of the run has opened.

  Attributes:
    path: the folder, a `pathlib.Path`.
    resumed: whether the folder held this run already.
  """

  def __init__(self, path: str | pathlib.Path, resumed: bool = True, lock: IO | None = None):
    self.path = pathlib.Path(path)
    self.resumed = resumed
    self._lock = lock

  def __enter__(self) -> 'RunFolder':
    return self

  def __exit__(self, *unused) -> None:
    self.close()

  def __truediv__(self, name: str) -> pathlib.Path:
    """Return a path in the folder: `folder / 'metrics.jsonl'`."""
    return self.path / name

  def is_complete(self) -> bool:
    """Return whether the run has reached its end."""
    return is_complete(self.path)

  def mark_complete(self, summary: Mapping[str, Any]) -> None:
    """Write the `.complete` marker with a summary."""
    text = json.dumps(settings.plain(summary), indent=2)
    with atomic_write(self.path / '.complete') as file:
      file.write(text + '\n')

  def drop_replay(self, config: config_.Config) -> str:
    """Delete the replay of a complete run, unless it is to be kept; say so, '' for nothing.

    Only where config.json says so, too: what an older version left stays.
    """
    keeps = config_.saved(self.path)['config'].get('keep_replay', True)
    replay = self.path / 'replay'
    if keeps or config.run.keep_replay or not self.is_complete():
      return ''
    freed = disk.size(replay)
    shutil.rmtree(replay, ignore_errors=True)
    freed -= disk.size(replay)
    told = f'; replay of {disk.text(freed)} dropped (--config.keep_replay=True keeps it)'
    return told if freed else ''

  def close(self) -> None:
    """Unlock the folder."""
    if self._lock:
      self._lock.close()  # closing the file ends its flock


def is_complete(logdir: str | pathlib.Path) -> bool:
  """Return whether `logdir` holds a finished run. Takes no lock."""
  return (pathlib.Path(logdir) / '.complete').exists()


@contextlib.contextmanager
def atomic_write(path: str | pathlib.Path, binary: bool = False) -> Iterator[IO[Any]]:
  """Open a file, of text or bytes, that appears under its name whole, or not at all.

  On an exception in the block the file at `path` stays as it was.
  """
  path = pathlib.Path(path)
  temporary = path.with_name(f'{path.name}.{os.getpid()}.tmp')
  try:
    # a path may hold bytes that are no text
    text: dict[str, Any] = {} if binary else {'encoding': 'utf-8', 'errors': 'backslashreplace'}
    with open(temporary, 'wb' if binary else 'w', **text) as file:
      yield file
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, path)
    _sync(path.parent)
  finally:
    temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def alone_in(folder: str | pathlib.Path) -> Iterator[None]:
  """Wait until no other process is in such a block of a folder, for what is read there, added to
  and written again: without, of two at once the first would be lost."""
  opened = os.open(folder, os.O_RDONLY)
  try:
    with contextlib.suppress(OSError):  # not every file system can
      fcntl.flock(opened, fcntl.LOCK_EX)
    yield
  finally:
    os.close(opened)  # which ends its flock


def _sync(folder):
  """Have the system write the names in a folder: after it, what another file needed may go."""
  with contextlib.suppress(OSError):  # not every file system can
    opened = os.open(folder, os.O_RDONLY)
    try:
      os.fsync(opened)
    finally:
      os.close(opened)


def describe_environment() -> str:
  """Return a section of text: date, command, commit, Python, devices, packages."""
  import jax  # here, for the readers of run folders that need no devices

  return '\n'.join(
    [
      f'# {datetime.datetime.now().astimezone().isoformat(timespec="seconds")}',
      f'command: {shlex.join(sys.orig_argv)}',
      f'commit:  {git_commit()}',
      f'python:  {platform.python_version()} on {platform.platform()}',
      f'variables: {" ".join(_variables())}',
      f'devices: {", ".join(str(d.device_kind) for d in jax.devices())} ({jax.default_backend()})',
      *_packages(),
      '',
      '',
    ]
  )


def _variables() -> list[str]:
  """What this process tells JAX and its compiler, as 'NAME=value'."""
  return sorted(f'{k}={v}' for k, v in os.environ.items() if k.startswith(('JAX_', 'XLA_')))


@functools.cache
def _packages() -> list[str]:
  """What is installed, as 'name==version'."""
  found = (each.metadata for each in importlib.metadata.distributions())  # read at each access
  return sorted({f'{each["Name"]}=={each["Version"]}' for each in found}, key=str.lower)


def git_commit() -> str:
  """Return the commit of the code that runs, with ` (dirty)` where files differ from it."""

  def git(*words):
    return subprocess.run(
      ['git', *words],
      cwd=pathlib.Path(__file__).parent,
      check=True,
      capture_output=True,
      text=True,
      timeout=10,
    ).stdout.strip()

  try:
    # An installed package may lie inside someone else's checkout.
    git('ls-files', '--error-unmatch', pathlib.Path(__file__).name)
    dirty = ' (dirty)' if git('status', '--porcelain', '--untracked-files=no') else ''
    return git('rev-parse', 'HEAD') + dirty
  except (OSError, subprocess.SubprocessError):
    return 'not a git checkout'


def _lock(file, path):
  """Takes the lock, or says who holds it. The system frees it with the process."""
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    file.seek(0)
    holder = file.read(200).strip() or 'another process'
    raise InUse(f'the run folder {path} is in use by {holder}') from None
  file.truncate(0)
  file.write(f'process {os.getpid()} on {socket.gethostname()}')
  file.flush()


def _settle_config(path, config, identity):
  """Write config.json, or compare it with the one that is there; return whether it was there."""
  wanted = {'format': config_.FORMAT, 'config': config.to_json(), 'identity': dict(identity)}
  if not path.exists():
    orphans = [name for name in _LATER if (path.parent / name).exists()]
    if orphans and is_recorded(path.parent):
      raise UserError(
        f'{path.parent} holds {orphans[0]} of a run, but not its config.json; choose another folder'
      )
    if others := sorted(x.name for x in (path.parent / 'replay').glob('*') if not _OURS(x.name)):
      raise UserError(
        f'{path.parent} holds replay/{others[0]}, which is of no run: where a run ends, its replay '
        'goes; choose another folder'
      )
    with atomic_write(path) as file:
      json.dump(settings.plain(wanted), file, indent=2, allow_nan=False)
      file.write('\n')
    return False
  try:
    free = _compare(path, wanted)
    try:
      config.replace(free)  # what is read later must be a value that it can have
    except UserError as error:
      raise UserError(f'{path} is damaged: {error}') from None
  except AnotherRun:
    if is_recorded(path.parent):
      raise
    for name in ('config.json', *_LINES):
      (path.parent / name).unlink(missing_ok=True)
    return _settle_config(path, config, identity)
  return True


def is_recorded(path: pathlib.Path) -> bool:
  """Return whether a folder holds what another start of its run would go on with, or show."""
  dumps = path / 'nonfinite'
  return has_checkpoint(path) or is_complete(path) or dumps.is_dir() and any(dumps.iterdir())


def has_checkpoint(path: pathlib.Path) -> bool:
  """Return whether a folder has a whole checkpoint; those being written have longer names."""
  names = (each.name for each in (path / 'checkpoints').glob('*'))
  return any(name.isdigit() or name == 'damaged' for name in names)


def check(logdir: str | pathlib.Path, config: config_.Config, identity: Mapping[str, Any]) -> None:
  """Raise UserError where a folder holds another run; nothing is written or locked."""
  path = local_path(logdir) / 'config.json'
  if path.exists() and is_recorded(path.parent):
    _compare(path, {'format': config_.FORMAT, 'config': config.to_json(), 'identity': identity})


def _compare(path, wanted):
  """Raise AnotherRun, or return the other values that a folder has of settings that are free."""
  differing = config_.difference(_present(path, wanted), settings.plain(wanted))
  if 'identity.from.run' in differing:  # what else is said of it follows
    differing = {key: pair for key, pair in differing.items() if key not in _OF_SOURCE}
  told = [
    f'{key}: folder has {old!r}, command has {new!r}'
    for key, (old, new) in differing.items()
    if key.removeprefix('config.') not in FREE and not (old is None and config_.as_before(key, new))
  ]
  if told:
    raise AnotherRun(f'{path.parent} holds another run ({"; ".join(told)}); choose another folder')
  olds = {key.removeprefix('config.'): old for key, (old, _) in differing.items()}
  return {name: olds[name] for name in FREE if olds.get(name) is not None}


def _present(path, wanted):
  """What config.json holds, in today's format."""
  try:
    present = json.loads(path.read_text(encoding='utf-8'))
    if present.get('format', 1) < config_.FORMAT:
      same = present['config']['method'] == wanted['config']['method']
      upgraded = config_.from_json(present, str(path), allow_import=same).to_json()
      present = {**present, 'format': config_.FORMAT, 'config': upgraded}
  except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
    raise UserError(f'{path} is not readable as JSON; nothing was overwritten') from None
  return present
