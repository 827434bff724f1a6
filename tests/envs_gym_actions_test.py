"""Gymnasium's spaces of actions: the way there and back, by hand."""

import warnings

import numpy as np
import pytest
from gymnasium import spaces

from harmony_jax.envs import base, gym_actions


def taken(space, action):
  """The environment's action, which its space must contain, and how it is read."""
  reading = gym_actions.read(space, 'Task-v0')
  made = reading.translate(np.asarray(action, np.float32))
  assert space.contains(made)
  return made, reading


def test_multi_discrete():
  """A grid of factors, row by row, each from its own start."""
  space = spaces.MultiDiscrete([[2, 3], [1, 2]], start=[[0, 5], [7, -1]])
  made, reading = taken(space, [0, 1, 0, 0, 1, 1, 1, 0])
  assert made.dtype == np.int64 and made.tolist() == [[1, 7], [7, -1]]
  assert reading.spec == {'discrete': False, 'num_actions': 8, 'choices': (2, 3, 1, 2)}
  assert reading.texts == ['action [2, 2]: 1 of 2; 1 of 3; 1 of 1; 1 of 2']


@pytest.mark.parametrize('size, shape', [(3, [3]), ((1, 3), [1, 3])])
def test_multi_binary(size, shape):
  made, reading = taken(spaces.MultiBinary(size), [1, 0, 0, 1, 0, 1])
  assert made.dtype == np.int8 and list(made.shape) == shape and made.ravel().tolist() == [0, 1, 1]
  assert reading.spec['choices'] == (2, 2, 2) and reading.texts == [f'action {shape}: 1 of 2']


def test_nested_actions():
  """Factors in the order of the leaves, numbers of all of them behind; every leaf has its type."""
  space = spaces.Dict(
    arm=spaces.Box(-5, 5, (2,)),
    hand=spaces.Tuple(
      (
        spaces.MultiBinary(2),
        spaces.Dict(force=spaces.Box(0, 1, (), np.float64), mode=spaces.MultiDiscrete([2, 2])),
      )
    ),
    move=spaces.Discrete(3, start=-1, dtype=np.int32),
  )
  binary, mode, move = [0, 1, 1, 0], [1, 0, 0, 1], [0, 0, 1]
  made, reading = taken(space, [*binary, *mode, *move, 1, -0.5, 0])
  assert made['move'] == 1 and type(made['move']) is np.int32
  assert made['arm'].dtype == np.float32 and made['arm'].tolist() == [5, -2.5]
  binary, inner = made['hand']
  assert type(made['hand']) is tuple and binary.dtype == np.int8 and binary.tolist() == [1, 0]
  assert inner['force'].dtype == np.float64 and inner['force'] == 0.5
  assert inner['mode'].tolist() == [0, 1]
  assert reading.spec['num_actions'] == 14 and reading.spec['choices'] == (2, 2, 2, 2, 3)
  assert reading.texts == [
    'arm [2]: [-1, 1] stretched to [-5, 5]',
    'hand_0 [2]: 1 of 2',
    'hand_1_force: [-1, 1] stretched to [0, 1]',
    'hand_1_mode [2]: 1 of 2',
    'move: 1 of 3',
  ]


def test_every_vector_is_an_action():
  space = spaces.Tuple(
    (spaces.Discrete(3, start=4), spaces.Box(-2, 3, (2,)), spaces.MultiBinary(2))
  )
  spec = base.Spec({}, action_repeat=1, **gym_actions.read(space, 'Task-v0').spec)
  for vector in base.random_vectors(spec, 50, np.random.default_rng(0)):
    taken(space, vector)
  assert taken(space, np.zeros(9))[0][0] == 4  # a row that is not used


def test_a_single_bound_is_kept():
  """A window of width 2 from it; without any bound [-1, 1], and a warning."""
  low, high = [2, -np.inf, -1, -np.inf, 0], [np.inf, 3, 1, np.inf, 8]
  space = spaces.Box(np.float32(low), np.float32(high))
  with pytest.warns(UserWarning, match='^Task-v0: 1 of 5 dimensions of its actions have no bounds'):
    made, reading = taken(space, [-1] * 5)
  assert made.tolist() == [2, 1, -1, -1, 0]
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    assert taken(space, [0.5] * 5)[0].tolist() == [3.5, 2.5, 0.5, 0.5, 6]
    assert taken(space, [1] * 5)[0].tolist() == [4, 3, 1, 1, 8]
  assert reading.texts == [
    'action [5]: no upper bound, the agent reaches [2, 4]; '
    'no lower bound, the agent reaches [1, 3]; [-1, 1]; '
    'no bounds, the agent reaches [-1, 1]; [-1, 1] stretched to [0, 8]'
  ]
  throttle = spaces.Dict(throttle=spaces.Box(2, np.inf, (3,)))
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    reading = gym_actions.read(throttle, 'Task-v0')
  assert reading.texts == ['throttle [3]: no upper bound, the agent reaches [2, 4]']


def test_one_choice_and_numbers_alone_are_what_they_were():
  reading = gym_actions.read(spaces.Discrete(3, start=-1), 'Task-v0')
  assert reading.spec == {'discrete': True, 'num_actions': 3}
  assert (reading.translate(np.int32(0)), reading.texts) == (-1, ['action: 1 of 3'])
  reading = gym_actions.read(spaces.Box(-1, 1, (2, 2)), 'Task-v0')
  assert reading.spec == {'discrete': False, 'num_actions': 4, 'choices': ()}
  assert reading.texts == ['action [2, 2]: [-1, 1]']


@pytest.mark.parametrize(
  'space, message',
  [
    (spaces.Text(4), "^Task-v0: the action 'action' is a Text: supported are Discrete, Multi"),
    (spaces.Dict(a=spaces.Box(0, 9, (2,), np.int32)), "the action 'a' is a Box of int32"),
    (spaces.Tuple((spaces.Sequence(spaces.Discrete(2)),)), "the action '0' is a Sequence"),
    (spaces.Dict({}), 'hold nothing to choose'),
  ],
)
def test_unsupported_actions_are_one_line(space, message):
  with pytest.raises(ValueError, match=message) as error:
    gym_actions.read(space, 'Task-v0')
  assert '\n' not in str(error.value)
