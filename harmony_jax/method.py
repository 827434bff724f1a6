"""The protocol between a method and everything around it, and the registry of methods.

A method is a world model and whatever learns and acts with it, as pure functions over one
`TrainState`. Training, evaluation, play, checkpoints, sweeps and benchmarks use what `Method`
lists and nothing else. A method of one's own is a file with an `Entry`, and a line in `METHODS`
(or `--method=my_package.my_file:METHOD`).

Shapes: B sequences in a batch, T steps of each, N environments, A actions.
"""

import dataclasses
import difflib
import importlib
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import flax.struct
import jax
import numpy as np

from harmony_jax import surroundings
from harmony_jax.envs.base import Spec
from harmony_jax.errors import UserError
from harmony_jax.replay import Replay
from harmony_jax.settings import group, setting

Carry = Any  # a pytree whose leaves begin with the axis N (or B)
Variables = Any  # the pytree that acting and looking take
Batch = Mapping[str, jax.Array]  # leaves [B, T, ...]
Metrics = dict[str, jax.Array]  # scalars by name


@dataclasses.dataclass(frozen=True)
class ReplaySettings:
  """How sequences are drawn."""

  sampling: str = setting(
    'windows',
    'windows: uniform over all windows of the stream, which may cross ends of episodes; episodes: '
    'uniform over complete episodes, then over their windows; inside: uniform over windows that '
    'lie in one episode',
    choices=('windows', 'episodes', 'inside'),
  )
  prioritize_ends: bool = setting(
    False, 'of episodes: their last windows are drawn more often', only='.sampling=episodes'
  )
  first_action: bool = setting(
    False, 'of episodes: windows that begin inside one know the action before them (DreamerPro)'
  )


@dataclasses.dataclass(frozen=True)
class MethodSettings:
  """The settings that every method has: what a batch holds, and when it learns and acts."""

  compute_dtype: str = setting(
    'float32',
    'what products are computed in; losses, norms, harmonizers and optimisers stay float32',
    choices=('float32', 'bfloat16'),
  )
  matmul_precision: str = setting(
    'default',
    'of float32 products: accelerators round the factors, but for highest; default: as JAX is told',
    choices=surroundings.PRECISIONS,
  )
  skip_nonfinite: int = setting(
    0, 'updates that may be left out because a loss or gradient is not finite; then stop'
  )
  batch_size: int = setting(16, 'sequences in a batch, B', least=1)
  batch_length: int = setting(64, 'steps of each of them, T', least=2)
  train_ratio: float = setting(
    1024.0, 'replayed steps per environment step: B · T is one update per step', above=0
  )
  update_at: str = setting(
    'steps',
    'updates are done as steps pay for them, or (episodes) where an episode ends, all that are due',
    choices=('steps', 'episodes'),
  )
  pretrain: int = setting(1, 'updates before the first step with the policy', least=1)
  prefill: int = setting(
    0, 'random steps before training, if the first batch does not need more', least=0
  )
  eval_policy: str = setting(
    'sample', 'evaluation samples its actions, or takes the mode', choices=('sample', 'mode')
  )
  eval_at_start: bool = setting(False, 'evaluate before the first step, too')
  replay: ReplaySettings = group(ReplaySettings, 'How experience is replayed.')


class TrainState(flax.struct.PyTreeNode):
  """Everything that training changes, saved whole; methods add fields of their own.

  Attributes:
    params, opt_state: trained parameters and the state of their optimisers, any trees.
    carry: what is kept of each row of the last batch, leaves [B, ...]; () where nothing is.
    step: updates done. nonfinite: of these, those that were left out.
    rng: the key from which every draw of an update is folded with `step`.
  """

  params: Any
  opt_state: Any
  carry: Any
  step: jax.Array
  nonfinite: jax.Array
  rng: jax.Array


@dataclasses.dataclass(frozen=True)
class Calibration:
  """A start from the first batches: `measure(state, batch)` gives scalars by name, whose means over
  `batches` batches `apply(state, means)` turns into the state that training begins with.
  """

  batches: int
  measure: Callable[[Any, Batch], dict[str, jax.Array]]
  apply: Callable[[Any, Mapping[str, Any]], Any]

  def means(self, measure: Callable, state: Any, batches: Iterable[Batch]) -> dict[str, float]:
    """Return the means over batches of what `measure`, compiled, finds of a state."""
    found = [jax.device_get(measure(state, batch)) for batch in batches]
    return {name: float(np.mean([each[name] for each in found])) for name in found[0]}


