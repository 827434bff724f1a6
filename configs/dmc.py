"""DeepMind Control from pixels, with HarmonyDream on DreamerV2 or V3 (appendix E: four tasks).

Command:   python -m experiments.dmc --task=cheetah_run [--method=dreamerv2] [--render=fast]
           [--background=video]
Tasks:     the paper's are cheetah_run, quadruped_run, walker_run, finger_turn_hard; every other of
           the suite works
Protocol:  1,000 simulator steps per episode, action repeat 2, 1M simulator steps, 10 episodes every
           10,000 agent steps. Table 1's RSSM of 1,024; in the authors' code that of plain DMC has
           200: --config.rssm.deter=200 --config.rssm.units=200
Hardware:  any GPU for `paper`; 2 CPU cores for `cpu`, which renders without shadows
           (`--render=stock` to have them)
"""

from harmony_jax.method import Traits

from .common import SHORT_HARMONY, Preset

SUITE, TASK_FLAG, DEFAULT_TASK, DEFAULT_METHOD = 'dmc', 'task', 'cheetah_run', 'dreamerv2'
RENDER = 'stock for published numbers, fast (no shadows, no multisampling) for a CPU.'
ENV_FLAGS = {
  'render': ('env.render', RENDER),
  'background': ('env.background', 'none, or video: moving pictures behind the robot.'),
  'background_files': (
    'env.background_files',
    'Folder of videos or pictures for it; by default they are generated.',
  ),
}
# On one core; DreamerPro takes twice as long with `cpu`.
HOURS = {'paper': None, 'cpu': 0.25, 'debug': 1 / 60, 'tiny': 0.5 / 60}
TRAITS = Traits(ends_early=False, discrete=False)
RUN = {
  'steps': 502_000,  # agent steps, so 1,004,000 of the simulator
  'replay_capacity': 1_000_000,
  'eval_every': 10_000,
  'eval_episodes': 10,
  'final_eval_episodes': 10,
  'eval_envs': 10,
  'checkpoint_every': 20_000,
  'video_every': 50_000,
  'log_every': 1_000,
  'env_processes': True,
}
# DreamerV2 is that of Table 1, and of the authors' DMC Remastered and natural backgrounds. Their
# code has a configuration of plain DMC, too, which differs by an RSSM of 200 in place of 1,024.
# Their DreamerV3 was not run on it: its own DMC settings are used (16 × 64, 512 replayed steps per
# agent step).
BY_METHOD = {
  'dreamerv2': {'train_ratio': 160.0, 'prefill': 1_000},
  'dreamerv3': {'train_ratio': 512.0, 'prefill': 1_000},
}

# Continuous control at CPU scale. A step lasts 4 simulator steps, so that there are more episodes;
# the latent state is half as large as in the other small presets, which leaves time for twice the
# updates.
CPU = {
  'steps': 12_000,
  'train_ratio': 64.0,
  'prefill': 1_000,
  'pretrain': 100,
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
}
SMALL_DREAMER = {
  **SHORT_HARMONY,
  'rssm.deter': 128,
  'rssm.units': 96,
  'rssm.stoch': 8,
  'reward_head.units': 96,
  'actor.units': 96,
  'critic.units': 96,
  'behavior.horizon': 10,
}
SHORT = {
  **CPU,
  'train_ratio': 16.0,
  'prefill': 0,
  'pretrain': 1,
  'eval_envs': 2,
  'eval_episodes': 2,
  'final_eval_episodes': 2,
  'env.action_repeat': 8,
  'log_every': 50,
}
DEBUG = {**SHORT, 'steps': 1_200, 'eval_every': 600, 'checkpoint_every': 600, 'video_every': 600}
TINY = {
  **SHORT,
  'steps': 300,
  'eval_every': 150,
  'checkpoint_every': 150,
  'video_every': 300,
  'prefill_chunk': 20,
  'env.time_limit': 400,
}
PRESETS = {
  'paper': Preset(),
  'cpu': Preset('small', CPU, {'dreamer': SMALL_DREAMER}),
  'debug': Preset('toy', DEBUG, {'dreamer': SHORT_HARMONY}),
  'tiny': Preset('toy', TINY, {'dreamer': SHORT_HARMONY}),
}
