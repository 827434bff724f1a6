"""Reach: a two-link arm in pure JAX that brings its finger to a target, with things that distract.

Two numbers turn the arm's joints; a step with the finger inside the target pays 1, any other 0. The
arm and the target are thin and small in a picture of drifting blobs, which matter to the picture
and not to the task: see catch.py, whose kind this is for continuous actions.

`begin`, `step` and `render` are pure functions of one episode; `Reach` has them by the convention
of `base`.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from harmony_jax.envs import base, blobs, pure
from harmony_jax.settings import setting

LINKS = (15.0, 13.0)  # pixels; the shoulder is in the middle of the picture
TURN = 0.35  # radians that a joint turns at most in a step
ARM_COLOR, TARGET_COLOR = (255, 255, 255), (255, 255, 0)


class State(NamedTuple):
  """One episode."""

  angle: jax.Array  # [2] of the upper arm, and of the lower one against it
  target: jax.Array  # [2] row, column in pixels
  time: jax.Array  # [] int32
  blobs: blobs.Blobs


@dataclasses.dataclass(frozen=True)
class Options(base.Options):
  """Options of `Reach`."""

  length: int = setting(40, 'steps of every episode', least=2)
  target: float = setting(4.0, "the target's radius in pixels", above=0)
  arm: float = setting(2.0, "the arm's width in pixels", above=0)
  distractors: int = setting(4, 'drifting blobs in the background; 0: a black one')
  drift: float = setting(1.0, 'their speed; 1 is up to 4 pixels a step', only='.distractors')
  contrast: float = setting(1.0, 'their brightness', most=1, only='.distractors')


def joints(angle: jax.Array) -> jax.Array:
  """Return where shoulder, elbow and finger are: [3, 2] row, column in pixels."""
  heading = jnp.stack([angle[0], angle[0] + angle[1]])
  links = jnp.array(LINKS)[:, None] * jnp.stack([jnp.sin(heading), jnp.cos(heading)], -1)
  middle = jnp.full((1, 2), blobs.PIXELS / 2)
  return jnp.concatenate([middle, middle + jnp.cumsum(links, 0)])


def begin(key: jax.Array, options: Options = Options()) -> State:
  """Return a new episode: angles and a target that can be reached, uniformly."""
  task, scene = jax.random.split(key)  # apart, so that the scene cannot change the task
  uniform = jax.random.uniform(task, (4,))
  angles = 2 * jnp.pi * uniform - jnp.pi
  drawn = blobs.begin(scene, options.distractors, options.drift, options.contrast)
  return State(angles[:2], joints(angles[2:])[2], jnp.int32(0), drawn)


def step(
  state: State, action: jax.Array, options: Options = Options()
) -> tuple[State, jax.Array, jax.Array]:
  """Turn the joints by `TURN` times the action [2]; return (state, reward, whether it is over)."""
  angle = state.angle + TURN * jnp.clip(action, -1, 1)
  angle = jnp.mod(angle + jnp.pi, 2 * jnp.pi) - jnp.pi
  distance = jnp.linalg.norm(joints(angle)[2] - state.target)
  reward = jnp.where(distance <= options.target, 1.0, 0.0)
  time = state.time + 1
  after = State(angle, state.target, time, blobs.move(state.blobs))
  return after, reward, time >= options.length


def render(state: State, options: Options = Options()) -> jax.Array:
  """Return the picture, uint8 [64, 64, 3]: blobs beneath, the target, the arm above."""
  places = jnp.stack(jnp.meshgrid(*[jnp.arange(blobs.PIXELS) + 0.5] * 2, indexing='ij'), -1)
  image = blobs.draw(state.blobs)
  to_target = jnp.linalg.norm(places - state.target, axis=-1)
  image = blobs.paint(image, to_target <= options.target, TARGET_COLOR)
  at = joints(state.angle)
  for start, end in ((at[0], at[1]), (at[1], at[2])):
    along = end - start
    share = jnp.clip(((places - start) * along).sum(-1) / (along * along).sum(), 0, 1)
    distance = jnp.linalg.norm(places - start - share[..., None] * along, axis=-1)
    image = blobs.paint(image, distance <= options.arm / 2, ARM_COLOR)
  return image.astype(jnp.uint8)


@functools.cache
def game(options: Options = Options()) -> pure.Game:
  """Return the game as pure functions, one object for equal options."""
  spec = base.Spec(
    observation={'image': base.ArraySpec((blobs.PIXELS, blobs.PIXELS, 3), np.uint8)},
    discrete=False,
    num_actions=2,
    action_repeat=1,
    episode_limit=options.length,
  )

  def advance(state, action):
    state, reward, over = step(state, action, options)
    return state, reward, over, jnp.zeros((), bool)  # time is up, which ends no future reward

  return pure.Game(
    spec,
    new=lambda seed: begin(jax.random.key(seed), options),
    step=advance,
    observe=lambda state: {'image': render(state, options)},
    length=options.length + 1,
  )


class Reach(pure.Environment):
  """N arms.

  Args:
    task: 'reach', the only one.
    num_envs: N.
    **options: see `Options`.

  Raises:
    ValueError: an unknown task or option.
  """

  state_names = ('shoulder', 'elbow', 'target_row', 'target_column')

  def __init__(self, task: str = 'reach', num_envs: int = 1, **options: Any):
    self.canonical(task)
    super().__init__(game(Options.of(options)), num_envs)

  @staticmethod
  def tasks() -> list[str]:
    """Names of all tasks."""
    return ['reach']

  @staticmethod
  def canonical(task: str) -> str:
    """'reach', the only task."""
    if task != 'reach':
      raise base.unknown('Reach task', task, ['reach'])
    return task

  def state(self) -> np.ndarray:
    """Angles of the joints in radians, the target's place in pixels: [N, 4] float32."""
    return np.column_stack([self._states.angle, self._states.target]).astype(np.float32)


def _protocol(config):
  options, plain = base.evaluation_options(config), dataclasses.asdict(Options())
  facts = {name: options.get(name, default) for name, default in plain.items()}
  return {'action_repeat': 1, **facts}, [
    f'1 for every step with the finger in the target, episodes of {facts["length"]} steps',
    f'a target of {facts["target"]:g} pixels radius, {facts["distractors"]} distractors, '
    '64 × 64 RGB',
  ]


SUITE = base.Suite(environment=Reach, title='Reach', protocol=_protocol)
