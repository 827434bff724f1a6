"""RLBench on a stand-in of its interface, and the diagnosis of every missing part. The simulator
itself is not run.
"""

import importlib.machinery
import sys
import types

import chex
import numpy as np
import pytest

from harmony_jax.envs import rlbench
from harmony_jax.envs.check import check
from harmony_jax.envs.rlbench import RLBench

NONE, ALL = np.zeros(1, bool), np.ones(1, bool)


class IKError(Exception):
  pass


class ConfigurationPathError(Exception):
  pass


class InvalidActionError(Exception):
  pass


class Thing:
  """A shape, a joint or the tip of the arm: it has a place [3] and an angle."""

  def __init__(self):
    self.place, self.angle = np.zeros(3), 0.0

  def get_position(self):
    return self.place.tolist()

  def get_joint_position(self):
    return self.angle


class Task:
  """The scene: the tip moves by the first three joints; the goal is met within 10 cm of it."""

  def __init__(self):
    self.tip, self.goal = Thing(), Thing()
    self.robot = types.SimpleNamespace(arm=types.SimpleNamespace(get_tip=lambda: self.tip))

  def distance(self):
    return np.linalg.norm(self.goal.place - self.tip.place)

  def success(self):
    met = bool(self.distance() < 0.1)
    return met, met


class ReachTarget(Task):
  def begin(self):
    pass

  def reward(self):
    return -self.distance()


class PushButton(Task):
  def begin(self):
    # As in RLBench, the parts are looked up when the first episode begins.
    self.target_button, self.joint = self.goal, Thing()
    self.joint.angle = 0.25

  def reward(self):
    return None


class TaskEnvironment:
  def __init__(self, environment, task):
    self.environment, self._task, self.actions, self.refuse = environment, task, [], {}

  def shown(self):
    config, image = self.environment.config, {}
    for name in rlbench.CAMERAS:
      camera = getattr(config, f'{name}_camera')
      place = np.clip(128 + 20 * self._task.tip.place, 0, 255).astype(np.uint8)
      picture = np.full((*camera.image_size, 3), place, np.uint8)
      picture[0, 0] = np.clip(128 + 20 * self._task.goal.place, 0, 255)
      image[f'{name}_rgb'] = picture if camera.rgb else None
    return types.SimpleNamespace(**image)

  def reset(self):
    self.actions.clear()
    self._task.tip.place[:] = 0
    # NumPy's global generator, as RLBench does
    self._task.goal.place[:] = np.random.uniform(1, 3, 3)
    self._task.begin()
    return ['reach it'], self.shown()

  def step(self, action):
    if len(self.actions) in self.refuse:
      raise self.refuse[len(self.actions)]('no way')
    self.actions.append(np.array(action))
    self._task.tip.place += action[:3]
    if isinstance(self._task, PushButton):
      self._task.joint.angle += 0.5 * action[3]
    reward = (
      self._task.reward() if self.environment.shaped_rewards else float(self._task.success()[0])
    )
    assert reward is not None, 'shaped rewards of a task that has none'
    return self.shown(), reward, self._task.success()[1]


class Environment:
  made = []

  def __init__(self, action_mode, obs_config, headless, shaped_rewards):
    self.action_mode, self.config = action_mode, obs_config
    self.headless, self.shaped_rewards = headless, shaped_rewards
    self.state = 'made'
    self.made.append(self)

  def launch(self):
    self.state = 'launched'

  def get_task(self, task):
    assert self.state == 'launched'
    return TaskEnvironment(self, task())

  def shutdown(self):
    self.state = 'shut down'


class ObservationConfig:
  def __init__(self):
    for name in rlbench.CAMERAS:
      setattr(self, f'{name}_camera', types.SimpleNamespace(rgb=True, image_size=(128, 128)))

  def set_all(self, value):
    for camera in vars(self).values():
      camera.rgb = value


