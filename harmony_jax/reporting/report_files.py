"""A report's folder: written whole, beside what was there, and only where nothing else can be lost.

The page names the files that were written with it, so that a later report takes the place of these
and of no others.
"""

import html as markup
import json
import os
import pathlib
import re
import shutil
import tempfile

from harmony_jax.errors import UserError
from harmony_jax.reporting import charts, page

_MINE = f'<meta name="generator" content="{page.GENERATOR}">'


def check(folder):
  """Raises UserError unless `folder` is new, empty, or an earlier report and nothing else, at any
  depth.
  """
  folder = _path(folder)
  wish = 'name a new or empty folder, or an earlier report'
  if not folder.exists() and not folder.is_symlink():
    return
  if not folder.is_dir():
    raise UserError(f'--output={folder} is a file: {wish}')
  try:
    files = _files(folder)
  except OSError as error:
    raise UserError(f'--output={folder} cannot be read: {error.strerror or error}') from None
  if not files and not any(folder.iterdir()):
    return
  own = _own(folder / 'index.html')
  if own is None:
    raise UserError(
      f'--output={folder} holds {[*files, *sorted(os.listdir(folder))][0]!r} and no report: {wish}'
    )
  others = [name for name in files if name not in own]
  if others:
    raise UserError(
      f'--output={folder} holds {others[0]!r}, which is no part of a report and would be lost: {wish}'
    )


def _path(folder):
  # a shell leaves the ~ of --output=~/report as it is
  return pathlib.Path(os.path.expanduser(folder))


def _files(folder):
  """Paths below a folder, relative to it, of all that is no folder; links count as files."""

  def fail(error):
    raise error

  found = []
  for top, folders, names in os.walk(folder, onerror=fail):
    names = [*names, *(name for name in folders if os.path.islink(os.path.join(top, name)))]
    found += [pathlib.Path(top, name).relative_to(folder).as_posix() for name in names]
  return sorted(found)


def _own(path):
  """The files of the report whose page this is; None for what is no report.

  Raises:
    UserError: the page is a report's, but does not name its files, as those of earlier versions.
  """
  try:
    text = path.read_text(encoding='utf-8')
    files = re.search(f'{re.escape(_MINE)}\n<meta name="files" content="([^"]*)">', text)
    own = set(json.loads(markup.unescape(files[1]))) if files else None
  except (OSError, ValueError, TypeError):
    return None
  if own is None and _MINE in text:
    raise UserError(
      f'--output={path.parent} holds a report that does not say which files are its own: remove it, or '
      'name another folder'
    )
  return own


def write(folder, html, figures, write_results):
  """Writes index.html, figures/ and results/, in place of an earlier report.

  Args:
    folder: passes `check`. html: of `page.document`. figures: [charts.Figure]. write_results:
    called with the folder results/.

  Raises:
    UserError: the folder cannot be written; the earlier report is still there.
  """
  folder = _path(folder)
  check(folder)
  new = None
  try:
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = pathlib.Path(tempfile.mkdtemp(prefix=f'.{folder.name}-', dir=folder.parent))
    new.chmod(0o755)
    (new / 'figures').mkdir()
    for figure in figures:
      charts.save(figure, new / 'figures')
    write_results(new / 'results')
    names = markup.escape(json.dumps(['index.html', *_files(new)]))
    html = html.replace(_MINE, f'{_MINE}\n<meta name="files" content="{names}">', 1)
    (new / 'index.html').write_text(html, encoding='utf-8')
    check(folder)  # drawing takes a while
    _put(new, folder)
  except OSError as error:
    raise UserError(
      f'the report cannot be written to {folder}: {error.strerror or error}'
    ) from None
  finally:
    if new is not None:
      shutil.rmtree(new, ignore_errors=True)


def _put(new, folder):
  """Moves the new report to its place; the old one goes only when the new one is there."""
  if folder.is_dir():
    old = pathlib.Path(tempfile.mkdtemp(prefix=f'.{folder.name}-', dir=folder.parent))
    folder.rename(old / 'report')
    try:
      new.rename(folder)
    except OSError:
      (old / 'report').rename(folder)
      raise
    finally:
      shutil.rmtree(old, ignore_errors=True)
  else:
    new.rename(folder)
