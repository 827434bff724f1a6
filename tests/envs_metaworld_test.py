"""Meta-World against the package itself: the same physics and pictures, and episodes that remember
nothing.
"""

import sys

import chex
import numpy as np
import pytest

from harmony_jax.envs import metaworld, rendering
from harmony_jax.envs.check import check
from harmony_jax.envs.metaworld import MetaWorld

NONE, ALL = np.zeros(1, bool), np.ones(1, bool)


@pytest.fixture
def package():
  rendering.choose_backend()  # MuJoCo asks for it when it is imported
  return pytest.importorskip('metaworld', reason='Meta-World is not installed (extra [metaworld])')


def play(env, seed, actions):
  """Time steps of one environment: its begin and one per action [4]."""
  timesteps = [env.step(np.zeros((1, 4), np.float32), ALL, np.array([seed]))]
  for action in actions:
    timesteps.append(env.step(action[None], timesteps[-1].is_last, np.array([seed])))
  return timesteps


def random_actions(count, seed=0):
  return np.random.default_rng(seed).uniform(-1, 1, (count, 4)).astype(np.float32)


def bare(package, task, seed, **options):
  """The package's environment with the goal in sight, its draws from `seed`; begun."""
  env = package.ALL_V3_ENVIRONMENTS[f'{task.replace("_", "-")}-v3'](**options)
  env._partially_observable, env._set_task_called = False, True
  env._freeze_rand_vec, env.seeded_rand_vec = False, True
  del env.sawyer_observation_space
  env.seed(seed)
  return env, env.reset()[0]


@pytest.mark.parametrize(
  'name', ['lever_pull', 'lever-pull', 'lever-pull-v3', 'Lever Pull', 'lever_pull_v3']
)
def test_spellings(name):
  assert MetaWorld.canonical(name) == 'lever_pull'


@pytest.mark.parametrize(
  'change, message',
  [
    (dict(task='lever_pul'), "^unknown Meta-World task 'lever_pul': did you mean 'lever_pull'"),
    (dict(camera='corners'), "camera is 'corners': .*did you mean corner"),
    (dict(observe='images'), "observe is 'images': .*did you mean image"),
    (dict(render='quick'), "render is 'quick': it must be one of stock, fast"),
  ],
)
def test_a_wrong_name_is_one_line(change, message):
  with pytest.raises(ValueError, match=message) as error:
    MetaWorld(**{'task': 'push', 'num_envs': 1, **change})
  assert '\n' not in str(error.value)


def test_a_missing_package_is_one_line(monkeypatch):
  monkeypatch.setitem(sys.modules, 'metaworld', None)
  with pytest.raises(
    RuntimeError, match=r'^Meta-World cannot be imported .*pip install .*\[metaworld\]'
  ) as error:
    MetaWorld('push', 1, observe='state')
  assert '\n' not in str(error.value)


def test_a_mujoco_that_does_not_fit_is_one_line(package, monkeypatch):
  def broken():
    raise ValueError('could not broadcast input array from shape (11,) into shape (12,)')

  monkeypatch.setitem(package.ALL_V3_ENVIRONMENTS, 'push-v3', broken)
  with pytest.raises(
    RuntimeError, match='^the installed Meta-World does not fit MuJoCo .*broadcast.*pip install'
  ):
    MetaWorld('push', 1, observe='state')


def test_the_50_tasks_are_the_packages(package):
  names = {name.removesuffix('-v3').replace('-', '_') for name in package.ALL_V3_ENVIRONMENTS}
  assert set(metaworld.TASKS) == names and len(metaworld.TASKS) == len(names) == 50
  assert len(metaworld.PAPER_TASKS) == 6


@pytest.mark.parametrize('observe', ['image', 'state', 'both'])
def test_the_convention(package, observe):
  count = 1 if observe == 'image' else 2  # pictures of two are drawn with 'both'
  env = MetaWorld('lever_pull', count, render='fast', observe=observe, time_limit=6)
  check(env, steps=10)
  assert sorted(env.spec.observation) == {'both': ['image', 'state']}.get(observe, [observe])
  env.close()


def test_states_need_no_opengl(package, monkeypatch):
  def broken():
    raise RuntimeError('no OpenGL')

  monkeypatch.setattr(rendering, 'choose_backend', broken)
  play(MetaWorld('push', 1, observe='state'), 0, random_actions(1))
  with pytest.raises(RuntimeError, match='no OpenGL'):
    MetaWorld('push', 1)


@pytest.mark.parametrize('task', ['lever_pull', 'push'])
def test_states_and_rewards_are_the_packages(package, task):
  actions = random_actions(60)
  played = MetaWorld(task, 1, observe='state')
  timesteps = play(played, 3, actions)
  env, state = bare(package, task, 3)
  np.testing.assert_array_equal(timesteps[0].observation['state'][0], state.astype(np.float32))
  for action, timestep in zip(actions, timesteps[1:]):
    state, reward, _, _, _ = env.step(action)
    np.testing.assert_array_equal(timestep.observation['state'][0], state.astype(np.float32))
    assert timestep.reward[0] == np.float32(reward)
  named = dict(zip(played.state_names, played.state()[0], strict=True))
  for at, name in (
    (2, 'hand.z'),
    (4, 'object.x'),
    (17, 'second.w'),
    (36, 'goal.x'),
    (38, 'goal.z'),
  ):
    assert named[name] == np.float32(state[at]), name


def test_stock_pictures_are_the_packages(package):
  actions = random_actions(2)
  env = MetaWorld('hammer', 1)
  images = [timestep.observation['image'][0] for timestep in play(env, 3, actions)]
  env.close()
  other, _ = bare(
    package, 'hammer', 3, render_mode='rgb_array', camera_name='corner', width=64, height=64
  )
  for action, image in zip(actions, images[1:]):
    other.step(action)
    np.testing.assert_array_equal(image[::-1], other.render())
  other.mujoco_renderer.close()


