"""The authors' names and layouts of DreamerPro (`pro_*` files) in terms of ours.

TensorFlow's layouts are ours. The authors put the stochastic state before the deterministic one in
a feature, and the GRU's input before its state; scores and assignments are [K, 2B, T - 1]. Every
normal draw is one constant, and both steps' shifts are given: `Recorded` is our agent with these
draws.
"""

import contextlib
import dataclasses
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from harmony_jax import distributions as dists
from harmony_jax import harmony, method, rssm, settings
from harmony_jax.methods import dreamer
from harmony_jax.methods.dreamer_parts import Draws
from tests import small
from tests.parity_layouts import activation, features, first_action, nested
from tests.parity_v2 import optimizers

METHOD = 'dreamerpro'
__all__ = ['first_action']
RSSM = {
  'cell/dense': ('gru',),
  'cell/norm': ('gru', 'norm'),
  'img_in': ('img_in',),
  'img_out': ('img_out',),
  'img_dist': ('img_stats',),
  'obs_out': ('obs_out',),
  'obs_dist': ('obs_stats',),
}
HEADS = {
  'wm/heads/reward/': ('world_model', 'reward'),
  'wm/heads/discount/': ('world_model', 'continue'),
  'actor/': ('actor',),
  'critic/': ('critic',),
  'target_critic/': ('slow',),
}
# Their other metrics have other means or constants in them; `forward` compares what they are made
# of.
METRICS = {
  'actor_loss': 'loss/actor',
  'model_grad_norm': 'grad_norm/world_model',
  'actor_grad_norm': 'grad_norm/actor',
  'critic_grad_norm': 'grad_norm/critic',
  'swav_loss': 'loss/swav',
  'temp_loss': 'loss/temporal',
  'kl_loss': 'loss/dynamics',
  'discount_loss': 'loss/continue',
  'critic_target': 'return/imagined',
  'reward_loss': 'loss/reward',
  'model_loss': 'loss/world_model',
  'norm_loss': 'loss/norm',
}
LOSSES = {
  'swav': 'swav',
  'temp': 'temporal',
  'norm': 'norm',
  'kl': 'dynamics',
  'reward': 'reward',
  'discount': 'continue',
}
STEPS = (1, 2)
# of a unit Gaussian's density, which our losses leave out
HALF_LOG_TWO_PI = 0.5 * np.log(2 * np.pi)


# With actor_grad `both`: a share `mix` of the return itself, the rest by REINFORCE.
def mixed(mix: float) -> dreamer.ActorLoss:
  """Return mix Rₜ + (1 - mix) log π(aₜ) sg(Rₜ - Vₜ): the authors' `actor_grad: both`.

  They let a continuous action have a gradient in log π, too; with none of the return it is their
  `reinforce`.
  """
  return dreamer.ActorLoss(
    lambda policy, action, returns, advantage: (
      mix * returns + (1 - mix) * policy.log_prob(action) * jax.lax.stop_gradient(advantage)
    ),
    True,
  )


def prepare(agent, fixture):
  """Give an agent the recorded draws and actor's objective.

  Normal draws are the constant `z`, latent ones too if Gaussian, else modes; the shifts are those
  of the two steps.
  """
  z, theirs = fixture.meta['z'], fixture.meta['config']
  # Ours have one weight for both losses of the prototypes; weights of the others are in them.
  weighed = {LOSSES[k]: float(theirs[f'loss_scales.{k}']) for k in ('swav', 'temp', 'kl', 'reward')}
  agent.rule = harmony.make('fixed', weights=weighed)
  shifts = [fixture.data[f'batch/shifts_step{step}'] for step in STEPS]
  rng = small.jit(lambda key: agent.init(key).rng)(jax.random.key(0))
  second = jax.random.key_data(jax.random.fold_in(rng, 1))
  gradient = theirs['actor_grad'] if theirs['actor_grad'] != 'auto' else ''
  objectives = {'reinforce': mixed(0.0), 'both': mixed(float(theirs['actor_grad_mix']))}
  if gradient in objectives:
    agent.actor_objective = lambda: objectives[gradient]

  def draws(key, batch, length):
    starts = 2 * batch * (length - agent.unstarted)
    horizon, actions = agent.settings.behavior.horizon, agent.spec.num_actions
    return Draws(
      posterior=latent(agent, z, 2 * batch, length),
      view=jnp.where((jax.random.key_data(key) == second).all(), shifts[1], shifts[0]),
      latent=latent(agent, z, horizon, starts),
      action=jnp.full((horizon + 1, starts, actions), z),
      entropy=jnp.full((agent.actor.samples, horizon, starts, actions), z),
    )

  agent.draws, agent.recorded_z = draws, z


