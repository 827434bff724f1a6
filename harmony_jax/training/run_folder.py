"""The folder of one run: what was asked for, with what, and whether it is done.

    config.json        configuration and identity, written once, never changed
    environment.txt    versions, devices, commit and command, one section a start
    .complete          written when the run has reached its end, with a summary
    .lock              held while a process works in the folder

A folder belongs to one configuration. A start with another one is refused, so
that the curve in a folder is always the curve of its config.json.
"""

import contextlib
import datetime
import fcntl
import importlib.metadata
import json
import os
import pathlib
import platform
import shlex
import socket
import subprocess
import sys

from harmony_jax import configuration
from harmony_jax.errors import InUse, UserError

# Settings that change nothing in a run's numbers; a run may go on with others.
FREE = ('config.env_processes', 'config.replay_on', 'config.devices')

# never before config.json
_LATER = ('environment.txt', 'metrics.jsonl', 'scores.jsonl', 'checkpoints', '.complete')


def prepare(logdir, config, identity):
  """Creates or reopens the folder of a run, and locks it.

  Args:
    logdir: the folder; made with its parents where it does not exist.
    config: nested dict or ConfigDict, everything that decides the result.
    identity: dict of what else tells one run from another (task, method, …).

  Returns:
    A `RunFolder`. Close it, or use it in a `with` statement.

  Raises:
    UserError: the folder cannot be written, another process works in it, or it
      holds a run of another configuration (lists each differing key) or of one
      that cannot be told. Nothing is overwritten.
  """
  path = pathlib.Path(logdir).expanduser()
  try:
    path.mkdir(parents=True, exist_ok=True)
    lock = open(path / '.lock', 'a+', encoding='utf-8', errors='replace')
  except OSError as error:
    raise UserError(f'cannot write to the run folder {path}: {error.strerror}') from None
  try:
    _lock(lock, path)
    resumed = _settle_config(
      path / 'config.json',
      {
        'config': configuration.to_json_dict(config),
        'identity': configuration.to_json_dict(identity),
      },
    )
    with open(path / 'environment.txt', 'a', encoding='utf-8') as file:
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

  def __init__(self, path, resumed=True, lock=None):
    self.path = pathlib.Path(path)
    self.resumed = resumed
    self._lock = lock

  def __enter__(self):
    return self

  def __exit__(self, *unused):
    self.close()

  def __truediv__(self, name):
    """`folder / 'metrics.jsonl'`: a path in the folder."""
    return self.path / name

  def is_complete(self):
    """Whether the run has reached its end."""
    return is_complete(self.path)

  def mark_complete(self, summary):
    """Writes the `.complete` marker with `summary`, a dict that JSON can hold."""
    text = json.dumps(configuration.to_json_dict(summary), indent=2)
    with atomic_write(self.path / '.complete') as file:
      file.write(text + '\n')

  def close(self):
    """Unlocks the folder."""
    if self._lock:
      self._lock.close()  # closing the file ends its flock


def is_complete(logdir):
  """Whether `logdir` holds a finished run. Takes no lock."""
  return (pathlib.Path(logdir) / '.complete').exists()


@contextlib.contextmanager
def atomic_write(path):
  """A text file that appears under its name whole, or not at all.

  On an exception in the block the file at `path` stays as it was.
  """
  path = pathlib.Path(path)
  temporary = path.with_name(f'{path.name}.{os.getpid()}.tmp')
  try:
    with open(temporary, 'w', encoding='utf-8') as file:
      yield file
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)


def describe_environment():
  """A section of text: date, command, commit, Python, devices, packages."""
  import jax  # here, for the readers of run folders that need no devices

  packages = sorted(
    {f'{d.metadata["Name"]}=={d.version}' for d in importlib.metadata.distributions()},
    key=str.lower,
  )
  return '\n'.join(
    [
      f'# {datetime.datetime.now().astimezone().isoformat(timespec="seconds")}',
      f'command: {shlex.join(sys.orig_argv)}',
      f'commit:  {git_commit()}',
      f'python:  {platform.python_version()} on {platform.platform()}',
      f'devices: {", ".join(str(d.device_kind) for d in jax.devices())} ({jax.default_backend()})',
      *packages,
      '',
      '',
    ]
  )


def git_commit():
  """The commit of the code that runs, with ` (dirty)` where files differ from it."""

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


def _settle_config(path, wanted):
  """Writes config.json, or compares it with the one that is there.

  Returns:
    Whether it was there.
  """
  if not path.exists():
    orphans = [name for name in _LATER if (path.parent / name).exists()]
    if orphans:
      raise UserError(
        f'{path.parent} holds {orphans[0]} of a run, but not its config.json; choose another folder'
      )
    with atomic_write(path) as file:
      json.dump(wanted, file, indent=2, allow_nan=False)
      file.write('\n')
    return False
  check_config(path, wanted)
  return True


def check_config(path, wanted):
  """Raises UserError where config.json at `path` is not that of `wanted`; lists what differs."""
  try:
    present = json.loads(path.read_text(encoding='utf-8'))
  except (ValueError, RecursionError):  # the latter: brackets without end
    present = None
  if not isinstance(present, dict):
    raise UserError(f'{path} is not readable as JSON; nothing was overwritten')
  differing = {
    key: values
    for key, values in configuration.difference(present, wanted).items()
    if key not in FREE
  }
  if differing:
    lines = '; '.join(
      f'{key}: folder has {old!r}, command has {new!r}' for key, (old, new) in differing.items()
    )
    raise UserError(f'{path.parent} holds another run ({lines}); choose another folder')
