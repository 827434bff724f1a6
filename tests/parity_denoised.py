"""The authors' recordings of Denoised MDP (`denoised_*` files) in our terms: every random draw is
an input.

PyTorch stores dense weights as [out, in], convolutions as OIHW and transposed ones as IOHW, not
flipped; pictures are flattened channels first. A file's row t holds the action that led to its
picture; ours holds the one that was taken after it. The authors' losses keep the constants of
Gaussians, ours do not.
"""

import functools
import json
import math
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from harmony_jax import method, optimizers, settings
from harmony_jax.methods import denoised_mdp, denoised_mdp_dynamics
from harmony_jax.methods.denoised_mdp_networks import likeliest
from harmony_jax.methods.dreamer_parts import Carry, Draws
from harmony_jax.rssm import State
from tests import parity, small
from tests.parity_layouts import nested

CONSTANT = 0.5 * math.log(2 * math.pi)  # of a number's -log p
# {the authors' layer: ours}; the number of a layer counts activations, too.
DYNAMICS = {
  r'(.)_\w*pre_rnn\.module\.0': '{}/in',
  r'z_\w*pre_rnn\.module\.2': 'z/in_1',
  r'(.)_belief_to_state_prior\.module\.0': '{}/prior/hidden',
  r'(.)_belief_to_state_prior\.module\.2': '{}/prior/out',
  r'xy?_belief_obs_to_state_posterior\.module\.0': 'posterior/hidden',
  r'xy?_belief_obs_to_state_posterior\.module\.2': 'posterior/out',
  r'z_belief_obs_to_state_posterior\.module\.0': 'z/posterior/hidden',
  r'z_belief_obs_to_state_posterior\.module\.2': 'z/posterior/out',
}
MLPS = {
  'reward_model.x_network': 'world_model/reward/x',
  'reward_model.y_network': 'world_model/reward/y',
  'actor_model': 'actor',
  'value_model': 'critic',
  'q_model_0': 'critic/q0',
  'q_model_1': 'critic/q1',
  'q_model_0_target': 'slow/q0',
  'q_model_1_target': 'slow/q1',
}
DECODER = {'fc1': 'start', **{f'conv_head.module.{2 * i + 1}': f'up_{i}' for i in range(3)}}
DECODER['conv_head.module.7'] = 'last'


def paths() -> list:
  """The recorded runs, in any folder that parity.py looks into."""
  return sorted(parity.FOLDER.glob('*denoised_*.npz')) if parity.FOLDER.is_dir() else []


def config_of(meta, layers):
  """Our settings for a recorded configuration; layers: {network: how many hidden ones}."""
  split = meta['beta_free_nats_x']
  changes = {
    'batch_size': meta['B'],
    'batch_length': meta['T'],
    'encoder.depth': meta['encoder_filters'],
    'encoder.units': meta['embedding'],
    'decoder.depth': meta['decoder_filters'],
    'decoder.units': meta['decoder_hidden'],
    'rssm.z_sees_y': meta['z_prior_uses_y'],
    'rssm.min_std': meta['min_std'],
    'reward_head.units': meta['reward_hidden'],
    'actor.units': meta['actor_hidden'],
    'critic.units': meta['value_hidden'],
    'losses.alpha': meta['alpha'],
    'weighting.kl': 'apart',
    'losses.beta_free_x': split or 0,
    'behavior.learner': 'sac' if meta['policy'] == 'sac' else 'imagination',
    'behavior.horizon': meta['horizon'],
    'behavior.discount': meta['discount'],
    'behavior.lam': meta['lambda'],
    'behavior.exploration': meta['action_noise'],
    'sac.tau': meta.get('tau', 0.005),
    'sac.opt.lr': meta['actor_lr'],
    'sac.opt.eps': meta['adam_eps'],
  }
  for part in 'xyz':
    changes[f'rssm.{part}.deter'] = meta[f'{part}_belief']
    changes[f'rssm.{part}.stoch'] = meta[f'{part}_state']
    changes[f'losses.beta_{part}'] = meta[f'beta_{part}']
    changes[f'losses.free_{part}'] = meta[f'free_nats_{part}']
  if split == 0:
    changes['losses.free_x'] = 0
  for ours, theirs in (('model_opt', 'model'), ('actor_opt', 'actor'), ('critic_opt', 'value')):
    changes |= {f'{ours}.lr': meta[f'{theirs}_lr'], f'{ours}.clip': meta['clip']}
    changes[f'{ours}.eps'] = meta['adam_eps']
  changes |= {f'{ours}.layers': count for ours, count in layers.items()}
  return settings.replace(method.entry('denoised_mdp').settings, changes)


