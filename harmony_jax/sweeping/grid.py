"""Points of a grid: one configuration for each combination of settings.

    parse(['batch_size=8,16', 'rssm.deter=256,512'])   # four points

A comma inside brackets belongs to a value: env.keys=[image,goal],[image].
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from harmony_jax.config import Config
from harmony_jax.errors import UserError


def parse(texts: Sequence[str]) -> dict[str, list[str]]:
  """Return {setting: values} of texts 'setting=value,value' ('config.setting=…' is the same).

  Raises:
    UserError: no values, an empty one, or a setting that comes twice.
  """
  found = {}
  for text in texts:
    name, _, values = text.removeprefix('--').removeprefix('config.').partition('=')
    parts = [part.strip() for part in re.split(r',(?![^\[(]*[\])])', values)]
    if not name or not all(parts):
      told = 'it is setting=value,value such as batch_size=8,16'
      raise UserError(f'--grid={text}: {told}')
    if name in found:
      raise UserError(f'--grid={text}: {name} has values already; write all of them in one --grid')
    found[name] = parts
  return found


def points(config: Config, grid: Mapping[str, Sequence[str]]) -> list[Config]:
  """Return a configuration per point, with a `label` that says which: 'batch_size=8-lr=0.0003'.

  Without a grid that is the configuration itself. Equal points come once.

  Raises:
    UserError: an unknown setting, a value that cannot be, or two points of one name.
  """
  if not grid:
    return [config]
  found: dict[str, Config] = {}
  for choice in itertools.product(*grid.values()):
    texts = [f'{name}={value}' for name, value in zip(grid, choice)]
    try:
      changed = config.override(texts)
    except UserError as error:
      raise UserError(f'--grid: {error}') from None
    flat = changed.flat()
    words = [f'{name}={_shown(flat[name])}' for name in grid]
    label = re.sub(r'[^\w.+=-]+', '+', '-'.join(filter(None, [config.run.label, *words])))
    changed = changed.replace({'label': label})
    if found.setdefault(label, changed) != changed:
      raise UserError(f'--grid: two points would be called {label}')
  return list(found.values())


def text_of(config: Config, name: str, texts: Sequence[str]) -> str:
  """Return a text after which a setting has the value that it has: it, or one of `texts`."""
  value = config.flat()[name]
  made = lambda text: repr(config.override([f'{name}={text}']).flat()[name])
  return next(text for text in (_shown(value), *texts) if made(text) == repr(value))


def _shown(value: Any) -> str:
  """A value in a label."""
  return ','.join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)
