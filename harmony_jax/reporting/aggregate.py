"""What a sweep of many runs has come to: means over seeds, and what is missing of it.

found, problems = records.collect(folders)
result = aggregate(found, [('Pong', 'dreamerv3-harmony-cpu', 0), …])
"""

from collections.abc import Sequence

from harmony_jax.reporting import published, statistics, tables
from harmony_jax.reporting.schema import Record


def aggregate(records: Sequence[Record], wanted: Sequence[tuple[str, str, int]]) -> dict:
  """Return the means of a set of runs, for JSON.

  A run counts when it is complete, by its last evaluation. What is wanted and not there is missing,
  for a mean over the seeds that happen to have ended is not the mean that was asked for.

  Args:
    records: of one suite. wanted: (task, `schema.label`, seed) of all runs that there should be.

  Returns:
    {'runs', 'wanted': numbers, 'missing': [(task, method, seed)], 'methods': {method: {'tasks':
    {task: {'mean', 'std' (of the sample; None for one), 'scores': [...]}}, and for Atari
    'human_normalized': {'mean', 'median', 'iqm', 'optimality_gap'}}}}.
  """
  wanted = list(dict.fromkeys(wanted))
  there = {(record.task, record.method, record.seed): record for record in records}
  there = {key: there[key] for key in wanted if key in there and tables.counts(there[key])}
  methods = {method: {'tasks': {}} for _, method, _ in wanted}
  for method, tasks in tables.finals(list(there.values())).items():
    for task, scores in tasks.items():
      mean, std = tables.mean_and_std(scores)
      methods[method]['tasks'][task] = {'mean': mean, 'std': std, 'scores': scores}
    if normalized := published.normalized(tasks):
      methods[method]['human_normalized'] = statistics.points(normalized)
  missing = [key for key in wanted if key not in there]
  return {'runs': len(there), 'wanted': len(wanted), 'missing': missing, 'methods': methods}
