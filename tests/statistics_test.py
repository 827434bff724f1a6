"""Aggregates, intervals, profiles and probabilities of improvement, held against rliable and
against known answers.
"""

import math
import os
import pathlib

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from harmony_jax.reporting import published, statistics, tables
from harmony_jax.reporting.statistics import Interval
from tests.damage import cases

SCORES = pathlib.Path(
  os.environ.get('HARMONY_SCORES_DIR', pathlib.Path(__file__).parents[2] / 'shared' / 'scores')
)
TAUS = np.array([-0.5, 0.0, 0.2, 0.5, 1.0, 3.0])


def matrix(seed, runs=5, tasks=12):
  """Scores [runs, tasks] as unlike as those of Atari games; some are equal."""
  rng = np.random.default_rng(seed)
  scores = rng.lognormal(rng.normal(-0.7, 1.2, tasks), 0.4, (runs, tasks))
  scores[:, 0], scores[0, 1] = 0.0, scores[1, 1]
  return scores


def by_task(scores):
  return {f'task {task}': column.tolist() for task, column in enumerate(scores.T)}


@pytest.fixture
def rliable():
  """rliable's two modules; its draws come from numpy's global generator."""
  library = pytest.importorskip('rliable.library')
  np.random.seed(0)
  from rliable import metrics

  return library, metrics


def assert_percentiles(low, high, draws, reps):
  """Whether `low` and `high`, from `reps` resamples of our own, are the 2.5 % and 97.5 %
  percentiles of other draws.

  Of R draws the share below the true p-percentile has standard deviation √(p (1−p) / R). So what we
  call the p-percentile is, among draws of the same distribution, off from p by √(p (1−p) (1/R +
  1/reps)); four of them are allowed. Statistics of few values may lie on either side of it.
  """
  p = 0.025
  off = 4 * math.sqrt(p * (1 - p) * (1 / len(draws) + 1 / reps))
  assert off < p
  for bound, at in ((low, p), (high, 1 - p)):
    least, most = np.quantile(draws, [at - off, at + off])
    assert least - 1e-12 <= bound <= most + 1e-12, (bound, least, most)


@pytest.mark.parametrize('seed', range(3))
def test_aggregates_are_rliable_s(rliable, seed):
  library, metrics = rliable
  scores, reps = matrix(seed), 20_000

  def every(scores):
    names = ('mean', 'median', 'iqm', 'optimality_gap')
    return np.array([getattr(metrics, f'aggregate_{name}')(scores) for name in names])

  ours = statistics.aggregates(by_task(scores), reps=reps)
  assert tuple(ours) == statistics.AGGREGATES
  np.testing.assert_allclose(
    [interval.point for interval in ours.values()], every(scores), rtol=1e-12
  )
  draws = library.StratifiedBootstrap(scores).apply(every, reps=2000)  # [2000, 4]
  for interval, drawn in zip(ours.values(), draws.T):
    assert_percentiles(interval.low, interval.high, drawn, reps)


def test_profiles_are_rliable_s(rliable):
  library, _ = rliable
  scores, reps = matrix(4), 20_000
  theirs, _ = library.create_performance_profile({'x': scores}, TAUS, reps=10)
  fractions, lows, highs = statistics.performance_profile(by_task(scores), TAUS, reps=reps)
  np.testing.assert_allclose(fractions, theirs['x'])
  draws = library.StratifiedBootstrap(scores).apply(
    lambda scores: library.score_distributions(scores, TAUS), reps=2000
  )
  for low, high, drawn in zip(lows, highs, draws.T):
    assert_percentiles(low, high, drawn, reps)


def test_probability_of_improvement_is_rliable_s(rliable):
  library, metrics = rliable
  x, y, reps = matrix(5, tasks=3), matrix(6, runs=4, tasks=3), 20_000
  y[:2, 1:] = x[:2, 1:]  # ties between them, too
  ours = statistics.probability_of_improvement(by_task(x), by_task(y), reps=reps)
  assert ours.point == pytest.approx(metrics.probability_of_improvement(x, y))
  draws = library.StratifiedIndependentBootstrap(x, y).apply(
    metrics.probability_of_improvement, reps=1000
  )
  assert_percentiles(ours.low, ours.high, draws[:, 0], reps)


def test_the_authors_scores_give_the_published_aggregates():
  if not SCORES.is_dir():
    pytest.skip(f"the authors' scores are not in {SCORES}")
  found = published.read_scores(SCORES)
  assert {record.evaluations['frame'][-1] for record in found} == {400_000}
  scores = {name: published.normalized(each) for name, each in tables.finals(found).items()}
  harmony, base = (scores[name] for name in published.AUTHORS)
  assert len(harmony) == len(base) == 26
  assert {len(each) for each in [*harmony.values(), *base.values()]} == {5}
  rounded = lambda points: [round(point, 3) for point in points]
  intervals = statistics.aggregates(harmony).values()
  assert rounded(each.point for each in intervals) == [1.364, 0.671, 0.607, 0.462]
  assert rounded(statistics.points(base).values()) == [1.074, 0.416, 0.472, 0.508]
  assert statistics.probability_of_improvement(harmony, base).point == pytest.approx(0.64, abs=5e-3)
  # bounds that an earlier version has given; processors add up in orders of their own
  bounds = [1.1906999885584744, 0.41544554995353133, 0.5500025265019297, 0.44533333929347757]
  np.testing.assert_allclose([each.low for each in intervals], bounds, rtol=1e-14)


