"""Trained agents outside their training: loaded, asked for actions, evaluated, looked at."""

import copy
import dataclasses
import functools
import json
import os
import pathlib
import shutil
import sys
import tarfile
import types

import jax
import numpy as np
import pytest

from harmony_jax import config as configuration
from harmony_jax import envs, method, processes, trained
from harmony_jax.errors import UserError
from harmony_jax.reporting import records
from harmony_jax.training import evaluation, faults, panels, recording, run_folder
from harmony_jax.training.checkpoint import Checkpoints
from tests import commands, runs, small

STEPS = (80, 160)
SHORT = {**runs.TINY, **runs.DREAMER}


def save(folder, config):
  """Write a run folder with checkpoints of untrained states, and return these by step."""
  spec = envs.make('catch', 'catch', 1).spec
  one = method.entry(config.run.method).make(config.agent, spec)
  text = {'format': configuration.FORMAT, 'config': config.to_json(), 'identity': {}}
  (folder / 'config.json').write_text(json.dumps(text))
  init = jax.jit(one.init)
  states = {step: init(jax.random.key(step)) for step in STEPS}
  with Checkpoints(folder / 'checkpoints') as checkpoints:
    for step, state in states.items():
      player = one.initial_carry(one.variables(state), 4)
      meta = {'spec': spec.to_json(), 'episodes': {'episode': [2, 3], 'restart': [True, False]}}
      checkpoints.save(step, {'train': state, 'player': player}, meta)
  return states


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  folder = tmp_path_factory.mktemp('saved')
  return folder, save(folder, small.run_config(**SHORT))


@pytest.fixture(scope='module')
def agent(saved):
  return trained.Agent.load(saved[0])


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """The folder of a whole run."""
  path = tmp_path_factory.mktemp('run')
  runs.train(path, small.run_config(**SHORT))
  return path


@pytest.fixture(scope='module')
def episode(agent):
  env = agent.make_env()
  return recording.record(agent, env, envs.episode_seed(0, 'eval', 160, 0), 100, False)


def observe(count=1, seed=0):
  env = envs.make('catch', 'catch', count)
  return envs.Episodes(env, seed, 'eval').step(None).observation['image']


def test_it_is_what_was_learned(saved, agent):
  folder, states = saved
  assert (agent.step, agent.config, agent.title) == (
    160,
    small.run_config(**SHORT),
    'catch catch, dreamerv3, harmony',
  )
  assert agent.spec == envs.make('catch', 'catch', 1).spec
  for one in (agent, trained.Agent.load(folder, step=80)):
    learned = one.method.variables(states[one.step])
    jax.tree.map(np.testing.assert_array_equal, one.variables, learned)


def test_three_lines(agent):
  """One observation, or many; with its name, or without; the same twice."""
  image = observe(3)
  action, state = agent.policy(image[0])
  again, _ = agent.policy({'image': image[0]}, None)
  assert isinstance(action, int) and action == again and action in range(3)
  assert isinstance(agent.policy(image[0], state)[0], int)
  actions, state = agent.policy(image)
  assert actions.shape == (3,) and actions.dtype == np.int32 and state.action.shape == (3, 3)
  _, state = agent.policy(image, state)
  assert state.calls == 2


def test_an_episode_begins_where_it_is_said(agent):
  image, row = observe(2), lambda state, n: [leaf[n] for leaf in jax.tree.leaves(state.carry)]
  _, state = agent.policy(image[::-1])
  _, first = agent.policy(image, None)
  _, mixed = agent.policy(image, state._replace(calls=0), is_first=[True, False])
  jax.tree.map(np.testing.assert_array_equal, row(first, 0), row(mixed, 0))
  assert max(np.abs(a - b).max() for a, b in zip(row(first, 1), row(mixed, 1))) > 1e-4


def test_wrong_observations_are_named(agent):
  image = observe(2)
  _, state = agent.policy(image)
  for wrong, text in (
    ({'picture': image}, 'an observation has image; got picture'),
    (image[:, :32], r'image is \[64, 64, 3\] or \[N, …\] of it; got \[2, 32, 64, 3\]'),
    (image[None], 'got \\[1, 2, 64, 64, 3\\]'),
    (image.astype(np.float32), 'image is uint8 in 0 … 255; got float32'),
    (image[0], '1 observations, but a state of 2'),
  ):
    with pytest.raises(ValueError, match=text):
      agent.policy(wrong, state)


def test_an_observation_that_is_not_finite_is_refused():
  specs = {'state': envs.ArraySpec((2,), np.float32)}
  for bad, told in ((np.nan, 'nan'), (np.inf, 'inf')):
    with pytest.raises(ValueError, match=f'^state has {told} in it'):
      trained._batched(np.array([0, bad]), specs)


