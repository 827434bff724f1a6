"""World models learned on a recorded buffer, without a policy (appendix C.4): docs/offline.md.

python -m experiments.offline record --suite=dmc --task=cartpole_swingup --policy=smooth
--output=cartpole.npz
python -m experiments.offline train --buffer=cartpole.npz --weighting=none,harmony --seeds=3
--output=studies/cartpole
python -m experiments.offline table studies/cartpole

record  plays episodes and writes a buffer: one .npz file
train   trains a world model per variant, buffer and seed, and measures it on held-out episodes;
        the same command goes on with what is not finished, and with more variants, buffers or seeds
table   prints the measures of one or more folders of train, and writes table.md, table.csv and
        curves.png there
replay  makes a buffer of the episodes that a run has stored
import  makes a buffer of a dataset of Minari; export a dataset of a buffer
"""

if not __package__:
  import as_file  # noqa: F401

import contextlib
import dataclasses
import itertools
import os
import pathlib
import shlex
import sys
from typing import Any

from absl import flags

from harmony_jax import config as config_
from harmony_jax import settings
from harmony_jax.config import Config
from harmony_jax.errors import UserError
from harmony_jax.training import recording

from . import configs, launcher, variants

POLICIES = (
  'random, smooth (noise of a random scale), scripted (by hand, where a suite has it), or the run '
  'folder of an agent; of several, with commas, each episode draws one.'
)
USED = {  # the flags of each part
  'record': (
    *('suite', 'task', 'preset', 'policy', 'episodes', 'length', 'seed', 'output'),
    'allow_import',
  ),
  'train': (
    *('buffer', 'method', 'preset', 'weighting', 'variant', 'seeds', 'updates', 'measure_every'),
    *('context', 'horizon', 'reward_scale', 'mlp', 'show', 'output'),
  ),
  'table': ('measures', 'reference', 'variants', 'output'),
  'replay': ('logdir', 'output'),
  'import': ('minari', 'output'),
  'export': ('minari', 'buffer'),
}
# Settings of a method that its model alone, with windows of a buffer, does not look at.
_OF_A_COURSE = {
  *('train_ratio', 'update_at', 'pretrain', 'prefill', 'eval_policy', 'eval_at_start', 'eval_as'),
  *('importance', 'replay.sampling', 'replay.first_action'),
  *(f'replay.{k}' for k in ('prioritize_ends', 'ends', 'priority', 'correction')),
}
_OF_A_POLICY = 'actor actor_opt critic critic_opt behavior sac planning probe_opt'.split()
NEEDED = {
  'record': ('output',),
  'train': ('output', 'buffer'),
  'replay': ('output', 'logdir'),
  'import': ('output', 'minari'),
  'export': ('buffer', 'minari'),
}
flags.DEFINE_string('suite', None, 'record: one of the suites in configs/.')
flags.DEFINE_string('task', None, "record: by default the suite's.")
flags.DEFINE_list('policy', 'random', f'record: {POLICIES}')
flags.DEFINE_integer('episodes', 120, 'record: how many.', lower_bound=1)
flags.DEFINE_integer('length', 80, 'record: steps after which an episode is cut.', lower_bound=2)
flags.DEFINE_integer('seed', 0, 'record: of episodes and actions.', lower_bound=0)
flags.DEFINE_bool('allow_import', False, f'record: {launcher.ALLOW_IMPORT}')
flags.DEFINE_list('buffer', None, 'train: files of record, with commas; each has all runs.')
flags.DEFINE_string('method', 'dreamerv2', 'train: one that can train its model alone.')
flags.DEFINE_string('preset', 'cpu', "record, train: sizes; 'paper' for the authors'.")
flags.DEFINE_list('weighting', None, 'train: weighting rules, each a variant of its own name.')
flags.DEFINE_multi_string('variant', [], f'train: {launcher.VARIANT}')
flags.DEFINE_string('seeds', '1', f'train: {launcher.SEEDS}')
flags.DEFINE_integer('updates', 4_000, 'train: of each run.', lower_bound=1)
flags.DEFINE_integer('measure_every', 500, 'train: updates between measures.', lower_bound=1)
flags.DEFINE_integer('context', 15, 'train: steps of a measured window that are seen.', 1)
flags.DEFINE_integer('horizon', 15, 'train: steps of it that are then predicted.', 1)
flags.DEFINE_float('reward_scale', 1.0, 'train: what all rewards are multiplied by.')
flags.DEFINE_bool('mlp', False, 'train: regress the state by an MLP of 4 × 400, too, at the end.')
flags.DEFINE_integer('show', 0, 'train: held-out windows whose predictions are kept.', 0)
flags.DEFINE_list(
  'measures',
  None,
  "table: beginnings of names, with commas; by default all. Of 'NAME=WORDS', here and in "
  '--variants, the figure shows the words.',
)
launcher.path('logdir', None, 'replay: the run folder.')
flags.DEFINE_string('minari', None, 'import, export: the name of a local dataset, group/name-v0.')
flags.DEFINE_string('reference', '', 'table: the variant to compare with; by default the first.')
flags.DEFINE_list('variants', None, 'table: those to show, with commas; by default all.')
launcher.path('output', None, "The file or folder to write; of table by default the study's.")