def latent(agent, z, *shape):
  """The constant draws of Gaussian states; None for others."""
  c = agent.settings.rssm
  return jnp.full((*shape, c.stoch), z) if c.latent == 'gaussian' else None


def config_of(meta):
  """Our settings for the authors' recorded configuration."""
  theirs, gaussian = meta['config'], meta['latent'] == 'gaussian'
  balance, scale = theirs['kl.balance'], theirs['loss_scales.kl']
  changes = {
    'batch_size': meta['B'],
    'batch_length': meta['T'],
    'encoder.depth': theirs['encoder.depth'],
    'rssm.deter': theirs['rssm.deter'],
    'rssm.units': theirs['rssm.hidden'],
    'rssm.stoch': theirs['rssm.stoch'],
    'rssm.latent': meta['latent'],
    'rssm.min_std': theirs['rssm.min_std'],
    **({} if gaussian else {'rssm.classes': theirs['rssm.discrete']}),
    'prototypes.count': theirs['rssm.num_prototypes'],
    'prototypes.size': theirs['rssm.proto'],
    'prototypes.temperature': theirs['rssm.temperature'],
    'prototypes.sinkhorn_epsilon': theirs['rssm.sinkhorn_eps'],
    'prototypes.sinkhorn_iterations': theirs['rssm.sinkhorn_iters'],
    'prototypes.warm_up': theirs['rssm.warm_up'],
    'prototypes.norm': theirs['loss_scales.norm'],
    'prototypes.freeze': theirs['freeze_prototypes_iters'],
    'prototypes.slow_fraction': theirs['ema_update_fraction'],
    'prototypes.slow_every': theirs['ema_update_every'],
    'prototypes.max_shift': theirs['aug.max_delta'],
    **{
      f'{head}.{k}': theirs[f'{head}.{k}']
      for head in ('reward_head', 'actor', 'critic')
      for k in ('layers', 'units')
    },
    'continue_head.enabled': theirs['pred_discount'],
    'continue_head.layers': theirs['discount_head.layers'],
    'continue_head.units': theirs['discount_head.units'],
    'continue_head.scale': theirs['loss_scales.discount'],
    'continue_head.gradient': 'discount' in theirs['grad_heads'],
    'actor.min_std': theirs['actor.min_std'],
    'critic.slow_every': theirs['slow_target_update'],
    'critic.slow_fraction': float(theirs['slow_target_fraction']),
    'losses.free_nats': theirs['kl.free'],
    'losses.free_average': theirs['kl.free_avg'],
    'losses.dyn': balance * scale,
    'losses.rep': (1 - balance) * scale,
    'behavior.horizon': theirs['imag_horizon'] - 1,
    'behavior.discount': theirs['discount'],
    'behavior.lam': theirs['discount_lambda'],
    'behavior.entropy': theirs['actor_ent'],
    'weighting.rule': 'fixed',
    'weighting.w_r': float(theirs['loss_scales.reward']),
    **activation(theirs, ('rssm', 'encoder', 'reward_head', 'actor', 'critic')),
  }
  return settings.replace(method.entry(METHOD).settings, changes | optimizers(theirs))


