"""The policy: an MLP head, and the distributions of actions that it can describe.

A distribution is a named tuple of arrays, made from the head's outputs, with `sample`, `mode`,
`log_prob` and `entropy`. Draws take their noise as an argument (`Actor.noise`) so that all of it is
made before a loop; None stands for the distribution's middle. Its kind makes a distribution and the
noise: the class itself, or for products `Factored`. A actions; float32.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr, ndtri
from jaxtyping import Array, Float

from harmony_jax import distributions as dists
from harmony_jax.networks import Head, HeadSettings, Layers
from harmony_jax.settings import setting

_MARGIN = 1e-6  # of truncated samples from ±1

# of a head, for what mean and deviation are made of
Outputs = tuple[Float[Array, '*batch A'], Float[Array, '*batch A']]


@dataclasses.dataclass(frozen=True)
class ActorSettings(HeadSettings):
  """The policy."""

  distribution: str = setting(
    'normal',
    'of continuous actions: normal; trunc_normal as DreamerV2, tanh_normal as DreamerPro',
    choices=('normal', 'trunc_normal', 'tanh_normal'),
    only='continuous_actions',
  )
  samples: int = setting(
    100,
    'from which entropy and mode of a tanh_normal are estimated',
    least=1,
    only='continuous_actions .distribution=tanh_normal',
  )
  unimix: float = setting(
    0.01, 'share of a uniform distribution, for discrete actions', most=1, only='discrete_actions'
  )
  min_std: float = setting(
    0.1, 'smallest standard deviation, for continuous ones', only='continuous_actions'
  )
  max_std: float = setting(
    1.0, 'largest one, of normal', only='continuous_actions .distribution=normal'
  )


class OneHot(NamedTuple):
  """One of A actions, as a one-hot. Noise: uniform."""

  logits: Float[Array, '*batch A']  # log-probabilities

  @classmethod
  def of(cls, outputs: Float[Array, '*batch A'], config: ActorSettings) -> 'OneHot':
    """softmax(x), mixed with a share `unimix` of the uniform distribution."""
    return cls(dists.unimix(outputs, config.unimix))

  @staticmethod
  def noise(key: jax.Array, shape: tuple[int, ...], actions: int) -> Float[Array, '*batch']:
    """Draw noise for `sample`, for leading axes `shape`."""
    return jax.random.uniform(key, shape)

  def sample(self, noise: Float[Array, '*batch'] | None) -> Float[Array, '*batch A']:
    """Return a sample with the probabilities' gradient."""
    return dists.draw_one_hot(self.logits, noise)

  def mode(self, noise: jax.Array | None = None) -> Float[Array, '*batch A']:
    """Return the most likely action."""
    return self.sample(None)

  def log_prob(self, action: Float[Array, '*batch A']) -> Float[Array, '*batch']:
    """Return log π(action), without a gradient of the action."""
    return (jax.lax.stop_gradient(action) * self.logits).sum(-1)

  def entropy(self, noise: jax.Array | None = None) -> Float[Array, '*batch']:
    """Return -Σ p log p."""
    log_p = jax.nn.log_softmax(self.logits)
    return -(jnp.exp(log_p) * log_p).sum(-1)


class Normal(NamedTuple):
  """Independent normals. Noise: standard normal. DreamerV3."""

  mean: Float[Array, '*batch A']
  std: Float[Array, '*batch A']

  @classmethod
  def of(cls, outputs: Outputs, config: ActorSettings) -> 'Normal':
    """Mean tanh(x), deviation between `min_std` and `max_std`."""
    mean, spread = outputs
    width = config.max_std - config.min_std
    return cls(jnp.tanh(mean), width * jax.nn.sigmoid(spread + 2) + config.min_std)

  @staticmethod
  def noise(key: jax.Array, shape: tuple[int, ...], actions: int) -> Float[Array, '*batch A']:
    """Draw noise for `sample`, for leading axes `shape`."""
    return jax.random.normal(key, (*shape, actions))

  def sample(self, noise: Float[Array, '*batch A'] | None) -> Float[Array, '*batch A']:
    """Return mean + std · noise."""
    return self.mean if noise is None else self.mean + self.std * noise

  def mode(self, noise: jax.Array | None = None) -> Float[Array, '*batch A']:
    """Return the mean."""
    return self.mean

  def log_prob(self, action: Float[Array, '*batch A']) -> Float[Array, '*batch']:
    """Return log π(action)."""
    return dists.normal_log_prob(action, self.mean, self.std).sum(-1)

  def entropy(self, noise: jax.Array | None = None) -> Float[Array, '*batch']:
    """Return Σ ½ log(2πe) + log std."""
    return dists.normal_entropy(self.std).sum(-1)


