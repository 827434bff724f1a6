"""Many runs: python -m experiments.sweep --suite=atari100k --games=all --seeds=5
--weighting=harmony,none.

    --games=Pong,Breakout      tasks with commas, or all; --tasks is the same
    --seeds=5                  seeds 0 to 4; --seeds=3,7 those two, --seeds=7, that one, --seeds=5-9
    a range --method=…  --weighting=…  with commas; every combination is run
    --config.some.field=value  for every run
    --dry_run                  what would be run, where, and how long it will take

    --executor=local           this machine: one process per accelerator, or --workers=N; on a CPU
    one at a time --executor=ray             a Ray cluster (--ray_address=…) or a Ray of its own;
    --run_cpus, --run_gpus per run --executor=slurm           an array job through submitit;
    --slurm_partition, --slurm_time, …; --detach only submits

Every run is the ordinary command in its ordinary run folder, with its output in output.txt there.
Finished runs are
skipped: the same command goes on after Ctrl-C (everything is saved first), after a crash, and with
more seeds. A run that fails is tried again from its checkpoint (--retries). It ends with the
aggregate report, in <root>/sweeps/<name>.

Exit codes: 0 all runs are finished, 1 some are not, 2 a mistake in the command, 75 stopped and
saved.
"""

import pathlib
import shlex
import sys

from absl import app, flags, logging

from configs import common
from experiments import launcher
from harmony_jax.configuration import split_config_flags
from harmony_jax.errors import UserError

EXECUTORS = ('local', 'ray', 'slurm')

flags.DEFINE_string(
  'suite', 'atari100k', 'Which benchmark, as its command is called: atari100k, catch, dmc, …'
)
flags.DEFINE_list('games', ['all'], "Tasks with commas, or 'all' that the suite has.")
flags.DEFINE_alias('tasks', 'games')
flags.DEFINE_string(
  'seeds',
  '1',
  "A number of seeds (5 is 0 to 4), a list (3,7 or '7,' for one alone) or a range (5-9).",
)
flags.DEFINE_list(
  'method', ['dreamerv3'], f'Base methods with commas: {", ".join(sorted(common.METHODS))}.'
)
flags.DEFINE_list(
  'weighting', ['harmony'], f'Weighting rules with commas: {", ".join(common.WEIGHTINGS)}.'
)
flags.DEFINE_string(
  'preset',
  'auto',
  "Sizes, as of the single run; 'auto' takes 'paper' where runs get an accelerator "
  "and 'cpu' otherwise.",
)
flags.DEFINE_string(
  'root', 'runs', 'Where run folders go: <suite>/<task>/<method>-<weighting>-<preset>/seed<seed>.'
)
flags.DEFINE_string(
  'output', None, 'Where the report goes; by default <root>/sweeps/<name of the sweep>.'
)
flags.DEFINE_bool('dry_run', False, 'Print the plan, and start nothing.')
flags.DEFINE_string('executor', 'local', f'Where runs are started: {", ".join(EXECUTORS)}.')
flags.DEFINE_integer(
  'workers',
  0,
  'How many at a time (local, slurm); 0: local one per accelerator, or one on a CPU, '
  'whose cores are shared out among more.',
  lower_bound=0,
)
flags.DEFINE_bool(
  'seeds_together', False, 'All seeds of a configuration in one program (--num_seeds of a run).'
)
flags.DEFINE_integer(
  'retries', 2, 'How often a failed run is tried again, from its checkpoint.', lower_bound=0
)
flags.DEFINE_float(
  'interval', 60.0, 'Seconds between two summaries, where there is no terminal.', lower_bound=0.0
)
flags.DEFINE_float(
  'lock_wait',
  120.0,
  'Seconds to wait for a run folder in which another process works.',
  lower_bound=0.0,
)
flags.DEFINE_string(
  'ray_address', None, 'Address of a Ray cluster, or auto; by default Ray is started here.'
)
flags.DEFINE_float('run_cpus', 2.0, 'CPUs of a run, for Ray.', lower_bound=0.0)
flags.DEFINE_float('run_gpus', 0.0, 'GPUs of a run, for Ray.', lower_bound=0.0)
flags.DEFINE_string('slurm_partition', None, 'Partition of the jobs.')
flags.DEFINE_string(
  'slurm_time',
  '24:00:00',
  'Time limit of a job, as Slurm writes it: minutes, [days-]hours:minutes:'
  'seconds. A run that does not end in it saves and goes on in the next.',
)
flags.DEFINE_integer('slurm_gpus', 1, 'GPUs of a job.', lower_bound=0)
flags.DEFINE_integer('slurm_cpus', 4, 'CPUs of a job.', lower_bound=1)
flags.DEFINE_string('slurm_memory', None, "Memory of a job, such as '16GB'.")
flags.DEFINE_bool(
  'detach', False, 'With slurm: return when the jobs are submitted; the same command follows them.'
)


