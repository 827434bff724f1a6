"""A method that is no Dreamer: random shooting over a learned latent model.

It needs nothing but this file and `--method=tests.shooting:METHOD`, though its carry is its last
plan, its replay has priorities and its optimiser a name of its own. For one picture and actions
that are choices alone. Shapes: B sequences of T steps, N environments, A actions, C plans of H
steps, Z units.
"""

import dataclasses
import pathlib
import pickle

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from harmony_jax import harmony, method, optimizers, replicas
from harmony_jax.replay import Replay
from harmony_jax.settings import group, setting

TASKS = ('dynamics', 'reward')


@dataclasses.dataclass(frozen=True)
class ShootingSettings(method.MethodSettings):
  latent: int = setting(32, 'units of the latent state, Z', least=1)
  horizon: int = setting(5, 'steps of a plan, H', least=1)
  plans: int = setting(64, 'plans that are compared, C', least=1)
  stride: int = setting(4, 'of the pixels that are seen, in both directions', least=1)
  lr: float = setting(1e-3, 'learning rate')
  replay: method.ReplaySettings = group(method.ReplaySettings, 'Drawn windows.', sampling='inside')


class Surprising(Replay):
  """Of two windows the one whose loss was larger when it was last drawn; new ones first."""

  def __init__(self, *args, **options):
    super().__init__(*args, **options)
    self.losses = {}  # by (environment, first step)

  def draw(self, update):
    one, other = super().draw(update), super().draw(update + 2**62)
    loss = lambda draw: np.array([self.losses.get(place, np.inf) for place in _places(draw)])
    first = loss(one) >= loss(other)
    pick = lambda name: np.where(first, getattr(one, name), getattr(other, name))
    return one._replace(envs=pick('envs'), starts=pick('starts'))

  def feedback(self, draw, rows):
    self.losses |= zip(_places(draw), np.asarray(rows).tolist())

  def save(self, folder):
    super().save(folder)
    self._file(folder).write_bytes(pickle.dumps(self.losses))

  def load(self, folder, *args):
    super().load(folder, *args)
    self.losses = pickle.loads(self._file(folder).read_bytes())

  def _file(self, folder):
    return pathlib.Path(folder) / f'losses_{self.part[0]}_{self.steps}'


def _places(draw):
  return zip(draw.envs.tolist(), draw.starts.tolist())


class Model(nn.Module):
  latent: int
  stride: int

  def setup(self):
    mlp = lambda units: nn.Sequential([nn.Dense(64), nn.silu, nn.Dense(units)])
    self.encoder, self.dynamics, self.head = mlp(self.latent), mlp(self.latent), mlp(1)

  def encode(self, picture):  # [..., H, W, C] -> [..., Z]
    seen = picture[..., :: self.stride, :: self.stride, :]
    return jnp.tanh(self.encoder(seen.reshape(*seen.shape[:-3], -1) / 255 - 0.5))

  def follow(self, latent, actions):  # [..., Z], [..., H, A] -> [..., H, Z]
    found = [latent]
    for action in jnp.unstack(actions, axis=-2):
      found.append(jnp.tanh(found[-1] + self.dynamics(jnp.concatenate([found[-1], action], -1))))
    return jnp.stack(found[1:], -2)

  def __call__(self, picture, actions):
    return self.head(self.follow(self.encode(picture), actions))


