"""Scores that a user gives for dashed lines: one form for all commands."""

import json

from harmony_jax.errors import UserError
from harmony_jax.reporting import grouping

EVERY = None  # stands for all tasks in place of a task's name, which is a text


def parse(text) -> dict:
  """{task or EVERY: {name: score}} of the JSON of --references.

  Args:
    text: JSON of {task: {name: score}}, of {name: score} for every task, or of both in one.

  Raises:
    UserError: it is something else, or a score is not a finite number.
  """
  try:
    given, found = json.loads(text), {}
    for key, entry in given.items():
      task, scores = (key, entry) if isinstance(entry, dict) else (EVERY, {key: entry})
      for name, score in scores.items():
        if grouping.number_or_none(score) is None:
          raise ValueError(name)
        found.setdefault(task, {})[name] = score
    return found
  except (ValueError, AttributeError, OverflowError, RecursionError):
    raise UserError(
      '--references must be JSON of names and finite scores, {"random": -20.7}, or of such for each '
      'task, {"walker_stand": {"random": 144.2}}'
    ) from None


def of(task, references) -> dict:
  """{name: score} of one task, of what `parse` returns."""
  references = references or {}
  return {**references.get(EVERY, {}), **references.get(task, {})}