def main(words: list[str], texts: list[str]) -> int:
  """Do the part that is named first."""
  part, *rest = [*words, '']
  if part not in USED:
    near = f': did you mean {configs().nearest(part, USED)!r}?' if part else ''
    raise UserError(f'name what to do, one of {", ".join(USED)}; not {part!r}{near}')
  for name in sorted({*sum(USED.values(), ())} - {*USED[part]}):
    if flags.FLAGS[name].present:
      raise UserError(f'--{name} is no flag of {part}, which has --{", --".join(USED[part])}')
  if texts and part not in ('record', 'train'):
    raise UserError(f'--config.{texts[0]}: {part} changes no settings')
  if part == 'table':
    return table(rest[:-1])
  launcher.no_words(rest[:-1], f'{part} --output=…')
  for name in NEEDED[part]:
    if not flags.FLAGS[name].value:
      raise UserError(f'{part} needs --{name} ({flags.FLAGS[name].help})')
  output = flags.FLAGS.output
  if part not in ('train', 'export'):
    if os.path.exists(output):  # another recording may depend on it
      raise UserError(f'--output={output} is there already: choose another, or delete it first')
    recording.writable_file(output)
  if part in ('record', 'train'):
    return {'record': record, 'train': train}[part](texts)
  return exchange(part)


# --------------------------------------------------------------------------------------------------


def record(texts: list[str]) -> int:
  """Play episodes and write them."""
  from harmony_jax import parallel
  from harmony_jax.benchmarking import machine
  from harmony_jax.offline import record as played

  options = flags.FLAGS
  for text in texts:
    if not text.startswith('env.'):
      raise UserError(f'--config.{text}: a recording has settings of the environment alone, env.…')
  parallel.use_compilation_cache()
  env, policy, config = _played(options, texts)
  bar = variants.Bar(options.episodes)

  def tell(episode):
    bar.line(1, '')
    if (episode + 1) % 20 == 0 or episode + 1 == options.episodes:
      print(bar.line(0, f'episode {episode + 1} of {options.episodes}'), flush=True)

  about = machine.describe_machine()
  header = {
    **{name: getattr(config.run, name) for name in ('suite', 'task')},
    'env': settings.plain({**config.env, **(config.eval_env if policy[1] else {})}),
    'policy': ','.join(options.policy),
    **policy[1],
    **{name: about[name] for name in ('commit', 'versions', 'python')},
  }
  with contextlib.closing(env):
    sizes = options.episodes, options.length, options.seed
    buffer = played.record(env, policy[0], *sizes, header, tell)
  return _save(buffer)


def _save(buffer):
  """Write a buffer to the file that is named."""
  buffer.save(flags.FLAGS.output)
  size = os.path.getsize(flags.FLAGS.output) / 1e6
  print(f'{buffer.describe()}\nwritten: {flags.FLAGS.output} ({size:.1f} MB)')
  return 0


