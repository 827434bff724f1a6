"""What DMC Remastered varies, and how much: the seven factors and their distributions, per domain.

Numbers are those of the original (Grigsby & Qi, 2020; github.com/QData/dmc_remastered), whose code
HarmonyDream's authors took over: uniform between the two ends of each range, in metres and degrees,
colours in [0, 1]. There are two
differences: every factor has a random stream of its own here, where the original draws positions
from the same numbers as pictures and colours, which makes the camera a function of the sky; and the
size of the shadow map stays, as nobody sees it at 64 x 64 pixels. A visual seed therefore is not
the same look as in the original.
"""

from typing import Any, NamedTuple

import numpy as np

# Sky on all sides; ground texture; colours of the robot (body and effector); colour of the target;
# mirroring of the ground; position (and for two domains direction) of the camera; position and
# colours of the lights.
FACTORS = ('bg', 'floor', 'body', 'target', 'reflectance', 'camera', 'light')


class Domain(NamedTuple):
  """Ranges of one domain.

  Attributes:
    camera: of camera 0: `(x, y, z)` ranges.
    light: of light 0: `(x, y, z)` ranges, or None where the original leaves the light in its place.
    euler: of the camera's direction in degrees, `(x, y, z)` ranges; None where it is fixed.
    tilt: t of a camera that has x to its right and (0, t, 1) above it; None where it is fixed.
    light_colors: `(diffuse, specular)` ranges of light 0's grey, each +- `LIGHT_TINT`; None where
      fixed.
    tasks: those of the benchmark.
    edits: what differs from dm_control's own model, `{(tag, name): {attribute: value}}`.
  """

  tasks: tuple
  camera: tuple
  light: tuple | None = None
  euler: tuple | None = None
  tilt: tuple | None = None
  light_colors: tuple | None = None
  edits: dict = {}


def _around(center: float, width: float) -> tuple[float, float]:
  return center - width, center + width


DOMAINS = {
  'ball_in_cup': Domain(
    ('catch',),
    (_around(0, 0.05), (-1.1, -0.9), (0.8, 1)),
    (_around(0, 0.5), _around(0, 0.5), (1.2, 2.7)),
    edits={('camera', 'cam0'): {'pos': '0 -1 .9'}},
  ),
  'cartpole': Domain(
    ('balance', 'balance_sparse', 'swingup', 'swingup_sparse'),
    (_around(0, 0.15), (-5, -3), (0.8, 1.2)),
    (_around(0, 1), _around(0, 1), (4.5, 7.5)),
  ),
  'cheetah': Domain(
    ('run',),
    (_around(0, 0.25), (-3.2, -2.8), _around(0, 0.25)),
    (_around(0, 2), _around(0, 2), (1, 5)),
    # The track is .8 wide in dm_control; a floor to the horizon shows its texture.
    edits={('geom', 'ground'): {'size': '100 15 .5'}},
  ),
  'finger': Domain(
    ('spin', 'turn_easy', 'turn_hard'),
    (_around(0, 0.02), _around(-1, 0.01), (0.7, 1)),
    (_around(0, 0.8), _around(0, 0.8), (1, 3)),
    light_colors=((0.5, 1.1), (0, 1.2)),
  ),
  'fish': Domain(
    ('upright', 'swim'),
    (_around(0, 0.05), _around(0, 0.05), (0.8, 1.2)),
    (_around(0, 0.3), _around(0, 0.3), (0, 1)),
  ),
  'hopper': Domain(
    ('stand', 'hop'),
    (_around(0, 0.15), (-3, -2.6), (0.6, 1)),
    euler=(_around(90, 5), _around(0, 5), _around(0, 5)),
  ),
  'humanoid': Domain(
    ('stand', 'walk', 'run'),
    ((-3.5, -2.5), _around(0, 0.5), (0.5, 1.5)),
    (_around(0, 0.7), _around(0, 0.7), (1.2, 1.8)),
  ),
  # Like the original, this camera does not see all of a hanging pendulum.
  'pendulum': Domain(
    ('swingup',),
    ((0, 0.2), (-1.1, -0.97), (1.3, 1.6)),
    (_around(0, 0.5), _around(0, 0.2), (1.2, 2.8)),
    tilt=(0.4, 0.6),
    edits={('camera', 'fixed'): {'pos': '.1 -1 1.5', 'xyaxes': '1 0 0 0 .5 1'}},
  ),
  'reacher': Domain(
    ('easy', 'hard'),
    (_around(0, 0.05), _around(0, 0.05), (0.7, 0.8)),
    (_around(0, 0.2), _around(0, 0.2), (0.15, 0.75)),
    edits={('light', 'light'): {'pos': '0 0 .5'}},
  ),
  'walker': Domain(('stand', 'walk', 'run'), (_around(0, 0.3), _around(-2, 0.05), (0.6, 0.8))),
}

