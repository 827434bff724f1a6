"""The launcher that all experiments share: flags → configuration → run folder → training.

The only place with flags, and the only one that turns errors into an exit code: what the user can
mend is told in one line, with exit code 2.
"""

import contextlib
import copy
import functools
import os
import shlex
import sys
import traceback

from absl import app, flags, logging

from harmony_jax import configuration
from harmony_jax.errors import UserError

# exit code of a run that saved and ended on SIGTERM or Ctrl-C: try again (EX_TEMPFAIL of
# sysexits.h)
INTERRUPTED = 75


def run(benchmark):
  """Runs a benchmark: a module of configs/ with SUITE, TASK_FLAG, DEFAULT_TASK, HOURS and
  get_config.

  It may also have DEFAULT_METHOD, and ENV_FLAGS {flag: (field of the configuration, help)}: shorter
  names for options of the environment that many will set.
  """
  define_flags(benchmark)
  # of the command, though it is this file that defines them
  for flag in flags.FLAGS.get_flags_for_module(__name__):
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
  try:
    argv, overrides = configuration.split_config_flags(sys.argv)
  except UserError as error:
    sys.exit(_fail(error))
  app.run(lambda rest: _main(benchmark, rest, overrides), argv=argv, flags_parser=parse_flags)


def define_flags(benchmark, values=flags.FLAGS):
  """Defines the flags of a benchmark's command; `values` other than absl's own are for tests and
  documentation.
  """
  from configs import common

  string, integer, enum, switch = (
    functools.partial(define, flag_values=values)
    for define in (flags.DEFINE_string, flags.DEFINE_integer, flags.DEFINE_enum, flags.DEFINE_bool)
  )
  string(benchmark.TASK_FLAG, benchmark.DEFAULT_TASK, f'The {benchmark.TASK_FLAG} to train on.')
  for name, (_, text) in getattr(benchmark, 'ENV_FLAGS', {}).items():
    string(name, None, text)
  integer('seed', 0, 'Seed of the whole run.', lower_bound=0)
  integer(
    'num_seeds',
    1,
    'How many seeds to train side by side in one program: seed, seed + 1, …; each '
    'in its run folder, as if started alone.',
    lower_bound=1,
  )
  enum(
    'method',
    getattr(benchmark, 'DEFAULT_METHOD', 'dreamerv3'),
    sorted(common.METHODS),
    'Base method.',
  )
  enum('weighting', 'harmony', common.WEIGHTINGS, 'How the tasks of the world model are weighed.')
  enum(
    'preset',
    'auto',
    common.PRESETS,
    "Sizes: 'paper' as the authors, 'cpu' for 2 cores; 'auto' "
    "takes 'paper' on an accelerator and 'cpu' otherwise.",
  )
  enum(
    'replay',
    'auto',
    ('auto', 'host', 'device'),
    "Where replay is sampled: 'auto' takes an accelerator "
    'that has room for it. The batches are the same.',
  )
  integer(
    'devices',
    0,
    'How many devices of each process share the batch, whose size stays; by default '
    'as many as can share it equally.',
    lower_bound=0,
  )
  string(
    'coordinator',
    '',
    'Trains one run in several processes, on one machine or many, with one '
    '--logdir: HOST:PORT of process 0, the same in all. By default they are found on Slurm and TPU '
    "pods; 'none' to train alone there.",
  )
  integer(
    'num_processes', None, 'How many processes train together, with --coordinator.', lower_bound=1
  )
  integer('process_id', None, 'Which of them this is, from 0.', lower_bound=0)
  string(
    'logdir',
    None,
    'Run folder; by default runs/<suite>/<task>/<method>-<weighting>-<preset>/'
    'seed<seed>. The same command continues the run that is there. With several seeds, the folder '
    'of their run folders seed<seed>.',
  )
  switch('wandb', False, 'Also log to Weights & Biases.')


def command(main, configurable=False):
  """Runs an entry point that trains nothing; what the user can mend is told in one line.

  Args:
    main: called with the words that are no flags, and, if `configurable`, the texts 'field=value'
      of --config.field=value; returns the exit code.
  """
  _quieten()
  argv, more = sys.argv, ()
  try:
    if configurable:
      argv, *more = configuration.split_config_flags(sys.argv)
  except UserError as error:
    sys.exit(_fail(error))

  def guarded(words):
    try:
      return main(words[1:], *more)
    except UserError as error:
      return _fail(error)
    except KeyboardInterrupt:
      return _fail('interrupted', 130)
    except Exception as error:
      return _fail_explained(error)

  app.run(guarded, argv=argv, flags_parser=parse_flags)


