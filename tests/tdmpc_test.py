"""TD-MPC: what the authors' recordings do not cover, and whole runs."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from harmony_jax import method, settings, trained
from harmony_jax.errors import UserError
from harmony_jax.methods import tdmpc, tdmpc_planning
from harmony_jax.methods.tdmpc_replay import PriorityReplay
from harmony_jax.offline import buffer as buffers
from harmony_jax.offline import learn
from harmony_jax.training.checkpoint import Checkpoints
from tests import commands, small
from tests.runs import TINY, From, Killed, die, lines, train

PICTURE, VECTOR = {'image': (64, 64, 3)}, {'state': (5,)}
SMALLER = {
  'batch_size': 3,
  'batch_length': 4,
  'latent': 6,
  'units': 8,
  'channels': 2,
  'vector_units': 8,
  'prefill': 0,
  'planning.samples': 24,
  'planning.elites': 4,
  'planning.iterations': 2,
  'planning.horizon.steps': 100,
  'planning.std.steps': 100,
}


def make(shapes=None, actions=2, **changes):
  named = {k.replace('__', '.'): v for k, v in changes.items()}
  chosen = settings.replace(method.entry('tdmpc').settings, {**SMALLER, **named})
  return tdmpc.TDMPC(chosen, small.spec(shapes or VECTOR, actions, discrete=False))


def fresh(agent, step=0):
  """A state of random parameters, the slow copies others, at a step of the run."""
  shapes = jax.eval_shape(agent.init, jax.random.key(0)).replace(rng=None)
  rng = np.random.default_rng(0)
  draw = lambda x: jax.device_put((rng.normal(size=x.shape) / 3).astype(x.dtype))
  zeros = jax.device_put(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes))
  drawn = {name: jax.tree.map(draw, getattr(shapes, name)) for name in ('params', 'targets')}
  return zeros.replace(**drawn, rng=jax.random.key(0), run_step=jnp.int32(step))


def batch_of(agent, shapes, actions=2):
  rows = agent.settings.batch_length + agent.stack - 1
  data = small.batch(shapes, actions, discrete=False, size=agent.settings.batch_size, length=rows)
  flags = {
    name: np.zeros(data[name].shape, bool) for name in ('is_first', 'is_last', 'is_terminal')
  }
  return {**data, **flags}


# Networks
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  'shapes,actions,count',
  [
    ({'image': (64, 64, 3)}, 4, 1_548_043),
    ({'image': (64, 64, 3)}, 6, 1_553_165),
    ({'image': (64, 64, 3)}, 1, 1_540_360),
    ({'image': (84, 84, 3)}, 6, 1_561_165),
    ({'state': (39,)}, 4, 1_506_411),
    ({'orientations': (14,), 'height': (), 'velocity': (9,)}, 6, 1_507_693),
  ],
)
def test_the_papers_sizes(shapes, actions, count):
  spec = small.spec(shapes, actions, discrete=False)
  state = jax.eval_shape(tdmpc.METHOD.make(tdmpc.METHOD.settings, spec).init, jax.random.key(0))
  for tree in (state.params, state.targets):
    assert sum(leaf.size for leaf in jax.tree.leaves(tree)) == count


def test_initial_weights():
  """Orthogonal, convolutions with gain √2; rewards and values begin at 0, and copies are equal."""
  agent = make(PICTURE, channels=4)
  state = small.jit(agent.init)(jax.random.key(0))
  model, policy = state.params['world_model'], state.params['policy']
  for layer, gain in ((model['encoder']['conv_1'], 2), (model['dynamics']['dense_1'], 1)):
    rows = np.asarray(layer['kernel']).reshape(-1, layer['kernel'].shape[-1])
    np.testing.assert_allclose(rows.T @ rows, gain * np.eye(rows.shape[1]), atol=1e-5)
    assert not layer['bias'].any()
  for name in ('reward', 'q1', 'q2'):
    assert not model[name]['out']['kernel'].any() and model[name]['dense_0']['kernel'].any()
  assert model['q1']['norm']['scale'].all() and np.abs(policy['out']['kernel']).max() > 0.1
  assert (model['q1']['dense_0']['kernel'] != model['q2']['dense_0']['kernel']).all()
  copies = {**state.params, 'world_model': {k: v for k, v in model.items() if k != 'harmony'}}
  jax.tree.map(np.testing.assert_array_equal, state.targets, copies)


@pytest.mark.parametrize(
  'shapes,discrete,text',
  [
    (VECTOR, True, 'tdmpc plans continuous actions'),
    ({'image': (32, 32, 3)}, False, 'one picture of 39 pixels a side or more'),
    ({**PICTURE, **VECTOR}, False, 'or vectors alone; here is image .64, 64, 3., state'),
  ],
)
def test_what_it_cannot_see_or_do_is_refused(shapes, discrete, text):
  with pytest.raises(ValueError, match=text) as error:
    tdmpc.METHOD.make(tdmpc.METHOD.settings, small.spec(shapes, 2, discrete))
  assert '\n' not in str(error.value)
  with pytest.raises(ValueError, match="replay.sampling is 'windows'"):
    make(replay__sampling='windows')
  with pytest.raises(ValueError, match='planning.elites is 30'):
    make(planning__elites=30)
  for rule in ('harmony_tied', 'equilibrium'):
    with pytest.raises(ValueError, match=f"'{rule}': tdmpc predicts no observation"):
      make(weighting__rule=rule)


# Updates
# --------------------------------------------------------------------------------------------------


def test_an_update_with_harmony():
  """All networks move, tasks have weights of their own, and the priorities are the replay's."""
  agent = make(weighting__rule='harmony', slow_every=1)
  state, data = fresh(agent, 50), batch_of(agent, VECTOR)
  data['run_step'] = jnp.full(3, 70, jnp.int32)
  step = small.jit(agent.train_step)
  after, metrics = step(*step(state, data)[:1], data)
  assert after.step == 2 and after.run_step == 70 and after.nonfinite == 0
  assert step._cache_size() == 1
  moved = jax.tree.map(
    lambda a, b: bool((a != b).any()), *jax.device_get((state.params, after.params))
  )
  assert all(jax.tree.leaves(moved))
  sigmas = [float(metrics[f'harmony/{task}/sigma']) for task in tdmpc.TASKS]
  assert len(set(sigmas)) == 3 and all(np.isfinite(float(each)) for each in metrics.values())
  assert agent.feedback(after).shape == (3,) and (after.carry > 0).all()
  broken = {**data, 'reward': data['reward'].at[0, 1].set(jnp.nan)}
  left, _ = step(after, broken)
  assert left.nonfinite == 1
  jax.tree.map(np.testing.assert_array_equal, left.params, after.params)


