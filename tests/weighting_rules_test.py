"""The rules that look at the past or at gradients, against recorded answers and by hand.

Recorded: `weighting_rules.npz` in $HARMONY_PARITY_DIR, in float64 unless the authors' code made it.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from harmony_jax import harmony
from tests import parity, small
from tests.runs import From, Killed, config_of, die, lines, train

FILE = parity.FOLDER / 'weighting_rules.npz'


@pytest.fixture(scope='module')
def recorded():
  """The recorded arrays of a group, without its name: `recorded('dwa')`."""
  if not FILE.is_file():
    pytest.skip(f'no {FILE.name} in {parity.FOLDER} (set HARMONY_PARITY_DIR)')
  with np.load(FILE) as data:
    arrays = dict(data)
  return lambda group: {
    name.removeprefix(f'{group}/'): array
    for name, array in arrays.items()
    if name.startswith(f'{group}/')
  }


@pytest.fixture
def float64():
  with jax.enable_x64(True):
    yield


def named(values):
  """Losses in the order of their names."""
  return {f'task{i}': value for i, value in enumerate(jnp.asarray(values))}


def play(rule, losses):
  """Weigh one step after the other; return (weights used [steps, tasks], totals [steps])."""
  params, state = rule.init(list(named(losses[0])))
  weigh, weights, totals = small.jit(rule.weigh), [], []
  for step in losses:
    total, state, metrics = weigh(named(step), params, state)
    weights.append([metrics[f'{task}/weight'] for task in named(step)])
    totals.append(total)
  return np.array(weights), np.array(totals)


# --------------------------------------------------------------------------------------------------
# Uncertainty


@pytest.mark.parametrize('name', ['harmony', 'uncertainty', 'uncertainty_library'])
def test_optima_of_constant_losses(recorded, name, float64):
  """At the recorded σ the gradient is zero, and weight and smallest value are as recorded; that is
  also where `from_losses` starts."""
  known, constant = recorded(name), recorded('constant')
  rule = harmony.make(name, elements={'observation': int(constant.pop('pixels'))})
  for task, losses in constant.items():
    optima = known.get(f'{task}/logvar')
    optima = np.log(known[f'{task}/sigma']) if optima is None else optima
    for i, (loss, s) in enumerate(zip(losses, optima, strict=True)):
      weigh = lambda s: rule.weigh({task: jnp.asarray(loss)}, {task: s}, ())
      value, slope = jax.value_and_grad(lambda s: weigh(s)[0])(jnp.float64(s))
      wanted = known[f'{task}/minimum'][i]
      np.testing.assert_allclose(value, wanted, rtol=1e-6, atol=1e-6)
      np.testing.assert_allclose(slope, 0, atol=1e-9 * max(1, abs(wanted)))
      weight = weigh(jnp.float64(s))[2][f'{task}/weight']
      np.testing.assert_allclose(weight, known[f'{task}/weight'][i], rtol=1e-6)
      start = harmony.from_losses({task: jnp.asarray(loss)}, rule)[task]
      np.testing.assert_allclose(start, s, rtol=1e-5, atol=1e-5)


def test_a_run_of_the_library(recorded):
  known, rule = recorded('uncertainty_library/run'), harmony.uncertainty_library()
  losses, adam = named(known['losses']), optax.adam(float(known['lr']))
  params, state = rule.init(losses)
  opt_state, found = adam.init(params), []
  slope = jax.grad(lambda params: rule.weigh(losses, params, state)[0])
  step = small.jit(lambda params, opt_state: adam.update(slope(params), opt_state))
  for _ in range(int(known['step'][-1])):
    updates, opt_state = step(params, opt_state)
    params = optax.apply_updates(params, updates)
    found.append([params[task] for task in losses])
  np.testing.assert_allclose(np.array(found)[known['step'] - 1], known['logvar'], atol=2e-4)


# --------------------------------------------------------------------------------------------------
# Dynamic weight average


@pytest.mark.parametrize('group', ['dwa', 'dwa_short'])
def test_dwa_of_the_library(recorded, group):
  known = recorded(group)
  of = dict(window=int(known['window']), temperature=float(known['temperature']))
  weights, totals = play(harmony.dwa(**of), known['losses'])
  np.testing.assert_allclose(weights, known['weights_authors'], rtol=1e-5)
  # they take the mean of the weighed losses
  np.testing.assert_allclose(totals / weights.shape[1], known['weighted_loss_authors'], rtol=1e-5)
  weights, _ = play(harmony.dwa(**of, form='full'), known['losses'])
  np.testing.assert_allclose(weights, known['weights_full_windows'], rtol=1e-5)


@pytest.mark.parametrize('window', [1, 4])
def test_dwa_by_epochs(recorded, window):
  """Epochs of one step, and of several with the same mean."""
  known = recorded('dwa_paper')
  shift = np.linspace(-0.1, 0.1, window)[:, None] if window > 1 else np.zeros((1, 1))
  steps = (known['epoch_losses'][:, None] * (1 + shift)).reshape(-1, known['weights'].shape[1])
  weights, _ = play(harmony.make('dwa_epochs', window=window), steps)
  np.testing.assert_allclose(weights, known['weights'].repeat(window, 0), rtol=1e-5)


# --------------------------------------------------------------------------------------------------
# NashMTL


nash_weights = small.jit(harmony.nash_weights)


def nash_cases():
  """The names of the recorded ones."""
  if not FILE.is_file():
    return ['nash']
  with np.load(FILE) as data:
    return sorted({name.rpartition('/')[0] for name in data.files if name.startswith('nash/')})


@pytest.mark.parametrize('case', nash_cases())
def test_nash_weights(recorded, case):
  known = recorded(case)
  found = nash_weights(jnp.float32(known['gram']))
  np.testing.assert_allclose(found, known['alpha'], rtol=1e-4)
  with jax.enable_x64(True):
    found = nash_weights(jnp.asarray(known['gram']))
    np.testing.assert_allclose(found, known['alpha'], rtol=1e-10)


def test_one_call_of_nash_mtl(recorded):
  """Weights, total, and the gradients left: what is shared is clipped, the heads are not."""
  known, rule = recorded('nash_backward'), harmony.nash_mtl()
  shared = {'weight': known['shared_weight'], 'bias': known['shared_bias']}

  def losses(shared, heads):
    out = jnp.tanh(known['x'] @ shared['weight'].T + shared['bias']) @ heads.T
    return named(known['scale'] * jnp.square(out - known['y']).mean(0))

  @small.jit
  def call(shared, heads):
    found, own = losses(shared, heads), jax.jacrev(losses)(shared, heads)
    flat = {k: jnp.concatenate([g['weight'].ravel(), g['bias']]) for k, g in own.items()}
    state = rule.balance(found, flat, rule.init(list(found))[1])
    total = lambda *params: rule.weigh(losses(*params), {}, state)[0]
    value, left = jax.value_and_grad(total, (0, 1))(shared, heads)
    clip = optax.clip_by_global_norm(rule.clip)
    clipped, _ = clip.update(left[0], optax.EmptyState())
    return found, state, value, optax.tree.norm(left[0]), clipped, left[1]

  found, weights, total, norm, of_shared, of_heads = call(shared, known['heads'])
  np.testing.assert_allclose(list(found.values()), known['losses'], rtol=1e-5)
  np.testing.assert_allclose([weights[task] for task in found], known['alpha'], rtol=1e-5)
  np.testing.assert_allclose(total, known['total'], rtol=1e-5)
  np.testing.assert_allclose(norm, np.sqrt(len(found)), rtol=1e-5)
  small.close(of_shared['weight'], known['grad_shared_weight'])
  small.close(of_shared['bias'], known['grad_shared_bias'])
  small.close(of_heads, known['grad_heads'])


@pytest.mark.parametrize('seed', range(4))
def test_nash_weights_solve_their_equation(seed):
  """Also for gradients decades apart and nearly dependent; a task without any has weight 1."""
  rng = np.random.default_rng(seed)
  count = 2 + seed % 3
  own = rng.normal(size=(count, 50)) + 3 * rng.normal(size=50)
  own *= 10.0 ** rng.uniform(-4, 4, (count, 1))
  gram = own @ own.T
  found = np.float64(nash_weights(jnp.float32(gram)))
  np.testing.assert_allclose(found * (gram @ found), 1, rtol=1e-3)
  more = nash_weights(jnp.float32(np.pad(gram, (0, 1))))
  np.testing.assert_allclose(more, [*found, 1], rtol=1e-3)


@pytest.mark.parametrize('count', [2, 3])
def test_nash_weights_of_gradients_that_nearly_cancel(count):
  """Each of a norm of its own; of those that cancel altogether the weights stay numbers."""
  rng = np.random.default_rng(count)
  own = rng.normal(size=(count, 50))
  for noise, close in ((0.1, 0.03), (0.0, 1e9)):
    own[-1] = noise * rng.normal(size=50) - own[:-1].sum(0)
    scaled = own * 10.0 ** rng.uniform(-4, 4, (count, 1))
    gram = scaled @ scaled.T
    found = np.float64(nash_weights(jnp.float32(gram)))
    np.testing.assert_allclose(found * (gram @ found), 1, rtol=close)
    assert (found > 0).all() and (found * np.linalg.norm(scaled, axis=1) < 2e3).all()


# --------------------------------------------------------------------------------------------------
# GradNorm


@pytest.mark.parametrize('group', ['gradnorm', 'gradnorm_sgd'])
def test_gradnorm(recorded, group, float64):
  """Steps of model and weights, from weights of 1."""
  known = recorded(group)
  rate, adam = float(known['lr_weights']), group == 'gradnorm'
  rule = harmony.gradnorm(float(known['alpha']), rate, adam)

  def losses(shared, heads):
    out = jnp.tanh(known['x'] @ shared.T) @ heads.T
    return named(jnp.square(out - known['y']).mean(0))

  @jax.jit
  def step(shared, heads, state):
    found = losses(shared, heads)
    own = jax.jacrev(losses)(shared, heads)
    after = rule.balance(found, {task: x.ravel() for task, x in own.items()}, state)
    total = lambda *params: rule.weigh(losses(*params), {}, after)[0]
    move = jax.grad(total, (0, 1))(shared, heads)
    return [x - known['lr_model'] * g for x, g in zip((shared, heads), move)], found, after

  params = jnp.asarray(known['shared']), jnp.asarray(known['heads'])
  _, state = rule.init(list(named(known['weights'][0])))
  for i in range(len(known['losses'])):
    params, found, state = step(*params, state)
    np.testing.assert_allclose(list(found.values()), known['losses'][i], rtol=1e-6)
    for name, at in (('weights', i), ('next', i + 1)):
      weights = [state[name][task] for task in found]
      np.testing.assert_allclose(weights, known['weights'][at], rtol=1e-6)
  np.testing.assert_allclose(params[0], known['shared_after'], rtol=1e-6)
  np.testing.assert_allclose(params[1], known['heads_after'], rtol=1e-6)


def test_weights_of_gradnorm_stay_positive():
  rule = harmony.gradnorm(rate=10.0)
  _, state = rule.init(['a', 'b'])
  own = {'a': jnp.float32([100.0]), 'b': jnp.float32([1.0])}
  for _ in range(3):
    state = rule.balance({'a': jnp.float32(1), 'b': jnp.float32(1)}, own, state)
    assert min(state['next'].values()) > 0
    np.testing.assert_allclose(sum(state['next'].values()), 2, rtol=1e-6)


def test_gradnorm_measures_a_loss_by_its_first_value_above_0():
  """As TD-MPC's of rewards that have not come yet: by 0 all would lag behind it for ever."""
  rule = harmony.gradnorm()
  _, state = rule.init(['a', 'b'])
  own = {'a': jnp.float32([1.0]), 'b': jnp.float32([1.0])}
  for a, b in ((0, 0), (0, 4), (2, 4), (2, 4), (2, 2)):
    state = rule.balance({'a': jnp.float32(a), 'b': jnp.float32(b)}, own, state)
    if b == 4:
      assert state['next'] == {'a': 1, 'b': 1}  # none is behind
  np.testing.assert_array_equal(state['first'], [2, 4])
  assert state['next']['a'] > 1 > state['next']['b'] > 0.9  # b has come further


