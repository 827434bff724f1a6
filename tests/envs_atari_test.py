"""Atari against the protocol, with ale-py itself and an independent reference."""

import importlib.metadata

import ale_py
import chex
import numpy as np
import pytest

from harmony_jax.envs import Episodes, atari, make, random_policy
from harmony_jax.envs.check import check

ACTIONS = {
  'Alien': 18,
  'Amidar': 10,
  'Assault': 7,
  'Asterix': 9,
  'BankHeist': 18,
  'BattleZone': 18,
  'Boxing': 18,
  'Breakout': 4,
  'ChopperCommand': 18,
  'CrazyClimber': 9,
  'DemonAttack': 6,
  'Freeway': 3,
  'Frostbite': 18,
  'Gopher': 8,
  'Hero': 18,
  'Jamesbond': 18,
  'Kangaroo': 18,
  'Krull': 18,
  'KungFuMaster': 14,
  'MsPacman': 9,
  'Pong': 6,
  'PrivateEye': 18,
  'Qbert': 6,
  'RoadRunner': 18,
  'Seaquest': 18,
  'UpNDown': 6,
}


def play(env, seed, steps, action=None):
  """Time steps of one environment: random actions (from the seed) or always the same one."""
  policy = random_policy(env.spec, seed)
  timestep = env.step(np.zeros(1, np.int32), np.ones(1, bool), np.array([seed]))
  timesteps = [timestep]
  for _ in range(steps):
    actions = policy(timestep) if action is None else np.array([action], np.int32)
    timestep = env.step(actions, timestep.is_last, np.array([seed]))
    timesteps.append(timestep)
  return timesteps


def stack(timesteps):
  return np.stack([timestep.observation['image'][0] for timestep in timesteps])


def test_the_convention():
  check(make('atari', 'Pong', 2), steps=20)


def test_the_26_games_and_their_minimal_actions():
  assert set(ACTIONS) == set(atari.ATARI_100K) and len(atari.ATARI_100K) == 26
  for game, count in ACTIONS.items():
    env = make('atari', game, 1)
    assert (env.game, env.spec.num_actions) == (game, count)
    assert env.spec.discrete and env.spec.action_repeat == 4
    assert env.frame_cap == (5400 if game == 'ChopperCommand' else 108_000)
    env.close()


@pytest.mark.parametrize('name', ['MsPacman', 'mspacman', 'ms_pacman', 'Ms Pacman', 'ms-pacman'])
def test_spellings(name):
  assert atari.game_name(name) == ('MsPacman', 'ms_pacman')


def test_games_beyond_the_26():
  assert atari.game_name('space invaders') == ('SpaceInvaders', 'space_invaders')
  names = [game for game, _ in map(atari.game_name, ale_py.roms.get_all_rom_ids())]
  assert len(set(names)) == len(names) > 100


def test_an_unknown_game_is_one_line_with_the_nearest():
  with pytest.raises(ValueError) as error:
    make('atari', 'Pogn', 1)
  assert str(error.value).startswith(
    "unknown Atari game 'Pogn': did you mean 'Pong'? (26 games: Alien, Amidar, "
  )
  assert '\n' not in str(error.value)


def test_a_missing_rom_is_one_line(tmp_path, monkeypatch):
  monkeypatch.setenv('ALE_ROMS_DIR', str(tmp_path))
  with pytest.raises(RuntimeError, match="^the ROM 'pong.bin' cannot be read") as error:
    make('atari', 'Pong', 1)
  assert '\n' not in str(error.value)


def test_an_action_that_does_not_exist_is_an_error_and_no_deadlock():
  env = make('atari', 'Pong', 1)
  play(env, 0, 1)
  for action in (6, -1):
    with pytest.raises(ValueError, match='Pong has actions 0 to 5'):
      env.step(np.array([action]), np.zeros(1, bool), np.zeros(1, int))
  env.step(np.array([5]), np.zeros(1, bool), np.zeros(1, int))


def test_the_pong_paddle_moves():
  # ale-py 0.10.0 and 0.10.1 ignored paddle actions.
  version = importlib.metadata.version('ale-py')
  assert tuple(int(part) for part in version.split('.')[:3]) >= (0, 10, 2)
  env = make('atari', 'Pong', 1)
  heights = {}
  for action in (2, 3):
    image = stack(play(env, 0, 20, action))[-1].astype(int)
    green = image[..., 1] > image[..., 0] + 20  # the right paddle is, and the score above
    green &= (np.arange(64) > 48) & (np.arange(64)[:, None] >= 10)
    assert green.any()
    heights[action] = np.nonzero(green)[0].mean()
  assert abs(heights[2] - heights[3]) > 20


def test_an_episode_is_a_function_of_its_seed():
  env, other = make('atari', 'Breakout', 1), make('atari', 'Breakout', 1)
  first = play(env, 1, 100)
  differs = play(env, 2, 100)
  chex.assert_trees_all_equal(play(env, 1, 100), first)  # after another episode
  chex.assert_trees_all_equal(play(other, 1, 100), first)  # in another environment
  assert (stack(first) != stack(differs)).any()


def area(source, target):
  """[target, source] weights: each output pixel averages the interval of input that it covers."""
  edges = np.linspace(0, source, target + 1)
  low, high = edges[:-1, None], edges[1:, None]
  pixels = np.arange(source)
  return np.clip(np.minimum(high, pixels + 1) - np.maximum(low, pixels), 0, None) / (
    source / target
  )