def test_there_is_no_value_after_an_end():
  agent = make()
  state, data = fresh(agent), batch_of(agent, VECTOR)
  data['is_terminal'] = jnp.asarray(data['is_terminal']).at[1, 2].set(True)
  draws, model = agent.draws(state, data), state.params['world_model']
  wanted = small.jit(lambda *x: agent.losses(*x)[1]['wanted'])(model, state, data, draws)  # [H, B]
  np.testing.assert_allclose(wanted[1, 1], data['reward'][1, 2])
  assert (np.abs(wanted - data['reward'][:, 1:].T) > 1e-4).sum() == wanted.size - 1


def test_values_can_be_learned_from_states_that_the_model_makes_up():
  """The paper's target, by hand: r + γ min Q'(z, π(z)) at the next latent state of the model."""
  agent = make(td_target='model', discount=0.8, policy_std=0.25)
  state, data = fresh(agent), batch_of(agent, VECTOR)
  draws, model = agent.draws(state, data), state.params['world_model']
  found = small.jit(lambda *x: agent.losses(*x)[1])(model, state, data, draws)
  latent = found['latent'][1:]  # [H, B, Z]
  mean = np.tanh(agent.apply({'policy': state.params['policy']}, 'policy', latent))
  action = np.clip(mean + np.clip(0.25 * draws.td, -0.3, 0.3), -1 + 1e-6, 1 - 1e-6)
  future = np.min(agent.values(state.targets['world_model'], latent, jnp.asarray(action)), 0)
  np.testing.assert_allclose(found['wanted'], data['reward'][:, 1:].T + 0.8 * future, rtol=1e-4)


