"""Reading and changing configurations: `ml_collections.ConfigDict` and flags.

A flag `--config.world_model.deter=64` names a field that exists, and its text
is read as the type of the value that is there. Anything else is refused with
one line: a misspelt field must not start a run of many hours.
"""

import ast
import difflib

import ml_collections
from ml_collections.config_dict import FieldReference

from harmony_jax.errors import UserError

ABSENT = 'nothing'  # how `difference` shows a key that one side lacks
_FLAG = 'config.'
_LONGEST = 200  # characters of a key that are looked at, and of a value that are shown


def split_config_flags(argv):
  """Separates `--config.some.field=value` flags from the others.

  Args:
    argv: command-line words. Both `--config.a.b=v` and `--config.a.b v` are
      taken; everything after a lone `--` is left as it is.

  Returns:
    `(rest, overrides)`: the other words in their order, and `'a.b=v'` texts
    for `apply_overrides`.

  Raises:
    UserError: a flag without a value.
  """
  rest, overrides, words = [], [], list(argv)
  while words:
    word = words.pop(0)
    if word == '--':
      rest += [word, *words]
      break
    name = word.removeprefix('-').removeprefix('-')
    if name == word or not name.startswith(_FLAG):
      rest.append(word)
      continue
    field = name[len(_FLAG) :]
    if '=' not in field:
      if not words or words[0].startswith('--'):
        name = name[:_LONGEST]
        raise UserError(f'--{name} needs a value: --{name}=VALUE')
      field = f'{field}={words.pop(0)}'
    overrides.append(field)
  return rest, overrides


def apply_overrides(config, overrides):
  """Sets fields of `config` from texts such as `'world_model.deter=64'`.

  All texts are read before the first is applied, so a refused command leaves
  the configuration untouched. Where a field is named twice, the last counts.

  Args:
    config: `ConfigDict`, changed in place; locked or not.
    overrides: texts `field=value`; a leading `config.` is allowed.

  Returns:
    `config`.

  Raises:
    UserError: an unknown field (names the nearest known one), a group in place
      of a field, or a value of another type than the one that is there.
  """
  fields = _references(config)
  changes = []
  for text in overrides:
    key, equals, value = text.partition('=')
    key = key.strip().removeprefix(_FLAG)[:_LONGEST]
    if not equals:
      raise UserError(f'{_FLAG}{key} needs a value: {_FLAG}{key}=VALUE')
    if key not in fields:
      raise UserError(_unknown(key, fields))
    changes.append((key, _parse(key, value.strip(), fields[key])))
  for key, value in changes:
    config.update_from_flattened_dict({key: value})
  return config


def flatten(config):
  """`{'a': {'b': 1}, 'c': {}}` → `{'a.b': 1, 'c': {}}`, for a ConfigDict or nested dicts."""
  flat = {}
  for key, value in config.items():
    if isinstance(value, (dict, ml_collections.ConfigDict)) and len(value):
      flat |= {f'{key}.{rest}': leaf for rest, leaf in flatten(value).items()}
    else:
      flat[str(key)] = value
  return flat


def to_json_dict(config):
  """A configuration as plain nested dicts that JSON keeps without loss.

  Tuples become lists and `inf` becomes `'inf'`, so that the result equals what
  is read back from a file.

  Raises:
    TypeError: a value that JSON has no form for; names its key.
  """
  if isinstance(config, ml_collections.ConfigDict):
    config = config.to_dict()
  return {str(key): _plain(value, str(key)) for key, value in config.items()}


def difference(a, b):
  """Compares two configurations key by key.

  Returns:
    `{key: (value in a, value in b)}` over the flattened keys that differ, in
    order; a key that one side lacks has the value `ABSENT` there.
  """
  a, b = flatten(to_json_dict(a)), flatten(to_json_dict(b))
  pairs = {key: (a.get(key, ABSENT), b.get(key, ABSENT)) for key in sorted(a.keys() | b.keys())}
  # True == 1 in Python, but a switch that became a number is a difference.
  return {
    key: (old, new)
    for key, (old, new) in pairs.items()
    if old != new or isinstance(old, bool) != isinstance(new, bool)
  }


