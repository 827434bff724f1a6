"""Harmonizers and other task-weighting rules over a dict of named scalar losses.

A world model learns several tasks at once: predict the observation, the reward, the dynamics. Their
losses differ by orders of magnitude, so that one task drowns the others. HarmonyDream (Ma et al.,
ICML 2024) learns one scale σᵢ per task together with the model:

    L(θ, σ) = Σᵢ Lᵢ(θ) / σᵢ + log(1 + σᵢ),    σᵢ = exp(sᵢ)                                  (eq. 5)

This file stands alone: it needs jax and nothing else of this project, and works in any training
loop:

    rule = harmony.rectified()
    params['harmony'], state = rule.init(['observation', 'reward', 'dynamics'])
    total, state, metrics = rule.weigh(losses, params['harmony'], state)   # inside the loss
    function

`params` are ordinary trainable leaves: give them to the same optimiser as the model. `state` is
what a rule remembers from step to step; it is empty for harmony. NashMTL and GradNorm look at every
task's gradient, too, in a third function: `balance`.
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Losses = Mapping[str, jax.Array]


class Weighting(NamedTuple):
  """A task-weighting rule: pure functions, as optax has for gradients.

  Attributes:
    init: `init(tasks) -> (params, state)`. `params` are trained with the model, `state` is carried
      by the rule.
    weigh: `weigh(losses, params, state) -> (total, state, metrics)`. `losses` maps names to
      scalars; those that are no task of the rule are added with weight 1.
    start: `start(loss, task='')`, the parameter that a harmonizer approaches for a constant loss of
      that task; None where the rule has none.
    balance: `balance(losses, gradients, state) -> state`, to be called before `weigh` in rules that
      look at gradients; None in all others. `gradients` maps tasks to vectors: the gradients of
      what all tasks share. The weights are then those of `weigh`, the derivatives of its total.
    clip: the largest norm that the weighed gradient of what is shared may have; None: any.
  """

  init: Callable[[Sequence[str]], tuple[dict, Any]]
  weigh: Callable[[Losses, dict, Any], tuple[jax.Array, Any, dict]]
  start: Callable[..., jax.Array] | None = None
  balance: Callable[[Losses, Mapping[str, jax.Array], Any], Any] | None = None
  clip: float | None = None


# --------------------------------------------------------------------------------------------------
# Closed forms


def optimal_sigma(loss: jax.Array | float) -> jax.Array:
  """Return σ* = (L + √(L² + 4L)) / 2, which minimises L/σ + log(1+σ) (eq. 12), for L ≥ 0."""
  loss = jnp.asarray(loss, jnp.float32)
  return (loss + jnp.sqrt(loss * (loss + 4))) / 2


def optimal_weight(loss: jax.Array | float) -> jax.Array:
  """Return 1/σ* = 2 / (L + √(L² + 4L)), what a harmonizer learns for a constant loss (eq. 13)."""
  return 1 / optimal_sigma(loss)


def optimal_scale(loss: jax.Array | float) -> jax.Array:
  """L/σ* = 2 / (1 + √(1 + 4/L)) < 1, the harmonized loss (section 3, below eq. 5)."""
  return 2 / (1 + jnp.sqrt(1 + 4 / jnp.asarray(loss, jnp.float32)))


def optimal_sigma_unrectified(loss: jax.Array | float) -> jax.Array:
  """σ* = L, which minimises L/σ + log σ (proposition 3.1)."""
  return jnp.asarray(loss, jnp.float32)


# --------------------------------------------------------------------------------------------------
# Rules


def rectified(regularizer: Mapping[str, float] | None = None) -> Weighting:
  """The rectified harmonious loss Σᵢ Lᵢ/σᵢ + cᵢ log(1+σᵢ) (eq. 5): the paper's method.

  Args:
    regularizer: cᵢ per task where it is not 1. The authors' DreamerV3 code has the dynamics'
      regulariser inside its KL-balance bracket, where it is multiplied by 0.5/0.6: `{'dynamics':
      5/6}`. The paper's form is 1 for all.
  """
  return _harmony(jax.nn.softplus, regularizer, optimal_sigma)  # log(1 + exp(s))


def unrectified(regularizer: Mapping[str, float] | None = None) -> Weighting:
  """The harmonious loss without rectification, Σᵢ Lᵢ/σᵢ + cᵢ log σᵢ (eq. 4): weights grow without
  bound as L → 0.
  """
  return _harmony(lambda s: s, regularizer, optimal_sigma_unrectified)


def rectified_tied(
  observing: Sequence[str] = ('observation',), regularizer: Mapping[str, float] | None = None
) -> Weighting:
  """The rectified loss of two tasks, what is seen and what is rewarded: the dynamics has no σ, but
  the weight 1/σ of the last observation task, whose representation its KL regularises.

  Not in the paper; the learned counterpart of `equilibrium`. Where not both are tasks it is
  `rectified`.
  """
  rule, source = rectified(regularizer), observing[-1] if observing else ''

  def init(tasks):
    both = {source, 'dynamics'} <= set(tasks)
    params, _ = rule.init([task for task in tasks if not both or task != 'dynamics'])
    return params, _ones(['dynamics'] if both else [])  # the weights last used

  def weigh(losses, params, state):
    _check(losses, 'weights', state)
    weights = {task: jax.lax.stop_gradient(jnp.exp(-params[source])) for task in state}
    tied_losses = {task: weights.get(task, 1.0) * loss for task, loss in losses.items()}
    total, _, metrics = rule.weigh(tied_losses, params, ())
    return total, weights, metrics | {f'{task}/weight': w for task, w in weights.items()}

  return Weighting(init, weigh, rule.start)


def fixed(weights: Mapping[str, float] | None = None) -> Weighting:
  """Constant weights, Σᵢ wᵢ Lᵢ (eq. 3): `{'observation': w_o, 'reward': w_r, 'dynamics': w_d}`; 1
  where not given.
  """
  weights = dict(weights or {})

  def init(tasks):
    return {}, ()

  def weigh(losses, params, state):
    _check(losses, 'weights', weights)
    total, metrics = _weighed(losses, {k: jnp.float32(weights.get(k, 1.0)) for k in losses})
    return total, state, metrics

  return Weighting(init, weigh)


def reciprocal(epsilon: float = 1e-8) -> Weighting:
  """Each task weighed by sg(1/Lᵢ) of the present batch (section 3): exact balance, at the mercy of
  outliers.
  """

  def init(tasks):
    return {}, _ones(tasks)  # the weights last used; the keys say which tasks

  def weigh(losses, params, state):
    _check(losses, 'weights', state)
    state = {task: jax.lax.stop_gradient(1 / (losses[task] + epsilon)) for task in state}
    total, metrics = _weighed(losses, state)
    return total, state, metrics

  return Weighting(init, weigh)


def running(
  decay: float = 0.99,
  rectified: bool = True,
  sources: Mapping[str, Sequence[str]] | None = None,
  least: float = 0.0,
) -> Weighting:
  """Each task weighed by the closed form (eq. 13, or 1/L) of the running mean of its loss: what
  harmonizers learn, without learning it, and from the first step on.

  Args:
    decay: β of the means mₜ = β mₜ₋₁ + (1-β) Lₜ, which are divided by 1 - βᵗ.
    sources: the tasks whose summed means a task is weighed by, where that is not its own alone;
      of a name that no loss has ValueError is raised, as it would be another rule.
    least: the share of the largest weight that every one has at least, 0 to 1.
  """
  sources = {task: tuple(names) for task, names in (sources or {}).items() if names}
  optimum = optimal_sigma if rectified else optimal_sigma_unrectified

  def init(tasks):
    every = {name for task in tasks for name in sources.get(task, (task,))}
    zero = jnp.zeros((), jnp.float32)
    return {}, {'weights': _ones(tasks), 'means': dict.fromkeys(every, zero), 'share': zero}

  def weigh(losses, params, state):
    _check(losses, 'running means', {**state['means'], **state['weights'], **sources})
    mean = lambda old, new: decay * old + (1 - decay) * jax.lax.stop_gradient(new)
    share = mean(state['share'], 1.0)  # 1 - βᵗ
    means = {name: mean(old, losses[name]) for name, old in state['means'].items()}
    weights = {}
    for task in state['weights']:
      loss = sum(means[name] for name in sources.get(task, (task,))) / share
      weights[task] = 1 / optimum(jnp.maximum(loss, 1e-8))
    lowest = least * functools.reduce(jnp.maximum, weights.values(), 0.0)
    weights = {task: jnp.maximum(weight, lowest) for task, weight in weights.items()}
    total, metrics = _weighed(losses, weights)
    return total, {'weights': weights, 'means': means, 'share': share}, metrics

  return Weighting(init, weigh)


def equilibrium(
  decay: float = 0.99,
  rectified: bool = True,
  observing: Sequence[str] = ('observation',),
  least: float = 0.0,
) -> Weighting:
  """Harmony at its equilibrium, with two tasks: what is seen and what is rewarded. A weight is 1/σ*
  (eq. 13) of its loss's running mean, where harmonizers are after a long run or at a high learning
  rate; the dynamics, whose KL regularises the representation, has the last observation task's.

  Not in the paper; compared with its rules in results/harmony. Nothing is learned or tuned, unless
  `least` is given (see `running`).
  """
  return running(decay, rectified, {'dynamics': observing[-1:]}, least)


def elbo(
  decay: float = 0.99,
  rectified: bool = True,
  observing: Sequence[str] = ('observation',),
  least: float = 0.0,
) -> Weighting:
  """As `equilibrium`, but observation and dynamics have one weight, that of their sum."""
  both = (*observing, 'dynamics')
  return running(decay, rectified, dict.fromkeys(both, both), least)


def uncertainty(elements: Mapping[str, float] | None = None) -> Weighting:
  """Uncertainty weighting (Kendall et al. 2018) as in appendix D.2: Σᵢ Lᵢ/σᵢ + Nᵢ log σᵢ, smallest
  at σᵢ = Lᵢ/Nᵢ.

  Args:
    elements: Nᵢ, the numbers that a loss is summed over: H·W·C of pictures; 1 where not given.
  """
  return unrectified(elements)


def uncertainty_library() -> Weighting:
  """Uncertainty weighting as libraries for several tasks have it: Σᵢ ½ (Lᵢ/σᵢ + log σᵢ)."""
  return _harmony(lambda s: s, None, optimal_sigma_unrectified, 0.5)


def dwa(window: int = 25, temperature: float = 2.0, form: str = 'library') -> Weighting:
  """Dynamic weight average (Liu et al. 2019): wᵢ = K softmax(rᵢ/τ) for K tasks, rᵢ the mean of loss
  i over the last `window` steps by that over the `window` before.

  Args:
    form: 'epochs', as published: a window is an epoch, weights change between two of them and begin
      with the third. 'library', as in the code of NashMTL's authors: weights follow every step from
      number window + 2 on, and steps that were not are losses of 1, so that a loss far above 1
      takes all the weight for a while. 'full': they follow every step once two windows are full.
  """
  first = {'epochs': 2 * window, 'library': window + 2, 'full': 2 * window}[form]

  def init(tasks):
    past = {task: jnp.ones(2 * window, jnp.float32) for task in tasks}
    return {}, {'weights': _ones(tasks), 'past': past, 'step': jnp.zeros((), jnp.int32)}

  def weigh(losses, params, state):
    _check(losses, 'weights', state['weights'])
    before, step = state['weights'], state['step'] + 1
    new = {task: jax.lax.stop_gradient(losses[task]) for task in before}
    past = {task: jnp.append(old[1:], new[task]) for task, old in state['past'].items()}
    rate = {k: x[window:].mean() / jnp.maximum(x[:window].mean(), 1e-8) for k, x in past.items()}
    balanced = len(rate) * jax.nn.softmax(_vector(rate) / temperature)
    due = (step >= first) & (step % window == 0 if form == 'epochs' else True)
    after = _by_task(before, jnp.where(due, balanced, _vector(before)))
    total, metrics = _weighed(losses, before if form == 'epochs' else after)
    return total, {'weights': after, 'past': past, 'step': step}, metrics

  return Weighting(init, weigh)


def nash_mtl(clip: float = 1.0) -> Weighting:
  """NashMTL (Navon et al. 2022): weights α > 0 with Σⱼ ⟨gᵢ, gⱼ⟩ αⱼ = 1/αᵢ for the tasks' gradients
  gᵢ, so that every ⟨αᵢ gᵢ, Σⱼ αⱼ gⱼ⟩ is 1. The norm of Σ αᵢ gᵢ is then √K for K tasks.

  Args:
    clip: that norm after clipping: 1 as the authors have it.
  """

  def init(tasks):
    return {}, _ones(tasks)

  def balance(losses, gradients, state):
    each = _vector({task: gradients[task] for task in state})
    return _by_task(state, nash_weights(jnp.matmul(each, each.T, precision='highest')))

  def weigh(losses, params, state):
    total, metrics = _weighed(losses, state)
    return total, state, metrics

  return Weighting(init, weigh, balance=balance, clip=clip)


@jax.default_matmul_precision('highest')
def nash_weights(gram: jax.Array, steps: int = 24) -> jax.Array:
  """Return α > 0 with K α = 1/α of a Gram matrix K [n, n]; 1 for tasks without any gradient.

  Newton's method on ½ βᵀCβ - Σ log βᵢ, where C = D K D has a unit diagonal and α = D β. That is
  self-concordant: steps of 1/(1+λ), as long as Newton's decrement λ is not small, stay in β > 0.
  Seven do, but for gradients that nearly cancel, where β is large. Where they cancel up to rounding
  there is no solution: a ridge of ten times that keeps β near 10³.
  """
  size = jnp.diag(gram)
  scale = jnp.where(size > 0, jax.lax.rsqrt(jnp.where(size > 0, size, 1)), 1)
  ridge = 1 + 10 * jnp.finfo(gram.dtype).eps
  scaled = jnp.where(jnp.eye(len(gram), dtype=bool), ridge, scale[:, None] * gram * scale)

  def step(_, beta):
    slope = scaled @ beta - 1 / beta
    newton = jnp.linalg.solve(scaled + jnp.diag(1 / beta**2), slope)
    decrement = jnp.sqrt(jnp.maximum(slope @ newton, 0))
    return beta - newton / jnp.where(decrement < 0.25, 1, 1 + decrement)

  return scale * jax.lax.fori_loop(0, steps, step, jnp.ones_like(size))


def gradnorm(alpha: float = 1.5, rate: float = 0.025, adam: bool = True) -> Weighting:
  """GradNorm (Chen et al. 2018): weights learn to make every ‖wᵢ gᵢ‖ the mean of all times rᵢ^α,
  where rᵢ is Lᵢ over the first Lᵢ above 0, by the mean of these ratios. They sum to the number of
  tasks. One without a gradient, as a KL below its free nats, keeps its weight and is not counted:
  in the original it takes the weights of all others.

  Args:
    alpha: how much more a task gets that learns slowly. rate, adam: the weights' own optimiser;
      plain descent without Adam.
  """

  def init(tasks):
    zeros = jnp.zeros(len(tasks), jnp.float32)
    vectors = {'first': zeros, 'mean': zeros, 'square': zeros, 'step': jnp.zeros((), jnp.int32)}
    return {}, {'weights': _ones(tasks), 'next': _ones(tasks), **vectors}

  def balance(losses, gradients, state):
    step, weights = state['step'] + 1, _vector(state['next'])
    loss = _vector({task: losses[task] for task in state['next']})
    first = jnp.where(state['first'] > 0, state['first'], loss)  # a loss of 0 is no measure
    norm = jnp.linalg.norm(_vector({task: gradients[task] for task in state['next']}), axis=1)
    learns = norm > 0
    ratio = jnp.where(first > 0, loss / jnp.where(first > 0, first, 1), 1)
    mean_of = lambda x: jnp.where(learns, x, 0).sum() / jnp.maximum(learns.sum(), 1)
    target = mean_of(weights * norm) * (ratio / jnp.maximum(mean_of(ratio), 1e-8)) ** alpha
    slope = jnp.sign(weights * norm - target) * norm  # of Σ |‖wᵢ gᵢ‖ - target|
    mean, square = 0.9 * state['mean'] + 0.1 * slope, 0.999 * state['square'] + 0.001 * slope**2
    move = mean / (1 - 0.9**step) / (jnp.sqrt(square / (1 - 0.999**step)) + 1e-8)
    # Nothing in the rule itself keeps a weight above 0.
    moved = jnp.maximum(weights - rate * (move if adam else slope), 1e-4)
    share = mean_of(weights) / jnp.maximum(mean_of(moved), 1e-8)  # the sum stays what it is
    after = _by_task(state['next'], jnp.where(learns, share * moved, weights))
    moments = {'first': first, 'mean': mean, 'square': square, 'step': step}
    return {'weights': state['next'], 'next': after, **moments}

  def weigh(losses, params, state):
    total, metrics = _weighed(losses, state['weights'])
    return total, state, metrics

  return Weighting(init, weigh, balance=balance)


# By the names that commands know them by. A rule is a function that returns a `Weighting`.
RULES: dict[str, Callable[..., Weighting]] = {
  'harmony': rectified,
  'none': lambda: fixed(),  # DreamerV3 itself
  'harmony_unrectified': unrectified,
  'harmony_tied': rectified_tied,
  'fixed': fixed,
  'reciprocal': reciprocal,
  'running': running,
  'running_unrectified': functools.partial(running, rectified=False),
  'equilibrium': equilibrium,
  'equilibrium_unrectified': functools.partial(equilibrium, rectified=False),
  'running_tied': equilibrium,  # its first name, in saved runs and studies
  'running_tied_unrectified': functools.partial(equilibrium, rectified=False),
  'running_elbo': elbo,
  'running_elbo_unrectified': functools.partial(elbo, rectified=False),
  'uncertainty': uncertainty,
  'uncertainty_library': uncertainty_library,
  'dwa': dwa,
  'dwa_epochs': functools.partial(dwa, form='epochs'),
  'nash_mtl': nash_mtl,
  'gradnorm': gradnorm,
}


def make(name: str, **hyper: Any) -> Weighting:
  """Return the rule of this name; of the hyper-parameters it takes those that it has."""
  return RULES[name](**{k: v for k, v in hyper.items() if k in _takes(name)})


def observes(name: str) -> bool:
  """Return whether a rule weighs the dynamics by the observation's loss."""
  return 'observing' in _takes(name)


