"""What a report says about records of runs: its figures and tables, each only where there is data
for it; the page, and the folder that it goes to.
"""

import contextlib
import copy
import dataclasses
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Sequence

import jinja2
import pandas

from harmony_jax.errors import UserError
from harmony_jax.paths import local_path
from harmony_jax.reporting import (
  comparisons,
  curves,
  figures,
  media,
  protocol,
  published,
  results_files,
  tables,
)
from harmony_jax.reporting import records as reading
from harmony_jax.reporting.curves import References
from harmony_jax.reporting.figures import Figure
from harmony_jax.reporting.media import Media
from harmony_jax.reporting.schema import Record, is_number
from harmony_jax.reporting.statistics import AGGREGATES, aggregates

_EVERY = '*'  # the task of references that hold for all
_MANIFEST = 'report.json'  # names the files of a report, whose place a later one may take


@dataclasses.dataclass
class Part:
  """Figures, a table, files of runs under a heading; `kind` names the notes that the template sets
  below."""

  kind: str
  title: str
  figures: Sequence[Figure | None] = ()
  table: pandas.DataFrame | None = None
  media: Sequence[Media] = ()

  def __post_init__(self):
    self.figures = [figure for figure in self.figures if figure]


@dataclasses.dataclass
class Report:
  """A report before it is written."""

  title: str
  records: list[Record]
  problems: Sequence[str]
  suites: dict[str, tuple[list[tuple[str, str]], list[Part]]]  # (`protocol.lines`, parts) of each

  def figures(self) -> list[Figure]:
    """Return the figures of all parts."""
    return [each for _, parts in self.suites.values() for part in parts for each in part.figures]

  def media(self) -> list[Media]:
    """Return the files of runs that all parts show."""
    return [each for _, parts in self.suites.values() for part in parts for each in part.media]


def make(
  records: Sequence[Record],
  problems: Sequence[str] = (),
  references: References | None = None,
  title: str = '',
  metrics: Sequence[str] = tuple(curves.METRICS),
) -> Report:
  """Put a report together.

  Args:
    records, problems: of `records.collect` and `published.read_scores`.
    references: of `parse_references`. metrics: names or prefixes of those to draw.
  """
  records, suites = sorted(told_apart(records), key=_order), {}
  for suite in dict.fromkeys(record.suite for record in records):
    own = [record for record in records if record.suite == suite]
    parts = [
      *_parts(suite, own, references_of(own, references or {}), metrics),
      Part('pictures', 'What the agents see and expect', media=media.newest(own)),
    ]
    parts = [part for part in parts if part.figures or part.table is not None or part.media]
    suites[suite] = protocol.lines(own), parts
  title = title or ', '.join(map(protocol.title, suites))
  return Report(title, records, problems, suites)


def unlogged(records: Sequence[Record], metrics: Sequence[str]) -> list[str]:
  """Return a line for each of these names or prefixes that no record has a metric of."""
  logged = {name for record in records for name in record.metrics}
  return [
    f'--metrics={name}: none of these runs has logged a metric that begins so'
    for name in metrics
    if name not in curves.METRICS and not any(each.startswith(name) for each in logged)
  ]


def render(report: Report, lead: str, command: str, live: str = '') -> str:
  """Return the page; `lead` tells when and of which commit, `command` that made it.

  Args:
    live: which state of a page that follows its runs this is (see `live`); '' for a page that
      stays.
  """
  templates = jinja2.Environment(
    loader=jinja2.PackageLoader('harmony_jax.reporting'),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
  )
  running = [r for r in report.records if not r.complete]
  return templates.get_template('report.html').render(
    report=report,
    lead=lead,
    command=command,
    running=[f'{r.task}, {r.method}, seed {r.seed}: {tables.progress(r)}' for r in running],
    runs=tables.runs(report.records),
    hours=sum(r.hours or 0 for r in report.records),
    live=live,
    said=[],  # what stands on the page already
    authors=any(r.method in published.AUTHORS for r in report.records),
    inline=figures.inline,
    title_of=protocol.title,
    INK=figures.INK,
    MISSING=tables.MISSING,
  )