def test_rows_draw_by_their_place_in_the_batch():
  """So that several devices draw what one would."""
  agent = make(PICTURE)
  state = fresh(agent)
  draw = lambda n: small.jit(lambda: agent.draws(state, {'is_first': np.zeros((n, 4))}))()
  one, two = draw(3), draw(6)
  jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[:, :3]), one, two)
  assert one.shift.min() >= 0 and two.shift.max() <= 6 and len(np.unique(two.shift)) > 4


# Planning
# --------------------------------------------------------------------------------------------------

BEST = jnp.array([0.6, -0.4])


@functools.cache
def planner(samples, action):
  """A compiled call with a model that pays for actions near BEST, and `rate` for each step."""
  changes = {'samples': samples, 'elites': 16, 'iterations': 8, 'temperature': 20.0}
  config = settings.replace(tdmpc_planning.PlanningSettings(), {**changes, 'action': action})

  def call(horizon, last, rate):
    model = tdmpc_planning.Model(
      lambda z, a: (z + 1, -jnp.square(a - BEST).sum(-1)),
      lambda z, a: rate * z[..., 0],
      lambda z, noise: jnp.zeros_like(noise),
    )
    noise = tdmpc_planning.draw(jax.random.key(0), config, 3, 2)
    inputs = jnp.zeros(1), last, horizon, jnp.float32(0.05), noise
    return tdmpc_planning.plan(model, config, 0.9, *inputs, explore=False)

  return small.jit(call)


def planned(horizon=3, last=0, rate=0.0, samples=256, action='elite'):
  last = np.broadcast_to(np.float32(last), (3, 2))
  return planner(samples, action)(np.int32(horizon), last, np.float32(rate))


def test_the_best_action_is_found():
  for how in ('elite', 'mean'):
    action, plan, way = planned(action=how)
    np.testing.assert_allclose(action, BEST, atol=0.15)
    np.testing.assert_allclose(plan, np.tile(BEST, (3, 1)), atol=0.15)
  np.testing.assert_array_equal(action, plan[0])
  assert (np.diff(way['best'], axis=1) <= 0).all() and way['std'].min() == np.float32(0.05)


def test_a_plan_ends_at_its_horizon():
  """What is beyond counts for nothing and is not kept; the value is that of the state reached."""
  for horizon in (1, 2, 3):
    _, plan, way = planned(horizon, rate=7.0)
    assert plan[:horizon].any(1).all() and not plan[horizon:].any()
    paid = -jnp.square(way['actions'][-1] - BEST).sum(-1)[:horizon]  # [h, S + P]
    total = (0.9 ** np.arange(horizon)[:, None] * paid).sum(0) + 0.9**horizon * 7 * horizon
    np.testing.assert_allclose(way['value'][-1], total, rtol=1e-5)


def test_it_goes_on_with_the_plan_before():
  _, _, way = planned(last=np.arange(6, dtype=np.float32).reshape(3, 2))
  np.testing.assert_array_equal(way['initial_mean'], [[2, 3], [4, 5], [0, 0]])


def test_values_that_are_no_numbers_count_as_nothing():
  action, _, way = planned(rate=np.nan)
  assert not way['value'].any() and np.isfinite(action).all()


def test_few_samples_leave_the_policy_out():
  assert settings.replace(tdmpc_planning.PlanningSettings(), {'samples': 19}).rollouts == 0
  assert tdmpc_planning.PlanningSettings().rollouts == 25
  _, _, way = planned(samples=19)
  assert way['actions'].shape[2] == 19


def test_steps_at_which_plans_grow():
  config = tdmpc.METHOD.settings.planning
  steps = [0, 6249, 6250, 12_499, 12_500, 18_750, 24_999, 25_000, 10**6]
  found = [int(tdmpc_planning.horizon_at(config.horizon, 5, step)) for step in steps]
  assert found == [1, 1, 2, 2, 3, 4, 4, 5, 5]
  assert [int(tdmpc_planning.horizon_at(config.horizon, 3, step)) for step in steps][-2:] == [3, 3]
  floors = [float(tdmpc_planning.linear(config.std, step)) for step in (0, 12_500, 10**6)]
  np.testing.assert_allclose(floors, [0.5, 0.275, 0.05], rtol=1e-6)
  steep = settings.replace(config.std, {'start': 1.0, 'end': 0.001})
  for step in (24_999, 24_998, 24_990):  # the last of the way, where little of the start is left
    wanted = 0.001 + (1 - step / 25_000) * 0.999
    np.testing.assert_allclose(tdmpc_planning.linear(steep, step), wanted, rtol=3e-7)


