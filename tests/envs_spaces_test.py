"""How observation spaces are read, and that nothing which does not fit its space is misread."""

import importlib
import itertools
import sys
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from harmony_jax.envs import random_policy
from harmony_jax.envs import spaces as readings
from harmony_jax.envs.episodes import Episodes
from harmony_jax.envs.gym import Gym
from harmony_jax.errors import EnvironmentFault

U8 = np.uint8
box = spaces.Box


def read(space, **how):
  """{name: (words, shape)} of a space's entries, and what is left out."""
  found, left = readings.entries(space, 64, **how)
  return {each.name: (each.words.partition(': ')[2], each.spec.shape) for each in found}, left


PICTURE = (64, 64, 3)


@pytest.mark.parametrize(
  'space, words, shape',
  [
    (box(0, 255, (96, 80, 3), U8), 'picture 96×80×3 → 64×64', PICTURE),
    (box(0, 255, (84, 84), U8), 'grey picture 84×84 → 64×64', PICTURE),
    (box(0, 255, (3, 84, 80), U8), 'picture 3×84×80 (channels first) → 64×64', PICTURE),
    (box(0, 1, (32, 32, 3), np.float32), 'picture 32×32×3, × 255 → 64×64', PICTURE),
    (box(0, 255, (32, 32, 3), np.float32), 'picture 32×32×3 → 64×64', PICTURE),
    (box(0, 255, (48, 48, 4), U8), 'picture 48×48×4, of RGBA without A → 64×64', PICTURE),
    (
      box(0, 255, (4, 84, 84), U8),
      'newest of 4 stacked: picture 4×84×84 (channels first) → 64×64',
      PICTURE,
    ),
    (
      box(0, 255, (9, 84, 84), U8),
      'newest of 3 stacked: picture 9×84×84 (channels first) → 64×64',
      PICTURE,
    ),
    (box(0, 255, (4, 84, 84, 3), U8), 'newest of 4 stacked pictures 4×84×84×3 → 64×64', PICTURE),
    (box(0, 255, (7, 7, 3), U8), 'vector of 147 of 7×7×3', (147,)),  # codes
    (box(0, 2, (20, 20), U8), 'vector of 400 of 20×20', (400,)),  # a board
    (box(0, 255, (128,), U8), 'vector of 128', (128,)),
    (box(-1, 1, (20, 20, 3), np.float32), 'vector of 1200 of 20×20×3', (1200,)),
    (box(-1, 1, (), np.float64), 'vector of 1', (1,)),
    (spaces.Discrete(5, start=2), 'one-hot of 5', (5,)),
  ],
)
def test_readings(space, words, shape):
  assert read(space) == ({'image' if shape == PICTURE else 'state': (words, shape)}, [])


def test_a_picture_is_the_same_in_every_layout():
  """Upright, in its colours, the newest of a stack; floats are rounded."""
  rng = np.random.default_rng(0)
  image, older = rng.integers(256, size=(2, 64, 64, 3), dtype=U8)
  grey = image[..., 0]
  layouts = {
    'colours': (
      image,
      [
        image,
        image.transpose(2, 0, 1),
        np.stack([older, image]),
        np.concatenate([older, image], -1),
        np.concatenate([older, image], -1).transpose(2, 0, 1),
        np.concatenate([image, np.full_like(image[..., :1], 255)], -1),
      ],
    ),
    'grey': (
      grey[..., None].repeat(3, -1),
      [
        grey,
        grey[..., None],
        grey[None],
        np.stack([older[..., 0], older[..., 1], older[..., 2], grey]),
        np.stack([older[..., 0], grey]),
      ],
    ),
  }
  for expected, given_ in layouts.values():
    for array in given_:
      for dtype, scale in ((U8, 1), (np.float32, 1), (np.float32, 255), (np.float64, 255)):
        space = box(0, 255 if scale == 1 else 1, array.shape, dtype)
        (entry,), _ = readings.entries(space, 64)
        found = entry.read((array / scale).astype(dtype))
        np.testing.assert_array_equal(found, expected, err_msg=entry.words)


NESTED = spaces.Dict(
  image=box(0, 255, (7, 7, 3), U8),
  mission=spaces.Text(40),
  arm=spaces.Dict(pos=box(-1, 1, (2,)), vel=box(-1, 1, (2,))),
  direction=spaces.Discrete(4),
)


