"""Small agents and batches for tests."""

import jax
import jax.numpy as jnp
import numpy as np

from configs.common import METHODS
from harmony_jax.agent import Agent

SIZES = {
  'batch_size': 3,
  'batch_length': 5,
  'encoder.depth': 4,
  'decoder.depth': 4,
  'encoder.padding': 'same',
  'decoder.padding': 'same',
  'encoder.mlp_units': 12,
  'decoder.mlp_units': 12,
  'rssm.deter': 16,
  'rssm.units': 12,
  'rssm.stoch': 4,
  'rssm.classes': 4,
  'reward_head.units': 12,
  'continue_head.units': 12,
  'actor.units': 12,
  'critic.units': 12,
  'reward_head.layers': 1,
  'continue_head.layers': 1,
  'actor.layers': 1,
  'critic.layers': 1,
  'behavior.horizon': 4,
  'model_opt.lr': 1e-3,
  'actor_opt.lr': 1e-3,
  'critic_opt.lr': 1e-3,
}
IMAGE, VECTOR = {'image': (16, 16, 3)}, {'joints': (3,), 'speed': ()}


def config(method='dreamerv3', **changes):
  """A method's configuration at small sizes; changes as `rssm__deter=8`."""
  result = METHODS[method]()
  result.update_from_flattened_dict(
    {**SIZES, **{k.replace('__', '.'): v for k, v in changes.items()}}
  )
  return result


def agent(shapes=IMAGE, actions=3, discrete=True, deterministic=False, **changes) -> Agent:
  """An agent at small sizes; `method` may be among the changes."""
  return Agent.from_config(config(**changes), shapes, actions, discrete, deterministic)


def batch(shapes=IMAGE, actions=3, discrete=True, size=3, length=5, seed=0) -> dict:
  """A random batch with an episode's end and beginning inside."""
  rng = np.random.default_rng(seed)
  data = {}
  for name, shape in shapes.items():
    full = (size, length, *shape)
    data[name] = (
      rng.integers(0, 256, full, np.uint8)
      if len(shape) == 3
      else rng.normal(size=full).astype(np.float32)
    )
  if discrete:
    data['action'] = np.eye(actions, dtype=np.float32)[rng.integers(0, actions, (size, length))]
  else:
    data['action'] = rng.uniform(-1, 1, (size, length, actions)).astype(np.float32)
  data['reward'] = rng.normal(size=(size, length)).astype(np.float32)
  for name in ('is_first', 'is_last', 'is_terminal'):
    data[name] = np.zeros((size, length), bool)
  data['is_first'][:, 0] = True
  data['is_last'][0, 2] = data['is_terminal'][0, 2] = data['is_first'][0, 3] = True
  return jax.tree.map(jnp.asarray, data)
