"""Buffers as datasets of Minari, and its datasets as buffers: `pip install 'harmony-jax[minari]'`.

An episode of Minari has an observation more than it has actions and rewards. Here a row has an
observation, the reward that led to it and the action after it: the last one's is zero.
"""

import json
import warnings
from typing import Any

import numpy as np

from harmony_jax.envs import base, gym_actions, spaces
from harmony_jax.errors import UserError, one_line
from harmony_jax.offline.buffer import FLAGS, FORMAT, Buffer

SIZE = 64  # of pictures
NEAR = 1e-4  # how exactly an action must come back


def save(buffer: Buffer, name: str) -> None:
  """Write a buffer as a new local dataset, its true state in `infos['state']`.

  Raises:
    UserError: Minari is not installed, refuses the name, or has no space for such actions.
  """
  minari = _package()
  from gymnasium.spaces import Box, Dict
  from minari.data_collector import EpisodeBuffer

  made: Any = EpisodeBuffer  # whose annotations leave arrays out
  spec, names = buffer.spec, buffer.header['state_names']
  action_space, actions = _actions_of(spec, buffer.rows['action'])
  episodes = []
  for first, last in zip(buffer.starts[:-1], buffer.starts[1:]):
    rows = slice(first, last)
    flags = {k: buffer.rows[k][first + 1 : last] for k in FLAGS}
    episodes.append(
      made(
        observations={k: array[rows] for k, array in buffer.observation.items()},
        actions=actions[first : last - 1],
        rewards=buffer.rows['reward'][first + 1 : last].tolist(),
        terminations=flags['is_terminal'].tolist(),
        truncations=(flags['is_last'] & ~flags['is_terminal']).tolist(),
        infos={'state': {k: buffer.state[rows, at] for at, k in enumerate(names)}},
      )
    )
  box = lambda of: Box(
    *((0, 255) if of.dtype == np.uint8 else (-np.inf, np.inf)), of.shape, of.dtype
  )
  try:
    with warnings.catch_warnings(action='ignore'):  # it asks for an author and the like
      minari.create_dataset_from_buffers(
        name,
        episodes,
        observation_space=Dict({k: box(array) for k, array in spec.observation.items()}),
        action_space=action_space,
        algorithm_name=str(buffer.header['policy']),
        description=json.dumps(buffer.header),
        data_format='hdf5',
        jpeg_encoding=False,  # which would change the pictures
      )
  except (ValueError, OSError, AssertionError) as error:
    raise UserError(f'--minari={name}: {one_line(str(error))}') from None


def load(name: str) -> Buffer:
  """Return a local dataset as a buffer: observations read as those of any Gymnasium environment.

  Raises:
    UserError: Minari is not installed, there is no such dataset, or it cannot be read so.
  """
  minari = _package()
  try:
    data = minari.load_dataset(name)
    entries, left = spaces.entries(data.observation_space, SIZE)
    acting = gym_actions.read(data.action_space, name)
  except (ValueError, OSError) as error:
    raise UserError(f'--minari={name}: {one_line(str(error))}') from None
  spec = base.Spec({each.name: each.spec for each in entries}, action_repeat=1, **acting.spec)
  found: dict[str, list] = {k: [] for k in ('reward', *FLAGS, 'action', *spec.observation)}
  lengths, states = [], []
  for episode in data.iterate_episodes():
    length = len(episode.rewards) + 1
    if length < 2:
      continue
    for each in entries:
      whole = (_at(episode.observations, step) for step in range(length))
      found[each.name].append(np.stack([each.read(one) for one in whole]))
    vectors = _vectors(data.action_space, spec, episode.actions, acting.translate, name)
    found['action'].append(np.concatenate([vectors, np.zeros_like(vectors[:1])]))
    found['reward'].append(np.append(0, episode.rewards))
    step = np.arange(length)
    found['is_first'].append(step == 0)
    found['is_last'].append(step == length - 1)
    found['is_terminal'].append((step == length - 1) & bool(episode.terminations[-1]))
    told = (episode.infos or {}).get('state')  # somebody else's may be anything
    told = told if isinstance(told, dict) else {}
    states.append({k: x for k, x in told.items() if np.shape(x) == (length,)})
    lengths.append(length)
  if not lengths:
    raise UserError(f'--minari={name}: it has no episode with an action')
  header = _header(data, name, spec, left, [k for k in states[0] if all(k in s for s in states)])
  kinds = {'reward': np.float32, 'action': np.float32, **dict.fromkeys(FLAGS, bool)}
  rows = {k: np.concatenate(found[k]).astype(kind) for k, kind in kinds.items()}
  observation = {k: np.concatenate(found[k]) for k in spec.observation}
  state = (
    [np.stack([s[k] for k in header['state_names']], -1) for s in states]
    if (header['state_names'])
    else [np.zeros((sum(lengths), 0))]
  )
  starts = np.cumsum([0, *lengths])
  return Buffer(header, observation, rows, starts, np.concatenate(state).astype(np.float32))


