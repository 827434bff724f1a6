"""Episodes kept for people to look at, and where what is made of them goes."""

import os
import pathlib
from typing import NamedTuple

import jax
import numpy as np

from harmony_jax import envs
from harmony_jax.errors import UserError
from harmony_jax.rssm import State


class Episode(NamedTuple):
  """One episode, or the beginning of one, of T steps, the one that begins it included.

  picture: [T, H, W, 3] uint8. observation: {name: [T, ...]}, all of it. reward: [T], of the step
  that led there. action: [T, A], taken after each. latent: the policy's posterior states, leaves
  [T, ...]. complete: whether the last step ends the episode.
  """

  picture: np.ndarray
  observation: dict
  reward: np.ndarray
  action: np.ndarray
  latent: State
  complete: bool


def record(agent, env, seed, steps, mode) -> Episode:
  """Plays an episode with a `trained.Agent`, at most `steps` steps of it.

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
    carry = jax.device_get(state.carry)
    observation = {key: value[0] for key, value in timestep.observation.items()}
    rows.append(
      (
        observation,
        timestep.reward[0],
        carry.action[0],
        jax.tree.map(lambda leaf: leaf[0], carry.latent),
      )
    )
    complete = bool(timestep.is_last[0]) and not getattr(env, 'failed', np.zeros(1, bool))[0]
    if complete or len(rows) == steps:
      break
    timestep = game.send(action)
  observation, *rest = jax.tree.map(lambda *leaves: np.stack(leaves), *rows)
  return Episode(observation[name], observation, *rest, complete)


class Recorder:
  """Environments that keep the pictures of the first one's first episode; else as those inside."""

  def __init__(self, env):
    self._env, self._name, self._pictures, self._done = env, picture_name(env.spec), [], False

  def __getattr__(self, name):
    return getattr(self._env, name)

  def step(self, actions, restart, seeds, idle=None):
    """See `envs.base`."""
    timestep = self._env.step(actions, restart, seeds, idle=idle)
    if not self._done:
      if timestep.is_first[0]:
        self._pictures.clear()
      self._pictures.append(timestep.observation[self._name][0].copy())
      self._done = (
        bool(timestep.is_last[0]) and not getattr(self._env, 'failed', np.zeros(1, bool))[0]
      )
    return timestep

  def pictures(self):
    """[T, H, W, 3] uint8."""
    return np.stack(self._pictures)


def picture_name(spec) -> str:
  """The name of the first observation that is a picture. Raises UserError where there is none."""
  for name, array in spec.observation.items():
    if len(array.shape) == 3:
      return name
  raise UserError(
    f'this agent sees no pictures, only {", ".join(spec.observation)}: there is nothing to show'
  )


def writable(folder) -> pathlib.Path:
  """A folder, made where it is not there. Raises UserError where nothing can be written to it."""
  folder = pathlib.Path(folder).expanduser()
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f'cannot write to {folder}: {error.strerror}') from None
  if not os.access(folder, os.W_OK):
    raise UserError(f'cannot write to {folder}: choose another with --output')
  return folder


def unused(folder, name, suffix) -> pathlib.Path:
  """folder/name.suffix, or with -2, -3, … after the name where there are files of this name with
  any suffix.
  """
  count, candidate = 1, name
  while any(path.stem == candidate for path in folder.iterdir()):
    count += 1
    candidate = f'{name}-{count}'
  return folder / f'{candidate}{suffix}'
