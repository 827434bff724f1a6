"""World models on a recorded buffer: windows, what is measured, the command as users type it."""

import concurrent.futures
import contextlib
import csv
import dataclasses
import json
import types

import jax.numpy as jnp
import numpy as np
import pytest

from harmony_jax import harmony, method, settings, weighting
from harmony_jax.encoders import Objective
from harmony_jax.envs import catch
from harmony_jax.errors import UserError
from harmony_jax.offline import buffer as buffers
from harmony_jax.offline import learn, measure, probe, record, study, table
from tests import commands, small

LENGTHS = [3, 7, 1, 4, 5, 6, 2, 2, 2, 9]  # of episodes; the fifth and the tenth are held out


def made(lengths=LENGTHS, state=0, side=2):
  """A buffer whose pictures, rewards and actions say which row they are of."""
  starts = np.cumsum([0, *lengths])
  rows = np.arange(starts[-1])
  flags = {name: np.zeros(len(rows), bool) for name in buffers.FLAGS}
  flags['is_first'][starts[:-1]] = flags['is_last'][starts[1:] - 1] = True
  header = {
    'format': 1,
    'suite': 'catch',
    'task': 'catch',
    'policy': 'hand',
    'seed': 0,
    'spec': small.spec({'image': (side, side, 3)}).to_json(),
    'state_names': [str(each) for each in range(state)],
  }
  picture = np.broadcast_to(rows[:, None, None, None], (len(rows), side, side, 3)).astype(np.uint8)
  rest = {'action': np.eye(3, dtype=np.float32)[rows % 3], 'reward': rows.astype(np.float32)}
  return buffers.Buffer(
    header, {'image': picture}, {**rest, **flags}, starts, np.zeros((len(rows), state), np.float32)
  )


def test_windows_lie_in_one_episode_of_their_part():
  buffer = made()
  assert buffer.episodes(True).tolist() == [4, 9] and len(buffer.episodes(False)) == 8
  # 5 steps have one window of 5 steps, 9 have five
  assert buffer.windows(5, True).tolist() == [15, 32, 33, 34, 35, 36]
  assert buffer.windows(6, False).tolist() == [3, 4, 20]
  with pytest.raises(UserError, match='no training episode of 8 steps: .* longest of 7'):
    buffer.windows(8, False)


def test_a_batch_is_what_the_rows_hold():
  buffer = made()
  batch = buffer.gather(np.array([4, 20]), 3, reward_scale=0.5)
  rows = np.array([[4, 5, 6], [20, 21, 22]])
  assert (batch['image'][..., 0, 0, 0] == rows).all() and batch['image'].dtype == np.uint8
  assert (batch['reward'] == rows / 2).all() and batch['reward'].dtype == np.float32
  assert (batch['action'].argmax(-1) == rows % 3).all()
  assert batch['is_first'].tolist() == [[True, False, False]] * 2
  assert not buffer.rows['is_first'][4]  # the buffer itself stays as it is


def test_windows_are_spread_and_drawn():
  windows = np.arange(10, 110)
  assert buffers.evenly(windows, 3).tolist() == [10, 60, 109]
  assert (buffers.evenly(windows, 500) == windows).all()
  draw = lambda *where: buffers.batch_windows(windows, 4000, *where)
  assert (draw(1, 2) == draw(1, 2)).all() and (draw(1, 2) != draw(1, 3)).any()
  counts = np.bincount(draw(0, 0))[10:]
  assert len(counts) == 100 and counts.min() > 10 and counts.max() < 80


