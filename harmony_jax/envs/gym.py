"""Any Gymnasium environment, by its id: 'CartPole-v1', or 'package:Name-v0' where a package
registers it.

`spaces` says what its observations become. A `terminated` episode is terminal, a `truncated` one
only ends, and so does a `terminated` one whose info says `TimeLimit.truncated`. The environment
must be a function of `reset(seed=...)` and its actions; `check.check` says whether it is.

Nothing that it declares is trusted: what it returns is held against its spaces and Gymnasium's
conventions at every step, and what it raises is its own fault (`errors.EnvironmentFault`).

All environments step in this thread, one after the other.
"""

import dataclasses
import difflib
import functools
import importlib
import inspect
import re
import warnings
import weakref
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np

from harmony_jax.envs import base, gym_actions, gym_vector, rendering, spaces
from harmony_jax.errors import EnvironmentFault, one_line
from harmony_jax.settings import setting

OBSERVE = ('auto', 'render', 'both')
SIDE = 64  # height and width that pictures are resized to, by area
STILL = 100  # steps in which a picture should have changed
MOST_WRAPPERS = 99
FAULTS = (Exception, SystemExit)  # some close their window and exit
# What registers ids that begin so, and what pip calls it; others are named as 'package:Name-v0'.
PACKAGES = {
  'ALE/': ('ale_py', 'ale-py'),
  'MiniGrid-': ('minigrid', 'minigrid'),
  'BabyAI-': ('minigrid', 'minigrid'),
  'MiniWorld-': ('miniworld', 'miniworld'),
  'Vizdoom': ('vizdoom.gymnasium_wrapper', 'vizdoom'),
  'gym_pusht/': ('gym_pusht', 'gym-pusht'),
  'highway-': ('highway_env', 'highway-env'),
  'dm_control/': ('shimmy', 'shimmy'),
  'PointMaze_': ('gymnasium_robotics', 'gymnasium-robotics'),
  'AntMaze_': ('gymnasium_robotics', 'gymnasium-robotics'),
  'Fetch': ('gymnasium_robotics', 'gymnasium-robotics'),
  'HandManipulate': ('gymnasium_robotics', 'gymnasium-robotics'),
  'Panda': ('panda_gym', 'panda-gym'),
}
CONVENTION = {
  'reset': 'reset(seed=…, options=…) returns (observation, info)',
  'step': 'step(action) returns (observation, reward, terminated, truncated, info)',
}


@dataclasses.dataclass(frozen=True)
class Options(base.Options):
  """Options of `Gym`; a run may name more of them, which are the environment's own."""

  more: ClassVar[bool] = True
  action_repeat: int = setting(
    1, 'steps of the environment per agent step; rewards are summed', least=1
  )
  observe: str = setting(
    'auto', 'auto: what the environment gives; render: its picture; both', choices=OBSERVE
  )
  time_limit: int = setting(0, "agent steps of an episode; 0: the environment's own limit")
  success: str = setting('', "entry of `info` that tells success, reported as a measure; '': none")
  keys: tuple[str, ...] = setting((), 'patterns of observations to take; none: all of them')
  ignore: tuple[str, ...] = setting((), 'patterns of observations to leave out')
  read: tuple[str, ...] = setting(
    (), 'how to read one, as image:picture, image:vector or image:codes11 (one-hots)'
  )
  wrappers: tuple[str, ...] = setting(
    (), 'to put around it, in this order, as my_package:MyWrapper'
  )
  vector: bool = setting(
    False, "make all together, as the id's own `VectorEnv`; an id with no other is so in any case"
  )

  @classmethod
  def of(cls, given: Mapping[str, Any]) -> Self:
    """Return the options among those given; the others are the environment's."""
    own = {field.name for field in dataclasses.fields(cls)}
    return super().of({name: value for name, value in given.items() if name in own})


