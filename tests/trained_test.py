"""Trained agents outside their training: loaded, asked for actions, evaluated, looked at."""

import copy
import functools
import json
import shutil

import jax
import numpy as np
import pytest

from harmony_jax import envs, trained, viewing
from harmony_jax.errors import UserError
from harmony_jax.training import panels, recording
from tests import small
from tests.launcher_test import command
from tests.loop_test import config_of, run


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  folder = tmp_path_factory.mktemp('run')
  return folder, run(folder, config_of())


@pytest.fixture(scope='module')
def agent(whole):
  return trained.Agent.load(whole[0])


@pytest.fixture(scope='module')
def episode(agent):
  env = agent.make_env()
  return recording.record(agent, env, envs.episode_seed(0, 'eval', 160, 0), 100, False)


def observe(count=1, seed=0):
  env = envs.make('catch', 'catch', count)
  return envs.Episodes(env, seed, 'eval').step(None).observation['image']


def test_it_is_what_was_learned(whole, agent):
  _, trainer = whole
  assert (agent.step, agent.config.task, agent.spec) == (160, 'catch', trainer.env.spec)
  jax.tree.map(np.testing.assert_array_equal, agent.weights, trainer.state.weights)
  earlier = trained.Agent.load(whole[0], step=80)
  assert earlier.step == 80
  assert any(
    (a != b).any() for a, b in zip(*map(jax.tree.leaves, (earlier.weights, agent.weights)))
  )


def test_three_lines(agent):
  """One observation, or many; with its name, or without; the same arguments give the same result."""
  image = observe(3)
  action, state = agent.policy(image[0])
  again, _ = agent.policy({'image': image[0]}, None)
  assert isinstance(action, int) and action == again and action in range(3)
  assert isinstance(agent.policy(image[0], state)[0], int)
  actions, state = agent.policy(image)
  assert actions.shape == (3,) and actions.dtype == np.int32 and state.carry.action.shape == (3, 3)
  _, state = agent.policy(image, state)
  assert state.calls == 2


def test_an_episode_begins_where_it_is_said(agent):
  image = observe(2)
  _, state = agent.policy(image[::-1])
  _, first = agent.policy(image, None)
  _, mixed = agent.policy(image, state._replace(calls=0), is_first=[True, False])
  np.testing.assert_array_equal(first.carry.latent.deter[0], mixed.carry.latent.deter[0])
  assert np.abs(first.carry.latent.deter[1] - mixed.carry.latent.deter[1]).max() > 1e-4


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


def test_what_cannot_be_loaded(whole, tmp_path):
  with pytest.raises(UserError, match='holds no run'):
    trained.Agent.load(tmp_path)
  shutil.copy(whole[0] / 'config.json', tmp_path)
  with pytest.raises(UserError, match='holds no checkpoint yet'):
    trained.Agent.load(tmp_path)
  with pytest.raises(UserError, match='no checkpoint of step 81: there are 80, 160'):
    trained.Agent.load(whole[0], step=81)
  saved = json.loads((whole[0] / 'config.json').read_text())
  saved['config']['eval_envs'] = 'many'
  for text in (
    '{}',
    '[]',
    '{"config": {"method": "dreamerv9"}}',
    'null',
    '{"config": 3}',
    '[',
    json.dumps(saved),
  ):
    (tmp_path / 'config.json').write_text(text)
    with pytest.raises(UserError, match='holds no run that can be read'):
      trained.Agent.load(tmp_path)


def test_a_damaged_checkpoint_and_a_configuration_of_another_version(whole, tmp_path, caplog):
  """The checkpoint before it; today's defaults for fields that were not there, with a word about
  it.
  """
  shutil.copytree(whole[0], tmp_path / 'run')
  for path in (tmp_path / 'run/checkpoints/160').rglob('*'):
    if path.is_file() and path.name.startswith('manifest'):
      path.write_bytes(b'')
  saved = json.loads((tmp_path / 'run/config.json').read_text())
  del saved['config']['behavior']['lam']
  saved['config']['behavior']['lambda'] = 0.95
  (tmp_path / 'run/config.json').write_text(json.dumps(saved))
  found = trained.Agent.load(tmp_path / 'run')
  assert (found.step, found.config.behavior.lam) == (80, 0.95)
  assert "takes today's behavior.lam=0.95; leaves out behavior.lambda" in caplog.text


def test_only_the_environment_can_be_changed(agent):
  config = agent.config.copy_and_resolve_references()
  trained.change_environment(config, ['env.distractors=2'])
  assert config.env.distractors == 2
  for text, words in (
    ('rssm.deter=3', 'only its environment can be changed'),
    ('env.colour=red', 'unknown key'),
  ):
    with pytest.raises(UserError, match=words):
      trained.change_environment(config, [text])


def test_an_environment_that_does_not_fit(agent):
  """Another picture than the agent has learned with."""
  spec = envs.Spec({'image': envs.ArraySpec((32, 32, 3), np.uint8)}, True, 3, 1)
  other = copy.copy(agent)
  other.spec = spec
  with pytest.raises(
    UserError, match=r'learned with image \[32, 32, 3\] and 3 choices, here are image \[64, 64, 3\]'
  ):
    other.make_env()
  with pytest.raises(ValueError, match='action_repeat is 0'):
    envs.Spec({}, True, 3, 0)


