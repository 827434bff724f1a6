"""Denoised MDP: what the authors' recordings do not cover, and whole runs."""

import dataclasses
import subprocess

import imageio_ffmpeg
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from harmony_jax import settings, trained
from harmony_jax.actions import TanhNormal
from harmony_jax.methods import denoised_mdp
from harmony_jax.methods.denoised_mdp_networks import drawn, likeliest
from harmony_jax.methods.denoised_mdp_replay import EpisodeReplay
from harmony_jax.methods.denoised_mdp_sac import Transitions
from harmony_jax.reporting import protocol
from harmony_jax.training.checkpoint import Checkpoints
from harmony_jax.training.evaluation import evaluate
from tests import commands, small
from tests.runs import TINY, From, Killed, die, lines, train

PICTURE = {'image': (64, 64, 3)}
SMALLER = {
  'batch_size': 3,
  'batch_length': 5,
  **{f'{net}.{name}': size for net in ('encoder', 'decoder') for name, size in (
    ('depth', 2), ('units', 16), ('patch', 8),
  )},
  **{f'rssm.{part}.{name}': size for part in 'xy' for name, size in (('deter', 7), ('stoch', 3))},
  **{f'{head}.units': 8 for head in ('reward_head', 'actor', 'critic')},
  **{f'{head}.layers': 0 for head in ('reward_head', 'actor', 'critic')},
  'behavior.horizon': 3,
  'behavior.tries': 4,
  'weighting.beta2': 0.999,
  'prefill': 0,
}  # fmt: skip
Z = {'rssm.z.deter': 6, 'rssm.z.stoch': 2}


def make(actions=2, sizes=SMALLER, **changes):
  named = {k.replace('__', '.'): v for k, v in changes.items()}
  chosen = settings.replace(denoised_mdp.SETTINGS, {**sizes, **named})
  return denoised_mdp.make(chosen, small.spec(PICTURE, actions, discrete=False))


def zeros(tree):
  """Zeros of a tree's shapes."""
  return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), tree)


def fresh(agent, seed=0):
  """A state of random parameters, slow copies others."""
  shapes = jax.eval_shape(agent.init, jax.random.key(0)).replace(rng=None)
  rng = np.random.default_rng(seed)
  draw = lambda x: (rng.normal(size=x.shape) / 3).astype(x.dtype)
  random = {name: jax.tree.map(draw, getattr(shapes, name)) for name in ('params', 'targets')}
  nothing = zeros(shapes)
  random['params']['world_model']['harmony'] = nothing.params['world_model']['harmony']
  return nothing.replace(**random, rng=jax.random.key(0))


def batch_of(agent):
  size, length = agent.settings.batch_size, agent.settings.batch_length
  data = small.batch(PICTURE, agent.spec.num_actions, discrete=False, size=size, length=length)
  flags = {name: jnp.zeros_like(data[name]) for name in ('is_first', 'is_last', 'is_terminal')}
  return {**data, **flags, 'before': jnp.zeros((size, agent.spec.num_actions))}


# Networks
# --------------------------------------------------------------------------------------------------

ABLATION = {f'rssm__{part}__{k}': v for part in 'yz' for k, v in (('deter', 70), ('stoch', 10))}
DREAMER = {'rssm__x__deter': 200, 'rssm__x__stoch': 30, 'rssm__y__deter': 0, 'rssm__y__stoch': 0}


@pytest.mark.parametrize(
  'actions,changes,counts',
  [
    (6, {}, (541_600, 434_402, 3_846_755, 6_562_501, 542_412, 7_482_514)),
    (1, {}, (541_000, 434_402, 3_846_755, 6_561_901, 538_402, 7_477_904)),
    (
      6,
      {**ABLATION, 'rssm__z_sees_y': False},
      (549_850, 410_402, 3_867_235, 6_567_231, 542_412, 7_487_244),
    ),
    (6, DREAMER, (557_920, 253_201, 3_795_555, 6_346_420, 578_412, 7_338_433)),
    (6, {'behavior__learner': 'sac'}, (541_600, 434_402, 3_846_755, 6_562_501, 542_412, 8_624_918)),
  ],
)
def test_the_authors_sizes(actions, changes, counts):
  agent = make(actions, {}, **changes)
  state = jax.eval_shape(agent.init, jax.random.key(0))
  count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
  model = state.params['world_model']
  parts = [model[name] for name in ('rssm', 'reward', 'decoder')]
  whole = (state.params, state.targets)
  assert tuple(map(count, (*parts, model, state.params['actor'], whole))) == counts


