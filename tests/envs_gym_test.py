"""Gymnasium environments behind our convention: against Gymnasium itself, and spaces of every kind
by hand.
"""

import sys
import warnings

import chex
import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from harmony_jax import envs
from harmony_jax.envs import random_policy
from harmony_jax.envs import spaces as readings
from harmony_jax.envs.check import check
from harmony_jax.envs.gym import Gym
from harmony_jax.errors import EnvironmentFault

NONE, ALL = np.zeros(1, bool), np.ones(1, bool)


class Probe(gymnasium.Env):
  """Shows samples of its observation space, pays 1 a step, ends after 8 steps; remembers the
  actions it took.
  """

  metadata = {'render_modes': ['rgb_array']}

  def __init__(self, observation=None, action=None, drawn=None, render_mode=None):
    self.observation_space = observation or spaces.Box(-1, 1, (2,))
    self.action_space = action or spaces.Discrete(2)
    self.drawn, self.render_mode, self.taken = drawn, render_mode, []

  def reset(self, *, seed=None, options=None):
    super().reset(seed=seed)
    self.observation_space.seed(int(self.np_random.integers(2**31)))
    self.time = 0
    return self.observation_space.sample(), {}

  def step(self, action):
    self.taken.append(action)
    self.time += 1
    return self.observation_space.sample(), 1, self.time == 8, False, {'won': self.time == 5}

  def render(self):
    return np.full((40, 60, 3), self.time, np.uint8) if self.drawn is None else self.drawn


@pytest.fixture(autouse=True)
def registered():
  gymnasium.register('Probe-v0', Probe)
  gymnasium.register('Old-v0', Probe)
  gymnasium.register('Old-v2', Probe)
  gymnasium.register('Short-v0', Probe, max_episode_steps=3)
  yield
  for name in ('Probe-v0', 'Old-v0', 'Old-v2', 'Short-v0'):
    del gymnasium.registry[name]


def begin(env, seed=0):
  count = env.num_envs
  actions = (
    np.zeros(count, np.int32)
    if env.spec.discrete
    else np.zeros((count, env.spec.num_actions), np.float32)
  )
  return env.step(actions, np.ones(count, bool), np.full(count, seed))


def shapes(env):
  return {name: (array.shape, array.dtype) for name, array in env.spec.observation.items()}


# Against Gymnasium's own environments.


@pytest.mark.parametrize(
  'name', ['CartPole-v1', 'Pendulum-v1', 'FrozenLake-v1', 'Blackjack-v1', 'InvertedPendulum-v5']
)
def test_the_convention(name):
  check(Gym(name, 2))


def test_cartpole_is_gymnasiums_own():
  env, other = Gym('CartPole-v1', 1), gymnasium.make('CartPole-v1')
  policy = random_policy(env.spec, 0)
  timestep = begin(env, seed=7)
  expected, _ = other.reset(seed=7)
  lengths = []
  for count in range(200):
    np.testing.assert_array_equal(timestep.observation['state'][0], expected)
    if timestep.is_last[0]:
      lengths.append(count)
      timestep, (expected, _) = begin(env, seed=count), other.reset(seed=count)
      continue
    action = policy(timestep)
    timestep = env.step(action, NONE, np.array([0]))
    expected, reward, terminated, _, _ = other.step(int(action[0]))
    assert (
      timestep.reward[0] == reward and timestep.is_last[0] == timestep.is_terminal[0] == terminated
    )
  assert lengths


def test_the_ids_own_time_limit_is_no_terminal_state():
  env = Gym('Pendulum-v1', 1)
  timestep = begin(env)
  for count in range(1, 201):
    timestep = env.step(np.zeros((1, 1), np.float32), NONE, np.array([0]))
    assert (timestep.is_last[0], timestep.is_terminal[0]) == (count == 200, False)


