"""Floors and skies for DMC Remastered: painted from a seed, or photographs of the user.

The original shows 383 photographs of grounds and 119 of landscapes, which are third-party works and
not part of this package. The painted ones have the same kinds, in the same proportions, but they
are no photographs: scores with them are not comparable to published ones. For those get the
originals (see `Photos`).

A picture is uint8 `[size, size, 3]`. Fields are floats `[size, size]`; those called noise have mean
0 and deviation 1 and continue seamlessly over their borders, as a floor repeats three times per
metre.
"""

import functools
import pathlib

import numpy as np

from harmony_jax.paths import local_path

FLOOR_SIZE, SKY_SIZE = 128, 256
IMAGES = ('.png', '.jpg', '.jpeg')
# How many floors of each kind the original has ('moss' with lichen, 'soil' with the rest).
FLOOR_KINDS = {
  'grass': 138,
  'sand': 68,
  'brick': 55,
  'concrete': 55,
  'ice': 24,
  'leaves': 13,
  'moss': 19,
  'soil': 11,
}


def floor(seed: int, size: int = FLOOR_SIZE) -> np.ndarray:
  """A painted ground, seen from above."""
  rng = np.random.default_rng(seed)
  counts = np.array(list(FLOOR_KINDS.values()))
  kind = list(FLOOR_KINDS)[rng.choice(len(counts), p=counts / counts.sum())]
  return _finish(_FLOORS[kind](rng, size))


def sky(seed: int, size: int = SKY_SIZE) -> np.ndarray:
  """A painted landscape with the horizon about halfway up.

  It is put on every side of the cube around the scene, as the original does with its photographs,
  so that the border between two sides may show.
  """
  rng = np.random.default_rng(seed)
  height = np.linspace(1, 0, size, dtype=np.float32)[:, None]  # 1 at the top
  picture, sun = _air(rng, size, height)
  horizon = rng.uniform(0.4, 0.6)
  haze = picture[int((1 - horizon) * size)].mean(0)
  for layer in range(rng.integers(0, 4)):  # far ones first
    picture = _ridge(
      rng,
      picture,
      height,
      horizon + 0.12 * rng.uniform(-0.3, 1.5) / (layer + 1),
      haze,
      0.65 - 0.2 * layer,
    )
  return _finish(_land(rng, picture, height, horizon, sun))


class Photos:
  """The user's own pictures of floors and skies, in place of painted ones.

  Args:
    folder: any tree with PNG or JPEG files, each in a folder whose name begins with 'floor' or with
      'sky', 'skies', 'background' or 'bg' (at any depth), such as `dmc_remastered/assets` of
      github.com/QData/dmc_remastered with its `floors/` and `skies/`. Pictures are taken in the
      alphabetical order of their paths, so that a visual seed means the same picture on every
      machine that has the same files.

  Raises:
    ValueError: no such folder, or a kind of picture is missing.
  """

  def __init__(self, folder: str | pathlib.Path):
    root = local_path(folder)
    paths = sorted(path for path in root.rglob('*') if path.suffix.lower() in IMAGES)
    self.floors = [path for path in paths if _is_in(path.relative_to(root), 'floor')]
    self.skies = [
      path for path in paths if _is_in(path.relative_to(root), 'sky', 'skies', 'background', 'bg')
    ]
    if not self.floors or not self.skies:
      raise ValueError(
        f'{folder} has {len(self.floors)} floors and {len(self.skies)} skies among '
        f'{len(paths)} pictures: expected '
        'are PNG or JPEG files in folders named floors/ and skies/, as in dmc_remastered/assets of '
        'github.com/QData/dmc_remastered'
      )

  def floor(self, seed: int) -> np.ndarray:
    """The floor that a seed stands for."""
    return _photograph(self.floors[seed % len(self.floors)], FLOOR_SIZE)

  def sky(self, seed: int) -> np.ndarray:
    """The sky that a seed stands for."""
    return _photograph(self.skies[seed % len(self.skies)], SKY_SIZE)


def _is_in(path: pathlib.Path, *beginnings: str) -> bool:
  return any(part.lower().startswith(beginnings) for part in path.parts[:-1])


