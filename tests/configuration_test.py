"""Configurations: flags are read as the type that is there, or refused with one line."""

import json

import ml_collections
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_collections.config_dict import placeholder

from harmony_jax import configuration
from harmony_jax.errors import UserError


def make():
  config = ml_collections.ConfigDict(
    {
      'seed': 0,
      'batch_size': 16,
      'learning_rate': 1e-4,
      'horizon': None,
      'limit': placeholder(int),
      'task': 'pong',
      'harmony': True,
      'empty': (),
      'world_model': {'deter': 512, 'depths': (32, 64), 'scale': 1.0, 'names': ['a', 'b']},
    }
  )
  return config.lock()


@pytest.mark.parametrize(
  'text, key, expected',
  [
    ('batch_size=8', 'batch_size', 8),
    ('batch_size=1e3', 'batch_size', 1000),
    ('config.seed=-1', 'seed', -1),
    ('world_model.deter=64', 'world_model.deter', 64),
    ('learning_rate=3e-4', 'learning_rate', 3e-4),
    ('learning_rate=1', 'learning_rate', 1.0),
    ('learning_rate=inf', 'learning_rate', float('inf')),
    ('task=a=b', 'task', 'a=b'),
    ('task=none', 'task', 'none'),
    ('task=', 'task', ''),
    ('harmony=false', 'harmony', False),
    ('harmony=1', 'harmony', True),
    ('world_model.depths=1,2,3', 'world_model.depths', (1, 2, 3)),
    ('world_model.depths=(8,)', 'world_model.depths', (8,)),
    ('world_model.depths=', 'world_model.depths', ()),
    ("world_model.names=['x', y]", 'world_model.names', ['x', 'y']),
    ('empty=4,5', 'empty', (4, 5)),
    ('horizon=15', 'horizon', 15),
    ('horizon=None', 'horizon', None),
    ('limit=7', 'limit', 7),
    ('limit=none', 'limit', None),
  ],
)
def test_a_value_is_read_as_the_type_that_is_there(text, key, expected):
  config = configuration.apply_overrides(make(), [text])
  got = configuration.flatten(config)[key]
  assert got == expected and type(got) is type(expected)
  assert set(configuration.difference(make(), config)) <= {key}


def test_the_last_of_two_counts_and_none_can_come_back():
  config = configuration.apply_overrides(make(), ['limit=7', 'limit=none', 'seed=1', 'seed=2'])
  assert config.limit is None and config.seed == 2


@pytest.mark.parametrize(
  'text, message',
  [
    ('batch_sise=8', 'unknown key config.batch_sise; the nearest is config.batch_size'),
    ('world_modle.deter=8', 'the nearest is config.world_model.deter'),
    ('deter=8', 'the nearest is config.world_model.deter'),
    (
      'world_model=8',
      'config.world_model is a group: set one of its fields, such as config.world_model.depths',
    ),
    ('batch_size=1.5', "config.batch_size: expected int, got '1.5'"),
    ('batch_size=many', "expected int, got 'many'"),
    ('batch_size=1e-3', 'expected int'),
    ('batch_size=none', 'expected int'),
    ('batch_size=true', 'expected int'),
    ('harmony=yes', "expected bool (true or false), got 'yes'"),
    ('learning_rate=fast', 'expected float'),
    ('limit=x', "expected int or None, got 'x'"),
    ('world_model.depths=1,x', "expected tuple of int, such as 1,2, got '1,x'"),
    ('seed', 'config.seed needs a value'),
  ],
)
def test_anything_else_is_refused_in_one_line_and_changes_nothing(text, message):
  config = make()
  with pytest.raises(UserError) as caught:
    configuration.apply_overrides(config, ['batch_size=99', text])
  assert message in str(caught.value) and '\n' not in str(caught.value)
  assert config.to_json() == make().to_json()


def test_flags_are_split_from_the_others():
  rest, overrides = configuration.split_config_flags(
    [
      '--logdir=x',
      '--config.seed=1',
      'word',
      '--config.world_model.deter',
      '64',
      '-config.lr',
      '-1',
      '--config=file.py',
      '--configs.x=1',
      '--',
      '--config.seed=2',
    ]
  )
  assert overrides == ['seed=1', 'world_model.deter=64', 'lr=-1']
  assert rest == [
    '--logdir=x',
    'word',
    '--config=file.py',
    '--configs.x=1',
    '--',
    '--config.seed=2',
  ]
  for argv in (['--config.seed'], ['--config.seed', '--logdir=x']):
    with pytest.raises(UserError, match='--config.seed needs a value'):
      configuration.split_config_flags(argv)


def test_flatten():
  flat = configuration.flatten(make())
  assert flat['world_model.deter'] == 512 and flat['seed'] == 0 and 'world_model' not in flat
  assert configuration.flatten({'a': {'b': {'c': 1}}, 'd': 2}) == {'a.b.c': 1, 'd': 2}


def test_difference_tells_both_values():
  other = configuration.apply_overrides(make(), ['seed=1', 'world_model.depths=1'])
  assert configuration.difference(make(), other) == {
    'seed': (0, 1),
    'world_model.depths': ([32, 64], [1]),
  }
  assert configuration.difference({'a': 1}, {'b': None, 'a': True}) == {
    'a': (1, True),
    'b': (configuration.ABSENT, None),
  }
  assert (
    configuration.difference(make(), json.loads(json.dumps(configuration.to_json_dict(make()))))
    == {}
  )


def test_what_json_cannot_hold_is_named():
  with pytest.raises(TypeError, match='config.a.b is a function'):
    configuration.to_json_dict({'a': {'b': lambda: 0}})


leaves = (
  st.none()
  | st.booleans()
  | st.integers()
  | st.floats(allow_nan=False)
  | st.text()
  | st.lists(st.integers()).map(tuple)
)
names = st.text('abcdefgh_', min_size=1)


@given(st.dictionaries(names, leaves | st.dictionaries(names, leaves)))
def test_json_keeps_a_configuration(config):
  read = json.loads(json.dumps(configuration.to_json_dict(config), allow_nan=False))
  assert read == configuration.to_json_dict(config)
  assert configuration.difference(config, read) == {}


@given(st.integers() | st.floats(allow_nan=False) | st.booleans() | st.text('abc xyz=.,'))
def test_a_value_written_out_is_read_back(value):
  config = ml_collections.ConfigDict({'a': {'b': type(value)()}})
  value = value.strip() if isinstance(value, str) else value
  assert configuration.apply_overrides(config, [f'a.b={value}']).a.b == value