def _references(config):
  """`flatten`, but keeps the FieldReference of a field that may be None."""
  flat = {}
  for key, value in config.items(preserve_field_references=True):
    if isinstance(value, ml_collections.ConfigDict):
      flat |= {f'{key}.{rest}': x for rest, x in _references(value).items()}
    else:
      flat[key] = value
  return flat


def _unknown(key, fields):
  """The sentence for a key that is no field."""
  inside = [name for name in fields if name.startswith(key + '.')]
  if inside:
    return f'{_FLAG}{key} is a group: set one of its fields, such as {_FLAG}{inside[0]}'
  # A right last name in a wrong group is a nearer guess than a like spelling.
  last = [name for name in fields if name.split('.')[-1] == key.split('.')[-1]]
  near = difflib.get_close_matches(key, last or fields, n=1, cutoff=0.0)
  hint = f'; the nearest is {_FLAG}{near[0]}' if near else ''
  return f'unknown key {_FLAG}{key}{hint}'


def _parse(key, text, present):
  """Reads `text` as the type of the value (or FieldReference) that is there."""
  nullable, kind = present is None, type(present)
  if isinstance(present, FieldReference):
    nullable, kind, present = True, present.get_type(), present.get()
  if nullable and text.lower() == 'none':
    return None
  try:
    if kind is type(None):  # nothing tells the type: read it as a literal
      return _literal(text)
    if kind in (tuple, list):
      return kind(_elements(text, present))
    return _scalar(text, kind)
  except ValueError:
    name = _type_name(kind, present) + (' or None' if nullable else '')
    raise UserError(f'{_FLAG}{key}: expected {name}, got {text[:_LONGEST]!r}') from None


def _scalar(text, kind):
  """One bool, int, float or str. Raises ValueError."""
  if kind is bool:
    known = {'true': True, '1': True, 'false': False, '0': False}
    if text.lower() not in known:
      raise ValueError(text)
    return known[text.lower()]
  if kind is int:
    if 'e' in text.lower() and float(text).is_integer():
      return int(float(text))  # 1e5 steps
    return int(text)
  if kind is float:
    return float(text)
  if kind is str:
    return text
  raise ValueError(text)


def _elements(text, present):
  """`'1,2'`, `'(1, 2)'` or `''`, each element read as the present ones are."""
  parts = [part.strip() for part in text.strip('()[] ').split(',')]
  if parts[-1] == '':  # '1,' and '()'
    parts = parts[:-1]
  if not present:
    return [_literal(part) for part in parts]
  return [_scalar(part.strip('\'"'), type(present[0])) for part in parts]


def _literal(text):
  """A Python number, bool, str or None where `text` is one, else `text` itself."""
  try:
    value = ast.literal_eval({'true': 'True', 'false': 'False'}.get(text, text))
  except (
    ValueError,
    SyntaxError,
    MemoryError,
    RecursionError,
  ):  # the last two: brackets without end
    return text
  return value if value is None or isinstance(value, (bool, int, float, str)) else text


def _type_name(kind, present):
  if kind in (tuple, list) and present:
    return f'{kind.__name__} of {type(present[0]).__name__}, such as 1,2'
  return {bool: 'bool (true or false)'}.get(kind, kind.__name__)


def _plain(value, key):
  """The JSON form of one value."""
  if isinstance(value, ml_collections.ConfigDict):
    value = value.to_dict()
  if isinstance(value, dict):
    return {str(k): _plain(v, f'{key}.{k}') for k, v in value.items()}
  if isinstance(value, (tuple, list)):
    return [_plain(v, key) for v in value]
  if isinstance(value, float) and (value != value or value in (float('inf'), -float('inf'))):
    return str(value)  # JSON has no inf and no nan
  if value is None or isinstance(value, (bool, int, float, str)):
    return value
  if hasattr(value, 'item') and getattr(value, 'ndim', None) == 0:
    return _plain(value.item(), key)  # a NumPy scalar
  raise TypeError(f'{_FLAG}{key} is a {type(value).__name__}, which JSON cannot hold')
