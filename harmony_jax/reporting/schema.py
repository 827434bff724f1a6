"""What a record is: one run, one seed of one task, wherever it was read from."""

import dataclasses
import math
import re
from collections.abc import Mapping

from harmony_jax.reporting import protocol

FACTS = ('command', 'commit', 'python', 'devices', 'date', 'versions')
COUNTS = ('step', 'frame', 'update', 'eval_episodes', 'train_episodes')
NUMBERS = ('hours', 'eval_mean', 'eval_std', 'train_mean')
# What wrong contents raise while a record is made of them.
DAMAGES = (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError)


def label(config: Mapping) -> str:
  """Return what reports call a run's method: 'dreamerv3-harmony-cpu', or 'mine-cpu' if it has no
  weighting."""
  rules = [config['weighting']['rule']] if config.get('weighting') is not None else []
  return '-'.join([config['method'], *rules, config['preset']])


@dataclasses.dataclass(kw_only=True)
class Record:
  """One run. It holds no path of the machine that the run was on, but for `source`.

  Attributes:
    config: of the run's config.json.
    environment: `FACTS` of the run's first start, None where one is not known.
    evaluations: {'step': [...], …} of `COUNTS` and `NUMBERS`, and 'measures': {name: [...]}.
    final_scores: of all episodes of the last evaluation.
    metrics: {'step': [...], 'loss/reward': [value or None, ...]}.
    hours, steps_per_second: of the whole run so far, evaluations included.
    method: see `label`. weighting: its rule, '–' without one.
    judged_by: what the suite's scores are, 'return' or a measure such as 'success'.
    scores: these at each evaluation; None where that was not measured. final: the last of them.

  Raises:
    One of `DAMAGES`: something is missing or of another kind.
  """

  config: dict
  complete: bool
  source: str
  environment: dict
  evaluations: dict
  final_scores: list | None
  metrics: dict
  hours: float | None
  steps_per_second: float | None
  frames_per_step: int
  method: str = ''

  def __post_init__(self):
    config, columns = self.config, self.evaluations
    self.suite, self.task, self.seed = config['suite'], config['task'], config['seed']
    self.steps, self.judged_by = config['steps'], config.get('score', 'return')
    self.weighting = '–' if config.get('weighting') is None else config['weighting']['rule']
    self.method = self.method or label(config)
    scores = {'return': columns['eval_mean'], **columns['measures']}
    self.scores = scores.get(self.judged_by, [None] * len(columns['step']))
    self.final = self.scores[-1] if self.scores else None
    _check(self)

  @property
  def place(self) -> tuple[str, str, str, int]:
    """Where but one run can stand."""
    return self.suite, self.method, self.task, self.seed

  @property
  def rank(self) -> tuple[bool, int, bool]:
    """The greater, the more there is of the run."""
    return self.complete, len(self.scores), len(self.metrics) > 1

  def is_same_run(self, other: 'Record') -> bool:
    """Return whether two records of one place are the same run, be it that one was read later."""
    a, b = (list(zip(r.evaluations['step'], r.evaluations['eval_mean'])) for r in (self, other))
    common = min(len(a), len(b))
    same = common > 0 or self.environment['date'] == other.environment['date']
    return same and a[:common] == b[:common]


def is_count(number: object) -> bool:
  """Return whether something is a whole number from 0."""
  return type(number) is int and 0 <= number < 2**63


def is_number(number: object) -> bool:
  """Return whether something is a finite number."""
  return type(number) in (int, float) and math.isfinite(number) and abs(number) < 1e300


def _check(record):
  config, steps = record.config, record.evaluations['step']
  for name in (
    record.suite,
    config['method'],
    record.weighting.strip('–') or 'none',
    config['preset'],
  ):
    _demand(re.fullmatch(r'\w[\w.+-]*', name), name, 'a name')  # it becomes part of a file's name
  for text in (record.task, record.judged_by):
    _demand(text.strip() and text.isprintable(), text, 'a text')
  _demand(is_count(record.seed), record.seed, 'a seed from 0')
  for count in (record.steps, record.frames_per_step):
    _demand(is_count(count) and count, count, 'a whole number from 1')
  _demand(type(record.complete) is bool, record.complete, 'true or false')
  for number in (record.hours, record.steps_per_second):
    _demand(number is None or is_number(number), number, 'hours or speed')
  for name in FACTS:
    kind = dict if name == 'versions' else str | None
    _demand(isinstance(record.environment[name], kind), record.environment[name], name)
  columns = {name: record.evaluations[name] for name in COUNTS + NUMBERS}
  for name, column in {**columns, **record.evaluations['measures']}.items():
    _check_column(name, column, steps)
  for name, column in record.metrics.items():
    _check_column(name, column, record.metrics['step'])
  _demand(all(map(is_number, record.final_scores or [])), record.final_scores, 'final scores')
  _demand(all(a < b for a, b in zip(steps, steps[1:])), steps, 'rising steps')
  ends = not config.get('final_eval_episodes', 1) or (steps and steps[-1] >= record.steps)
  if record.complete and not ends:
    last = f'at step {steps[-1]}' if steps else 'none'
    told = f'but its last evaluation is {last}, not at step {record.steps}'
    raise ValueError(f'it is marked as complete, {told}')
  protocol.describe(config)


def _check_column(name, column, steps):
  holds = is_count if name in COUNTS else is_number
  _demand(len(column) == len(steps), column, f'{len(steps)} values of {name}')
  for value in column:
    known = value is not None or name in ('step', 'frame', 'eval_mean')
    _demand(holds(value) or not known, value, f'a number as {name}')


def _demand(holds, got, wanted):
  if not holds:
    raise ValueError(f'{str(got)[:60]!r} is not {wanted}')
