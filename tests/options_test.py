"""Settings that no recorded run turns on, and where each is held to an answer.

setting                             the answer
continue_head.gradient, .scale      behavior_test, dreamer_test: losses by hand
losses.free_average, dyn, rep       dreamer_test: losses by hand
weighting.tasks, w_o, w_r, w_d      dreamer_test: a table of totals
weighting.decay, window, alpha      dreamer_test: settings reach their rules
weighting.harmonize_vector          dreamer_test: losses by hand
behavior.return_decay, _low, _high  behavior_test: losses by hand
critic.slow_regularizer             behavior_test: losses by hand
actor_grad both, reinforce          behavior_test: losses by hand, gradients of the objectives
optimiser kind, weight_decay        dreamerpro_test: one update of zero gradient
prototypes.norm, temperature, …     dreamerpro_test: losses by hand
rssm.action_clip, unimix, initial   networks_test: Haiku's cell, and what is_first forgets
actor.distribution, samples         distributions_test
reciprocal's epsilon                harmony_test
slow_every, slow_fraction, freeze   below
eval_policy mode, replay.*          tests of the loop and the replay

of TD-MPC, and of Denoised MDP
td_target model, discount, noise    tdmpc_test: the target by hand
importance batch                    parity_tdmpc: the losses of the authors' older code
planning.action mean, horizon, last tdmpc_test: a model that pays for one action
slow_every, replay.ends, .frames    tdmpc_test: an update, windows, stacks in order
sac.target paper, sac.tau           denoised_mdp_test: target and slow values by hand
losses.free_y, beta_x, weighting.*  denoised_mdp_test: KLs and totals by hand
rssm.z_sees_y, no y, no z, .tries   denoised_mdp_test: who knows of whom, counts, the likeliest
replay.ends, eval_as                denoised_mdp_test: windows, a run's seeds and scores
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import small


@pytest.mark.parametrize('name', ('dreamerv3', 'dreamerpro'))
def test_slow_copies(name):
  """The critic's by its own period and fraction, those of the prototypes by theirs: of numbers 0
  and 1, after updates 0 … 6.
  """
  periods = dict(critic__slow_every=3, critic__slow_fraction=0.25)
  pro = dict(prototypes__slow_every=2, prototypes__slow_fraction=0.5)
  agent = small.agent(**{**({**small.PRO, **pro} if name == 'dreamerpro' else {}), **periods})
  state = small.state_of(agent)
  fill = lambda value, tree: jax.tree.map(lambda x: np.full(x.shape, value, np.float32), tree)
  state = state.replace(targets=fill(0.0, state.targets))
  after = fill(1.0, state.params)
  copies = small.jit(lambda step: agent.slow_copies(state.replace(step=step), after))
  wanted = {'critic': [1, 0, 0, 0.25, 0, 0, 0.25]}
  if name == 'dreamerpro':
    wanted['world_model'] = [1, 0, 0.5, 0, 0.5, 0, 0.5]
  for step in range(7):
    found = copies(jnp.int32(step))
    assert set(found) == set(wanted)
    for entry, values in wanted.items():
      for leaf in jax.tree.leaves(found[entry]):
        np.testing.assert_array_equal(leaf, np.full(leaf.shape, values[step]))


def test_prototypes_are_frozen_at_first():
  agent = small.agent(**small.PRO, prototypes__freeze=2)
  ones = lambda x: np.ones(x.shape, x.dtype)
  gradient = jax.device_put(jax.tree.map(ones, small.params_of(agent)['world_model']))
  for step, frozen in ((0, True), (1, True), (2, False), (3, False)):
    left = agent.objective.mask(gradient, jnp.int32(step))
    assert bool(left['prototypes'].pop('vectors').any()) != frozen
    assert all((leaf == 1).all() for leaf in jax.tree.leaves(jax.device_get(left)))
