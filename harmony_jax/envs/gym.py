"""Any Gymnasium environment, by its id: 'CartPole-v1', or 'package:Name-v0' where a package
registers it.

Observations become what the agent takes: pictures uint8 [64, 64, 3] and
vectors float32. A `terminated` episode is terminal, a `truncated` one only
ends. The environment must be a function of `reset(seed=...)` and its actions;
`check.check` says whether it is.

All environments step in this thread, one after the other.
"""

import dataclasses
import functools
import importlib
import weakref
from typing import Any

import numpy as np

from harmony_jax.envs import base, gym_actions, rendering
from harmony_jax.envs.check import RESERVED
from harmony_jax.settings import setting

OBSERVE = ('auto', 'render', 'both')
LONGEST_VECTOR = 4096  # longer ones are pictures in disguise, or need an encoder that is not here


@dataclasses.dataclass(frozen=True)
class Options(base.Options):
  """Options of `Gym`."""

  action_repeat: int = setting(
    1, 'steps of the environment per agent step; rewards are summed', least=1
  )
  observe: str = setting(
    'auto', 'auto: what the environment gives; render: its picture; both', choices=OBSERVE
  )
  time_limit: int = setting(0, "agent steps of an episode; 0: the environment's own limit")
  success: str = setting('', "entry of `info` that tells success, reported as a measure; '': none")


class Gym:
  """N environments of one id.

  Observations: a uint8 `Box` [H, W, 3], or grey [H, W, 1] or [H, W], is a
  picture; every other `Box`, and `Discrete` (one-hot), `MultiDiscrete` and
  `MultiBinary`, is one flat vector. The only picture is named 'image', the only
  vector of a space that is no `Dict` 'state'; entries of a `Dict` keep their
  names, inner ones as 'outer_inner'.

  Actions: see `gym_actions`.

  Args:
    task: the id.
    num_envs: N.
    size: height and width that pictures are resized to, by area.
    **options: see `Options`; others are for `gymnasium.make`, e.g. `continuous=True`. With
      observe='both' the picture that `render()` draws is 'image' beside the vectors.

  Attributes:
    actions: how each entry of an action is read, as short texts.
    measures: {'success': [N] float32} if `success` is given (0 where an info
      lacks the entry), else {}.

  Raises:
    ValueError: an unknown id or option, or a space that is not supported.
    RuntimeError: a package that the environment needs is missing.
  """

  def __init__(self, task: str, num_envs: int, *, size: int = 64, **options: Any):
    own = {field.name for field in dataclasses.fields(Options)}
    chosen = Options.of({name: options.pop(name) for name in own & options.keys()})
    observe, action_repeat = chosen.observe, chosen.action_repeat
    self.task = self.canonical(task)
    if observe != 'auto':
      options['render_mode'] = 'rgb_array'
    if chosen.time_limit:
      options['max_episode_steps'] = chosen.time_limit * action_repeat
    self.num_envs, self.action_repeat, self.size = num_envs, action_repeat, size
    self.success = chosen.success
    self._simulators = [_make_simulator(self.task, options) for _ in range(num_envs)]
    # OpenGL contexts must be freed before Python takes their library away, so also at exit.
    self._free = weakref.finalize(self, _close_all, self._simulators)
    first = self._simulators[0]
    self._drawn = observe != 'auto'
    self._readers = (
      {} if observe == 'render' else _readers(first.observation_space, size, self.task, self._drawn)
    )
    observation = {name: spec for name, (spec, _) in self._readers.items()}
    if self._drawn:
      _try_to_draw(first, self.task)
      observation['image'] = base.ArraySpec((size, size, 3), np.uint8)
    reading = gym_actions.read(first.action_space, self.task)
    self._translate, self.actions = reading.translate, reading.texts
    self.spec = base.Spec(observation, action_repeat=action_repeat, **reading.spec)
    self.measures = {'success': np.zeros(num_envs, np.float32)} if self.success else {}
    self._last = base.empty_timestep(self.spec, num_envs)

  @staticmethod
  def canonical(task: str) -> str:
    """'cartpole-v1' -> 'CartPole-v1'; 'CartPole' -> its newest version; 'package:Name-v0' imports
    the package.
    """
    import gymnasium

    package, _, name = str(task).rpartition(':')
    if package:
      try:
        importlib.import_module(package)
      except ImportError as error:
        raise ValueError(
          f'{task!r} asks for the package {package!r}, which cannot be imported: {error}'
        ) from None
    specs = sorted(gymnasium.registry.values(), key=lambda spec: -(spec.version or 0))
    for spec in specs:
      if name and name.lower() in (spec.id.lower(), spec.id.lower().rpartition('-v')[0]):
        return f'{package}:{spec.id}' if package else spec.id
    raise base.unknown(
      'Gymnasium id',
      name,
      [spec.id for spec in specs],
      f"{len(specs)} are registered; where a package registers it, write 'package:Name-v0'",
    )

  def step(
    self,
    actions: np.ndarray,
    restart: np.ndarray,
    seeds: np.ndarray,
    idle: np.ndarray | None = None,
  ) -> base.TimeStep:
    """See `base`. Raises ValueError for a discrete action that does not exist."""
    idle = np.zeros(self.num_envs, bool) if idle is None else idle
    for index in np.flatnonzero(~idle):
      if restart[index]:
        observation, info = self._simulators[index].reset(seed=int(seeds[index]))
        self._write(index, observation, 0, True, False, False, info)
      else:
        self._write(index, *self._advance(index, self._translate(actions[index])))
    return base.copy_timestep(self._last)

  def close(self) -> None:
    self._free()

  def _advance(self, index, action):
    """Observation, summed reward, is_first, terminated, truncated and info after `action_repeat`
    steps or the end.
    """
    total = 0.0
    for _ in range(self.action_repeat):
      observation, reward, terminated, truncated, info = self._simulators[index].step(action)
      total += float(reward)
      if terminated or truncated:
        break
    return observation, total, False, terminated, truncated, info

  def _write(self, index, observation, reward, first, terminated, truncated, info):
    last = self._last
    for name, (_, read) in self._readers.items():
      last.observation[name][index] = read(observation)
    if self._drawn:
      last.observation['image'][index] = _picture(_draw(self._simulators[index]), self.size)
    last.reward[index] = reward
    last.is_first[index] = first
    last.is_last[index] = terminated or truncated
    last.is_terminal[index] = terminated
    if self.success:
      self.measures['success'][index] = bool(info.get(self.success, False))


