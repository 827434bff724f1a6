"""Whole runs as one program: the numbers of the ordinary loop, alone and mapped."""

import contextlib
import dataclasses
import json
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harmony_jax import method
from harmony_jax.envs import ArraySpec, Episodes, Spec, TimeStep, catch, make, pure
from harmony_jax.errors import UserError
from harmony_jax.ondevice import study, timetable, waves
from harmony_jax.ondevice.program import Program
from harmony_jax.ondevice.waves import Lot
from harmony_jax.replay import Replay
from harmony_jax.reporting import records, report
from harmony_jax.training.evaluation import random_actions
from tests import commands, small
from tests.runs import dreamer_of, lines, train

LINEAR = 'tests.linear:METHOD'


def walk(length):
  """Return a game of a few lines: +1 for a step up, else -1; with 0 until one is too far."""
  spec = Spec({'place': ArraySpec((2,), np.float32)}, True, 3, 1)

  def step(state, action):
    place, time = state[0] + action - 1.0, state[1] + 1.0
    over = (time >= length - 1) if length else (jnp.abs(place) > 3)
    return jnp.stack([place, time]), jnp.where(action > 1, 1.0, -1.0), over, over

  new = lambda seed: jnp.stack([seed % 5 - 2.0, 0.0])
  return pure.Game(spec, new, step, lambda state: {'place': state}, length)


@pytest.fixture
def walking(monkeypatch):
  """Have runs play `walk` of no fixed length in place of catch: it is compiled in no time."""
  game = walk(0)
  make_env = lambda config, count, **options: pure.Environment(game, count)
  monkeypatch.setattr(study.setup, 'make_env', make_env)


def config_of(**changes):
  """Return a short run of a method that is compiled in a moment."""
  return dreamer_of(LINEAR, **{'eval_envs': 1, **changes})


def wave_of(config, seeds, width=1, numbers=()):
  """Return (wave, its agents, their tables) of a configuration's seeds, each with its numbers."""
  numbers = numbers or [{}] * len(seeds)
  structure = study.Structure(config, ['one'], {'one': {}})
  program = study.make_program(structure, list(dict.fromkeys(seeds)))
  wave = waves.Wave(program, 1, width)
  lots = [Lot('one', *each) for each in zip(seeds, numbers, strict=True)]
  return wave, lots, wave.tables(lots, program.timetable.own)


def run(config, *seeds, width=1, numbers=()):
  """Return what the agents of one wave record."""
  wave, lots, tables = wave_of(config, seeds, width, numbers)
  return wave.train(lots, tables)


def timeless(line):
  return {k: v for k, v in line.items() if not k.startswith(('time/', 'speed/', 'replay/'))}


def assert_close(found, wanted, share):
  """Check lines of metrics or scores, whose numbers may differ by a share."""
  assert len(found) == len(wanted)
  for one, other in zip(map(timeless, found), map(timeless, wanted)):
    assert one.keys() == other.keys()
    for name in one:
      pair = one[name], other[name]
      if None in pair:
        assert pair == (None, None), name
      else:
        np.testing.assert_allclose(*pair, rtol=share, atol=share, err_msg=name)


def assert_as_the_loop(folder, config, share=0.0):
  """Check that scores are the ordinary loop's, bit for bit, and metrics up to a share."""
  trainer = train(folder, config)
  (recorded,) = run(config, config.run.seed)
  assert_close(recorded.scores, lines(folder, 'scores.jsonl'), 0)
  assert_close(recorded.metrics, lines(folder, 'metrics.jsonl'), share)
  assert trainer.state.update == recorded.scores[-1]['update'] > 20


@pytest.mark.slow  # a minute and a half of compiling; the next one is the same loop
def test_the_same_as_the_ordinary_loop(tmp_path):
  """DreamerV3 on catch; XLA fuses, and so orders, its sums as the program around them allows.

  They are the same bits on an EPYC; on a Xeon the last one differs, 1e-6 of most after 47 updates.
  """
  assert_as_the_loop(tmp_path, dreamer_of(seed=3, train_ratio=16.0), share=1e-5)


def test_the_same_where_episodes_differ_in_length(walking, tmp_path):
  """Evaluated in groups of two sizes, whose environments come to their ends at other times."""
  assert_as_the_loop(tmp_path, config_of(seed=4, eval_envs=3, eval_episodes=7, eval_at_start=True))


