"""What an agent takes of a Gymnasium observation space: pictures and vectors, each by one `Entry`.

A `Box` that looks like a picture (`_layout`) is one, whatever the order of its axes; every other
`Box`, `Discrete` (one-hot), `MultiDiscrete` and `MultiBinary` is a flat float32 vector. `Text` and
what else holds no numbers is left out. How each entry is read can be told (`read`), and is said in
the first lines of a run, for a picture that is taken for numbers is a fault that nobody sees.

What an environment then returns is held against its space at every step: another shape, kind of
number or range would be misread without a word.
"""

import dataclasses
import fnmatch
import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from harmony_jax.envs import base
from harmony_jax.envs.check import RESERVED
from harmony_jax.errors import one_line

LONGEST_VECTOR = 4096  # longer ones are pictures in disguise, or need an encoder that is not here
SMALLEST_SIDE = 12  # of a picture: boards and other codes are smaller
MOST_CHANNELS = 16  # of a picture or a stack of them
MOST_CODES = 256
LOOKS, DARK = 100, 24  # pictures in which one should be brighter than so much of 255
HOW = ('picture', 'vector', 'codes')


@dataclasses.dataclass(frozen=True)
class Entry:
  """One observation.

  Attributes:
    name: what the agent calls it. spec: what the agent gets. words: how it is read.
    read(whole): its array of a whole observation; ValueError where that does not fit its space.
  """

  name: str
  spec: base.ArraySpec
  words: str
  read: Callable[[Any], np.ndarray]


def entries(
  space: Any,
  size: int,
  drawn: bool = False,
  keys: Sequence[str] = (),
  ignore: Sequence[str] = (),
  read: Sequence[str] = (),
) -> tuple[list[Entry], list[str]]:
  """Return what an agent observes of a space, and the names of what is left out, with the reason.

  Args:
    space: of a Gymnasium environment; entries of a `Dict` or `Tuple` are named 'outer_inner'.
    size: height and width of pictures.
    drawn: whether a picture 'image' is drawn beside them.
    keys, ignore: patterns of names that are taken, by default all, and that are left out.
    read: 'pattern:how' with one of `HOW`; codes may have their number, 'image:codes11'.

  Raises:
    ValueError: a pattern that fits nothing, a space that cannot be read so, or nothing is left.
  """
  found_in = list(leaves_of(space))
  leaves = {'_'.join(map(str, path)) or 'state': (path, leaf) for path, leaf in found_in}
  if len(leaves) < len(found_in):
    raise ValueError(f'two of its observations would have one name of {", ".join(leaves)}')
  chosen = _chosen(leaves, keys, ignore)
  how = {name: each for name, each in _told(leaves, read).items() if name in chosen}
  left = [f'{name} (by the options)' for name in leaves if name not in chosen]
  found = {}
  for name in chosen:
    path, leaf = leaves[name]
    if not _numbers(leaf):
      if name in how or any(name == pattern for pattern in keys):
        raise ValueError(f'the observation {name!r} is {_a(leaf)}, which holds no numbers')
      empty = f' of {[*leaf.shape]}' if leaf.shape else ''
      left.append(f'{name} ({type(leaf).__name__}{empty})')
      continue
    try:
      found[name] = path, *_reading(leaf, size, how.get(name, ''))
    except ValueError as error:
      raise ValueError(f'the observation {name!r} {error}') from None
  if not found and not drawn:
    raise ValueError(
      f'nothing is left to observe of {", ".join(left)}: observe=render takes its picture'
    )
  named = _names(found, drawn)
  result = []
  for name, (path, spec, words, convert) in found.items():
    whole = functools.partial(_convert, path, _fitting(leaves[name][1]), convert)
    result.append(Entry(named[name], spec, f'{named[name]}: {words}', whole))
  return result, left


def leaves_of(space: Any, path: tuple = ()) -> Iterator[tuple[tuple, Any]]:
  """Yield (path, space) of all spaces that are no `Dict` and no `Tuple`, in their order."""
  from gymnasium import spaces

  if isinstance(space, spaces.Dict | spaces.Tuple):
    inner = space.items() if isinstance(space, spaces.Dict) else enumerate(space)
    for key, child in inner:
      yield from leaves_of(child, (*path, key))
  else:
    yield path, space


def _chosen(leaves, keys, ignore):
  for pattern in (*keys, *ignore):
    if not fnmatch.filter(leaves, pattern):
      raise ValueError(f'no observation fits {pattern!r}: there are {", ".join(leaves)}')
  fits = lambda name, patterns: any(fnmatch.fnmatchcase(name, each) for each in patterns)
  return [name for name in leaves if (not keys or fits(name, keys)) and not fits(name, ignore)]


