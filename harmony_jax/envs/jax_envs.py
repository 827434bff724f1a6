"""Environments of other packages that are JAX themselves: gymnax, Craftax and navix.

A task is 'package:name', such as 'gymnax:Breakout-MinAtar'. Its rules, rewards and ends are the
package's, as functions of one episode without its automatic restart; an episode that ends by the
package's limit of steps is not terminal. Another package is another entry of `PACKAGES`.
"""

import dataclasses
import functools
import importlib
import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from harmony_jax.envs import base, pure
from harmony_jax.settings import setting

SIDE = 64
# A colour for each plane [H, W] of an observation; three are the picture itself.
COLORS = (
  *((255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 0), (0, 128, 128), (128, 0, 128)),
  *((192, 192, 192), (255, 128, 128), (128, 255, 128), (128, 128, 255)),
)


@dataclasses.dataclass(frozen=True)
class Options(base.Options):
  """Options of `JaxEnvs`."""

  observe: str = setting(
    'auto',
    "auto: 64 × 64 pictures where there are planes of pixels, else the package's numbers; vector: "
    'its numbers',
    choices=('auto', 'vector'),
  )


class Episode(NamedTuple):
  """A package's environment, as functions of one episode.

  Attributes:
    reset: `reset(key) -> (state, observation)`.
    step: `step(key, state, action) -> (state, observation, reward, last, terminal)`.
    actions: the package's space of them. limit: steps after which an episode ends.
  """

  reset: Callable[[jax.Array], tuple[Any, jax.Array]]
  step: Callable[[jax.Array, Any, jax.Array], tuple[Any, ...]]
  actions: Any
  limit: int


class State(NamedTuple):
  """An episode: what its next draws come from, the package's state, and what the agent sees."""

  key: jax.Array
  inner: Any
  seen: dict[str, jax.Array]


def _of_gymnax(environment, params, limit, time):
  """Return the functions of an environment of gymnax's kind, which Craftax's are, too."""

  def reset(key):
    observation, state = environment.reset_env(key, params)
    return state, observation

  def step(key, state, action):
    observation, state, reward, last, _ = environment.step_env(key, state, action, params)
    return state, observation, reward, last, last & (getattr(state, time) < limit)

  return Episode(reset, step, environment.action_space(params), int(limit))


def _gymnax(module, name, planes):
  del planes
  environment, params = module.make(name)
  return _of_gymnax(environment, params, params.max_steps_in_episode, 'time')


def _craftax(module, name, planes):
  del planes
  environment = module.make_craftax_env_from_name(name, auto_reset=False)
  params = environment.default_params
  return _of_gymnax(environment, params, params.max_timesteps, 'timestep')


def _navix(module, name, planes):
  seen = module.observations.rgb if planes else module.observations.symbolic
  environment = module.make(name, observation_fn=seen)

  def split(now):
    return now.replace(observation=()), now.observation

  def step(key, state, action):
    del key  # the state has its own
    now = environment._step(state, action)  # `step` restarts by itself
    return *split(now), now.reward, now.is_done(), now.is_termination()

  reset = lambda key: split(environment.reset(key))
  return Episode(reset, step, environment.action_space, int(environment.max_steps))


class Package(NamedTuple):
  """What pip installs, the module, `tasks(module)`, and `make(module, name, planes)`.

  planes: show pixels where there are any.
  """

  needs: tuple[str, ...]
  module: str
  tasks: Callable[[Any], list[str]]
  make: Callable[[Any, str, bool], Episode]


CRAFTAX = tuple(
  f'Craftax-{kind}-v1' for kind in ('Classic-Pixels', 'Classic-Symbolic', 'Pixels', 'Symbolic')
)
BROKEN = ('MNISTBandit-bsuite', 'SimpleBandit-bsuite')  # one downloads, one fails in its reset
PACKAGES = {
  'gymnax': Package(
    ('gymnax>=0.0.9,<1', 'six>=1.16'),  # which it imports without declaring it
    'gymnax',
    lambda module: [name for name in module.registered_envs if name not in BROKEN],
    _gymnax,
  ),
  'craftax': Package(
    ('craftax>=1.6.1,<2',), 'craftax.craftax_env', lambda module: list(CRAFTAX), _craftax
  ),
  'navix': Package(('navix>=0.7.4,<1',), 'navix', lambda module: list(module.registry()), _navix),
}