def test_entries_are_chosen_left_out_and_read_as_told():
  found, left = read(NESTED)
  assert set(found) == {'image', 'arm_pos', 'arm_vel', 'direction'} and left == ['mission (Text)']
  found, left = read(NESTED, keys=('arm_*', 'image'), ignore=('*_vel',), read=('image:codes11',))
  assert found == {
    'image': ('7×7×3 one-hots of 11 codes', (7 * 7 * 3 * 11,)),
    'arm_pos': ('vector of 2', (2,)),
  }
  assert sorted(left) == [
    f'{name} (by the options)' for name in ('arm_vel', 'direction', 'mission')
  ]
  for how, words in (
    ({'keys': ('arms*',)}, "no observation fits 'arms\\*': there are image, mission, "),
    ({'read': ('image:pictrue',)}, 'expected NAME:picture, NAME:vector, NAME:codes'),
    ({'read': ('image:picture',)}, "'image' 7×7×3 uint8 in .* cannot be a picture"),
    ({'read': ('arm_pos:codes',)}, 'codes are whole numbers of a Box'),
    ({'read': ('image:codes',)}, 'say how many codes there are'),
    ({'keys': ('mission',)}, 'holds no numbers'),
    ({'ignore': ('*',)}, 'nothing is left to observe'),
  ):
    with pytest.raises(ValueError, match=words):
      readings.entries(NESTED, 64, **how)


def test_no_observation_takes_the_place_of_another():
  names = {'action': box(-1, 1, (2,)), 'action_observed': box(-1, 1, (2,))}
  with pytest.raises(ValueError, match='would have one name of action_observed, action_observed'):
    read(spaces.Dict(names))


def test_what_has_no_numbers_is_left_out():
  assert read(spaces.Dict(a=box(-1, 1, (2,)), b=box(-1, 1, (0,))))[1] == ['b (Box of [0])']


def test_few_bits_hold_what_was_given():
  (entry,), _ = readings.entries(box(-np.inf, np.inf, (2,), np.float16), 64)
  np.testing.assert_array_equal(entry.read(np.array([70_000.0, 1 / 3])), np.float32([7e4, 1 / 3]))


def test_what_cannot_be_pixels_is_no_picture():
  """Numbers below 0 would wrap around, and whole ones from 0 to 1 would be black."""
  told = {'read': ('state:picture',)}
  for low, high in ((-1, 1), (0, np.inf), (0, 1000)):
    with pytest.raises(ValueError, match=r'cannot be a picture: numbers in \[0, 255\] or \[0, 1\]'):
      readings.entries(box(low, high, (16, 16, 3), np.float32), 64, **told)
  mask = np.random.default_rng(0).integers(2, size=(64, 64, 1), dtype=U8)
  (entry,), _ = readings.entries(box(0, 1, mask.shape, U8), 64, **told)
  np.testing.assert_array_equal(entry.read(mask), 255 * mask.repeat(3, -1))


def test_codes_are_one_hot():
  space = box(0, 3, (2, 2), np.int64)
  (entry,), _ = readings.entries(space, 64, read=('state:codes',))
  assert entry.read(np.array([[0, 3], [1, 1]])).reshape(4, 4).argmax(-1).tolist() == [0, 3, 1, 1]
  (entry,), _ = readings.entries(box(0, 255, (2,), U8), 64, read=('*:codes3',))
  with pytest.raises(ValueError, match='has the code 3: read as 3 codes from 0'):
    entry.read(np.array([0, 3], U8))


# --------------------------------------------------------------------------------------------------
# What does not fit


class Elsewhere:
  """A tensor on a device."""

  def __array__(self, *unused, **unknown):
    raise TypeError('cannot convert cuda:0 to numpy')


