"""The launcher that all suites share: flags → configuration → run folder → training.

The only place with flags, and the only one that turns errors into an exit code: what the user can
mend is told in one line, with the error's `exit_code`, which is 2 where nothing else is said.
"""

import contextlib
import functools
import gc
import os
import pathlib
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Collection, Iterable, Sequence
from types import ModuleType
from typing import Any

from absl import app, flags, logging

from harmony_jax import config as config_
from harmony_jax import envs, errors, harmony, method, settings, surroundings
from harmony_jax.config import Config
from harmony_jax.config_file import FromFile
from harmony_jax.envs.base import Spec
from harmony_jax.errors import EnvironmentFault, UserError
from harmony_jax.paths import joined, local_path
from harmony_jax.reporting import schema
from harmony_jax.training import trackers
from harmony_jax.training.interruption import Interrupted, Interruption
from harmony_jax.training.progress import format_seconds

from . import configs, streams


def run(name: str) -> None:
  """Run the command of a suite, configs/<name>.py."""
  streams.settle()
  try:
    suite = configs().suite(name)
  except UserError as error:
    sys.exit(_fail(error))
  define_flags(suite)
  # of the command, though it is this file that defines them
  for flag in flags.FLAGS.get_flags_for_module(__name__):
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
  command(functools.partial(_main, suite), configurable=True)


def command(main: Callable[..., int | None], configurable: bool = False) -> None:
  """Run an entry point; what the user can mend is told in one line.

  Args:
    main: called with the words that are no flags, and, if `configurable`, the texts 'field=value'
      of --config.field=value; returns the exit code.
  """
  streams.settle()
  # JAX would tell at length which accelerators it did not find
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
  logging.set_verbosity(logging.WARNING)
  note(surroundings.settle())
  argv, more = sys.argv, ()
  try:
    if configurable:
      argv, *more = config_.split_flags(sys.argv)
  except UserError as error:
    sys.exit(_fail(error))

  def guarded(words):
    try:
      return main(words[1:], *more)
    except (Exception, KeyboardInterrupt, SystemExit) as error:
      return _fail(error)

  app.run(guarded, argv=argv, flags_parser=parse_flags)


def define_flags(suite: ModuleType, values: flags.FlagValues = flags.FLAGS) -> None:
  """Define the flags of a suite's command; other `values` than absl's own are for sweeps."""
  kinds = flags.DEFINE_string, flags.DEFINE_integer, flags.DEFINE_enum, flags.DEFINE_bool, path
  string, integer, enum, switch, place = (
    functools.partial(each, flag_values=values) for each in kinds
  )
  string(suite.TASK_FLAG, suite.DEFAULT_TASK, f'The {suite.TASK_FLAG} to train on.')
  for name, (_, text) in getattr(suite, 'ENV_FLAGS', {}).items():
    string(name, None, text)
  integer('seed', 0, 'Seed of the whole run.', lower_bound=0)
  integer('num_seeds', 1, 'Seeds seed, seed + 1, … in one program, each with its run folder.', 1)
  methods = f'{", ".join(method.METHODS)}, or my_package.my_file:METHOD.'
  string('method', configs().default_method(suite), f'Base method: one of {methods}')
  string('weighting', None, "How the tasks' losses are weighed; by default as the method has it.")
  enum('preset', configs().AUTO, (configs().AUTO, *suite.PRESETS), PRESET)
  enum('replay', 'auto', ('auto', 'host', 'device'), REPLAY)
  integer('devices', 0, 'Of each process, sharing the batch, whose size stays; 0: all that can.', 0)
  string('coordinator', '', COORDINATOR)
  integer('num_processes', None, 'How many processes train together, with --coordinator.', 1)
  integer('process_id', None, 'Which of them this is, from 0.', lower_bound=0)
  place('logdir', None, LOGDIR)
  place('from', None, FROM)
  flags.DEFINE_list('tracker', *TRACKER, flag_values=values)
  switch('wandb', False, 'As wandb among --tracker.')


class _PathParser(flags.ArgumentParser):
  """Of a flag that names a folder or a file: see `paths.local_path`."""

  def parse(self, argument: str) -> str:
    try:
      return str(local_path(argument)) if argument else argument
    except UserError as error:
      raise ValueError(str(error)) from None


