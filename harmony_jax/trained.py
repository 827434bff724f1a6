"""A trained agent: what a run has learned, for use outside its training.

    agent = Agent.load('runs/atari/pong/dreamerv3-harmony-paper/seed0')
    action, state = agent.policy(observation, None)      # None begins an episode
    action, state = agent.policy(observation, state)

It needs the run folder's config.json and checkpoints/ and no simulator. The run may still be going
on. `Agent.load('catch-harmony')` is one of those that come with the library: publishing.py.
"""

import contextlib
import logging
import pathlib
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from harmony_jax import config as configuration
from harmony_jax import envs, parallel, publishing
from harmony_jax import method as methods
from harmony_jax.config import Config
from harmony_jax.envs.base import to_environment
from harmony_jax.errors import UserError
from harmony_jax.paths import local_path
from harmony_jax.settings import Switch
from harmony_jax.training import evaluation
from harmony_jax.training.checkpoint import Checkpoints

_log = logging.getLogger(__name__)


class PolicyState(NamedTuple):
  """What a policy remembers of N episodes between two calls.

  Attributes:
    carry: the method's, leaves [N, ...]. action: the last one as the method has it, [N, A].
    calls: how many there were.
  """

  carry: Any
  action: jax.Array
  calls: int


class TrainedAgent:
  """A method with what it has learned.

  Attributes:
    config: of the run. spec: of its environment. step: of the checkpoint, in agent steps.
    method, compiled: the pure functions, and as they are called. variables: what they act and look
      with.
    source: the folder that it was loaded from. allow_import: whether that may name modules.
    saved: what was read there, {field of its state: tree}.
    ended: episodes of training that had ended by then; None where it is not known.
  """

  def __init__(
    self, config: Config, method: methods.Method, variables: Any, step: int = 0, seed: int = 0
  ):
    self.config, self.method, self.variables, self.step = config, method, variables, step
    self.spec = method.spec
    self.compiled = parallel.compile_method(method, devices=1)
    self._key = jax.random.key(seed)
    self.allow_import, self.source = True, ''  # what the caller made
    self.saved: Any = None
    self.ended: int | None = None

  @property
  def title(self) -> str:
    """Return what it is, in a few words."""
    run, rule = self.config.run, self.config.flat().get('weighting.rule')
    return f'{run.suite} {run.task}, {run.method}' + (f', {rule}' if rule else '')

  @classmethod
  def load(
    cls,
    path: str | pathlib.Path,
    step: int | None = None,
    seed: int | None = None,
    allow_import: bool = False,
  ) -> 'TrainedAgent':
    """Return the agent of a run folder, or a published one by its folder or name.

    Args:
      step: of which checkpoint; by default the newest one that is intact.
      seed: of sampled actions and of dreams; by default that of the run.
      allow_import: whether a module that the folder names, of a method or of a package of
        environments, may be imported. It can do anything: for folders of people you trust.

    Raises:
      UserError: no run, a module that is not allowed, no checkpoint of this step, one of another
        configuration, or a published file that is not what its manifest states.
    """
    if folder := publishing.find(path):
      return cls._published(folder, step, seed, allow_import)
    path = local_path(path)
    config = configuration.read(path, allow_import)
    if not (path / 'checkpoints').is_dir():
      raise UserError(f'{path} holds no checkpoint yet: the run has not come that far')
    with Checkpoints(path / 'checkpoints', read_only=True) as checkpoints:
      method, saved, found = _restore(checkpoints, config, path, step, allow_import)
      running = checkpoints.meta(found).get('episodes')
    agent = cls(
      config, method, _variables(method, saved), found, config.run.seed if seed is None else seed
    )
    agent.allow_import, agent.source, agent.saved = allow_import, str(path), saved
    agent.ended = running and envs.count_ended(running)
    return agent

  @classmethod
  def _published(cls, folder, step, seed, allow_import):
    about = publishing.manifest(folder)
    if step not in (None, about['step']):
      raise UserError(f'{folder} has no checkpoint of step {step}: there is {about["step"]}')
    try:
      config = configuration.from_json(about['run'], str(folder), allow_import)
      spec = envs.Spec.from_json(about['spec'])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
      raise publishing.unreadable(folder, error) from None
    method = _made(config, spec)
    saved = publishing.parameters(folder, about, _kept(method))
    agent = cls(
      config,
      method,
      _variables(method, saved),
      about['step'],
      config.run.seed if seed is None else seed,
    )
    agent.allow_import, agent.source, agent.saved = allow_import, str(folder), saved
    agent.ended = about.get('ended')  # older ones do not say
    return agent

  def policy(
    self,
    observation: Mapping[str, Any] | Any,
    state: PolicyState | None = None,
    is_first: Any = None,
    mode: bool | None = None,
  ) -> tuple[Any, PolicyState]:
    """Choose the next action, for one environment or for N.

    Args:
      observation: {name: array}, or the array where there is only one name; with or without an axis
        [N] in front.
      state: what the last call returned; None begins an episode.
      is_first: [N] bool (or one), where an episode begins; by default nowhere.
      mode: take the most likely action; by default as in the run's evaluation.

    Returns: (action, state): an int, int32 [N], float32 [A] or [N, A] in [-1, 1], as the
      environments of this library take it (`make_env`), and not always as the simulator itself
      does, whose bounds may be others; and what to pass to the next call. The same arguments give
      the same result. With `spec.choices` an action begins with their one-hots, and
      `envs.base.decode(action, spec.choices)` says what it is.

    Raises:
      ValueError: the observation is not as `spec` says, or of another N than the state.
    """
    arrays, single = _batched(observation, self.spec.observation)
    count = len(next(iter(arrays.values())))
    if state is None:
      carry, calls, is_first = self.compiled.initial_carry(self.variables, count), 0, True
    else:
      carry, action, calls = state
      if len(action) != count:
        raise ValueError(f'{count} observations, but a state of {len(action)}')
    is_first = np.broadcast_to(np.asarray(False if is_first is None else is_first, bool), count)
    mode = self.config.agent.eval_policy == 'mode' if mode is None else bool(mode)
    vector, carry = self.compiled.act(
      self.variables, carry, arrays, is_first, np.uint32(calls), self._key, mode=mode
    )
    action = to_environment(np.asarray(vector), self.spec)
    if single:
      action = int(action[0]) if self.spec.discrete else action[0]
    return action, PolicyState(carry, vector, calls + 1)

  def make_env(self, num_envs: int = 1) -> Any:
    """Return environments as in the run's evaluation.

    Raises:
      UserError: the simulator is missing, an option is bad, or what the agent would see or do there
        is not what it has learned with.
    """
    options = {**self.config.env, **self.config.eval_env}
    configuration.allow(self.config.run.task, 'task', self.source, self.allow_import)
    for name in options.get('wrappers', ()):
      configuration.allow(name, 'wrapper', self.source, self.allow_import)
    env = _make(self.config, num_envs, self.config.run.env_processes, options)
    learned, here = self.spec.spaces, env.spec.spaces
    if learned != here:
      env.close()
      raise UserError(
        f'the agent does not fit this environment: it has learned with {learned}, here are {here}'
      )
    return env

  def evaluate(
    self,
    episodes: int,
    seed: int | None = None,
    mode: bool | None = None,
    num_envs: int = 0,
    watch: Callable[[Any], Any] = lambda env: env,
  ) -> list[envs.EpisodeResult]:
    """Play complete episodes in environments as in the run's evaluation.

    Args:
      seed: of episodes and actions; by default that of the run, whose own evaluation this repeats.
      mode: take the most likely actions; by default as in the run's evaluation.
      num_envs: environments that play at a time; by default as many as in the run.
      watch: returns what plays in place of the first group of environments.

    Returns: one result per episode, with `score`, `length`, `seed` and `measures`.

    Raises:
      UserError: as of `make_env`.
    """
    run = self.config.run
    count = min(num_envs or evaluation.at_a_time(self.config), episodes)
    mode = self.config.agent.eval_policy == 'mode' if mode is None else mode
    seed = run.seed if seed is None else seed
    with contextlib.ExitStack() as stack:
      opened = lambda size: stack.enter_context(contextlib.closing(self.make_env(size)))
      groups = [opened(size) for size in evaluation.group_sizes(count)]
      groups[0] = watch(groups[0])
      where = (self.method, self.compiled, self.variables, groups, seed, self.step, episodes, mode)
      return evaluation.evaluate(*where, limit=self._limit(groups[0]))

  def evaluate_random(self, episodes: int) -> list[envs.EpisodeResult]:
    """Return what `evaluate` does, of a player that chooses at random in the same episodes.

    Raises:
      UserError: as of `make_env`.
    """
    count, seed = min(evaluation.at_a_time(self.config), episodes), self.config.run.seed
    with contextlib.closing(self.make_env(count)) as env:
      where = self.method, env, seed, self.step, episodes
      return evaluation.evaluate_random(*where, limit=self._limit(env))

  def _limit(self, env):
    """The steps after which an episode is cut: as in training, where nobody knows that it ends."""
    run = self.config.run
    if not run.eval_share or env.spec.episode_limit:
      return 0
    ended = self.ended
    return 10 * run.eval_every if ended is None else evaluation.longest(run, self.step, ended)

  def can(self, name: str) -> bool:
    """Return whether the method has a capability, such as 'dream'; see harmony_jax/viewing.py."""
    return name in self.method.capabilities

  def features(
    self, observation: Mapping[str, Any] | Any, action: Any, is_first: Any = None
  ) -> dict[str, np.ndarray]:
    """Return what the world model makes of a sequence, or of N, that it sees to the end.

    Args:
      observation: {name: [T, ...]}, or the array where there is only one name; of N sequences [N,
        T, ...]. T is 2 at least.
      action: taken after each observation: whole numbers [T] where the environment's action is one
        choice, or vectors [T, A] as `PolicyState.action` has them.
      is_first: [T] bool, where an episode begins; by default only at the first step.

    Returns:
      'feature': [T, F], the posterior latent state, which the method's heads see. It has no unit:
        a Dreamer's is its deterministic part, in [-1, 1], and then its stochastic one.
      'reward': [T], predicted of the step that led there, in the environment's units.
      'kl': [T], KL[q ‖ p] in nats: how much an observation told that was not expected; of a model
        that has a posterior.

    Raises:
      UserError: the method has no such capability.
      ValueError: arrays that do not fit `spec` or each other.
    """
    arrays, single = _batched(observation, self.spec.observation, 1)
    shape, action = next(iter(arrays.values())).shape[:2], np.asarray(action)
    if self.spec.discrete and action.ndim == 2 - single and action.dtype.kind in 'iu':
      if action.size and not 0 <= action.min() <= action.max() < self.spec.num_actions:
        raise ValueError(
          f'actions are from 0 to {self.spec.num_actions - 1} here; got {action.min()} to '
          f'{action.max()}'
        )
      action = np.eye(self.spec.num_actions, dtype=np.float32)[action]
    action = action[None] if single else action
    wanted = (*shape, self.spec.num_actions)
    if shape[1] < 2:
      raise ValueError('a sequence is of two steps at least')
    if action.shape != wanted:
      raise ValueError(f'actions are {[*wanted]} here; got {[*action.shape]}')
    first = np.arange(shape[1]) == 0 if is_first is None else np.asarray(is_first, bool)
    first = np.array(np.broadcast_to(first, shape))
    batch = {**arrays, 'action': action.astype(np.float32), 'is_first': first}
    found = self._look('features', batch, context=shape[1] - 1, key=self._key)
    given = [name for name in ('feature', 'reward', 'kl') if name in found]
    return {name: found[name][0] if single else found[name] for name in given}

  def open_loop(self, carries: Any, actions: Any, context: int, horizon: int) -> dict[str, Any]:
    """Return what the method makes of an episode, looking at it now and then.

    The episode's T steps are cut into windows of `context + horizon`. In the first `context` steps
    of a window it knows the observations (all of the episode up to there), in the rest it only
    knows the actions.

    Args:
      carries: what the policy carried after each step, leaves [T, ...].
      actions: [T, A], taken after each.

    Returns: of T steps, in NumPy: what the capability 'open_loop' predicts, without the axis of
      windows; and 'seen' [T] bool, whether a step's observation was known. Scales are those of
      `dream`.
    """
    length, window = len(actions), context + horizon
    count = -(-length // window)
    padded = lambda x: np.concatenate([x, np.repeat(x[-1:], count * window - length, 0)])
    cut = lambda x: padded(x).reshape(count, window, *x.shape[1:])
    carries, actions = jax.tree.map(lambda x: cut(np.asarray(x)), (carries, actions))
    found = self._look('open_loop', carries, actions, context=context, key=self._key)
    found['seen'] = np.broadcast_to(np.arange(window) < context, (count, window))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:length], found)

  def assign(self, observation: Mapping[str, Any]) -> np.ndarray:
    """Return assignments [T, K] of an episode's observations {name: [T, ...]} to prototypes."""
    return self._look('assign', {name: np.asarray(x)[None] for name, x in observation.items()})[0]

  def dream(self, count: int, length: int) -> dict[str, Any]:
    """Return `count` episodes of `length` steps that the method makes up, in NumPy.

    Returns: leaves [N, T, ...], N = `count`:
      'observation': {name: array} of those that the model draws: pictures in [0, 1], vectors in
        the environment's units.
      'reward': of the step that led there, in the environment's units.
      'continue': the probability that the episode goes on.
      'value', if there is one: the critic's return from there on, discounted, in units of reward.
      'action': [N, T, A] as the method has it, taken after each: one-hot, or in [-1, 1].

    Raises:
      UserError: the method cannot dream.
    """
    return self._look('dream', key=self._key, count=count, length=length)

  def _look(self, name, *args, **options):
    if not self.can(name):
      known = ', '.join(self.method.capabilities) or 'nothing'
      raise UserError(f'{self.config.run.method} cannot show {name!r}: it can show {known}')
    return jax.device_get(self.compiled.look(name)(self.variables, *args, **options))


