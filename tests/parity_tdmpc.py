"""The authors' recordings of TD-MPC (`tdmpc_*` files) in our terms: every random draw is an input.

PyTorch stores dense weights as [out, in] and convolutions as OIHW; pictures are flattened channels
first. A file's row t holds what follows observation t, was done there and was got for it; ours
holds what led to an observation.
"""

import functools
import json
import math
import pathlib
import re
import types
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from harmony_jax import method, settings
from harmony_jax.methods import tdmpc, tdmpc_planning
from harmony_jax.methods.tdmpc_replay import PriorityReplay
from harmony_jax.replay import Draw
from tests import parity, small
from tests.parity_layouts import nested

NETWORKS = {
  '_encoder': 'encoder',
  '_dynamics': 'dynamics',
  '_reward': 'reward',
  '_pi': 'policy',
  '_Q1': 'q1',
  '_Q2': 'q2',
}
ENCODERS = {
  False: {'0': 'dense', '2': 'out'},
  True: {'1': 'conv_0', '3': 'conv_1', '5': 'conv_2', '7': 'conv_3', '10': 'out'},
}
LAYERS = {'0': 'dense_0', '2': 'dense_1', '4': 'out'}
VALUES = {'0': 'dense_0', '1': 'norm', '3': 'dense_1', '5': 'out'}


def paths() -> list:
  """The recorded runs, in any folder that parity.py looks into."""
  return sorted(parity.FOLDER.glob('*tdmpc_*.npz')) if parity.FOLDER.is_dir() else []


def linear(text) -> tuple:
  """(start, end, steps) of 'linear(0.5, 0.05, 25000)', or of a number that stays what it is."""
  found = re.fullmatch(r'linear\((.+), *(.+), *(.+)\)', str(text))
  if not found:
    return float(text), float(text), 1
  start, end, steps = map(float, found.groups())
  return start, end, int(steps)


def config_of(meta, frames):
  """Our settings for a recorded configuration."""
  theirs = meta['config']
  changes = {
    'batch_size': theirs['batch_size'],
    'batch_length': theirs['horizon'] + 1,
    'latent': theirs['latent_dim'],
    'units': theirs['mlp_dim'],
    'vector_units': theirs.get('enc_dim', 256),
    'channels': theirs.get('num_channels', 32),
    'discount': theirs['discount'],
    'rho': theirs['rho'],
    'policy_std': theirs['min_std'],
    'slow_fraction': theirs['tau'],
    'slow_every': theirs['update_freq'],
    'weighting.consistency': theirs['consistency_coef'],
    'weighting.reward': theirs['reward_coef'],
    'weighting.value': theirs['value_coef'],
    'replay.priority': theirs['per_alpha'],
    'replay.correction': theirs['per_beta'],
    'replay.frames': frames,
    'planning.samples': theirs['num_samples'],
    'planning.elites': theirs['num_elites'],
    'planning.iterations': theirs['iterations'],
    'planning.policy_share': theirs['mixture_coef'],
    'planning.temperature': theirs['temperature'],
    'planning.momentum': theirs['momentum'],
    'prefill': theirs['seed_steps'],
  }
  for name in ('std', 'horizon'):
    parts = zip(('start', 'end', 'steps'), linear(theirs[f'{name}_schedule']))
    changes |= {f'planning.{name}.{part}': value for part, value in parts}
  for name in ('model_opt', 'policy_opt'):
    changes |= {f'{name}.lr': theirs['lr'], f'{name}.clip': theirs['grad_clip_norm']}
  return settings.replace(method.entry('tdmpc').settings, changes)


