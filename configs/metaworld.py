"""Meta-World: robotic manipulation from pixels, HarmonyDream's main robotic benchmark.

Command:   python -m experiments.metaworld --task=lever_pull [--method=dreamerv2|dreamerv3]
Tasks:     the paper's are handle_pull_side, lever_pull, hammer (250K steps), sweep_into (500K),
push, assembly (1M);
           every other of the 50 works, with 250K
Protocol:  500 steps per episode, no action repeat, success at any step of an episode, mean over 10
episodes.
           The paper ran the V2 tasks on mujoco-py; these are the V3 tasks on today's MuJoCo: scores
           are not directly comparable, disclose it.
Hardware:  any GPU for `paper` (training alone; drawing wants CPU cores: see benchmarks/)
"""

from configs import common, dmc

SUITE, TASK_FLAG, DEFAULT_TASK, DEFAULT_METHOD = 'metaworld', 'task', 'lever_pull', 'dreamerv2'
ENV_FLAGS = {'render': dmc.ENV_FLAGS['render']}
HOURS = {**dmc.HOURS, 'cpu': None}

# Agent steps that the paper gives a task where it is not 250K.
STEPS = {'sweep_into': 505_000, 'push': 1_005_000, 'assembly': 1_005_000}

SETTINGS = dict(
  steps=255_000,
  replay_capacity=1_000_000,
  eval_every=10_000,
  eval_episodes=10,
  final_eval_episodes=10,
  eval_envs=5,
  checkpoint_every=20_000,
  video_every=50_000,
  log_every=1_000,
  score='success',
  env_processes=True,
  env=dict(
    action_repeat=1,  # simulator steps per agent step; rewards are summed
    camera='corner',  # corner, corner2, corner3, topview, behindGripper or gripperPOV
    render='stock',  # stock for published numbers; fast: no shadows, no multisampling
    time_limit=500,  # agent steps of an episode
    observe='image',
  ),
)  # image, state (vectors), or both
UNITS = {
  f'{part}.{field}': value
  for part in ('reward_head', 'continue_head', 'actor', 'critic')
  for field, value in (('units', 640), ('layers', 3))
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
    **UNITS,
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
  'dreamerpro': {},  # not run by its authors
}

CPU = {**dmc.CPU, 'env.action_repeat': 2, 'eval_envs': 2, 'replay.prioritize_ends': False}
SHORT = {
  **CPU,
  **common.TOY,
  'prefill': 0,
  'eval_envs': 1,
  'eval_episodes': 1,
  'final_eval_episodes': 2,
  'env.time_limit': 200,
  'num_envs': 1,
  'log_every': 50,
}
PRESETS = {
  'paper': {},
  'cpu': CPU,
  'debug': {
    **SHORT,
    'steps': 600,
    'train_ratio': 16.0,
    'eval_every': 300,
    'checkpoint_every': 300,
    'video_every': 300,
  },
  'tiny': {
    **SHORT,
    'steps': 200,
    'train_ratio': 16.0,
    'eval_every': 200,
    'checkpoint_every': 100,
    'video_every': 200,
    'prefill_chunk': 20,
    'env.time_limit': 60,
  },
}


def get_config(method: str, preset: str):
  """Configuration of a preset; `paper` is the authors'."""
  return common.suite_config(method, preset, SUITE, SETTINGS, BY_METHOD, PRESETS)


def for_task(config):
  """The number of steps that the paper gives the task, where the preset is the paper's."""
  if config.preset == 'paper':
    config.steps = STEPS.get(config.task, config.steps)
  return config
