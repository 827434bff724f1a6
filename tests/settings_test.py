"""Settings: written once, read as their type, or refused with one line."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harmony_jax import settings
from harmony_jax.errors import UserError
from harmony_jax.settings import group, setting
from tests.damage import assert_one_line


@dataclasses.dataclass(frozen=True)
class Head:
  layers: int = setting(2, 'hidden layers')
  units: int = setting(512, 'their width', least=1)
  kind: str = setting('plain', 'its kind', choices=('plain', 'residual'))


@dataclasses.dataclass(frozen=True)
class Everything:
  rate: float = setting(1e-4, 'learning rate', above=0)
  share: float = setting(0.5, 'of something', most=1)
  clip: float = setting(float('inf'), 'largest norm')
  on: bool = setting(True, 'whether')
  names: tuple[str, ...] = setting(('a', 'b'), 'some of them', choices=('a', 'b', 'c'))
  head: Head = group(Head, 'A head.', units=64)


def test_every_setting_is_described_once():
  found = {each.name: each for each in settings.describe(Everything())}
  assert [*found] == [
    'rate', 'share', 'clip', 'on', 'names', 'head.layers', 'head.units', 'head.kind'
  ]  # fmt: skip
  assert found['head.units'].default == 64 and found['head.units'].meaning == 'their width'
  assert settings.flatten(Everything()) == {k: each.default for k, each in found.items()}


@pytest.mark.parametrize(
  'change, value',
  [
    ({'head.units': 8}, 8),
    ({'rate': 1}, 1.0),
    ({'names': ['c']}, ('c',)),
    ({'names': ()}, ()),
    ({'on': False}, False),
    ({'clip': 2.0}, 2.0),
  ],
)
def test_a_change_keeps_types_and_the_others(change, value):
  before = Everything()
  after = settings.flatten(settings.replace(before, change))
  [name] = change
  assert after[name] == value and type(after[name]) is type(value)
  assert {k: v for k, v in after.items() if k != name} == {
    k: v for k, v in settings.flatten(before).items() if k != name
  }
  assert settings.flatten(before) == settings.flatten(Everything())


@pytest.mark.parametrize(
  'name, value, text',
  [
    ('head.unit', 8, 'unknown key config.head.unit; the nearest is config.head.units'),
    ('units', 8, 'the nearest is config.head.units'),
    ('head', 8, 'config.head is a group: set one of its fields, such as config.head.layers'),
    ('head.units', 0, 'config.head.units is 0: it must be at least 1'),
    ('head.layers', -1, 'at least 0'),
    ('head.units', 1.5, 'a whole number, not float'),
    ('head.units', True, 'a whole number, not bool'),
    ('head.kind', 'plan', 'one of plain, residual (did you mean plain?)'),
    ('rate', 0, 'above 0'),
    ('rate', float('nan'), 'a number below 2^63'),
    ('rate', 'fast', 'a number, not str'),
    ('share', 1.1, 'at most 1'),
    ('on', 1, 'true or false, not int'),
    ('names', ['a', 'd'], 'a list of a, b, c'),
    ('names', 'a', 'a list of a, b, c'),
    ('names', ['a', 'b', 'a'], 'a list that names each once'),
  ],
)
def test_what_cannot_be_is_one_line(name, value, text):
  with pytest.raises(UserError) as error:
    settings.replace(Everything(), {name: value})
  assert_one_line(error.value)
  assert text in str(error.value)


@pytest.mark.parametrize(
  'kind, text, value',
  [
    (int, '1e3', 1000),
    (int, '-1', -1),
    (float, '3e-4', 3e-4),
    (float, '1', 1.0),
    (bool, 'False', False),
    (bool, '1', True),
    (settings.Switch, 'True', True),
    (settings.Switch, 'auto', 'auto'),
    (str, 'none', 'none'),
    (tuple[str, ...], "('a', b)", ('a', 'b')),
    (tuple[str, ...], '', ()),
  ],
)
def test_a_text_is_read_as_its_type(kind, text, value):
  read = settings.parse('x', kind, text)
  assert read == value and type(read) is type(value)


@pytest.mark.parametrize(
  'kind, text', [(int, '1.5'), (int, '1e-3'), (int, 'true'), (float, 'fast'), (bool, 'yes')]
)
def test_another_text_is_one_line(kind, text):
  with pytest.raises(UserError, match=rf"^config.x: expected .*, got '{text}'$"):
    settings.parse('x', kind, text)


@given(st.integers() | st.floats(allow_nan=False) | st.booleans() | st.text('abc xyz=.'))
def test_a_value_written_out_is_read_back(value):
  assert settings.parse('x', type(value), str(value)) == value


def test_json_keeps_all():
  tree = settings.to_json(Everything())
  assert json.loads(json.dumps(tree, allow_nan=False)) == tree
  assert tree['clip'] == 'inf' and tree['head']['units'] == 64 and tree['names'] == ['a', 'b']
