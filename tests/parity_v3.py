"""The authors' names and layouts of DreamerV3 (`v3_*` files) in terms of ours."""

import jax
import jax.numpy as jnp
import numpy as np

from harmony_jax import distributions as dists
from harmony_jax import method, settings
from harmony_jax.methods import dreamer
from tests.parity_layouts import activation, latents, named_stats, normalised, outputs, weights

METHOD = 'dreamerv3'
HARMONIZERS = {'har_s1': 'reward', 'har_s2': 'observation', 'har_s3': 'dynamics'}
ROOTS = {
  **{f'agent/wm/enc/{kind}': ('world_model', 'encoder') for kind in ('cnn', 'mlp')},
  **{f'agent/wm/dec/{kind}': ('world_model', 'decoder') for kind in ('cnn', 'mlp')},
  'agent/wm/rssm': ('world_model', 'rssm'),
  'agent/wm/rew': ('world_model', 'reward'),
  'agent/wm/cont': ('world_model', 'continue'),
  'agent/task_behavior/ac/actor': ('actor',),
  'agent/task_behavior/critic/net': ('critic',),
  'agent/task_behavior/critic/slow': ('slow',),
}


# Our metrics by the authors' names.
METRICS = {
  'model_opt_loss': 'loss/world_model',
  'actor_opt_loss': 'loss/actor',
  'extr_critic_critic_opt_loss': 'loss/critic',
  'model_opt_grad_norm': 'grad_norm/world_model',
  'actor_opt_grad_norm': 'grad_norm/actor',
  'extr_critic_critic_opt_grad_norm': 'grad_norm/critic',
  'reward_loss_mean': 'loss/reward',
  'image_loss_mean': 'loss/observation',
  'cont_loss_mean': 'loss/continue',
  'dyn_loss_mean': 'loss/dynamics',
  'policy_entropy_mean': 'actor/entropy',
  'extr_return_raw_mean': 'return/imagined',
  'adv_mean': 'actor/advantage',
}


def prepare(agent, fixture):
  """Give an agent the recorded kind of an actor's gradient."""
  theirs, kind = fixture.meta['config'], 'disc' if agent.chooses else 'cont'
  kinds = {'reinforce': dreamer.reinforce, 'backprop': dreamer.dynamics}
  agent.actor_objective = lambda: kinds[theirs[f'actor_grad_{kind}']]


def batch_of(arrays) -> dict:
  """The recorded batch in our layout: it is the same."""
  return jax.device_put(arrays)


def shape_of(arrays):
  """Shape of an image [H, W, C]."""
  return arrays['image'].shape[2:]


def first_action(arrays):
  """The action before the first row [B, A]."""
  return jax.device_put(np.zeros_like(arrays['action'][:, 0]))


def normalizer_of(arrays):
  """(low, high) of the return normaliser after a step."""
  name = 'agent/task_behavior/ac/retnorm_extr'
  return arrays[f'{name}/low/value'], arrays[f'{name}/high/value']


def forward(agent, state, batch, after, metrics) -> dict:
  """One forward pass and one imagination with the parameters as given, by the authors' names; the
  loss is the update's.
  """
  del after
  params = state.params['world_model']
  out = outputs(agent, state, batch)
  alive = 1 - batch['is_terminal'].astype(jnp.float32).reshape(-1)
  start = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), out['post'])
  horizon = agent.settings.behavior.horizon
  actor = state.params['actor']
  trajectory = agent.imagine(params, actor, start, alive, None, None, horizon)
  returns, value, reward = agent.returns(params, state.params['critic'], trajectory)
  policy = agent.actor.policy(actor, trajectory.feature)
  free = lambda kl: jnp.maximum(agent.settings.losses.free_nats, kl)
  latent = state.carry.latent
  return {
    'initial_deter': latent.deter,
    'initial_stoch': latent.stoch,
    'embed': out['embed'],
    'post_deter': out['post'].deter,
    'post_stoch': out['post'].stoch,
    **named_stats('post', agent, out['post'].stats),
    **named_stats('prior', agent, out['prior']),
    **{f'{k}_mean': x if k == 'image' else dists.symexp(x) for k, x in out['decoded'].items()},
    **{f'{k}_loss': x for k, x in out['errors'].items()},
    'reward_logits': out['reward'],
    'reward_mean': dists.two_hot_mean(out['reward']),
    'cont_mean': jax.nn.sigmoid(out['continue']),
    'reward_loss': out['reward_loss'],
    'cont_loss': dists.bernoulli_loss(out['continue'], 1.0 - batch['is_terminal']),
    'dyn_loss': free(out['kl']),
    'rep_loss': free(out['kl']),
    'world_model_loss': metrics['loss/world_model'],
    'imag_deter': trajectory.states.deter,
    'imag_stoch': trajectory.states.stoch,
    'imag_action': trajectory.action,
    'imag_cont': trajectory.keep,
    'imag_weight': trajectory.weight,
    'imag_return': returns,
    'imag_value': value,
    'imag_reward': reward,
    'actor_entropy': policy.entropy(),
    'actor_logprob_of_action': policy.log_prob(trajectory.action),
  }


