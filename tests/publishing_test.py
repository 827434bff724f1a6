"""Published agents: what is written is what was learned, what was changed is refused."""

import dataclasses
import json
import shutil
import types
from typing import Any

import jax
import numpy as np
import pytest

from harmony_jax import envs, model_card, publishing, trained
from harmony_jax.envs import catch
from harmony_jax.errors import UserError
from harmony_jax.training import evaluation
from tests import commands, small, trained_test


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  """(a run folder, the folder that `experiments.publish` made of it)."""
  folder = tmp_path_factory.mktemp('run')
  trained_test.save(folder, small.run_config(**{**trained_test.SHORT, 'score': 'success'}))
  output = folder / 'published' / 'mine'
  words = (f'--logdir={folder}', f'--output={output}', '--episodes=64')
  ended = commands.run('publish', *words)
  assert ended.returncode == 0, ended.stderr
  assert 'random' in (output / publishing.CARD).read_text()
  refused = commands.run('publish', *words)
  assert refused.returncode == 2 and 'nothing was overwritten' in refused.stderr
  return folder, output


def test_it_is_what_was_learned(made):
  run, published = map(trained.Agent.load, made)
  assert (published.step, published.config) == (run.step, run.config)
  assert published.spec == run.spec
  jax.tree.map(np.testing.assert_array_equal, published.variables, run.variables)
  told = publishing.manifest(made[1])['evaluation']['protocol']
  assert told.startswith('mean return of 64 complete episodes')  # whatever the run is judged by
  assert not any('opt_state' in name for name in publishing.structure(published.saved))


@pytest.mark.parametrize('alike', [True, False])
def test_a_random_player_is_counted_as_the_agent_is(alike):
  """Three steps of a third at most; where all begin alike and ends do not count, two of them."""
  of: Any = types.SimpleNamespace(eval_seed=7 if alike else None, eval_ends=not alike)
  env = envs.make('catch', 'catch', 4, size=4, rewarded='steps')
  played = evaluation.evaluate_random(of, env, 0, 160, 64)
  best, seeds = max(each.score for each in played), {each.seed for each in played}
  if alike:
    assert seeds == {7} and best <= 0.67
  else:
    assert seeds == {envs.episode_seed(0, 'eval', 160, n) for n in range(64)} and best > 0.67


@pytest.mark.parametrize('known', [False, True])
def test_a_random_player_s_episodes_are_cut_as_the_agent_s_are(made, monkeypatch, known):
  """Where nobody knows that episodes end, both stop; a game takes 15 steps, the limit is 10."""
  agent = trained.Agent.load(made[0])
  changes = {'eval_share': 0.1, 'eval_every': 1, 'env.size': 16}
  agent.config, agent.ended = agent.config.replace(changes), agent.step
  if not known:
    game = catch.game(catch.Options(size=16))
    unknown = dataclasses.replace(game.spec, episode_limit=0)
    monkeypatch.setattr(catch, 'game', lambda _: dataclasses.replace(game, spec=unknown))
  for played in (agent.evaluate(4), agent.evaluate_random(4)):
    assert {(each.cut, each.length) for each in played} == {(False, 15) if known else (True, 10)}


