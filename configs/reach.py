"""The built-in arm: continuous actions from pixels, with visual distractors.

Command:   python -m experiments.reach [--seed=0] [--preset=cpu]
Protocol:  none of a paper; `paper` is the method's own sizes
Hardware:  2 CPU cores for `cpu`
Score:     steps of 40 with the finger in the target; no run has been measured
"""

from harmony_jax.method import Traits

from .common import SHORT_HARMONY, Preset, quick

SUITE, TASK_FLAG, DEFAULT_TASK = 'reach', 'task', 'reach'
HOURS = {'paper': None, 'cpu': None, 'debug': None, 'tiny': None}
TRAITS = Traits(ends_early=False, discrete=False)
RUN = {'num_envs': 8, 'eval_envs': 32, 'eval_episodes': 64, 'final_eval_episodes': 256}

CPU = {
  'steps': 48_000,
  'train_ratio': 16.0,
  'replay_capacity': 100_000,
  'eval_every': 8_000,
  'checkpoint_every': 16_000,
  'video_every': 24_000,
  'log_every': 800,
  'prefill': 0,
}
SHORT = {**CPU, 'eval_episodes': 16, 'final_eval_episodes': 16, 'log_every': 80, 'prefill_chunk': 8}
FAMILY = {'dreamer': SHORT_HARMONY}
PRESETS = {'paper': Preset(), 'cpu': Preset('small', CPU, FAMILY), **quick(SHORT, 480, FAMILY)}
