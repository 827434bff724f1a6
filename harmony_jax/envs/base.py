"""The one time-step convention of all suites: N environments that step together, NumPy outside.

A suite environment is any class with

    spec        a `Spec`
    num_envs    N
    canonical(task) -> str           static: the task's one true name, or ValueError
    step(actions, restart, seeds, idle=None) -> TimeStep
    close()

where `restart` is [N] bool, `seeds` [N] int, `idle` [N] bool, and `actions` are of
one of three kinds, by the spec:

    discrete             [N] int32: one of `num_actions`
    neither              [N, A] float32 in [-1, 1]
    choices (K₁, K₂, …)  [N, A] float32: a one-hot of K₁ numbers, one of K₂, …, and
                         behind them the continuous numbers, if any, in [-1, 1];
                         `decode` reads them

Methods and the replay have every action as such a vector, a discrete one as a
one-hot. In a step

- an environment under `restart` begins the episode that belongs to its seed:
  its action is ignored, `is_first` is True and the reward is 0;
- one under `idle` is not stepped and repeats its row of the last time step
  (zeros if it has not begun yet). Idle wins over restart;
- the others take their action. After `is_last` comes a restart or idling.

An environment may have two more attributes, refreshed by every step:

    measures    {name: [N] float32}, outcomes beside the reward, e.g. 'success'
    failed      [N] bool, where the simulator failed in this step: the row is
                the last observation once more, with reward 0 and `is_last`,
                and the episode is no sample of what the policy can do

And two more, which it has once and for all:

    waves       begins episodes with their seeds only where all do: an evaluation
                then waits for the last one before it begins the next
    replays     False where rows cannot idle within an episode: a resumed run begins
                the running ones anew

And, where the simulator knows more than it shows, for `experiments.offline`:

    state()     [N, S] float32, its true state at the last time step
    state_names the S names
    scripted()  [N, A] actions of a policy that was written for its task by hand

`check.check(env)` verifies all this for an environment of your own.
"""

import dataclasses
import difflib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, Self

import numpy as np

from harmony_jax import settings
from harmony_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class ArraySpec:
  """Shape and dtype of one observation of one environment (no N)."""

  shape: tuple[int, ...]
  dtype: type


@dataclasses.dataclass(frozen=True)
class Spec:
  """What an agent must know of an environment.

  Attributes:
    observation: `{name: ArraySpec}`. Images are uint8 `[height, width, 3]`.
    discrete: actions are int32 [N], else float32 [N, A].
    num_actions: number of choices, or A.
    action_repeat: simulator frames per step (frames = steps x action_repeat).
    choices: sizes of the categorical factors whose one-hots an action begins with.
    episode_limit: steps after which every episode ends; 0 where that is not known.
    readings: lines that say how observations and actions are read, for the beginning of a run.
  """

  observation: dict[str, ArraySpec]
  discrete: bool
  num_actions: int
  action_repeat: int
  choices: tuple[int, ...] = ()
  episode_limit: int = dataclasses.field(default=0, compare=False)
  readings: tuple[str, ...] = dataclasses.field(default=(), compare=False)

  def __post_init__(self):
    if self.action_repeat < 1:
      raise ValueError(f'action_repeat is {self.action_repeat}: expected 1 or more')
    if self.choices and self.discrete:
      raise ValueError(f'choices are {self.choices}: expected none with discrete=True')
    if min(self.choices, default=1) < 1 or sum(self.choices) > self.num_actions:
      raise ValueError(
        f'choices are {self.choices}: expected sizes from 1, together at most num_actions = '
        f'{self.num_actions}'
      )

  @property
  def factors(self) -> tuple[int, ...]:
    """Return the sizes of the one-hots that an action vector [N, A] begins with."""
    return (self.num_actions,) if self.discrete else self.choices

  @property
  def spaces(self) -> str:
    """Return all that an agent must fit, in words."""
    observations = ', '.join(
      f'{name} {list(each.shape)}'
      + ('' if len(each.shape) == 3 else f' {np.dtype(each.dtype).name}')
      for name, each in sorted(self.observation.items())
    )
    rest = self.num_actions - sum(self.factors)
    kinds = [f'{" × ".join(map(str, self.factors))} choices'] if self.factors else []
    kinds += [f'{rest} continuous actions'] if rest else []
    return f'{observations} and {" and ".join(kinds)}'

  def to_json(self) -> dict:
    """As JSON can hold it."""
    observation = {
      name: [list(array.shape), np.dtype(array.dtype).name]
      for name, array in self.observation.items()
    }
    compared = {field.name for field in dataclasses.fields(self) if field.compare}
    kept = {name: value for name, value in dataclasses.asdict(self).items() if name in compared}
    return {**kept, 'observation': observation}

  @classmethod
  def from_json(cls, saved: Mapping[str, Any]) -> 'Spec':
    """The way back."""
    observation = {
      name: ArraySpec(tuple(shape), np.dtype(dtype).type)
      for name, (shape, dtype) in saved['observation'].items()
    }
    choices = tuple(saved.get('choices', ()))  # older ones have none
    return cls(**{**saved, 'observation': observation, 'choices': choices})


