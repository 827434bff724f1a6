"""Maps the authors' recorded runs (parity fixtures) onto this project's configuration and parameter tree."""

import json
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from configs import dreamerv3
from harmony_jax.agent import Agent

FOLDER = pathlib.Path(os.environ.get('HARMONY_PARITY_DIR', pathlib.Path(__file__).parents[2] / 'shared' / 'parity'))
HARMONIZERS = {'har_s1': 'reward', 'har_s2': 'observation', 'har_s3': 'dynamics'}
ROOTS = {'agent/wm/enc/cnn': ('world_model', 'encoder'), 'agent/wm/dec/cnn': ('world_model', 'decoder'),
         'agent/wm/rssm': ('world_model', 'rssm'), 'agent/wm/rew': ('world_model', 'reward'),
         'agent/wm/cont': ('world_model', 'continue'), 'agent/task_behavior/ac/actor': ('actor',),
         'agent/task_behavior/critic/net': ('critic',), 'agent/task_behavior/critic/slow': ('slow',)}


class Fixture:
  """One recorded run: `data` by key, `meta`, and its `agent` with every draw replaced by the mode."""

  def __init__(self, path):
    self.name = pathlib.Path(path).stem
    with np.load(path) as data:
      self.data = dict(data)
    self.meta = json.loads(bytes(self.data.pop('meta.json')))
    self.config = config_of(self.meta)
    shape = self.data['batch/image'].shape[2:]
    self.agent = Agent.from_config(self.config, {'image': shape}, self.meta['actions'], self.meta['discrete'],
                                   deterministic=True)
    self.history = {}  # three training steps by form of the convolutions, for the tests to share

  def group(self, prefix) -> dict:
    """Everything below `prefix/`, keys without it."""
    return {k[len(prefix) + 1:]: v for k, v in self.data.items() if k.startswith(prefix + '/')}

  def batch(self) -> dict:
    """The recorded batch as device arrays."""
    return {k: jnp.asarray(v) for k, v in self.group('batch').items()}

  def state(self):
    """A train state that holds the recorded parameters, before its first step."""
    state = self.agent.init(jax.random.key(0))
    tree = to_tree(self.group('param'))
    slow = tree.pop('slow')
    harmonizers = {} if self.meta['harmony'] else {'harmony': {}}
    tree['world_model'] = {**tree['world_model'], **harmonizers}
    # Same leaves and shapes as our own initialisation: nothing is missing, nothing is left over.
    expected = jax.tree.map(jnp.shape, state.params)
    assert jax.tree.map(jnp.shape, tree) == expected, (jax.tree.map(jnp.shape, tree), expected)
    batch = self.data['batch/reward'].shape[0]
    return state.replace(params=tree, targets={'critic': slow}, carry=self.agent.initial_carry(tree, batch))


def config_of(meta):
  """Our configuration for the authors' recorded one."""
  theirs, config = meta['config'], dreamerv3.get_config()
  with config.unlocked():
    config.batch_size, config.batch_length = meta['batch'], meta['length']
    for ours, name in (('encoder', 'encoder'), ('decoder', 'decoder')):
      config[ours].update(depth=theirs[f'{name}.cnn_depth'], minres=theirs[f'{name}.minres'])
    config.rssm.update({k: theirs[f'rssm.{k}'] for k in ('deter', 'units', 'stoch', 'classes', 'unimix')},
                       action_clip=theirs['rssm.action_clip'])
    for ours, name in (('reward_head', 'reward_head'), ('continue_head', 'cont_head'), ('actor', 'actor'),
                       ('critic', 'critic')):
      config[ours].update(layers=theirs[f'{name}.layers'], units=theirs[f'{name}.units'])
    config.reward_head.bins, config.critic.bins = theirs['reward_head.bins'], theirs['critic.bins']
    config.actor.update(unimix=theirs['actor.unimix'], min_std=theirs['actor.minstd'],
                        max_std=theirs['actor.maxstd'])
    config.critic.update(slow_regularizer=theirs['loss_scales.slowreg'], slow_every=theirs['slow_critic_update'],
                         slow_fraction=theirs['slow_critic_fraction'])
    config.losses.update(free_nats=theirs['dyn_loss.free'], dyn=theirs['loss_scales.dyn'],
                         rep=theirs['loss_scales.rep'])
    config.behavior.update(horizon=theirs['imag_horizon'], discount_horizon=theirs['horizon'],
                           lam=theirs['return_lambda'], entropy=theirs['actent'],
                           return_decay=theirs['retnorm.decay'], return_low=theirs['retnorm.perclo'],
                           return_high=theirs['retnorm.perchi'])
    for ours in ('model_opt', 'actor_opt', 'critic_opt'):
      config[ours].update({k: theirs[f'{ours}.{k}'] for k in ('lr', 'eps', 'clip')})
    config.weighting.rule = 'harmony' if meta['harmony'] else 'none'
  return config


def path_of(name, last_up):
  """Our path for one of the authors' parameter names, or None for what is no parameter of ours."""
  parts = name.split('/')
  if parts[-1] == 'harmony_s':
    return 'world_model', 'harmony', HARMONIZERS[parts[2]]
  for root, path in ROOTS.items():
    if name.startswith(root + '/'):
      rest = name[len(root) + 1:]
      break
  else:
    return None
  layer, _, leaf = rest.partition('/')
  if path[-1] == 'encoder':
    layer = f'down_{layer[1:-3]}'                     # s0res, s1res, …
  elif path[-1] == 'decoder':
    stage = layer[1:-3]
    layer = 'start' if layer == 'in' else 'last' if int(stage) == last_up else f'up_{stage}'
  elif layer == 'dist_out':
    output, _, leaf = leaf.partition('/')
    layer = 'out_1' if output == 'std' else 'out_0'
  elif layer[0] == 'h' and layer[1:].isdigit():
    layer = f'h_{layer[1:]}'
  return (*path, layer, *leaf.split('/')) if leaf else (*path, layer)


def to_tree(arrays) -> dict:
  """{authors' name: array} as a nested dict of ours; names that are no parameters (the normaliser) are left out."""
  stages = [int(n.split('/')[-2][1:-3]) for n in arrays if '/dec/cnn/s' in n and n.split('/')[-2].endswith('res')]
  tree = {}
  for name, value in arrays.items():
    path = path_of(name, max(stages, default=0))
    if path is None:
      continue
    node = tree
    for key in path[:-1]:
      node = node.setdefault(key, {})
    node[path[-1]] = jnp.asarray(value)
  return tree
