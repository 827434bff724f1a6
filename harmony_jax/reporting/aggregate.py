"""What a sweep of many runs has come to: means over seeds, and what is missing of it.

found, problems = records.collect(folders)
result = aggregate(found, [('Pong', 'dreamerv3-harmony-cpu', 0), …])
"""

from collections.abc import Sequence

import numpy as np

from harmony_jax.reporting import published, statistics, tables
from harmony_jax.reporting.schema import Record


def aggregate(records: Sequence[Record], wanted: Sequence[tuple[str, str, int]]) -> dict:
  """Return the means of a set of runs, for JSON.

  A run counts when it is complete, by its last evaluation. What is wanted and not there is missing,
  for a mean over the seeds that happen to have ended is not the mean that was asked for.

  Args:
    records: of one suite. wanted: (task, `schema.label`, seed) of all runs that there should be.

  Returns:
    {'wanted': number, 'missing': [(task, method, seed)], 'methods': {method: {'tasks': {task:
    {'mean', 'scores'}}, 'human_normalized': {'mean', 'median', 'iqm', 'optimality_gap'} or None}}}.
  """
  done = {(r.task, r.method, r.seed): r for r in records if r.complete and r.final is not None}
  missing, methods = [key for key in wanted if key not in done], {}
  for method, tasks in tables.finals([done[key] for key in wanted if key in done]).items():
    each = {
      task: {'mean': float(np.mean(scores)), 'scores': scores} for task, scores in tasks.items()
    }
    normalized = published.normalized(tasks)
    points = statistics.points(normalized) if normalized else None
    methods[method] = {'tasks': each, 'human_normalized': points}
  return {'wanted': len(wanted), 'missing': missing, 'methods': methods}