class Fixture:
  """One recorded run: `data` by key, `meta`, and our `agent` with its settings.

  Every KL is a task of its own, and the tasks' weights are the state of the weighting rule.
  """

  def __init__(self, path):
    with np.load(path) as data:
      self.data = dict(data)
    self.meta = json.loads(bytes(self.data.pop('meta.json')))
    self.sac = self.meta['policy'] == 'sac'
    value = 'q_model_0' if self.sac else 'value_model'
    networks = {'reward_head': 'reward_model.x_network', 'actor': 'actor_model', 'critic': value}
    self.layers = {ours: self._hidden(theirs) for ours, theirs in networks.items()}
    self.config = config_of(self.meta, self.layers)
    self.shape = self.data['batch/image'].shape[-3:]
    channels, *side = self.shape
    self.spec = small.spec({'image': (*side, channels)}, self.meta['actions'], discrete=False)
    self.agent = denoised_mdp.make(self.config, self.spec)
    if self.sac:  # rates of their own, where a file has them
      opt = settings.replace(self.config.sac.opt, {'lr': self.meta['value_lr']})
      self.agent.optimizers['critic'] = optimizers.make_optimizer(opt)
    self.agent.rule = self.agent.rule._replace(weigh=weigh)
    losses = self.config.losses
    self.weights = {'observation': 1.0, 'reward': 1.0}
    self.weights |= {f'dynamics_{part}': losses.alpha for part in self.meta['parts']}

  def _hidden(self, network):
    found = [key for key in self.data if key.startswith(f'param/{network}.net.module.')]
    return len(found) // 2 - 1

  def group(self, prefix) -> dict:
    """Everything below `prefix/`, keys without it."""
    return {k[len(prefix) + 1 :]: v for k, v in self.data.items() if k.startswith(prefix + '/')}

  def tree(self, prefix) -> dict:
    """Parameters (or gradients) below `prefix/` by subtree like ours, slow values under `slow`."""
    arrays = {name: value for name, value in self.group(prefix).items() if value.size}
    return nested(arrays, self.config, self._convert)

  def _convert(self, name, value, config):
    """(our path, the array in our layout)."""
    if name == 'log_ent_coef':
      return ('temperature', 'log'), value
    owner, _, rest = name.partition('.')
    layer, _, leaf = rest.rpartition('.')
    kernel, ours = leaf.startswith('weight'), 'kernel' if leaf.startswith('weight') else 'bias'
    if kernel and value.ndim == 2:
      value = value.T
    if owner == 'transition_model':
      if layer.endswith('_rnn'):
        share = 'input' if leaf.endswith('ih') else 'state'
        return ('world_model', 'rssm', layer[0], 'gru', share, ours), value
      for pattern, place in DYNAMICS.items():
        if found := re.fullmatch(pattern, layer):
          return ('world_model', 'rssm', *place.format(*found.groups()).split('/'), ours), value
      raise KeyError(name)
    number = int(layer.rpartition('.')[2]) if layer[-1].isdigit() and 'module' in layer else -1
    if owner == 'encoder_model':
      if value.ndim == 4:
        return ('world_model', 'encoder', 'net', f'down_{number // 2}', ours), value.transpose(
          2, 3, 1, 0
        )
      if kernel:  # C, H, W -> H, W, C
        rows = value.reshape(-1, 2, 2, value.shape[1]).transpose(1, 2, 0, 3)
        value = rows.reshape(value.shape)
      place = ('out',) if number == 9 else ('net', f'down_{number // 2}')
      return ('world_model', 'encoder', *place, ours), value
    if owner == 'observation_model':
      if value.ndim == 4:
        value = value.transpose(2, 3, 1, 0)[::-1, ::-1]
      return ('world_model', 'decoder', DECODER[layer], ours), value
    network = next(
      each for each in (*sorted(MLPS, key=len, reverse=True),) if name.startswith(each)
    )
    which = {'actor': 'actor', 'rewar': 'reward_head'}.get(network[:5], 'critic')
    place = 'out_0' if number == 2 * self.layers[which] else f'h_{number // 2}'
    return (*MLPS[network].split('/'), place, ours), value

  @functools.cached_property
  def _shapes(self):
    return jax.eval_shape(self.agent.init, jax.random.key(0))

  def state(self):
    """A state with the recorded parameters, before its first update."""
    shapes, tree = self._shapes, self.tree('param')
    slow = tree.pop('slow', {})
    tree['world_model']['harmony'] = {}
    found = {'params': tree, 'targets': {'critic': slow}}
    for name in found:  # nothing is missing, nothing is left over
      assert jax.tree.map(jnp.shape, found[name]) == jax.tree.map(jnp.shape, getattr(shapes, name))
    fresh = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes.replace(rng=None))
    return fresh.replace(**found, rng=jax.random.key(0))

  def batch(self) -> dict:
    """The recorded batch in our layout."""
    data = self.group('batch')
    flags = np.zeros(data['reward'].shape, bool)
    return {
      'image': self.pictures(data['image']),
      'action': np.roll(data['action'], -1, 1),
      'before': data['action'][:, 0],
      'reward': data['reward'],
      # Elsewhere they are no more than information: a window's first action is taken as it is.
      'is_first': data['is_first'] > 0 if self.meta['resets'] else flags,
      'is_last': flags,
      'is_terminal': flags,
    }

  def pictures(self, images):
    """[..., C, H, W] -> [..., H, W, C]."""
    return np.moveaxis(images, -3, -1)

  def noise(self, group, kind):
    """The parts' noise, one after the other."""
    return np.concatenate([group[f'{kind}_{part}'] for part in self.meta['parts']], -1)

  def draws(self, number) -> Draws:
    """The random numbers of update 1, 2 or 3."""
    group = self.group(f'noise_step{number}')
    latent = action = None
    if self.sac:
      size, length = self.meta['B'], self.meta['T']
      pair = np.stack([group['action'], group['next_action']])
      pair = pair.reshape(2, size, length - 1, -1)
      action = np.concatenate([pair, pair[:, :, :1]], 2).reshape(2, size * length, -1)
    else:
      latent = group['imag_x']
      action = np.concatenate([group['imag_action'], group['imag_action'][:1]])
    return Draws(self.noise(group, 'posterior'), None, latent, action)


