"""The training loop on the catch game: schedules, and going on where a run stopped."""

import dataclasses
import itertools
import json
import threading
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harmony_jax import envs, settings, surroundings, trained
from harmony_jax.config import Config, RunSettings
from harmony_jax.envs import base
from harmony_jax.errors import EnvironmentFault, UserError
from harmony_jax.methods import dreamer
from harmony_jax.methods.tdmpc_replay import PriorityReplay
from harmony_jax.processes import ALONE
from harmony_jax.replay import Replay
from harmony_jax.training import evaluation, hooks, setup
from harmony_jax.training.interruption import Interrupted
from harmony_jax.training.run_state import RunState, Schedule
from tests import events, linear, small
from tests.runs import From, Killed, ask, compile_once, config_of, die, dreamer_of, lines, train


def assert_same(folder, one, other_folder, other):
  """Check that whatever updates change, lines and replay are the same, bit for bit."""
  numbers = lambda state: state.replace(rng=jax.random.key_data(state.rng))
  chex.assert_trees_all_equal(*(numbers(each.updates.state) for each in (one, other)))
  for name in ('scores.jsonl', 'metrics.jsonl'):
    assert lines(folder, name) == lines(other_folder, name)
  for update in (0, 7):
    chex.assert_trees_all_equal(one.replay.sample(update), other.replay.sample(update))


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  folder = tmp_path_factory.mktemp('whole')
  return folder, train(folder, dreamer_of(video_every=160))


def test_a_killed_run_ends_as_the_undisturbed_one(whole, tmp_path):
  """Killed between two checkpoints and started again: all is the same."""
  with pytest.raises(Killed):
    train(tmp_path, dreamer_of(), From(120, die))
  assert_same(*whole, tmp_path, train(tmp_path, dreamer_of()))
  first, again = (events.shown(folder / 'tensorboard') for folder in (whole[0], tmp_path))
  for name in ('episode/return', 'episode/length', 'return/eval', 'loss/reward'):
    assert first[name] == again[name]


def test_a_video_of_batches_shorter_than_what_it_shows_first(tmp_path, monkeypatch):
  monkeypatch.setattr(hooks.Video, 'context', 20)
  train(tmp_path, dreamer_of(steps=80, video_every=80, eval_episodes=0))
  assert list((tmp_path / 'videos').glob('open_loop_image_00000080*'))


def test_a_last_evaluation_of_more_episodes_is_the_same_where_a_run_goes_on(tmp_path):
  """And where it is evaluated again: by as many environments, which the first evaluation had."""
  config, folders = config_of(eval_episodes=2, final_eval_episodes=32), [tmp_path / x for x in 'ab']
  train(folders[0], config)
  with pytest.raises(Killed):
    train(folders[1], config, From(120, die))
  train(folders[1], config)
  first, again = (lines(folder, 'scores.jsonl')[-1]['eval_scores'] for folder in folders)
  assert first == again
  later = trained.Agent.load(folders[0], allow_import=True).evaluate(32)
  assert [each.score for each in later] == first


@pytest.mark.parametrize(
  'changes, count',
  [
    ({}, 4),
    ({'eval_episodes': 2}, 2),
    ({'eval_episodes': 0}, 8),
    ({'eval_every': 158}, 8),  # 160 is the step after it, and the last one
    ({'eval_every': 158, 'eval_at_start': True}, 4),
    ({'eval_share': 0.1, 'eval_episodes': 2}, 8),
  ],
)
def test_as_many_environments_evaluate_as_the_first_evaluation_has_episodes(changes, count):
  config = config_of(**{'final_eval_episodes': 8, 'eval_envs': 9, **changes})
  assert evaluation.at_a_time(config) == count


def test_an_evaluation_that_the_agent_does_not_fit_is_told_before_training(tmp_path):
  config = dataclasses.replace(config_of(), eval_env={'distractors': 1})
  other = lambda trainer: dataclasses.replace(trainer.env.spec, num_actions=4)
  with pytest.raises(
    UserError, match='^config.eval_env makes environments .* there are image .* 3'
  ):
    train(tmp_path, config, prepare=lambda trainer: setattr(trainer.env, 'spec', other(trainer)))
  assert not (tmp_path / 'metrics.jsonl').exists()