def test_first_parameters():
  """Weights and biases are uniform within ±1/√n, n the inputs as PyTorch counts them."""
  agent = make(actions=1, sizes={})
  params = jax.eval_shape(agent.init, jax.random.key(0)).params
  model = params['world_model']
  layers = {
    'dense': (params['actor']['h_0'], 140),
    'convolution': (model['encoder']['net']['down_1'], 32 * 16),
    'transposed': (model['decoder']['last'], 3 * 36),  # outputs
    'gru': (model['rssm']['x']['gru']['input'], 120),  # its units
  }
  found = small.jit(drawn)(jax.random.key(0), {name: layer for name, (layer, _) in layers.items()})
  for name, (_, inputs) in layers.items():
    for leaf, least in (('kernel', 0.99), ('bias', 0.5)):
      size = np.abs(found[name][leaf]).max()
      assert least / np.sqrt(inputs) < size <= 1 / np.sqrt(inputs), (name, leaf)
  policy = agent.actor.policy(jax.tree.map(jnp.asarray, zeros(params['actor'])), jnp.zeros(140))
  np.testing.assert_allclose([*policy.mean, *policy.std], [0, 5.0001], rtol=1e-5)


def test_values_begin_with_numbers_of_their_own():
  """Neither with the policy's nor with those that the world model takes of its key."""
  behavior, model = keys = jax.random.split(jax.random.key(0))
  values = make(behavior__learner='sac').init_behavior(*keys)['critic']
  first = lambda values: jax.tree.leaves(values)[0]
  for key in (behavior, model):
    assert not np.allclose(first(drawn(key, values)), first(values))


@pytest.mark.parametrize(
  'spec,changes,text',
  [
    (small.spec(PICTURE, 2, True), {}, 'denoised_mdp has continuous actions'),
    (small.spec({'image': (32, 32, 3)}, 2, False), {}, 'pictures of 64 × 64 alone; here is image'),
    (small.spec({'state': (5,)}, 2, False), {}, 'of gymnasium take --observe=render'),
    (None, {'replay.sampling': 'windows'}, "replay.sampling must be 'episodes'"),
    (None, {'rssm.x.deter': 0}, 'rssm.x.deter is 0 and rssm.x.stoch 20: both must be above 0'),
    (None, {'rssm.z.deter': 3}, 'rssm.z.deter is 3 and rssm.z.stoch 0: both'),
    (None, {'decoder.patch': 8, 'decoder.units': 40}, 'decoder.units is 40: with patches'),
    (None, {'decoder.patch': 7}, 'image side 64 must be'),
    (None, {'weighting.kl': 'apart', 'weighting.rule': 'running_elbo'}, "weighting.kl is 'apart'"),
  ],
)
def test_what_it_cannot_have_is_refused(spec, changes, text):
  chosen = settings.replace(denoised_mdp.SETTINGS, changes)
  with pytest.raises(ValueError, match=text) as error:
    denoised_mdp.make(chosen, spec or small.spec(PICTURE, 2, False))
  assert '\n' not in str(error.value)


# Updates
# --------------------------------------------------------------------------------------------------


def test_weighed_kls():
  """Of x every step's at least the free nats, with a share of β that has none."""
  kl = jnp.array([1.0, 5.0])
  agent = make(losses__free_x=3.0, losses__beta_x=2.0, losses__beta_y=0.25)
  np.testing.assert_allclose(agent.weighed_kl('x', kl), [6, 10])
  np.testing.assert_allclose(agent.weighed_kl('y', kl), [0.25, 1.25])
  agent = make(losses__free_y=2.0, losses__beta_free_x=0.5)  # a share of x's alone
  np.testing.assert_allclose(agent.weighed_kl('y', kl), [0.5, 1.25])
  agent = make(losses__free_x=3.0, losses__beta_x=2.0, losses__beta_free_x=0.5)
  np.testing.assert_allclose(agent.weighed_kl('x', kl), [0.5 * 3 + 1.5 * 1, 10])
  slope = jax.grad(lambda kl: agent.weighed_kl('x', kl).sum())(kl)
  np.testing.assert_allclose(slope, [1.5, 2])