def test_gradnorm_leaves_a_task_without_a_gradient_its_weight():
  """It would take those of all others; once it has a gradient it is weighed like them."""
  rule = harmony.gradnorm()
  own = {task: jnp.float32([1.0, 0.5]) for task in 'abc'}
  losses = dict.fromkeys('abc', jnp.float32(2))
  _, state = rule.init([*'abc'])
  step = jax.jit(rule.balance)
  for _ in range(100):
    state = step(losses, {**own, 'b': jnp.zeros(2)}, state)
  assert state['next']['b'] == 1 and abs(sum(state['next'].values()) - 3) < 1e-5
  np.testing.assert_allclose([state['next'][task] for task in 'ac'], 1, atol=0.1)
  for _ in range(100):
    state = step(losses, {**own, 'b': 4 * own['b']}, state)
  assert state['next']['b'] < 0.6


# --------------------------------------------------------------------------------------------------
# Running means

STEPS = np.float32([[4.0, 0.5, 1.0], [2.0, 0.1, 3.0], [8.0, 0.2, 2.0]])
SOURCES = {
  'own': None,
  'tied': {'task2': ['task0']},
  'elbo': dict.fromkeys(('task0', 'task2'), ('task0', 'task2')),
}


@pytest.mark.parametrize('rectified', [True, False])
@pytest.mark.parametrize('name', SOURCES)
def test_running(name, rectified):
  """By hand: the closed form of Σ β^(t-i) Lᵢ (1-β) / (1-βᵗ)."""
  decay, sources = 0.9, SOURCES[name] or {}
  weights, totals = play(harmony.running(decay, rectified, sources), STEPS)
  for t in range(3):
    share = decay ** np.arange(t, -1, -1)
    mean = (share[:, None] * STEPS[: t + 1]).sum(0) / share.sum()
    loss = [sum(mean[int(k[-1])] for k in sources.get(f'task{i}', [f'task{i}'])) for i in range(3)]
    loss = np.array(loss)
    wanted = 2 / (loss + np.sqrt(loss**2 + 4 * loss)) if rectified else 1 / loss
    np.testing.assert_allclose(weights[t], wanted, rtol=1e-5)
    np.testing.assert_allclose(totals[t], (wanted * STEPS[t]).sum(), rtol=1e-5)


