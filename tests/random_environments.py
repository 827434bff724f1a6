"""Environments that nobody wrote: drawn by hypothesis, with spaces, lengths, rewards and faults.

A `Drawn` environment remembers what it gave and was given; what an agent should have got of it is
computed here by other code than the adapter's.
"""

import dataclasses
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces
from hypothesis import strategies as st

SIZE = 64  # of the pictures that agents get


class Leaf(NamedTuple):
  """A space without inner ones.

  Attributes:
    expect: from a value that was given to the array that should arrive; None if it is left out.
  """

  space: gymnasium.Space
  expect: Any


@dataclasses.dataclass
class Plan:
  """An environment. `observation` is a `Leaf`, or a dict or a tuple of plans of that kind."""

  observation: Any
  action: gymnasium.Space
  length: int  # of an episode, about; 0: endless
  limit: int | None  # that Gymnasium sets
  ends: str  # terminated, truncated or either
  reward: str  # its kind
  scale: float
  loose: bool  # lists and other types of numbers where arrays are declared
  fault: str = ''
  at: int = 0  # the step of the fault


PLANS: list[Plan] = []

# --------------------------------------------------------------------------------------------------
# What is observed


def _mean_of_areas(image):
  """[H, W, C] float -> [SIZE, SIZE, C]: the integral of the picture between the grid's lines."""
  for _ in range(2):
    height = image.shape[0]
    total = np.concatenate([np.zeros((1, *image.shape[1:])), image.cumsum(0)])
    lines = np.arange(SIZE + 1) * height / SIZE
    low = np.minimum(lines.astype(int), height - 1)
    at = total[low] + (lines - low)[:, None, None] * image[low]
    image = (np.diff(at, axis=0) * SIZE / height).swapaxes(0, 1)
  return image


@st.composite
def pictures(draw):
  """A space that is a picture in one of the usual layouts."""
  side = st.sampled_from([16, 24, 64, 84, 96])
  height, width, channels = draw(side), draw(side), draw(st.sampled_from([1, 3]))
  stack, first = draw(st.sampled_from([1, 1, 3, 4])), draw(st.booleans())
  kind = draw(st.sampled_from(['bytes', 'unit', 'float255']))
  plain = channels == 1 and stack == 1 and draw(st.booleans())
  newest = draw(st.booleans()) and channels == 3 and stack > 1  # [K, H, W, C]
  if plain:
    shape, take = (height, width), lambda x: x[..., None]
  elif newest:
    shape, take = (stack, height, width, channels), lambda x: x[-1]
  else:
    # of three grey pictures nobody can know that they are no colours
    stack = 1 if channels == 1 and stack == 3 else stack
    if channels == 1 and stack == 4 and not first:
      stack = 2  # [H, W, 4] is RGBA
    count = stack * channels
    shape = (count, height, width) if first else (height, width, count)
    turn = (lambda x: x.transpose(1, 2, 0)) if first else (lambda x: x)
    take = lambda x: turn(x)[..., -channels:]
  dtype = np.uint8 if kind == 'bytes' else draw(st.sampled_from([np.float32, np.float64]))
  space = spaces.Box(0, 1 if kind == 'unit' else 255, shape, dtype)

  def expect(value):
    image = take(np.asarray(value, np.float64))
    image = image * 255 if kind == 'unit' else image
    return np.broadcast_to(_mean_of_areas(image), (SIZE, SIZE, 3))

  return Leaf(space, expect)


