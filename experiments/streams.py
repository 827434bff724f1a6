"""Standard output and error by which no program ends: what cannot be shown is left out.

Needs the standard library only, so that it comes before whatever may be missing.
"""

import errno
import os
import sys
from typing import Any


class Stream:
  """A text stream that goes on into nothing where its other end is closed, full or gone."""

  def __init__(self, stream: Any):
    self._stream = stream

  def __getattr__(self, name):
    return getattr(self._stream, name)

  def write(self, text: str) -> int:
    """Write a text; return its length."""
    self._try(lambda: self._stream.write(text))
    return len(text)

  def flush(self) -> None:
    """Write what waits."""
    self._try(self._stream.flush)

  def _try(self, act):
    try:
      act()
    except OSError as error:
      # what still waits, and what others write there, goes the same way
      os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
      if error.errno != errno.EPIPE:  # a reader that has seen enough, as `head`
        what = f'{self._stream.name} cannot be written ({error.strerror}): nothing more is shown'
        print(f'warning: {what}', file=sys.stderr, flush=True)


def settle() -> None:
  """Have no sign, closed pipe or full disk end this program in a `print`."""
  for name in ('stdout', 'stderr'):
    stream = getattr(sys, name)
    if stream is None:  # closed at the start
      stream = open(os.devnull, 'w', encoding='utf-8')  # noqa: SIM115
    if not isinstance(stream, Stream):
      if hasattr(stream, 'reconfigure'):
        stream.reconfigure(errors='backslashreplace')
      setattr(sys, name, Stream(stream))


def keep_descriptors() -> None:
  """Open the three standard descriptors where they are closed: the next file would be in their
  place, and get what libraries print.
  """
  for number in range(3):
    try:
      os.fstat(number)
    except OSError:
      os.dup2(os.open(os.devnull, os.O_RDWR), number)
      os.set_inheritable(number, True)
