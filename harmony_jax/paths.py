"""Folders and files as users name them."""

import os
import pathlib
import re

from harmony_jax.errors import UserError


def joined(*words: str | None) -> str:
  """Return words as one part of a path, 'a-b', without those that are empty.

  Gymnasium's ids may have slashes and colons, methods of one's own have colons.
  """
  return '-'.join(filter(None, words)).replace('/', '-').replace(':', '-')


def local_path(path: str | os.PathLike) -> pathlib.Path:
  """Return a path of this machine, `~` being a user's home.

  Raises:
    UserError: an address such as gs://bucket/run, a home that nobody knows, or no text.
  """
  text = os.fspath(path)
  # a Path has one slash where there were two
  if address := re.match('([A-Za-z][A-Za-z0-9+.-]*):/', text):
    if address[1].lower() == 'file':
      raise UserError(f'{text} is an address: write the path alone, without file://')
    raise UserError(f'{text} is an address: mount it, or name a folder of this machine')
  try:
    text.encode()
  except UnicodeEncodeError:  # bytes of the command line that Python could not read: LC_ALL=C
    raise UserError(
      f'{ascii(text)}: this locale has not all of its signs; start with PYTHONUTF8=1'
    ) from None
  found = os.path.expanduser(text)
  if found.startswith('~'):
    raise UserError(f'{text}: there is no such home; write the whole path, or ./{text}')
  return pathlib.Path(found)
