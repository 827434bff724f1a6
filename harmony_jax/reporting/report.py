"""What a report says about records of runs: its sections, figures and tables, each only where there
is data for it; the page, and the folder that it goes to.
"""

import copy
import dataclasses
import json
import os
import pathlib
import tempfile
from collections.abc import Callable, Sequence

import jinja2

from harmony_jax.errors import UserError
from harmony_jax.reporting import figures, plots, protocol, published, statistics, tables
from harmony_jax.reporting.figures import Figure
from harmony_jax.reporting.plots import References
from harmony_jax.reporting.schema import Record, is_number

EVERY = '*'  # the task of references that hold for all
_MANIFEST = 'report.json'  # the files of a report, which a later one may take the place of


@dataclasses.dataclass
class Part:
  """Figures and tables under a heading; `kind` names the notes that the template sets below."""

  kind: str
  title: str
  figures: list[Figure] = dataclasses.field(default_factory=list)
  table: tables.Table | None = None


@dataclasses.dataclass
class Section:
  """What there is of one suite."""

  suite: str
  title: str
  protocol: list[tuple[str, str]]
  parts: list[Part]


@dataclasses.dataclass
class Report:
  """A report before it is written."""

  title: str
  records: list[Record]
  problems: Sequence[str]
  sections: list[Section]

  @property
  def figures(self) -> list[Figure]:
    return [
      figure for section in self.sections for part in section.parts for figure in part.figures
    ]


def make(
  records: Sequence[Record],
  problems: Sequence[str] = (),
  references: References | None = None,
  title: str = '',
  metrics: Sequence[str] = tuple(plots.METRICS),
) -> Report:
  """Put a report together.

  Args:
    records, problems: of `records.collect` and `published.read_scores`.
    references: of `parse_references`.
    title: of the page; the suites without one.
    metrics: names or prefixes of those to draw.
  """
  records = sorted(told_apart(records), key=_order)
  colors, suites = plots.method_colors(records), {}
  for record in records:
    suites.setdefault(record.suite, []).append(record)
  sections = [
    _section(suite, group, colors, references or {}, metrics) for suite, group in suites.items()
  ]
  title = title or ', '.join(section.title for section in sections)
  return Report(title, records, problems, sections)


def render(report: Report, lead: str, command: str) -> str:
  """Return the page; `lead` tells when and of which commit, `command` that made it."""
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader('harmony_jax.reporting'),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
  )
  environment.globals |= {'inline': figures.inline, 'INK': figures.INK, 'MISSING': tables.MISSING}
  running = [r for r in report.records if not r.complete]
  return environment.get_template('report.html').render(
    report=report,
    lead=lead,
    command=command,
    running=[f'{r.task}, {r.method}, seed {r.seed}: {tables.progress(r)}' for r in running],
    runs=tables.runs(report.records),
    hours=sum(r.hours or 0 for r in report.records),
    authors=any(r.method in published.AUTHORS for r in report.records),
  )


def text(report: Report) -> list[str]:
  """Return the report's tables as lines of text, protocols before them."""
  complete = sum(record.complete for record in report.records)
  lines = [f'{complete} of {len(report.records)} runs are complete; the others are in no mean']
  for section in report.sections:
    lines += ['', section.title, *(f'{bold} {line}' for bold, line in section.protocol)]
    for part in section.parts:
      lines += ['', *part.table.lines()] if part.table else []
  return lines


def parse_references(text: str) -> dict[str, dict[str, float]]:
  """Return {task or EVERY: {name: score}} of the JSON of --references.

  Raises:
    UserError: it is not {task: {name: score}}, or {name: score} for every task, or both in one.
  """
  try:
    found = {}
    for key, entry in json.loads(text).items():
      task, scores = (key, entry) if isinstance(entry, dict) else (EVERY, {key: entry})
      if not all(map(is_number, scores.values())):
        raise ValueError(task)
      found.setdefault(task, {}).update(scores)
    return found
  except (ValueError, AttributeError, RecursionError):
    raise UserError(
      '--references must be JSON of names and finite scores, {"random": -20.7}, or of such for each '
      'task, {"walker_stand": {"random": 144.2}}'
    ) from None


def told_apart(records: Sequence[Record]) -> list[Record]:
  """Return the records; where runs of one task are judged by different things, those not by the
  return have a task of their own, 'lever_pull (by success)', as no mean can be over both."""
  kinds, found = {}, []
  for record in records:
    kinds.setdefault((record.suite, record.task), set()).add(record.judged_by)
  for record in records:
    if len(kinds[record.suite, record.task]) > 1 and record.judged_by != 'return':
      record = copy.copy(record)
      record.task = f'{record.task} (by {record.judged_by})'
    found.append(record)
  return found


def references_of(records: Sequence[Record], given: References) -> dict[str, dict[str, float]]:
  """Return {task: {name: score}}: for Atari a random player and people, and what the user gave."""
  found = {}
  for record in records:
    known = published.RANDOM_AND_HUMAN if record.suite == 'atari' else {}
    both = dict(zip(('random', 'human'), known.get(record.task, ())))
    found[record.task] = {**both, **given.get(EVERY, {}), **given.get(record.task, {})}
  return found


