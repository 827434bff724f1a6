"""Typed settings: fields of frozen dataclasses, each written once with default, meaning and check.

    @dataclasses.dataclass(frozen=True)
    class HeadSettings:
      layers: int = setting(2, 'hidden layers', least=0)
      units: int = setting(512, 'their width', least=1)

A group of settings is a field whose type is another such class (`group`). Names have dots:
`head.units`. Whatever cannot be (an unknown name, another type, a value outside its range) is
refused with one line.
"""

import ast
import dataclasses
import difflib
import functools
import json
import math
import re
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from harmony_jax.errors import UserError

T = TypeVar('T')
Switch = bool | str  # on, off, or a word of the setting's choices
_LONGEST = 200  # characters of a name or a value that are shown


@dataclasses.dataclass(frozen=True)
class Setting:
  """One setting: its dotted name, type, default, meaning, what it can be, and what must hold for it
  to change anything (see `setting`)."""

  name: str
  type: Any
  default: Any
  meaning: str
  least: float | None = None
  most: float | None = None
  above: float | None = None
  choices: Collection = ()
  only: tuple[str, ...] = ()


def setting(
  default: Any,
  meaning: str,
  *,
  least: float | None = None,
  most: float | None = None,
  above: float | None = None,
  choices: Collection = (),
  only: str = '',
) -> Any:
  """Return a dataclass field that is a setting.

  Numbers are `least` or more (0 where nothing is given), `most` or less, larger than `above`.
  `choices` may be a registry that grows. `only` says without which other settings it changes
  nothing: 'rssm.latent=gaussian', 'losses.free_x' (not 0, False or empty), 'env.observe!=state';
  '.latent=a|b' is of the same group, a space means and, ' or ' between two means or. Beside
  settings there are 'pictures', 'vectors', 'discrete_actions', 'continuous_actions', of the
  environment, and 'report', of what a method can show.
  """
  limits = {'least': least, 'most': most, 'above': above, 'choices': choices, 'only': only}
  return dataclasses.field(default=default, metadata={'meaning': meaning, **limits})


def group(cls: type[T], meaning: str, only: str = '', **changes: Any) -> T:
  """Return a dataclass field that is a group of settings, with other defaults where given."""
  about = {'meaning': meaning, 'only': only}
  return dataclasses.field(default_factory=lambda: cls(**changes), metadata=about)


@functools.cache  # a sweep asks for them by the hundred thousand
def _fields(cls: type) -> dict[str, tuple[Any, Mapping[str, Any]]]:
  """Return {name: (type, metadata)} of a class's fields."""
  types = typing.get_type_hints(cls)
  return {field.name: (types[field.name], field.metadata) for field in dataclasses.fields(cls)}


def describe(settings: Any, prefix: str = '', only: tuple[str, ...] = ()) -> Iterator[Setting]:
  """Yield every setting of an instance; its values are the defaults. `only`: of all of them."""
  for field, (kind, about) in _fields(type(settings)).items():
    value, name = getattr(settings, field), prefix + field
    own = re.sub(r'(?<!\S)\.', prefix, about.get('only', ''))
    both = (*only, own) if own else only
    if dataclasses.is_dataclass(value):
      yield from describe(value, f'{name}.', both)
    elif about:
      yield Setting(name, kind, value, **{**about, 'only': both})


def lacking(known: Setting, values: Mapping[str, Any]) -> str:
  """Return without what, as of `setting`, one changes nothing; '' where it changes something.

  Args:
    values: of all settings by name; what is said of others is taken to hold.
  """
  holds = functools.partial(_holds, values, known.name)
  for text in known.only:
    if not any(all(map(holds, each.split())) for each in text.split(' or ')):
      return text
  return ''


def _holds(values, own, condition):
  name, equals, wanted = condition.partition('=')
  name, differs = name.removesuffix('!'), name.endswith('!')
  if name not in values or name == own:
    return True
  value = values[name]
  if not equals:
    return bool(value)
  found = {str(each) for each in (value if isinstance(value, (tuple, list)) else (value,))}
  return differs != bool(found & {*wanted.split('|')})


def flatten(settings: Any, prefix: str = '') -> dict[str, Any]:
  """Return {dotted name: value}."""
  found = {}
  for field, (_, about) in _fields(type(settings)).items():
    value, name = getattr(settings, field), prefix + field
    if dataclasses.is_dataclass(value):
      found |= flatten(value, f'{name}.')
    elif about:
      found[name] = value
  return found


def replace(settings: T, changes: Mapping[str, Any]) -> T:
  """Return the settings with {dotted name: value} changed; an int that stands for a float becomes
  one, and a list a tuple.

  Raises:
    UserError: an unknown name, or a value that the setting cannot have.
  """
  known = {each.name: each for each in describe(settings)} if changes else {}
  converted = {}
  for name, value in changes.items():
    if name not in known:
      raise UserError(unknown(name, known))
    if wanted := _wanted(known[name], value):
      raise UserError(f'config.{name} is {repr(value)[:_LONGEST]}: it must be {wanted}')
    if known[name].type is float:
      value = float(value)
    elif typing.get_origin(known[name].type) is tuple:
      value = tuple(value)
    converted[name] = value
  return swap(settings, converted)


def swap(settings: T, values: Mapping[str, Any]) -> T:
  """Return the settings with values by dotted name that may be traced, and are not checked."""
  here, inner = {}, {}
  for name, value in values.items():
    first, _, rest = name.partition('.')
    if rest:
      inner.setdefault(first, {})[rest] = value
    else:
      here[first] = value
  nested = {name: swap(getattr(settings, name), some) for name, some in inner.items()}
  return dataclasses.replace(settings, **here, **nested)  # pyright: ignore