# Acting
# --------------------------------------------------------------------------------------------------


def test_acting_stacks_pictures_and_keeps_an_episodes_horizon():
  agent = make(PICTURE)
  state, act = fresh(agent), small.jit(agent.act, static_argnames='mode')
  rng = np.random.default_rng(0)
  seen = [rng.integers(0, 256, (2, 64, 64, 3), np.uint8) for _ in range(3)]
  at = lambda step: agent.variables(state.replace(run_step=jnp.int32(step)))
  carry, first = agent.initial_carry(at(0), 2), np.array([True, True])
  stacks = []
  for number, (picture, step) in enumerate(zip(seen, (0, 100, 100))):
    _, carry = act(at(step), carry, {'image': picture}, first, jax.random.key(number))
    stacks.append([*np.split(np.asarray(carry['before']), 2, -1)])
    first = np.array([False, number == 1])  # the second environment begins anew in the last step
  assert carry['horizon'].tolist() == [1, 3]
  np.testing.assert_array_equal(stacks[0], [seen[0]] * 2)  # the first picture, again
  np.testing.assert_array_equal(stacks[1], [seen[0], seen[1]])
  np.testing.assert_array_equal(stacks[2][0], [seen[1][0], seen[2][1]])
  stack = np.concatenate([seen[0], seen[1], seen[2]], -1)[:1]
  latent = agent.encode(state.params['world_model'], jnp.asarray(stack))
  np.testing.assert_allclose(carry['latent'][:1], latent, rtol=1e-4, atol=1e-5)
  assert carry['reward'][0] != 0 and carry['reward'][1] == 0


def test_noise_is_for_training_and_is_not_clipped():
  agent = make(planning__iterations=1)
  state = fresh(agent)
  variables = agent.variables(state)
  carry, seen = agent.initial_carry(variables, 64), {'state': np.zeros((64, 5), np.float32)}
  act = small.jit(agent.act, static_argnames='mode')
  inputs = variables, carry, seen, np.ones(64, bool), jax.random.key(0)
  training, evaluating = act(*inputs)[0], act(*inputs, mode=True)[0]
  assert np.abs(evaluating).max() <= 1 < np.abs(training).max()
  assert (training != evaluating).all()


# The replay
# --------------------------------------------------------------------------------------------------

SPECS = {'image': ((1, 1, 3), np.uint8), 'state': ((), np.int64), 'is_first': ((), bool)}
SPECS['is_last'] = ((), bool)


def replay_of(capacity=40, num_envs=1, length=3, frames=3, part=(0, 1), **options):
  sizes = num_envs, capacity, 4, length, 0, 4
  options |= {'sampling': 'inside', 'part': part}
  return PriorityReplay(SPECS, *sizes, frames=frames, **options)


def fill(replay, steps, episode=7):
  """Append steps that say their number, of episodes that all environments begin at other times."""
  for step in range(replay.steps, replay.steps + steps):
    place = (step + 2 * np.arange(replay.num_envs)) % episode
    row = {'state': np.full(replay.num_envs, step), 'is_first': place == 0}
    row |= {'is_last': place == episode - 1}
    replay.append({**row, 'image': np.full((replay.num_envs, 1, 1, 3), step % 256, np.uint8)})


@pytest.mark.parametrize('steps', [30, 40, 77, 150])
@pytest.mark.parametrize('ends, power', [(False, 0.6), (True, 0.6), (False, 0.0)])
def test_sequences_lie_in_an_episode(steps, ends, power):
  """Not at its last step, unless that is wanted; pictures in front are those of the episode."""
  replay = replay_of(num_envs=2, ends=ends, priority=power)
  fill(replay, steps)
  possible = replay.priorities > 0
  place = (np.arange(max(0, steps - 20), steps) + 2 * np.arange(2)[:, None]) % 7
  last = 7 - 3 + ends
  assert not possible[place >= last].any() and (possible[:, 6:13] == (place < last)[:, 6:13]).all()
  for update in range(20):
    draw = replay.draw(update)
    found = replay.gather(draw)['state']  # [B, 2 + 3]
    np.testing.assert_array_equal(found[:, 2:], draw.starts[:, None] + np.arange(3))
    begun = draw.starts - (draw.starts + 2 * draw.envs) % 7
    for back in (1, 2):
      np.testing.assert_array_equal(found[:, 2 - back], np.maximum(draw.starts - back, begun))
    assert (found >= steps - 20).all()
    assert len({*zip(draw.envs, draw.starts)}) == 4 or not replay.full
    assert (draw.more['run_step'] == 2 * steps).all()