def _make_simulator(task, options):
  import gymnasium

  if 'mujoco' in str(gymnasium.spec(task.rpartition(':')[2]).entry_point):
    try:
      rendering.choose_backend()  # in any case: MuJoCo settles on one when it is imported
    except RuntimeError:
      if 'render_mode' in options:
        raise
  try:
    return gymnasium.make(task, disable_env_checker=True, **options)
  except TypeError as error:
    raise ValueError(f'{task} does not take {options}: {_one_line(error)}') from None
  except (ImportError, gymnasium.error.Error) as error:
    raise RuntimeError(f'{task} cannot be made: {_one_line(error)}') from None


def _try_to_draw(simulator, task):
  """Raises an error of one line where the environment draws no picture of three colours."""
  import gymnasium

  if 'rgb_array' not in simulator.metadata.get('render_modes', ()):
    raise ValueError(
      f"{task} draws no pictures (it has no render mode 'rgb_array'): use observe='auto'"
    )
  simulator.reset(seed=0)
  try:
    image = simulator.render()
  except (ImportError, gymnasium.error.Error) as error:
    raise RuntimeError(f'{task} cannot draw: {_one_line(error)}') from None
  if getattr(image, 'dtype', None) != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
    raise ValueError(
      f'{task} draws {type(image).__name__} {getattr(image, "shape", "")}, not uint8 [H, W, 3]'
    )


def _draw(simulator):
  viewer = getattr(getattr(simulator.unwrapped, 'mujoco_renderer', None), 'viewer', None)
  if viewer is not None:
    # Gymnasium would draw with whichever environment's context came last
    viewer.make_context_current()
  return simulator.render()