def test_a_file_comes_back_and_a_damaged_one_is_refused(tmp_path):
  buffer, path = made(state=2), tmp_path / 'x.npz'
  buffer.save(path)
  again = buffers.load(path)
  assert again.header['state_names'] == ['0', '1'] and again.spec == buffer.spec
  for here, there in ((buffer.observation, again.observation), (buffer.rows, again.rows)):
    assert all((here[name] == there[name]).all() for name in here) and here.keys() == there.keys()
  assert list(tmp_path.iterdir()) == [path]
  arrays, whole = dict(np.load(path)), path.read_bytes()
  for at in range(0, len(whole), 31):  # some are read, such as with another date in the file
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
    with contextlib.suppress(UserError):
      buffers.load(path)
  for change, told in (
    ({'reward': arrays['reward'][1:]}, 'rows'),
    ({'starts': arrays['starts'][:-1]}, 'starts do not fit'),
    ({'state': arrays['state'][:, :1]}, r'its state is \[41, 1\], of which it names 2'),
    ({'observation/image': arrays['observation/image'][:, :1]}, 'its spec has'),
    ({'header': np.array('{')}, 'JSONDecodeError'),
    ({'header': np.array(json.dumps({**buffer.header, 'format': 9}))}, 'has format 9'),
  ):
    np.savez(path, **{**arrays, **change})
    with pytest.raises(UserError, match=told):
      buffers.load(path)
  np.savez(path, x=1)
  with pytest.raises(UserError, match='no header, starts, state, action'):
    buffers.load(path)
  path.write_bytes(b'PK nothing')
  with pytest.raises(UserError, match='is no buffer'):
    buffers.load(path)


# --------------------------------------------------------------------------------------------------


def test_a_buffer_that_was_recorded_again_is_no_second_one():
  """Nor one of fewer or shorter episodes of the same seed."""
  env = catch.Catch()
  buffer = lambda *sizes: record.record(env, record.random(env), *sizes, {})
  first = buffer(4, 6, 7)
  for again in (buffer(4, 6, 7), buffer(2, 6, 7), buffer(4, 3, 7)):
    assert buffers.same_recording(first, again) and buffers.same_recording(again, first)
  assert not buffers.same_recording(first, buffer(4, 6, 8))
  # one run's replay at two times: its second environment has gone on, too, or the oldest are gone
  pieces = [first.gather(start[None], 6) for start in first.starts[:-1]]
  picked = lambda *episodes: dataclasses.replace(
    first,
    observation={'image': np.concatenate([pieces[e]['image'][0] for e in episodes])},
    rows={k: np.concatenate([pieces[e][k][0] for e in episodes]) for k in buffers.ROWS},
    starts=np.arange(len(episodes) + 1) * 6,
  )
  for early, late in (((0, 2), (0, 1, 2, 3)), ((0, 1, 2), (1, 2, 3))):
    assert buffers.same_recording(picked(*early), picked(*late))
    assert buffers.same_recording(picked(*late), picked(*early))
  assert not buffers.same_recording(picked(0, 1), picked(2, 3))


def test_r2():
  true = np.array([1.0, 2, 3, 6])
  assert measure.r2(true, true) == 1 and measure.r2(np.full(4, 3.0), true) == 0
  assert measure.r2(true + 1, true) == pytest.approx(1 - 4 / 14)
  both = measure.r2(np.stack([true, true], 1), np.stack([true, np.ones(4)], 1))
  assert both[0] == 1 and np.isnan(both[1])


def test_ridge_is_the_closed_form():
  rng = np.random.default_rng(0)
  feature = np.concatenate([rng.normal(size=(50, 3)), np.ones((50, 1))], 1)  # one says nothing
  target = feature @ rng.normal(size=(4, 2)) * [1, 1000] + 5
  np.testing.assert_allclose(measure.ridge(feature, target, feature, 1e-9), target, rtol=1e-6)
  # of one feature the slope is the least squares' over 1 + λ, whatever the units
  x, y = np.array([[-3.0], [0], [3]]), np.array([[1.0], [4], [7]])
  assert measure.ridge(x, y, np.array([[6.0]]), 0.25) == pytest.approx(4 + 6 / 1.25)


def test_right_is_no_number_where_a_prediction_is_none():
  """It would be nearest to the first value, and a model that has failed would seem to guess."""
  values, true = np.array([-1.0, 0, 1]), np.array([-1.0, 0, 1])
  assert np.isnan(measure.right(np.array([np.nan, 0, 1]), true, values))


def test_right_counts_each_value_alike():
  values, true = np.array([-1.0, 0, 1]), np.array([0.0] * 8 + [1, -1])
  assert measure.right(np.zeros(10), true, values) == pytest.approx(1 / 3)
  assert measure.right(true * 0.6, true, values) == 1
  assert measure.right(true * 0.4, true, values) == pytest.approx(1 / 3)