def text(report: Report) -> list[str]:
  """Return the report's tables as lines of text, protocols before them."""
  complete = sum(record.complete for record in report.records)
  lines = [f'{complete} of {len(report.records)} runs are complete; the others are in no mean']
  for suite, (told, parts) in report.suites.items():
    lines += ['', protocol.title(suite), *(' '.join(pair) for pair in told)]
    for part in parts:
      lines += ['', *tables.lines(part.table)] if part.table is not None else []
  return lines


def conclude(
  paths: Sequence[str | os.PathLike], folder: pathlib.Path
) -> tuple[list[str], list[str]]:
  """Write the results files of all runs below some paths into a folder.

  Returns:
    (the report's tables as text, and the paths written; what is wrong with runs or files).
  """
  found, problems = reading.collect(paths, skip=[folder])
  if not found:
    return [], problems
  written, left_out = results_files.write(found, folder, replace=True)
  lines = [*text(make(found)), f'written: {", ".join(map(str, written))}']
  return lines, problems + left_out


def parse_references(text: str) -> dict[str, dict[str, float]]:
  """Return {task: {name: score}} of the JSON of --references; {name: score} alone is for all tasks.

  Raises:
    UserError: it is something else.
  """
  try:
    found = {}
    for key, entry in json.loads(text).items():
      task, scores = (key, entry) if isinstance(entry, dict) else (_EVERY, {key: entry})
      if not all(map(is_number, scores.values())):
        raise ValueError(task)
      found.setdefault(task, {}).update(scores)
    return found
  except (ValueError, AttributeError, RecursionError):
    raise UserError(
      '--references must be JSON of names and finite scores, {"random": -20.7}, or of such for '
      'each task, {"walker_stand": {"random": 144.2}}'
    ) from None


def references_of(records: Sequence[Record], given: References) -> dict[str, dict[str, float]]:
  """Return {task: {name: score}}: for Atari a random player and people, and what the user gave."""
  found = {}
  for record in records:
    known = published.RANDOM_AND_HUMAN if record.suite == 'atari' else {}
    both = dict(zip(('random', 'human'), known.get(record.task, ())))
    found[record.task] = both | given.get(_EVERY, {}) | given.get(record.task, {})
  return found


def told_apart(records: Sequence[Record]) -> list[Record]:
  """Return the records; where runs of one task are judged by different things, those not by the
  return have a task of their own, 'lever_pull (by success)', as no mean can be over both."""
  kinds = {(record.suite, record.task, record.judged_by) for record in records}
  found = [copy.copy(record) for record in records]
  for record in found:
    same = [kind for *task, kind in kinds if task == [record.suite, record.task]]
    if len(same) > 1 and record.judged_by != 'return':
      record.task = f'{record.task} (by {record.judged_by})'
  return found


def combined(records: Sequence[Record], references: References, title: str) -> Figure:
  """Return learning curves, harmonizer weights and loss scales of one task side by side."""
  records = sorted(records, key=_order)
  drawn = [curves.learning(records, curves.method_colors(records), references)]
  drawn += [curves.metric(records, prefix) for prefix in curves.METRICS]
  drawn = [each for each in drawn if each]
  panels = [dataclasses.replace(each.panels[0], title=each.title, width=360) for each in drawn]
  legend = dict.fromkeys(entry for each in drawn for entry in each.legend)
  return Figure(records[0].task, title or records[0].task, '', panels, list(legend))


def _order(record):
  """Atari first; ours before the authors', harmony first, as the paper's claim is about it."""
  rule = record.weighting
  kind = record.method in published.AUTHORS, rule != 'harmony', rule != 'none', record.method
  return record.suite != 'atari', record.suite, *kind, record.task, record.seed


