"""Crafter: one world, 22 achievements, 1,000,000 steps.

Command:   python -m experiments.crafter [--seed=0] [--preset=paper]
Sizes:     `paper` is the method's own (18M parameters of DreamerV3); its authors have others here:
           rssm.deter 4096, depth 96, units 1024, 5 layers
Hardware:  any GPU or TPU for `paper`; 2 CPU cores for `cpu`
Score:     of Crafter (geometric mean of success rates, in percent), here over the episodes of an
           evaluation: published scores are over those of training.
"""

from harmony_jax.method import Traits

from .common import SHORT_HARMONY, Preset, quick

SUITE, TASK_FLAG, DEFAULT_TASK = 'crafter', 'task', 'crafter'
HOURS = {'paper': None, 'cpu': 0.9, 'debug': None, 'tiny': None}
TRAITS = Traits(ends_early=True, discrete=True)
RUN = {
  'steps': 1_000_000,
  'replay_capacity': 1_000_000,
  'eval_every': 50_000,
  'eval_episodes': 20,
  'final_eval_episodes': 100,
  'eval_share': 0.1,
  'score': 'crafter_score',
}
BY_METHOD = {'dreamerv3': {'train_ratio': 512.0}}

CPU = {
  'steps': 30_000,
  'train_ratio': 32.0,
  'replay_capacity': 100_000,
  'eval_every': 10_000,
  'final_eval_episodes': 50,
}
SHORT = {
  **CPU,
  'train_ratio': 16.0,
  'eval_envs': 2,
  'eval_episodes': 2,
  'final_eval_episodes': 2,
  'prefill_chunk': 20,
  'log_every': 20,
  'env.length': 100,
}
PRESETS = {
  'paper': Preset(),
  'cpu': Preset('small', CPU, {'dreamer': SHORT_HARMONY}),
  **quick(SHORT, 200),
}