def _played(options, texts):
  """(an environment in this process, (policy, what is told of it), configuration)."""
  from harmony_jax.offline import record as played
  from harmony_jax.training import setup

  known = played.POLICIES
  folders = [each for each in options.policy if each not in known]
  if folders and not pathlib.Path(folders[0]).exists():
    near = f' (did you mean {config_.nearest(folders[0], known)!r}?)'
    raise UserError(f'--policy={folders[0]} is neither of {", ".join(known)}{near}, nor a folder')
  if len(folders) > 1:
    raise UserError('--policy takes one run folder, which says suite and task')
  told, policies = {}, dict(known)
  if folders:
    for name in ('suite', 'task', 'preset'):
      if options[name].present:
        raise UserError(f'--{name} does not go with --policy=RUN_FOLDER, which says it itself')
    from harmony_jax import trained

    agent = trained.Agent.load(folders[0], seed=options.seed, allow_import=options.allow_import)
    agent.config = trained.change_environment(agent.config, texts).replace({'env_processes': False})
    told = {'agent': agent.title, 'agent_step': agent.step}
    env, config = agent.make_env(), agent.config
    policies[folders[0]] = lambda env: played.trained(agent)
  else:
    if not options.suite:
      raise UserError(f'--policy={",".join(options.policy)} needs --suite: where it acts')
    config = launcher.configuration(options.suite, options.task, None, options.preset, texts)
    config = config.replace({'env_processes': False})
    env = setup.make_env(config, 1)
  made = [policies[each](env) for each in options.policy]
  return env, (played.mixed(made), told), config


# --------------------------------------------------------------------------------------------------


def train(texts: list[str]) -> int:
  """Train and measure what is not finished of a study."""
  from harmony_jax import method, parallel
  from harmony_jax.offline import learn, study

  options = flags.FLAGS
  buffers = _buffers(options.buffer)
  common = _common(buffers[0].header, texts)
  programs = learn.Programmer(method.entry(options.method), options.method)
  # what cannot be is told before any variant
  if not programs(common.agent, buffers[0].spec)[0].predict and options.show:
    raise UserError(f'--show: {options.method} has no `report`, which would predict something')
  made = _variants(common, texts, buffers[0].spec)
  parallel.use_compilation_cache()
  parallel.keep_freed_memory()
  sizes = options.updates, options.measure_every, options.context, options.horizon
  plan = learn.Plan(*sizes, options.reward_scale, options.mlp, options.show)
  for each in made.values():  # what does not fit is found before hours of training
    rows = programs(each.agent, buffers[0].spec)[0].rows
    for buffer in buffers:
      buffer.windows(rows, False)
  views = [learn.Views(buffer, plan) for buffer in buffers]
  if options.mlp and not all(view.names for view in views):
    launcher.note(['--mlp changes nothing: a buffer holds no state of its simulator'])
  tree = _plan(plan, common, made, buffers)
  tree['about']['config'] = texts
  opened = study.open_study(options.output, tree)
  wanted = [
    run
    for run in opened.runs()
    if run.label in made and run.seed in tree['seeds'] and run.buffer < len(buffers)
  ]
  bar, failed = variants.Bar(len(wanted) * plan.updates), []
  for run in wanted:
    file = study.claim(opened, run)
    if file is None:
      print(f'{run.name}: finished, or another process is at it')
      bar.skip(plan.updates)
      continue
    config, buffer, done = made[run.label], buffers[run.buffer], 0
    program, weights = programs(config.agent, buffer.spec)
    lines = learn.learn(program, weights, buffer, views[run.buffer], run.seed, config.agent)
    with file:
      for line in study.write(file, lines):
        told = f'{run.name}, {line["update"]:,} of {plan.updates:,}: {_told(line)}'
        print(bar.line(line['update'] - done, told), flush=True)
        done = line['update']
    if not opened.finished(run):
      failed.append(run.name)
      bar.skip(plan.updates - done)
  for name in failed:
    print(f'{name} ended early: {opened.path}/{name}.jsonl says why', file=sys.stderr)
  print(f'python -m experiments.offline table {shlex.quote(str(opened.path))}')
  return 1 if failed else 0


def _buffers(paths):
  """The buffers, which must be of one task and fit one model."""
  from harmony_jax.offline import buffer

  found = [buffer.load(path) for path in paths]
  kind = lambda x: {**{k: x.header[k] for k in ('suite', 'task')}, 'spaces': x.spec.spaces}
  for path, each in zip(paths, found):
    print(f'buffer {path}: {each.describe()}')
    if kind(each) != kind(found[0]):
      raise UserError(f'the buffers differ: {paths[0]} has {kind(found[0])}, {path} {kind(each)}')
    options = [x.header.get('env', {}) for x in (found[0], each)]
    for option, (one, other) in config_.difference(*options).items():
      name = f'env.{option}'
      known = [x for x in (one, other) if x is not None]
      if len(known) > 1 or not config_.as_before(name, known[0]):  # as recordings of before it
        raise UserError(
          f'the buffers differ: {name} is {one} in {paths[0]}, {other} in {path}: their runs would '
          'be counted as pairs of one setting; give each a study (--output) of its own'
        )
  for (path, each), (other, one) in itertools.combinations(zip(paths, found), 2):
    if buffer.same_recording(each, one):
      raise UserError(
        f'{path} and {other} are one recording: their runs would be counted as pairs of two; '
        'record each with a --seed of its own'
      )
  return found


