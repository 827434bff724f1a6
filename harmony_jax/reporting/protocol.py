"""How a run's numbers are made, in words and as data: nothing can be compared without it.

    print(describe(config))   # config: of a run folder's config.json, or of a record

What a configuration says is read from it; what the environments do whatever it says stands here,
and tests/protocol_test.py holds it against their code. A setting that an older configuration lacks
is what runs did before there was a choice.
"""

from harmony_jax.envs import atari, dmc

TRAINING = (
  'training returns: the mean over the training episodes that ended since the evaluation before'
)


def describe(config) -> str:
  """One line of text. Raises KeyError or TypeError for what is no configuration."""
  known = facts(config)
  return '; '.join(
    [_numbers(known), *_SUITES.get(config['suite'], _other)(config, _env(config))[1], TRAINING]
  )


def facts(config) -> dict:
  """The same for JSON: counts in steps (agent decisions, the reset that begins an episode included)
  and frames.
  """
  repeat, steps, every = action_repeat(config), config['steps'], config.get('eval_every', 0)
  return {
    'score': config.get('score', 'return'),
    'evaluated_every_steps': every,
    'evaluated_every_frames': every * repeat,
    'steps': steps,
    'frames': steps * repeat,
    'frames_per_step': repeat,
    'episodes': config.get('eval_episodes', 0),
    'episodes_at_the_end': config.get('final_eval_episodes', config.get('eval_episodes', 0)),
    'policy': {'sample': 'sampled actions', 'mode': 'mode'}[config.get('eval_policy', 'sample')],
    'episode_starts': 'seeded by run, step and number of the episode; none is shared with training',
    'training_returns': 'training episodes that ended since the evaluation before',
    **_SUITES.get(config['suite'], _other)(config, _env(config))[0],
  }


def weights(config) -> str:
  """The losses' weights that a person chose, in words; '' for the other rules, whose names say all."""
  weighting = config.get('weighting')
  if not isinstance(weighting, dict) or weighting.get('rule') != 'fixed':
    return ''
  told = (
    f'{task} {weighting.get(name)}'
    for task, name in (('observation', 'w_o'), ('reward', 'w_r'), ('dynamics', 'w_d'))
  )
  return f'fixed weights of the losses: {", ".join(told)}'


def action_repeat(config) -> int:
  """Simulator frames per agent step."""
  suite = config['suite']
  if suite == 'atari':
    return 4
  return (
    1
    if suite == 'catch'
    else _env(config).get('action_repeat', 2 if suite in ('dmc', 'dmcr', 'rlbench') else 1)
  )


def _env(config):
  """The environment's options in evaluation."""
  return {**config.get('env', {}), **config.get('eval_env', {})}


def _numbers(known):
  """What is averaged over how many episodes, and when."""
  score = 'mean return' if known['score'] == 'return' else f'mean {known["score"]}'
  end, before = known['episodes_at_the_end'], known['episodes']
  counted = (
    f'every {known["evaluated_every_steps"]:,} steps ({known["evaluated_every_frames"]:,} frames)'
  )
  if not before or not known['evaluated_every_steps']:
    when = f'of {end:,} complete episodes at the end'
  elif end == before:
    when = f'of {end:,} complete episodes {counted}'
  else:
    when = f'of {end:,} complete episodes at the end and {before:,} {counted} before'
  policy = {'mode': "the policy's mode"}.get(known['policy'], known['policy'])
  return (
    f'{score} {when}, of {known["steps"]:,} steps ({known["frames"]:,} frames) in all; {policy}'
  )


def _atari(config, env):
  cap = env.get('frame_cap') or atari.FRAME_CAPS.get(config['task'], atari.FRAME_CAP)
  sticky, noops = env.get('sticky', 0.0), env.get('noop_max', 30)
  known = {
    'sticky_actions': sticky,
    'action_set': 'minimal',
    'no_op_frames': [0, max(noops - 1, 0)],
    'life_loss_ends_episode': False,
    'frame_cap': cap,
    'rewards_clipped': False,
    'observation': '64 x 64 RGB, maximum of the last two of 4 frames',
  }
  return known, [
    f'Atari: {f"sticky actions ({sticky:g})" if sticky else "no sticky actions"}, minimal action set, '
    f'0 to {max(noops - 1, 0)} no-op frames at the start, whole games (a lost life ends nothing) of at most '
    f'{cap:,} frames, unclipped rewards, action repeat 4, 64 × 64 RGB'
  ]


def _catch(config, env):
  size, blobs = env.get('size', 8), env.get('distractors', 4)
  return {'cells': size, 'distractors': blobs, 'steps_per_game': size - 1, 'rewards': [-1, 1]}, [
    f'Catch: +1 for a ball caught and -1 for one missed, at the end of {size - 1} steps, {size} × {size} cells, '
    f'{blobs} distractors, 64 × 64 RGB'
  ]