ALLOW_IMPORT = 'Import the module of a method or of environments that the folder names.'
TRACKER = (  # no part of a run's configuration
  list(trackers.DEFAULT),
  f'Where to watch a run, with commas: {", ".join(trackers.TRACKERS)}; or none.',
)
path = functools.partial(flags.DEFINE, _PathParser())  # path(name, default, help)

# What flags say of themselves.
SEEDS = '5 is 0 to 4; 3,7 are those two, and 7, that one; 5-9 is a range.'
VARIANT = "'LABEL: setting=value …', such as 'w100: weighting.rule=fixed weighting.w_r=100'."
REFERENCES = 'JSON of {task: {name: score}} for dashed lines; {name: score}: in all tasks.'
PRESET = (
  "Sizes: 'paper' as the authors, 'cpu' for 2 cores; 'auto' takes 'paper' on an accelerator and "
  "'cpu' otherwise."
)
REPLAY = (
  "Where replay is sampled: 'auto' takes an accelerator that has room for it. The batches are the "
  'same.'
)
COORDINATOR = (
  'Trains one run in several processes, on one machine or many, with one --logdir: HOST:PORT of '
  "process 0, the same in all. By default they are found on Slurm and TPU pods; 'none' to train "
  'alone there.'
)
LOGDIR = (
  'Run folder; by default runs/<suite>/<task>/<method>-<weighting>-<preset>/seed<seed>. The same '
  'command continues the run that is there. With several seeds, the folder of their run folders '
  'seed<seed>.'
)
FROM = (
  'Run folder of a trained agent that a new run starts from: the same method and sizes, for more '
  'steps, with other settings, or on another task with the same observations and actions.'
)


def no_words(words: Sequence[str], example: str) -> None:
  """Refuse words that are no flags."""
  if words:
    raise UserError(f'unexpected argument {words[0]!r}: options look like {example}')


def parse_seeds(text: str) -> list[int]:
  """Return the seeds of '5' (0 to 4), '3,7', '7,' (one alone) or '5-9', or raise UserError."""
  if re.fullmatch('[1-9][0-9]{0,3}', text):
    return list(range(int(text)))
  seeds = []
  for part in text.removesuffix(',').split(','):
    bounds = re.fullmatch('([0-9]{1,9})(?:-([0-9]{1,9}))?', part.strip())
    found = bounds and range(int(bounds[1]), int(bounds[2] or bounds[1]) + 1)
    if not found or len(found) > 10_000 or text.isdigit():
      raise UserError(f"--seeds is {text!r}: it takes a number (5 is 0 to 4), '3,7', '7,' or '5-9'")
    seeds += found
  return list(dict.fromkeys(seeds))


def parse_variant(text: str) -> tuple[str, list[str]]:
  """Return (label, settings) of a --variant, 'LABEL: setting=value …', or raise UserError."""
  label, colon, rest = text.partition(':')
  if not colon or not re.fullmatch(r'[\w.+-]+', label):
    raise UserError(
      f"--variant is {text!r}: it is 'LABEL: setting=value …', the label of letters, digits, ._+- "
      "alone, such as 'w100: weighting.rule=fixed weighting.w_r=100'"
    )
  try:
    words = shlex.split(rest)
  except ValueError as error:
    raise UserError(f'--variant is {text!r}: {error}') from None
  if label in harmony.RULES and words != [f'weighting.rule={label}']:
    told = f'{label} is the name of a rule, as which it would be reported'
    raise UserError(f'--variant is {text!r}: {told}: choose another label')
  return label, words


def parse_flags(argv: Sequence[str]) -> list[str]:
  """Return absl's parsing, with one line in place of its page of usage."""
  try:
    return flags.FLAGS(argv)
  except flags.Error as error:
    try:
      of_tasks = {suite.TASK_FLAG for suite in configs().suites().values()}
    except UserError as worse:
      sys.exit(_fail(worse))
    here = [f'--{name}' for name in (*sorted(of_tasks), 'tasks') if name in flags.FLAGS]
    other = getattr(error, 'flagname', None) in of_tasks and here
    told = f'; what to train on is {here[0]} here' if other else ''
    sys.exit(_fail(UserError(f'{_plainly(error)}{told}')))