@pytest.mark.parametrize('rule', ['none', 'fixed', 'harmony', 'equilibrium', 'nash_mtl'])
def test_tasks_of_a_rule(rule):
  """The weights of the sum: α for the KLs under none, those chosen under fixed, then the rule's."""
  agent = make(weighting__rule=rule, losses__alpha=2.0, weighting__w_r=7.0)
  _, state = agent.rule.init(agent.tasks)
  losses = dict(zip(('observation', 'reward', 'dynamics'), jnp.float32([5, 0.5, 3])))
  harmonizers = dict.fromkeys(agent.tasks, jnp.float32(0)) if rule == 'harmony' else {}
  total, _, _ = agent.rule.weigh(losses, harmonizers, state)
  wanted = {'none': 5.5 + 6, 'fixed': 5 + 3.5 + 3, 'harmony': 8.5 + 3 * np.log(2), 'nash_mtl': 8.5}
  if rule in wanted:
    np.testing.assert_allclose(total, wanted[rule], rtol=1e-6)
  assert agent.tasks == (() if rule in ('none', 'fixed') else ('observation', 'reward', 'dynamics'))


def test_a_soft_actor_critic():
  """Values, policy and temperature move; slow values follow the new ones."""
  agent = make(behavior__learner='sac', sac__tau=0.25, sac__opt__lr=1e-2)
  rng, state = np.random.default_rng(0), fresh(agent)
  sizes = {'state': (9, 10), 'action': (9, 2), 'reward': (9,), 'after': (9, 10)}
  sizes |= {'noise': (9, 2), 'noise_after': (9, 2)}
  step = Transitions(**{k: jnp.float32(rng.normal(size=size)) for k, size in sizes.items()})
  after, metrics, gradients = small.jit(agent.learn_behavior)(state, step)
  moved = jax.tree.map(
    lambda a, b: bool((a != b).any()), *jax.device_get((state.params, after.params))
  )
  assert {name for name in moved if any(jax.tree.leaves(moved[name]))} == {*gradients}
  assert {*gradients} == {'critic', 'actor', 'temperature'} and after.step == 1
  new = {'critic': jax.device_get(after.params['critic'])}
  follow = jax.tree.map(lambda a, b: a + 0.25 * (b - a), *jax.device_get((state.targets, new)))
  small.close(after.targets, follow)
  # An entropy above -A lets the temperature fall.
  falls = after.params['temperature']['log'] < state.params['temperature']['log']
  assert falls == (metrics['actor/entropy'] > -2)


def test_a_target_as_the_paper_has_it():
  """The entropy is that of the action whose value is asked for; by hand."""
  agent = make(behavior__learner='sac', behavior__discount=0.8, sac__target='paper')
  rng, state = np.random.default_rng(0), fresh(agent)
  draw = lambda *size: jnp.float32(rng.normal(size=size))
  step = Transitions(
    *(draw(9, size) for size in (10, 2)), draw(9), draw(9, 10), *0.2 * draw(2, 9, 2)
  )
  params, slow = jax.tree.map(jnp.asarray, (state.params, state.targets['critic']))
  mean, std = map(np.asarray, agent.actor.policy(params['actor'], step.after))
  raw = mean + std * step.noise_after
  density = -0.5 * np.square(step.noise_after) - np.log(std * np.sqrt(2 * np.pi))
  likely = (density - np.log1p(-np.square(np.tanh(raw)) + 1e-12)).sum(-1)
  value = np.min(agent.values(slow, step.after, jnp.tanh(raw)), 0)
  wanted = step.reward + 0.8 * (value - np.exp(params['temperature']['log']) * likely)
  found, near = agent.critic_target(params, slow, step), np.abs(raw).max(-1) < 3  # of ±1
  assert near.sum() > 2
  np.testing.assert_allclose(found[near], np.asarray(wanted)[near], rtol=1e-3)


# Parts
# --------------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def parted():
  """A model of three parts, its parameters, and features of a sequence [1, T, F]."""
  agent = make(sizes={**SMALLER, **Z})
  params = jax.tree.map(jnp.asarray, fresh(agent).params)
  feature = np.random.default_rng(1).normal(size=(1, 4, agent.rssm.feature_size))
  return agent, params, jnp.asarray(feature, jnp.float32)


def test_policy_and_value_know_x_alone(parted):
  agent, params, feature = parted
  other = feature.at[..., 10:].add(1.0)
  assert agent.rssm.features == {'x': 10, 'y': 10, 'z': 8}
  for a, b in zip(*(agent.actor.policy(params['actor'], each) for each in (feature, other))):
    np.testing.assert_array_equal(a, b)
  value = lambda each: agent.critic.mean(params['critic'], each)
  np.testing.assert_array_equal(value(feature), value(other))
  reward = lambda each: agent.reward.each(params['world_model']['reward'], each)
  np.testing.assert_array_equal(reward(feature)['x'], reward(other)['x'])
  assert (reward(feature)['y'] != reward(other)['y']).all() and len(reward(feature)) == 2
  same = feature.at[..., 20:].add(1.0)
  np.testing.assert_array_equal(reward(feature)['y'], reward(same)['y'])
  assert list(reward(feature[..., :10])) == ['x']