def _told(leaves, read):
  """{name: how} of the option."""
  found = {}
  for each in read:
    pattern, _, how = each.rpartition(':')
    names = fnmatch.filter(leaves, pattern)
    if not names:
      known = ', '.join(leaves)
      raise ValueError(f'no observation fits {pattern!r} of read={each}: there are {known}')
    if how not in HOW and not (how.startswith('codes') and how[5:].isdigit()):
      raise ValueError(
        f'read={each}: expected NAME:picture, NAME:vector, NAME:codes or NAME:codes9'
      )
    found |= dict.fromkeys(names, how)
  return found


def _names(found, drawn):
  """{name in the space: the agent's}: the only picture is 'image'; what is stored is not taken."""
  pictures = [name for name, (_, spec, *_) in found.items() if len(spec.shape) == 3]
  only = pictures[0] if len(pictures) == 1 and not drawn and 'image' not in found else None
  taken = {*RESERVED, *(['image'] if drawn else [])}
  names = {
    name: 'image' if name == only else f'{name}_observed' if name in taken else name
    for name in found
  }
  if len({*names.values()}) < len(names):
    raise ValueError(f'two of its observations would have one name of {", ".join(names.values())}')
  return names


def _numbers(space):
  from gymnasium import spaces

  kinds = spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary
  return isinstance(space, kinds) and 0 not in (space.shape or ())


def _reading(space, size, how):
  """(ArraySpec, words, function from a value that fits to the agent's array)."""
  if how.startswith('codes'):
    return _codes(space, how)
  layout = _layout(space.shape or ()) if how != 'vector' else None
  if how == 'picture' and not (layout and _holds_pixels(space)):
    raise ValueError(f'{_a(space)} cannot be a picture: {PICTURES}')
  if layout and (how == 'picture' or _is_picture(space)):
    words, take, alpha = layout
    scale = 255 if space.high.max() <= 1 else 1
    spec = base.ArraySpec((size, size, 3), np.uint8)
    scaled = ', × 255' if scale != 1 else ''
    looked = _Looks(_a(space), alpha=alpha, bright=scale != 1)

    def convert(value):
      looked.at(value)
      return picture(_pixels(take(value), scale), size)

    return spec, f'{words}{scaled} → {size}×{size}', convert
  return _vector(space)


class _Looks:
  """Warns, once each, of pictures that are not what their space says they are."""

  def __init__(self, space, alpha, bright):
    self._space, self._alpha, self._dark, self._largest = space, alpha, 0 if bright else LOOKS, 0.0

  def at(self, value):
    if self._alpha and (last := value[..., 3]).min() < last.max():
      self._alpha = False
      self._warn(
        'the last channel, taken for the A of RGBA and left out, is not all the same: a '
        'depth, or the newest of stacked pictures, must be its own observation'
      )
    if self._dark:
      self._dark, self._largest = self._dark - 1, max(self._largest, float(value.max()))
      self._dark *= self._largest <= DARK
      if not self._dark and 0 < self._largest <= DARK:
        self._warn(
          f'in the first {LOOKS} nothing is above {self._largest:g} of 255: of pictures in [0, 1] '
          'the space must say so, codes are read by config.env.read=NAME:codes'
        )

  def _warn(self, text):
    warnings.warn(f'pictures are declared {self._space}, and {text}', stacklevel=2)


PICTURES = 'numbers in [0, 255] or [0, 1] of shape [H, W], [H, W, C], [C, H, W] or [K, H, W, C]'


def _holds_pixels(space):
  """Whether numbers can be those of pixels, where somebody says that they are."""
  return hasattr(space, 'high') and space.low.min() >= 0 and space.high.max() <= 255


def _is_picture(space):
  """Whether numbers are those of pixels: bytes, or floats from 0 to 1 or 255."""
  if space.dtype == np.uint8:
    return bool((space.low == 0).all() and (space.high == 255).all())
  floats = np.issubdtype(space.dtype, np.floating)
  return bool(
    floats and (space.low == 0).all() and space.high.min() == space.high.max() in (1, 255)
  )


