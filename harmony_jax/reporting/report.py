"""What a report says about records of runs: its sections, figures and tables, each only where there
is data for it.
"""

import collections
import dataclasses
import re

from harmony_jax.reporting import (
  charts,
  comparisons,
  curves,
  definitions,
  grouping,
  page,
  protocol,
  statistics,
  tables,
)
from harmony_jax.reporting.atari_scores import RANDOM_AND_HUMAN
from harmony_jax.reporting.page import Section

SUITES = {
  'atari': 'Atari 100K',
  'dmc': 'DeepMind Control',
  'dmcr': 'DMC Remastered',
  'metaworld': 'Meta-World',
  'rlbench': 'RLBench',
  'catch': 'Catch',
  'gym': 'Gymnasium',
}


@dataclasses.dataclass
class Report:
  """A report before it is written: the page's sections, figures to save, tables for the terminal."""

  title: str
  records: list
  problems: list
  sections: list
  figures: list
  tables: list
  few: bool = False  # whether an interval is of fewer than five runs


def make(records, problems=(), references=None, title='') -> Report:
  """Puts a report together.

  Args:
    records, problems: of `records.collect` and `published.read_scores`. references: of
    `references.parse`, for dashed lines. title: of the page; the suites and their methods without
    one.
  """
  records = grouping.told_apart(records)
  report = Report(title or _title(records), records, list(problems), [], [], [])
  colors = charts.method_colors(records)
  for suite, group in grouping.by_suite(records).items():
    report.sections.append(_suite(report, suite, group, colors, references))
  return report


def render(report, lead, command) -> str:
  """The page. lead: when and of which commit; command: that made it."""
  nothing = page.paragraph('There are no runs to report on.')
  opening = [_facts(report.records, report.problems) if report.records else nothing]
  if report.problems:
    opening.append(page.warning('Left out, or not as it should be', report.problems))
  still = [
    f'{record["task"]}, {record["method"]}, seed {record["seed"]}: {tables.progress(record)}'
    for record in report.records
    if not record['complete']
  ]
  if still:
    opening.append(
      page.warning(f'{len(still)} not complete: in the curves, but in no mean of a table', still)
    )
  overview = Section(
    'What was run',
    [
      page.table(tables.runs(report.records)),
      _origins(report.records),
      page.folded(
        f'Every run ({len(report.records)})', page.table(tables.each_run(report.records))
      ),
    ],
  )
  return page.document(
    report.title,
    lead,
    opening,
    [*([overview] if report.records else []), *report.sections, _how(report, command)],
  )


def protocol_lines(records) -> list:
  """[(bold words, line)]: the protocol of some records, and the weights that a person chose. Where
  tasks have their own protocol, what is theirs; where runs of one task have different ones, that
  they differ, and each method's."""
  chosen = {}  # {words: {method}}
  for record in records:
    if told := protocol.weights(record['config']):
      chosen.setdefault(told, set()).add(record['method'])
  return _protocols(records) + [
    (f'{curves.some(sorted(methods))}:', f'{told}.') for told, methods in chosen.items()
  ]


def _protocols(records):
  """`protocol_lines` of the protocols alone."""
  told = {}  # {task: {line}}
  for record in records:
    told.setdefault(record['task'], set()).add(protocol.describe(record['config']))
  if all(len(lines) == 1 for lines in told.values()):
    return _protocol_of(records, 'Protocol')
  groups = {}
  for method, group in grouping.by_method(records).items():
    groups.setdefault(tuple(_protocol_of(group, '')), []).append(method)
  lines = [('Protocols differ', 'between runs of the same task: compare with care.')]
  for group, methods in groups.items():
    lines += [(f'{curves.some(methods)}:' if bold == ':' else bold, line) for bold, line in group]
  return lines


def _protocol_of(records, name):
  """[(bold words, line)]: the most frequent protocol, and what of it is different in which tasks."""
  found = {}
  for record in records:
    found.setdefault(protocol.describe(record['config']), []).append(record['task'])
  base = max(found, key=lambda line: len(found[line]))
  return [(f'{name}:', f'{base}.')] + [
    (f'{curves.some(sorted(set(tasks)))}:', _difference(line, base))
    for line, tasks in found.items()
    if line != base
  ]