def picture(planes: jax.Array) -> jax.Array:
  """Return planes [H, W, C] as a picture, uint8 [64, 64, 3]: enlarged by a whole number, or shrunk.

  Floats are from 0 to 1. Three planes are red, green and blue; of others each has its colour, and
  where several are set the brightest of each channel counts.
  """
  shown = planes.astype(jnp.float32) / (255 if planes.dtype == jnp.uint8 else 1)
  height, width, count = shown.shape
  shown = (shown[..., None] * jnp.array(COLORS[:count], jnp.float32)).max(-2)
  times = SIDE // max(height, width)
  if not times:
    shown = jax.image.resize(shown, (SIDE, SIDE, 3), 'linear')
  else:
    shown = shown.repeat(times, 0).repeat(times, 1)
    free = [SIDE - side for side in shown.shape[:2]]
    shown = jnp.pad(shown, [*((each // 2, each - each // 2) for each in free), (0, 0)])
  return jnp.clip(jnp.round(shown), 0, 255).astype(jnp.uint8)


@functools.cache
def game(task: str, options: Options = Options()) -> pure.Game:
  """Return a task as pure functions, one object for equal arguments."""
  package, _, name = task.partition(':')
  planes = options.observe == 'auto'
  of = PACKAGES[package]
  own = of.make(importlib.import_module(of.module), name, planes)
  state, shown = jax.eval_shape(own.reset, jax.random.PRNGKey(0))
  kinds = jax.tree.map(lambda leaf: leaf.dtype, state)  # some are Python's numbers at first

  def begin(key, inner, observation):
    if planes and observation.ndim == 3:
      seen = {'image': picture(observation)}
    else:
      seen = {'vector': observation.astype(jnp.float32).reshape(-1)}
    return State(key, jax.tree.map(jnp.asarray, inner, kinds), seen)

  def new(seed):
    now, key = jax.random.split(jax.random.PRNGKey(seed))
    return begin(key, *own.reset(now))

  def step(state, action):
    now, key = jax.random.split(state.key)
    inner, observation, reward, last, terminal = own.step(now, state.inner, act(action))
    flags = (flag.astype(bool) for flag in (last, terminal))
    return begin(key, inner, observation), reward.astype(jnp.float32), *flags

  discrete = hasattr(own.actions, 'n')
  if discrete:
    count, act = int(own.actions.n), lambda action: action
  else:
    low, high = (np.broadcast_to(x, own.actions.shape) for x in (own.actions.low, own.actions.high))
    (count,), act = own.actions.shape, lambda action: low + (action + 1) / 2 * (high - low)
  seen = jax.eval_shape(new, jax.ShapeDtypeStruct((), np.int32)).seen
  spec = base.Spec(
    observation={k: base.ArraySpec(x.shape, np.dtype(x.dtype).type) for k, x in seen.items()},
    discrete=discrete,
    num_actions=count,
    action_repeat=1,
    episode_limit=own.limit,
    readings=(f'{task}: {list(shown.shape)} seen as {", ".join(seen)}',),
  )
  return pure.Game(spec, new, step, observe=lambda state: state.seen)


class JaxEnvs(pure.Environment):
  """N environments of a package.

  Args:
    task: 'package:name'.
    num_envs: N.
    **options: see `Options`.

  Raises:
    ValueError: an unknown task or option.
    RuntimeError: the package is missing.
  """

  def __init__(self, task: str, num_envs: int = 1, **options: Any):
    super().__init__(game(self.canonical(task), Options.of(options)), num_envs)

  @staticmethod
  def require() -> None:
    """Raise RuntimeError where none of the packages is there."""
    if not _installed():
      raise _missing('gymnax', 'is not installed')

  @staticmethod
  def tasks() -> list[str]:
    """Names of all tasks of the packages that are installed."""
    return [f'{package}:{name}' for package in _installed() for name in _tasks(package)]

  @staticmethod
  def canonical(task: str) -> str:
    """'gymnax:breakout-minatar' -> 'gymnax:Breakout-MinAtar'."""
    package, _, name = str(task).partition(':')
    if package not in PACKAGES:
      raise base.unknown('package', package, PACKAGES, f'package:name, of {", ".join(PACKAGES)}')
    if package not in _installed():
      raise _missing(package, 'is not installed')
    names = {each.lower(): each for each in _tasks(package)}
    if name.lower() not in names:
      raise base.unknown(f'task of {package}', name, list(names.values()))
    return f'{package}:{names[name.lower()]}'


def _installed():
  return [package for package in PACKAGES if importlib.util.find_spec(package)]


def _tasks(package):
  of = PACKAGES[package]
  try:
    module = importlib.import_module(of.module)
  except ImportError as error:
    raise _missing(package, f'cannot be imported ({error})') from None
  return of.tasks(module)


def _missing(package, why):
  needs = ' '.join(f"'{each}'" for each in PACKAGES[package].needs)
  return RuntimeError(
    f'{package} {why}: pip install {needs} (harmony-jax[{package}], docs/ondevice.md)'
  )


def _protocol(config):
  package = config['task'].partition(':')[0]
  told = "the package's numbers"
  if base.evaluation_options(config).get('observe') != 'vector':
    told = "64 × 64 pictures of the package's pixels, numbers where it has none"
  facts = {'action_repeat': 1, 'package': package, 'observation': told}
  return facts, [f"{package}'s own rules and limit of steps", told]


SUITE = base.Suite(environment=JaxEnvs, title='JAX environments', protocol=_protocol, alike=False)