def test_rewards_are_measured_where_they_are_said_to_be():
  """After a third of the context where they are seen, and in the first third of the horizon."""
  rng = np.random.default_rng(0)
  true = rng.normal(size=(4, 12))
  seen, imagined = true.copy(), true[:, 6:].copy()
  seen[:, :2], imagined[:, 2:] = 99, 0
  found = measure.of_rewards(seen, imagined, true, 6, np.unique(true))
  assert found.keys() == {
    'reward/seen',
    'reward/open_2',
    'reward/open_6',
    'reward/mse_open_6',
  }  # 48 values: not discrete
  assert found['reward/seen'] == found['reward/open_2'] == 1 > found['reward/open_6']
  assert found['reward/mse_open_6'] == pytest.approx((true[:, 8:] ** 2).sum() / 24)
  whole = np.sign(true)
  shares = measure.of_rewards(whole, 0.4 * whole[:, 6:], whole, 6, np.array([-1.0, 0, 1]))
  assert (shares['reward/right_seen'], shares['reward/right_open_6']) == (1, 0)


def test_states_are_measured_on_other_episodes():
  rng = np.random.default_rng(0)
  feature = {name: rng.normal(size=(9, 8, 5)) for name in ('training', 'held_out')}
  weight = rng.normal(size=(5, 2))
  state = {name: x @ weight + [[[7, 0]]] for name, x in feature.items()}
  state['held_out'][..., 1] = rng.normal(size=(9, 8))  # nothing to be learned of it
  feature['training'][:, :2] = 1e6  # left out
  found = measure.of_states(feature, state, ['a', 'b'], 2)
  assert found['a'] > 0.99 and found['b'] < 0


def test_an_mlp_finds_what_is_not_linear(monkeypatch):
  monkeypatch.setattr(probe, 'UPDATES', 150)
  rng = np.random.default_rng(0)
  feature = rng.normal(size=(1500, 3)) * [1, 10, 0]  # one says nothing
  target = np.stack([1000 + np.abs(feature[:, 0]), rng.normal(size=1500)], 1)
  half = feature[:1000], target[:1000], feature[1000:]
  scores = {
    fit.__name__: measure.r2(fit(*half), target[1000:]) for fit in (measure.ridge, probe.mlp)
  }
  assert scores['mlp'][0] > 0.9 > 0.2 > scores['ridge'][0] and scores['mlp'][1] < 0.1


# --------------------------------------------------------------------------------------------------


def test_smooth_noise():
  """Its autocorrelation is 0.9 where nothing is clipped; a scale is drawn for each episode."""
  spec, rng = small.spec(actions=2, discrete=False), np.random.default_rng(0)
  act = record.smooth(types.SimpleNamespace(spec=spec))
  steps = [types.SimpleNamespace(is_first=np.array([step % 400 == 0])) for step in range(4000)]
  drawn = np.concatenate([act(step, rng) for step in steps])
  assert drawn.shape == (4000, 2) and drawn.dtype == np.float32 and np.abs(drawn).max() == 1
  episodes = drawn.reshape(10, 400, 2)
  sizes = episodes.std((1, 2))
  assert sizes.max() > 3 * sizes.min()
  calm = episodes[sizes.argmin()]
  correlation = np.corrcoef(np.ravel(calm[:-1]), np.ravel(calm[1:]))[0, 1]
  assert np.abs(calm).max() < 1 and correlation == pytest.approx(0.9, abs=0.05)
  with pytest.raises(UserError, match='for continuous actions'):
    record.smooth(types.SimpleNamespace(spec=small.spec()))


def test_a_mixture_draws_a_policy_for_each_episode():
  act = record.mixed([lambda timestep, rng, n=n: n for n in range(3)])
  played = []
  for episode in range(60):
    rng = np.random.default_rng(episode)
    steps = [types.SimpleNamespace(is_first=np.array([step == 0])) for step in range(4)]
    played.append({act(step, rng) for step in steps})
  assert all(len(each) == 1 for each in played)  # one of them to the episode's end
  assert min(np.bincount([each.pop() for each in played])) > 10
  assert record.mixed([act]) is act  # alone it draws nothing


