"""Gaussian latent states and the tanh-normal policy, against float64 by other means."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from harmony_jax import distributions as dists
from harmony_jax.behavior import Actor
from harmony_jax.latents import Categorical, Gaussian, latent
from harmony_jax.networks import Head

RNG = np.random.default_rng(0)
ACTOR = Actor(Head(3, 1, 4, (2, 2)), False, 'tanh_normal', samples=50)


def gaussian(shape=(6,), size=3):
  """(mean, std) in float64, and the stats."""
  mean, std = RNG.normal(size=(*shape, size)), RNG.uniform(0.15, 2.0, (*shape, size))
  return mean, std, jnp.asarray(np.stack([mean, std], -2), jnp.float32)


# Gaussian latents
# --------------------------------------------------------------------------------------------------


def test_the_kind_of_a_latent():
  assert latent('gaussian', 8, 6, 0.01, 0.2) == Gaussian(8, 0.2)
  assert latent('categorical', 8, 6, 0.01, 0.2) == Categorical(8, 6, 0.01)
  assert (
    Gaussian(8).outputs,
    Gaussian(8).shape,
    Categorical(8, 6).outputs,
    Categorical(8, 6).shape,
  ) == (16, (8,), 48, (8, 6))
  for kind in (Gaussian(8), Categorical(8, 6)):
    sample, description = kind.zeros(2)
    assert sample.shape == (2, *kind.shape) and not sample.any() and not description.any()
    assert description.shape == kind.stats(jnp.zeros((2, kind.outputs))).shape


def test_stats_of_a_gaussian():
  """The first half are means, the second half x makes deviations 2 sigmoid(x / 2) + 0.1."""
  x = np.array([[0.5, -3.0, 0.0, 2 * np.log(3)]])
  np.testing.assert_allclose(
    Gaussian(2).stats(jnp.asarray(x)), [[[0.5, -3.0], [1.1, 1.6]]], rtol=1e-6
  )
  extremes = Gaussian(2).stats(jnp.asarray([0.0, 0.0, -1e4, 1e4]))
  np.testing.assert_allclose(extremes, [[0, 0], [0.1, 2.1]], rtol=1e-6)
  half = Gaussian(2, 0.2).stats(jnp.zeros(4, jnp.bfloat16))
  assert half.dtype == jnp.float32 and float(half[1, 0]) == pytest.approx(1.2)


def test_samples_of_a_gaussian():
  mean, std, description = gaussian()
  noise = RNG.normal(size=mean.shape)
  kind = Gaussian(3)
  np.testing.assert_allclose(
    kind.sample(description, noise), mean + std * noise, rtol=1e-5, atol=1e-6
  )
  np.testing.assert_array_equal(kind.sample(description, None), description[:, 0])
  np.testing.assert_array_equal(kind.draw(description, noise), kind.sample(description, noise))
  np.testing.assert_allclose(
    jax.grad(lambda s: kind.sample(s, noise).sum())(description),
    np.stack([np.ones_like(noise), noise], -2),
    rtol=1e-6,
  )
  assert not jax.grad(lambda s: kind.draw(s, noise).sum())(description).any()
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
  reach = 12 * std[0, 1]
  number, _ = integrate.quad(
    lambda x: one.pdf(x) * (one.logpdf(x) - other.logpdf(x)),
    mean[0, 1] - reach,
    mean[0, 1] + reach,
    epsabs=1e-9,
  )
  np.testing.assert_allclose(closed[0, 1], number, rtol=1e-6)
  np.testing.assert_allclose(Gaussian(3).kl(p, p), 0, atol=1e-6)
  assert (kl > 0).all() and (np.abs(kl - np.asarray(Gaussian(3).kl(q, p))) > 1e-3).all()


def test_categorical_latents_are_those_of_the_distributions():
  kind = Categorical(5, 4, unimix=0.04)
  description = kind.stats(jnp.asarray(RNG.normal(size=(6, 20)), jnp.float32))
  probs = np.exp(np.asarray(description, np.float64))
  np.testing.assert_allclose(probs.sum(-1), 1, rtol=1e-5)
  assert probs.min() >= 0.01 * (1 - 1e-5)
  mode = kind.sample(description, None)
  np.testing.assert_allclose(mode, np.eye(4)[probs.argmax(-1)], atol=1e-6)
  noise = kind.noise(jax.random.key(0), (6,))
  assert noise.shape == (6, 5)
  np.testing.assert_array_equal(
    kind.draw(description, noise), dists.draw_one_hot(description, noise)
  )
  other = kind.stats(jnp.zeros((6, 20)))
  np.testing.assert_allclose(
    kind.kl(description, other), (probs * np.log(probs * 4)).sum((-1, -2)), rtol=1e-4
  )


# The tanh-normal policy
# ----------------------------------------------------------------------------------------------


def test_density_of_the_tanh_normal():
  """By the change of variables in float64; it integrates to 1 over the actions."""
  mean, std, _ = gaussian((200,), 1)
  action = np.tanh(np.clip(mean + std * RNG.normal(size=mean.shape), -4, 4))
  wanted = stats.norm(mean, std).logpdf(np.arctanh(action)) - np.log1p(-(action**2))
  found = dists.TanhNormal(jnp.float32(mean), jnp.float32(std)).log_prob(jnp.float32(action))
  # An action of float32 near ±1 stands for a range of x: those with |x| < 3 are compared closely.
  inner = np.abs(np.arctanh(action)) < 3
  np.testing.assert_allclose(np.asarray(found)[inner], wanted[inner], rtol=1e-3, atol=1e-3)
  np.testing.assert_allclose(found, wanted, rtol=0.05, atol=0.05)
  for mean, std in ((0.0, 0.3), (0.8, 0.5), (-1.0, 0.9)):
    grid = np.linspace(-1, 1, 200_001)[1:-1]
    density = np.exp(
      np.asarray(dists.TanhNormal(mean, std).log_prob(jnp.asarray(grid, jnp.float32)), np.float64)
    )
    np.testing.assert_allclose(np.trapezoid(density, grid), 1, rtol=2e-3)


def test_log_prob_of_a_draw_is_that_of_its_action():
  mean, std, _ = gaussian((200,), 1)
  noise = RNG.normal(size=mean.shape)
  policy = dists.TanhNormal(jnp.float32(mean), jnp.float32(std))
  x = mean + std * noise
  log_slope = np.log(4) - 2 * np.logaddexp(x, -x)  # of tanh: 1 / cosh²
  exact = stats.norm(mean, std).logpdf(x) - log_slope
  np.testing.assert_allclose(policy.log_prob_of(jnp.float32(noise)), exact, rtol=1e-4, atol=1e-4)
  inner = np.abs(x) < 3
  again = policy.log_prob(policy.sample(jnp.float32(noise)))
  np.testing.assert_allclose(np.asarray(again)[inner], exact[inner], rtol=1e-3, atol=1e-3)


def test_actions_at_the_bounds_are_finite():
  """tanh(12) is 1 in float32: no infinities, nor in gradients; `log_prob_of` is exact even there."""
  policy = lambda mean: dists.TanhNormal(jnp.float32(mean), jnp.float32(0.5))
  for mean in (12.0, -12.0):
    likely = policy(mean).log_prob_of(0.0)
    np.testing.assert_allclose(
      likely, stats.norm(0, 0.5).logpdf(0) - np.log(4) + 2 * np.logaddexp(12, -12), rtol=1e-5
    )
    assert np.isfinite(policy(mean).log_prob(policy(mean).sample(0.0)))
    assert np.isfinite(
      jax.grad(lambda m: policy(m).log_prob(jax.lax.stop_gradient(policy(m).sample(0.0))))(mean)
    )
    assert np.isfinite(jax.grad(lambda m: policy(m).log_prob_of(0.3))(mean))


def test_policy_parameters():
  """Mean 5 tanh(x / 5), deviation softplus(y) + 0.1."""
  params = ACTOR.head.init(jax.random.key(0), jnp.zeros((1, 3)))['params']
  feature = jnp.asarray(10 * RNG.normal(size=(7, 3)), jnp.float32)
  mean, spread = (
    np.asarray(each, np.float64) for each in ACTOR.head.apply({'params': params}, feature)
  )
  policy = ACTOR(params, feature)
  np.testing.assert_allclose(policy.mean, 5 * np.tanh(mean / 5), rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(policy.std, np.logaddexp(0, spread) + 0.1, rtol=1e-5)


def test_the_mode_is_the_likeliest_of_the_draws():
  mean, std, _ = gaussian((4,), 2)
  policy = dists.TanhNormal(jnp.float32(mean), jnp.float32(std))
  noise = ACTOR.noise(jax.random.key(1), (4, 50))
  assert noise.shape == (4, 50, 2) and ACTOR.estimates
  mode = np.asarray(ACTOR.mode(policy, noise))
  for row in range(4):
    x = mean[row] + std[row] * np.asarray(noise[row], np.float64)
    log_prob = (
      stats.norm(mean[row], std[row]).logpdf(x) - np.log(4) + 2 * np.logaddexp(x, -x)
    ).sum(-1)
    np.testing.assert_allclose(mode[row], np.tanh(x[log_prob.argmax()]), rtol=1e-5)
  # without draws the median
  np.testing.assert_allclose(ACTOR.mode(policy), np.tanh(mean), rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(
    ACTOR.sample(policy, noise[:, 0]), np.tanh(mean + std * noise[:, 0]), rtol=1e-5, atol=1e-6
  )


def test_entropy_is_estimated_from_draws():
  """Many draws come to the integral H(N) + E[log(1 - tanh²x)]; the estimate's gradient is that of
  the integral.
  """
  mean, std = np.array([[0.3, -1.0]]), np.array([[0.5, 0.8]])

  def exact(mean, std):
    normal = stats.norm(mean, std)
    slope, _ = integrate.quad(
      lambda x: normal.pdf(x) * (np.log(4) - 2 * np.logaddexp(x, -x)),
      mean - 10 * std,
      mean + 10 * std,
    )
    return normal.entropy() + slope

  wanted = sum(exact(*pair) for pair in zip(mean[0], std[0], strict=True))
  noise = ACTOR.noise(jax.random.key(0), (20_000, 1))
  entropy = lambda std: ACTOR.entropy(dists.TanhNormal(jnp.float32(mean), std), noise)[0]
  found, slope = jax.value_and_grad(entropy)(jnp.float32(std))
  np.testing.assert_allclose(found, wanted, atol=0.04)
  numeric = [
    (exact(m, s + 1e-4) - exact(m, s - 1e-4)) / 2e-4 for m, s in zip(mean[0], std[0], strict=True)
  ]
  np.testing.assert_allclose(slope[0], numeric, atol=0.05)
  few = ACTOR.entropy(dists.TanhNormal(jnp.float32(mean), jnp.float32(std)), noise[:3])
  likely = [dists.TanhNormal(mean, std).log_prob_of(each).sum() for each in np.asarray(noise[:3])]
  np.testing.assert_allclose(few, [-np.mean(likely)], rtol=1e-5)