def test_what_surprises_is_drawn_more_often_and_counts_less():
  replay = replay_of(capacity=400, priority=0.5, correction=1.0)
  fill(replay, 14)
  draw = replay.draw(0)._replace(envs=np.zeros(2, int), starts=np.array([1, 9]))
  replay.feedback(draw, np.array([16.0, 0.0]))  # what is not above 0 is not taken
  draws = [replay.draw(update) for update in range(500)]
  starts = np.concatenate([draw.starts for draw in draws])
  share = (starts == 1).mean() / (starts == 9).mean()
  assert 3 < share < 5.5  # √16
  draw = next(draw for draw in draws if {1, 9} <= {*draw.starts})
  weight = dict(zip(draw.starts, draw.more['weight']))
  assert weight[9] == 1 and weight[1] == 0.25
  fill(replay, 7)
  assert replay.priorities[0, 14] == 16  # as the largest


def test_weights_of_several_processes_have_one_scale():
  """Each draws its share of a batch by its own priorities; p is 1/8 and 3/8 there, and 1/4 here."""
  found = []
  for index, priorities in enumerate(([1.0, 3.0, 1.0, 3.0], [2.0] * 4)):
    replay = replay_of(part=(index, 2), priority=1.0, correction=1.0)
    fill(replay, 7)
    draw = replay.draw(0)._replace(envs=np.zeros(4, int), starts=np.arange(4))
    replay.feedback(draw, np.array(priorities))
    found += [*replay.weights(draw)]
  np.testing.assert_allclose(found / max(found), [1, 1 / 3, 1, 1 / 3] + [1 / 2] * 4, rtol=1e-6)


def test_priorities_are_saved_and_restored(tmp_path):
  """In one process or two, at the last save or the one before."""
  whole = replay_of(num_envs=2)
  ends = {}
  for steps in (33, 50):
    fill(whole, steps - whole.steps)
    draw = whole.draw(steps)
    whole.feedback(draw, np.arange(1.0, 5.0))
    whole.save(tmp_path)
    ends[steps] = whole.priorities.copy()
  for steps, wanted in ends.items():
    again = replay_of(num_envs=2)
    again.load(tmp_path, steps)
    np.testing.assert_array_equal(again.priorities, wanted)
  for fill_more in (False, True):
    if fill_more:
      fill(whole, 9)
      fill(again, 9)
    np.testing.assert_array_equal(again.priorities, whole.priorities)
    for update in range(5):
      one, other = again.draw(update), whole.draw(update)
      np.testing.assert_array_equal(one.more['weight'], other.more['weight'])
      np.testing.assert_array_equal(again.gather(one)['state'], whole.gather(other)['state'])
  halves = [replay_of(capacity=20, part=(index, 2)) for index in (0, 1)]
  for index, half in enumerate(halves):
    half.load(tmp_path, 50, parts=1)
    np.testing.assert_array_equal(half.priorities[0], ends[50][index])
  (tmp_path / 'priorities-000000000050.npz').write_bytes(b'x')
  with pytest.raises(ValueError, match='priorities-000000000050.npz cannot be read'):
    replay_of(num_envs=2).load(tmp_path, 50)


def test_old_priorities_go_with_their_steps(tmp_path):
  replay = replay_of()
  for _ in range(6):
    fill(replay, 10)
    replay.save(tmp_path)
  names = sorted(path.name for path in tmp_path.glob('priorities-*'))
  assert [int(name[11:23]) for name in names] == [40, 50, 60]


# Runs
# --------------------------------------------------------------------------------------------------

RUN = {**TINY, **SMALLER, 'prefill_chunk': 8, 'train_ratio': 12.0, 'pretrain': 3}
RUN |= {'eval_every': 160, 'eval_at_start': False, 'eval_share': 0.0}
TASK = 'tests.reaching:Reaching-v0'