def _layout(shape) -> tuple[str, Callable, bool] | None:
  """(words, function to [H, W, 3] or [H, W, 1], whether an A is left out) of what may be a picture;
  None for what is none.

  Of stacked pictures the newest is taken, which is the last: the agent has a memory of its own.
  """
  big = [side >= SMALLEST_SIDE for side in shape]
  text = '×'.join(map(str, shape))
  if len(shape) == 2 and all(big):
    return f'grey picture {text}', lambda x: x[..., None], False
  if len(shape) == 4 and all(big[1:3]) and shape[0] <= MOST_CHANNELS and shape[3] in (1, 3):
    return f'newest of {shape[0]} stacked pictures {text}', lambda x: x[-1], False
  if len(shape) != 3:
    return None
  first = all(big[1:]) and shape[0] <= MOST_CHANNELS and shape[0] < min(shape[1:])
  if all(big[:2]) and shape[2] <= MOST_CHANNELS and not (first and shape[2] > 4):
    words, count, turn = f'picture {text}', shape[2], lambda x: x
  elif first:
    words, count = f'picture {text} (channels first)', shape[0]
    turn = lambda x: np.moveaxis(x, 0, -1)
  else:
    return None
  if count in (1, 3):
    return words, turn, False
  if count == 4 and shape[2] == 4:
    return f'{words}, of RGBA without A', lambda x: turn(x)[..., :3], True
  newest = 3 if count % 3 == 0 else 1
  return f'newest of {count // newest} stacked: {words}', lambda x: turn(x)[..., -newest:], False


def _pixels(image, scale):
  return image if scale == 1 else np.rint(np.asarray(image, np.float32) * scale)


def _codes(space, how):
  """Every number as a one-hot."""
  shape = space.shape or ()
  numbers = np.issubdtype(space.dtype, np.integer) and hasattr(space, 'high')
  if not numbers:
    raise ValueError(f'is {_a(space)}: codes are whole numbers of a Box')
  low = int(space.low.min())
  count = int(how[5:] or int(space.high.max()) - low + 1)
  length = count * int(np.prod(shape))
  if count > MOST_CODES or length > LONGEST_VECTOR:
    raise ValueError(
      f'{shape} as one-hots of {count} codes would be {length} numbers, of at most '
      f'{LONGEST_VECTOR}: say how many codes there are, as in codes11'
    )

  def one_hot(value):
    codes = np.asarray(value).ravel().astype(np.int64) - low
    if codes.max(initial=0) >= count or codes.min(initial=0) < 0:
      raise ValueError(f'has the code {codes.max() + low}: read as {count} codes from {low}')
    return np.eye(count, dtype=np.float32)[codes].ravel()

  text = '×'.join(map(str, shape))
  return base.ArraySpec((length,), np.float32), f'{text} one-hots of {count} codes', one_hot


def _vector(space):
  from gymnasium import spaces

  length = spaces.flatdim(space)
  if length > LONGEST_VECTOR:
    told = f'a picture has {PICTURES}'
    if _layout(space.shape or ()) and _holds_pixels(space):
      told = 'config.env.read=NAME:picture reads it as one'
    raise ValueError(f'{space.shape} {space.dtype} would be a vector of {length} numbers; {told}')
  shape = tuple(space.shape or ())
  of = f' of {"×".join(map(str, shape))}' if len(shape) > 1 else ''
  one = isinstance(space, spaces.Discrete)
  words = f'one-hot of {length}' if one else f'vector of {length}{of}'
  # `flatten` would have numbers of a Box in its own few bits, which may not hold what was given.
  flat = np.ravel if isinstance(space, spaces.Box) else functools.partial(spaces.flatten, space)
  convert = lambda value: np.asarray(flat(value), np.float32)
  return base.ArraySpec((length,), np.float32), words, convert


def _convert(path, fit, convert, whole):
  value = whole
  for key in path:
    try:
      value = value[key]
    except (KeyError, IndexError, TypeError):
      raise ValueError(f'its observation has no {key!r}, which its space declares') from None
  try:
    return convert(fit(value))
  except ValueError as error:
    name = '_'.join(map(str, path)) or 'state'
    raise ValueError(f'its observation {name!r} {error}') from None


def _fitting(space):
  """A function that returns a value as its space has it; ValueError where it does not fit."""
  from gymnasium import spaces

  if isinstance(space, spaces.Box):
    return functools.partial(_fit_box, space, [])
  if isinstance(space, spaces.Discrete):
    low, high, shape = int(space.start), int(space.start + space.n) - 1, ()
  elif isinstance(space, spaces.MultiDiscrete):
    low, high, shape = space.start, space.start + space.nvec - 1, space.shape
  else:
    low, high, shape = 0, 1, space.shape

  def fit(value):
    array = _array(space, value)
    if isinstance(space, spaces.Discrete) and array.shape == (1,):
      array = array[0]
    whole = np.issubdtype(array.dtype, np.integer) or array.dtype == bool
    if array.shape != shape or not whole or (array < low).any() or (array > high).any():
      raise ValueError(f'is declared {space} but is {_actual(array)}')
    return array if shape else int(array)

  return fit