def test_a_recording_of_catch():
  """Rewards, states and ends belong together; an agent is told where episodes begin."""
  env, told = catch.Catch(), []

  class Left:
    def policy(self, observation, state, is_first):
      told.append(bool(is_first[0]))
      return 0, types.SimpleNamespace(action=jnp.eye(3)[None, 0])

  buffer = record.record(env, record.trained(Left()), 6, 8, 3, {'suite': 'catch'})
  assert buffer.starts.tolist() == [*range(0, 49, 8)] and told == [True, *[False] * 7] * 6
  names = buffer.header['state_names']
  row, ball, paddle = buffer.state.T
  assert names == ['ball_row', 'ball_column', 'paddle_column']
  assert row[:8].tolist() == list(range(8)) and paddle[:6].tolist() == [4, 3, 2, 1, 0, 0]
  last = buffer.rows['is_last']
  assert (buffer.rows['reward'] == np.where(last, np.where(ball == paddle, 1, -1), 0)).all()
  short = record.record(env, record.random(env), 3, 4, 3, {})
  assert short.starts.tolist() == [0, 4, 8, 12] and not short.rows['is_terminal'].any()
  assert short.rows['is_last'].sum() == 3  # cut, and no end that a model should foresee
  assert (short.state[:4, 1] == ball[0]).all()  # the same episode
  own, known = np.zeros((1, 3), np.float32), env.state
  env.state = lambda: np.add(known(), 0, out=own)  # as a simulator that has one array for it
  again = record.record(env, record.trained(Left()), 6, 8, 3, {'suite': 'catch'})
  assert (again.state == buffer.state).all()


def test_a_run_stops_where_it_is_not_finite():
  """And measures at its last update, whatever the interval."""
  buffer, asked = made(), []

  def step(weights, state, batch):
    asked.append(batch['reward'])
    return state + 1, {'nonfinite_updates': np.array(state >= 4), 'harmony/reward/weight': weights}

  programs = types.SimpleNamespace(init=lambda key: 0, calibration=None, step=step, look=None)
  programs.predict, programs.rows = 'its program', 3
  views = types.SimpleNamespace(
    measure=lambda look, state, last: {'x': state}, predict=lambda program, state: (program, state)
  )
  sizes = types.SimpleNamespace(batch_size=2, skip_nonfinite=0)

  def run(updates, seed=0, show=0):
    views.plan = learn.Plan(updates, 2, show=show)
    return list(learn.learn(programs, 7.0, buffer, views, seed, sizes))

  assert [(line['update'], line['measures']) for line in run(3)] == [
    (2, {'x': 2, 'harmony/reward/weight': 7}),
    (3, {'x': 3, 'harmony/reward/weight': 7}),
  ]
  assert run(9)[-1] == {'update': 6, 'stopped': 'a loss or gradient is not finite'}
  sizes.skip_nonfinite = 1  # an update that was left out is told where it counts
  told = [line['measures'].get('nonfinite_updates') for line in run(6)]
  assert told == [None, None, 1]
  lines = run(3, show=1)
  assert 'predictions' not in lines[0] and lines[1]['predictions'] == ('its program', 3)
  first = asked[:3]
  assert all((a == b).all() for a, b in zip(first, asked[-3:]))  # of one seed the same batches


def test_none_and_fixed_are_one_program():
  """Whose loss is the method's own."""
  entry, weighed = method.entry('dreamerv2'), {'none': {}, 'fixed': {'weighting__w_r': 7.0}}
  agents = {
    rule: small.agent(small.VECTOR, name='dreamerv2', weighting__rule=rule, **more)
    for rule, more in {**weighed, 'harmony': {}}.items()
  }
  programmer = learn.Programmer(entry, 'dreamerv2')
  found = {k: programmer(agent.settings, agent.spec) for k, agent in agents.items()}
  assert found['fixed'][0] is found['none'][0] is not found['harmony'][0]
  weights = {rule: found[rule][1] for rule in weighed}
  assert weights['none'] == {'w_o': 1, 'w_r': 1, 'w_d': 1} and weights['fixed']['w_r'] == 7
  assert found['harmony'][1] == {}
  nothing = learn.weighed(agents['fixed'].settings, {'w_o': 0.0})  # of vectors, which are no task
  with pytest.raises(UserError, match='w_o is 0: here are vectors'):
    programmer(nothing, agents['fixed'].spec)
  state, batch = small.state_of(agents['none']), small.batch(small.VECTOR)

  def loss(of):
    model, draws = state.params['world_model'], of.draws(state.rng, 3, 5)
    losses = of.losses(model, state, batch, state.carry, draws)
    return of.weigh(losses, model['harmony'], ())[0]

  common, _ = learn.structure(agents['fixed'].settings)

  @small.jit
  def losses(weights):
    traced = {
      rule: entry.make(learn.weighed(common, each), agents['none'].spec)
      for rule, each in weights.items()
    }
    return {rule: (loss(agents[rule]), loss(traced[rule])) for rule in weights}

  totals = losses(weights)
  for own, shared in totals.values():
    np.testing.assert_allclose(own, shared, rtol=1e-6)
  assert totals['fixed'][0] > totals['none'][0]