def main():
  """Reads the flags and runs the sweep; ends the process with its exit code."""
  try:
    argv, overrides = split_config_flags(sys.argv)
  except UserError as error:
    sys.exit(_fail(error))
  app.run(lambda rest: _main(rest, overrides), argv=argv, flags_parser=launcher.parse_flags)


def _main(rest, overrides):
  logging.set_verbosity(logging.WARNING)
  try:
    if len(rest) > 1:
      raise UserError(f'unexpected argument {rest[1]!r}: options look like --games=…')
    return _sweep(flags.FLAGS, overrides)
  except UserError as error:
    return _fail(error)
  except KeyboardInterrupt:  # before anything was started
    return _fail('interrupted; the same command goes on', launcher.INTERRUPTED)


def _sweep(options, overrides):
  from harmony_jax.sweeping import board, devices, plan, report

  plan.choose('--executor', [options.executor], EXECUTORS)
  plan.choose('--preset', [options.preset], common.PRESETS)
  seeds, module = plan.parse_seeds(options.seeds), plan.benchmark(options.suite)
  if options.detach and options.executor != 'slurm':
    raise UserError('--detach goes with --executor=slurm: other executors end with the sweep')
  places = devices.places(options.workers) if options.executor == 'local' else []
  preset = _preset(options, places)
  jobs = plan.make(
    options.suite,
    options.games,
    seeds,
    options.method,
    options.weighting,
    preset,
    options.root,
    overrides,
    options.seeds_together,
  )
  name = '-'.join([options.suite, *options.method, *options.weighting, preset])
  output = (
    pathlib.Path(options.output or pathlib.Path(options.root, 'sweeps', name))
    .expanduser()
    .absolute()
  )
  records = {job.name: output / 'records' / f'{job.name}.jsonl' for job in jobs}
  shown = board.Board(jobs, records)
  if options.dry_run:
    shown.refresh()
    for line in report.plan_lines(
      jobs, shown, module.HOURS, bool(overrides), options.root, len(places) or options.workers
    ):
      print(line)
    return 0
  print(report.headline(jobs), flush=True)
  return _run(options, jobs, records, shown, output, places)


def _preset(options, places):
  """The preset's name: 'auto' is settled here, as it is a part of the folders' names."""
  if options.preset != 'auto':
    return options.preset
  if options.executor == 'local':
    accelerated = any(place['environment'] for place in places)
  else:
    accelerated = options.slurm_gpus if options.executor == 'slurm' else options.run_gpus
  return 'paper' if accelerated else 'cpu'


def _run(options, jobs, records, board, output, places):
  from harmony_jax.sweeping import follow, report

  left, stopped = [job for job in jobs if not job.is_complete()], ''
  if left:
    try:
      (output / 'records').mkdir(parents=True, exist_ok=True)
    except OSError as error:
      raise UserError(f'cannot write to {output}: {error.strerror}') from None
    executor = _executor(options, places, output)
    try:
      if options.detach:
        executor.start(left, records)
        print(
          f'{len(executor.ids())} jobs submitted or still there: {", ".join(executor.ids().values())}; the same '
          'command without --detach follows them'
        )
        return 0
      stopped = follow.follow(left, records, executor, board, options.interval)
    finally:
      executor.close()
  board.refresh()
  for line in report.finish(board, output):
    print(line)
  return _end(board, stopped)


def _executor(options, places, output):
  """The executor that the flags ask for. Raises UserError where it cannot be had."""
  common_settings = dict(retries=options.retries, lock_wait=options.lock_wait)
  if options.executor == 'ray':
    from harmony_jax.sweeping.rays import Rays

    return Rays(options.ray_address, options.run_cpus, options.run_gpus, **common_settings)
  if options.executor == 'slurm':
    from harmony_jax.sweeping import slurm

    return slurm.Slurm(
      output / 'slurm',
      slurm.parse_minutes(options.slurm_time),
      options.slurm_partition,
      options.slurm_gpus,
      options.slurm_cpus,
      slurm.parse_gigabytes(options.slurm_memory),
      options.workers,
      **common_settings,
    )
  from harmony_jax.sweeping.local import Local

  return Local(places, **common_settings)


def _end(board, stopped):
  """Says how it ended; returns the exit code."""
  counts = board.counts()
  if stopped and set(counts) - {'finished'}:
    print(
      f'{stopped}: stopped and saved; continue with: {shlex.join(["python", *sys.orig_argv[1:]])}',
      file=sys.stderr,
    )
    return launcher.INTERRUPTED
  unfinished = [row for row in board.rows if row.state != 'finished']
  for row in unfinished:
    print(f'{board.describe(row)} (output: {row.job.output})', file=sys.stderr)
  return 1 if unfinished else 0


def _fail(message, code=2):
  print(f'error: {message}', file=sys.stderr)
  return code


if __name__ == '__main__':
  main()