def batch_of(arrays) -> dict:
  """The recorded batch in our layout: actions in the row before the one that they led to.

  The authors start every sequence from a state of zeros and with the action before its first row,
  which `is_first` would take away; so it is False here, and both come from the carry. Our replay
  gives that action as `before`.
  """
  nowhere = np.zeros(arrays['reward'].shape, bool)
  batch = {
    'image': arrays['image'],
    'reward': arrays['reward'],
    'is_first': nowhere,
    'is_last': nowhere,
    'is_terminal': arrays['discount'] == 0,
    'action': np.roll(arrays['action'], -1, 1),
  }
  return jax.device_put(batch)


def shape_of(arrays):
  """Shape of an image [H, W, C]."""
  return arrays['image'].shape[2:]


def to_tree(arrays, config) -> dict:
  """{authors' name: array} as a nested dict of ours; the slow copies are under `slow` and
  `targets`.
  """
  return nested(arrays, config, _convert)


def _convert(name, value, config):
  """(our path, the array in our layout)."""
  if name == 'wm/rssm/prototypes':
    return ('world_model', 'prototypes', 'vectors'), value
  layer, _, leaf = name.rpartition('/')
  leaf = {'gamma': 'scale', 'beta': 'bias'}.get(leaf, leaf)
  kernel = leaf == 'kernel'
  for prefix, path in (
    ('wm/encoder/h', ('world_model', 'encoder')),
    ('wm/ema_encoder/h', ('targets', 'encoder')),
  ):
    if layer.startswith(prefix):
      return (*path, f'down_{layer[-1]}', leaf), value
  if layer == 'wm/ema_obs_proj':
    return ('targets', 'embed', leaf), value
  if layer in ('wm/rssm/obs_proj', 'wm/rssm/feat_proj'):
    place = {'obs_proj': 'embed', 'feat_proj': 'feature'}[layer.rpartition('/')[2]]
    return ('world_model', 'prototypes', place, leaf), (
      features(value, config) if kernel and place == 'feature' else value
    )
  if layer.startswith('wm/rssm/'):
    layer = layer.removeprefix('wm/rssm/')
    if kernel and layer == 'cell/dense':
      units = config.rssm.units
      value = np.concatenate([value[units:], value[:units]], 0)  # [input, state] -> [state, input]
    return ('world_model', 'rssm', *RSSM[layer], leaf), value
  for prefix, path in HEADS.items():
    if layer.startswith(prefix):
      layer = layer.removeprefix(prefix)
      place = {'out/out': 'out_0', 'out/std': 'out_1'}.get(layer, f'h_{layer.removeprefix("h")}')
      return (*path, place, leaf), features(value, config) if kernel and layer == 'h0' else value
  raise KeyError(name)