# all of the original: 45 MB instead of reading a large file at every reset
@functools.lru_cache(maxsize=1024)
def _photograph(path: pathlib.Path, size: int) -> np.ndarray:
  from PIL import Image

  with Image.open(path) as image:
    return np.asarray(image.convert('RGB').resize((size, size), Image.Resampling.BOX))


# --------------------------------------------------------------------------------------------------
# Brushes


def _noise(rng, size, smooth, stretch=(1, 1)):
  """Noise whose amplitude falls with frequency f as f^-smooth: 0 is white, 1 cloudy, 2 gentle
  hills.

  Args:
    rng: a NumPy generator.
    size: pixels per side.
    smooth: the exponent.
    stretch: (down, across): how many times longer its shapes are there.
  """
  down = (np.fft.fftfreq(size).astype(np.float32) * stretch[0])[:, None]
  across = np.fft.rfftfreq(size).astype(np.float32) * stretch[1]
  square = down**2 + across**2
  square[0, 0] = np.inf  # no mean
  spectrum = np.fft.rfft2(rng.standard_normal((size, size), np.float32)) * square ** np.float32(
    -smooth / 2
  )
  field = np.fft.irfft2(spectrum, (size, size))
  return field / field.std()


def _line(rng, size, smooth):
  """Noise [size] in one dimension, as rough as a line across `_noise` with the same exponent."""
  frequency = np.fft.rfftfreq(size)
  frequency[0] = np.inf
  line = np.fft.irfft(np.fft.rfft(rng.standard_normal(size)) * frequency ** (0.5 - smooth), size)
  return (line / line.std()).astype(np.float32)


def _pebbles(rng, size, count):
  """A field of `count` x `count` pebbles of irregular shape.

  Returns:
    `height` [size, size], 1 in a pebble's middle and 0 between two; `which` [size, size] ints below
    count^2.
  """
  centers = rng.uniform(0.1, 0.9, (count, count, 2))
  coordinates = (np.arange(size) + 0.5) * count / size
  row, column = np.meshgrid(coordinates, coordinates, indexing='ij')
  distances, names = [], []
  for down in (-1, 0, 1):
    for across in (-1, 0, 1):
      cell_row, cell_column = (
        np.floor(row).astype(int) + down,
        np.floor(column).astype(int) + across,
      )
      center = centers[cell_row % count, cell_column % count]
      distances.append(
        (cell_row + center[..., 0] - row) ** 2 + (cell_column + center[..., 1] - column) ** 2
      )
      names.append(cell_row % count * count + cell_column % count)
  order = np.argsort(distances, 0)[:2]
  nearest, second = np.sqrt(np.take_along_axis(np.array(distances), order, 0))
  return np.clip(2 * (second - nearest), 0, 1), np.take_along_axis(np.array(names), order[:1], 0)[0]


def _colored(field, colors):
  """Return [size, size, 3]: colours [K, 3] from the lowest (-2) to the highest (2) values."""
  at = np.linspace(-2, 2, len(colors))
  table = np.stack(
    [np.interp(np.linspace(-3, 3, 256), at, channel) for channel in np.transpose(colors)], -1
  )
  return table.astype(np.float32)[np.clip(42.5 * (field + 3), 0, 255).astype(np.uint8)]


def _mix(below, above, cover):
  """`above` over `below`, both colours or pictures, where `cover` [size, size] or [size, 1] in [0,
  1] says so.
  """
  cover = np.clip(cover, 0, 1, dtype=np.float32)[..., None]
  return below + cover * (above - np.asarray(below, np.float32))


def _near(rng, color, by=0.05):
  """A colour near another: somewhat darker or lighter, and shifted a little."""
  color = (np.array(color) + rng.uniform(-by, by, 3)) * rng.uniform(0.75, 1.25)
  return np.clip(color, 0, 1).astype(np.float32)


def _pick(rng, *colors):
  return _near(rng, colors[rng.integers(len(colors))])


def _finish(picture):
  return (255 * np.clip(picture, 0, 1)).astype(np.uint8)


