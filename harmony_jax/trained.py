"""A trained agent: what a run has learned, for use outside its training.

    agent = Agent.load('runs/atari/pong/dreamerv3-harmony-paper/seed0')
    action, state = agent.policy(observation, None)      # None begins an episode
    action, state = agent.policy(observation, state)

It needs the run folder's config.json and checkpoints/ and no simulator. The run may still be going
on.
"""

import json
import logging
import pathlib
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from configs import common
from harmony_jax import configuration, envs, parallel
from harmony_jax.agent import Agent as Method
from harmony_jax.agent import Carry, weights
from harmony_jax.errors import UserError, one_line
from harmony_jax.rssm import State
from harmony_jax.training.checkpoint import Checkpoints
from harmony_jax.training.evaluation import to_environment

_log = logging.getLogger(__name__)


class PolicyState(NamedTuple):
  """What a policy remembers of N episodes: the latent state and the last action, and the number of
  calls.
  """

  carry: Carry
  calls: int


class Agent:
  """A method with its learned weights.

  Attributes:
    config: of the run. spec: of its environment, an `envs.Spec`. step: of the checkpoint, in agent
      steps.
    method: the pure functions, a `harmony_jax.agent.Agent`. weights: what they call `params`.
    act: the compiled `method.act`.
  """

  def __init__(self, config, spec, weights, step=0, seed=0):
    self.config, self.spec, self.weights, self.step = config, spec, weights, step
    self.method = make_method(config, spec)
    self._compiled = parallel.compile_agent(self.method)
    self.act = self._compiled['act']
    self._key = jax.random.key(seed)

  @classmethod
  def load(cls, path, step: int | None = None, seed: int | None = None) -> 'Agent':
    """The agent of a run folder.

    Args:
      path: the run folder. step: of which checkpoint; by default the newest one that is intact.
        seed: of the actions that are sampled and of dreams; by default that of the run.

    Raises:
      UserError: no run, no checkpoint of this step, or one of another configuration.
    """
    path = pathlib.Path(path).expanduser()
    config = read_config(path)
    if not (path / 'checkpoints').is_dir():
      raise UserError(f'{path} holds no checkpoint yet: the run has not come that far')
    with Checkpoints(path / 'checkpoints', read_only=True) as checkpoints:
      there = checkpoints.steps()
      if not there:
        raise UserError(f'{path} holds no checkpoint yet: the run has not come that far')
      if step is not None and step not in there:
        raise UserError(
          f'{path} has no checkpoint of step {step}: there are {", ".join(map(str, there))}'
        )
      saved, spec, step = _restore(checkpoints, config, reversed(there) if step is None else [step])
    found = weights(saved['train']['params'], saved['train'].get('statistics'))
    return cls(config, spec, found, step, config.seed if seed is None else seed)

  # ------------------------------------------------------------------------------------------------

  def policy(
    self, observation, state: PolicyState | None = None, is_first=None, mode: bool | None = None
  ):
    """Chooses the next action, for one environment or for N.

    Args:
      observation: {name: array}, or the array where there is only one name; with or without an axis
        [N] in front.
      state: what the last call returned; None begins an episode.
      is_first: [N] bool (or one), where an episode begins; by default nowhere.
      mode: take the most likely action; by default as in the run's evaluation.

    Returns: (action, state): an int, int32 [N], float32 [A] or [N, A] in [-1, 1], as the
      environments of this library take it; and what to pass to the next call. The same arguments
      give the same result.

    Raises:
      ValueError: the observation is not as `spec.observation` says, or of another N than the state.
    """
    observation, single = self._batched(observation)
    count = len(next(iter(observation.values())))
    if state is None:
      state, is_first = PolicyState(self.method.initial_carry(self.weights, count), 0), True
    if len(state.carry.action) != count:
      raise ValueError(f'{count} observations, but a state of {len(state.carry.action)}')
    is_first = np.broadcast_to(np.asarray(False if is_first is None else is_first, bool), count)
    mode = self.config.eval_policy == 'mode' if mode is None else mode
    vector, carry = self.act(
      self.weights,
      state.carry,
      observation,
      is_first,
      np.uint32(state.calls),
      self._key,
      mode=bool(mode),
    )
    action = to_environment(np.asarray(vector), self.spec.discrete)
    if single:
      action = int(action[0]) if self.spec.discrete else action[0]
    return action, PolicyState(carry, state.calls + 1)

  def _batched(self, observation):
    """({name: [N, ...]}, whether there was no N)."""
    specs = self.spec.observation
    if not isinstance(observation, dict):
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
    ranks = {arrays[name].ndim - len(spec.shape) for name, spec in specs.items()}
    for name, spec in specs.items():
      array, rank = arrays[name], len(spec.shape)
      if array.shape[array.ndim - rank :] != spec.shape or len(ranks) > 1 or not ranks <= {0, 1}:
        raise ValueError(f'{name} is {list(spec.shape)} or [N, …] of it; got {list(array.shape)}')
      if len(spec.shape) == 3 and array.dtype != np.uint8:
        raise ValueError(f'{name} is uint8 in 0 … 255; got {array.dtype}')
    single = ranks == {0}
    return {name: array[None] if single else array for name, array in arrays.items()}, single

  # ------------------------------------------------------------------------------------------------

  def make_env(self, num_envs=1):
    """Environments as in the run's evaluation.

    Raises:
      UserError: the simulator is missing, an option is bad, or what the agent would see or do there
        is not what it has learned with.
    """
    config, wanted = self.config, self.spec
    env = _make(config, num_envs, config.env_processes, {**config.env, **config.eval_env})
    there = env.spec
    if any(
      getattr(there, name) != getattr(wanted, name)
      for name in ('observation', 'discrete', 'num_actions')
    ):
      env.close()
      raise UserError(
        f'the agent does not fit this environment: it has learned with {_seen(wanted)}, here are '
        f'{_seen(there)}'
      )
    return env

  def open_loop(self, latents: State, actions, context: int, horizon: int) -> dict:
    """What the world model makes of an episode, looking at it now and then.

    The episode's T steps are cut into windows of `context + horizon`. In the first `context` steps
    of a window it knows the observations (all of the episode up to there), in the rest it only
    knows the actions.

    Args:
      latents: posterior states, leaves [T, ...], as the policy had them. actions: [T, A], taken
        after each.

    Returns: of T steps, in NumPy: 'observation' {name: [T, ...]}, 'reward' [T], 'continue' [T] as
      of `WorldModel.predict`, and 'seen' [T] bool, whether a step's observation was known.
    """
    length, window = len(actions), context + horizon
    count = -(-length // window)
    padded = lambda x: np.concatenate([x, np.repeat(x[-1:], count * window - length, 0)])
    cut = lambda x: padded(x).reshape(count, window, *x.shape[1:])
    latents, actions = jax.tree.map(lambda x: cut(np.asarray(x)), (latents, actions))
    found = jax.device_get(
      self._compiled['open_loop'](self.weights, latents, actions, context=context, key=self._key)
    )
    found['seen'] = np.broadcast_to(np.arange(window) < context, (count, window))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:length], found)

  def assign(self, observation):
    """Assignments [T, K] of an episode's observations {name: [T, ...]} to prototypes, in NumPy:
    `WorldModel.assign`.
    """
    batch = {name: np.asarray(value)[None] for name, value in observation.items()}
    return jax.device_get(self._compiled['assign'](self.weights['world_model'], batch))[0]

  def dream(self, count: int, length: int) -> dict:
    """Episodes that the world model makes up, in NumPy: see `viewing.dream`."""
    return jax.device_get(
      self._compiled['dream'](self.weights, key=self._key, count=count, length=length)
    )


