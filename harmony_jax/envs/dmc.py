"""DeepMind Control: the continuous control tasks of dm_control's suite, from pixels, states or
both.

Every step takes the same action `action_repeat` times and sums the rewards.
An episode lasts 1000 frames and no task ends before (except LQR), so that
`is_terminal` is False throughout and a world model sees no ends.

On a CPU drawing costs more than physics: `render='fast'` is several times as fast.
"""

import dataclasses
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np

from harmony_jax.envs import backgrounds, base, rendering
from harmony_jax.settings import setting

# From camera 0 the quadruped hides most of itself.
CAMERAS = {'quadruped': 2}
FRAMES = 1000  # of an episode; the suite sets LQR, which hardly ever comes to rest, no limit
OBSERVE = ('image', 'state', 'both')
BACKGROUNDS = ('none', 'video')


@dataclasses.dataclass(frozen=True)
class Options(base.Options):
  """Options of `DMC`."""

  action_repeat: int = setting(2, 'simulator steps per agent step; rewards are summed', least=1)
  render: str = setting(
    'stock',
    'stock for published numbers; fast: no shadows, no multisampling',
    choices=rendering.QUALITIES,
    only='.observe!=state',
  )
  observe: str = setting(
    'image', 'pictures, the vectors of dm_control, or both; state needs no OpenGL', choices=OBSERVE
  )
  camera: str = setting(
    '', "number or name of a camera; '': 2 for the quadruped, else 0", only='.observe!=state'
  )
  background: str = setting(
    'none',
    'none, or video: moving pictures in place of the sky',
    choices=BACKGROUNDS,
    only='.observe!=state',
  )
  background_files: str = setting('', "folder of videos or pictures for it; '': generated ones")
  time_limit: int = setting(
    0, "simulator steps that end an episode; 0: the suite's 1,000", most=FRAMES
  )


