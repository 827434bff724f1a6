"""Two-hot coding, categoricals, Gaussians, policies, λ-returns, slow copies: known answers."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from scipy import integrate, stats

from harmony_jax import actions, rssm
from harmony_jax import distributions as dists
from harmony_jax.distributions import Percentiles, lambda_returns
from harmony_jax.methods import dreamer
from harmony_jax.optimizers import ema_update
from tests import small

RNG = np.random.default_rng(0)
LOG4 = np.log(4)


def test_symlog_and_symexp():
  x = jnp.array([-100.0, -1.0, 0.0, 0.5, 1e4])
  np.testing.assert_allclose(dists.symlog(x), np.sign(x) * np.log(1 + np.abs(x)), rtol=1e-6)
  np.testing.assert_allclose(dists.symexp(dists.symlog(x)), x, rtol=1e-4)


def test_two_hot_by_hand():
  bins = jnp.array([-2.0, 0.0, 1.0])
  x = jnp.array([-2.0, -0.5, 0.0, 0.25, 1.0, 7.0, -7.0])
  wanted = [[1, 0, 0], [0.25, 0.75, 0], [0, 1, 0], [0, 0.75, 0.25], [0, 0, 1], [0, 0, 1], [1, 0, 0]]
  np.testing.assert_allclose(dists.two_hot(x, bins), wanted, atol=1e-6)


def test_two_hot_is_bit_for_bit_that_of_bins_by_index():
  """At bins, between them, beyond the ends, and where a value is none."""
  bins = dists.two_hot_bins()
  x = np.concatenate([bins, RNG.uniform(-25, 25, 500), [np.inf, -np.inf, np.nan]])
  x = x.astype(np.float32)
  below = np.clip((bins <= x[:, None]).sum(-1) - 1, 0, 254)
  above = np.clip(255 - (bins > x[:, None]).sum(-1), 0, 254)
  apart = [np.where(below == above, 1, np.abs(bins[each] - x)) for each in (below, above)]
  span = apart[0] + apart[1]
  with np.errstate(invalid='ignore'):
    wanted = np.eye(255, dtype=np.float32)[below] * (apart[1] / span)[:, None]
    wanted += np.eye(255, dtype=np.float32)[above] * (apart[0] / span)[:, None]
  np.testing.assert_array_equal(dists.two_hot(jnp.asarray(x), bins), wanted)


@given(st.floats(-19.9, 19.9))
def test_two_hot_keeps_the_value(x):
  bins = dists.two_hot_bins()
  weights = np.asarray(dists.two_hot(jnp.float32(x), bins), np.float64)
  np.testing.assert_allclose(weights.sum(), 1, rtol=1e-5)
  assert (weights >= 0).all() and (weights > 0).sum() <= 2
  np.testing.assert_allclose((weights * bins).sum(), x, rtol=1e-4, atol=1e-4)


def test_two_hot_heads():
  """The mean is taken in symlog space; the loss is the cross entropy."""
  logits = jnp.full((255,), -1e9).at[127].set(0.0).at[254].set(0.0)  # bins 0 and 20
  np.testing.assert_allclose(dists.two_hot_mean(logits), np.expm1(10), rtol=1e-4)
  logits, target = jnp.float32(RNG.normal(size=(3, 255))), jnp.array([0.0, -3.7, 12.0])
  weights = dists.two_hot(dists.symlog(target), dists.two_hot_bins())
  wanted = -(np.asarray(weights) * np.asarray(jax.nn.log_softmax(logits))).sum(-1)
  for loss in (dists.two_hot_loss, dists.scalar('two_hot').loss):
    np.testing.assert_allclose(loss(logits, target), wanted, rtol=1e-5)
  assert dists.scalar('two_hot', 31).size == 31


def test_gaussian_heads():
  head, out = dists.scalar('gaussian'), jnp.float32(RNG.normal(size=(5, 1)))
  assert head.size == 1 and head.mean(out).shape == (5,)
  wanted = 0.5 * np.square(np.asarray(out)[:, 0] - 2)
  np.testing.assert_allclose(head.loss(out, jnp.full(5, 2.0)), wanted, rtol=1e-5)
  slope = jax.grad(lambda out: head.loss(out, 1 + head.mean(out)).sum())(out)
  np.testing.assert_allclose(slope, -1, rtol=1e-5)  # not through the target


def test_unimix():
  probs = np.exp(dists.unimix(jnp.array([100.0, 0, 0, 0]), 0.01))
  np.testing.assert_allclose(probs, [0.9925, 0.0025, 0.0025, 0.0025], rtol=1e-5)
  np.testing.assert_allclose(np.exp(dists.unimix(jnp.array([1.0, 2.0]), 0.0)).sum(), 1, rtol=1e-6)


def test_draws_of_one_hots():
  """Their frequencies are the probabilities; the mode, and the ends of the noise."""
  probs, uniform = np.array([0.1, 0.0, 0.6, 0.3]), (np.arange(10000) + 0.5) / 10000
  logits = jnp.log(jnp.broadcast_to(probs, (10000, 4)) + 1e-30)
  draws = np.asarray(dists.draw_one_hot(logits, jnp.asarray(uniform)))
  np.testing.assert_allclose(draws.mean(0), probs, atol=2e-4)
  assert (draws.sum(-1) == 1).all()
  logits = jnp.log(jnp.array([0.2, 0.5, 0.3]))
  for noise, index in ((None, 1), (jnp.float32(0.0), 0), (jnp.float32(1 - 2**-24), 2)):
    assert dists.draw_one_hot(logits, noise).argmax() == index


@pytest.mark.parametrize('precision', ['bfloat16', 'high'])
def test_draws_are_exact_whatever_products_are(precision):
  """The product that adds up their probabilities is told so."""
  with jax.default_matmul_precision(precision):
    text = jax.jit(dists.draw_one_hot).lower(jnp.zeros((3, 4)), jnp.zeros(3)).as_text()
  assert text.count('dot_general') == 1 and 'precision = [HIGHEST, HIGHEST]' in text


@pytest.mark.parametrize('noise, index', [(0.5, 1), (None, 2)])
def test_draws_have_the_probabilities_gradient(noise, index):
  logits, weight = jnp.array([0.3, -1.0, 0.5]), jnp.array([1.0, 2.0, 3.0])
  noise = None if noise is None else jnp.float32(noise)
  through = lambda l: (dists.draw_one_hot(l, noise) * weight).sum()
  value, gradient = jax.value_and_grad(through)(logits)
  np.testing.assert_allclose(value, index + 1, rtol=1e-6)
  wanted = jax.grad(lambda l: (jax.nn.softmax(l) * weight).sum())(logits)
  np.testing.assert_allclose(gradient, wanted, rtol=1e-6)


def test_kl_entropies_and_densities():
  p, q = np.array([0.7, 0.2, 0.1]), np.array([0.3, 0.3, 0.4])
  kl, entropy = (p * np.log(p / q)).sum(), -(p * np.log(p)).sum()
  found = rssm.Categorical(1, 3).kl(jnp.log(p)[None], jnp.log(q)[None])
  np.testing.assert_allclose(found, kl, rtol=1e-5)
  np.testing.assert_allclose(actions.OneHot(jnp.log(p)).entropy(), entropy, rtol=1e-5)
  np.testing.assert_allclose(
    dists.normal_log_prob(*jnp.array([1.0, 0.0, 2.0])), stats.norm(0, 2).logpdf(1), rtol=1e-6
  )
  np.testing.assert_allclose(
    dists.normal_entropy(jnp.float32(2.0)), stats.norm(0, 2).entropy(), rtol=1e-6
  )
  loss = dists.bernoulli_loss(jnp.array([100.0, -100.0, 0.0]), jnp.array([1.0, 1.0, 0.0]))
  np.testing.assert_allclose(loss, [0, 100, np.log(2)], atol=1e-6)


# ----------------------------------------------------------------------------------------------
# Returns and slow copies


def test_returns_by_hand():
  """R₁ = r₂ + γ₂ v₂ (bootstrap), R₀ = r₁ + γ₁ [(1-λ) v₁ + λ R₁]."""
  reward, discount = jnp.array([1.0, 2.0]), jnp.array([0.9, 0.5])
  value, last = jnp.array([10.0, 20.0]), 2 + 0.5 * 20
  returns = lambda_returns(reward, discount, value, value[-1], 0.8)
  np.testing.assert_allclose(returns, [1 + 0.9 * (0.2 * 10 + 0.8 * last), last], rtol=1e-6)


def test_extremes_of_returns():
  """λ=1 is the discounted sum with bootstrap, λ=0 the one-step target, and a zero discount cuts."""
  reward, value = (RNG.normal(size=(5, 3)).astype(np.float32) for _ in range(2))
  discount = np.full((5, 3), 0.9, np.float32)
  discount[2, 1] = 0
  inputs = [jnp.asarray(x) for x in (reward, discount, value, value[-1])]
  run = small.jit(lambda lam: lambda_returns(*inputs, lam))
  np.testing.assert_allclose(run(0.0), reward + discount * value, rtol=1e-5, atol=1e-6)
  total = value[-1]
  for t in reversed(range(5)):
    total = reward[t] + discount[t] * total
  np.testing.assert_allclose(run(1.0)[0], total, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('bad', [(4, 3), (5,)])
def test_shapes_are_checked(bad):
  """By the function, and in the tests by its annotations (conftest.py)."""
  for function, error in (
    (lambda_returns, TypeCheckError),
    (inspect.unwrap(lambda_returns), AssertionError),
  ):
    with pytest.raises(error):
      function(jnp.zeros((5, 3)), jnp.zeros(bad), jnp.zeros((5, 3)), jnp.zeros(3), 0.9)


def test_percentiles():
  """From 0, without correction; small ranges are not blown up."""
  one = Percentiles.zeros().update(jnp.arange(101.0))
  np.testing.assert_allclose([one.low, one.high], [0.05, 0.95], rtol=1e-5)
  other = one.update(jnp.arange(101.0), 0.5, 20.0, 70.0)
  np.testing.assert_allclose([other.low, other.high], [10.025, 35.475], rtol=1e-5)


def test_slow_copies():
  slow, fast = {'w': jnp.float32(0)}, {'w': jnp.float32(1)}
  values = [float(ema_update(slow, fast, jnp.int32(step), 0.25, 2)['w']) for step in range(5)]
  assert values == [1.0, 0.0, 0.25, 0.0, 0.25]


# ----------------------------------------------------------------------------------------------
# Policies

KINDS = {  # outputs -> mean and deviation
  'normal': (lambda x: np.tanh(x), lambda y: 0.8 / (1 + np.exp(-y - 2)) + 0.2),
  'trunc_normal': (lambda x: np.tanh(x), lambda y: 2 / (1 + np.exp(-y / 2)) + 0.2),
  'tanh_normal': (lambda x: 5 * np.tanh(x / 5), lambda y: np.logaddexp(0, y) + 0.2),
}


@pytest.mark.parametrize('name', KINDS)
def test_parameters_of_policies(name):
  config = actions.ActorSettings(distribution=name, min_std=0.2)
  outputs = RNG.normal(size=(2, 7, 3)) * 5
  policy = actions.CONTINUOUS[name].of(tuple(jnp.float32(outputs)), config)
  for found, function, x in zip(policy, KINDS[name], outputs):
    np.testing.assert_allclose(found, function(x), rtol=1e-4, atol=1e-6)


def test_normal_and_one_hot_policies():
  mean, std, noise = RNG.normal(size=(4, 3)), RNG.uniform(0.2, 2, (4, 3)), RNG.normal(size=(4, 3))
  policy, normal = actions.Normal(*jnp.float32([mean, std])), stats.norm(mean, std)
  np.testing.assert_allclose(policy.sample(jnp.float32(noise)), mean + std * noise, rtol=1e-5)
  np.testing.assert_allclose(policy.mode(), mean, rtol=1e-6)
  np.testing.assert_allclose(
    policy.log_prob(jnp.float32(noise)), normal.logpdf(noise).sum(-1), rtol=1e-4
  )
  np.testing.assert_allclose(policy.entropy(), normal.entropy().sum(-1), rtol=1e-4)
  probs = np.array([0.2, 0.5, 0.3])
  policy = actions.OneHot(jnp.log(probs))
  np.testing.assert_allclose(policy.mode(), [0, 1, 0], atol=1e-6)
  np.testing.assert_allclose(policy.sample(jnp.float32(0.9)), [0, 0, 1], atol=1e-6)
  np.testing.assert_allclose(policy.log_prob(jnp.eye(3)), np.log(probs), rtol=1e-5)
  np.testing.assert_allclose(policy.entropy(), -(probs * np.log(probs)).sum(), rtol=1e-5)


@pytest.mark.parametrize('mean, std', [(0.0, 0.5), (0.95, 0.1), (-0.999, 2.1)])
def test_truncated_normal_is_scipys(mean, std):
  theirs = stats.truncnorm((-1 - mean) / std, (1 - mean) / std, mean, std)
  ours = actions.TruncatedNormal(*jnp.float32([[mean], [std]]))
  np.testing.assert_allclose(ours.entropy(), theirs.entropy(), rtol=1e-4, atol=1e-4)
  x = jnp.linspace(-0.99, 0.99, 7)
  np.testing.assert_allclose(ours.log_prob(x[:, None]), theirs.logpdf(x), rtol=1e-4, atol=1e-4)
  uniform = jnp.array([[0.01], [0.3], [0.5], [0.9]])
  np.testing.assert_allclose(ours.sample(uniform), theirs.ppf(uniform), rtol=1e-3, atol=1e-3)
  np.testing.assert_allclose(ours.sample(None), theirs.ppf([0.5]), rtol=1e-3, atol=1e-3)
  np.testing.assert_allclose(ours.mode(), [mean], rtol=1e-6)


def test_truncated_normal_passes_gradients_at_the_edge(monkeypatch):
  """A draw that is kept from the bound still moves with its mean, as if it were not."""
  policy = lambda mean: actions.TruncatedNormal(mean[None], jnp.full(1, 0.5))
  sample = jax.value_and_grad(lambda mean: policy(mean).sample(jnp.full(1, 0.9))[0])
  free, slope = sample(jnp.float32(0.8))
  monkeypatch.setattr(actions, '_MARGIN', 0.2)
  kept, same = sample(jnp.float32(0.8))
  assert free > 0.8 and slope > 0.01
  np.testing.assert_allclose([kept, same], [0.8, slope], rtol=1e-6)


def tanh_normal(mean, std):
  return actions.TanhNormal(jnp.float32(mean), jnp.float32(std))


def test_density_of_the_tanh_normal():
  """By the change of variables in float64, for a draw and for its action; it integrates to 1."""
  mean, std = RNG.normal(size=(200, 1)), RNG.uniform(0.15, 2.0, (200, 1))
  noise = RNG.normal(size=mean.shape)
  x, policy = mean + std * noise, tanh_normal(mean, std)
  # log of the slope of tanh, 1 / cosh²
  exact = (stats.norm(mean, std).logpdf(x) - LOG4 + 2 * np.logaddexp(x, -x))[:, 0]
  np.testing.assert_allclose(policy.log_prob_of(jnp.float32(noise)), exact, rtol=1e-4, atol=1e-4)
  # An action of float32 near ±1 stands for a range of x: those with |x| < 3 are compared closely.
  again, inner = np.asarray(policy.log_prob(policy.sample(jnp.float32(noise)))), np.abs(x[:, 0]) < 3
  np.testing.assert_allclose(again[inner], exact[inner], rtol=1e-3, atol=1e-3)
  grid = np.linspace(-1, 1, 200_001)[1:-1]
  for mean, std in ((0.0, 0.3), (0.8, 0.5), (-1.0, 0.9)):
    density = np.exp(np.float64(tanh_normal(mean, std).log_prob(jnp.float32(grid[:, None]))))
    np.testing.assert_allclose(np.trapezoid(density, grid), 1, rtol=2e-3)


@pytest.mark.parametrize('mean', [12.0, -12.0])
def test_actions_at_the_bounds_are_finite(mean):
  """tanh(12) is 1 in float32: no infinities, nor in gradients; `log_prob_of` is exact."""
  policy = lambda mean: actions.TanhNormal(mean[None], jnp.full(1, 0.5))
  zero, mean = jnp.zeros(1), jnp.float32(mean)
  exact = stats.norm(0, 0.5).logpdf(0) - LOG4 + 2 * np.logaddexp(12, -12)
  np.testing.assert_allclose(policy(mean).log_prob_of(zero), exact, rtol=1e-5)
  action = policy(mean).sample(None)
  for function in (
    lambda m: policy(m).log_prob(action),
    lambda m: policy(m).log_prob_of(zero + 0.3),
  ):
    value, slope = jax.value_and_grad(function)(mean)
    assert np.isfinite(value) and np.isfinite(slope)


def actor_of(samples=50):
  config = actions.ActorSettings(1, 4, 'tanh_normal', samples)
  return actions.Actor.make(config, 3, 2, discrete=False)


def test_the_mode_is_the_likeliest_of_the_draws():
  mean, std = RNG.normal(size=(4, 2)), RNG.uniform(0.15, 2.0, (4, 2))
  policy, noise = tanh_normal(mean, std), actor_of().noise(jax.random.key(1), (4, 50))
  assert noise.shape == (4, 50, 2) and actor_of(7).samples == 7
  mode = np.asarray(policy.mode(noise))
  for row in range(4):
    x = mean[row] + std[row] * np.asarray(noise[row], np.float64)
    log_prob = stats.norm(mean[row], std[row]).logpdf(x) - LOG4 + 2 * np.logaddexp(x, -x)
    np.testing.assert_allclose(mode[row], np.tanh(x[log_prob.sum(-1).argmax()]), rtol=1e-5)
  for middle in (policy.mode(), policy.sample(None)):  # without draws the median
    np.testing.assert_allclose(middle, np.tanh(mean), rtol=1e-5, atol=1e-6)
  drawn = np.tanh(mean + std * np.asarray(noise[:, 0]))
  np.testing.assert_allclose(policy.sample(noise[:, 0]), drawn, rtol=1e-5, atol=1e-6)


def test_entropy_is_estimated_from_draws():
  """Many draws come to the integral H(N) + E[log(1 - tanh²x)], with its gradient; without draws
  it is the middle's -log π, state by state.
  """
  mean, std = np.array([[0.3, -1.0]]), np.array([[0.5, 0.8]])

  def exact(mean, std):
    normal, ends = stats.norm(mean, std), mean + 10 * std * np.array([-1, 1])
    slope = lambda x: normal.pdf(x) * (LOG4 - 2 * np.logaddexp(x, -x))
    return normal.entropy() + integrate.quad(slope, *ends)[0]

  pairs = list(zip(mean[0], std[0], strict=True))
  noise = actor_of().noise(jax.random.key(0), (20_000, 1))
  entropy = lambda std: tanh_normal(mean, std).entropy(noise)[0]
  found, slope = jax.value_and_grad(entropy)(jnp.float32(std))
  np.testing.assert_allclose(found, sum(exact(*pair) for pair in pairs), atol=0.04)
  numeric = [(exact(m, s + 1e-4) - exact(m, s - 1e-4)) / 2e-4 for m, s in pairs]
  np.testing.assert_allclose(slope[0], numeric, atol=0.05)
  likely = [tanh_normal(mean, std).log_prob_of(each) for each in noise[:3]]
  np.testing.assert_allclose(
    tanh_normal(mean, std).entropy(noise[:3]), -np.mean(likely, 0), rtol=1e-5
  )
  states = tanh_normal(RNG.normal(size=(4, 5, 2)), np.ones((4, 5, 2)))
  middle = -np.asarray(states.log_prob_of(jnp.zeros((4, 5, 2))))
  np.testing.assert_allclose(states.entropy(), middle, rtol=1e-6)


def product(rest=None):
  """Probabilities (0.5, 0.3, 0.2) and (0.9, 0.1), and what stands behind them."""
  logits = [jnp.log(jnp.float32([probs])) for probs in ((0.5, 0.3, 0.2), (0.9, 0.1))]
  return actions.Product(tuple(map(actions.OneHot, logits)), rest)


NORMAL = actions.Normal(jnp.float32([[0.2]]), jnp.float32([[0.5]]))
ACTION = jnp.float32([[0, 1, 0, 1, 0]])  # the second of 3 and the first of 2


def test_a_product_is_a_sum_over_its_parts():
  """log 0.3 + log 0.9; entropies of both; N(0.7; 0.2, 0.5) and ½ log(2πe) + log 0.5 behind them."""
  entropy = -sum(p * np.log(p) for p in (0.5, 0.3, 0.2, 0.9, 0.1))
  np.testing.assert_allclose(product().log_prob(ACTION), [np.log(0.27)], rtol=1e-6)
  np.testing.assert_allclose(product().entropy(), [entropy], rtol=1e-6)
  mixed, action = product(NORMAL), jnp.concatenate([ACTION, jnp.float32([[0.7]])], -1)
  normal = -0.5 - np.log(0.5) - 0.5 * np.log(2 * np.pi)
  np.testing.assert_allclose(mixed.log_prob(action), [np.log(0.27) + normal], rtol=1e-6)
  spread = 0.5 * np.log(2 * np.pi * np.e) + np.log(0.5)
  np.testing.assert_allclose(mixed.entropy(), [entropy + spread], rtol=1e-6)


def test_a_product_draws_each_part_by_its_own_noise():
  """Exact one-hots: 0.6 lies in the second of (0.5, 0.3, 0.2), 0.95 in the second of (0.9, 0.1)."""
  noise, mixed = jnp.float32([[0.6, 0.95, 2.0]]), product(NORMAL)
  np.testing.assert_array_equal(product().sample(noise[:, :2]), [[0, 1, 0, 0, 1]])
  np.testing.assert_allclose(mixed.sample(noise), [[0, 1, 0, 0, 1, 1.2]])
  for middle in (mixed.mode(), mixed.mode(noise), mixed.sample(None)):
    np.testing.assert_allclose(middle, [[1, 0, 0, 1, 0, 0.2]])


def test_gradients_of_products():
  """REINFORCE: advantage · (one-hot - p) for each factor, (a - μ) / σ² behind them; samples have
  the probabilities' gradient.
  """
  config, kind = actions.ActorSettings(unimix=0.0), actions.Factored((3, 2), actions.Normal)
  logits = np.log([[0.5, 0.3, 0.2, 0.9, 0.1]]).astype(np.float32)
  mean, spread = jnp.arctanh(jnp.float32([[0.2]])), jnp.zeros((1, 1))
  action = jnp.concatenate([ACTION, jnp.float32([[0.7]])], -1)

  def objective(logits, mean):
    policy = kind.of((logits, mean, spread), config)
    return dreamer.reinforce.objective(policy, action, jnp.zeros(1), jnp.float32([2.0]))[0]

  of_logits, of_mean = jax.grad(objective, (0, 1))(logits, mean)
  np.testing.assert_allclose(of_logits, [[-1, 1.4, -0.4, 0.2, -0.2]], rtol=1e-5)
  std = 0.9 / (1 + np.exp(-2)) + 0.1
  np.testing.assert_allclose(of_mean, [[2 * 0.5 / std**2 * (1 - 0.2**2)]], rtol=1e-5)
  worth = jnp.float32([1, 0, 0, 0, 1, 0])
  sample = lambda logits: (kind.of((logits, mean, spread), config).sample(None) @ worth)[0]
  slopes = [0.25, -0.15, -0.1, -0.09, 0.09]  # p₁(1 - p₁), -p₁p₂, -p₁p₃; -q₂q₁, q₂(1 - q₂)
  np.testing.assert_allclose(jax.grad(sample)(logits), [slopes], rtol=1e-5)


def test_actors_of_products():
  """Outputs and noise of the parts; a share of uniform choices; a single choice is certain."""
  make = lambda kind, count, choices: actions.Actor.make(
    actions.ActorSettings(1, 4, kind, 7), 3, count, False, choices
  )
  for kind, law in (('normal', 'norm'), ('trunc_normal', 'uniform'), ('tanh_normal', 'norm')):
    actor = make(kind, 7, (3, 2))
    assert actor.head.outputs == (5, 2, 2) and actor.samples == (7 if kind == 'tanh_normal' else 0)
    noise = np.asarray(actor.noise(jax.random.key(0), (2000,)))
    assert noise.shape == (2000, 4)
    assert stats.kstest(noise[:, :2].ravel(), 'uniform').pvalue > 1e-3
    assert stats.kstest(noise[:, 2:].ravel(), law).pvalue > 1e-3
  draws = jax.random.normal(jax.random.key(1), (7, 4))[:, None]  # [samples, 1, …]
  policy = product(tanh_normal([[0.3, -1.0]], [[0.5, 0.8]]))
  expected = product().entropy() + policy.rest.entropy(draws[..., 2:])
  np.testing.assert_allclose(policy.entropy(draws), expected, rtol=1e-6)
  mode = policy.mode(jnp.moveaxis(draws, 0, 1))
  np.testing.assert_array_equal(mode[:, 5:], policy.rest.mode(jnp.moveaxis(draws, 0, 1)[..., 2:]))
  actor = make('tanh_normal', 4, (1, 3))
  assert actor.head.outputs == (4,) and actor.samples == 0
  config = actions.ActorSettings(unimix=0.3)
  policy = actor.kind.of(jnp.float32([[5, 100, 0, 0]]), config)
  likely = [policy.log_prob(jnp.float32([[1, *choice]]))[0] for choice in np.eye(3)]
  np.testing.assert_allclose(np.exp(likely), [0.8, 0.1, 0.1], rtol=1e-5)


def test_noise_of_actors():
  """Uniform for one-hots and truncated normals, standard normal for others; [..., A]."""
  draw = lambda kind, discrete: actions.Actor.make(
    actions.ActorSettings(distribution=kind), 3, 2, discrete
  ).noise(jax.random.key(0), (2000,))
  for kind, discrete, law in (
    ('normal', True, 'uniform'),
    ('trunc_normal', False, 'uniform'),
    ('normal', False, 'norm'),
    ('tanh_normal', False, 'norm'),
  ):
    noise = np.asarray(draw(kind, discrete))
    assert noise.shape == ((2000,) if discrete else (2000, 2))
    assert stats.kstest(noise.ravel(), law).pvalue > 1e-3
