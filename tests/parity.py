"""The authors' recorded runs (parity fixtures): parameters, batches and results in this project's
terms.

One module per base method maps names and layouts: parity_v3.py, parity_v2.py, parity_pro.py; and
parity_tdmpc.py, with a `Fixture` of its own, for a method that is no Dreamer.
"""

import functools
import json
import os
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxpr_as_fun

from harmony_jax import method
from harmony_jax.methods.dreamer_parts import Carry
from tests import parity_pro, parity_v2, parity_v3, small

FOLDER = pathlib.Path(
  os.environ.get('HARMONY_PARITY_DIR', pathlib.Path(__file__).parents[2] / 'shared' / 'parity')
)
AUTHORS = {'v3': parity_v3, 'v2': parity_v2, 'pro': parity_pro}
CLIPS = {'identity': lambda x: x, 'sign': np.sign, 'tanh': np.tanh}  # of rewards
NO_VECTORS = 'image', 'action', 'reward', 'is_first', 'is_last', 'is_terminal', 'reset'


def paths() -> list:
  """The recorded runs of the methods that we have, e.g. `v3_discrete_plain.npz`."""
  return (
    sorted(path for path in FOLDER.glob('*.npz') if _method(path.stem)) if FOLDER.is_dir() else []
  )


def others() -> list:
  """Recorded runs of other methods."""
  return sorted(set(FOLDER.glob('*.npz')) - set(paths())) if FOLDER.is_dir() else []


def _method(stem):
  return next((name for name in AUTHORS if f'{name}_' in stem), None)


class Fixture:
  """One recorded run: `data` by key, `meta`, and its `agent` with modes in place of draws."""

  def __init__(self, path):
    self.name = pathlib.Path(path).stem
    with np.load(path) as data:
      self.data = dict(data)
    self.meta = json.loads(bytes(self.data.pop('meta.json')))
    self.authors = AUTHORS[_method(self.name)]
    self.config = self.authors.config_of(self.meta)
    batch = self.group('batch')
    shapes = {'image': self.authors.shape_of(batch)}
    if any('/enc/mlp/' in name for name in self.data):  # of DreamerV3: vectors, too
      shapes |= {k: v.shape[2:] for k, v in batch.items() if k not in NO_VECTORS}
    # Of choices there is no deviation.
    continuous = any(re.search(r'actor.*[./]std[./]', name) for name in self.data)
    actions, discrete = batch['action'].shape[-1], self.meta.get('discrete', not continuous)
    spec = small.spec(shapes, actions, discrete)
    make = method.entry(self.authors.METHOD).make
    self.agent = make(self.config, spec, deterministic=True)
    if hasattr(self.authors, 'prepare'):  # recorded with draws that are no modes, for one
      self.authors.prepare(self.agent, self)
    self.steps = getattr(self.authors, 'STEPS', (1, 3))  # after which parameters were recorded
    self.history = {}  # three training steps by form of the convolutions, for the tests to share

  def group(self, prefix) -> dict:
    """Everything below `prefix/`, keys without it."""
    return {k[len(prefix) + 1 :]: v for k, v in self.data.items() if k.startswith(prefix + '/')}

  def tree(self, prefix) -> dict:
    """The parameters (or gradients) below `prefix/` as a tree like ours; the slow critic is under
    `slow`, other slow copies under `targets`."""
    return self.authors.to_tree(self.group(prefix), self.config)

  def batch(self) -> dict:
    """The recorded batch as device arrays in our layout."""
    batch = self.authors.batch_of(self.group('batch'))
    clip = CLIPS[self.meta['config'].get('clip_rewards', 'identity')]
    return {**batch, 'reward': clip(batch['reward'])}

  @functools.cached_property
  def _init(self):
    """Our own initialisation, traced once, and the shapes of what it makes."""
    return jax.make_jaxpr(self.agent.init, return_shape=True)(jax.random.key(0))

  @functools.cached_property
  def _fresh(self):
    """What our own initialisation makes, but for parameters: what is not used is not drawn."""
    traced, shapes = self._init

    def fresh(key):
      made = jax.tree.unflatten(jax.tree.structure(shapes), jaxpr_as_fun(traced)(key))
      return made.replace(params={}, targets={})

    return small.jit(fresh)(jax.random.key(0))

  @functools.cached_property
  def _carry(self):
    begin = small.jit(self.agent.initial_carry, static_argnums=1)
    latent = begin(self.tree('param'), self.data['batch/reward'].shape[0]).latent
    return Carry(latent, self.authors.first_action(self.group('batch')))

  def state(self):
    """A train state that holds the recorded parameters, before its first step."""
    tree = self.tree('param')
    slow, targets = tree.pop('slow'), tree.pop('targets', None)
    harmonizers = {} if self.meta.get('harmony') else {'harmony': {}}
    tree['world_model'] = {**tree['world_model'], **harmonizers}
    # Same leaves and shapes as our own initialisation: nothing is missing, nothing is left over.
    expected = jax.tree.map(jnp.shape, self._init[1].params)
    assert jax.tree.map(jnp.shape, tree) == expected, (jax.tree.map(jnp.shape, tree), expected)
    more = {'world_model': targets} if targets else {}
    return self._fresh.replace(params=tree, targets={'critic': slow, **more}, carry=self._carry)

  def restarted(self, state):
    """The state before the next update on the recorded batch; DreamerPro's sequences all begin from
    zeros.
    """
    return state.replace(carry=self._carry) if self.authors is parity_pro else state

  def metrics(self, number) -> dict:
    """The authors' metrics of an update, by their names."""
    recorded = self.group(f'metrics_step{number}')
    return recorded or self.meta['metrics'][number - 1]

  def model_inputs(self, state):
    """(params, the further arguments of `losses`) of the first step."""
    batch = self.batch()
    draws = self.agent.draws(jax.random.fold_in(state.rng, 0), *batch['is_first'].shape)
    params = self.agent.objective.project(state.params['world_model'])
    return params, (state, batch, state.carry, draws)