def test_entries_of_an_observation_have_as_many_rows():
  specs = {'state': envs.ArraySpec((2,), np.float32), 'goal': envs.ArraySpec((3,), np.float32)}
  told = r'as many rows in every entry; got state of \[4\], goal of \[5\]'
  with pytest.raises(ValueError, match=told):
    trained._batched({'state': np.zeros((4, 2)), 'goal': np.zeros((5, 3))}, specs)


def test_what_cannot_be_loaded(saved, tmp_path):
  with pytest.raises(UserError, match='holds no run'):
    trained.Agent.load(tmp_path)
  shutil.copy(saved[0] / 'config.json', tmp_path)
  with pytest.raises(UserError, match='holds no checkpoint yet'):
    trained.Agent.load(tmp_path)
  with pytest.raises(UserError, match='no checkpoint of step 81: there are 80, 160'):
    trained.Agent.load(saved[0], step=81)
  text = json.loads((saved[0] / 'config.json').read_text())
  text['config']['eval_envs'] = 'many'
  for content, words in (
    ('{}', 'holds no run that can be read'),
    ('[]', 'holds no run that can be read'),
    ('null', 'holds no run that can be read'),
    ('{"config": 3}', 'holds no run that can be read'),
    ('[', 'holds no run that can be read'),
    ('{"config": {"method": "dreamerv9"}}', "unknown method 'dreamerv9'"),
    (json.dumps(text), "config.eval_envs is 'many': it must be a whole number"),
  ):
    (tmp_path / 'config.json').write_text(content)
    with pytest.raises(UserError, match=words):
      trained.Agent.load(tmp_path)


def test_a_damaged_checkpoint_and_a_configuration_of_another_version(saved, tmp_path, caplog):
  """The checkpoint before it; today's defaults for what was not there, with a word about it."""
  shutil.copytree(saved[0], tmp_path / 'run')
  for path in (tmp_path / 'run/checkpoints/160').rglob('*'):
    if path.is_file() and path.name.startswith('manifest'):
      path.write_bytes(b'')
  text = json.loads((tmp_path / 'run/config.json').read_text())
  text['config']['behavior']['lambda'] = text['config']['behavior'].pop('lam')
  (tmp_path / 'run/config.json').write_text(json.dumps(text))
  found = trained.Agent.load(tmp_path / 'run')
  assert (found.step, found.config.agent.behavior.lam) == (80, 0.95)
  assert "takes today's behavior.lam=0.95; leaves out behavior.lambda" in caplog.text


def test_only_the_environment_can_be_changed(agent):
  changed = trained.change_environment(agent.config, ['env.distractors=2'])
  assert changed.env['distractors'] == 2 and agent.config.env['distractors'] == 4
  for text, words in (
    ('rssm.deter=3', 'only its environment can be changed'),
    ('env.colour=red', 'unknown key'),
  ):
    with pytest.raises(UserError, match=words):
      trained.change_environment(agent.config, [text])


def test_what_evaluation_has_apart_can_be_changed(agent):
  """It is in evaluations that an agent meets its environment."""
  config = dataclasses.replace(agent.config, eval_env={'distractors': 4, 'size': 8})
  made = lambda *texts: trained.change_environment(config, texts).eval_env
  assert made('env.distractors=2') == {'distractors': 2, 'size': 8}
  assert made('eval_env.distractors=3', 'env.distractors=2')['distractors'] == 3


def test_an_environment_that_does_not_fit(agent):
  """Another picture than the agent has learned with."""
  other = copy.copy(agent)
  other.spec = envs.Spec({'image': envs.ArraySpec((32, 32, 3), np.uint8)}, True, 3, 1)
  text = r'learned with image \[32, 32, 3\] and 3 choices, here are image \[64, 64, 3\]'
  with pytest.raises(UserError, match=text):
    other.make_env()
  with pytest.raises(ValueError, match='action_repeat is 0'):
    envs.Spec({}, True, 3, 0)


def test_what_a_method_cannot_show(agent):
  assert agent.can('dream') and not agent.can('assign')
  with pytest.raises(UserError, match="dreamerv3 cannot show 'assign': it can show .*open_loop"):
    agent.assign({})


# Commands
# --------------------------------------------------------------------------------------------------