@st.composite
def vectors(draw):
  """Boxes that are no pictures, whole numbers, choices."""
  kind = draw(st.sampled_from(['box', 'ints', 'codes', 'discrete', 'several', 'binary', 'scalar']))
  shape = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)))
  flat = lambda value: np.asarray(value, np.float32).ravel()
  if kind == 'box':
    low = draw(st.sampled_from([-1, -10, -np.inf, 0]))
    high = draw(st.sampled_from([1, 10, np.inf]))
    return Leaf(spaces.Box(low, high, shape, draw(st.sampled_from([np.float32, np.float64]))), flat)
  if kind == 'ints':
    return Leaf(spaces.Box(-3, 9, shape, draw(st.sampled_from([np.int32, np.int64]))), flat)
  if kind == 'codes':
    return Leaf(spaces.Box(0, 255, (7, 7, 3), np.uint8), flat)
  if kind == 'scalar':
    return Leaf(spaces.Box(-1, 1, (), np.float32), flat)
  if kind == 'discrete':
    count, start = draw(st.integers(1, 6)), draw(st.integers(-2, 2))
    return Leaf(
      spaces.Discrete(count, start=start), lambda value: np.eye(count)[int(value) - start]
    )
  if kind == 'several':
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    one_hots = lambda value: np.concatenate([np.eye(n)[v] for n, v in zip(sizes, value)])
    return Leaf(spaces.MultiDiscrete(sizes), one_hots)
  return Leaf(spaces.MultiBinary(draw(st.integers(1, 4))), flat)


left_out = st.sampled_from(
  [Leaf(spaces.Text(5), None), Leaf(spaces.Sequence(spaces.Discrete(2)), None)]
)
numbers = pictures() | vectors() | vectors()


@st.composite
def observations(draw):
  """One space, or some of them by name or in order, one of which holds numbers."""
  kind = draw(st.sampled_from(['one', 'one', 'dict', 'tuple', 'nested']))
  if kind == 'one':
    return draw(numbers)
  some = draw(st.lists(numbers | left_out, max_size=2)) + [draw(numbers)]
  if kind == 'tuple':
    return tuple(some)
  names = draw(st.permutations(['pixels', 'joints', 'reward', 'arm']))
  found = dict(zip(names, some))
  return {**found, 'inner': {'place': draw(vectors())}} if kind == 'nested' else found


def space_of(of):
  """The Gymnasium space of a tree of leaves."""
  if isinstance(of, Leaf):
    return of.space
  if isinstance(of, dict):
    return spaces.Dict({name: space_of(inner) for name, inner in of.items()})
  return spaces.Tuple([space_of(inner) for inner in of])


def leaves(of, value=None, path=()):
  """(path, leaf, its part of a value) of a tree of leaves, in the order of its space."""
  if isinstance(of, Leaf):
    return [(path, of, value)]
  inner = of.items() if isinstance(of, dict) else enumerate(of)
  part = lambda key: None if value is None else value[key]
  return [each for key, child in inner for each in leaves(child, part(key), (*path, key))]


def expected(of, value):
  """[array] of the entries that are not left out, in the order of the space's names."""
  found = leaves(of, value)
  order = {path: rank for rank, path in enumerate(_paths(space_of(of)))}
  found.sort(key=lambda each: order[each[0]])
  return [leaf.expect(part) for _, leaf, part in found if leaf.expect]


def _paths(space, path=()):
  if isinstance(space, spaces.Dict):
    return [each for key, inner in space.items() for each in _paths(inner, (*path, key))]
  if isinstance(space, spaces.Tuple):
    return [each for key, inner in enumerate(space) for each in _paths(inner, (*path, key))]
  return [path]


# --------------------------------------------------------------------------------------------------
# What is done

_boxes = st.sampled_from(
  [
    spaces.Box(-1, 1, (2,), np.float32),
    spaces.Box(np.float32([-2, 0]), np.float32([2, 5]), (2,), np.float32),
    spaces.Box(0, np.inf, (1,), np.float64),
    spaces.Box(-1, 1, (2, 2), np.float32),
    spaces.Box(-1, 1, (), np.float32),
  ]
)
_choices = st.one_of(
  st.builds(spaces.Discrete, st.integers(1, 5), start=st.integers(-1, 2)),
  st.builds(spaces.MultiDiscrete, st.lists(st.integers(1, 4), min_size=1, max_size=3)),
  st.builds(spaces.MultiBinary, st.integers(1, 3)),
)
actions = st.one_of(
  _boxes,
  _choices,
  st.builds(lambda a, b: spaces.Dict(move=a, hand=b), _choices, _boxes),
  st.builds(lambda a, b: spaces.Tuple((a, spaces.Dict(b=b))), _boxes, _choices),
)


