"""A method that is no Dreamer (tests/shooting.py) goes wherever the Dreamers go."""

import json
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harmony_jax import envs, settings, trained
from harmony_jax.config import Config, RunSettings
from harmony_jax.training import loop, recording, run_folder
from harmony_jax.training.checkpoint import Checkpoints
from tests import commands, shooting, small
from tests.runs import compile_once
from tests.trained_test import SHORT, save

NAME, PICTURE = 'tests.shooting:METHOD', {'image': (64, 64, 3)}


@pytest.fixture(scope='module')
def config():
  run = RunSettings('catch', 'catch', NAME, 'tiny')
  toy = {**shooting.SIZES, **SHORT, 'train_ratio': 12.0, 'prefill_chunk': 8}
  made = Config(run, shooting.METHOD.settings, {'distractors': 4, 'size': 8})
  return made.replace({**toy, 'replay_capacity': 1000, 'batch_length': 6, 'keep_replay': True})


@pytest.fixture(scope='module')
def one():
  chosen = settings.replace(shooting.METHOD.settings, shooting.SIZES)
  return shooting.METHOD.make(chosen, small.spec(PICTURE))


@pytest.fixture(scope='module')
def saved(config, tmp_path_factory):
  folder = tmp_path_factory.mktemp('saved')
  return folder, save(folder, config)


@pytest.fixture(scope='module')
def whole(config, tmp_path_factory):
  """The folder of a whole run."""
  folder = tmp_path_factory.mktemp('whole')
  train(folder, config)
  return folder


def train(folder, config):
  with run_folder.prepare(folder, config, {}) as opened:
    loop.Trainer(config, opened, compiler=compile_once).run()


# The method
# --------------------------------------------------------------------------------------------------


def test_it_learns_and_leaves_out_what_is_not_finite(one):
  batch, step = small.batch(PICTURE, size=4, length=6), jax.jit(one.train_step)
  first, state = [one.init(jax.random.key(0))] * 2
  losses = []
  for _ in range(80):
    state, metrics = step(state, batch)
    losses.append(float(metrics['loss/reward']))
  assert losses[-1] < 0.5 * losses[0] and state.step == 80 and state.nonfinite == 0
  assert metrics['harmony/reward/sigma'] != metrics['harmony/dynamics/sigma']
  rows = one.feedback(state)
  np.testing.assert_allclose(
    rows.mean(), metrics['loss/reward'] + metrics['loss/dynamics'], rtol=1e-5
  )
  after, _ = step(first, {**batch, 'reward': batch['reward'].at[0, 1].set(jnp.inf)})
  assert after.nonfinite == 1
  jax.tree.map(np.testing.assert_array_equal, after.params, first.params)


def test_it_goes_on_with_the_plan_before_unless_an_episode_begins(one):
  """With a single candidate the plan is the last one, shifted."""
  alone = shooting.METHOD.make(settings.replace(one.settings, {'plans': 1}), one.spec)
  variables = alone.variables(alone.init(jax.random.key(0)))
  seen = {'image': np.zeros((2, 64, 64, 3), np.uint8)}
  act = lambda carry, first, seed: alone.act(variables, carry, seen, first, jax.random.key(seed))
  begun = np.array([True, True])
  _, carry = act(alone.initial_carry(variables, 2), begun, 0)
  _, fresh = act(carry, begun, 1)
  action, after = act(carry, np.array([False, True]), 1)
  np.testing.assert_array_equal(after['plan'][0, :-1], carry['plan'][0, 1:])
  np.testing.assert_array_equal(after['plan'][1], fresh['plan'][1])
  np.testing.assert_array_equal(action, after['plan'][:, 0])


# Without training
# --------------------------------------------------------------------------------------------------


def test_a_checkpoint_is_restored_whole(one, saved):
  folder, states = saved
  like = jax.eval_shape(one.init, jax.random.key(0))
  carry = jax.eval_shape(lambda: one.initial_carry(None, 4))
  with Checkpoints(folder / 'checkpoints', read_only=True) as checkpoints:
    restored, _ = checkpoints.restore({'train': like, 'player': carry}, 160)
  numbers = lambda state: state.replace(rng=jax.random.key_data(state.rng))
  pairs = numbers(restored['train']), numbers(states[160])
  jax.tree.map(np.testing.assert_array_equal, *pairs)