def test_the_weights_of_denoised_mdp_without_a_rule():
  """`none` has one of all KLs there, which is an argument of the program as those of `fixed`."""
  changes = {'weighting.rule': 'none', 'losses.alpha': 2.0}
  _, weights = learn.structure(settings.replace(method.entry('denoised_mdp').settings, changes))
  assert weights == {'w_o': 1, 'w_r': 1, 'w_d': 2}


# --------------------------------------------------------------------------------------------------


def test_differences_are_of_pairs():
  values = {(0, 0): 1.0, (0, 1): 3.0, (1, 0): 8.0}
  reference = {(0, 0): 0.5, (0, 1): 2.5, (5, 5): 100.0}
  found = table.cell(values, reference)
  assert found[:5] == (3, 4.0, 1.0, 8.0, 2)
  assert (found.difference, found.low, found.high) == (0.5, 0.5, 0.5)
  assert table._text(found) == '4.00 (1.00 to 8.00, n 3); +0.50 [+0.50, +0.50] of 2 of them'
  alone = table.cell({(0, 0): 1.0}, {(0, 0): 4.0})
  assert (alone.difference, alone.low) == (-3.0, None)
  assert table._text(alone) == '1.00 (n 1); -3.00'


def test_a_curve_s_end_and_its_mean():
  """The mean is of the pairs that have been measured every time."""
  curve = {500: {(0, 0): 1.0, (0, 1): 4.0}, 1000: {(0, 0): 3.0}}
  assert table.whole(curve) == {(0, 0): 2.0} and table.whole({}) == {}
  assert table.last(1000)(curve) == {(0, 0): 3.0} and table.last(7)(curve) == {}


def test_a_weight_stands_beside_the_one_of_eq_13(tmp_path):
  """σ* of L = ½ is 1; a task without a loss, or with one below 0, has no such weight."""
  plan = {'updates': 2, 'variants': {'a': {}}, 'seeds': [0], 'buffers': [{'sha256': 1}]}
  measures = {f'harmony/{task}/weight': 3.0 for task in ('reward', 'observation', 'dynamics')}
  measures |= {'loss/reward/training': 0.5, 'loss/observation/training': -1.0}
  opened = study.open_study(tmp_path, plan)
  (tmp_path / 'a-s0.jsonl').write_text(json.dumps({'update': 2, 'measures': measures}))
  assert table.curves(opened, ['optimum/']) == {
    'optimum/reward': {'a': {2: {(0, 0): pytest.approx(3.0)}}}
  }


@pytest.mark.parametrize('rule', ['harmony', 'harmony_unrectified', 'running'])
@pytest.mark.parametrize('bracket', ['code', 'paper'])
def test_a_weight_at_rest_is_1_of_its_optimum(rule, bracket, tmp_path):
  """With the weight of DreamerV3's log(1 + σ_d), too; closed forms are held against eq. 13."""
  base = small.settings_of(weighting__dynamics_regularizer=bracket)
  plan = {'updates': 2, 'seeds': [0], 'buffers': [{'sha256': 1}]}
  plan |= {'settings': settings.to_json(base), 'variants': {'a': {'weighting.rule': rule}}}
  changed, loss = settings.replace(base, {'weighting.rule': rule}), {'reward': 0.5, 'dynamics': 3.0}
  made, _ = weighting.make_weighting(changed.weighting, base.losses, Objective())
  rest = made.start or (lambda loss, task: np.log(harmony.optimal_sigma(loss)))
  measures = {f'harmony/{k}/weight': float(np.exp(-rest(v, k))) for k, v in loss.items()}
  measures |= {f'loss/{task}/training': each for task, each in loss.items()}
  opened = study.open_study(tmp_path, plan)
  (tmp_path / 'a-s0.jsonl').write_text(json.dumps({'update': 2, 'measures': measures}))
  found = table.curves(opened, ['optimum/'])
  assert [each['a'][2][0, 0] for each in found.values()] == pytest.approx([1, 1])