Agent = TrainedAgent


def change_environment(config: Config, texts: Iterable[str]) -> Config:
  """Return it with texts 'env.field=value' or 'eval_env.field=value' applied.

  A trained agent can meet other environments, and nothing else of it can change. It is evaluated in
  them: 'env.field' is also what the run's evaluation has apart.

  Raises:
    UserError: a field of anything else, or an unknown one.
  """
  texts = list(texts)
  for text in texts:
    if not text.startswith(('env.', 'eval_env.')):
      raise UserError(
        f'--config.{text}: the agent is trained; only its environment can be changed, '
        '--config.env.…'
      )
  apart = [
    f'eval_{text}' for text in texts if text.partition('=')[0][len('env.') :] in config.eval_env
  ]
  return config.override([*apart, *texts])


def _batched(observation, specs, lead=0) -> tuple[dict[str, np.ndarray], bool]:
  """Return {name: [N, ...]}, and whether there was no N; of sequences (`lead` 1) [N, T, ...]."""
  if not isinstance(observation, Mapping):
    if len(specs) > 1:
      raise ValueError(
        f'an observation is a dict with {", ".join(specs)}; got {type(observation).__name__}'
      )
    observation = {next(iter(specs)): observation}
  if set(observation) != set(specs):
    raise ValueError(
      f'an observation has {", ".join(specs)}; got {", ".join(map(str, observation))}'
    )
  arrays = {name: np.asarray(observation[name]) for name in specs}
  ahead = {name: x.shape[: max(0, x.ndim - len(specs[name].shape))] for name, x in arrays.items()}
  ranks = {len(shape) for shape in ahead.values()}
  told = ('{} or [N, …] of it', '[T, …] of {} or [N, T, …]')[lead]
  for name, spec in specs.items():
    array = arrays[name]
    fits = len(ranks) == 1 and ranks <= {lead, lead + 1}
    if array.shape[len(ahead[name]) :] != spec.shape or not fits:
      raise ValueError(f'{name} is {told.format(list(spec.shape))}; got {list(array.shape)}')
    if len(spec.shape) == 3 and array.dtype != np.uint8:
      raise ValueError(f'{name} is uint8 in 0 … 255; got {array.dtype}')
    if array.dtype.kind == 'f' and not np.isfinite(array).all():  # the memory would never lose it
      raise ValueError(f'{name} has {array[~np.isfinite(array)][0]} in it')
  if len(set(ahead.values())) > 1:
    told = ', '.join(f'{name} of {list(shape)}' for name, shape in ahead.items())
    raise ValueError(f'an observation has as many rows in every entry; got {told}')
  single = ranks == {lead}
  return {name: array[None] if single else array for name, array in arrays.items()}, single