def test_mujoco_environments_that_draw_in_turns_draw_themselves():
  # Gymnasium itself draws all of them with the context that was made last.
  pytest.importorskip('mujoco')
  options = dict(observe='render', width=64, height=64)
  push = np.ones((1, 1), np.float32)

  def play(env, between):
    images = [begin(env).observation['image'][0]]
    for _ in range(3):
      between()
      images.append(env.step(push, NONE, np.array([0])).observation['image'][0])
    env.close()
    return np.stack(images)

  alone = play(Gym('InvertedPendulum-v5', 1, **options), lambda: None)
  env, other = Gym('InvertedPendulum-v5', 1, **options), Gym('Hopper-v5', 2, **options)
  np.testing.assert_array_equal(play(env, lambda: begin(other)), alone)
  assert (alone[0] != alone[-1]).any()
  other.close()


def test_cartpole_by_pixels():
  pytest.importorskip('pygame', reason='CartPole draws with pygame, which is not installed')
  env = Gym('CartPole-v1', 2, observe='render')
  assert shapes(env) == {'image': ((64, 64, 3), np.uint8)}
  check(env, steps=12)
  image = begin(env).observation['image'][0]
  assert (image.max((0, 1)) == 255).all() and (image.sum(-1) < 100).any()  # a black cart on white


# Names.


@pytest.mark.parametrize(
  'given, name',
  [
    ('CartPole-v1', 'CartPole-v1'),
    ('cartpole-v0', 'CartPole-v0'),
    ('Old', 'Old-v2'),
    ('old-v0', 'Old-v0'),
    ('gymnasium:Probe-v0', 'gymnasium:Probe-v0'),
  ],
)
def test_names(given, name):
  assert Gym.canonical(given) == name
  check(Gym(given, 1), steps=2)


@pytest.mark.parametrize(
  'name, message',
  [
    ('CartPol-v1', "^unknown Gymnasium id 'CartPol-v1': did you mean 'CartPole-v[01]'.*registered"),
    ('', "^unknown Gymnasium id ''"),
    (
      'no_package:X-v0',
      "^'no_package:X-v0' asks for the package 'no_package', which cannot be imported",
    ),
    ('gymnasium:Prob-v0', "^unknown Gymnasium id 'Prob-v0': did you mean 'Probe-v0'"),
  ],
)
def test_an_unknown_id_is_one_line(name, message):
  with pytest.raises(ValueError, match=message) as error:
    Gym.canonical(name)
  assert '\n' not in str(error.value)


# Observations.


@pytest.mark.parametrize(
  'space, expected',
  [
    (spaces.Box(-1, 1, (4,)), {'state': ((4,), np.float32)}),
    (spaces.Box(-1, 1, (2, 3), np.float64), {'state': ((6,), np.float32)}),
    (spaces.Box(0, 255, (128,), np.uint8), {'state': ((128,), np.float32)}),
    (spaces.Discrete(5, start=2), {'state': ((5,), np.float32)}),
    (spaces.MultiDiscrete([2, 3]), {'state': ((5,), np.float32)}),
    (spaces.MultiBinary(3), {'state': ((3,), np.float32)}),
    (spaces.Box(0, 255, (96, 80, 3), np.uint8), {'image': ((64, 64, 3), np.uint8)}),
    (spaces.Box(0, 255, (64, 64, 1), np.uint8), {'image': ((64, 64, 3), np.uint8)}),
    (spaces.Box(0, 255, (20, 30), np.uint8), {'image': ((64, 64, 3), np.uint8)}),
    (
      spaces.Dict(hand=spaces.Box(-1, 1, (4,)), arm=spaces.Dict(angle=spaces.Box(-1, 1, (2,)))),
      {'hand': ((4,), np.float32), 'arm_angle': ((2,), np.float32)},
    ),
    (
      spaces.Dict(camera=spaces.Box(0, 255, (84, 84, 3), np.uint8), reward=spaces.Box(-1, 1, (1,))),
      {'image': ((64, 64, 3), np.uint8), 'reward_observed': ((1,), np.float32)},
    ),
    (
      spaces.Dict(
        left=spaces.Box(0, 255, (84, 84, 3), np.uint8),
        right=spaces.Box(0, 255, (84, 84, 3), np.uint8),
      ),
      {'left': ((64, 64, 3), np.uint8), 'right': ((64, 64, 3), np.uint8)},
    ),
  ],
)
def test_observations(space, expected):
  env = Gym('Probe-v0', 2, observation=space)
  assert shapes(env) == expected
  check(env)


