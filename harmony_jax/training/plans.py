"""The plan of a study: everything that its runs are a function of, kept as JSON in its folder.

A later call may add variants of the settings and seeds; the rest of the plan it must have, too,
but for settings that came later and say what was done before them. By which code, machine and
command runs were made is told by `about`, of the last call, and `earlier`.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from harmony_jax import config, settings
from harmony_jax.errors import UserError


def grown(
  path: pathlib.Path,
  old: Mapping[str, Any],
  new: Mapping[str, Any],
  free: Sequence[str],
  apart: Mapping[str, tuple[Any, Any]] | None = None,
) -> dict[str, Any]:
  """Return the new plan with the variants and seeds of the old one, which come first, and what the
  calls before were made by.

  Args:
    path: of the study. free: names of what no run depends on, or what is compared elsewhere.
    apart: what was found there, {name: (old, new)}.

  Raises:
    UserError: runs that are there would not have been made by the new plan: names what differs
      first.
  """
  new = settings.plain(new)
  growing = ('variants', 'seeds', 'about', 'earlier')
  same = lambda plan: {k: v for k, v in plan.items() if k not in (*growing, *free)}
  differing = {
    name: (there, here)
    for name, (there, here) in config.difference(same(old), same(new)).items()
    if not (there is None and config.as_before(name, here))
  }
  for label, changes in new['variants'].items():
    if label in old['variants'] and old['variants'][label] != changes:
      differing[f'variant {label}'] = old['variants'][label], changes
  differing |= apart or {}
  if differing:
    name, (there, here) = next(iter(differing.items()))
    raise UserError(
      f'{path} holds a study with another {name}: {there!r} there, {here!r} here; '
      'choose another --output'
    )
  found = {**new, 'variants': {**old['variants'], **new['variants']}}
  found['seeds'] = sorted({*old['seeds'], *new['seeds']})
  told = lambda plan: {k: v for k, v in plan.get('about', {}).items() if k != 'load'}
  earlier = [*old.get('earlier', [])]
  if told(old) not in ({}, told(new)):
    earlier.append(old['about'])
  return found | ({'earlier': earlier} if earlier else {})
