"""The configuration of a run: settings of the run, of its method, and options of its environment.

On disk, on the command line and in messages it is one tree: `steps`, `rssm.deter`, `env.sticky`.
"""

import dataclasses
import difflib
import json
import logging
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from flax import traverse_util

from harmony_jax import config_file, method, sampling, settings
from harmony_jax.errors import UserError, one_line
from harmony_jax.paths import local_path
from harmony_jax.settings import setting

FORMAT = 2  # of config.json; 1 had the settings that told three methods apart in `behavior`
_OPTIONS = ('env', 'eval_env')
# What runs did before there was a setting for it.
LATER: dict[str, Any] = dict.fromkeys(('env.keys', 'env.ignore', 'env.read', 'env.wrappers'), [])
LATER |= {'eval_share': 0.0, 'env.vector': False, 'keep_replay': True, 'update_at': 'steps'}
LATER |= {'matmul_precision': 'default', 'rssm.recurrence': 'auto'}
LATER |= {'env.ball': 0, 'env.paddle': 0, 'env.drift': 1.0, 'env.contrast': 1.0}
LATER |= {'env.rewarded': 'end', 'label': '', 'eval_in_background': False}
LATER |= {'weighting.decay': 0.99, 'weighting.least': 0.0, 'weighting.window': 25}
LATER |= {'weighting.alpha': 1.5}
LATER |= {'weighting.start': 1.0, 'sac.opt.beta2': 0.999}
LATER |= {f'{of}_opt.beta2': 0.999 for of in ('model', 'actor', 'critic', 'policy', 'probe')}
IDENTITY = ('suite', 'task', 'method', 'preset')  # the other settings follow from them
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class RunSettings:
  """What is the run's and not the method's. A step is one agent step: frames / action_repeat."""

  suite: str = setting('', 'the benchmark: chosen by the command')
  task: str = setting('', 'chosen by --game, --task or --env')
  method: str = setting('dreamerv3', 'the base method: chosen by --method')
  preset: str = setting('paper', 'sizes: chosen by --preset')
  seed: int = setting(0, 'of the whole run: chosen by --seed')
  label: str = setting('', "tells it from others of its kind, in its folder's name and in reports")
  steps: int = setting(100_000, 'agent steps of the whole run', least=1)
  num_envs: int = setting(1, 'environments that step together in training', least=1)
  score: str = setting(
    'return', "what is reported: the return of an episode, or a measure like 'success'"
  )
  env_processes: settings.Switch = setting(
    'auto',
    'each environment in a process of its own; auto: several of a slow suite with a core each',
    choices=(True, False, 'auto'),
  )
  replay_capacity: int = setting(
    1_000_000, 'steps; a 100K run never fills more than 100,000', least=1
  )
  devices: int = setting(0, 'of this process, that share the batch; 0: as many as can')
  replay_on: str = setting(
    'auto',
    'host, device, or auto: on an accelerator that has room for it',
    choices=('auto', 'host', 'device'),
  )
  prefill_chunk: int = setting(
    100, 'whether training can begin is looked at after every so many steps', least=1
  )
  eval_every: int = setting(5_000, 'steps between two evaluations', least=1)
  eval_episodes: int = setting(100, 'episodes of an evaluation')
  final_eval_episodes: int = setting(100, 'episodes of the last one', least=1)
  eval_share: float = setting(
    0.0, "of the training's steps that evaluations may take, by fewer episodes; 0: any number"
  )
  eval_envs: int = setting(16, 'environments that evaluate side by side', least=1)
  eval_in_background: bool = setting(
    False, 'training goes on while the policy of that step, a copy, is evaluated in a thread'
  )
  log_every: int = setting(250, 'steps between two lines of metrics', least=1)
  checkpoint_every: int = setting(5_000, 'steps between two checkpoints', least=1)
  video_every: int = setting(
    10_000, 'steps between two open-loop videos; 0: none', only='pictures report'
  )
  keep_replay: bool = setting(False, 'keep the replay on disk after the end, too')