def forward(fixture, state, batch, draws, prior_noise) -> dict:
  """One forward pass with the parameters as given, by the authors' names; and the terms alone."""
  agent, params = fixture.agent, state.params['world_model']
  carry = agent.carry_before(state.params, batch)
  previous = jnp.concatenate([carry.action[:, None], batch['action'][:, :-1]], 1)
  embed, _ = agent.encoder(params['encoder'], None, batch)
  observe = carry.latent, embed, previous, batch['is_first'], draws.posterior
  post, prior = agent.rssm.observe(params['rssm'], *observe)
  feature, noise = post.feature(), agent.rssm.latents.split(prior_noise)
  rows = {'embed': embed, 'feature': feature}
  for part, each in post.parts.items():
    sample = agent.rssm.latents.of[part].sample(prior[part], noise[part])
    values = each.deter, *unpacked(prior[part]), sample, *unpacked(each.stats), each.stoch
    names = 'belief', 'prior_mean', 'prior_std', 'prior_sample', 'post_mean', 'post_std'
    rows |= {f'{part}/{k}': v for k, v in zip((*names, 'post_sample'), values)}
  rows |= {f'kl/{k}': v for k, v in agent.rssm.latents.each_kl(post.stats, prior).items()}
  decoder = agent.objective.decoder
  decoded = decoder.decode(params['decoder'], None, feature)
  flat = lambda x: x.reshape(-1, *x.shape[2:])
  error = decoder.error({'image': flat(decoded['image'])}, {'image': flat(batch['image'])})
  rewards = agent.reward.each(params['reward'], feature)
  mean = agent.reward.mean(params['reward'], feature)
  rows |= {f'reward_{part}': each for part, each in rewards.items()} | {'reward_mean': mean}
  rows |= {'image_mean': jnp.moveaxis(decoded['image'] - 0.5, -1, -3)}
  rows |= {'log_prob/image': -error.reshape(mean.shape)}
  return rows | {'log_prob/reward': -0.5 * jnp.square(mean - batch['reward']) - CONSTANT}


def unpacked(stats):
  """Means and deviations."""
  return stats[..., 0, :], stats[..., 1, :]


def losses(fixture, found) -> dict:
  """The authors' losses of update 1, by their names, without constants."""
  rows, metrics = found.rows['forward'], found.metrics
  mse = {'observation_mse': 2 * metrics['loss/observation'] / math.prod(fixture.shape)}
  mse['reward_mse'] = 2 * metrics['loss/reward']
  names = {'observation': 'observation', 'reward': 'reward', 'total': 'world_model'}
  found = {theirs: metrics[f'loss/{ours}'] for theirs, ours in names.items()}
  for part in fixture.meta['parts']:
    free = fixture.meta[f'free_nats_{part}']
    found[f'kl_{part}'] = np.maximum(rows[f'kl/{part}'], free).mean()
  return found | mse | {'kl_x_no_free_nats': metrics['loss/kl_x']}