def test_evaluating_again_gives_the_runs_own_scores(whole):
  last = json.loads((whole / 'scores.jsonl').read_text().splitlines()[-1])
  done = commands.run('evaluate', f'--logdir={whole}', '--episodes=4', '--video')
  assert done.returncode == 0, done.stderr
  (path,) = (whole / 'evaluation').glob('*.json')
  found = json.loads(path.read_text())
  for name in ('scores', 'lengths', 'mean'):
    assert found[name] == last[f'eval_{name}']
  assert found['step'] == 160 and found['policy'] == 'sample' and found['machine']['commit']
  assert path.with_suffix('.mp4').exists() and f'{found["mean"]:,.2f} ±' in done.stdout


@pytest.mark.parametrize('ended, longest', [(6, 266), (160, 80), (None, 800)])
def test_an_episode_is_cut_where_the_runs_own_evaluation_cuts_it(agent, ended, longest):
  """After ten times what training's have taken, at least `eval_every`; of older checkpoints 800."""
  assert agent.ended == 6
  one = copy.copy(agent)
  one.config, one.ended = agent.config.replace({'eval_share': 0.1}), ended
  endless = types.SimpleNamespace(spec=dataclasses.replace(agent.spec, episode_limit=0))
  assert one._limit(endless) == longest and agent._limit(endless) == 0
  if ended:
    trainer = types.SimpleNamespace(
      config=one.config,
      state=types.SimpleNamespace(step=agent.step),
      group=processes.ALONE,
      episodes=types.SimpleNamespace(ended=ended),
    )
    assert evaluation.Evaluation(one.config)._extent(trainer)[1] == longest


def test_a_run_of_version_0_1(tmp_path):
  """DreamerV2 on catch, made by 0.1: it is what it was, and evaluates to its own scores."""
  with tarfile.open(pathlib.Path(__file__).parent / 'goldens' / 'run_0_1.tar.gz') as packed:
    packed.extractall(tmp_path, filter='data')
  last = json.loads((tmp_path / 'scores.jsonl').read_text().splitlines()[-1])
  done = commands.run('evaluate', f'--logdir={tmp_path}', '--episodes=64')
  assert done.returncode == 0 and 'another version' not in done.stderr, done.stderr
  (path,) = (tmp_path / 'evaluation').glob('*.json')
  assert json.loads(path.read_text())['scores'] == last['eval_scores']
  assert configuration.read(tmp_path).run.method == 'dreamerv2'


def test_an_evaluation_says_how_it_was_made(saved, tmp_path):
  options = '--episodes=3 --policy=mode --checkpoint=80 --output=~/out'.split()
  done = commands.run('evaluate', f'--logdir={saved[0]}', *options, HOME=str(tmp_path))
  assert done.returncode == 0, done.stderr
  found = json.loads(next((tmp_path / 'out').glob('*.json')).read_text())
  assert found['protocol'].startswith(
    'mean return of 3 complete episodes at the end, of 80 steps (80 frames) in all; the '
    "policy's mode"
  )
  assert 'training' not in found['protocol'] and found['protocol'] in done.stdout


@pytest.mark.parametrize(
  'program, words, text',
  [
    ('evaluate', ['--logdir=nowhere'], 'nowhere holds no run'),
    ('play', [], 'logdir'),
    ('play', ['somewhere', '--logdir=x'], "unexpected argument 'somewhere'"),
  ],
)
def test_bad_commands_get_one_line(program, words, text):
  done = commands.run(program, *words)
  assert done.returncode == 2 and text in done.stderr and done.stderr.count('\n') == 1


def test_a_played_episode_and_a_dream(saved, tmp_path):
  for words, files in (
    (['--context=5', '--horizon=3'], {'play_00000160.mp4', 'play_00000160.png'}),
    (['--dream', '--steps=40'], {'dream_00000160.mp4'}),
  ):
    folder = tmp_path / words[0]
    done = commands.run('play', f'--logdir={saved[0]}', f'--output={folder}', *words)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in folder.iterdir()} == files and 'rewards' in done.stdout


# To look at
# --------------------------------------------------------------------------------------------------


def test_an_episode_is_recorded_whole(episode):
  assert episode.complete and len(episode.reward) == 8 and abs(episode.reward[-1]) == 1
  assert episode.picture.shape == (8, 64, 64, 3)
  assert {len(leaf) for leaf in jax.tree.leaves(episode.carry)} == {8}
  np.testing.assert_array_equal(episode.action.sum(1), np.ones(8))