def test_who_knows_of_whom(parted):
  """y moves by itself; x by itself and the action; z by all of them, y if it is asked for."""
  agent, params, _ = parted
  rng, dynamics = np.random.default_rng(2), agent.rssm
  start = jax.tree.map(lambda x: rng.normal(size=x.shape), dynamics.initial({}, 2))
  start = jax.tree.map(jnp.float32, start)
  noise, action = jnp.zeros((2, 8)), jnp.zeros((2, 2))
  model = params['world_model']['rssm']

  def moved(state, action, of=dynamics, model=model):
    one = of.imagine(model, start, jnp.zeros((2, 2)), noise)
    other = of.imagine(model, state, action, noise)
    changed = lambda a, b: bool((a.deter != b.deter).any())
    return ''.join(name for name in 'xyz' if changed(one.parts[name], other.parts[name]))

  more = lambda part: jax.tree.map(lambda x: x + 1, part)
  assert moved(start, action + 1) == 'xz'
  assert moved(start._replace(x=more(start.x)), action) == 'xz'
  assert moved(start._replace(y=more(start.y)), action) == 'yz'
  assert moved(start._replace(z=more(start.z)), action) == 'z'
  blind = dataclasses.replace(
    dynamics, config=settings.replace(dynamics.config, {'z_sees_y': False})
  )
  kernel = model['z']['in']['kernel'][:-10]
  cut = {**model, 'z': {**model['z'], 'in': {**model['z']['in'], 'kernel': kernel}}}
  assert moved(start._replace(y=more(start.y)), action, blind, cut) == 'y'
  alone = dynamics.imagine(model, start.control(), action, noise[:, :3])
  assert alone.y is None
  whole = dynamics.imagine(model, start, action, noise)
  np.testing.assert_array_equal(alone.x.deter, whole.x.deter)


@pytest.mark.slow
def test_scans_of_accelerators_come_to_the_same(parted):
  """States and gradients, with an episode that begins inside the sequence."""
  agent, params, _ = parted
  rng = np.random.default_rng(3)
  shapes = {'embed': (2, 3, 16), 'action': (2, 3, 2), 'noise': (2, 3, 8)}
  given = {name: jnp.float32(rng.normal(size=shape)) for name, shape in shapes.items()}
  given['is_first'] = jnp.array([[False, False, True], [False] * 3])
  start = jax.tree.map(lambda x: x + 1, agent.rssm.initial({}, 2))

  def found(form):
    config = settings.replace(agent.rssm.config, {'recurrence': form})
    dynamics = dataclasses.replace(agent.rssm, config=config)

    def loss(model):
      return jnp.sin(dynamics.observe(model, start, **given)[0].feature()).sum()

    return small.jit(jax.value_and_grad(loss))(params['world_model']['rssm'])

  small.close(found('batched'), found('stepwise'), 1e-4)


def test_pictures_of_a_part_alone(parted):
  """The other parts stay as they are in the first step."""
  agent, params, feature = parted
  found = agent.predict(params, feature)
  whole, parts = found['observation']['image'], found['parts']['image']
  assert list(parts) == ['x', 'y', 'z']
  for pictures in parts.values():
    np.testing.assert_allclose(pictures[:, 0], whole[:, 0], atol=1e-6)
    assert np.abs(pictures[:, 1] - whole[:, 1]).max() > 1e-3
  still = jnp.concatenate([feature[:, :1, :20].repeat(4, 1), feature[..., 20:]], -1)
  alone = agent.predict(params, still)['observation']['image']
  np.testing.assert_allclose(parts['z'], alone, atol=1e-6)


# Acting
# --------------------------------------------------------------------------------------------------


def test_the_likeliest_draw():
  """By the density of the action: at the edges where the policy is wide."""
  noise = jax.random.normal(jax.random.key(0), (1, 200, 1))
  for std, edge in ((0.1, False), (5.0, True)):
    policy = TanhNormal(jnp.full((1, 1), 0.3), jnp.full((1, 1), std))
    action, likely = likeliest(policy, noise)
    assert (abs(action[0, 0]) > 0.999) == edge and likely.shape == (1, 200)
    assert abs(action[0, 0] - np.tanh(0.3)) < 0.02 or edge


