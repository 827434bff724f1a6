"""The figure of docs/concepts.md: what the harmonious loss (eq. 4) and the rectified one (eq. 5) do
to a loss. The numbers come from harmony_jax/harmony.py: it shows what the code computes.
"""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from harmony_jax.reporting.figures import PALETTE

LOSSES = (0.1, 1.0, 10.0, 100.0)  # of which the loss over σ is drawn
RULES = {
  'unrectified': ('eq. 4:  L/σ + log σ', PALETTE[3]),
  'rectified': ('eq. 5:  L/σ + log(1 + σ)', PALETTE[0]),
}


def harmonious_losses() -> dict[str, Any]:
  """Return what the figure shows, as `draw` takes it, computed by the rules themselves."""
  from harmony_jax import harmony  # JAX, which nothing else here needs

  sigma, loss = np.logspace(-2.5, 4, 241), np.logspace(-3, 4, 241)
  found: dict[str, Any] = {'sigma': sigma, 'loss': loss}
  for name in RULES:
    rule = getattr(harmony, name)()
    total = lambda level, at, rule=rule: rule.weigh({'': level}, {'': np.log(at)}, ())[0]
    best = {level: float(np.exp(rule.start(level))) for level in LOSSES}
    found[name] = {
      'total': {level: np.asarray(total(level, sigma)) for level in LOSSES},
      'minimum': {level: (at, float(total(level, at))) for level, at in best.items()},
      'weight': 1 / np.exp(rule.start(loss)),
      'scaled': loss / np.exp(rule.start(loss)),
    }
  return found


def draw(found: Mapping, path: str | os.PathLike) -> None:
  """Write the figure as a PNG.

  Args:
    found: {'sigma': [P], 'loss': [P]}, and for each of `RULES` 'total': {L: the rule's loss [P]
      over sigma}, 'minimum': {L: (σ*, the loss there)}, 'weight': [P], 1/σ* over loss, and
      'scaled': [P], loss/σ*.
  """
  canvas = Figure(figsize=(11, 8), layout='constrained')
  axes, loss, sigma = canvas.subplots(2, 2), found['loss'], found['sigma']
  weights, scaled = axes[1]
  for axis, (name, (label, color)) in zip(axes[0], RULES.items()):
    rule = found[name]
    for level, shade in zip(LOSSES, (PALETTE[0], PALETTE[2], PALETTE[4], PALETTE[1])):
      axis.plot(sigma, rule['total'][level], color=shade, label=f'L = {level:g}')
      axis.plot(*rule['minimum'][level], 'o', color=shade, markersize=7, markeredgecolor='white')
    axis.set(title=f'{label}  ({name})', xlabel='σ', ylabel='harmonized loss of one task')
    axis.set(xscale='log', xlim=(sigma[0], sigma[-1]), ylim=(-3, 12))
    axis.axhline(0, color='grey', linewidth=0.8)
    axis.legend(title='dots: minimum', loc='lower right')
    weights.plot(loss, rule['weight'], color=color, label=label)
    scaled.plot(loss, rule['scaled'], color=color, label=label)
  weights.set(xscale='log', yscale='log', title='Weight at the minimum', xlabel='L, the loss')
  weights.set_ylabel('1/σ*, the weight that is learned')
  scaled.set(xscale='log', ylim=(0, 1.15), title='Loss at the minimum, as weighed')
  scaled.set(xlabel='L, the loss', ylabel='L/σ*, what it contributes')
  weights.legend()
  scaled.legend(loc='lower right')
  for axis in axes.flat:
    axis.grid(alpha=0.25)
  canvas.savefig(path, dpi=110, metadata={'Software': None})