MODULES = {
  'pyrep': {},
  'pyrep.errors': dict(IKError=IKError, ConfigurationPathError=ConfigurationPathError),
  'rlbench': {},
  'rlbench.tasks': dict(ReachTarget=ReachTarget, PushButton=PushButton),
  'rlbench.action_modes': {},
  'rlbench.action_modes.action_mode': dict(MoveArmThenGripper=lambda **modes: modes),
  'rlbench.action_modes.arm_action_modes': dict(
    JointPosition=lambda absolute_mode: ('joints', absolute_mode)
  ),
  'rlbench.action_modes.gripper_action_modes': dict(Discrete=lambda: 'open or closed'),
  'rlbench.backend': {},
  'rlbench.backend.exceptions': dict(InvalidActionError=InvalidActionError),
  'rlbench.environment': dict(Environment=Environment),
  'rlbench.observation_config': dict(ObservationConfig=ObservationConfig),
}


@pytest.fixture
def machine(tmp_path, monkeypatch):
  """A machine with everything: the folder of the simulator, its variables, and the stand-ins as
  modules.
  """
  root, pyrep = tmp_path / 'coppelia[sim]', tmp_path / 'pyrep'
  root.mkdir()
  (root / 'libcoppeliaSim.so.1').touch()
  (pyrep / 'backend').mkdir(parents=True)
  monkeypatch.setenv('COPPELIASIM_ROOT', str(root))
  monkeypatch.setenv('LD_LIBRARY_PATH', f'/usr/lib:{root}/')
  monkeypatch.setenv('DISPLAY', ':99')
  monkeypatch.setenv('QT_QPA_PLATFORM_PLUGIN_PATH', '')
  monkeypatch.delenv('QT_QPA_PLATFORM_PLUGIN_PATH')
  for name, content in MODULES.items():
    module = types.ModuleType(name)
    vars(module).update(content)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
    monkeypatch.setitem(sys.modules, name, module)
  sys.modules['pyrep'].__spec__.submodule_search_locations.append(str(pyrep))
  sys.modules['rlbench'].tasks = sys.modules['rlbench.tasks']
  Environment.made.clear()
  return types.SimpleNamespace(root=root, pyrep=pyrep)


def begin(env, seed=0):
  return env.step(np.zeros((1, 8), np.float32), ALL, np.array([seed]))


def act(env, *action):
  return env.step(np.array([[*action, *[0] * (8 - len(action))]], np.float32), NONE, np.array([0]))


# The adapter.


@pytest.mark.parametrize('name', ['reach_target', 'ReachTarget', 'reach-target', 'Reach Target'])
def test_spellings(name):
  assert RLBench.canonical(name) == 'reach_target'


def test_wrong_names_and_numbers_are_one_line(machine):
  with pytest.raises(
    ValueError, match="^unknown RLBench task 'push_buton': did you mean 'push_button'"
  ):
    RLBench('push_buton')
  with pytest.raises(ValueError, match="camera is 'fornt': .*did you mean front"):
    RLBench('push_button', camera='fornt')
  with pytest.raises(ValueError, match='^RLBench runs one environment per process, not 2'):
    RLBench('push_button', 2)


@pytest.mark.parametrize('task', rlbench.TASKS)
def test_the_convention(machine, task):
  env = RLBench(task, time_limit=20)
  assert env.spec.num_actions == 8 and not env.spec.discrete and env.spec.action_repeat == 2
  check(env)


@pytest.mark.parametrize('camera', ['front', 'wrist'])
def test_how_the_simulator_is_set_up(machine, camera):
  env = RLBench('reach_target', camera=camera)
  (made,) = Environment.made
  assert made.headless and made.state == 'launched'
  assert made.action_mode == {
    'arm_action_mode': ('joints', False),
    'gripper_action_mode': 'open or closed',
  }
  on = [name for name in rlbench.CAMERAS if getattr(made.config, f'{name}_camera').rgb]
  assert on == [camera] and getattr(made.config, f'{camera}_camera').image_size == (64, 64)
  env.close()
  env.close()
  assert made.state == 'shut down'