def test_it_is_loaded_and_looked_at(saved):
  """Open-loop rewards are those of the model, window by window, rolled out by hand."""
  agent = trained.Agent.load(saved[0], allow_import=True)
  assert agent.title == f'catch catch, {NAME}' and agent.can('open_loop') and not agent.can('dream')
  env = agent.make_env()
  episode = recording.record(agent, env, envs.episode_seed(0, 'eval', 160, 0), 100, False)
  assert episode.carry['plan'].shape == (8, 5, 3)
  found = agent.open_loop(episode.carry, episode.action, 2, 2)
  model = agent.method.model.bind(agent.variables['model'])
  assert found['observation'] == {}
  for t in range(8):
    latent = episode.carry['belief'][t if found['seen'][t] else t // 4 * 4 + 1]
    if not found['seen'][t]:
      latent = model.follow(latent, episode.action[t // 4 * 4 + 1 : t])[-1]
    np.testing.assert_allclose(found['reward'][t], model.head(latent)[0], rtol=1e-4)


def test_it_is_played(saved, tmp_path):
  done = commands.run('play', f'--logdir={saved[0]}', '--allow_import', f'--output={tmp_path}')
  assert done.returncode == 0 and 'rewards of steps seen' in done.stdout, done.stderr
  assert {path.name for path in tmp_path.iterdir()} == {'play_00000160.mp4'}
  done = commands.run(
    'play', f'--logdir={saved[0]}', '--allow_import', f'--output={tmp_path}', '--dream'
  )
  assert done.returncode == 2 and "cannot show 'dream': it can show open_loop" in done.stderr


# With training
# --------------------------------------------------------------------------------------------------


def lines(folder, name):
  """The lines of a file, without what depends on the clock."""
  return [
    {k: v for k, v in json.loads(line).items() if not k.startswith(('time/', 'speed/'))}
    for line in (folder / name).read_text().splitlines()
  ]


def test_a_killed_run_goes_on_to_the_same_numbers(whole, config, tmp_path, monkeypatch):
  """Parameters, optimiser, carries and priorities, bit for bit."""
  append = shooting.Surprising.append

  def dying(replay, step):
    if replay.steps * replay.num_envs >= 120:
      raise RuntimeError('killed')
    append(replay, step)

  with monkeypatch.context() as patch, pytest.raises(RuntimeError, match='killed'):
    patch.setattr(shooting.Surprising, 'append', dying)
    train(tmp_path, config)
  train(tmp_path, config)
  for name in ('scores.jsonl', 'metrics.jsonl'):
    assert lines(tmp_path, name) == lines(whole, name)
  ends = []
  for folder in (tmp_path, whole):
    with Checkpoints(folder / 'checkpoints', read_only=True) as checkpoints:
      losses = pickle.loads((folder / 'replay' / f'losses_0_{160 // 4}').read_bytes())
      ends.append((checkpoints.checksums(160), losses))
  assert ends[0] == ends[1] and len(ends[0][1]) > 8


def test_evaluating_again_gives_the_runs_own_scores(whole):
  done = commands.run('evaluate', f'--logdir={whole}', '--episodes=4', '--allow_import')
  assert done.returncode == 0, done.stderr
  (path,) = (whole / 'evaluation').glob('*.json')
  assert json.loads(path.read_text())['scores'] == lines(whole, 'scores.jsonl')[-1]['eval_scores']


def test_a_sweep_of_one_run(tmp_path):
  short = [f'--config.{name}={SHORT[name]}' for name in ('steps', 'eval_envs', 'eval_episodes')]
  words = ['--suite=catch', f'--method={NAME}', '--preset=tiny', f'--root={tmp_path}', *short]
  done = commands.run('sweep', *words, '--config.final_eval_episodes=4')
  assert done.returncode == 0, (done.stdout, done.stderr)
  (complete,) = tmp_path.rglob('.complete')
  assert json.loads(complete.read_text())['step'] == 160