@pytest.mark.parametrize(
  'space, value, words',
  [
    (box(-1, 1, (3,)), np.zeros(4), r'declared 3 float32 in \[-1, 1\] but is 4 float64'),
    (box(-1, 1, (3,)), [1, 'x', 2], 'but is <U'),
    (box(-1, 1, (3,)), None, 'but is NoneType'),
    (box(-1, 1, (3,)), [[1, 2], [3]], 'but is list'),
    (box(-1, 1, (3,)), Elsewhere(), 'but is Elsewhere: cannot convert cuda:0 to numpy'),
    (spaces.Discrete(3), Elsewhere(), 'but is Elsewhere: cannot convert'),
    (box(-1, 1, (3,)), np.array(['2020'] * 3, 'M8[Y]'), 'but is datetime64'),
    (box(-1, 1, (3,)), np.array([1, np.nan, 0]), 'has nan in it'),
    (box(0, 255, (16, 16, 3), U8), np.zeros((16, 16, 3)), 'uint8 .* but is 16×16×3 float64'),
    (box(0, 255, (16, 16, 3), U8), np.full((16, 16, 3), 300), r'int64 in \[300, 300\]'),
    (box(0, 1, (16, 16, 3)), np.full((16, 16, 3), 255.0), r'float32 in \[0, 1\] but is'),
    (box(0, 9, (2,), np.int32), np.array([0, 10]), r'in \[0, 9\] but is 2 int64 in \[0, 10\]'),
    (spaces.Discrete(3), 3, r'declared Discrete\(3\) but is'),
    (spaces.Discrete(3), 1.5, 'but is one number float64'),
    (spaces.MultiDiscrete([2, 3]), [1, 3], 'but is 2 int64'),
    (spaces.MultiBinary(2), [0, 2], 'but is 2 int64'),
    (spaces.Dict(a=box(-1, 1, (1,))), {'b': np.zeros(1)}, "no 'a', which its space declares"),
    (spaces.Dict(a=box(-1, 1, (1,))), np.zeros(1), "no 'a', which its space declares"),
  ],
)
def test_what_does_not_fit_is_one_line(space, value, words):
  (entry,), _ = readings.entries(space, 64)
  with pytest.raises(ValueError, match=words) as error:
    entry.read(value)
  assert '\n' not in str(error.value)


def test_vectors_outside_their_bounds_are_taken_and_told_once():
  (entry,), _ = readings.entries(box(-1, 1, (2,)), 64)
  with pytest.warns(UserWarning, match=r'in \[-1, 1\] but is 2 float64 in \[0, 5\]: taken as it'):
    assert entry.read(np.array([0.0, 5.0])).tolist() == [0, 5]
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    entry.read(np.array([0.0, 7.0]))


# --------------------------------------------------------------------------------------------------
# Environments that break Gymnasium's conventions


class Honest(gymnasium.Env):
  """One number and one of two actions, five steps."""

  metadata = {'render_modes': []}
  observation_space, action_space = box(-1, 1, (1,)), spaces.Discrete(2)

  def reset(self, *, seed=None, options=None):
    super().reset(seed=seed)
    self.time = 0
    return np.zeros(1, np.float32), {}

  def step(self, action):
    self.time += 1
    return np.zeros(1, np.float32), 1.0, self.time == 5, False, {'is_success': True}


def old_reset(self, *, seed=None, options=None):
  return Honest.reset(self, seed=seed)[0]


def no_seed(self):
  return Honest.reset(self)


def other_actions(self, **how):
  self.action_space = spaces.Discrete(3)
  return Honest.reset(self, **how)


def raises(self, *args, **kwargs):
  raise ConnectionError('simulator not started\non port 1234')


def stepping(change):
  """A step whose result is changed in the third."""

  def step(self, action):
    result = Honest.step(self, action)
    return change(*result) if self.time == 3 else result

  return step


