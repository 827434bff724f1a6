"""RLBench: two manipulation tasks in CoppeliaSim, in the HarmonyDream protocol.

A picture of the front camera, 64 x 64; eight actions: changes of the seven
joint angles [rad] and the gripper (above 0.5 it opens, else it closes); dense
rewards; 200 steps of two simulator steps. A success ends the episode, as
terminal. So does an action that the simulator refuses, with reward 0 and the
picture before it.

    reach_target   -|target - tip|, the simulator's own dense reward
    push_button    -|button - tip| + |joint - joint at rest|, the authors' (appendix C; lengths in
    metres)

CoppeliaSim, PyRep and RLBench are not on PyPI: `diagnose` says what is missing.
The adapter is tested on a stand-in of their interface, not on the simulator.
"""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
# (no registry has the simulator)

import dataclasses
import glob
import importlib.util
import os
from typing import Any

import numpy as np

from harmony_jax.envs import base
from harmony_jax.settings import setting

TASKS = ('reach_target', 'push_button')
CAMERAS = ('front', 'left_shoulder', 'right_shoulder', 'overhead', 'wrist')
LIBRARY = 'libcoppeliaSim.so'
XVFB = "xvfb-run -a -s '-screen 0 1280x1024x24' python -m ..."


@dataclasses.dataclass(frozen=True)
class Options(base.Options):
  """Options of `RLBench`."""

  action_repeat: int = setting(
    2, 'simulator steps (50 ms) per agent step; rewards are summed', least=1
  )
  camera: str = setting('front', 'where the picture is taken from', choices=CAMERAS)
  time_limit: int = setting(200, 'agent steps of an episode; an end by it is not terminal', least=1)


class RLBench:
  """One environment of one task; the simulator allows one per process (`processes` runs several).

  The start of an episode is drawn from NumPy's global generator, which is
  seeded for it and put back. Whether the physics repeats to the bit has not
  been tried: `Episodes.restore(..., replay=False)` is the safe choice.

  Args:
    task: one of `TASKS`; 'ReachTarget' and 'reach-target' are the same as 'reach_target'.
    num_envs: 1.
    size: height and width of the picture.
    **options: see `Options`.

  Attributes:
    measures: {'success': [1] float32}, 1 where the last step reached the goal.

  Raises:
    ValueError: no such task or option, or more than one environment.
    RuntimeError: a part of the simulator is missing, see `diagnose`.
  """

  def __init__(self, task: str, num_envs: int = 1, *, size: int = 64, **options: Any):
    chosen = Options.of(options)
    action_repeat, camera = chosen.action_repeat, chosen.camera
    self.task = self.canonical(task)
    if num_envs != 1:
      raise ValueError(
        f'RLBench runs one environment per process, not {num_envs}: use several processes'
      )
    diagnose()
    self.num_envs = num_envs
    self.action_repeat, self.camera, self.time_limit = action_repeat, camera, chosen.time_limit
    self._simulator, self._episode, self._refusals = _launch(self.task, camera, size)
    self.spec = base.Spec(
      observation={'image': base.ArraySpec((size, size, 3), np.uint8)},
      discrete=False,
      num_actions=8,
      action_repeat=action_repeat,
      episode_limit=chosen.time_limit,
    )
    self.measures = {'success': np.zeros(num_envs, np.float32)}
    self._steps = 0  # since the episode's begin
    self._rest = 0.0  # the button's joint when nobody pushes it
    self._last = base.empty_timestep(self.spec, num_envs)

  @staticmethod
  def require() -> None:
    """Raises RuntimeError where the simulator is missing."""
    diagnose()

  @staticmethod
  def tasks() -> list[str]:
    """Names of all tasks."""
    return list(TASKS)

  @staticmethod
  def canonical(task: str) -> str:
    """'ReachTarget' -> 'reach_target'."""
    folded = ''.join(character for character in str(task).lower() if character.isalnum())
    for name in TASKS:
      if folded == name.replace('_', ''):
        return name
    raise base.unknown('RLBench task', task, TASKS)

  def step(
    self,
    actions: np.ndarray,
    restart: np.ndarray,
    seeds: np.ndarray,
    idle: np.ndarray | None = None,
  ) -> base.TimeStep:
    """See `base`. Actions outside [-1, 1] are clipped."""
    if idle is not None and idle[0]:
      pass
    elif restart[0]:
      self._begin(int(seeds[0]))
    else:
      self._advance(np.clip(np.asarray(actions[0], np.float64), -1, 1))
    return base.copy_timestep(self._last)

  def close(self) -> None:
    if self._simulator is not None:
      self._simulator.shutdown()
      self._simulator = None

  def _begin(self, seed):
    before = np.random.get_state()
    np.random.seed(seed)
    try:
      _, shown = self._episode.reset()
    finally:
      np.random.set_state(before)
    self._steps = 0
    if self.task == 'push_button':
      self._rest = self._episode._task.joint.get_joint_position()
    self._write(shown, 0, first=True, terminal=False, success=False)

  def _advance(self, action):
    total, shown = 0.0, None
    try:
      for _ in range(self.action_repeat):
        shown, reward, terminal = self._episode.step(action)
        success, _ = self._episode._task.success()
        total += self._push_reward() if self.task == 'push_button' else reward
        if terminal:
          break
    except self._refusals:
      shown, total, terminal, success = None, 0, True, False
    self._steps += 1
    self._write(shown, total, False, terminal, success)

  def _push_reward(self):
    task = self._episode._task
    distance = np.linalg.norm(
      np.subtract(task.target_button.get_position(), task.robot.arm.get_tip().get_position())
    )
    return abs(task.joint.get_joint_position() - self._rest) - distance

  def _write(self, shown, reward, first, terminal, success):
    last = self._last
    if shown is not None:  # else the picture before stays
      last.observation['image'][0] = getattr(shown, f'{self.camera}_rgb')
    last.reward[0] = reward
    last.is_first[0] = first
    last.is_last[0] = terminal or self._steps >= self.time_limit
    last.is_terminal[0] = terminal
    self.measures['success'][0] = success


