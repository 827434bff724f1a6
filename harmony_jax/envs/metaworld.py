"""Meta-World: 50 manipulation tasks of one robot arm, in the HarmonyDream protocol.

A picture of the corner camera, 64 x 64; four actions (movement of the hand in
x, y, z, and the gripper's force); a new place of object and goal in every
episode; 500 steps, whatever happens: no state is terminal, and an episode goes
on after its success. The score is the success rate (`measures`).

The tasks are the package's V3, on today's MuJoCo. The paper's are V2 on
mujoco-py, so its scores are not directly comparable.

One simulator and one OpenGL context per environment, all in this thread.
"""

# pyright: reportAttributeAccessIssue=false, reportPrivateImportUsage=false
# (MuJoCo and Meta-World are not typed)

import dataclasses
import importlib.util
import sys
import weakref
from typing import Any

import numpy as np

from harmony_jax.envs import base, rendering
from harmony_jax.settings import setting

# Those of the paper: two easy, two medium, two hard ones.
PAPER_TASKS = ('lever_pull', 'handle_pull_side', 'hammer', 'sweep_into', 'push', 'assembly')
TASKS = PAPER_TASKS + (
  'basketball',
  'bin_picking',
  'box_close',
  'button_press',
  'button_press_topdown',
  'button_press_topdown_wall',
  'button_press_wall',
  'coffee_button',
  'coffee_pull',
  'coffee_push',
  'dial_turn',
  'disassemble',
  'door_close',
  'door_lock',
  'door_open',
  'door_unlock',
  'drawer_close',
  'drawer_open',
  'faucet_close',
  'faucet_open',
  'hand_insert',
  'handle_press',
  'handle_press_side',
  'handle_pull',
  'peg_insert_side',
  'peg_unplug_side',
  'pick_out_of_hole',
  'pick_place',
  'pick_place_wall',
  'plate_slide',
  'plate_slide_back',
  'plate_slide_back_side',
  'plate_slide_side',
  'push_back',
  'push_wall',
  'reach',
  'reach_wall',
  'shelf_place',
  'soccer',
  'stick_pull',
  'stick_push',
  'sweep',
  'window_close',
  'window_open',
)

CAMERAS = ('corner', 'corner2', 'corner3', 'topview', 'behindGripper', 'gripperPOV')
# These three hang head down. Reading their rows from the bottom sets the picture upright and
# mirrors it, which is what the authors' older MuJoCo bindings hand out.
HANGING = ('corner', 'corner2', 'corner3')
# The package's own observation is [39]: 18 numbers of now, 18 of one step ago, the goal. Places are
# in metres; a task without a second object has zeros there.
_PLACED = [f'{of}.{number}' for of in ('object', 'second') for number in (*'xyz', *'ijkw')]
STATE_NAMES = ('hand.x', 'hand.y', 'hand.z', 'gripper', *_PLACED, 'goal.x', 'goal.y', 'goal.z')
_STATE = (*range(18), 36, 37, 38)
INSTALL = f"pip install -c constraints/python3.{sys.version_info.minor}.txt -e '.[metaworld]'"


@dataclasses.dataclass(frozen=True)
class Options(base.Options):
  """Options of `MetaWorld`."""

  action_repeat: int = setting(
    1, 'simulator steps (12.5 ms) per agent step; rewards are summed', least=1
  )
  camera: str = setting(
    'corner', 'where the picture is taken from', choices=CAMERAS, only='.observe!=state'
  )
  render: str = setting(
    'stock',
    'stock for published numbers; fast: no shadows, no multisampling',
    choices=rendering.QUALITIES,
    only='.observe!=state',
  )
  time_limit: int = setting(500, 'agent steps of an episode', least=1)
  observe: str = setting(
    'image',
    'pictures, state ([39]: hand, gripper and objects now and one step ago, goal), or both',
    choices=('image', 'state', 'both'),
  )