def _restore(
  checkpoints: Checkpoints, config: Config, path: pathlib.Path, step: int | None, allow_import: bool
) -> tuple[methods.Method, Any, int]:
  """Return (method, what is saved of it, step) of a checkpoint; by default the newest intact."""
  there = checkpoints.steps()
  if not there:
    raise UserError(f'{path} holds no checkpoint yet: the run has not come that far')
  if step is not None and step not in there:
    listed = ', '.join(map(str, there))
    raise UserError(f'{path} has no checkpoint of step {step}: there are {listed}')
  failures = []
  for each in reversed(there) if step is None else [step]:
    try:
      method, saved = _restore_one(checkpoints, config, each, path, allow_import)
    except UserError as error:
      failures.append(error)
      continue
    for error in failures:
      _log.warning('%s: taking checkpoint %d', error, each)
    return method, saved, each
  raise failures[0]


def _restore_one(checkpoints, config, step, path, allow_import):
  try:
    meta = checkpoints.meta(step)
    if 'spec' not in meta:
      configuration.allow(config.run.task, 'task', str(path), allow_import)
    method = _made(config, _spec(config, meta))
  except ValueError as error:
    raise UserError(str(error)) from None
  restored, _ = checkpoints.restore({'train': _kept(method)}, step, part=True)
  return method, restored['train']


