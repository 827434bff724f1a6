"""Settings in a YAML file: `--config_file=FILE.yaml`.

    batch_size: 8
    rssm:
      deter: 256
    env.keys: [image, goal]

A value is read as after `--config.rssm.deter=`, by the setting's type, whatever YAML makes of it:
1e-4 is a number, `no` a word.
"""

import pathlib
from collections.abc import Iterator

import yaml

from harmony_jax import settings
from harmony_jax.errors import UserError
from harmony_jax.paths import local_path


class FromFile(str):
  """A text 'a.b=value' that a file says: every flag of the command counts for more."""


def texts(name: str) -> list[FromFile]:
  """Return the texts 'a.b=value' of a file, for `Config.override`.

  Raises:
    UserError: it cannot be read, is no YAML, or holds what is no setting; names the line.
  """
  path = local_path(name)
  try:
    root = yaml.compose(path.read_text(encoding='utf-8'), Loader=yaml.BaseLoader)
    return list(_texts(path, root, '', set())) if root else []
  except OSError as error:
    raise UserError(f'--config_file={name} cannot be read: {error.strerror}') from None
  except (ValueError, yaml.YAMLError, RecursionError) as error:
    raise UserError(f'--config_file={name} is no YAML: {error}') from None


def _texts(path: pathlib.Path, node: yaml.Node, prefix: str, names: set) -> Iterator[FromFile]:
  """Yield the settings of a group; those of an alias as if they were written out.

  `names` are those of the file before it: 'a.b: 1' and 'a: {b: 2}' are one name twice.
  """
  place = f'--config_file={path}, line {node.start_mark.line + 1}'
  if not isinstance(node, yaml.MappingNode):
    raise UserError(f'{place}: expected lines such as "batch_size: 8"')
  for key, value in node.value:
    place = f'--config_file={path}, line {key.start_mark.line + 1}'
    if not isinstance(key, yaml.ScalarNode):
      raise UserError(f'{place}: expected the name of a setting')
    name = f'{prefix}{key.value}'
    if name in names:
      raise UserError(f'{place}: {name} is there twice')
    names.add(name)
    if isinstance(value, yaml.MappingNode):
      yield from _texts(path, value, f'{name}.', names)
    elif isinstance(value, yaml.ScalarNode):
      yield FromFile(f'{name}={value.value}')
    elif all(isinstance(each, yaml.ScalarNode) for each in value.value):
      yield FromFile(f'{name}={[settings.literal(each.value) for each in value.value]}')
    else:
      raise UserError(f'{place}: {name} is a list of lists; expected a list of words')