def no_words(words, example):
  """Refuses words that are no flags."""
  if words:
    raise UserError(f'unexpected argument {words[0]!r}: options look like {example}')


def parse_flags(argv):
  """absl's parsing, with one line in place of its page of usage."""
  try:
    return flags.FLAGS(argv)
  except flags.Error as error:
    sys.exit(_fail(str(error).replace('\n', ' ').strip()))


def _main(benchmark, rest, overrides):
  if len(rest) > 1:
    return _fail(f'unexpected argument {rest[1]!r}: options look like --{benchmark.TASK_FLAG}=…')
  _quieten()
  from harmony_jax.training.interruption import Interrupted, Interruption

  try:
    with Interruption() as interruption:
      return _train(benchmark, flags.FLAGS, overrides, interruption)
  except Interrupted as interrupted:
    print(f'{interrupted}; continue with: {shlex.join(_command())}', file=sys.stderr)
    return INTERRUPTED
  except UserError as error:
    return _fail(error, error.exit_code)
  except KeyboardInterrupt:
    return _fail('interrupted; the same command continues from the last checkpoint', 130)
  except Exception as error:
    return _fail_explained(error)


def _train(benchmark, options, overrides, interruption):
  from harmony_jax import parallel

  if options.wandb and options.num_seeds > 1:
    raise UserError(
      '--wandb shows one run per program: leave it out, or start every seed by itself'
    )
  parallel.join(options.coordinator, options.num_processes, options.process_id)
  with _nobody_waits() if parallel.process_count() > 1 else contextlib.nullcontext():
    return _run(benchmark, options, overrides, interruption)


def _run(benchmark, options, overrides, interruption):
  from harmony_jax import parallel
  from harmony_jax.training import seeds
  from harmony_jax.training.loop import Trainer

  parallel.use_compilation_cache()
  if not parallel.has_accelerator():
    parallel.keep_freed_memory()
  config, reason = make_config(benchmark, options, overrides, parallel.has_accelerator())
  if options.num_seeds > 1 and (parallel.process_count() > 1 or config.devices > 1):
    raise UserError(
      '--num_seeds trains all seeds on one device of one process: start every seed by itself'
    )
  with contextlib.ExitStack() as stack:
    runs = _open_runs(stack, seed_configs(config, options.num_seeds), options)
    if not runs:
      return 0
    if not parallel.process_index():
      hours = benchmark.HOURS[config.preset]
      print(
        f"preset '{config.preset}'{reason}; expected duration{' of one seed' if options.num_seeds > 1 else ''}: "
        f'{"not measured" if hours is None else f"{hours:.2g} hours"}'
      )
      for line in deviations(benchmark, config):
        print(line)
      for _, folder in runs:
        print(f'run folder: {folder.path}', flush=True)
    if options.num_seeds > 1:
      seeds.train(runs, interruption)
    else:
      Trainer(*runs[0], options.wandb, interruption).run()
  return 0


@contextlib.contextmanager
def _nobody_waits():
  """For one of several processes: where it fails, it ends at once, as the others could wait for it
  for ever.
  """
  from harmony_jax.training import faults
  from harmony_jax.training.interruption import Interrupted

  try:
    yield
  except Interrupted:  # of all of them
    raise
  except BaseException as error:
    line = str(error) if isinstance(error, UserError) else faults.explain(error)
    code = 2 if isinstance(error, UserError) else 130 if isinstance(error, KeyboardInterrupt) else 1
    if line or code == 130:
      _fail(line or 'interrupted; the same commands continue from the last checkpoint')
    else:
      traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _open_runs(stack, configs, options):
  """Pairs (configuration, locked folder) of those runs that are not complete; `stack` closes the
  folders.
  """

  runs = []
  for config in configs:
    logdir = options.logdir or default_logdir(config)
    if options.logdir and len(configs) > 1:
      logdir = os.path.join(logdir, f'seed{config.seed}')
    identity = {'suite': config.suite, 'task': config.task, 'method': config.method}
    folder = stack.enter_context(_open_folder(logdir, config, identity))
    if folder.is_complete():
      print(f'this run is complete: {folder.path}')
    else:
      runs.append((config, folder))
  return runs