class Fixture:
  """One recorded run: `data` by key, `meta`, and our `agent` with its settings.

  Args:
    make: what makes the agent, for deliberate mistakes.
  """

  def __init__(self, path, make=tdmpc.TDMPC):
    with np.load(path) as data:
      self.data = dict(data)
    self.meta = json.loads(bytes(self.data.pop('meta.json')))
    shape = self.data['batch/obs'].shape[1:]
    self.pixels = len(shape) == 3
    self.frames = shape[0] // 3 if self.pixels else 1
    flat = self.data['param/model._encoder.10.weight'].shape[1] if self.pixels else 0
    self.places = flat // self.meta['config'].get('num_channels', 32)  # of the smallest picture
    self.shape = (*shape[1:], 3) if self.pixels else shape
    config = config_of(self.meta, self.frames)
    self.name = 'image' if self.pixels else 'state'
    actions = self.data['batch/action'].shape[-1]
    self.spec = small.spec({self.name: self.shape}, actions, discrete=False)
    self.config, self.agent = config, make(config, self.spec)
    self.agent.rule = self.agent.rule._replace(weigh=weigh)
    self.older = tdmpc.TDMPC(settings.replace(config, {'importance': 'batch'}), self.spec)

  def group(self, prefix) -> dict:
    """Everything below `prefix/`, keys without it."""
    return {k[len(prefix) + 1 :]: v for k, v in self.data.items() if k.startswith(prefix + '/')}

  def tree(self, prefix) -> dict:
    """Parameters (or gradients) below `prefix/` as {'params', 'targets'} like ours."""
    return nested(self.group(prefix), self.config, self._convert)

  def _convert(self, name, value, config):
    """(our path, the array in our layout)."""
    owner, network, layer, leaf = name.split('.')
    known = LAYERS if network not in ('_encoder', '_Q1', '_Q2') else VALUES
    known = ENCODERS[self.pixels] if network == '_encoder' else known
    layer = known[layer]
    if layer == 'norm':
      leaf = {'weight': 'scale'}.get(leaf, leaf)
    elif leaf == 'weight':
      leaf = 'kernel'
      if value.ndim == 4:
        value = value.transpose(2, 3, 1, 0)
      elif network == '_encoder' and layer == 'out' and self.pixels:
        side = math.isqrt(self.places)
        rows = value.T.reshape(config.channels, side, side, -1)  # C, H, W -> H, W, C
        value = rows.transpose(1, 2, 0, 3).reshape(-1, value.shape[0])
      else:
        value = value.T
    ours = NETWORKS[network]
    place = (ours,) if ours == 'policy' else ('world_model', ours)
    return ({'model': 'params', 'model_target': 'targets'}[owner], *place, layer, leaf), value

  @functools.cached_property
  def _shapes(self):
    return jax.eval_shape(self.agent.init, jax.random.key(0))

  def state(self):
    """A state with the recorded parameters, before its first update."""
    shapes, tree = self._shapes, self.tree('param')
    tree['params']['world_model']['harmony'] = shapes.params['world_model']['harmony']
    for name in tree:  # nothing is missing, nothing is left over
      assert jax.tree.map(jnp.shape, tree[name]) == jax.tree.map(jnp.shape, getattr(shapes, name))
    fresh = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes.replace(rng=None))
    step = np.int32(self.meta['first_update_step'])
    return fresh.replace(**tree, rng=jax.random.key(0), step=step)

  def pictures(self, stacks):
    """[..., 3 F, S, S] -> [..., S, S, 3 F]."""
    return np.moveaxis(stacks, -3, -1) if self.pixels else stacks

  def batch(self, prefix='batch', reward=None) -> dict:
    """A recorded batch in our layout [B, lead + H + 1, ...]."""
    data = self.group('batch') if prefix == 'batch' else {
      k.removeprefix('second_'): v for k, v in self.group('replay').items() if 'second_' in k
    }  # fmt: skip
    horizon, lead = self.config.horizon, self.frames - 1
    seen = self.pictures(np.stack([data['obs'], *data['next_obs'][:horizon]], 1))
    if self.pixels:  # the oldest frames of the first stack, then the newest ones
      first = np.split(seen[:, 0], self.frames, -1)[:-1]
      seen = np.concatenate([np.stack(first, 1), seen[..., -3:]], 1) if lead else seen
    rows = lambda x: np.concatenate([np.zeros((lead, *x.shape[1:]), x.dtype), x]).swapaxes(0, 1)
    after = lambda x: np.concatenate([np.zeros_like(x[:1]), x])
    got = data['reward'] if reward is None else reward
    flags = np.zeros((len(seen), seen.shape[1]), bool)
    return {
      self.name: seen,
      'action': rows(data['action'][: horizon + 1]),
      'reward': rows(after(got[:horizon, :, 0])),
      'is_first': flags,
      'is_last': flags,
      'is_terminal': flags,
      'weight': data['weights'],
    }

  def draws(self, number):
    """The random numbers of update 1, 2 or 3."""
    noise = self.group(f'noise/step_{number}')
    shift = np.zeros((self.config.horizon + 1, self.config.batch_size, 2), np.int32)
    if self.pixels:
      shift = np.stack([noise['shift_obs'], *noise['shift_next']])
    return tdmpc.Draws(*jax.device_put((shift, noise['td'], noise['pi'])))

  def replay(self, slots=3):
    """A replay that holds as many of the recorded episodes, empty."""
    episode = self.data['replay/reward'].shape[1] + 1
    specs = {self.name: (self.shape, np.uint8 if self.pixels else np.float32)}
    specs |= {'action': ((self.spec.num_actions,), np.float32), 'reward': ((), np.float32)}
    specs |= dict.fromkeys(('is_first', 'is_last', 'is_terminal'), ((), bool))
    sizes = (1, slots * episode, self.config.batch_size, self.config.batch_length, 0)
    how = {'priority': self.config.replay.priority, 'correction': self.config.replay.correction}
    return PriorityReplay(specs, *sizes, frames=self.frames, **how)

  def add(self, replay, number):
    """Append a recorded episode."""
    data = self.group('replay')
    seen = data['frame'][number] if self.pixels else data['obs'][number]
    seen, last = self.pictures(seen), len(data['reward'][number])
    for t in range(last + 1):
      action = data['action'][number, t] if t < last else np.zeros(self.spec.num_actions)
      replay.append(
        {
          self.name: seen[None, t],
          'action': action[None].astype(np.float32),
          'reward': np.float32([data['reward'][number, t - 1] if t else 0]),
          'is_first': np.array([t == 0]),
          'is_last': np.array([t == last]),
          'is_terminal': np.array([False]),
        }
      )

  def by_slot(self, replay, values=None):
    """Priorities in the authors' order: a slot per episode, without the row at its end."""
    length = self.data['replay/reward'].shape[1]
    rows = replay.priorities[0] if values is None else values
    rows = rows.reshape(-1, length + 1)[:, :length]
    first = replay.steps // (length + 1) - len(rows)  # the number of the oldest episode
    slots = (first + np.arange(len(rows))) % 3
    return np.concatenate([rows[np.argsort(slots)].reshape(-1)])

  def draw_of(self, replay, indices):
    """The `Draw` of the authors' indices, in our steps."""
    length = self.data['replay/reward'].shape[1]
    slot, row = np.divmod(np.asarray(indices), length)
    newest = replay.steps // (length + 1) - 1
    episode = newest - (newest - slot) % 3
    starts = episode * (length + 1) + row
    return Draw(0, np.zeros(len(starts), int), starts, replay.steps)