def test_windows_of_what_is_seen_and_imagined(agent, episode):
  """5 steps of 6 are seen, each by itself; one follows from the last seen and its action."""
  seen = np.array([True] * 5 + [False] + [True] * 2)

  def pictures(carry=episode.carry, action=episode.action, context=5):
    found = agent.open_loop(carry, action, context, 1)
    if context == 5:
      np.testing.assert_array_equal(found['seen'], seen)
    return found['observation']['image']

  same = lambda other: np.isclose(pictures(), other, atol=1e-6).all((1, 2, 3)).tolist()
  assert pictures().shape == episode.picture.shape
  assert same(pictures(context=7)) == [True] * 5 + [False, True, False]  # it imagines step 7
  for step in (4, 5, 6):
    here = lambda x, step=step: np.where(np.arange(8) == step, 0, x.T).T
    differ = {4: {4, 5}, 5: set(), 6: {6}}[step]  # step 5 follows from step 4
    other = pictures(jax.tree.map(here, episode.carry))
    assert same(other) == [t not in differ for t in range(8)]
  assert same(pictures(action=np.roll(episode.action, 1, 1))) == seen.tolist()


@pytest.mark.parametrize('name, discrete', [('dreamerv3', True), ('dreamerv2', False)])
def test_dreams(name, discrete):
  one = small.agent(name=name, discrete=discrete)
  variables = one.variables(one.init(jax.random.key(0)))
  dream = jax.jit(functools.partial(one.capabilities['dream'], count=2, length=5))
  found = dream(variables, jax.random.key(1))
  assert found['observation']['image'].shape == (2, 5, 16, 16, 3)
  assert found['action'].shape == (2, 5, 3)
  assert found['reward'].shape == found['continue'].shape == (2, 5)
  for seed in (1, 2):
    other = dream(variables, jax.random.key(seed))
    assert np.array_equal(found['action'], other['action']) == (seed == 1)
  if name == 'dreamerv2':  # it has no head for the end of episodes
    np.testing.assert_array_equal(found['continue'], 1)


def test_frames(agent, episode):
  """All of one size with even sides; a wrong reward is marked; a dream that is over is dark."""
  prediction = {
    'picture': episode.picture / 255,
    'reward': np.where(np.arange(8) == 3, 0.5, episode.reward),
    'seen': np.arange(8) < 5,
  }
  frames = np.stack(list(panels.episode_frames(episode, prediction, 0.1, 'title')))
  assert len(frames) == 8 and frames.shape[1] % 2 == frames.shape[2] % 2 == 0
  wrong = [(frame == panels.WRONG).all(-1).sum() for frame in frames]
  assert wrong[3] > 20 and not wrong[2]
  # Without pictures, or without any prediction, there is less beside the episode.
  for less in ({**prediction, 'picture': None}, None):
    narrow = np.stack(list(panels.episode_frames(episode, less, 0.1, 'title')))
    assert len(narrow) == 8 and narrow.shape[2] < frames.shape[2] and narrow.shape[2] % 2 == 0
    given = (narrow == panels.GIVEN).all(-1).any((1, 2))  # a line or a dot for what was seen
    assert given.all() if less else not given.any()
  picture = panels.strip(episode, prediction, 0.1, 8)  # all 8 steps, of which one is wrong
  assert picture.shape[1] > 8 * panels.SIZE // 2 and (picture == panels.WRONG).all(-1).sum() > 20
  dreams = {
    'observation': {'image': np.ones((1, 3, 8, 8, 3))},
    'reward': np.zeros((1, 3)),
    'continue': np.array([[1, 0.2, 1]]),
  }
  bright = [(frame == 255).all(-1).sum() for frame in panels.dream_frames(dreams, 'image', 'title')]
  assert bright[0] == bright[1] == panels.SIZE**2 and bright[2] == 0


def test_nothing_is_overwritten(tmp_path):
  first = recording.unused(tmp_path, 'play', '')
  (tmp_path / 'play.mp4').touch()
  (tmp_path / 'play-2.gif').touch()
  assert (first, recording.unused(tmp_path, 'play', '')) == (tmp_path / 'play', tmp_path / 'play-3')
  vectors = envs.Spec({'joints': envs.ArraySpec((3,), np.float32)}, False, 2, 1)
  with pytest.raises(UserError, match='sees no pictures, only joints'):
    recording.picture_name(vectors)
  (tmp_path / 'file').touch()
  with pytest.raises(UserError, match='cannot write to'):
    recording.writable(tmp_path / 'file' / 'folder')


# --------------------------------------------------------------------------------------------------
# Folders from elsewhere


@pytest.fixture
def trap(tmp_path, monkeypatch):
  """A module that leaves a mark where it is imported."""
  (tmp_path / 'trap_of_tests.py').write_text('open(__file__ + ".run", "w").close()\nMETHOD = 1\n')
  monkeypatch.syspath_prepend(tmp_path)
  monkeypatch.setenv('PYTHONPATH', f'{tmp_path}:{commands.ROOT}')
  yield tmp_path / 'trap_of_tests.py.run'
  sys.modules.pop('trap_of_tests', None)


