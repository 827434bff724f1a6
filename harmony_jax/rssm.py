"""The recurrent state-space model: a deterministic GRU state `deter` and a stochastic one, `stoch`, of S categoricals.

    deterₜ = GRU(deterₜ₋₁, stochₜ₋₁, actionₜ₋₁)
    prior      p(stochₜ | deterₜ)
    posterior  q(stochₜ | deterₜ, embedₜ)

Pure functions over a dict of parameters. Only what feeds the recurrence is computed inside the scan: the embedding's
and the action's share of their layers, and all noise, are prepared before it, and the prior is computed after it for
all steps at once. Shapes: B batch, T time, D deter, S groups, K classes, A actions, E embedding.
"""

import dataclasses
from typing import NamedTuple, Optional

import jax
import jax.numpy as jnp

from harmony_jax import distributions as dists
from harmony_jax.networks import LINEAR, Dense, Style


class State(NamedTuple):
  """Latent state: deter [..., D], stoch [..., S, K] one-hots, logit [..., S, K] log-probabilities that drew them."""
  deter: jax.Array
  stoch: jax.Array
  logit: jax.Array

  def feature(self):
    """[deter, stoch] flattened, [..., D + S K]: what decoder, heads, actor and critic see."""
    return jnp.concatenate([self.deter, self.stoch.reshape(*self.stoch.shape[:-2], -1)], -1)