def test_an_evaluation_of_fewer_episodes_than_groups(walking):
  """The last one is of one episode, which leaves a group that plays in the others without one."""
  few = {'eval_episodes': 4, 'final_eval_episodes': 1, 'eval_at_start': True}
  *before, last = run(config_of(seed=4, eval_envs=2, **few), 4)[0].scores
  assert {len(line['eval_scores']) for line in before} == {4}
  assert len(last['eval_scores']) == 1 and last['eval_lengths'][0] > 3


def test_an_evaluation_that_shows_what_is_no_number_is_told():
  """An action for it is the first one, for ever, and so is the episode: the loop refuses it."""
  whole = walk(0)
  new = lambda seed: jnp.where(seed == 3, jnp.nan, whole.new(seed))
  table = timetable.Timetable(0, (), 1, {}, {})
  program = Program(config_of(), dataclasses.replace(whole, new=new), table, [2])
  learned, seeds = program.make({}).init(jax.random.key(0)), np.array([2, 3, 4])
  found = small.jit(program.evaluate)(learned, {'seed': 0}, seeds, 0)
  assert np.isfinite(found[0]).tolist() == [True, False, True]
  recorder = waves._Recorder(program, Lot('one', 0, {}))
  recorder.evaluated(timetable.Stop(1, 8, 1, False, 3), seeds, *map(np.array, found), 0, 0)
  assert 'the evaluation at step 8' in recorder.found().failure


@pytest.mark.parametrize(
  'task',
  [
    'gymnax:Breakout-MinAtar',
    'navix:Navix-Empty-Random-5x5-v0',
    pytest.param('craftax:Craftax-Classic-Pixels-v1', marks=pytest.mark.slow),
  ],
)
def test_the_same_in_environments_of_packages(task, tmp_path):
  package = task.partition(':')[0]
  pytest.importorskip(package, reason=f'{package} is not installed (extra [{package}])')
  config = dataclasses.replace(config_of(seed=6), env={'observe': 'auto'})
  assert_as_the_loop(tmp_path, config.replace({'suite': 'jax_envs', 'task': task}))


@pytest.mark.parametrize('first_action', [False, True])
def test_batches_are_those_of_the_hosts_replay(first_action):
  """Where its ring has gone around, and with the action before a window."""
  changes = {'replay__first_action': True, 'replay__sampling': 'episodes'} if first_action else {}
  config = config_of(seed=5, steps=1280, replay_capacity=160, batch_length=6, **changes)
  run, agent, game, iterations = config.run, config.agent, catch.game(), 310
  specs = {'image': ((64, 64, 3), np.uint8), 'action': ((3,), np.float32)}
  specs |= {'reward': ((), np.float32)}
  specs |= dict.fromkeys(('is_first', 'is_last', 'is_terminal'), ((), bool))
  sizes = run.num_envs, run.replay_capacity, agent.batch_size, agent.batch_length
  replay = Replay(specs, *sizes, run.seed, **dataclasses.asdict(agent.replay))
  episodes, action = Episodes(make('catch', 'catch', 4, **config.env), run.seed, 'train'), None
  vectors = [random_actions(game.spec, 4, 5, index * 4) for index in range(iterations)]
  for vector in vectors:
    now, action = episodes.step(action), vector.argmax(-1)
    row = {'action': np.where(now.is_last[:, None], 0, vector), **now.observation}
    replay.append(row | {name: getattr(now, name) for name in now._fields[1:]})
  draws = [replay.draw(update) for update in range(4)]

  table = timetable.make(config, game.spec, game.length, [5])
  assert table.rows == 40 + replay.margin < iterations
  program = Program(config, game, table, [1])
  tables = {
    **table.own[5],
    'random': np.stack(vectors),
    'envs': np.array([each.envs for each in draws]),
    'starts': np.array([each.starts % table.rows for each in draws]),
    'stored': np.array([each.starts > max(0, each.steps - 40) for each in draws]),
  }
  agent = small.jit(program.begin)(tables)
  agent, _ = small.jit(program.fill)(agent, tables, {}, 0, iterations)
  batch = small.jit(lambda ring, tables, update: program._batch(ring, tables, update))
  for update, draw in enumerate(draws):
    found, wanted = batch(agent.ring, tables, update), replay.gather(draw)
    assert found.keys() == wanted.keys()
    for name in wanted:
      np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)


def test_agents_at_once_are_those_of_one_at_a_time(walking):
  """Of different seeds and learning rates: mapped, within rounding."""
  numbers = [{'lr': 1e-3}, {'lr': 1e-2}]
  began = time.monotonic()
  both = run(config_of(), 0, 1, width=2, numbers=numbers)
  hours = [each.scores[-1]['time/hours'] for each in both]
  assert 0 < 3600 * sum(hours) < time.monotonic() - began  # shares of the wave's
  for seed, each in enumerate(both):
    (alone,) = run(config_of(lr=numbers[seed]['lr']), seed)
    assert_close(each.metrics, alone.metrics, 1e-4)
    assert_close(each.scores, alone.scores, 1e-4)
  assert both[0].scores != both[1].scores


