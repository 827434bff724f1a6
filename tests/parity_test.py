"""Our numbers against the authors' own, over every recorded run in $HARMONY_PARITY_DIR whose method
we have: `*v3_*.npz`, `*v2_*.npz`, `*pro_*.npz`; at the end `*tdmpc_*.npz` and `*denoised_*.npz`.

Tolerances: forward outputs 1e-4 and gradients 1e-3 of each array's largest magnitude, updates 5e-3
per tensor as ‖Δ - Δ*‖ / ‖Δ*‖ with Δ = after - before, since comparing parameters would pass without
any update at all.

Both forms of the strided convolutions are held to all of it (`conv` is the authors' arithmetic,
`matmul` what runs on a CPU; by default `conv` with the first recording of each method alone, with
`-m ''` with all), with one difference: Adam's first steps turn every gradient into a
full step of its sign, rounding noise included. `matmul` rounds in another order, so its updates
leave out elements whose recorded gradient is below 1e-6 of their tensor's largest but not zero
(float32 resolves 1e-7); at most one element in a thousand may be left out.
"""

import dataclasses
import functools
import inspect
import json
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from harmony_jax import convolution, networks, optimizers, recurrence, settings
from harmony_jax.methods import (
  denoised_mdp,
  denoised_mdp_dynamics,
  denoised_mdp_sac,
  tdmpc,
  tdmpc_networks,
  tdmpc_planning,
)
from harmony_jax.rssm import State
from tests import parity, parity_denoised, parity_tdmpc, small

PATHS, TDMPC, DENOISED = parity.paths(), parity_tdmpc.paths(), parity_denoised.paths()
FORMS = ('conv', 'matmul')
PROTOTYPES = "['world_model']['prototypes']['vectors']"
SLOW = "['slow']", "['targets']"

pytestmark = pytest.mark.skipif(
  not PATHS + TDMPC + DENOISED,
  reason=f'no recorded runs in {parity.FOLDER} (set HARMONY_PARITY_DIR)',
)


# Of the module, so that tests of one recording follow one another: its programs are kept.
@pytest.fixture(params=PATHS, ids=lambda path: path.stem, scope='module')
def fixture(request):
  return _load(request.param)


@pytest.fixture(params=FORMS, scope='module')
def form(request):
  """As on accelerators, scans batched; and as on CPUs: products, a few frames at a time, with some
  left over.
  """
  monkeypatch = pytest.MonkeyPatch()
  monkeypatch.setattr(convolution, 'default_form', lambda: request.param)
  monkeypatch.setattr(
    convolution, 'frames_at_once', lambda size: {'conv': 0, 'matmul': 4}[request.param]
  )
  scans = {'conv': 'batched', 'matmul': 'stepwise'}
  monkeypatch.setattr(recurrence, 'default_form', lambda: scans[request.param])
  yield request.param
  monkeypatch.undo()


FIRST = {path.stem.split('_')[0]: path for path in reversed(PATHS)}.values()
in_both_forms = pytest.mark.parametrize(
  ('fixture', 'form'),
  [
    pytest.param(
      path,
      form,
      id=f'{path.stem}-{form}',
      marks=pytest.mark.slow if form == 'conv' and path not in FIRST else (),
    )
    for path in PATHS
    for form in FORMS
  ],
  indirect=True,
  scope='module',
)


@functools.lru_cache(maxsize=1)
def _load(path):
  return parity.Fixture(path)


def relative(ours, theirs):
  """Largest difference over the largest magnitude."""
  ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
  assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
  return np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-30)


def report(group, errors, limit):
  """Prints the largest error of a group and asserts that none exceeds the limit."""
  worst = max(errors, key=errors.get)
  print(
    f'\n  {group}: largest relative error {errors[worst]:.1e} ({worst}), '
    f'limit {limit:.0e}, {len(errors)} arrays'
  )
  bad = {k: v for k, v in errors.items() if not v <= limit}
  assert not bad, bad


@in_both_forms
def test_forward(fixture, form):
  ours, recorded = _first(fixture, form).forward, fixture.authors.compared(fixture.group('forward'))
  assert set(recorded) <= set(ours), set(recorded) - set(ours)
  report('forward', {k: relative(ours[k], recorded[k]) for k in recorded}, 1e-4)


@in_both_forms
def test_gradients(fixture, form):
  ours, theirs = _named(_first(fixture, form).whole), _named(fixture.tree('grad')['world_model'])
  assert set(ours) == set(theirs), set(ours) ^ set(theirs)
  report('gradients', {k: relative(ours[k], theirs[k]) for k in theirs}, 1e-3)


