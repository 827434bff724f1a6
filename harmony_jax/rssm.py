"""The recurrent state-space model: a deterministic GRU state and a stochastic one.

    deterₜ = GRU(deterₜ₋₁, stochₜ₋₁, actionₜ₋₁)
    prior      p(stochₜ | deterₜ)
    posterior  q(stochₜ | deterₜ, embedₜ)

Pure functions over a dict of parameters. Only what feeds the recurrence is computed inside the
scan: the embedding's and the action's share of their layers, and all noise, are prepared before it,
and the prior is computed after it for all steps at once. Noise None takes the mode of every draw.

Shapes: B batch, T time, D deter, S groups (or dimensions) of the stochastic state, K classes,
A actions, E embedding, F feature.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from harmony_jax import distributions as dists
from harmony_jax import fused, recurrence, resident
from harmony_jax.convolution import product
from harmony_jax.errors import UserError
from harmony_jax.networks import LINEAR, Dense, Style, gru
from harmony_jax.settings import setting

Params = Mapping[str, Any]


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
  classes: int = setting(32, 'classes of each group, K', least=1, only='.latent=categorical')
  unimix: float = setting(
    0.01,
    "share of a uniform distribution in a group's prior and posterior",
    most=1,
    only='.latent=categorical',
  )
  min_std: float = setting(
    0.1, 'smallest standard deviation of a Gaussian', only='.latent=gaussian'
  )
  action_clip: float = setting(1.0, 'actions are scaled down to this; 0: taken as they are')
  learned_initial: bool = setting(True, 'the first deterministic state is learned, or zeros')
  gru_bias: bool = setting(False, "a bias before the GRU's norm")
  gru_init: str = setting(
    'fan_in',
    'initial weights of a GRU with that bias: fan_in as PyTorch, or style: as all layers',
    choices=('fan_in', 'style'),
    only='.gru_bias',
  )
  recurrence: str = setting(
    'auto',
    'how scans over time are compiled: stepwise; batched, for accelerators; auto: by platform; '
    'fused: batched, a step of 16, 32 … sequences in four kernels on a GPU; resident: batched, all '
    'steps in one kernel on a TPU; no GPU or TPU has run either',
    choices=('auto', *recurrence.FORMS, 'fused', 'resident'),
  )


# ----------------------------------------------------------------------------------------------
# Stochastic states. A distribution is one array, its `stats`, so that it can be carried and stored.


@dataclasses.dataclass(frozen=True)
class Categorical:
  """S one-hots of K classes. stats: log-probabilities."""

  size: int
  classes: int
  unimix: float = 0.01

  @property
  def outputs(self) -> int:
    """How many numbers a layer puts out for the stats."""
    return self.size * self.classes

  @property
  def shape(self) -> tuple[int, ...]:
    """Of a sample."""
    return self.size, self.classes

  def zeros(self, batch: int) -> tuple[Float[Array, '{batch} S K'], Float[Array, '{batch} S K']]:
    """Return (sample, stats) of a state that knows nothing."""
    zeros = jnp.zeros((batch, *self.shape), jnp.float32)
    return zeros, zeros

  def stats(self, x: Float[Array, '*batch {self.outputs}']) -> Float[Array, '*batch S K']:
    """Return a layer's outputs as stats."""
    return dists.unimix(x.reshape(*x.shape[:-1], *self.shape), self.unimix)

  def noise(self, key: jax.Array, shape: tuple[int, ...]) -> Float[Array, '*batch S']:
    """Draw noise for `sample`, for leading axes `shape`: uniform."""
    return jax.random.uniform(key, (*shape, self.size))

  def sample(
    self, stats: Float[Array, '*batch S K'], noise: Float[Array, '*batch S'] | None
  ) -> Float[Array, '*batch S K']:
    """Return one-hots with the probabilities' gradient."""
    return dists.draw_one_hot(stats, noise)

  def mode(self, stats: Float[Array, '*batch S K']) -> Float[Array, '*batch S K']:
    """Return the most likely one-hots, without gradient."""
    return jax.nn.one_hot(jnp.argmax(stats, -1), self.classes, dtype=jnp.float32)

  def kl(
    self, stats: Float[Array, '*batch S K'], other: Float[Array, '*batch S K']
  ) -> Float[Array, '*batch']:
    """Return KL[p ‖ q] summed over classes, then over the groups."""
    log_p, log_q = jax.nn.log_softmax(stats), jax.nn.log_softmax(other)
    return (jnp.exp(log_p) * (log_p - log_q)).sum(-1).sum(-1)


