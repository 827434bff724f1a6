"""The training loop on the catch game: schedules, and going on where a run stopped."""

import json

import chex
import jax
import numpy as np
import pytest

from configs import atari100k, catch
from harmony_jax import envs
from harmony_jax.replay import Replay
from harmony_jax.training import evaluation, loop, run_folder

TINY = {
  'steps': 160,
  'num_envs': 4,
  'eval_envs': 4,
  'eval_every': 80,
  'checkpoint_every': 80,
  'video_every': 0,
  'eval_episodes': 4,
  'final_eval_episodes': 4,
  'log_every': 16,
  'batch_length': 8,
  'replay_capacity': 1000,
}


def config_of(**changes):
  config = catch.get_config('dreamerv3', 'tiny')
  config.task = 'catch'
  config.update_from_flattened_dict(
    {**TINY, **{k.replace('__', '.'): v for k, v in changes.items()}}
  )
  return config


def run(folder, config, until=None):
  """A whole run, or one that dies right after the iteration that reaches step `until`."""
  with run_folder.prepare(folder, config, {}) as opened:
    trainer = loop.Trainer(config, opened)
    if until:
      choose = trainer._choose

      def dying(**kwargs):
        if trainer.step >= until:
          raise RuntimeError('killed')
        return choose(**kwargs)

      trainer._choose = dying
      with pytest.raises(RuntimeError, match='killed'):
        trainer.run()
    else:
      trainer.run()
  return trainer


def lines(folder, name):
  """The lines of a file, without what depends on the clock."""
  return [
    {k: v for k, v in json.loads(line).items() if not k.startswith(('time/', 'speed/'))}
    for line in (folder / name).read_text().splitlines()
  ]


def assert_same(folder, one, other_folder, other):
  """Two runs have the same parameters, optimisers, slow copies, metrics, scores and replay, bit for
  bit.
  """
  for name in ('params', 'opt_state', 'targets'):
    chex.assert_trees_all_equal(getattr(one.state, name), getattr(other.state, name))
  for name in ('scores.jsonl', 'metrics.jsonl'):
    assert lines(folder, name) == lines(other_folder, name)
  for update in (0, 7):
    chex.assert_trees_all_equal(one.replay.sample(update), other.replay.sample(update))


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  folder = tmp_path_factory.mktemp('whole')
  return folder, run(folder, config_of())


def test_a_killed_run_ends_as_the_undisturbed_one(whole, tmp_path):
  """Killed between two checkpoints and started again: same parameters, replay, metrics and scores."""
  undisturbed, one = whole
  run(tmp_path, config_of(), until=120)
  assert_same(undisturbed, one, tmp_path, run(tmp_path, config_of()))


def test_every_function_is_compiled_once(whole):
  """One program for the updates; two for acting, in training and in evaluation."""
  _, trainer = whole
  assert trainer.compiled['train_step']._cache_size() == 1
  assert trainer.compiled['act']._cache_size() <= 2


def test_replay_on_the_device_changes_nothing(whole, tmp_path):
  undisturbed, one = whole
  other = run(tmp_path, config_of(replay_on='device'))
  for a, b in zip(jax.tree.leaves(one.state.params), jax.tree.leaves(other.state.params)):
    np.testing.assert_array_equal(a, b)
  assert lines(undisturbed, 'metrics.jsonl') == lines(tmp_path, 'metrics.jsonl')


def test_environments_step_while_the_device_trains(tmp_path):
  """No step of the environments waits for an update; every action does: the policy is never an
  update late.
  """
  events = []
  config = config_of(eval_every=10_000, final_eval_episodes=4)
  with run_folder.prepare(tmp_path, config, {}) as opened:
    trainer = loop.Trainer(config, opened)
    choose, train, step = trainer._choose, trainer._train, trainer.episodes.step
    note = lambda name, call: (
      lambda *args, **kwargs: (events.append(name), call(*args, **kwargs))[1]
    )
    trainer._choose, trainer._train = note('choose', choose), note('train', train)
    trainer.episodes.step = note('step', step)
    trainer.run()
  assert events[0] == 'step' and events.count('choose') == 40
  after = events[-3 * 10 :]
  assert after == ['choose', 'train', 'step'] * 10


def test_evaluation_plays_every_episode_once_whatever_the_groups(whole):
  """7 episodes, 4 environments as one group and as two: the seeds in order, each episode complete."""
  _, trainer = whole
  wanted = [envs.episode_seed(0, 'eval', 160, episode) for episode in range(7)]
  for sizes in ([4], evaluation.group_sizes(4)):
    groups = [envs.make('catch', 'catch', size) for size in sizes]
    results = evaluation.evaluate(
      trainer.agent, trainer.compiled['act'], trainer.state.weights, groups, 0, 160, 7, mode=True
    )
    assert [result.seed for result in results] == wanted
    assert all(result.length > 0 and result.score in (-1, 1) for result in results)


def test_groups():
  assert [evaluation.group_sizes(n) for n in (1, 2, 5, 100)] == [[1], [1, 1], [3, 2], [50, 50]]


def test_updates_follow_the_train_ratio(whole):
  """One update at the first step after prefill, then train_ratio / (B·T) per environment step."""
  _, trainer = whole
  config = trainer.config
  needed = config.batch_size * config.batch_length
  steps = 0
  while True:  # prefill: until there are enough windows, looked at every prefill_chunk steps
    steps += config.num_envs
    windows = config.num_envs * (steps // config.num_envs - config.batch_length + 1)
    if steps % config.prefill_chunk == 0 and windows >= needed:
      break
  ratio = config.train_ratio / needed
  assert trainer.update == 1 + int((config.steps - steps - config.num_envs) * ratio)


def test_the_papers_prefill():
  """1,087 steps make 1,024 windows of 64; looked at every 100 steps, training begins after 1,100."""
  config = atari100k.get_config('dreamerv3', 'paper')
  assert config.train_ratio / (config.batch_size * config.batch_length) == 1.0
  trainer = loop.Trainer.__new__(loop.Trainer)
  trainer.config, trainer.trained_at = config, None
  trainer.replay = Replay(
    {'is_first': ((), bool)}, 1, config.replay_capacity, config.batch_size, config.batch_length, 0
  )
  for step in range(1, 1200):
    trainer.step = step
    trainer.replay.append({'is_first': np.array([step == 1])})
    if trainer._filled():
      break
  assert step == 1100


def test_rewards_and_ends_are_stored_beside_their_observation(whole):
  """The replay's rows: action zero on is_last, the next row is_first, rewards ±1 only where the
  episode ends.
  """
  _, trainer = whole
  batch = trainer.replay.sample(3)
  last = batch['is_last']
  assert last.any()
  assert not batch['action'][last].any()
  assert (batch['action'][~last].sum(-1) == 1).all()
  assert batch['is_first'][:, 1:][last[:, :-1]].all()
  assert (np.abs(batch['reward'][last]) == 1).all() and not batch['reward'][~last].any()


def test_calibration_starts_sigma_at_the_first_losses(tmp_path):
  trainer = run(tmp_path, config_of(weighting__calibrate=2, weighting__rate=1e-9, steps=80))
  sigma = np.exp(float(trainer.state.params['world_model']['harmony']['observation']))
  first = [line for line in lines(tmp_path, 'metrics.jsonl') if 'loss/observation' in line][0]
  assert 0.3 < sigma / first['loss/observation'] < 3 and sigma > 100