def _plainly(error):
  """What absl says of a flag that is missing, or no number, in words."""
  text = re.sub(
    r'invalid literal for int\(\) with base 10: .*', 'expected a whole number', f'{error}'
  )
  text = re.sub(r'could not convert string to float: .*', 'expected a number', text)
  missing = re.match(r'flag --(\w+)=None: Flag .* must have a value', text)
  return f'--{missing[1]}=… is missing: {flags.FLAGS[missing[1]].help}' if missing else text


def canonical(suite: ModuleType, task: str) -> str:
  """Return a task's one true name; UserError where it, or the simulator, is not there."""
  try:
    envs.require(suite.SUITE)
    return envs.canonical(suite.SUITE, task)
  except (ValueError, RuntimeError) as error:
    raise UserError(str(error)) from None


def configuration(
  name: str, task: str | None, by: str | None, preset: str, texts: Sequence[str]
) -> Config:
  """Return the configuration of a suite, its own task and method where none is given.

  Raises:
    UserError: an unknown suite, task, method, preset or setting.
  """
  suite = configs().suite(name)
  task = canonical(suite, task or suite.DEFAULT_TASK)
  config = configs().make(suite, by or configs().default_method(suite), preset, task)
  return configs().check(config.override(texts))


def make_config(
  suite: ModuleType, options: flags.FlagValues, texts: Sequence[str], accelerator: bool
) -> tuple[Config, str]:
  """Return the configuration that flags ask for, and why its preset was chosen."""
  preset, reason = options.preset, ''
  if preset == configs().AUTO and accelerator:
    preset, reason = 'paper', ' (auto: there is an accelerator)'
  elif preset == configs().AUTO:
    preset, reason = 'cpu', ' (auto: there is no accelerator)'
  task = canonical(suite, str(options[suite.TASK_FLAG].value))
  fields = {'seed': 'seed', 'replay': 'replay_on', 'devices': 'devices'}
  changes = {field: options[name].value for name, field in fields.items() if options[name].present}
  changes |= given(suite, options)
  config = configs().make(suite, options.method, preset, task)
  config = config.override(text for text in texts if isinstance(text, FromFile))
  if options.weighting is not None:
    if 'weighting.rule' not in config.flat():
      raise UserError(f'--weighting={options.weighting}: {options.method} weighs no tasks')
    changes['weighting.rule'] = options.weighting
  config = config.replace(changes)
  flagged = config.flat()
  config = config.override(text for text in texts if not isinstance(text, FromFile))
  flat = config.flat()
  if twice := [name for name in changes if flat[name] != flagged[name]]:
    told = f'{flagged[twice[0]]!r} by a flag of its own and {flat[twice[0]]!r} by --config'
    raise UserError(f'config.{twice[0]} is {told}: say it once')
  return configs().check(config), reason


def given(suite: ModuleType, options: flags.FlagValues) -> dict[str, Any]:
  """Return {field: value} of the suite's own flags that were given."""
  short = getattr(suite, 'ENV_FLAGS', {}).items()
  return {
    field: options[name].value for name, (field, _) in short if options[name].value is not None
  }


def default_logdir(config: Config, origin: str | None = None, root: str = 'runs') -> str:
  """Return <root>/<suite>/<task>/<method>-<weighting>-<preset>/seed<seed>.

  Of a run that starts from another one, `origin` is the task of that. A label comes last.
  """
  run = config.run
  name = schema.label(config.to_json() | ({'from': origin} if origin else {}))
  return os.path.join(root, run.suite, joined(run.task.lower()), joined(name), f'seed{run.seed}')


def deviations(suite: ModuleType, config: Config) -> str:
  """Return the line that says where the run differs from the `paper` preset, and what that is."""
  paper = configs().make(suite, config.run.method, 'paper', config.run.task)
  changed = [
    f'{name}={ours} ({published})'
    for name, (published, ours) in config_.difference(paper.to_json(), config.to_json()).items()
    if name not in ('seed', 'label', 'preset', 'devices', 'keep_replay')
  ]
  note = method.entry(config.run.method).note
  told = f'differs from the paper: {", ".join(changed) or "in nothing"}'
  return told + (f'\nnote: {note}' if note else '')