def test_discrete_observations_are_one_hot():
  env, other = (Gym('Probe-v0', 1, observation=spaces.Discrete(5, start=2)) for _ in range(2))
  rows = []
  for seed in range(20):
    rows.append(begin(env, seed).observation['state'][0].tolist())
    value, _ = other._simulators[0].reset(seed=seed)
    assert rows[-1] == [float(value == choice) for choice in (2, 3, 4, 5, 6)]
  assert len(set(map(tuple, rows))) == 5


def test_entries_of_a_dict_keep_their_values():
  space = spaces.Dict(
    a=spaces.Box(0, 1, (2,)), b=spaces.Dict(c=spaces.Box(5, 6, (2,)), d=spaces.Box(8, 9, (1,)))
  )
  observation = begin(Gym('Probe-v0', 1, observation=space)).observation
  assert {name: int(array[0, 0]) for name, array in observation.items()} == {
    'a': 0,
    'b_c': 5,
    'b_d': 8,
  }


@pytest.mark.parametrize(
  'space, message',
  [
    (spaces.Text(4), r'^Probe-v0: nothing is left to observe of state \(Text\)'),
    (
      spaces.Dict(x=spaces.Sequence(spaces.Discrete(2))),
      r'^Probe-v0: nothing is left to observe of x \(Sequence\)',
    ),
    (
      spaces.Box(-9, 9, (40, 84, 84), np.float32),
      "observation 'state' .* would be a vector of 282240 numbers; a picture has numbers in",
    ),
    (
      spaces.Box(0, 255, (84, 84, 3), np.int32),
      'would be a vector of 21168 numbers; config.env.read=NAME:picture reads it as one',
    ),
    (
      spaces.Dict(a=spaces.Dict(b=spaces.Discrete(2)), a_b=spaces.Discrete(2)),
      'would have one name of a_b',
    ),
  ],
)
def test_unsupported_observations_are_one_line(space, message):
  with pytest.raises(ValueError, match=message) as error:
    Gym('Probe-v0', 1, observation=space)
  assert '\n' not in str(error.value)


def test_render_beside_vectors():
  space = spaces.Dict(
    image=spaces.Box(0, 255, (16, 16, 3), np.uint8), state=spaces.Box(-1, 1, (2,))
  )
  env = Gym('Probe-v0', 2, observe='both', observation=space)
  assert list(shapes(env)) == ['image_observed', 'state', 'image']
  check(env)
  assert list(shapes(Gym('Probe-v0', 1, observe='render', observation=space))) == ['image']
  begin(env)
  timestep = env.step(np.zeros(2, np.int32), np.array([True, False]), np.zeros(2, int))
  assert timestep.observation['image'].mean((1, 2, 3)).tolist() == [0, 1]


def test_what_cannot_be_drawn_is_one_line(monkeypatch):
  with pytest.raises(
    EnvironmentFault, match=r'^Probe-v0: its render returned uint8 \[40, 60\], not a picture uint8'
  ):
    Gym('Probe-v0', 1, observe='render', drawn=np.zeros((40, 60), np.uint8))
  monkeypatch.setattr(Probe, 'metadata', {'render_modes': []})
  with warnings.catch_warnings(), pytest.raises(ValueError, match='^Probe-v0 draws no pictures'):
    warnings.simplefilter('ignore')
    Gym('Probe-v0', 1, observe='render')
  with pytest.raises(ValueError, match="observe is 'pixels': it must be one of auto, render"):
    Gym('Probe-v0', 1, observe='pixels')