class Gym:
  """N environments of one id.

  Observations: see `spaces`. The only picture is named 'image', the only vector of a space that is
  no `Dict` 'state'; entries of a `Dict` keep their names, inner ones as 'outer_inner'.

  Actions: see `gym_actions`.

  Args:
    task: the id.
    num_envs: N.
    **options: see `Options`; others are for `gymnasium.make`, e.g. `continuous=True`. With
      observe='both' the picture that `render()` draws is 'image' beside the vectors.

  Attributes:
    measures: {'success': [N] float32} if `success` is given (0 where an info
      lacks the entry), else {}.
    waves, replays: see `base`; of a vector environment they are as `gym_vector` tells.

  Raises:
    ValueError: an unknown id or option, or a space that is not supported.
    RuntimeError: a package that the environment needs is missing.
    EnvironmentFault: whatever it raises itself; what it returns does not fit its spaces.
  """

  def __init__(self, task: str, /, num_envs: int, **options: Any):
    chosen = Options.of(options)
    own = {field.name for field in dataclasses.fields(Options)}
    options = {name: value for name, value in options.items() if name not in own}
    observe, action_repeat = chosen.observe, chosen.action_repeat
    self.task = self.canonical(task)
    _check_options(self.task, options)
    if observe != 'auto':
      options['render_mode'] = 'rgb_array'
    if chosen.time_limit and 'max_episode_steps' in options:
      raise ValueError(
        'config.env.time_limit and config.env.max_episode_steps are one: say it once'
      )
    if chosen.time_limit:
      options['max_episode_steps'] = chosen.time_limit * action_repeat
    self.num_envs, self.action_repeat = num_envs, action_repeat
    self._vector = _vector(self.task, num_envs, options, chosen)
    made = self._vector.rows if self._vector else [None] * num_envs
    make = functools.partial(_Simulator, self.task, options, tuple(chosen.wrappers))
    self._simulators = [make(each) for each in made]
    # OpenGL contexts must be freed before Python takes their library away, so also at exit.
    self._free = weakref.finalize(self, _close_all, self._simulators)
    first = self._simulators[0]
    for other in self._simulators[1:]:  # observations are held against the first's as they come
      other.require_actions(first.action_space, 'another one of it has')
    self._drawn = observe != 'auto'
    self._entries, left = [], []
    if observe != 'render':
      try:
        how = chosen.keys, chosen.ignore, chosen.read
        self._entries, left = spaces.entries(first.observation_space, SIDE, self._drawn, *how)
      except ValueError as error:
        raise ValueError(f'{self.task}: {error}') from None
    observation = {entry.name: entry.spec for entry in self._entries}
    readings = [entry.words for entry in self._entries]
    if self._drawn:
      shape = _try_to_draw(first)
      observation['image'] = base.ArraySpec((SIDE, SIDE, 3), np.uint8)
      readings.append(f'image: drawn {"×".join(map(str, shape))} → {SIDE}×{SIDE}')
    readings += [f'left out: {", ".join(left)}'] if left else []
    actions = gym_actions.read(first.action_space, self.task)
    self._translate = actions.translate
    told = f'observations: {"; ".join(readings)}', f'actions: {"; ".join(actions.texts)}'
    self.waves = self._vector is not None and not self._vector.masked
    self.replays = self._vector is None or num_envs == 1
    if self._vector:
      seeds = 'those that begin together from one seed' if self.waves else 'each with its seed'
      told += (f'episodes: of one vector environment, {seeds}; a stopped run begins them anew',)
    limit = -(-(first.limit or 0) // action_repeat)
    self.spec = base.Spec(
      observation, action_repeat=action_repeat, episode_limit=limit, readings=told, **actions.spec
    )
    self._success = _Success(self.task, chosen.success)
    self.measures = {'success': np.zeros(num_envs, np.float32)} if chosen.success else {}
    self._still = {name: None for name, each in observation.items() if len(each.shape) == 3}
    self._steps = 0
    self._last = base.empty_timestep(self.spec, num_envs)

  @staticmethod
  def canonical(task: str) -> str:
    """'cartpole-v1' -> 'CartPole-v1'; 'CartPole' -> its newest version; 'package:Name-v0' imports
    the package.
    """
    import gymnasium

    package, _, name = str(task).rpartition(':')
    known = [each for beginning, each in PACKAGES.items() if name.startswith(beginning)]
    for module, pip in [(package, '')] if package else known:
      _import(task, module, pip)
    specs = sorted(gymnasium.registry.values(), key=lambda spec: -(spec.version or 0))
    for spec in specs:
      if name and name.lower() in (spec.id.lower(), spec.id.lower().rpartition('-v')[0]):
        return f'{package}:{spec.id}' if package else spec.id
    raise base.unknown(
      'Gymnasium id',
      name,
      [spec.id for spec in specs],
      f"{len(specs)} are registered; where a package registers it, write 'package:Name-v0'",
      cutoff=0.6,
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
    if self._vector and not idle.all():
      zeros = base.zero_actions(self.spec, 1)[0]
      chosen = lambda index: zeros if restart[index] or idle[index] else actions[index]
      row = lambda index: self._translate(chosen(index))
      self._simulators[0].call('move', row, np.asarray(restart, bool), seeds, idle)
    for index in np.flatnonzero(~idle):
      if restart[index]:
        observation, info = self._simulators[index].reset(int(seeds[index]))
        self._write(index, observation, 0, True, False, False, self._success.of(info, False))
      else:
        self._write(index, *self._advance(index, self._translate(actions[index])))
    self._look()
    return base.copy_timestep(self._last)

  def close(self) -> None:
    self._free()

  @property
  def unwrapped(self) -> Any:
    """Return the first environment, as its package has it."""
    return self._simulators[0].unwrapped

  def _advance(self, index, action):
    """Observation, summed reward, is_first, terminated, truncated, and success in any step, after
    `action_repeat` steps or the end.
    """
    total, success = 0.0, False
    for _ in range(self.action_repeat):
      observation, reward, terminated, truncated, info = self._simulators[index].step(action)
      total += reward
      success |= self._success.of(info, terminated or truncated)
      if terminated or truncated:
        break
    return observation, total, False, terminated, truncated, success

  def _write(self, index, observation, reward, first, terminated, truncated, success):
    last, simulator = self._last, self._simulators[index]
    for entry in self._entries:
      try:
        last.observation[entry.name][index] = entry.read(observation)
      except ValueError as error:
        raise simulator.fault(str(error)) from None
    if self._drawn:
      last.observation['image'][index] = spaces.picture(simulator.draw(), SIDE)
    last.reward[index] = reward
    last.is_first[index] = first
    last.is_last[index] = terminated or truncated
    last.is_terminal[index] = terminated
    if self.measures:
      self.measures['success'][index] = success

  def _look(self):
    """Warn of pictures of the first environment that do not change."""
    self._steps += 1
    for name, before in list(self._still.items()):
      now = self._last.observation[name][0]
      if before is None:
        self._still[name] = now.copy()
      elif not np.array_equal(before, now):
        del self._still[name]
      elif self._steps == STILL:
        spread = f'all {now.min()}' if now.min() == now.max() else 'the same'
        warnings.warn(
          f'{self.task}: the picture {name!r} has not changed in {STILL} steps ({spread})',
          stacklevel=3,
        )


class _Success:
  """What the info says of success; says once where it never says anything."""

  def __init__(self, task, key):
    self._task, self._key, self._unknown = task, key, bool(key)

  def of(self, info, is_last):
    if self._key in info:
      self._unknown = False
    elif self._unknown and is_last:
      self._unknown = False
      there = ', '.join(sorted(map(str, info))) or 'nothing'
      warnings.warn(
        f'{self._task}: no info of an episode had {self._key!r}, so its success is 0: '
        f'at the end there was {there}',
        stacklevel=4,
      )
    value = info.get(self._key)
    if value is None:
      return False
    array = _array(value)
    if not _is_number(array) or array.item() not in (0, 1):  # a share, a text, a NaN
      raise EnvironmentFault(
        f'{self._task}: its info has {self._key!r} {value!r}, which does not say success: expected '
        'true or false'
      )
    return bool(array.item())


class _Simulator:
  """One environment of Gymnasium's, whose faults are its own."""

  def __init__(self, task, options, wrappers, row=None):
    self.task, self._steps = task, 0
    self._env = row or _make(task, options)
    for path in wrappers:
      wrap = _wrapper(path)
      try:
        self._env = wrap(self._env)
      except FAULTS as error:
        raise EnvironmentFault(f'{task}: its wrapper {path} raised {_raised(error)}') from error
    _refuse_running(task, row.unwrapped if row else self._env)
    self.observation_space = self._space('observation_space')
    self.action_space = self._space('action_space')
    self.metadata, self.limit = self._env.metadata, getattr(self._env.spec, 'max_episode_steps', 0)
    self.unwrapped = self._env.unwrapped

  def _space(self, name):
    from gymnasium import Space

    found = getattr(self._env, name, None)
    if not isinstance(found, Space):
      kind = f'{type(found).__module__}.{type(found).__name__}'.removeprefix('builtins.')
      raise EnvironmentFault(f'{self.task}: its {name} is {kind}, not one of gymnasium.spaces')
    return found

  def fault(self, text):
    """The error that says what it did in which step."""
    at = 'at its start' if not self._steps else f'in step {self._steps} of an episode'
    return EnvironmentFault(f'{self.task}: {text}, {at}')

  def reset(self, seed):
    """(observation, info)."""
    self._steps = 0
    result = self.call('reset', seed=seed)
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)):
      raise self.fault(f'its reset returned {_kind(result)}: {CONVENTION["reset"]}')
    self.require_actions(self.action_space, 'before its reset it had')
    return result

  def require_actions(self, space, which):
    """Refuse actions of another space than the agent's."""
    now = self._env.action_space
    if now is not space and now != space:
      told = f'its action_space is {now}, {which} {space}'
      raise self.fault(f'{one_line(told)}: an agent has one for all episodes')

  def step(self, action):
    """(observation, reward, terminated, truncated, info)."""
    self._steps += 1
    result = self.call('step', action)
    if not (isinstance(result, tuple) and len(result) == 5 and isinstance(result[4], dict)):
      raise self.fault(f'its step returned {_kind(result)}: {CONVENTION["step"]}')
    observation, reward, terminated, truncated, info = result
    terminated, truncated = self._flag(terminated), self._flag(truncated)
    if terminated and np.all(info.get('TimeLimit.truncated', False)):  # as Gym before 0.26 said it
      terminated, truncated = False, True
    return observation, self._reward(reward), terminated, truncated, info

  def _reward(self, reward):
    array = _array(reward)
    if not _is_number(array):
      raise self.fault(
        f'its reward is {_kind(reward)}, not one number: put a wrapper around it that makes one, '
        '--config.env.wrappers=my_package:MyWrapper'
      )
    with np.errstate(over='ignore'):
      if not np.isfinite(array.astype(np.float32)).all():
        raise self.fault(f'its reward is {array.item()}, which float32 does not hold')
    return float(array.item())

  def _flag(self, value):
    array = _array(False if value is None else value)
    if not _is_number(array):
      raise self.fault(f'its end is {_kind(value)}, not true or false: {CONVENTION["step"]}')
    return bool(array.item())

  def draw(self):
    """Its picture."""
    viewer = getattr(getattr(self.unwrapped, 'mujoco_renderer', None), 'viewer', None)
    if viewer is not None:
      # Gymnasium would draw with whichever environment's context came last
      viewer.make_context_current()
    image = self.call('render')
    if getattr(image, 'dtype', None) != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
      raise self.fault(f'its render returned {_kind(image)}, not a picture uint8 [H, W, 3]')
    return image

  def close(self):
    """Free what it holds; what went wrong or right before is not for its end to change."""
    try:
      self._env.close()
    except FAULTS as error:
      warnings.warn(f'{self.task}: its close raised {_raised(error)}', stacklevel=2)

  def call(self, name, *args, **how):
    """What a method returns; what it raises is the environment's fault."""
    try:
      return getattr(self._env, name)(*args, **how)
    except FAULTS as error:
      told = isinstance(error, (TypeError, ValueError)) and name in CONVENTION
      hint = f' ({CONVENTION[name]})' if told else ''
      raise self.fault(f'its {name} raised {_raised(error)}{hint}') from error


