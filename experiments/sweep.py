"""Many runs: python -m experiments.sweep --suite=atari100k --games=all --seeds=5
--weighting=harmony,none.

Every combination of games (or --tasks), --method, --weighting, --grid and seeds is one run, by the
ordinary command in the ordinary run folder, with its output in output.txt there. Finished runs are
skipped: the same command goes on after Ctrl-C, on which everything is saved, after a crash, and
with more seeds. A run that fails is tried again from its checkpoint. At the end there are
tables of scores, and results files in <root>/sweeps.

Exit codes: 0 all runs are finished, 1 some are not, 2 a mistake in the command, 75 stopped and
saved.
"""

if not __package__:
  import as_file  # noqa: F401

import contextlib
import itertools
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

from absl import flags

from harmony_jax import disk, envs
from harmony_jax.config import IDENTITY, Config
from harmony_jax.errors import UserError
from harmony_jax.paths import joined
from harmony_jax.sweeping import devices, executors, grid
from harmony_jax.sweeping.display import Display
from harmony_jax.sweeping.job import Job
from harmony_jax.sweeping.sweep import Sweep
from harmony_jax.training import measured, recording, run_folder, trackers
from harmony_jax.training.interruption import Interrupted

from . import configs, launcher

flags.DEFINE_string('suite', 'atari100k', 'Which benchmark: the name of its command.')
flags.DEFINE_list('games', 'all', "Tasks with commas, or 'all' that the suite has.")
flags.DEFINE_alias('tasks', 'games')
flags.DEFINE_string('seeds', '1', launcher.SEEDS)
flags.DEFINE_list('method', None, "Base methods with commas; by default the suite's own.")
flags.DEFINE_alias('methods', 'method')
flags.DEFINE_list('weighting', 'harmony', 'Weighting rules with commas.')
flags.DEFINE_multi_string('grid', [], 'batch_size=8,16: values; of several, all combinations.')
flags.DEFINE_string('preset', 'auto', "Sizes; 'auto' is 'paper' on an accelerator, else 'cpu'.")
launcher.path('root', 'runs', 'The folder of <suite>/<task>/<method>-…/seed<seed>.')
launcher.path('from', None, 'Run folder of an agent that all runs start from.')
flags.DEFINE_bool('dry_run', False, 'Show what would be run and its hours; start nothing.')
flags.DEFINE_bool('seeds_together', False, 'All seeds of a configuration in one program.')
flags.DEFINE_list('tracker', *launcher.TRACKER)
flags.DEFINE_integer('retries', 2, 'How often a run that fails is tried again.', 0)
flags.DEFINE_enum('executor', 'local', ['local', 'ray', 'slurm'], 'Where runs are started.')
flags.DEFINE_integer('workers', 0, 'Runs at a time, local or on Slurm; 0: one per accelerator.', 0)
flags.DEFINE_string('ray_address', None, "Of a Ray cluster, or 'auto'; else Ray starts here.")
flags.DEFINE_integer('run_cpus', 2, 'CPUs of a run on Ray or Slurm.', 1)
flags.DEFINE_float('run_gpus', 0, 'GPUs of a run on Ray or Slurm.', 0)
flags.DEFINE_string('slurm_partition', None, 'Partition of the jobs.')
flags.DEFINE_integer('slurm_time', 1440, 'Minutes of a job; a longer run goes on in another.', 10)
flags.DEFINE_float('slurm_memory', None, 'Gigabytes of a job.', 0)
flags.DEFINE_multi_string('slurm', [], 'account=physics: an option of sbatch; may be repeated.')
flags.DEFINE_bool('detach', False, 'On Slurm: only submit; the same command without it follows.')

FLAGS = flags.FLAGS
SLURM = {  # options of sbatch with such a flag, and those that a sweep is made of
  'partition': 'slurm_partition',
  'time': 'slurm_time',
  'mem': 'slurm_memory',
  'cpus-per-task': 'run_cpus',
  'gpus-per-node': 'run_gpus',
  **dict.fromkeys(('array', 'output', 'error', 'open-mode', 'signal', 'job-name', 'ntasks'), ''),
}
OWN = (*IDENTITY, 'seed', 'weighting.rule')  # settings with such a flag