def test_noise_is_for_training():
  agent = make(behavior__exploration=0.5)
  variables = fresh(agent).params
  carry = agent.initial_carry(variables, 2)
  seen = {'image': np.zeros((2, 64, 64, 3), np.uint8)}
  latent, draw = jnp.zeros((2, 6)), jnp.zeros((2, 1, 2))
  act = small.jit(agent.choose, static_argnames='mode')
  call = lambda noise, mode: act(variables, carry, seen, np.ones(2, bool), latent, noise, mode=mode)
  middle, _ = call(draw, True)
  noise = jnp.concatenate([draw, jnp.array([[[0.1, 9]], [[-0.1, -9]]])], 1)
  action, after = call(noise, False)
  np.testing.assert_allclose(
    action[:, 0], np.clip(middle[:, 0] + np.array([0.05, -0.05]), -1, 1), atol=1e-6
  )
  np.testing.assert_array_equal(action[:, 1], [1, -1])
  np.testing.assert_array_equal(after.action, action)
  again = carry._replace(
    action=carry.action + 1, latent=jax.tree.map(lambda x: x + 1, carry.latent)
  )
  begun = act(variables, again, seen, np.array([True, False]), latent, noise, mode=False)[1]
  assert (begun.latent.x.deter[0] == after.latent.x.deter[0]).all()
  assert (begun.latent.x.deter[1] != after.latent.x.deter[1]).any()


# The replay
# --------------------------------------------------------------------------------------------------

SPECS = {'state': ((), np.int64), 'action': ((1,), np.float32), 'is_first': ((), bool)}
SPECS['is_last'] = ((), bool)


def test_windows_of_complete_episodes():
  """All are equally likely but an episode's last one; they know the action before them."""

  def replay_of(ends, lengths):
    replay = EpisodeReplay(
      SPECS, 1, 40, 500, 4, 0, 4, sampling='episodes', first_action=True, ends=ends
    )
    flags = [place for length in lengths for place in zip(range(length), [length] * length)]
    for step, (place, length) in enumerate(flags):
      row = {
        'state': step,
        'action': [step],
        'is_first': place == 0,
        'is_last': place == length - 1,
      }
      replay.append({name: np.asarray([value], SPECS[name][1]) for name, value in row.items()})
    return replay

  for ends, starts in ((False, [0, 1, 6, 12]), (True, [0, 1, 2, 6, 7, 12, 13])):
    # of 6, 5, 1 and 5 steps: those of 4 rows, without and with the last one
    replay = replay_of(ends, (6, 5, 1, 5))
    replay.append(dict(state=[17], action=[[0.0]], is_first=[True], is_last=[False]))
    assert replay.windows == len(starts)
    batch = replay.sample(0)
    found, counts = np.unique(batch['state'][:, 0], return_counts=True)
    np.testing.assert_array_equal(found, starts)
    assert counts.min() > 0.6 * 500 / len(starts)
    np.testing.assert_array_equal(
      batch['is_first'][:, 0], np.isin(batch['state'][:, 0], (0, 6, 12))
    )
    before = np.where(batch['is_first'][:, 0], 0, batch['state'][:, 0] - 1)
    np.testing.assert_array_equal(batch['before'][:, 0], before)
  assert not replay_of(False, (4, 4)).filled(0) and replay_of(True, (4, 4)).filled(0)
  with pytest.raises(ValueError, match='holds no episode of 4 steps'):
    replay_of(False, (4, 4)).draw(0)
  long = replay_of(False, (60,))  # longer than what is kept, and perhaps not complete
  np.testing.assert_array_equal(np.unique(long.sample(0)['state'][:, 0]), np.arange(20, 56))


# Runs
# --------------------------------------------------------------------------------------------------

RUN = {**TINY, **SMALLER, 'prefill_chunk': 8, 'train_ratio': 8.0, 'pretrain': 2, 'batch_length': 5}
RUN |= {'eval_at_start': False, 'eval_share': 0.0, 'video_every': 160, 'weighting.rule': 'harmony'}
RUN |= {'weighting.kl': 'apart'}
TASK = 'tests.reaching:Reaching-v0'


def config_of(**changes):
  made = common.make(common.suite('gym'), 'denoised_mdp', 'tiny', TASK)
  return made.replace({**RUN, 'env.observe': 'render', **changes})


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  folder = tmp_path_factory.mktemp('whole')
  return folder, train(folder, config_of(keep_replay=True))


