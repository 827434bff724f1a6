"""Memory Maze: a new maze in each episode, whose coloured objects are to be found again and again.

Command:   python -m experiments.memory_maze --task=9x9 [--seed=0]
Tasks:     9x9, 11x11, 13x13, 15x15: 3 to 6 objects, 1,000 to 4,000 steps an episode
Protocol:  the package's; the score is the return, on average 26.4 (9x9) to 67.7 (15x15) for a
           human, at most 34.8 to 87.7 (its README). Number of steps and sizes are ours
Hardware:  any GPU for `paper`; a step takes tens of milliseconds where a CPU draws
"""

from harmony_jax.method import Traits

from .common import SHORT_HARMONY, Preset, quick

SUITE, TASK_FLAG, DEFAULT_TASK = 'memory_maze', 'task', '9x9'
HOURS = {'paper': None, 'cpu': None, 'debug': None, 'tiny': None}
TRAITS = Traits(ends_early=False, discrete=True)
RUN = {
  'steps': 10_000_000,
  'num_envs': 8,
  'replay_capacity': 1_000_000,
  'eval_every': 250_000,
  'eval_episodes': 16,
  'final_eval_episodes': 100,
  'checkpoint_every': 100_000,
  'video_every': 250_000,
  'log_every': 1_000,
}
BY_METHOD = {'dreamerv3': {'train_ratio': 512.0}}

CPU = {
  'steps': 100_000,
  'num_envs': 2,
  'train_ratio': 32.0,
  'replay_capacity': 100_000,
  'eval_every': 25_000,
  'eval_envs': 2,
  'eval_episodes': 4,
  'final_eval_episodes': 20,
  'checkpoint_every': 5_000,
  'video_every': 50_000,
  'log_every': 500,
}
SHORT = {
  **CPU,
  'train_ratio': 16.0,
  'eval_episodes': 2,
  'final_eval_episodes': 2,
  'log_every': 50,
  'prefill': 0,
  'prefill_chunk': 20,
  'env.length': 50,
}
PRESETS = {
  'paper': Preset(),
  'cpu': Preset('small', CPU, {'dreamer': SHORT_HARMONY}),
  **quick(SHORT, 200),
}