def forward(fixture, state, batch, draws) -> dict:
  """What the losses are made of with the parameters as given, by the authors' names."""
  agent, weights, model = fixture.agent, fixture.config.weighting, state.params['world_model']
  losses, found = agent.losses(model, state, batch, draws)
  older, _ = fixture.older.losses(model, state, batch, draws)
  weighted = lambda losses: sum(getattr(weights, name) * loss for name, loss in losses.items())
  sums = found['sums']
  total = sum(getattr(weights, name) * jnp.minimum(sums[name], 1e4) for name in tdmpc.TASKS)
  future = agent.values(state.targets['world_model'], found['online'], found['chosen'])
  rows = {
    'z': found['latent'],
    'reward': found['rewards'][..., None],
    'next_z_target': found['target'],
    'next_z_online': found['online'],
    'next_action': found['chosen'],
    'td_target': found['wanted'][..., None],
    'priority': found['priority'][:, None] - 1e-6,
    'total_loss': total[:, None],
    'weighted_loss': weighted(losses),
    'weighted_loss_before_december_2022': weighted(older),
    'pi_action': agent.act_noisily(state.params['policy'], found['latent'], draws.policy),
  }
  for number in (0, 1):
    rows[f'Q{number + 1}'] = found['values'][number][..., None]
    rows[f'next_Q{number + 1}_target'] = future[number][..., None]
  rows |= {f'{name}_step': each[..., None] for name, each in found['steps'].items()}
  rows |= {f'{name}_loss': sums[name][:, None] for name in tdmpc.TASKS}
  if fixture.pixels:
    rows['aug_obs'] = jnp.moveaxis(found['seen'][0], -1, -3)
  return rows


class Update(NamedTuple):
  """What one update made: `gradients` as `Fixture.tree` has them, `forward` as `forward`."""

  state: tdmpc.TrainState
  metrics: dict
  gradients: dict
  forward: dict


@functools.cache
def program(fixture):
  """One compiled update for all comparisons: the tasks' weights are the state of the rule."""
  agent = fixture.agent

  def run(state, batch, draws):
    rows = forward(fixture, state, batch, draws)
    after, metrics, gradients = agent.update(state, batch, draws)
    values = agent.values(after.params['world_model'], rows['z'], rows['pi_action'])
    rows |= {f'pi_Q{number + 1}': values[number][..., None] for number in (0, 1)}
    norms = {f'grad_norm/{name}': optax.tree.norm(each) for name, each in gradients.items()}
    model = {k: v for k, v in gradients['world_model'].items() if k != 'harmony'}
    gradients = {'params': {**gradients, 'world_model': model}}
    rows |= {'pi_loss': metrics['loss/policy'], 'grad_norm': norms['grad_norm/world_model']}
    rows |= {'pi_grad_norm': norms['grad_norm/policy']}
    return Update(after, metrics | norms, gradients, rows)

  return small.jit(run)


