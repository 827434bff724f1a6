"""Any gymnasium environment, with image or vector observations.

Command:   python -m experiments.gym --env=CartPole-v1 [--observe=render]
Protocol:  none of a paper; `paper` is the method's own sizes. An environment of your own:
docs/own_environment.md. Hardware:  2 CPU cores for `cpu`
"""

from configs import common

SUITE, TASK_FLAG, DEFAULT_TASK = 'gym', 'env', 'CartPole-v1'
ENV_FLAGS = {
  'observe': ('env.observe', 'auto: what the environment gives; render: its picture; both.')
}
HOURS = {'paper': None, 'cpu': None, 'debug': 1 / 60, 'tiny': 0.5 / 60}

SETTINGS = dict(
  steps=500_000,
  replay_capacity=500_000,
  eval_every=10_000,
  eval_episodes=20,
  final_eval_episodes=100,
  eval_envs=10,
  env=dict(
    # steps of the environment per agent step; rewards are summed
    action_repeat=1,
    # auto: what the environment gives; render: its picture; both
    observe='auto',
    time_limit=0,  # agent steps of an episode; 0: the environment's own limit
    # entry of `info` that tells success, reported as a measure; '': none
    success='',
  ),
)
BY_METHOD = {
  'dreamerv2': common.ENDING,
  'dreamerv3': {'train_ratio': 512.0},
  'dreamerpro': common.ENDING_PRO,
}

CPU = {
  **common.SMALL,
  **common.SHORT_HARMONY,
  'encoder.mlp_units': 128,
  'decoder.mlp_units': 128,
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
  **common.TOY,
  'eval_envs': 2,
  'eval_episodes': 4,
  'final_eval_episodes': 4,
  'log_every': 50,
}
PRESETS = {
  'paper': {},
  'cpu': CPU,
  'debug': {
    **SHORT,
    'steps': 2_000,
    'train_ratio': 16.0,
    'eval_every': 1_000,
    'checkpoint_every': 1_000,
    'video_every': 1_000,
  },
  'tiny': {
    **SHORT,
    'steps': 300,
    'train_ratio': 16.0,
    'eval_every': 150,
    'checkpoint_every': 150,
    'video_every': 300,
    'prefill_chunk': 20,
  },
}


def get_config(method: str, preset: str):
  """Configuration of a preset; `paper` takes the method's own sizes."""
  return common.suite_config(method, preset, SUITE, SETTINGS, BY_METHOD, PRESETS)
