"""What the stochastic part of a latent state is: S categoricals (DreamerV2, DreamerV3) or a
Gaussian (DreamerPro).

A distribution is described by its `stats`, one array, so that it can be carried, compared and
stored like any other. Noise comes as an argument, None for the mode; everything is float32.
"""

import dataclasses

import jax
import jax.numpy as jnp

from harmony_jax import distributions as dists


@dataclasses.dataclass(frozen=True)
class Categorical:
  """S = `size` one-hots of K = `classes`. stats: log-probabilities [..., S, K]; samples [..., S,
  K].
  """

  size: int
  classes: int
  unimix: float = 0.01

  @property
  def outputs(self) -> int:
    """How many numbers a layer puts out for the stats."""
    return self.size * self.classes

  @property
  def shape(self) -> tuple:
    """Of a sample."""
    return self.size, self.classes

  def zeros(self, batch: int):
    """(sample, stats) of a state that knows nothing."""
    return (jnp.zeros((batch, *self.shape), jnp.float32),) * 2

  def stats(self, x):
    """A layer's outputs [..., S K] as stats."""
    return dists.unimix(x.reshape(*x.shape[:-1], *self.shape), self.unimix)

  def noise(self, key, shape):
    """For `sample`, [*shape, S]."""
    return jax.random.uniform(key, (*shape, self.size))

  def sample(self, stats, noise: jax.Array | None):
    """One-hots with the probabilities' gradient."""
    return dists.straight_through(self.draw(stats, noise), stats)

  def draw(self, stats, noise: jax.Array | None):
    """`sample` without gradient."""
    return dists.draw_one_hot(stats, noise)

  def kl(self, stats, other):
    """KL[p ‖ q] summed over the groups, [...]."""
    return dists.categorical_kl(stats, other).sum(-1)


@dataclasses.dataclass(frozen=True)
class Gaussian:
  """A diagonal Gaussian of S = `size` dimensions. stats: means and deviations [..., 2, S]; samples
  [..., S].

  A deviation is 2 sigmoid(x / 2) + `min_std`.
  """

  size: int
  min_std: float = 0.1

  @property
  def outputs(self) -> int:
    """How many numbers a layer puts out for the stats."""
    return 2 * self.size

  @property
  def shape(self) -> tuple:
    """Of a sample."""
    return (self.size,)

  def zeros(self, batch: int):
    """(sample, stats) of a state that knows nothing."""
    return jnp.zeros((batch, self.size), jnp.float32), jnp.zeros((batch, 2, self.size), jnp.float32)

  def stats(self, x):
    """A layer's outputs [..., 2 S] as stats."""
    mean, spread = jnp.split(x.astype(jnp.float32), 2, -1)
    return jnp.stack([mean, 2 * jax.nn.sigmoid(spread / 2) + self.min_std], -2)

  def noise(self, key, shape):
    """For `sample`, standard normal [*shape, S]."""
    return jax.random.normal(key, (*shape, self.size))

  def sample(self, stats, noise: jax.Array | None):
    """mean + deviation · noise."""
    mean = stats[..., 0, :]
    return mean if noise is None else mean + stats[..., 1, :] * noise

  def draw(self, stats, noise: jax.Array | None):
    """`sample` without gradient."""
    return jax.lax.stop_gradient(self.sample(stats, noise))

  def kl(self, stats, other):
    """KL[p ‖ q] = Σ log(σ_q/σ_p) + (σ_p² + (μ_p - μ_q)²) / 2σ_q² - ½, [...]."""
    (mean, std), (mean_q, std_q) = (jnp.moveaxis(each, -2, 0) for each in (stats, other))
    return (jnp.log(std_q / std) + (std**2 + (mean - mean_q) ** 2) / (2 * std_q**2) - 0.5).sum(-1)


def latent(kind: str, size: int, classes: int, unimix: float, min_std: float):
  """'categorical' or 'gaussian'."""
  return Gaussian(size, min_std) if kind == 'gaussian' else Categorical(size, classes, unimix)