def compared(recorded) -> dict:
  """The recorded forward pass in our layout; logits as log-probabilities."""
  return normalised(recorded)


def config_of(meta):
  """Our settings for the authors' recorded configuration."""
  theirs = meta['config']
  changes = {
    'batch_size': meta['batch'],
    'batch_length': meta['length'],
    **{f'rssm.{k}': theirs[f'rssm.{k}'] for k in ('deter', 'units', 'stoch', 'unimix')},
    **latents(theirs['rssm.classes']),
    'rssm.action_clip': theirs['rssm.action_clip'],
    'rssm.learned_initial': theirs['rssm.initial'] == 'learned',
    'continue_head.gradient': 'cont' in theirs['grad_heads'],
    # With harmony the authors take the other losses as they are.
    'continue_head.scale': 1.0 if meta['harmony'] else theirs['loss_scales.cont'],
    'reward_head.bins': theirs['reward_head.bins'],
    'critic.bins': theirs['critic.bins'],
    'actor.unimix': theirs['actor.unimix'],
    'actor.min_std': theirs['actor.minstd'],
    'actor.max_std': theirs['actor.maxstd'],
    'critic.slow_regularizer': theirs['loss_scales.slowreg'],
    'critic.slow_every': theirs['slow_critic_update'],
    'critic.slow_fraction': theirs['slow_critic_fraction'],
    'losses.free_nats': theirs['dyn_loss.free'],
    'losses.dyn': theirs['loss_scales.dyn'],
    'losses.rep': theirs['loss_scales.rep'],
    'behavior.horizon': theirs['imag_horizon'],
    'behavior.discount': 1 - 1 / theirs['horizon'],
    'behavior.lam': theirs['return_lambda'],
    'behavior.entropy': theirs['actent'],
    'behavior.return_decay': theirs['retnorm.decay'],
    'behavior.return_low': theirs['retnorm.perclo'],
    'behavior.return_high': theirs['retnorm.perchi'],
    **activation(
      theirs, ('rssm', 'encoder', 'decoder', 'reward_head', 'cont_head', 'actor', 'critic')
    ),
    **weights(meta),
  }
  for net in ('encoder', 'decoder'):
    names = {'depth': 'cnn_depth', **{k: k for k in ('minres', 'mlp_layers', 'mlp_units')}}
    changes |= {f'{net}.{ours}': theirs[f'{net}.{name}'] for ours, name in names.items()}
  heads = {'reward_head': 'reward_head', 'continue_head': 'cont_head'}
  for ours, name in (heads | {'actor': 'actor', 'critic': 'critic'}).items():
    changes |= {f'{ours}.{k}': theirs[f'{name}.{k}'] for k in ('layers', 'units')}
  for ours in ('model_opt', 'actor_opt', 'critic_opt'):
    changes |= {f'{ours}.{k}': theirs[f'{ours}.{k}'] for k in ('lr', 'eps', 'clip')}
  return settings.replace(method.entry(METHOD).settings, changes)


def metrics_of(recorded, config) -> dict:
  """The recorded metrics as ours, where the continue head's loss has its weight."""
  name, scale = 'cont_loss_mean', config.continue_head.scale
  return {**recorded, name: recorded[name] * scale} if name in recorded else recorded


def path_of(name, last_up):
  """Our path for one of the authors' parameter names, or None for what is no parameter of ours."""
  parts = name.split('/')
  if parts[-1] == 'harmony_s':
    return 'world_model', 'harmony', HARMONIZERS[parts[2]]
  root = next((root for root in ROOTS if name.startswith(f'{root}/')), None)
  if root is None:
    return None
  path, rest = ROOTS[root], name[len(root) + 1 :]
  layer, _, leaf = rest.partition('/')
  if root == 'agent/wm/enc/cnn':
    layer = f'down_{layer[1:-3]}'  # s0res, s1res, …
  elif root == 'agent/wm/dec/cnn':
    stage = layer[1:-3]
    layer = 'start' if layer == 'in' else 'last' if int(stage) == last_up else f'up_{stage}'
  elif layer.startswith('dist_'):
    output, _, leaf = leaf.partition('/')
    number = '1' if output == 'std' else '0'
    layer = f'out_{number if layer == "dist_out" else layer.removeprefix("dist_")}'
  elif layer[0] == 'h' and layer[1:].isdigit():
    layer = f'h_{layer[1:]}'
  return (*path, layer, *leaf.split('/')) if leaf else (*path, layer)


def to_tree(arrays, config=None) -> dict:
  """{authors' name: array} as a nested dict of ours; names that are no parameters (the normaliser)
  are left out.
  """
  stages = [
    int(n.split('/')[-2][1:-3])
    for n in arrays
    if '/dec/cnn/s' in n and n.split('/')[-2].endswith('res')
  ]
  tree = {}
  for name, value in arrays.items():
    path = path_of(name, max(stages, default=0))
    if path is None:
      continue
    node = tree
    for key in path[:-1]:
      node = node.setdefault(key, {})
    node[path[-1]] = jax.device_put(value)
  return tree