def make_method(config, spec) -> Method:
  """The pure functions of a run's method, for an environment's spec."""
  shapes = {name: array.shape for name, array in spec.observation.items()}
  return Method.from_config(config, shapes, spec.num_actions, spec.discrete)


def read_config(path) -> ConfigDict:
  """A run folder's configuration. Fields that its version did not have take today's defaults, with
  a warning.

  Raises:
    UserError: no run, or one that this version cannot know.
  """
  path = pathlib.Path(path)
  try:
    saved = json.loads((path / 'config.json').read_text(encoding='utf-8'))['config']
    config = common.build(saved['method'])
    given = configuration.flatten(saved)
  except OSError as error:
    raise UserError(
      f'{path} holds no run: its config.json cannot be read ({error.strerror})'
    ) from None
  except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
    raise UserError(
      f'{path} holds no run that can be read: {type(error).__name__} in its config.json '
      f'({one_line(str(error))[:100]})'
    ) from None
  # The suites' options have fields of their own, so nothing can be said of them.
  saved = {'env': {}, 'eval_env': {}, **saved}
  known = {
    key: value
    for key, value in configuration.flatten(config).items()
    if key not in ('env', 'eval_env')
  }
  options = {key: saved[key] for key in ('env', 'eval_env')}
  strange = [key for key in given if key not in known and key.split('.')[0] not in options]
  missing = [key for key in known if key not in given]
  wrong = [key for key in known if key in given and not _is_like(given[key], known[key])]
  if wrong:
    raise UserError(
      f'{path} holds no run that can be read: in its config.json {wrong[0]} is {given[wrong[0]]!r}'
    )
  if strange or missing:
    told = (
      [f"takes today's {', '.join(f'{key}={known[key]}' for key in missing)}"] if missing else []
    )
    told += [f'leaves out {", ".join(strange)}'] if strange else []
    _log.warning('%s is of another version: %s', path / 'config.json', '; '.join(told))
  for key in missing:
    given[key] = known[key]
  nested = dict(options)
  for key in known:
    *groups, name = key.split('.')
    inside = nested
    for group in groups:
      inside = inside.setdefault(group, {})
    inside[name] = given[key]
  return ConfigDict(nested)


