"""What a record is: one run, one seed of one task, wherever it was read from."""

import dataclasses
import math
import re
from collections.abc import Mapping

from harmony_jax.config import difference
from harmony_jax.paths import joined
from harmony_jax.reporting import protocol
from harmony_jax.training.run_folder import FREE

FACTS = ('command', 'commit', 'python', 'devices', 'date', 'versions')
COUNTS = ('step', 'frame', 'update', 'eval_episodes', 'train_episodes')
NUMBERS = ('hours', 'eval_mean', 'eval_std', 'train_mean')
# What wrong contents raise while a record is made of them.
DAMAGES = (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError)


def label(config: Mapping) -> str:
  """Return what reports call a run's method: 'dreamerv3-harmony-cpu', or 'mine-cpu' if it has no
  weighting; '…-from-pong' of one that starts from an agent of Pong (`from` is that task), and then
  the run's own label. A variant of a study has its label in the rule's place."""
  rules = [config['weighting']['rule']] if config.get('weighting') is not None else []
  rules = [config['variant']] if 'variant' in config else rules
  task = re.sub(r'[^\w.+-]', '-', config.get('from', '').lower())  # a part of a file's name
  starts = [f'from-{task}'] if 'from' in config else []
  labels = [config['label']] if config.get('label') else []
  return '-'.join([joined(config['method']), *rules, config['preset'], *starts, *labels])


@dataclasses.dataclass(kw_only=True)
class Record:
  """One run. It holds no path of the machine that the run was on, but for `source`.

  Attributes:
    config: of the run's config.json.
    environment: `FACTS` of the run's first start, commits of all; None where one is not known.
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
  evaluations: dict
  frames_per_step: int
  environment: dict = dataclasses.field(
    default_factory=lambda: dict.fromkeys(FACTS) | {'versions': {}}
  )
  final_scores: list | None = None
  metrics: dict = dataclasses.field(default_factory=lambda: {'step': []})
  hours: float | None = None
  steps_per_second: float | None = None
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
    # as many first scores are zeros, equal ones alone make no run the same
    apart = difference(self.config, other.config)
    free = all(None in pair or name in FREE for name, pair in apart.items())
    return same and free and a[:common] == b[:common]


def is_count(number: object) -> bool:
  """Return whether something is a whole number from 0."""
  return type(number) is int and 0 <= number < 2**63


def is_number(number: object) -> bool:
  """Return whether something is a finite number."""
  return type(number) in (int, float) and math.isfinite(number) and abs(number) < 1e300


def _check(record):
  config, columns = record.config, record.evaluations
  rule = 'none' if record.weighting == '–' else record.weighting
  for name in (record.suite, joined(config['method']), rule, config['preset']):
    _demand(re.fullmatch(r'\w[\w.+-]*', name), name, 'a name')  # it becomes part of a file's name
  mark = config.get('label', '')  # as does this
  _demand(isinstance(mark, str) and re.fullmatch(r'[\w.+=-]*', mark), mark, 'a label')
  for text in (record.task, record.judged_by):
    _demand(text.strip() and text.isprintable(), text, 'a text')
  for count, least in ((record.seed, 0), (record.steps, 1), (record.frames_per_step, 1)):
    _demand(is_count(count) and count >= least, count, f'a whole number from {least}')
  _demand(type(record.complete) is bool, record.complete, 'true or false')
  for number in (record.hours, record.steps_per_second, *(record.final_scores or [])):
    _demand(number is None or is_number(number), number, 'a number')
  for name, fact in record.environment.items():
    _demand(isinstance(fact, dict if name == 'versions' else str | None), fact, name)
  steps = columns['step']
  every = {name: columns[name] for name in COUNTS + NUMBERS} | columns['measures']
  for name, column in [*every.items(), *record.metrics.items()]:
    holds = is_count if name in COUNTS else is_number
    needed = name in ('step', 'frame', 'eval_mean')
    for value in column:
      _demand(holds(value) or (value is None and not needed), value, f'a number as {name}')
  lengths = {len(column) for column in every.values()}, set(map(len, record.metrics.values()))
  _demand(all(len(each) == 1 for each in lengths), 'a column', 'as long as the others')
  _demand(all(a < b for a, b in zip(steps, steps[1:])), steps, 'rising steps')
  last = f'at step {steps[-1]}' if steps else 'none'
  whole = not config.get('final_eval_episodes', 1) or (steps and steps[-1] >= record.steps)
  if record.complete and not whole:
    told = f'but its last evaluation is {last}, not at step {record.steps}'
    raise ValueError(f'it is marked as complete, {told}')
  protocol.describe(config)


def _demand(holds, got, wanted):
  if not holds:
    raise ValueError(f'{str(got)[:60]!r} is not {wanted}')
