"""HTML of a report: one page that needs nothing else, not even a network. Whatever comes from files
is escaped here.
"""

import dataclasses
import html
import re

from harmony_jax.reporting import charts
from harmony_jax.reporting.page_style import CSS

GENERATOR = 'harmony-jax experiments.report'


@dataclasses.dataclass
class Section:
  """A heading with `blocks` of HTML and, at the first level, sections within."""

  title: str
  blocks: list
  parts: list = dataclasses.field(default_factory=list)
  anchor: str = ''


def text(value) -> str:
  """Escaped for HTML, in attributes, too."""
  return html.escape(str(value), quote=True)


def document(title, lead, opening, sections) -> str:
  """The whole page: title, what it is, opening blocks, contents, sections."""
  taken = set()
  for section in sections:
    section.anchor = _anchor(section.title, taken)
    for part in section.parts:
      part.anchor = _anchor(f'{section.title} {part.title}', taken)
  body = ''.join(_section(section, 2) for section in sections)
  return f'''<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="{GENERATOR}">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{text(title)}</title>
<style>{CSS}</style>
</head>
<body>
<header>
<p class="kind">Harmony-JAX report</p>
<h1>{text(title)}</h1>
<p class="lead">{text(lead)}</p>
{''.join(opening)}
{_contents(sections)}
</header>
<main>
{body}
</main>
</body>
</html>
'''


def _anchor(title, taken):
  name = re.sub(r'[^a-z0-9]+', '-', title.lower()).strip('-') or 'section'
  while name in taken:
    name += '-2'
  taken.add(name)
  return name


def _contents(sections):
  items = []
  for section in sections:
    parts = ''.join(
      f'<li><a href="#{part.anchor}">{text(part.title)}</a></li>' for part in section.parts
    )
    parts = f'<ul>{parts}</ul>' if parts else ''
    items.append(f'<li><a href="#{section.anchor}">{text(section.title)}</a>{parts}</li>')
  return f'<nav aria-label="Contents"><ul>{"".join(items)}</ul></nav>'


def _section(section, level):
  inner = ''.join(_section(part, level + 1) for part in section.parts)
  heading = f'<h{level} id="{section.anchor}">{text(section.title)}</h{level}>'
  return f'<section aria-labelledby="{section.anchor}">{heading}\n{"".join(section.blocks)}{inner}</section>\n'


def paragraph(words, kind='') -> str:
  """A paragraph of plain text."""
  return f'<p{f" class={kind!r}" if kind else ""}>{text(words)}</p>\n'


def facts(pairs) -> str:
  """A box of facts: [(name, value, whether it is a number to be seen from afar)]."""
  items = ''.join(
    f'<div class="{"short" if big else "wide"}"><dt>{text(name)}</dt><dd>{text(value)}</dd></div>'
    for name, value, big in pairs
  )
  return f'<dl class="facts">{items}</dl>\n'


def warning(title, lines) -> str:
  """What a reader must not overlook."""
  items = ''.join(f'<li>{text(line)}</li>' for line in lines)
  return (
    f'<div class="warn" role="note"><p><strong>{text(title)}</strong></p><ul>{items}</ul></div>\n'
  )


def table(found, notes=()) -> str:
  """A `tables.Table` in a box of its own that scrolls sideways, `notes` of plain text below."""
  head = ''.join(
    f'<th scope="col"{_kind(at, found)}>{text(name)}</th>' for at, name in enumerate(found.header)
  )
  rows = ''.join(_row(row, found) for row in found.rows)
  return (
    f'<div class="scroll" tabindex="0" role="region" aria-label="{text(found.caption)}"><table>'
    f'<caption>{text(found.caption)}</caption><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>\n'
    + note(notes)
  )


def folded(title, inner) -> str:
  """What is there for those who want it: opened by a click."""
  return f'<details><summary>{text(title)}</summary>{inner}</details>\n'


def note(lines) -> str:
  """Small print below a table: [line or (bold words, line)]."""
  return f'<div class="note">{"".join(map(_note_line, lines))}</div>\n' if lines else ''


def _note_line(line):
  bold, words = line if isinstance(line, tuple) else ('', line)
  return f'<p>{f"<b>{text(bold)}</b> " if bold else ""}{text(words)}</p>'


def _kind(at, found):
  return ' class="t"' if at < found.left else ''


def _row(row, found):
  if len(row) == 1:
    return f'<tr class="set"><th scope="rowgroup" colspan="{len(found.header)}">{text(row[0].text)}</th></tr>'
  cells = [f'<th scope="row" class="t">{text(row[0].text)}</th>']
  for at, cell in enumerate(row[1:], 1):
    words = text(cell.text)
    words = (
      f'<strong>{words}</strong>'
      if cell.strong
      else f'<span class="no">{words}</span>'
      if cell.faint
      else words
    )
    notes = ''.join(f'<small>{text(each)}</small>' for each in cell.notes)
    cells.append(f'<td{_kind(at, found)}>{words}{notes}</td>')
  return f'<tr>{"".join(cells)}</tr>'


def figures(found) -> str:
  """Several `figure`s, side by side where their panels are few."""
  if len(found) == 1:
    return figure(found[0])
  few = all(len(each.panels) < 3 for each in found)
  inner = ''.join(figure(each, each.title) for each in found)
  return f'<div class="{"pair" if few else ""}">{inner}</div>\n' if found else ''


def figure(found, title='') -> str:
  """A `charts.Figure`: a title where it needs one, legend, its panels as SVG, caption, where its
  files are.
  """
  width = max(panel.width for panel in found.panels)
  legend = ''.join(
    f'<li><i class="{kind}" style="--k:{_color(color)}"></i>{text(label)}</li>'
    for label, color, kind in found.legend
  )
  panels = ''.join(f'<div>{svg}</div>' for svg in charts.inline(found))
  files = ' · '.join(
    f'<a href="figures/{text(found.name)}.{kind}">{kind.upper()}</a>' for kind in ('png', 'svg')
  )
  return (
    f'<figure>{f"<p class=title>{text(title)}</p>" if title else ""}'
    f'{f"<ul class=legend>{legend}</ul>" if legend else ""}'
    f'<div class="panels" style="--w:{round(0.95 * width)}px;--max:{round(1.45 * width)}px">{panels}</div>'
    f'<figcaption>{_note_line(found.caption)}<p>As a file: {files}</p></figcaption></figure>\n'
  )


def _color(color):
  return 'currentColor' if color == charts.INK else f'var(--c{color[1:].lower()},{color})'
