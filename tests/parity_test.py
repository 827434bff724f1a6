"""Our numbers against the authors' own, over every recorded run `*v3_*.npz` in $HARMONY_PARITY_DIR.

Tolerances: forward outputs 1e-4 and gradients 1e-3 of each array's largest magnitude, updates 5e-3 per tensor as
‖Δ - Δ*‖ / ‖Δ*‖ with Δ = after - before, since comparing parameters would pass without any update at all.

Both forms of the strided convolutions are held to all of it (`conv` is the authors' arithmetic, `matmul` what runs on
a CPU), with one difference: Adam's first steps turn every gradient into a full step of its sign, rounding noise
included. `matmul` rounds in another order, so its updates leave out elements whose recorded gradient is below 1e-6 of
their tensor's largest but not zero (float32 resolves 1e-7); at most one element in a thousand may be left out.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harmony_jax import convolution, distributions
from harmony_jax.agent import shift_actions
from tests import parity

PATHS = sorted(parity.FOLDER.glob('*v3_*.npz')) if parity.FOLDER.is_dir() else []
FORMS = ('conv', 'matmul')

pytestmark = pytest.mark.skipif(
    not PATHS, reason=f'no recorded runs *v3_*.npz in {parity.FOLDER} (set HARMONY_PARITY_DIR)')


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def fixture(request):
  return _load(request.param)


@pytest.fixture(params=FORMS)
def form(request, monkeypatch):
  monkeypatch.setattr(convolution, 'default_form', lambda: request.param)
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
  batch, state, agent = fixture.batch(), fixture.state(), fixture.agent
  recorded, model = fixture.group('forward'), agent.world_model
  params, latent = state.params['world_model'], state.carry.latent
  previous = shift_actions(batch['action'], state.carry.action)

  @jax.jit
  def forward(params):
    total, (_, out, _) = model.loss(params, state.weighting, latent, batch, previous, None)
    return total, out, model.step_losses(out, batch), _imagination(agent, state, params, out, batch)

  total, out, losses, imagined = forward(params)
  ours = {
      'initial_deter': latent.deter, 'initial_stoch': latent.stoch, 'embed': out.embed,
      'post_deter': out.posterior.deter, 'post_stoch': out.posterior.stoch, 'post_logit': out.posterior.logit,
      'prior_logit': out.prior_logit, 'image_mean': out.decoded['image'], 'reward_logits': out.reward_logits,
      'reward_mean': distributions.two_hot_mean(out.reward_logits), 'cont_mean': jax.nn.sigmoid(out.continue_logit),
      'image_loss': losses['observation'], 'reward_loss': losses['reward'], 'cont_loss': losses['continue'],
      'dyn_loss': losses['dyn'], 'rep_loss': losses['rep'], 'world_model_loss': total, **imagined}
  assert set(ours) == set(recorded), set(ours) ^ set(recorded)
  report('forward', {k: relative(ours[k], recorded[k]) for k in recorded}, 1e-4)


def _imagination(agent, state, params, out, batch):
  """The recorded imagination: `imag_horizon` steps from every posterior state, with the parameters as given."""
  behavior = agent.behavior
  start = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), out.posterior)
  not_terminal = 1 - batch['is_terminal'].astype(jnp.float32).reshape(-1)
  trajectory = behavior.imagine(agent.world_model, params, state.params['actor'], start, not_terminal, (None, None))
  returns, value, reward = behavior.evaluate(agent.world_model, params, state.params['critic'], trajectory)
  policy = behavior.actor(state.params['actor'], trajectory.feature)
  return {
      'imag_deter': trajectory.states.deter, 'imag_stoch': trajectory.states.stoch, 'imag_action': trajectory.action,
      'imag_cont': trajectory.keep, 'imag_weight': trajectory.weight, 'imag_return': returns, 'imag_value': value,
      'imag_reward': reward, 'actor_entropy': behavior.actor.entropy(policy),
      'actor_logprob_of_action': behavior.actor.log_prob(policy, trajectory.action)}


def test_gradients(fixture, form):
  batch, state, model = fixture.batch(), fixture.state(), fixture.agent.world_model
  previous = shift_actions(batch['action'], state.carry.action)
  loss = lambda params: model.loss(params, state.weighting, state.carry.latent, batch, previous, None)[0]
  ours = _named(jax.jit(jax.grad(loss))(state.params['world_model']))
  theirs = _named(parity.to_tree(fixture.group('grad'))['world_model'])
  assert set(ours) == set(theirs), set(ours) ^ set(theirs)
  report('gradients', {k: relative(ours[k], theirs[k]) for k in theirs}, 1e-3)


def _named(tree):
  return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _train(fixture, form='conv'):
  """State and metrics after each of three updates on the recorded batch. Kept, as compiling takes long."""
  if form not in fixture.history:
    step, state, history = jax.jit(fixture.agent.train_step), fixture.state(), []
    for _ in range(3):
      state, metrics = step(state, fixture.batch())
      history.append((state, metrics))
    fixture.history[form] = history
  return fixture.history[form]


def update_errors(fixture, params, slow, after, masked):
  """‖Δ - Δ*‖ / ‖Δ*‖ per tensor, `masked` without the elements whose gradient is rounding noise."""
  ours, before = _named({**params, 'slow': slow}), _named(parity.to_tree(fixture.group('param')))
  theirs = _named(parity.to_tree(fixture.group(f'after_step_{after}')))
  gradients = _named({'world_model': parity.to_tree(fixture.group('grad'))['world_model']})
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
  names = {'loss/world_model': 'model_opt_loss', 'loss/actor': 'actor_opt_loss',
           'loss/critic': 'extr_critic_critic_opt_loss', 'grad_norm/world_model': 'model_opt_grad_norm',
           'grad_norm/actor': 'actor_opt_grad_norm', 'grad_norm/critic': 'extr_critic_critic_opt_grad_norm',
           'loss/reward': 'reward_loss_mean', 'loss/observation': 'image_loss_mean', 'loss/continue': 'cont_loss_mean',
           'loss/dynamics': 'dyn_loss_mean', 'actor/entropy': 'policy_entropy_mean',
           'return/imagined': 'extr_return_raw_mean', 'actor/advantage': 'adv_mean'}
  errors = {}
  for number, (state, metrics) in enumerate(_train(fixture, form)):
    recorded = fixture.meta['metrics'][number]
    for ours, theirs in names.items():
      errors[f'{ours} {number + 1}'] = relative(metrics[ours], recorded[theirs])
    stored = fixture.group(f'after_step_{number + 1}/agent/task_behavior/ac/retnorm_extr')
    errors[f'low {number + 1}'] = relative(state.normalizer.low, stored['low/value'])
    errors[f'high {number + 1}'] = relative(state.normalizer.high, stored['high/value'])
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
