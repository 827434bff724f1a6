"""One picture of one task: learning curves beside harmonizer weights and losses, as results/ and
the README show.
"""

import pathlib

from harmony_jax.reporting import charts, curves


def draw(records, path, references=None, title=''):
  """Draws learning curves, harmonizer weights and loss scales of one task side by side.

  Args:
    records: of `records.collect`, of one suite and task. path: the file, a PNG or SVG. references:
    of `references.parse`, for dashed lines besides Atari's. title: above the picture.
  """
  import matplotlib
  from matplotlib.figure import Figure as Canvas

  suite = records[0]['suite']
  drawn = [
    curves.learning(suite, records, charts.method_colors(records), references),
    curves.harmonizers(suite, records),
    curves.losses(suite, records),
  ]
  drawn = [figure for figure in drawn if figure]
  with matplotlib.rc_context({**charts.RC, 'font.size': 11}):
    canvas = Canvas(figsize=(max(4.8 * len(drawn), 5), 4.2), layout='constrained')
    for axis, figure in zip(canvas.subplots(1, max(len(drawn), 1), squeeze=False).flat, drawn):
      charts.draw_panel(figure, figure.panels[0], axis)
      axis.set_title(figure.title, loc='left', fontsize=10)
      axis.legend(
        handles=charts.handles(figure),
        loc='upper center',
        bbox_to_anchor=(0.5, -0.16),
        fontsize=8.5,
        ncols=2 if len(figure.legend) > 1 else 1,
      )
    if title:
      canvas.suptitle(title, x=0.01, ha='left', fontweight='bold', fontsize=12)
    canvas.savefig(
      path, dpi=110, **({'facecolor': 'white'} if pathlib.Path(path).suffix == '.png' else {})
    )