def _wanted(known: Setting, value: Any) -> str:
  """Return what the value must be, in words; '' where it is that."""
  kind = known.type
  if typing.get_origin(kind) is tuple:
    ok = isinstance(value, (list, tuple)) and all(isinstance(each, str) for each in value)
    strange = ok and known.choices and set(value) - set(known.choices)
    if ok and known.choices and len({*value}) < len(value):
      return 'a list that names each once'
    return '' if ok and not strange else f'a list of {", ".join(known.choices) or "names"}'
  numbers = (int, float) if kind is float else (kind,)
  if not isinstance(value, numbers) or (isinstance(value, bool) and kind not in (bool, Switch)):
    return f'{_article(kind)}, not {type(value).__name__}'
  if known.choices and value not in known.choices:
    near = difflib.get_close_matches(str(value), map(str, known.choices), n=1, cutoff=0.5)
    hint = f' (did you mean {near[0]}?)' if near else ''
    return f'one of {", ".join(map(str, known.choices))}{hint}'
  if kind in (int, float):
    return _wanted_number(known, value)
  return ''


def _wanted_number(known: Setting, value: float) -> str:
  if not abs(value) < 2**63:  # nor is NaN
    return 'a number below 2^63'
  if known.above is not None and not value > known.above:
    return f'above {known.above:g}'
  least = 0 if known.least is None else known.least
  if value < least:
    return f'at least {least:g}'
  if known.most is not None and value > known.most:
    return f'at most {known.most:g}'
  return ''


def parse(name: str, kind: Any, text: str) -> Any:
  """Read a text as a value of a type: bool, int, float, str or a tuple of strings.

  Raises:
    UserError: it is no such value.
  """
  try:
    if typing.get_origin(kind) is tuple or kind in (tuple, list):
      parts = [part.strip(' \'"') for part in text.strip('()[] ').split(',')]
      return tuple(part for part in parts if part)
    if kind in (bool, Switch):
      known = {'true': True, '1': True, 'false': False, '0': False}
      return known.get(text.lower(), text) if kind is not bool else known[text.lower()]
    if kind is int and 'e' in text.lower():  # 1e5 steps
      if not (math.isfinite(float(text)) and float(text).is_integer()):
        raise ValueError(text)
      return int(float(text))
    return kind(text)
  except (ValueError, KeyError):
    shown = text[:_LONGEST]
    raise UserError(f'config.{name}: expected {_article(kind)}, got {shown!r}') from None


def literal(text: str) -> Any:
  """Read a text as Python would (numbers, True, None, lists, quoted texts), or else as itself."""
  try:
    value = ast.literal_eval({'true': 'True', 'false': 'False'}.get(text.lower(), text))
    json.dumps(value)  # a run's configuration is kept so: no sets, no bytes
    return value
  # the last two: nested too deeply
  except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
    return text


def unknown(name: str, known: Iterable[str]) -> str:
  """Return the sentence for a name that is no setting, with the nearest one that is."""
  known, name = list(known), name[:_LONGEST]
  inside = [each for each in known if each.startswith(f'{name}.')]
  if inside:
    return f'config.{name} is a group: set one of its fields, such as config.{inside[0]}'
  # A right last name in a wrong group is a nearer guess than a like spelling.
  last = [each for each in known if each.split('.')[-1] == name.split('.')[-1]]
  near = difflib.get_close_matches(name, last or known, n=1, cutoff=0.0)
  return f'unknown key config.{name}' + (f'; the nearest is config.{near[0]}' if near else '')


def to_json(settings: Any) -> dict[str, Any]:
  """Return nested dicts that JSON keeps without loss: tuples are lists, inf is 'inf'."""
  found: dict[str, Any] = {}
  for field in dataclasses.fields(settings):
    value = getattr(settings, field.name)
    found[field.name] = to_json(value) if dataclasses.is_dataclass(value) else plain(value)
  return found


def plain(value: Any) -> Any:
  """Return a value as JSON has it."""
  if isinstance(value, Mapping):
    return {str(name): plain(each) for name, each in value.items()}
  if isinstance(value, (list, tuple)):
    return [plain(each) for each in value]
  if isinstance(value, float) and not math.isfinite(value):
    return str(value)
  return getattr(value, 'item', lambda: value)()  # a NumPy scalar


def kept(name: str, value: Any) -> Any:
  """Return an option as JSON gives it back, in which a tuple is a list.

  Raises:
    UserError: it would come back as something else, as infinity or keys that are no texts.
  """
  if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
    return {key: kept(name, each) for key, each in value.items()}
  if isinstance(value, (list, tuple)):
    return [kept(name, each) for each in value]
  if getattr(value, 'ndim', None) == 0:  # a NumPy scalar
    value = float(value) if isinstance(value, float) else plain(value)
  finite = not isinstance(value, float) or math.isfinite(value)
  if finite and isinstance(value, (str, int, float, type(None))):
    return value
  raise UserError(
    f'config.{name} has {repr(value)[:_LONGEST]}, which config.json does not keep: it takes texts, '
    'finite numbers, true, false, None, lists, and groups of them by name'
  )


def _article(kind: Any) -> str:
  names = {
    bool: 'true or false',
    Switch: 'true, false or a word',
    int: 'a whole number',
    float: 'a number',
    str: 'a text',
  }
  return names.get(kind, 'a list of names such as a,b')
