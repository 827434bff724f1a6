"""The authors' recorded runs (parity fixtures): parameters, batches and results in this project's terms.

One module per base method maps names and layouts: parity_v3.py, parity_v2.py.
"""

import json
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from harmony_jax.agent import Agent, Carry
from tests import parity_v2, parity_v3

FOLDER = pathlib.Path(os.environ.get('HARMONY_PARITY_DIR', pathlib.Path(__file__).parents[2] / 'shared' / 'parity'))
AUTHORS = {'v3': parity_v3, 'v2': parity_v2}


def paths() -> list:
  """The recorded runs of the methods that we have, e.g. `v3_discrete_plain.npz`."""
  return sorted(path for path in FOLDER.glob('*.npz') if _method(path.stem)) if FOLDER.is_dir() else []


def others() -> list:
  """Recorded runs of other methods."""
  return sorted(set(FOLDER.glob('*.npz')) - set(paths())) if FOLDER.is_dir() else []


def _method(stem):
  return next((name for name in AUTHORS if f'{name}_' in stem), None)


class Fixture:
  """One recorded run: `data` by key, `meta`, and its `agent` with every draw replaced by the mode."""

  def __init__(self, path):
    self.name = pathlib.Path(path).stem
    with np.load(path) as data:
      self.data = dict(data)
    self.meta = json.loads(bytes(self.data.pop('meta.json')))
    self.authors = AUTHORS[_method(self.name)]
    self.config = self.authors.config_of(self.meta)
    shapes = {'image': self.authors.shape_of(self.group('batch'))}
    # The V2 files were recorded with continuous actions; those with discrete ones say so.
    self.agent = Agent.from_config(self.config, shapes, self.meta['actions'], self.meta.get('discrete', False),
                                   deterministic=True)
    self.history = {}  # three training steps by form of the convolutions, for the tests to share

  def group(self, prefix) -> dict:
    """Everything below `prefix/`, keys without it."""
    return {k[len(prefix) + 1:]: v for k, v in self.data.items() if k.startswith(prefix + '/')}

  def tree(self, prefix) -> dict:
    """The parameters (or gradients) below `prefix/` as a tree like ours; the slow critic is under `slow`."""
    return self.authors.to_tree(self.group(prefix), self.config)

  def batch(self) -> dict:
    """The recorded batch as device arrays in our layout."""
    return self.authors.batch_of(self.group('batch'))

  def state(self):
    """A train state that holds the recorded parameters, before its first step."""
    state = self.agent.init(jax.random.key(0))
    tree = self.tree('param')
    slow = tree.pop('slow')
    harmonizers = {} if self.meta['harmony'] else {'harmony': {}}
    tree['world_model'] = {**tree['world_model'], **harmonizers}
    # Same leaves and shapes as our own initialisation: nothing is missing, nothing is left over.
    expected = jax.tree.map(jnp.shape, state.params)
    assert jax.tree.map(jnp.shape, tree) == expected, (jax.tree.map(jnp.shape, tree), expected)
    batch = self.data['batch/reward'].shape[0]
    latent = self.agent.initial_carry(tree, batch).latent
    carry = Carry(latent, self.authors.first_action(self.group('batch')))
    return state.replace(params=tree, targets={'critic': slow}, carry=carry)
