"""MiniGrid: small worlds of rooms, doors and keys, seen in part.

Command:   python -m experiments.minigrid --task=DoorKey-8x8 [--view=partial] [--seed=0]
Protocol:  none of a paper; `paper` is the method's own sizes
Hardware:  2 CPU cores for `cpu`
Score:     the share of episodes that end with a reward
"""

from harmony_jax.method import Traits

from .common import SHORT_HARMONY, Preset, quick

SUITE, TASK_FLAG, DEFAULT_TASK = 'minigrid', 'task', 'DoorKey-8x8'
ENV_FLAGS = {
  'view': ('env.view', 'codes of 7 × 7 cells; partial: their picture; full: of the whole world.')
}
HOURS = {'paper': None, 'cpu': None, 'debug': None, 'tiny': None}
TRAITS = Traits(ends_early=True, discrete=True)
RUN = {
  'steps': 500_000,
  'replay_capacity': 500_000,
  'eval_every': 10_000,
  'eval_share': 0.1,
  'eval_episodes': 20,
  'final_eval_episodes': 100,
  'eval_envs': 10,
  'score': 'success',
}
BY_METHOD = {'dreamerv3': {'train_ratio': 512.0}}

CPU = {
  'steps': 50_000,
  'train_ratio': 32.0,
  'replay_capacity': 100_000,
  'eval_every': 5_000,
  'final_eval_episodes': 50,
  'prefill': 0,
}
SHORT = {
  **CPU,
  'train_ratio': 16.0,
  'eval_envs': 2,
  'eval_episodes': 2,
  'final_eval_episodes': 2,
  'log_every': 50,
  'prefill_chunk': 20,
}
FAMILY = {'dreamer': {**SHORT_HARMONY, 'encoder.mlp_units': 128, 'decoder.mlp_units': 128}}
PRESETS = {'paper': Preset(), 'cpu': Preset('small', CPU, FAMILY), **quick(SHORT, 300, FAMILY)}
