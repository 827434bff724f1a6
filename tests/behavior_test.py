"""What actors and critics learn in imagination: every method's losses by loops over time in NumPy,
from facts about the authors' codes.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harmony_jax import actions
from harmony_jax.distributions import Percentiles
from harmony_jax.methods import dreamer, dreamer_v2
from harmony_jax.methods.dreamer_parts import Draws
from harmony_jax.rssm import State
from tests import small
from tests.parity_pro import mixed

ENDING = {'continue_head__enabled': True}
PRO = {**small.PRO, **ENDING}
ALIVE = np.array([1, 1, 0, 1, 1, 0], np.float32)


def starts(agent, seed=0):
  """Six latent states."""
  rng, latents = np.random.default_rng(seed), agent.rssm.latents
  normal = lambda *shape: jnp.float32(rng.normal(size=(6, *shape)))
  return State(normal(16), normal(*latents.shape), latents.zeros(6)[1])


def agent_and_state(seed=0, **case):
  """An agent whose draws are the modes, and a state; DreamerPro's needs pictures."""
  shapes = small.IMAGE if case.get('name') == 'dreamerpro' else small.VECTOR
  agent = small.agent(**{'shapes': shapes, 'deterministic': True, **case})
  return agent, small.state_of(agent, seed)


# By name: (settings, the actor's objective where it is another than the method's own).
CASES = {
  'v3, discrete': (dict(behavior__entropy=0.1, critic__slow_regularizer=0.7), None),
  'v3, continuous': (
    dict(
      discrete=False,
      critic__slow_regularizer=0.0,
      behavior__return_decay=0.3,
      behavior__return_low=20.0,
      behavior__return_high=60.0,
    ),
    None,
  ),
  'v2, discrete': (dict(name='dreamerv2', **ENDING), None),
  'v2, continuous': (dict(name='dreamerv2', discrete=False, behavior__entropy=0.5, **ENDING), None),
  'pro, continuous': ({**PRO, 'behavior__entropy': 0.5}, None),
  'pro, discrete': ({**PRO, 'discrete': True}, None),
  'pro, reinforce': (PRO, mixed(0.0)),
  'pro, mixed': (PRO, mixed(0.1)),
  'v3, two choices': (dict(discrete=False, actions=5, choices=(3, 2), behavior__entropy=0.1), None),
  'v2, with choices': (
    dict(
      name='dreamerv2', discrete=False, actions=4, choices=(2,), behavior__entropy=0.5, **ENDING
    ),
    None,
  ),
  'pro, with choices': ({**PRO, 'actions': 4, 'choices': (2,), 'behavior__entropy': 0.5}, None),
}


@pytest.mark.parametrize('case', CASES)
def test_losses_by_hand(case):
  changes, objective = CASES[case]
  agent, state = agent_and_state(**changes)
  if objective:
    agent.actor_objective = lambda: objective
  state = state.replace(normalizer=Percentiles(jnp.float32(-2.0), jnp.float32(6.0)))

  @small.jit
  def run(params):
    actor, model, critic = params['actor'], params['world_model'], params['critic']
    start = starts(agent)
    loss, (trajectory, targets, normalizer, metrics) = agent.actor_loss(
      actor, params, state, start, jnp.asarray(ALIVE), Draws()
    )
    slow = state.targets['critic']
    policy, feature = agent.actor.policy(actor, trajectory.feature), trajectory.feature
    return dict(
      loss=loss,
      targets=targets,
      critic_loss=agent.critic_loss(critic, slow, trajectory, targets)[0],
      range=(normalizer.low, normalizer.high),
      advantage=metrics['actor/advantage'],
      reward=agent.reward.mean(model['reward'], feature),
      fast=agent.critic.mean(critic, feature),
      slow=agent.critic.mean(slow, feature),
      error=errors(agent, critic, slow, feature, targets),
      logit=agent.continue_logit(model, feature),
      entropy=policy.entropy(),
      likely=policy.log_prob(trajectory.action),
    )

  found = {k: np.asarray(v, np.float64) for k, v in run(state.params).items()}
  b, v3, pro = agent.settings.behavior, case[:2] == 'v3', case[:3] == 'pro'
  gamma, lam, horizon = b.discount, b.lam, b.horizon
  reward, logit, value = found['reward'], found['logit'], found['fast' if v3 else 'slow']
  # DreamerV3 takes the mode of the head, which predicts 1; the others its mean, which is γ.
  discount = gamma * (logit > 0) if v3 else 1 / (1 + np.exp(-logit))
  assert 0 < (logit > 0).mean() < 1
  if not pro:  # that asks the head about the first state, too
    discount[0] = gamma * ALIVE
  returns, future = [0.0] * horizon, value[horizon]
  for t in reversed(range(horizon)):
    at = t + 1 if v3 else t  # whose reward comes first
    future = reward[at] + discount[at] * ((1 - lam) * value[t + 1] + lam * future)
    returns[t] = future
  returns = np.stack(returns)
  weight = np.ones_like(discount)
  for t in range(horizon):
    weight[t + 1] = weight[t] * discount[t]
  if v3:
    weight = weight * discount / gamma
  scale = 1.0
  if v3:
    range_ = np.percentile(returns, [b.return_low, b.return_high])
    range_ = b.return_decay * np.array([-2.0, 6.0]) + (1 - b.return_decay) * range_
    np.testing.assert_allclose(found['range'], range_, rtol=1e-4)
    scale = max(1.0, range_[1] - range_[0])
    assert scale > 2
  lead = 1 if case[:2] == 'v2' else 0  # an action is judged by the return after its own state
  count = horizon - lead
  judged = returns[lead:]
  baseline = found['fast'] if pro else value  # DreamerPro's returns alone are of the slow critic
  advantage = (judged - baseline[:count]) / scale
  likely = found['likely'][:count] * advantage
  own = {
    'v3, continuous': advantage,
    'v2, continuous': judged,
    'pro, continuous': judged,
    'pro, mixed': 0.1 * judged + 0.9 * likely,
  }.get(case, likely)
  bonus = b.entropy * found['entropy'][:count]
  np.testing.assert_allclose(found['loss'], -(weight[:count] * (own + bonus)).mean(), rtol=1e-4)
  np.testing.assert_allclose(found['advantage'], advantage.mean(), rtol=1e-3, atol=1e-5)
  # The authors' in-place addition reaches the critic's targets where returns are the objective.
  if case == 'v2, continuous':
    returns = np.concatenate([returns[:1], judged + bonus])
  np.testing.assert_allclose(found['targets'], returns, rtol=1e-3, atol=1e-4)
  error = found['error']
  if not v3:
    np.testing.assert_allclose(
      error, 0.5 * (found['fast'][:horizon] - returns) ** 2, rtol=1e-2, atol=1e-4
    )
  np.testing.assert_allclose(found['critic_loss'], (weight[:horizon] * error).mean(), rtol=1e-4)


