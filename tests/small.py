"""Small methods, configurations, batches and states for tests.

Compiling is what such tests cost. Where values do not matter, a state is drawn by NumPy
(`state_of`); whatever needs whole updates shares those of a few agents (`trained`).
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from harmony_jax import config as config_
from harmony_jax import method, settings
from harmony_jax.envs.base import ArraySpec, Spec
from harmony_jax.methods import dreamer_pro

SIZES = {
  'batch_size': 3,
  'batch_length': 5,
  'encoder.depth': 4,
  'decoder.depth': 4,
  'encoder.padding': 'same',
  'decoder.padding': 'same',
  'encoder.mlp_units': 12,
  'decoder.mlp_units': 12,
  'rssm.deter': 16,
  'rssm.units': 12,
  'rssm.stoch': 4,
  'rssm.classes': 4,
  'reward_head.units': 12,
  'continue_head.units': 12,
  'actor.units': 12,
  'critic.units': 12,
  'reward_head.layers': 1,
  'continue_head.layers': 1,
  'actor.layers': 1,
  'critic.layers': 1,
  'behavior.horizon': 4,
  'model_opt.lr': 1e-3,
  'actor_opt.lr': 1e-3,
  'critic_opt.lr': 1e-3,
}
IMAGE, VECTOR = {'image': (16, 16, 3)}, {'joints': (3,), 'speed': ()}


def spec(shapes=IMAGE, actions=3, discrete=True, choices=()) -> Spec:
  """Return an environment's spec; observations of rank 3 are pictures."""
  arrays = {k: ArraySpec(v, np.uint8 if len(v) == 3 else np.float32) for k, v in shapes.items()}
  return Spec(arrays, discrete, actions, 1, choices)


def settings_of(name='dreamerv3', **changes):
  """Return a method's settings at small sizes; changes as `rssm__deter=8`."""
  named = {k.replace('__', '.'): v for k, v in changes.items()}
  return settings.replace(method.entry(name).settings, {**SIZES, **named})


def agent(
  shapes=IMAGE,
  actions=3,
  discrete=True,
  deterministic=False,
  name='dreamerv3',
  choices=(),
  **changes,
) -> method.Method:
  """Return a method at small sizes."""
  chosen = settings_of(name, **changes)
  return method.entry(name).make(chosen, spec(shapes, actions, discrete, choices), deterministic)


def run_config(name='dreamerv3', **changes) -> config_.Config:
  """Return the configuration of a short run of catch with a toy model."""
  entry = method.entry(name)
  run = config_.RunSettings('catch', 'catch', name, 'tiny')
  short = {
    'steps': 480,
    'num_envs': 8,
    'train_ratio': 16.0,
    'eval_every': 240,
    'eval_episodes': 64,
    'final_eval_episodes': 64,
    'eval_envs': 64,
    'checkpoint_every': 240,
    'video_every': 480,
    'prefill_chunk': 8,
    'log_every': 80,
    'replay_capacity': 100_000,
  }
  made = config_.Config(run, entry.settings, {'distractors': 4, 'size': 8})
  named = {k.replace('__', '.'): v for k, v in changes.items()}
  return made.replace({**entry.sizes.get('toy', {}), **short, **named})


def close(actual, expected, share=1e-5):
  """Whether every array of two trees differs by at most a share of its largest value."""
  for (path, a), b in zip(
    jax.tree.leaves_with_path(actual), jax.tree.leaves(expected), strict=True
  ):
    if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
      a, b = jax.random.key_data(a), jax.random.key_data(b)
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    difference = np.abs(a - b).max(initial=0)
    assert difference <= share * np.abs(b).max(initial=0), (
      f'{jax.tree_util.keystr(path)}: {difference}'
    )


def shaken(state, seed):
  """A fresh state whose last layers are not zero: values and returns of 1e-8 would be nothing but
  rounding.
  """
  rng = np.random.default_rng(seed)
  shake = lambda x: np.asarray(x) + np.float32(0.3 * rng.normal(size=x.shape))
  return state.replace(params=jax.device_put(jax.tree.map(shake, state.params)))