@dataclasses.dataclass(frozen=True)
class Options:
  """What a suite's environment can be told: fields of a subclass, each a `settings.setting`.

  `more` says whether a configuration may name others, which are the simulator's own.
  """

  more: ClassVar[bool] = False

  @classmethod
  def of(cls, given: Mapping[str, Any]) -> Self:
    """Return the defaults with the given options in their place.

    Raises:
      ValueError: an unknown name, with the nearest one, or a value that it cannot have.
    """
    try:
      return settings.replace(_Env(cls()), {f'env.{k}': v for k, v in given.items()}).env
    except UserError as error:
      raise ValueError(str(error)) from None


@dataclasses.dataclass(frozen=True)
class _Env:
  """Options under the name that they have in a configuration."""

  env: Any


class TimeStep(NamedTuple):
  """What N environments show after a step; the arrays belong to the caller.

  Attributes:
    observation: `{name: [N, ...]}`.
    reward: [N] float32, of the step that led here; 0 where `is_first`.
    is_first: [N] bool, the first time step of an episode.
    is_last: [N] bool, the last one, for whatever reason.
    is_terminal: [N] bool, the last one, with no future reward to expect.
  """

  observation: dict[str, np.ndarray]
  reward: np.ndarray
  is_first: np.ndarray
  is_last: np.ndarray
  is_terminal: np.ndarray


class Environment(Protocol):
  """What every suite environment has; `measures` and `failed` are what some have beside it."""

  spec: Spec
  num_envs: int

  def step(
    self,
    actions: np.ndarray,
    restart: np.ndarray,
    seeds: np.ndarray,
    idle: np.ndarray | None = None,
  ) -> TimeStep:
    """Take actions, begin episodes, or idle."""
    ...

  def close(self) -> None:
    """Free what it holds."""
    ...


def empty_timestep(spec: Spec, num_envs: int) -> TimeStep:
  """A time step of zeros: the buffer that an environment fills row by row."""
  observation = {
    name: np.zeros((num_envs, *array.shape), array.dtype)
    for name, array in spec.observation.items()
  }
  flags = [np.zeros(num_envs, bool) for _ in range(3)]
  return TimeStep(observation, np.zeros(num_envs, np.float32), *flags)


def copy_timestep(timestep: TimeStep) -> TimeStep:
  """A time step that shares no memory with the given one."""
  observation = {name: array.copy() for name, array in timestep.observation.items()}
  return TimeStep(observation, *(array.copy() for array in timestep[1:]))


def truncate(timestep: TimeStep, where: np.ndarray | int) -> None:
  """Writes what a failure leaves of a time step, in rows `where` ([N] bool or an index) that hold
  the one before.
  """
  timestep.reward[where] = 0
  timestep.is_first[where], timestep.is_last[where], timestep.is_terminal[where] = (
    False,
    True,
    False,
  )


def holds(dtype: np.dtype, array: np.ndarray) -> bool:
  """Return whether no whole number of an array wraps around where a dtype stores it."""
  wraps = dtype.kind in 'iu' and not np.can_cast(array.dtype, dtype)
  return not wraps or np.array_equal(array.astype(dtype), array)


