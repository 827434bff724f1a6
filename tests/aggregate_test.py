"""The aggregate of many runs against numbers made by hand, and against the paper's."""

import json

import numpy as np
import pytest
import scipy.stats

from harmony_jax.envs.atari import ATARI_100K
from harmony_jax.reporting import aggregate, runs
from harmony_jax.reporting.atari_scores import RANDOM_AND_HUMAN, human_normalized
from tests import sweeps

# Table 2 of the HarmonyDream paper: random, human, Harmony DreamerV3; the last with a decimal from the authors' file.
TABLE_2 = {
    'Alien': (228, 7128, 889.7), 'Amidar': (6, 1720, 141.1), 'Assault': (222, 742, 1002.7),
    'Asterix': (210, 8503, 1140.3), 'BankHeist': (14, 753, 1068.6), 'BattleZone': (2360, 37188, 16456.0),
    'Boxing': (0, 12, 79.6), 'Breakout': (2, 30, 52.6), 'ChopperCommand': (811, 7388, 1509.6),
    'CrazyClimber': (10780, 35829, 82739.0), 'DemonAttack': (152, 1971, 202.6), 'Freeway': (0, 30, 0.0),
    'Frostbite': (65, 4335, 678.7), 'Gopher': (258, 2412, 13042.8), 'Hero': (1027, 30826, 13378.0),
    'Jamesbond': (29, 303, 317.1), 'Kangaroo': (52, 3035, 5117.6), 'Krull': (1598, 2666, 7753.6),
    'KungFuMaster': (258, 22736, 22274.0), 'MsPacman': (307, 6952, 1680.7), 'Pong': (-21, 15, 18.6),
    'PrivateEye': (25, 69571, 2932.2), 'Qbert': (164, 13455, 3932.5), 'RoadRunner': (12, 7845, 14646.4),
    'Seaquest': (68, 42055, 665.3), 'UpNDown': (533, 11693, 10873.6)}


def test_references_are_those_of_the_paper():
  assert set(RANDOM_AND_HUMAN) == set(ATARI_100K) == set(TABLE_2)
  for game, (random, human) in RANDOM_AND_HUMAN.items():
    # 10780.5 is 10780 there, 37187.5 is 37188.
    assert abs(random - TABLE_2[game][0]) <= 0.5 and abs(human - TABLE_2[game][1]) <= 0.5, game
    assert human_normalized(game, random) == 0 and human_normalized(game, human) == 1


def test_the_paper_s_scores_give_the_paper_s_mean_and_median():
  summary = aggregate.human_normalized_summary({game: [row[2]] for game, row in TABLE_2.items()})
  assert summary['mean'] == pytest.approx(1.365, abs=2e-3) and summary['median'] == pytest.approx(0.671, abs=1e-3)
  assert (summary['games'], summary['games_wanted'], summary['runs']) == (26, 26, 26)


def test_interquartile_mean():
  assert aggregate.interquartile_mean([5]) == 5 and aggregate.interquartile_mean([1, 2, 3]) == 2
  assert aggregate.interquartile_mean([100, 1, 2, -50]) == 1.5
  for count in range(1, 40):
    values = np.random.default_rng(count).normal(size=count) ** 3
    assert aggregate.interquartile_mean(values) == pytest.approx(scipy.stats.trim_mean(values, 0.25))


def test_by_hand():
  """Two games, two seeds, two configurations; one run is missing."""
  configurations = ('dreamerv3-harmony', 'dreamerv3-none')
  wanted = [(task, name, seed) for task in ('Pong', 'Boxing') for name in configurations for seed in (0, 1)]
  scores = {('Pong', 'dreamerv3-harmony', 0): -20.7, ('Pong', 'dreamerv3-harmony', 1): 14.6,
            ('Boxing', 'dreamerv3-harmony', 0): 12.1, ('Boxing', 'dreamerv3-harmony', 1): 24.1,
            ('Pong', 'dreamerv3-none', 0): -20.7, ('Pong', 'dreamerv3-none', 7): 99.0}
  result = aggregate.aggregate(scores, wanted, atari=True)
  assert (result['runs'], result['wanted']) == (5, 8)
  ours, none = (result['configurations'][name] for name in configurations)
  assert ours['tasks']['Pong'] == {
      'mean': pytest.approx(-3.05), 'std': pytest.approx(35.3 / 2 ** 0.5), 'seeds': 2, 'wanted': 2, 'missing': [],
      'scores': {0: -20.7, 1: 14.6}, 'normalized': pytest.approx(0.5)}
  # Pong 0 and 1, Boxing 1 and 2: games' means 0.5 and 1.5; the middle half of 0, 1, 1, 2.
  assert ours['human_normalized'] == {'mean': pytest.approx(1), 'median': pytest.approx(1), 'iqm': pytest.approx(1),
                                      'games': 2, 'games_wanted': 2, 'runs': 4}
  assert none['tasks']['Pong']['missing'] == [1] and none['tasks']['Pong']['std'] is None
  assert none['tasks']['Boxing']['mean'] is None and none['tasks']['Boxing']['missing'] == [0, 1]
  assert none['human_normalized']['games'] == 1 and none['human_normalized']['runs'] == 1
  json.dumps(result, allow_nan=False)
  text = '\n'.join(aggregate.lines(result))
  for expected in ('-20.7 (1/2 seeds)', 'missing', '2/2', '1/2', '5 of 8 runs', 'Pong dreamerv3-none: seed 1',
                   'Boxing dreamerv3-none: seeds 0, 1'):
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
  found = [runs.read(tmp_path / f'seed{seed}') for seed in (0, 1)]
  assert aggregate.finished(found) == {('Pong', 'dreamerv3-harmony', 0): 0.0}


def test_a_measure_in_the_place_of_the_return():
  run = {'config': {'score': 'success'}, 'scores': [{'eval_mean': 7.0, 'eval_success': 0.5}]}
  assert aggregate.final_score(run) == 0.5