def test_a_run_shows_its_parts(whole):
  """Updates at ends of episodes; a video with a row for x and one for y."""
  found = [line['update'] for line in lines(whole[0], 'metrics.jsonl')]
  # Episodes of 13 rows in 4 environments: 2 updates after the first ones, then 52 · 8 / 15 a time.
  assert whole[1].method.settings.replay.ends and found[-1] == 2 + 27 + 28
  (path,) = (whole[0] / 'videos').glob('open_loop_image_*.mp4')
  told = subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), '-i', path], capture_output=True)
  assert f'{3 * 64}x{5 * 64}' in told.stderr.decode()


def test_an_update_with_harmony(whole):
  """Every KL is a task of its own, all networks move, and what is not finite is left out."""
  agent, compiled = whole[1].method, whole[1].updates.compiled
  assert agent.tasks == ('observation', 'reward', 'dynamics_x', 'dynamics_y')
  start, data = fresh(agent), batch_of(agent)
  run = lambda state, data: compiled.train_step(compiled.spread(state), compiled.put(data))
  after, metrics = jax.device_get(run(run(start, data)[0], data))
  assert after.step == 2 and after.nonfinite == 0
  moved = jax.tree.map(
    lambda a, b: bool((a != b).any()), *jax.device_get((start.params, after.params))
  )
  assert all(jax.tree.leaves(moved))
  scaled = [float(metrics[f'harmony/{task}/scaled']) for task in agent.tasks]
  assert len(set(scaled)) == 4 and all(np.isfinite(float(each)) for each in metrics.values())
  assert metrics['loss/dynamics_y'] == pytest.approx(metrics['loss/kl_y'] / 4, rel=1e-5)
  left, _ = run(after, {**data, 'reward': data['reward'].at[0, 1].set(jnp.nan)})
  assert left.nonfinite == 1
  jax.tree.map(np.testing.assert_array_equal, left.params, after.params)


def test_a_killed_run_goes_on_to_the_same_numbers(whole, tmp_path):
  config = config_of(keep_replay=True)
  with pytest.raises(Killed):
    train(tmp_path, config, From(124, die))
  train(tmp_path, config)
  for name in ('scores.jsonl', 'metrics.jsonl'):
    assert lines(tmp_path, name) == lines(whole[0], name)
  ends = []
  for folder in (tmp_path, whole[0]):
    with Checkpoints(folder / 'checkpoints', read_only=True) as checkpoints:
      ends.append(checkpoints.checksums(160))
  assert ends[0] == ends[1]


def test_it_is_played(whole, tmp_path):
  words = f'--logdir={whole[0]}', f'--output={tmp_path}', '--horizon=3', '--allow_import'
  done = commands.run('play', *words)
  assert done.returncode == 0 and 'rewards of steps imagined' in done.stdout, done.stderr
  assert {path.name for path in tmp_path.iterdir()} == {'play_00000160.mp4', 'play_00000160.png'}


def test_evaluation_as_the_authors(whole):
  """All episodes begin alike, and their last reward does not count; by default as everywhere."""
  folder, trainer = whole
  chosen = settings.replace(trainer.config.agent, {'eval_as': 'authors'})
  agent = denoised_mdp.make(chosen, trainer.method.spec)
  variables, compiled = trainer.updates.variables, trainer.updates.compiled
  played = []
  for of in (trainer.method, agent):
    groups = [trained.Agent(trainer.config, of, variables).make_env(2) for _ in range(2)]
    played.append(evaluate(of, compiled, variables, groups, 0, 160, 4, True))
    for env in groups:
      env.close()
  scores = [result.score for result in played[0]]
  assert scores == lines(folder, 'scores.jsonl')[-1]['eval_scores']
  assert len({result.seed for result in played[0]}) == 4
  assert {result.seed for result in played[1]} == {1841}
  config = {**config_of().to_json(), 'eval_as': 'authors'}
  assert 'one seed (1841)' in protocol.describe(config)
  assert 'one seed' in protocol.facts(config)['episode_starts']
  assert 'one seed' not in protocol.describe(config_of().to_json())


def test_choices_are_refused_by_the_command(tmp_path):
  words = ('--env=CartPole-v1', '--method=denoised_mdp', '--preset=tiny', f'--logdir={tmp_path}/r')
  done = commands.run('gym', *words)
  assert done.returncode == 2 and 'error: denoised_mdp has continuous actions' in done.stderr
