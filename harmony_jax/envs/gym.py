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
import warnings
import weakref
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np

from harmony_jax.envs import base, gym_actions, gym_making, gym_vector, spaces
from harmony_jax.envs.gym_simulator import Simulator, number
from harmony_jax.errors import EnvironmentFault, one_line
from harmony_jax.settings import setting

OBSERVE = ('auto', 'render', 'both')
SIDE = 64  # height and width that pictures are resized to, by area
STILL = 100  # steps in which a picture should have changed


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
    make = lambda row: row or gym_making.make(self.task, options)
    wrapped = lambda row: gym_making.wrapped(self.task, make(row), chosen.wrappers)
    self._simulators = [Simulator(self.task, wrapped(row)) for row in made]
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
    known = [each for beginning, each in gym_making.PACKAGES.items() if name.startswith(beginning)]
    for module, pip in [(package, '')] if package else known:
      gym_making.import_package(task, module, pip)
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
    found = number(value)
    if found is None or found.item() not in (0, 1):  # a share, a text, a NaN
      raise EnvironmentFault(
        f'{self._task}: its info has {self._key!r} {value!r}, which does not say success: expected '
        'true or false'
      )
    return bool(found.item())


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
  env = gym_making.make(task, options, num_envs)
  try:
    return gym_vector.Vector(env)
  except ValueError as error:
    raise ValueError(f'{task}: {error}') from None


def _check_options(task, options):
  """Refuse a slip of one of our options, which an environment with `**kwargs` would take."""
  own = [field.name for field in dataclasses.fields(Options)]
  taken = gym_making.parameters(task) or []
  for name in options:
    near = difflib.get_close_matches(name, own, n=1, cutoff=0.75)
    if near and name not in taken:
      raise ValueError(f'{task} has no option {name!r}: did you mean config.env.{near[0]}?')


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
      raise RuntimeError(
        f'{simulator.task} cannot draw: {one_line(str(fault.__cause__))}'
      ) from None
    raise


def _close_all(simulators):
  while simulators:
    simulators.pop().close()


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
