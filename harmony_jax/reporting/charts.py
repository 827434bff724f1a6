"""What all figures of a report share: colours, panels, and how they become SVG in a page and files
beside it.

A figure is a list of panels. In a page every panel is an SVG of its own, so that a grid of 26 games
reflows on a phone; as a file the figure is one picture with its legend. Lines and letters of the
frame are drawn in `INK`, which becomes `currentColor`, so that a page's colour scheme colours them.
"""

import dataclasses
import io
import math
import re
import typing

INK = '#010101'
# Okabe and Ito's colours, told apart by colour-blind readers too; one per weighting rule, the same
# everywhere.
COLORS = {
  'harmony': '#0072B2',
  'none': '#D55E00',
  'harmony_unrectified': '#009E73',
  'fixed': '#CC79A7',
  'reciprocal': '#E69F00',
}
PUBLISHED = {'Harmony DreamerV3 (authors)': '#56B4E9', 'DreamerV3 (authors, reproduced)': '#E69F00'}
PALETTE = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#7F7F7F', '#8C6D31')
# The world model's tasks, in colours that mean no method in the same report (harmony and none take
# the first two).
TASKS = {
  'observation': '#009E73',
  'reward': '#CC79A7',
  'dynamics': '#E69F00',
  'swav': '#56B4E9',
  'temporal': '#8C6D31',
}
RC = {
  'svg.fonttype': 'none',
  'svg.hashsalt': 'harmony-jax',
  'font.size': 10,
  'text.color': INK,
  'axes.edgecolor': INK,
  'axes.labelcolor': INK,
  'xtick.color': INK,
  'ytick.color': INK,
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.linewidth': 0.6,
  'xtick.major.width': 0.6,
  'ytick.major.width': 0.6,
  'xtick.minor.width': 0.4,
  'ytick.minor.width': 0.4,
  'grid.color': INK,
  'grid.alpha': 0.13,
  'grid.linewidth': 0.6,
  'axes.titlesize': 11,
  'axes.titleweight': 'bold',
  'axes.labelsize': 9.5,
  'xtick.labelsize': 9.5,
  'ytick.labelsize': 9.5,
  'text.parse_math': False,
  'axes.axisbelow': True,
  'legend.frameon': False,
  'path.simplify_threshold': 0.3,
}


@dataclasses.dataclass
class Panel:
  """One axis: `draw(axis)` draws it. `width`, `height` are CSS pixels at scale 1; `left` is the
  room for labels.
  """

  title: str
  draw: typing.Callable
  width: int = 260
  height: int = 178
  left: int = 38


@dataclasses.dataclass
class Figure:
  """Panels with one legend.

  Attributes:
    name: of the files. title: above the figure. alt: what a reader who sees nothing is told.
      caption: below it.
    legend: [(label, colour, 'line', 'dashed', 'dotted', 'dash-dotted', 'sparse' or 'band')].
      xlabel, ylabel: of all panels.
    columns: of the file's grid.
  """

  name: str
  title: str
  panels: list
  alt: str
  caption: str = ''
  legend: list = dataclasses.field(default_factory=list)
  xlabel: str = ''
  ylabel: str = ''
  columns: int = 4

  def __post_init__(self):
    self.name = re.sub(r'[^a-z0-9_-]+', '-', self.name.lower())  # it becomes a file's name


def method_colors(records) -> dict:
  """{method: colour} of all methods of a report: the colour of its weighting, unless another of its
  suite has it.
  """
  suites, weightings = {}, {}
  for record in records:
    suites.setdefault(record['method'], set()).add(record['suite'])
    weightings.setdefault(record['method'], record.get('weighting'))
  colors = {}
  for method in sorted(
    suites,
    key=lambda each: (
      each in PUBLISHED,
      list(COLORS).index(weightings[each]) if weightings[each] in COLORS else len(COLORS),
      each,
    ),
  ):
    taken = {colors[other] for other in colors if suites[other] & suites[method]}
    wanted = (PUBLISHED.get(method), COLORS.get(weightings[method]), *PALETTE)
    colors[method] = next((color for color in wanted if color and color not in taken), '#7F7F7F')
  return colors


def inline(figure) -> list:
  """[SVG] of the panels, to stand in an HTML page: no fixed size, no ids that could meet another
  figure's.
  """
  return [
    _for_page(
      _svg(_single(figure, panel)),
      f'{figure.name}-{number}',
      f'{panel.title}. {figure.alt}' if panel.title else figure.alt,
    )
    for number, panel in enumerate(figure.panels)
  ]