def idle(
  config: Config,
  texts: Sequence[str],
  spec: Spec | None = None,
  capabilities: Collection[str] | None = None,
) -> list[str]:
  """Return a line for each setting among `texts` that changes nothing, by the run's rule or other
  settings, or by its environment and the method's capabilities where they are known; and one where
  `fixed` gives the dynamics another weight than `none`, and `texts` do not say so."""
  from harmony_jax import weighting

  flat: dict = {'weighting.tasks': ('dynamics',), **config.flat()}
  rule = flat.get('weighting.rule', '')
  names = (text.partition('=')[0].strip().removeprefix('config.') for text in texts)
  of_rule = {f'weighting.{name}' for name in weighting.idle(rule)}
  told = f'changes nothing with --weighting={rule}'
  named = list(dict.fromkeys(names))
  found = [f'config.{name} {told}' for name in named if name in of_rule]
  if not flat['weighting.tasks'] and rule not in ('', 'none'):
    found.append(
      f'config.weighting.tasks is empty: --weighting={rule} weighs nothing, as none does'
    )
  options = envs.options(config.run.suite)()
  parts = (config.run, ''), (config.agent, ''), (options, 'env.')
  known = {each.name: each for part in parts for each in settings.describe(*part)}
  values = {**flat, **(_kinds(spec) if spec else {})}
  values |= {} if capabilities is None else {'report': 'report' in capabilities}
  for name in [name for name in named if name in known and name not in of_rule]:
    if lacks := settings.lacking(known[name], values):
      found.append(f'config.{name} changes nothing here: it is for {lacks} alone')
  plans, steps = 'planning.horizon.end', config.agent.batch_length - 1
  if {plans, 'batch_length'} & {*named} and flat.get(plans, 0) > steps:
    found.append(f'config.{plans} is {flat[plans]:g}: plans end at batch_length - 1, {steps} steps')
  own, weight = getattr(getattr(config.agent, 'losses', None), 'scale', None), 'weighting.w_d'
  if rule == 'fixed' and own is not None and weight in flat and weight not in named:
    if 'dynamics' in flat['weighting.tasks'] and flat[weight] != own:
      found.append(f'config.{weight} is {flat[weight]:g}, where --weighting=none has {own:g}')
  return found


def note(lines: Iterable[str]) -> None:
  """Tell something that a user may not have meant."""
  for line in lines:
    print(f'note: {line}', file=sys.stderr)


def _kinds(spec):
  """What there is to see and to do, as `settings.setting` asks for it."""
  ranks = [len(each.shape) for each in spec.observation.values()]
  return {
    'pictures': 3 in ranks,
    'vectors': min(ranks) < 3,
    'discrete_actions': bool(spec.factors),
    'continuous_actions': spec.num_actions > sum(spec.factors),
  }


def _main(suite, words, texts):
  from harmony_jax import processes

  no_words(words, f'--{suite.TASK_FLAG}=…')
  options = flags.FLAGS
  with Interruption() as interruption:
    processes.join(options.coordinator, options.num_processes, options.process_id)
    group = processes.here()
    with _nobody_waits() if group.count > 1 else contextlib.nullcontext():
      return _run(suite, options, texts, group, interruption)