def test_weights_that_are_arguments_are_those_of_the_settings():
  """`none` and `fixed` share a program, whose weights are an agent's own; harmony has another."""
  rules = {
    'none': dreamer_of(weighting__rule='none'),
    'fixed100': dreamer_of(weighting__rule='fixed', weighting__w_r=100.0, weighting__w_d=0.6),
    'slow': dreamer_of(weighting__rate=0.5),
    'harmony': dreamer_of(),
    'high': dreamer_of(weighting__start=8.0),
  }
  plain, learned = study.structures(rules)
  assert plain.labels == ['none', 'fixed100'] and learned.labels == ['slow', 'harmony', 'high']
  assert plain.numbers == {'none': {'weighting.w_r': 1.0}, 'fixed100': {'weighting.w_r': 100.0}}
  assert learned.numbers == {
    label: {'weighting.rate': rate, 'weighting.start': start}
    for label, rate, start in (('slow', 0.5, 1.0), ('harmony', 1.0, 1.0), ('high', 1.0, 8.0))
  }
  assert plain.config.agent.weighting.w_d == pytest.approx(0.6)
  of_kls = dreamer_of('denoised_mdp', weighting__rule='none', losses__alpha=2.0)
  (plain,) = study.structures({'none': of_kls})
  assert plain.config.agent.weighting.w_d == 2


def test_halves_of_the_dynamics_are_no_arguments():
  """DreamerV2 has another program where they are alike: in none may they be traced."""
  shares = {'alike': (0.5, 0.5), 'balanced': (0.8, 0.2)}
  halves = {
    label: dreamer_of('dreamerv2', losses__dyn=dyn, losses__rep=rep)
    for label, (dyn, rep) in shares.items()
  }
  assert [each.numbers for each in study.structures(halves)] == [{'alike': {}}, {'balanced': {}}]
  program = Program(halves['alike'], catch.game(), timetable.Timetable(0, (), 1, {}, {}), [1])
  traced = lambda dyn: program.make({'numbers': {'losses.dyn': dyn}}).balance
  with pytest.raises(jax.errors.TracerBoolConversionError):
    jax.eval_shape(traced, 0.5)


def test_a_weight_of_nothing_is_refused_as_an_argument_too(walking):
  """`walk` shows vectors, which are no task."""
  weights = {'seen': {'weighting.w_o': 1.0}, 'unseen': {'weighting.w_o': 0.0}}
  config = dreamer_of(weighting__rule='fixed', rssm__learned_initial=True)
  with pytest.raises(UserError, match='w_o is 0: here are vectors'):
    study.make_program(study.Structure(config, [*weights], weights), [0])


def test_numbers_reach_rule_and_optimisers():
  """Weights and rates that are traced do what those do that are written in the settings."""
  losses = {'observation': 30.0, 'reward': 2.0, 'dynamics': 4.0, 'continue': 1.0}
  losses = {name: jnp.float32(loss) for name, loss in losses.items()}
  parameters = {'w': jnp.ones(3), 'harmony': {'reward': jnp.float32(0.5)}}
  gradient = jax.tree.map(lambda x: 2 * x, parameters)

  def effects(own, program):
    of = program.make(own)
    params = {name: jnp.float32(0.5) for name in of.rule.init(of.tasks)[0]}
    moved = {
      name: each.update(gradient, each.init(parameters), parameters)[0]
      for name, each in of.optimizers.items()
    }
    return of.rule.weigh(losses, params, ())[0], moved

  for label, changes in (
    ('fixed', {'weighting.w_r': 100.0, 'model_opt.lr': 3e-4}),
    ('harmony', {'weighting.rate': 0.5, 'actor_opt.lr': 1e-4}),
  ):
    config, table = dreamer_of(weighting__rule=label), timetable.Timetable(0, (), 1, {}, {})
    made, written = (
      Program(each, catch.game(), table, [1]) for each in (config, config.replace(changes))
    )
    numbers = {name: np.float32(value) for name, value in changes.items()}
    found = small.jit(lambda own, made=made: effects(own, made))({'numbers': numbers})
    wanted = effects({}, written)
    small.close(found, wanted, 1e-6)
    assert not np.allclose(found[0], effects({}, made)[0]) or label == 'harmony'