def _is_like(value, example):
  """Whether a value from JSON can stand where `example` stands."""
  if example is None or isinstance(value, bool) or isinstance(example, bool):
    return example is None or isinstance(value, bool) == isinstance(example, bool)
  kinds = {int: (int,), float: (int, float), str: (str,), tuple: (list,)}
  return isinstance(value, kinds.get(type(example), (type(example),))) or value in (
    'inf',
    '-inf',
    'nan',
  )


def change_environment(config, overrides):
  """Applies texts 'env.field=value' or 'eval_env.field=value': a trained agent can meet other
  environments.

  Raises:
    UserError: a field of anything else, or an unknown one.
  """
  for text in overrides:
    if not text.startswith(('env.', 'eval_env.')):
      raise UserError(
        f'--config.{text}: the agent is trained; only its environment can be changed, --config.env.…'
      )
  configuration.apply_overrides(config, overrides)


def _restore(checkpoints, config, steps):
  """(arrays, the environment's spec, step) of the first checkpoint that can be read."""
  failures = []
  for step in steps:
    try:
      spec = _spec(config, checkpoints.meta(step))
      like = jax.eval_shape(make_method(config, spec).init, jax.random.key(0))
      like = {'params': like.params, **({'statistics': like.statistics} if like.statistics else {})}
      restored = checkpoints.restore({'train': like}, step, part=True)
    except UserError as error:
      failures.append(error)
    else:
      for error in failures:
        _log.warning('%s: taking checkpoint %d', error, step)
      return restored[0], spec, step
  raise failures[0]


def _spec(config, meta) -> envs.Spec:
  """The environment's spec from a checkpoint; an older one does not have it, and the environment is
  asked.
  """
  if 'spec' in meta:
    return envs.Spec.from_json(meta['spec'])
  env = _make(config, 1, False, config.env)
  env.close()
  return env.spec


def _make(config, num_envs, processes, options):
  try:
    return envs.make(config.suite, config.task, num_envs, processes, **options)
  except (
    ValueError,
    RuntimeError,
  ) as error:  # a bad option, or a simulator that is not there: the text says which
    raise UserError(str(error)) from None


def _seen(spec):
  """A spec in words."""
  observations = ', '.join(
    f'{name} {list(array.shape)}' for name, array in spec.observation.items()
  )
  return (
    f'{observations} and {spec.num_actions} {"choices" if spec.discrete else "continuous actions"}'
  )
