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

from configs import dreamerpro
from harmony_jax import distributions as dists
from harmony_jax import latents
from harmony_jax.agent import Agent, shift_actions
from harmony_jax.behavior import Actor, Noise
from tests.parity_layouts import features, nested

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


@dataclasses.dataclass(frozen=True, eq=False)
class Recorded(Agent):
  """An agent whose normal draws are the constant `z`, its latent draws too if Gaussian, else modes;
  `shifts` [2, 2B, 2] are those of the two steps, `rng` is the state's."""

  z: float = 0.5
  shifts: np.ndarray = None
  rng: jax.Array = None
  reward_weight: float = 1.0

  def _train_noise(self, key, batch, length):
    second = (
      jax.random.key_data(key) == jax.random.key_data(jax.random.fold_in(self.rng, 1))
    ).all()
    behavior, model = self.behavior, self.world_model
    starts = 2 * batch * (length if behavior.known_ends else length - 1)
    latent = lambda *shape: self._latent(shape)
    action = jnp.full((behavior.horizon + 1, starts, self.actions), self.z)
    entropy = jnp.full((behavior.actor.samples, behavior.horizon, starts, self.actions), self.z)
    return {
      'posterior': {
        'latent': latent(2 * batch, length),
        'shift': jnp.where(second, *self.shifts[::-1]),
      },
      'imagination': Noise(latent(behavior.horizon, starts), action, entropy),
    }

  def _latent(self, shape):
    size = self.world_model.rssm.stoch
    return jnp.full((*shape, size), self.z) if self.world_model.rssm.latent == 'gaussian' else None


def agent_of(agent, fixture):
  """Our agent with the recorded draws."""
  fields = {field.name: getattr(agent, field.name) for field in dataclasses.fields(agent)}
  shifts = np.stack([fixture.data[f'batch/shifts_step{step}'] for step in STEPS])
  return Recorded(
    **fields,
    z=fixture.meta['z'],
    shifts=shifts,
    rng=agent.init(jax.random.key(0)).rng,
    reward_weight=fixture.config.weighting.w_r,
  )


def config_of(meta):
  """Our configuration for the authors' recorded one."""
  theirs, config = meta['config'], dreamerpro.get_config()
  gaussian = meta['latent'] == 'gaussian'
  with config.unlocked():
    config.batch_size, config.batch_length = meta['B'], meta['T']
    config.encoder.depth = theirs['encoder.depth']
    config.rssm.update(
      deter=theirs['rssm.deter'],
      units=theirs['rssm.hidden'],
      stoch=theirs['rssm.stoch'],
      latent=meta['latent'],
      min_std=theirs['rssm.min_std'],
      classes=config.rssm.classes if gaussian else theirs['rssm.discrete'],
    )
    config.prototypes.update(
      count=theirs['rssm.num_prototypes'],
      size=theirs['rssm.proto'],
      temperature=theirs['rssm.temperature'],
      sinkhorn_epsilon=theirs['rssm.sinkhorn_eps'],
      sinkhorn_iterations=theirs['rssm.sinkhorn_iters'],
      warm_up=theirs['rssm.warm_up'],
      norm=theirs['loss_scales.norm'],
      freeze=theirs['freeze_prototypes_iters'],
      slow_fraction=theirs['ema_update_fraction'],
      slow_every=theirs['ema_update_every'],
      max_shift=theirs['aug.max_delta'],
    )
    for ours in ('reward_head', 'actor', 'critic'):
      config[ours].update(layers=theirs[f'{ours}.layers'], units=theirs[f'{ours}.units'])
    config.continue_head.update(
      enabled=theirs['pred_discount'],
      layers=theirs['discount_head.layers'],
      units=theirs['discount_head.units'],
      scale=theirs['loss_scales.discount'],
      gradient='discount' in theirs['grad_heads'],
    )
    config.actor.min_std = theirs['actor.min_std']
    config.critic.update(
      slow_every=theirs['slow_target_update'], slow_fraction=float(theirs['slow_target_fraction'])
    )
    balance, scale = theirs['kl.balance'], theirs['loss_scales.kl']
    config.losses.update(
      free_nats=theirs['kl.free'],
      free_average=theirs['kl.free_avg'],
      dyn=balance * scale,
      rep=(1 - balance) * scale,
    )
    config.behavior.update(
      horizon=theirs['imag_horizon'] - 1,
      discount=theirs['discount'],
      lam=theirs['discount_lambda'],
      entropy=theirs['actor_ent'],
      gradient=theirs['actor_grad'],
      mix=theirs['actor_grad_mix'],
      known_ends=not theirs['pred_discount'],
    )
    for ours in ('model_opt', 'actor_opt', 'critic_opt'):
      config[ours].update(
        {k: float(theirs[f'{ours}.{k}']) for k in ('lr', 'eps', 'clip')},
        weight_decay=theirs[f'{ours}.wd'],
      )
    config.weighting.update(
      rule='fixed',
      w_r=float(theirs['loss_scales.reward']),
      w_d=scale,
      w_o=float(theirs['loss_scales.swav']),
    )
  assert theirs['loss_scales.swav'] == theirs['loss_scales.temp']
  return config


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
  return {k: jnp.asarray(v) for k, v in batch.items()}


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