def _takes(name):
  return inspect.signature(RULES[name]).parameters


def _harmony(log_term, regularizer, optimum, scale=1.0):
  """The shared form Σᵢ scale · (Lᵢ exp(-sᵢ) + cᵢ log_term(sᵢ))."""
  regularizer = dict(regularizer or {})

  def init(tasks):
    if endless := [task for task in tasks if regularizer.get(task, 1.0) <= 0]:
      raise ValueError(
        f'the regularizers of {endless} must be above 0: their σ would rise for ever'
      )
    return {task: jnp.zeros((), jnp.float32) for task in tasks}, ()  # σ = 1

  def weigh(losses, params, state):
    _check(losses, 'harmonizers', params)
    total, metrics = jnp.float32(0), {}
    for name, loss in losses.items():
      if name not in params:
        total += loss
        continue
      s = params[name]
      weight = scale * jnp.exp(-s)
      total += loss * weight + scale * regularizer.get(name, 1.0) * log_term(s)
      metrics |= {
        f'{name}/sigma': jnp.exp(s),
        f'{name}/weight': weight,
        f'{name}/scaled': loss * weight,
      }
    return total, state, metrics

  # L/σ + c log_term is c times the form with L/c and without c.
  return Weighting(
    init, weigh, lambda loss, task='': jnp.log(optimum(loss / regularizer.get(task, 1.0)))
  )