def test_pictures_are_upright_and_fast_ones_look_alike(package):
  images = {}
  for render in rendering.QUALITIES:
    env = MetaWorld('push', 1, render=render)
    images[render] = play(env, 0, [])[0].observation['image'][0].astype(int)
    quality = env._simulators[0].model.vis.quality
    assert (quality.shadowsize == 0 and quality.offsamples == 0) == (render == 'fast')
    env.close()
  assert 0 < abs(images['stock'] - images['fast']).mean() < 12
  for image in images.values():
    wood = (image[..., 0] - image[..., 2] > 25) & (image[..., 1] - image[..., 2] > 5)
    wall = np.ptp(image, axis=-1) < 12
    assert wood.mean() > 0.1 and np.nonzero(wood)[0].mean() > 35  # rows count from the top
    assert wall[:10].mean() > 0.6


@pytest.mark.parametrize('task', [*metaworld.PAPER_TASKS, 'push_back'])
def test_an_episode_is_a_function_of_its_seed(package, task):
  def positions(env):
    data = env._simulators[0].data
    return [array.copy() for array in (data.qpos, data.qvel, data.geom_xpos, data.site_xpos)]

  env, used = (MetaWorld(task, 1, observe='state') for _ in range(2))
  play(used, 2, random_actions(40, seed=2))
  begins = []
  for each in (env, used):
    begin = play(each, 1, [])
    begins.append([begin, positions(each), play(each, 1, random_actions(30)), positions(each)])
  chex.assert_trees_all_equal(*begins)
  other = play(env, 2, [])[0].observation['state']
  assert (other != begins[0][0][0].observation['state']).any()  # another goal or another object


@pytest.mark.parametrize('task', ['lever_pull', 'push', 'drawer_open'])
def test_the_first_picture_shows_everything_in_its_place(package, task):
  import mujoco

  env = MetaWorld(task, 1, observe='state')
  play(env, 5, [])
  simulator = env._simulators[0]
  data = mujoco.MjData(simulator.model)
  data.qpos[:], data.mocap_pos[:] = simulator.data.qpos, simulator.data.mocap_pos
  data.mocap_quat[:] = simulator.data.mocap_quat
  mujoco.mj_kinematics(simulator.model, data)
  np.testing.assert_allclose(simulator.data.geom_xpos, data.geom_xpos, atol=1e-12)
  np.testing.assert_allclose(simulator.data.site_xpos, data.site_xpos, atol=1e-12)


def test_restarting_and_idling_leave_the_others_untouched(package):
  # Pictures included: every environment draws with its own OpenGL context.
  alone = MetaWorld('sweep_into', 1, render='fast', observe='both')
  actions = random_actions(6)
  expected = play(alone, 5, actions)
  env = MetaWorld('sweep_into', 3, render='fast', observe='both')
  for count, single in enumerate(expected):
    restart = np.array([count % 2 == 0, count == 0, count == 0])
    idle = np.array([False, False, count % 3 == 1])
    action = actions[max(count - 1, 0)]
    timestep = env.step(
      np.stack([-action, action, action]), restart, np.array([9, 5, 9]), idle=idle
    )
    for name in ('image', 'state'):
      np.testing.assert_array_equal(timestep.observation[name][1], single.observation[name][0])
    assert timestep.reward[1] == single.reward[0]
  alone.close()
  env.close()


def solve(env, steps):
  """Plays the package's own scripted solution of `push`; time steps, successes and frames used."""
  play(env, 0, [])
  found = []
  for _ in range(steps):
    before = env._simulators[0].curr_path_length
    timestep = env.step(env.scripted(), NONE, np.array([0]))
    found.append(
      (timestep, env.measures['success'][0], env._simulators[0].curr_path_length - before)
    )
  return found


def test_a_success_is_measured_and_ends_nothing(package):
  found = solve(MetaWorld('push', 1, observe='state'), 500)
  successes = [success for _, success, _ in found]
  assert successes[0] == 0 and max(successes) == 1
  assert [timestep.is_last[0] for timestep, _, _ in found] == [False] * 499 + [True]
  assert not any(timestep.is_terminal[0] for timestep, _, _ in found)


def test_a_repeat_stops_at_success(package):
  env = MetaWorld('push', 1, observe='state', action_repeat=3, time_limit=80)
  found = solve(env, 80)
  frames = {success: {frames for _, now, frames in found if now == success} for success in (0, 1)}
  # once it is there, every step ends with its first frame
  assert frames[0] == {3} and frames[1] - {3}
  assert [timestep.is_last[0] for timestep, _, _ in found] == [False] * 79 + [True]
  assert (env.spec.action_repeat, env.spec.episode_limit) == (3, 80)
  play(env, 1, [])
  assert env.measures['success'][0] == 0


def test_repeats_sum_rewards(package):
  single, repeated = (
    MetaWorld('push', 1, observe='state'),
    MetaWorld('push', 1, observe='state', action_repeat=2),
  )
  actions = random_actions(5)
  rewards = [timestep.reward[0] for timestep in play(single, 0, np.repeat(actions, 2, axis=0))[1:]]
  np.testing.assert_allclose(
    [timestep.reward[0] for timestep in play(repeated, 0, actions)[1:]],
    np.reshape(rewards, (5, 2)).sum(1),
    rtol=1e-6,
  )


def test_actions_are_clipped(package):
  env = MetaWorld('push', 1, observe='state')
  wide = random_actions(10) * 4
  chex.assert_trees_all_equal(play(env, 0, wide), play(env, 0, np.clip(wide, -1, 1)))
