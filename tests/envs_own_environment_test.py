"""docs/own_environment.md: its class passes the checker, and the checker's errors are those that it
promises.
"""

import pathlib
import re

import numpy as np
import pytest

from harmony_jax.envs import ArraySpec, base, run_episodes
from harmony_jax.envs.check import check

PAGE = pathlib.Path(__file__).parent.parent / 'docs' / 'own_environment.md'


@pytest.fixture
def suite():
  blocks = re.findall(r'```python\n(.*?)```', PAGE.read_text(), re.DOTALL)
  block = next(block for block in blocks if 'class Line' in block)
  names = {'__name__': 'line'}
  exec(compile(block, str(PAGE), 'exec'), names)
  return names['SUITE']


@pytest.fixture
def Line(suite):
  return suite.environment


def message(env):
  with pytest.raises(AssertionError) as error:
    check(env)
  assert '\n' not in str(error.value)
  return str(error.value)


def with_observation(name, array):
  """A change of the environment: one more observation."""

  def change(env):
    env.spec.observation[name] = array
    if isinstance(array, ArraySpec):
      env.last = base.empty_timestep(env.spec, env.num_envs)

  return change


def test_what_reports_know_of_it(suite):
  facts, words = suite.protocol({'task': 'line', 'env': {'length': 9}})
  assert facts['action_repeat'] == 1 and '9 steps' in words[0] and suite.title == 'Line'


def test_the_class_of_the_page(Line):
  check(Line(num_envs=3))
  assert Line.canonical('line') == 'line'
  with pytest.raises(ValueError, match="unknown Line task 'lime': did you mean 'line'"):
    Line.canonical('lime')
  for wrong, text in (({'lenght': 9}, 'env.length'), ({'length': 1}, 'at least 2')):
    with pytest.raises(ValueError, match=text):
      Line(**wrong)
  results = run_episodes(Line(num_envs=2), range(6), lambda timestep: np.ones(2, np.int32))
  assert all(result.score == 1 and 5 <= result.length <= 8 for result in results)


@pytest.mark.parametrize(
  'change, text',
  [
    (
      with_observation('reward', ArraySpec((1,), np.float32)),
      "an observation cannot be named 'reward': the replay stores something else there",
    ),
    (with_observation('x', (3,)), "the spec of observation 'x' is (3,), not an ArraySpec"),
    (
      with_observation('x', ArraySpec((4, 4), np.float32)),
      "observation 'x' has shape (4, 4): neither [H, W, C] nor a vector or scalar",
    ),
    (
      with_observation('x', ArraySpec((64, 64, 3), np.float32)),
      "observation 'x' is an image of float32; images are uint8",
    ),
    (lambda env: setattr(env, 'length', 0), "observation 'position' has nan in it"),
    (
      lambda env: setattr(env, 'measures', {'success': np.zeros(2)}),
      "measure 'success' has dtype float64, not float32",
    ),
    (
      lambda env: setattr(env, 'measures', {'success': [0, 0]}),
      "measure 'success' is a list, not a NumPy array",
    ),
    (lambda env: setattr(env, 'spec', None), 'env.spec is a NoneType, not a Spec'),
    (lambda env: delattr(env, 'num_envs'), "Line has no 'num_envs'"),
    (
      lambda env: setattr(env, 'step', lambda actions, restart, seeds: None),
      'step takes (actions, restart, seeds), not (actions, restart, seeds, idle=None)',
    ),
  ],
)
@pytest.mark.filterwarnings('ignore::RuntimeWarning')
def test_the_checker_tells_what_is_wrong_in_one_line(Line, change, text):
  env = Line(num_envs=2)
  change(env)
  if text.startswith("observation 'position'"):
    env.begin = lambda index, seed: 0
  assert message(env) == text


def test_the_messages_that_the_page_shows(Line):
  shown = re.search(r'e\.g\.\n\n```\n(.*?)```', PAGE.read_text(), re.DOTALL).group(1).splitlines()

  class Double(Line):
    def __init__(self):
      super().__init__(num_envs=2)
      self.last.observation['position'] = np.zeros((2, 1))

  class Drifting(Line):
    total = 0

    def advance(self, index, action):
      self.total += 1
      _, done = super().advance(index, action)
      return float(self.total), done

  class Shared(Line):
    def step(self, *args, **options):
      super().step(*args, **options)
      return self.last

  class Restless(Line):
    def step(self, actions, restart, seeds, idle=None):
      return super().step(actions, restart, seeds)

  messages = [
    message(env)
    for env in (Double(), Drifting(num_envs=2), Shared(num_envs=2), Restless(num_envs=2))
  ]
  shape = lambda text: re.sub(r'step \d+', 'step #', text)
  assert [shape(text) for text in messages] == [shape(text) for text in shown]
