"""What the benchmarks' configurations share: the settings of a run, and how presets change them."""

from ml_collections import ConfigDict

from configs import dreamerpro, dreamerv2, dreamerv3
from harmony_jax.configuration import flatten
from harmony_jax.errors import UserError

METHODS = {
  'dreamerv3': dreamerv3.get_config,
  'dreamerv2': dreamerv2.get_config,
  'dreamerpro': dreamerpro.get_config,
}
PRESETS = ('auto', 'paper', 'cpu', 'debug', 'tiny')
WEIGHTINGS = ('harmony', 'none', 'harmony_unrectified', 'fixed', 'reciprocal')

# The smaller model of the presets for CPUs: 1.6 million parameters in place of 18.
SMALL = {
  'encoder.depth': 32,
  'encoder.patch': 8,
  'decoder.depth': 32,
  'decoder.patch': 8,
  'rssm.deter': 256,
  'rssm.units': 128,
  'rssm.stoch': 16,
  'rssm.classes': 16,
  'reward_head.units': 128,
  'continue_head.units': 128,
  'actor.units': 128,
  'critic.units': 128,
  'batch_size': 8,
  'batch_length': 16,
  'behavior.horizon': 8,
  'model_opt.lr': 1e-3,
  'actor_opt.lr': 3e-4,
  'critic_opt.lr': 5e-4,
}
# A rule for the harmonizers of short runs. At the paper's rate (1e-4) s = log σ moves by at most
# 0.1 in 1,000 updates, and with Adam's usual memory (β₂ = 0.999) by 0.5 in the long run whatever
# the rate, so that in the 5,500 updates of the catch game σ would stay far from its optimum. With
# the model's rate of 1e-3 and β₂ = 0.99 it moves by 0.9 in 1,000 updates: it arrives within the
# run, but not before the model has learned to use its latent state at weights near 1.
SHORT_HARMONY = {'weighting.rate': 1.0, 'weighting.beta2': 0.99}
# Smaller still, for a look at whether everything works.
TOY = {
  **SMALL,
  'rssm.deter': 64,
  'rssm.units': 32,
  'rssm.stoch': 8,
  'rssm.classes': 8,
  'encoder.depth': 16,
  'decoder.depth': 16,
  'reward_head.units': 32,
  'continue_head.units': 32,
  'actor.units': 32,
  'critic.units': 32,
  'batch_size': 4,
  'batch_length': 16,
  'behavior.horizon': 5,
}


# What every preset but `paper` changes first, by method: the patches of SMALL need the strided
# layers of DreamerV3, and the entropy bonus is relative to returns that DreamerV3 normalises and
# DreamerV2 does not.
SMALL_BY_METHOD = {
  'dreamerv3': {'behavior.entropy': 2e-2},
  'dreamerv2': {
    'encoder.padding': 'same',
    'decoder.padding': 'same',
    'reward_head.layers': 2,
    'prefill': 0,
    'pretrain': 1,
    'continue_head.layers': 2,
    'actor.layers': 2,
    'critic.layers': 2,
  },
}
SMALL_BY_METHOD['dreamerpro'] = {
  **SMALL_BY_METHOD['dreamerv2'],
  'prototypes.count': 256,
  'actor.samples': 20,
  'prototypes.freeze': 500,
}  # a tenth of a short run, as 10,000 are of a long one
# DreamerV2 where episodes can end early and actions are discrete (not among the paper's runs of
# it).
ENDING = {'continue_head.enabled': True, 'behavior.entropy': 1e-3}
ENDING_PRO = {**ENDING, 'behavior.known_ends': False}  # DreamerPro's authors ask the head


def run_settings() -> dict:
  """Settings of a run that are not the method's. Steps are agent steps (frames / action_repeat)."""
  return dict(
    suite='',  # the benchmark: chosen by the command
    task='',  # chosen by --game, --task or --env
    preset='paper',  # sizes: chosen by --preset
    seed=0,  # of the whole run: chosen by --seed
    steps=100_000,  # agent steps of the whole run
    num_envs=1,  # environments that step together in training
    env={},  # options of the environment: a table per suite below
    eval_env={},  # those of evaluation where they differ
    # what is reported: the return of an episode, or a measure like 'success'
    score='return',
    env_processes=False,  # each environment in a process of its own
    replay_capacity=1_000_000,  # steps; a 100K run never fills more than 100,000
    devices=0,  # of this process, that share the batch; 0: as many as can
    replay_on='auto',  # host, device, or auto: on an accelerator that has room for it
    prefill_chunk=100,  # whether training can begin is looked at after every so many steps
    eval_every=5_000,  # steps between two evaluations
    eval_episodes=100,  # episodes of an evaluation
    final_eval_episodes=100,  # episodes of the last one
    eval_envs=16,  # environments that evaluate side by side
    log_every=250,  # steps between two lines of metrics
    checkpoint_every=5_000,  # steps between two checkpoints
    video_every=10_000,
  )  # steps between two open-loop videos; 0: none


def build(method: str, **settings) -> ConfigDict:
  """The configuration of a method with a benchmark's settings."""
  config = METHODS[method]()
  with config.unlocked():
    config.update({**run_settings(), **settings})
  return config