def _named(tree):
  return {
    jax.tree_util.keystr(path): np.asarray(leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


class Update(NamedTuple):
  """One recorded update by us: of the parameters as given `forward` and the world model's gradient
  as a whole, before `mask`; then the gradients by subtree, the state after it, and metrics.
  """

  forward: dict
  whole: dict
  gradients: dict
  state: Any
  metrics: dict


def _train(fixture, form) -> list[Update]:
  """The recorded updates on the recorded batch; kept, and one program, as compiling takes long."""
  if form not in fixture.history:
    agent, of = fixture.agent, type(fixture.agent.objective)
    mask, whole = of.mask, []

    def masked(objective, gradient, step):
      whole.append(gradient)
      return mask(objective, gradient, step)

    def update(state, batch):
      with mock.patch.object(of, 'mask', masked):
        after, metrics, gradients, *_ = agent.update(state, batch)
      forward = fixture.authors.forward(agent, state, batch, after, metrics)
      found = {'forward': forward, 'whole': whole[-1], 'gradients': gradients}
      return after, {**metrics, 'found': found}, gradients

    skip = agent.settings.skip_nonfinite
    step = jax.jit(functools.partial(optimizers.guard, update, skip=skip))
    state, history = fixture.state(), []
    for _ in range(fixture.steps[-1]):
      after, metrics = step(fixture.restarted(state), fixture.batch())
      params, targets, metrics = jax.device_get((after.params, after.targets, metrics))
      state = after.replace(params=params, targets=targets)
      history.append(Update(state=state, metrics=metrics, **metrics.pop('found')))
    fixture.history[form] = history
  return fixture.history[form]


def _first(fixture, form):
  return _train(fixture, form)[0]


def parameters(state, params=None):
  """Everything that an update changes, as `Fixture.tree` names it."""
  targets = {'targets': state.targets['world_model']} if 'world_model' in state.targets else {}
  return {**(params or state.params), 'slow': state.targets['critic'], **targets}


def frozen_updates(fixture):
  """How many updates leave the prototypes as they are; 0 for methods without."""
  prototypes = getattr(fixture.config, 'prototypes', None)
  return prototypes.freeze if prototypes else 0


def update_errors(fixture, params, after, masked):
  """‖Δ - Δ*‖ / ‖Δ*‖ per tensor, `masked` without the elements whose gradient is rounding noise:
  Adam makes whole steps of it, and it is another one on every processor.

  DreamerPro's prototypes are made unit vectors before an update, so their Δ begins there; while
  they are frozen only the weight decay of 1e-6 moves them, less than float32 resolves, and they are
  left out.
  """
  before = fixture.tree('param')
  before['world_model'] = fixture.agent.objective.project(before['world_model'])
  ours, before = _named(params), _named(before)
  theirs = _named(fixture.tree(f'after_step_{after}'))
  gradients = _named({'world_model': fixture.tree('grad')['world_model']})
  still = {PROTOTYPES} if after <= frozen_updates(fixture) else set()
  assert set(ours) == set(theirs) == set(before)
  errors, left_out, total = {}, 0, 0
  for name in set(theirs) - still:
    moved, wanted = ours[name] - before[name], theirs[name] - before[name]
    if masked and name in gradients:
      size = np.abs(gradients[name])
      keep = (size == 0) | (size >= 1e-6 * size.max())
      left_out, total = left_out + (~keep).sum(), total + keep.size
      moved, wanted = moved * keep, wanted * keep
    errors[name] = np.linalg.norm(moved - wanted) / max(np.linalg.norm(wanted), 1e-30)
  assert left_out <= 1e-3 * total, f'{left_out} of {total} elements left out'
  return errors


@in_both_forms
def test_updates(fixture, form):
  history = _train(fixture, form)
  for after in fixture.steps:
    state = history[after - 1].state
    errors = update_errors(fixture, parameters(state), after, masked=True)
    theirs = _named(fixture.tree(f'after_step_{after}'))
    if PROTOTYPES in theirs:
      np.testing.assert_allclose(_named(state.params)[PROTOTYPES], theirs[PROTOTYPES], atol=1e-6)
    report(f'updates after {after}', errors, 5e-3)


@in_both_forms
def test_metrics_and_normaliser(fixture, form):
  errors = {}
  for number, update in enumerate(_train(fixture, form), 1):
    state, metrics = update.state, update.metrics
    recorded = fixture.metrics(number)
    if hasattr(fixture.authors, 'metrics_of'):
      recorded = fixture.authors.metrics_of(recorded, fixture.config)
    for theirs, ours in fixture.authors.METRICS.items():
      if theirs in recorded and ours in metrics:
        errors[f'{ours} {number}'] = relative(metrics[ours], recorded[theirs])
    percentiles = fixture.authors.normalizer_of(fixture.group(f'after_step_{number}'))
    if percentiles:
      errors[f'low {number}'] = relative(state.normalizer.low, percentiles[0])
      errors[f'high {number}'] = relative(state.normalizer.high, percentiles[1])
  assert len(errors) >= 8 * fixture.steps[-1]
  report('metrics and normaliser', errors, 1e-3)


def test_no_update_fails(fixture):
  """The comparison of updates can fail: parameters that were never touched do not pass it."""
  state = fixture.state()
  errors = update_errors(fixture, parameters(state), 1, masked=False)
  assert min(filter(None, errors.values())) > 0.5  # of tensors that move at all


@in_both_forms
def test_half_an_update_fails(fixture, form):
  """Nor do updates with half the learning rate."""
  state = fixture.state()
  after = _first(fixture, form).state
  half = jax.tree.map(lambda a, b: (a + b) / 2, *jax.device_get((state.params, after.params)))
  errors = update_errors(fixture, parameters(after, half), 1, masked=False)
  assert min(v for k, v in errors.items() if v and not k.startswith(SLOW)) > 0.4


# What only some files have
# -------------------------------------------------------------------------------------------


def only(*groups):
  """The recorded runs that have all of these groups."""

  def has(path):
    with np.load(path) as data:
      return all(any(name.startswith(f'{group}/') for name in data.files) for group in groups)

  chosen = [path for path in PATHS if has(path)]
  ids = [path.stem for path in chosen]
  return pytest.mark.parametrize('fixture', chosen, ids=ids, indirect=True, scope='module')


@only('policy')
def test_policy(fixture):
  """Two calls with resets between; constant draws make the mode what a draw is."""
  recorded = {k: v for k, v in fixture.group('policy').items() if k not in ('image', 'reset')}
  recorded = {
    k: np.asarray(jax.nn.log_softmax(v)) if k.endswith('/logit') else v for k, v in recorded.items()
  }
  assert fixture.data['policy/reset'].any()
  for mode in (False, True):
    ours = fixture.authors.policy_calls(fixture, mode)
    assert set(ours) == set(recorded), set(ours) ^ set(recorded)
    report(f'policy, mode {mode}', {k: relative(ours[k], recorded[k]) for k in recorded}, 1e-4)


@only('grad_by_loss')
def test_gradients_by_loss(fixture):
  """Every loss by itself; parameters without a gradient there have none here."""
  params, inputs = fixture.model_inputs(fixture.state())
  losses = lambda params: fixture.authors.raw_losses(fixture, params, inputs)
  names = sorted(jax.eval_shape(losses, params))
  chosen = jax.jit(
    jax.grad(lambda params, weights: sum(weights[k] * v for k, v in losses(params).items()))
  )
  recorded = {k.split('/')[0] for k in fixture.group('grad_by_loss')}
  assert recorded <= set(names) and recorded | {'norm'} == set(names)
  for name in sorted(recorded):
    ours = _named(chosen(params, {k: float(k == name) for k in names}))
    theirs = _named(fixture.tree(f'grad_by_loss/{name}')['world_model'])
    assert set(theirs) <= set(ours)
    assert not any(ours[k].any() for k in set(ours) - set(theirs))
    report(f'gradients of {name}', {k: relative(ours[k], theirs[k]) for k in theirs}, 1e-3)


MATMUL = pytest.mark.parametrize(
  'form', ['matmul'], indirect=True, scope='module'
)  # one form is enough here


@MATMUL
@only('grad_actor', 'grad_critic')
def test_gradients_of_the_behaviour(fixture, form):
  gradients = _first(fixture, form).gradients
  for name in ('actor', 'critic'):
    ours, theirs = _named(gradients[name]), _named(fixture.tree(f'grad_{name}')[name])
    assert set(ours) == set(theirs)
    report(f'gradients of the {name}', {k: relative(ours[k], theirs[k]) for k in theirs}, 1e-3)


@MATMUL
@only('grad_step2')
def test_gradients_of_the_second_update(fixture, form):
  """With the slow encoder, the shifts and, if they learn by then, the prototypes of that update."""
  frozen = {"['prototypes']['vectors']"} if frozen_updates(fixture) > 1 else set()
  ours = _named(_train(fixture, form)[1].gradients['world_model'])
  theirs = _named(fixture.tree('grad_step2')['world_model'])
  assert set(ours) == set(theirs)
  report(
    'gradients of the second update',
    {k: relative(ours[k], theirs[k]) for k in set(theirs) - frozen},
    1e-3,
  )


@MATMUL
@only('forward_step2')
def test_forward_before_the_second_update(fixture, form):
  recorded = fixture.authors.compared(fixture.group('forward_step2'))
  ours = _train(fixture, form)[1].forward
  assert set(recorded) <= set(ours)
  report('second forward', {k: relative(ours[k], recorded[k]) for k in recorded}, 1e-4)


# Settings that no recording here has
# -------------------------------------------------------------------------------------------


def _changed(tmp_path, name, settings, arrays=lambda name, array: array):
  """A copy of a recording of that method, with other settings; arrays that become None are gone."""
  path = next((path for path in PATHS if f'{name}_' in path.stem), None)
  if path is None:
    pytest.skip('no such recording')
  with np.load(path) as data:
    found = {k: arrays(k, v) for k, v in data.items()}
  meta = json.loads(bytes(found.pop('meta.json')))
  meta['config'] |= settings
  found = {k: v for k, v in found.items() if v is not None}
  meta_bytes = np.frombuffer(json.dumps(meta).encode(), np.uint8)
  np.savez(tmp_path / path.name, **found, **{'meta.json': meta_bytes})
  return parity.Fixture(tmp_path / path.name)


NETWORKS = 'rssm', 'encoder', 'decoder', 'reward_head', 'discount_head', 'cont_head'
RELU = {f'{name}.act': 'relu' for name in (*NETWORKS, 'actor', 'critic')}


def test_settings_of_dreamerv3_are_read(tmp_path):
  """Vectors beside the picture, and an actor by REINFORCE whatever its actions."""
  vectors = {f'{net}.mlp_{k}': 2 for net in ('encoder', 'decoder') for k in ('layers', 'units')}
  kinds = {'actor_grad_disc': 'backprop', 'actor_grad_cont': 'reinforce'}
  fixture = _changed(tmp_path, 'v3', {**RELU, **vectors, **kinds})
  agent, root = fixture.agent, 'agent/wm'
  assert agent.settings.network.activation == 'relu'
  assert agent.actor_objective().through_dynamics == agent.chooses
  names = {f'{root}/{net}/mlp/h1/kernel': 0 for net in ('enc', 'dec')}
  tree = parity.parity_v3.to_tree({**names, f'{root}/dec/mlp/dist_arm/out/bias': 0})
  layer = {'h_1': {'kernel': 0}}
  assert tree == {'world_model': {'encoder': layer, 'decoder': {**layer, 'out_arm': {'bias': 0}}}}


def test_settings_of_dreamerv2_are_read(tmp_path):
  """Choices, which a file need not name, and rewards that are squashed."""
  squashed = lambda name, array: None if '.std.' in name else array
  fixture = _changed(tmp_path, 'v2', {**RELU, 'clip_rewards': 'tanh'}, squashed)
  assert fixture.agent.chooses and fixture.agent.settings.network.activation == 'relu'
  np.testing.assert_allclose(
    fixture.batch()['reward'], np.tanh(fixture.data['batch/reward']), rtol=1e-6
  )


def test_settings_of_dreamerpro_are_read(tmp_path):
  """A weight for each of the losses."""
  scales = {'swav': 0.5, 'temp': 2.0, 'kl': 3.0, 'reward': 7.0}
  chosen = {f'loss_scales.{name}': scale for name, scale in scales.items()}
  agent = _changed(tmp_path, 'pro', RELU | chosen).agent
  losses = {'swav': 1.0, 'temporal': 10.0, 'dynamics': 100.0, 'reward': 1000.0, 'norm': 1e4}
  assert agent.rule.weigh(losses, {}, ())[0] == 0.5 + 20 + 300 + 7000 + 1e4


# TD-MPC: every draw is recorded, too
# -------------------------------------------------------------------------------------------

_recorded = functools.cache(parity_tdmpc.Fixture)
tdmpc_files = pytest.mark.parametrize('path', TDMPC, ids=lambda path: path.stem, scope='module')


def errors_of(ours, theirs):
  """The largest relative error of each array of two trees."""
  ours, theirs = _named(ours), _named(theirs)
  assert set(ours) == set(theirs), set(ours) ^ set(theirs)
  return {name: relative(ours[name], theirs[name]) for name in theirs}


@tdmpc_files
def test_tdmpc_forward(path):
  fixture = _recorded(path)
  ours, recorded = parity_tdmpc.three_updates(fixture)[0].forward, fixture.group('forward')
  assert set(recorded) == set(ours), set(recorded) ^ set(ours)
  errors = {name: relative(ours[name], recorded[name]) for name in recorded}
  if fixture.pixels:
    assert errors.pop('aug_obs') <= 1e-5
  report('forward', errors, 1e-4)


@tdmpc_files
def test_tdmpc_gradients(path):
  """Divided by H, not yet clipped."""
  fixture = _recorded(path)
  theirs = {'params': {**fixture.tree('grad')['params'], **fixture.tree('grad_pi')['params']}}
  ours = parity_tdmpc.three_updates(fixture)[0].gradients
  report('gradients', errors_of(ours, theirs), 1e-3)


@tdmpc_files
def test_tdmpc_gradients_by_loss(path):
  """Parameters that a loss does not reach are not recorded, and have none here."""
  fixture = _recorded(path)
  for name in tdmpc.TASKS:
    found = parity_tdmpc.update(fixture, only=name).gradients['params']['world_model']
    ours = _named({'params': {'world_model': found}})
    theirs = _named(fixture.tree(f'grad_by_loss/{name}'))
    assert set(theirs) <= set(ours)
    assert not any(ours[k].any() for k in set(ours) - set(theirs))
    report(f'gradients of {name}', {k: relative(ours[k], theirs[k]) for k in theirs}, 1e-3)


@tdmpc_files
def test_tdmpc_clamp(path):
  """Gradients where two sequences lose more than counts."""
  fixture = _recorded(path)
  batch = fixture.batch(reward=fixture.data['clamp/reward'])
  found = parity_tdmpc.update(fixture, batch=batch)
  ours = {'params': {'world_model': found.gradients['params']['world_model']}}
  errors = errors_of(ours, fixture.tree('clamp/grad'))
  errors['norm'] = relative(found.metrics['grad_norm/world_model'], fixture.data['clamp/grad_norm'])
  report('clamped gradients', errors, 1e-3)


def tdmpc_update_errors(fixture, state, after):
  """‖Δ - Δ*‖ / ‖Δ*‖ per tensor, slow copies too; where the authors' stands still, so must ours."""
  before, theirs = _named(fixture.tree('param')), _named(fixture.tree(f'after_step_{after}'))
  model = {k: v for k, v in state.params['world_model'].items() if k != 'harmony'}
  ours = _named({'params': {**state.params, 'world_model': model}, 'targets': state.targets})
  assert set(ours) == set(theirs) == set(before)
  errors = {}
  for name in theirs:
    moved, wanted = (x[name] - before[name] for x in (ours, theirs))
    errors[name] = np.linalg.norm(moved - wanted) / (np.linalg.norm(wanted) or 1e-30)
  return errors


@tdmpc_files
def test_tdmpc_updates(path):
  fixture = _recorded(path)
  history = parity_tdmpc.three_updates(fixture)
  for after in (1, 3):
    errors = tdmpc_update_errors(fixture, history[after - 1].state, after)
    report(f'updates after {after}', errors, 5e-3)
  start, end = fixture.state(), history[-1].state
  half = jax.tree.map(lambda a, b: (a + b) / 2, *jax.device_get((start.params, end.params)))
  for wrong in (start, end.replace(params=half)):
    errors = tdmpc_update_errors(fixture, wrong, 3)
    moving = [v for k, v in errors.items() if k.startswith("['params']") and v > 0]
    assert min(moving) > 0.4


@tdmpc_files
def test_tdmpc_metrics_and_priorities(path):
  fixture, errors = _recorded(path), {}
  std, first = fixture.config.planning.std, fixture.meta['first_update_step']
  for number, found in enumerate(parity_tdmpc.three_updates(fixture), 1):
    recorded = fixture.meta['metrics'][number - 1]
    for theirs, ours in parity_tdmpc.METRICS.items():
      errors[f'{ours} {number}'] = relative(found.metrics[ours], recorded[theirs])
    floor = tdmpc_planning.linear(std, first + number - 1)
    errors[f'std {number}'] = relative(floor, recorded['std'])
    if number > 1:
      wanted = fixture.data[f'priority_step_{number}'][:, 0]
      errors[f'priority {number}'] = relative(found.state.carry, wanted)
  report('metrics and priorities', errors, 1e-4)


@tdmpc_files
def test_tdmpc_policy(path):
  fixture, recorded = _recorded(path), _recorded(path).group('policy')
  agent, params = fixture.agent, fixture.state().params
  z, policy = jnp.asarray(recorded['z']), params['policy']
  seen = jnp.asarray(fixture.pictures(fixture.data['batch/obs']))
  ours = {
    'mean': jnp.tanh(agent.apply(params, 'policy', z)),
    'action': agent.act_noisily(policy, z, recorded['noise']),
    'action_wide': tdmpc_planning.noisy(recorded['mean'], 0.5, recorded['noise_wide']),
    'encoded': agent.encode(params['world_model'], seen),
  }
  report('policy', {k: relative(ours[k], recorded[k]) for k in ours}, 1e-4)


def plan_errors(fixture, case, planning=tdmpc_planning):
  """Of a planning call; infinite where other elites are taken."""
  ours, theirs = parity_tdmpc.planned(fixture, case, planning)
  same = {name: np.array_equal(ours[name], theirs[name]) for name in ('elite_idxs', 'choice')}
  errors = {name: relative(ours[name], theirs[name]) for name in theirs if name not in same}
  return errors | {name: 0.0 if each else np.inf for name, each in same.items()}


@tdmpc_files
def test_tdmpc_planning(path):
  fixture = _recorded(path)
  assert len(fixture.meta['plans']) >= 6
  for case in fixture.meta['plans']:
    report(f'planning, {case}', plan_errors(fixture, case), 1e-4)


@tdmpc_files
def test_tdmpc_replay(path):
  """The story of four episodes in a ring of three, with the batches that were drawn."""
  fixture, data = _recorded(path), _recorded(path).group('replay')
  replay, near = fixture.replay(), functools.partial(np.testing.assert_allclose, rtol=1e-6)
  for number in (0, 1):
    fixture.add(replay, number)
  length = data['reward'].shape[1]
  assert (
    fixture.by_slot(replay) == (np.arange(2 * length) % length < length - fixture.config.horizon)
  ).all()
  values = np.concatenate([data['priorities_0'].reshape(2, length), np.zeros((2, 1))], 1)
  replay._rule.put((slice(None), slice(0, 2 * length + 2)), values.reshape(1, -1))
  odds = fixture.by_slot(replay, replay._rule.probabilities()[: replay.steps])
  near(odds, data['probs_0'], atol=1e-9)
  chosen = np.searchsorted(np.cumsum(odds), data['uniform'], 'right')
  np.testing.assert_array_equal(chosen, data['idxs'])
  draw = fixture.draw_of(replay, data['idxs'])
  assert_batch(fixture, replay, draw, fixture.batch())
  replay.feedback(draw, data['new_priorities'])
  near(fixture.by_slot(replay), data['priorities_1'])
  fixture.add(replay, 2)
  near(fixture.by_slot(replay), data['priorities_2'])
  assert replay.full
  draw = fixture.draw_of(replay, data['second_idxs'])
  odds = fixture.by_slot(replay, replay._rule.probabilities()[: replay.steps])
  near(odds, data['second_probs'], atol=1e-9)
  near(replay.weights(draw), data['second_weights'])
  if 'second_obs' in data:
    assert_batch(fixture, replay, draw, fixture.batch('second'))
  fixture.add(replay, 3)
  near(fixture.by_slot(replay), data['priorities_3'])


def assert_batch(fixture, replay, draw, wanted):
  """What is gathered is the recorded batch, but for what an update does not use."""
  found = {**replay.gather(draw), 'weight': replay.weights(draw)}
  lead, horizon = fixture.frames - 1, fixture.config.horizon
  np.testing.assert_array_equal(found[fixture.name], wanted[fixture.name])
  np.testing.assert_array_equal(found['action'][:, lead:-1], wanted['action'][:, lead:-1])
  np.testing.assert_array_equal(found['reward'][:, -horizon:], wanted['reward'][:, -horizon:])
  np.testing.assert_allclose(found['weight'], wanted['weight'], rtol=1e-6)


@tdmpc_files
def test_tdmpc_schedules_and_counts(path):
  fixture = _recorded(path)
  config, recorded = fixture.config, fixture.group('schedule')
  for step, std, horizon in zip(recorded['step'], recorded['std'], recorded['horizon']):
    assert relative(tdmpc_planning.linear(config.planning.std, step), std) <= 1e-6
    assert tdmpc_planning.horizon_at(config.planning.horizon, config.horizon, step) == horizon
  params = fixture.state().params
  params = {**params['world_model'], 'policy': params['policy']}
  for theirs, ours in parity_tdmpc.NETWORKS.items():
    count = sum(leaf.size for leaf in jax.tree.leaves(params[ours]))
    assert count == fixture.meta['counts'][theirs]


# What an implementer gets wrong, one by one. By what it shows: what a file says, what it then says.
MADE = {  # in what the losses are made of
  'the online encoder as target': ('self.encode(slow, seen[1:])', 'self.encode(params, seen[1:])'),
  'the slow encoder for values': (
    'else self.encode(params, seen[1:])',
    'else self.encode(slow, seen[1:])',
  ),
  'the slow policy for values': (
    "self.act_noisily(state.params['policy'], online",
    "self.act_noisily(state.targets['policy'], online",
  ),
  'values of latent states made up': ("td_target == 'model'", "td_target == 'observation'"),
  'one weight for the batch': ("importance == 'batch'", "importance == 'element'"),
  'one shift for all': ('draws.shift)  #', 'draws.shift.at[1:].set(draws.shift[:1]))  #'),
  'x and y exchanged': ('(shift[1], shift[0], 0)', '(shift[0], shift[1], 0)'),
  'another pad': ('// 21', '// 9'),
  'half subtracted': ('.astype(self.dtype) / 255', '.astype(self.dtype) / 255 - 0.5'),
  'channels first': ('x.reshape(*lead, -1)', 'jnp.moveaxis(x, -1, 1).reshape(*lead, -1)'),
  'noise not clipped': ('jnp.clip(std * noise, -_LARGEST_NOISE, _LARGEST_NOISE)', 'std * noise'),
}
LEARNED = {  # in an update
  'no division by H': ('x / s.horizon', 'x'),
  'values from before the step': (
    "policy, params['world_model'], sg",
    "policy, state.params['world_model'], sg",
  ),
  'latent states encoded again': (
    "sg(found['latent'])",
    "self.encode(state.params['world_model'], found['seen'])",
  ),
  'no clamp': ('weight * jnp.minimum(sums[name], _LARGEST)', 'weight * sums[name]'),
}
PLANNED = {  # in a call
  'the policy first': ('train_cold', '[samples, of_policy]', '[of_policy, samples]'),
  'temperature divides': ('train_cold', 'config.temperature * best', 'best / config.temperature'),
  'deviation carried over': (
    'train_warm',
    'jnp.full((longest, actions), config.max_std)',
    'jnp.full((longest, actions), floor)',
  ),
  'the mean in evaluation': ('eval_cold', "config.action == 'elite'", 'explore'),
  'the action clipped': (
    'train_short',
    'action + std[0] * noise.action',
    'jnp.clip(action + std[0] * noise.action, -1, 1)',
  ),
}
PICTURES = ('one shift for all', 'x and y exchanged', 'another pad')
PICTURES += ('half subtracted', 'channels first')
NO_MISTAKE = {  # recordings that it makes no difference to
  'one weight for the batch': lambda file: np.ptp(file.data['batch/weights']) == 0,
  'channels first': lambda file: file.places == 1,
  'noise not clipped': lambda file: (
    file.config.policy_std * max(np.abs(x).max() for x in file.draws(1)[1:]) <= 0.3
  ),
  'the policy first': lambda file: not file.meta['plans']['train_cold']['num_pi_trajs'],
  'temperature divides': lambda file: file.config.planning.temperature == 1,
  'the action clipped': lambda file: np.abs(file.data['plan/train_short/action']).max() <= 1,
}


def _shows(path, name):
  file = _recorded(path)
  return file.pixels == (name in PICTURES) and not NO_MISTAKE.get(name, lambda file: False)(file)


def _mistaken(name, said, wrong, monkeypatch):
  """A recorded run with an agent whose source says something else."""
  path = next((each for each in TDMPC if _shows(each, name)), None)
  if path is None:
    pytest.skip('no such recording')
  sources = (tdmpc, tdmpc_networks, tdmpc_planning)
  module = next(each for each in sources if said in inspect.getsource(each))
  mutant = parity_tdmpc.changed(module, said, wrong)
  if module is tdmpc:
    return parity_tdmpc.Fixture(path, mutant.TDMPC), mutant
  if module is tdmpc_networks:
    monkeypatch.setattr(tdmpc, 'Encoder', mutant.Encoder)
  else:
    monkeypatch.setattr(tdmpc, 'planning', mutant)
  return parity_tdmpc.Fixture(path), mutant


@pytest.mark.parametrize('name', MADE)
def test_a_mistake_in_the_losses_shows(name, monkeypatch):
  fixture, _ = _mistaken(name, *MADE[name], monkeypatch)
  inputs = jax.device_put((fixture.state(), fixture.batch(), fixture.draws(1)))
  ours, recorded = parity_tdmpc.forward(fixture, *inputs), fixture.group('forward')
  assert max(relative(ours[k], recorded[k]) for k in ours if k in recorded) > 2e-4


@pytest.mark.parametrize('name', LEARNED)
def test_a_mistake_in_an_update_shows(name, monkeypatch):
  fixture, _ = _mistaken(name, *LEARNED[name], monkeypatch)
  recorded, agent = fixture.group('forward'), fixture.agent
  rewards = {'reward': fixture.data['clamp/reward']} if name == 'no clamp' else {}
  state, batch = fixture.state(), fixture.batch(**rewards)
  weights = fixture.config.weighting
  state = state.replace(weighting={each: getattr(weights, each) for each in tdmpc.TASKS})

  def seen(state, batch, draws):
    _, metrics, gradients = agent.update(state, batch, draws)
    return metrics['loss/policy'], optax.tree.norm(gradients['world_model'])

  policy, norm = small.jit(seen)(state, batch, fixture.draws(1))
  size = fixture.data['clamp/grad_norm'] if rewards else recorded['grad_norm']
  # twice what the comparisons let pass
  assert relative(norm, size) > 2e-3 or relative(policy, recorded['pi_loss']) > 2e-4


@pytest.mark.parametrize('name', PLANNED)
def test_a_mistake_in_planning_shows(name, monkeypatch):
  case, *texts = PLANNED[name]
  fixture, mutant = _mistaken(name, *texts, monkeypatch)
  assert max(plan_errors(fixture, case, mutant).values()) > 1e-3


# Denoised MDP: the same
# -------------------------------------------------------------------------------------------

_denoised = functools.cache(parity_denoised.Fixture)
denoised_files = pytest.mark.parametrize(
  'path', DENOISED, ids=lambda path: path.stem, scope='module'
)
DENSITIES = ('log_prob_eval', 1e-3)  # through an inverse of tanh near ±1


@denoised_files
def test_denoised_forward(path):
  """Outputs, densities and losses, and imaginations with the model as given and as updated."""
  fixture = _denoised(path)
  found = parity_denoised.three_updates(fixture)[0]
  losses = {f'loss/{k}': v for k, v in parity_denoised.losses(fixture, found).items()}
  rows = {**found.rows, 'forward': found.rows['forward'] | losses}
  rows |= {} if fixture.sac else parity_denoised.imaginations(fixture)
  for group, ours in rows.items():
    recorded = fixture.group(group)
    if group == 'forward':
      recorded = {k: v for k, v in recorded.items() if not k.startswith('imag/')}
      recorded = parity_denoised.compared(recorded, fixture.agent)
    missing = {'loss/kl_x_no_free_nats'} - set(recorded)
    assert set(recorded) == set(ours) - missing, set(recorded) ^ set(ours)
    report(group, {k: relative(ours[k], recorded[k]) for k in recorded}, 1e-4)


@denoised_files
def test_denoised_gradients(path):
  """Before clipping: of the model in two updates, of policy and values."""
  fixture = _denoised(path)
  first, second, _ = parity_denoised.three_updates(fixture)
  groups = [('grad', first), ('grad_actor', first), ('grad_step2', second)]
  groups += (
    [('grad_q', first), ('grad_ent_coef', first)] if fixture.sac else [('grad_value', first)]
  )
  for group, found in groups:
    theirs = fixture.tree(group)
    ours = {name: found.gradients[name] for name in theirs}
    report(group, errors_of(ours, theirs), 1e-3)


@denoised_files
def test_denoised_gradients_by_loss(path):
  """Parameters that a term does not reach are not recorded, and have none here."""
  fixture = _denoised(path)
  for task, parts in parity_denoised.terms(fixture).items():
    found = parity_denoised.update(fixture, only=task).gradients['world_model']
    ours, theirs = _named({'world_model': found}), {}
    for factor, term in parts:
      for name, each in _named(fixture.tree(f'grad_by_loss/{term}')).items():
        theirs[name] = theirs.get(name, 0) + factor * each
    assert set(theirs) <= set(ours)
    assert not any(ours[k].any() for k in set(ours) - set(theirs))
    report(f'gradients of {task}', {k: relative(ours[k], theirs[k]) for k in theirs}, 1e-3)


def denoised_update_errors(fixture, state, after):
  """‖Δ - Δ*‖ / ‖Δ*‖ per tensor, slow values too."""
  before, theirs = _named(fixture.tree('param')), _named(fixture.tree(f'after_step_{after}'))
  ours = _named(parity_denoised.parameters(state))
  assert set(ours) == set(theirs) == set(before)
  errors = {}
  for name in theirs:
    moved, wanted = (x[name] - before[name] for x in (ours, theirs))
    errors[name] = np.linalg.norm(moved - wanted) / (np.linalg.norm(wanted) or 1e-30)
  return errors


@denoised_files
def test_denoised_updates(path):
  fixture = _denoised(path)
  history = parity_denoised.three_updates(fixture)
  for after in (1, 3):
    errors = denoised_update_errors(fixture, history[after - 1].state, after)
    report(f'updates after {after}', errors, 5e-3)
  start, end = fixture.state(), history[-1].state
  half = jax.tree.map(lambda a, b: (a + b) / 2, *jax.device_get((start.params, end.params)))
  for wrong in (start, end.replace(params=half)):
    errors = denoised_update_errors(fixture, wrong, 3)
    assert min(v for k, v in errors.items() if not k.startswith("['slow']")) > 0.4


@denoised_files
def test_denoised_metrics(path):
  fixture, errors = _denoised(path), {}
  for number, found in enumerate(parity_denoised.three_updates(fixture), 1):
    for name, value in parity_denoised.metrics_of(fixture, number).items():
      errors[f'{name} {number}'] = relative(found.metrics[name], value)
  assert len(errors) >= 3 * 9
  report('metrics', errors, 1e-4)


@denoised_files
def test_denoised_acting(path):
  fixture = _denoised(path)
  ours, recorded = parity_denoised.calls(fixture)
  assert set(recorded) == {k for k in fixture.group('policy') if not k.startswith(('noise', 'i'))}
  errors = {name: relative(ours[name], recorded[name]) for name in recorded}
  likely = {name: error for name, error in errors.items() if name.startswith(DENSITIES[0])}
  report('densities', likely, DENSITIES[1])
  report('acting', {k: v for k, v in errors.items() if k not in likely}, 1e-4)


# What an implementer gets wrong, one by one. Each gives a number that the files do not have.


def _of_denoised(sac, shows=lambda file: True):
  """A recorded run whose policy learns so, in which the mistake makes a difference."""
  files = (_denoised(path) for path in DENOISED)
  file = next((file for file in files if file.sac == sac and shows(file)), None)
  if file is None:
    pytest.skip('no such recording')
  return file


def _wrong(module, said, wrong, name):
  """What a module defines under a name, where its source says something else."""
  return getattr(parity_tdmpc.changed(module, said, wrong), name)


def test_free_nats_on_the_mean_show():
  free = lambda file: file.data['forward/kl/x'] < file.config.losses.free_x
  fixture = _of_denoised(sac=False, shows=lambda file: 0 < free(file).mean() < 1)
  said, wrong = 'jnp.maximum(kl, free)', 'jnp.maximum(kl.mean(), free)'
  kl, parts = fixture.data['forward/kl/x'], parity_denoised.terms(fixture)['dynamics_x']
  wanted = sum(factor * fixture.data[f'forward/loss/{term}'] for factor, term in parts)
  kind = _wrong(denoised_mdp, said, wrong, 'DenoisedMDP')
  assert relative(fixture.agent.weighed_kl('x', kl).mean(), wanted) < 1e-4
  assert relative(kind.weighed_kl(fixture.agent, 'x', kl).mean(), wanted) > 2e-4


def test_a_decoder_without_its_first_relu_shows():
  fixture = _of_denoised(sac=False)
  said, wrong = 'style = self.style if self.units else LINEAR', 'style = LINEAR'
  decoder, params = fixture.agent.objective.decoder, fixture.state().params['world_model']
  fields = {k: getattr(decoder.up, k) for k in ('config', 'channels', 'side', 'style')}
  for of, least, most in (
    (networks.PlainUp, 0, 1e-4),
    (_wrong(networks, said, wrong, 'PlainUp'), 1e-2, np.inf),
  ):
    made = dataclasses.replace(decoder, up=of(**fields, units=decoder.up.units))
    feature = jnp.asarray(fixture.data['forward/feature'])
    decode = small.jit(lambda x, made=made: made.decode(params['decoder'], None, x)['image'])
    ours = decode(feature) - 0.5
    wanted = fixture.pictures(fixture.data['forward/image_mean'])
    assert least <= relative(ours, wanted) < most


def test_a_reset_gate_without_its_bias_shows():
  fixture = _of_denoised(sac=False)
  said = 'candidate + reset * recurrent[2]'
  bias = "layers['state']['bias'][2 * deter.shape[-1] :]"
  wrong = f'candidate + reset * (recurrent[2] - {bias}) + {bias}'
  data = jax.tree.map(jnp.asarray, fixture.group('forward'))
  params = fixture.state().params['world_model']['rssm']
  rows = lambda name: data[f'x/{name}'].reshape(-1, data[f'x/{name}'].shape[-1])
  start = denoised_mdp_dynamics.Latent(State(rows('belief'), rows('post_sample'), None))
  step = params, start, data['imag/action'][0], jnp.asarray(fixture.data['noise_step1/imag_x'][0])
  config = {k: getattr(fixture.agent.rssm, k) for k in ('config', 'actions', 'embed')}
  for kind, least, most in (
    (denoised_mdp_dynamics.Dynamics, 0, 1e-4),
    (_wrong(denoised_mdp_dynamics, said, wrong, 'Dynamics'), 1e-2, np.inf),
  ):
    ours = kind(**config).imagine(*step).x.deter
    assert least <= relative(ours, data['imag/x_belief'][0]) < most


def test_a_model_that_is_not_clipped_shows():
  """Adam hides it in one update, and not in three."""
  norm = lambda file: file.data['metrics_step1/grad_norm/model']
  fixture = _of_denoised(sac=False, shows=lambda file: norm(file) > file.meta['clip'])
  config = settings.replace(fixture.config.model_opt, {'clip': 1e9})
  free, state = optimizers.make_optimizer(config), fixture.state()
  params, descend = state.params['world_model'], small.jit(free.update)
  opt = free.init(params)
  for number in (1, 2, 3):
    found = parity_denoised.update(fixture, number, state)
    gradient = {**found.gradients['world_model'], 'harmony': {}}
    change, opt = descend(gradient, opt, params)
    params = jax.tree.map(np.add, *jax.device_get((params, change)))
    state = found.state.replace(params={**found.state.params, 'world_model': params})
  assert max(denoised_update_errors(fixture, state, 3).values()) > 1e-2


def test_imagination_before_the_models_update_shows():
  fixture = _of_denoised(sac=False)
  early = parity_denoised.imaginations(fixture)['forward/imag']['actor_loss']
  assert relative(early, fixture.data['imag_step1/actor_loss']) > 2e-4


def test_another_target_of_the_soft_actor_critic_shows():
  fixture = _of_denoised(sac=True)
  agent, state, data = fixture.agent, fixture.state(), fixture.group('sac_step1')
  names = ('observation', 'action', 'reward', 'next_observation')
  noise = (fixture.data[f'noise_step1/{name}'] for name in ('action', 'next_action'))
  rows = (*(data[name] for name in names), *noise)
  step = denoised_mdp_sac.Transitions(*map(jnp.asarray, rows))
  for target, least, most in (('code', 0, 1e-4), ('paper', 1e-2, np.inf)):
    chosen = settings.replace(agent.settings, {'sac.target': target})
    other = denoised_mdp.make(chosen, fixture.spec)

    @small.jit
    def losses(params, slow, step, other=other):
      value = agent.values(params['critic'], step.state, step.action)
      return 0.5 * jnp.square(value - other.critic_target(params, slow, step)).mean(-1)

    loss = losses(state.params, state.targets['critic'], step)
    assert least <= relative(loss[0], fixture.data['metrics_step1/q0_loss']) < most
