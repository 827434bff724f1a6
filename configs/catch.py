"""Catch: the built-in pixel game with visual distractors; proof on a laptop that it all learns.

Command:   python -m experiments.catch [--seed=0] [--preset=cpu]
Hardware:  2 CPU cores
Score:     1 is perfect, a random and a motionless player get about -0.75. Measured with `cpu`,
           three seeds, 1,000 episodes each: 0.952, 0.966, 0.958 with harmony, 0.574, 0.960, 0.958
           without (results/catch/).
"""

from harmony_jax.method import Traits

from .common import SHORT_HARMONY, Preset

SUITE, TASK_FLAG, DEFAULT_TASK = 'catch', 'task', 'catch'
HOURS = {'paper': None, 'cpu': 10 / 60, 'debug': 2 / 60, 'tiny': 0.5 / 60}
TRAITS = Traits(ends_early=True, discrete=True)
# The paper's model is the authors' of Atari on this game.
RUN = {'num_envs': 8, 'eval_envs': 64, 'eval_episodes': 200, 'final_eval_episodes': 1000}

SMALL = {'train_ratio': 16.0, 'replay_capacity': 100_000}
FAMILY = {'dreamer': SHORT_HARMONY}
PRESETS = {
  'paper': Preset(),
  'cpu': Preset(
    'small',
    {
      **SMALL,
      'steps': 44_000,
      'eval_every': 4_000,
      'checkpoint_every': 16_000,
      'video_every': 32_000,
      'log_every': 800,
    },
    {'dreamer': {**SHORT_HARMONY, 'actor_opt.lr': 1e-3, 'critic_opt.lr': 1e-3}},
  ),
  'debug': Preset(
    'toy',
    {
      **SMALL,
      'steps': 2_400,
      'eval_every': 1_200,
      'eval_episodes': 100,
      'final_eval_episodes': 100,
      'checkpoint_every': 1_200,
      'video_every': 1_200,
      'log_every': 800,
    },
    FAMILY,
  ),
  'tiny': Preset(
    'toy',
    {
      **SMALL,
      'steps': 480,
      'eval_every': 240,
      'eval_episodes': 64,
      'final_eval_episodes': 64,
      'checkpoint_every': 240,
      'video_every': 480,
      'prefill_chunk': 8,
      'log_every': 80,
    },
    FAMILY,
  ),
}
