"""Settings that others make idle are declared (`setting(only=…)`), and told."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from absl import flags

from configs import dmc
from experiments import launcher
from harmony_jax import envs, method, settings
from harmony_jax.envs import catch
from harmony_jax.errors import UserError
from tests import small
from tests.runs import dreamer_of
from tests.tdmpc_test import SMALLER

TOLD = {  # (method, other settings, setting, why it is idle; '' where it is not)
  'alpha': ('denoised_mdp', {'weighting.rule': 'harmony'}, 'losses.alpha=2', 'weighting.rule=none'),
  'used': ('denoised_mdp', {'weighting.rule': 'none'}, 'losses.alpha=2', ''),
  'part': ('denoised_mdp', {}, 'losses.beta_z=0.5', 'rssm.z.deter'),
  'group': ('denoised_mdp', {}, 'sac.tau=0.1', 'behavior.learner=sac'),
  'kls': ('denoised_mdp', {}, 'weighting.kl=apart', 'weighting.rule!=none|fixed'),
  'pictures': ('tdmpc', {}, 'channels=8', 'pictures'),
  'sibling': ('dreamerv2', {}, 'critic.bins=41', 'critic.distribution=two_hot'),
  'range': ('dreamerv2', {}, 'behavior.return_low=1', 'method!=dreamerv2|dreamerpro'),
  'slow': ('dreamerv3', {'critic.slow_regularizer': 0.0}, 'critic.slow_every=3', 'method!='),
  'slow of v2': ('dreamerv2', {}, 'critic.slow_every=3', ''),
  'head': ('dreamerv2', {}, 'continue_head.scale=3', 'continue_head.enabled'),
  'switch': ('dreamerv2', {}, 'continue_head.enabled=False', ''),
  'tasks': (
    'dreamerv3',
    {'weighting.rule': 'fixed', 'weighting.tasks': ('dynamics',)},
    'weighting.w_r=100',
    'weighting.tasks=reward',
  ),
  'videos': ('dreamerv3', {}, 'video_every=100', 'pictures report'),
  'environment': ('dreamerv3', {'env.distractors': 0}, 'env.drift=2', 'env.distractors'),
}


@pytest.mark.parametrize('case', TOLD)
def test_a_setting_that_others_make_idle_is_told(case):
  name, others, text, why = TOLD[case]
  config = dataclasses.replace(small.run_config(name), env=settings.flatten(catch.Options()))
  config = config.replace(others).override([text])
  spec = small.spec({'state': (3,)}, discrete=False)
  told = [line for line in launcher.idle(config, [text], spec) if text.partition('=')[0] in line]
  assert len(told) == bool(why)
  assert not why or f'changes nothing here: it is for {why}' in told[0]


def test_a_method_that_shows_nothing_makes_no_videos():
  config, texts = dreamer_of('tests.linear:METHOD'), ['video_every=100']
  assert not launcher.idle(config, texts, small.spec(), {'report': None})
  assert 'it is for pictures report' in launcher.idle(config, texts, small.spec(), {})[0]


def test_flags_of_a_suite_are_settings_like_others():
  """Without pictures there is nothing to render, whoever says it."""
  options = flags.FlagValues()
  launcher.define_flags(dmc, options)
  options(['dmc', '--render=fast'])
  config, _ = launcher.make_config(dmc, options, ['env.observe=state'], False)
  (told,) = launcher.idle(config, [*launcher.given(dmc, options)])
  assert told.startswith('config.env.render changes nothing here')
  launcher.make_config(dmc, options, ['env.render=fast'], False)
  with pytest.raises(
    UserError, match="config.env.render is 'fast' by a flag of its own and 'stock'"
  ):
    launcher.make_config(dmc, options, ['env.render=stock'], False)


def test_plans_are_not_longer_than_sequences():
  config = small.run_config('tdmpc', planning__horizon__end=9.0)
  told = f'{config.agent.batch_length - 1} steps'
  assert launcher.idle(config, ['planning.horizon.end=9'])[0].endswith(told)
  assert not launcher.idle(config, ['planning.samples=64'])


def test_an_episode_of_the_suite_is_not_made_longer():
  for suite in ('dmc', 'dmcr'):
    with pytest.raises(ValueError, match='env.time_limit is 1001: it must be at most 1000'):
      envs.options(suite).of({'time_limit': 1001})


# --------------------------------------------------------------------------------------------------

DENOISED: dict = dict(method.entry('denoised_mdp').sizes['toy'])
BUFFERED = {'replay', *(field.name for field in dataclasses.fields(method.MethodSettings))}
CASES = {
  'denoised_mdp': ('denoised_mdp', {'image': (64, 64, 3)}, False, DENOISED),
  'dreamerv2': ('dreamerv2', small.VECTOR, False, small.SIZES),
  'dreamerv3': ('dreamerv3', small.IMAGE, True, small.SIZES),
  'dreamerpro': ('dreamerpro', small.IMAGE, False, small.SIZES),
  'tdmpc': ('tdmpc', {'state': (5,)}, False, SMALLER),
  'sac': (
    'denoised_mdp',
    {'image': (64, 64, 3)},
    False,
    {**DENOISED, 'behavior.learner': 'sac', 'eval_policy': 'sample'},
  ),
}


def watched(tree: Any, read: set[str], prefix: str = '') -> Any:
  """Settings that note which of them are read."""
  kind: Any = type(tree)
  names = {field.name for field in dataclasses.fields(tree)}

  class Watched(kind):
    def __getattribute__(self, name):
      if name in names:
        read.add(prefix + name)
      return super().__getattribute__(name)

    __hash__ = object.__hash__
    __eq__ = object.__eq__

  made = object.__new__(Watched)
  for name in names:
    value = getattr(tree, name)
    inner = dataclasses.is_dataclass(value)
    object.__setattr__(made, name, watched(value, read, f'{prefix}{name}.') if inner else value)
  return made


@pytest.mark.parametrize(
  'case',
  [
    each if each == 'denoised_mdp' else pytest.param(each, marks=pytest.mark.slow) for each in CASES
  ],
)
def test_what_no_program_reads_is_declared(case):
  """Of all settings of a method by itself; what a rule leaves out is `weighting.idle`'s."""
  name, shapes, discrete, changes = CASES[case]
  spec, read = small.spec(shapes, 3, discrete), set()
  chosen = settings.replace(method.entry(name).settings, changes)
  agent = method.entry(name).make(watched(chosen, read), spec)
  rows = chosen.batch_size, chosen.batch_length + agent.lead
  batch = small.batch(shapes, 3, discrete, *rows)
  batch |= {'before': jnp.zeros((rows[0], 3))} if chosen.replay.first_action else {}
  state = jax.eval_shape(agent.init, jax.random.key(0))
  jax.eval_shape(agent.train_step, state, batch)
  seen, first = {k: batch[k][:2, 0] for k in shapes}, jnp.ones(2, bool)

  def act(state, mode):
    variables = agent.variables(state)
    carry = agent.initial_carry(variables, 2)
    return agent.act(variables, carry, seen, first, jax.random.key(0), mode=mode)

  jax.eval_shape(lambda state: act(state, chosen.eval_policy == 'mode'), state)
  jax.eval_shape(lambda state: act(state, False), state)
  values = {'method': name, **settings.flatten(chosen), **launcher._kinds(spec)}
  unread = {
    each.name: settings.lacking(each, values)
    for each in settings.describe(chosen)
    if each.name not in read and each.name.partition('.')[0] not in BUFFERED
  }
  assert not [name for name, why in unread.items() if not why and name[:10] != 'weighting.']