def test_a_missing_package_is_one_line(monkeypatch):
  monkeypatch.setitem(sys.modules, 'pygame', None)
  with pytest.raises(
    RuntimeError, match='^CartPole-v1 cannot draw: pygame is not installed, run .pip'
  ) as error:
    Gym('CartPole-v1', 1, observe='render')
  assert '\n' not in str(error.value)
  with pytest.raises(RuntimeError, match='^LunarLander-v3 cannot be made: '):
    monkeypatch.setitem(sys.modules, 'Box2D', None)
    monkeypatch.delitem(sys.modules, 'gymnasium.envs.box2d', raising=False)
    Gym('LunarLander-v3', 1)


def test_an_option_that_does_not_exist_is_one_line():
  with pytest.raises(
    ValueError, match=r"^CartPole-v1 does not take \{'colour': 3\}: .*it takes sutton_barto_reward"
  ) as error:
    Gym('CartPole-v1', 1, colour=3)
  assert '\n' not in str(error.value)


def test_options_of_the_environment_may_have_any_name():
  taken = []
  make = lambda render_mode=None, **options: taken.append(options) or Probe()
  options = {'size': 5, 'suite': 1, 'task': 'push', 'timeout': 0.5}
  gymnasium.register('Own-v0', make)
  try:
    envs.make('gym', 'Own-v0', 1, **options)
  finally:
    del gymnasium.registry['Own-v0']
  assert taken == [options]


def test_an_environment_may_write_into_its_options():
  goals = [1, 2]
  made = []
  gymnasium.register('Own-v0', lambda goals: made.append(goals.pop()) or Probe())
  try:
    envs.make('gym', 'Own-v0', 2, goals=goals)
  finally:
    del gymnasium.registry['Own-v0']
  assert made == [2, 2] and goals == [1, 2]


# Pictures.