def _difference(line, base):
  """What a protocol has that another has not, and the other way round; all of it where that tells
  nothing.
  """
  parts, known = (collections.Counter(re.split('[;,] ', text)) for text in (line, base))
  new, gone = (', '.join(each.elements()) for each in (parts - known, known - parts))
  if not new and not gone:
    return f'{line}.'
  return f'{new}{" " if new and gone else ""}{f"(not: {gone})" if gone else ""}; else as above.'


def terminal(report) -> list:
  """The report's tables as lines of text, after how many runs there are and how their numbers are
  made.
  """
  complete = sum(bool(record['complete']) for record in report.records)
  text = [f'{complete} of {len(report.records)} runs are complete; the others are in no mean']
  for suite, records in grouping.by_suite(report.records).items():
    text += [
      '',
      SUITES.get(suite, suite),
      *(f'{bold} {line}' for bold, line in protocol_lines(records)),
    ]
  for table in report.tables:
    text += ['', *tables.lines(table)]
  return text + (['', ' '.join(definitions.FEW)] if report.few else [])


def _title(records):
  suites = [SUITES.get(suite, suite) for suite in grouping.by_suite(records)]
  return ', '.join(suites) if suites else 'No runs'


def _suite(report, suite, records, colors, references):
  section = Section(SUITES.get(suite, suite), [])
  protocols = page.note(protocol_lines(records))

  def add(title, found=(), blocks=(), scores=True):
    """A part with its tables and figures; below those of scores (not of training's losses) the
    protocol.
    """
    found = [each for each in found if each is not None]
    report.figures += found
    if found or blocks:
      section.parts.append(
        Section(title, [*blocks, page.figures(found), *([protocols] if scores else [])])
      )

  add(
    'Learning curves',
    [curves.learning(suite, records, colors, references, x) for x in ('frame', 'hours')],
  )
  if suite == 'atari':
    _atari(report, add, suite, records, colors)
  else:
    _others(report, add, suite, records, colors, references)
  add(
    'Harmonizers and losses',
    [curves.harmonizers(suite, records), curves.losses(suite, records)],
    scores=False,
  )
  return section


def _table(report, found, notes=()):
  report.tables.append(found)
  return page.table(found, notes)


def _atari(report, add, suite, records, colors):
  finals = _finals(records)
  scores = {
    method: found for method, each in finals.items() if (found := grouping.normalized(each))
  }
  add('Scores per game', blocks=[_table(report, tables.atari(records), definitions.TABLE_2)])
  sets = tables.game_sets(scores)
  if not sets:
    return
  total = len(RANDOM_AND_HUMAN)
  lacking = [
    f'{method}: {len(each)} of {total} games have a complete run. Aggregates are over these games only, next '
    'to the published columns over the same games.'
    for method, each in scores.items()
    if len(each) < total
  ]
  blocks = [page.warning(f'Not the benchmark’s {total} games', lacking)] if lacking else []
  blocks.append(
    _table(
      report, tables.aggregates(sets, scores), [*definitions.AGGREGATES, *_few(report, scores)]
    )
  )
  # One game needs no picture; of several sets of games that in which most methods can be compared
  # gets one.
  games, methods = max(sets, key=lambda each: (len(each[0]) > 1, len(each[1]), len(each[0])))
  if len(games) < 2:
    add('Human-normalised aggregates', blocks=blocks)
  else:
    drawn = {method: {game: scores[method][game] for game in games} for method in methods}
    found = {method: statistics.aggregates(each) for method, each in drawn.items()}
    over = f'{len(games)} games'
    add(
      'Human-normalised aggregates',
      [
        comparisons.aggregates(
          suite,
          found,
          colors,
          comparisons.published_aggregates(games),
          f'Human-normalised aggregates, {over}',
        )
      ],
      blocks,
    )
    add(
      'Performance profiles',
      [comparisons.profiles(suite, drawn, colors, f'Performance profiles, {over}')],
    )
  _improvement(report, add, suite, finals, colors)
  means = {
    method: {game: statistics.mean_interval(values).point for game, values in each.items()}
    for method, each in scores.items()
    if len(each) > 1
  }
  if means:
    add('Games, sorted', [comparisons.bars(suite, means, colors)])


