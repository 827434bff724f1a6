"""Run folders as they lie on disk: their files read and nothing more. `form` makes a record of one."""

import json
import pathlib

from harmony_jax.errors import UserError

# Any of these says that a folder is a run's.
FILES = ('config.json', 'metrics.jsonl', 'scores.jsonl', '.complete')


def read(folder) -> dict:
  """One run folder: {'folder', 'config', 'scores': [lines], 'metrics': [lines], 'environment',
  'complete', 'hours'}.

  A last line that a crash or a running process left unfinished is dropped. `hours` is the marker's
  of a complete run, else None.

  Raises:
    UserError: `folder` holds no run, or one that is damaged; names the file.
  """
  folder = pathlib.Path(folder)
  try:
    config = json.loads(
      (folder / 'config.json').read_text(encoding='utf-8'), parse_constant=_refuse
    )['config']
  except OSError as error:
    raise UserError(
      f'{folder} holds no run: its config.json cannot be read ({error.strerror})'
    ) from None
  except (ValueError, KeyError, TypeError, RecursionError) as error:
    raise UserError(f'{folder} holds no run: its config.json cannot be read ({error})') from None
  complete = (folder / '.complete').exists()
  return {
    'folder': folder,
    'config': config,
    'scores': _lines(folder / 'scores.jsonl'),
    'metrics': _lines(folder / 'metrics.jsonl'),
    'environment': _bytes(folder / 'environment.txt').decode(errors='replace'),
    'complete': complete,
    'hours': _hours(folder / '.complete') if complete else None,
  }


def _bytes(path):
  """What a file holds; nothing where there is none."""
  try:
    return path.read_bytes() if path.exists() else b''
  except OSError as error:
    raise UserError(f'{path} cannot be read: {error.strerror}') from None


def _lines(path):
  *whole, unfinished = _bytes(path).split(b'\n')
  lines = []
  for number, text in enumerate([*whole, unfinished], 1):
    try:
      line = json.loads(text.decode(), parse_constant=_refuse)
      if type(line['step']) is not int:
        raise ValueError
      lines.append(line)
    except (ValueError, KeyError, TypeError, RecursionError):
      if number <= len(whole):
        raise UserError(f'{path} is damaged: line {number} cannot be read') from None
  return lines


def _hours(path):
  """The hours that a run's end has noted; None where they cannot be read, which is no harm to its
  scores.
  """
  try:
    hours = json.loads(path.read_bytes())['hours']
    return float(hours) if isinstance(hours, (int, float)) and 0 <= hours < 1e9 else None
  except (OSError, ValueError, KeyError, TypeError, RecursionError):
    return None


def _refuse(name):
  """JSON has neither NaN nor infinities, though Python reads them."""
  raise ValueError(f'{name} is no number')