def forward(agent, state, batch, after, metrics) -> dict:
  """One forward pass with the parameters as given, one imagination and critic's loss after the
  world model's update, by the authors' names.
  """
  head = agent.objective
  params, slow = head.project(state.params['world_model']), state.targets['world_model']
  draws = agent.draws(jax.random.fold_in(state.rng, state.step), *batch['is_first'].shape)
  previous = jnp.concatenate([state.carry.action[:, None], batch['action'][:, :-1]], 1)
  twice = lambda tree: jax.tree.map(lambda x: jnp.concatenate([x, x]), tree)
  seen = head.view(twice(batch), draws.view)
  embed, _ = agent.encoder(params['encoder'], None, seen)
  observe = (twice(state.carry.latent), embed, twice(previous), seen['is_first'], draws.posterior)
  post, prior = agent.rssm.observe(params['rssm'], *observe)
  feature = post.feature()
  slow_embed, _ = agent.encoder(slow['encoder'], None, seen)
  reward = agent.reward(params['reward'], feature)
  raw = {
    'ema': head.projection(slow['embed'], slow_embed),
    'obs': head.projection(params['prototypes']['embed'], embed),
    'feat': head.projection(params['prototypes']['feature'], feature),
  }
  unit = lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True)
  scores = {k: head.scores(params, v)[:, head.config.warm_up :] for k, v in raw.items()}
  starts, keep = agent.starts(post, batch)
  after = {**state.params, 'world_model': after.params['world_model']}
  actor, critic, slow_critic = after['actor'], after['critic'], state.targets['critic']
  actor_loss, (trajectory, targets, _, _) = agent.actor_loss(
    actor, after, state, starts, keep, draws
  )
  critic_loss, _ = agent.critic_loss(critic, slow_critic, trajectory, targets)
  policy = agent.actor.policy(actor, trajectory.feature)
  imagined, latents = trajectory.states, agent.rssm.latents
  kl = latents.kl(post.stats, prior)
  reward_mean = agent.reward.scalar.mean(reward)
  found = {
    'aug_image': seen['image'] - 0.5,
    'ema_embed': slow_embed,
    'embed': embed,
    'feat': feature,
    'prototypes_normalized': params['prototypes']['vectors'],
    'ema_proj_raw': raw['ema'],
    'obs_proj_raw': raw['obs'],
    'feat_proj_raw': raw['feat'],
    'ema_proj': unit(raw['ema']),
    'obs_proj': unit(raw['obs']),
    'feat_proj': unit(raw['feat']),
    'obs_norm': jnp.linalg.norm(raw['obs'], axis=-1),
    'feat_norm': jnp.linalg.norm(raw['feat'], axis=-1),
    **{f'{k}_scores': v for k, v in scores.items()},
    **{
      f'{k}_logits': jax.nn.log_softmax(scores[k] / head.config.temperature)
      for k in ('obs', 'feat')
    },
    'ema_targets': head.assignments(params, slow, slow_embed),
    'kl_value': kl,
    'kl_lhs': kl.mean(),
    'kl_rhs': kl.mean(),
    **_state('post', agent, post),
    **_state(
      'prior',
      agent,
      post._replace(
        stats=prior, stoch=latents.sample(prior, latent(agent, agent.recorded_z, *prior.shape[:2]))
      ),
    ),
    'loss/swav': metrics['loss/swav'],
    'loss/temp': metrics['loss/temporal'],
    'loss/kl': metrics['loss/dynamics'],
    'loss/norm': sum(
      jnp.square(jnp.linalg.norm(raw[k], axis=-1) - 1).mean() for k in ('obs', 'feat')
    ),
    'loss/reward': metrics['loss/reward'] + HALF_LOG_TWO_PI,
    'loss/total': metrics['loss/world_model'] + HALF_LOG_TWO_PI * agent.settings.weighting.w_r,
    'reward_mean': reward_mean,
    'reward_target': seen['reward'],
    'log_prob/reward': -agent.reward.scalar.loss(reward, seen['reward']) - HALF_LOG_TWO_PI,
    'imag/policy_entropy': policy.entropy(
      jnp.broadcast_to(draws.entropy[:1, :1], (1, *policy.mean.shape))
    ),
    'imag/policy_normal_loc': policy.mean,
    'imag/policy_normal_scale': policy.std,
    'imag/feat': trajectory.feature,
    **_state('imag/state', agent, imagined),
    'imag/action': trajectory.action,
    'imag/discount': trajectory.discount,
    'imag/weight': trajectory.weight,
    'imag/reward': agent.reward.mean(after['world_model']['reward'], trajectory.feature),
    'imag/target': targets,
    'imag/value_slow': agent.critic.mean(slow_critic, trajectory.feature),
    'imag/critic_mean': agent.critic.mean(critic, trajectory.feature),
    'imag/actor_loss': actor_loss,
    'imag/critic_loss': critic_loss + HALF_LOG_TWO_PI * trajectory.weight[:-1].mean(),
  }
  if 'continue' in params:
    logit = agent.continue_logit(params, feature)
    target = agent.continues * (1 - seen['is_terminal'].astype(jnp.float32))
    likely = -dists.bernoulli_loss(logit, target)
    found |= {
      'loss/discount': -likely.mean(),
      'log_prob/discount': likely,
      'discount_target': target,
      'discount_prob': jax.nn.sigmoid(logit),
    }
  return found


