"""Our numbers against the authors' own, over every recorded run in $HARMONY_PARITY_DIR whose method
we have: `*v3_*.npz`, `*v2_*.npz`.

Tolerances: forward outputs 1e-4 and gradients 1e-3 of each array's largest magnitude, updates 5e-3 per tensor as
‖Δ - Δ*‖ / ‖Δ*‖ with Δ = after - before, since comparing parameters would pass without any update at all.

Both forms of the strided convolutions are held to all of it (`conv` is the authors' arithmetic, `matmul` what runs on
a CPU), with one difference: Adam's first steps turn every gradient into a full step of its sign, rounding noise
included. `matmul` rounds in another order, so its updates leave out elements whose recorded gradient is below 1e-6 of
their tensor's largest but not zero (float32 resolves 1e-7); at most one element in a thousand may be left out.
"""

import functools

import jax
import numpy as np
import pytest

from harmony_jax import convolution, world_model
from harmony_jax.agent import shift_actions
from tests import parity

PATHS = parity.paths()
FORMS = ('conv', 'matmul')

pytestmark = pytest.mark.skipif(
    not PATHS, reason=f'no recorded runs in {parity.FOLDER} (set HARMONY_PARITY_DIR)')


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def fixture(request):
  return _load(request.param)


@pytest.fixture(params=FORMS)
def form(request, monkeypatch):
  """As on accelerators, and as on CPUs: products, a few frames at a time, with some left over."""
  monkeypatch.setattr(convolution, 'default_form', lambda: request.param)
  monkeypatch.setattr(world_model, 'frames_at_once', lambda size: {'conv': 0, 'matmul': 4}[request.param])
  return request.param


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
  print(f'\n  {group}: largest relative error {errors[worst]:.1e} ({worst}), limit {limit:.0e}, {len(errors)} arrays')
  bad = {k: v for k, v in errors.items() if not v <= limit}
  assert not bad, bad


def test_forward(fixture, form):
  agent, recorded = fixture.agent, fixture.authors.compared(fixture.group('forward'))
  ours = jax.jit(lambda state, batch: fixture.authors.forward(agent, state, batch))(fixture.state(), fixture.batch())
  assert set(ours) == set(recorded), set(ours) ^ set(recorded)
  report('forward', {k: relative(ours[k], recorded[k]) for k in recorded}, 1e-4)


def test_gradients(fixture, form):
  batch, state, model = fixture.batch(), fixture.state(), fixture.agent.world_model
  previous = shift_actions(batch['action'], state.carry.action)
  loss = lambda params: model.loss(params, state.weighting, state.carry.latent, batch, previous, None)[0]
  ours = _named(jax.jit(jax.grad(loss))(state.params['world_model']))
  theirs = _named(fixture.tree('grad')['world_model'])
  assert set(ours) == set(theirs), set(ours) ^ set(theirs)
  report('gradients', {k: relative(ours[k], theirs[k]) for k in theirs}, 1e-3)


def _named(tree):
  return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _train(fixture, form='conv'):
  """State and metrics after each of three updates on the recorded batch. Kept, as compiling takes long.

  The `conv` form, which only accelerators run, is compiled at the compiler's default level.
  """
  if form not in fixture.history:
    options = {'xla_backend_optimization_level': 3} if form == 'conv' else None
    step, state, history = jax.jit(fixture.agent.train_step, compiler_options=options), fixture.state(), []
    for _ in range(3):
      state, metrics = step(state, fixture.batch())
      history.append((state, metrics))
    fixture.history[form] = history
  return fixture.history[form]


def update_errors(fixture, params, slow, after, masked):
  """‖Δ - Δ*‖ / ‖Δ*‖ per tensor, `masked` without the elements whose gradient is rounding noise."""
  ours, before = _named({**params, 'slow': slow}), _named(fixture.tree('param'))
  theirs = _named(fixture.tree(f'after_step_{after}'))
  gradients = _named({'world_model': fixture.tree('grad')['world_model']})
  assert set(ours) == set(theirs) == set(before)
  errors, left_out, total = {}, 0, 0
  for name in theirs:
    moved, wanted = np.asarray(ours[name] - before[name]), np.asarray(theirs[name] - before[name])
    if masked and name in gradients:
      size = np.abs(np.asarray(gradients[name]))
      keep = (size == 0) | (size >= 1e-6 * size.max())
      left_out, total = left_out + (~keep).sum(), total + keep.size
      moved, wanted = moved * keep, wanted * keep
    errors[name] = np.linalg.norm(moved - wanted) / max(np.linalg.norm(wanted), 1e-30)
  assert left_out <= 1e-3 * total, f'{left_out} of {total} elements left out'
  return errors


def test_updates(fixture, form):
  history = _train(fixture, form)
  for after in (1, 3):
    state, _ = history[after - 1]
    errors = update_errors(fixture, state.params, state.targets['critic'], after, form == 'matmul')
    report(f'updates after {after}', errors, 5e-3)


def test_metrics_and_normaliser(fixture, form):
  errors = {}
  for number, (state, metrics) in enumerate(_train(fixture, form), 1):
    recorded = fixture.meta['metrics'][number - 1]
    for theirs, ours in fixture.authors.METRICS.items():
      if theirs in recorded:
        errors[f'{ours} {number}'] = relative(metrics[ours], recorded[theirs])
    percentiles = fixture.authors.normalizer_of(fixture.group(f'after_step_{number}'))
    if percentiles:
      errors[f'low {number}'] = relative(state.normalizer.low, percentiles[0])
      errors[f'high {number}'] = relative(state.normalizer.high, percentiles[1])
  assert len(errors) >= 3 * 10
  report('metrics and normaliser', errors, 1e-3)


def test_no_update_fails(fixture):
  """The comparison of updates can fail: parameters that were never touched do not pass it."""
  state = fixture.state()
  errors = update_errors(fixture, state.params, state.targets['critic'], 1, masked=False)
  assert min(errors.values()) > 0.5


def test_half_an_update_fails(fixture, form):
  """Nor do updates with half the learning rate."""
  state = fixture.state()
  after, _ = _train(fixture, form)[0]
  half = jax.tree.map(lambda a, b: (a + b) / 2, state.params, after.params)
  errors = update_errors(fixture, half, after.targets['critic'], 1, masked=False)
  assert min(v for k, v in errors.items() if not k.startswith("['slow']")) > 0.4
