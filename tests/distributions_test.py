"""Two-hot coding, categoricals, Gaussians, λ-returns and the percentile normaliser, on known
answers.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from harmony_jax import distributions as dists
from harmony_jax.returns import Percentiles, lambda_returns


def test_symlog_and_symexp():
  x = jnp.array([-100.0, -1.0, 0.0, 0.5, 1e4])
  np.testing.assert_allclose(dists.symlog(x), np.sign(x) * np.log(1 + np.abs(x)), rtol=1e-6)
  np.testing.assert_allclose(dists.symexp(dists.symlog(x)), x, rtol=1e-4)


def test_two_hot_by_hand():
  bins = jnp.array([-2.0, 0.0, 1.0])
  x = jnp.array([-2.0, -0.5, 0.0, 0.25, 1.0, 7.0, -7.0])
  np.testing.assert_allclose(
    dists.two_hot(x, bins),
    [[1, 0, 0], [0.25, 0.75, 0], [0, 1, 0], [0, 0.75, 0.25], [0, 0, 1], [0, 0, 1], [1, 0, 0]],
    atol=1e-6,
  )


@given(st.floats(-19.9, 19.9))
def test_two_hot_keeps_the_value(x):
  bins = dists.two_hot_bins()
  weights = np.asarray(dists.two_hot(jnp.float32(x), bins), np.float64)
  np.testing.assert_allclose(weights.sum(), 1, rtol=1e-5)
  assert (weights >= 0).all() and (weights > 0).sum() <= 2
  np.testing.assert_allclose((weights * bins).sum(), x, rtol=1e-4, atol=1e-4)


def test_two_hot_mean_is_taken_in_symlog_space():
  logits = jnp.full((255,), -1e9).at[127].set(0.0).at[254].set(0.0)  # bins 0 and 20
  np.testing.assert_allclose(dists.two_hot_mean(logits), np.expm1(10), rtol=1e-4)


def test_two_hot_loss_is_cross_entropy():
  logits = jax.random.normal(jax.random.key(0), (3, 255))
  target = jnp.array([0.0, -3.7, 12.0])
  weights = dists.two_hot(dists.symlog(target), dists.two_hot_bins())
  wanted = -(np.asarray(weights) * np.asarray(jax.nn.log_softmax(logits))).sum(-1)
  np.testing.assert_allclose(dists.two_hot_loss(logits, target), wanted, rtol=1e-5)


def test_unimix():
  probs = np.exp(dists.unimix(jnp.array([100.0, 0, 0, 0]), 0.01))
  np.testing.assert_allclose(probs, [0.9925, 0.0025, 0.0025, 0.0025], rtol=1e-5)
  np.testing.assert_allclose(np.exp(dists.unimix(jnp.array([1.0, 2.0]), 0.0)).sum(), 1, rtol=1e-6)


def test_draws_have_the_right_frequencies():
  probs = np.array([0.1, 0.0, 0.6, 0.3])
  uniform = (np.arange(10000) + 0.5) / 10000
  draws = dists.draw_one_hot(
    jnp.log(jnp.broadcast_to(probs, (10000, 4)) + 1e-30), jnp.asarray(uniform)
  )
  np.testing.assert_allclose(draws.mean(0), probs, atol=2e-4)
  chex.assert_trees_all_equal(draws.sum(-1), jnp.ones(10000))


def test_mode_and_edges_of_draws():
  logits = jnp.log(jnp.array([0.2, 0.5, 0.3]))
  assert dists.draw_one_hot(logits, None).argmax() == 1
  assert dists.draw_one_hot(logits, jnp.float32(0.0)).argmax() == 0
  assert dists.draw_one_hot(logits, jnp.float32(1 - 2**-24)).argmax() == 2


def test_straight_through():
  logits = jnp.array([0.3, -1.0, 0.5])
  sample = jnp.array([0.0, 1.0, 0.0])
  weight = jnp.array([1.0, 2.0, 3.0])
  value, gradient = jax.value_and_grad(
    lambda l: (dists.straight_through(sample, l) * weight).sum()
  )(logits)
  np.testing.assert_allclose(value, 2, rtol=1e-6)
  chex.assert_trees_all_close(
    gradient, jax.grad(lambda l: (jax.nn.softmax(l) * weight).sum())(logits)
  )


def test_kl_and_entropy():
  p, q = np.array([0.7, 0.2, 0.1]), np.array([0.3, 0.3, 0.4])
  np.testing.assert_allclose(
    dists.categorical_kl(jnp.log(p), jnp.log(q)), (p * np.log(p / q)).sum(), rtol=1e-5
  )
  np.testing.assert_allclose(
    dists.categorical_entropy(jnp.log(p)), -(p * np.log(p)).sum(), rtol=1e-5
  )


def test_bernoulli_is_safe():
  loss = dists.bernoulli_loss(jnp.array([100.0, -100.0, 0.0]), jnp.array([1.0, 1.0, 0.0]))
  np.testing.assert_allclose(loss, [0, 100, np.log(2)], atol=1e-6)


def test_gaussian():
  np.testing.assert_allclose(
    dists.normal_log_prob(1.0, 0.0, 2.0), -0.125 - np.log(2) - 0.5 * np.log(2 * np.pi), rtol=1e-6
  )
  np.testing.assert_allclose(
    dists.normal_entropy(jnp.float32(2.0)), 0.5 * np.log(2 * np.pi * np.e * 4), rtol=1e-6
  )


class ReturnsTest(chex.TestCase):
  @chex.variants(with_jit=True, without_jit=True)
  def test_by_hand(self):
    """R₁ = r₂ + γ₂ v₂ (bootstrap), R₀ = r₁ + γ₁ [(1-λ) v₁ + λ R₁]."""
    reward, discount = jnp.array([1.0, 2.0]), jnp.array([0.9, 0.5])
    value = jnp.array([10.0, 20.0])
    last = 2 + 0.5 * 20
    returns = self.variant(lambda *a: lambda_returns(*a, lam=0.8))(
      reward, discount, value, value[-1]
    )
    np.testing.assert_allclose(returns, [1 + 0.9 * (0.2 * 10 + 0.8 * last), last], rtol=1e-6)

  @chex.variants(with_jit=True, without_jit=True)
  def test_extremes(self):
    """λ=1 is the discounted sum with bootstrap, λ=0 the one-step target, and a zero discount cuts."""
    reward = jax.random.normal(jax.random.key(0), (5, 3))
    value = jax.random.normal(jax.random.key(1), (5, 3))
    discount = jnp.full((5, 3), 0.9).at[2, 1].set(0.0)
    run = lambda lam: self.variant(lambda *a: lambda_returns(*a, lam=lam))(
      reward, discount, value, value[-1]
    )
    np.testing.assert_allclose(run(0.0), reward + discount * value, rtol=1e-5, atol=1e-6)
    total = np.asarray(value[-1])
    for t in reversed(range(5)):
      total = np.asarray(reward[t]) + np.asarray(discount[t]) * total
    np.testing.assert_allclose(run(1.0)[0], total, rtol=1e-5, atol=1e-6)


def test_percentiles():
  returns = jnp.arange(101.0)
  one = Percentiles.zeros().update(returns)
  # 0.99·0 + 0.01·percentile, no correction
  np.testing.assert_allclose([one.low, one.high], [0.05, 0.95], rtol=1e-5)
  assert one.scale() == 1.0  # never below the minimum
  state = one
  for _ in range(2000):
    state = state.update(returns)
  np.testing.assert_allclose(state.scale(), 90, rtol=1e-3)


@pytest.mark.parametrize('bad', [(4, 3), (5,)])
def test_shapes_are_checked(bad):
  with pytest.raises(AssertionError):
    lambda_returns(jnp.zeros((5, 3)), jnp.zeros(bad), jnp.zeros((5, 3)), jnp.zeros(3), 0.9)


@pytest.mark.parametrize('mean,std', [(0.0, 0.5), (0.95, 0.1), (-0.999, 2.1), (0.3, 1.0)])
def test_truncated_normal_is_scipys(mean, std):
  theirs = stats.truncnorm((-1 - mean) / std, (1 - mean) / std, mean, std)
  ours = dists.TruncatedNormal(jnp.float32(mean), jnp.float32(std))
  np.testing.assert_allclose(ours.entropy(), theirs.entropy(), rtol=1e-4, atol=1e-4)
  x = np.linspace(-0.99, 0.99, 7, dtype=np.float32)
  np.testing.assert_allclose(ours.log_prob(x), theirs.logpdf(x), rtol=1e-4, atol=1e-4)
  uniform = np.array([0.01, 0.3, 0.5, 0.9], np.float32)
  np.testing.assert_allclose(ours.sample(uniform), theirs.ppf(uniform), rtol=1e-3, atol=1e-3)


def test_truncated_normal_passes_gradients_at_the_edge():
  """A draw that is clipped away from the bound still moves with its mean, as if it were not
  clipped.
  """

  def sample(mean, margin):
    return dists.TruncatedNormal(mean, jnp.float32(0.5)).sample(0.9, margin)

  free, slope = jax.value_and_grad(sample)(jnp.float32(0.8), 1e-6)
  clipped, same = jax.value_and_grad(sample)(jnp.float32(0.8), 0.2)
  assert free > 0.8 and slope > 0.01
  np.testing.assert_allclose([clipped, same], [0.8, slope], rtol=1e-6)


@pytest.mark.parametrize('distribution,size', [('gaussian', 1), ('two_hot', 255)])
def test_scalar_heads(distribution, size):
  head = dists.scalar(distribution)
  out = jax.random.normal(jax.random.key(0), (5, size))
  assert head.size == size and head.mean(out).shape == (5,)
  if distribution == 'gaussian':
    np.testing.assert_allclose(
      head.loss(out, jnp.full(5, 2.0)), 0.5 * np.square(np.asarray(out)[:, 0] - 2), rtol=1e-5
    )
  best = jax.grad(lambda out: head.loss(out, head.mean(out)).sum())(out)
  assert distribution == 'two_hot' or not best.any()