def _open_folder(logdir, config, identity):
  """`run_folder.prepare`. Of several processes, process 0 does it; all learn where, and whether it
  was refused.
  """
  from harmony_jax import parallel
  from harmony_jax.training import run_folder

  if parallel.process_count() == 1:
    return run_folder.prepare(logdir, config, identity)
  _check_equal(parallel.exchange(configuration.to_json_dict(config)))
  folder = told = None
  if not parallel.process_index():
    try:
      folder = run_folder.prepare(logdir, config, identity)
      told = {'path': str(folder.path.absolute()), 'complete': folder.is_complete()}
    except UserError as error:
      told = {'refused': str(error)}
  told = parallel.exchange(told)[0]
  if 'refused' in told:
    parallel.exchange(None)  # process 0 keeps the others together until all have heard
    raise UserError(told['refused'])
  folder = folder or run_folder.RunFolder(told['path'])
  if not (folder.is_complete() if told['complete'] else (folder / 'config.json').exists()):
    raise UserError(
      f'{told["path"]} of process 0 is not there for process {parallel.process_index()}: all need a '
      'folder that they share'
    )
  return folder


def _check_equal(configs):
  """Refuses processes that were started with different settings."""
  from harmony_jax.training import run_folder

  for index, other in enumerate(configs):
    differing = configuration.difference({'config': configs[0]}, {'config': other}).items()
    differing = [
      f'{key}: process 0 has {ours!r}, process {index} has {theirs!r}'
      for key, (ours, theirs) in differing
      if key not in run_folder.FREE
    ]
    if differing:
      raise UserError(f'the processes of a run need the same settings ({"; ".join(differing)})')


def seed_configs(config, count):
  """The configurations of `count` runs: of the config's seed and the following ones."""
  configs = [copy.deepcopy(config) for _ in range(count)]
  for index, each in enumerate(configs):
    each.seed += index
  return configs


def make_config(benchmark, options, overrides, accelerator):
  """(configuration, why the preset was chosen). Raises UserError for an unknown task or a bad
  override.
  """
  from harmony_jax import envs

  preset, reason = options.preset, ''
  if preset == 'auto':
    preset = 'paper' if accelerator else 'cpu'
    reason = (
      ' (auto: there is an accelerator)' if accelerator else ' (auto: there is no accelerator)'
    )
  try:
    task = envs.canonical(benchmark.SUITE, options[benchmark.TASK_FLAG].value)
    envs.require(benchmark.SUITE)
  except (ValueError, RuntimeError) as error:  # an unknown task, or a simulator that is not there
    raise UserError(str(error)) from None
  settings = {
    'seed': options.seed,
    'weighting.rule': options.weighting,
    'replay_on': options.replay,
    'devices': options.devices,
  }
  settings |= {
    field: options[name].value
    for name, (field, _) in getattr(benchmark, 'ENV_FLAGS', {}).items()
    if options[name].value is not None
  }
  return configure(benchmark, options.method, preset, task, settings, overrides), reason


def configure(benchmark, method, preset, task, settings, overrides):
  """A run's configuration: the benchmark's, then {'some.field': value}, then texts 'field=value',
  checked.
  """
  from configs import common

  config = config_for(benchmark, method, preset, task)
  config.update_from_flattened_dict(settings)
  common.check(configuration.apply_overrides(config, overrides))
  return config


def config_for(benchmark, method, preset, task):
  """The benchmark's configuration for a task: some tasks have settings of their own (`for_task`)."""
  config = benchmark.get_config(method, preset)
  config.task = task
  return benchmark.for_task(config) if hasattr(benchmark, 'for_task') else config


def default_logdir(config):
  """runs/<suite>/<task>/<method>-<weighting>-<preset>/seed<seed>."""
  name = f'{config.method}-{config.weighting.rule}-{config.preset}'
  task = config.task.lower().replace('/', '-').replace(':', '-')  # gymnasium's ids may have both
  return os.path.join('runs', config.suite, task, name, f'seed{config.seed}')


def deviations(benchmark, config):
  """Lines that say where the method differs from the `paper` preset."""
  paper = config_for(benchmark, config.method, 'paper', config.task)
  changed = {
    k: v
    for k, v in configuration.difference(paper, config).items()
    if k not in ('task', 'seed', 'preset', 'weighting.rule', 'devices')
  }
  if changed:
    yield 'differs from the paper: ' + ', '.join(
      f'{k}={ours} ({paper})' for k, (paper, ours) in changed.items()
    )


def _command():
  """The words that this program was started with."""
  return ['python', *sys.orig_argv[1:]]


def _quieten():
  """Keeps JAX from telling at length which accelerators it did not find."""
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
  logging.set_verbosity(logging.WARNING)


def _fail_explained(error):
  """Fails with one line where a machine is at its limits; else raises the error, which is being
  handled.
  """
  from harmony_jax.training import faults

  line = faults.explain(error)
  if line is None:
    raise error
  return _fail(line)


def _fail(message, code=2):
  print(f'error: {message}', file=sys.stderr)
  return code