def weigh(losses, params, state):
  """Σ wᵢ Lᵢ with the rule's state for weights."""
  return sum(state[name] * loss for name, loss in losses.items()), state, {}


def update(fixture, number=1, state=None, batch=None, only='') -> Update:
  """Update 1, 2 or 3 from a state, on a batch (by default the recorded ones), of some losses."""
  state = fixture.state() if state is None else state
  weights = fixture.config.weighting
  coefficients = {
    name: jnp.float32(getattr(weights, name) * (only in ('', name))) for name in tdmpc.TASKS
  }
  state = state.replace(weighting=coefficients)
  return program(fixture)(state, fixture.batch() if batch is None else batch, fixture.draws(number))


@functools.cache
def three_updates(fixture) -> list:
  """The recorded updates on the recorded batch."""
  history = [update(fixture)]
  for number in (2, 3):
    history.append(update(fixture, number, history[-1].state))
  return history


METRICS = {
  'consistency_loss': 'loss/consistency',
  'reward_loss': 'loss/reward',
  'value_loss': 'loss/value',
  'weighted_loss': 'loss/world_model',
  'pi_loss': 'loss/policy',
  'grad_norm': 'grad_norm/world_model',
  'pi_grad_norm': 'grad_norm/policy',
}


def plan(fixture, case, planning=tdmpc_planning):
  """One recorded planning call by us: (action, what the next call gets, all on the way)."""
  data, about = fixture.group(f'plan/{case}'), fixture.meta['plans'][case]
  longest, actions = fixture.config.horizon, fixture.spec.num_actions
  horizon, count = about['horizon'], about['num_pi_trajs']
  pad = lambda x, axis: np.pad(x, [(0, (longest - horizon) * (i == axis)) for i in range(x.ndim)])
  noise = tdmpc_planning.Noise(
    pad(data.get('noise_pi', np.zeros((horizon, 0, actions), np.float32)), 0),
    pad(data['noise_samples'], 1),
    data['noise_terminal'],
    np.float32(data['uniform']),
    data.get('noise_action', np.zeros(actions, np.float32)),
  )
  last = pad(data['prev_mean'], 0) if 'prev_mean' in data else np.zeros((longest, actions))
  inputs = np.float32(last), np.int32(horizon), np.float32(about['std_min']), noise
  call = planner(fixture, planning, count, not about['eval_mode'])
  return call(fixture.state().params, fixture.pictures(data['obs']), *inputs)


@functools.cache
def planner(fixture, planning, count, explore):
  """A compiled planning call with so many of the policy's rollouts."""
  agent, config = fixture.agent, fixture.config
  share = config.planning.policy_share if count else 0.0
  chosen = settings.replace(config.planning, {'policy_share': share})
  assert chosen.rollouts == count

  def call(variables, seen, *inputs):
    latent = agent.encode(variables['world_model'], seen)
    model = agent.planner(variables)
    return planning.plan(model, chosen, config.discount, latent, *inputs, explore)

  return small.jit(call)


def planned(fixture, case, planning=tdmpc_planning) -> tuple:
  """({name: ours}, {name: recorded}) of a planning call, without what is beyond its horizon."""
  action, kept, way = plan(fixture, case, planning)
  recorded, horizon = fixture.group(f'plan/{case}'), fixture.meta['plans'][case]['horizon']
  ours = {
    'actions': way['actions'][:, :horizon],
    'terminal_actions': way['terminal'],
    'value': way['value'],
    'elite_idxs': way['index'],
    'elite_value': way['best'],
    'score': way['score'],
    'initial_mean': way['initial_mean'][:horizon],
    'initial_std': way['initial_std'][:horizon],
    'mean': way['mean'][:, :horizon],
    'std': way['std'][:, :horizon],
    'choice': way['choice'],
    'action': action,
    'next_prev_mean': kept[:horizon],
    'pi_actions': way['policy'][:horizon],
  }
  return {k: v for k, v in ours.items() if k in recorded}, {
    k: recorded[k] for k in ours if k in recorded
  }


def changed(module, said, wrong):
  """A module with something else in the place of what it says, once."""
  source = pathlib.Path(module.__file__).read_text(encoding='utf-8')
  assert source.count(said) == 1, said
  made = types.ModuleType(module.__name__)
  exec(compile(source.replace(said, wrong), module.__file__, 'exec'), made.__dict__)
  return made
