"""DeepMind Control against dm_control itself, and how MuJoCo is made to draw."""

import ctypes
import importlib.util
import subprocess
import sys

import chex
import numpy as np
import pytest

from harmony_jax.envs import dmc, rendering
from harmony_jax.envs.check import check
from harmony_jax.envs.dmc import DMC

if importlib.util.find_spec('dm_control') is None:
  pytest.skip('dm_control is not installed', allow_module_level=True)

NO, YES = np.zeros(1, bool), np.ones(1, bool)
# What these tasks draw for an episode lies partly in the model, which outlives the episode.
TASKS_THAT_CHANGE_THE_MODEL = [
  'finger_turn_hard',
  'manipulator_insert_peg',
  'point_mass_hard',
  'reacher_easy',
  'swimmer_swimmer6',
]


def play(env, seed, steps=10):
  """Time steps of one environment under random actions, the same for the same seed."""
  rng = np.random.default_rng(seed)
  timesteps = [env.step(np.zeros((1, env.spec.num_actions)), YES, np.array([seed]))]
  for _ in range(steps):
    timesteps.append(env.step(rng.uniform(-1, 1, (1, env.spec.num_actions)), NO, np.array([0])))
  return timesteps


def is_function_of_its_seed(task):
  """Plays a seed twice, with other episodes in between, and in another environment; then another
  seed.
  """
  env, other = (DMC(task, 1, render='fast', observe='both') for _ in range(2))
  first = play(env, 5)
  play(env, 6), play(env, 7)
  chex.assert_trees_all_equal(play(env, 5), first)
  chex.assert_trees_all_equal(play(other, 5), first)
  assert any(
    (first[0].observation[name] != play(env, 6)[0].observation[name]).any()
    for name in first[0].observation
  )
  env.close(), other.close()


@pytest.mark.parametrize('observe', ['image', 'both'])
def test_the_convention(observe):
  count = 1 if observe == 'image' else 2  # pictures of two are drawn with 'both'
  env = DMC('cartpole_swingup', count, render='fast', observe=observe, time_limit=30)
  check(env, steps=40)
  env.close()


def test_tasks_and_their_spellings():
  names = DMC.tasks()
  assert len(set(names)) == len(names) >= 51
  assert {'cheetah_run', 'ball_in_cup_catch', 'humanoid_CMU_run', 'cartpole_balance_sparse'} <= set(
    names
  )
  assert DMC.canonical('Cheetah-Run') == 'cheetah_run'
  assert DMC.canonical('humanoid_cmu_run') == 'humanoid_CMU_run'


def test_unknown_names_are_errors_with_the_nearest():
  with pytest.raises(
    ValueError, match="unknown DeepMind Control task 'cheeta_run': did you mean 'cheetah_run'"
  ):
    DMC('cheeta_run', 1)
  with pytest.raises(ValueError, match="config.env.observe is 'pixels': .* one of image, state"):
    DMC('cheetah_run', 1, observe='pixels')
  with pytest.raises(
    ValueError, match="config.env.render is 'slow': it must be one of stock, fast"
  ):
    DMC('cheetah_run', 1, render='slow')
  with pytest.raises(ValueError, match='key config.env.rendr; the nearest is config.env.render'):
    DMC('cheetah_run', 1, rendr='fast')


@pytest.mark.parametrize('task, camera, repeat', [('cheetah_run', 0, 2), ('quadruped_walk', 2, 3)])
def test_pixels_states_and_rewards_are_those_of_dm_control(task, camera, repeat):
  env = DMC(task, 1, action_repeat=repeat, observe='both')
  timesteps = play(env, 3, steps=4)
  reference = dmc._suite().load(*task.split('_'), task_kwargs={'random': 3})
  bounds, rng = reference.action_spec(), np.random.default_rng(3)
  result, reward = reference.reset(), 0
  for timestep in timesteps:
    np.testing.assert_array_equal(
      timestep.observation['image'][0], reference.physics.render(64, 64, camera_id=camera)
    )
    for name, value in result.observation.items():
      np.testing.assert_array_equal(timestep.observation[name][0], np.float32(value).reshape(-1))
    np.testing.assert_allclose(timestep.reward[0], reward, rtol=1e-6)
    action, reward = (
      rng.uniform(-1, 1, (1, env.spec.num_actions)).astype(np.float32)[0].astype(float),
      0,
    )
    for _ in range(repeat):
      # The bounds differ between the quadruped's joints, and one pair is not symmetric.
      result = reference.step(
        (bounds.minimum + bounds.maximum) / 2 + (bounds.maximum - bounds.minimum) / 2 * action
      )
      reward += result.reward
  env.close(), reference.physics.free()


