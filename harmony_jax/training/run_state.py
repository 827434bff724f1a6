"""Where a run is, apart from what it has learned: counts, scores, and when it learns."""

import dataclasses
import fractions
import functools
import time
from typing import Any

import numpy as np

from harmony_jax.config import Config
from harmony_jax.processes import ProcessGroup
from harmony_jax.replay import Draw


@dataclasses.dataclass
class RunState:
  """What one process knows of its run.

  Attributes:
    returns: of the running episodes, [N] of this process.
    step: steps of all environments, those that begin an episode included. update: updates begun.
    trained_at: step up to which updates have been paid for; None before the first.
    recent: scores of this process's training episodes since the last evaluation.
    last_score: of the last evaluation, which was at step `evaluated`.
    hours_before: of the starts before this one.
    saved: step of the last checkpoint.
    sharing: runs of one program, itself among them.
  """

  returns: np.ndarray
  step: int = 0
  update: int = 0
  trained_at: float | None = None
  recent: list[float] = dataclasses.field(default_factory=list)
  last_score: float | None = None
  evaluated: int | None = None
  hours_before: float = 0.0
  saved: int | None = None
  sharing: int = 1
  began: float = dataclasses.field(default_factory=time.monotonic)

  @property
  def hours(self) -> float:
    """Hours of training, those of earlier starts included; of several runs in one program each has
    its share, so that those of all add up."""
    return self.hours_before + (time.monotonic() - self.began) / 3600 / self.sharing

  def to_json(self, group: ProcessGroup, episodes: dict, draws: list[Draw]) -> dict[str, Any]:
    """Return what a checkpoint says of all processes' environments; all of them call it together.

    Args:
      episodes: those that run, as of `Episodes.state`. draws: of batches that wait.
    """
    listed = lambda part: np.asarray(part).tolist()
    requested = [
      [*map(listed, draw[:4]), {name: listed(rows) for name, rows in draw.more.items()}]
      for draw in draws
    ]
    parts = group.exchange([episodes, self.returns.tolist(), self.recent, requested])
    running, returns, recent, requested = zip(*parts, strict=True)
    return {
      **{name: getattr(self, name) for name in _SHARED},
      'hours': self.hours,
      'processes': group.count,
      'episodes': {name: _joined(one[name] for one in running) for name in running[0]},
      'returns': _joined(returns),
      'recent': list(recent),
      'requested': _joined(requested),
    }

  @classmethod
  def from_json(
    cls, meta: dict[str, Any], group: ProcessGroup, envs: slice, sharing: int = 1
  ) -> tuple['RunState', dict, list[Draw]]:
    """Return this process's part of what `to_json` gave: (state, running episodes, draws).

    Of another number of processes the batches that waited are lost: they are of other environments.

    Args:
      envs: this process's among all. sharing: as the attribute.
    """
    # before processes were counted there was one
    recent = meta['recent'] if 'processes' in meta else [meta['recent']]
    requested: list = []
    if len(recent) == group.count:
      requested = meta['requested'][group.share(len(meta['requested']))]
      mine = recent[group.index]
    else:
      mine = _joined(recent) if group.leads else []
    state = cls(
      np.array(meta['returns'][envs]),
      recent=mine,
      hours_before=meta['hours'],
      saved=meta['step'],
      sharing=sharing,
      **{name: meta[name] for name in _SHARED},
    )
    episodes = {name: values[envs] for name, values in meta['episodes'].items()}
    draws = [
      Draw(update, np.array(envs_of), np.array(starts), steps, *map(_arrays, more))
      for update, envs_of, starts, steps, *more in requested  # older ones have no more
    ]
    return state, episodes, draws


_SHARED = ('step', 'update', 'trained_at', 'last_score', 'evaluated')


def _arrays(rows):
  return {name: np.array(values) for name, values in rows.items()}


def _joined(lists):
  return [each for part in lists for each in part]


@dataclasses.dataclass(frozen=True)
class Schedule:
  """When things are due in a run, by its configuration."""

  config: Config

  @functools.cached_property
  def ratio(self) -> fractions.Fraction:
    """Updates per step of one environment: `train_ratio` steps are replayed for each."""
    agent = self.config.agent
    given = fractions.Fraction(agent.train_ratio)
    meant = given.limit_denominator(10**6) or given  # 0.3 is 3/10
    return meant / (agent.batch_size * agent.batch_length)

  @property
  def updates(self) -> int:
    """Updates of the whole run, if it learns as soon as it can; up to an episode's less where
    updates wait for its end.
    """
    run = self.config.run
    last = -(-run.steps // run.num_envs) * run.num_envs
    paid = last - self.config.begins - run.num_envs
    return self.config.agent.pretrain + int(paid * self.ratio)

  def crossed(self, step: int, every: int) -> bool:
    """Return whether the step of N environments to `step` passed a multiple of `every`, or the end.

    Never where `every` is 0.
    """
    before, run = step - self.config.run.num_envs, self.config.run
    return every > 0 and (step // every > before // every or step >= run.steps)

  def due(self, state: RunState, step: int) -> int:
    """Return the updates to do with the steps up to `step`, paid for by it; `pretrain` at first."""
    if state.update == 0 or state.trained_at is None:
      state.trained_at = float(step)
      return self.config.agent.pretrain
    # in whole parts of a step: after sums of floats an update may come a step late
    parts, each = self.ratio.as_integer_ratio()
    paid = round(state.trained_at * parts)
    due = (step * parts - paid) // each
    state.trained_at = (paid + due * each) / parts
    return due

  def runs_ahead(self, margin: int) -> bool:
    """Return whether a next batch may be chosen before its steps are there.

    A batch that waits longer than the replay's margin would be overwritten.
    """
    return (
      self.config.agent.update_at == 'steps'
      and 1 / (self.ratio * self.config.run.num_envs) < margin / 2
    )