@dataclasses.dataclass(frozen=True)
class Gaussian:
  """A diagonal Gaussian of S dimensions. stats: means and deviations.

  A deviation is 2 sigmoid(x / 2) + `min_std`.
  """

  size: int
  min_std: float = 0.1

  @property
  def outputs(self) -> int:
    """How many numbers a layer puts out for the stats."""
    return 2 * self.size

  @property
  def shape(self) -> tuple[int, ...]:
    """Of a sample."""
    return (self.size,)

  def zeros(self, batch: int) -> tuple[Float[Array, '{batch} S'], Float[Array, '{batch} 2 S']]:
    """Return (sample, stats) of a state that knows nothing."""
    stats = jnp.zeros((batch, 2, self.size), jnp.float32)
    return stats[:, 0], stats

  def stats(self, x: Float[Array, '*batch {self.outputs}']) -> Float[Array, '*batch 2 S']:
    """Return a layer's outputs as stats."""
    mean, spread = jnp.split(x.astype(jnp.float32), 2, -1)
    return jnp.stack([mean, 2 * jax.nn.sigmoid(spread / 2) + self.min_std], -2)

  def noise(self, key: jax.Array, shape: tuple[int, ...]) -> Float[Array, '*batch S']:
    """Draw noise for `sample`, for leading axes `shape`: standard normal."""
    return jax.random.normal(key, (*shape, self.size))

  def sample(
    self, stats: Float[Array, '*batch 2 S'], noise: Float[Array, '*batch S'] | None
  ) -> Float[Array, '*batch S']:
    """Return mean + deviation · noise."""
    mean = stats[..., 0, :]
    return mean if noise is None else mean + stats[..., 1, :] * noise

  def mode(self, stats: Float[Array, '*batch 2 S']) -> Float[Array, '*batch S']:
    """Return the mean."""
    return stats[..., 0, :]

  def kl(
    self, stats: Float[Array, '*batch 2 S'], other: Float[Array, '*batch 2 S']
  ) -> Float[Array, '*batch']:
    """Return Σ log(σ_q/σ_p) + (σ_p² + (μ_p - μ_q)²) / 2σ_q² - ½."""
    (mean, std), (mean_q, std_q) = (jnp.moveaxis(each, -2, 0) for each in (stats, other))
    scaled = (std**2 + (mean - mean_q) ** 2) / (2 * std_q**2)
    return (jnp.log(std_q / std) + scaled - 0.5).sum(-1)


class State(NamedTuple):
  """Latent state: deter, stoch (a sample) and the stats that drew it."""

  deter: Float[Array, '*batch D']
  stoch: Float[Array, '...']
  stats: Float[Array, '...']

  def feature(self) -> Float[Array, '*batch F']:
    """Return [deter, stoch] flattened: what decoder, heads, actor and critic see."""
    return jnp.concatenate([self.deter, self.stoch.reshape(*self.deter.shape[:-1], -1)], -1)


# ----------------------------------------------------------------------------------------------
# The model