def test_actions_are_scaled_to_the_bounds_and_clipped():
  from dm_env import specs

  center, scale = dmc._action_map(
    specs.BoundedArray((3,), float, [-1, -0.5, -1e10], [1, 1.5, 1e10])
  )
  np.testing.assert_allclose(center + scale * -1, [-1, -0.5, -1])
  np.testing.assert_allclose(center + scale * 1, [1, 1.5, 1])
  envs = [DMC('quadruped_walk', 1, observe='state') for _ in range(2)]
  for env, action in zip(envs, (1, 7)):
    play(env, 0, steps=0)
    env.timestep = env.step(np.full((1, 12), action), NO, NO)
    np.testing.assert_allclose(env._slots[0].physics.control(), [1, 1.1, 0.8] * 4)
  chex.assert_trees_all_equal(envs[0].timestep, envs[1].timestep)


@pytest.mark.parametrize('task', TASKS_THAT_CHANGE_THE_MODEL)
def test_an_episode_is_a_function_of_its_seed(task):
  is_function_of_its_seed(task)


@pytest.mark.slow
def test_every_task_is_a_function_of_its_seed():
  for task in set(DMC.tasks()) - set(TASKS_THAT_CHANGE_THE_MODEL):
    is_function_of_its_seed(task)


def test_an_episode_lasts_1000_frames_and_ends_without_being_terminal():
  env = DMC('cartpole_balance', 1, action_repeat=3, observe='state')
  timesteps = play(env, 0, steps=334)  # 333 x 3 frames, and 1
  assert [timestep.is_last[0] for timestep in timesteps].index(True) == 334
  assert not any(timestep.is_terminal[0] for timestep in timesteps)
  # In balance every frame earns up to 1, so the last step, of one frame, cannot earn more.
  assert timesteps[1].reward[0] > 2 and 0 < timesteps[-1].reward[0] <= 1


def test_an_episode_that_the_suite_does_not_end_has_its_length():
  """Pushed without a pause LQR never comes to rest; the protocol's 1,000 frames are 250 steps."""
  env = DMC('lqr_lqr_2_1', 1, action_repeat=4, observe='state')
  no, push = np.zeros(1, bool), np.ones((1, 1), np.float32)
  env.step(push, ~no, np.array([0]))
  ends = [env.step(push, no, np.array([0])) for _ in range(250)]
  assert [bool(each.is_last[0]) for each in ends] == [False] * 249 + [True]
  assert not ends[-1].is_terminal[0]


def test_a_time_limit_ends_an_episode_in_the_middle_of_a_step():
  env = DMC('cartpole_balance', 1, action_repeat=2, observe='state', time_limit=5)
  assert env.spec.episode_limit == 3
  for _ in range(2):  # the second episode counts anew
    timesteps = play(env, 0, steps=3)
    assert [timestep.is_last[0] for timestep in timesteps] == [False, False, False, True]
    assert not timesteps[-1].is_terminal[0]
    assert timesteps[-1].reward[0] <= 1 < timesteps[-2].reward[0]


def test_a_termination_by_the_task_is_terminal_and_stops_the_repeat():
  env = DMC('lqr_lqr_2_1', 1, action_repeat=4, observe='state')
  play(env, 0, steps=1)
  env._slots[0].task.get_termination = lambda physics: 0.0  # LQR ends so once it is at rest
  before = env._slots[0].physics.time()
  timestep = env.step(np.zeros((1, 1)), NO, NO)
  assert timestep.is_last[0] and timestep.is_terminal[0]
  assert np.isclose(env._slots[0].physics.time() - before, env._slots[0].control_timestep())


def test_states_have_flat_names_and_no_image():
  env = DMC('walker_walk', 1, observe='state')
  assert {name: array.shape for name, array in env.spec.observation.items()} == {
    'orientations': (14,),
    'height': (1,),
    'velocity': (9,),
  }
  assert all(array.dtype == np.float32 for array in env.spec.observation.values())


def test_size_and_camera():
  images = []
  for camera in ('', '0', '1', 'back'):
    env = DMC('walker_walk', 1, size=48, camera=camera, render='fast')
    images.append(play(env, 0, steps=0)[0].observation['image'][0])
    env.close()
  assert images[0].shape == (48, 48, 3)
  np.testing.assert_array_equal(images[0], images[1])
  np.testing.assert_array_equal(images[2], images[3])
  assert (images[0] != images[2]).any()


def test_fast_has_no_shadows_and_no_multisampling_and_stock_is_stock():
  models, images = {}, {}
  for render in rendering.QUALITIES:
    env = DMC('walker_walk', 1, render=render)
    images[render] = play(env, 0, steps=0)[0].observation['image'].astype(int)
    models[render] = env._slots[0].physics.model.vis.quality
    assert (models[render].shadowsize, models[render].offsamples) == {
      'stock': (2048, 4),
      'fast': (0, 0),
    }[render]
    env.close()
  assert 0 < abs(images['stock'] - images['fast']).mean() < 10


