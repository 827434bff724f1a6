"""Meta-World: robotic manipulation from pixels, HarmonyDream's main robotic benchmark.

Command:   python -m experiments.metaworld --task=lever_pull [--method=dreamerv2|dreamerv3]
Tasks:     the paper's are handle_pull_side, lever_pull, hammer (250K steps), sweep_into (500K),
           push, assembly (1M); every other of the 50 works, with 250K
Protocol:  500 steps per episode, no action repeat, success at any step of an episode, mean over 10
           episodes. The paper ran the V2 tasks on mujoco-py; these are the V3 tasks on today's
           MuJoCo: scores are not directly comparable, disclose it.
Hardware:  any GPU for `paper` (training alone; drawing wants CPU cores: see benchmarks/)
"""

from . import dmc
from .common import SHORT_HARMONY, Preset

SUITE, TASK_FLAG, DEFAULT_TASK, DEFAULT_METHOD = 'metaworld', 'task', 'lever_pull', 'dreamerv2'
ENV_FLAGS = {'render': dmc.ENV_FLAGS['render']}
HOURS = {**dmc.HOURS, 'cpu': None}
TRAITS = dmc.TRAITS
RUN = {**dmc.RUN, 'steps': 255_000, 'eval_envs': 5, 'score': 'success'}
# Agent steps that the paper gives a task where it is not 250K.
BY_TASK = {
  'sweep_into': {'steps': 505_000},
  'push': {'steps': 1_005_000},
  'assembly': {'steps': 1_005_000},
}
BY_METHOD = {
  'dreamerv2': {
    'batch_size': 50,
    'train_ratio': 500.0,
    'prefill': 5_000,
    'losses.free_nats': 0.0,
    'replay.prioritize_ends': True,
  },
  'dreamerv3': {
    **{f'{part}.units': 640 for part in ('reward_head', 'continue_head', 'actor', 'critic')},
    **{f'{part}.layers': 3 for part in ('reward_head', 'continue_head', 'actor', 'critic')},
    'batch_size': 50,
    'batch_length': 50,
    'train_ratio': 500.0,
    'prefill': 5_000,
    'num_envs': 5,
    'encoder.depth': 48,
    'decoder.depth': 48,
    'rssm.deter': 1024,
    'rssm.units': 640,
    'continue_head.gradient': False,
  },
}

CPU = {**dmc.CPU, 'env.action_repeat': 2, 'eval_envs': 2, 'replay.prioritize_ends': False}
SHORT = {
  **dmc.SHORT,
  'pretrain': 100,
  'env.action_repeat': 2,
  'replay.prioritize_ends': False,
  'eval_envs': 1,
  'eval_episodes': 1,
  'num_envs': 1,
}
PRESETS = {
  'paper': Preset(),
  'cpu': Preset('small', CPU, {'dreamer': dmc.SMALL_DREAMER}),
  'debug': Preset(
    'toy',
    {
      **SHORT,
      'steps': 600,
      'eval_every': 300,
      'checkpoint_every': 300,
      'video_every': 300,
      'env.time_limit': 200,
    },
    {'dreamer': SHORT_HARMONY},
  ),
  'tiny': Preset(
    'toy',
    {
      **SHORT,
      'steps': 200,
      'eval_every': 200,
      'checkpoint_every': 100,
      'video_every': 200,
      'prefill_chunk': 20,
      'env.time_limit': 60,
    },
    {'dreamer': SHORT_HARMONY},
  ),
}