def test_the_reward_of_reaching_is_the_simulators_summed_over_the_repeat(machine):
  env = RLBench('reach_target')
  begin(env)
  goal = env._episode._task.goal.place
  timestep = act(env, 0.5, 0.25)
  expected = [-np.linalg.norm(goal - place) for place in ([0.5, 0.25, 0], [1, 0.5, 0])]
  np.testing.assert_allclose(timestep.reward[0], sum(expected), rtol=1e-6)


def test_the_reward_of_pushing_is_the_authors(machine):
  env = RLBench('push_button', action_repeat=1)
  begin(env)
  goal = env._episode._task.goal.place
  for pressed in (0.1, 0.2):  # how far the joint is from its rest, which is not 0
    timestep = act(env, 0, 0, 0, 0.2)
    np.testing.assert_allclose(timestep.reward[0], pressed - np.linalg.norm(goal), rtol=1e-6)
  begin(env, seed=1)
  timestep = act(env, 0, 0, 0, -0.2)  # either way counts
  np.testing.assert_allclose(timestep.reward[0], 0.1 - np.linalg.norm(goal), rtol=1e-6)


@pytest.mark.parametrize('task', rlbench.TASKS)
def test_a_success_is_terminal_and_stops_the_repeat(machine, task):
  env = RLBench(task, action_repeat=3)
  begin(env)
  env._episode._task.goal.place[:] = [0.6, 0, 0]
  timestep = act(env, 0.3)
  assert timestep.is_last[0] and timestep.is_terminal[0] and env.measures['success'][0] == 1
  assert len(env._episode.actions) == 2
  begin(env, 1)
  assert env.measures['success'][0] == 0


def test_the_time_limit_is_no_terminal_state(machine):
  env = RLBench('reach_target', time_limit=3)
  begin(env)
  ends = [act(env) for _ in range(env.spec.episode_limit)]
  assert [timestep.is_last[0] for timestep in ends] == [False, False, True]
  assert not ends[-1].is_terminal[0] and env.measures['success'][0] == 0
  assert len(env._episode.actions) == 6


@pytest.mark.parametrize('error', [IKError, ConfigurationPathError, InvalidActionError])
def test_a_refused_action_ends_the_episode_without_reward_and_with_the_picture_before(
  machine, error
):
  env = RLBench('reach_target')
  begin(env)
  before = act(env, 0.5)
  env._episode.refuse = {3: error}  # in the middle of the next step
  after = act(env, 0.5)
  assert (
    after.is_last[0]
    and after.is_terminal[0]
    and after.reward[0] == 0
    and env.measures['success'][0] == 0
  )
  np.testing.assert_array_equal(after.observation['image'], before.observation['image'])
  env._episode.refuse = {}
  again = begin(env)
  assert again.is_first[0] and not again.is_last[0]
  assert (again.observation['image'] != after.observation['image']).any()


def test_any_other_error_is_not_hidden(machine):
  env = RLBench('reach_target')
  begin(env)
  env._episode.refuse = {0: ZeroDivisionError}
  with pytest.raises(ZeroDivisionError):
    act(env)


def test_actions_are_clipped_and_the_gripper_gets_its_own(machine):
  env = RLBench('reach_target', action_repeat=1)
  begin(env)
  act(env, 3, -3, 0.5, 0, 0, 0, 0, 0.75)
  np.testing.assert_allclose(env._episode.actions[-1], [1, -1, 0.5, 0, 0, 0, 0, 0.75])


def test_a_start_is_a_function_of_its_seed_and_leaves_numpys_generator_alone(machine):
  env = RLBench('reach_target')
  np.random.seed(5)
  before = np.random.get_state()[1].copy()
  starts = [begin(env, seed) for seed in (1, 2, 1)]
  np.testing.assert_array_equal(np.random.get_state()[1], before)
  chex.assert_trees_all_equal(starts[0], starts[2])
  assert (starts[0].observation['image'] != starts[1].observation['image']).any()