class MetaWorld:
  """N environments of one task.

  Args:
    task: one of `TASKS`; 'lever-pull' and 'lever-pull-v3' are the same as 'lever_pull'.
    num_envs: N.
    size: height and width of the picture.
    **options: see `Options`. A step ends early at a success, as the authors' does;
      observe='state' needs no OpenGL.

  Attributes:
    measures: {'success': [N] float32}, 1 where the last step reached the goal.

  Raises:
    ValueError: no such task or option.
    RuntimeError: the package or an OpenGL is missing, or the package does not
      fit the installed MuJoCo.
  """

  def __init__(self, task: str, num_envs: int, *, size: int = 64, **options: Any):
    chosen = Options.of(options)
    observe, action_repeat = chosen.observe, chosen.action_repeat
    self.task = self.canonical(task)
    try:
      rendering.choose_backend()  # in any case: MuJoCo settles on one when it is imported
    except RuntimeError:
      if observe != 'state':
        raise
    self.num_envs = num_envs
    self.action_repeat, self.time_limit, self.camera = (
      action_repeat,
      chosen.time_limit,
      chosen.camera,
    )
    self._simulators = [_make_simulator(self.task) for _ in range(num_envs)]
    self._renderers = []
    for simulator in self._simulators:
      simulator.max_path_length = chosen.time_limit * action_repeat
      if observe != 'state':
        rendering.apply_quality(simulator.model, chosen.render)
        self._renderers.append(_make_renderer(simulator.model, size))
    # Contexts must be freed before Python takes their library away, so also at exit.
    self._free = weakref.finalize(self, _close_all, self._renderers)
    specs = {
      'image': base.ArraySpec((size, size, 3), np.uint8),
      'state': base.ArraySpec((39,), np.float32),
    }
    self.spec = base.Spec(
      observation={name: specs[name] for name in specs if observe in (name, 'both')},
      discrete=False,
      num_actions=4,
      action_repeat=action_repeat,
      episode_limit=chosen.time_limit,
    )
    self.measures = {'success': np.zeros(num_envs, np.float32)}
    self._steps = np.zeros(num_envs, int)  # since the episode's begin
    self._seen = np.zeros((num_envs, 39))
    self._last = base.empty_timestep(self.spec, num_envs)

  @staticmethod
  def require() -> None:
    """Raises RuntimeError where the package is missing."""
    if importlib.util.find_spec('metaworld') is None:
      raise RuntimeError(f'Meta-World is not installed. To install it: {INSTALL}')

  @staticmethod
  def tasks() -> list[str]:
    """Names of all tasks."""
    return list(TASKS)

  @staticmethod
  def canonical(task: str) -> str:
    """'lever-pull-v3' -> 'lever_pull'."""
    folded = str(task).lower().replace('-', '_').replace(' ', '_').removesuffix('_v3')
    if folded not in TASKS:
      raise base.unknown('Meta-World task', task, TASKS)
    return folded

  def step(
    self,
    actions: np.ndarray,
    restart: np.ndarray,
    seeds: np.ndarray,
    idle: np.ndarray | None = None,
  ) -> base.TimeStep:
    """See `base`. Actions outside [-1, 1] are clipped."""
    idle = np.zeros(self.num_envs, bool) if idle is None else idle
    for index in np.flatnonzero(~idle):
      if restart[index]:
        self._begin(index, int(seeds[index]))
      else:
        self._advance(index, np.clip(np.asarray(actions[index], np.float32), -1, 1))
    return base.copy_timestep(self._last)

  state_names = STATE_NAMES

  def state(self) -> np.ndarray:
    """Where hand, objects and goal are now: [N, 21] float32."""
    return self._seen[:, _STATE].astype(np.float32)

  def scripted(self) -> np.ndarray:
    """The actions of the policy that the package has for the task: [N, 4] float32."""
    from metaworld.policies import ENV_POLICY_MAP

    policy = ENV_POLICY_MAP[f'{self.task.replace("_", "-")}-v3']()
    actions = [np.clip(policy.get_action(seen), -1, 1) for seen in self._seen]
    return np.array(actions, np.float32)

  def close(self) -> None:
    self._free()

  def _begin(self, index, seed):
    import mujoco

    simulator = self._simulators[index]
    simulator.seed(seed)
    state, _ = simulator.reset()
    # The package moves objects and goal in the model last, but leaves positions computed before:
    # without this the first picture shows 30 of the 50 tasks with something in a wrong place. It
    # touches nothing that the physics reads.
    mujoco.mj_kinematics(simulator.model, simulator.data)
    self._steps[index] = 0
    self._write(index, state, 0, 0, first=True)

  def _advance(self, index, action):
    total = 0
    for _ in range(self.action_repeat):
      state, reward, _, truncated, info = self._simulators[index].step(action)
      total += reward
      if info['success'] or truncated:
        break
    self._steps[index] += 1
    self._write(index, state, total, info['success'], first=False)

  def _write(self, index, state, reward, success, first):
    last, self._seen[index] = self._last, state
    if 'state' in last.observation:
      last.observation['state'][index] = state
    if 'image' in last.observation:
      last.observation['image'][index] = self._picture(index)
    last.reward[index] = reward
    last.is_first[index] = first
    last.is_last[index] = self._steps[index] >= self.time_limit  # never terminal
    self.measures['success'][index] = success

  def _picture(self, index):
    renderer = self._renderers[index]
    renderer.update_scene(self._simulators[index].data, self.camera)
    image = renderer.render()
    return image[::-1] if self.camera in HANGING else image