class Shooting(method.Method):
  replay = Surprising

  def __init__(self, settings, spec):
    self.settings, self.spec, self.optimizer = settings, spec, optax.adam(settings.lr)
    ((self.picture, array),) = spec.observation.items()
    if len(array.shape) != 3 or sum(spec.factors) != spec.num_actions:
      raise ValueError('shooting needs one picture and no continuous actions')
    self.model = Model(settings.latent, settings.stride)
    self.capabilities = {'open_loop': self.open_loop}

  def init(self, key):
    picture, zero = self.spec.observation[self.picture], jnp.zeros((), jnp.int32)
    inputs = jnp.zeros(picture.shape), jnp.zeros((1, self.spec.num_actions))
    params = {'model': self.model.init(key, *inputs), 'harmony': harmony.init(TASKS)[0]}
    opt_state, carry = self.optimizer.init(params), jnp.zeros(self.settings.batch_size)
    return method.TrainState(params, {'planner': opt_state}, carry, zero, zero, key)

  def train_step(self, state, batch):
    return optimizers.guard(self._update, state, batch, self.settings.skip_nonfinite)

  def _update(self, state, batch):
    gradient, (rows, metrics) = jax.grad(self._loss, has_aux=True)(state.params, batch)
    gradient, metrics = replicas.mean((gradient, metrics))
    updates, opt_state = self.optimizer.update(gradient, state.opt_state['planner'])
    params = optax.apply_updates(state.params, updates)
    learned = {'params': params, 'opt_state': {'planner': opt_state}, 'carry': rows}
    return state.replace(**learned, step=state.step + 1), metrics, {'planner': gradient}

  def _loss(self, params, batch):
    model = self.model.bind(params['model'])
    latent = model.encode(batch[self.picture])  # [B, T, Z]
    future = model.follow(latent[:, 0], batch['action'][:, :-1])  # [B, T - 1, Z]
    errors = {
      'dynamics': jnp.square(future - jax.lax.stop_gradient(latent[:, 1:])).sum(-1),
      'reward': jnp.square(model.head(future)[..., 0] - batch['reward'][:, 1:]),
    }
    losses = {name: error.mean() for name, error in errors.items()}
    total, _, metrics = harmony.weigh(losses, params['harmony'], ())
    metrics = {f'harmony/{name}': value for name, value in metrics.items()}
    metrics |= {f'loss/{name}': loss for name, loss in losses.items()}
    return total, (sum(error.mean(1) for error in errors.values()), metrics)

  def feedback(self, state):
    return state.carry

  def initial_carry(self, variables, num_envs):
    shape = (num_envs, self.settings.horizon, self.spec.num_actions)
    return {'plan': jnp.zeros(shape), 'belief': jnp.zeros((num_envs, self.settings.latent))}

  def act(self, variables, carry, observation, is_first, key, mode=False):
    model = self.model.bind(variables['model'])
    latent = model.encode(observation[self.picture])  # [N, Z]
    shape, sizes = (len(latent), self.settings.plans, self.settings.horizon), self.spec.factors
    chosen = jax.random.randint(key, (*shape, len(sizes)), 0, np.array(sizes))
    blocks = [jax.nn.one_hot(chosen[..., i], size) for i, size in enumerate(sizes)]
    plans = jnp.concatenate(blocks, -1)  # [N, C, H, A]
    last = jnp.concatenate([carry['plan'][:, 1:], plans[:, 0, -1:]], 1)  # goes on with the last one
    plans = plans.at[:, 0].set(jnp.where(is_first[:, None, None], plans[:, 0], last))
    start = jnp.broadcast_to(latent[:, None], (*shape[:2], latent.shape[-1]))
    value = model.head(model.follow(start, plans)).sum((-1, -2))  # [N, C]
    plan = plans[jnp.arange(len(latent)), value.argmax(1)]  # [N, H, A]
    return plan[:, 0], {'plan': plan, 'belief': latent}

  def open_loop(self, variables, carries, actions, context, key):
    model, seen = self.model.bind(variables['model']), carries['belief'][:, :context]
    future = model.follow(seen[:, -1], actions[:, context - 1 : -1])
    reward = model.head(jnp.concatenate([seen, future], 1))[..., 0]
    return {'observation': {}, 'reward': reward, 'continue': jnp.ones_like(reward)}


SIZES = {'batch_size': 4, 'batch_length': 6}
METHOD = method.Entry(ShootingSettings(), Shooting, sizes={'small': SIZES, 'toy': SIZES})