class Method(Protocol):
  """What everything around a method uses of it; the functions are pure.

  Attributes:
    settings: its settings. spec: of the environment that it learns in.
    capabilities: what there is to look at, pure functions by name; see harmony_jax/viewing.py for
      the names that play and training know, with their arguments. None of them is needed.
    calibration: how it starts from the first batches, if it does.
    acting: the fields of its `TrainState` that acting needs: all that `variables` looks at.
    largest_reward: beyond which it learns a smaller one.
    learns_ends: whether its values know that nothing comes after a terminal step.
    eval_seed: from which all episodes of an evaluation begin; None: each from one of its own.
    eval_ends: whether the reward of an episode's last step counts there.
    model_step(state, batch), task_losses(state, batch): if it has them, `train_step` of its world
      model alone, and the losses of that by name without training; with the capability `features`
      they are what harmony_jax/offline learns and measures.
    lead: rows of a batch before the `batch_length` that are learned, such as pictures of a stack.
    replay: the class that stores its experience; one with priorities has a method
      `feedback(draw, rows)`, which gets what `feedback` returns after the update of that draw.
  """

  settings: MethodSettings
  spec: Spec
  capabilities: Mapping[str, Callable] = {}
  calibration: Calibration | None = None
  acting: tuple[str, ...] = ('params',)
  largest_reward: float = math.inf
  learns_ends: bool = True
  eval_seed: int | None = None
  eval_ends: bool = True
  lead: int = 0
  replay: type = Replay

  def init(self, key: jax.Array) -> TrainState:
    """Return a fresh state."""
    ...

  def train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    """Do one update on a batch; return the next state and scalars.

    The batch holds observations [B, T, ...], `action` [B, T, A] (vectors as of `act`) taken
    *after* the observation of its row, `reward`, `is_first`, `is_last`, `is_terminal` [B, T], and
    with `replay.first_action` also `before` [B, A], and rows [B, ...] that the replay's draws bring
    along (`Draw.more`). Use `optimizers.guard` to leave out updates that
    are not finite.
    """
    ...

  def initial_carry(self, variables: Variables, num_envs: int) -> Carry:
    """Return what acting carries from step to step, at the beginning: leaves [N, ...]."""
    ...

  def act(
    self,
    variables: Variables,
    carry: Carry,
    observation: Mapping[str, jax.Array],
    is_first: jax.Array,
    key: jax.Array,
    mode: bool = False,
  ) -> tuple[jax.Array, Carry]:
    """Choose actions [N, A] for observations [N, ...].

    They begin with the one-hots of `spec.factors`; the other numbers are in [-1, 1]. Where
    `is_first` [N], an episode begins and the carry is not looked at. `mode` asks for the most
    likely actions. What is beyond [-1, 1] is stored so, and clipped for the environment.
    """
    ...

  def variables(self, state: Any) -> Variables:
    """Return what `act` and the capabilities take, from anything with the fields of `acting`."""
    return state.params

  def examine(self, state: TrainState, batch: Batch) -> dict[str, Any]:
    """Return trees by stage of one update, in the order in which it uses and makes them.

    The first of them that is not finite is where an update went wrong.
    """
    return {'batch': batch, 'params': state.params, 'optimizer': state.opt_state}

  def feedback(self, state: TrainState) -> Any:
    """Return rows [B, ...] for the replay after an update (such as priorities), or None."""
    return None


@dataclasses.dataclass(frozen=True)
class Traits:
  """What a suite tells a method of its tasks before one is made."""

  ends_early: bool = True  # episodes may end before their limit of steps
  discrete: bool = True


@dataclasses.dataclass(frozen=True)
class Entry:
  """A method as commands and run folders find it.

  Attributes:
    settings: the published ones, an instance of the method's own class.
    make: `make(settings, spec)` returns the `Method`; ValueError where they do not fit.
    sizes: {'small' | 'toy': {'some.field': value}}: what presets for small machines change.
    family: whose part of a suite's settings it takes; see configs/common.py.
    adapt: what it changes for a kind of task.
    upgrade: turns the settings in a run folder of an older format into today's.
    note: where its settings are from, if nobody has published them: a line as a run begins.
  """

  settings: MethodSettings
  make: Callable[[Any, Spec], Method]
  sizes: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
  family: str = ''
  adapt: Callable[[Traits], Mapping[str, Any]] = lambda traits: {}
  upgrade: Callable[[dict], dict] = lambda tree: tree
  note: str = ''


METHODS = {
  'dreamerv3': 'harmony_jax.methods.dreamer:METHOD',
  'dreamerv2': 'harmony_jax.methods.dreamer_v2:METHOD',
  'dreamerpro': 'harmony_jax.methods.dreamer_pro:METHOD',
  'tdmpc': 'harmony_jax.methods.tdmpc:METHOD',
  'denoised_mdp': 'harmony_jax.methods.denoised_mdp:METHOD',
}


def entry(name: str) -> Entry:
  """Return a method by its name in `METHODS`, or by its place 'module:attribute'.

  Raises:
    UserError: there is none; names the nearest one.
  """
  target = METHODS.get(name, name)
  module, colon, attribute = target.partition(':')
  if not colon:
    near = difflib.get_close_matches(name, METHODS, n=1, cutoff=0.0)[0]
    known = ', '.join(METHODS)
    raise UserError(f'unknown method {name!r}: did you mean {near!r}? (known: {known})')
  try:
    found = getattr(importlib.import_module(module), attribute)
  except (ImportError, AttributeError) as error:
    raise UserError(f'method {name!r} cannot be loaded: {error}') from None
  if not isinstance(found, Entry):
    raise UserError(f'method {name!r} is a {type(found).__name__}: expected a method.Entry')
  return found
