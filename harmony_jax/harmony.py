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
what a rule remembers from step to step; it is empty for harmony.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Losses = Mapping[str, jax.Array]


class Weighting(NamedTuple):
  """A task-weighting rule: a pair of pure functions, as optax has for gradients.

  Attributes:
    init: `init(tasks) -> (params, state)`. `params` are trained with the model, `state` is carried
      by the rule.
    weigh: `weigh(losses, params, state) -> (total, state, metrics)`. `losses` maps names to
      scalars; those that are no task of the rule are added with weight 1.
    start: `start(loss, task='')`, the parameter that a harmonizer approaches for a constant loss of
      that task; None where the rule has none.
  """

  init: Callable[[Sequence[str]], tuple[dict, Any]]
  weigh: Callable[[Losses, dict, Any], tuple[jax.Array, Any, dict]]
  start: Callable[..., jax.Array] | None = None


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


def fixed(weights: Mapping[str, float] | None = None) -> Weighting:
  """Constant weights, Σᵢ wᵢ Lᵢ (eq. 3): `{'observation': w_o, 'reward': w_r, 'dynamics': w_d}`; 1
  where not given.
  """
  weights = dict(weights or {})

  def init(tasks):
    return {}, ()

  def weigh(losses, params, state):
    _check(losses)
    _check_names('weights', weights, losses)
    used = {name: jnp.float32(weights.get(name, 1.0)) for name in losses}
    total = sum((used[name] * loss for name, loss in losses.items()), jnp.zeros(()))
    return total, state, {f'{name}/weight': used[name] for name in losses}

  return Weighting(init, weigh)


def reciprocal(epsilon: float = 1e-8) -> Weighting:
  """Each task weighed by sg(1/Lᵢ) of the present batch (section 3): exact balance, at the mercy of
  outliers.
  """

  def init(tasks):
    # the weights last used; the keys say which tasks
    return {}, {task: jnp.ones((), jnp.float32) for task in tasks}

  def weigh(losses, params, state):
    _check(losses)
    _check_names('weights', state, losses)
    state = {task: jax.lax.stop_gradient(1 / (losses[task] + epsilon)) for task in state}
    total = sum((state.get(k, 1.0) * loss for k, loss in losses.items()), jnp.zeros(()))
    return total, state, {f'{task}/weight': weight for task, weight in state.items()}

  return Weighting(init, weigh)


# By the names that commands know them by. A rule is a function that returns a `Weighting`.
RULES: dict[str, Callable[..., Weighting]] = {
  'harmony': rectified,
  'none': lambda: fixed(),  # DreamerV3 itself
  'harmony_unrectified': unrectified,
  'fixed': fixed,
  'reciprocal': reciprocal,
}


def make(name: str, **hyper: Any) -> Weighting:
  """Return the rule of this name; of the hyper-parameters it takes those that it has."""
  rule = RULES[name]
  return rule(**{k: v for k, v in hyper.items() if k in inspect.signature(rule).parameters})


def _harmony(log_term, regularizer, optimum):
  """The shared form Σᵢ Lᵢ exp(-sᵢ) + cᵢ log_term(sᵢ)."""
  regularizer = dict(regularizer or {})

  def init(tasks):
    return {task: jnp.zeros((), jnp.float32) for task in tasks}, ()  # σ = 1

  def weigh(losses, params, state):
    _check(losses)
    _check_names('harmonizers', params, losses)
    total, metrics = jnp.float32(0), {}
    for name, loss in losses.items():
      if name not in params:
        total += loss
        continue
      s = params[name]
      total += loss * jnp.exp(-s) + regularizer.get(name, 1.0) * log_term(s)
      metrics |= {
        f'{name}/sigma': jnp.exp(s),
        f'{name}/weight': jnp.exp(-s),
        f'{name}/scaled': loss * jnp.exp(-s),
      }
    return total, state, metrics

  # L/σ + c log_term is c times the form with L/c and without c.
  return Weighting(
    init, weigh, lambda loss, task='': jnp.log(optimum(loss / regularizer.get(task, 1.0)))
  )


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


def _check(losses):
  for name, loss in losses.items():
    if jnp.ndim(loss):
      raise ValueError(
        f'loss {name!r} must be a scalar, its shape is {jnp.shape(loss)}: take its mean first'
      )


def _check_names(what, given, known):
  unknown = sorted(set(given) - set(known))
  if unknown:
    raise ValueError(f'{what} for unknown tasks {unknown}; the losses are {sorted(known)}')