def forward(agent, state, batch) -> dict:
  """One forward pass with the parameters as given, and the imagination of the next update, which
  the world model has learned from by then; by the authors' names but in our layouts."""
  model, behavior, head = agent.world_model, agent.behavior, agent.world_model.prototypes
  params, slow = model.prepared(state.params['world_model']), state.targets['world_model']
  noise = agent._train_noise(jax.random.fold_in(agent.rng, state.step), *batch['is_first'].shape)
  inputs = (
    state.carry.latent,
    batch,
    shift_actions(batch['action'], state.carry.action),
    noise['posterior'],
  )
  losses, out = model.losses(params, *inputs, slow)
  total, _ = model.loss(params, state.weighting, *inputs, slow)
  _, seen, _ = model.views_of(*inputs)
  post, prior, feature = out.posterior, out.prior_stats, out.posterior.feature()
  slow_embed = model.encode(slow, seen)
  raw = {
    'ema': head.project(slow, 'embed', slow_embed),
    'obs': head.project(params['prototypes'], 'embed', out.embed),
    'feat': head.project(params['prototypes'], 'feature', feature),
  }
  unit = lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True)
  scores = {k: head.scores(params['prototypes'], v)[:, head.warm_up :] for k, v in raw.items()}
  starts, keep = agent._starts(post, batch)
  after = agent.train_step(state, batch)[0].params['world_model']
  critics = {'fast': state.params['critic'], 'slow': state.targets['critic']}
  actor_loss, (trajectory, targets, _, _) = behavior.actor_loss(
    state.params['actor'],
    model,
    after,
    critics,
    starts,
    keep,
    noise['imagination'],
    state.normalizer,
  )
  critic_loss, _ = behavior.critic_loss(
    state.params['critic'], state.targets['critic'], trajectory, targets
  )
  policy = behavior.actor(state.params['actor'], trajectory.feature)
  imagined = trajectory.states
  kl = model.rssm.latents.kl(post.stats, prior)
  reward_mean = model.reward.mean(out.reward_logits)
  found = {
    'aug_image': seen['image'] - 0.5,
    'ema_embed': slow_embed,
    'embed': out.embed,
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
    **{f'{k}_logits': jax.nn.log_softmax(scores[k] / head.temperature) for k in ('obs', 'feat')},
    'ema_targets': head.assignments(params['prototypes'], slow, slow_embed),
    'kl_value': kl,
    'kl_lhs': kl.mean(),
    'kl_rhs': kl.mean(),
    **_state('post', model, post),
    **_state(
      'prior',
      model,
      post._replace(
        stats=prior, stoch=model.rssm.latents.sample(prior, agent._latent(prior.shape[:2]))
      ),
    ),
    'loss/swav': losses['swav'],
    'loss/temp': losses['temporal'],
    'loss/kl': losses['dynamics'],
    'loss/norm': sum(
      jnp.square(jnp.linalg.norm(raw[k], axis=-1) - 1).mean() for k in ('obs', 'feat')
    ),
    'loss/reward': losses['reward'] + HALF_LOG_TWO_PI,
    'loss/total': total + HALF_LOG_TWO_PI * agent.reward_weight,
    'reward_mean': reward_mean,
    'reward_target': seen['reward'],
    'log_prob/reward': -model.reward.loss(out.reward_logits, seen['reward']) - HALF_LOG_TWO_PI,
    'imag/policy_entropy': behavior.actor.entropy(policy, noise['imagination'].entropy[:1, :1]),
    'imag/policy_normal_loc': policy.mean,
    'imag/policy_normal_scale': policy.std,
    'imag/feat': trajectory.feature,
    **_state('imag/state', model, imagined),
    'imag/action': trajectory.action,
    'imag/discount': trajectory.discount,
    'imag/weight': trajectory.weight,
    'imag/reward': model.reward.mean(model.reward_logits(after, trajectory.feature)),
    'imag/target': targets,
    'imag/value_slow': behavior.critic_value(critics['slow'], trajectory.feature),
    'imag/critic_mean': behavior.critic_value(critics['fast'], trajectory.feature),
    'imag/actor_loss': actor_loss,
    'imag/critic_loss': critic_loss + HALF_LOG_TWO_PI * trajectory.weight[:-1].mean(),
  }
  if model.continue_head:
    target = model.continue_target * (1 - seen['is_terminal'].astype(jnp.float32))
    likely = -dists.bernoulli_loss(out.continue_logit, target)
    found |= {
      'loss/discount': -likely.mean(),
      'log_prob/discount': likely,
      'discount_target': target,
      'discount_prob': jax.nn.sigmoid(out.continue_logit),
    }
  return found