def terms(fixture) -> dict:
  """{our task: [(factor, the authors' term)]}."""
  c, split = fixture.config.losses, fixture.meta['beta_free_nats_x']
  kept = c.beta_x if split is None else min(split, c.beta_x)
  found = {name: [(1, name)] for name in ('observation', 'reward')}
  halves = (kept, 'kl_x'), (c.beta_x - kept, 'kl_x_no_free_nats')
  found['dynamics_x'] = [half for half in halves if half[0]]
  for part in fixture.meta['parts'][1:]:
    found[f'dynamics_{part}'] = [(getattr(c, f'beta_{part}'), f'kl_{part}')]
  return found


def compared(recorded, agent) -> dict:
  """Recorded losses without the constants, which are far larger than what is compared, and without
  those of parts that are not there.
  """
  numbers = math.prod(agent.shapes['image'])
  missing = [part for part in 'yz' if f'kl/{part}' not in recorded]
  gone = [f'{name}{part}' for part in missing for name in ('loss/kl_', 'reward_')]
  gone += [f'{part}/' for part in missing]
  found = {k: v for k, v in recorded.items() if not k.startswith(tuple(gone))}
  change = {'log_prob/image': numbers, 'loss/observation': -numbers, 'loss/reward': -1}
  change['loss/total'] = -numbers - 1
  return {k: v + CONSTANT * change.get(k, 0) for k, v in found.items()}


@functools.cache
def imagining(fixture):
  """Compiled: an imagination from posterior states, by the authors' names."""
  return small.jit(functools.partial(_imagined, fixture))


def _imagined(fixture, params, state, post, batch, draws):
  agent, horizon = fixture.agent, fixture.config.behavior.horizon
  start, alive = agent.starts(post, batch)
  inputs = params, state, start, alive, draws
  loss, (path, returns, _, _) = agent.actor_loss(state.params['actor'], *inputs)
  value_loss, _ = agent.critic_loss(state.params['critic'], None, path, returns)
  _, value, reward = agent.returns(params['world_model'], state.params['critic'], path)
  policy = agent.actor.policy(state.params['actor'], path.feature[:-1])
  x: State = jax.tree.map(lambda each: each[1:], path.states.x)
  weight = path.weight[: horizon - 1, 0]
  names = 'x_belief', 'x_sample', 'x_prior_mean', 'x_prior_std'
  return {
    **dict(zip(names, (x.deter, x.stoch, *unpacked(x.stats)))),
    'action_mean': policy.mean,
    'action_std': policy.std,
    'action': path.action[:-1],
    'reward': reward,
    'value': value,
    'returns': returns,
    'discount_weight': weight,
    'actor_loss': loss,
    'value_loss': value_loss + CONSTANT * weight.mean(),
  }


class Update(NamedTuple):
  """What one update made: `rows` by group of the file, `gradients` as `Fixture.tree` has them."""

  state: denoised_mdp.TrainState
  metrics: dict
  gradients: dict
  rows: dict
  post: denoised_mdp_dynamics.Latent


@functools.cache
def program(fixture):
  """One compiled update for all comparisons, its random numbers given."""
  agent = fixture.agent

  def run(state, batch, draws, prior_noise):
    agent.draws = lambda *_: draws
    rows = {'forward': forward(fixture, state, batch, draws, prior_noise)}
    after, metrics, gradients, (post, _) = agent.update(state, batch)
    metrics |= {
      f'grad_norm/{k}': jnp.linalg.norm(ravel_pytree(each)[0]) for k, each in gradients.items()
    }
    if fixture.sac:
      step = agent.transitions(state.params['world_model'], post, batch, draws)
      names = 'observation', 'action', 'reward', 'next_observation'
      rows['sac_step1'] = dict(zip(names, step))
    gradients['world_model'] = without_harmony(gradients['world_model'])
    return Update(after, metrics, gradients, rows, post)

  return small.jit(run)


def weigh(losses, params, state):
  """Σ wᵢ Lᵢ with the rule's state for weights."""
  return sum(state[name] * loss for name, loss in losses.items()), state, {}


def without_harmony(model):
  """The parameters that the authors have."""
  return {k: v for k, v in model.items() if k != 'harmony'}


