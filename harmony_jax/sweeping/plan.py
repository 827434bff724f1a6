"""What a sweep runs: the product of tasks, methods, weightings and seeds, as jobs of one child
process each.
"""

import dataclasses
import importlib
import json
import os
import pathlib

from configs import common
from experiments import launcher
from harmony_jax import configuration, envs
from harmony_jax.envs import base
from harmony_jax.errors import UserError
from harmony_jax.training import run_folder

SUITES = ('atari100k', 'catch', 'dmc', 'dmcr', 'metaworld', 'rlbench', 'gym')
# Fields that the sweep's own flags choose: an override would put every run of a kind into one
# folder.
OWN = {
  'suite': '--suite',
  'task': '--games',
  'seed': '--seeds',
  'method': '--method',
  'weighting.rule': '--weighting',
  'preset': '--preset',
}


@dataclasses.dataclass(frozen=True)
class Run:
  """One run: what it is, its folder (absolute), how long it is, and which measure is its score."""

  suite: str
  task: str
  method: str
  weighting: str
  preset: str
  seed: int
  folder: str
  steps: int
  score: str

  @property
  def label(self):
    """'Pong dreamerv3-harmony seed 0'."""
    return f'{self.task} {self.method}-{self.weighting} seed {self.seed}'

  def is_complete(self):
    """Whether it has reached its end."""
    return run_folder.is_complete(self.folder)


@dataclasses.dataclass(frozen=True)
class Job:
  """One child process: the words after `python`, its runs (several seeds with --seeds_together),
  its output's file.
  """

  name: str
  words: tuple
  runs: tuple
  output: str

  def is_complete(self):
    """Whether all its runs are."""
    return all(run.is_complete() for run in self.runs)


def benchmark(suite):
  """The module of configs/ of a suite. Raises UserError for an unknown one."""
  choose('--suite', [suite], SUITES)
  return importlib.import_module(f'configs.{suite}')


def choose(flag, names, known):
  """`names`, each once. Raises UserError for one that is not among `known`: names the nearest."""
  for name in names:
    if name not in known:
      raise UserError(f'{flag}: {base.unknown("name", name, known)}')
  if not names:
    raise UserError(f'{flag} is empty: it takes one or more of {", ".join(known)}')
  return tuple(dict.fromkeys(names))


def parse_seeds(text):
  """'5' → 0 … 4 (five seeds); '3,7' → those two; '7,' → 7 alone; '5-9' → 5 … 9; '0-2,7' → 0, 1, 2,
  7.

  Raises:
    UserError: anything else.
  """

  def refuse():
    raise UserError(
      f"--seeds is {text!r}: it takes a number of seeds (5 is 0 to 4), a list (3,7 or '7,' for one "
      'alone) or a range (5-9)'
    )

  def number(word):
    if not (word.isascii() and word.isdigit() and len(word) < 10):
      refuse()
    return int(word)

  words = [word.strip() for word in text.split(',')]
  if len(words) == 1 and '-' not in text:
    count = number(words[0])
    return tuple(range(count)) if 0 < count <= 10_000 else refuse()
  seeds = []
  for word in words[:-1] if words[-1] == '' else words:
    first, dash, last = word.partition('-')
    first = number(first)
    last = number(last) if dash else first
    if not first <= last < first + 10_000:
      refuse()
    seeds += range(first, last + 1)
  return tuple(dict.fromkeys(seeds)) or refuse()


def tasks_of(suite):
  """All tasks of a suite (as configurations name it) that the project knows; () where they cannot
  be counted.
  """
  if suite == 'catch':  # its module would bring JAX along
    return ('catch',)
  if suite == 'gym':
    return ()
  module = importlib.import_module(f'harmony_jax.envs.{suite}')
  if suite == 'atari':
    return module.ATARI_100K
  if suite in ('dmc', 'dmcr'):
    return tuple(getattr(module, suite.upper()).tasks())
  return tuple(module.TASKS)