def received(space, row):
  """What an environment should receive of a stored action [A], one-hots first, then numbers."""
  sizes = [n for leaf in _flat(space) for n in _sizes(leaf)]
  ends = np.cumsum(sizes, dtype=int)
  chosen = iter([int(row[end - size : end].argmax()) for end, size in zip(ends, sizes)])
  rest = iter(row[sum(sizes) :].tolist())
  return _build(space, chosen, rest)


def _flat(space):
  inner = space.values() if isinstance(space, spaces.Dict) else space
  if isinstance(space, spaces.Dict | spaces.Tuple):
    return [leaf for each in inner for leaf in _flat(each)]
  return [space]


def _sizes(space):
  if isinstance(space, spaces.Discrete):
    return [int(space.n)]
  if isinstance(space, spaces.MultiDiscrete):
    return space.nvec.tolist()
  return [2] * space.n if isinstance(space, spaces.MultiBinary) else []


def _build(space, chosen, rest):
  if isinstance(space, spaces.Dict):
    return {key: _build(inner, chosen, rest) for key, inner in space.items()}
  if isinstance(space, spaces.Tuple):
    return tuple(_build(inner, chosen, rest) for inner in space)
  if isinstance(space, spaces.Discrete):
    return next(chosen) + int(space.start)
  if not isinstance(space, spaces.Box):
    return np.array([next(chosen) for _ in _sizes(space)])
  value = np.array([next(rest) for _ in range(int(np.prod(space.shape)))]).reshape(space.shape)
  high = np.where(np.isinf(space.high), space.low + 2, space.high)  # a window of one bound
  return space.low + (value.clip(-1, 1) + 1) / 2 * (high - space.low)


# --------------------------------------------------------------------------------------------------
# Faults: what it does, from some step on, that does not fit what it says

WRONG = {  # of what a step gives: (observation, reward, terminated, truncated, info)
  'inf reward': lambda plan, o, r, *x: (o, np.inf, *x),
  'nan reward': lambda plan, o, r, *x: (o, float('nan'), *x),
  'huge reward': lambda plan, o, r, *x: (o, 1e300, *x),
  'two rewards': lambda plan, o, r, *x: (o, np.ones(2), *x),
  'no reward': lambda plan, o, r, *x: (o, None, *x),
  'text reward': lambda plan, o, r, *x: (o, 'one', *x),
  'four values': lambda plan, o, r, t, u, i: (o, r, t, i),
  'no info': lambda plan, o, r, t, u, i: (o, r, t, u, None),
  'two ends': lambda plan, o, r, t, *x: (o, r, np.zeros(2, bool), *x),
  'nothing': lambda plan, *x: None,
  'no observation': lambda plan, o, *x: (None, *x),
  'shape': lambda plan, o, *x: (_broken(plan.observation, o, _longer), *x),
  'nan': lambda plan, o, *x: (_broken(plan.observation, o, _nan), *x),
  'text': lambda plan, o, *x: (_broken(plan.observation, o, lambda *y: 'seven'), *x),
  'outside': lambda plan, o, *x: (_broken(plan.observation, o, _outside), *x),
}
RAISES = ('raises in step', 'raises in reset', 'raises in constructor')


def _broken(of, value, change):
  """A value whose last entry that is observed is changed."""
  path, leaf, part = [each for each in leaves(of, value) if each[1].expect][-1]

  def put(inner, path):
    if not path:
      return change(leaf.space, part)
    changed = put(inner[path[0]], path[1:])
    if isinstance(inner, dict):
      return {**inner, path[0]: changed}
    return tuple(changed if i == path[0] else each for i, each in enumerate(inner))

  return put(value, path)


