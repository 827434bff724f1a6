"""What a spec says of actions, and actions as vectors: by hand."""

import json

import numpy as np
import pytest

from harmony_jax.envs import base, random_policy
from harmony_jax.training import evaluation
from tests import small

ONE, NUMBERS = small.spec(actions=3), small.spec(actions=2, discrete=False)
TWO = small.spec(actions=5, discrete=False, choices=(3, 2))
MIXED = small.spec(actions=7, discrete=False, choices=(3, 1, 2))


@pytest.mark.parametrize('spec', [ONE, NUMBERS, TWO, MIXED])
def test_a_spec_goes_through_json(spec):
  assert base.Spec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_an_older_spec_has_no_choices():
  for spec in (ONE, NUMBERS):
    saved = {name: value for name, value in spec.to_json().items() if name != 'choices'}
    assert base.Spec.from_json(saved) == spec


@pytest.mark.parametrize('discrete, choices', [(True, (3,)), (False, (3, 3)), (False, (2, 0))])
def test_choices_that_cannot_be_are_one_line(discrete, choices):
  with pytest.raises(ValueError, match='^choices are .*: expected') as error:
    small.spec(actions=5, discrete=discrete, choices=choices)
  assert '\n' not in str(error.value)


def test_vectors_are_read():
  vectors = np.array([[0, 0, 1, 1, 0, 1, -3], [1, 0, 0, 1, 1, 0, 0.5]], np.float32)
  actions = base.to_environment(vectors, MIXED)
  assert actions.dtype == np.float32
  np.testing.assert_array_equal(actions, np.clip(vectors, -1, 1))
  chosen, rest = base.decode(actions, MIXED.choices)
  assert [each.tolist() for each in chosen] == [[2, 0], [0, 0], [1, 0]]
  assert rest.tolist() == [[-1], [0.5]]
  (first, _, last), rest = base.decode(actions[0], MIXED.choices)  # of one environment
  assert (first, last, rest.tolist()) == (2, 1, [-1])
  chosen, rest = base.decode(vectors, ())
  assert chosen == [] and rest.shape == (2, 7)
  assert base.to_environment(np.eye(3)[[2, 0]], ONE).tolist() == [2, 0]


def test_actions_that_say_nothing_can_be_taken():
  assert base.zero_actions(ONE, 2).tolist() == [0, 0]
  assert base.zero_actions(NUMBERS, 1).tolist() == [[0, 0]]
  assert base.zero_actions(MIXED, 1).tolist() == [[1, 0, 0, 1, 1, 0, 0]]


def test_random_actions_are_uniform():
  """Of one choice and of numbers they are those of before, too: recorded runs began with them."""
  vectors = base.random_vectors(MIXED, 6000, np.random.default_rng(0))
  (first, alone, last), rest = base.decode(vectors, MIXED.choices)
  assert (vectors[:, :6].sum(-1) == 3).all() and set(np.unique(vectors[:, :6])) == {0, 1}
  pairs = np.bincount(2 * first + last, minlength=6) / 6000
  assert not alone.any() and np.abs(pairs - 1 / 6).max() < 0.02
  assert abs(rest.mean()) < 0.03 and abs(np.square(rest).mean() - 1 / 3) < 0.02
  rng = np.random.Generator(np.random.Philox(key=[3, 4]))
  expected = np.eye(3, dtype=np.float32)[rng.integers(3, size=5)]
  np.testing.assert_array_equal(evaluation.random_actions(ONE, 5, 3, 4), expected)
  expected = np.random.default_rng(3).uniform(-1, 1, (5, 2)).astype(np.float32)
  timestep = base.empty_timestep(NUMBERS, 5)
  np.testing.assert_array_equal(random_policy(NUMBERS, 3)(timestep), expected)
  assert random_policy(MIXED, 3)(timestep).shape == (5, 7)