def test_sigma_starts_where_each_agent_says():
  """Mapped, as a number of its own; by itself at 1, as in the paper."""
  table = timetable.Timetable(0, (), 1, {}, {})
  program = Program(dreamer_of(), catch.game(), table, [1])
  key = jax.random.key(0)
  starts = lambda own: program.make(own).init_model(key)[0]['harmony']
  numbers = {'weighting.start': jnp.array([0.5, 8.0])}
  found = small.jit(jax.vmap(starts))({'numbers': numbers})
  plain = small.jit(starts)({})
  assert set(found) == {'observation', 'reward', 'dynamics'}
  for name in found:
    np.testing.assert_allclose(np.exp(found[name]), [0.5, 8.0], rtol=1e-6)
    assert plain[name] == 0


def test_what_a_device_does_not_do_is_one_line(monkeypatch):
  for config, told in (
    (config_of(eval_share=0.1), 'config.eval_share'),
    (config_of(eval_in_background=True), 'config.eval_in_background'),
    (dreamer_of(weighting__calibrate=2), 'starts from its first batches'),
    (dreamer_of('tests.shooting:METHOD'), 'has a replay of its own'),
    (dreamer_of('tdmpc'), 'tdmpc'),
  ):
    with pytest.raises(UserError, match=told):
      wave_of(config, [0])[0].program.make({})
  monkeypatch.setattr(method.Method, 'eval_ends', False)
  with pytest.raises(UserError, match='has a way of its own to evaluate'):
    wave_of(config_of(), [0])[0].program.make({})
  monkeypatch.setattr(study.setup, 'make_env', lambda *_: contextlib.closing)
  monkeypatch.setattr(contextlib, 'closing', contextlib.nullcontext)
  with pytest.raises(UserError, match='catch is not written in JAX: a study plays catch'):
    study.game_of(config_of())


@pytest.mark.parametrize(
  'name, shown, told',
  [
    ('action', lambda x: x, "observation 'action' has the name of something else"),
    ('place', lambda x: x.astype(jnp.uint8), 'place as uint8 [2], and declares it as float32 [2]'),
    ('place', lambda x: x[None], 'place as float32 [1, 2], and declares it as float32 [2]'),
  ],
)
def test_an_environment_that_is_not_as_it_declares_is_refused(name, shown, told):
  """As by the host's replay; here it would be stored, and another array in its place."""
  game, table = walk(8), timetable.Timetable(0, (), 1, {}, {})
  spec = dataclasses.replace(game.spec, observation={name: game.spec.observation['place']})
  other = dataclasses.replace(game, spec=spec, observe=lambda state: {name: shown(state)})
  program = Program(config_of(), other, table, [1])
  seen = jax.eval_shape(jax.vmap(other.observe), jnp.zeros((4, 2)))
  flags = dict.fromkeys(('is_first', 'is_last', 'is_terminal'), jnp.zeros(4, bool))
  now = TimeStep(seen, jnp.zeros(4), **flags)
  with pytest.raises(UserError) as caught:
    program._row(now, jnp.zeros((4, 3)))
  assert told in str(caught.value)


def test_waves_fit_into_memory(monkeypatch):
  """Equal waves of as many as fit; one at a time on a CPU."""
  monkeypatch.setattr(waves, 'memory', lambda: 1000)
  assert waves.choose_width(0, 100, 30, 1) == 1
  assert waves.choose_width(4, 100, 30, 1) == 4
  monkeypatch.setattr(waves.parallel, 'has_accelerator', lambda: True)
  assert waves.choose_width(0, 100, 30, 1) == 10
  assert waves.choose_width(0, 100, 24, 1) == 8 and waves.choose_width(0, 100, 24, 4) == 6
  for wanted, each, told in ((11, 100, '--together=11: an agent takes'), (0, 1001, 'smaller')):
    with pytest.raises(UserError, match=told):
      waves.choose_width(wanted, each, 30, 1)


@pytest.mark.parametrize(
  'due, span',
  [
    ([0, 0, 3] + 9 * [2], (8, 12)),
    ([0, 0, 3] + 9 * [0, 0, 0, 1], (23, 39)),  # rare ones: four of them, a quarter of what is timed
    ([0, 0, 3] + 5 * [0, 0, 0, 0, 0, 9], (27, 33)),  # all at an episode's end
    ([0, 0, 3, 0, 1, 0], (2, 5)),  # not more than these
  ],
)
def test_iterations_that_are_timed_have_updates_as_often_as_all(due, span):
  assert waves.representative(np.array(due), 2) == span


# --------------------------------------------------------------------------------------------------
# The command