def plan(module: ModuleType, overrides: list[str]) -> list[Config]:
  """Return the configurations of all runs, seed by seed: a stopped sweep has some of every task.

  Raises:
    UserError: an unknown name, or a bad setting.
  """
  FLAGS.method = FLAGS.method or [configs().default_method(module)]
  axes = grid.parse(FLAGS.grid)
  named = {text.partition('=')[0].strip().removeprefix('config.') for text in overrides}
  if own := {*axes, *named} & {*OWN}:
    raise UserError(f'--config.{own.pop()} is chosen by a flag of its own in a sweep')
  if start := FLAGS['from'].value:
    from harmony_jax.training import origin

    for name in FLAGS.method:
      origin.find(start, name)
  try:
    tasks = envs.tasks(module.SUITE) if FLAGS.games == ['all'] else FLAGS.games
  except RuntimeError as error:  # the list is the simulator's, which is missing
    raise UserError(str(error)) from None
  if not tasks:
    raise UserError(f"--games is empty, or 'all' of {module.SUITE!r}, which has no list: name some")
  seeds, tasks = launcher.parse_seeds(FLAGS.seeds), [launcher.canonical(module, t) for t in tasks]
  found = {}
  for seed, task, method, rule in itertools.product(seeds, tasks, FLAGS.method, FLAGS.weighting):
    config = configs().make(module, method, FLAGS.preset, task).replace({'seed': seed})
    if 'weighting.rule' in config.flat():
      config = config.replace({'weighting.rule': rule})
    for point in grid.points(config.override(overrides), axes):
      place = place_of(configs().check(point))
      if found.setdefault(place, point) != point:
        raise UserError(f'{place} would be the folder of two different runs: sweep them apart')
  kinds = {(each.run.method, each.agent): each for each in found.values()}.values()
  given = [*overrides, *axes]
  launcher.note(dict.fromkeys(line for each in kinds for line in launcher.idle(each, given)))
  return list(found.values())


def place_of(config: Config) -> Path:
  """Return where a run's folder is."""
  task = launcher.task_of(FLAGS['from'].value)
  return Path(launcher.default_logdir(config, task, FLAGS.root)).absolute()


def folder_of(config: Config) -> Path:
  """Return a run's folder. Raises UserError where it holds another run."""
  folder, identity = place_of(config), run_folder.identity(config)
  if (start := FLAGS['from'].value) and run_folder.is_recorded(folder):
    from harmony_jax.training import origin

    identity |= {'from': origin.facts(start, folder, config.run.method)}
  run_folder.check(folder, config, identity)
  return folder


def make_jobs(
  module: ModuleType, runs: list[Config], overrides: list[str], backend: str
) -> list[Job]:
  """Return a job per run; with --seeds_together one per task, method and weighting."""
  groups: dict[tuple, list[Config]] = {}
  for config in runs:
    key = (place_of(config).parent, FLAGS.seeds_together or config.run.seed)
    groups.setdefault(key, []).append(config)
  return [_job(module, group, overrides, backend) for group in groups.values()]


def _job(module, runs, overrides, backend):
  config, number = runs[0], len(runs)
  seeds, places = [each.run.seed for each in runs], tuple(map(folder_of, runs))
  if seeds != list(range(seeds[0], seeds[0] + number)):
    raise UserError('--seeds_together takes seeds without gaps, such as --seeds=5 or --seeds=5-9')
  words = {
    module.TASK_FLAG: config.run.task,
    'seed': config.run.seed,
    'method': config.run.method,
    **({'weighting': rule} if (rule := config.flat().get('weighting.rule')) else {}),
    'preset': config.run.preset,
    'logdir': places[0] if number == 1 else places[0].parent,
    **({'num_seeds': number} if number > 1 else {}),
    **({'tracker': ','.join(FLAGS.tracker)} if FLAGS['tracker'].present else {}),
    **({'from': start} if (start := FLAGS['from'].value) else {}),
    **dict(f'config.{text}'.split('=', 1) for text in overrides),
  }
  if axes := grid.parse(FLAGS.grid):
    words |= {f'config.{name}': grid.text_of(config, name, axes[name]) for name in axes}
    words['config.label'] = config.run.label
  command = [sys.executable, '-m', __package__, FLAGS.suite]
  command += [f'--{name}={value}' for name, value in words.items()]
  name = f'{config.run.task} {places[0].parent.name} seed {", ".join(map(str, seeds))}'
  hours, memory = None if overrides or axes else module.HOURS[config.run.preset], None
  if here := measured.load(config, backend):  # of training alone
    hours, memory = config.run.steps / here['steps_per_second'] / 3600, here['memory'] * number
  hours = hours and hours * number
  return Job(name, tuple(command), places, config.run.steps * number, hours, memory)


def describe_need(sweep: Sweep, workers: int) -> str:
  """Return how many jobs there are, and the hours and memory of those left, where known."""
  told, rows = sweep.counts(), sweep.unfinished()
  known = [row for row in rows if row.job.hours is not None]
  left = [(row.job.hours or 0) * (1 - row.step / row.job.steps) for row in known]
  if len(left) < len(rows):
    told += f', hours not measured of {len(rows) - len(left)}'
  elif left:
    clock = max(*left, sum(left) / workers)
    told += f', {sum(left):.2f} h, {clock:.2f} h with {workers} at a time'
  if memory := is_measured(sweep):
    together = disk.text(sum(memory[-workers:]))
    told += f'; up to {disk.text(memory[-1])} of memory each, {together} together'
  return told


def is_measured(sweep: Sweep) -> list[float]:
  """Return the memory of each unfinished job, rising; [] unless all kinds were measured here."""
  found = [row.job.memory for row in sweep.unfinished()]
  return sorted(each for each in found if each) if all(found) else []