def _seen(env):
  return {'image': '64 × 64 images', 'state': 'states', 'both': 'states and 64 × 64 images'}[
    env.get('observe', 'image')
  ]


def _control(config, env):
  """What DeepMind Control and its remastered form share: (facts, texts)."""
  repeat, limit = env.get('action_repeat', 2), env.get('time_limit', 0)
  drawn = {'stock': 'drawn as the suite does', 'fast': 'drawn without shadows and multisampling'}[
    env.get('render', 'stock')
  ]
  known = {
    'action_repeat': repeat,
    'episode_frames': min(limit or 1000, 1000),
    'rendering': env.get('render', 'stock'),
    'observation': _seen(env),
  }
  return known, (
    f'sum of rewards over {min(limit or 1000, 1000):,} simulator steps'
    f'{" (cut short)" if 0 < limit < 1000 else ""}, action repeat {repeat}, {_seen(env)}, {drawn}'
  )


def _dmc(config, env):
  known, text = _control(config, env)
  camera = env.get('camera') or dmc.CAMERAS.get(config['task'].split('_')[0], 0)
  behind = env.get('background', 'none')
  known |= {'camera': camera, 'background': behind}
  pictures = f' from {env["background_files"]}' if env.get('background_files') else ', generated'
  background = f', moving pictures behind the robot{pictures}' if behind == 'video' else ''
  return known, [f'DeepMind Control: {text}, camera {camera}{background}']


def _dmcr(config, env):
  known, text = _control(config, env)
  train = config.get('env', {}).get('visual_seeds', 'train')
  seeds = {'training': _looks(train), 'evaluation': _looks(env.get('visual_seeds', 'train'))}
  pictures = (
    'photographs'
    if env.get('assets')
    else 'painted floors and skies (not the original photographs)'
  )
  known |= {
    'camera': 'varies'
    if 'camera' in str(env.get('vary', 'all')) or env.get('vary', 'all') == 'all'
    else 0,
    'vary': env.get('vary', 'all'),
    'looks': seeds,
    'pictures': pictures,
  }
  return known, [
    f'DMC Remastered: {text}, a new look in every episode (varied: {known["vary"]}), {pictures}, looks of '
    f'training: {seeds["training"]}, of evaluation: {seeds["evaluation"]}'
  ]


def _looks(seeds):
  return {
    'train': 'seeds 1 to 1,000,000',
    'test': 'seeds from 1,000,001, none of those of training',
    '0': 'the plain one',
  }.get(str(seeds), f'seeds 1 to {seeds}')


def _metaworld(config, env):
  repeat, limit, camera = (
    env.get('action_repeat', 1),
    env.get('time_limit', 500),
    env.get('camera', 'corner'),
  )
  known = {
    'action_repeat': repeat,
    'episode_steps': limit,
    'camera': camera,
    'rendering': env.get('render', 'stock'),
    'observation': _seen(env),
    'success': 'at any step of an episode',
    'tasks': 'V3',
  }
  fast = ', drawn without shadows and multisampling' if env.get('render', 'stock') == 'fast' else ''
  return known, [
    f'Meta-World: V3 tasks (the paper ran V2: not directly comparable), success at any step of an episode of {limit} '
    f'steps, which goes on after it, action repeat {repeat}, {_seen(env)}, camera {camera}{fast}'
  ]


def _rlbench(config, env):
  repeat, limit, camera = (
    env.get('action_repeat', 2),
    env.get('time_limit', 200),
    env.get('camera', 'front'),
  )
  return {
    'action_repeat': repeat,
    'episode_steps': limit,
    'camera': camera,
    'success': 'ends an episode',
  }, [
    f'RLBench: episodes of at most {limit} steps, ended by a success, and by an action that the simulator refuses; '
    f'action repeat {repeat}, 64 × 64 images, camera {camera}'
  ]


def _gym(config, env):
  repeat, limit = env.get('action_repeat', 1), env.get('time_limit', 0)
  observed = {
    'auto': "the environment's own observations",
    'render': '64 × 64 drawn pictures',
    'both': 'its observations and 64 × 64 drawn pictures',
  }[env.get('observe', 'auto')]
  known = {
    'action_repeat': repeat,
    'episode_steps': limit or "the environment's own limit",
    'observation': observed,
  }
  ends = f'episodes of at most {limit:,} steps' if limit else "the environment's own limit of steps"
  success = f", success as its info's {env['success']!r} at any step" if env.get('success') else ''
  return known, [f'Gymnasium {config["task"]}: {ends}, action repeat {repeat}, {observed}{success}']


def _other(config, env):
  """A suite of somebody's own: its options as they are."""
  options = ', '.join(f'{name} {given}' for name, given in sorted(env.items()))
  return {'environment': env}, [f'{config["suite"]}: {options or "no options"}']


_SUITES = {
  'atari': _atari,
  'catch': _catch,
  'dmc': _dmc,
  'dmcr': _dmcr,
  'metaworld': _metaworld,
  'rlbench': _rlbench,
  'gym': _gym,
}