def _common(header, texts) -> Config:
  """The configuration before any variant."""
  options = flags.FLAGS
  suites = {each.SUITE: each for each in configs().suites().values()}
  if header['suite'] not in suites:
    raise UserError(
      f'the buffer is of the suite {header["suite"]!r}, of which nothing is known here'
    )
  suite = suites[header['suite']]
  common = configs().make(suite, options.method, options.preset, header['task'])
  return _changed(common, texts)


def _variants(common: Config, texts: list[str], spec: Any) -> dict[str, Config]:
  """The configuration of each label."""
  options = flags.FLAGS
  chosen = options.weighting or ([] if options.variant else ['none', 'harmony'])
  pairs = [(rule, [f'weighting.rule={rule}']) for rule in chosen]
  pairs += [launcher.parse_variant(text) for text in options.variant]
  return variants.make(common, pairs, _changed, texts, spec)


def _changed(config, words):
  """A configuration with settings of its method changed."""
  known = settings.flatten(config.agent)
  for word in words:
    name = word.partition('=')[0].removeprefix('config.')
    if name in config.flat() and (name not in known or _is_idle(name, known)):
      raise UserError(f'config.{name}: no setting of a world model that learns from a buffer')
  return config.override(words)


def _is_idle(name, known):
  """Whether a setting is of the policy, of its experience, or of what only looks at a model."""
  first = name.partition('.')[0]
  probe = first == 'decoder' and 'decoder.probe' in known
  return name in _OF_A_COURSE or probe or (first in _OF_A_POLICY and name != 'behavior.discount')


def _plan(plan, common, made, buffers) -> dict[str, Any]:
  """Everything that the runs are a function of, and what is told beside it."""
  from harmony_jax.offline import buffer

  options, base = flags.FLAGS, settings.to_json(common.agent)
  files = [
    {'path': path, 'sha256': buffer.checksum(path), 'recorded': each.header}
    for path, each in zip(options.buffer, buffers)
  ]
  trees = {label: settings.to_json(each.agent) for label, each in made.items()}
  return {
    **{name: buffers[0].header[name] for name in ('suite', 'task')},
    'method': options.method,
    'preset': options.preset,
    **dataclasses.asdict(plan),
    'settings': base,
    'buffers': files,
    **variants.plan(base, trees, launcher.parse_seeds(options.seeds)),
  }


def _told(line):
  """A measurement in some words."""
  if 'stopped' in line:
    return line['stopped']
  rewards = {k: v for k, v in line['measures'].items() if k.startswith(('reward/', 'loss/ob'))}
  return ', '.join(f'{k} {v:.3g}' for k, v in rewards.items() if '/training' not in k)


# --------------------------------------------------------------------------------------------------


def table(folders: list[str]) -> int:
  """Print and write the tables of studies."""
  from harmony_jax.offline import table as tables

  if not folders:
    raise UserError('name one or more folders of train: table studies/cartpole')
  options = flags.FLAGS
  if options.output and len(folders) > 1:
    raise UserError('--output takes the tables of one study')
  for folder in folders:
    text, written = tables.write(
      folder, options.measures or [], options.reference, options.variants or [], options.output
    )
    print(f'{text}\nwritten: {", ".join(map(str, written))}\n')
  return 0


def exchange(part: str) -> int:
  """Make a buffer of a run's own episodes, or of a dataset of Minari, or the other way round."""
  from harmony_jax.offline import buffer, minari_data, replayed

  options = flags.FLAGS
  if part == 'replay':
    return _save(replayed.load(options.logdir))
  if part == 'import':
    return _save(minari_data.load(options.minari))
  for path in options.buffer[1:]:
    raise UserError(f'export takes one buffer; {path} is a second one')
  minari_data.save(buffer.load(options.buffer[0]), options.minari)
  print(f'written: the dataset {options.minari} of Minari')
  return 0


if __name__ == '__main__':
  launcher.command(main, configurable=True)
