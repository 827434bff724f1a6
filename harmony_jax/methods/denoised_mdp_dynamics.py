"""The dynamics of Denoised MDP: a latent state in parts, behind the interface of the RSSM.

    x   what can be controlled and is rewarded     hₓ' = GRU(hₓ, [sₓ, a])
    y   what is rewarded, and moves by itself      h_y' = GRU(h_y, s_y)
    z   what is not rewarded                       h_z' = GRU(h_z, [x', s_z, a, y'])

Each part has a prior p(s | h). One posterior q(sₓ, s_y | hₓ, h_y, z, embedding) serves x and y, and
that of z sees both. y and z may be missing. x stands first in a feature: policy, value and the
first reward look at its share alone, and x can be imagined without the others.

Pure functions over a dict of parameters, by part and layer. Shapes: B batch, T time, D and S
numbers of a part's deterministic and stochastic state, A actions, E embedding, F feature. Noise
[..., ΣS] is standard normal, of the parts one after the other.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from harmony_jax import recurrence
from harmony_jax.convolution import product
from harmony_jax.rssm import Gaussian, State
from harmony_jax.settings import group, setting

Params = Mapping[str, Any]
Stats = dict[str, jax.Array]  # by part, [..., 2, S]


@dataclasses.dataclass(frozen=True)
class PartSettings:
  """A part of the latent state; both are 0 where there is none."""

  deter: int = setting(120, 'size of its deterministic state, and width of its layers')
  stoch: int = setting(20, 'dimensions of its stochastic state')


@dataclasses.dataclass(frozen=True)
class DynamicsSettings:
  """The dynamics."""

  x: PartSettings = group(PartSettings, 'Controllable, rewarded.')
  y: PartSettings = group(PartSettings, 'Not controllable, rewarded.')
  z: PartSettings = group(PartSettings, 'Not rewarded.', deter=0, stoch=0)
  z_sees_y: bool = setting(
    True, "y is an input of z's GRU; off in the paper's ablation", only='.y.deter .z.deter'
  )
  min_std: float = setting(0.1, 'smallest standard deviation of a Gaussian')
  recurrence: str = setting(
    'auto',
    'how scans over time are compiled: stepwise; batched, for accelerators; auto: by platform',
    choices=('auto', *recurrence.FORMS),
  )


class Latent(NamedTuple):
  """A latent state: one of `rssm.State` for each part, None where there is none."""

  x: State
  y: State | None = None
  z: State | None = None

  @property
  def parts(self) -> dict[str, State]:
    """Those that there are, in this order."""
    return {name: part for name, part in self._asdict().items() if part is not None}

  @property
  def stats(self) -> Stats:
    """Means and deviations that drew it."""
    return {name: part.stats for name, part in self.parts.items()}

  def feature(self) -> jax.Array:
    """Return [hₓ, sₓ, h_y, s_y, h_z, s_z], [..., F]."""
    return jnp.concatenate([part.feature() for part in self.parts.values()], -1)

  def control(self) -> 'Latent':
    """Return x alone."""
    return Latent(self.x)


class Softplus(Gaussian):
  """A Gaussian with the deviation softplus(x) + `min_std`."""

  def stats(self, x: jax.Array) -> jax.Array:
    """Return a layer's outputs [..., 2 S] as stats."""
    mean, spread = jnp.split(x.astype(jnp.float32), 2, -1)
    return jnp.stack([mean, jax.nn.softplus(spread) + self.min_std], -2)


