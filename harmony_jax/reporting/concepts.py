"""The figure of docs/concepts.md: what the harmonious loss (eq. 4) and the rectified one (eq. 5) do
to a loss.

Knows no JAX: the numbers come from harmony_jax/harmony.py by way of `experiments.docs`, so that the
figure shows what the code computes.
"""

LOSSES = (0.1, 1.0, 10.0, 100.0)  # of which the loss over σ is drawn
COLORS = ('#0072B2', '#009E73', '#E69F00', '#D55E00')  # Okabe and Ito
RULES = {
  'unrectified': ('eq. 4:  L/σ + log σ', '#CC79A7'),
  'rectified': ('eq. 5:  L/σ + log(1 + σ)', '#0072B2'),
}


def draw(found, path):
  """Draws the figure.

  Args:
    found: {'sigma': [P], 'loss': [P]}, and for each of `RULES` a dict with
      total: {L: the rule's loss [P] over sigma}, for L in `LOSSES`.
      minimum: {L: (σ*, the loss there)}.
      weight: [P], 1/σ* over loss. scaled: [P], loss/σ*.
    path: of the PNG.
  """
  import matplotlib

  matplotlib.use('Agg')
  import matplotlib.pyplot as plt

  figure, axes = plt.subplots(2, 2, figsize=(11, 8), layout='constrained')
  for axis, (name, (label, _)) in zip(axes[0], RULES.items()):
    _landscape(axis, found['sigma'], found[name], label, name)
  _weights(axes[1, 0], found)
  _scaled(axes[1, 1], found)
  figure.savefig(path, dpi=110, metadata={'Software': None})
  plt.close(figure)


def _landscape(axis, sigma, rule, label, name):
  """The loss over σ for several L, and its minima."""
  for level, color in zip(LOSSES, COLORS):
    axis.plot(sigma, rule['total'][level], color=color, label=f'L = {level:g}')
    axis.plot(*rule['minimum'][level], 'o', color=color, markersize=7, markeredgecolor='white')
  axis.set(
    xscale='log',
    xlim=(sigma[0], sigma[-1]),
    ylim=(-3, 12),
    xlabel='σ',
    ylabel='harmonized loss of one task',
    title=f'{label}  ({name})',
  )
  axis.axhline(0, color='grey', linewidth=0.8)
  axis.grid(alpha=0.25)
  axis.legend(title='dots: minimum', loc='lower right')


def _weights(axis, found):
  for name, (label, color) in RULES.items():
    axis.plot(found['loss'], found[name]['weight'], color=color, label=label)
  axis.set(
    xscale='log',
    yscale='log',
    xlabel='L, the loss of the task',
    ylabel='1/σ*, the weight that is learned',
    title='Weight at the minimum',
  )
  axis.annotate(
    '1/L',
    (1.5e-3, 1 / 1.5e-3),
    textcoords='offset points',
    xytext=(12, 4),
    color=RULES['unrectified'][1],
  )
  axis.annotate(
    'about 1/√L',
    (1.5e-3, 1.5e-3**-0.5),
    textcoords='offset points',
    xytext=(-6, -36),
    color=RULES['rectified'][1],
  )
  axis.grid(alpha=0.25)
  axis.legend(loc='upper right')


def _scaled(axis, found):
  for name, (label, color) in RULES.items():
    axis.plot(found['loss'], found[name]['scaled'], color=color, label=label)
  axis.set(
    xscale='log',
    ylim=(0, 1.15),
    xlabel='L, the loss of the task',
    ylabel='L/σ*, what it contributes',
    title='Loss at the minimum, as weighed',
  )
  axis.grid(alpha=0.25)
  axis.legend(loc='lower right')
