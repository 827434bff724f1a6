"""What is measured of a world model on windows of a buffer: pure functions of arrays in NumPy.

N samples, F feature, S numbers of state, W windows, T steps of each.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np

LAMBDA = 0.01  # of the ridge regression
DISCRETE = 10  # rewards of at most so many values are discrete
Measures = dict[str, float]
Fit = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]  # as `ridge`


def r2(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
  """Return 1 - Σ(y - ŷ)² / Σ(y - ȳ)² along the first axis; NaN where y does not vary."""
  predicted, true = np.asarray(predicted, float), np.asarray(true, float)
  spread = ((true - true.mean(0)) ** 2).sum(0)
  with np.errstate(divide='ignore', invalid='ignore'):
    return np.where(spread > 1e-12, 1 - ((true - predicted) ** 2).sum(0) / spread, np.nan)


def ridge(
  feature: np.ndarray, target: np.ndarray, other: np.ndarray, penalty: float = LAMBDA
) -> np.ndarray:
  """Return predictions for features `other` [M, F] of the linear model that was fitted on others.

      min_W 1/N Σ |y - ȳ - Wᵀx|² + λ |W|²,    x, y standardised

  Args:
    feature: [N, F]. target: [N, S]. penalty: λ. Returns: [M, S].
  """
  feature, target, other = (np.asarray(x, float) for x in (feature, target, other))
  mean, scale = feature.mean(0), feature.std(0)
  scale = np.where(scale > 1e-8, scale, 1)
  middle, size = target.mean(0), target.std(0)
  size = np.where(size > 1e-8, size, 1)
  x, y = (feature - mean) / scale, (target - middle) / size
  gram = x.T @ x / len(x) + penalty * np.eye(x.shape[1])
  weight = np.linalg.solve(gram, x.T @ y / len(x))
  return (other - mean) / scale @ weight * size + middle


def right(predicted: np.ndarray, true: np.ndarray, values: np.ndarray) -> float:
  """Return the share of predictions whose nearest value is the true one, averaged over the values.

  So a constant prediction has 1/K for K values, however rare some of them are. NaN where a
  prediction is no number: to none of the values it would be nearest.
  """
  predicted, true = np.ravel(predicted), np.ravel(true)
  if not np.isfinite(predicted).all():
    return math.nan
  nearest = values[np.abs(predicted[:, None] - values).argmin(1)]
  same = np.isclose(nearest, true)
  return float(np.mean([same[of].mean() for v in values if (of := np.isclose(true, v)).any()]))


def of_rewards(
  seen: np.ndarray, imagined: np.ndarray, true: np.ndarray, context: int, values: np.ndarray
) -> Measures:
  """Return R², the mean squared error open loop and, of discrete rewards, shares that are right.

  Args:
    seen: [W, T] from posteriors; a third of `context` is left out, until the model has looked.
    imagined: [W, T - context]. true: [W, T]. values: all that rewards can be, if these are few.
  """
  horizon = true.shape[1] - context
  pairs = {'seen': (seen[:, context // 3 :], true[:, context // 3 :])}
  for steps in sorted({max(1, horizon // 3), horizon}):
    pairs[f'open_{steps}'] = imagined[:, :steps], true[:, context : context + steps]
  found = {f'reward/{k}': float(r2(np.ravel(x), np.ravel(y))) for k, (x, y) in pairs.items()}
  found[f'reward/mse_open_{horizon}'] = float(np.mean((imagined - true[:, context:]) ** 2))
  if len(values) <= DISCRETE:
    found |= {f'reward/right_{k}': right(x, y, values) for k, (x, y) in pairs.items()}
  return found


def of_states(
  feature: Mapping[str, np.ndarray],
  state: Mapping[str, np.ndarray],
  names: list[str],
  skip: int,
  fit: Fit = ridge,
) -> Measures:
  """Return R² of each number of the state, by regression from features.

  Args:
    feature: 'training' and 'held_out', [W, T, F]. state: of the same, [W, T, S].
    skip: steps of each window that are left out. fit: `ridge`, or `probe.mlp`.
  """
  flat = lambda x: x[:, skip:].reshape(-1, x.shape[-1])
  training, held_out = (flat(feature[name]) for name in ('training', 'held_out'))
  predicted = fit(training, flat(state['training']), held_out)
  found = r2(predicted, flat(state['held_out']))
  return {name: float(value) for name, value in zip(names, found)}
