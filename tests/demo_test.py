"""The minute's demonstration: what it draws, when it speaks of learning, and the command."""

import json

import pytest

from experiments import bars
from harmony_jax import trained
from tests import commands

RANDOM = bars.Point(0, 1000, 250)


def test_an_interval_of_a_share():
  """Wilson's, as tables have it: 10 of 100 at 95 %; and it stays inside [0, 1]."""
  assert bars.interval(10, 100, 0.95) == pytest.approx((0.05523, 0.17437), abs=1e-5)
  assert bars.interval(100, 100, 0.95) == pytest.approx((0.96300, 1.0), abs=1e-5)


@pytest.mark.parametrize(('caught', 'sign'), [(32, False), (45, False), (60, True), (10, False)])
def test_learning_is_spoken_of_where_it_is_no_chance(caught, sign):
  """Of 128 games: 25 % and 35 % against 25 % of 1,000 say nothing, 47 % does; worse is no sign."""
  assert bars.learned(bars.Point(400, 128, caught), RANDOM) == sign


def test_the_chart():
  """Half of the height for half of the balls; the random player's line behind the bars."""
  points = [bars.Point(0, 128, 0), bars.Point(400, 128, 64), bars.Point(800, 128, 128)]
  rows = bars.chart(points, RANDOM, 4).plain.split('\n')
  filled = [sum(row[8 + 3 * at] == '█' for row in rows[:8]) for at in range(4)]
  assert filled == [0, 4, 8, 0]
  assert [row for row in rows if 'random player: 25%' in row] == [rows[5]]
  assert rows[5][8:20] == '┄┄┄██┄██┄┄┄┄'
  assert rows[-1].endswith('step 800')


def test_a_reward_that_does_not_say_what_is_caught():
  """Nearly every game has a score above 0 then."""
  done = commands.run('demo', '--config.env.rewarded=steps')
  assert done.returncode == 2 and 'by the last reward' in done.stderr, done.stderr


def test_the_command(tmp_path):
  """A run of a few updates: its numbers are those that it has written, and its folder is a run."""
  short = {'steps': 320, 'eval_every': 160, 'eval_episodes': 64, 'final_eval_episodes': 100}
  words = [f'--config.{name}={value}' for name, value in short.items()]
  words += ['--config.prefill_chunk=8', '--config.log_every=80']
  picture = tmp_path / 'screen.svg'
  ended = commands.run('demo', *words, f'--picture={picture}', folder=tmp_path)
  assert ended.returncode == 0, ended.stderr
  folder = tmp_path / 'runs/demo/seed0'
  scores = [json.loads(line) for line in (folder / 'scores.jsonl').read_text().splitlines()]
  assert [score['step'] for score in scores] == [0, 160, 320]
  caught = sum(score > 0 for score in scores[-1]['eval_scores'])
  said = ' '.join(ended.stdout.split())
  assert said.startswith('An agent learns to catch falling balls from pixels')
  assert f'It catches {caught / 100:.1%} of 100 new balls' in said
  assert f'experiments.play --logdir={folder.relative_to(tmp_path)}' in said
  assert 'observation' in said and picture.read_text().startswith('<svg')
  assert trained.Agent.load(folder).step == 320
  # a second start does not end at the complete run of the first
  again = commands.run('demo', *words, '--config.steps=9', folder=tmp_path)
  assert again.returncode == 2 and 'nothing would be learned' in again.stderr