def errors(agent, critic, slow, feature, targets):
  """Each state's loss of a critic: by its targets, and by the slow critic's mean in DreamerV3."""
  out, loss = agent.critic(critic, feature[:-1]), agent.critic.scalar.loss
  share = agent.settings.critic.slow_regularizer
  return loss(out, targets) + share * loss(out, agent.critic.mean(slow, feature[:-1]))


def test_gradients_of_the_objectives():
  """Of what each is a function, and how strongly: of (mean of the policy, action, R, A)."""
  kinds = dreamer.reinforce, dreamer.dynamics, dreamer_v2.dynamics, mixed(0.1)
  assert [kind.through_dynamics for kind in kinds] == [False, True, True, True]
  values = [jnp.float32(x) for x in (0.3, 0.7, 5.0, 2.0)]

  def objective(kind):
    policy = lambda mean: actions.Normal(mean[None], jnp.ones(1))
    return lambda mean, action, returns, advantage: kind.objective(
      policy(mean), action[None], returns, advantage
    )

  found = [jax.grad(objective(kind), (0, 1, 2, 3))(*values) for kind in kinds]
  likely = (0.7 - 0.3) * 2.0  # ∂ log N(a; μ, 1) / ∂μ times the advantage
  wanted = [(likely, 0, 0, 0), (0, 0, 0, 1), (0, 0, 1, 0), (0.9 * likely, -0.9 * likely, 0.1, 0)]
  np.testing.assert_allclose(found, wanted, rtol=1e-5)


@pytest.mark.parametrize('name', ['dreamerv2', 'dreamerpro'])
def test_the_actor_learns_from_a_head_that_the_features_do_not(name):
  """A continue head outside the authors' `grad_heads` sends its training loss no further than
  itself; what it predicts in imagination still has a gradient with respect to the actions.
  """
  case = {**(small.PRO if name == 'dreamerpro' else {}), 'name': name, 'discrete': False}

  def gradient_of(flows):
    agent, state = agent_and_state(**case, **ENDING, continue_head__gradient=flows)

    @small.jit
    def gradient(params):
      loss = lambda actor: agent.actor_loss(
        actor, params, state, starts(agent), jnp.asarray(ALIVE), Draws()
      )[0]
      return jax.grad(loss)(params['actor'])

    return gradient, state.params

  (one, params), (other, _) = gradient_of(True), gradient_of(False)
  leaves = lambda tree: np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])
  with_head, without = leaves(one(params)), leaves(other(params))
  np.testing.assert_allclose(without, with_head, rtol=1e-5, atol=1e-9)
  # The head's own gradient is a part of it: γ in its place is another one.
  model = {**params['world_model']}
  model['continue'] = jax.tree.map(jnp.zeros_like, model['continue'])
  constant = leaves(other({**params, 'world_model': model}))
  assert np.abs(constant - without).max() > 1e-3 * np.abs(without).max()


def test_features_learn_from_the_continue_loss_where_they_are_let():
  batch = small.batch(small.VECTOR, discrete=False)
  for flows in (True, False):
    agent, state = agent_and_state(
      name='dreamerv2', discrete=False, **ENDING, continue_head__gradient=flows
    )
    loss = lambda params, agent=agent, state=state: agent.losses(
      params, state, batch, state.carry, Draws()
    )[0]['continue']
    found = small.jit(jax.grad(loss))(state.params['world_model'])
    any_ = {k: any(leaf.any() for leaf in jax.tree.leaves(v)) for k, v in found.items()}
    assert any_.pop('continue')
    assert {k for k, v in any_.items() if v} == ({'encoder', 'rssm'} if flows else set())