def _array(space, value):
  try:
    return np.asarray(value)
  except Exception as error:  # ragged, or a tensor that is on a device or has a gradient
    told = f'is declared {_a(space)} but is {type(value).__name__}: {one_line(str(error))}'
    raise ValueError(told) from None


def _fit_box(space, told, value):
  array = _array(space, value)
  declared, actual = space.dtype, array.dtype
  if array.shape != space.shape or actual.kind not in 'biuf':
    raise ValueError(f'is declared {_a(space)} but is {_actual(array)}')
  floats = np.issubdtype(declared, np.floating)
  if np.issubdtype(actual, np.floating):
    if not floats:
      raise ValueError(f'is declared {_a(space)} but is {_actual(array)}')
    if not np.isfinite(array.astype(np.float32)).all():
      raise ValueError(f'has {array[~np.isfinite(array.astype(np.float32))][0]} in it')
  if actual.name == declared.name == 'uint8' and _is_picture(space):
    return array
  low, high = space.low, space.high
  slack = 1e-3 * np.maximum(1, np.abs(np.where(np.isfinite(high), high, 1))) if floats else 0
  outside = (array < low - slack) | (array > high + slack)
  if outside.any():
    if not floats or (_layout(space.shape) and _is_picture(space)):
      raise ValueError(f'is declared {_a(space)} but is {_actual(array)}')
    if not told:  # once
      told.append(True)
      warnings.warn(
        f'an observation is declared {_a(space)} but is {_actual(array)}: taken as it is',
        stacklevel=2,
      )
  return array


def _a(space) -> str:
  """A space in a few words."""
  if hasattr(space, 'low') and hasattr(space, 'high') and space.low.size:
    shape = '×'.join(map(str, space.shape)) or 'one number'
    return f'{shape} {space.dtype} in [{space.low.min():g}, {space.high.max():g}]'
  return f'a {type(space).__name__}'


def _actual(array):
  if array.dtype.kind not in 'biufc':
    return f'{type(array.item()).__name__ if array.ndim == 0 else array.dtype}'
  shape = '×'.join(map(str, array.shape)) or 'one number'
  span = f' in [{array.min():g}, {array.max():g}]' if array.size else ''
  return f'{shape} {array.dtype}{span}'


def picture(image: Any, size: int) -> np.ndarray:
  """Return a picture [H, W, 3], [H, W, 1] or [H, W] as uint8 [size, size, 3].

  Every pixel is the mean of its area.
  """
  image = np.asarray(image)
  image = np.broadcast_to(image.reshape(*image.shape[:2], -1), (*image.shape[:2], 3))
  if image.shape[:2] == (size, size):
    whole = image if image.dtype.kind in 'iub' else np.rint(image).clip(0, 255)
    return whole.astype(np.uint8, copy=False)
  columns = _averaged(image.astype(np.float32), size).transpose(1, 0, 2)  # [W, size, 3]
  resized = _averaged(columns, size).transpose(1, 0, 2)
  return np.rint(resized).clip(0, 255).astype(np.uint8)


def _averaged(image, size):
  """[H, W, 3] -> [size, W, 3]. No product of matrices: the library of these would wait for threads
  which updates keep busy (0.4 ms for 84 × 84 on an idle machine, 68 on a busy one).
  """
  places, shares = _areas(len(image), size)
  return np.sum([image[place] * share for place, share in zip(places, shares)], axis=0)


@functools.cache
def _areas(source, target):
  """Which source pixels each target pixel's interval has a part of, and their shares of it.

  Returns: [K, target] indices, and [K, target, 1, 1] float32 shares, which sum to 1.
  """
  edges = np.linspace(0, source, target + 1)
  pixels = np.arange(source)
  overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
  share = overlap.clip(0) * target / source  # [target, source]
  first = (share > 0).argmax(1)
  most = int((share > 0).sum(1).max())
  places = np.minimum(first + np.arange(most)[:, None], source - 1)
  shares = np.where(first + np.arange(most)[:, None] < source, share[np.arange(target), places], 0)
  return places, shares[..., None, None].astype(np.float32)