def _import(task, module, pip=''):
  try:
    importlib.import_module(module)
  except ImportError as error:
    if pip and error.name == module.partition('.')[0]:
      raise ValueError(
        f'{task} is of the package {pip}, which is not installed: pip install {pip}'
      ) from None
    raise ValueError(
      f'{task!r} asks for the package {module!r}, which cannot be imported: {_one_line(error)}'
    ) from None
  except FAULTS as error:
    raise EnvironmentFault(f'{task}: to import {module} raised {_raised(error)}') from error


def _wrapper(path):
  module, _, name = path.partition(':')
  if not name:
    raise ValueError(f'config.env.wrappers has {path!r}: expected my_package:MyWrapper')
  _import(path, module)
  try:
    return getattr(importlib.import_module(module), name)
  except AttributeError:
    raise ValueError(f'config.env.wrappers has {path!r}: {module} has no {name!r}') from None


def _refuse_running(task, env):
  """Refuse a wrapper that normalises by what its own environment has seen: an evaluation's begins
  from nothing, so that the policy sees, and the score is of, other numbers than in training.
  """
  for _ in range(MOST_WRAPPERS):
    inside = getattr(env, '__dict__', {})
    if inside.keys() & {'obs_rms', 'return_rms'}:  # as Gymnasium's, and copies of it
      raise ValueError(
        f'{task}: its wrapper {type(env).__name__} normalises by running statistics, which each '
        'environment has of its own, those of evaluation too: take one that is the same function '
        'in every step'
      )
    env = inside.get('env')