def _longer(space, value):
  return np.zeros((*np.shape(value), 3))


def _nan(space, value):
  return np.full(np.shape(value), np.nan)


def _outside(space, value):
  """Beyond what any reading takes, which takes floats of no picture as they are, with a warning."""
  if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
    return np.full(np.shape(value), 1e39)
  return np.full(np.shape(value), 10_000)


# --------------------------------------------------------------------------------------------------


@st.composite
def plans(draw, faults=True):
  """A whole environment; two of three without a fault."""
  fault = draw(st.sampled_from([''] * 36 + [*WRONG, *RAISES])) if faults else ''
  length = draw(st.sampled_from([0, 1, 2, 5, 11, 40]))
  return Plan(
    observation=draw(observations()),
    action=draw(actions),
    length=length,
    limit=draw(st.sampled_from([None, 7, 30])),
    ends=draw(st.sampled_from(['terminated', 'truncated', 'either'])),
    reward=draw(st.sampled_from(['float', 'int', 'bool', 'array', 'float32', 'int64'])),
    scale=draw(st.sampled_from([0.0, 1.0, 1e-6, 1e6])),
    loose=draw(st.booleans()),
    fault=fault,
    at=draw(st.integers(1, 9)),
  )


class Drawn(gymnasium.Env):
  """The environment of a plan.

  Attributes:
    told: [(action or None, observation, reward, terminated, truncated)], since it was made.
  """

  metadata = {'render_modes': []}

  def __init__(self, plan=0):
    self.plan = PLANS[plan]
    if self.plan.fault == 'raises in constructor':
      raise OSError('no licence found\nfor this machine')
    self.observation_space, self.action_space = space_of(self.plan.observation), self.plan.action
    self.told, self.steps = [], 0

  def reset(self, *, seed=None, options=None):
    super().reset(seed=seed)
    if self.plan.fault == 'raises in reset':
      raise ConnectionError('simulator not started')
    self.observation_space.seed(int(self.np_random.integers(2**31)))
    self.time, span = 0, self.plan.length
    self.end = int(self.np_random.integers(max(1, span // 2), span + 1)) if span else 0
    observation = self._observe()
    self.told.append((None, observation, 0.0, False, False))
    return observation, {}

  def step(self, action):
    assert self.action_space.contains(action), f'{action!r} is not in {self.action_space}'
    self.time, self.steps = self.time + 1, self.steps + 1
    if self.plan.fault == 'raises in step' and self.steps >= self.plan.at:
      raise KeyError('joint')
    over = self.time == self.end
    either = self.np_random.random() < 0.5
    terminated = over and (self.plan.ends == 'terminated' or self.plan.ends == 'either' and either)
    truncated = over and not terminated
    result = self._observe(), self._reward(), terminated, truncated, {'time': self.time}
    self.told.append((action, *result[:4]))
    if self.plan.fault in WRONG and self.steps >= self.plan.at:
      return WRONG[self.plan.fault](self.plan, *result)
    return result

  def _observe(self):
    value = self.observation_space.sample()
    return _loosely(value) if self.plan.loose else value

  def _reward(self):
    value = self.plan.scale * float(self.np_random.normal())
    kinds = {
      'int': lambda x: int(np.clip(x, -9, 9)),
      'bool': lambda x: bool(x > 0),
      'array': lambda x: np.array([x]),
      'float32': np.float32,
      'int64': lambda x: np.int64(np.clip(x, -9, 9)),
      'float': float,
    }
    return kinds[self.plan.reward](value)


def _loosely(value):
  """The same numbers in other clothes."""
  if isinstance(value, dict):
    return {key: _loosely(inner) for key, inner in value.items()}
  if isinstance(value, tuple):
    return tuple(_loosely(inner) for inner in value)
  if isinstance(value, np.ndarray) and value.size < 100:
    return value.tolist()
  return value


ID = 'tests.random_environments:Drawn-v0'
gymnasium.register('Drawn-v0', Drawn)