def reference(rom, seed, no_ops, actions):
  """The protocol written out on the single-environment interface: images and rewards per step."""
  ale = ale_py.ALEInterface()
  ale.setInt('random_seed', seed)
  ale.setFloat('repeat_action_probability', 0.0)
  ale.loadROM(ale_py.roms.get_rom_path(rom))
  ale.reset_game()
  resize = lambda screen: np.einsum(
    'ij,jkc,lk->ilc', area(210, 64), screen.astype(float), area(160, 64), optimize=True
  )
  choices = ale.getMinimalActionSet()
  for _ in range(no_ops):
    ale.act(0)
  images, rewards = [resize(ale.getScreenRGB())], [0]
  for action in actions:
    screens, reward = [], 0
    for _ in range(4):
      reward += ale.act(choices[action])
      screens.append(ale.getScreenRGB())
    images.append(resize(np.maximum(screens[2], screens[3])))
    rewards.append(reward)
  return np.stack(images), np.array(rewards)


@pytest.mark.parametrize('game', ['Breakout', 'MsPacman'])
def test_pixels_and_rewards_match_an_independent_reference(game):
  env = make('atari', game, 1)
  timestep = env.step(np.zeros(1, np.int32), np.ones(1, bool), np.array([11]))
  no_ops = int(env.frames[0])
  assert no_ops > 0
  actions = np.random.default_rng(0).integers(env.spec.num_actions, size=120)
  timesteps = [timestep]
  for action in actions:
    timesteps.append(env.step(np.array([action]), np.zeros(1, bool), np.zeros(1, int)))
  images, rewards = reference(atari.game_name(game)[1], 11, no_ops, actions)
  assert abs(stack(timesteps) - images).max() <= 1
  np.testing.assert_array_equal([timestep.reward[0] for timestep in timesteps], rewards)
  assert rewards.any()


def test_a_lost_life_ends_no_episode():
  env = make('atari', 'Breakout', 1)
  policy = random_policy(env.spec, 0)
  timestep = env.step(np.zeros(1, np.int32), np.ones(1, bool), np.array([0]))
  lives = [int(env.lives[0])]
  while not timestep.is_last[0]:
    timestep = env.step(policy(timestep), np.zeros(1, bool), np.zeros(1, int))
    lives.append(int(env.lives[0]))
    assert timestep.is_last[0] == timestep.is_terminal[0] == (lives[-1] == 0)
  assert sorted(set(lives)) == [0, 1, 2, 3, 4, 5]


def test_rewards_are_not_clipped():
  assert max(timestep.reward[0] for timestep in play(make('atari', 'MsPacman', 1), 0, 200)) >= 10


@pytest.mark.parametrize('cap, steps', [(40, 10), (42, 11)])  # 42: in the middle of a step
def test_the_frame_cap_ends_the_episode_exactly(cap, steps):
  for label in (True, False):
    env = make('atari', 'Pong', 1, frame_cap=cap, truncation_is_terminal=label)
    timesteps = play(env, 3, 0)
    no_ops = int(env.frames[0])
    for _ in range(steps):
      assert not timesteps[-1].is_last[0]
      timesteps.append(env.step(np.zeros(1, np.int32), np.zeros(1, bool), np.array([3])))
    assert env.frames[0] - no_ops == cap and env.spec.episode_limit == steps
    assert timesteps[-1].is_last[0] and timesteps[-1].is_terminal[0] == label
  # The game goes on after the cap as a new episode, not as the old one.
  again = env.step(np.zeros(1, np.int32), np.ones(1, bool), np.array([3]))
  chex.assert_trees_all_equal(again, timesteps[0])


def test_no_ops_are_0_to_29_frames():
  env = make('atari', 'Pong', 1)
  seeded = []
  for seed in range(20):
    play(env, seed, 0)
    seeded.append(int(env.frames[0]))
  # Without a seed ale-py does not load the game anew, which makes the full range affordable.
  drawn = [int(env._slots[0].reset()[1]['episode_frame_number'][0]) for _ in range(250)]
  assert set(seeded) <= set(drawn) == set(range(30)) and len(set(seeded)) > 10


def test_restarting_and_idling_leave_the_others_untouched():
  env, alone = make('atari', 'Breakout', 3), make('atari', 'Breakout', 1)
  expected = play(alone, 5, 40, action=3)
  seeds = np.array([9, 5, 9])
  for count, single in enumerate(expected):
    restart = np.array([count % 7 == 0, count == 0, count == 0])
    idle = np.array([False, False, count % 3 == 1])
    timestep = env.step(np.full(3, 3, np.int32), restart, seeds, idle=idle)
    np.testing.assert_array_equal(timestep.observation['image'][1], single.observation['image'][0])
    for field, value in zip(timestep[1:], single[1:]):
      assert field[1] == value[0]


def test_a_resumed_run_is_where_it_was():
  rng = np.random.default_rng(0)
  whole = Episodes(make('atari', 'Pong', 2, frame_cap=100), 0, 'train')
  before = whole.step(None)
  for _ in range(35):
    before = whole.step(rng.integers(6, size=2))
  resumed = Episodes(make('atari', 'Pong', 2, frame_cap=100), 0, 'train')
  chex.assert_trees_all_equal(resumed.restore(whole.state()), before)
  for _ in range(30):
    actions = rng.integers(6, size=2)
    chex.assert_trees_all_equal(resumed.step(actions), whole.step(actions))


def test_all_begin_before_any_is_awaited():
  """So that the slots of a batch, which ALE steps in threads of its own, do it in parallel."""
  env, told = make('atari', 'Pong', 3), []
  step = lambda restart: env.step(np.zeros(3, np.int32), np.full(3, restart), np.arange(3))
  step(True)
  for index, slot in enumerate(env._slots):
    for name in ('send', 'recv'):
      call = getattr(slot, name)
      told_first = lambda *args, call=call, line=(name, index): told.append(line) or call(*args)
      setattr(slot, name, told_first)
  step(False)
  assert told == [(name, index) for name in ('send', 'recv') for index in range(3)]
  env.close()