def config_of(**changes):
  made = common.make(common.suite('gym'), 'tdmpc', 'tiny', TASK)
  return made.replace({**RUN, 'env.observe': 'render', **changes})


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  folder = tmp_path_factory.mktemp('whole')
  return folder, train(folder, config_of(keep_replay=True))


def test_updates_come_where_episodes_end(whole):
  """A burst at the end of the first episode that is planned, then one per step of each episode."""
  assert whole[1].method.settings.update_at == 'episodes'
  found = {line['step']: line['update'] for line in lines(whole[0], 'metrics.jsonl')}
  # 4 environments with episodes of 13 rows: ends after 52, 104 and 156 steps
  assert found == {
    **dict.fromkeys((16, 32, 48), 0),
    **dict.fromkeys((64, 80, 96), 3),
    **dict.fromkeys((112, 128, 144), 3 + 52),
    160: 3 + 104,
  }
  assert whole[1].updates.state.run_step == 156
  stored = np.concatenate([whole[1].replay.sample(update)['action'] for update in range(20)])
  assert np.abs(stored).max() > 1  # actions as they were planned; the game gets them clipped


def test_a_killed_run_goes_on_to_the_same_numbers(whole, tmp_path):
  """Parameters, optimisers, slow copies, carries, priorities and scores, bit for bit."""
  config = config_of(keep_replay=True)
  with pytest.raises(Killed):
    train(tmp_path, config, From(124, die))
  train(tmp_path, config)
  for name in ('scores.jsonl', 'metrics.jsonl'):
    assert lines(tmp_path, name) == lines(whole[0], name)
  ends = []
  for folder in (tmp_path, whole[0]):
    with Checkpoints(folder / 'checkpoints', read_only=True) as checkpoints:
      with np.load(folder / 'replay/priorities-000000000040.npz') as saved:
        ends.append((checkpoints.checksums(160), saved['values'].tolist()))
  assert ends[0] == ends[1] and max(ends[0][1][0]) > 0


def test_updates_as_steps_pay_for_them_end_the_same_after_a_stop(whole, tmp_path):
  """A batch that was chosen ahead waits in the checkpoint with its weights."""
  config = config_of(update_at='steps', train_ratio=3.0)
  how = {'compiler': lambda of: whole[1].updates.compiled}  # they are none of the method's business
  one = train(tmp_path / 'one', config, **how)
  with pytest.raises(Killed):
    train(tmp_path / 'two', config, From(124, die), **how)
  two = train(tmp_path / 'two', config, **how)
  jax.tree.map(np.testing.assert_array_equal, one.updates.state.params, two.updates.state.params)
  np.testing.assert_array_equal(one.replay.priorities, two.replay.priorities)
  on_device = train(tmp_path / 'three', config.replace({'replay_on': 'device'}), **how)
  for name in ('params', 'carry', 'run_step'):
    pair = (getattr(each.updates.state, name) for each in (one, on_device))
    jax.tree.map(np.testing.assert_array_equal, *pair)


def test_it_is_evaluated_again_and_played(whole, tmp_path):
  folder, where = whole[0], ('--allow_import',)
  done = commands.run('evaluate', f'--logdir={folder}', '--episodes=4', *where)
  assert done.returncode == 0, done.stderr
  (path,) = (folder / 'evaluation').glob('*.json')
  assert json.loads(path.read_text())['scores'] == lines(folder, 'scores.jsonl')[-1]['eval_scores']
  done = commands.run('play', f'--logdir={folder}', f'--output={tmp_path}', '--horizon=3', *where)
  assert done.returncode == 0 and 'rewards of steps imagined' in done.stdout, done.stderr
  assert {path.name for path in tmp_path.iterdir()} == {'play_00000160.mp4'}