def test_a_mean_over_measurements_is_of_all_of_them(tmp_path):
  """Where nothing finite was measured once there is none: the rest would be of fewer updates."""
  plan = {'updates': 2, 'variants': {'a': {}, 'b': {}}, 'seeds': [0], 'reward_scale': 1}
  plan |= dict.fromkeys(('suite', 'task', 'method', 'preset'), 'x')
  plan['buffers'] = [{'sha256': 1, 'path': 'x'}]
  for commit in ('abc', 'def (dirty)'):  # of the second one are some of the runs, perhaps all
    about = {'commit': commit, 'config': ['a=1', 'b=2 3']}
    opened = study.open_study(tmp_path, {**plan, 'about': about})
  for run, early in zip(opened.runs(), (1.0, float('nan'))):
    measures = {1: {'x': early, 'y': float('nan')}, 2: {'x': 3.0, 'y': float('nan')}}
    lines = [{'update': update, 'measures': each} for update, each in measures.items()]
    with study.claim(opened, run) as file:
      assert len([*study.write(file, iter(lines))]) == 2
  found = table.curves(opened)
  assert found == {'x': {'a': {1: {(0, 0): 1.0}, 2: {(0, 0): 3.0}}, 'b': {1: {}, 2: {(0, 0): 3.0}}}}
  assert table.whole(found['x']['a']) == {(0, 0): 2.0} and table.whole(found['x']['b']) == {}
  text, paths = table.write(tmp_path)
  assert '2 of 2 runs are finished, by commit abc, def (dirty). Mean' in text
  assert text.startswith('x x, x x with a=1, b=2 3, 2 updates: ')  # the preset is not all
  assert text.splitlines()[-1] == '| x | 2.00 (n 1) |  |' and len(paths) == 4
  rows = [row.split(',')[:3] for row in paths[1].read_text().splitlines()[1:]]
  assert rows == [['a', 'x', '1'], ['a', 'x', '2'], ['b', 'x', '2']]
  text, paths = table.write(tmp_path, ['x=what is seen'], variants=['b=the rule', 'a'])
  drawn = next(path for path in paths if path.suffix == '.svg').read_text()
  assert '>what is seen<' in drawn and '>the rule<' in drawn and '| b |' in text


def test_of_several_that_open_a_study_at_once_none_is_lost(tmp_path):
  plan = {'updates': 2, 'variants': {'a': {}}, 'buffers': [{'sha256': 1, 'path': 'x'}]}
  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    list(pool.map(lambda seed: study.open_study(tmp_path, {**plan, 'seeds': [seed]}), range(16)))
  assert study.Study(tmp_path).seeds == [*range(16)]


def test_a_study_grows_and_keeps_its_plan(tmp_path):
  plan = {
    'updates': 2,
    'variants': {'a': {}},
    'seeds': [0],
    'buffers': [{'sha256': 1, 'path': 'x'}],
  }
  study.open_study(tmp_path, plan)
  more = {**plan, 'variants': {'b': {'x': 1}}, 'seeds': [2]}
  opened = study.open_study(tmp_path, more)
  assert [run.name for run in opened.runs()] == ['a-s0', 'b-s0', 'a-s2', 'b-s2']
  assert study.Run('a', 1, 3).name == 'a-b1-s3'
  for commit, load in (('x', 1), ('x', 2), ('y', 3), ('z', 4)):
    opened = study.open_study(tmp_path, {**more, 'about': {'commit': commit, 'load': load}})
  assert [about['commit'] for about in opened.plan['earlier']] == ['x', 'y']
  opened = study.open_study(tmp_path, more)
  with pytest.raises(UserError, match='another updates: 2 there, 3 here'):
    study.open_study(tmp_path, {**plan, 'updates': 3})
  with pytest.raises(UserError, match='another variant b'):
    study.open_study(tmp_path, {**more, 'variants': {'b': {}}})
  with pytest.raises(UserError, match='another buffer 0'):
    study.open_study(tmp_path, {**plan, 'buffers': [{'sha256': 2, 'path': 'y'}]})
  run = opened.runs()[0]
  with study.claim(opened, run) as file:
    assert study.claim(opened, run) is None  # another process is at it
    lines = [{'update': 1, 'measures': {'x': float('nan')}}, {'update': 2, 'measures': {'x': 1.0}}]
    assert list(study.write(file, iter(lines))) == lines
  assert opened.finished(run) and study.claim(opened, run) is None
  assert opened.lines(run)[0]['measures'] == {'x': None}
  path = tmp_path / 'a-s0.jsonl'
  path.write_text(path.read_text()[:-9])  # killed in the middle of a line
  assert len(opened.lines(run)) == 1 and not opened.finished(run)
  (tmp_path / 'plan.json').unlink()  # its runs would be taken for those of any other plan
  with pytest.raises(UserError, match='holds runs, but no plan.json'):
    study.open_study(tmp_path, {**plan, 'updates': 1})


