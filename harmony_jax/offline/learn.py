"""One world model that learns from a buffer: its update, what is measured of it, and when.

Weights of the rule `fixed` are arguments of the compiled update, and `none` is `fixed`: one program
serves all of them, as it serves all seeds.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from harmony_jax import method, parallel
from harmony_jax.errors import UserError
from harmony_jax.offline import measure, probe
from harmony_jax.offline.buffer import Buffer, batch_windows, evenly
from harmony_jax.training.video import to_uint8

CHUNK = 24  # windows that are looked at in a call
HELD_OUT, TRAINING = 144, 288  # windows that are measured, evenly spread
_WEIGHTS = ('w_o', 'w_r', 'w_d')


@dataclasses.dataclass(frozen=True)
class Plan:
  """What all runs have in common.

  Attributes:
    updates: of a run. every: updates between two measurements.
    context, horizon: steps of a measured window that are seen, and then predicted.
    reward_scale: what all rewards are multiplied by.
    mlp: the state is regressed by an MLP, too, after the last update. show: windows whose
      prediction after it is kept. Nothing else depends on these two.
  """

  updates: int
  every: int
  context: int = 15
  horizon: int = 15
  reward_scale: float = 1.0
  mlp: bool = False
  show: int = 0


class Programs:
  """A method's compiled functions for a structure of settings: see `structure`."""

  def __init__(self, entry: method.Entry, settings: Any, spec: Any, name: str = 'this method'):
    made: Any = entry.make(settings, spec)
    if not hasattr(made, 'model_step') or 'features' not in made.capabilities:
      raise UserError(f'{name} cannot train its model alone: it has no `model_step` or `features`')
    jit = functools.partial(parallel.jit, precision=settings.matmul_precision)
    self.init = jit(made.init)
    self.calibration: method.Calibration | None = made.calibration
    self.rows: int = settings.batch_length + made.lead  # of a batch

    def step(weights, state, batch):
      of: Any = entry.make(weighed(settings, weights), spec) if weights else made
      return of.model_step(state, batch)

    def look(state, batch, context):
      found = made.capabilities['features'](made.variables(state), batch, context, state.rng)
      return found, made.task_losses(state, batch)

    def predict(state, batch, context):
      return made.capabilities['report'](made.variables(state), batch, context, state.rng)

    reports = 'report' in made.capabilities
    self.predict = jit(predict, static_argnames='context') if reports else None
    self.step = jit(step, donate_argnums=1)
    self.look = jit(look, static_argnames='context')


def structure(settings: Any) -> tuple[Any, dict[str, float]]:
  """Return (settings that a program is made for, weights that it takes as arguments)."""
  weighting: Any = getattr(settings, 'weighting', None)
  if not hasattr(weighting, _WEIGHTS[0]) or weighting.rule not in ('none', 'fixed'):
    return settings, {}
  weights = {name: float(getattr(weighting, name)) for name in _WEIGHTS}
  if weighting.rule == 'none':
    weights = {'w_o': 1.0, 'w_r': 1.0, 'w_d': settings.losses.scale}
  return weighed(settings, dict.fromkeys(_WEIGHTS, 1.0), rule='fixed'), weights


def weighed(settings: Any, weights: dict[str, Any], **more: Any) -> Any:
  """Return the settings with other weights, which may be traced."""
  return dataclasses.replace(
    settings, weighting=dataclasses.replace(settings.weighting, **weights, **more)
  )


class Programmer:
  """Makes programs, each once."""

  def __init__(self, entry: method.Entry, name: str):
    self._entry, self._name, self._made = entry, name, {}

  def __call__(self, settings: Any, spec: Any) -> tuple[Programs, dict[str, float]]:
    """Return the programs of settings, and the weights that their update takes.

    Raises:
      UserError: the method cannot train its model alone, or its settings do not fit the spec.
    """
    common, weights = structure(settings)
    key = common, spec.spaces
    try:
      self._entry.make(settings, spec)  # the program does not look at its weights
      if key not in self._made:
        self._made[key] = Programs(self._entry, common, spec, self._name)
    except ValueError as error:
      raise UserError(str(error)) from None
    return self._made[key], weights