def save(figure, folder, pixels=1100):
  """Writes `folder`/`figure.name`.svg and .png, `pixels` wide or more: all panels and the legend in
  one picture.
  """
  import matplotlib

  with matplotlib.rc_context(RC):
    drawn = _grid(figure)
    buffer = io.StringIO()
    drawn.savefig(buffer, format='svg', transparent=True, metadata={'Date': None})
    style = (
      '<style>svg{color:#1a1c1e}@media (prefers-color-scheme:dark){svg{color:#e8e6e3}}</style>'
    )
    text = _ids(_slim(buffer.getvalue()), 'f').replace('<defs>', f'{style}<defs>', 1)
    (folder / f'{figure.name}.svg').write_text(_fonts(text), encoding='utf-8')
    dpi = min(max(pixels / drawn.get_size_inches()[0], 90), 200)
    drawn.savefig(folder / f'{figure.name}.png', dpi=dpi, facecolor='white')


def decimals(value) -> int:
  """How many digits after the point a number of this size is printed with."""
  size = abs(value)
  return 0 if size >= 1000 or isinstance(value, int) else 1 if size >= 10 else 2 if size >= 1 else 3


def number(value, digits=None) -> str:
  """A short number for tables: '22,274', '18.6', '0.012'. digits: how many after the point, not by
  its size.
  """
  if value is None or not math.isfinite(value):
    return 'missing' if value is None else str(value)
  if value == 0 and digits is None:
    return '0'
  return f'{value:,.{decimals(value) if digits is None else digits}f}'.replace('-', '−')


def reference(value) -> str:
  """A number that others printed with its own digits: '−20.7', '0.1', '7,128'."""
  if value is None or abs(value) >= 1000:
    return number(value)
  return f'{value:g}'.replace('-', '−')


def tick(value, _=None) -> str:
  """A number on an axis, short enough for a narrow panel: '300k', '1.5M', '10⁻⁶'."""
  for size, unit in ((1e9, 'B'), (1e6, 'M'), (1e3, 'k')):
    if abs(value) >= size:
      return f'{value / size:.3g}{unit}'.replace('-', '−')
  if 0 < abs(value) < 1e-3:
    mantissa, exponent = (
      f'{value:.2g}'.split('e') if 'e' in f'{value:.2g}' else f'{value:.1e}'.split('e')
    )
    power = '10' + str(int(exponent)).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))
    return power if float(mantissa) == 1 else f'{float(mantissa):g}·{power}'.replace('-', '−')
  return f'{value:.3g}'.replace('-', '−')


def percent(value, _=None) -> str:
  """A success rate on an axis."""
  return f'{100 * value:.3g}%'.replace('-', '−')


def _single(figure, panel):
  import matplotlib
  from matplotlib.figure import Figure as Canvas

  with matplotlib.rc_context(RC):
    canvas = Canvas(figsize=(panel.width / 72, panel.height / 72))
    _place(canvas, figure, panel, 0, 0)
    return canvas


