"""Our numbers against the authors' own, over every recorded run in $HARMONY_PARITY_DIR whose method
we have: `*v3_*.npz`, `*v2_*.npz`, `*pro_*.npz`.

Tolerances: forward outputs 1e-4 and gradients 1e-3 of each array's largest magnitude, updates 5e-3
per tensor as ‖Δ - Δ*‖ / ‖Δ*‖ with Δ = after - before, since comparing parameters would pass without
any update at all.

Both forms of the strided convolutions are held to all of it (`conv` is the authors' arithmetic,
`matmul` what runs on a CPU), with one difference: Adam's first steps turn every gradient into a
full step of its sign, rounding noise included. `matmul` rounds in another order, so its updates
leave out elements whose recorded gradient is below 1e-6 of their tensor's largest but not zero
(float32 resolves 1e-7); at most one element in a thousand may be left out.
"""

import functools

import jax
import numpy as np
import pytest

from harmony_jax import convolution, recurrence
from tests import parity, parity_layouts

PATHS = parity.paths()
FORMS = ('conv', 'matmul')
PROTOTYPES = "['world_model']['prototypes']['vectors']"

pytestmark = pytest.mark.skipif(
  not PATHS, reason=f'no recorded runs in {parity.FOLDER} (set HARMONY_PARITY_DIR)'
)


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def fixture(request):
  return _load(request.param)


@pytest.fixture(params=FORMS)
def form(request, monkeypatch):
  """As on accelerators, scans batched; and as on CPUs: products, a few frames at a time, with some
  left over.
  """
  monkeypatch.setattr(convolution, 'default_form', lambda: request.param)
  monkeypatch.setattr(
    convolution, 'frames_at_once', lambda size: {'conv': 0, 'matmul': 4}[request.param]
  )
  scans = {'conv': 'batched', 'matmul': 'stepwise'}
  monkeypatch.setattr(recurrence, 'default_form', lambda: scans[request.param])
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
  print(
    f'\n  {group}: largest relative error {errors[worst]:.1e} ({worst}), '
    f'limit {limit:.0e}, {len(errors)} arrays'
  )
  bad = {k: v for k, v in errors.items() if not v <= limit}
  assert not bad, bad


def test_forward(fixture, form):
  agent, recorded = fixture.agent, fixture.authors.compared(fixture.group('forward'))
  ours = jax.jit(lambda state, batch: fixture.authors.forward(agent, state, batch))(
    fixture.state(), fixture.batch()
  )
  assert set(ours) == set(recorded), set(ours) ^ set(recorded)
  report('forward', {k: relative(ours[k], recorded[k]) for k in recorded}, 1e-4)


def test_gradients(fixture, form):
  params, inputs = fixture.model_inputs(fixture.state())
  loss = lambda params: parity_layouts.model_loss(fixture.agent, params, *inputs)
  ours = _named(jax.jit(jax.grad(loss))(params))
  theirs = _named(fixture.tree('grad')['world_model'])
  assert set(ours) == set(theirs), set(ours) ^ set(theirs)
  report('gradients', {k: relative(ours[k], theirs[k]) for k in theirs}, 1e-3)