def test_an_evaluation_that_fails_costs_no_training(tmp_path, monkeypatch):
  def fail(*unused):
    raise EnvironmentFault('no floor')

  config = config_of(checkpoint_every=1000)
  train(tmp_path / 'whole', config)
  with pytest.raises(EnvironmentFault), monkeypatch.context() as patch:
    patch.setattr(evaluation, 'evaluate', fail)
    train(tmp_path / 'one', config)
  assert (tmp_path / 'one' / 'checkpoints' / '80').is_dir()
  train(tmp_path / 'one', config)
  for name in ('scores.jsonl', 'metrics.jsonl'):
    assert lines(tmp_path / 'one', name) == lines(tmp_path / 'whole', name)


def test_what_fails_as_it_ends_keeps_nothing_else_open(tmp_path):
  found = []

  def prepare(trainer):
    found.append(trainer)
    trainer.env.close = lambda: 1 / 0

  with pytest.raises(ZeroDivisionError):
    train(tmp_path, config_of(steps=80), prepare=prepare)
  assert found[0].evaluation._closed


def test_what_tensorboard_shows(whole):
  """Metrics and scores as recorded, settings, a video, and each episode at a step of its own."""
  folder, _ = whole
  found = events.shown(folder / 'tensorboard')
  scores, metrics = (lines(folder, name) for name in ('scores.jsonl', 'metrics.jsonl'))
  assert found['return/eval'] == [(score['step'], score['eval_mean']) for score in scores]
  assert [step for step, _ in found['loss/reward']] == [
    line['step'] for line in metrics if 'loss/reward' in line
  ]
  steps, returns = zip(*found['episode/return'])
  assert list(returns) == sum((score['train_scores'] for score in scores), [])
  games = range(32, 161, 32)  # 4 environments end one after every 8 steps of each
  assert list(steps) == [end - 3 + env for end in games for env in range(4)]
  assert found['episode/length'] == [(step, 7.0) for step in steps]
  assert len(found['open_loop/image']) == len(found['_hparams_/experiment']) == 1


def test_every_function_is_compiled_once(whole):
  """One program for the updates; two for acting, in training and in evaluation."""
  _, trainer = whole
  assert trainer.updates.compiled.train_step._cache_size() == 1
  assert trainer.updates.compiled.act._cache_size() <= 2


def test_replay_on_the_device_changes_nothing(whole, tmp_path):
  assert_same(*whole, tmp_path, train(tmp_path, dreamer_of(replay_on='device')))


class Ranked(Replay):
  """A replay with priorities, which are the last thing that the method said of a window."""

  def __init__(self, *args, **kwargs):
    super().__init__(*args, **kwargs)
    self.told = []

  def feedback(self, draw, rows):
    self.told.append((draw.update, self.steps, draw.envs.tolist(), np.asarray(rows).tolist()))


class Ranking(linear.Linear):
  """A method that tells its replay how many updates it has done."""

  replay = Ranked

  def feedback(self, state):
    return jnp.full((self.settings.batch_size,), state.step, jnp.float32)


def test_a_line_before_the_first_update_after_a_stop(tmp_path):
  """It has the metrics of the update before the stop, as without one."""
  config = config_of(log_every=4)
  config = config.replace({'train_ratio': config.agent.batch_size * config.agent.batch_length / 24})
  train(tmp_path / 'whole', config)
  for stop in (100, 108, 116):
    with pytest.raises(Interrupted):
      train(tmp_path / 'cut', config, From(stop, ask))
  train(tmp_path / 'cut', config)
  assert lines(tmp_path / 'cut', 'metrics.jsonl') == lines(tmp_path / 'whole', 'metrics.jsonl')


def test_what_an_update_says_reaches_the_replay_before_the_next_step(tmp_path, monkeypatch):
  """In order, with the draw of that update, and at the same moments in a run that was stopped."""
  train(tmp_path / 'whole', config_of())
  entry = dataclasses.replace(linear.METHOD, make=Ranking)
  monkeypatch.setattr(linear, 'METHOD', entry)
  one = train(tmp_path / 'one', config_of())
  assert lines(tmp_path / 'one', 'metrics.jsonl') == lines(tmp_path / 'whole', 'metrics.jsonl')
  told = one.replay.told
  assert [update for update, *_ in told] == list(range(one.state.update))
  assert all(rows == [update + 1.0] * 4 for update, _, _, rows in told)
  with pytest.raises(Killed):
    train(tmp_path / 'two', config_of(), From(120, die))
  after = train(tmp_path / 'two', config_of()).replay.told
  assert after == told[-len(after) :] and len(after) < len(told)


