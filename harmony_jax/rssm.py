"""The recurrent state-space model: a deterministic GRU state `deter` and a stochastic one, `stoch`
(latents.py).

    deterₜ = GRU(deterₜ₋₁, stochₜ₋₁, actionₜ₋₁)
    prior      p(stochₜ | deterₜ)
    posterior  q(stochₜ | deterₜ, embedₜ)

Pure functions over a dict of parameters. Only what feeds the recurrence is computed inside the
scan: the embedding's and the action's share of their layers, and all noise, are prepared before it,
and the prior is computed after it for all steps at once. Shapes: B batch, T time, D deter, S size
of the stochastic state, A actions, E embedding.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from harmony_jax import latents
from harmony_jax.networks import LINEAR, Dense, Style
from harmony_jax.settings import setting


class State(NamedTuple):
  """Latent state: deter [..., D], stoch (a sample) and the stats that drew it, both as the latents'
  kind has them.
  """

  deter: jax.Array
  stoch: jax.Array
  stats: jax.Array

  def feature(self):
    """[deter, stoch] flattened, [..., F]: what decoder, heads, actor and critic see."""
    return jnp.concatenate([self.deter, self.stoch.reshape(*self.deter.shape[:-1], -1)], -1)


@dataclasses.dataclass(frozen=True)
class RSSMSettings:
  """The recurrent state-space model."""

  deter: int = setting(512, 'size of the deterministic state, D', least=1)
  units: int = setting(512, 'width of its hidden layers', least=1)
  latent: str = setting(
    'categorical',
    'the stochastic state: groups of classes, or gaussian (DreamerPro)',
    choices=('categorical', 'gaussian'),
  )
  stoch: int = setting(32, 'groups, or dimensions of a Gaussian, S', least=1)
  classes: int = setting(32, 'classes of each group, K', least=1)
  unimix: float = setting(
    0.01, "share of a uniform distribution in a group's prior and posterior", most=1
  )
  min_std: float = setting(0.1, 'smallest standard deviation of a Gaussian')
  action_clip: float = setting(1.0, 'actions are scaled down to this; 0: taken as they are')
  learned_initial: bool = setting(True, 'the first deterministic state is learned, or zeros')
  gru_bias: bool = setting(False, "a bias before the GRU's norm")
  gru_init: str = setting(
    'fan_in',
    'initial weights of a GRU with that bias: fan_in as PyTorch, or style: as all layers',
    choices=('fan_in', 'style'),
  )


@dataclasses.dataclass(frozen=True)
class RSSM:
  """Sizes and functions of the model. `actions` is A, `embed` is E."""

  actions: int
  embed: int
  deter: int = 512
  units: int = 512
  latent: str = 'categorical'  # or gaussian
  stoch: int = 32
  classes: int = 32  # of categoricals
  unimix: float = 0.01  # of categoricals
  min_std: float = 0.1  # of Gaussians
  action_clip: float = 1.0  # 0: actions as they are
  learned_initial: bool = True  # False: zeros
  gru_bias: bool = False  # a bias before the GRU's norm
  # of a GRU with that bias: both from ±1/√(inputs), or 'style': as all layers, with zeros
  gru_init: str = 'fan_in'
  style: Style = Style()
  dtype: jnp.dtype = jnp.float32

  @property
  def latents(self):
    """The kind of the stochastic state."""
    return latents.latent(self.latent, self.stoch, self.classes, self.unimix, self.min_std)

  @property
  def feature_size(self) -> int:
    """F = D + numbers of a sample."""
    return self.deter + self._flat

  @property
  def _flat(self) -> int:
    return math.prod(self.latents.shape)

  def _layer(self, name) -> Dense:
    if name == 'gru':  # one product and one norm for the three gates
      fan_in = self.gru_bias and self.gru_init == 'fan_in'
      bias = {(False, False): 'none', (True, False): 'zero', (True, True): 'fan_in'}[
        self.gru_bias, fan_in
      ]
      style = Style('layer', 'none', 'fan_in' if fan_in else self.style.init)
      return Dense(self.deter + self.units, 3 * self.deter, style, norm_bias=bias, dtype=self.dtype)
    if name.endswith('stats'):
      return Dense(self.units, self.latents.outputs, LINEAR, dtype=self.dtype)
    inputs = {
      'img_in': self._flat + self.actions,
      'img_out': self.deter,
      'obs_out': self.deter + self.embed,
    }[name]
    return Dense(inputs, self.units, self.style, dtype=self.dtype)

  def _run(self, params, name, *args, method=None):
    return self._layer(name).apply({'params': params[name]}, *args, method=method)

  def init(self, key) -> dict:
    """Parameters by layer, and `initial` [D]: the learned first deterministic state, before its
    tanh (if learned).
    """
    names = ('img_in', 'gru', 'img_out', 'img_stats', 'obs_out', 'obs_stats')
    params = {}
    for name, key in zip(names, jax.random.split(key, len(names))):
      layer = self._layer(name)
      params[name] = layer.init(key, jnp.zeros((1, layer.inputs)))['params']
    return (
      {**params, 'initial': jnp.zeros((self.deter,), jnp.float32)}
      if self.learned_initial
      else params
    )

  def initial(self, params, batch: int) -> State:
    """deter = tanh(initial), stoch = mode of the prior there, stats 0; all zeros if not learned.
    Leaves [batch, ...].
    """
    if not self.learned_initial:
      return State(jnp.zeros((batch, self.deter), jnp.float32), *self.latents.zeros(batch))
    deter = jnp.tanh(params['initial'].astype(jnp.float32))[None]
    stoch = self.latents.draw(self.prior(params, deter), None)
    state = State(deter, stoch, self.latents.zeros(1)[1])
    return jax.tree.map(lambda x: jnp.repeat(x, batch, 0), state)

  def prior(self, params, deter):
    """Stats of the prior."""
    x = self._run(params, 'img_out', deter)
    return self.latents.stats(self._run(params, 'img_stats', x))

  def _posterior(self, params, deter, embed_part):
    x = self._run(
      params,
      'obs_out',
      self._run(params, 'obs_out', deter, 0, method='part') + embed_part,
      method='finish',
    )
    return self.latents.stats(self._run(params, 'obs_stats', x))

  def _clip(self, action):
    if self.action_clip > 0:
      action = action * jax.lax.stop_gradient(
        self.action_clip / jnp.maximum(self.action_clip, jnp.abs(action))
      )
    return action

  def _action_part(self, params, action):
    return self._run(params, 'img_in', self._clip(action), self._flat, method='part')

  def _transition(self, params, deter, stoch, action_part):
    """The next deter [B, D] from the present deter, stoch and the action's share of the input
    layer.
    """
    flat = stoch.reshape(*deter.shape[:-1], -1)
    x = self._run(
      params,
      'img_in',
      self._run(params, 'img_in', flat, 0, method='part') + action_part,
      method='finish',
    )
    return self._gru(params, deter, x)

  def _gru(self, params, deter, x):
    """The next deter from the present one and the input layer's output."""
    gates = self._run(params, 'gru', jnp.concatenate([deter, x.astype(jnp.float32)], -1)).astype(
      jnp.float32
    )
    reset, candidate, update = jnp.split(gates, 3, -1)
    candidate = jnp.tanh(jax.nn.sigmoid(reset) * candidate)
    update = jax.nn.sigmoid(update - 1)  # starts out remembering
    return update * candidate + (1 - update) * deter

  def observe(self, params, state: State, embed, action, is_first, noise: jax.Array | None):
    """Filters a sequence of observations.

    Args:
      state: the state before the sequence, leaves [B, ...].
      embed: [B, T, E]. action: [B, T, A], the action taken *before* each observation. is_first: [B,
        T] bool; there the state becomes the initial one and the action zero.
      noise: [B, T, S] for the posterior draws, or None for modes.

    Returns: posterior states with leaves [B, T, ...], and the prior's stats [B, T, ...].
    """
    initial = self.initial(params, 1)
    keep = 1.0 - is_first.astype(jnp.float32)
    embed_part = self._run(params, 'obs_out', embed, self.deter, method='part')
    action_part = self._action_part(params, action * keep[..., None])
    inputs = (embed_part, action_part, keep) + (() if noise is None else (noise,))
    inputs = jax.tree.map(lambda x: x.swapaxes(0, 1), inputs)  # [T, B, ...]

    def step(carry, inputs):
      embed_part, action_part, keep, *draw = inputs
      deter, stoch = _keep(keep, carry[0], initial.deter), _keep(keep, carry[1], initial.stoch)
      deter = self._transition(params, deter, stoch, action_part)
      stats = self._posterior(params, deter, embed_part)
      stoch = self.latents.sample(stats, draw[0] if draw else None)
      return (deter, stoch), (deter, stoch, stats)

    _, outputs = jax.lax.scan(step, (state.deter, state.stoch), inputs)
    posterior = State(*jax.tree.map(lambda x: x.swapaxes(0, 1), outputs))
    return posterior, self.prior(params, posterior.deter)

  def filter(self, params, state: State, embed, action, is_first, noise: jax.Array | None) -> State:
    """One step of `observe`, for acting: the same arguments and result without the axis of time,
    and no prior.

    Its layers take their inputs as one: their products with parts of a matrix would copy those
    parts every time.
    """
    initial = self.initial(params, 1)
    keep = 1.0 - is_first.astype(jnp.float32)
    deter, stoch = _keep(keep, state.deter, initial.deter), _keep(keep, state.stoch, initial.stoch)
    flat = stoch.reshape(*deter.shape[:-1], -1)
    x = self._run(params, 'img_in', jnp.concatenate([flat, self._clip(action * keep[:, None])], -1))
    deter = self._gru(params, deter, x)
    x = self._run(params, 'obs_out', jnp.concatenate([deter, embed], -1))
    stats = self.latents.stats(self._run(params, 'obs_stats', x))
    return State(deter, self.latents.sample(stats, noise), stats)

  def imagine(self, params, state: State, action, noise: jax.Array | None) -> State:
    """One step without an observation. action [B, A], noise [B, S] or None; leaves of the result
    [B, ...].
    """
    deter = self._transition(params, state.deter, state.stoch, self._action_part(params, action))
    stats = self.prior(params, deter)
    return State(deter, self.latents.sample(stats, noise), stats)


def _keep(keep, x, initial):
  """x where keep [B] is above 0, else the initial value."""
  return jnp.where(keep.reshape(-1, *[1] * (x.ndim - 1)) > 0, x, initial)