@dataclasses.dataclass(frozen=True, kw_only=True)
class RSSM:
  """Sizes and functions of the model. `actions` is A, `embed` is E."""

  config: RSSMSettings
  actions: int
  embed: int
  style: Style = Style()
  dtype: Any = jnp.float32

  @functools.cached_property
  def latents(self) -> Categorical | Gaussian:
    """The kind of the stochastic state."""
    c = self.config
    if c.latent == 'gaussian':
      return Gaussian(c.stoch, c.min_std)
    return Categorical(c.stoch, c.classes, c.unimix)

  @functools.cached_property
  def _flat(self) -> int:
    """Numbers of a sample."""
    return math.prod(self.latents.shape)

  @property
  def feature_size(self) -> int:
    """F = D + numbers of a sample."""
    return self.config.deter + self._flat

  @functools.cached_property
  def _layers(self) -> dict[str, Dense]:
    c, dtype = self.config, self.dtype
    hidden = Dense(c.units, self.style, dtype)
    stats = Dense(self.latents.outputs, LINEAR, dtype)
    fan_in = c.gru_bias and c.gru_init == 'fan_in'
    style = Style('layer', 'none', 'fan_in' if fan_in else self.style.init)
    bias = 'fan_in' if fan_in else 'zero' if c.gru_bias else 'none'
    # One product and one norm for the three gates.
    gru = Dense(3 * c.deter, style, dtype, norm_bias=bias)
    layers = {'img_in': hidden, 'gru': gru, 'img_out': hidden, 'img_stats': stats}
    return {**layers, 'obs_out': hidden, 'obs_stats': stats}

  def _run(self, params, name, x, product: Callable | None = product) -> Any:
    return self._layers[name].apply({'params': params[name]}, x, product)

  def init(self, key: jax.Array) -> Params:
    """Return parameters by layer, and `initial` [D]: the first deter before its tanh."""
    self._check_kernels()  # now, not at the first update
    c, params = self.config, {}
    inputs = {'img_in': self._flat + self.actions, 'gru': c.deter + c.units, 'img_out': c.deter}
    inputs |= {'img_stats': c.units, 'obs_out': c.deter + self.embed, 'obs_stats': c.units}
    for (name, size), one in zip(inputs.items(), jax.random.split(key, len(inputs))):
      params[name] = self._layers[name].init(one, jnp.zeros((1, size)))['params']
    if self.config.learned_initial:
      params['initial'] = jnp.zeros((self.config.deter,), jnp.float32)
    return params

  def initial(self, params: Params, batch: int) -> State:
    """Return deter = tanh(initial), stoch = the prior's mode there, stats 0; leaves [batch, ...].

    All zeros if the initial state is not learned.
    """
    if not self.config.learned_initial:
      return State(jnp.zeros((batch, self.config.deter), jnp.float32), *self.latents.zeros(batch))
    deter = jnp.tanh(params['initial'].astype(jnp.float32))[None]
    state = State(deter, self.latents.mode(self.prior(params, deter)), self.latents.zeros(1)[1])
    return jax.tree.map(lambda x: jnp.repeat(x, batch, 0), state)

  def prior(self, params: Params, deter: Float[Array, '*batch D']) -> Float[Array, '*batch _ _']:
    """Return the prior's stats."""
    return self.latents.stats(self._run(params, 'img_stats', self._run(params, 'img_out', deter)))

  def _action(self, action):
    """Actions with every dimension scaled down to `action_clip`."""
    limit = self.config.action_clip
    if limit > 0:
      action = action * jax.lax.stop_gradient(limit / jnp.maximum(limit, jnp.abs(action)))
    return action

  def _gru(self, params, deter, x, product=product):
    """The next deter from the present one and the input layer's output."""
    x = jnp.concatenate([deter, x.astype(jnp.float32)], -1)
    gates = self._run(params, 'gru', x, product).astype(jnp.float32)
    reset, candidate, update = jnp.split(gates, 3, -1)
    return gru(reset, candidate, update, deter)

  def _share(self, x, matrix, product=product):
    """The share of a layer's product that belongs to x, by the rows of its matrix for it."""
    return product(x.astype(self.dtype), matrix.astype(self.dtype))

  def _transition(self, params, deter, stoch, action_part, rows, product=product):
    """The next deter [B, D]; `action_part` is the action's share of the input layer, `rows` what
    the other share is multiplied by.
    """
    flat = stoch.reshape(*deter.shape[:-1], -1)
    x = self._share(flat, rows, product) + action_part
    return self._gru(params, deter, self._run(params, 'img_in', x, None), product)

  def _action_part(self, params, action):
    """The action's share of the input layer."""
    return self._share(self._action(action), params['img_in']['kernel'][self._flat :])

  def _rows(self, params):
    """Of the matrices what meets stoch in the input layer, and deter in that of observations.

    Taken in every step they would have gradients of whole matrices there.
    """
    first = {'img_in': self._flat, 'obs_out': self.config.deter}
    return [params[name]['kernel'][:size] for name, size in first.items()]

  def _known(self, params):
    """Of the layers what a step of `observe` needs beside those rows."""
    rest = lambda layer: {name: x for name, x in layer.items() if name != 'kernel'}
    whole, parts = ('gru', 'obs_stats'), ('img_in', 'obs_out')
    return {name: params[name] for name in whole} | {name: rest(params[name]) for name in parts}

  def observe(
    self,
    params: Params,
    state: State,
    embed: Float[Array, 'B T E'],
    action: Float[Array, 'B T A'],
    is_first: Bool[Array, 'B T'],
    noise: Float[Array, 'B T S'] | None,
  ) -> tuple[State, Float[Array, 'B T _ _']]:
    """Filter sequences of observations.

    Args:
      state: before the sequences, leaves [B, ...].
      action: taken *before* each observation.
      is_first: there the state becomes the initial one and the action zero.
      noise: for the posterior draws.

    Returns: posterior states with leaves [B, T, ...], and the prior's stats.
    """
    initial = self.initial(params, 1)
    keep = 1.0 - is_first.astype(jnp.float32)  # [B, T]
    embed_part = self._share(embed, params['obs_out']['kernel'][self.config.deter :])
    action_part = self._action_part(params, action * keep[..., None])
    inputs = (embed_part, action_part, keep) + (() if noise is None else (noise,))
    inputs = jax.tree.map(lambda x: x.swapaxes(0, 1), inputs)  # [T, B, ...]

    def step(params, carry, inputs, product):
      params, of_stoch, of_deter, *initial = params
      embed_part, action_part, keep, *draw = inputs
      deter, stoch = (_keep(keep, *each) for each in zip(carry, initial))
      deter = self._transition(params, deter, stoch, action_part, of_stoch, product)
      x = self._share(deter, of_deter, product) + embed_part
      x = self._run(params, 'obs_out', x, None)
      stats = self.latents.stats(self._run(params, 'obs_stats', x, product))
      stoch = self.latents.sample(stats, draw[0] if draw else None)
      return (deter, stoch), stats

    known = self._known(params), *self._rows(params), initial.deter, initial.stoch
    carry = state.deter, state.stoch
    loops = self._kernels(step, len(embed))
    carries, stats = recurrence.scan(step, known, carry, inputs, self.config.recurrence, loops)
    posterior = State(*jax.tree.map(lambda x: x.swapaxes(0, 1), (*carries, stats)))  # [B, T, ...]
    return posterior, self.prior(params, posterior.deter)

  def _kernels(self, step, batch):
    """The loops of `observe` in kernels, where they are asked for, and take such a batch."""
    c = self.config
    if c.recurrence == 'resident':
      return resident.loops(step, self._ready)
    if c.recurrence == 'fused' and fused.fits(batch):
      loops = fused.Filter(c.classes, c.unimix, self.style.activation, self.dtype)
      return recurrence.Loops(loops.forward, loops.backward)
    return None

  def _ready(self, known):
    """What a step knows, with its matrices in the type that is multiplied in."""
    layers, of_stoch, of_deter, *initial = known
    rows = [x.astype(self.dtype) for x in (of_stoch, of_deter)]
    return resident.matrices(layers, self.dtype), *rows, *initial

  def _check_kernels(self):
    """Raise UserError where there are none for these settings, or for this platform."""
    c = self.config
    if c.recurrence == 'resident':
      resident.check()
    if c.recurrence == 'fused' and c.latent != 'categorical':
      raise UserError(
        f'rssm.recurrence=fused is for categorical states, not rssm.latent={c.latent}: take batched'
      )
    if c.recurrence == 'fused':
      fused.check(c.stoch, deter=c.deter, units=c.units, classes=c.classes)

  def filter(
    self,
    params: Params,
    state: State,
    embed: Float[Array, 'B E'],
    action: Float[Array, 'B A'],
    is_first: Bool[Array, ' B'],
    noise: Float[Array, 'B S'] | None,
  ) -> State:
    """Do one step of `observe`, for acting: without the axis of time, and no prior.

    Its layers take their inputs as one: products with parts of a matrix would copy those parts
    every time.
    """
    initial = self.initial(params, 1)
    keep = 1.0 - is_first.astype(jnp.float32)  # [B]
    deter, stoch = _keep(keep, state.deter, initial.deter), _keep(keep, state.stoch, initial.stoch)
    flat = stoch.reshape(*deter.shape[:-1], -1)
    x = jnp.concatenate([flat, self._action(action * keep[:, None])], -1)
    deter = self._gru(params, deter, self._run(params, 'img_in', x))
    x = self._run(params, 'obs_out', jnp.concatenate([deter, embed], -1))
    stats = self.latents.stats(self._run(params, 'obs_stats', x))
    return State(deter, self.latents.sample(stats, noise), stats)

  def imagine(
    self,
    params: Params,
    state: State,
    action: Float[Array, 'B A'],
    noise: Float[Array, 'B S'] | None,
  ) -> State:
    """Do one step without an observation; leaves [B, ...]."""
    action_part = self._action_part(params, action)
    of_stoch, _ = self._rows(params)
    deter = self._transition(params, state.deter, state.stoch, action_part, of_stoch)
    stats = self.prior(params, deter)
    return State(deter, self.latents.sample(stats, noise), stats)

  def rollout(
    self,
    params: Params,
    start: State,
    action: Float[Array, 'B T A'],
    noise: Float[Array, 'B T S'] | None,
  ) -> State:
    """Return the states [B, T, ...] that actions lead to, without observations."""
    draws = (action,) if noise is None else (action, noise)

    def step(state, inputs):
      state = self.imagine(params, state, inputs[0], inputs[1] if len(inputs) > 1 else None)
      return state, state

    _, states = jax.lax.scan(step, start, jax.tree.map(lambda x: x.swapaxes(0, 1), draws))
    return jax.tree.map(lambda x: x.swapaxes(0, 1), states)


def _keep(keep, x, initial):
  """x where keep [B] is above 0, else the initial value."""
  return jnp.where(keep.reshape(-1, *[1] * (x.ndim - 1)) > 0, x, initial)