def _weighed(losses, weights):
  """Σᵢ wᵢ Lᵢ, and what is logged of it."""
  _check(losses, 'weights', weights)
  total = sum((weights.get(name, 1.0) * loss for name, loss in losses.items()), jnp.zeros(()))
  return total, {f'{task}/weight': weight for task, weight in weights.items()}


def _ones(tasks):
  return {task: jnp.ones((), jnp.float32) for task in tasks}


def _vector(values):
  """The values by task, in the order of names: what JAX does to dicts may change theirs."""
  return jnp.stack([values[task] for task in sorted(values)])


def _by_task(tasks, vector):
  return dict(zip(sorted(tasks), vector))


_default = rectified()
init, weigh = _default.init, _default.weigh


def from_losses(losses: Losses, rule: Weighting | None = None) -> dict[str, jax.Array]:
  """Harmonizer parameters sᵢ = log σ*(Lᵢ) for given losses: a start that is already balanced; of
  `rectified()` or of another rule with harmonizers."""
  _check(losses)
  start = (rule or _default).start
  if start is None:
    raise ValueError('this rule has no harmonizers')
  return {name: start(jnp.maximum(loss, 1e-8), name) for name, loss in losses.items()}


def _check(losses, what='', given=()):
  """Raise ValueError for losses that are no scalars, and for names in `given` that are none's."""
  for name, loss in losses.items():
    if jnp.ndim(loss):
      raise ValueError(
        f'loss {name!r} must be a scalar, its shape is {jnp.shape(loss)}: take its mean first'
      )
  unknown = sorted(set(given) - set(losses))
  if unknown:
    raise ValueError(f'{what} for unknown tasks {unknown}; the losses are {sorted(losses)}')