def slurm_options(texts: list[str]) -> dict[str, str | bool]:
  """Return the options of sbatch in the texts of --slurm. Raises UserError for one of our own."""
  found = {}
  for text in texts:
    name, equals, value = text.removeprefix('--').partition('=')
    name = name.replace('_', '-')
    if not re.fullmatch('[a-z][a-z0-9-]+', name) or (equals and not value):
      raise UserError(f'--slurm={text}: it is an option of sbatch, such as account=physics')
    if name in SLURM:
      told = f'use --{SLURM[name]}' if SLURM[name] else 'a sweep sets that itself'
      raise UserError(f'--slurm={text}: {told}')
    found[name] = value if equals else True
  return found


def make_executor(places: list[devices.Place], folder: Path) -> executors.Executor:
  """Return the executor that the flags ask for; its files go into a folder."""
  if FLAGS.executor == 'local':
    return executors.Local(places)
  if FLAGS.executor == 'ray':
    return executors.Ray(FLAGS.ray_address, FLAGS.run_cpus, FLAGS.run_gpus)
  if FLAGS.run_gpus % 1:
    raise UserError(f'--run_gpus={FLAGS.run_gpus:g}: a job of Slurm has whole GPUs')
  return executors.Slurm(
    folder / 'slurm',
    FLAGS.workers,
    slurm_options(FLAGS.slurm),
    timeout_min=FLAGS.slurm_time,
    cpus_per_task=FLAGS.run_cpus,
    gpus_per_node=int(FLAGS.run_gpus) or None,
    mem_gb=FLAGS.slurm_memory,
    slurm_partition=FLAGS.slurm_partition,
  )


def main(words: list[str], overrides: list[str]) -> int:
  """Run the sweep that the flags describe; return the exit code."""
  launcher.no_words(words, '--games=…')
  module = configs().suite(FLAGS.suite)
  if FLAGS.detach and FLAGS.executor != 'slurm':
    raise UserError('--detach goes with --executor=slurm: other executors end with the sweep')
  if slurm_options(FLAGS.slurm) and FLAGS.executor != 'slurm':
    raise UserError('--slurm goes with --executor=slurm')
  trackers.choose(FLAGS.tracker)
  places, accelerated, backend = [], FLAGS.run_gpus, 'cpu'  # what runs find
  if FLAGS.executor == 'local':
    backend, number = devices.count()
    places, accelerated = devices.share(backend, number, FLAGS.workers), backend != 'cpu'
  if FLAGS.preset == 'auto':
    FLAGS.preset = 'paper' if accelerated else 'cpu'
  runs = plan(module, overrides)
  sweep = Sweep(make_jobs(module, runs, overrides, backend))
  workers = len(places) or FLAGS.workers or len(sweep.rows)
  for row in sweep.rows if FLAGS.dry_run else ():
    print(f'{row}\n  {shlex.join(row.job.command)}')
  print(describe_need(sweep, workers), flush=True)
  if FLAGS.dry_run:
    return 0
  start = f'from-{task}' if (task := launcher.task_of(FLAGS['from'].value)) else None
  name = joined(FLAGS.suite, *FLAGS.method, *FLAGS.weighting, FLAGS.preset, start)
  name = joined(name, *grid.parse(FLAGS.grid))
  output = Path(FLAGS.root, 'sweeps', name).absolute()

  def need():
    again = Sweep(make_jobs(module, runs, overrides, backend))
    return describe_need(again, workers) if is_measured(again) else ''

  return run(sweep, runs, places, output, need)


def forecast(need: Callable[[], str]) -> Iterator[None]:
  """At each turn, but every ten seconds at most, ask for a line until there is one, and print it;
  nothing where there is one to begin with."""
  line, looked = need(), time.monotonic()
  told = bool(line)
  while True:
    yield
    if not told and time.monotonic() > looked + 10:
      line, looked = need(), time.monotonic()
      if told := bool(line):
        print(line, flush=True)


def run(
  sweep: Sweep, runs: list[Config], places: list[devices.Place], output: Path, need: Callable
) -> int:
  """Run what is not finished, and report; return the exit code. `need` as of `forecast`."""
  from harmony_jax.reporting import report

  recording.writable(output)
  stopped = ''
  if sweep.unfinished():
    with contextlib.closing(make_executor(places, output)) as executor, Display(sweep) as display:
      if FLAGS.detach:
        sweep.submit(executor)
        print(f'{sweep.counts()}, submitted; the same command without --detach follows them')
        return 0
      ahead = forecast(need)
      stopped = sweep.run(executor, FLAGS.retries, lambda: (display.tell(), next(ahead)))
  there = [folder for folder in map(place_of, runs) if (folder / 'config.json').exists()]
  lines, problems = report.conclude(there, output)
  print('\n'.join([*problems, *lines]))
  for row in sweep.unfinished():
    told = f' (output: {row.job.output})' if row.job.output.exists() else ''
    print(f'{row}{told}', file=sys.stderr)
  if stopped and sweep.unfinished():
    raise Interrupted(f'{stopped}: stopped and saved')
  return 1 if sweep.unfinished() else 0


if __name__ == '__main__':
  launcher.command(main, configurable=True)