def update(fixture, number=1, state=None, only='') -> Update:
  """Update 1, 2 or 3 from a state on the recorded batch, of one task if it is named."""
  state = fixture.state() if state is None else state
  weights = {k: np.float32(each) for k, each in fixture.weights.items()}
  if only:
    weights = {name: np.float32(name == only) for name in weights}
  prior = fixture.noise(fixture.group(f'noise_step{number}'), 'prior')
  state = state.replace(weighting=weights)
  return program(fixture)(state, fixture.batch(), fixture.draws(number), prior)


def imaginations(fixture) -> dict:
  """Of update 1, by group of the file: with the world model as given, and after its update."""
  found, state = three_updates(fixture)[0], fixture.state()
  updated = {**state.params, 'world_model': found.state.params['world_model']}
  inputs = state, found.post, fixture.batch(), fixture.draws(1)
  each = {'forward/imag': state.params, 'imag_step1': updated}
  return {name: imagining(fixture)(params, *inputs) for name, params in each.items()}


@functools.cache
def three_updates(fixture) -> list:
  """The recorded updates on the recorded batch."""
  history = [update(fixture)]
  for number in (2, 3):
    history.append(update(fixture, number, history[-1].state))
  return history


def parameters(state) -> dict:
  """Everything that an update changes, as `Fixture.tree` names it."""
  slow = {'slow': state.targets['critic']} if state.targets['critic'] else {}
  params = {**state.params, 'world_model': without_harmony(state.params['world_model'])}
  return params | slow


METRICS = {
  'model/observation_loss': 'loss/observation',
  'model/reward_loss': 'loss/reward',
  'model/kl_x_no_free_nats_loss': 'loss/kl_x',
  'model/total_loss': 'loss/world_model',
  'grad_norm/model': 'grad_norm/world_model',
  'grad_norm/actor': 'grad_norm/actor',
  'grad_norm/value': 'grad_norm/critic',
  'actor_loss': 'loss/actor',
  'value_loss': 'loss/critic',
  'q0_loss': 'loss/q0',
  'q1_loss': 'loss/q1',
  'ent_coef_loss': 'loss/temperature',
}


def metrics_of(fixture, number) -> dict:
  """The authors' metrics of an update, by our names, without the constants."""
  recorded, discount = fixture.group(f'metrics_step{number}'), fixture.config.behavior.discount
  numbers = math.prod(fixture.shape)
  weights = discount ** np.arange(fixture.config.behavior.horizon - 1)
  less = {
    'model/observation_loss': numbers,
    'model/reward_loss': 1,
    'model/total_loss': numbers + 1,
  }
  less['value_loss'] = weights.mean()
  found = {k: v for k, v in recorded.items() if k in METRICS}
  named = {METRICS[k]: v - CONSTANT * less.get(k, 0) for k, v in found.items()}
  total = lambda parts: sum(factor * recorded[f'model/{term}_loss'] for factor, term in parts)
  return named | {f'loss/{k}': total(v) for k, v in terms(fixture).items() if 'dynamics' in k}


def calls(fixture) -> tuple[dict, dict]:
  """({name: ours}, {name: recorded}) of the acting calls; the action of training is carried on."""
  agent, recorded = fixture.agent, fixture.group('policy')
  variables = fixture.state().params
  count = len(recorded['image'])
  carry = agent.initial_carry(variables, recorded['is_first'].shape[1])

  @small.jit
  def call(variables, carry, image, is_first, latent, explore, eval_noise):
    inputs = variables, carry, {'image': image}, is_first > 0, latent
    action, after = agent.choose(*inputs, explore, False)
    best, _ = agent.choose(*inputs, eval_noise, True)
    policy = agent.actor.policy(variables['actor'], after.latent.feature())
    return action, after, best, likeliest(policy, eval_noise)[1]

  ours = {}
  for number in range(1, count + 1):
    noise = fixture.group(f'policy/noise_step{number}')
    explore = np.stack([noise['explore'], noise['exploration']], 1)
    image = fixture.pictures(recorded['image'][number - 1])
    latent = fixture.noise(noise, 'posterior')
    given = image, recorded['is_first'][number - 1], latent, explore, noise['eval'].swapaxes(0, 1)
    action, carry, best, likely = call(variables, carry, *given)
    assert isinstance(carry, Carry)
    for part, each in carry.latent.parts.items():
      ours[f'latent_step{number}/{part}_belief'] = each.deter
      ours[f'latent_step{number}/{part}_sample'] = each.stoch
    ours[f'action_explore_step{number}'] = action
    ours[f'action_eval_step{number}'] = best
    ours[f'log_prob_eval_step{number}'] = likely.T
  return ours, {name: recorded[name] for name in ours}