def zero_actions(spec: Spec, num_envs: int) -> np.ndarray:
  """Actions [N] or [N, A] for calls that only restart: first choices, and zeros."""
  if spec.discrete:
    return np.zeros(num_envs, np.int32)
  actions = np.zeros((num_envs, spec.num_actions), np.float32)
  actions[:, np.cumsum((0, *spec.choices))[:-1]] = 1
  return actions


def random_vectors(spec: Spec, num_envs: int, rng: np.random.Generator) -> np.ndarray:
  """Uniform actions as vectors [N, A], as methods and the replay have them."""
  blocks = [
    np.eye(size, dtype=np.float32)[rng.integers(size, size=num_envs)] for size in spec.factors
  ]
  rest = rng.uniform(-1, 1, (num_envs, spec.num_actions - sum(spec.factors)))
  return np.concatenate([*blocks, rest.astype(np.float32)], -1)


def to_environment(vectors: np.ndarray, spec: Spec) -> np.ndarray:
  """Vectors [N, A] as an environment takes them: int32 [N], or clipped to [-1, 1]."""
  if spec.discrete:
    return vectors.argmax(-1).astype(np.int32)
  return np.clip(vectors, -1, 1).astype(np.float32)


def decode(actions: np.ndarray, choices: Sequence[int]) -> tuple[list[np.ndarray], np.ndarray]:
  """What actions [..., A] say: (the number [...] of each factor's choice, from 0; the rest)."""
  *blocks, rest = np.split(np.asarray(actions), np.cumsum(choices, dtype=int), -1)
  return [block.argmax(-1) for block in blocks], rest


def unknown(
  kind: str, name: str, choices: Collection[str], listing: str | None = None, cutoff: float = 0.0
) -> ValueError:
  """A `ValueError` of one line for an unknown name, with the nearest of the valid ones.

  Args:
    kind: what the name should have been, e.g. 'Atari game'.
    name: what was given.
    choices: valid names.
    listing: text in parentheses; by default all choices.
    cutoff: how near it must be to be named, up to 1.
  """
  folded = {choice.lower(): choice for choice in choices}
  near = difflib.get_close_matches(str(name).lower(), folded, n=1, cutoff=cutoff)
  listing = listing or 'known: ' + ', '.join(choices)
  hint = f': did you mean {folded[near[0]]!r}?' if near else ''
  return ValueError(f'unknown {kind} {name!r}{hint} ({listing})')


@dataclasses.dataclass(frozen=True)
class Suite:
  """What the rest of the program knows of a suite: `SUITE`, at the end of its module.

  Attributes:
    environment: the class.
    title: how reports call it.
    protocol: tells from a run's configuration ('task', 'env', 'eval_env') how its scores are made:
      facts for JSON, 'action_repeat' among them, and phrases for a reader. An option that an older
      configuration lacks is what runs did before there was a choice.
    summary: further measures of an evaluation, from the means of the environment's own.
    slow: a step takes milliseconds, so that several are in processes of their own by default. No
      measurement decides that, for what fails ends a run in one process, and an episode in several.
    alike: what its tasks show is of one size, and their steps take about as long.
  """

  environment: type
  title: str
  protocol: Callable[[Mapping], tuple[dict, list[str]]]
  summary: Callable[[Mapping[str, float]], dict[str, float]] = lambda measures: {}
  slow: bool = False
  alike: bool = True


def evaluation_options(config: Mapping) -> dict:
  """Return the options of the environment in which a run's configuration evaluates."""
  return {**config.get('env', {}), **config.get('eval_env', {})}


def seen(options: Mapping) -> str:
  """Return what an agent observes, in words, by the options 'observe' and 'render'."""
  drawn = {'stock': '', 'fast': ', drawn without shadows and multisampling'}
  return {'image': '64 × 64 images', 'state': 'states', 'both': 'states and 64 × 64 images'}[
    options.get('observe', 'image')
  ] + drawn[options.get('render', 'stock')]