# --------------------------------------------------------------------------------------------------
# Floors


def _grass(rng, size):
  green = _pick(rng, (0.25, 0.4, 0.1), (0.35, 0.45, 0.15), (0.45, 0.45, 0.2), (0.2, 0.32, 0.08))
  blades = 0.8 * _noise(rng, size, 0.6, (1, 2)) + 0.6 * _noise(rng, size, 0.6, (2, 1))
  picture = _colored(blades, [0.25 * green, green, 1.7 * green])
  dry = _near(rng, (0.55, 0.48, 0.3))
  bare = _noise(rng, size, 1.3) - rng.uniform(0.3, 2.5)  # patches where the grass is worn
  return _mix(picture, dry * (1 + 0.25 * blades[..., None]), bare)


def _sand(rng, size):
  tan = _pick(rng, (0.76, 0.65, 0.48), (0.62, 0.52, 0.4), (0.8, 0.74, 0.62), (0.55, 0.42, 0.3))
  grains = 0.5 * _noise(rng, size, 0.2) + _noise(rng, size, 1.2)
  if rng.uniform() < 0.4:  # ripples, bent by the wind
    phase = np.arange(size)[:, None] / size * rng.integers(4, 10) + 0.25 * _noise(rng, size, 1.8)
    grains = grains * 0.6 + 1.2 * np.sin(2 * np.pi * phase)
  if rng.uniform() < 0.4:  # gravel
    height, which = _pebbles(rng, size, int(rng.integers(8, 24)))
    shade = rng.uniform(0.5, 1.3, which.max() + 1)[which]
    return (
      _mix(0.3 * tan, shade[..., None] * (0.6 * tan + 0.4 * tan.mean()), 1.5 * height)
      + 0.04 * grains[..., None]
    )
  return _colored(grains, [0.65 * tan, tan, 1.2 * tan])


def _brick(rng, size):
  rows, columns = int(rng.integers(2, 6)) * 2, int(rng.integers(2, 6))
  row = np.arange(size)[:, None] * rows / size + np.zeros(size)
  bond = rng.choice([0, 0.5])  # shifted every other row, or a grid of tiles
  column = np.arange(size)[None] * columns / size + bond * (np.floor(row) % 2)
  which = (np.floor(row) * columns + np.floor(column) % columns).astype(int)
  red = _pick(rng, (0.58, 0.28, 0.2), (0.65, 0.45, 0.35), (0.5, 0.5, 0.48), (0.7, 0.6, 0.45))
  tint = rng.uniform(0.7, 1.25, (rows * columns, 1)) + rng.uniform(-0.06, 0.06, (rows * columns, 3))
  picture = red * tint[which]
  if bond == 0 and columns % 2 == 0 and rng.uniform() < 0.7:  # tiles like a chessboard
    picture[(np.floor(row) + np.floor(column)) % 2 == 1] *= rng.uniform(0.3, 0.7)
  # > 0 between bricks
  joint = np.maximum(np.abs(row % 1 - 0.5) - 0.44, np.abs(column % 1 - 0.5) - 0.46)
  mortar = _near(rng, (0.65, 0.63, 0.6))
  rough = 0.07 * _noise(rng, size, 0.7)[..., None]
  return _mix(picture, mortar, 60 * joint) + rough


def _concrete(rng, size):
  grey = _pick(rng, (0.6, 0.6, 0.58), (0.45, 0.45, 0.47), (0.7, 0.67, 0.6), (0.35, 0.36, 0.36))
  stains = 0.7 * _noise(rng, size, 1.4) + 0.4 * _noise(rng, size, 0.3)
  picture = _colored(stains, [0.7 * grey, grey, 1.2 * grey])
  if rng.uniform() < 0.5:  # slabs
    slabs = int(rng.integers(1, 4))
    row, column = np.meshgrid(*2 * [np.arange(size) * slabs / size % 1], indexing='ij')
    picture = _mix(picture, 0.4 * grey, np.minimum(np.minimum(row, column), 0.06) < 0.03)
  cracks = 1 - 12 * np.abs(_noise(rng, size, 1.6) + rng.uniform(-0.5, 0.5))
  return _mix(picture, 0.4 * grey, rng.choice([0, 0.8]) * cracks)


