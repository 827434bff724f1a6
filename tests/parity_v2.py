"""The authors' names and layouts of DreamerV2 (`v2_*` files) in terms of ours.

PyTorch stores dense weights as [out, in], convolutions as OIHW and transposed ones as IOHW, not
flipped; an image is flattened channels first. The authors put the stochastic state before the
deterministic one in a feature, and the GRU's input before its state; ours are the other way round,
so the rows of every layer that sees them are moved.
"""

import jax
import jax.numpy as jnp
import numpy as np

from harmony_jax import distributions as dists
from harmony_jax import method, settings
from tests.parity_layouts import (
  activation,
  features,
  first_action,
  latents,
  named_stats,
  nested,
  normalised,
  outputs,
  weights,
)

METHOD = 'dreamerv2'
__all__ = ['first_action']
HARMONIZERS = {
  'wm.harmony_s1': 'reward',
  'wm.harmony_s2': 'observation',
  'wm.harmony_s3': 'dynamics',
}
RSSM = {
  '_cell._layer': ('gru',),
  '_cell._norm': ('gru', 'norm'),
  'img_in': ('img_in',),
  'img_out_0': ('img_out',),
  'img_dist_0': ('img_stats',),
  'obs_out': ('obs_out',),
  'obs_dist': ('obs_stats',),
}
HEADS = {
  'wm.heads.reward.': ('world_model', 'reward'),
  'wm.heads.discount.': ('world_model', 'continue'),
  '_task_behavior.actor.': ('actor',),
  '_task_behavior.critic.': ('critic',),
  '_task_behavior._target_critic.': ('slow',),
}
# Our metrics by the authors' names. Their critic_target contains the entropy bonus, so it has none.
METRICS = {
  'model_loss': 'loss/world_model',
  'actor_loss': 'loss/actor',
  'critic_loss': 'loss/critic',
  'model_grad_norm': 'grad_norm/world_model',
  'actor_grad_norm': 'grad_norm/actor',
  'critic_grad_norm': 'grad_norm/critic',
  'reward_loss': 'loss/reward',
  'image_loss': 'loss/observation',
  'kl_loss': 'loss/dynamics',
  'discount_loss': 'loss/continue',
  'actor_ent': 'actor/entropy',
}


def config_of(meta):
  """Our settings for the authors' recorded configuration."""
  theirs = meta['config']
  balance, scale = theirs['kl.balance'], theirs['loss_scales.kl']
  changes = {
    'batch_size': meta['batch'],
    'batch_length': meta['length'],
    'encoder.depth': theirs['encoder.cnn_depth'],
    'decoder.depth': theirs['decoder.cnn_depth'],
    'rssm.deter': theirs['rssm.deter'],
    'rssm.units': theirs['rssm.hidden'],
    'rssm.stoch': theirs['rssm.stoch'],
    **latents(theirs['rssm.discrete']),
    'rssm.min_std': theirs['rssm.min_std'],
    'rssm.unimix': theirs['rssm.unimix'],
    'continue_head.enabled': theirs['pred_discount'],
    'continue_head.scale': theirs['loss_scales.discount'],
    'continue_head.gradient': 'discount' in theirs['grad_heads'],
    'actor.min_std': theirs['actor.min_std'],
    'actor.unimix': theirs['actor.unimix'],
    'critic.slow_regularizer': theirs['slow_regularizer'] * theirs['loss_scales.slowreg'],
    'critic.slow_every': theirs['slow_target_update'],
    'critic.slow_fraction': theirs['slow_target_fraction'],
    'losses.free_nats': theirs['kl.free'],
    'losses.free_average': theirs['kl.free_avg'],
    'losses.dyn': balance * scale,
    'losses.rep': (1 - balance) * scale,
    'behavior.horizon': theirs['imag_horizon'],
    'behavior.discount': theirs['discount'],
    'behavior.lam': theirs['discount_lambda'],
    'behavior.entropy': theirs['actor_ent'],
    **activation(
      theirs, ('rssm', 'encoder', 'decoder', 'reward_head', 'discount_head', 'actor', 'critic')
    ),
    **weights(meta),
  }
  for head in ('reward_head', 'critic'):
    if theirs[f'{head}.dist'] == 'symlog_disc':
      changes |= {f'{head}.distribution': 'two_hot', f'{head}.bins': theirs[f'{head}.bins']}
  heads = {'reward_head': 'reward_head', 'continue_head': 'discount_head'}
  for ours, name in (heads | {'actor': 'actor', 'critic': 'critic'}).items():
    changes |= {f'{ours}.{k}': theirs[f'{name}.{k}'] for k in ('layers', 'units')}
  return settings.replace(method.entry(METHOD).settings, changes | optimizers(theirs))


def optimizers(theirs) -> dict:
  """The three optimisers' settings."""
  names = {'lr': 'lr', 'eps': 'eps', 'clip': 'clip', 'weight_decay': 'wd'}
  return {
    f'{opt}.{ours}': float(theirs[f'{opt}.{name}'])
    for opt in ('model_opt', 'actor_opt', 'critic_opt')
    for ours, name in names.items()
  }


def metrics_of(recorded, config) -> dict:
  """The recorded metrics as ours, where the continue head's loss has its weight."""
  name, scale = 'discount_loss', config.continue_head.scale
  return {**recorded, name: recorded[name] * scale} if name in recorded else recorded


def batch_of(arrays) -> dict:
  """The recorded batch in our layout: channels last, and actions in the row before the one that
  they led to.

  The last row gets the first action, which then is carried over as the one before the first row.
  """
  return jax.device_put(
    {
      **arrays,
      'image': arrays['image'].transpose(0, 1, 3, 4, 2),
      'is_first': arrays['is_first'] > 0,
      'action': np.roll(arrays['action'], -1, 1),
    }
  )


