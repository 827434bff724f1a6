"""The authors' names and layouts of DreamerV2 (`v2_*` files) in terms of ours.

PyTorch stores dense weights as [out, in], convolutions as OIHW and transposed ones as IOHW, not
flipped; an image is flattened channels first. The authors put the stochastic state before the
deterministic one in a feature, and the GRU's input before its state; ours are the other way round,
so the rows of every layer that sees them are moved.
"""

import jax
import jax.numpy as jnp
import numpy as np

from configs import dreamerv2
from harmony_jax.agent import shift_actions
from harmony_jax.behavior import Noise
from tests.parity_layouts import features, nested

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
  """Our configuration for the authors' recorded one."""
  theirs, config = meta['config'], dreamerv2.get_config()
  with config.unlocked():
    config.batch_size, config.batch_length = meta['batch'], meta['length']
    for ours in ('encoder', 'decoder'):
      config[ours].depth = theirs[f'{ours}.cnn_depth']
    config.rssm.update(
      deter=theirs['rssm.deter'],
      units=theirs['rssm.hidden'],
      stoch=theirs['rssm.stoch'],
      classes=theirs['rssm.discrete'],
      unimix=theirs['rssm.unimix'],
    )
    for ours, name in (
      ('reward_head', 'reward_head'),
      ('continue_head', 'discount_head'),
      ('actor', 'actor'),
      ('critic', 'critic'),
    ):
      config[ours].update(layers=theirs[f'{name}.layers'], units=theirs[f'{name}.units'])
    config.continue_head.update(
      enabled=theirs['pred_discount'],
      scale=theirs['loss_scales.discount'],
      gradient='discount' in theirs['grad_heads'],
    )
    config.actor.update(min_std=theirs['actor.min_std'], unimix=theirs['actor.unimix'])
    config.critic.update(
      slow_every=theirs['slow_target_update'], slow_fraction=theirs['slow_target_fraction']
    )
    balance, scale = theirs['kl.balance'], theirs['loss_scales.kl']
    config.losses.update(
      free_nats=theirs['kl.free'],
      free_average=theirs['kl.free_avg'],
      dyn=balance * scale,
      rep=(1 - balance) * scale,
    )
    config.behavior.update(
      horizon=theirs['imag_horizon'],
      discount=theirs['discount'],
      lam=theirs['discount_lambda'],
      entropy=theirs['actor_ent'],
    )
    for ours in ('model_opt', 'actor_opt', 'critic_opt'):
      config[ours].update(
        {k: float(theirs[f'{ours}.{k}']) for k in ('lr', 'eps', 'clip')},
        weight_decay=theirs[f'{ours}.wd'],
      )
    config.weighting.rule = 'harmony' if meta['harmony'] else 'none'
  return config


def batch_of(arrays) -> dict:
  """The recorded batch in our layout: channels last, and actions in the row before the one that
  they led to.

  The last row gets the first action, which then is carried over as the one before the first row.
  """
  batch = {k: jnp.asarray(v) for k, v in arrays.items()}
  return {
    **batch,
    'image': batch['image'].transpose(0, 1, 3, 4, 2),
    'is_first': batch['is_first'] > 0,
    'action': jnp.roll(batch['action'], -1, 1),
  }


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


def forward(agent, state, batch) -> dict:
  """One forward pass and one imagination with the parameters as given, by the authors' names but in
  our layouts.
  """
  model, params, behavior = agent.world_model, state.params['world_model'], agent.behavior
  previous = shift_actions(batch['action'], state.carry.action)
  total, _ = model.loss(params, state.weighting, state.carry.latent, batch, previous, None)
  out = model.forward(params, state.carry.latent, batch, previous, None)
  losses = model.step_losses(out, batch)
  start = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), out.posterior)
  not_terminal = 1 - batch['is_terminal'].astype(jnp.float32).reshape(-1)
  critics = {'fast': state.params['critic'], 'slow': state.targets['critic']}
  loss, (trajectory, targets, _, metrics) = behavior.actor_loss(
    state.params['actor'], model, params, critics, start, not_terminal, Noise(), state.normalizer
  )
  returns, _, _ = behavior.evaluate(model, params, state.targets['critic'], trajectory)
  critic, _ = behavior.critic_loss(
    state.params['critic'], state.targets['critic'], trajectory, targets
  )
  action = jnp.concatenate([jnp.zeros_like(trajectory.action[:1]), trajectory.action[:-1]], 0)
  return {
    'embed': out.embed,
    'feat': out.posterior.feature(),
    'post_deter': out.posterior.deter,
    'post_stoch': out.posterior.stoch,
    'post_logit': out.posterior.stats,
    'prior_logit': out.prior_stats,
    'prior_deter': out.posterior.deter,
    'prior_stoch': jax.nn.one_hot(jnp.argmax(out.prior_stats, -1), model.rssm.classes),
    'kl_value': losses['dyn'],
    'world_model_loss': total,
    'loglik_image': -losses['observation'],
    'loglik_reward': -losses['reward'],
    'image_mean': out.decoded['image'] - 0.5,
    'reward_mean': model.reward.mean(out.reward_logits),
    'imag_feat': trajectory.feature,
    'imag_action': action,
    'imag_discount': trajectory.discount,
    'imag_weight': trajectory.weight,
    'imag_reward': model.reward.mean(model.reward_logits(params, trajectory.feature)),
    'imag_target': returns,
    'actor_loss': loss,
    'actor_entropy_mean': metrics['actor/entropy'],
    'critic_loss': critic,
  }


def compared(recorded) -> dict:
  """The recorded forward pass in our layout; logits as log-probabilities, features with the
  deterministic part first.
  """
  recorded = dict(recorded)
  deter = recorded['post_deter'].shape[-1]
  for name in ('feat', 'imag_feat'):
    recorded[name] = np.concatenate(
      [recorded[name][..., -deter:], recorded[name][..., :-deter]], -1
    )
  for name in ('post_logit', 'prior_logit'):
    recorded[name] = jax.nn.log_softmax(recorded[name])
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