# Commands
# --------------------------------------------------------------------------------------------------


def test_evaluating_again_gives_the_runs_own_scores(whole):
  folder, _ = whole
  last = json.loads((folder / 'scores.jsonl').read_text().splitlines()[-1])
  done = command('evaluate', f'--logdir={folder}', '--episodes=4', '--video')
  assert done.returncode == 0, done.stderr
  (path,) = (folder / 'evaluation').glob('*.json')
  found = json.loads(path.read_text())
  assert (found['scores'], found['lengths'], found['mean']) == (
    last['eval_scores'],
    last['eval_lengths'],
    last['eval_mean'],
  )
  assert (
    found['step'] == 160
    and found['policy'] == 'sample'
    and found['machine']['commit']
    and found['protocol']
  )
  assert path.with_suffix('.mp4').exists() and f'{found["mean"]:,.2f} ±' in done.stdout


def test_an_evaluation_says_how_it_was_made(whole, tmp_path):
  folder, _ = whole
  done = command(
    'evaluate',
    f'--logdir={folder}',
    '--episodes=3',
    '--policy=mode',
    '--checkpoint=80',
    f'--output={tmp_path}',
  )
  assert done.returncode == 0, done.stderr
  found = json.loads(next(tmp_path.glob('*.json')).read_text())
  assert (
    found['protocol'].startswith(
      'mean return of 3 complete episodes at the end, of 80 steps (80 frames) in all; the '
      "policy's mode"
    )
    and 'training' not in found['protocol']
  )
  assert found['protocol'] in done.stdout


@pytest.mark.parametrize(
  'program, words, text',
  [
    ('evaluate', ['--logdir=nowhere'], 'nowhere holds no run'),
    ('play', [], 'logdir'),
    ('play', ['somewhere', '--logdir=x'], "unexpected argument 'somewhere'"),
  ],
)
def test_bad_commands_get_one_line(program, words, text):
  done = command(program, *words)
  assert done.returncode == 2 and text in done.stderr and done.stderr.count('\n') == 1


# To look at
# --------------------------------------------------------------------------------------------------


def test_an_episode_is_recorded_whole(episode):
  assert episode.complete and len(episode.reward) == 8 and abs(episode.reward[-1]) == 1
  assert episode.picture.shape == (8, 64, 64, 3) and episode.latent.deter.shape[0] == 8
  np.testing.assert_array_equal(episode.action.sum(1), np.ones(8))


def test_windows_of_what_is_seen_and_imagined(agent, episode):
  """5 steps of a window of 6 are seen; the imagined ones follow from the last seen by the actions
  taken.
  """
  found = agent.open_loop(episode.latent, episode.action, 5, 1)
  np.testing.assert_array_equal(found['seen'], [True] * 5 + [False] + [True] * 2)
  assert found['observation']['image'].shape == episode.picture.shape
  model, params = agent.method.world_model, agent.weights['world_model']
  known = model.predict(params, episode.latent.feature())
  seen = found['seen']
  np.testing.assert_allclose(found['reward'][seen], known['reward'][seen], atol=1e-5)
  np.testing.assert_allclose(
    found['observation']['image'][seen], known['observation']['image'][seen], atol=1e-5
  )
  found = agent.open_loop(episode.latent, episode.action, 5, 3)  # one window
  draws = jax.random.uniform(agent._key, (1, 3, agent.config.rssm.stoch))
  state = jax.tree.map(lambda x: x[4:5], episode.latent)
  for t in range(5, 8):
    state = model.rssm.imagine(params['rssm'], state, episode.action[t - 1 : t], draws[:, t - 5])
    np.testing.assert_allclose(
      found['reward'][t], model.predict(params, state.feature())['reward'][0], atol=1e-5
    )


@pytest.mark.parametrize('method, discrete', [('dreamerv3', True), ('dreamerv2', False)])
def test_dreams(method, discrete):
  one = small.agent(method=method, discrete=discrete)
  weights = one.init(jax.random.key(0)).weights
  dream = jax.jit(functools.partial(viewing.dream, one, count=2, length=5))
  found = dream(weights, jax.random.key(1))
  assert found['observation']['image'].shape == (2, 5, 16, 16, 3) and found['action'].shape == (
    2,
    5,
    3,
  )
  assert found['reward'].shape == found['continue'].shape == (2, 5)
  for name, other in (
    ('same', dream(weights, jax.random.key(1))),
    ('other', dream(weights, jax.random.key(2))),
  ):
    assert np.array_equal(found['action'], other['action']) == (name == 'same')
  if method == 'dreamerv2':  # it has no head for the end of episodes
    np.testing.assert_array_equal(found['continue'], 1)


def test_frames(agent, episode):
  """All of one size with even sides; a reward that is off is marked; a dream that is over is dark."""
  prediction = {
    'picture': episode.picture / 255,
    'reward': np.where(np.arange(8) == 3, 0.5, episode.reward),
    'seen': np.arange(8) < 5,
  }
  frames = np.stack(list(panels.episode_frames(episode, prediction, 0.1, 'title')))
  assert len(frames) == 8 and frames.shape[1] % 2 == frames.shape[2] % 2 == 0
  wrong = [(frame == panels.WRONG).all(-1).sum() for frame in frames]
  assert wrong[3] > 20 and not wrong[2]
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
