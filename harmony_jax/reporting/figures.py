"""What all figures share: panels, colours and numbers, and how they become SVG in a page and files.

In a page every panel is an SVG of its own, so that a grid of 26 games reflows on a phone; as a file
the figure is one picture with its legend. Frames and letters are drawn in `INK`, which becomes
`currentColor`, so that a page's colour scheme colours them.
"""

import dataclasses
import html
import io
import itertools
import math
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullFormatter

INK = '#010101'
# Okabe and Ito's colours, told apart by colour-blind readers too.
PALETTE = (
  *('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#7F7F7F', '#8C6D31'),
  *('#882255', '#332288', '#999933', '#1B1B1B'),
)
STYLES = {'solid': '-', 'dotted': ':', 'dashed': '--', 'dashdot': '-.', 'sparse': (0, (1, 4))}
RC = {
  **dict.fromkeys(('text.color', 'axes.edgecolor', 'axes.labelcolor', 'grid.color'), INK),
  **dict.fromkeys(('xtick.color', 'ytick.color'), INK),
  **dict.fromkeys(('axes.labelsize', 'xtick.labelsize', 'ytick.labelsize'), 9.5),
  **dict.fromkeys(('axes.spines.top', 'axes.spines.right', 'legend.frameon'), False),
  'axes.titlesize': 11,
  'axes.titleweight': 'bold',
  'axes.titlelocation': 'left',
  'axes.linewidth': 0.6,
  'axes.grid': True,
  'axes.axisbelow': True,
  'grid.alpha': 0.13,
  'svg.fonttype': 'none',
  'text.parse_math': False,
}
_SCHEMES = '<style>svg{color:#1a1c1e}@media (prefers-color-scheme:dark){svg{color:#e8e6e3}}</style>'


@dataclasses.dataclass
class Panel:
  """One axis; its size and the room at its left are in CSS pixels at scale 1."""

  title: str
  xlabel: str
  draw: Callable[[Axes], None]
  width: int = 260
  height: int = 178
  left: int = 40

  def draw_on(self, axis: Axes) -> None:
    """Draw all of it."""
    self.draw(axis)
    axis.set_title(self.title, pad=5)
    axis.set_xlabel(self.xlabel, labelpad=2)
    axis.tick_params(which='both', length=2.5, pad=2.5, width=0.6)


@dataclasses.dataclass
class Figure:
  """Panels with one legend of (label, colour, key of `STYLES` or 'band').

  `caption` says how figures of the kind are read, `note` what is special about this one.
  """

  name: str
  title: str
  caption: str
  panels: list[Panel]
  legend: list[tuple[str, str, str]] = dataclasses.field(default_factory=list)
  note: str = ''
  svg: list[str] = dataclasses.field(default_factory=list, repr=False)  # of `inline`, once

  def __post_init__(self):
    self.name = re.sub(r'[^a-z0-9_-]+', '-', self.name.lower())  # it becomes a file's name


def colors_of(names: Iterable[str], wanted: Mapping[str, str | None]) -> dict[str, str]:
  """Return {name: colour}: the one it wants, or else the first that nobody has or wants."""
  colors = {}
  for name in names:
    free = [wanted.get(name), *(color for color in PALETTE if color not in wanted.values())]
    taken = {None, *colors.values()}
    colors[name] = next((color for color in [*free, *PALETTE] if color not in taken), '#7F7F7F')
  return colors


def inline(figure: Figure) -> list[str]:
  """Return the panels as SVG for a page: no fixed size, no ids that could meet another figure's."""
  if figure.svg:
    return figure.svg
  for at, panel in enumerate(figure.panels):
    width, height = panel.width, panel.height
    box = {'left': panel.left / width, 'right': 1 - 12 / width, 'top': 1 - 22 / height}
    with matplotlib.rc_context(RC):
      canvas = Canvas(figsize=(width / 72, height / 72))
      panel.draw_on(canvas.subplots(gridspec_kw={**box, 'bottom': 33 / height}))
      text = _svg(canvas, f'{figure.name}-{at}')
    # a page may show each colour lighter in the dark
    text = re.sub(r'#([0-9a-f]{6})(?=[;"])', r'var(--c\1, #\1)', text)
    text = re.sub(r' (width|height)="[\d.]+pt"', '', text)
    shown = ', '.join(label for label, _, _ in figure.legend)
    alt = html.escape(f'{panel.title}: {figure.title}{f" of {shown}" if shown else ""}.')
    figure.svg.append(text.replace('<svg ', f'<svg role="img" aria-label="{alt}" ', 1))
  return figure.svg