def shape_of(arrays):
  """Shape of an image [H, W, C]."""
  channels, height, width = arrays['image'].shape[2:]
  return height, width, channels


def to_tree(arrays, config) -> dict:
  """{authors' name: array} as a nested dict of ours."""
  return nested(arrays, config, _convert)


def _convert(name, value, config):
  """(our path, the array in our layout)."""
  if name in HARMONIZERS:
    return ('world_model', 'harmony', HARMONIZERS[name]), value
  layer, _, leaf = name.rpartition('.')
  leaf = {'weight': 'scale' if layer.endswith('_norm') else 'kernel', 'bias': 'bias'}[leaf]
  kernel = leaf == 'kernel'
  if value.ndim == 2:
    value = value.T
  if layer.startswith('wm.encoder.conv'):
    return ('world_model', 'encoder', f'down_{layer[-1]}', leaf), value.transpose(
      2, 3, 1, 0
    ) if kernel else value
  if layer.startswith('wm.heads.decoder.'):
    if layer.endswith('convin'):
      return ('world_model', 'decoder', 'start', leaf), features(value, config) if kernel else value
    place = 'last' if layer.endswith('conv3') else f'up_{layer[-1]}'
    value = value.transpose(2, 3, 1, 0)[::-1, ::-1] if kernel else value
    return ('world_model', 'decoder', place, leaf), value
  if layer.startswith('wm.rssm.'):
    layer = layer.removeprefix('wm.rssm.')
    deter, units = config.rssm.deter, config.rssm.units
    if kernel and layer == '_cell._layer':
      value = np.concatenate([value[units:], value[:units]], 0)  # [input, state] -> [state, input]
    if kernel and layer == 'obs_out':
      # C, H, W -> H, W, C
      embed = value[deter:].reshape(-1, 2, 2, value.shape[1]).transpose(1, 2, 0, 3)
      value = np.concatenate([value[:deter], embed.reshape(-1, value.shape[1])], 0)
    return ('world_model', 'rssm', *RSSM[layer], leaf), value
  for prefix, path in HEADS.items():
    if layer.startswith(prefix):
      layer = layer.removeprefix(prefix)
      if kernel and layer == 'dense0':
        value = features(value, config)
      place = {'out.out': 'out_0', 'out.std': 'out_1'}.get(
        layer, f'h_{layer.removeprefix("dense")}'
      )
      return (*path, place, leaf), value
  raise KeyError(name)


def forward(agent, state, batch, after, metrics) -> dict:
  """One forward pass and one imagination with the parameters as given, by the authors' names but in
  our layouts; the model's loss is the update's.
  """
  del after
  params, draws = state.params['world_model'], agent.draws(None, 0, 0)
  out = outputs(agent, state, batch)
  start, alive = agent.starts(out['post'], batch)
  loss, (trajectory, targets, _, found) = agent.actor_loss(
    state.params['actor'], state.params, state, start, alive, draws
  )
  slow = state.targets['critic']
  returns, _, _ = agent.returns(params, slow, trajectory)
  critic, _ = agent.critic_loss(state.params['critic'], slow, trajectory, targets)
  action = jnp.concatenate([jnp.zeros_like(trajectory.action[:1]), trajectory.action[:-1]], 0)
  ending = {}
  if 'continue' in out:
    goes_on = agent.continues * (1 - batch['is_terminal'])
    ending['loglik_discount'] = -dists.bernoulli_loss(out['continue'], goes_on)
    ending['discount_mean'] = jax.nn.sigmoid(out['continue'])
  return {
    **ending,
    'embed': out['embed'],
    'feat': out['post'].feature(),
    'post_deter': out['post'].deter,
    'post_stoch': out['post'].stoch,
    **named_stats('post', agent, out['post'].stats),
    **named_stats('prior', agent, out['prior']),
    'prior_deter': out['post'].deter,
    'prior_stoch': agent.rssm.latents.mode(out['prior']),
    'kl_value': out['kl'],
    'world_model_loss': metrics['loss/world_model'],
    'loglik_image': -out['errors']['image'],
    'loglik_reward': -out['reward_loss'],
    'image_mean': out['decoded']['image'] - 0.5,
    'reward_mean': agent.reward.scalar.mean(out['reward']),
    'imag_feat': trajectory.feature,
    'imag_action': action,
    'imag_discount': trajectory.discount,
    'imag_weight': trajectory.weight,
    'imag_reward': agent.reward.mean(params['reward'], trajectory.feature),
    'imag_target': returns,
    'actor_loss': loss,
    'actor_entropy_mean': found['actor/entropy'],
    'critic_loss': critic,
  }


def compared(recorded) -> dict:
  """The recorded forward pass in our layout; logits as log-probabilities, features with the
  deterministic part first.
  """
  recorded = normalised(recorded)
  deter = recorded['post_deter'].shape[-1]
  for name in ('feat', 'imag_feat'):
    recorded[name] = np.concatenate(
      [recorded[name][..., -deter:], recorded[name][..., :-deter]], -1
    )
  embed = recorded['embed']
  recorded['embed'] = (
    embed.reshape(*embed.shape[:2], -1, 2, 2).transpose(0, 1, 3, 4, 2).reshape(embed.shape)
  )
  recorded['image_mean'] = recorded['image_mean'].transpose(0, 1, 3, 4, 2)
  return recorded


def normalizer_of(arrays):
  """DreamerV2 has no return normaliser."""
  del arrays
  return