def _launch(task, camera, size):
  """The simulator, the task in it, and the errors by which it refuses an action."""
  # CoppeliaSim's window library
  os.environ.setdefault('QT_QPA_PLATFORM_PLUGIN_PATH', os.environ['COPPELIASIM_ROOT'])
  try:
    from pyrep.errors import ConfigurationPathError, IKError
    from rlbench import tasks
    from rlbench.action_modes.action_mode import MoveArmThenGripper
    from rlbench.action_modes.arm_action_modes import JointPosition
    from rlbench.action_modes.gripper_action_modes import Discrete
    from rlbench.backend.exceptions import InvalidActionError
    from rlbench.environment import Environment
    from rlbench.observation_config import ObservationConfig
  except (ImportError, OSError, RuntimeError) as error:
    raise RuntimeError(
      f'everything is there, but RLBench cannot be imported: {" ".join(str(error).split())} '
      '(do CoppeliaSim 4.1, PyRep and RLBench belong together?)'
    ) from None
  config = ObservationConfig()
  config.set_all(False)
  view = getattr(config, f'{camera}_camera')
  view.rgb, view.image_size = True, (size, size)
  simulator = Environment(
    action_mode=MoveArmThenGripper(
      arm_action_mode=JointPosition(absolute_mode=False), gripper_action_mode=Discrete()
    ),
    # push_button has none of its own
    obs_config=config,
    headless=True,
    shaped_rewards=task == 'reach_target',
  )
  simulator.launch()
  chosen = {'reach_target': 'ReachTarget', 'push_button': 'PushButton'}[task]
  return (
    simulator,
    simulator.get_task(getattr(tasks, chosen)),
    (IKError, ConfigurationPathError, InvalidActionError),
  )


