"""How long a sweep will take: from runs that are finished, else from what a suite's configuration
says was measured.
"""

import heapq
import json
import pathlib
import re
import statistics

from harmony_jax.sweeping.board import end_of

NUMBERS = {
  'half a': 0.5,
  'half an': 0.5,
  'a quarter of an': 0.25,
  'a': 1,
  'an': 1,
  'one': 1,
  'two': 2,
  'three': 3,
}


def hours_of_text(text):
  """'1.6 hours on one core' → 1.6, 'about two minutes' → 0.033; None where it names no time ('not
  measured').
  """
  words = '|'.join(sorted(NUMBERS, key=len, reverse=True))
  found = re.match(rf'(?:about )?(\d+(?:\.\d+)?|{words}) (hour|minute)', text)
  if not found:
    return None
  amount = NUMBERS[found[1]] if found[1] in NUMBERS else float(found[1])
  return amount if found[2] == 'hour' else amount / 60


class Estimate:
  """Hours of whole runs.

  Args:
    root: the folder of run folders. hours: HOURS of the suite's configuration. overridden: whether
      settings were changed on the command line, of which HOURS knows nothing.
  """

  def __init__(self, root, hours, overridden):
    self._root, self._hours, self._overridden = pathlib.Path(root).expanduser(), hours, overridden
    self._known = {}

  def of(self, run):
    """(hours or None, where they are from) of a `plan.Run`."""
    key = run.suite, run.method, run.preset, run.steps
    if key not in self._known:
      self._known[key] = self._look(run)
    return self._known[key]

  def _look(self, run):
    # <root>/<suite>/<task>/<method>-<weighting>-<preset>/seed<seed>
    suite = pathlib.Path(run.folder).parents[2]
    found = []
    for marker in suite.glob(f'*/{run.method}-*-{run.preset}/seed*/.complete'):
      hours, steps = end_of(marker.parent).get('hours'), _steps(marker.parent)
      if hours and steps == run.steps:
        found.append(hours)
    if found:
      return statistics.median(
        found
      ), f'median of {len(found)} finished run{"s" if len(found) > 1 else ""}'
    text = self._hours[run.preset]
    hours = None if self._overridden else hours_of_text(text)
    if hours is None:
      return None, 'not measured'
    return hours, f"configuration's: {text}"


def _steps(folder):
  """The steps of a run folder's configuration; None where it cannot be read."""
  try:
    return json.loads((folder / 'config.json').read_text(encoding='utf-8'))['config']['steps']
  except (OSError, ValueError, KeyError, TypeError, RecursionError):
    return None


def wall_clock(hours, workers):
  """Hours until the last of these jobs ends, begun in this order by so many workers."""
  free = [0.0] * workers
  for each in hours:
    heapq.heappush(free, heapq.heappop(free) + each)
  return max(free)
