"""Task weighting: closed forms, gradients, and every rule against its equation."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from harmony_jax import harmony, method, settings
from harmony_jax.optimizers import OptimizerSettings, make_optimizer
from tests import small

LOSSES = {'observation': 2600.0, 'reward': 0.12, 'dynamics': 3.0}
TASKS = tuple(LOSSES)


def losses_of(values=LOSSES):
  return {k: jnp.float32(v) for k, v in values.items()}


def test_rectified():
  params = {k: jnp.float32(v) for k, v in zip(TASKS, (2.0, -1.0, 0.5))}
  total, state, metrics = small.jit(harmony.weigh)(losses_of(), params, ())
  wanted = sum(
    LOSSES[k] * np.exp(-float(s)) + np.log(1 + np.exp(float(s))) for k, s in params.items()
  )
  np.testing.assert_allclose(total, wanted, rtol=1e-6)
  assert state == ()
  np.testing.assert_allclose(metrics['reward/sigma'], np.exp(-1), rtol=1e-6)
  np.testing.assert_allclose(metrics['reward/weight'], np.exp(1), rtol=1e-6)
  np.testing.assert_allclose(metrics['reward/scaled'], 0.12 * np.exp(1), rtol=1e-6)


def test_authors_bracket():
  """[dyn/σ + log(1+σ)]·0.5/0.6 + [rep/σ]·0.1/0.6, as in the authors' code."""
  s, dyn, rep = 0.7, 2.0, 3.0
  loss = {'dynamics': jnp.float32(5 / 6 * dyn + 1 / 6 * rep)}
  rule, sigma = harmony.rectified({'dynamics': 5 / 6}), np.exp(s)
  total, _, _ = rule.weigh(loss, {'dynamics': jnp.float32(s)}, ())
  wanted = (dyn / sigma + np.log(1 + sigma)) * 0.5 / 0.6 + rep / sigma * 0.1 / 0.6
  np.testing.assert_allclose(total, wanted, rtol=1e-6)


def test_unrectified():
  losses, params = {'reward': jnp.float32(0.12)}, {'reward': jnp.float32(-1.5)}
  total, _, _ = harmony.unrectified().weigh(losses, params, ())
  np.testing.assert_allclose(total, 0.12 * np.exp(1.5) - 1.5, rtol=1e-6)


def test_fixed():
  rule = harmony.fixed({'reward': 100.0, 'observation': 0.0})
  params, state = rule.init(TASKS)
  assert not jax.tree.leaves(params)
  total, _, metrics = rule.weigh(losses_of(), params, state)
  np.testing.assert_allclose(total, 100 * 0.12 + 3.0, rtol=1e-6)
  assert metrics['dynamics/weight'] == 1


def test_reciprocal():
  """Each task counts as 1, and ε keeps that finite; gradients are those of constant weights."""
  rule = harmony.make('reciprocal', epsilon=0.08, weights={}, regularizer={})
  params, state = rule.init(['observation', 'reward'])
  total, state, _ = small.jit(rule.weigh)(losses_of(), params, state)
  np.testing.assert_allclose(total, 2600 / 2600.08 + 0.12 / 0.2 + 3.0, rtol=1e-5)
  np.testing.assert_allclose(state['reward'], 1 / 0.2, rtol=1e-5)
  perfect = {k: jnp.float32(0) for k in TASKS}
  assert rule.weigh(perfect, params, state)[1]['reward'] == np.float32(1 / 0.08)
  one = {'reward': state['reward']}
  gradient = jax.grad(lambda x: rule.weigh({'reward': x**2}, {}, one)[0])(jnp.float32(3.0))
  np.testing.assert_allclose(gradient, 2 * 3 / 9.08, rtol=1e-5)  # not zero, as d(L/L) would be


@pytest.mark.parametrize('loss', [1e-3, 0.12, 1.0, 13.0, 2600.0])
def test_closed_forms_are_the_minimum(loss):
  """Eq. 12: no other σ on a fine grid is better, the derivative is 0 there, and eq. 13 and the
  scale agree.
  """
  sigma = float(harmony.optimal_sigma(loss))
  value = lambda sigma: loss / sigma + np.log1p(sigma)
  assert value(sigma) <= value(sigma * np.linspace(0.5, 2, 301)).min() + 1e-9 * abs(value(sigma))
  np.testing.assert_allclose(-loss / sigma**2 + 1 / (1 + sigma), 0, atol=1e-5 / sigma)
  np.testing.assert_allclose(harmony.optimal_weight(loss), 1 / sigma, rtol=1e-6)
  np.testing.assert_allclose(harmony.optimal_scale(loss), loss / sigma, rtol=1e-5)
  assert loss / sigma < 1  # eq. 5: the harmonized scale stays below 1
  assert 1 / sigma < 1 / loss  # and the weight below the unrectified one


@pytest.mark.parametrize('rule', ['harmony', 'harmony_unrectified'])
def test_gradient_against_finite_differences(rule):
  weigh = harmony.RULES[rule]({'dynamics': 5 / 6}).weigh
  params = {k: jnp.float32(s) for k, s in zip(TASKS, (1.0, -0.5, 0.3))}
  losses = losses_of({'observation': 5.0, 'reward': 0.5, 'dynamics': 2.0})
  total = lambda params: weigh(losses, params, ())[0]
  gradient = jax.grad(total)(params)
  for task in TASKS:
    shifted = [float(total({**params, task: params[task] + d})) for d in (1e-2, -1e-2)]
    np.testing.assert_allclose(
      gradient[task], (shifted[0] - shifted[1]) / 2e-2, rtol=2e-3, atol=1e-4
    )