def _make(task, options, num_envs=0):
  import gymnasium

  if 'mujoco' in str(gymnasium.spec(task.rpartition(':')[2]).entry_point):
    try:
      rendering.choose_backend()  # in any case: MuJoCo settles on one when it is imported
    except RuntimeError:
      if 'render_mode' in options:
        raise
  how = {'disable_env_checker': True}
  if num_envs:
    how = {'num_envs': num_envs, 'vectorization_mode': 'vector_entry_point'}
  make = gymnasium.make_vec if num_envs else gymnasium.make
  try:
    return make(task, **how, **options)
  except (ImportError, gymnasium.error.Error) as error:
    raise RuntimeError(f'{task} cannot be made: {_one_line(error)}') from None
  except TypeError as error:
    if options and re.search('(keyword|positional) argument', str(error)):
      taken = ', '.join(_parameters(task) or ['nothing that is known'])
      raise ValueError(
        f'{task} does not take {options}: {_one_line(error)}; it takes {taken}'
      ) from None
    raise EnvironmentFault(f'{task} cannot be made: {_raised(error)}') from error
  except FAULTS as error:
    text = f'does gymnasium.make({task!r}) work by itself?'
    raise EnvironmentFault(f'{task} cannot be made: {_raised(error)} ({text})') from error