REFLECTANCE = (0, 0.5)
ALPHA = (0.75, 1)  # of body, effector and target; their red, green and blue are in (0, 1)
# The light at the camera: range of its grey, and how far red, green and blue each lie from it.
HEADLIGHT = {
  'ambient': ((0.1, 0.8), 0.05),
  'diffuse': ((0.4, 0.9), 0.1),
  'specular': ((0.05, 0.3), 0.02),
}
LIGHT_TINT = 0.02


def draw(domain: str, visual_seed: int) -> dict[str, Any]:
  """The look that a visual seed stands for.

  Args:
    domain: a key of `DOMAINS`.
    visual_seed: > 0.

  Returns:
    A dict with a key for each of `FACTORS`: integers in [0, 2^63) for 'bg' and 'floor' (which
    picture, or the seed of a procedural one), RGBA arrays for 'body' ([2, 4], body and effector)
    and 'target', a float for 'reflectance', and dicts for 'camera' (`position` [3], `quaternion`
    [4] or None) and 'light' (`ambient`, `diffuse`, `specular` [3] of the headlight, `position`,
    `own_diffuse`, `own_specular` [3] of light 0, None where fixed).
  """
  ranges = DOMAINS[domain]
  streams = {
    name: np.random.default_rng((visual_seed, index)) for index, name in enumerate(FACTORS)
  }
  return {
    'bg': int(streams['bg'].integers(2**63)),
    'floor': int(streams['floor'].integers(2**63)),
    'body': np.stack([_rgba(streams['body']), _rgba(streams['body'])]),
    'target': _rgba(streams['target']),
    'reflectance': streams['reflectance'].uniform(*REFLECTANCE),
    'camera': _camera(streams['camera'], ranges),
    'light': _light(streams['light'], ranges),
  }


def _rgba(rng):
  return np.append(rng.uniform(size=3), rng.uniform(*ALPHA))


def _camera(rng, ranges):
  position = rng.uniform(*np.transpose(ranges.camera))
  if ranges.euler:
    return {
      'position': position,
      'quaternion': _from_euler(rng.uniform(*np.transpose(ranges.euler))),
    }
  if ranges.tilt:
    # Turned about x alone: (0, t, 1) is the y axis after a turn by the angle whose tangent is 1 /
    # t.
    return {'position': position, 'quaternion': _turn(0, np.arctan2(1, rng.uniform(*ranges.tilt)))}
  return {'position': position, 'quaternion': None}


def _light(rng, ranges):
  light = {name: _grey(rng, grey, tint) for name, (grey, tint) in HEADLIGHT.items()}
  light['position'] = rng.uniform(*np.transpose(ranges.light)) if ranges.light else None
  diffuse, specular = ranges.light_colors or (None, None)
  light['own_diffuse'] = _grey(rng, diffuse, LIGHT_TINT) if diffuse else None
  light['own_specular'] = _grey(rng, specular, LIGHT_TINT) if specular else None
  return light


def _grey(rng, grey, tint):
  return rng.uniform(*grey) + rng.uniform(-tint, tint, 3)


def _turn(axis, angle):
  """The quaternion (w, x, y, z) of a turn about one axis, in radians."""
  quaternion = np.zeros(4)
  quaternion[0], quaternion[1 + axis] = np.cos(angle / 2), np.sin(angle / 2)
  return quaternion


def _from_euler(degrees):
  """The quaternion of turns about x, then the new y, then the new z: MuJoCo's 'xyz'."""
  result = np.array([1.0, 0, 0, 0])
  for axis, angle in enumerate(np.radians(degrees)):
    result = _product(result, _turn(axis, angle))
  return result


def _product(a, b):
  """Hamilton's product of two quaternions."""
  return np.append(
    a[0] * b[0] - a[1:] @ b[1:], a[0] * b[1:] + b[0] * a[1:] + np.cross(a[1:], b[1:])
  )
