"""No run that learns nothing is taken for a result: refused before, or ended with the reason."""

import numpy as np
import pytest

from harmony_jax import envs, sampling
from harmony_jax.errors import UserError
from harmony_jax.methods import denoised_mdp
from harmony_jax.training import run_folder, setup
from tests import linear, small
from tests.runs import config_of, dreamer_of, train


def began(config):
  """Return the step at which training begins where each episode is long, by the rule itself."""
  run, agent = config.run, config.agent
  rows = run.replay_capacity // run.num_envs
  name = agent.replay.sampling
  rule = sampling.RULES[name](run.num_envs, rows, rows + 9, agent.batch_length)
  none = np.zeros(run.num_envs, bool)
  for step in range(1, 500):
    rule.note(step - 1, none | (step == 1), none | (step % 2 == 0 and name == 'episodes'))
    total = step * run.num_envs
    looked = total // run.prefill_chunk > (total - run.num_envs) // run.prefill_chunk
    if looked and rule.filled(step, agent.batch_size, agent.prefill):
      return total
  raise AssertionError


@pytest.mark.parametrize('rule', sampling.RULES)
@pytest.mark.parametrize(
  'sizes', [(4, 8, 16, 0, 8), (3, 5, 4, 0, 100), (8, 2, 1, 333, 7), (1, 4, 2, 40, 9)]
)
def test_the_first_step_of_training_is_known_before(rule, sizes):
  names = 'num_envs', 'batch_length', 'batch_size', 'prefill', 'prefill_chunk'
  config = config_of(**dict(zip(names, sizes)), steps=10_000, replay__sampling=rule)
  config.check()
  assert config.begins == began(config)
  config.replace({'steps': config.begins + 1}).check()
  with pytest.raises(UserError, match=f'nothing would be learned.* at least {config.begins + 1}$'):
    config.replace({'steps': config.begins}).check()


def test_a_capacity_below_prefill_is_refused():
  config = config_of(prefill=2000, steps=10_000)
  with pytest.raises(UserError, match=r'must be at least 2028 .*config\.prefill'):
    config.check()
  config.replace({'replay.sampling': 'inside'}).check()


CASES = {
  'episodes': (dict(replay__sampling='episodes', replay_capacity=32), 'a larger config.replay_cap'),
  'inside': (dict(replay__sampling='inside', replay_capacity=64), 'config.batch_length steps'),
  'prefill': (dict(prefill=900), 'config.prefill steps'),
  'chunk': (dict(prefill_chunk=160), 'config.prefill_chunk'),
}


@pytest.mark.parametrize('case', CASES)
def test_a_run_without_an_update_is_no_result(case, tmp_path):
  """Episodes of 8 steps that a window of 12 does not fit into, or 8 kept that hold none whole."""
  changes, told = CASES[case]
  length = 12 if case == 'inside' else 4
  config = config_of(
    **changes, batch_length=length, batch_size=1, eval_every=4000, checkpoint_every=20
  )
  config = config.replace({'replay_capacity': 28}) if case == 'episodes' else config
  with pytest.raises(UserError, match=told) as caught:
    train(tmp_path, config)
  step = 160 if case in ('prefill', 'chunk') else config.run.replay_capacity + 4
  assert f'no update in {step} steps' in str(caught.value) or step < 160
  assert not run_folder.is_recorded(tmp_path) and not (tmp_path / 'scores.jsonl').exists()


def growing(trainer):
  """Have episodes never end from step 60 on."""
  step = trainer.episodes.step

  def endless(action):
    timestep = step(action)
    if trainer.state.step >= 60:
      for flags in (timestep.is_first, timestep.is_last, timestep.is_terminal):
        flags[:] = False
    return timestep

  trainer.episodes.step = endless


def test_episodes_that_outgrow_the_replay(tmp_path, caplog):
  """It goes on with the parts that are stored, says so once, and likewise after a restart."""
  config = config_of(
    replay__sampling='episodes', replay_capacity=80, batch_length=4, batch_size=2, eval_episodes=0
  )
  whole = train(tmp_path / 'whole', config, prepare=growing)
  assert whole.state.update > 0
  assert [r.getMessage() for r in caplog.records if 'episodes have become longer' in r.getMessage()]
  assert sum('episodes have become longer' in r.getMessage() for r in caplog.records) == 1


def test_a_reward_that_no_head_can_say_is_told_once(tmp_path, capsys, monkeypatch):
  """By what DreamerV3 says of its heads; the run is one of a method that is compiled in no time."""
  largest = small.agent(small.VECTOR).largest_reward
  monkeypatch.setattr(linear.Linear, 'largest_reward', largest)

  def enlarge(trainer):
    step = trainer.env.step
    trainer.env.step = lambda *how: (found := step(*how))._replace(reward=found.reward * 1e12)

  train(tmp_path / 'run', config_of(lr=0.0), prepare=enlarge)
  told = [line for line in capsys.readouterr().out.splitlines() if 'warning: a reward' in line]
  assert len(told) == 1 and 'a reward of 1e+12 at step' in told[0]
  assert "learned as 4.85e+08, the method's largest" in told[0]


def test_ends_that_a_method_does_not_learn_are_told_once(tmp_path, capsys):
  """Denoised MDP has nothing that predicts an end; of Dreamers it can be turned off."""
  spec = envs.make('catch', 'catch', 1).spec
  made = lambda **changes: setup.make_method(dreamer_of(**changes), spec)
  assert made().learns_ends and not made(continue_head__enabled=False).learns_ends
  assert not denoised_mdp.DenoisedMDP.learns_ends

  def blind(trainer):
    trainer.method.learns_ends = False

  train(tmp_path / 'run', config_of(), prepare=blind)
  told = [line for line in capsys.readouterr().out.splitlines() if 'is terminal' in line]
  assert len(told) == 1 and 'warning: step 28 is terminal' in told[0]


def test_episodes_that_are_never_learned_from_are_told_once(tmp_path, capsys):
  """Catch has 8 steps, the first among them."""
  with pytest.raises(UserError, match='no update in 160 steps'):
    train(tmp_path / 'run', config_of(replay__sampling='inside', batch_length=9))
  told = [line for line in capsys.readouterr().out.splitlines() if 'ever learned from' in line]
  assert (
    len(told) == 1 and 'an episode of 8 steps ended at step 28: none of fewer than 9' in told[0]
  )