def apply_preset(config: ConfigDict, preset: str, changes: dict) -> ConfigDict:
  """Applies what the method needs at smaller sizes, then {'some.field': value}, and names the
  preset.
  """
  if preset != 'paper':
    config.update_from_flattened_dict(SMALL_BY_METHOD[config.method])
  config.update_from_flattened_dict(changes)
  config.preset = preset
  return config


def suite_config(
  method: str, preset: str, suite: str, settings: dict, by_method: dict, presets: dict
) -> ConfigDict:
  """A suite's configuration: the method's, with the suite's `settings`, its settings for the
  method, and the preset's.

  Args:
    settings: of the run, as of `run_settings`.
    by_method: {method: {'some.field': value}}: what the paper's authors changed for this suite.
    presets: {name: {'some.field': value}}.
  """
  config = build(method, suite=suite, **settings)
  config.update_from_flattened_dict(by_method[method])
  return apply_preset(config, preset, presets[preset])


# Settings that are names.
CHOICES = {
  'method': tuple(METHODS),
  'preset': PRESETS[1:],
  'compute_dtype': ('float32', 'bfloat16'),
  'eval_policy': ('sample', 'mode'),
  'network.normalization': ('layer', 'none'),
  'network.activation': ('silu', 'elu', 'relu', 'tanh'),
  'network.init': ('normal', 'uniform'),
  'losses.likelihood': ('symlog', 'gaussian'),
  **{f'{net}.kind': ('plain', 'residual') for net in ('encoder', 'decoder')},
  **{f'{net}.padding': ('same', 'valid') for net in ('encoder', 'decoder')},
  **{f'{head}.distribution': ('two_hot', 'gaussian') for head in ('reward_head', 'critic')},
  'continue_head.predicts': ('continue', 'discount'),
  'actor.distribution': ('normal', 'trunc_normal', 'tanh_normal'),
  'behavior.gradient': ('auto', 'reinforce', 'dynamics', 'both'),
  'rssm.latent': ('categorical', 'gaussian'),
  'rssm.gru_init': ('fan_in', 'style'),
  **{f'{each}_opt.kind': ('adam', 'tensorflow') for each in ('model', 'actor', 'critic')},
  'behavior.reward_of': ('next', 'present'),
  'behavior.value': ('fast', 'slow'),
  'behavior.keep': ('mode', 'mean'),
  'replay.sampling': ('windows', 'episodes'),
  'replay_on': ('auto', 'host', 'device'),
  'weighting.rule': WEIGHTINGS,
  'weighting.dynamics_regularizer': ('code', 'paper'),
}

# What can only be 1 or more wherever it stands, and what is between 0 and 1.
SIZES = (
  'depth',
  'minres',
  'patch',
  'units',
  'mlp_units',
  'deter',
  'stoch',
  'classes',
  'bins',
  'horizon',
  'slow_every',
  'count',
  'size',
  'samples',
)
SHARES = (
  'behavior.discount',
  'behavior.lam',
  'behavior.return_decay',
  'rssm.unimix',
  'actor.unimix',
  'critic.slow_fraction',
  'weighting.beta2',
)


def _impossible_numbers(config):
  """Yields (field, value, what it must be) of numbers that no setting can have."""
  for name, value in flatten(config).items():
    if isinstance(value, bool) or not isinstance(value, (int, float)):
      continue
    least = 1 if name.split('.')[-1] in SIZES else 0
    if not abs(value) < 2**63:  # nor is NaN
      yield name, value, 'a number below 2^63'
    elif name.split('.')[0] in ('env', 'eval_env'):  # an environment knows its options
      continue
    elif value < least:
      yield name, value, f'at least {least}'
    elif name in SHARES and value > 1:
      yield name, value, 'at most 1'


def check(config: ConfigDict):
  """Refuses values that no run can have.

  Raises:
    UserError: names the field, its value and what it must be.
  """

  def refuse(name, value, wanted):
    raise UserError(f'config.{name} is {repr(value)[:100]}: it must be {wanted}')

  for name, value, wanted in _impossible_numbers(config):
    refuse(name, value, wanted)
  for name in (
    'steps',
    'num_envs',
    'batch_size',
    'replay_capacity',
    'eval_every',
    'final_eval_episodes',
    'eval_envs',
    'log_every',
    'checkpoint_every',
    'prefill_chunk',
    'pretrain',
  ):
    if config[name] < 1:
      refuse(name, config[name], 'at least 1')
  if config.skip_nonfinite < 0:
    refuse('skip_nonfinite', config.skip_nonfinite, 'at least 0')
  if config.batch_length < 2:
    refuse('batch_length', config.batch_length, 'at least 2')
  if not config.train_ratio > 0:
    refuse('train_ratio', config.train_ratio, 'above 0')
  for name, choices in CHOICES.items():
    section, _, field = name.rpartition('.')
    value = (config[section] if section else config)[field]
    if value not in choices:
      refuse(name, value, f'one of {", ".join(choices)}')
  unknown = sorted(set(config.weighting.tasks) - {'observation', 'reward', 'dynamics'})
  if unknown:
    refuse('weighting.tasks', unknown[0], 'a list of observation, reward, dynamics')
  needed = config.batch_size * config.batch_length // config.num_envs + config.batch_length
  if config.replay_capacity // config.num_envs < needed:
    refuse(
      'replay_capacity',
      config.replay_capacity,
      f'at least {needed * config.num_envs} to hold a first batch, by '
      'config.batch_size, config.batch_length and config.num_envs',
    )
