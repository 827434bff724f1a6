"""What crashes, full disks and bad sectors leave of a file; how many cases were tried, and what
became of them.
"""

import collections
import contextlib
import dataclasses
import pathlib
import shutil
import signal
import tempfile

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

# {what was fuzzed: {what became of it: cases}}
OUTCOMES = collections.defaultdict(collections.Counter)

# (data, byte, bit of it, junk) -> data
_CHANGES = {
  'bit flipped': lambda data, at, bit, junk: (
    data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
  ),
  'truncated': lambda data, at, bit, junk: data[:at],
  'zeroed': lambda data, at, bit, junk: data[:at] + bytes(len(data) - at),
  'overwritten': lambda data, at, bit, junk: data[:at] + junk + data[at + len(junk) :],
  'inserted': lambda data, at, bit, junk: data[:at] + junk + data[at:],
  'replaced': lambda data, at, bit, junk: junk,
  'emptied': lambda data, at, bit, junk: b'',
}
KINDS = 4 * ['bit flipped'] + 3 * ['truncated'] + [*_CHANGES] + ['a folder', 'deleted']


@dataclasses.dataclass(frozen=True)
class Damage:
  """One harm to one of some files: which file and which bit, each modulo their number."""

  kind: str
  file: int
  place: int
  junk: bytes

  def do(self, files):
    """Harms one of the files; returns its path."""
    path = files[self.file % len(files)]
    if not path.is_file():  # harmed before
      return path
    data = path.read_bytes()
    path.unlink()
    if self.kind == 'a folder':
      path.mkdir()
    elif self.kind != 'deleted':
      at, bit = divmod(self.place % max(1, 8 * len(data)), 8)
      path.write_bytes(_CHANGES[self.kind](data, at, bit, self.junk) if data else self.junk)
    return path


def damages(kinds=tuple(KINDS)):
  """Strategy for damages. A place is drawn from so few bits that hypothesis draws it uniformly."""
  junk = st.binary(min_size=1, max_size=40) | st.sampled_from(
    [b'[' * 2000, b'{}', b'null', b'\n', b'nan', b'\xff']
  )
  return st.builds(
    Damage, st.sampled_from(kinds), st.integers(0, 2**16 - 1), st.integers(0, 2**24 - 1), junk
  )


def cases(number):
  """Settings of hypothesis: the same cases in every run, however long each takes."""
  return settings(
    max_examples=number,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
  )


def files_in(folder):
  """All files below a folder, in order."""
  return sorted(path for path in folder.rglob('*') if path.is_file())


@contextlib.contextmanager
def copy_of(folder):
  """A copy of a folder to do harm to."""
  with tempfile.TemporaryDirectory() as parent:
    yield pathlib.Path(shutil.copytree(folder, pathlib.Path(parent) / 'copy'))


def assert_one_line(error):
  """Whether a text is fit for one line of a terminal."""
  assert str(error) and str(error).isprintable(), repr(str(error))


class _TooLong(BaseException):  # what is tested may catch every Exception
  pass


@contextlib.contextmanager
def at_most(seconds):
  """Fails where the block hangs."""

  def end(*unused):
    raise _TooLong

  before = signal.signal(signal.SIGALRM, end)
  signal.alarm(seconds)
  try:
    yield
  except _TooLong:
    raise AssertionError(f'hangs: nothing came of it in {seconds} seconds') from None
  finally:
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
