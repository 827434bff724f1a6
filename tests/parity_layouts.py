"""What the authors' recordings have in common."""

import jax
import jax.numpy as jnp
import numpy as np


def first_action(arrays):
  """The action before the first row [B, A]."""
  return jax.device_put(arrays['action'][:, 0])


def features(rows, config):
  """Rows of [stoch, deter] as [deter, stoch]."""
  deter = config.rssm.deter
  return np.concatenate([rows[-deter:], rows[:-deter]], 0)


def latents(classes) -> dict:
  """Our settings for so many classes of a group; none of Gaussians."""
  return {'rssm.classes': classes} if classes else {'rssm.latent': 'gaussian'}


def named_stats(name, agent, stats) -> dict:
  """What draws a stochastic state, by the authors' names."""
  if agent.settings.rssm.latent == 'gaussian':
    return {f'{name}_mean': stats[..., 0, :], f'{name}_std': stats[..., 1, :]}
  return {f'{name}_logit': stats}


def normalised(recorded) -> dict:
  """Recorded logits as log-probabilities, which ours are."""
  return {k: jax.nn.log_softmax(v) if k.endswith('_logit') else v for k, v in recorded.items()}


def activation(theirs, parts) -> dict:
  """Our setting for what all these parts have after their hidden layers."""
  (found,) = {theirs[f'{part}.act'] for part in parts}
  return {'network.activation': found}


def weights(meta) -> dict:
  """Our settings for the recorded weights of losses, which the authors take without harmony."""
  theirs = meta['config']
  if meta['harmony']:
    return {'weighting.rule': 'harmony'}
  image, reward = theirs['loss_scales.image'], theirs['loss_scales.reward']
  if image == reward == 1:
    return {'weighting.rule': 'none'}
  dynamics = theirs.get('loss_scales.kl') or theirs['loss_scales.dyn'] + theirs['loss_scales.rep']
  changes = {'rule': 'fixed', 'w_o': image, 'w_r': reward, 'w_d': dynamics}
  return {f'weighting.{name}': value for name, value in changes.items()}


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
    node[path[-1]] = jax.device_put(value)  # jnp.asarray compiles a program per shape
  return tree


def outputs(agent, state, batch) -> dict:
  """What the parts make of a batch with the recorded parameters, modes for draws, per step."""
  params, carry = state.params['world_model'], state.carry
  previous = jnp.concatenate([carry.action[:, None], batch['action'][:, :-1]], 1)
  embed, _ = agent.encoder(params['encoder'], None, batch, train=True)
  observe = (carry.latent, embed, previous, batch['is_first'], None)
  post, prior = agent.rssm.observe(params['rssm'], *observe)
  feature = post.feature()
  decoder = agent.objective.decoder
  decoded = decoder.decode(params['decoder'], None, feature)
  flat = lambda k, x: {k: x.reshape(-1, *x.shape[2:])}
  errors = {k: decoder.error(flat(k, x), flat(k, batch[k])) for k, x in decoded.items()}
  reward = agent.reward(params['reward'], feature)
  found = {
    'embed': embed,
    'post': post,
    'prior': prior,
    'decoded': decoded,
    'errors': {k: error.reshape(previous.shape[:2]) for k, error in errors.items()},
    'reward': reward,
    'reward_loss': agent.reward.scalar.loss(reward, batch['reward']),
    'kl': agent.rssm.latents.kl(post.stats, prior),
  }
  if 'continue' in params:
    found['continue'] = agent.continue_logit(params, feature)
  return found
