"""Figures from runs: learning curves, and what the harmonizers did."""

import numpy as np

# Okabe and Ito's colours, told apart by colour-blind readers too; one per weighting rule, the same everywhere.
COLORS = {'harmony': '#0072B2', 'none': '#D55E00', 'harmony_unrectified': '#009E73', 'fixed': '#CC79A7',
          'reciprocal': '#E69F00'}
TASKS = {'observation': '#0072B2', 'reward': '#D55E00', 'dynamics': '#009E73'}


def draw(runs, path, references=None, title=''):
  """Learning curves beside harmonizer weights and scaled losses, as a PNG or SVG.

  Args:
    runs: of `runs.read`, one task. path: the file. references: {name: score} for dashed lines.
  """
  import matplotlib
  matplotlib.use('Agg')
  import matplotlib.pyplot as plt
  figure, axes = plt.subplots(1, 3, figsize=(15, 4.2), layout='constrained')
  curves(axes[0], runs, references or {})
  harmonizers(axes[1], runs)
  losses(axes[2], runs)
  for axis in axes:
    axis.xaxis.set_major_locator(plt.MaxNLocator(6))
  figure.suptitle(title)
  figure.savefig(path, dpi=110)
  plt.close(figure)


def curves(axis, runs, references):
  """Evaluation return over agent steps: a thin line per seed, a thick one for their mean where all have a point."""
  groups = {}
  for run in runs:
    groups.setdefault(run['config']['weighting']['rule'], []).append(run)
  for rule, group in sorted(groups.items()):
    color = COLORS.get(rule, 'black')
    series = [{s['step']: s['eval_mean'] for s in run['scores']} for run in group]
    for points in series:
      axis.plot(list(points), list(points.values()), color=color, alpha=0.35, linewidth=1)
    shared = sorted(set.intersection(*[set(points) for points in series]))
    axis.plot(shared, [np.mean([points[step] for points in series]) for step in shared], color=color, linewidth=2.2,
              marker='o', markersize=3, label=f'{rule}, mean of {len(group)} seed{"s" if len(group) > 1 else ""}')
  for name, score in references.items():
    axis.axhline(score, color='grey', linestyle='--', linewidth=1)
    axis.annotate(name, (0.995, score), xycoords=('axes fraction', 'data'), ha='right', va='bottom', color='grey',
                  fontsize=8)
  axis.set(xlabel='agent steps', ylabel='evaluation return', title='Learning curves')
  axis.legend(loc='best', fontsize=8)
  axis.grid(alpha=0.3)


def _metric(run, name):
  lines = [line for line in run['metrics'] if line.get(name) is not None]
  return [line['step'] for line in lines], [line[name] for line in lines]


def harmonizers(axis, runs):
  """Learned weights 1/σ over steps, a line per seed."""
  for run in runs:
    for task, color in TASKS.items():
      steps, weights = _metric(run, f'harmony/{task}/weight')
      if run['config']['weighting']['rule'].startswith('harmony') and steps:
        axis.plot(steps, weights, color=color, linewidth=1.3)
  for task, color in TASKS.items():
    axis.plot([], [], color=color, label=task)
  axis.set(xlabel='agent steps', yscale='log', ylabel='weight 1/σ', title='Harmonizers')
  axis.legend(fontsize=8)
  axis.grid(alpha=0.3)


def losses(axis, runs):
  """The tasks' losses (unweighted) over steps: full line with harmony, dotted without."""
  for run in runs:
    style = ':' if run['config']['weighting']['rule'] == 'none' else '-'
    for task, color in TASKS.items():
      steps, values = _metric(run, f'loss/{task}')
      if steps:
        axis.plot(steps, _smooth(values), style, color=color, linewidth=1)
  for task, color in TASKS.items():
    axis.plot([], [], color=color, label=task)
  axis.plot([], [], ':', color='black', label='weighting none')
  axis.set(xlabel='agent steps', yscale='log', ylabel='loss (mean over 5 logged values)', title='Loss scales')
  axis.legend(fontsize=8)
  axis.grid(alpha=0.3)


def _smooth(values, window=5):
  kernel = np.ones(min(window, len(values)))
  return np.convolve(values, kernel, 'same') / np.convolve(np.ones(len(values)), kernel, 'same')
