"""DeepMind Control Suite from pixels, with HarmonyDream on DreamerV2 or DreamerV3 (paper, appendix
E: four tasks).

Command:   python -m experiments.dmc --task=cheetah_run [--method=dreamerv2] [--render=fast]
[--background=video] Tasks:     the paper's are cheetah_run, quadruped_run, walker_run,
finger_turn_hard; every other of the suite works Protocol:  1,000 simulator steps per episode,
action repeat 2, 1M simulator steps, 10 episodes every 10,000 agent steps Hardware:  any GPU for
`paper`; 2 CPU cores for `cpu`, which renders without shadows (`--render=stock` to have them)
"""

from configs import common

SUITE, TASK_FLAG, DEFAULT_TASK, DEFAULT_METHOD = 'dmc', 'task', 'cheetah_run', 'dreamerv2'
ENV_FLAGS = {
  'render': (
    'env.render',
    'stock for published numbers, fast (no shadows, no multisampling) for a CPU.',
  ),
  'background': ('env.background', 'none, or video: moving pictures behind the robot.'),
  'background_files': (
    'env.background_files',
    'Folder of videos or pictures for it; by default they are generated.',
  ),
}

HOURS = {'paper': None, 'cpu': 0.25, 'debug': 1 / 60, 'tiny': 0.5 / 60}

SETTINGS = dict(
  steps=502_000,  # agent steps, so 1,004,000 of the simulator
  replay_capacity=1_000_000,
  eval_every=10_000,
  eval_episodes=10,
  final_eval_episodes=10,
  eval_envs=10,
  checkpoint_every=20_000,
  video_every=50_000,
  log_every=1_000,
  env_processes=True,
  env=dict(
    action_repeat=2,  # simulator steps per agent step; rewards are summed
    render='stock',  # stock for published numbers; fast: no shadows, no multisampling
    observe='image',  # image, state (vectors), or both
    camera='',  # number or name of a camera; '': 2 for the quadruped, else 0
    background='none',  # none, or video: moving pictures behind the robot
    background_files='',  # folder of videos or pictures for it; '': generated ones
    time_limit=0,
  ),
)  # simulator steps that end an episode; 0: the suite's 1,000
# The authors' DreamerV2 settings of the suite are those of DMC Remastered. Their DreamerV3 was not
# run on it: its own DMC settings are used (16 × 64, 512 replayed steps per agent step).
BY_METHOD = {
  'dreamerv2': {'train_ratio': 160.0, 'prefill': 1_000},
  'dreamerv3': {'train_ratio': 512.0, 'prefill': 1_000},
  'dreamerpro': {},
}

# Continuous control at CPU scale. A step lasts 4 simulator steps, so that there are more episodes;
# the latent state is half as large as in the other small presets, which leaves time for twice the
# updates.
CPU = {
  **common.SMALL,
  **common.SHORT_HARMONY,
  'rssm.deter': 128,
  'rssm.units': 96,
  'rssm.stoch': 8,
  'reward_head.units': 96,
  'actor.units': 96,
  'critic.units': 96,
  'behavior.horizon': 10,
  'steps': 12_000,
  'train_ratio': 64.0,
  'prefill': 1_000,
  'env.render': 'fast',
  'env.action_repeat': 4,
  'replay_capacity': 100_000,
  'eval_every': 2_000,
  'eval_envs': 5,
  'eval_episodes': 5,
  'final_eval_episodes': 20,
  'checkpoint_every': 4_000,
  'video_every': 12_000,
  'log_every': 500,
  'pretrain': 100,
}
SHORT = {
  **CPU,
  **common.TOY,
  'prefill': 0,
  'eval_envs': 2,
  'eval_episodes': 2,
  'final_eval_episodes': 2,
  'pretrain': 1,
  'env.action_repeat': 8,
  'log_every': 50,
}
PRESETS = {
  'paper': {},
  'cpu': CPU,
  'debug': {
    **SHORT,
    'steps': 1_200,
    'train_ratio': 16.0,
    'eval_every': 600,
    'checkpoint_every': 600,
    'video_every': 600,
  },
  'tiny': {
    **SHORT,
    'steps': 300,
    'train_ratio': 16.0,
    'eval_every': 150,
    'checkpoint_every': 150,
    'video_every': 300,
    'prefill_chunk': 20,
    'env.time_limit': 400,
  },
}


def get_config(method: str, preset: str):
  """Configuration of a preset; `paper` is the authors'."""
  return common.suite_config(method, preset, SUITE, SETTINGS, BY_METHOD, PRESETS)