def foreign(saved, folder, **names):
  """Copy a run folder that says of itself other names."""
  shutil.copytree(saved[0], folder)
  path = folder / 'config.json'
  saying = json.loads(path.read_text())
  saying['config'] |= names
  path.write_text(json.dumps(saying))
  (folder / 'nonfinite').mkdir()
  return folder


def test_a_folder_cannot_have_a_method_imported(saved, trap, tmp_path):
  folder = foreign(saved, tmp_path / 'run', method='trap_of_tests:METHOD')
  calls = [trained.Agent.load, configuration.read, faults.reproduce]
  for call in calls:
    with pytest.raises(UserError, match="module 'trap_of_tests': .*--allow_import"):
      call(folder)
  for command in ('evaluate', 'play', 'reproduce'):
    done = commands.run(command, f'--logdir={folder}', PYTHONPATH=os.environ['PYTHONPATH'])
    assert done.returncode == 2 and "module 'trap_of_tests'" in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == 1
  # a command that trains another method there
  before = json.loads((folder / 'config.json').read_text())
  (folder / 'config.json').write_text(json.dumps(before | {'format': 1}))
  with pytest.raises(UserError):
    run_folder.prepare(folder, small.run_config(**SHORT), {})
  records.collect([folder])
  assert not trap.exists()
  (folder / 'config.json').write_text(json.dumps(before))
  with pytest.raises(UserError, match='expected a method.Entry'):
    trained.Agent.load(folder, allow_import=True)
  assert trap.exists()


def test_a_folder_cannot_have_environments_imported(saved, trap, tmp_path):
  """An agent that needs no environment is loaded without the module."""
  folder = foreign(saved, tmp_path / 'run', suite='gym', task='trap_of_tests:Id-v0', env={})
  agent = trained.Agent.load(folder)
  with pytest.raises(UserError, match="task 'trap_of_tests:Id-v0'.*--allow_import"):
    agent.make_env()
  records.collect([folder])
  assert not trap.exists()
  with pytest.raises(UserError, match='Id-v0'):
    trained.Agent.load(folder, allow_import=True).make_env()
  assert trap.exists()


def test_features_of_a_model_without_a_posterior():
  """TD-MPC's: there is no KL, and a reward is predicted of the step before it."""
  agent = trained.Agent.load('reach-tdmpc')
  picture, action = np.zeros((4, 64, 64, 3), np.uint8), np.zeros((4, 2), np.float32)
  found = agent.features(picture, action)
  assert {name: len(array) for name, array in found.items()} == {'feature': 4, 'reward': 4}
  assert found['reward'][0] == 0 and (found['feature'][0] == found['feature'][3]).all()


def test_features(agent, episode):
  """Of a whole episode: those of the policy's own states where nothing is drawn; one or several."""
  whole = agent.features(episode.observation, episode.action)
  length = len(episode.action)
  assert whole['feature'].shape == (length, 64 + 8 * 8)  # deterministic, and one-hots
  assert np.abs(whole['feature'][:, :64]).max() <= 1 and (whole['kl'] >= 0).all()
  numbers = agent.features(episode.picture, episode.action.argmax(-1))
  jax.tree.map(np.testing.assert_array_equal, whole, numbers)
  # the first state knows no action; the deterministic part follows from nothing else
  np.testing.assert_allclose(
    whole['feature'][0, :64], episode.carry.latent.deter[0], rtol=1e-4, atol=1e-5
  )
  twice = {name: np.stack([array] * 2) for name, array in episode.observation.items()}
  both = agent.features(twice, np.stack([episode.action] * 2), is_first=np.ones(length, bool))
  assert both['feature'].shape == (2, length, 128)
  np.testing.assert_allclose(both['feature'][0, 3, :64], both['feature'][1, 5, :64], rtol=1e-5)
  for wrong, text in (
    ((episode.picture[0], episode.action), r'image is \[T, …\] of \[64, 64, 3\] or \[N, T, …\]'),
    ((episode.picture, episode.action[:-1]), r'actions are \[1, 8, 3\] here; got \[1, 7, 3\]'),
    ((episode.picture[:1], episode.action[:1]), 'of two steps at least'),
    ((episode.picture, episode.picture), 'actions are'),
    ((episode.picture, np.arange(8) % 4 - 1), 'from 0 to 2 here; got -1 to 2'),
  ):
    with pytest.raises(ValueError, match=text):
      agent.features(*wrong)