# The diagnosis: every check fails alone, names its number, and says what comes next.


def failure():
  with pytest.raises(RuntimeError) as error:
    RLBench('reach_target')
  assert '\n' not in str(error.value)
  assert not Environment.made
  return str(error.value)


def test_a_complete_machine_passes(machine):
  rlbench.diagnose()


def test_no_variable(machine, monkeypatch):
  monkeypatch.delenv('COPPELIASIM_ROOT')
  text = failure()
  assert text.startswith(
    'RLBench cannot start, check 1 of 6 (CoppeliaSim): COPPELIASIM_ROOT is not set; unpack '
  )
  assert text.endswith(
    'Looked at next: libcoppeliaSim.so, LD_LIBRARY_PATH, RLBench, PyRep, a display.'
  )


def test_the_variable_is_no_folder(machine, monkeypatch):
  monkeypatch.setenv('COPPELIASIM_ROOT', '/no/such/folder')
  assert (
    "check 1 of 6 (CoppeliaSim): COPPELIASIM_ROOT is '/no/such/folder', which is not a folder"
    in failure()
  )


def test_no_library(machine):
  (machine.root / 'libcoppeliaSim.so.1').unlink()
  text = failure()
  assert 'check 2 of 6 (libcoppeliaSim.so): there is no libcoppeliaSim.so in ' in text
  assert text.endswith('Looked at next: LD_LIBRARY_PATH, RLBench, PyRep, a display.')


@pytest.mark.parametrize('path', ['', '/usr/lib:'])
def test_the_library_is_not_on_the_path(machine, monkeypatch, path):
  monkeypatch.chdir(machine.root)  # an empty entry is not the folder that one happens to be in
  monkeypatch.setenv('LD_LIBRARY_PATH', path)
  assert (
    'check 3 of 6 (LD_LIBRARY_PATH): the folder is not on LD_LIBRARY_PATH; before Python starts: '
    in failure()
  )


def without(monkeypatch, package):
  for name in MODULES:
    if name.split('.')[0] == package:
      monkeypatch.delitem(sys.modules, name)
  monkeypatch.setattr(sys, 'path', [])
  monkeypatch.setattr(sys, 'meta_path', [importlib.machinery.PathFinder])


def test_no_rlbench(machine, monkeypatch):
  without(monkeypatch, 'rlbench')
  assert (
    'check 4 of 6 (RLBench): it is not installed (PyPI has none); '
    'pip install git+https://github.com/stepjam/RLBench.git'
  ) in failure()


def test_no_pyrep(machine, monkeypatch):
  without(monkeypatch, 'pyrep')
  assert (
    'check 5 of 6 (PyRep): it is not installed; pip install git+https://github.com/stepjam/PyRep'
    in failure()
  )


def test_the_other_pyrep(machine):
  (machine.pyrep / 'backend').rmdir()
  assert (
    'check 5 of 6 (PyRep): the installed pyrep is an unrelated package of that name from PyPI; '
    'pip uninstall pyrep, then pip install git+'
  ) in failure()


def test_no_display(machine, monkeypatch):
  monkeypatch.delenv('DISPLAY')
  text = failure()
  assert 'check 6 of 6 (a display): DISPLAY is not set' in text and 'xvfb-run' in text
  assert 'Looked at next' not in text


@pytest.mark.parametrize('module', ['pyrep.errors', 'rlbench.environment'])
def test_packages_that_cannot_be_imported(machine, monkeypatch, module):
  monkeypatch.setitem(sys.modules, module, None)
  text = failure()
  assert (
    text.startswith('everything is there, but RLBench cannot be imported: ')
    and 'belong together' in text
  )


def test_the_first_failure_is_told_not_the_last(machine, monkeypatch):
  (machine.root / 'libcoppeliaSim.so.1').unlink()
  monkeypatch.delenv('DISPLAY')
  assert 'check 2 of 6' in failure()