class Broken(Ranked):
  """A replay whose batches of two updates hold rewards that are no numbers."""

  def gather(self, draw):
    batch = super().gather(draw)
    if draw.update in (2, 5):
      batch['reward'][0, 0] = np.nan
    return batch


def test_an_update_that_is_left_out_tells_the_replay_nothing(tmp_path, monkeypatch):
  """The state has the rows of the update before it, which are of other windows."""
  monkeypatch.setattr(Ranking, 'replay', Broken)
  monkeypatch.setattr(linear, 'METHOD', dataclasses.replace(linear.METHOD, make=Ranking))
  one = train(tmp_path / 'run', config_of(skip_nonfinite=2))
  assert one.updates.left_out == 2
  told = [update for update, *_ in one.replay.told]
  assert told == [update for update in range(one.state.update) if update not in (2, 5)]


def test_a_score_that_nothing_measures_is_refused(tmp_path):
  with pytest.raises(UserError, match=r"^config.score is 'success', which .* \(known: return\)$"):
    train(tmp_path / 'run', config_of(score='success'))
  assert not (tmp_path / 'run' / 'checkpoints').exists()


def test_an_episode_that_a_failure_cut_off_is_no_score(tmp_path):
  """Complete games of catch pay 1 or -1, one that is cut off nothing."""

  def fail(trainer):
    env, step, calls = trainer.env, trainer.env.step, itertools.count()
    env.failed = np.zeros(4, bool)

    def failing(*args, **how):
      timestep = step(*args, **how)
      env.failed[0] = next(calls) == 3
      base.truncate(timestep, env.failed)
      return timestep

    env.step = failing

  train(tmp_path / 'run', config_of(), prepare=fail)
  scores = sum((line['train_scores'] for line in lines(tmp_path / 'run', 'scores.jsonl')), [])
  assert len(scores) > 8 and {*scores} <= {-1.0, 1.0}


def test_environments_step_while_the_device_trains(tmp_path, monkeypatch):
  """No step of the environments waits for an update; each action does, once, and the next update is
  begun before the action is there.
  """
  events = []

  def noted(name, call):
    return lambda *args, **kwargs: (events.append(name), call(*args, **kwargs))[1]

  def compiler(of):
    made = compile_once(of)
    noting = {name: noted(name, getattr(made, name)) for name in ('act', 'train_step')}
    return dataclasses.replace(made, **noting)

  def prepare(trainer):
    trainer.episodes.step = noted('step', trainer.episodes.step)
    monkeypatch.setattr(jax, 'device_get', noted('get', jax.device_get))

  config = config_of(eval_episodes=0, train_ratio=8.0, log_every=1000)
  train(tmp_path, config, prepare=prepare, compiler=compiler)
  before_the_last_evaluation = events[: len(events) - events[::-1].index('step')]
  assert before_the_last_evaluation[-40:] == ['act', 'train_step', 'get', 'step'] * 10


def test_evaluation_plays_every_episode_once_whatever_the_groups(whole):
  """7 episodes, 4 environments as one group and as two: the seeds in order, each complete."""
  _, trainer = whole
  updates = trainer.updates
  wanted = [envs.episode_seed(0, 'eval', 160, episode) for episode in range(7)]
  for sizes in ([4], evaluation.group_sizes(4)):
    groups = [envs.make('catch', 'catch', size) for size in sizes]
    play = (trainer.method, updates.compiled, updates.variables, groups, 0, 160, 7)
    results = evaluation.evaluate(*play, mode=True)
    assert [result.seed for result in results] == wanted
    assert all(result.length > 0 and result.score in (-1, 1) for result in results)


def test_evaluations_take_a_share_of_the_steps(tmp_path):
  """As many episodes as fit by the length of training's, one at least."""
  trainer = train(tmp_path, config_of(eval_share=0.2))
  middle, last = lines(tmp_path, 'scores.jsonl')
  ended = trainer.episodes.ended
  assert len(middle['eval_scores']) == 2 and 0.2 * 80 / 8 == 2  # a game takes 8 steps
  assert len(last['eval_scores']) == round(0.2 * 160 / (160 / ended)) < 8


