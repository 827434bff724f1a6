"""Statistics over few runs: aggregates with stratified bootstrap intervals (Agarwal et al. 2021,
"Deep Reinforcement Learning at the Edge of the Statistical Precipice", arXiv 2108.13264).

    scores = {'Pong': [1.1, 1.2, 0.9], 'Boxing': [6.2, 7.1, 6.6]}   # one number per run
    aggregates(scores)['iqm']                                       # Interval(point=…, low=…, …)

The definitions are those of rliable, but tasks may have different numbers of runs (a run then
counts for one in what is taken over all runs), and those without any are left out. Intervals are
percentile intervals, 95 %, over resamples of the runs within each task: what would change if the
same tasks were run again with other seeds. Where no task has two runs the bounds are None.

A resample is a row of counts, how often each run was drawn; every statistic is a function of counts
and scores. The order of tasks and of runs changes nothing, not even the random draws. Everywhere
`reps` is the number of resamples, and `seed` where their random draws begin.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

PERCENTILES = (2.5, 97.5)
Scores = Mapping[str, Sequence[float]]  # {task: [score of each run]}
AGGREGATES = ('mean', 'median', 'iqm', 'optimality_gap')


class Interval(NamedTuple):
  """A statistic and its 95 % interval; None is what cannot be told."""

  point: float | None
  low: float | None = None
  high: float | None = None


def mean_interval(values: Sequence[float | None], reps: int = 2000, seed: int = 0) -> Interval:
  """Return the mean over runs, such as seeds at one point of a curve; None is a missing one."""
  values = np.sort(np.array([value for value in values if value is not None], float))
  if not len(values):
    return Interval(None)
  draws = _counts((len(values),), reps, seed) @ values / len(values)
  return _interval(values.mean(), draws, (len(values),))


def aggregates(scores: Scores, reps: int = 2000, seed: int = 0) -> dict[str, Interval]:
  """Return the four aggregates of normalised scores, with their intervals.

  Mean and median are over tasks, of the tasks' means over runs; the IQM is the mean of all runs of
  all tasks without the lowest and the highest quarter (each rounded down); the optimality gap is
  1 − mean(min(score, 1)) over all of them. Points are None without any run.
  """
  values, sizes = _flat(scores)
  if not sizes:
    return dict.fromkeys(AGGREGATES, Interval(None))
  draws = _all_aggregates(values, sizes, _counts(sizes, reps, seed))
  known = zip(points(scores).items(), draws)
  return {name: _interval(point, drawn, sizes) for (name, point), drawn in known}


def points(scores: Scores) -> dict[str, float | None]:
  """Return the four aggregates alone, without intervals."""
  values, sizes = _flat(scores)
  if not sizes:
    return dict.fromkeys(AGGREGATES)
  once = _all_aggregates(values, sizes, np.ones((1, len(values))))
  return {name: float(point[0]) for name, point in zip(AGGREGATES, once)}


def performance_profile(
  scores: Scores, taus: Sequence[float], reps: int = 2000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Return the fraction of all runs whose score is above τ, for each of K τ, and the bounds of its
  pointwise 95 % interval; NaN where nothing is known."""
  values, sizes = _flat(scores)
  unknown = np.full(len(taus), np.nan)
  if not sizes:
    return unknown, unknown, unknown
  above = (values[:, None] > np.asarray(taus, float)[None]).astype(float)  # [runs, K]
  if max(sizes) < 2:
    return above.mean(0), unknown, unknown
  lows, highs = np.percentile(_counts(sizes, reps, seed) @ above / len(values), PERCENTILES, axis=0)
  return above.mean(0), lows, highs


def probability_of_improvement(x: Scores, y: Scores, reps: int = 2000, seed: int = 0) -> Interval:
  """Return P(X > Y) + ½ P(X = Y) of a run of X and a run of Y of the same task, averaged over tasks
  that both have runs of; X and Y are resampled independently."""
  both = {task for task in x if len(x[task])} & {task for task in y if len(y[task])}
  if not both:
    return Interval(None)
  (first, sizes), (second, others) = (_flat({task: each[task] for task in both}) for each in (x, y))
  counts, other_counts = _counts(sizes, reps, seed), _counts(others, reps, (1, seed))
  point, drawn = 0.0, np.zeros(reps)
  for i, j in zip(_slices(sizes), _slices(others)):
    difference = first[i, None] - second[None, j]
    better = ((difference > 0) + 0.5 * (difference == 0)) / difference.size
    point += better.sum()
    drawn += np.einsum('ri,ij,rj->r', counts[:, i], better, other_counts[:, j])
  return _interval(point / len(both), drawn / len(both), sizes + others)


# --------------------------------------------------------------------------------------------------


def _flat(scores):
  """(all scores, number of runs of each task): tasks by name, runs by score, no empty tasks."""
  tasks = [task for task in sorted(scores) if len(scores[task])]
  groups = [np.sort(np.asarray(scores[task], float)) for task in tasks]
  return (np.concatenate(groups) if groups else np.zeros(0)), tuple(len(group) for group in groups)


def _slices(sizes):
  ends = np.cumsum(sizes)
  return [slice(end - size, end) for end, size in zip(ends, sizes)]


@functools.lru_cache(maxsize=32)
def _counts(sizes, reps, seed):
  """[reps, runs] how often each run is drawn: with replacement from the runs of its task."""
  rng = np.random.default_rng(seed)
  draws = [rng.multinomial(size, [1 / size] * size, reps) for size in sizes]
  counts = np.concatenate(draws, axis=1).astype(float)
  counts.setflags(write=False)  # shared by all callers
  return counts


def _all_aggregates(values, sizes, counts):
  """`AGGREGATES`, [reps] each, of runs that are there `counts` times."""
  parts = zip(_slices(sizes), sizes)
  means = np.stack([counts[:, i] @ values[i] / size for i, size in parts], axis=1)
  gap = 1 - counts @ np.minimum(values, 1) / len(values)
  return means.mean(1), np.median(means, axis=1), _trimmed(values, counts), gap


def _trimmed(values, counts):
  """Interquartile means [reps]: the copies of values that lie between the quarters cut off."""
  order, total = np.argsort(values), len(values)
  cut = total // 4
  ends = np.clip(np.cumsum(counts[:, order], axis=1), cut, total - cut)
  stay = np.diff(ends, axis=1, prepend=cut)
  return stay @ values[order] / (total - 2 * cut)


def _interval(point, draws, sizes):
  """The interval of a statistic from its values in the resamples."""
  if max(sizes) < 2:
    return Interval(float(point))
  low, high = np.percentile(draws, PERCENTILES)
  return Interval(float(point), float(low), float(high))