def test_running_rules_by_name():
  """A constant loss, weighed as a harmonizer would; the dynamics with the last observation task."""
  losses = {'a': 3.0, 'b': 5.0, 'reward': 0.1, 'dynamics': 2.0}
  seen = {'a': 3.0, 'b': 5.0, 'dynamics': 5.0}, dict.fromkeys(('a', 'b', 'dynamics'), 10.0)
  for name, changed in zip(('running', 'equilibrium', 'running_elbo'), ({}, *seen)):
    for end, form in (('', harmony.optimal_weight), ('_unrectified', lambda x: 1 / x)):
      rule = harmony.make(name + end, decay=0.5, observing=('a', 'b'), weights={})
      found = rule.weigh(losses, *rule.init(list(losses)))[2]
      wanted = {f'{k}/weight': form(changed.get(k, v)) for k, v in losses.items()}
      chex.assert_trees_all_close(found, wanted, rtol=1e-6)


def test_rules_that_weigh_the_dynamics_by_the_observation():
  found = [name for name in harmony.RULES if harmony.observes(name)]
  kinds = ('equilibrium', 'running_tied', 'running_elbo')
  assert found == ['harmony_tied', *(kind + end for kind in kinds for end in ('', '_unrectified'))]


def test_harmony_of_two_tasks():
  """The dynamics has the observation's 1/σ, and moves no σ; without both it is the paper's."""
  losses = {k: jnp.float32(v) for k, v in dict(observation=9, reward=0.2, dynamics=2).items()}
  rule, papers = harmony.make('harmony_tied'), harmony.make('harmony')
  params, state = rule.init(list(losses))
  assert set(params) == {'observation', 'reward'}
  params = {'observation': jnp.log(4.0), 'reward': jnp.log(0.5)}
  total, _, metrics = rule.weigh(losses, params, state)
  np.testing.assert_allclose(total, 9 / 4 + np.log(5) + 0.2 / 0.5 + np.log(1.5) + 2 / 4, rtol=1e-6)
  assert metrics['dynamics/weight'] == 0.25 and 'dynamics/sigma' not in metrics
  slopes = jax.grad(lambda params: rule.weigh(losses, params, state)[0])(params)
  np.testing.assert_allclose(slopes['observation'], -9 / 4 + 4 / 5, rtol=1e-6)
  for tasks in (['observation', 'reward'], ['reward', 'dynamics']):
    found, wanted = (each.weigh(losses, *each.init(tasks)) for each in (rule, papers))
    chex.assert_trees_all_close((found[0], found[2]), (wanted[0], wanted[2]))
  assert 'dynamics' in harmony.make('harmony_tied', observing=()).init(list(losses))[0]