def test_known_answers():
  """Two tasks: the means are 1 and 3; of 0, 1, 2, 3 the middle half is 1, 2; cut off at 1 they sum
  up to 3.
  """
  scores = {'a': [0, 2], 'b': [1, 5]}
  assert statistics.points(scores) == {'mean': 2, 'median': 2, 'iqm': 1.5, 'optimality_gap': 0.25}
  fractions, _, _ = statistics.performance_profile(scores, [-1, 0, 1, 2, 5])
  assert fractions.tolist() == [1, 0.75, 0.5, 0.25, 0]
  better = statistics.probability_of_improvement(scores, {'a': [1], 'b': [1], 'c': [9]})
  assert better.point == (0.5 + 0.75) / 2
  # The mean of two is one of three values, 1/4, 1/2 and 1/4 of the time, so its percentiles are the
  # outer ones.
  assert statistics.mean_interval([1, 3]) == Interval(2, 1, 3)


def test_runs_may_be_missing():
  """Tasks with different numbers of runs, as they come in; by hand."""
  scores = {'a': [4.0], 'b': [0.0, 1.0, 2.0], 'c': []}
  result = statistics.aggregates(scores)
  assert result['mean'].point == 2.5 and result['median'].point == 2.5
  assert result['iqm'].point == 1.5  # of 0, 1, 2, 4
  assert result['optimality_gap'].point == 0.25
  # b may be 0 in all three draws: 1 of 27
  assert result['mean'].low == 2.0 and result['mean'].high == 3.0
  assert statistics.mean_interval([None, 2.0, None]) == Interval(2.0, None, None)


def test_one_run_tells_no_interval():
  alone = {'a': [0.5], 'b': [0.7]}
  assert {each[1:] for each in statistics.aggregates(alone).values()} == {(None, None)}
  assert statistics.aggregates(alone)['mean'].point == pytest.approx(0.6)
  assert statistics.probability_of_improvement(alone, {'a': [0.4]}) == Interval(1.0, None, None)
  assert statistics.probability_of_improvement(alone, {'a': [0.4, 0.6]}).low is not None
  fractions, lows, highs = statistics.performance_profile(alone, [0.6])
  assert fractions.tolist() == [0.5] and np.isnan(lows).all() and np.isnan(highs).all()


def test_no_run_at_all():
  for nothing in ({}, {'a': []}):
    assert set(statistics.aggregates(nothing).values()) == {Interval(None)}
    assert set(statistics.points(nothing).values()) == {None}
    assert np.isnan(statistics.performance_profile(nothing, [1, 2])).all()
    assert statistics.probability_of_improvement(nothing, {'a': [1]}) == Interval(None)
  assert statistics.mean_interval([]) == Interval(None)


# --------------------------------------------------------------------------------------------------
# Properties

numbers = st.floats(-1e6, 1e6) | st.integers(-3, 3).map(float)
score_tables = st.dictionaries(
  st.text(max_size=3), st.lists(numbers, min_size=1, max_size=6), min_size=1, max_size=6
)


@cases(100)
@given(values=st.lists(numbers, min_size=1, max_size=40))
def test_the_interquartile_mean_is_a_trimmed_mean(values):
  iqm = statistics.points({'a': values})['iqm']
  assert iqm == pytest.approx(scipy.stats.trim_mean(values, 0.25), abs=1e-6)


@cases(60)
@given(scores=score_tables, rng=st.randoms(use_true_random=False))
def test_the_order_of_tasks_and_runs_changes_nothing(scores, rng):
  order = rng.sample(list(scores), len(scores))
  shuffled = {task: rng.sample(scores[task], len(scores[task])) for task in order}
  assert statistics.aggregates(scores, 50) == statistics.aggregates(shuffled, 50)
  profiles = [statistics.performance_profile(each, [0, 1], 50) for each in (scores, shuffled)]
  np.testing.assert_array_equal(*profiles)
  assert statistics.probability_of_improvement(scores, shuffled, 50) == pytest.approx(
    statistics.probability_of_improvement(shuffled, scores, 50)
  )


@cases(60)
@given(scores=score_tables)
def test_intervals_lie_in_the_range_of_the_scores(scores):
  values = sum(scores.values(), [])
  for name, interval in statistics.aggregates(scores, 50).items():
    if interval.low is not None:
      assert interval.low <= interval.high
      if name != 'optimality_gap':
        assert min(values) - 1e-6 <= interval.low and interval.high <= max(values) + 1e-6
  fractions, _, _ = statistics.performance_profile(scores, [-1e9, -1, 0, 1, 1e9], 50)
  assert fractions[0] == 1 and fractions[-1] == 0 and (np.diff(fractions) <= 0).all()


@cases(60)
@given(x=score_tables, y=score_tables)
def test_one_of_two_is_better(x, y):
  improvement = statistics.probability_of_improvement
  there, back = improvement(x, y, 50), improvement(y, x, 50)
  if x.keys() & y.keys():
    assert there.point + back.point == pytest.approx(1)
  else:
    assert there == back == Interval(None)