def _run(suite, options, texts, group, interruption):
  from harmony_jax import parallel
  from harmony_jax.training import seeds
  from harmony_jax.training.loop import Trainer

  from . import folders

  gc.set_threshold(100_000)  # tracing makes objects by the million: a tenth of a start's time
  parallel.use_compilation_cache()
  parallel.keep_freed_memory()
  config, reason = make_config(suite, options, texts, parallel.has_accelerator())
  shown = trackers.choose([*options.tracker, *(['wandb'] if options.wandb else [])])
  if options.num_seeds > 1 and (group.count > 1 or config.run.devices > 1):
    raise UserError('--num_seeds trains on one device of one process: start each seed by itself')
  with contextlib.ExitStack() as stack:
    source = options['from'].value
    places = _places(config, options, None if options.logdir else task_of(source))
    runs = folders.open_runs(stack, places, group, source)
    if not runs:
      return 0
    if group.leads:
      of = ' of one seed' if options.num_seeds > 1 else ''
      expected = _expected(suite, config, texts)
      print(f"preset '{config.run.preset}'{reason}; expected duration{of}: {expected}")
      print(deviations(suite, config))
      print('\n'.join(f'run folder: {folder.path}' for _, folder in runs), flush=True)
    named = [*texts, *given(suite, options)]
    if options.num_seeds > 1:
      note(idle(config, named))
      seeds.train(runs, interruption, trackers=shown)
    else:
      trainer = Trainer(*runs[0], shown, interruption)
      if group.leads:
        note(idle(config, named, trainer.env.spec, trainer.method.capabilities))
        note(configs().unlike(suite, config, trainer.env.spec))
      trainer.run()
  return 0


def _expected(suite, config, texts):
  """How long a run takes, by earlier ones on this machine; else by the suite's file, if by any."""
  import jax

  from harmony_jax.training import measured

  if found := measured.load(config, jax.default_backend()):
    return measured.text(found, config.run.steps)
  hours, later = suite.HOURS.get(config.run.preset), 'it is measured after the first updates'
  if hours is None or texts:
    return f'not known here yet, {later}'
  place = f'configs/{suite.__name__.rpartition(".")[2]}.py'
  return f'about {format_seconds(3600 * hours)} on the machine of {place}; {later}'


def _places(config, options, origin=None):
  """Return (configuration, its folder) of each seed; `origin` as of `default_logdir`."""
  places = []
  for seed in range(config.run.seed, config.run.seed + options.num_seeds):
    one = config.replace({'seed': seed})
    own = f'seed{seed}' if options.num_seeds > 1 else ''
    folder = options.logdir and str(pathlib.Path(options.logdir, own))
    places.append((one, folder or default_logdir(one, origin)))
  return places


def task_of(source: str | None) -> str | None:
  """Return the task of a run folder, that of --from; None without one."""
  try:
    return config_.saved(source)['config']['task'] if source else None
  except UserError as error:
    told = 'a run that began from it goes on by its --logdir'
    raise UserError(f'--from: {error}; {told}') from None


@contextlib.contextmanager
def _nobody_waits():
  """For one of several processes: end at once on a failure, as the others could wait for ever."""
  try:
    yield
  except Interrupted:  # of all of them
    raise
  except BaseException as error:
    try:
      code = _fail(error)
    except BaseException:
      traceback.print_exc()
      code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _fail(error: BaseException) -> int:
  """Tell in one line what ended the program; return the exit code. Raises a bug again."""
  if isinstance(error, Interrupted):
    again = shlex.join(['python', *sys.orig_argv[1:]])
    print(f'{error}; continue with: {again}', file=sys.stderr)
    return error.exit_code
  code, line = getattr(error, 'exit_code', UserError.exit_code), str(error)
  if isinstance(error, KeyboardInterrupt):
    code, line = 130, 'interrupted; the same command continues from the last checkpoint'
  elif isinstance(error, SystemExit):  # called by an environment or a method, never by us
    frame = traceback.extract_tb(error.__traceback__)[-1]
    line = f'sys.exit({error.code!r}) was called in {frame.filename}, line {frame.lineno}'
    line = errors.one_line(f'{line}, where an exception would say what is wrong')
  elif not isinstance(error, UserError):
    from harmony_jax.training import faults

    line = faults.explain(error)
    if line is None:
      raise error
  if isinstance(error, EnvironmentFault) and (own := error.__cause__):
    ours, trace = str(pathlib.Path(errors.__file__).parent), own.__traceback__
    while trace and trace.tb_frame.f_code.co_filename.startswith(ours):
      trace = trace.tb_next
    traceback.print_exception(type(own), own, trace)  # the environment's lines alone
  if isinstance(error, EnvironmentFault):  # of another process, which has written them down
    print(*getattr(error, '__notes__', ()), sep='\n', end='', file=sys.stderr)
  print(f'error: {line}', file=sys.stderr)
  return code
