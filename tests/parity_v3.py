"""The authors' names and layouts of DreamerV3 (`v3_*` files) in terms of ours."""

import jax
import jax.numpy as jnp

from configs import dreamerv3
from harmony_jax import distributions
from harmony_jax.agent import shift_actions
from harmony_jax.behavior import Noise

HARMONIZERS = {'har_s1': 'reward', 'har_s2': 'observation', 'har_s3': 'dynamics'}
ROOTS = {
  'agent/wm/enc/cnn': ('world_model', 'encoder'),
  'agent/wm/dec/cnn': ('world_model', 'decoder'),
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


def batch_of(arrays) -> dict:
  """The recorded batch in our layout: it is the same."""
  return {k: jnp.asarray(v) for k, v in arrays.items()}


def shape_of(arrays):
  """Shape of an image [H, W, C]."""
  return arrays['image'].shape[2:]


def first_action(arrays):
  """The action before the first row [B, A]."""
  return jnp.zeros_like(jnp.asarray(arrays['action'][:, 0]))


def normalizer_of(arrays):
  """(low, high) of the return normaliser after a step."""
  name = 'agent/task_behavior/ac/retnorm_extr'
  return arrays[f'{name}/low/value'], arrays[f'{name}/high/value']


def forward(agent, state, batch) -> dict:
  """One forward pass and one imagination with the parameters as given, by the authors' names."""
  model, params = agent.world_model, state.params['world_model']
  latent, previous = state.carry.latent, shift_actions(batch['action'], state.carry.action)
  total, _ = model.loss(params, state.weighting, latent, batch, previous, None)
  out = model.forward(params, latent, batch, previous, None)
  losses = model.step_losses(out, batch)
  behavior = agent.behavior
  start = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), out.posterior)
  not_terminal = 1 - batch['is_terminal'].astype(jnp.float32).reshape(-1)
  trajectory = behavior.imagine(model, params, state.params['actor'], start, not_terminal, Noise())
  returns, value, reward = behavior.evaluate(model, params, state.params['critic'], trajectory)
  policy = behavior.actor(state.params['actor'], trajectory.feature)
  return {
    'initial_deter': latent.deter,
    'initial_stoch': latent.stoch,
    'embed': out.embed,
    'post_deter': out.posterior.deter,
    'post_stoch': out.posterior.stoch,
    'post_logit': out.posterior.stats,
    'prior_logit': out.prior_stats,
    'image_mean': out.decoded['image'],
    'reward_logits': out.reward_logits,
    'reward_mean': distributions.two_hot_mean(out.reward_logits),
    'cont_mean': jax.nn.sigmoid(out.continue_logit),
    'image_loss': losses['observation'],
    'reward_loss': losses['reward'],
    'cont_loss': losses['continue'],
    'dyn_loss': losses['dyn'],
    'rep_loss': losses['rep'],
    'world_model_loss': total,
    'imag_deter': trajectory.states.deter,
    'imag_stoch': trajectory.states.stoch,
    'imag_action': trajectory.action,
    'imag_cont': trajectory.keep,
    'imag_weight': trajectory.weight,
    'imag_return': returns,
    'imag_value': value,
    'imag_reward': reward,
    'actor_entropy': behavior.actor.entropy(policy),
    'actor_logprob_of_action': behavior.actor.log_prob(policy, trajectory.action),
  }


def compared(recorded) -> dict:
  """The recorded forward pass in our layout: it is the same."""
  return recorded


def config_of(meta):
  """Our configuration for the authors' recorded one."""
  theirs, config = meta['config'], dreamerv3.get_config()
  with config.unlocked():
    config.batch_size, config.batch_length = meta['batch'], meta['length']
    for ours, name in (('encoder', 'encoder'), ('decoder', 'decoder')):
      config[ours].update(depth=theirs[f'{name}.cnn_depth'], minres=theirs[f'{name}.minres'])
    config.rssm.update(
      {k: theirs[f'rssm.{k}'] for k in ('deter', 'units', 'stoch', 'classes', 'unimix')},
      action_clip=theirs['rssm.action_clip'],
    )
    for ours, name in (
      ('reward_head', 'reward_head'),
      ('continue_head', 'cont_head'),
      ('actor', 'actor'),
      ('critic', 'critic'),
    ):
      config[ours].update(layers=theirs[f'{name}.layers'], units=theirs[f'{name}.units'])
    config.reward_head.bins, config.critic.bins = theirs['reward_head.bins'], theirs['critic.bins']
    config.actor.update(
      unimix=theirs['actor.unimix'], min_std=theirs['actor.minstd'], max_std=theirs['actor.maxstd']
    )
    config.critic.update(
      slow_regularizer=theirs['loss_scales.slowreg'],
      slow_every=theirs['slow_critic_update'],
      slow_fraction=theirs['slow_critic_fraction'],
    )
    config.losses.update(
      free_nats=theirs['dyn_loss.free'],
      dyn=theirs['loss_scales.dyn'],
      rep=theirs['loss_scales.rep'],
    )
    config.behavior.update(
      horizon=theirs['imag_horizon'],
      discount=1 - 1 / theirs['horizon'],
      lam=theirs['return_lambda'],
      entropy=theirs['actent'],
      return_decay=theirs['retnorm.decay'],
      return_low=theirs['retnorm.perclo'],
      return_high=theirs['retnorm.perchi'],
    )
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
      rest = name[len(root) + 1 :]
      break
  else:
    return None
  layer, _, leaf = rest.partition('/')
  if path[-1] == 'encoder':
    layer = f'down_{layer[1:-3]}'  # s0res, s1res, …
  elif path[-1] == 'decoder':
    stage = layer[1:-3]
    layer = 'start' if layer == 'in' else 'last' if int(stage) == last_up else f'up_{stage}'
  elif layer == 'dist_out':
    output, _, leaf = leaf.partition('/')
    layer = 'out_1' if output == 'std' else 'out_0'
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
    node[path[-1]] = jnp.asarray(value)
  return tree
