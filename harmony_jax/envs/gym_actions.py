"""Gymnasium's spaces of actions as those of `base`, and the way back.

    Discrete                       one choice, as it is
    Box of floats                  continuous numbers: [-1, 1] is stretched to the bounds
    MultiDiscrete, MultiBinary,    factors: a choice for each entry, in order, and behind all
    Dict or Tuple of any of these  choices the continuous numbers

A dimension without bounds is not stretched: there the agent reaches the numbers in [-1, 1] alone,
and a warning says so. With one bound it reaches as wide a window from there: [2, 4] of [2, ∞).
"""

import itertools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from harmony_jax.envs import base
from harmony_jax.envs.spaces import leaves_of
from harmony_jax.errors import one_line

WINDOW = 2.0  # width of what the agent reaches from a single bound
LARGEST = 1e9  # some write the largest float in place of infinity


class Reading(NamedTuple):
  """A space of actions as an agent has it.

  Attributes:
    spec: the fields of `base.Spec` about actions.
    translate: from one action, an int or [A], to the environment's own.
    texts: how each entry is read.
  """

  spec: dict[str, Any]
  translate: Callable[[Any], Any]
  texts: list[str]


class _Leaf(NamedTuple):
  """A space that is no `Dict` and no `Tuple`: `make` takes its choices and its numbers."""

  choices: tuple[int, ...]
  numbers: int
  make: Callable[[list[int], np.ndarray], Any]
  text: str


def read(space: Any, task: str) -> Reading:
  """Return how an agent acts in a space.

  Raises:
    ValueError: a kind that is not supported.
  """
  from gymnasium import spaces

  if isinstance(space, spaces.Discrete):
    return _one_choice(int(space.n), int(space.start), task)
  leaves, unbounded = [], 0
  for path, leaf in leaves_of(space):
    leaves.append(_leaf(leaf, '_'.join(map(str, path)) or 'action', task))
    if isinstance(leaf, spaces.Box):
      unbounded += (~np.logical_or(*_bounded(leaf))).sum()
  choices = tuple(itertools.chain.from_iterable(leaf.choices for leaf in leaves))
  numbers = sum(leaf.numbers for leaf in leaves)
  if not choices and not numbers:
    raise ValueError(f'{task}: its actions {one_line(str(space))} hold nothing to choose')
  if unbounded:
    warnings.warn(
      f'{task}: {unbounded} of {numbers} dimensions of its actions have no bounds; '
      'there the agent reaches only the numbers in [-1, 1]',
      stacklevel=3,
    )

  def translate(action):
    chosen, rest = base.decode(action, choices)
    chosen, made = map(int, chosen), []
    for leaf in leaves:
      part, rest = rest[: leaf.numbers], rest[leaf.numbers :]
      made.append(leaf.make(list(itertools.islice(chosen, len(leaf.choices))), part))
    return _nested(space, iter(made))

  spec = {'discrete': False, 'num_actions': sum(choices) + numbers, 'choices': choices}
  return Reading(spec, translate, [leaf.text for leaf in leaves])


def _one_choice(count, start, task):
  def translate(action):
    if not 0 <= action < count:
      raise ValueError(f'{task} has actions 0 to {count - 1}; got {action}')
    return int(action) + start

  return Reading({'discrete': True, 'num_actions': count}, translate, [f'action: 1 of {count}'])


def _nested(space, made):
  """Put what was made of the leaves where it belongs."""
  from gymnasium import spaces

  if isinstance(space, spaces.Dict):
    return {key: _nested(inner, made) for key, inner in space.items()}
  if isinstance(space, spaces.Tuple):
    return tuple(_nested(inner, made) for inner in space)
  return next(made)


def _leaf(space, name, task) -> _Leaf:
  from gymnasium import spaces

  if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
    return _box(space, name)
  if isinstance(space, spaces.Discrete):
    sizes, start = [space.n], np.asarray(space.start)
  elif isinstance(space, spaces.MultiDiscrete):
    sizes, start = space.nvec, getattr(space, 'start', 0)  # older ones begin at 0
  elif isinstance(space, spaces.MultiBinary):
    sizes, start = np.full(space.shape, 2), 0
  else:
    kind = type(space).__name__ + (f' of {space.dtype}' if isinstance(space, spaces.Box) else '')
    raise ValueError(
      f'{task}: the action {name!r} is a {kind}: supported are Discrete, MultiDiscrete, '
      'MultiBinary, Box of floats, and Dict or Tuple of them'
    )
  sizes, shape = tuple(np.ravel(sizes).tolist()), space.shape or ()

  def make(chosen, numbers):
    value = np.reshape(chosen, shape) + start
    return np.asarray(value, space.dtype)[()]  # of a Discrete no array

  return _Leaf(sizes, 0, make, _text(name, space, [f'1 of {size}' for size in sizes]))


def _bounded(space):
  """Where a Box has a lower bound, and where an upper one."""
  return abs(space.low.astype(np.float64)) < LARGEST, abs(space.high.astype(np.float64)) < LARGEST


def _box(space, name):
  low, high = space.low.astype(np.float64), space.high.astype(np.float64)
  below, above = _bounded(space)
  bottom = np.where(below, low, np.where(above, high - WINDOW, -1))
  top = np.where(above, high, np.where(below, low + WINDOW, 1))

  def make(chosen, numbers):
    action = np.clip(np.asarray(numbers, np.float64).reshape(space.shape), -1, 1)
    stretched = bottom + (action + 1) / 2 * (top - bottom)
    return np.asarray(np.clip(stretched, space.low, space.high), space.dtype)

  rows = zip(*(np.ravel(x).tolist() for x in (below, above, bottom, top)))
  return _Leaf((), bottom.size, make, _text(name, space, [_reach(*row) for row in rows]))


def _reach(below, above, bottom, top):
  """What the agent reaches of one dimension, in words."""
  where = f'[{bottom:g}, {top:g}]'
  if below and above:
    return where if where == '[-1, 1]' else f'[-1, 1] stretched to {where}'
  lacking = 'lower bound' if above else 'upper bound' if below else 'bounds'
  return f'no {lacking}, the agent reaches {where}'


def _text(name, space, entries):
  """'name [shape]: entries', equal neighbours said once."""
  runs = [(text, len(list(run))) for text, run in itertools.groupby(entries)]
  told = [f'{count} × {text}' if count > 1 and len(runs) > 1 else text for text, count in runs]
  shape = f' [{", ".join(map(str, space.shape))}]' if space.shape else ''
  return f'{name}{shape}: {"; ".join(told)}'
