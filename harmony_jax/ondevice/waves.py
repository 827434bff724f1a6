"""A wave, agents that a device trains at once: how many fit, how long they take, their lines."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from harmony_jax import parallel
from harmony_jax.envs import EpisodeResult
from harmony_jax.errors import UserError
from harmony_jax.ondevice import timetable
from harmony_jax.ondevice.program import Program
from harmony_jax.training import evaluation

MEMORY_SHARE = 0.6  # of a device's memory, for agents: the update's temporaries need the rest
MEASURED = 4  # iterations, and updates, that tell at least how long the others take


class Lot(NamedTuple):
  """What is one agent's own: its variant's label, seed, and numbers by setting."""

  label: str
  seed: int
  numbers: Mapping[str, float]


class Recorded(NamedTuple):
  """The lines that a run folder has of an agent, and why it ended early; '' where it did not."""

  scores: list[dict[str, Any]]
  metrics: list[dict[str, Any]]
  failure: str


class Times(NamedTuple):
  """Seconds: to compile all programs, of an iteration, of each evaluation of one wave."""

  compiling: float
  iteration: float
  evaluations: float
  iterations: int

  @property
  def wave(self) -> float:
    """Return the seconds of one wave."""
    return self.iteration * self.iterations + self.evaluations


def over_agents(program: Program, kind: str, devices: int, width: int) -> Any:
  """Return begin, fill, learn or evaluate of `Program`, mapped over [devices, width] agents."""
  own = {'begin': 1, 'fill': 2, 'learn': 2, 'evaluate': 3}[kind]  # arguments, the others are shared
  precision, donate = program.config.agent.matmul_precision, kind in ('fill', 'learn')
  return parallel.over_agents(getattr(program, kind), devices, width, own, precision, donate)


class Wave:
  """The compiled programs of [devices, width] agents of one structure.

  Args:
    program: of one agent. devices, width: how many at once on each.
  """

  def __init__(self, program: Program, devices: int, width: int):
    self.program, self.devices, self.width = program, devices, width
    self._shared = {name: jnp.asarray(x) for name, x in program.timetable.shared.items()}
    self._compiled: dict[tuple, Any] = {}

  @property
  def count(self) -> int:
    """Return how many agents it has."""
    return self.devices * self.width

  def tables(self, lots: Sequence[Lot], own: Mapping[int, timetable.Tables]) -> Any:
    """Return the agents' own tables on the devices; where lots are few, the last ones again."""
    lots = [*lots, *[lots[-1]] * (self.count - len(lots))]
    rows = [
      {**own[lot.seed], 'numbers': {k: np.float32(x) for k, x in lot.numbers.items()}}
      for lot in lots
    ]
    lead = (self.devices, self.width)
    stack = lambda *leaves: jnp.asarray(np.stack(leaves).reshape(*lead, *leaves[0].shape))
    return jax.tree.map(stack, *rows)

  def train(
    self, lots: Sequence[Lot], tables: Any, check: Callable[[], None] = lambda: None
  ) -> list[Recorded]:
    """Train the agents of a wave to the end; return what each records.

    Times are an agent's share of the wave's, so that those of all add up.

    Args:
      tables: of `self.tables`. check: called at every stop; what it raises ends the wave.
    """
    begun, table = time.monotonic(), self.program.timetable
    recorders = [_Recorder(self.program, lot) for lot in lots]
    agents, done = self._call('begin', tables), 0
    for stop in table.stops:
      check()
      if stop.end > done:
        kind = 'fill' if stop.end <= table.begins else 'learn'
        agents, ended = self._call(kind, agents, tables, self._shared, *_span(done, stop.end))
        for recorder, values in zip(recorders, self._rows(ended)):
          recorder.ended(values[: stop.end - done])
        done = stop.end
      hours = (time.monotonic() - begun) / 3600 / len(lots)
      metrics, nonfinite = map(self._rows, (agents.metrics, agents.learned.nonfinite))
      for recorder, values, left_out in zip(recorders, metrics, nonfinite):
        recorder.log(stop, values, int(left_out), hours)
      if stop.episodes:
        started = time.monotonic()
        played, seeds = self._evaluate(agents.learned, lots, tables, stop)
        taken = (time.monotonic() - started) / len(lots)
        for recorder, *results in zip(recorders, seeds, *map(self._rows, played)):
          recorder.evaluated(stop, *results, hours + taken / 3600, taken)
    return [recorder.found() for recorder in recorders]

  def measure(self, lots: Sequence[Lot], tables: Any) -> Times:
    """Compile everything and try it for some steps, whose results are dropped."""
    begun, table = time.monotonic(), self.program.timetable
    agents, first = self._call('begin', tables), table.begins
    if first:
      agents = self._call('fill', agents, tables, self._shared, *_span(0, 0))[0]
    agents = self._call('learn', agents, tables, self._shared, *_span(first, first))[0]
    stops = [stop for stop in table.stops if stop.episodes]
    kinds = {stop.episodes: stop for stop in stops}
    for stop in kinds.values():
      self._program('evaluate', *self._evaluating(agents.learned, lots, tables, stop)[0])
    jax.block_until_ready(agents)
    compiled, (begin, end) = time.monotonic(), representative(table.shared['due'], first)
    span = _span(begin, end)
    agents = jax.block_until_ready(self._call('learn', agents, tables, self._shared, *span))[0]
    learned, evaluations = time.monotonic(), {}
    for episodes, stop in kinds.items():
      started = time.monotonic()
      self._evaluate(agents.learned, lots, tables, stop)
      evaluations[episodes] = time.monotonic() - started
    return Times(
      compiled - begun,
      (learned - compiled) / (end - begin),
      sum(evaluations[stop.episodes] for stop in stops),
      len(table.shared['due']),
    )

  def temporaries(self) -> int:
    """Return the bytes that updates need beside the agents, of what was compiled."""
    found = [each.memory_analysis() for key, each in self._compiled.items() if key[0] == 'learn']
    return max((each.temp_size_in_bytes for each in found if each), default=0)

  def _evaluate(self, learned, lots, tables, stop):
    """((scores, lengths) on the devices, seeds of each agent's episodes)."""
    args, seeds = self._evaluating(learned, lots, tables, stop)
    return jax.block_until_ready(self._call('evaluate', *args)), seeds

  def _evaluating(self, learned, lots, tables, stop):
    seeds = [timetable.evaluation_seeds(lot.seed, stop) for lot in lots]
    rows = [*seeds, *[seeds[-1]] * (self.count - len(seeds))]
    rows = jnp.asarray(np.stack(rows).reshape(self.devices, self.width, -1))
    return (learned, tables, rows, jnp.uint32(stop.step)), seeds

  def _call(self, kind, *args):
    return self._program(kind, *args)(*args)

  def _program(self, kind, *args):
    """What is compiled for arguments of these shapes."""
    key = (kind, *(x.shape for x in jax.tree.leaves(args[2:3])))
    if key not in self._compiled:
      made = over_agents(self.program, kind, self.devices, self.width)
      self._compiled[key] = made.lower(*args).compile()
    return self._compiled[key]

  def _rows(self, tree):
    """A tree for each agent, on the host."""
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), jax.device_get(tree))
    return [jax.tree.map(lambda x, at=at: x[at], flat) for at in range(self.count)]