@dataclasses.dataclass(frozen=True)
class RSSM:
  """Sizes and functions of the model. `actions` is A, `embed` is E."""
  actions: int
  embed: int
  deter: int = 512
  units: int = 512
  stoch: int = 32
  classes: int = 32
  unimix: float = 0.01
  action_clip: float = 1.0   # 0: actions as they are
  learned_initial: bool = True  # False: zeros
  gru_bias: bool = False     # a bias before the GRU's norm, drawn like the kernel from ±1/√(inputs)
  style: Style = Style()
  dtype: jnp.dtype = jnp.float32

  @property
  def feature_size(self) -> int:
    """D + S K."""
    return self.deter + self.stoch * self.classes

  def _layer(self, name) -> Dense:
    flat = self.stoch * self.classes
    if name == 'gru':  # one product and one norm for the three gates
      style = Style('layer', 'none', 'fan_in' if self.gru_bias else self.style.init)
      return Dense(self.deter + self.units, 3 * self.deter, style, norm_bias=self.gru_bias, dtype=self.dtype)
    if name.endswith('stats'):
      return Dense(self.units, flat, LINEAR, dtype=self.dtype)
    inputs = {'img_in': flat + self.actions, 'img_out': self.deter, 'obs_out': self.deter + self.embed}[name]
    return Dense(inputs, self.units, self.style, dtype=self.dtype)

  def _run(self, params, name, *args, method=None):
    return self._layer(name).apply({'params': params[name]}, *args, method=method)

  def init(self, key) -> dict:
    """Parameters by layer, and `initial` [D]: the learned first deterministic state, before its tanh (if learned)."""
    names = ('img_in', 'gru', 'img_out', 'img_stats', 'obs_out', 'obs_stats')
    params = {}
    for name, key in zip(names, jax.random.split(key, len(names))):
      layer = self._layer(name)
      params[name] = layer.init(key, jnp.zeros((1, layer.inputs)))['params']
    return {**params, 'initial': jnp.zeros((self.deter,), jnp.float32)} if self.learned_initial else params

  def initial(self, params, batch: int) -> State:
    """deter = tanh(initial), stoch = mode of the prior there, logit 0; all zeros if not learned. Leaves [batch, ...]."""
    if not self.learned_initial:
      stoch = jnp.zeros((batch, self.stoch, self.classes), jnp.float32)
      return State(jnp.zeros((batch, self.deter), jnp.float32), stoch, stoch)
    deter = jnp.tanh(params['initial'].astype(jnp.float32))[None]
    stoch = dists.draw_one_hot(self.prior(params, deter), None)
    state = State(deter, stoch, jnp.zeros_like(stoch))
    return jax.tree.map(lambda x: jnp.repeat(x, batch, 0), state)

  def prior(self, params, deter):
    """Log-probabilities [..., S, K] of the prior."""
    x = self._run(params, 'img_out', deter)
    return self._logits(self._run(params, 'img_stats', x))

  def _posterior(self, params, deter, embed_part):
    x = self._run(params, 'obs_out', self._run(params, 'obs_out', deter, 0, method='part') + embed_part,
                  method='finish')
    return self._logits(self._run(params, 'obs_stats', x))

  def _logits(self, x):
    return dists.unimix(x.reshape(*x.shape[:-1], self.stoch, self.classes), self.unimix)

  def _clip(self, action):
    if self.action_clip > 0:
      action = action * jax.lax.stop_gradient(self.action_clip / jnp.maximum(self.action_clip, jnp.abs(action)))
    return action

  def _action_part(self, params, action):
    return self._run(params, 'img_in', self._clip(action), self.stoch * self.classes, method='part')

  def _transition(self, params, deter, stoch, action_part):
    """The next deter [B, D] from the present deter, stoch and the action's share of the input layer."""
    flat = stoch.reshape(*stoch.shape[:-2], -1)
    x = self._run(params, 'img_in', self._run(params, 'img_in', flat, 0, method='part') + action_part, method='finish')
    return self._gru(params, deter, x)

  def _gru(self, params, deter, x):
    """The next deter from the present one and the input layer's output."""
    gates = self._run(params, 'gru', jnp.concatenate([deter, x.astype(jnp.float32)], -1)).astype(jnp.float32)
    reset, candidate, update = jnp.split(gates, 3, -1)
    candidate = jnp.tanh(jax.nn.sigmoid(reset) * candidate)
    update = jax.nn.sigmoid(update - 1)  # starts out remembering
    return update * candidate + (1 - update) * deter

  def observe(self, params, state: State, embed, action, is_first, uniform: Optional[jax.Array]):
    """Filters a sequence of observations.

    Args:
      state: the state before the sequence, leaves [B, ...].
      embed: [B, T, E]. action: [B, T, A], the action taken *before* each observation. is_first: [B, T] bool; there
        the state becomes the initial one and the action zero.
      uniform: [B, T, S] in [0, 1) for the posterior draws, or None for modes.

    Returns: posterior states with leaves [B, T, ...], and the prior's log-probabilities [B, T, S, K].
    """
    initial = self.initial(params, 1)
    keep = 1.0 - is_first.astype(jnp.float32)
    embed_part = self._run(params, 'obs_out', embed, self.deter, method='part')
    action_part = self._action_part(params, action * keep[..., None])
    inputs = (embed_part, action_part, keep) + (() if uniform is None else (uniform,))
    inputs = jax.tree.map(lambda x: x.swapaxes(0, 1), inputs)  # [T, B, ...]

    def step(carry, inputs):
      embed_part, action_part, keep, *draw = inputs
      deter = jnp.where(keep[:, None] > 0, carry[0], initial.deter)
      stoch = jnp.where(keep[:, None, None] > 0, carry[1], initial.stoch)
      deter = self._transition(params, deter, stoch, action_part)
      logit = self._posterior(params, deter, embed_part)
      sample = dists.draw_one_hot(logit, draw[0] if draw else None)
      stoch = dists.straight_through(sample, logit)
      return (deter, stoch), (deter, stoch, logit)

    _, outputs = jax.lax.scan(step, (state.deter, state.stoch), inputs)
    posterior = State(*jax.tree.map(lambda x: x.swapaxes(0, 1), outputs))
    return posterior, self.prior(params, posterior.deter)

  def filter(self, params, state: State, embed, action, is_first, uniform: Optional[jax.Array]) -> State:
    """One step of `observe`, for acting: the same arguments and result without the axis of time, and no prior.

    Its layers take their inputs as one: their products with parts of a matrix would copy those parts every time.
    """
    initial = self.initial(params, 1)
    keep = 1.0 - is_first.astype(jnp.float32)
    deter = jnp.where(keep[:, None] > 0, state.deter, initial.deter)
    stoch = jnp.where(keep[:, None, None] > 0, state.stoch, initial.stoch)
    flat = stoch.reshape(*stoch.shape[:-2], -1)
    x = self._run(params, 'img_in', jnp.concatenate([flat, self._clip(action * keep[:, None])], -1))
    deter = self._gru(params, deter, x)
    x = self._run(params, 'obs_out', jnp.concatenate([deter, embed], -1))
    logit = self._logits(self._run(params, 'obs_stats', x))
    return State(deter, dists.straight_through(dists.draw_one_hot(logit, uniform), logit), logit)

  def imagine(self, params, state: State, action, uniform: Optional[jax.Array]) -> State:
    """One step without an observation. action [B, A], uniform [B, S] or None; leaves of the result [B, ...]."""
    deter = self._transition(params, state.deter, state.stoch, self._action_part(params, action))
    logit = self.prior(params, deter)
    sample = dists.draw_one_hot(logit, uniform)
    return State(deter, dists.straight_through(sample, logit), logit)