def save(figure: Figure, folder: pathlib.Path) -> list[pathlib.Path]:
  """Write `folder`/name.svg and .png: all panels and the legend in one picture."""
  longest = max([len(label) for label, _, _ in figure.legend], default=0)
  wide, high = (max(getattr(each, k) for each in figure.panels) for k in ('width', 'height'))
  columns = min(4, len(figure.panels), max(1, 1100 // wide))
  rows = -(-len(figure.panels) // columns)
  width = max(columns * wide, 8 * len(figure.title), 7 * longest + 60)
  across = max(1, width // (7 * longest + 60))
  height = rows * high + 30 + 17 * -(-len(figure.legend) // across)
  handles = [
    Patch(color=color, alpha=0.22, linewidth=0, label=label)
    if kind == 'band'
    else Line2D([], [], color=color, linewidth=2, linestyle=STYLES[kind], label=label)
    for label, color, kind in figure.legend
  ]
  svg, png = (folder / f'{figure.name}.{kind}' for kind in ('svg', 'png'))
  with matplotlib.rc_context(RC):
    canvas = Canvas(figsize=(width / 72, height / 72), layout='constrained')
    axes = canvas.subplots(rows, columns, squeeze=False).flat
    for axis, panel in itertools.zip_longest(axes, figure.panels):
      panel.draw_on(axis) if panel else axis.remove()
    canvas.suptitle(figure.title, x=0.01, ha='left', fontsize=12, fontweight='bold')
    canvas.legend(handles=handles, loc='outside lower left', ncols=across)
    svg.write_text(_svg(canvas, 'f').replace('<defs>', f'{_SCHEMES}<defs>', 1), encoding='utf-8')
    canvas.set_layout_engine('none')  # as it is now: finding it again takes seconds
    canvas.savefig(png, dpi=110, facecolor='white')
  return [svg, png]


def number(value: float | None, digits: int | None = None) -> str:
  """Return a short number: '22,274', '18.6', '0.012'; `digits` after the point, or by its size."""
  if value is None or not math.isfinite(value):
    return 'missing' if value is None else str(value)
  if digits is None and 0 < abs(value) < 1e-3:  # which is not 0.000
    return f'{value:.2g}'.replace('-', '−')
  digits = decimals(value) if digits is None else digits
  return f'{value:,.{digits}f}'.replace('-', '−')


def decimals(value: float) -> int:
  """Return how many digits after the point a number of this size is printed with."""
  if value == 0 or isinstance(value, int):
    return 0
  return sum(abs(value) < limit for limit in (1000, 10, 1))


def ranges(numbers: Iterable[int]) -> str:
  """Return whole numbers in order, neighbours together: '0–2, 7, 8'."""
  found, parts = sorted(set(numbers)), []
  for _, run in itertools.groupby(enumerate(found), lambda pair: pair[1] - pair[0]):
    members = [number for _, number in run]
    parts += [f'{members[0]}–{members[-1]}'] if len(members) > 2 else map(str, members)
  return ', '.join(parts)


def percent(value: float, _: object = None) -> str:
  """Return a success rate as a text: '12.5%'."""
  return f'{100 * value:.3g}%'.replace('-', '−')


def tick(value: float, _: object = None) -> str:
  """Return a number short enough for an axis: '300k', '1.5M', '0.01', '2e-06'."""
  units = ((1e9, 'B'), (1e6, 'M'), (1e3, 'k'))
  size, unit = next((each for each in units if abs(value) >= each[0]), (1, ''))
  return f'{value / size:.3g}{unit}'.replace('-', '−')


def log_scale(axis: Axes) -> None:
  """Make the vertical axis logarithmic: labels at powers of ten, or, where it spans little more
  than one, at 1, 2, 3 and 5 times them."""
  axis.set_yscale('log')
  low, high = axis.get_ylim()
  many = {'subs': (1, 2, 3, 5)} if high < 30 * low else {'numticks': 6}
  axis.yaxis.set_major_locator(LogLocator(**many))
  axis.yaxis.set_major_formatter(tick)
  axis.yaxis.set_minor_formatter(NullFormatter())


def _svg(canvas, name):
  """A canvas as SVG with ids of its own, the reader's fonts, and no decimals that nobody sees."""
  buffer = io.StringIO()
  with matplotlib.rc_context({'svg.hashsalt': name}):
    canvas.savefig(buffer, format='svg', transparent=True, metadata={'Date': None})
  text = buffer.getvalue()
  text = re.sub(r'<metadata>.*?</metadata>', '', text[text.index('<svg') :], flags=re.S)
  text = re.sub(r'<defs>\s*<style type="text/css">.*?</style>\s*</defs>', '', text, flags=re.S)
  text = re.sub(r'<g id="[^"]*">', '<g>', text).replace(INK, 'currentColor')
  text = re.sub(r"'DejaVu Sans'[^;\"]*", 'system-ui, sans-serif', text)
  rounded = lambda found: f'{float(found[0]):.1f}'
  attribute = lambda found: re.sub(r'-?\d+\.\d\d+', rounded, found[0])
  text = re.sub(r' (d|x|y|width|height|transform)="[^"]*"', attribute, text)
  return re.sub(r'>\s+<', '><', text).replace('<svg ', '<svg style="stroke-linejoin:round" ', 1)
