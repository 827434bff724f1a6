"""DMC Remastered: the control suite with a new look in every episode, the hardest visual benchmark.

Command:   python -m experiments.dmcr --task=cheetah_run [--visual_seeds=test] [--vary=floor,camera]
           [--dmcr_assets=DIR]
Tasks:     the paper's are cheetah_run, walker_run, cartpole_balance; all ten domains work
Protocol:  as the paper's table 1: all seven factors vary, action repeat 2, 1M simulator steps, 10
           evaluation episodes. Floors and skies are painted unless a folder with the original
           photographs is given: disclose it.
Hardware:  any GPU for `paper`; 2 CPU cores for `cpu`
"""

from . import dmc

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
TRAITS, RUN, PRESETS = dmc.TRAITS, dmc.RUN, dmc.PRESETS
EVAL_ENV = {'visual_seeds': 'train'}  # as the authors; test: none of training's
BY_METHOD = dmc.BY_METHOD