def _make_simulator(task):
  """One environment of the package whose object and goal are drawn anew, from its own generator, at
  every reset.
  """
  try:
    import metaworld  # the package, not this module
    import mujoco
  except ImportError as error:
    raise RuntimeError(
      f'Meta-World cannot be imported ({error}). To install it: {INSTALL}'
    ) from None
  try:
    simulator = metaworld.ALL_V3_ENVIRONMENTS[task.replace('_', '-') + '-v3']()
  except (
    ValueError
  ) as error:  # e.g. from MuJoCo 3.17 on: the package writes 11 numbers where there are 12
    raise RuntimeError(
      f'the installed Meta-World does not fit MuJoCo {mujoco.__version__} ({error}). '
      f'Versions that go together: {INSTALL}'
    ) from None
  # the goal is part of the state; its bounds are computed anew below
  simulator._partially_observable = False
  del simulator.sawyer_observation_space
  simulator._freeze_rand_vec = False
  simulator.seeded_rand_vec = True
  simulator._set_task_called = True
  return simulator


def _make_renderer(model, size):
  import mujoco

  model.vis.global_.offwidth = max(model.vis.global_.offwidth, size)
  model.vis.global_.offheight = max(model.vis.global_.offheight, size)
  return mujoco.Renderer(model, size, size)


def _close_all(renderers):
  while renderers:
    renderers.pop().close()


def _protocol(config):
  options = base.evaluation_options(config)
  repeat, limit = options.get('action_repeat', 1), options.get('time_limit', 500)
  camera = options.get('camera', 'corner')
  facts = {
    'action_repeat': repeat,
    'episode_steps': limit,
    'camera': camera,
    'rendering': options.get('render', 'stock'),
    'observation': base.seen(options),
    'success': 'at any step of an episode',
    'tasks': 'V3',
  }
  return facts, [
    'V3 tasks (the paper ran V2: not directly comparable)',
    f'success at any step of an episode of {limit} steps, which goes on after it',
    f'action repeat {repeat}',
    base.seen(options),
    f'camera {camera}',
  ]


SUITE = base.Suite(environment=MetaWorld, title='Meta-World', protocol=_protocol, slow=True)