def diagnose() -> None:
  """Looks, in the order of installation, for what RLBench needs, without importing any of it.

  Raises:
    RuntimeError: one line with the first part that is missing, how to mend it,
      and what will be looked at next.
  """
  for count, (name, check) in enumerate(CHECKS, 1):
    problem = check()
    if problem:
      later = ', '.join(name for name, _ in CHECKS[count:])
      then = f' Looked at next: {later}.' if later else ''
      raise RuntimeError(
        f'RLBench cannot start, check {count} of {len(CHECKS)} ({name}): {problem}.{then}'
      )


def _check_root() -> str | None:
  root = os.environ.get('COPPELIASIM_ROOT')
  mend = (
    'unpack CoppeliaSim Edu 4.1 (www.coppeliarobotics.com) and export COPPELIASIM_ROOT=<its folder>'
  )
  if not root:
    return f'COPPELIASIM_ROOT is not set; {mend}'
  if not os.path.isdir(root):
    return f'COPPELIASIM_ROOT is {root!r}, which is not a folder; {mend}'
  return None


def _check_library() -> str | None:
  root = os.environ['COPPELIASIM_ROOT']
  if not glob.glob(os.path.join(glob.escape(root), f'{LIBRARY}*')):
    return (
      f'there is no {LIBRARY} in {root!r}; COPPELIASIM_ROOT must be the folder of CoppeliaSim '
      'that holds it'
    )
  return None


def _check_path() -> str | None:
  folders = os.environ.get('LD_LIBRARY_PATH', '').split(os.pathsep)
  root = os.path.realpath(os.environ['COPPELIASIM_ROOT'])
  if root not in [os.path.realpath(folder) for folder in folders if folder]:
    return (
      'the folder is not on LD_LIBRARY_PATH; before Python starts: '
      'export LD_LIBRARY_PATH=$LD_LIBRARY_PATH:$COPPELIASIM_ROOT'
    )
  return None


def _check_rlbench() -> str | None:
  if importlib.util.find_spec('rlbench') is None:
    return (
      'it is not installed (PyPI has none); pip install git+https://github.com/stepjam/RLBench.git'
    )
  return None


def _check_pyrep() -> str | None:
  mend = 'pip install git+https://github.com/stepjam/PyRep.git'
  spec = importlib.util.find_spec('pyrep')
  if spec is None:
    return f'it is not installed; {mend}'
  # Asking for 'pyrep.backend' would import pyrep, and with it the simulator.
  folders = spec.submodule_search_locations or []
  if not any(os.path.isdir(os.path.join(folder, 'backend')) for folder in folders):
    return (
      'the installed pyrep is an unrelated package of that name from PyPI; '
      f'pip uninstall pyrep, then {mend}'
    )
  return None


def _check_display() -> str | None:
  if not os.environ.get('DISPLAY'):
    return (
      f'DISPLAY is not set, and CoppeliaSim draws only on an X display; without a screen: {XVFB}'
    )
  return None


CHECKS = (
  ('CoppeliaSim', _check_root),
  (LIBRARY, _check_library),
  ('LD_LIBRARY_PATH', _check_path),
  ('RLBench', _check_rlbench),
  ('PyRep', _check_pyrep),
  ('a display', _check_display),
)


def _protocol(config):
  options = base.evaluation_options(config)
  repeat, limit = options.get('action_repeat', 2), options.get('time_limit', 200)
  camera = options.get('camera', 'front')
  facts = {'action_repeat': repeat, 'episode_steps': limit, 'camera': camera}
  return {**facts, 'success': 'ends an episode'}, [
    f'episodes of at most {limit} steps',
    'ended by a success, and by an action that the simulator refuses',
    f'action repeat {repeat}, 64 × 64 images, camera {camera}',
  ]


SUITE = base.Suite(environment=RLBench, title='RLBench', protocol=_protocol, slow=True)