def test_two_runs_do_not_share_a_file(tmp_path):
  """Variant a-b1 of the first buffer and variant a of the second one."""
  plan = {'updates': 2, 'variants': {'a': {}, 'a-b1': {}}, 'seeds': [0]}
  plan['buffers'] = [{'sha256': 1, 'path': 'x'}]
  assert len(study.open_study(tmp_path, plan).runs()) == 2
  plan['buffers'] = [{'sha256': 1, 'path': 'x'}, {'sha256': 2, 'path': 'y'}]
  with pytest.raises(UserError, match="'a' and 'a-b1' would share the file a-b1-s0.jsonl"):
    study.open_study(tmp_path, plan)
  assert study.Study(tmp_path).buffers == 1


ELSEWHERE = ('continue', 'actor', 'critic', 'behavior')  # of no model that learns alone
SIZES = [f'--config.{k}={v}' for k, v in small.SIZES.items() if not k.startswith(ELSEWHERE)]
TRAIN = ('train', '--preset=tiny', '--updates=4', '--measure_every=2', '--context=3', '--horizon=3')


def test_from_a_game_to_a_table(tmp_path):
  """A killed study goes on with the run that was not finished, to the same numbers."""
  file, folder = tmp_path / 'catch.npz', tmp_path / 'study'
  where = f'--output={file}', '--episodes=20', '--length=8'
  done = commands.run('offline', 'record', '--suite=catch', *where, '--config.env.distractors=0')
  assert done.returncode == 0 and '20 episodes, 160 steps' in done.stdout, done.stderr
  said = buffers.load(file).header['env']
  assert (said['size'], said['distractors']) == (8, 0)
  rules = '--weighting=none', '--variant=w10: weighting.rule=fixed weighting.w_r=10', '--show=2'
  train = (*TRAIN, f'--buffer={file}', f'--output={folder}', *rules, *SIZES)
  done = commands.run('offline', *train)
  assert done.returncode == 0 and '[100%, 0:00:00 left] w10-s0, 4 of 4' in done.stdout, done.stderr
  read = lambda name: [json.loads(line) for line in (folder / name).read_text().splitlines()]
  first = read('w10-s0.jsonl')
  found = first[-1]['measures']
  assert [line['update'] for line in first] == [2, 4] and found['harmony/reward/weight'] == 10
  names = {'reward/seen', 'reward/right_open_3', 'state/ball_column', 'kl/held_out'}
  names |= {'loss/observation/held_out', 'loss/reward/training'}
  assert names <= found.keys()
  kept, buffer = dict(np.load(folder / 'w10-s0.npz')), buffers.load(file)
  assert kept['picture/image'].shape == (2, 6, 64, 64, 3) and kept['expected'].shape == (2, 6)
  assert np.isin(kept['first'], buffer.windows(6, True)).all()
  assert (kept['reward'] == buffer.gather(kept['first'], 6)['reward']).all()
  assert kept['reward'][:, 3:].any(1).all()  # in both something happens after the context
  (folder / 'w10-s0.jsonl').write_text(json.dumps(first[0]) + '\n')
  done = commands.run('offline', *train)
  assert 'none-s0: finished' in done.stdout and 'w10-s0, 4 of 4' in done.stdout, done.stderr
  assert [line['measures'] for line in read('w10-s0.jsonl')] == [x['measures'] for x in first]
  plan = json.loads((folder / 'plan.json').read_text())
  assert plan['variants']['w10'] == {'weighting.rule': 'fixed', 'weighting.w_r': 10.0}
  done = commands.run('offline', 'table', folder, '--measures=reward,loss/reward')
  assert done.returncode == 0 and '| reward/seen |' in done.stdout, done.stderr
  rows = list(csv.DictReader((folder / 'table.csv').open()))
  last = {
    row['label']: row for row in rows if (row['measure'], row['update']) == ('reward/seen', '4')
  }
  done = commands.run('offline', 'table', folder, '--measures=reward', '--reference=w11')
  assert done.returncode == 2 and done.stderr.endswith('has the variants none, w10\n'), done.stderr
  where = '--variants=w10', '--measures=reward', f'--output={tmp_path}/some'
  done = commands.run('offline', 'table', folder, *where)
  assert done.returncode == 0 and '| measure | w10 |' in done.stdout, done.stderr
  assert (tmp_path / 'some' / 'curves.png').exists()
  gained = float(last['w10']['mean']) - float(last['none']['mean'])
  assert float(last['w10']['difference']) == pytest.approx(gained)
  assert (folder / 'curves.png').stat().st_size > 10_000