def _vector(task, num_envs, options, chosen):
  """All of them as `gym_vector.Vector`, or None where each is one of its own."""
  import gymnasium

  spec = gymnasium.spec(task.rpartition(':')[2])
  if not chosen.vector and (spec.entry_point or not spec.vector_entry_point):
    return None
  if not spec.vector_entry_point:
    raise ValueError(f'{task} has no VectorEnv of its own (vector_entry_point): vector=False')
  of_each = {'observe': 'auto', 'action_repeat': 1, 'wrappers': ()}
  for name, usual in of_each.items():
    if getattr(chosen, name) != usual:
      raise ValueError(f'{task} is made as one VectorEnv, which has no config.env.{name}')
  env = _make(task, options, num_envs)
  try:
    return gym_vector.Vector(env)
  except ValueError as error:
    raise ValueError(f'{task}: {error}') from None


def _parameters(task):
  """The names that its constructor takes, without those of `**…`; None where it cannot be known."""
  import gymnasium
  from gymnasium.envs.registration import load_env_creator

  entry = gymnasium.spec(task.rpartition(':')[2]).entry_point
  try:
    made = load_env_creator(entry) if isinstance(entry, str) else entry
    return [
      each.name
      for each in inspect.signature(made).parameters.values()  # pyright: ignore[reportArgumentType]
      if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)
    ]
  except Exception:
    return None


def _check_options(task, options):
  """Refuse a slip of one of our options, which an environment with `**kwargs` would take."""
  own = [field.name for field in dataclasses.fields(Options)]
  taken = _parameters(task) or []
  for name in options:
    near = difflib.get_close_matches(name, own, n=1, cutoff=0.75)
    if near and name not in taken:
      raise ValueError(f'{task} has no option {name!r}: did you mean config.env.{near[0]}?')


def _raised(error):
  """An exception in one line."""
  text = _one_line(error)
  return f'{type(error).__name__}: {text}' if text else type(error).__name__


def _array(value):
  """A value as NumPy has it; an object where it cannot, as a tensor that is on a device."""
  try:
    return np.asarray(value)
  except Exception:
    return np.array(None)


def _is_number(array):
  return array.size == 1 and array.dtype.kind in 'biuf'


def _kind(value):
  """What something is, in a few words."""
  if isinstance(value, np.ndarray):
    return f'{value.dtype} {list(value.shape)}'
  if isinstance(value, tuple) and len(value) <= 5:  # as of a step
    return f'({", ".join(map(_kind, value))})'
  count = f' of {len(value)}' if isinstance(value, (tuple, list)) else ''
  return f'{type(value).__name__}{count}'


def _try_to_draw(simulator):
  """The shape of its picture, or an error of one line where it draws none of three colours."""
  import gymnasium

  if 'rgb_array' not in (simulator.metadata or {}).get('render_modes', ()):
    raise ValueError(
      f"{simulator.task} draws no pictures (it has no render mode 'rgb_array'): use observe='auto'"
    )
  simulator.reset(seed=0)
  try:
    return simulator.draw().shape
  except EnvironmentFault as fault:
    if isinstance(fault.__cause__, (ImportError, gymnasium.error.Error)):
      raise RuntimeError(f'{simulator.task} cannot draw: {_one_line(fault.__cause__)}') from None
    raise


def _close_all(simulators):
  while simulators:
    simulators.pop().close()


def _one_line(error):
  return one_line(str(error))


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


SUITE = base.Suite(environment=Gym, title='Gymnasium', protocol=_protocol, alike=False)