def _named(tree):
  return {
    jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def _train(fixture, form='conv'):
  """State and metrics after each of the recorded updates on the recorded batch. Kept, as compiling
  takes long.

  The `conv` form, which only accelerators run, is compiled at the compiler's default level.
  """
  if form not in fixture.history:
    options = {'xla_backend_optimization_level': 3} if form == 'conv' else None
    step, state, history = (
      jax.jit(fixture.agent.train_step, compiler_options=options),
      fixture.state(),
      [],
    )
    for _ in range(fixture.steps[-1]):
      state, metrics = step(fixture.restarted(state), fixture.batch())
      history.append((state, metrics))
    fixture.history[form] = history
  return fixture.history[form]


def parameters(state, params=None):
  """Everything that an update changes, as `Fixture.tree` names it."""
  targets = {'targets': state.targets['world_model']} if 'world_model' in state.targets else {}
  return {**(params or state.params), 'slow': state.targets['critic'], **targets}


def frozen_updates(fixture):
  """How many updates leave the prototypes as they are; 0 for methods without."""
  prototypes = getattr(fixture.config, 'prototypes', None)
  return prototypes.freeze if prototypes else 0


def update_errors(fixture, params, after, masked):
  """‖Δ - Δ*‖ / ‖Δ*‖ per tensor, `masked` without the elements whose gradient is rounding noise.

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
  for after in fixture.steps:
    state, _ = history[after - 1]
    errors = update_errors(fixture, parameters(state), after, form == 'matmul')
    theirs = _named(fixture.tree(f'after_step_{after}'))
    if PROTOTYPES in theirs:
      np.testing.assert_allclose(_named(state.params)[PROTOTYPES], theirs[PROTOTYPES], atol=1e-6)
    report(f'updates after {after}', errors, 5e-3)


def test_metrics_and_normaliser(fixture, form):
  errors = {}
  for number, (state, metrics) in enumerate(_train(fixture, form), 1):
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
  assert min(errors.values()) > 0.5


def test_half_an_update_fails(fixture, form):
  """Nor do updates with half the learning rate."""
  state = fixture.state()
  after, _ = _train(fixture, form)[0]
  half = jax.tree.map(lambda a, b: (a + b) / 2, state.params, after.params)
  errors = update_errors(fixture, parameters(after, half), 1, masked=False)
  assert min(v for k, v in errors.items() if not k.startswith(("['slow']", "['targets']"))) > 0.4


# What only some files have
# -------------------------------------------------------------------------------------------


def only(*groups):
  """The recorded runs that have all of these groups."""

  def has(path):
    with np.load(path) as data:
      return all(any(name.startswith(f'{group}/') for name in data.files) for group in groups)

  return pytest.mark.parametrize(
    'path', [path for path in PATHS if has(path)], ids=lambda path: path.stem
  )


@only('policy')
def test_policy(path):
  """Two calls with resets between; constant draws make the mode what a draw is."""
  fixture = _load(path)
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
def test_gradients_by_loss(path):
  """Every loss by itself; parameters without a gradient there have none here."""
  fixture = _load(path)
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
    assert not any(np.asarray(ours[k]).any() for k in set(ours) - set(theirs))
    report(f'gradients of {name}', {k: relative(ours[k], theirs[k]) for k in theirs}, 1e-3)


MATMUL = pytest.mark.parametrize('form', ['matmul'], indirect=True)  # one form is enough here


@functools.cache
def _two_updates(path):
  """[(state before, gradients)] of two updates in that form. Kept, as compiling takes long."""
  fixture = _load(path)
  update, state, history = jax.jit(fixture.agent.update), fixture.state(), []
  for _ in range(2):
    state = fixture.restarted(state)
    after, _, gradients, _ = update(state, fixture.batch())
    history.append((state, gradients))
    state = after
  return history


@MATMUL
@only('grad_actor', 'grad_critic')
def test_gradients_of_the_behaviour(path, form):
  fixture = _load(path)
  gradients = _two_updates(path)[0][1]
  for name in ('actor', 'critic'):
    ours, theirs = _named(gradients[name]), _named(fixture.tree(f'grad_{name}')[name])
    assert set(ours) == set(theirs)
    report(f'gradients of the {name}', {k: relative(ours[k], theirs[k]) for k in theirs}, 1e-3)


@MATMUL
@only('grad_step2')
def test_gradients_of_the_second_update(path, form):
  """With the slow encoder, the shifts and, if they learn by then, the prototypes of that update."""
  fixture = _load(path)
  frozen = {"['prototypes']['vectors']"} if frozen_updates(fixture) > 1 else set()
  ours = _named(_two_updates(path)[1][1]['world_model'])
  theirs = _named(fixture.tree('grad_step2')['world_model'])
  assert set(ours) == set(theirs)
  report(
    'gradients of the second update',
    {k: relative(ours[k], theirs[k]) for k in set(theirs) - frozen},
    1e-3,
  )


@MATMUL
@only('forward_step2')
def test_forward_before_the_second_update(path, form):
  fixture = _load(path)
  recorded = fixture.authors.compared(fixture.group('forward_step2'))
  forward = jax.jit(lambda state, batch: fixture.authors.forward(fixture.agent, state, batch))
  ours = forward(_two_updates(path)[1][0], fixture.batch())
  assert set(recorded) <= set(ours)
  report('second forward', {k: relative(ours[k], recorded[k]) for k in recorded}, 1e-4)
