"""A method that is compiled in no time: one matrix predicts the rewards of actions.

For tests of what is around a method: `--method=tests.linear:METHOD`. Shapes: N environments, A
actions, F features.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from harmony_jax import method, optimizers, replicas
from harmony_jax.settings import setting

FEATURES = 16


@dataclasses.dataclass(frozen=True)
class LinearSettings(method.MethodSettings):
  lr: float = setting(1e-2, 'learning rate')


class Linear(method.Method):
  def __init__(self, settings, spec):
    self.settings, self.spec = settings, spec
    ((self.name, _),) = spec.observation.items()

  def features(self, observation, axes):  # [..., *shape] -> [..., F]
    x = observation[self.name]
    flat = x.reshape(*x.shape[:axes], -1).astype(jnp.float32)
    return flat[..., :: max(1, flat.shape[-1] // FEATURES)][..., :FEATURES] / 255

  def init(self, key):
    shape = {self.name: jnp.zeros((1, *self.spec.observation[self.name].shape))}
    size = self.features(shape, 1).shape[-1], self.spec.num_actions
    zero = jnp.zeros((), jnp.int32)
    return method.TrainState(jax.random.normal(key, size), (), (), zero, zero, key)

  def train_step(self, state, batch):
    def loss(params):
      values = (self.features(batch, 2) @ params * batch['action']).sum(-1)
      return jnp.square(values - batch['reward']).mean()

    def update(state, batch):
      value, gradient = replicas.mean(jax.value_and_grad(loss)(state.params))
      noise = 1 + 0.1 * jax.random.uniform(jax.random.fold_in(state.rng, state.step))
      params = state.params - self.settings.lr * noise * gradient
      metrics = {'loss/reward': value}
      return state.replace(params=params, step=state.step + 1), metrics, {'model': gradient}

    return optimizers.guard(update, state, batch, self.settings.skip_nonfinite)

  def initial_carry(self, variables, num_envs):
    return jnp.zeros((num_envs,), jnp.int32)

  def act(self, variables, carry, observation, is_first, key, mode=False):
    values = self.features(observation, 1) @ variables  # [N, A]
    values += 0.0 if mode else jax.random.gumbel(key, values.shape)
    *blocks, rest = jnp.split(values, np.cumsum(self.spec.factors, dtype=int), -1)
    chosen = [jax.nn.one_hot(block.argmax(-1), block.shape[-1]) for block in blocks]
    action = jnp.concatenate([*chosen, jnp.tanh(rest)], -1)
    return action, jnp.where(is_first, 0, carry) + 1


SIZES = {'batch_size': 4, 'batch_length': 6}
METHOD = method.Entry(LinearSettings(), Linear, sizes={'small': SIZES, 'toy': SIZES})