class DMC:
  """N environments of one task.

  Args:
    task: domain and task, e.g. 'cheetah_run' or 'ball_in_cup_catch'.
    num_envs: N.
    size: of the image, in pixels.
    **options: see `Options`. With observe='state' there are float32 vectors named as in
      dm_control, e.g. 'position', 'velocity', under MUJOCO_GL=off without any OpenGL. A video
      goes one frame further with each observation (`backgrounds`).

  Raises:
    ValueError: an unknown task or option.
    RuntimeError: dm_control is not installed, or nothing can draw.
  """

  def __init__(self, task: str, num_envs: int, *, size: int = 64, **options: Any):
    chosen = Options.of(options)
    video = chosen.background == 'video'
    if chosen.background_files and not video:
      raise ValueError("background_files are shown with background='video' only")
    self.task = self.canonical(task)
    self.num_envs = num_envs
    self._domain, self._name = _tasks()[self.task]
    self._size = size
    self._see, self._feel = chosen.observe != 'state', chosen.observe != 'image'
    self._time_limit = chosen.time_limit or FRAMES
    self._slots = [self._load() for _ in range(num_envs)]
    self._video = backgrounds.Backgrounds(chosen.background_files, size) if video else None
    for slot in self._slots:  # before the cameras, which make the OpenGL contexts
      rendering.apply_quality(slot.physics.model, chosen.render)
      if self._video:
        backgrounds.prepare(self._domain, slot.physics.model)
    camera = chosen.camera or CAMERAS.get(self._domain, 0)
    if str(camera).isdecimal():
      camera = int(camera)
    self._cameras = [self._make_camera(slot, camera) for slot in self._slots] if self._see else []
    self._center, self._scale = _action_map(self._slots[0].action_spec())
    self._frames = np.zeros(num_envs, int)
    self._video_frame = np.zeros(num_envs, int)  # that the next observation shows
    self.spec = base.Spec(
      self._observation_spec(),
      discrete=False,
      num_actions=len(self._center),
      action_repeat=chosen.action_repeat,
      episode_limit=-(-self._time_limit // chosen.action_repeat),
    )
    self._last = base.empty_timestep(self.spec, num_envs)

  @classmethod
  def canonical(cls, task: str) -> str:
    """'Cheetah-Run' -> 'cheetah_run'."""
    names = cls.tasks()
    folded = {name.lower(): name for name in names}
    name = folded.get(str(task).lower().replace('-', '_').replace(' ', '_'))
    if name is None:
      raise base.unknown('DeepMind Control task', task, names)
    return name

  @staticmethod
  def tasks() -> list[str]:
    """Names of all tasks."""
    return list(_tasks())

  def step(
    self,
    actions: np.ndarray,
    restart: np.ndarray,
    seeds: np.ndarray,
    idle: np.ndarray | None = None,
  ) -> base.TimeStep:
    """See `base`. Actions outside [-1, 1] are clipped."""
    idle = np.zeros(self.num_envs, bool) if idle is None else idle
    actions = np.clip(np.asarray(actions, np.float32), -1, 1)
    for index in np.flatnonzero(~idle):
      if restart[index]:
        self._begin(index, int(seeds[index]))
      else:
        self._advance(index, actions[index])
    return base.copy_timestep(self._last)

  def close(self) -> None:
    for slot in self._slots:
      slot.physics.free()  # with its OpenGL context
    self._slots, self._cameras = [], []

  @property
  def state_names(self) -> list[str]:
    """Names of the numbers of dm_control's own observation: 'height', 'position.0', …"""
    shapes = {name: array.shape for name, array in self._slots[0].observation_spec().items()}
    counted = lambda name, size: [f'{name}.{index}' for index in range(size)]
    return [
      each
      for name, shape in shapes.items()
      for each in (counted(name, int(np.prod(shape))) if shape else [name])
    ]

  def state(self) -> np.ndarray:
    """dm_control's own observation of what is drawn: [N, S] float32."""
    found = [slot.task.get_observation(slot.physics) for slot in self._slots]
    return np.array([np.hstack([np.ravel(x) for x in each.values()]) for each in found], np.float32)

  def _load(self):
    """One dm_control environment."""
    # The seed matters to LQR alone, which draws its springs here; episodes are seeded in `_begin`.
    return _suite().load(self._domain, self._name, task_kwargs={'random': 0})

  def _make_camera(self, slot, camera):
    from dm_control import mujoco  # by now importable, as the suite is

    # Kept, as dm_control's `physics.render` would make a new scene for each picture: twice the
    # time.
    return mujoco.Camera(slot.physics, self._size, self._size, camera)

  def _begin(self, index, seed):
    """Starts the episode of a seed: dm_control resets the physics, the task's generator is made
    anew.
    """
    slot = self._slots[index]
    # dm_control has no public way but to load the task again
    slot.task._random = np.random.RandomState(seed)
    self._frames[index] = 0
    if self._video:
      self._video_frame[index] = self._video.start(seed)
    self._write(index, slot.reset(), 0, first=True)

  def _advance(self, index, action):
    slot, reward = self._slots[index], 0
    for _ in range(self.spec.action_repeat):
      result = slot.step(self._center + self._scale * action)
      reward += result.reward
      self._frames[index] += 1
      if result.last() or self._frames[index] == self._time_limit:
        break
    self._write(index, result, reward, first=False)

  def _write(self, index, result, reward, first):
    last = self._last
    if self._see:
      last.observation['image'][index] = self._draw(index)
    if self._feel:
      for name, value in result.observation.items():
        last.observation[name][index] = np.ravel(value)
    last.reward[index] = reward
    last.is_first[index] = first
    last.is_last[index] = result.last() or self._frames[index] == self._time_limit
    last.is_terminal[index] = result.last() and result.discount == 0

  def _draw(self, index: int) -> np.ndarray:
    """The image [size, size, 3] of one environment, uint8."""
    image = self._cameras[index].render()
    if self._video:
      image = self._video.composite(image, self._video_frame[index])
      self._video_frame[index] += 1
    return image

  def _observation_spec(self):
    spec = {}
    if self._see:
      spec['image'] = base.ArraySpec((self._size, self._size, 3), np.uint8)
    if self._feel:
      for name, array in self._slots[0].observation_spec().items():
        spec[name] = base.ArraySpec((int(np.prod(array.shape)),), np.float32)
    return spec


def _suite() -> ModuleType:
  """dm_control's suite, imported late: it settles on an OpenGL when it is imported."""
  rendering.choose_backend()
  try:
    from dm_control import suite
  except ModuleNotFoundError as error:
    raise RuntimeError(
      f'DeepMind Control is not installed ({error}): pip install '
      "'dm_control>=1.0.49,<1.0.50' 'mujoco>=3.16,<3.17', "
      'on Python 3.11 or 3.12'
    ) from error
  return suite


def domain_module(domain: str) -> ModuleType:
  """dm_control's module of a domain, e.g. `dm_control.suite.cheetah`."""
  return getattr(_suite(), domain)


def _tasks() -> dict[str, tuple[str, str]]:
  """`{'cheetah_run': ('cheetah', 'run')}`; a domain may have underscores of its own."""
  return {'_'.join(pair): pair for pair in _suite().ALL_TASKS}


def _action_map(spec):
  """Centre and half-width [A] of the actions, so that centre + half-width * [-1, 1] are the task's
  own bounds.
  """
  low, high = np.broadcast_to(spec.minimum, spec.shape), np.broadcast_to(spec.maximum, spec.shape)
  # dm_control writes "unbounded" (in LQR) as +-1e10: there an action is taken as it is
  bounded = high - low < 1e9
  return np.where(bounded, (low + high) / 2, 0), np.where(bounded, (high - low) / 2, 1)


def control(config: Mapping) -> tuple[dict, list[str]]:
  """Return the facts and phrases that a run's protocol shares with DMC Remastered's."""
  options = base.evaluation_options(config)
  repeat, limit = options.get('action_repeat', 2), options.get('time_limit', 0)
  frames = min(limit or FRAMES, FRAMES)
  facts = {
    'action_repeat': repeat,
    'episode_frames': frames,
    'rendering': options.get('render', 'stock'),
    'observation': base.seen(options),
  }
  return facts, [
    f'sum of rewards over {frames:,} simulator steps{" (cut short)" if frames < FRAMES else ""}',
    f'action repeat {repeat}',
    base.seen(options),
  ]


def _protocol(config):
  facts, phrases = control(config)
  options = base.evaluation_options(config)
  camera = options.get('camera') or CAMERAS.get(config['task'].split('_')[0], 0)
  background = options.get('background', 'none')
  if background == 'video':
    origin = f'from {files}' if (files := options.get('background_files')) else 'generated'
    phrases.append(f'moving pictures behind the robot ({origin})')
  return {**facts, 'camera': camera, 'background': background}, [*phrases, f'camera {camera}']


SUITE = base.Suite(environment=DMC, title='DeepMind Control', protocol=_protocol, slow=True)
