"""DMC Remastered: the control suite with a new look in every episode, HarmonyDream's hardest visual
benchmark.

Command:   python -m experiments.dmcr --task=cheetah_run [--visual_seeds=test] [--vary=floor,camera]
[--dmcr_assets=DIR] Tasks:     the paper's are cheetah_run, walker_run, cartpole_balance; all ten
domains work Protocol:  as the paper's table 1: all seven factors vary, action repeat 2, 1M
simulator steps, 10 evaluation episodes.
           Floors and skies are painted unless a folder with the original photographs is given:
           disclose it.
Hardware:  any GPU for `paper`; 2 CPU cores for `cpu`
"""

from configs import common, dmc

SUITE, TASK_FLAG, DEFAULT_TASK, DEFAULT_METHOD = 'dmcr', 'task', 'cheetah_run', 'dreamerv2'
ENV_FLAGS = {
  'render': dmc.ENV_FLAGS['render'],
  'vary': ('env.vary', 'all, or some of bg,floor,body,target,reflectance,camera,light.'),
  'dmcr_assets': (
    'env.assets',
    'Folder with the original photographs; by default floors and skies are painted.',
  ),
  'train_visual_seeds': (
    'env.visual_seeds',
    'Looks in training: train, test, or a number of them.',
  ),
  'visual_seeds': (
    'eval_env.visual_seeds',
    'Looks in evaluation: train (as the authors), test (none of those of '
    'training), or a number of them; 0 is the plain look.',
  ),
}
HOURS = {**dmc.HOURS, 'cpu': None}

SETTINGS = {
  **dmc.SETTINGS,
  'env': dict(
    action_repeat=2,  # simulator steps per agent step; rewards are summed
    render='stock',  # stock for published numbers; fast: no shadows, no multisampling
    vary='all',  # all, or some of bg,floor,body,target,reflectance,camera,light
    # looks in training: train, test, or a number of them; 0: the plain look
    visual_seeds='train',
    # folder with the original photographs; '': floors and skies are painted
    assets='',
    time_limit=0,
  ),  # simulator steps that end an episode; 0: the suite's 1,000
  'eval_env': dict(
    # looks in evaluation: train (as the authors), test (none of training's), a number
    visual_seeds='train'
  ),
}
BY_METHOD = {
  'dreamerv2': {'train_ratio': 160.0, 'prefill': 1_000, 'losses.free_nats': 1.0},
  'dreamerv3': dmc.BY_METHOD['dreamerv3'],
  'dreamerpro': {},
}
PRESETS = dmc.PRESETS


def get_config(method: str, preset: str):
  """Configuration of a preset; `paper` is the authors'."""
  return common.suite_config(method, preset, SUITE, SETTINGS, BY_METHOD, PRESETS)