def test_evaluation_in_the_background(tmp_path):
  """Training goes on meanwhile. The files are those of a run that waits, also after a crash and a
  signal in between.
  """
  config, seen, go_on = config_of(log_every=8), [], threading.Event()
  plain = train(tmp_path / 'plain', config)

  def compiler(of):
    made = compile_once(of)

    def act(*args, **kwargs):
      assert threading.current_thread() is threading.main_thread() or go_on.wait(60)
      return made.act(*args, **kwargs)

    return dataclasses.replace(made, act=act)

  def crash(trainer):
    go_on.set()  # what is played must come to an end
    die(trainer)

  def stop(trainer):
    seen.append(trainer.state.evaluated)
    go_on.set()
    ask(trainer)

  config, folder = config.replace({'eval_in_background': True}), tmp_path / 'run'
  with pytest.raises(Killed):
    train(folder, config, From(100, crash), compiler=compiler)
  go_on.clear()
  with pytest.raises(Interrupted, match='saved at step 124 of 160'):
    train(folder, config, From(120, stop), compiler=compiler)
  run = train(folder, config, compiler=compiler)
  assert seen == [None] and run.state.evaluated == 160
  for name in ('scores.jsonl', 'metrics.jsonl'):
    assert lines(folder, name) == lines(tmp_path / 'plain', name)
  chex.assert_trees_all_equal(run.updates.state.params, plain.updates.state.params)


def test_groups():
  assert [evaluation.group_sizes(n) for n in (1, 2, 5, 100)] == [[1], [1, 1], [3, 2], [50, 50]]