BROKEN = {
  'old reset': ({'reset': old_reset}, r'its reset returned float32 \[1\]: reset\(seed=…'),
  'no seed': (
    {'reset': no_seed},
    'its reset raised TypeError: .*seed.* returns .observation, info',
  ),
  'reset raises': (
    {'reset': raises},
    'its reset raised ConnectionError: simulator not started on port 1234, at its start$',
  ),
  'step raises': ({'step': raises}, 'its step raised ConnectionError: .* in step 1 of an episode$'),
  'old step': (
    {'step': stepping(lambda *x: (*x[:3], x[4]))},
    r'its step returned \(float32 \[1\], float, bool, dict\): .* in step 3 of an episode',
  ),
  'no info': (
    {'reset': lambda self, **how: (Honest.reset(self, **how)[0], None)},
    r'its reset returned \(float32 \[1\], NoneType\): reset',
  ),
  'exits': ({'step': stepping(lambda *x: sys.exit(0))}, 'its step raised SystemExit: 0, in step 3'),
  'other actions': (
    {'reset': other_actions},
    r'its action_space is Discrete\(3\), before its reset it had Discrete\(2\): an agent has one',
  ),
  'reward elsewhere': (
    {'step': stepping(lambda o, r, *x: (o, Elsewhere(), *x))},
    'its reward is Elsewhere, not one number',
  ),
  'end elsewhere': (
    {'step': stepping(lambda o, r, t, *x: (o, r, Elsewhere(), *x))},
    'its end is Elsewhere, not true or false',
  ),
  'complex reward': (
    {'step': stepping(lambda o, r, *x: (o, 1j, *x))},
    'its reward is complex, not',
  ),
  'two rewards': (
    {'step': stepping(lambda o, r, *x: (o, np.array([r, r]), *x))},
    r'its reward is float64 \[2\], not one number: .*wrappers=',
  ),
  'no reward': ({'step': stepping(lambda o, r, *x: (o, None, *x))}, 'its reward is NoneType'),
  'huge reward': (
    {'step': stepping(lambda o, r, *x: (o, 1e39, *x))},
    r'its reward is 1e\+39, which float32 does not hold, in step 3',
  ),
  'nan reward': ({'step': stepping(lambda o, r, *x: (o, np.nan, *x))}, 'its reward is nan'),
  'many ends': (
    {'step': stepping(lambda o, r, t, *x: (o, r, np.zeros(2), *x))},
    r'its end is float64 \[2\]',
  ),
  'wrong shape': (
    {'step': stepping(lambda o, *x: (np.zeros(2), *x))},
    "its observation 'state' is declared 1 float32 .* but is 2 float64 .* in step 3",
  ),
  'constructor': ({'__init__': raises}, 'cannot be made: ConnectionError: .*gymnasium.make'),
}


@pytest.fixture
def register():
  """Registers a class as 'Odd-v0' for one test."""

  def register(of, **how):
    gymnasium.register('Odd-v0', of, **how)

  yield register
  gymnasium.registry.pop('Odd-v0', None)


def play(env, steps=8):
  """Random steps; the time steps."""
  episodes, policy = Episodes(env, 0, 'train'), random_policy(env.spec, 0)
  shown = [episodes.step(None)]
  for _ in range(steps):
    shown.append(episodes.step(policy(shown[-1])))
  return shown


@pytest.mark.parametrize('name', BROKEN)
def test_its_faults_are_its_own(name, register):
  """One line that names the environment, the step, and what Gymnasium expects."""
  methods, words = BROKEN[name]
  register(type('Odd', (Honest,), methods))
  with pytest.raises(EnvironmentFault, match=f'^Odd-v0:? .*{words}') as caught:
    play(Gym('Odd-v0', 1))
  assert '\n' not in str(caught.value)
  assert (caught.value.__cause__ is not None) == (
    'raise' in str(caught.value) or name == 'constructor'
  )


def test_an_end_that_raises_changes_nothing(register):
  register(type('Odd', (Honest,), {'close': raises}))
  with pytest.warns(UserWarning, match='^Odd-v0: its close raised ConnectionError: simulator not'):
    Gym('Odd-v0', 1).close()


def test_actions_are_the_same_in_all_of_them(register):
  bounds = itertools.count(1)
  init = lambda self: setattr(self, 'action_space', box(-1, next(bounds), (1,)))
  register(type('Odd', (Honest,), {'__init__': init}))
  with pytest.raises(EnvironmentFault, match=r'action_space is Box\(-1.0, 2.0, .* another one of'):
    Gym('Odd-v0', 2)


def test_one_limit_of_steps_is_said_once(register):
  register(Honest)
  with pytest.raises(ValueError, match='time_limit and config.env.max_episode_steps are one'):
    Gym('Odd-v0', 1, time_limit=3, max_episode_steps=5)