def test_what_was_changed_is_refused(made, tmp_path):
  """One bit of the parameters, one score; another interval fails; the agent as it is passes."""
  names = ('parameters', 'scores', 'interval')
  for name in names:
    shutil.copytree(made[1], tmp_path / name)
  data = bytearray((tmp_path / 'parameters' / publishing.PARAMETERS).read_bytes())
  data[len(data) // 2] ^= 1
  (tmp_path / 'parameters' / publishing.PARAMETERS).write_bytes(data)
  scores = tmp_path / 'scores' / publishing.SCORES
  scores.write_text(scores.read_text().replace('-1.0', '1.0', 1))
  path = tmp_path / 'interval' / publishing.MANIFEST
  about = json.loads(path.read_text())
  about['verify'] |= {'low': 0.99, 'high': 1.0}
  path.write_text(json.dumps(about))
  ended = commands.run('verify', *(tmp_path / name for name in names), made[1])
  assert ended.returncode == 2
  errors, told = ended.stderr.splitlines(), ended.stdout.splitlines()
  assert [line.partition(':')[0] for line in told] == ['FAILED', 'passed']
  assert len(errors) == 2 and all('is not what was published' in line for line in errors)
  ended = commands.run('verify', made[1], '--seed=0')  # no new ones
  assert ended.returncode == 2 and 'has its score from these episodes' in ended.stderr
  with pytest.raises(UserError, match='nothing was loaded'):
    trained.Agent.load(tmp_path / 'parameters')


def test_what_cannot_be_read(made, tmp_path):
  shutil.copytree(made[1], tmp_path / 'a')
  path = tmp_path / 'a' / publishing.MANIFEST
  about = json.loads(path.read_text())
  for change, text in (
    ({'format': 9}, 'has the format 9'),
    ({'run': {**about['run'], 'config': {**about['run']['config'], 'method': 'a:b'}}}, "'a:b'"),
  ):
    path.write_text(json.dumps(about | change))
    with pytest.raises(UserError, match=text):
      trained.Agent.load(tmp_path / 'a')
  for where, name in (
    ('', 'verify'),
    ('verify', 'low'),
    ('evaluation', 'mean'),
    ('', 'evaluation'),
  ):
    parts = about if not where else about[where]
    for wrong in ({k: v for k, v in parts.items() if k != name}, {**parts, name: None}):
      path.write_text(json.dumps(about | {where: wrong} if where else wrong))
      with pytest.raises(UserError, match='manifest.json cannot be read'):
        publishing.manifest(tmp_path / 'a')
  for name, wrong in (('run', {}), ('spec', {}), ('spec', {**about['spec'], 'num_actions': 'x'})):
    path.write_text(json.dumps(about | {name: wrong}))
    with pytest.raises(UserError, match='manifest.json cannot be read'):
      trained.Agent.load(tmp_path / 'a')
  path.write_text('{}')
  with pytest.raises(UserError, match='cannot be read'):
    trained.Agent.load(tmp_path / 'a')
  with pytest.raises(UserError, match="holds no run.*did you mean 'catch-harmony'"):
    trained.Agent.load('catch-harmon')
  with pytest.raises(UserError, match='no checkpoint of step 3'):
    trained.Agent.load(made[1], step=3)


@pytest.mark.parametrize('two', [True, False])
def test_the_interval_holds_what_it_says(two):
  """At a level of 90 %, of 300 pairs of 60 and 40 episodes: within four standard errors of it."""
  rng, inside = np.random.default_rng(0), 0
  draw = lambda n: 2.0 * (rng.random(n) < 0.8) - 1 if two else rng.normal(3, 2, n)
  for _ in range(300):
    low, high, _ = publishing.interval(draw(60), 40, 0.9)
    inside += low <= draw(40).mean() <= high
  # of counts an interval has a little more than its level
  assert 0.83 <= inside / 300 <= (1 if two else 0.97)
  with pytest.raises(UserError, match='64 equal scores'):
    publishing.interval([1.0] * 64, 64)


@pytest.mark.parametrize('pair', [(0.0, 0.1), (0.1, 0.3), (-0.1, 0.9)])
def test_an_interval_s_ends_belong_to_it(pair):
  """Of an agent with the larger score in 998 games of 1,000, one that has it in all of them."""
  low, high, _ = publishing.interval([pair[0]] * 2 + [pair[1]] * 998, 1000)
  mean = lambda count: float(np.mean([pair[0]] * (1000 - count) + [pair[1]] * count))
  least = round(1000 * (low - pair[0]) / (pair[1] - pair[0]))
  found = [publishing.holds(mean(count), low, high) for count in (1000, least, least - 1)]
  assert found == [True, True, False]
  assert not publishing.holds(float('nan'), low, high)


def test_an_episode_that_was_cut_has_no_score():
  whole = envs.EpisodeResult(seed=1, score=2.0, length=3)
  assert publishing.scores([whole, whole]) == [2.0, 2.0]
  with pytest.raises(UserError, match='1 of 2 episodes of the agent did not end'):
    publishing.scores([whole, whole._replace(cut=True)])


def test_an_unfinished_folder_is_no_agent(monkeypatch, tmp_path):
  for name in ('a', 'b.123.tmp'):
    shutil.copytree(publishing.PLACE / 'reach-tdmpc', tmp_path / name)
  monkeypatch.setattr(publishing, 'PLACE', tmp_path)
  assert publishing.names() == ['a']


@pytest.mark.parametrize('name', publishing.names())
def test_those_that_come_along(name):
  """Their files, their cards and their numbers are one; they load without a run folder."""
  folder = publishing.PLACE / name
  about = publishing.manifest(folder)
  scores = json.loads(publishing.read(folder, publishing.SCORES, about))
  stated, again = about['evaluation'], about['verify']
  assert np.mean(scores['scores']) == pytest.approx(stated['mean'])
  assert np.mean(scores['random']) == pytest.approx(stated['random_mean'])
  low, high, how = publishing.interval(scores['scores'], again['episodes'], again['level'])
  assert (low, high) == pytest.approx((again['low'], again['high'])) and how == again['how']
  assert (folder / publishing.CARD).read_text() == model_card.card(about)
  assert 'dirty' not in about['trained']['commit']
  agent = trained.Agent.load(name)
  assert publishing.structure(agent.saved) == about['arrays']
  assert sum(path.stat().st_size for path in folder.iterdir()) < 7e6  # a few megabytes


@pytest.mark.slow
def test_all_of_them_are_as_stated():
  ended = commands.run('verify')
  assert ended.returncode == 0, ended.stdout + ended.stderr
