"""Any Gymnasium environment, with image or vector observations.

Command:   python -m experiments.gym --env=CartPole-v1 [--observe=render]
Protocol:  none of a paper; `paper` is the method's own sizes. An environment of your own:
           docs/own_environment.md
Hardware:  2 CPU cores for `cpu`
"""

from harmony_jax.method import Traits

from .common import SHORT_HARMONY, Preset

SUITE, TASK_FLAG, DEFAULT_TASK = 'gym', 'env', 'CartPole-v1'
ENV_FLAGS = {
  'observe': ('env.observe', 'auto: what the environment gives; render: its picture; both.')
}
HOURS = {'paper': None, 'cpu': None, 'debug': 1 / 60, 'tiny': 0.5 / 60}
TRAITS = Traits(ends_early=True, discrete=True)
RUN = {
  'steps': 500_000,
  'replay_capacity': 500_000,
  'eval_every': 10_000,
  'eval_share': 0.1,
  'eval_episodes': 20,
  'final_eval_episodes': 100,
  'eval_envs': 10,
}
BY_METHOD = {'dreamerv3': {'train_ratio': 512.0}}

CPU = {
  'steps': 30_000,
  'train_ratio': 32.0,
  'replay_capacity': 100_000,
  'eval_every': 2_500,
  'final_eval_episodes': 50,
  'checkpoint_every': 5_000,
  'log_every': 500,
  'prefill': 0,
}
SHORT = {
  **CPU,
  'train_ratio': 16.0,
  'eval_envs': 2,
  'eval_episodes': 4,
  'final_eval_episodes': 4,
  'log_every': 50,
}
FAMILY = {'dreamer': {**SHORT_HARMONY, 'encoder.mlp_units': 128, 'decoder.mlp_units': 128}}
PRESETS = {
  'paper': Preset(),
  'cpu': Preset('small', CPU, FAMILY),
  'debug': Preset(
    'toy',
    {**SHORT, 'steps': 2_000, 'eval_every': 1_000, 'checkpoint_every': 1_000, 'video_every': 1_000},
    FAMILY,
  ),
  'tiny': Preset(
    'toy',
    {
      **SHORT,
      'steps': 300,
      'eval_every': 150,
      'checkpoint_every': 150,
      'video_every': 300,
      'prefill_chunk': 20,
    },
    FAMILY,
  ),
}