# --------------------------------------------------------------------------------------------------
# All of them

INVARIANT = ('reciprocal', 'running_unrectified', 'harmony_unrectified', 'uncertainty', 'nash_mtl')


@pytest.mark.parametrize('name', harmony.RULES)
def test_every_rule(name):
  """Its total has the weights as derivatives by the losses; those that are no task of its count
  once; its state keeps its form; no gradient flows through weights."""
  rule = harmony.make(name)
  params, state = rule.init(['observation', 'reward', 'dynamics'])
  losses = dict(observation=9.0, reward=0.2, dynamics=2.0, other=5.0)
  losses = {k: jnp.float32(v) for k, v in losses.items()}
  for _ in range(2):
    before = state
    if rule.balance:
      own = {k: jnp.float32([v, 1.0]) for k, v in losses.items()}
      state = rule.balance(losses, own, state)
    total = lambda losses: rule.weigh(losses, params, state)
    slopes, (_, after, metrics) = jax.grad(lambda x: (total(x)[0], total(x)), has_aux=True)(losses)
    chex.assert_trees_all_equal_shapes_and_dtypes(after, before)
    for task in losses:
      np.testing.assert_allclose(slopes[task], metrics.get(f'{task}/weight', 1), rtol=1e-6)
    assert slopes['other'] == 1
    state = after


