"""Stochastic states: Gaussians and categoricals, against float64 by other means."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from harmony_jax import distributions as dists
from harmony_jax.rssm import RSSM, Categorical, Gaussian, RSSMSettings

RNG = np.random.default_rng(0)


def gaussian(shape=(6,), size=3):
  """(mean, std) in float64, and the stats."""
  mean, std = RNG.normal(size=(*shape, size)), RNG.uniform(0.15, 2.0, (*shape, size))
  return mean, std, jnp.asarray(np.stack([mean, std], -2), jnp.float32)


def test_the_kind_of_a_latent():
  of = lambda kind: (
    RSSM(
      config=RSSMSettings(latent=kind, stoch=8, classes=6, min_std=0.2, unimix=0.3),
      actions=2,
      embed=3,
    ).latents
  )
  assert of('gaussian') == Gaussian(8, 0.2) and of('categorical') == Categorical(8, 6, 0.3)
  for kind, outputs, shape in ((Gaussian(8), 16, (8,)), (Categorical(8, 6), 48, (8, 6))):
    assert (kind.outputs, kind.shape) == (outputs, shape)
    sample, description = kind.zeros(2)
    assert sample.shape == (2, *shape) and not sample.any() and not description.any()
    assert description.shape == kind.stats(jnp.zeros((2, outputs))).shape


def test_stats_of_a_gaussian():
  """The first half are means, the second half x makes deviations 2 sigmoid(x / 2) + 0.1."""
  x = jnp.array([[0.5, -3.0, 0.0, 2 * np.log(3)]])
  np.testing.assert_allclose(Gaussian(2).stats(x), [[[0.5, -3.0], [1.1, 1.6]]], rtol=1e-6)
  extremes = Gaussian(2).stats(jnp.asarray([0.0, 0.0, -1e4, 1e4]))
  np.testing.assert_allclose(extremes, [[0, 0], [0.1, 2.1]], rtol=1e-6)
  half = Gaussian(2, 0.2).stats(jnp.zeros(4, jnp.bfloat16))
  assert half.dtype == jnp.float32 and float(half[1, 0]) == pytest.approx(1.2)


def test_samples_of_a_gaussian():
  mean, std, description = gaussian()
  noise, kind = jnp.float32(RNG.normal(size=mean.shape)), Gaussian(3)
  found = kind.sample(description, noise)
  np.testing.assert_allclose(found, mean + std * noise, rtol=1e-5, atol=1e-6)
  for middle in (kind.sample(description, None), kind.mode(description)):
    np.testing.assert_array_equal(middle, description[:, 0])
  for of, draw in ((kind.sample, noise), (lambda s, _: kind.mode(s), 0 * noise)):
    slope = jax.grad(lambda s, of=of: of(s, noise).sum())(description)
    np.testing.assert_allclose(slope, np.stack([np.ones_like(noise), draw], -2), rtol=1e-6)
  draws = np.asarray(kind.noise(jax.random.key(0), (2000, 2)))
  assert draws.shape == (2000, 2, 3)
  assert stats.kstest(draws.ravel(), 'norm').pvalue > 1e-3


def test_kl_of_gaussians():
  """Against the integral of p log(p/q), dimension by dimension, and the closed form in float64."""
  (mean, std, p), (mean_q, std_q, q) = gaussian(), gaussian()
  kl = np.asarray(Gaussian(3).kl(p, q))
  closed = np.log(std_q / std) + (std**2 + (mean - mean_q) ** 2) / (2 * std_q**2) - 0.5
  np.testing.assert_allclose(kl, closed.sum(-1), rtol=1e-4)
  one, other = stats.norm(mean[0, 1], std[0, 1]), stats.norm(mean_q[0, 1], std_q[0, 1])
  integrand = lambda x: one.pdf(x) * (one.logpdf(x) - other.logpdf(x))
  ends = mean[0, 1] + 12 * std[0, 1] * np.array([-1, 1])
  np.testing.assert_allclose(
    closed[0, 1], integrate.quad(integrand, *ends, epsabs=1e-9)[0], rtol=1e-6
  )
  np.testing.assert_allclose(Gaussian(3).kl(p, p), 0, atol=1e-6)
  assert (kl > 0).all() and (np.abs(kl - np.asarray(Gaussian(3).kl(q, p))) > 1e-3).all()


@pytest.mark.parametrize('unimix', (0.04, 0.0))
def test_categorical_latents(unimix):
  kind = Categorical(5, 4, unimix)
  x = RNG.normal(size=(6, 20))
  description = kind.stats(jnp.float32(x))
  plain = np.exp(x.reshape(6, 5, 4))
  probs = (1 - unimix) * plain / plain.sum(-1, keepdims=True) + unimix / 4
  np.testing.assert_allclose(np.exp(description), probs, rtol=1e-5)
  for mode in (kind.sample(description, None), kind.mode(description)):
    np.testing.assert_allclose(mode, np.eye(4)[probs.argmax(-1)], atol=1e-6)
  noise = kind.noise(jax.random.key(0), (6,))
  assert noise.shape == (6, 5)
  drawn = dists.draw_one_hot(description, noise)
  np.testing.assert_allclose(kind.sample(description, noise), drawn, atol=1e-6)
  weight = jnp.float32(RNG.normal(size=(6, 5, 4)))
  slope = jax.grad(lambda s: (kind.sample(s, noise) * weight).sum())(description)
  wanted = jax.grad(lambda s: (jax.nn.softmax(s) * weight).sum())(description)
  np.testing.assert_allclose(slope, wanted, rtol=1e-5, atol=1e-7)
  other = kind.stats(jnp.zeros((6, 20)))
  kl = (probs * np.log(probs * 4)).sum((-1, -2))
  np.testing.assert_allclose(kind.kl(description, other), kl, rtol=1e-4)
