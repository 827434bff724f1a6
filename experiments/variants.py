"""Variants of a configuration times seeds, as `offline` and `study` train them into one folder."""

import shlex
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from harmony_jax import config as config_
from harmony_jax.config import Config
from harmony_jax.envs.base import Spec
from harmony_jax.errors import UserError
from harmony_jax.training.progress import format_seconds

from . import launcher


def make(
  common: Config,
  variants: Iterable[tuple[str, list[str]]],
  change: Callable[[Config, list[str]], Config],
  texts: Sequence[str] = (),
  spec: Spec | None = None,
) -> dict[str, Config]:
  """Return the configuration of each label, and say which of its settings change nothing.

  Args:
    variants: (label, settings) of each. change: applies settings.
    texts: the settings that `common` was given. spec: of the environment.

  Raises:
    UserError: two of one label, or settings that cannot be.
  """
  found: dict[str, Config] = {}
  for label, words in variants:
    if label in found:
      raise UserError(f'there are two variants {label!r}: give one another label')
    try:
      found[label] = change(common, words)
    except UserError as error:
      raise UserError(f'variant {label!r}: {error}') from None
    lines = launcher.idle(found[label], [*texts, *words], spec)
    launcher.note(f'variant {label!r}: {line}' for line in lines)
  return found


def plan(
  common: Mapping[str, Any], variants: Mapping[str, Mapping[str, Any]], seeds: Sequence[int]
) -> dict[str, Any]:
  """Return what the plan of any study has: how variants, as trees, differ from what they have in
  common, the seeds, and by what it is made."""
  from harmony_jax.benchmarking import machine

  changes = {
    label: {name: new for name, (_, new) in config_.difference(common, tree).items()}
    for label, tree in variants.items()
  }
  about = {**machine.describe_machine(), 'command': shlex.join(['python', *sys.orig_argv[1:]])}
  return {'variants': changes, 'seeds': list(seeds), 'about': about}


class Bar:
  """Tells the time that is left, by the share of the work that is done."""

  def __init__(self, total: float):
    self._total, self._begun, self._done = total, time.monotonic(), 0.0

  def skip(self, amount: float) -> None:
    """Leave out so much of the work."""
    self._total -= amount

  def line(self, amount: float, text: str) -> str:
    """Count so much more work as done; return a line of progress."""
    self._done += amount
    left = (time.monotonic() - self._begun) / self._done * (self._total - self._done)
    return f'[{self._done / self._total:4.0%}, {format_seconds(max(0, left))} left] {text}'