def test_tasks_without_harmonizer_have_weight_one():
  params, state = harmony.init(['reward'])
  total, _, metrics = harmony.weigh(losses_of(), params, state)
  np.testing.assert_allclose(total, 2600 + 3 + 0.12 + np.log(2), rtol=1e-6)
  assert not any(name.startswith('observation') for name in metrics)


def test_it_starts_at_sigma_one():
  params, _ = harmony.init(TASKS)
  chex.assert_trees_all_equal(params, {k: jnp.float32(0) for k in TASKS})


@pytest.mark.parametrize('regularizer', [{}, {'dynamics': 5 / 6}])
@pytest.mark.parametrize('name', ['harmony', 'harmony_unrectified'])
def test_from_losses_is_the_optimum(name, regularizer):
  rule = harmony.RULES[name](regularizer)
  params = harmony.from_losses(losses_of(), rule)
  gradient = jax.grad(lambda p: rule.weigh(losses_of(), p, ())[0])(params)
  chex.assert_trees_all_close(gradient, jax.tree.map(jnp.zeros_like, params), atol=1e-5)


def test_bad_input_is_named():
  with pytest.raises(ValueError, match='scalar'):
    harmony.weigh({'reward': jnp.ones(3)}, {}, ())
  with pytest.raises(ValueError, match='rewrad'):
    harmony.fixed({'rewrad': 2.0}).weigh(losses_of(), {}, ())
  with pytest.raises(ValueError, match='other'):
    harmony.weigh(losses_of(), {'other': jnp.float32(0)}, ())
  with pytest.raises(ValueError, match="regularizers of .'dynamics'. must be above 0"):
    harmony.rectified({'dynamics': 0.0}).init(TASKS)
  rule, losses = harmony.equilibrium(), {'observation': jnp.float32(9), 'kl': jnp.float32(2)}
  with pytest.raises(ValueError, match="running means for unknown tasks .'dynamics'"):
    rule.weigh(losses, *rule.init(list(losses)))  # three tasks, where it says two


def test_anyones_loop():
  """The README's ten lines: harmonizers beside a model in one optimiser, and the small loss is not
  drowned.
  """
  params = {'model': jnp.zeros(2), 'harmony': harmony.init(['big', 'small'])[0]}
  adam = optax.adam(0.02, b2=0.99)
  opt_state = adam.init(params)

  @small.jit
  def step(params, opt_state):
    def loss(params):
      a, b = params['model']
      losses = {'big': 1000 * (1 + (a - 3) ** 2), 'small': 0.01 * (1 + (b - 1) ** 2)}
      return harmony.weigh(losses, params['harmony'], ())[0]

    updates, opt_state_ = adam.update(jax.grad(loss)(params), opt_state)
    return optax.apply_updates(params, updates), opt_state_

  for _ in range(2000):
    params, opt_state = step(params, opt_state)
  np.testing.assert_allclose(params['model'], [3, 1], atol=0.05)
  np.testing.assert_allclose(
    np.exp(params['harmony']['big']), harmony.optimal_sigma(1000.0), rtol=0.05
  )


def test_sigma_arrives_within_a_short_run():
  """On constant losses each σ comes within 10 % of eq. 12 in fewer updates than the presets for
  CPUs have (5,500: 44,000 steps at train ratio 16), with their learning rate and β₂.

  The losses are those measured late in training on the catch game; the paper's rate would need ten
  times as many.
  """
  model_opt = settings.replace(method.entry('dreamerv3').settings, {'model_opt.lr': 1e-3}).model_opt
  losses = losses_of({'observation': 140.0, 'reward': 0.12, 'dynamics': 14.0})

  def train(rate, beta2):
    chain = make_optimizer(model_opt, rate, beta2)
    params = {'rest': jnp.zeros(()), 'harmony': harmony.init(TASKS)[0]}

    def step(carry, _):
      params, opt_state = carry
      gradient = jax.grad(lambda p: harmony.weigh(losses, p['harmony'], ())[0])(params)
      moved, opt_state = chain.update(gradient, opt_state, params)
      return (optax.apply_updates(params, moved), opt_state), None

    run = lambda: jax.lax.scan(step, (params, chain.init(params)), length=5500)[0][0]
    return {k: np.exp(float(s)) for k, s in small.jit(run)()['harmony'].items()}

  sigma = train(1.0, 0.99)
  for task, loss in losses.items():
    np.testing.assert_allclose(sigma[task], harmony.optimal_sigma(loss), rtol=0.1, err_msg=task)
  # A tenth of that rate is the paper's.
  assert train(0.1, 0.999)['observation'] < 0.5 * harmony.optimal_sigma(140.0)


@pytest.mark.parametrize('rates, own', [((1.0, 0.99), 0.99), ((), 0.9)])
def test_memory_of_the_model_and_of_harmonizers(rates, own):
  """β₂ is the model's; harmonizers have their own where one is given."""
  config = OptimizerSettings(lr=0.1, clip=1e9, beta2=0.9)
  transform, params = make_optimizer(config, *rates), {'rest': jnp.ones(2), 'harmony': jnp.ones(2)}
  state, second = transform.init(params), {}
  for gradient in (3.0, 1.0):
    grads = jax.tree.map(lambda x: gradient * x, params)
    second, state = transform.update(grads, state, params)
  for name, beta2 in (('rest', 0.9), ('harmony', own)):
    mean = (0.9 * 0.3 + 0.1) / (1 - 0.9**2)
    square = (beta2 * (1 - beta2) * 9 + 1 - beta2) / (1 - beta2**2)
    np.testing.assert_allclose(second[name], -0.1 * mean / square**0.5, rtol=1e-5)