@pytest.mark.parametrize('name', INVARIANT)
def test_a_loss_in_another_unit(name):
  """c times a loss has 1/c times its weight, at the rule's optimum."""

  def weights(scale):
    losses = {'a': jnp.float32(3.0 * scale), 'b': jnp.float32(0.5)}
    own = {'a': scale * jnp.float32([3.0, 1.0]), 'b': jnp.float32([-1.0, 2.0])}
    rule = harmony.make(name, epsilon=0.0)
    params, state = rule.init(['a', 'b'])
    params = harmony.from_losses(losses, rule) if params else params
    state = rule.balance(losses, own, state) if rule.balance else state
    metrics = rule.weigh(losses, params, state)[2]
    return float(metrics['a/weight']), float(metrics['b/weight'])

  (a, b), (scaled, same) = weights(1.0), weights(50.0)
  np.testing.assert_allclose([scaled * 50, same], [a, b], rtol=1e-5)


@pytest.mark.slow
def test_a_killed_run_goes_on(tmp_path):
  """GradNorm's weights, their optimiser and the first losses are part of a checkpoint."""
  config = config_of(weighting__rule='gradnorm')
  whole = train(tmp_path / 'whole', config)
  with pytest.raises(Killed):
    train(tmp_path / 'killed', config, From(120, die))
  again = train(tmp_path / 'killed', config)
  assert whole.updates.state.weighting['step'] > 10
  small.close(again.updates.state.weighting, whole.updates.state.weighting, 0)
  assert lines(tmp_path / 'killed', 'scores.jsonl') == lines(tmp_path / 'whole', 'scores.jsonl')
  logged = [line for line in lines(tmp_path / 'whole', 'metrics.jsonl') if 'loss/reward' in line]
  assert logged[-1]['harmony/observation/weight'] != 1