class TruncatedNormal(NamedTuple):
  """Normals cut to [-1, 1] and renormalised. Noise: uniform. DreamerV2."""

  mean: Float[Array, '*batch A']
  std: Float[Array, '*batch A']

  @classmethod
  def of(cls, outputs: Outputs, config: ActorSettings) -> 'TruncatedNormal':
    """Mean tanh(x), deviation 2 sigmoid(y/2) + `min_std`."""
    mean, spread = outputs
    return cls(jnp.tanh(mean), 2 * jax.nn.sigmoid(spread / 2) + config.min_std)

  @staticmethod
  def noise(key: jax.Array, shape: tuple[int, ...], actions: int) -> Float[Array, '*batch A']:
    """Draw noise for `sample`, for leading axes `shape`."""
    return jax.random.uniform(key, (*shape, actions))

  def _bounds(self):
    """(α, β, Φ(α), Z): the bounds in units of std, and the probability between them."""
    low, high = (-1 - self.mean) / self.std, (1 - self.mean) / self.std
    below = ndtr(low)
    return low, high, below, jnp.maximum(ndtr(high) - below, 1e-8)

  def sample(self, noise: Float[Array, '*batch A'] | None) -> Float[Array, '*batch A']:
    """Return mean + std Φ⁻¹(Φ(α) + u Z), kept from ±1 with the gradient passed straight."""
    _, _, below, inside = self._bounds()
    tiny = float(np.finfo(np.float32).eps)
    uniform = 0.5 if noise is None else noise  # the median
    value = self.mean + self.std * ndtri(jnp.clip(below + uniform * inside, tiny, 1 - tiny))
    kept = jnp.clip(value, -1 + _MARGIN, 1 - _MARGIN)
    return value + jax.lax.stop_gradient(kept - value)

  def mode(self, noise: jax.Array | None = None) -> Float[Array, '*batch A']:
    """Return the mean of the uncut normal, inside the bounds."""
    return jnp.clip(self.mean, -1, 1)

  def log_prob(self, action: Float[Array, '*batch A']) -> Float[Array, '*batch']:
    """Return Σ log N(action) - log Z."""
    each = dists.normal_log_prob(action, self.mean, self.std) - jnp.log(self._bounds()[3])
    return each.sum(-1)

  def entropy(self, noise: jax.Array | None = None) -> Float[Array, '*batch']:
    """Return Σ log(√(2πe) std Z) + (α φ(α) - β φ(β)) / 2Z."""
    low, high, _, inside = self._bounds()
    density = lambda x: jnp.exp(-0.5 * jnp.square(x)) / np.sqrt(2 * np.pi).astype(np.float32)
    edges = (low * density(low) - high * density(high)) / (2 * inside)
    return (dists.normal_entropy(self.std) + jnp.log(inside) + edges).sum(-1)


class TanhNormal(NamedTuple):
  """tanh(x) of normals x. Noise: standard normal. DreamerPro.

  Entropy and mode have no closed form and are estimated from draws.
  """

  mean: Float[Array, '*batch A']
  std: Float[Array, '*batch A']

  @classmethod
  def of(cls, outputs: Outputs, config: ActorSettings) -> 'TanhNormal':
    """Mean 5 tanh(x/5), deviation softplus(y) + `min_std`."""
    mean, spread = outputs
    return cls(5 * jnp.tanh(mean / 5), jax.nn.softplus(spread) + config.min_std)

  @staticmethod
  def noise(key: jax.Array, shape: tuple[int, ...], actions: int) -> Float[Array, '*batch A']:
    """Draw noise for `sample`, for leading axes `shape`."""
    return jax.random.normal(key, (*shape, actions))

  def sample(self, noise: Float[Array, '*batch A'] | None) -> Float[Array, '*batch A']:
    """Return tanh(mean + std · noise)."""
    return jnp.tanh(self.mean + self.std * (0.0 if noise is None else noise))

  def mode(self, noise: Float[Array, '*batch samples A'] | None = None) -> Float[Array, '*batch A']:
    """Return the likeliest of draws by `noise`; without noise tanh(mean)."""
    if noise is None:
      return self.sample(None)
    each = TanhNormal(self.mean[..., None, :], self.std[..., None, :])
    likely = each.log_prob_of(noise).argmax(-1)
    return jnp.take_along_axis(each.sample(noise), likely[..., None, None], -2)[..., 0, :]

  def log_prob(self, action: Float[Array, '*batch A']) -> Float[Array, '*batch']:
    """Return log π(action) of actions kept from ±1 by float32's smallest step."""
    limit = 1 - float(np.finfo(np.float32).epsneg)
    return self._log_prob(jnp.arctanh(jnp.clip(action, -limit, limit)))

  def log_prob_of(self, noise: Float[Array, '*batch A']) -> Float[Array, '*batch']:
    """Return log π of `sample(noise)` without going back from the action."""
    return self._log_prob(self.mean + self.std * noise)

  def _log_prob(self, x):
    """log N(x) - log(1 - tanh² x), summed over A."""
    slope = 2 * (np.log(2).astype(np.float32) - x - jax.nn.softplus(-2 * x))
    return (dists.normal_log_prob(x, self.mean, self.std) - slope).sum(-1)

  def entropy(
    self, noise: Float[Array, 'samples *batch A'] | None = None
  ) -> Float[Array, '*batch']:
    """Return -log π averaged over draws by `noise`."""
    return -self.log_prob_of(jnp.zeros((1, *self.mean.shape)) if noise is None else noise).mean(0)