def test_updates_follow_the_train_ratio(whole):
  """One update at the first step after prefill, then train_ratio / (B·T) per environment step."""
  _, trainer = whole
  run, agent = trainer.config.run, trainer.config.agent
  needed = agent.batch_size * agent.batch_length
  steps = 0
  while True:  # prefill: until there are enough windows, looked at every prefill_chunk steps
    steps += run.num_envs
    windows = run.num_envs * (steps // run.num_envs - agent.batch_length + 1)
    if steps % run.prefill_chunk == 0 and windows >= needed:
      break
  ratio = agent.train_ratio / needed
  assert trainer.state.update == 1 + int((run.steps - steps - run.num_envs) * ratio)
  assert trainer.schedule.updates == trainer.state.update  # as the run said when it began


def test_the_papers_updates():
  """`pretrain` at first, then one for each step; a batch may wait for the next step only."""
  schedule = Schedule(Config(RunSettings(), dreamer.DreamerSettings()))
  state = RunState(np.zeros(1), step=1101)
  assert schedule.ratio == 1 and schedule.due(state, 1101) == 1
  state.step, state.update = 1102, 1
  assert schedule.due(state, 1102) == 1 and state.trained_at == 1102 and schedule.runs_ahead(256)
  slow = settings.replace(dreamer.DreamerSettings(), {'train_ratio': 1.0})
  assert not Schedule(Config(RunSettings(), slow)).runs_ahead(256)


@pytest.mark.parametrize('ratio', [0.3, 0.59, 16 / 3, 1e-9, 1e9])
def test_as_many_updates_as_were_announced(ratio):
  """Whatever the ratio; sums of floats were one update short with 0.3."""
  changes = {'train_ratio': ratio * 1024, 'prefill': 0}
  run, agent = RunSettings(steps=3_001), settings.replace(dreamer.DreamerSettings(), changes)
  schedule = Schedule(Config(run, agent))
  state = RunState(np.zeros(1), schedule.config.begins, trained_at=0.0)
  while state.step < run.steps:
    state.update += schedule.due(state, state.step + 1)
    state.step += 1
  assert state.update == schedule.updates


def test_what_is_crossed():
  """Every step of 8 environments that passes a multiple, and the last one; nothing with 0."""
  config = Config(RunSettings(num_envs=8, steps=100), dreamer.DreamerSettings())
  crossed = Schedule(config).crossed
  assert [step for step in range(8, 105, 8) if crossed(step, 30)] == [32, 64, 96, 104]
  assert not any(crossed(step, 0) for step in range(8, 105, 8))


def test_a_state_comes_back_from_its_json():
  """Also one of before processes were counted."""
  rng = np.random.default_rng(0)
  config = {'specs': {'is_first': ((), bool)}, 'num_envs': 3, 'capacity': 60}
  replay = Replay(**config, batch_size=2, length=4, seed=0)
  for step in range(10):
    replay.append({'is_first': np.full(3, step == 0)})
  state = RunState(rng.normal(size=3), 30, 4, 24.0, [1.0, 0.0], 0.5, 20, 1.5)
  episodes = {'episode': [1, 2, 3], 'actions': [[0], [], [2, 1]]}
  meta = json.loads(json.dumps(state.to_json(ALONE, episodes, [replay.draw(4)])))
  older = {**meta, 'recent': meta['recent'][0]}
  del older['processes']
  for each in (meta, older):
    back, running, draws = RunState.from_json(each, ALONE, slice(0, 3))
    assert running == episodes and back.recent == state.recent and back.saved == 30
    np.testing.assert_array_equal(back.returns, state.returns)
    for name in ('step', 'update', 'trained_at', 'last_score', 'evaluated'):
      assert getattr(back, name) == getattr(state, name)
    assert abs(back.hours - state.hours) < 1e-3
    chex.assert_trees_all_equal(replay.gather(draws[0]), replay.sample(4))


def test_rewards_and_ends_are_stored_beside_their_observation(whole):
  """Action zero on is_last, the next row is_first, rewards ±1 only where the episode ends."""
  _, trainer = whole
  batch = trainer.replay.sample(3)
  last = batch['is_last']
  assert last.any()
  assert not batch['action'][last].any()
  assert (batch['action'][~last].sum(-1) == 1).all()
  assert batch['is_first'][:, 1:][last[:, :-1]].all()
  assert (np.abs(batch['reward'][last]) == 1).all() and not batch['reward'][~last].any()


def test_calibration_starts_sigma_at_the_first_losses(tmp_path):
  """The updates are those of other runs, and so are their programs."""
  compiler = lambda of: compile_once(type(of)(dreamer_of().agent, of.spec))
  trainer = train(tmp_path, dreamer_of(weighting__calibrate=2, steps=80), compiler=compiler)
  params = trainer.updates.state.params['world_model']
  sigma = np.exp(float(params['harmony']['observation']))
  first = [line for line in lines(tmp_path, 'metrics.jsonl') if 'loss/observation' in line][0]
  assert 0.3 < sigma / first['loss/observation'] < 3 and sigma > 100


def test_until_the_first_update_it_says_what_it_does(tmp_path, capsys, monkeypatch):
  """Also after a stop, from whose first update on time is counted. Before that what its products
  are made of, where it is not what a CPU always does.
  """
  with monkeypatch.context() as here, pytest.raises(Interrupted):
    here.setattr(surroundings, 'products', lambda precision: f'{precision} ones')
    train(tmp_path, config_of(), From(120, ask))
  first = capsys.readouterr().out
  told = 'float32 products: factors are default ones (config.matmul_precision=default)'
  assert told in first
  train(tmp_path, config_of())
  second = capsys.readouterr().out
  begins = config_of().begins
  assert f'collects experience: 4 of at least {begins} steps' in first
  assert f'first update after {begins + 4} steps: compiling' in first
  assert 'goes on updating' not in first
  assert 'float32 products' not in second
  assert 'goes on updating after' in second and 'left' not in second.partition('compiling')[0]


@pytest.mark.parametrize(
  'name, observation',
  [
    ('dreamerv3', 'action'),
    ('dreamerv3', 'is_last'),
    ('dreamerpro', 'before'),
    ('tdmpc', 'weight'),
  ],
)
def test_an_observation_does_not_take_the_name_of_something_else(name, observation):
  """What stands under its name in a batch would be learned from, and something else acted on."""
  shapes = {'state': (3,), observation: (2,)} if name == 'tdmpc' else {observation: (2,)}
  if name == 'dreamerpro':
    shapes['image'] = (64, 64, 3)
  config = dreamer_of(name)
  of = types.SimpleNamespace(
    spec=small.spec(shapes, 2, False), replay=PriorityReplay if name == 'tdmpc' else Replay
  )
  with pytest.raises(UserError, match=f"^the observation '{observation}' has the name"):
    setup.make_replay(config, of, ALONE, 1)


def test_a_measure_does_not_take_the_name_of_the_score():
  env = types.SimpleNamespace(measures={'mean': np.zeros(1, np.float32)})
  with pytest.raises(UserError, match="^the measure 'mean' has the name"):
    evaluation.require_score(config_of(), env)