def _order(record):
  """Atari first; ours before the authors', harmony first, as the paper's claim is about it."""
  rule = record.weighting
  kind = record.method in published.AUTHORS, rule != 'harmony', rule != 'none', record.method
  return record.suite != 'atari', record.suite, *kind, record.task, record.seed


def _section(suite, records, colors, given, metrics):
  references, atari = references_of(records, given), suite == 'atari'
  curves = [plots.learning(records, colors, references, x) for x in ('frame', 'hours')]
  parts = [
    Part('curves', 'Learning curves', curves),
    Part('scores', 'Scores', table=tables.scores(records, references)),
  ]
  found = tables.finals(records)
  returns = tables.finals([record for record in records if record.judged_by == 'return'])
  if atari:
    parts += _atari(suite, returns, colors)
  elif suite == 'dmc' and len({task for each in returns.values() for task in each}) > 1:
    scaled = {
      m: {t: [v / 1000 for v in vs] for t, vs in each.items()} for m, each in returns.items()
    }
    table = tables.aggregates(scaled, 'Return / 1000 over tasks', ('mean', 'iqm'))
    parts.append(Part('dmc', 'Aggregates', table=table))
  if pairs := tables.improvements(found):
    drawn = [plots.improvement(suite, pairs, colors)]
    parts.append(
      Part('improvement', 'Probability of improvement', drawn, tables.improvement(pairs))
    )
  parts.append(
    Part('metrics', 'Metrics of training', [plots.metric(records, name) for name in metrics])
  )
  for part in parts:
    part.figures = [figure for figure in part.figures if figure]
  parts = [part for part in parts if part.figures or part.table]
  return Section(suite, protocol.title(suite), protocol.lines(records), parts)


def _atari(suite, returns, colors):
  scores = {m: games for m, each in returns.items() if (games := published.normalized(each))}
  if not scores:
    return []
  total, title = len(published.RANDOM_AND_HUMAN), 'Human-normalised aggregates'
  table = tables.aggregates(scores, title, statistics.AGGREGATES, total)
  parts = [Part('aggregates', title, table=table)]
  # Of several sets of games that in which most methods can be compared gets a picture.
  games, methods = max(tables.task_sets(scores), key=lambda each: (len(each[0]) > 1, len(each[1])))
  if len(games) < 2:
    return parts
  drawn, over = (
    {m: {game: scores[m][game] for game in games} for m in methods},
    f'{len(games)} games',
  )
  found = {method: statistics.aggregates(each) for method, each in drawn.items()}
  points = tables.published_points(games)
  parts[0].figures.append(plots.aggregates(suite, found, points, colors, over))
  means = {
    m: {game: sum(each) / len(each) for game, each in games.items()} for m, games in scores.items()
  }
  return [
    *parts,
    Part('profiles', 'Performance profiles', [plots.profiles(suite, drawn, colors, over)]),
    Part('games', 'Games, sorted', [plots.bars(suite, means, colors)]),
  ]


# --------------------------------------------------------------------------------------------------
# The folder


def check(folder: str | os.PathLike) -> pathlib.Path:
  """Return the folder, unless it holds something else than an earlier report.

  Raises:
    UserError: it is a file, or holds files that a report did not write.
  """
  folder = pathlib.Path(os.path.expanduser(folder))
  wish = 'name a new or empty folder, or an earlier report'
  if not folder.exists():
    return folder
  try:
    there = {
      path.relative_to(folder).as_posix()
      for path in folder.rglob('*')
      if path.is_symlink() or not path.is_dir()
    }
    own = json.loads((folder / _MANIFEST).read_text()) if _MANIFEST in there else []
  except (OSError, ValueError) as error:
    raise UserError(f'--output={folder} cannot be read ({error}): {wish}') from None
  if not folder.is_dir():
    raise UserError(f'--output={folder} is a file: {wish}')
  if others := sorted(there - {_MANIFEST, *own}):
    raise UserError(f'--output={folder} holds {others[0]!r}, which is no part of a report: {wish}')
  return folder


def write(
  folder: str | os.PathLike,
  html: str,
  drawn: Sequence[Figure],
  write_results: Callable[[pathlib.Path], None],
) -> None:
  """Write index.html, figures/ and results/ whole, in place of an earlier report.

  Args:
    write_results: called with the folder results/.

  Raises:
    UserError: the folder cannot be written; the earlier report is still there.
  """
  folder = check(folder)
  try:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f'.{folder.name}-', dir=folder.parent) as place:
      new = pathlib.Path(place, 'new')
      (new / 'figures').mkdir(parents=True)
      for figure in drawn:
        figures.save(figure, new / 'figures')
      write_results(new / 'results')
      (new / 'index.html').write_text(html, encoding='utf-8')
      names = [path.relative_to(new).as_posix() for path in new.rglob('*') if path.is_file()]
      (new / _MANIFEST).write_text(json.dumps(sorted(names), indent=1))
      check(folder)  # drawing takes a while
      old = folder.rename(pathlib.Path(place, 'old')) if folder.exists() else None
      try:
        new.rename(folder)
      except OSError:
        if old:
          old.rename(folder)
        raise
  except OSError as error:
    told = f'the report cannot be written to {folder}: {error.strerror or error}'
    raise UserError(told) from None