def _others(report, add, suite, records, colors, references):
  add(
    'Scores per task',
    blocks=[_table(report, tables.tasks(suite, records, references), definitions.TASKS)],
  )
  finals = _finals(records)
  if suite == 'dmc':
    scaled = {
      method: {task: [value / 1000 for value in values] for task, values in each.items()}
      for method, each in _finals([each for each in records if each['score'] == 'return']).items()
    }
    found = tables.returns(scaled)
    if found:
      add('Aggregate', blocks=[_table(report, found, [*definitions.DMC, *_few(report, finals)])])
  _improvement(report, add, suite, finals, colors)


def _improvement(report, add, suite, finals, colors):
  pairs = comparisons.improvements(finals)
  if pairs:
    add(
      'Probability of improvement',
      [comparisons.improvement(suite, pairs, colors)],
      [_table(report, tables.improvement(pairs), _few(report, finals))],
    )


def _few(report, scores):
  """A caution where there are intervals of fewer than five runs. scores: {method: {task: [...]}}."""
  runs = [len(values) for each in scores.values() for values in each.values()]
  few = min(runs, default=5) < 5 and max(runs) > 1
  report.few |= few
  return [definitions.FEW] if few else []


def _finals(records):
  """{method: {task: [score of each complete run]}}, of methods that have any."""
  return {
    method: scores
    for method, group in grouping.by_method(records).items()
    if (scores := grouping.finals(group))
  }


def _facts(records, problems):
  complete = sum(bool(record['complete']) for record in records)
  hours = [
    value
    for record in records
    if (value := grouping.number_or_none(tables.hours_of(record))) is not None
  ]
  seeds = {(record['suite'], record['task'], record['method']): 0 for record in records}
  for record in records:
    seeds[record['suite'], record['task'], record['method']] += 1
  least, most = min(seeds.values()), max(seeds.values())
  return page.facts(
    [
      ('Runs complete', f'{complete} of {len(records)}', True),
      *([('Problems', str(len(problems)), True)] if problems else []),
      ('Seeds per task and method', f'{least}' if least == most else f'{least} to {most}', True),
      (
        'Hours in all',
        f'{charts.number(sum(hours))}{f" ({len(hours)} runs)" if len(hours) < len(records) else ""}'
        if hours
        else 'not recorded',
        True,
      ),
      (
        'Suites',
        ', '.join(SUITES.get(suite, suite) for suite in grouping.by_suite(records)),
        False,
      ),
      ('Methods', ', '.join(grouping.by_method(records)), False),
    ]
  )


def _origins(records):
  """Commits, machines and versions, each with how many runs it made."""
  rows = []
  for name, label in (('commit', 'Commit'), ('devices', 'Devices'), ('python', 'Python')):
    rows.append(
      (f'{label}:', _counted(record.get('environment', {}).get(name) for record in records))
    )
  versions = (record.get('environment', {}).get('versions') or {} for record in records)
  rows.append(
    (
      'Versions:',
      _counted(
        ', '.join(f'{name} {version}' for name, version in sorted(each.items()))
        for each in versions
      ),
    )
  )
  return page.note(rows)


def _counted(values):
  counts = {}
  for value in values:
    # commits
    value = re.sub(r'\b([0-9a-f]{10})[0-9a-f]{30}\b', r'\1', str(value or 'not recorded'))
    counts[value] = counts.get(value, 0) + 1
  if len(counts) == 1:
    return next(iter(counts))
  return '; '.join(
    f'{value} ({count} run{"" if count == 1 else "s"})' for value, count in counts.items()
  )


def _how(report, command):
  authors = any(record['method'] in grouping.AUTHORS for record in report.records)
  atari = any(record['suite'] == 'atari' for record in report.records)
  entries = [
    *definitions.HOW,
    *(definitions.ATARI if atari else []),
    *(definitions.AUTHORS if authors else []),
  ]
  items = ''.join(
    f'<dt>{page.text(term)}</dt><dd>{page.text(words)}</dd>' for term, words in entries
  )
  made = f'<p>This page was made by</p><p><code>{page.text(command)}</code></p>'
  return Section('How each number is made', [f'<dl class="how">{items}</dl>', made])