def test_what_it_expects_along_an_episode(whole):
  """Rewards and values of the model, rolled out by hand."""
  agent = trained.Agent.load(whole[0], allow_import=True)
  length, rng = 7, np.random.default_rng(0)
  carry = {'latent': rng.normal(size=(length, 6)), 'reward': np.arange(7.0)}
  carry, actions = jax.tree.map(np.float32, (carry, rng.uniform(-1, 1, (length, 1))))
  found = agent.open_loop(carry, actions, 2, 3)
  of, model = agent.method, agent.variables['world_model']
  latent = jnp.asarray(carry['latent'][1])
  for t in (2, 3, 4):
    latent, reward = of.step(model, latent, jnp.asarray(actions[t - 1]))
    np.testing.assert_allclose(found['reward'][t], reward, rtol=1e-4, atol=1e-6)
  chosen = of.act_noisily(agent.variables['policy'], latent, jnp.zeros(1))
  np.testing.assert_allclose(found['value'][4], of.values(model, latent, chosen).min(), rtol=1e-3)
  np.testing.assert_array_equal(found['reward'][[0, 1, 5, 6]], [0, 1, 5, 6])
  assert found['observation'] == {}


def test_what_it_knows_of_a_buffer():
  """Latent states as when it acts; a reward belongs to the row that it leads to."""
  agent = make(PICTURE)
  state = fresh(agent)
  data, variables = batch_of(agent, PICTURE), agent.variables(state)
  data['is_first'] = jnp.asarray(data['is_first']).at[:, 0].set(True)
  found = jax.jit(agent.features, static_argnums=2)(variables, data, 3, state.rng)
  model, carry = variables['world_model'], agent.initial_carry(variables, 3)
  act = jax.jit(agent.act)
  for t in range(3):
    seen = {'image': data['image'][:, t]}
    carry = act(variables, carry, seen, data['is_first'][:, t], state.rng)[1]
    np.testing.assert_allclose(found['feature'][:, t], carry['latent'], rtol=1e-4, atol=1e-6)
    after, reward = agent.step(model, carry['latent'], data['action'][:, t])
    np.testing.assert_allclose(found['reward'][:, t + 1], reward, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(found['open_loop'][:, 0], reward, rtol=1e-4, atol=1e-6)
  reward = agent.step(model, after, data['action'][:, 3])[1]
  np.testing.assert_allclose(found['open_loop'][:, 1], reward, rtol=1e-4, atol=1e-6)
  losses = agent.losses(model, state, data, agent.draws(state, data))[0]
  longer = jax.tree.map(lambda x: jnp.concatenate([x, x], 1), data)
  jax.tree.map(np.testing.assert_array_equal, agent.task_losses(state, longer), losses)


def test_it_learns_from_a_buffer():
  """The reward of the two numbers that are seen, by the rule that offline studies use."""
  agent, rng = (
    make(VECTOR, batch_size=16, latent=16, units=32, model_opt__lr=3e-3),
    np.random.default_rng(0),
  )
  rows, starts = 800, np.arange(0, 801, 10)
  seen = rng.normal(size=(rows, 5)).astype(np.float32)
  action = rng.uniform(-1, 1, (rows, 2)).astype(np.float32)
  reward = np.roll(seen[:, 0] + action[:, 0], 1)
  flags = {name: np.zeros(rows, bool) for name in buffers.FLAGS}
  header = {'spec': agent.spec.to_json(), 'state_names': ['first']}
  more = {'action': action, 'reward': reward.astype(np.float32), **flags}
  buffer = buffers.Buffer(header, {'state': seen}, more, starts, seen[:, :1])
  entry = method.Entry(agent.settings, lambda *_: agent)
  programs, weights = learn.Programmer(entry, 'tdmpc')(agent.settings, agent.spec)
  views = learn.Views(buffer, learn.Plan(300, 150, context=3, horizon=3))
  *_, last = learn.learn(programs, weights, buffer, views, 0, agent.settings)
  assert last['measures']['reward/seen'] > 0.5 and last['measures']['state/first'] > 0.5
  assert {f'loss/{task}/held_out' for task in tdmpc.TASKS} <= last['measures'].keys()


def test_a_run_that_never_learns_says_why(tmp_path):
  config = config_of(steps=40, **{'env.observe': 'auto', 'eval_every': 40, 'checkpoint_every': 40})
  with pytest.raises(UserError, match="training waits for an episode's end"):
    train(tmp_path, config)


def test_choices_are_refused_by_the_command(tmp_path):
  words = ('--env=CartPole-v1', '--method=tdmpc', '--preset=tiny', f'--logdir={tmp_path}/run')
  done = commands.run('gym', *words)
  assert done.returncode == 2 and 'error: tdmpc plans continuous actions' in done.stderr
