"""Atari 100K: 26 games, 100,000 agent steps (400,000 frames) each.

Command:   python -m experiments.atari100k --game=Pong [--seed=0] [--preset=paper]
Hardware:  any GPU or TPU for `paper`; 2 CPU cores for `cpu`
Score:     the authors' Harmony DreamerV3 reaches 1.364 mean human-normalised score over 26 games ×
5 seeds
           (Pong 18.6, Boxing 79.6); this code so far: Kung-Fu Master at `cpu`, one seed, 14,631
           (results/atari100k/).
"""

from configs import common

SUITE, TASK_FLAG, DEFAULT_TASK = 'atari', 'game', 'Pong'

# Hours of a whole run, for the first lines of output. Measured where the comment says so.
HOURS = {'paper': None, 'cpu': 1.6, 'debug': 2 / 60, 'tiny': 0.5 / 60}

BY_METHOD = {'dreamerv3': {}, 'dreamerv2': common.ENDING, 'dreamerpro': common.ENDING_PRO}

# A smaller model and train ratio that 2 cores can train for all 100,000 steps, and fewer
# evaluations.
CPU = {
  **common.SMALL,
  **common.SHORT_HARMONY,
  'train_ratio': 32.0,
  'eval_episodes': 10,
  'checkpoint_every': 5_000,
  'eval_envs': 8,
}
SHORT = {'eval_envs': 2, 'env.frame_cap': 400, 'log_every': 50}
PRESETS = {
  'paper': {},
  'cpu': CPU,
  'debug': {
    **common.TOY,
    **SHORT,
    'steps': 1_200,
    'train_ratio': 16.0,
    'eval_every': 600,
    'eval_episodes': 4,
    'final_eval_episodes': 4,
    'checkpoint_every': 600,
    'video_every': 600,
    'replay_capacity': 5_000,
  },
  'tiny': {
    **common.TOY,
    **SHORT,
    'steps': 200,
    'train_ratio': 16.0,
    'eval_every': 100,
    'eval_episodes': 2,
    'final_eval_episodes': 2,
    'checkpoint_every': 100,
    'video_every': 200,
    'replay_capacity': 1_000,
    'prefill_chunk': 20,
    'log_every': 20,
  },
}


def get_config(method: str, preset: str):
  """Configuration of a preset; `paper` is the authors'."""
  settings = dict(
    replay_capacity=100_000,
    eval_envs=100,
    env=dict(
      # emulator frames per episode; 0 is 108,000, for Chopper Command 5,400
      frame_cap=0,
      truncation_is_terminal=True,  # as the authors label an episode that the cap ends
      sticky=0.0,
    ),
  )  # probability that a frame repeats the previous frame's action
  return common.suite_config(method, preset, SUITE, settings, BY_METHOD, PRESETS)
