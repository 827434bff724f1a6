"""Environments of other packages that are JAX themselves: gymnax (MinAtar), Craftax, navix.

Command:   python -m experiments.jax_envs --env=gymnax:Breakout-MinAtar; whole runs as one program:
           python -m experiments.study --env=gymnax:Breakout-MinAtar
Protocol:  none of a paper; `paper` is the method's own sizes
Hardware:  2 CPU cores for `cpu`
Score:     the package's own rewards; no run has been measured
"""

from harmony_jax.method import Traits

from .common import SHORT_HARMONY, Preset, quick

SUITE, TASK_FLAG, DEFAULT_TASK = 'jax_envs', 'env', 'gymnax:Breakout-MinAtar'
HOURS = {'paper': None, 'cpu': None, 'debug': None, 'tiny': None}
TRAITS = Traits(ends_early=True, discrete=True)
RUN = {
  'num_envs': 8,
  'steps': 500_000,
  'replay_capacity': 500_000,
  'eval_every': 10_000,
  'eval_envs': 32,
  'eval_episodes': 32,
  'final_eval_episodes': 128,
}

CPU = {
  'steps': 48_000,
  'train_ratio': 16.0,
  'replay_capacity': 50_000,
  'eval_every': 8_000,
  'checkpoint_every': 16_000,
  'video_every': 24_000,
  'log_every': 800,
  'prefill': 0,
}
SHORT = {**CPU, 'eval_envs': 4, 'eval_episodes': 4, 'final_eval_episodes': 4, 'prefill_chunk': 8}
SHORT |= {'log_every': 80}
FAMILY = {'dreamer': {**SHORT_HARMONY, 'encoder.mlp_units': 128, 'decoder.mlp_units': 128}}
PRESETS = {'paper': Preset(), 'cpu': Preset('small', CPU, FAMILY), **quick(SHORT, 320, FAMILY)}
