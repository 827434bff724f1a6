"""Reach: known places and pictures, what pays, and the convention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harmony_jax.envs import episode_seed, make, reach, run_episodes
from harmony_jax.envs.check import check


def arm(angle, at=(0.0, 0.0), **options):
  """A hand-made state and its options."""
  chosen = reach.Options(**{'distractors': 0, **options})
  state = reach.begin(jax.random.key(0), chosen)
  return state._replace(angle=jnp.array(angle), target=jnp.array(at)), chosen


def test_where_the_finger_is():
  np.testing.assert_allclose(reach.joints(jnp.zeros(2)), [[32, 32], [32, 47], [32, 60]], atol=1e-5)
  bent = reach.joints(jnp.array([jnp.pi / 2, jnp.pi / 2]))  # down, and back to the left
  np.testing.assert_allclose(bent, [[32, 32], [47, 32], [47, 19]], atol=1e-5)


def test_a_step_inside_the_target_pays():
  state, options = arm((0.0, 0.0), (32.0, 60.0))
  state, reward, over = reach.step(state, jnp.zeros(2), options)
  assert (float(reward), bool(over), int(state.time)) == (1, False, 1)
  away, reward, _ = reach.step(state, jnp.array([1.0, 5.0]), options)  # cut at 1
  np.testing.assert_allclose(away.angle, [reach.TURN] * 2, rtol=1e-6)
  assert float(reward) == 0
  last, _, over = reach.step(state._replace(time=jnp.int32(39)), jnp.zeros(2), options)
  assert bool(over) and int(last.time) == 40


def test_known_pixels():
  image = np.asarray(reach.render(*arm((0.0, 0.0), (10.0, 10.0), arm=2.0, target=3.0)))
  white, yellow = ((image == color).all(-1) for color in (reach.ARM_COLOR, reach.TARGET_COLOR))
  assert white[31:33, 32:60].all() and white.sum() == 56 + 4  # with half a pixel at each end
  assert yellow[8:12, 8:12].all() and not (white & yellow).any()
  assert abs(yellow.sum() - np.pi * 9) < 6 and image[~white & ~yellow].max() == 0


def test_targets_can_be_reached_and_a_player_that_knows_reaches_them():
  """It turns towards the angles that it finds by search, and gets there in a few steps."""
  env = make('reach', 'reach', 8)
  grid = np.stack(np.meshgrid(*[np.linspace(-np.pi, np.pi, 100)] * 2), -1).reshape(-1, 2)
  fingers = np.asarray(jax.vmap(reach.joints)(jnp.asarray(grid)))[:, 2]

  def player(timestep):
    state = env.state()
    best = [grid[np.square(fingers - target).sum(-1).argmin()] for target in state[:, 2:]]
    turn = (np.array(best) - state[:, :2] + np.pi) % (2 * np.pi) - np.pi
    return np.clip(turn / reach.TURN, -1, 1).astype(np.float32)

  seeds = [episode_seed(0, 'eval', 0, index) for index in range(16)]
  found = run_episodes(env, seeds, player)
  assert min(each.score for each in found) > 25
  assert {each.length for each in found} == {40}


def test_the_convention():
  check(make('reach', 'reach', 3))
  check(make('reach', 'reach', 1, length=5, distractors=0))
  last = make('reach', 'reach', 1, length=2)
  for index in range(3):
    timestep = last.step(np.zeros((1, 2)), np.array([index == 0]), np.array([4]))
  assert timestep.is_last.all() and not timestep.is_terminal.any()


def test_mistakes_are_named():
  with pytest.raises(ValueError, match="unknown Reach task 'reech': did you mean 'reach'?"):
    make('reach', 'reech', 1)
  with pytest.raises(ValueError, match='config.env.target'):
    make('reach', 'reach', 1, target=0.0)