def _parts(suite, records, references, metrics):
  colors, found = curves.method_colors(records), tables.finals(records)
  returns = tables.finals([record for record in records if record.judged_by == 'return'])
  learning = [curves.learning(records, colors, references, x) for x in ('frame', 'hours')]
  yield Part('curves', 'Learning curves', learning)
  yield Part('scores', 'Scores', table=tables.scores(records, references))
  if suite == 'atari':
    yield from _atari(
      {method: published.normalized(each) for method, each in returns.items()}, colors
    )
  elif suite == 'dmc' and max(map(len, returns.values()), default=0) > 1:
    scaled = {
      method: {task: [score / 1000 for score in scores] for task, scores in each.items()}
      for method, each in returns.items()
    }
    table = tables.aggregates(scaled, 'Return / 1000 over tasks', ('mean', 'iqm'))
    yield Part('dmc', 'Aggregates', table=table)
  if pairs := tables.improvements(found):
    drawn, table = comparisons.improvement(suite, pairs, colors), tables.improvement(pairs, found)
    yield Part('improvement', 'Probability of improvement', [drawn], table)
  drawn = [curves.metric(records, prefix) for prefix in metrics]
  yield Part('metrics', 'Metrics of training', drawn)


def _atari(scores, colors):
  """Human-normalised aggregates and profiles; of several sets of games that in which most methods
  can be compared gets pictures."""
  title, sets = 'Human-normalised aggregates', tables.task_sets(scores)
  games, methods = max(sets, key=lambda each: (len(each[0]) > 1, len(each[1])), default=((), ()))
  table = tables.aggregates(scores, title, AGGREGATES, published.RANDOM_AND_HUMAN)
  if len(games) < 2:
    yield Part('aggregates', title, table=table if len(table) else None)
    return
  drawn = {method: {game: scores[method][game] for game in games} for method in methods}
  found = {method: aggregates(each) for method, each in drawn.items()}
  over, points = f'{len(games)} games', tables.published_points(games)
  yield Part('aggregates', title, [comparisons.aggregates(found, points, colors, over)], table)
  yield Part('profiles', 'Performance profiles', [comparisons.profiles(drawn, colors, over)])


# --------------------------------------------------------------------------------------------------


def check(folder: str | os.PathLike) -> pathlib.Path:
  """Return the folder; raise UserError where it holds something that no report wrote."""
  folder, there, own = local_path(folder), set(), []
  wish = 'name a new or empty folder, or an earlier report'
  try:
    if folder.exists():
      os.listdir(folder)  # raises for a file
      paths = [path for path in folder.rglob('*') if path.is_symlink() or not path.is_dir()]
      there = {path.relative_to(folder).as_posix() for path in paths}
    if _MANIFEST in there:
      own = json.loads((folder / _MANIFEST).read_text(encoding='utf-8'))
    others = sorted(there - {_MANIFEST, *own})
  except (OSError, ValueError, TypeError) as error:
    told = getattr(error, 'strerror', None) or error
    raise UserError(f'--output={folder} cannot be read ({told}): {wish}') from None
  if others:
    raise UserError(f'--output={folder} holds {others[0]!r}, which is no part of a report: {wish}')
  return folder


def write(
  report: Report, html: str, output: str | os.PathLike, results: Callable[[pathlib.Path], None]
) -> None:
  """Write index.html, figures/, media/ and results/ whole, in place of an earlier report.

  Args:
    html: of `render`. results: called with the folder results/, writes it.

  Raises:
    UserError: the folder cannot be written; the earlier report is still there.
  """
  folder = check(output)
  try:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f'.{folder.name}-', dir=folder.parent) as place:
      new, old = pathlib.Path(place, 'new'), pathlib.Path(place, 'old')
      (new / 'figures').mkdir(parents=True)
      for figure in report.figures():
        figures.save(figure, new / 'figures')
      for each in report.media():
        (new / each.name).parent.mkdir(exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # gone since
          shutil.copyfile(each.path, new / each.name)
      results(new / 'results')
      (new / 'index.html').write_text(html, encoding='utf-8', errors='backslashreplace')
      names = [path.relative_to(new).as_posix() for path in new.rglob('*') if path.is_file()]
      (new / _MANIFEST).write_text(json.dumps(sorted(names), indent=1), encoding='utf-8')
      check(folder)  # drawing takes a while
      try:
        if folder.exists():
          folder.rename(old)
        new.rename(folder)
      except BaseException:  # Ctrl-C, too: with this block all that is in `place` goes
        if old.exists() and not folder.exists():
          old.rename(folder)
        raise
  except OSError as error:
    told = f'the report cannot be written to {folder}: {error.strerror or error}'
    raise UserError(told) from None