class Views:
  """The windows of a buffer on which a model is measured."""

  def __init__(self, buffer: Buffer, plan: Plan):
    self.plan, self.names = plan, list(buffer.header['state_names'])
    length = plan.context + plan.horizon
    found = {
      'held_out': evenly(buffer.windows(length, True), HELD_OUT),
      'training': evenly(buffer.windows(length, False), TRAINING),
    }
    self.chunk = min(CHUNK, *map(len, found.values()))
    whole = lambda x: evenly(x, len(x) // self.chunk * self.chunk)
    self.windows = {name: whole(windows) for name, windows in found.items()}
    rows = {name: x[:, None] + np.arange(length) for name, x in self.windows.items()}
    self.state = {name: buffer.state[x] for name, x in rows.items()}
    reward = buffer.rows['reward'] * np.float32(plan.reward_scale)
    self.reward = {name: reward[x] for name, x in rows.items()}
    self.values = np.unique(reward)
    self._gather = functools.partial(buffer.gather, length=length, reward_scale=plan.reward_scale)

  def measure(self, look: Callable, state: Any, last: bool) -> measure.Measures:
    """Return everything that is measured of a model's state, after its last update or before."""
    seen, losses = {}, {}
    for name, windows in self.windows.items():
      chunks = [
        jax.device_get(look(state, self._gather(some), context=self.plan.context))
        for some in windows.reshape(-1, self.chunk)
      ]
      whole = lambda key: np.concatenate([features[key] for features, _ in chunks])
      seen[name] = {key: whole(key) for key in chunks[0][0]}
      for loss in chunks[0][1]:
        losses[f'loss/{loss}/{name}'] = float(np.mean([each[loss] for _, each in chunks]))
      if 'kl' in seen[name]:
        losses[f'kl/{name}'] = float(seen[name]['kl'].mean())
    held, context = seen['held_out'], self.plan.context
    rewards = held['reward'], held['open_loop'], self.reward['held_out']
    found = measure.of_rewards(*rewards, context, self.values)
    if self.names:
      feature = {name: each['feature'] for name, each in seen.items()}
      fits = {'state': measure.ridge} | ({'state_mlp': probe.mlp} if last and self.plan.mlp else {})
      for kind, fit in fits.items():
        each = measure.of_states(feature, self.state, self.names, context // 3, fit)
        found |= {f'{kind}/{name}': value for name, value in each.items()}
    return found | losses

  def predict(self, predict: Callable, state: Any) -> dict[str, np.ndarray]:
    """Return what a model predicts of the held-out windows whose rewards vary most after their
    context, W of them: 'first' [W], their rows; 'reward' and 'expected' [W, T]; 'picture/<name>'
    [W, T, H, W, C] uint8."""
    reward = self.reward['held_out']
    chosen = np.argsort(-reward[:, self.plan.context :].std(1), kind='stable')[: self.plan.show]
    first = self.windows['held_out'][chosen]
    found = jax.device_get(predict(state, self._gather(first), context=self.plan.context))
    drawn = {f'picture/{k}': to_uint8(v) for k, v in found['observation'].items() if v.ndim == 5}
    return {'first': first, 'reward': reward[chosen], 'expected': found['reward'], **drawn}


def learn(
  programs: Programs, weights: dict[str, float], buffer: Buffer, views: Views, seed: int, sizes: Any
) -> Iterator[dict[str, Any]]:
  """Train from a seed, which draws the first parameters and the batches; yield measurements.

  Args:
    sizes: the method's settings, for the size of a batch.

  Yields: {'update', 'seconds' and 'cpu_seconds' of training so far, 'measures'}; at the end of a
    run that is not finite, {'update', 'stopped': why}. The last one has 'predictions' of
    `Views.predict`, too, if these are wanted.
  """
  plan, state = views.plan, programs.init(jax.random.key(seed))
  windows = buffer.windows(programs.rows, False)

  def batch_of(update):
    first = batch_windows(windows, sizes.batch_size, seed, update)
    return buffer.gather(first, programs.rows, plan.reward_scale)

  if programs.calibration:
    start = programs.calibration
    batches = map(batch_of, range(plan.updates, plan.updates + start.batches))
    measured = parallel.jit(start.measure, sizes.matmul_precision)
    state = start.apply(state, start.means(measured, state, batches))
  spent = np.zeros(2)
  clock = lambda: np.array([time.perf_counter(), time.process_time()])
  begun = clock()
  for update in range(plan.updates):
    state, metrics = programs.step(weights, state, batch_of(update))
    last = update + 1 == plan.updates
    if (update + 1) % plan.every and not last:
      continue
    metrics = {name: float(value) for name, value in jax.device_get(metrics).items()}
    spent += clock() - begun
    if metrics.get('nonfinite_updates', 0) > sizes.skip_nonfinite:
      yield {'update': update + 1, 'stopped': 'a loss or gradient is not finite'}
      return
    found = views.measure(programs.look, state, last)
    kept = lambda name: name.endswith('/weight') or (name == 'nonfinite_updates' and metrics[name])
    found |= {name: value for name, value in metrics.items() if kept(name)}
    seconds = dict(zip(('seconds', 'cpu_seconds'), spent.tolist()))
    line = {'update': update + 1, **seconds, 'measures': found}
    if last and plan.show and programs.predict:
      line['predictions'] = views.predict(programs.predict, state)
    yield line
    begun = clock()
