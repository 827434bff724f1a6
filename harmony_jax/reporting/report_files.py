"""A report's folder: written whole, beside what was there, and only where nothing else can be lost."""

import pathlib
import shutil
import tempfile

from harmony_jax.errors import UserError
from harmony_jax.reporting import charts, page

CONTENTS = {'index.html', 'figures', 'results'}


def check(folder):
  """Raises UserError unless `folder` is new, empty, or an earlier report and nothing else."""
  folder = pathlib.Path(folder)
  wish = 'name a new or empty folder, or an earlier report'
  if not folder.exists() and not folder.is_symlink():
    return
  if not folder.is_dir():
    raise UserError(f'--output={folder} is a file: {wish}')
  names = sorted(path.name for path in folder.iterdir())
  if not names:
    return
  try:
    with open(folder / 'index.html', encoding='utf-8') as file:
      mine = f'<meta name="generator" content="{page.GENERATOR}">' in file.read(4096)
  except (OSError, UnicodeDecodeError):
    mine = False
  if not mine:
    raise UserError(f'--output={folder} holds {names[0]!r} and no report: {wish}')
  others = [name for name in names if name not in CONTENTS]
  if others:
    raise UserError(f'--output={folder} holds {others[0]!r}, which is no part of a report and would be lost: {wish}')


def write(folder, html, figures, write_results):
  """Writes index.html, figures/ and results/, in place of an earlier report.

  Args:
    folder: passes `check`. html: the page. figures: [charts.Figure]. write_results: called with the folder results/.

  Raises:
    UserError: the folder cannot be written; the earlier report is still there.
  """
  folder = pathlib.Path(folder)
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
    (new / 'index.html').write_text(html, encoding='utf-8')
    _put(new, folder)
  except OSError as error:
    raise UserError(f'the report cannot be written to {folder}: {error.strerror or error}') from None
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
