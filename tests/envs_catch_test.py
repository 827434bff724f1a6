"""Catch: known games and pictures, repeatable, pure, and its distractors change no game."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harmony_jax.envs import Episodes, blobs, catch, episode_seed, make, run_episodes
from harmony_jax.envs.check import check

SEEDS = [episode_seed(0, 'eval', 0, index) for index in range(64)]


def game(ball=(0, 2), paddle=5, size=8, distractors=0):
  """A hand-made state."""
  state = catch.reset(jax.random.key(0), size, distractors)
  return state._replace(ball=jnp.array(ball), paddle=jnp.array(paddle))


def columns(image, color):
  """Columns of the cells of one colour: [N, 64, 64, 3] -> [N] (-1: no such pixel)."""
  found = (image == np.array(color)).all(-1).any(1)
  return np.where(found.any(1), found.argmax(1) // 8, -1)


def chaser(sign):
  """Sees only pixels; runs towards the ball (+1) or away from it (-1)."""

  def policy(timestep):
    image = timestep.observation['image']
    ball, paddle = columns(image, catch.BALL_COLOR), columns(image[:, -8:], catch.PADDLE_COLOR)
    direction = np.sign(ball - paddle)
    if sign < 0:  # a paddle under the ball must leave it: to the right unless at the border
      direction = np.where(direction == 0, np.where(paddle == 7, 1, -1), direction)
    return (catch.STAY + sign * direction).astype(np.int32)

  return policy


def test_the_perfect_player_always_catches_and_its_opposite_never():
  env = make('catch', 'catch', 16)
  for sign in (1, -1):
    results = run_episodes(env, SEEDS, chaser(sign))
    assert [result.score for result in results] == [sign] * len(SEEDS)
    assert {result.length for result in results} == {env.spec.episode_limit} == {7}


def test_a_game_by_hand():
  state = game(ball=(0, 2), paddle=4)
  for action, paddle in (
    (catch.RIGHT, 5),
    (catch.LEFT, 4),
    (catch.LEFT, 3),
    (catch.STAY, 3),
    (catch.LEFT, 2),
    (catch.STAY, 2),
  ):
    state, reward, done = catch.step(state, action)
    assert (int(state.paddle), float(reward), bool(done)) == (paddle, 0, False)
  _, reward, done = catch.step(state, catch.STAY)
  assert float(reward) == 1 and bool(done)
  _, reward, done = catch.step(state, catch.LEFT)  # moves away at the last moment
  assert float(reward) == -1 and bool(done)


def test_the_paddle_stops_at_the_border():
  assert int(catch.step(game(paddle=0), catch.LEFT)[0].paddle) == 0
  assert int(catch.step(game(paddle=7), catch.RIGHT)[0].paddle) == 7


@pytest.mark.parametrize('size', [4, 8, 16])
def test_known_pixels(size):
  expected = np.zeros((64, 64, 3), np.uint8)
  cell = 64 // size
  expected[-cell:, cell : 2 * cell] = catch.PADDLE_COLOR
  expected[cell : 2 * cell, 3 * cell : 4 * cell] = catch.BALL_COLOR
  image = catch.render(game(ball=(1, 3), paddle=1, size=size), size)
  chex.assert_shape(image, (64, 64, 3))
  chex.assert_type(image, jnp.uint8)
  np.testing.assert_array_equal(image, expected)


def test_a_blob_by_its_formula():
  state = game(distractors=1)._replace(
    position=jnp.array([[20.0, 40.0]]),
    radius=jnp.array([8.0]),
    color=jnp.array([[200.0, 100.0, 0.0]]),
  )
  image = np.asarray(catch.render(state)).astype(int)
  np.testing.assert_allclose(image[20, 40], [200, 100, 0], atol=1)
  fade = np.exp(-0.5 * ((30 - 20) ** 2 + (36 - 40) ** 2) / 8**2)
  np.testing.assert_allclose(image[30, 36], fade * np.array([200, 100, 0]), atol=1)


def test_blobs_move_stay_in_the_picture_and_leave_ball_and_paddle_in_sight():
  env = make('catch', 'catch', 64)
  plain = make('catch', 'catch', 64, distractors=0)
  actions, seeds = np.full(64, catch.STAY, np.int32), np.array(SEEDS)
  before = None
  for time in range(8):
    image = env.step(actions, np.full(64, time == 0), seeds).observation['image']
    bare = plain.step(actions, np.full(64, time == 0), seeds).observation['image']
    drawn = bare.any(-1)
    np.testing.assert_array_equal(image[drawn], bare[drawn])
    assert image[~drawn].max() <= blobs.LIMIT and image[~drawn].mean() > 10
    if before is not None:
      assert (image != before).any((1, 2, 3)).all()
    before = image


def test_blobs_bounce():
  state = game(distractors=1)._replace(
    position=jnp.array([[1.0, 63.0]]), velocity=jnp.array([[-3.0, 2.0]])
  )
  state, _, _ = catch.step(state, catch.STAY)
  np.testing.assert_allclose(state.position, [[2.0, 63.0]])
  np.testing.assert_allclose(state.velocity, [[3.0, -2.0]])
  state = jax.lax.scan(lambda state, _: (catch.step(state, 1)[0], state.position), state, None, 500)
  assert 0 <= float(state[1].min()) and float(state[1].max()) <= 64


def test_distractors_do_not_change_the_game():
  states = [
    jax.vmap(lambda seed: catch.reset(jax.random.key(seed), 8, count))(jnp.arange(50))
    for count in (0, 4)
  ]
  for state in states[1:]:
    np.testing.assert_array_equal(state.ball, states[0].ball)
    np.testing.assert_array_equal(state.paddle, states[0].paddle)


def test_starts_are_uniform():
  state = jax.vmap(lambda seed: catch.reset(jax.random.key(seed)))(jnp.arange(8000))
  counts = np.bincount(state.ball[:, 1], minlength=8)
  assert len(counts) == 8 and abs(counts - 1000).max() < 150  # five standard deviations
  assert (np.asarray(state.paddle) == 4).all()


def test_a_seed_is_the_key_of_the_pure_game():
  env = make('catch', 'catch', 2)
  seeds = np.array([3, 2**31 - 1])
  image = env.step(np.zeros(2, np.int32), np.ones(2, bool), seeds).observation['image']
  for row, seed in zip(image, seeds.tolist()):
    expected = np.asarray(catch.render(catch.reset(jax.random.key(seed)))).astype(int)
    np.testing.assert_allclose(row.astype(int), expected, atol=1)  # jit may round differently
  assert (image[0] != image[1]).any()


def test_the_pure_game_in_jit_and_scan():
  @jax.jit
  def play(key):
    def body(state, _):
      action = catch.STAY + jnp.sign(state.ball[1] - state.paddle)
      state, reward, done = catch.step(state, action)
      return state, (reward, done, catch.render(state))

    return jax.lax.scan(body, catch.reset(key), None, 7)[1]

  reward, done, image = jax.vmap(play)(jax.random.split(jax.random.key(0), 5))
  np.testing.assert_array_equal(reward, [[0] * 6 + [1]] * 5)
  np.testing.assert_array_equal(done, [[False] * 6 + [True]] * 5)
  chex.assert_shape(image, (5, 7, 64, 64, 3))


def test_the_convention():
  check(make('catch', 'catch', 3))
  check(make('catch', 'catch', 1, size=4, distractors=0))


def test_a_resumed_run_goes_on_bit_for_bit():
  rng = np.random.default_rng(0)
  actions = rng.integers(3, size=(40, 3), dtype=np.int32)
  whole = Episodes(make('catch', 'catch', 3), 0, 'train')
  for row in actions[:20]:
    before = whole.step(None if whole.state()['episode'][0] < 0 else row)
  resumed = Episodes(make('catch', 'catch', 3), 0, 'train')
  chex.assert_trees_all_equal(resumed.restore(whole.state()), before)
  for row in actions[20:]:
    chex.assert_trees_all_equal(resumed.step(row), whole.step(row))


def test_small_in_the_picture():
  """Ball and paddle of fewer pixels, in the middle of their cells; blobs that are slow and dim."""
  image = np.asarray(catch.render(game(ball=(1, 3), paddle=1), ball=2, paddle=4))
  expected = np.zeros((64, 64, 3), np.uint8)
  expected[58:62, 10:14], expected[11:13, 27:29] = catch.PADDLE_COLOR, catch.BALL_COLOR
  np.testing.assert_array_equal(image, expected)
  for side in (1, 3, 8):
    white = np.asarray(catch.render(game(), ball=side)) == 255
    assert white.all(-1).sum() == side * side
  plain, slow = (catch.reset(jax.random.key(3), drift=d, contrast=c) for d, c in ((1, 1), (0.5, 0)))
  np.testing.assert_allclose(slow.velocity, plain.velocity / 2)
  assert not catch.render(slow)[:8, 8 * (int(slow.ball[1]) + 1) :].any()


def test_a_reward_at_every_step():
  """By the distance to the ball's column; always beneath it makes 1."""
  env = make('catch', 'catch', 16, rewarded='steps')
  best, worst = ([r.score for r in run_episodes(env, SEEDS, chaser(sign))] for sign in (1, -1))
  assert 0.4 < np.mean(best) < 1 and np.mean(worst) < 0.2
  rewards = []
  state = game(ball=(0, 2), paddle=2)
  for _ in range(7):
    state, reward, _ = catch.step(state, catch.STAY, rewarded='steps')
    rewards.append(float(reward))
  np.testing.assert_allclose(rewards, [1 / 7] * 7, rtol=1e-6)
  _, reward, _ = catch.step(game(ball=(0, 0), paddle=7), catch.STAY, rewarded='steps')
  assert float(reward) == pytest.approx(-1 / 7)


def test_mistakes_are_named():
  with pytest.raises(ValueError, match="unknown Catch task 'cath': did you mean 'catch'?"):
    make('catch', 'cath', 1)
  with pytest.raises(ValueError, match='config.env.size is 7: it must be one of 2, 4'):
    make('catch', 'catch', 1, size=7)
  make('catch', 'catch', 1, size=4, ball=16)
  with pytest.raises(ValueError, match='config.env.paddle is 9: it must be at most 8, as a cell'):
    make('catch', 'catch', 1, paddle=9)
