"""Catch: a pixel game in pure JAX that a world model learns in minutes, with things that distract.

A ball falls one cell a step from a random column of the top row; a paddle of
one cell, in the middle of the bottom row at first, moves left, stays or moves
right. The last step pays +1 if the paddle is under the ball, else -1. Soft coloured blobs drift
behind: they matter to the picture and not to the task, which is where the balance of
observation and reward losses shows.

`reset`, `step` and `render` are pure functions for jit, vmap and scan:

    state = reset(jax.random.key(0))
    state, reward, done = step(state, 1)
    image = render(state)

`Catch` batches them behind the convention of `base`.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from harmony_jax.envs import base, blobs, pure
from harmony_jax.settings import setting

PIXELS = blobs.PIXELS
LEFT, STAY, RIGHT = 0, 1, 2
BALL_COLOR = (255, 255, 255)
PADDLE_COLOR = (255, 255, 0)


class State(NamedTuple):
  """One game; lengths are in cells for ball and paddle, in pixels for the M blobs."""

  ball: jax.Array  # [2] int32 row, column
  paddle: jax.Array  # [] int32 column, in the last row
  position: jax.Array  # the rest as `blobs.Blobs` has it
  velocity: jax.Array
  radius: jax.Array
  color: jax.Array

  @property
  def blobs(self) -> blobs.Blobs:
    """Return what drifts behind."""
    return blobs.Blobs(*self[2:])


def reset(
  key: jax.Array, size: int = 8, distractors: int = 4, drift: float = 1.0, contrast: float = 1.0
) -> State:
  """A new game on `size` x `size` cells, with M = `distractors` blobs: see `blobs.begin`."""
  task, scene = jax.random.split(key)  # apart, so that the scene cannot change the task
  return State(
    jnp.stack([0, jax.random.randint(task, (), 0, size)]),
    jnp.int32(size // 2),
    *blobs.begin(scene, distractors, drift, contrast),
  )


def step(
  state: State, action: jax.typing.ArrayLike, size: int = 8, rewarded: str = 'end'
) -> tuple[State, jax.Array, jax.Array]:
  """Moves the paddle, then lets the ball fall by one cell.

  Args:
    state: a game that is not over.
    action: [] int, LEFT, STAY or RIGHT; the paddle stops at the border.
    size: as in `reset`. rewarded: as in `Options`.

  Returns:
    The next state, the reward (float32; +1, -1, or 0 before the end) and
    whether the game is over: always after size - 1 steps.
  """
  paddle = jnp.clip(state.paddle + action - STAY, 0, size - 1)
  ball = state.ball.at[0].add(1)
  done = ball[0] >= size - 1
  reward = jnp.where(done, jnp.where(ball[1] == paddle, 1.0, -1.0), 0.0)
  if rewarded == 'steps':
    reward = (1 - 2 * jnp.abs(ball[1] - paddle) / (size - 1)) / (size - 1)
  return State(ball, paddle, *blobs.move(state.blobs)), reward, done


def render(state: State, size: int = 8, ball: int = 0, paddle: int = 0) -> jax.Array:
  """The picture of a game: uint8 [64, 64, 3], blobs beneath, ball and paddle above.

  Args:
    ball, paddle: their sides in pixels, in the middle of their cells; 0: all of the cell.
  """
  pixels, cell = jnp.arange(PIXELS), PIXELS // size

  def square(row, column, side):
    """The pixels in the middle of a cell."""
    inside = (pixels % cell - (cell - side) // 2) % cell < (side or cell)
    rows, columns = ((pixels // cell == place) & inside for place in (row, column))
    return rows[:, None] & columns

  image = blobs.draw(state.blobs)
  image = blobs.paint(image, square(size - 1, state.paddle, paddle), PADDLE_COLOR)
  image = blobs.paint(image, square(state.ball[0], state.ball[1], ball), BALL_COLOR)
  return image.astype(jnp.uint8)


@dataclasses.dataclass(frozen=True)
class Options(base.Options):
  """Options of `Catch`."""

  size: int = setting(8, 'cells per side, a divisor of 64 pixels', choices=(2, 4, 8, 16, 32, 64))
  distractors: int = setting(4, 'drifting blobs in the background; 0: a black one')
  ball: int = setting(0, "the ball's side in pixels; 0: all of its cell")
  paddle: int = setting(0, "the paddle's side in pixels; 0: all of its cell")
  drift: float = setting(1.0, "the blobs' speed; 1 is up to 4 pixels a step", only='.distractors')
  contrast: float = setting(1.0, "the blobs' brightness", most=1, only='.distractors')
  rewarded: str = setting(
    'end',
    'end: ±1 at the end; steps: at every step by how near the paddle is to the column of the ball, '
    '1 in all if it is always there',
    choices=('end', 'steps'),
  )


@functools.cache
def game(options: Options = Options()) -> pure.Game:
  """Return the game as pure functions, one object for equal options.

  Raises:
    ValueError: a ball or a paddle that is larger than its cell.
  """
  size, cell = options.size, PIXELS // options.size
  for name in ('ball', 'paddle'):
    if (side := getattr(options, name)) > cell:
      raise ValueError(f'config.env.{name} is {side}: it must be at most {cell}, as a cell')
  spec = base.Spec(
    observation={'image': base.ArraySpec((PIXELS, PIXELS, 3), np.uint8)},
    discrete=True,
    num_actions=3,
    action_repeat=1,
    episode_limit=size - 1,
  )
  scene = options.distractors, options.drift, options.contrast

  def advance(state, action):
    state, reward, done = step(state, action, size, options.rewarded)
    return state, reward, done, done

  return pure.Game(
    spec,
    new=lambda seed: reset(jax.random.key(seed), size, *scene),
    step=advance,
    observe=lambda state: {'image': render(state, size, options.ball, options.paddle)},
    length=size,
  )


class Catch(pure.Environment):
  """N games of Catch.

  Args:
    task: 'catch', the only one.
    num_envs: N.
    **options: see `Options`.

  Raises:
    ValueError: an unknown task or option.
  """

  state_names = ('ball_row', 'ball_column', 'paddle_column')

  def __init__(self, task: str = 'catch', num_envs: int = 1, **options: Any):
    self.canonical(task)
    super().__init__(game(Options.of(options)), num_envs)

  @staticmethod
  def tasks() -> list[str]:
    """Names of all tasks."""
    return ['catch']

  @staticmethod
  def canonical(task: str) -> str:
    """'catch', the only task."""
    if task != 'catch':
      raise base.unknown('Catch task', task, ['catch'])
    return task

  def state(self) -> np.ndarray:
    """Where ball and paddle are, in cells: [N, 3] float32."""
    return np.column_stack([self._states.ball, self._states.paddle]).astype(np.float32)


def _protocol(config):
  options, plain = base.evaluation_options(config), dataclasses.asdict(Options())
  size, count = options.get('size', 8), options.get('distractors', 4)
  facts = {'cells': size, 'distractors': count, 'steps_per_game': size - 1, 'rewards': [-1, 1]}
  own = [
    k for k in plain if k not in ('size', 'distractors') and options.get(k, plain[k]) != plain[k]
  ]
  told = f'+1 for a ball caught and -1 for one missed, at the end of {size - 1} steps'
  if options.get('rewarded') == 'steps':
    told = f'nearness to the ball in each of {size - 1} steps, 1 in all at most'
  more = ''.join(f', {name} {options[name]}' for name in own)
  return {'action_repeat': 1, **facts, **{name: options[name] for name in own}}, [
    told,
    f'{size} × {size} cells, {count} distractors, 64 × 64 RGB{more}',
  ]


SUITE = base.Suite(environment=Catch, title='Catch', protocol=_protocol)
