"""RLBench: two manipulation tasks on CoppeliaSim, from pixels. Needs the simulator, which no
package registry has.

Command:   python -m experiments.rlbench --task=reach_target | push_button   (tells what is missing,
if anything is) Protocol:  the paper's table 1 and appendix C: 200 steps of the simulator's 400
frames (action repeat 2), batch 50 × 50,
           prefill 5,000, episodes end early on success, residual encoder and decoder. Where the
           authors' code falls back on other defaults (learning rate 1e-4, entropy 2e-3, tanh
           rewards, prefill 10,000), the table is followed.
Status:    NOT RUN against the simulator; tested against a small imitation of its interface.
"""

from configs import common, dmc, metaworld

SUITE, TASK_FLAG, DEFAULT_TASK, DEFAULT_METHOD = 'rlbench', 'task', 'reach_target', 'dreamerv2'
HOURS = {**dmc.HOURS, 'cpu': None}

SETTINGS = dict(
  steps=502_000,
  replay_capacity=1_000_000,
  eval_every=5_000,
  eval_episodes=5,
  final_eval_episodes=10,
  eval_envs=1,
  checkpoint_every=20_000,
  video_every=50_000,
  log_every=1_000,
  score='success',
  env_processes=True,
  env=dict(
    action_repeat=2,  # simulator steps per agent step; rewards are summed
    camera='front',  # front, left_shoulder, right_shoulder, overhead or wrist
    time_limit=200,
  ),
)  # agent steps of an episode
BY_METHOD = {
  'dreamerv2': {
    'batch_size': 50,
    'train_ratio': 500.0,
    'prefill': 5_000,
    'losses.free_nats': 1.0,
    'losses.dyn': 0.08,
    'losses.rep': 0.02,  # balance 0.8, scale 0.1
    'continue_head.enabled': True,
    'encoder.kind': 'residual',
    'decoder.kind': 'residual',
  },
  'dreamerv3': {
    **metaworld.BY_METHOD['dreamerv3'],
    'num_envs': 1,
    'continue_head.gradient': True,
    'encoder.kind': 'residual',
    'decoder.kind': 'residual',
  },
  # not run by its authors
  'dreamerpro': {'continue_head.enabled': True, 'behavior.known_ends': False},
}
# Meta-World's smaller presets, without what RLBench does not have, and with plain networks.
SMALLER = {
  name: {k: v for k, v in changes.items() if k != 'env.render'}
  for name, changes in metaworld.PRESETS.items()
  if name != 'paper'
}
PRESETS = {
  'paper': {},
  **{
    name: {**changes, 'encoder.kind': 'plain', 'decoder.kind': 'plain'}
    for name, changes in SMALLER.items()
  },
}


def get_config(method: str, preset: str):
  """Configuration of a preset; `paper` is the authors'."""
  return common.suite_config(method, preset, SUITE, SETTINGS, BY_METHOD, PRESETS)
