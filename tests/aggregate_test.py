"""The table of many runs against numbers made by hand."""

import json

import pytest

from harmony_jax.reporting import aggregate, records
from tests import sweeps


def test_by_hand():
  """Two games, two seeds, two configurations; one run is missing."""
  configurations = ('dreamerv3-harmony', 'dreamerv3-none')
  wanted = [
    (task, name, seed) for task in ('Pong', 'Boxing') for name in configurations for seed in (0, 1)
  ]
  scores = {
    ('Pong', 'dreamerv3-harmony', 0): -20.7,
    ('Pong', 'dreamerv3-harmony', 1): 14.6,
    ('Boxing', 'dreamerv3-harmony', 0): 12.1,
    ('Boxing', 'dreamerv3-harmony', 1): 24.1,
    ('Pong', 'dreamerv3-none', 0): -20.7,
    ('Pong', 'dreamerv3-none', 7): 99.0,
  }
  result = aggregate.aggregate(scores, wanted, atari=True)
  assert (result['runs'], result['wanted']) == (5, 8)
  ours, none = (result['configurations'][name] for name in configurations)
  assert ours['tasks']['Pong'] == {
    'mean': pytest.approx(-3.05),
    'std': pytest.approx(35.3 / 2**0.5),
    'seeds': 2,
    'wanted': 2,
    'missing': [],
    'scores': {0: -20.7, 1: 14.6},
    'normalized': pytest.approx(0.5),
  }
  # Pong 0 and 1, Boxing 1 and 2: games' means 0.5 and 1.5; the middle half of 0, 1, 1, 2.
  assert ours['human_normalized'] == {
    'mean': pytest.approx(1),
    'median': pytest.approx(1),
    'iqm': pytest.approx(1),
    'games': 2,
    'games_wanted': 2,
    'runs': 4,
  }
  assert none['tasks']['Pong']['missing'] == [1] and none['tasks']['Pong']['std'] is None
  assert none['tasks']['Boxing']['mean'] is None and none['tasks']['Boxing']['missing'] == [0, 1]
  assert none['human_normalized']['games'] == 1 and none['human_normalized']['runs'] == 1
  json.dumps(result, allow_nan=False)
  text = '\n'.join(aggregate.lines(result))
  for expected in (
    '-20.7 (1/2 seeds)',
    'missing',
    '2/2',
    '1/2',
    '5 of 8 runs',
    'Pong dreamerv3-none: seed 1',
    'Boxing dreamerv3-none: seeds 0, 1',
  ):
    assert expected in text, text


def test_nothing_at_all():
  result = aggregate.aggregate({}, [('Pong', 'dreamerv3-none', 0)], atari=True)
  assert result['configurations']['dreamerv3-none']['human_normalized']['iqm'] is None
  assert 'none' in '\n'.join(aggregate.lines(result))


def test_only_complete_runs_count(tmp_path):
  """The last evaluation of a run that still trains is no final score."""
  for seed, complete in ((0, True), (1, False)):
    sweeps.write_run(tmp_path / f'seed{seed}', 100, float(seed), complete=complete)
  (tmp_path / 'seed0' / 'scores.jsonl').open('a').write('{"step": 10')  # half a line
  found, problems = records.collect(tmp_path)
  assert len(found) == 2 and not problems
  assert aggregate.finished(found) == {('Pong', 'dreamerv3-harmony', 0): 0.0}