STUDY = (
  *('--env=catch', f'--method={LINEAR}', '--preset=tiny', '--seeds=2'),
  *('--variant=slow: lr=1e-4', '--variant=fast: lr=1e-2'),
  *('--config.steps=160', '--config.eval_every=80', '--config.batch_length=8'),
  *('--config.eval_episodes=4', '--config.final_eval_episodes=6', '--config.log_every=40'),
  '--config.checkpoint_every=40',
)


def records_of(folder):
  """Return {label/seed: lines of scores and metrics without times} of a study's run folders."""
  return {
    str(path.parent.relative_to(folder)): [
      [timeless(json.loads(line)) for line in (path.parent / name).read_text().splitlines()]
      for name in ('scores.jsonl', 'metrics.jsonl')
    ]
    for path in sorted(folder.rglob('.complete'))
  }


def test_a_study(tmp_path):
  """Killed after its first wave and continued it ends with the same results, which reports read;
  the same command with another setting is refused.
  """
  whole = commands.run('study', *STUDY, f'--output={tmp_path}/whole')
  assert whole.returncode == 0, whole.stderr
  assert '4 agents on 1 × cpu, 1 at once, by 1 program; memory: ' in whole.stdout
  assert 'expected: ' in whole.stdout
  assert 'note: config.checkpoint_every changes nothing in a study' in whole.stderr
  cut = f'--output={tmp_path}/cut'
  first = commands.run('study', *STUDY[:3], '--seeds=1', *STUDY[4:], cut)
  assert first.returncode == 0 and len(records_of(tmp_path / 'cut')) == 2
  (tmp_path / 'cut' / 'fast' / 'seed0' / '.complete').unlink()  # killed while it was written
  again = commands.run('study', *STUDY, cut)
  assert '3 agents on ' in again.stdout
  found = records_of(tmp_path / 'whole')
  assert len(found) == 4 and found == records_of(tmp_path / 'cut')
  for name in found:  # hours have the last evaluation, too
    path = tmp_path / 'whole' / name
    logged = [json.loads(line) for line in (path / 'metrics.jsonl').read_text().splitlines()]
    before = max(line['time/hours'] for line in logged if 'time/hours' in line)
    last = json.loads((path / 'scores.jsonl').read_text().splitlines()[-1])
    assert last['time/hours'] == pytest.approx(before + last['time/eval_seconds'] / 3600, rel=1e-6)
  table = (tmp_path / 'whole' / 'results' / 'scores.csv').read_text()
  assert len(table.splitlines()) == 1 + 4 * 2
  found, problems = records.collect([tmp_path / 'whole'])
  assert {each.method for each in found} == {
    'tests.linear-METHOD-fast-tiny',
    'tests.linear-METHOD-slow-tiny',
  }
  assert report.text(report.make(found)) and not problems
  plan = json.loads((tmp_path / 'cut' / 'plan.json').read_text())
  assert plan['seeds'] == [0, 1] and plan['together'] == 1
  first = study.Study(tmp_path / 'cut', plan)
  study.Study(tmp_path / 'cut', {**plan, 'seeds': [0, 7]}).begin(1)  # while the first one compiles
  first.begin(1)
  assert json.loads((tmp_path / 'cut' / 'plan.json').read_text())['seeds'] == [0, 1, 7]
  older = json.loads(json.dumps(plan))
  del older['config']['eval_in_background']  # before there was such a setting, which is off
  (tmp_path / 'cut' / 'plan.json').write_text(json.dumps(older))
  study.Study(tmp_path / 'cut', plan)
  plan['config']['steps'] = 480
  with pytest.raises(UserError, match='a study with another config.steps: 160 there, 480 here'):
    study.Study(tmp_path / 'cut', plan)
  (tmp_path / 'cut' / 'plan.json').unlink()  # its runs would be taken for those of any other plan
  with pytest.raises(UserError, match='holds runs, but no plan.json'):
    study.Study(tmp_path / 'cut', plan)


def test_a_call_that_trains_nothing_leaves_the_plan_as_it_was(tmp_path):
  """One that is refused, or only estimates, would have the right one refused afterwards."""
  refused = commands.run('study', '--env=catch', '--method=tdmpc', f'--output={tmp_path}/one')
  assert refused.returncode == 2 and 'tdmpc plans' in refused.stderr
  assert not (tmp_path / 'one').exists()
  call = lambda label: study.Study(tmp_path, {'variants': {label: {}}, 'seeds': [0], 'together': 0})
  call('a').begin(1)
  call('b')
  assert list(json.loads((tmp_path / 'plan.json').read_text())['variants']) == ['a']
