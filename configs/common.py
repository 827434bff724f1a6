"""How a suite's configuration is put together, and what the suites' presets share.

A suite is a file of this folder, named like its command, with

  SUITE           its environments: a key of `harmony_jax.envs.SUITES`
  TASK_FLAG       the flag that names a task; DEFAULT_TASK is what it says by itself
  HOURS           {preset: hours of a whole run, None where nobody has measured them}
  TRAITS          what a method is told of its tasks: `method.Traits`
  RUN             {'some.field': value}: settings of the run, options of the environment
  PRESETS         {name: `Preset`}

and, where there is something to say,

  DEFAULT_METHOD  'dreamerv3' otherwise
  ENV_FLAGS       {flag: (field, help)}: shorter names for options that many will set
  EVAL_ENV        {option: value}: options of the environment that evaluation has apart
  BY_METHOD       {method: {'some.field': value}}: what the paper's authors changed for this suite
  BY_TASK         {task: {'some.field': value}}: where a task is run otherwise than the others
"""

import dataclasses
import importlib
import pkgutil
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from harmony_jax import envs, method, settings
from harmony_jax.config import Config, RunSettings, nearest
from harmony_jax.envs.base import Spec
from harmony_jax.errors import UserError

Changes = Mapping[str, Any]  # {'some.field': value}
AUTO = 'auto'  # the preset `paper` on an accelerator, `cpu` elsewhere


@dataclasses.dataclass(frozen=True)
class Preset:
  """The sizes of a run.

  Attributes:
    size: 'small' or 'toy', what the method's own `sizes` change; '' for the published method.
    run: what the run, its environment and every method have: {'some.field': value}.
    family: {family: the same for a method of that family}.
  """

  size: str = ''
  run: Changes = dataclasses.field(default_factory=dict)
  family: Mapping[str, Changes] = dataclasses.field(default_factory=dict)


# A rule for the harmonizers of short runs. At the paper's rate (1e-4) s = log σ moves by at most
# 0.1 in 1,000 updates, and with Adam's usual memory (β₂ = 0.999) by 0.5 in the long run whatever
# the rate, so that in the 5,500 updates of the catch game σ would stay far from its optimum. With
# the model's rate of 1e-3 and β₂ = 0.99 it moves by 0.9 in 1,000 updates: it arrives within the
# run, but not before the model has learned to use its latent state at weights near 1.
SHORT_HARMONY = {'weighting.rate': 1.0, 'weighting.beta2': 0.99}


def quick(short: Changes, tiny: int, family: Mapping[str, Changes] | None = None) -> dict:
  """Return the presets `debug`, of 2,000 steps, and `tiny`, of so many, with toy models.

  Both are evaluated and saved in their middle and at their end.
  """
  of = lambda steps, video: Preset(
    'toy',
    {
      **short,
      'steps': steps,
      **dict.fromkeys(('eval_every', 'checkpoint_every'), steps // 2),
      'video_every': video,
    },
    family or {},
  )
  return {'debug': of(2_000, 1_000), 'tiny': of(tiny, tiny)}


def suites() -> dict[str, ModuleType]:
  """Return {command: suite} of every suite in this folder.

  Raises:
    UserError: one calls `sys.exit` where it is imported, which would end any command at once.
  """
  package = __name__.rpartition('.')[0]
  paths, found = importlib.import_module(package).__path__, []
  for each in pkgutil.iter_modules(paths):
    try:
      found.append(importlib.import_module(f'{package}.{each.name}'))
    except SystemExit as error:
      told = f'{package}.{each.name} calls sys.exit({error.code!r}) where it is imported'
      raise UserError(told) from error
  return {each.__name__.rpartition('.')[2]: each for each in found if hasattr(each, 'SUITE')}


def suite(command: str) -> ModuleType:
  """Return a suite by its command.

  Raises:
    UserError: there is none; names the nearest one.
  """
  known = suites()
  if command not in known:
    near = nearest(command, known)
    raise UserError(f'unknown suite {command!r}: did you mean {near!r}? ({", ".join(known)})')
  return known[command]


def default_method(suite: ModuleType) -> str:
  """Return the method that a suite's command trains by itself."""
  return getattr(suite, 'DEFAULT_METHOD', 'dreamerv3')


def make(suite: ModuleType, name: str, preset: str, task: str) -> Config:
  """Return the configuration of a suite's task with a method.

  What comes later counts: the method as it is published, the suite's settings, what the method
  changes for such tasks, what the authors changed for this suite and the task, the method's sizes
  of the preset, and the preset's own.

  Args:
    suite: a file of this folder. task: its canonical name.
    name: of the method, see `method.entry`.
    preset: a key of the suite's `PRESETS`.

  Raises:
    UserError: an unknown method or preset.
  """
  if preset not in suite.PRESETS:
    near, known = nearest(preset, suite.PRESETS), ', '.join(suite.PRESETS)
    raise UserError(f'unknown preset {preset!r}: did you mean {near!r}? (known: {known})')
  entry, sizes = method.entry(name), suite.PRESETS[preset]
  options = settings.flatten(envs.options(suite.SUITE)())
  config = Config(RunSettings(), entry.settings, options, getattr(suite, 'EVAL_ENV', {}))
  return config.replace(
    {
      'suite': suite.SUITE,
      'task': task,
      'method': name,
      'preset': preset,
      **suite.RUN,
      **entry.adapt(suite.TRAITS),
      **getattr(suite, 'BY_METHOD', {}).get(name, {}),
      **getattr(suite, 'BY_TASK', {}).get(task, {}),
      **entry.sizes.get(sizes.size, {}),
      **sizes.family.get(entry.family, {}),
      **sizes.run,
    }
  )


def unlike(suite: ModuleType, config: Config, spec: Spec) -> list[str]:
  """Return a line for each setting that the method has for the suite's kind of actions, where those
  of the task are of another: a suite of any environments says one kind before one is made.
  """
  entry = method.entry(config.run.method)
  own = dataclasses.replace(suite.TRAITS, discrete=bool(spec.factors))
  flat, published, fitting = config.flat(), settings.flatten(entry.settings), entry.adapt(own)
  kinds = ('continuous actions', 'choices')
  return [
    f'config.{name} is {value:g}, as {config.run.method} has it for {kinds[not own.discrete]}: for '
    f'{kinds[own.discrete]}, as here, it has {wanted:g}'
    for name, value in entry.adapt(suite.TRAITS).items()
    if flat[name] == value != (wanted := fitting.get(name, published[name]))
  ]


def check(config: Config) -> Config:
  """Return a configuration whose settings fit each other, with options that its environment has.

  Raises:
    UserError: names the field, its value and what it must be.
  """
  config.check()
  options = envs.options(config.run.suite)
  try:
    options.of(config.env)
    options.of({**config.env, **config.eval_env})
  except ValueError as error:
    raise UserError(str(error)) from None
  return config
