"""How a run's numbers are made, in words and as data: nothing can be compared without it.

What a configuration says is read from it; what its environment does whatever it says stands beside
the environment (`envs.base.Suite`). A setting that an older configuration lacks is what runs did
before there was a choice.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harmony_jax import envs, settings
from harmony_jax.envs import base

if TYPE_CHECKING:
  from harmony_jax.reporting.schema import Record

TRAINING = (
  'training returns: the mean over the training episodes that ended since the evaluation before'
)
_POLICIES = {'sample': 'sampled actions', 'mode': "the policy's mode"}
_ALIKE = 'all episodes from one seed (1841), without the reward of their last step'


def title(suite: str) -> str:
  """Return how reports call a suite; one of somebody's own by its name."""
  try:
    return envs.suite(suite).title
  except ValueError:
    return suite


def describe(config: Mapping) -> str:
  """Return the protocol as one line. Raises KeyError or TypeError for what is no configuration."""
  episodes, budget, policy, *suite = phrases(config)
  suite = f'{title(config["suite"])}: {", ".join(suite)}'
  return '; '.join([f'{episodes}, {budget}', policy, suite, TRAINING])


def of_evaluation(config: Mapping, episodes: int, step: int, **changes: Any) -> str:
  """Return the protocol of episodes that were played after a run's training up to a step; `changes`
  of its settings."""
  made = {'final_eval_episodes': episodes, 'eval_share': 0, 'eval_every': 0, 'steps': step}
  return describe({**config, **made, **changes}).removesuffix(f'; {TRAINING}')


def facts(config: Mapping) -> dict:
  """Return the same for JSON: counts in steps (agent decisions, the reset that begins an episode
  included) and frames, which are those of training: evaluation may have another action repeat."""
  known, _ = _of_suite(config)
  repeat = _of_suite({**config, 'eval_env': {}})[0]['action_repeat']
  steps, every = config['steps'], config.get('eval_every', 0)
  return {
    'score': config.get('score', 'return'),
    'evaluated_every_steps': every,
    'evaluated_every_frames': every * repeat,
    'steps': steps,
    'frames': steps * repeat,
    'frames_per_step': repeat,
    'episodes': config.get('eval_episodes', 0),
    'episodes_at_the_end': config.get('final_eval_episodes', config.get('eval_episodes', 0)),
    # they are then the most that are played
    **({'evaluations_share_of_steps': share} if (share := config.get('eval_share')) else {}),
    'policy': config.get('eval_policy', 'sample'),
    'episode_starts': _ALIKE
    if config.get('eval_as') == 'authors'
    else 'seeded by run, step and number of the episode; none is shared with training',
    'training_returns': 'training episodes that ended since the evaluation before',
    **known,
  }


def phrases(config: Mapping) -> list[str]:
  """Return the protocol in phrases: what is averaged when, by which policy, and the suite's own."""
  known = facts(config)
  score = 'mean return' if known['score'] == 'return' else f'mean {known["score"]}'
  end, before = known['episodes_at_the_end'], known['episodes']
  every = known['evaluated_every_steps']
  counted = f'every {every:,} steps ({known["evaluated_every_frames"]:,} frames)'
  most, fit = '', ''
  if share := config.get('eval_share'):
    most, fit = 'at most ', f' (as many as fit into {share:.0%} of the steps of training)'
  when = f'{most}{end:,} complete episodes at the end and {before:,} {counted} before{fit}'
  if not before or not every:
    when = f'{most}{end:,} complete episodes at the end{fit}'
  elif end == before:
    when = f'{most}{end:,} complete episodes {counted}{fit}'
  budget = f'of {known["steps"]:,} steps ({known["frames"]:,} frames) in all'
  policy = _POLICIES[config.get('eval_policy', 'sample')]
  if config.get('eval_as') == 'authors':  # of Denoised MDP
    policy = f'{policy}, {_ALIKE}'
  return [f'{score} of {when}', budget, policy, *_of_suite(config)[1]]


def lines(records: Sequence['Record']) -> list[tuple[str, str]]:
  """Return (bold words, line): the protocol of most records, what others have instead, a warning
  where runs of one task have different ones, and the weights that a person chose."""
  protocols, by_task, chosen = {}, {}, {}
  for record in records:
    own = tuple(phrases(record.config))
    protocols.setdefault(own, []).append(record)
    by_task.setdefault(record.task, set()).add(own)
    chosen.setdefault(weights(record.config), {})[record.method] = None
  usual, *others = sorted(protocols, key=lambda own: -len(protocols[own]))
  found = [('Protocol:', f'{describe(protocols[usual][0].config)}.')]
  for own in others:
    new, gone = ([each for each in a if each not in b] for a, b in ((own, usual), (usual, own)))
    name = 'task' if all(len(by_task[r.task]) == 1 for r in protocols[own]) else 'method'
    who = some(sorted({getattr(record, name) for record in protocols[own]}))
    instead = f' (not: {", ".join(gone)})' if gone else ''
    found.append((f'{who}:', f'{", ".join(new)}{instead}; else as above.'))
  if any(len(each) > 1 for each in by_task.values()):
    found.append(('Protocols differ', 'between runs of the same task: compare with care.'))
  chosen.pop('', None)
  return found + [(f'{some(list(methods))}:', f'{told}.') for told, methods in chosen.items()]


def weights(config: Mapping) -> str:
  """Return the losses' weights that a person chose, in words; '' for the other rules."""
  section = config.get('weighting') or {}
  if section.get('rule') != 'fixed':
    return ''
  # by the names that settings have; of TD-MPC they are the tasks'
  names = {'observation': 'w_o', 'reward': 'w_r', 'dynamics': 'w_d'}
  if 'w_r' not in section:
    names = {task: task for task in ('consistency', 'reward', 'value')}
  tasks = section.get('tasks')
  weighed = tasks if isinstance(tasks, list | tuple) else names
  known = {k: section[name] for k, name in names.items() if name in section and k in weighed}
  told = ', '.join(f'{task} {weight}' for task, weight in known.items())
  return f'fixed weights of the losses: {told}'


def some(names: Sequence[str], most: int = 4) -> str:
  """Return names with commas; of many, the first ones and how many more."""
  return ', '.join(names[:most]) + (f' and {len(names) - most} more' if len(names) > most else '')


def _of_suite(config):
  """(facts, phrases) of the suite, and of its options what its own words leave out; of one of
  somebody's own all of them."""
  options = settings.plain(base.evaluation_options(config))
  try:
    suite = envs.suite(config['suite'])
  except ValueError:
    told = [f'{name} {given}' for name, given in sorted(options.items())] or ['no options']
    return {'action_repeat': options.get('action_repeat', 1), 'environment': options}, told
  facts, phrases = suite.protocol(config)
  of_simulator = inspect.signature(suite.environment).parameters.values()
  usual = {each.name: each.default for each in of_simulator}
  usual |= settings.plain(settings.flatten(envs.options(config['suite'])()))
  left_out = {}
  for name, given in sorted(options.items()):
    others = {k: v for k, v in options.items() if k != name}
    without = {**config, 'env': others, 'eval_env': {}}
    if given != usual.get(name) and suite.protocol(without)[1] == phrases:
      left_out[name] = ', '.join(map(str, given)) if isinstance(given, list) else given
  facts = facts | ({'options': left_out} if left_out else {})
  return facts, [*phrases, *(f'{name} {given}' for name, given in left_out.items())]