def _made(config: Config, spec: envs.Spec) -> methods.Method:
  try:
    return methods.entry(config.run.method).make(config.agent, spec)
  except ValueError as error:  # sizes that do not fit the observations
    raise UserError(str(error)) from None


def _fields(method) -> dict[str, Any]:
  """The shapes of those fields of a method's state that acting needs."""
  state = jax.eval_shape(method.init, jax.random.key(0))
  return {name: getattr(state, name) for name in method.acting}


def _kept(method) -> dict[str, Any]:
  """Those that have an array: of the others nothing is saved."""
  return {name: tree for name, tree in _fields(method).items() if jax.tree.leaves(tree)}


def _variables(method, saved) -> Any:
  return method.variables(types.SimpleNamespace(**_fields(method) | saved))


def _spec(config, meta) -> envs.Spec:
  """Return the environment's spec; older checkpoints lack it, and the environment is asked."""
  if 'spec' in meta:
    return envs.Spec.from_json(meta['spec'])
  env = _make(config, 1, False, config.env)
  env.close()
  return env.spec


def _make(config: Config, num_envs: int, processes: Switch, options: Mapping) -> Any:
  try:
    return envs.make(config.run.suite, config.run.task, num_envs, processes, **options)
  except UserError:
    raise
  except (ValueError, RuntimeError) as error:  # a bad option, or no simulator: the text says which
    raise UserError(str(error)) from None