@dataclasses.dataclass(frozen=True)
class Config:
  """A run's configuration.

  Attributes:
    run: its own settings. agent: of its method, an instance of the method's class.
    env: options of the environment, as config.json gives them back: see `settings.kept`.
    eval_env: of those, what is different in evaluation.

  Raises:
    UserError: an option that config.json would not give back.
  """

  run: RunSettings
  agent: method.MethodSettings
  env: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  eval_env: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    for part in _OPTIONS:
      kept = {k: settings.kept(f'{part}.{k}', v) for k, v in getattr(self, part).items()}
      object.__setattr__(self, part, kept)

  def flat(self) -> dict[str, Any]:
    """Return {dotted name: value} of everything."""
    options = {f'{part}.{k}': v for part in _OPTIONS for k, v in getattr(self, part).items()}
    return {**settings.flatten(self.run), **settings.flatten(self.agent), **options}

  def replace(self, changes: Mapping[str, Any]) -> 'Config':
    """Return it with {dotted name: value} changed.

    Raises:
      UserError: an unknown name, or a value that cannot be.
    """
    parts: dict[str, dict] = {'run': {}, 'agent': {}, 'env': {}, 'eval_env': {}}
    of_run, of_agent = settings.flatten(self.run), settings.flatten(self.agent)
    for name, value in changes.items():
      first, _, rest = name.partition('.')
      if first in _OPTIONS and (rest in getattr(self, first) or self._takes(name)):
        parts[first][rest] = value
      elif name in of_run or name in of_agent:
        parts['run' if name in of_run else 'agent'][name] = value
      else:
        raise UserError(settings.unknown(name, self.flat()))
    return Config(
      settings.replace(self.run, parts['run']),
      settings.replace(self.agent, parts['agent']),
      {**self.env, **parts['env']},
      {**self.eval_env, **parts['eval_env']},
    )

  def _takes(self, name):
    """Whether it is an option that only the simulator knows."""
    from harmony_jax import envs  # which a configuration is read without

    first, _, rest = name.partition('.')
    if first not in _OPTIONS or not rest.isidentifier() or not envs.options(self.run.suite).more:
      return False
    if ours := {'num_envs': 'num_envs', 'processes': 'env_processes'}.get(rest):  # of `envs.make`
      raise UserError(
        f'config.{name}: no option of an environment can be called {rest!r}; config.{ours} says '
        'how many there are and where they run'
      )
    return True

  def _own(self, name):
    """Whether it is such an option, and none of the suite's: its type is that of what is said."""
    from harmony_jax import envs

    return self._takes(name) and not hasattr(envs.options(self.run.suite), name.partition('.')[2])

  def override(self, texts: Iterable[str]) -> 'Config':
    """Return it with texts such as 'rssm.deter=64' applied; of two for one name the last counts.

    Raises:
      UserError: an unknown name, what is chosen by a flag of its own, or a value that cannot be;
        nothing is applied then.
    """
    about = {each.name: each for part in (self.run, self.agent) for each in settings.describe(part)}
    here, changes = self.flat(), {}
    for text in texts:
      name, equals, value = text.partition('=')
      name = name.strip().removeprefix('config.')
      if not equals:
        raise UserError(f'config.{name[:200]} needs a value: config.{name[:200]}=VALUE')
      if name not in here and not self._takes(name):
        raise UserError(settings.unknown(name, here))
      if name in IDENTITY:
        raise UserError(f'config.{name} ({about[name].meaning}) cannot be set by --config')
      if name in here and not self._own(name):
        kind = about[name].type if name in about else type(here[name])
        changes[name] = settings.parse(name, kind, value.strip())
      else:
        changes[name] = settings.literal(value.strip())
    return self.replace(changes)

  def check(self):
    """Refuse settings that do not fit each other.

    Raises:
      UserError: names the field, its value and what it must be.
    """
    run, agent = self.run, self.agent
    if not re.fullmatch(r'[\w.+=-]{0,200}', run.label):
      raise UserError(
        f'config.label is {run.label[:200]!r}: it must be at most 200 letters, digits and ._+=-'
      )
    # as many as windows need, whatever the rule; only those look at what is kept for `prefill`
    prefill = agent.prefill if agent.replay.sampling == 'windows' else 0
    sizes = run.num_envs, agent.batch_length, agent.batch_size
    needed = sampling.Windows.least(*sizes, prefill)
    if run.replay_capacity // run.num_envs < needed:
      raise UserError(
        f'config.replay_capacity is {run.replay_capacity}: it must be at least '
        f'{needed * run.num_envs} to hold a first batch, by config.batch_size, '
        'config.batch_length, config.prefill and config.num_envs'
      )
    if run.steps <= self.begins:
      raise UserError(
        f'config.steps is {run.steps}: nothing would be learned, as training begins after '
        f'{self.begins} steps at the earliest, by config.batch_size, config.batch_length, '
        'config.num_envs, config.prefill and config.prefill_chunk; it must be at least '
        f'{self.begins + 1}'
      )

  @property
  def begins(self) -> int:
    """The step of the run before which it cannot learn: it looks after every `prefill_chunk`."""
    run, agent = self.run, self.agent
    rule = sampling.RULES[agent.replay.sampling]
    steps = rule.least(run.num_envs, agent.batch_length, agent.batch_size, agent.prefill)
    first, chunk = steps * run.num_envs, run.prefill_chunk
    if first // chunk > (first - run.num_envs) // chunk:
      return first
    return -(-(first // chunk + 1) * chunk // run.num_envs) * run.num_envs

  def to_json(self) -> dict[str, Any]:
    """Return nested dicts that JSON keeps without loss."""
    options = {name: settings.plain(getattr(self, name)) for name in _OPTIONS}
    return {**settings.to_json(self.run), **settings.to_json(self.agent), **options}


def nested_flat(tree: Mapping[str, Any]) -> dict[str, Any]:
  """Return {'a.b': 1} for {'a': {'b': 1}}; an empty dict stays one."""
  flat = traverse_util.flatten_dict({**tree}, keep_empty_nodes=True, sep='.')
  return {name: {} if value is traverse_util.empty_node else value for name, value in flat.items()}


def difference(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
  """Return {name: (value in a, value in b)} of two JSON trees where they differ; None: absent."""
  flat_a, flat_b = nested_flat(a), nested_flat(b)
  pairs = {name: (flat_a.get(name), flat_b.get(name)) for name in sorted({*flat_a, *flat_b})}
  # True == 1 in Python, but a switch that became a number is a difference.
  return {
    k: (x, y) for k, (x, y) in pairs.items() if x != y or isinstance(x, bool) != isinstance(y, bool)
  }


def as_before(key: str, value: Any) -> bool:
  """Return whether a setting that an older run or study lacks says what it did.

  Args:
    key: its name, alone or after 'config.' or, as in plans of offline studies, 'settings.'.
  """
  name = key.removeprefix('config.').removeprefix('settings.')
  return name in LATER and LATER[name] == value


def allow(name: str, what: str, source: str, allowed: bool) -> None:
  """Raise UserError where a name from a file asks for an import that nobody allowed.

  Args:
    name: of a method or a task; one with a colon begins with the module that it is in.
    what: it is. source: the file.
  """
  module, colon, _ = name.partition(':')
  if colon and not allowed:
    raise UserError(
      f'{source} names the {what} {name!r}, for which Python would run the module {module!r}: if '
      'you trust it, --allow_import (of Agent.load allow_import=True)'
    )


def read(folder: str | pathlib.Path, allow_import: bool = False) -> Config:
  """Return the configuration of a run folder.

  Settings that its version did not have take today's defaults, with a warning.

  Args:
    allow_import: whether its method may be a module that is imported.

  Raises:
    UserError: no run, or one that this version cannot know.
  """
  path = local_path(folder) / 'config.json'
  return _readable(path, lambda: from_json(saved(folder), str(path), allow_import))


def saved(folder: str | pathlib.Path) -> dict[str, Any]:
  """Return what a run's config.json holds: {'format', 'config': {…}, 'identity': {…}}.

  Raises:
    UserError: no run, or a config.json that is none.
  """
  path = local_path(folder) / 'config.json'

  def read():
    tree = json.loads(path.read_text(encoding='utf-8'))
    return {**tree, 'config': {**tree['config']}, 'identity': {**tree.get('identity', {})}}

  return _readable(path, read)


def _readable(path, read):
  """What `read` returns of a config.json, or UserError."""
  try:
    return read()
  except OSError as error:
    raise UserError(
      f'{path.parent} holds no run: its config.json cannot be read ({error.strerror})'
    ) from None
  except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
    raise UserError(
      f'{path.parent} holds no run that can be read: {type(error).__name__} in its config.json '
      f'({one_line(str(error))[:100]})'
    ) from None


def from_json(
  saved: Mapping[str, Any], source: str = 'config.json', allow_import: bool = False
) -> Config:
  """Return the configuration in the JSON of a run folder, {'format', 'config': {…}}; see `read`."""
  tree = dict(saved['config'])
  allow(str(tree['method']), 'method', source, allow_import)
  entry = method.entry(tree['method'])
  if saved.get('format', 1) < FORMAT:
    tree = entry.upgrade(tree)
  env, eval_env = (dict(tree.pop(name, {})) for name in _OPTIONS)
  config = Config(RunSettings(), entry.settings, env, eval_env)
  known, given = config.flat(), nested_flat(tree)
  missing = [
    name
    for name in known
    if name not in (*given, *LATER) and not name.startswith(('env.', 'eval_env.'))
  ]
  strange = [name for name in given if name not in known]
  todays = ', '.join(f'{name}={known[name]}' for name in missing)
  told = [f"takes today's {todays}"] if missing else []
  told += [f'leaves out {", ".join(strange)}'] if strange else []
  if told:
    _log.warning('%s is of another version: %s', source, '; '.join(told))
  # as JSON has what is no number
  number = lambda value: float(value) if value in ('inf', '-inf', 'nan') else value
  return config.replace({name: number(value) for name, value in given.items() if name in known})


def split_flags(argv: list[str]) -> tuple[list[str], list[str]]:
  """Separate `--config.some.field=value` and `--config_file=FILE` from the other words.

  `--config.a.b v` is taken, too; what follows a lone `--` stays as it is.

  Returns: (the other words in order, texts 'a.b=v' for `Config.override`, those of files first).

  Raises:
    UserError: a flag without a value, or a file that cannot be read.
  """
  rest, files, texts, words = [], [], [], list(argv)
  while words:
    word = words.pop(0)
    if word == '--':
      return [*rest, word, *words], [*files, *texts]
    name, equals, value = word.removeprefix('-').removeprefix('-').partition('=')
    if not word.startswith('-') or not (name.startswith('config.') or name == 'config_file'):
      rest.append(word)
      continue
    if not equals:
      if not words or words[0].startswith('--'):
        raise UserError(f'--{name[:200]} needs a value: --{name[:200]}=VALUE')
      value = words.pop(0)
    if name == 'config_file':
      files += config_file.texts(value)
    else:
      texts.append(f'{name.removeprefix("config.")}={value}')
  return rest, [*files, *texts]


def nearest(name: str, choices: Iterable[str]) -> str:
  """Return the choice that is spelled most like a name."""
  return difflib.get_close_matches(name, list(choices), n=1, cutoff=0.0)[0]
