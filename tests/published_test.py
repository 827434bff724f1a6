"""Published scores against what the paper prints, and the authors' files, whole and damaged."""

import json
import os
import pathlib
import re

import numpy as np
import pytest

from harmony_jax.envs.atari import ATARI_100K
from harmony_jax.errors import UserError
from harmony_jax.reporting import protocol, published
from tests.damage import assert_one_line

PAPER = pathlib.Path(
  os.environ.get('HARMONY_PAPER', pathlib.Path(__file__).parents[2] / 'shared' / 'paper.txt')
)
# The last two rows of Table 2: human-normalised mean and median in percent, as printed.
PRINTED = dict(
  zip(published.TABLE_2, zip((33, 96, 105, 112, 108, 136.5), (13, 51, 29, 49, 42, 67.1)))
)


def test_table_2_is_the_paper_s():
  assert set(published.RANDOM_AND_HUMAN) == set(ATARI_100K)
  if not PAPER.exists():
    pytest.skip(f'the paper is not at {PAPER}')
  rows = {}
  for line in PAPER.read_text(encoding='utf-8').split('\nTable 2.')[1].splitlines():
    name, *columns = line.split('\t')
    if len(columns) == 8:
      rows[re.sub(r'\W', '', name).lower()] = columns
  header = rows.pop('game')
  assert [each.lower() for each in header[2:]] == [column.lower() for column in published.TABLE_2]
  last = [rows.pop(row)[2:] for row in ('humanmean', 'humanmedian')]
  assert [[float(cell.strip('%')) for cell in row] for row in last] == [
    list(each) for each in zip(*PRINTED.values())
  ]
  assert len(rows) == 26
  for game, (random, human) in published.RANDOM_AND_HUMAN.items():
    found = rows[{'choppercommand': 'choppercom'}.get(game.lower(), game.lower())]
    ours = [scores[game] for scores in published.TABLE_2.values()]
    assert [float(cell) for cell in found[2:]] == ours, game
    # printed rounded
    assert abs(random - float(found[0])) <= 0.5 and abs(human - float(found[1])) <= 0.5, game


@pytest.mark.parametrize('column', published.TABLE_2)
def test_the_rounded_scores_give_the_printed_mean_and_median(column):
  """Between what they give for the least and for the largest scores that are printed like this."""
  scores = published.TABLE_2[column]
  for statistic, printed in zip((np.mean, np.median), PRINTED[column]):
    least, most = (
      100 * statistic([*published.normalized({g: [s + off] for g, s in scores.items()}).values()])
      for off in (-0.5, 0.5)
    )
    digit = 0.05 if printed % 1 else 0.5
    assert least - digit <= printed <= most + digit


def write(folder, scores=None, steps=(20_000, 40_000), name='harmony_dreamerv3.json'):
  scores = {'bank_heist': [[1.0, 2.5], [3, 4]]} if scores is None else scores
  (folder / name).write_text(json.dumps({'steps': list(steps), 'score': scores}))
  return folder


def test_scores_become_records(tmp_path):
  first, second = published.read_scores(write(tmp_path))
  assert (first.task, first.seed, second.seed, second.final) == ('BankHeist', 0, 1, 4)
  assert (first.method, first.weighting) == ('Harmony DreamerV3 (authors)', 'harmony')
  assert first.scores == [1.0, 2.5] and first.complete
  assert (first.evaluations['step'], first.evaluations['frame'][1]) == ([5_000, 10_000], 40_000)
  assert '100 complete episodes every 5,000' in protocol.describe(first.config)
  write(tmp_path, {'pong': [[1, 2]]}, name='dreamerv3_reproduced.json')
  assert {record.weighting for record in published.read_scores(tmp_path)} == {'harmony', 'none'}


@pytest.mark.parametrize(
  'scores, steps, told',
  [
    ({'tetris': [[1, 2]]}, (1, 2), "'tetris' is none of the 26 games"),
    ({'pong': [[1, 2, 3]]}, (4, 8), 'as long as the others'),
    ({'pong': [[1, 'x']]}, (4, 8), "'x' is not a number as eval_mean"),
    ({'pong': 5}, (4, 8), 'is damaged'),
    ({'pong': [[1, True]]}, (4, 8), "'True' is not a number"),
    ({'pong': []}, (), "'steps' must be"),
    ({'pong': [[1]]}, (0.5,), "'steps' must be"),
    ([1], (4,), 'is damaged'),
  ],
)
def test_other_contents_are_refused_in_one_line(tmp_path, scores, steps, told):
  with pytest.raises(UserError, match=f'harmony_dreamerv3.json.*{told}') as caught:
    published.read_scores(write(tmp_path, scores, steps))
  assert_one_line(caught.value)
  with pytest.raises(UserError, match='is no folder with'):
    published.read_scores(tmp_path / 'none')