def _ice(rng, size):
  blue = _pick(rng, (0.78, 0.84, 0.9), (0.62, 0.72, 0.8), (0.85, 0.86, 0.86))
  picture = _colored(_noise(rng, size, 1.3), [0.7 * blue, blue, 1.15 * blue])
  ground = _near(rng, (0.4, 0.34, 0.28))
  picture = _mix(picture, ground, 0.7 * (_noise(rng, size, 1) - rng.uniform(0.2, 2)))
  return _mix(picture, (1, 1, 1), 0.7 - 6 * np.abs(_noise(rng, size, 1.5)))


def _leaves(rng, size):
  colors = np.array(
    [
      _pick(rng, (0.6, 0.35, 0.12), (0.7, 0.5, 0.2), (0.45, 0.25, 0.12), (0.35, 0.35, 0.12))
      for _ in range(5)
    ]
  )
  height, which = _pebbles(rng, size, int(rng.integers(9, 16)))
  leaf = colors[rng.integers(5, size=which.max() + 1)] * rng.uniform(0.6, 1.3, (which.max() + 1, 1))
  return (
    _mix(0.15 * colors[0], leaf[which], 0.2 + 1.2 * height)
    + 0.05 * _noise(rng, size, 0.5)[..., None]
  )


def _moss(rng, size):
  stone, green = (
    _near(rng, (0.45, 0.43, 0.4)),
    _pick(rng, (0.35, 0.42, 0.12), (0.5, 0.5, 0.25), (0.3, 0.35, 0.2)),
  )
  rock = _colored(_noise(rng, size, 1), [0.6 * stone, stone, 1.3 * stone])
  growth = _colored(_noise(rng, size, 0.5), [0.4 * green, green, 1.5 * green])
  return _mix(rock, growth, 0.5 + 1.5 * _noise(rng, size, 1.3) + rng.uniform(-0.5, 1))


def _soil(rng, size):
  brown = _pick(rng, (0.35, 0.25, 0.17), (0.28, 0.22, 0.18), (0.5, 0.33, 0.22))
  clods = 0.8 * _noise(rng, size, 0.9) + 0.5 * _noise(rng, size, 0.2)
  return _colored(clods, [0.4 * brown, brown, 1.6 * brown])


_FLOORS = {
  'grass': _grass,
  'sand': _sand,
  'brick': _brick,
  'concrete': _concrete,
  'ice': _ice,
  'leaves': _leaves,
  'moss': _moss,
  'soil': _soil,
}

# --------------------------------------------------------------------------------------------------
# Skies

# Colours from the zenith down to the horizon, of clouds, and of what light does to the land.
_AIRS = (
  ((0.18, 0.38, 0.72), (0.65, 0.8, 0.92), (1, 1, 1), (1, 1, 0.95)),  # a clear day
  ((0.35, 0.55, 0.8), (0.85, 0.9, 0.93), (0.95, 0.95, 0.97), (0.95, 0.95, 0.9)),  # a hazy one
  ((0.5, 0.53, 0.57), (0.75, 0.77, 0.78), (0.35, 0.37, 0.4), (0.7, 0.72, 0.75)),  # overcast
  ((0.22, 0.25, 0.45), (0.95, 0.6, 0.35), (0.85, 0.45, 0.4), (0.75, 0.55, 0.45)),  # sunset
  ((0.45, 0.35, 0.5), (0.95, 0.8, 0.65), (0.95, 0.75, 0.75), (0.8, 0.65, 0.6)),  # dawn
  ((0.03, 0.05, 0.12), (0.15, 0.2, 0.35), (0.12, 0.14, 0.2), (0.25, 0.28, 0.4)),  # night
)


