"""Catch: the built-in pixel game with visual distractors; the proof on a laptop that the whole
machine learns.

Command:   python -m experiments.catch [--seed=0] [--preset=cpu]
Hardware:  2 CPU cores
Score:     1 is perfect, a random and a motionless player get about -0.75. Measured with `cpu`,
three seeds, 1,000
           episodes each: 0.952, 0.966, 0.958 with harmony, 0.574, 0.960, 0.958 without
           (results/catch/).
"""

from configs import common

SUITE, TASK_FLAG, DEFAULT_TASK = 'catch', 'task', 'catch'

HOURS = {'paper': None, 'cpu': 10 / 60, 'debug': 2 / 60, 'tiny': 0.5 / 60}

RUN = {'num_envs': 8, 'eval_envs': 64, 'eval_episodes': 200, 'final_eval_episodes': 1000}
# The harmonizers' own optimiser: see configs/common.py: SHORT_HARMONY.
CPU = {
  **common.SMALL,
  **common.SHORT_HARMONY,
  **RUN,
  'actor_opt.lr': 1e-3,
  'critic_opt.lr': 1e-3,
  'steps': 44_000,
  'train_ratio': 16.0,
  'replay_capacity': 100_000,
  'eval_every': 4_000,
  'checkpoint_every': 16_000,
  'video_every': 32_000,
  'log_every': 800,
}
PRESETS = {
  'paper': RUN,
  'cpu': CPU,
  'debug': {
    **CPU,
    **common.TOY,
    'steps': 2_400,
    'train_ratio': 16.0,
    'eval_every': 1_200,
    'eval_episodes': 100,
    'final_eval_episodes': 100,
    'checkpoint_every': 1_200,
    'video_every': 1_200,
  },
  'tiny': {
    **CPU,
    **common.TOY,
    'steps': 480,
    'train_ratio': 16.0,
    'eval_every': 240,
    'eval_episodes': 64,
    'final_eval_episodes': 64,
    'checkpoint_every': 240,
    'video_every': 480,
    'prefill_chunk': 8,
    'log_every': 80,
  },
}

BY_METHOD = {'dreamerv3': {}, 'dreamerv2': common.ENDING, 'dreamerpro': common.ENDING_PRO}


def get_config(method: str, preset: str):
  """Configuration of a preset. `paper` is the authors' Atari model on this game."""
  settings = dict(
    env=dict(
      distractors=4,  # drifting blobs in the background; 0: a black one
      size=8,
    )
  )  # cells per side, a divisor of 64
  return common.suite_config(method, preset, SUITE, settings, BY_METHOD, PRESETS)