@dataclasses.dataclass(frozen=True)
class Latents:
  """The stochastic states of all parts."""

  of: Mapping[str, Gaussian]

  def noise(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Draw noise for leading axes `shape`."""
    return jax.random.normal(key, (*shape, sum(part.size for part in self.of.values())))

  def split(self, noise: jax.Array) -> dict[str, jax.Array]:
    """Return noise by part; there may be less than all have."""
    found = {}
    for name, part in self.of.items():
      found[name], noise = noise[..., : part.size], noise[..., part.size :]
    return found

  def each_kl(self, stats: Stats, other: Stats) -> dict[str, jax.Array]:
    """Return KL[p ‖ q] by part."""
    return {name: part.kl(stats[name], other[name]) for name, part in self.of.items()}

  def kl(self, stats: Stats, other: Stats) -> jax.Array:
    """Return KL[p ‖ q], summed over parts."""
    return sum(self.each_kl(stats, other).values(), jnp.float32(0))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dynamics:
  """Sizes and functions of the model. `actions` is A, `embed` is E."""

  config: DynamicsSettings
  actions: int
  embed: int
  dtype: Any = jnp.float32

  @functools.cached_property
  def sizes(self) -> dict[str, PartSettings]:
    """Of the parts that there are."""
    c = self.config
    return {name: part for name, part in (('x', c.x), ('y', c.y), ('z', c.z)) if part.deter}

  @functools.cached_property
  def latents(self) -> Latents:
    """The stochastic states."""
    make = lambda part: Softplus(part.stoch, self.config.min_std)
    return Latents({name: make(part) for name, part in self.sizes.items()})

  @property
  def features(self) -> dict[str, int]:
    """The numbers of each part in a feature."""
    return {name: part.deter + part.stoch for name, part in self.sizes.items()}

  @property
  def feature_size(self) -> int:
    """F."""
    return sum(self.features.values())

  def init(self) -> Params:
    """Return zeros, by part and layer: {'kernel': [inputs, units], 'bias': [units]}."""
    layer = lambda inputs, units: {
      'kernel': jnp.zeros((inputs, units)), 'bias': jnp.zeros(units)
    }  # fmt: skip
    sizes, features = self.sizes, self.features
    both = [part for name, part in sizes.items() if name in 'xy']
    hidden = sum(part.deter for part in both)
    inputs = {'x': sizes['x'].stoch + self.actions}
    made: dict[str, Any] = {}
    if 'y' in sizes:
      inputs['y'] = sizes['y'].stoch
    if 'z' in sizes:
      seen = features['x'] + (features.get('y', 0) if self.config.z_sees_y else 0)
      inputs['z'] = seen + sizes['z'].stoch + self.actions
    for name, part in sizes.items():
      deter, stats = part.deter, 2 * part.stoch
      made[name] = {
        'in': layer(inputs[name], deter),
        'gru': {'input': layer(deter, 3 * deter), 'state': layer(deter, 3 * deter)},
        'prior': {'hidden': layer(deter, deter), 'out': layer(deter, stats)},
      }
    made['posterior'] = {
      'hidden': layer(hidden + features.get('z', 0) + self.embed, hidden),
      'out': layer(hidden, 2 * sum(part.stoch for part in both)),
    }
    if 'z' in sizes:
      deter, stoch = sizes['z'].deter, sizes['z'].stoch
      seen = features['x'] + features.get('y', 0) + deter
      made['z']['in_1'] = layer(deter, deter)
      made['z']['posterior'] = {
        'hidden': layer(seen + self.embed, deter), 'out': layer(deter, 2 * stoch)
      }  # fmt: skip
    return made

  def initial(self, params: Params, batch: int) -> Latent:
    """Return zeros."""
    del params
    zeros = lambda name, part: State(
      jnp.zeros((batch, part.deter), jnp.float32), *self.latents.of[name].zeros(batch)
    )
    return Latent(**{name: zeros(name, part) for name, part in self.sizes.items()})

  # ------------------------------------------------------------------------------------------------
  # Layers. Each takes its product by a function: see recurrence.py.

  def _linear(self, layer, inputs, product=product):
    """x W + b of inputs side by side, float32."""
    x = jnp.concatenate(inputs, -1) if isinstance(inputs, list) else inputs
    x = product(x.astype(self.dtype), layer['kernel'].astype(self.dtype)).astype(jnp.float32)
    return x + layer['bias']

  def _mlp(self, layers, inputs, product=product, more=0.0):
    """One hidden layer and a linear one; `more` is the share of inputs known before."""
    hidden = jax.nn.elu(self._linear(layers['hidden'], inputs, product) + more)
    return self._linear(layers['out'], hidden, product)

  def _gru(self, layers, x, deter, product):
    """PyTorch's cell: the reset gate multiplies the state's share with its bias."""
    gates = self._linear(layers['input'], x, product), self._linear(layers['state'], deter, product)
    (reset, update, candidate), recurrent = (jnp.split(each, 3, -1) for each in gates)
    reset = jax.nn.sigmoid(reset + recurrent[0])
    update = jax.nn.sigmoid(update + recurrent[1])
    candidate = jnp.tanh(candidate + reset * recurrent[2])
    return (1 - update) * candidate + update * deter

  def _deter(self, params, name, deter, inputs, product=product):
    """The next deterministic state of a part."""
    layers = params[name]
    x = jax.nn.elu(self._linear(layers['in'], inputs, product))
    if name == 'z':
      x = jax.nn.elu(self._linear(layers['in_1'], x, product))
    return self._gru(layers['gru'], x, deter, product)

  def _inputs_of_z(self, x, y, stoch, action):
    """What z follows from: x and y of this step, each [h, s], and z of the one before."""
    seen = [*x, stoch, action]
    return [*seen, *y] if y and self.config.z_sees_y else seen

  def prior(self, params: Params, name: str, deter: jax.Array) -> jax.Array:
    """Return a part's prior stats [..., 2, S]."""
    return self.latents.of[name].stats(self._mlp(params[name]['prior'], deter))

  # ------------------------------------------------------------------------------------------------
  # With observations

  def _posterior(self, out):
    """Stats of x and of y from means of both, then deviations of both."""
    both = [name for name in self.sizes if name in 'xy']
    ends = self.sizes['x'].stoch if len(both) > 1 else out.shape[-1] // 2
    pairs = zip(*(jnp.split(half, [ends], -1) for half in jnp.split(out, 2, -1)))
    return {
      name: self.latents.of[name].stats(jnp.concatenate(pair, -1))
      for name, pair in zip(both, pairs)
    }

  def _prepare(self, params, embed, action, is_first, noise):
    """(Parameters without the rows that meet the embedding, the inputs of `_step`)."""
    keep = 1.0 - is_first.astype(jnp.float32)[..., None]
    known = {**params, 'z': dict(params['z'])} if 'z' in params else dict(params)
    inputs = {'keep': keep, 'action': action * keep, 'noise': self.latents.split(noise)}
    for name, place in (('embed', known), ('z_embed', known.get('z', {}))):
      if 'posterior' in place:
        hidden = place['posterior']['hidden']
        rows, of_embed = jnp.split(hidden['kernel'], [len(hidden['kernel']) - self.embed])
        place['posterior'] = {**place['posterior'], 'hidden': {**hidden, 'kernel': rows}}
        inputs[name] = product(embed.astype(self.dtype), of_embed.astype(self.dtype))
    return known, inputs

  def _step(self, params, carry, inputs, product):
    """Filter one step of leaves [B, ...]; carry is {part: (h, s)}."""
    keep, action, noise = (inputs[name] for name in ('keep', 'action', 'noise'))
    before = jax.tree.map(lambda x: x * keep, carry)
    draw = lambda name, stats: self.latents.of[name].sample(stats, noise[name])
    deter = {}
    for name in before:
      if name != 'z':
        h, s = before[name]
        deter[name] = self._deter(params, name, h, [s, action] if name == 'x' else s, product)
    seen = [*deter.values(), *before.get('z', ())]
    stats = self._posterior(self._mlp(params['posterior'], seen, product, inputs['embed']))
    after = {name: (deter[name], draw(name, stats[name])) for name in deter}
    if 'z' in before:
      h, s = before['z']
      xy = after['x'], after.get('y', ())
      h = self._deter(params, 'z', h, self._inputs_of_z(*xy, s, action), product)
      seen = [*xy[0], *xy[1], h]
      out = self._mlp(params['z']['posterior'], seen, product, inputs['z_embed'])
      stats['z'] = self.latents.of['z'].stats(out)
      after['z'] = h, draw('z', stats['z'])
    return after, stats

  def observe(
    self,
    params: Params,
    state: Any,
    embed: jax.Array,
    action: jax.Array,
    is_first: jax.Array,
    noise: jax.Array,
  ) -> tuple[Latent, Stats]:
    """Filter sequences of observations.

    Args:
      state: a `Latent` before the sequences, leaves [B, ...].
      embed: [B, T, E]. action: [B, T, A], taken *before* each observation.
      is_first: [B, T]; there the state before and the action are zero.
      noise: [B, T, ΣS], for the posterior draws.

    Returns: posterior states with leaves [B, T, ...], and the priors' stats.
    """
    known, inputs = self._prepare(params, embed, action, is_first, noise)
    turn = lambda tree: jax.tree.map(lambda x: x.swapaxes(0, 1), tree)
    carry = {name: (part.deter, part.stoch) for name, part in state.parts.items()}
    found = recurrence.scan(self._step, known, carry, turn(inputs), self.config.recurrence)
    after, stats = turn(found)
    prior = {name: self.prior(params, name, h) for name, (h, _) in after.items()}
    return _states(after, stats), prior

  def filter(
    self,
    params: Params,
    state: Any,
    embed: jax.Array,
    action: jax.Array,
    is_first: jax.Array,
    noise: jax.Array,
  ) -> Latent:
    """Do one step of `observe`, without the axis of time, and no prior."""
    known, inputs = self._prepare(params, embed, action, is_first, noise)
    carry = {name: (part.deter, part.stoch) for name, part in state.parts.items()}
    after, stats = self._step(known, carry, inputs, product)
    return _states(after, stats)

  # ------------------------------------------------------------------------------------------------
  # Without

  def imagine(self, params: Params, state: Latent, action: jax.Array, noise: jax.Array) -> Latent:
    """Do one step without an observation, of those parts that the state has."""
    draws, after = self.latents.split(noise), {}
    pair = lambda name: after[name][:2] if name in after else ()
    for name, part in state.parts.items():
      inputs = {'x': [part.stoch, action], 'y': part.stoch}.get(name)
      if name == 'z':
        inputs = self._inputs_of_z(pair('x'), pair('y'), part.stoch, action)
      deter = self._deter(params, name, part.deter, inputs)
      stats = self.prior(params, name, deter)
      after[name] = State(deter, self.latents.of[name].sample(stats, draws[name]), stats)
    return Latent(**after)

  def rollout(self, params: Params, start: Latent, action: jax.Array, noise: jax.Array) -> Latent:
    """Return the states [B, T, ...] that actions [B, T, A] lead to, without observations."""

    def step(state, inputs):
      state = self.imagine(params, state, inputs[0], inputs[1])
      return state, state

    turn = lambda tree: jax.tree.map(lambda x: x.swapaxes(0, 1), tree)
    return turn(jax.lax.scan(step, start, turn((action, noise)))[1])


def _states(after, stats):
  """{part: (h, s)} and what drew s, as one."""
  return Latent(**{name: State(h, s, stats[name]) for name, (h, s) in after.items()})
