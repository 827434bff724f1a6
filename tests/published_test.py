"""Published scores against what the paper prints, and the authors' files, whole and damaged."""

import json
import os
import pathlib
import re
import tempfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harmony_jax.envs.atari import ATARI_100K
from harmony_jax.errors import UserError
from harmony_jax.reporting import form, protocol, published
from harmony_jax.reporting.atari_scores import RANDOM_AND_HUMAN, human_normalized
from tests.damage import assert_one_line, cases, damages

PAPER = pathlib.Path(
  os.environ.get('HARMONY_PAPER', pathlib.Path(__file__).parents[2] / 'shared' / 'paper.txt')
)


def test_every_column_has_the_26_games():
  assert set(RANDOM_AND_HUMAN) == set(ATARI_100K)
  for scores in published.TABLE_2.values():
    assert list(scores) == list(ATARI_100K)


def test_table_2_is_the_paper_s():
  if not PAPER.exists():
    pytest.skip(f'the paper is not at {PAPER}')
  rows = {}
  for line in PAPER.read_text(encoding='utf-8').split('\nTable 2.')[1].splitlines():
    name, *columns = line.split('\t')
    if len(columns) == 8:
      rows[re.sub(r'\W', '', name).lower()] = columns
  header = rows.pop('game')
  assert header[0:2] == ['Random', 'Human'] and [each.lower() for each in header[2:]] == [
    method.lower() for method in published.TABLE_2
  ]
  for row, printed in (
    ('humanmean', published.TABLE_2_MEAN),
    ('humanmedian', published.TABLE_2_MEDIAN),
  ):
    assert [float(cell.strip('%')) for cell in rows.pop(row)[2:]] == list(printed.values())
  assert len(rows) == 26
  for game, (random, human) in RANDOM_AND_HUMAN.items():
    found = rows[{'choppercommand': 'choppercom'}.get(game.lower(), game.lower())]
    assert [float(cell) for cell in found[2:]] == [
      scores[game] for scores in published.TABLE_2.values()
    ], game
    # printed rounded
    assert abs(random - float(found[0])) <= 0.5 and abs(human - float(found[1])) <= 0.5, game


@pytest.mark.parametrize('method', published.TABLE_2)
def test_the_rounded_scores_give_the_printed_mean_and_median(method):
  """Between what they give for the least and for the largest scores that are printed like this."""
  for statistic, printed in (
    (np.mean, published.TABLE_2_MEAN),
    (np.median, published.TABLE_2_MEDIAN),
  ):
    least, most = (
      100
      * statistic(
        [human_normalized(game, score + off) for game, score in published.TABLE_2[method].items()]
      )
      for off in (-0.5, 0.5)
    )
    digit = 0.05 if printed[method] % 1 else 0.5
    assert least - digit <= printed[method] <= most + digit


def write(folder, scores=None, steps=(20_000, 40_000), name='harmony_dreamerv3.json'):
  scores = {'bank_heist': [[1.0, 2.5], [3, 4]]} if scores is None else scores
  (folder / name).write_text(json.dumps({'steps': list(steps), 'score': scores}))
  return folder


def test_scores_become_records(tmp_path):
  first, second = published.read_scores(write(tmp_path))
  form.check(first)
  assert (first['task'], first['seed'], second['seed']) == ('BankHeist', 0, 1)
  assert first['method'] == 'Harmony DreamerV3 (authors)' and first['weighting'] == 'harmony'
  assert [(each['step'], each['frame'], each['mean']) for each in first['evaluations']] == [
    (5_000, 20_000, 1.0),
    (10_000, 40_000, 2.5),
  ]
  assert form.final(second) == 4 and '100 complete episodes every 5,000' in protocol.describe(
    first['config']
  )
  write(tmp_path, {'pong': [[1, 2]]}, name='dreamerv3_reproduced.json')
  assert {record['weighting'] for record in published.read_scores(tmp_path)} == {'harmony', 'none'}


@pytest.mark.parametrize(
  'scores, steps, told',
  [
    ({'tetris': [[1, 2]]}, (1, 2), "'tetris' is none of the 26 games"),
    ({'pong': [[1, 2, 3]]}, (1, 2), 'Pong must have a list of 2 scores'),
    ({'pong': [[1, 'x']]}, (1, 2), 'Pong must have'),
    ({'pong': 5}, (1, 2), 'Pong must have'),
    ({'pong': [[1, True]]}, (1, 2), 'Pong must have'),
    ({'pong': []}, (), "'steps' must be"),
    ({'pong': [[1]]}, (0.5,), "'steps' must be"),
    ([1], (1,), 'cannot be read'),
  ],
)
def test_other_contents_are_refused_in_one_line(tmp_path, scores, steps, told):
  with pytest.raises(UserError, match=told) as caught:
    published.read_scores(write(tmp_path, scores, steps))
  assert_one_line(caught.value)
  assert 'harmony_dreamerv3.json' in str(caught.value)


def test_folders_without_them_are_refused(tmp_path):
  for folder, told in ((tmp_path / 'none', 'is no folder'), (tmp_path, 'holds neither')):
    with pytest.raises(UserError, match=told):
      published.read_scores(folder)


@cases(150)
@given(harm=st.lists(damages(), min_size=1, max_size=2))
def test_damaged_files_give_records_or_one_line(harm):
  with tempfile.TemporaryDirectory() as folder:
    path = (
      write(pathlib.Path(folder), {game.lower(): [[1.5, 2]] for game in ATARI_100K})
      / 'harmony_dreamerv3.json'
    )
    for damage in harm:
      damage.do([path])
    try:
      for record in published.read_scores(folder):
        form.check(record)
    except UserError as error:
      assert_one_line(error)
