"""What the authors' recordings of DreamerV2 and DreamerPro have in common."""

import jax.numpy as jnp
import numpy as np


def first_action(arrays):
  """The action before the first row [B, A]."""
  return jnp.asarray(arrays['action'][:, 0])


def features(rows, config):
  """Rows of [stoch, deter] as [deter, stoch]."""
  deter = config.rssm.deter
  return np.concatenate([rows[-deter:], rows[:-deter]], 0)


def nested(arrays, config, convert) -> dict:
  """{authors' name: array} as a nested dict of ours; `convert(name, array, config)` gives (our
  path, our array).
  """
  tree = {}
  for name, value in arrays.items():
    path, value = convert(name, np.asarray(value), config)
    node = tree
    for key in path[:-1]:
      node = node.setdefault(key, {})
    node[path[-1]] = jnp.asarray(value)
  return tree