def _state(name, model, state):
  """A state by the authors' names."""
  named = {'stoch': state.stoch, 'deter': state.deter}
  if model.rssm.latent == 'gaussian':
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
  model = fixture.agent.world_model
  model = dataclasses.replace(
    model, continue_scale=1.0, prototypes=dataclasses.replace(model.prototypes, norm=1.0)
  )
  _, *inputs = inputs  # without the state of the weighting
  losses, _ = model.losses(params, *inputs)
  return {theirs: losses[ours] for theirs, ours in LOSSES.items() if ours in losses}


@contextlib.contextmanager
def constant_draws(fixture):
  """An agent that acts with the recorded draws: `z` for normal ones, modes for one-hots."""
  constant = lambda self, key, shape: jnp.full((*shape, self.size), fixture.meta['z'])
  of_actions = lambda self, key, shape: jnp.full((*shape, self.head.outputs[0]), fixture.meta['z'])
  with (
    mock.patch.object(latents.Gaussian, 'noise', constant),
    mock.patch.object(latents.Categorical, 'noise', lambda self, key, shape: None),
    mock.patch.object(Actor, 'noise', of_actions),
  ):
    yield dataclasses.replace(fixture.agent, deterministic=False)


def policy_calls(fixture, mode: bool) -> dict:
  """The recorded calls of the policy, by the authors' names."""
  recorded, found = fixture.group('policy'), {}
  params = fixture.state().params
  with constant_draws(fixture) as agent:
    call = jax.jit(
      lambda carry, image, reset: agent.policy(
        params, carry, {'image': image}, reset, jax.random.key(0), mode
      )
    )
    carry = agent.initial_carry(params, recorded['reset'].shape[1])
    for number, (image, reset) in enumerate(
      zip(recorded['image'], recorded['reset'], strict=True), 1
    ):
      action, carry = call(carry, image, reset)
      found |= {
        f'action_step{number}': action,
        **_state(f'latent_step{number}', agent.world_model, carry.latent),
      }
  return found


def normalizer_of(arrays):
  """DreamerPro has no return normaliser."""
  del arrays
  return
