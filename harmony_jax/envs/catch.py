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

from harmony_jax.envs import base, episodes
from harmony_jax.settings import setting

PIXELS = 64
LEFT, STAY, RIGHT = 0, 1, 2
BALL_COLOR = (255, 255, 255)
PADDLE_COLOR = (255, 255, 0)
BLOB_LIMIT = 200  # the brightest a blob gets: ball and paddle stay visible before it


class State(NamedTuple):
  """One game; lengths are in cells for ball and paddle, in pixels for the M blobs."""

  ball: jax.Array  # [2] int32 row, column
  paddle: jax.Array  # [] int32 column, in the last row
  position: jax.Array  # [M, 2] row, column of each blob's centre
  velocity: jax.Array  # [M, 2] pixels per step
  radius: jax.Array  # [M]
  color: jax.Array  # [M, 3] in [0, BLOB_LIMIT]


def reset(key: jax.Array, size: int = 8, distractors: int = 4) -> State:
  """A new game on `size` x `size` cells, with M = `distractors` blobs."""
  task, scene = jax.random.split(key)  # apart, so that the scene cannot change the task
  uniform = jax.random.uniform(scene, (8, distractors)).T  # one draw, quick to compile
  return State(
    ball=jnp.stack([0, jax.random.randint(task, (), 0, size)]),
    paddle=jnp.int32(size // 2),
    position=PIXELS * uniform[:, 0:2],
    velocity=8 * uniform[:, 2:4] - 4,
    radius=6 + 8 * uniform[:, 4],
    color=BLOB_LIMIT * uniform[:, 5:8],
  )


def step(
  state: State, action: jax.typing.ArrayLike, size: int = 8
) -> tuple[State, jax.Array, jax.Array]:
  """Moves the paddle, then lets the ball fall by one cell.

  Args:
    state: a game that is not over.
    action: [] int, LEFT, STAY or RIGHT; the paddle stops at the border.
    size: as in `reset`.

  Returns:
    The next state, the reward (float32; +1, -1, or 0 before the end) and
    whether the game is over: always after size - 1 steps.
  """
  paddle = jnp.clip(state.paddle + action - STAY, 0, size - 1)
  ball = state.ball.at[0].add(1)
  done = ball[0] >= size - 1
  reward = jnp.where(done, jnp.where(ball[1] == paddle, 1.0, -1.0), 0.0)
  position = state.position + state.velocity
  outside = (position < 0) | (position > PIXELS)
  bounced = jnp.where(position < 0, -position, 2 * PIXELS - position)
  return (
    state._replace(
      ball=ball,
      paddle=paddle,
      position=jnp.where(outside, bounced, position),
      velocity=jnp.where(outside, -state.velocity, state.velocity),
    ),
    reward,
    done,
  )


def render(state: State, size: int = 8) -> jax.Array:
  """The picture of a game: uint8 [64, 64, 3], blobs beneath, ball and paddle above."""
  pixels = jnp.arange(PIXELS)
  # A blob is a product of a row and a column profile, so all of them are one matrix product.
  profile = jnp.exp(
    -0.5 * ((pixels - state.position[..., None]) / state.radius[:, None, None]) ** 2
  )
  image = jnp.einsum(
    'mr,mc,mk->rck', profile[:, 0], profile[:, 1], state.color, precision='highest'
  )  # the same picture on any device, to rounding
  image = jnp.minimum(image, BLOB_LIMIT)
  row, column = jnp.meshgrid(pixels * size // PIXELS, pixels * size // PIXELS, indexing='ij')
  paint = lambda image, at, color: jnp.where(at[..., None], jnp.array(color, image.dtype), image)
  image = paint(image, (row == size - 1) & (column == state.paddle), PADDLE_COLOR)
  image = paint(image, (row == state.ball[0]) & (column == state.ball[1]), BALL_COLOR)
  return image.astype(jnp.uint8)


@dataclasses.dataclass(frozen=True)
class Options(base.Options):
  """Options of `Catch`."""

  size: int = setting(8, 'cells per side, a divisor of 64 pixels', choices=(2, 4, 8, 16, 32, 64))
  distractors: int = setting(4, 'drifting blobs in the background; 0: a black one')


@functools.cache
def _program(size, distractors):
  """(new(seed), advance of N environments): compiled once for all instances."""

  def new(seed):
    return reset(jax.random.key(seed), size, distractors)

  def advance(state, last, action, restart, seed, idle):
    """One environment; `last` is (image, reward, is_first, done)."""
    stepped, reward, done = step(state, action, size)
    begun_or_stepped = _where(restart, new(seed), stepped)
    shown = (
      render(begun_or_stepped, size),
      jnp.where(restart, 0.0, reward),
      restart,
      done & ~restart,
    )
    return _where(idle, (state, last), (begun_or_stepped, shown))

  return new, jax.jit(jax.vmap(advance))


class Catch:
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
    chosen = Options.of(options)
    size, distractors = chosen.size, chosen.distractors
    self.num_envs = num_envs
    self.spec = base.Spec(
      observation={'image': base.ArraySpec((PIXELS, PIXELS, 3), np.uint8)},
      discrete=True,
      num_actions=3,
      action_repeat=1,
    )

    new, self._advance = _program(size, distractors)
    self._state = jax.tree.map(
      lambda array: np.zeros((num_envs, *array.shape), array.dtype), jax.eval_shape(new, 0)
    )
    zeros = base.empty_timestep(self.spec, num_envs)
    self._last = (zeros.observation['image'], zeros.reward, zeros.is_first, zeros.is_last)

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

  def step(
    self,
    actions: np.ndarray,
    restart: np.ndarray,
    seeds: np.ndarray,
    idle: np.ndarray | None = None,
  ) -> base.TimeStep:
    """See `base`."""
    idle = np.zeros(self.num_envs, bool) if idle is None else idle
    self._state, self._last = self._advance(
      self._state,
      self._last,
      np.asarray(actions, np.int32),
      restart,
      np.asarray(seeds, np.int32),
      idle,
    )
    image, reward, first, last = (np.array(array) for array in self._last)
    return base.TimeStep({'image': image}, reward, first, last, last.copy())

  def state(self) -> np.ndarray:
    """Where ball and paddle are, in cells: [N, 3] float32."""
    return np.column_stack([self._state.ball, self._state.paddle]).astype(np.float32)

  def close(self) -> None:
    pass


def _where(flag, yes, no):
  return jax.tree.map(lambda a, b: jnp.where(flag, a, b), yes, no)


def reference_scores(num_episodes: int = 1000, size: int = 8, seed: int = 0) -> dict[str, float]:
  """Mean scores of a random and of a motionless player, to set an agent's beside.

  Both expect 2 / size - 1 (-0.75 for size 8): the ball's column is uniform and
  independent of where the paddle ends.
  """
  env = Catch(num_envs=min(num_episodes, 100), size=size, distractors=0)
  seeds = [episodes.episode_seed(seed, 'eval', 0, index) for index in range(num_episodes)]
  players = {
    'random': episodes.random_policy(env.spec, seed),
    'motionless': lambda timestep: np.full(env.num_envs, STAY, np.int32),
  }
  return {
    name: float(np.mean([result.score for result in episodes.run_episodes(env, seeds, player)]))
    for name, player in players.items()
  }


def _protocol(config):
  options = base.evaluation_options(config)
  size, blobs = options.get('size', 8), options.get('distractors', 4)
  facts = {'cells': size, 'distractors': blobs, 'steps_per_game': size - 1, 'rewards': [-1, 1]}
  return {'action_repeat': 1, **facts}, [
    f'+1 for a ball caught and -1 for one missed, at the end of {size - 1} steps',
    f'{size} × {size} cells, {blobs} distractors, 64 × 64 RGB',
  ]


SUITE = base.Suite(environment=Catch, title='Catch', protocol=_protocol)