def batch(shapes=IMAGE, actions=3, discrete=True, size=3, length=5, seed=0, choices=()) -> dict:
  """Return a random batch with an episode's end and beginning inside."""
  rng = np.random.default_rng(seed)
  data = {}
  for name, shape in shapes.items():
    full = (size, length, *shape)
    picture = len(shape) == 3
    data[name] = rng.integers(0, 256, full, np.uint8) if picture else rng.normal(size=full)
  if discrete:
    data['action'] = np.eye(actions)[rng.integers(0, actions, (size, length))]
  else:
    data['action'] = rng.uniform(-1, 1, (size, length, actions))
    for end, count in zip(np.cumsum(choices, dtype=int), choices):
      data['action'][..., end - count : end] = np.eye(count)[rng.integers(0, count, (size, length))]
  data['reward'] = rng.normal(size=(size, length))
  for name in ('is_first', 'is_last', 'is_terminal'):
    data[name] = np.zeros((size, length), bool)
  data['is_first'][:, 0] = True
  data['is_last'][0, 2] = data['is_terminal'][0, 2] = data['is_first'][0, 3] = True
  narrow = lambda x: x.astype(np.float32) if x.dtype == np.float64 else x
  # jnp.asarray compiles a program for every shape
  return jax.device_put({k: narrow(np.asarray(v)) for k, v in data.items()})


# ----------------------------------------------------------------------------------------------
# States and updates

FAST = {'xla_backend_optimization_level': 0}  # programs that run for milliseconds
jit = functools.partial(jax.jit, compiler_options=FAST)


def state_of(agent: method.Method, seed: int = 0) -> Any:
  """Return a state of random parameters, slow copies and statistics, as if nothing were trained.

  Kernels have the variance 1/inputs, and no two leaves are equal, not even copies of each other.
  """
  shapes = jax.eval_shape(agent.init, jax.random.key(0)).replace(rng=None)
  rng = np.random.default_rng(seed)

  def draw(path, x):
    names = [str(getattr(key, 'key', key)) for key in path]
    if 'harmony' in names:
      return np.zeros(x.shape, x.dtype)
    inputs = math.prod(x.shape[:-1]) if len(x.shape) > 1 else 100
    value = rng.normal(size=x.shape) / math.sqrt(inputs) + (names[-1] in ('scale', 'var'))
    return value.astype(x.dtype)

  fields = {k: getattr(shapes, k) for k in ('params', 'targets', 'statistics')}
  zeros = jax.device_put(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes))
  drawn = jax.device_put(jax.tree_util.tree_map_with_path(draw, fields))
  return zeros.replace(**drawn, rng=jax.random.key(seed))


def params_of(agent: method.Method, seed: int = 0) -> dict:
  """Return random parameters by subtree; see `state_of`."""
  return state_of(agent, seed).params


# Agents whose update is compiled once. Those of the goldens begin as their method does.
GOLDEN = {
  'discrete': dict(),
  'continuous': dict(discrete=False, weighting__rule='none'),
  'vector': dict(shapes=VECTOR, weighting__rule='reciprocal'),
  'both': dict(
    shapes={**IMAGE, **VECTOR},
    weighting__harmonize_vector=True,
    weighting__rate=3.0,
    weighting__beta2=0.99,
  ),
}
PRO = dict(
  name='dreamerpro',
  discrete=False,
  prototypes__count=12,
  prototypes__size=8,
  actor__samples=5,
  losses__free_nats=0.0,  # so that the prior has a gradient
)
CASES = {
  **GOLDEN,
  'pro': dict(
    **PRO, prototypes__freeze=1, decoder__probe=True, probe_opt__lr=3e-3, skip_nonfinite=1
  ),
}


class Trained(NamedTuple):
  """An agent, its compiled update, and what two updates on one batch made: states 0, 1, 2."""

  agent: method.Method
  batch: dict
  step: Callable
  states: list
  metrics: list


class Looked(dreamer_pro.DreamerPro):
  """A DreamerPro with a metric that is never finite: no update may depend on what is looked at."""

  def actor_loss(self, *args):
    """Return what DreamerPro returns, and the metric."""
    loss, (*rest, metrics) = super().actor_loss(*args)
    return loss, (*rest, metrics | {'looked/nan': jnp.nan * loss})


@functools.cache
def trained(name: str) -> Trained:
  """Return two updates of one of `CASES`."""
  chosen = agent(**CASES[name])
  if name == 'pro':
    chosen = Looked(chosen.settings, chosen.spec)
  data = batch(chosen.shapes, discrete=chosen.spec.discrete)
  start = jit(chosen.init)(jax.random.key(0)) if name in GOLDEN else state_of(chosen)
  step, states, metrics = jit(chosen.train_step), [start], []
  for _ in range(2):
    state, found = step(states[-1], data)
    states.append(state)
    metrics.append({k: float(v) for k, v in found.items()})
  return Trained(chosen, data, step, states, metrics)