CONTINUOUS = {'normal': Normal, 'trunc_normal': TruncatedNormal, 'tanh_normal': TanhNormal}
Continuous = Normal | TruncatedNormal | TanhNormal


class Product(NamedTuple):
  """Independent one-hots, side by side, and continuous numbers behind them, if there are any.

  Noise [..., F + …]: that of each of the F one-hots, then that of the numbers.
  """

  factors: tuple[OneHot, ...]
  rest: Continuous | None

  def _parts(self, noise) -> list[tuple[Any, Any]]:
    """Return [(part, its share of the noise)]."""
    count = len(self.factors)
    places = [*zip(self.factors, range(count)), (self.rest, slice(count, None))]
    shares = [(part, None if noise is None else noise[..., place]) for part, place in places]
    return shares if self.rest else shares[:-1]

  def sample(self, noise: Float[Array, '*batch draws'] | None) -> Float[Array, '*batch A']:
    """Return a sample with the gradients of its parts."""
    return jnp.concatenate([part.sample(share) for part, share in self._parts(noise)], -1)

  def mode(self, noise: jax.Array | None = None) -> Float[Array, '*batch A']:
    """Return the parts' modes; for a rest that estimates its mode from draws, by `noise`."""
    return jnp.concatenate([part.mode(share) for part, share in self._parts(noise)], -1)

  def log_prob(self, action: Float[Array, '*batch A']) -> Float[Array, '*batch']:
    """Return Σ log π of the parts."""
    ends = np.cumsum([factor.logits.shape[-1] for factor in self.factors])
    shares = zip(self._parts(None), jnp.split(action, ends, -1))
    total: Any = sum(part.log_prob(share) for (part, _), share in shares)
    return total

  def entropy(self, noise: jax.Array | None = None) -> Float[Array, '*batch']:
    """Return the sum of the parts' entropies."""
    total: Any = sum(part.entropy(share) for part, share in self._parts(noise))
    return total


@dataclasses.dataclass(frozen=True)
class Factored:
  """The kind of a `Product`: the sizes of its one-hots, and the kind of what is behind them."""

  choices: tuple[int, ...]
  rest: type | None

  def of(self, outputs: Any, config: ActorSettings) -> Product:
    """Take one-hots from the first output, numbers from the others, each as its kind does."""
    logits, *others = outputs if self.rest else (outputs,)
    blocks = jnp.split(logits, np.cumsum(self.choices)[:-1], -1)
    factors = tuple(OneHot.of(block, config) for block in blocks)
    return Product(factors, self.rest.of(tuple(others), config) if self.rest else None)

  def noise(
    self, key: jax.Array, shape: tuple[int, ...], actions: int
  ) -> Float[Array, '*batch draws']:
    """Draw noise for `sample`, for leading axes `shape`."""
    of_factors, of_rest = jax.random.split(key)
    factors = jax.random.uniform(of_factors, (*shape, len(self.choices)))
    if not self.rest:
      return factors
    rest = self.rest.noise(of_rest, shape, actions - sum(self.choices))
    return jnp.concatenate([factors, rest], -1)


Policy = OneHot | Continuous | Product


@dataclasses.dataclass(frozen=True, kw_only=True)
class Actor:
  """π(a | z): a head, and the kind of distribution that its outputs describe.

  Attributes:
    noise: `noise(key, shape)` draws noise for `sample`, for leading axes `shape`.
    samples: how many draws entropy and mode are estimated from; 0 where they are exact.
  """

  config: ActorSettings
  head: Head
  kind: Any  # a class of the above, or a `Factored`
  noise: Callable[[jax.Array, tuple[int, ...]], Float[Array, '...']]
  samples: int

  @classmethod
  def make(
    cls,
    config: ActorSettings,
    features: int,
    actions: int,
    discrete: bool,
    choices: tuple[int, ...] = (),
    **layers: Unpack[Layers],
  ) -> 'Actor':
    """Return an actor for features F and A actions of a kind as in `envs.base`."""
    kind, outputs = CONTINUOUS[config.distribution], (actions, actions)
    if discrete:
      kind, outputs = OneHot, (actions,)
    if choices:
      rest = actions - sum(choices)
      kind = Factored(choices, kind if rest else None)
      outputs = (sum(choices), *((rest, rest) if rest else ()))
    head = Head(features, config, outputs, **layers)
    noise = functools.partial(kind.noise, actions=actions)
    estimated = TanhNormal in (kind, getattr(kind, 'rest', None))
    samples = config.samples if estimated else 0
    return cls(config=config, head=head, kind=kind, noise=noise, samples=samples)

  def policy(self, params: Mapping[str, Any], feature: Float[Array, '*batch F']) -> Policy:
    """Return the distribution of actions for features."""
    return self.kind.of(self.head.apply({'params': params}, feature), self.config)