def _package() -> Any:
  try:
    import minari
  except ImportError:
    raise UserError("Minari is not installed: pip install 'harmony-jax[minari]'") from None
  return minari


def _header(data, name, spec, left, state_names):
  """What is told of a dataset; of one that `save` wrote, what was told of its buffer."""
  about = data.storage.metadata
  try:
    told = json.loads(about.get('description') or '')
    known = {k: told[k] for k in ('suite', 'task', 'policy', 'seed', 'env')}
  except (ValueError, KeyError, TypeError):
    made = data.spec.env_spec
    known = {'suite': 'gym', 'task': made.id if made else name, 'env': {}, 'seed': None}
    known['policy'] = about.get('algorithm_name') or 'unknown'
  more = {'minari': name, 'left_out': left, 'spec': spec.to_json(), 'state_names': state_names}
  return {**known, **more, 'format': FORMAT}


def _actions_of(spec, vectors):
  """(the space of a buffer's actions, the actions in it)."""
  from gymnasium.spaces import Box, Discrete, MultiDiscrete

  chosen, rest = base.decode(vectors, spec.factors)
  if spec.discrete:
    return Discrete(spec.num_actions), chosen[0]
  if not spec.factors:
    return Box(-1, 1, (spec.num_actions,), np.float32), np.clip(rest, -1, 1).astype(np.float32)
  if rest.shape[-1]:
    raise UserError('Minari is given choices or continuous actions; this buffer has both in one')
  return MultiDiscrete(spec.factors), np.stack(chosen, -1)


def _vectors(space, spec, actions, translate, name):
  """An episode's actions as vectors [T, A], each of which `translate` turns into it again."""
  from gymnasium.spaces import Box, Discrete, MultiDiscrete

  actions = np.asarray(actions)
  if isinstance(space, Discrete):
    vectors = np.eye(spec.num_actions)[actions - space.start]
    back = [translate(int(each.argmax())) for each in vectors]
  elif isinstance(space, MultiDiscrete):
    chosen = (actions - space.start).reshape(len(actions), -1)
    vectors = np.concatenate([np.eye(n)[c] for n, c in zip(spec.factors, chosen.T)], -1)
    back = [translate(each) for each in vectors]
  elif isinstance(space, Box):
    low, high = (np.asarray(x, float) for x in (space.low, space.high))
    with np.errstate(invalid='ignore'):
      shares = 2 * (actions - low) / (high - low) - 1
    vectors = np.where(np.isfinite(high - low), shares, actions).reshape(len(actions), -1)
    back = [translate(each.astype(np.float32)) for each in vectors]
  else:
    raise UserError(f'--minari={name}: actions of {type(space).__name__} cannot be read')
  if not np.allclose(np.asarray(back, float), actions, atol=NEAR, rtol=NEAR):
    raise UserError(f'--minari={name}: some of its actions are not in {one_line(str(space))}')
  return vectors.astype(np.float32)


def _at(observations, step):
  """One observation of an episode."""
  if isinstance(observations, dict):
    return {name: _at(each, step) for name, each in observations.items()}
  if isinstance(observations, tuple):
    return tuple(_at(each, step) for each in observations)
  return observations[step]