def test_a_success_that_is_never_told_is_a_warning(register):
  register(Honest)
  with pytest.warns(
    UserWarning, match="'is_sucess', so its success is 0: at the end there was is_"
  ):
    play(Gym('Odd-v0', 1, success='is_sucess'))
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    play(Gym('Odd-v0', 1, success='is_success'))


def test_a_picture_that_never_changes_is_a_warning(register):
  class Black(Honest):
    observation_space = box(0, 255, (16, 16, 3), U8)

    def reset(self, **how):
      return np.zeros((16, 16, 3), U8), Honest.reset(self, **how)[1]

    def step(self, action):
      return np.zeros((16, 16, 3), U8), *Honest.step(self, action)[1:]

  register(Black)
  with pytest.warns(UserWarning, match=r"picture 'image' has not changed in 100 steps \(all 0\)"):
    play(Gym('Odd-v0', 1), 120)


@pytest.mark.parametrize(
  'space, picture, told',
  [
    (box(0, 255, (16, 16, 3), np.float32), lambda rng: rng.uniform(size=(16, 16, 3)), 'of 255'),
    (box(0, 255, (16, 16), U8), lambda rng: rng.integers(11, size=(16, 16)), 'above 10 of 255'),
    (box(0, 255, (16, 16, 4), U8), lambda rng: rng.integers(256, size=(16, 16, 4)), 'A of RGBA'),
    (box(0, 1, (16, 16), np.float32), lambda rng: rng.uniform(size=(16, 16)), ''),
    (box(0, 255, (16, 16), U8), lambda rng: rng.integers(99, size=(16, 16)), ''),
    (
      box(0, 255, (16, 16, 4), U8),
      lambda rng: np.pad(rng.integers(256, size=(16, 16, 3)), [(0, 0)] * 2 + [(0, 1)]),
      '',
    ),
  ],
)
def test_pictures_that_are_not_what_they_are_declared_are_a_warning(space, picture, told):
  (entry,), _ = readings.entries(space, 64)
  with warnings.catch_warnings(record=True) as found:
    warnings.simplefilter('always')
    rng = np.random.default_rng(0)
    for _ in range(120):
      entry.read(picture(rng).astype(space.dtype))
  assert [told in str(each.message) for each in found] == [True] * bool(told)


def test_a_float_picture_is_rounded_whatever_its_size():
  for side in (64, 128):
    (entry,), _ = readings.entries(box(0, 255, (side, side), np.float32), 64)
    assert (entry.read(np.full((side, side), 254.9, np.float32)) == 255).all()


def test_spaces_are_gymnasiums(register):
  register(type('Odd', (Honest,), {'observation_space': {'a': box(-1, 1, (1,))}}))
  with pytest.raises(EnvironmentFault, match='its observation_space is dict, not one of gymnasium'):
    Gym('Odd-v0', 1)
  register(type('Odd', (Honest,), {'action_space': None}))
  with pytest.raises(EnvironmentFault, match='its action_space is NoneType, not one of gymnasium'):
    Gym('Odd-v0', 1)


def test_a_fault_of_a_constructor_is_not_taken_for_an_option_s(register):
  class Level(Honest):
    def __init__(self, level):
      self.size = level + 'x'

  register(Level)
  with pytest.raises(EnvironmentFault, match='cannot be made: TypeError: unsupported') as caught:
    Gym('Odd-v0', 1, level=3)
  assert caught.value.__cause__


def test_options_reach_the_environment_and_slips_are_told(register):
  class Leveled(Honest):
    def __init__(self, level=1, **others):
      self.level, self.others = level, others

  register(Leveled)
  env = Gym('Odd-v0', 1, level=3, wind=0.5)
  made = env._simulators[0]._env.unwrapped
  assert made.level == 3 and made.others == {'wind': 0.5}
  with pytest.raises(ValueError, match=r"no option 'obsreve': did you mean config.env.observe\?"):
    Gym('Odd-v0', 1, obsreve='render')
  with pytest.raises(
    ValueError, match=r"does not take \{'gravity': 1\}: .*; it takes render_mode, g$"
  ):
    Gym('Pendulum-v1', 1, gravity=1)