def _span(first, end):
  return jnp.int32(first), jnp.int32(end)


class _Recorder:
  """The lines of one agent, as hooks.py and evaluation.py have them."""

  def __init__(self, program, lot):
    self._config, self._spec, self._lot = program.config, program.game.spec, lot
    self._recent, self._scores, self._metrics, self._failure = [], [], [], ''

  def ended(self, returns):
    """Take the returns [I, N] of training episodes, by the iteration of their end; else NaN."""
    self._recent += returns[~np.isnan(returns)].tolist()

  def log(self, stop, metrics, left_out, hours):
    """Take the metrics of the last update, and how many were not finite so far."""
    if left_out > self._config.agent.skip_nonfinite and not self._failure:
      self._failure = f'an update up to {stop.update:,}, step {stop.step:,}, is not finite'
    if not stop.log:
      return
    line = {name: float(value) for name, value in metrics.items()} if stop.update else {}
    line |= {'time/hours': hours}
    if self._recent:
      line['return/train'] = float(np.mean(self._recent))
    self._metrics.append({**self._counts(stop), **line})

  def evaluated(self, stop, seeds, scores, lengths, hours, seconds):
    """Take the results of an evaluation."""
    rows = zip(seeds.tolist(), scores.tolist(), lengths.tolist(), strict=True)
    results, suite = [EpisodeResult(*row) for row in rows], self._config.run.suite
    if not np.isfinite(scores).all() and not self._failure:
      self._failure = f'the evaluation at step {stop.step:,} has shown a number that is not finite'
    summary, extra = (each(results, suite) for each in (evaluation.summary, evaluation.measures))
    counts = self._counts(stop)
    score, metrics = evaluation.lines(counts, summary, extra, self._recent, hours, seconds)
    self._scores.append(score)
    self._metrics.append({**counts, **metrics})
    self._recent = []

  def found(self):
    """Return all of it."""
    return Recorded(self._scores, self._metrics, self._failure)

  def _counts(self, stop):
    frame = stop.step * self._spec.action_repeat
    return {'step': stop.step, 'frame': frame, 'update': stop.update}