# --------------------------------------------------------------------------------------------------
# How it is drawn


GL_CONTEXT = 'mujoco.rendering.classic.gl_context'


@pytest.fixture
def fresh(monkeypatch):
  """As in a process that has not drawn yet."""
  for name in ('MUJOCO_GL', 'PYOPENGL_PLATFORM', 'MUJOCO_EGL_DEVICE_ID'):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setattr(rendering.sys, 'platform', 'linux')
  monkeypatch.delitem(rendering.sys.modules, GL_CONTEXT, raising=False)
  rendering._first_that_works.cache_clear()
  yield monkeypatch
  rendering._first_that_works.cache_clear()


def _fail():
  raise OSError('it is broken')


def test_egl_comes_before_osmesa(fresh):
  fresh.setattr(rendering, '_TRIALS', {'egl': lambda: None, 'osmesa': _fail})
  assert rendering.choose_backend() == rendering.os.environ['MUJOCO_GL'] == 'egl'


def test_osmesa_is_taken_where_egl_fails(fresh):
  fresh.setattr(rendering, '_TRIALS', {'egl': _fail, 'osmesa': lambda: None})
  assert rendering.choose_backend() == rendering.os.environ['MUJOCO_GL'] == 'osmesa'


def test_a_mujoco_that_was_imported_before_draws_by_the_choice(fresh):
  from mujoco import egl
  from mujoco.rendering.classic import gl_context

  fresh.setitem(rendering.sys.modules, GL_CONTEXT, gl_context)
  fresh.setattr(gl_context, 'GLContext', None)
  fresh.setattr(rendering, '_TRIALS', {'egl': lambda: None})
  rendering.choose_backend()
  assert gl_context.GLContext is egl.GLContext


def test_the_choice_of_the_user_stays_or_is_an_error(fresh):
  fresh.setattr(rendering, '_TRIALS', {'egl': lambda: None, 'osmesa': _fail})
  fresh.setenv('MUJOCO_GL', 'glfw')
  assert rendering.choose_backend() == 'glfw'
  fresh.setenv('MUJOCO_GL', 'osmesa')
  with pytest.raises(RuntimeError, match=r"osmesa: it is broken.*apt-get install libosmesa6'$"):
    rendering.choose_backend()
  fresh.delenv('MUJOCO_GL')
  fresh.setenv('PYOPENGL_PLATFORM', 'osmesa')
  with pytest.raises(RuntimeError, match='libosmesa6'):
    rendering.choose_backend()


def test_without_libraries_the_error_names_the_packages(fresh):
  def no_library(name):
    raise OSError(f'{name}: cannot open shared object file')

  fresh.setattr(ctypes, 'CDLL', no_library)
  with pytest.raises(RuntimeError) as error:
    rendering.choose_backend()
  assert 'libegl1 libegl-mesa0 libgl1-mesa-dri' in str(error.value) and 'libosmesa6' in str(
    error.value
  )
  assert 'libEGL.so.1: cannot open' in str(error.value) and '\n' not in str(error.value)


def test_without_dm_control_the_error_says_what_to_install(monkeypatch):
  monkeypatch.setitem(sys.modules, 'dm_control', None)
  with pytest.raises(
    RuntimeError, match='DeepMind Control is not installed .*pip install'
  ) as error:
    DMC('cheetah_run', 1)
  assert '\n' not in str(error.value)


def test_importing_the_suite_loads_no_simulator():
  code = (
    'import sys; import harmony_jax.envs.dmc, harmony_jax.envs.dmcr; '
    "print({'dm_control', 'mujoco', 'jax', 'PIL'} & set(sys.modules))"
  )
  assert subprocess.check_output([sys.executable, '-c', code], text=True).strip() == 'set()'


def test_the_true_state_is_what_dm_control_observes():
  """Whatever is shown; and of the episode and step that is shown."""
  seeds, restart = np.array([3, 4]), np.ones(2, bool)
  env = DMC('walker_stand', 2, observe='state')
  for step in range(3):
    seen = env.step(np.full((2, 6), 0.1), restart if step == 0 else ~restart, seeds).observation
    expected = np.concatenate([seen[name] for name in ('orientations', 'height', 'velocity')], 1)
    np.testing.assert_array_equal(env.state(), expected)
  names = env.state_names
  assert names[0] == 'orientations.0' and names[14:16] == ['height', 'velocity.0']
  assert len(names) == env.state().shape[1] == 24
