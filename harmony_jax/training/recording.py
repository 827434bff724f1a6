"""Episodes kept for people to look at, and where what is made of them goes."""

import os
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from harmony_jax import envs
from harmony_jax.errors import UserError
from harmony_jax.paths import local_path

if TYPE_CHECKING:
  from harmony_jax.trained import Agent


class Episode(NamedTuple):
  """One episode, or the beginning of one, of T steps, the one that begins it included.

  Attributes:
    picture: [T, H, W, 3] uint8. observation: {name: [T, ...]}, all of it.
    reward: [T], of the step that led there. action: [T, A], taken after each.
    carry: what the policy carried after each, leaves [T, ...].
    complete: whether the last step ends the episode.
  """

  picture: np.ndarray
  observation: dict[str, np.ndarray]
  reward: np.ndarray
  action: np.ndarray
  carry: Any
  complete: bool


def record(agent: 'Agent', env: Any, seed: int, steps: int, mode: bool) -> Episode:
  """Play an episode with a `trained.Agent`, at most `steps` steps of it.

  Args:
    env: of one environment. seed: of the episode. mode: take the most likely actions.
  """
  name, rows, state = picture_name(agent.spec), [], None
  game = envs.play(env, [seed])
  timestep = next(game)
  while True:
    if timestep.is_first[0]:
      rows.clear()  # a simulator that failed begins the episode again
    action, state = agent.policy(timestep.observation, state, timestep.is_first, mode)
    kept = (timestep.observation, timestep.reward, *jax.device_get((state.action, state.carry)))
    rows.append(jax.tree.map(lambda leaf: leaf[0], kept))
    if _ended(env, timestep) or len(rows) == steps:
      break
    timestep = game.send(action)
  observation, reward, action, carry = jax.tree.map(lambda *leaves: np.stack(leaves), *rows)
  return Episode(observation[name], observation, reward, action, carry, _ended(env, timestep))


def _ended(env, timestep):
  """Return whether the first environment's episode has ended, and not by a failure."""
  return bool(timestep.is_last[0]) and not getattr(env, 'failed', np.zeros(1, bool))[0]


class Recorder:
  """Environments that keep the pictures of the first one's first episode; else as those inside."""

  def __init__(self, env: Any):
    self._env, self._name, self._done = env, picture_name(env.spec), False
    self._pictures: list[np.ndarray] = []

  def __getattr__(self, name):
    return getattr(self._env, name)

  def step(
    self,
    actions: np.ndarray,
    restart: np.ndarray,
    seeds: Sequence[int] | np.ndarray,
    idle: np.ndarray | None = None,
  ) -> envs.TimeStep:
    """Step the environments inside: see `envs.base`."""
    timestep = self._env.step(actions, restart, seeds, idle=idle)
    if not self._done:
      if timestep.is_first[0]:
        self._pictures.clear()
      self._pictures.append(timestep.observation[self._name][0].copy())
      self._done = _ended(self._env, timestep)
    return timestep

  def pictures(self) -> np.ndarray:
    """Return them, [T, H, W, 3] uint8."""
    return np.stack(self._pictures)


def picture_name(spec: envs.Spec) -> str:
  """Return the name of the first observation that is a picture; UserError where there is none."""
  for name, array in spec.observation.items():
    if len(array.shape) == 3:
      return name
  raise UserError(
    f'this agent sees no pictures, only {", ".join(spec.observation)}: there is nothing to show'
  )


def writable(folder: str | pathlib.Path) -> pathlib.Path:
  """Return a folder, made where it is not there; UserError where nothing can be written to it."""
  folder = local_path(folder)
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f'cannot write to {folder}: {error.strerror}') from None
  if not os.access(folder, os.W_OK):
    raise UserError(f'cannot write to {folder}: choose another with --output')
  return folder


def writable_file(file: str | pathlib.Path, ending: str = '', flag: str = 'output') -> pathlib.Path:
  """Return the path of a file that a flag names, before any work is done for it.

  Raises:
    UserError: it is a folder, lies in none that can be written to, or has another ending.
  """
  path = local_path(file)
  if path.is_dir():
    raise UserError(f'--{flag}={file} is a folder: name a file in it')
  if ending and path.suffix.lower() != ending:
    raise UserError(f'--{flag}={file}: its name must end in {ending}')
  if not path.absolute().parent.is_dir() or not os.access(path.absolute().parent, os.W_OK):
    raise UserError(f'--{flag}: cannot write to the folder of {file}')
  return path


def unused(folder: pathlib.Path, name: str, suffix: str) -> pathlib.Path:
  """Return folder/name.suffix, with -2, -3, … after a name that a file with any suffix has."""
  count, candidate = 1, name
  while any(path.stem == candidate for path in folder.iterdir()):
    count += 1
    candidate = f'{name}-{count}'
  return folder / f'{candidate}{suffix}'
