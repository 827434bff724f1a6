"""Atari 100K: 26 games, 100,000 agent steps (400,000 frames) each.

Command:   python -m experiments.atari100k --game=Pong [--seed=0] [--preset=paper]
Hardware:  any GPU or TPU for `paper`; 2 CPU cores for `cpu`
Score:     the authors' Harmony DreamerV3 reaches 1.364 mean human-normalised score over 26 games ×
           5 seeds (Pong 18.6, Boxing 79.6); this code so far: Kung-Fu Master at `cpu`, one seed,
           14,631 (results/atari100k/).
"""

from harmony_jax.method import Traits

from .common import SHORT_HARMONY, Preset

SUITE, TASK_FLAG, DEFAULT_TASK = 'atari', 'game', 'Pong'
HOURS = {'paper': None, 'cpu': 1.6, 'debug': 2 / 60, 'tiny': 0.5 / 60}  # cpu: on one core
TRAITS = Traits(ends_early=True, discrete=True)
RUN = {'replay_capacity': 100_000, 'eval_envs': 100}

# A smaller model and train ratio that 2 cores can train for all 100,000 steps, and fewer
# evaluations.
CPU = {'train_ratio': 32.0, 'eval_episodes': 10, 'checkpoint_every': 5_000, 'eval_envs': 8}
SHORT = {'train_ratio': 16.0, 'eval_envs': 2, 'env.frame_cap': 400}
PRESETS = {
  'paper': Preset(),
  'cpu': Preset('small', CPU, {'dreamer': SHORT_HARMONY}),
  'debug': Preset(
    'toy',
    {
      **SHORT,
      'steps': 1_200,
      'eval_every': 600,
      'eval_episodes': 4,
      'final_eval_episodes': 4,
      'checkpoint_every': 600,
      'video_every': 600,
      'replay_capacity': 5_000,
      'log_every': 50,
    },
  ),
  'tiny': Preset(
    'toy',
    {
      **SHORT,
      'steps': 200,
      'eval_every': 100,
      'eval_episodes': 2,
      'final_eval_episodes': 2,
      'checkpoint_every': 100,
      'video_every': 200,
      'replay_capacity': 1_000,
      'prefill_chunk': 20,
      'log_every': 20,
    },
  ),
}