def _readers(space, size, task, drawn):
  """{name: (ArraySpec, function from the whole observation to one array)}; no picture 'image' where
  one is `drawn`.
  """
  leaves = list(_leaves(space))
  one_picture = sum(_is_picture(leaf) for _, leaf in leaves) == 1 and not drawn
  readers = {}
  for path, leaf in leaves:
    name = '_'.join(map(str, path)) or 'state'
    name = f'{name}_observed' if name in RESERVED or (drawn and name == 'image') else name
    if _is_picture(leaf):
      name = 'image' if one_picture else name
      spec, convert = (
        base.ArraySpec((size, size, 3), np.uint8),
        functools.partial(_picture, size=size),
      )
    else:
      spec, convert = _vector(leaf, f'{task}: the observation {name!r}')
    if name in readers:
      raise ValueError(f'{task}: two of its observations would be named {name!r}')
    readers[name] = (
      spec,
      lambda whole, path=path, convert=convert: convert(functools.reduce(_entry, path, whole)),
    )
  return readers


def _leaves(space, path=()):
  """(path, space) of all spaces that are no `Dict` and no `Tuple`."""
  from gymnasium import spaces

  if isinstance(space, spaces.Dict | spaces.Tuple):
    inner = space.items() if isinstance(space, spaces.Dict) else enumerate(space)
    for key, child in inner:
      yield from _leaves(child, (*path, key))
  else:
    yield path, space


def _entry(whole, key):
  return whole[key]


def _is_picture(space):
  shape = space.shape or ()
  return space.dtype == np.uint8 and (len(shape) == 2 or len(shape) == 3 and shape[-1] in (1, 3))


def _vector(space, what):
  """(ArraySpec, function to a float32 vector) of a space that is no picture."""
  from gymnasium import spaces

  if not isinstance(
    space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary
  ):
    raise ValueError(
      f'{what} is a {type(space).__name__}: supported are Box, Discrete, '
      'MultiDiscrete, MultiBinary, '
      'and Dict or Tuple of them'
    )
  length = spaces.flatdim(space)
  if length > LONGEST_VECTOR:
    raise ValueError(
      f'{what} {space.shape} {space.dtype} would be a vector of {length} numbers; a picture '
      'must be '
      'uint8 [H, W, 3], [H, W, 1] or [H, W]'
    )
  return base.ArraySpec((length,), np.float32), lambda value: np.asarray(
    spaces.flatten(space, value), np.float32
  )


def _picture(image, size):
  """Any picture [H, W, 3], [H, W, 1] or [H, W] as uint8 [size, size, 3]; every pixel is the mean of
  its area.
  """
  image = np.asarray(image)
  image = np.broadcast_to(image.reshape(*image.shape[:2], -1), (*image.shape[:2], 3))
  if image.shape[:2] == (size, size):
    return image
  height, width = image.shape[:2]
  rows = _areas(height, size) @ image.reshape(height, -1).astype(np.float32)  # [size, W * 3]
  columns = rows.reshape(size, width, 3).transpose(1, 0, 2).reshape(width, -1)  # [W, size * 3]
  resized = (_areas(width, size) @ columns).reshape(size, size, 3).transpose(1, 0, 2)
  return np.rint(resized).clip(0, 255).astype(np.uint8)


@functools.cache
def _areas(source, target):
  """[target, source] float32: the share of each source pixel in each target pixel's interval; rows
  sum to 1.
  """
  edges = np.linspace(0, source, target + 1)
  pixels = np.arange(source)
  overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
  return (overlap.clip(0) * target / source).astype(np.float32)


def _close_all(simulators):
  while simulators:
    simulators.pop().close()


def _one_line(error):
  return ' '.join(str(error).split())


def _protocol(config):
  options = base.evaluation_options(config)
  repeat, limit = options.get('action_repeat', 1), options.get('time_limit', 0)
  observed = {
    'auto': "the environment's own observations",
    'render': '64 × 64 drawn pictures',
    'both': 'its observations and 64 × 64 drawn pictures',
  }[options.get('observe', 'auto')]
  facts = {
    'action_repeat': repeat,
    'episode_steps': limit or "the environment's own limit",
    'observation': observed,
  }
  phrases = [
    config['task'],
    f'episodes of at most {limit:,} steps' if limit else "the environment's own limit of steps",
    f'action repeat {repeat}',
    observed,
  ]
  if options.get('success'):
    phrases.append(f"success as its info's {options['success']!r} at any step")
  return facts, phrases


SUITE = base.Suite(environment=Gym, title='Gymnasium', protocol=_protocol)