# --------------------------------------------------------------------------------------------------


def representative(due: np.ndarray, first: int) -> tuple[int, int]:
  """Return the last iterations [begin, end) that have updates as often as all.

  They are behind one with updates and end with one: where these are rare, or many at an episode's
  end, other iterations have none, or too many. Without `pretrain`, if there are enough others.

  Args:
    due: updates of each iteration. first: the one in which the policy begins to act.
  """
  *behind, end = (np.flatnonzero(due) + 1).tolist() or [len(due)]
  enough = (at for at in behind if end - at >= MEASURED <= due[at:end].sum())
  return max(enough, default=first), end


def agent_bytes(program: Program, tables: timetable.Tables, numbers: Mapping[str, float]) -> int:
  """Return the bytes of one agent with its tables, without making it."""
  own = {**tables, 'numbers': {k: np.float32(x) for k, x in numbers.items()}}
  made = jax.eval_shape(program.begin, own)
  size = lambda leaf: leaf.size * leaf.dtype.itemsize
  return sum(map(size, jax.tree.leaves(made))) + sum(x.nbytes for x in jax.tree.leaves(own))


def memory() -> int:
  """Return the bytes that agents of one device may take together."""
  device = jax.local_devices()[0]
  limit = (device.memory_stats() or {}).get('bytes_limit')
  if limit is None:  # the host's, which all of its devices share
    limit = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') // jax.local_device_count()
  return int(MEMORY_SHARE * limit)


def choose_width(wanted: int, each: int, count: int, devices: int) -> int:
  """Return how many agents a device trains at once, in waves of equal size.

  Args:
    wanted: a number, or 0: as many as fit on an accelerator, one on a CPU, whose products of
      matrices become slower by stacking them. each: bytes of an agent. count: agents in all.

  Raises:
    UserError: so many do not fit, or not even one.
  """
  fit = memory() // each
  told = f'an agent takes {each / 1e9:.2f} GB of the {memory() / 1e9:.2f} GB that agents may take'
  if fit < 1:
    raise UserError(f'{told}: take a smaller config.replay_capacity or fewer config.steps')
  if wanted > fit:
    raise UserError(f'--together={wanted}: {told}, {fit} at once')
  if wanted:
    return wanted
  if not parallel.has_accelerator():
    return 1
  waves = -(-count // (fit * devices))
  return -(-count // (waves * devices))