def test_wrappers_by_their_path(register):
  register(Honest)
  env = Gym('Odd-v0', 1, wrappers=('tests.envs_spaces_test:Doubled',))
  assert [step.reward[0] for step in play(env, 3)] == [0, 2, 2, 2]
  for path, words in (
    ('Doubled', 'expected my_package:MyWrapper'),
    ('no_package:X', "package 'no_package', which cannot be imported"),
    ('tests.envs_spaces_test:Doubeld', "has no 'Doubeld'"),
  ):
    with pytest.raises(ValueError, match=words):
      Gym('Odd-v0', 1, wrappers=(path,))
  with pytest.raises(EnvironmentFault, match='wrapper gymnasium.wrappers:TimeLimit raised TypeErr'):
    Gym('Odd-v0', 1, wrappers=('gymnasium.wrappers:TimeLimit',))


class Doubled(gymnasium.RewardWrapper):
  """Pays twice."""

  def reward(self, reward):
    return 2 * reward


def test_ids_of_packages():
  assert Gym.canonical('ALE/Pong-v5') == 'ALE/Pong-v5'
  if importlib.util.find_spec('miniworld') is None:
    with pytest.raises(ValueError, match='is of the package miniworld, .*: pip install miniworld'):
      Gym.canonical('MiniWorld-Hallway-v0')
  with pytest.raises(ValueError, match=r"unknown Gymnasium id 'Nothing-like-it' \("):
    Gym.canonical('Nothing-like-it')


# --------------------------------------------------------------------------------------------------
# Any space


def leaf():
  """A space and a strategy of what its environment gives: an array that fits it."""
  shape = st.sampled_from([(), (1,), (5,), (2, 3), (7, 7, 3), (14, 13, 3), (3, 14, 13), (14, 14)])
  dtype = st.sampled_from([U8, np.float32, np.float64, np.int64])
  bounds = st.sampled_from([(0, 255), (0, 1), (0, 3), (-2, 2)])
  boxes = st.builds(
    lambda shape, dtype, low_high: box(
      max(low_high[0], 0 if dtype == U8 else -9), low_high[1], shape, dtype
    ),
    shape,
    dtype,
    bounds,
  )
  counts = st.lists(st.integers(1, 4), min_size=1, max_size=3)
  return st.one_of(
    boxes,
    st.builds(spaces.Discrete, st.integers(1, 6), start=st.integers(-3, 3)),
    counts.map(spaces.MultiDiscrete),
    st.builds(spaces.MultiBinary, st.integers(1, 4)),
    st.just(spaces.Text(5)),
  )


def tree():
  names = st.sampled_from(['a', 'b', 'image', 'state', 'reward'])
  inner = st.dictionaries(names, leaf(), min_size=1, max_size=3)
  return st.one_of(
    leaf(), inner.map(spaces.Dict), st.lists(leaf(), min_size=1, max_size=3).map(spaces.Tuple)
  )


@settings(max_examples=300, deadline=None)
@given(tree(), st.integers(0, 2**31 - 1))
def test_what_reaches_the_agent_is_what_the_environment_gave(space, seed):
  """Vectors are Gymnasium's own flattening, pictures keep their mean; the rest is left out."""
  try:
    found, left = readings.entries(space, 16)
  except ValueError as error:
    assert 'nothing is left' in str(error) and 'Text' in str(error)
    return
  leaves = {
    '_'.join(map(str, path)) or 'state': (path, leaf) for path, leaf in readings.leaves_of(space)
  }
  assert len(found) + len(left) == len(leaves)
  space.seed(seed)
  whole = space.sample()
  for entry in found:
    name = entry.name.removesuffix('_observed')
    if name not in leaves:  # the only picture
      (name,) = [
        n
        for n, (_, each) in leaves.items()
        if readings._numbers(each)
        and readings._layout(each.shape or ())
        and readings._is_picture(each)
      ]
    path, each = leaves[name]
    value = whole
    for key in path:
      value = value[key]
    got = entry.read(whole)
    assert got.shape == entry.spec.shape and got.dtype == entry.spec.dtype
    if len(got.shape) == 3:
      scale = 255 if np.issubdtype(each.dtype, np.floating) and each.high.max() == 1 else 1
      assert abs(got.astype(float).mean() - scale * np.mean(value, dtype=float)) < 1
    else:
      np.testing.assert_allclose(got, np.asarray(spaces.flatten(each, value), np.float32))