def test_bad_input_is_one_line(tmp_path):
  file, other = tmp_path / 'x.npz', tmp_path / 'other'
  buffer, far = made([9] * 10, side=64), tmp_path / 'far.npz'
  buffer.save(file)
  dataclasses.replace(buffer, header={**buffer.header, 'env': {'camera': 1}}).save(far)
  before, new = file.read_bytes(), f'--output={tmp_path}/new.npz'
  good = ('train', f'--buffer={file}', f'--output={other}')
  for words, told in (
    ((), 'one of record, train, table'),
    (('trian',), "did you mean 'train'"),
    (('record', '--suite=catch'), 'record needs --output'),
    (('record', '--suite=catch', '--updates=3', new), '--updates is no flag of rec'),
    (('record', '--suite=catch', '--policy=smooth', new), 'use random'),
    (('record', '--suite=catch', '--policy=smoth', new), "did you mean 'smooth'"),
    (('record', '--suite=catch', '--policy=scripted', new), 'no policies written by hand'),
    (('record', f'--policy={tmp_path},{tmp_path}', new), 'one run folder'),
    (('record', new), 'needs --suite'),
    (('record', '--suite=catch', '--config.rssm.deter=3', new), 'environment alone'),
    (('record', '--suite=catch', f'--output={file}'), 'is there already'),
    (('record', '--suite=catch', f'--output={file}/x.npz'), 'cannot write to the folder'),
    (('train', f'--output={other}'), 'needs --buffer'),
    (('train', f'--buffer={other}', f'--output={other}'), 'cannot be read'),
    (('train', f'--buffer={file},{file}', f'--output={other}'), 'are one recording'),
    (('train', f'--buffer={file},{far}', f'--output={other}'), 'env.camera is None in'),
    ((*good, '--variant=a b: rate=1'), 'label of letters'),
    ((*good, '--variant=none: weighting.rule=fixed'), 'none is the name of a rule'),
    ((*good, '--variant=a: weighting.w_x=1'), "variant 'a': unknown key config.weighting.w_x"),
    ((*good, '--weighting=harmoni'), "variant 'harmoni': config.weighting.rule is 'harmoni'"),
    ((*good, '--weighting=none,none'), "two variants 'none'"),
    ((*good, '--config.steps=9'), 'no setting of a world model'),
    ((*good, '--config.replay.sampling=inside'), 'no setting of a world model'),
    ((*good, '--config.actor_opt.lr=1e-3'), 'config.actor_opt.lr: no setting of a world model'),
    ((*good, '--method=tests.shooting:METHOD'), 'cannot train its model alone'),
    ((*good, '--config.batch_length=12'), 'no training episode of 12 steps'),
    ((*good, '--config.batch_length=8'), 'no held-out episode of 30 steps'),
    (('table', other), 'holds no study'),
    (('table',), 'name one or more folders'),
  ):
    done = commands.run('offline', *words)
    assert done.returncode == 2 and done.stderr.count('\n') == 1, (words, done.stderr)
    assert done.stderr.startswith('error: ') and told in done.stderr, (words, done.stderr)
  assert not other.exists() and file.read_bytes() == before
