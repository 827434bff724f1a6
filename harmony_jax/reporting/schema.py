"""What a record is: one run, one seed of one task, wherever it was read from."""

import dataclasses
import math
import re
from collections.abc import Mapping

from harmony_jax.reporting import protocol

FACTS = ('command', 'commit', 'python', 'devices', 'date', 'versions')
COUNTS = ('step', 'frame', 'update', 'eval_episodes', 'train_episodes')
NUMBERS = ('hours', 'eval_mean', 'eval_std', 'train_mean')
_KNOWN = ('step', 'frame', 'eval_mean')  # never None
_NAME = re.compile(r'\w[\w.+-]*')  # of what becomes part of a file's name


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
    scores: these at each evaluation; None where that was not measured.

  Raises:
    KeyError, TypeError, ValueError: something is missing or of another kind.
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
  suite: str = dataclasses.field(init=False)
  task: str = dataclasses.field(init=False)
  seed: int = dataclasses.field(init=False)
  steps: int = dataclasses.field(init=False)
  weighting: str = dataclasses.field(init=False)
  judged_by: str = dataclasses.field(init=False)
  scores: list[float | None] = dataclasses.field(init=False)

  def __post_init__(self):
    config, steps = self.config, self.evaluations['step']
    self.suite, self.task, self.seed = config['suite'], config['task'], config['seed']
    self.steps, self.judged_by = config['steps'], config.get('score', 'return')
    self.weighting = '–' if config.get('weighting') is None else config['weighting']['rule']
    self.method = self.method or label(config)
    measures = {'return': self.evaluations['eval_mean'], **self.evaluations['measures']}
    self.scores = measures.get(self.judged_by, [None] * len(steps))
    _check(self)

  @property
  def final(self) -> float | None:
    """The last of the scores, of a run that may be going on."""
    return self.scores[-1] if self.scores else None

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
  names = {field: config[field] for field in ('suite', 'method', 'preset')}
  for field, text in {**names, 'weighting': record.weighting.replace('–', 'none')}.items():
    _demand(_NAME.fullmatch(text), field, 'a name', text)
  for field, text in {'task': record.task, 'score': record.judged_by}.items():
    _demand(text.strip() and text.isprintable(), field, 'a text', text)
  counts = {'steps': record.steps, 'frames_per_step': record.frames_per_step}
  for field, count in {'seed': record.seed, **counts}.items():
    least = 0 if field == 'seed' else 1
    _demand(is_count(count) and count >= least, field, f'a whole number from {least}', count)
  _demand(type(record.complete) is bool, 'complete', 'true or false', record.complete)
  for number in (record.hours, record.steps_per_second):
    _demand(number is None or is_number(number), 'hours and speed', 'numbers', number)
  for field in FACTS:
    kind, fact = dict if field == 'versions' else str | None, record.environment[field]
    _demand(isinstance(fact, kind), field, 'text', fact)
  for name in COUNTS + NUMBERS:
    _check_column(name, record.evaluations[name], steps)
  for name, column in record.evaluations['measures'].items():
    _check_column(name, column, steps)
  for name, column in record.metrics.items():
    _check_column(name, column, record.metrics['step'])
  _demand(all(map(is_number, record.final_scores or [])), 'final_scores', 'numbers', '')
  _demand(all(a < b for a, b in zip(steps, steps[1:])), 'step', 'rising', steps)
  last = f'at step {steps[-1]}' if steps else 'none'
  if record.complete and config.get('final_eval_episodes', 1):
    if not steps or steps[-1] < record.steps:
      told = f'but its last evaluation is {last}, not at step {record.steps}'
      raise ValueError(f'it is marked as complete, {told}')
  protocol.describe(config)


def _check_column(name, column, steps):
  holds = is_count if name in COUNTS else is_number
  _demand(len(column) == len(steps), name, f'{len(steps)} values', f'{len(column)}')
  for value in column:
    known = value is not None or name in _KNOWN
    _demand(holds(value) or not known, name, 'a number', value)


def _demand(holds, field, wanted, got):
  if not holds:
    raise ValueError(f'{field} must be {wanted}, not {str(got)[:60]!r}')