def _air(rng, size, height):
  """The whole picture filled with sky, and the colour of the light."""
  zenith, low, cloud, light = (
    _near(rng, color, 0.05) for color in _AIRS[rng.choice(6, p=(0.3, 0.2, 0.2, 0.14, 0.1, 0.06))]
  )
  picture = _mix(zenith, low, (1.4 * (1 - height)) ** rng.uniform(0.8, 2) + np.zeros((size, size)))
  if rng.uniform() < 0.3:  # a sun, low
    row, column = np.meshgrid(np.linspace(0, 1, size), np.linspace(0, 1, size), indexing='ij')
    distance = np.hypot(row - rng.uniform(0.2, 0.5), column - rng.uniform(0.1, 0.9))
    picture = _mix(
      picture, (1, 0.95, 0.8), 0.9 * np.exp(-((distance / rng.uniform(0.05, 0.2)) ** 1.3))
    )
  clouds = _noise(rng, size, rng.uniform(1.2, 1.8), (1, rng.uniform(1, 3)))
  cover = np.clip(rng.uniform(0.5, 1.2) * (clouds - rng.uniform(-0.6, 2)), 0, 0.95)
  shade = 1 + 0.08 * _noise(rng, size, 1.2)[..., None]
  return _mix(picture, cloud * shade, cover), light


def _ridge(rng, picture, height, level, haze, distance):
  """Mountains or a row of hills in front of the picture, the bluer the farther (`distance` in [0,
  1]).
  """
  size = len(picture)
  rough = rng.uniform(1.3, 2.2)
  top = level + rng.uniform(0.02, 0.08) * _line(rng, size, rough)
  rock = _pick(rng, (0.35, 0.33, 0.32), (0.2, 0.3, 0.15), (0.5, 0.35, 0.25), (0.25, 0.3, 0.35))
  slope = _colored(_noise(rng, size, 1), [0.6 * rock, rock, 1.3 * rock])
  if rng.uniform() < 0.3:  # snow above a line of its own
    slope = _mix(slope, (0.95, 0.95, 0.97), 20 * (height - level) + 0.8 * _noise(rng, size, 1))
  return _mix(picture, (1 - distance) * slope + distance * haze, size * (top - height))


def _land(rng, picture, height, horizon, light):
  """What lies below the horizon: field, forest, water, desert or rocks."""
  size = len(picture)
  kind = rng.choice(
    ['field', 'forest', 'water', 'desert', 'rocks'], p=(0.3, 0.22, 0.22, 0.13, 0.13)
  )
  nearness = np.clip((horizon - height) / horizon, 0, 1)  # 0 at the horizon, 1 at the bottom
  below = size * (horizon - height) + np.zeros((size, size))
  if kind == 'water':  # mirrors what is above it
    row = np.clip(
      np.arange(size) - 2 * (np.arange(size) - (1 - horizon) * size), 0, size - 1
    ).astype(int)
    waves = _noise(rng, size, 0.9, (1, 6)) * (0.3 + nearness)
    tint = _pick(rng, (0.3, 0.4, 0.45), (0.2, 0.35, 0.4), (0.4, 0.4, 0.4))
    return _mix(picture, 0.55 * picture[row] + 0.45 * tint * light + 0.08 * waves[..., None], below)
  colors = {
    'field': ((0.4, 0.5, 0.15), (0.65, 0.6, 0.2), (0.3, 0.42, 0.15), (0.75, 0.7, 0.25)),
    'desert': ((0.75, 0.55, 0.35), (0.8, 0.7, 0.5)),
    'forest': ((0.12, 0.2, 0.08), (0.2, 0.28, 0.1), (0.3, 0.25, 0.1)),
    'rocks': ((0.45, 0.42, 0.4), (0.5, 0.4, 0.32)),
  }
  color = _pick(rng, *colors[kind]) * light
  if kind == 'forest':  # trees stand higher than the horizon and are ragged above
    below = below + size * (rng.uniform(0.02, 0.3) + 0.05 * _line(rng, size, 1.1))
    detail = 0.8 * _noise(rng, size, 1, (3, 1)) + 0.7 * _noise(rng, size, 0.5)
  else:
    detail = 0.7 * _noise(rng, size, 1, (1, 4)) + (0.4 + nearness) * _noise(rng, size, 0.5, (1, 2))
  return _mix(picture, _colored(detail, [0.45 * color, color, 1.5 * color]), below)