def _state(name, agent, state):
  """A state by the authors' names."""
  named = {'stoch': state.stoch, 'deter': state.deter}
  if agent.settings.rssm.latent == 'gaussian':
    named |= {'mean': state.stats[..., 0, :], 'std': state.stats[..., 1, :]}
  else:
    named['logit'] = state.stats
  return {f'{name}/{k}': v for k, v in named.items()}


def compared(recorded) -> dict:
  """The recorded forward pass in our layout: samples before prototypes, features with the
  deterministic part first.
  """
  recorded = dict(recorded)
  for name in {'feat', 'imag/feat'} & set(recorded):
    deter = recorded['post/deter'].shape[-1]
    recorded[name] = np.concatenate(
      [recorded[name][..., -deter:], recorded[name][..., :-deter]], -1
    )
  for name, value in recorded.items():
    if name.endswith(('scores', 'logits', 'targets')) and value.ndim == 3:
      recorded[name] = np.moveaxis(value, 0, -1)
    if name.endswith('/logit'):
      recorded[name] = np.asarray(jax.nn.log_softmax(value))
  return recorded


def metrics_of(recorded, config) -> dict:
  """The recorded metrics as ours, which have these scales and constants in them, or have not."""
  scales, recorded = {'discount_loss': config.continue_head.scale}, dict(recorded)
  for name, scale in scales.items():
    if name in recorded:
      recorded[name] = recorded[name] * scale
  recorded['reward_loss'] = recorded['reward_loss'] - HALF_LOG_TWO_PI
  recorded['model_loss'] = recorded['model_loss'] - HALF_LOG_TWO_PI * config.weighting.w_r
  recorded['norm_loss'] = recorded['norm_loss'] * config.prototypes.norm
  return recorded


def raw_losses(fixture, params, inputs) -> dict:
  """Every loss of the first update by the authors' names, unscaled; that of the norms even where it
  is off.
  """
  changes = {'continue_head.scale': 1.0, 'prototypes.norm': 1.0}
  chosen = settings.replace(fixture.config, changes)
  agent = method.entry(METHOD).make(chosen, fixture.agent.spec, deterministic=True)
  losses, _, _ = agent.losses(params, *inputs)
  return {theirs: losses[ours] for theirs, ours in LOSSES.items() if ours in losses}


@contextlib.contextmanager
def constant_draws(fixture):
  """An agent that acts with the recorded draws: `z` for normal ones, modes for one-hots."""
  constant = lambda self, key, shape: jnp.full((*shape, self.size), fixture.meta['z'])
  with (
    mock.patch.object(rssm.Gaussian, 'noise', constant),
    mock.patch.object(rssm.Categorical, 'noise', lambda self, key, shape: None),
  ):
    agent = method.entry(METHOD).make(fixture.config, fixture.agent.spec)
    actions = agent.spec.num_actions
    of_actions = lambda key, shape: jnp.full((*shape, actions), fixture.meta['z'])
    agent.actor = dataclasses.replace(agent.actor, noise=of_actions)
    yield agent


def policy_calls(fixture, mode: bool) -> dict:
  """The recorded calls of the policy, by the authors' names."""
  recorded, found = fixture.group('policy'), {}
  params = fixture.state().params
  with constant_draws(fixture) as agent:
    act = lambda carry, image, reset: agent.act(
      params, carry, {'image': image}, reset, jax.random.key(0), mode
    )
    call = jax.jit(act)
    carry = agent.initial_carry(params, recorded['reset'].shape[1])
    for number, (image, reset) in enumerate(
      zip(recorded['image'], recorded['reset'], strict=True), 1
    ):
      action, carry = call(carry, image, reset)
      found |= {
        f'action_step{number}': action,
        **_state(f'latent_step{number}', agent, carry.latent),
      }
  return found


def normalizer_of(arrays):
  """DreamerPro has no return normaliser."""
  del arrays
  return