def _grid(figure):
  """All panels in rows, the legend below; with margins of our own, as Matplotlib takes seconds to
  find them for 26.
  """
  from matplotlib.figure import Figure as Canvas

  columns = min(figure.columns, len(figure.panels))
  rows = -(-len(figure.panels) // columns)
  width, height = (
    max(getattr(panel, side) for panel in figure.panels) for side in ('width', 'height')
  )
  longest = max((len(label) for label, _, _ in figure.legend), default=0)
  total = max(columns * width, 7 * longest + 60, figure.panels[0].left + 8 * len(figure.title))
  across = max(1, min(len(figure.legend), total // (7 * longest + 60)))
  below = 17 * -(-len(figure.legend) // across) + 8 if figure.legend else 0
  size = rows * height + below + 22
  canvas = Canvas(figsize=(total / 72, size / 72))
  canvas.text(
    figure.panels[0].left / total,
    1 - 5 / size,
    figure.title,
    va='top',
    fontsize=12,
    fontweight='bold',
  )
  for at, panel in enumerate(figure.panels):
    row, column = divmod(at, columns)
    _place(canvas, figure, panel, column * width, below + (rows - row) * height - panel.height)
  if figure.legend:
    canvas.legend(
      handles=handles(figure),
      loc='lower left',
      ncols=across,
      fontsize=9.5,
      bbox_to_anchor=(figure.panels[0].left / total, 0),
      borderaxespad=0.2,
    )
  return canvas


def _place(canvas, figure, panel, x, y):
  """Adds a panel whose lower left corner is at (x, y), in the pixels of panels."""
  width, height = canvas.get_size_inches() * 72
  bottom, top = 33 if figure.xlabel else 20, 21 if panel.title else 8
  left = panel.left + (12 if figure.ylabel else 0)
  axis = canvas.add_axes(
    [
      (x + left) / width,
      (y + bottom) / height,
      (panel.width - left - 12) / width,
      (panel.height - bottom - top) / height,
    ]
  )
  draw_panel(figure, panel, axis)


def draw_panel(figure, panel, axis):
  """Draws a panel with its figure's labels, in any axis."""
  from matplotlib.ticker import AutoMinorLocator

  panel.draw(axis)
  axis.set_title(panel.title, loc='left', pad=5)
  axis.set_xlabel(figure.xlabel, labelpad=2)
  axis.set_ylabel(figure.ylabel, labelpad=2)
  axis.grid(True, which='major')
  axis.tick_params(which='both', direction='out', length=2.5, pad=2.5)
  if axis.get_xscale() == 'linear':
    axis.xaxis.set_minor_locator(AutoMinorLocator(2))


def handles(figure) -> list:
  """Matplotlib's handles of the legend."""
  return [_handle(*entry) for entry in figure.legend]


def _handle(label, color, kind):
  from matplotlib.lines import Line2D
  from matplotlib.patches import Patch

  if kind == 'band':
    return Patch(color=color, alpha=0.22, linewidth=0, label=label)
  style = {'line': '-', 'dashed': '--', 'dotted': ':', 'dash-dotted': '-.', 'sparse': (0, (1, 4))}[
    kind
  ]
  return Line2D([], [], color=color, linewidth=2, linestyle=style, label=label)


def _svg(canvas):
  import matplotlib

  buffer = io.StringIO()
  with matplotlib.rc_context(RC):
    canvas.savefig(buffer, format='svg', transparent=True, metadata={'Date': None})
  return _slim(buffer.getvalue())


def _slim(text):
  """Matplotlib's SVG without prologue, metadata, needless groups' names, decimals that nobody sees
  and line ends.
  """
  text = text[text.index('<svg') :]
  text = re.sub(r'<metadata>.*?</metadata>', '', text, flags=re.S)
  text = re.sub(r'<defs>\s*<style type="text/css">.*?</style>\s*</defs>', '', text, flags=re.S)
  text = re.sub(r'<g id="[^"]*">', '<g>', text)
  text = re.sub(
    r'\b(d|x|y|width|height|transform)="([^"]*)"',
    lambda found: f'{found[1]}="{_rounded(found[2])}"',
    text,
  )
  text = re.sub(r'(?<=stroke-dasharray: )[\d., ]+', lambda found: _rounded(found[0]), text)
  text = re.sub(r' transform="rotate\(-?0 [^"]*\)"', '', text)
  text = re.sub(r'>\s+<', '><', text)
  return text.replace('<svg ', '<svg style="stroke-linejoin:round" ', 1).replace(
    INK, 'currentColor'
  )


def _rounded(text):
  """Numbers with one decimal, paths without line ends."""
  text = re.sub(
    r'-?\d+\.\d+(?:e-?\d+)?', lambda found: f'{float(found[0]):.1f}'.replace('.0', ''), text
  )
  return re.sub(r'\s*\n\s*', ' ', text).strip()


def _fonts(text):
  """Text in the reader's sans-serif, not in the one that Matplotlib measured with."""
  return re.sub(r'font-family: [^;\"]*', 'font-family: system-ui, sans-serif', text)


def _ids(text, prefix):
  """Names of clip paths and markers that are this figure's alone."""
  for count, name in enumerate(dict.fromkeys(re.findall(r' id="([^"]+)"', text))):
    text = text.replace(f'id="{name}"', f'id="{prefix}-{count}"').replace(
      f'#{name}"', f'#{prefix}-{count}"'
    )
    text = text.replace(f'url(#{name})', f'url(#{prefix}-{count})')
  return text


def _for_page(text, name, alt):
  from html import escape

  text = re.sub(r'font-family: [^;"]*;?\s*', '', _ids(text, name))
  text = re.sub(
    r'#([0-9a-fA-F]{6})\b(?=[;"])',
    lambda found: f'var(--c{found[1].lower()}, #{found[1].lower()})',
    text,
  )
  text = re.sub(r'(<svg [^>]*?) width="[^"]*"', r'\1', text, count=1)
  text = re.sub(r'(<svg [^>]*?) height="[^"]*"', r'\1', text, count=1)
  return text.replace('<svg ', f'<svg role="img" aria-label="{escape(alt)}" ', 1)