def parse_tasks(suite, names):
  """Canonical names, each once, of `names` (a list; ['all'] for every task).

  Raises:
    UserError: an unknown one (names the nearest), or 'all' of a suite without a list.
  """
  known = tasks_of(suite)
  if [name.lower() for name in names] == ['all']:
    if not known:
      raise UserError(
        f"the suite '{suite}' has no list of all tasks: name them, as --tasks=CartPole-v1,Acrobot-v1"
      )
    return known
  if not names:
    raise UserError("--games is empty: it takes 'all' or names with commas")
  try:
    return tuple(
      dict.fromkeys(name if name in known else envs.canonical(suite, name) for name in names)
    )
  except (ValueError, RuntimeError) as error:
    raise UserError(str(error)) from None


def make(
  suite, tasks, seeds, methods, weightings, preset, root='runs', overrides=(), together=False
):
  """The jobs of a sweep.

  Args:
    suite: one of `SUITES`. tasks: names, or ['all']. seeds: numbers. methods, weightings: names.
    preset: one of configs.common.PRESETS but 'auto'. root: the folder of run folders. overrides:
      texts 'field=value'.
    together: all seeds of a configuration in one program; the seeds must then be contiguous.

  Returns:
    List of `Job`, seed by seed: a sweep that is stopped early has something of every task.

  Raises:
    UserError: an unknown name, a bad override, or a folder that holds a run of another
    configuration.
  """
  module = benchmark(suite)
  tasks = parse_tasks(module.SUITE, tasks)
  methods = choose('--method', methods, sorted(common.METHODS))
  weightings = choose('--weighting', weightings, common.WEIGHTINGS)
  choose('--preset', [preset], common.PRESETS[1:])
  for text in overrides:
    field = text.partition('=')[0].strip()
    if field in OWN:
      raise UserError(f'--config.{field} is chosen by {OWN[field]} in a sweep')
  if together and list(seeds) != list(range(seeds[0], seeds[0] + len(seeds))):
    raise UserError(
      f'--seeds_together takes contiguous seeds, such as --seeds=5 or --seeds=5-9; got '
      f'{", ".join(map(str, seeds))}'
    )
  groups = [seeds] if together else [(seed,) for seed in seeds]
  return [
    _job(module, suite, task, method, weighting, preset, group, root, overrides)
    for group in groups
    for task in tasks
    for method in methods
    for weighting in weightings
  ]


def _job(module, suite, task, method, weighting, preset, seeds, root, overrides):
  runs, logdir = [], None
  for seed in seeds:
    config = launcher.configure(
      module, method, preset, task, {'seed': seed, 'weighting.rule': weighting}, overrides
    )
    folder = (
      pathlib.Path(root, os.path.relpath(launcher.default_logdir(config), 'runs'))
      .expanduser()
      .absolute()
    )
    _check_folder(folder, config)
    runs.append(
      Run(suite, task, method, weighting, preset, seed, str(folder), config.steps, config.score)
    )
    logdir = folder if len(seeds) == 1 else folder.parent
  words = [
    '-m',
    f'experiments.{suite}',
    f'--{module.TASK_FLAG}={task}',
    f'--seed={seeds[0]}',
    f'--method={method}',
    f'--weighting={weighting}',
    f'--preset={preset}',
    f'--logdir={logdir}',
    *([f'--num_seeds={len(seeds)}'] if len(seeds) > 1 else []),
    *(f'--config.{text}' for text in overrides),
  ]
  of_seeds = f'seed{seeds[0]}' if len(seeds) == 1 else f'seeds{seeds[0]}-{seeds[-1]}'
  name = '-'.join([*logdir.parts[-2 if len(seeds) > 1 else -3 :][:2], of_seeds])
  output = logdir / ('output.txt' if len(seeds) == 1 else f'output-{of_seeds}.txt')
  return Job(name, tuple(words), tuple(runs), str(output))


def _check_folder(folder, config):
  """Refuses a folder with a run of another configuration, as its entry point would, but before
  anything starts.
  """
  try:
    present = json.loads((folder / 'config.json').read_text(encoding='utf-8'))['config']
    differing = configuration.difference(present, config)
  except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
    return  # none yet, or one that its run will complain about
  differing = {
    f'config.{key}': values
    for key, values in differing.items()
    if f'config.{key}' not in run_folder.FREE
  }
  if differing:
    text = '; '.join(
      f'{key}: folder has {old!r}, sweep has {new!r}' for key, (old, new) in differing.items()
    )
    raise UserError(f'{folder} holds another run ({text}); choose another --root')