def exact_areas(image, size):
  """Each target pixel's mean by brute force: enlarge until the grids fit, then average blocks."""
  for axis in (0, 1):
    image = image.astype(float).repeat(size // np.gcd(size, image.shape[axis]), axis)
  height, width = image.shape[:2]
  return image.reshape(size, height // size, size, width // size, -1).mean((1, 3))


@pytest.mark.parametrize(
  'shape', [(96, 80, 3), (20, 30, 3), (64, 100, 3), (210, 160, 3), (7, 7, 3)]
)
def test_pictures_are_resized_by_area(shape):
  image = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
  resized = readings.picture(image, 64)
  assert resized.dtype == np.uint8
  assert abs(resized - exact_areas(image, 64)).max() <= 0.51  # rounding only


def test_pictures_of_the_right_size_and_grey_ones():
  image = np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)
  np.testing.assert_array_equal(readings.picture(image, 64), image)
  for grey in (image[..., 0], image[..., :1]):
    np.testing.assert_array_equal(readings.picture(grey, 64), image[..., :1].repeat(3, -1))
  gradient = np.arange(128, dtype=np.uint8)[:, None].repeat(128, 1)
  assert (np.diff(readings.picture(gradient, 64)[:, 0, 0].astype(int)) == 2).all()  # upright


# Actions, rewards and ends.


def taken(space, action):
  env = Gym('Probe-v0', 1, action=space)
  begin(env)
  env.step(np.asarray([action]), NONE, np.array([0]))
  return env._simulators[0]._env.unwrapped.taken[-1]


def test_continuous_actions_are_stretched_to_the_bounds():
  space = spaces.Box(np.array([-2, 0, 10], np.float32), np.array([2, 1, 30], np.float32))
  for action, expected in (
    ([-1, -1, -1], [-2, 0, 10]),
    ([0, 0, 0], [0, 0.5, 20]),
    ([1, 0.5, 9], [2, 0.75, 30]),
  ):
    result = taken(space, np.array(action, np.float32))
    assert result.dtype == np.float32 and space.contains(result)
    np.testing.assert_allclose(result, expected)
  assert taken(spaces.Box(-1, 1, (2, 2), np.float64), np.array([1, 0, -1, 0.5])).tolist() == [
    [1, 0],
    [-1, 0.5],
  ]


def test_unbounded_actions_stay_and_a_warning_says_so():
  space = spaces.Box(
    np.array([-np.inf, -4, 0.5, -3e38], np.float32), np.array([np.inf, 4, np.inf, 3e38], np.float32)
  )
  with pytest.warns(
    UserWarning, match=r'Probe-v0: 2 of 4 dimensions .* no bounds; .* only the numbers in \[-1, 1\]'
  ):
    result = taken(space, np.array([5, 1, -1, 0.25], np.float32))
  np.testing.assert_allclose(result, [1, 4, 0.5, 0.25])


def test_discrete_actions():
  assert taken(spaces.Discrete(3, start=-1), 0) == -1
  assert taken(spaces.Discrete(3, start=-1), 2) == 1
  for action in (3, -1):
    with pytest.raises(ValueError, match=f'Probe-v0 has actions 0 to 2; got {action}'):
      taken(spaces.Discrete(3), action)


def test_nested_actions_reach_the_environment():
  space = spaces.Dict(arm=spaces.Box(0, 4, (1,)), move=spaces.MultiDiscrete([3, 2], start=[1, 0]))
  env = Gym('Probe-v0', 2, action=space)
  assert (env.spec.num_actions, env.spec.choices) == (6, (3, 2))
  assert env.spec.readings[1] == (
    'actions: arm [1]: [-1, 1] stretched to [0, 4]; move [2]: 1 of 3; 1 of 2'
  )
  check(env)
  result = taken(space, np.array([0, 0, 1, 1, 0, 0.5], np.float32))
  assert (result['move'].tolist(), result['arm'].tolist()) == ([3, 0], [3])


@pytest.mark.parametrize(
  'space',
  [
    spaces.Text(4),
    spaces.Box(0, 9, (2,), np.int32),
    spaces.Dict(a=spaces.Graph(spaces.Discrete(2), None)),
  ],
)
def test_unsupported_actions_are_one_line(space):
  with pytest.raises(
    ValueError,
    match="^Probe-v0: the action '(action|a)' is a .*: supported are Discrete, .* Box of",
  ):
    Gym('Probe-v0', 1, action=space)


@pytest.mark.parametrize('repeat, rewards', [(1, [1] * 8), (3, [3, 3, 2])])
def test_a_repeat_sums_rewards_and_stops_at_the_end(repeat, rewards):
  env = Gym('Probe-v0', 1, action_repeat=repeat)
  assert begin(env).reward[0] == 0
  for count, reward in enumerate(rewards, 1):
    timestep = env.step(np.zeros(1, np.int32), NONE, np.array([0]))
    assert timestep.reward[0] == reward
    assert timestep.is_last[0] == timestep.is_terminal[0] == (count == len(rewards))


@pytest.mark.parametrize(
  'name, limit, steps, terminal',
  [
    ('Short-v0', 0, 3, False),
    ('Short-v0', 5, 5, False),
    ('Short-v0', 100, 8, True),
    ('Probe-v0', 2, 2, False),
  ],
)
def test_the_time_limit_replaces_the_ids_own(name, limit, steps, terminal):
  env = Gym(name, 1, time_limit=limit)
  begin(env)
  for count in range(1, steps + 1):
    timestep = env.step(np.zeros(1, np.int32), NONE, np.array([0]))
    assert timestep.is_last[0] == (count == steps)
  assert timestep.is_terminal[0] == terminal


def test_the_time_limit_counts_steps_not_frames():
  env = Gym('Probe-v0', 1, action_repeat=2, time_limit=3)
  begin(env)
  ends = [env.step(np.zeros(1, np.int32), NONE, np.array([0])).is_last[0] for _ in range(3)]
  assert ends == [False, False, True]


def test_a_success_of_the_info_is_measured():
  env = Gym('Probe-v0', 1, success='won')
  check(env)
  begin(env)
  won = [
    env.step(np.zeros(1, np.int32), NONE, np.array([0])) and float(env.measures['success'][0])
    for _ in range(8)
  ]
  assert won == [0, 0, 0, 0, 1, 0, 0, 0]
  begin(env)
  assert env.measures['success'][0] == 0 and Gym('Probe-v0', 1).measures == {}


@pytest.mark.parametrize('told', [True, False])
def test_an_end_by_a_limit_of_old_is_not_terminal(monkeypatch, told):
  """What was ported from Gym ends by a limit as by all else, and says so in its info."""
  whole, info = Probe.step, {'TimeLimit.truncated': told}
  monkeypatch.setattr(Probe, 'step', lambda self, a: (*whole(self, a)[:4], info))
  env = Gym('Probe-v0', 1)
  begin(env)
  ends = [env.step(np.zeros(1, np.int32), NONE, np.array([0]))[3:] for _ in range(8)]
  assert [bool(last[0]) for last, _ in ends] == [False] * 7 + [True]
  assert [bool(terminal[0]) for _, terminal in ends] == [False] * 7 + [not told]


@pytest.mark.parametrize('name', ['NormalizeReward', 'NormalizeObservation'])
def test_running_statistics_are_refused(name):
  """An evaluation's environment has its own: a score would be in units that nobody knows."""
  with pytest.raises(ValueError, match=f'^Probe-v0: its wrapper {name} normalises by running'):
    Gym(
      'Probe-v0',
      1,
      wrappers=('gymnasium.wrappers:FlattenObservation', f'gymnasium.wrappers:{name}'),
    )
  Gym('Probe-v0', 1, wrappers=('gymnasium.wrappers:FlattenObservation',))


@pytest.mark.parametrize('share', [0.25, np.nan, 'no', np.array([1, 1])])
def test_what_says_no_success_is_not_counted_as_one(monkeypatch, share):
  """A share of the way, such as PushT's coverage, is not the goal."""
  whole = Probe.step
  monkeypatch.setattr(Probe, 'step', lambda self, a: (*whole(self, a)[:4], {'share': share}))
  env = Gym('Probe-v0', 1, success='share')
  env.step(np.zeros(1, np.int32), ALL, np.array([0]))
  with pytest.raises(EnvironmentFault, match="info has 'share' .* expected true or false"):
    env.step(np.zeros(1, np.int32), NONE, np.array([0]))


def test_a_success_within_a_repeat_counts():
  """It is won in the fifth of eight steps, which is the second of three that are repeated."""
  env = Gym('Probe-v0', 1, success='won', action_repeat=3)
  begin(env)
  won = []
  for _ in range(3):
    env.step(np.zeros(1, np.int32), NONE, np.array([0]))
    won.append(float(env.measures['success'][0]))
  assert won == [0, 1, 0]


def test_an_episode_is_a_function_of_its_seed():
  env, used = Gym('FrozenLake-v1', 1), Gym('FrozenLake-v1', 1)

  def play(env, seed):
    rng, timesteps = np.random.default_rng(seed), [begin(env, seed)]
    while not timesteps[-1].is_last[0]:
      timesteps.append(env.step(rng.integers(4, size=1), NONE, np.array([0])))
    return timesteps

  play(used, 1)
  episodes = [play(env, seed) for seed in range(8)]
  chex.assert_trees_all_equal(episodes, [play(used, seed) for seed in range(8)])
  assert len({len(episode) for episode in episodes}) > 1
