"""Which weighting rule a Dreamer's settings ask for, and for which tasks."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from harmony_jax import harmony
from harmony_jax.encoders import Objective
from harmony_jax.settings import setting


@dataclasses.dataclass(frozen=True)
class LossSettings:
  """The world model's losses, before they are weighed."""

  likelihood: str = setting(
    'symlog',
    'symlog: squared errors, of vectors in symlog space; gaussian: unit variance',
    choices=('symlog', 'gaussian'),
    only='decoder.probe or vectors',  # of DreamerPro
  )
  free_nats: float = setting(1.0, 'KL below this is not reduced')
  free_average: bool = setting(
    False, "they count for the batch's mean KL, not for every step's", only='.free_nats'
  )
  dyn: float = setting(
    0.5, 'weight of the KL that trains the prior; over dyn + rep it is the balance (eq. 15)'
  )
  rep: float = setting(
    0.1, 'weight of the KL that trains the posterior; dyn + rep: of both, under rule none'
  )

  @property
  def scale(self) -> float:
    """The weight of the dynamics loss under rule `none`, where those of the others are 1."""
    return self.dyn + self.rep

  @property
  def balance(self) -> float:
    """α of eq. 15: the share of the KL that trains the prior. ValueError where there is none."""
    if not self.scale:
      raise ValueError('losses.dyn and losses.rep are both 0: one must be above 0 (eq. 15)')
    return self.dyn / self.scale


_HYPER = 'decay', 'least', 'window', 'alpha'


@dataclasses.dataclass(frozen=True)
class RuleSettings:
  """A rule and what it is a function of, whatever the tasks."""

  rule: str = setting('harmony', 'the rule: chosen by --weighting', choices=harmony.RULES)
  decay: float = setting(
    0.99, 'memory of the mean losses, for the rules equilibrium… and running…', most=0.9999
  )
  least: float = setting(
    0.0, 'share of the largest weight that every task has at least, for the same rules', most=1
  )
  window: int = setting(25, 'updates that a mean loss is of, for the rules dwa…', least=1)
  alpha: float = setting(1.5, 'how much more a task gets that learns slowly, for rule gradnorm')
  rate: float = setting(
    1.0, 'learning rate of the harmonizers over that of the model; 1 in the paper'
  )
  beta2: float = setting(
    0.999,
    "Adam's memory of the harmonizers' squared gradients; 0.999 in the paper",
    most=0.99999,  # 1 has no bias that could be corrected
  )

  @property
  def hyper(self) -> dict[str, Any]:
    """Those that rules are made with; `harmony.make` gives each its own."""
    return {name: getattr(self, name) for name in _HYPER}


@dataclasses.dataclass(frozen=True)
class WeightingSettings(RuleSettings):
  """How the tasks are weighed: harmony.py."""

  tasks: tuple[str, ...] = setting(
    ('observation', 'reward', 'dynamics'),
    'those that the rule weighs; the authors leave out `continue`, which then has weight 1',
    choices=('observation', 'reward', 'dynamics', 'continue'),
  )
  dynamics_regularizer: str = setting(
    'code',
    'code: 5/6 log(1+σ_d), as the authors ran it; paper: log(1+σ_d) (eq. 5)',
    choices=('code', 'paper'),
    only='.tasks=dynamics .rule!=harmony_tied',  # which has no σ of it
  )
  harmonize_vector: bool = setting(
    False,
    'vector observations: weight 1 as the authors ran it, or part of `observation`',
    only='vectors method!=dreamerpro .rule!=none .tasks=observation',
  )
  w_o: float = setting(
    1.0, 'weight of the observation loss, for rule fixed (eq. 3)', only='.tasks=observation'
  )
  w_r: float = setting(1.0, 'weight of the reward loss, for rule fixed', only='.tasks=reward')
  w_d: float = setting(1.0, 'weight of the dynamics loss, for rule fixed', only='.tasks=dynamics')
  calibrate: int = setting(0, 'batches from whose losses σ starts (eq. 12); 0: σ starts at `start`')
  start: float = setting(
    1.0, 'σ that harmonizers start from; 1 in the paper', above=0, only='.calibrate=0'
  )


# The hyper-parameter of rules that a setting becomes; '' is of all that have harmonizers, 'tasks'
# of all but `none`, 'coefficients', TD-MPC's, of `none` and `fixed`.
_BECOMES = {name: name for name in (*_HYPER, 'tasks')}
_BECOMES |= {
  'dynamics_regularizer': 'regularizer',
  **dict.fromkeys(('w_o', 'w_r', 'w_d'), 'weights'),
  **dict.fromkeys(('consistency', 'reward', 'value'), 'coefficients'),
}
_BECOMES |= dict.fromkeys(('rate', 'beta2', 'start', 'calibrate'), '')


def idle(rule: str) -> set[str]:
  """Return the settings of a method's weighting that change nothing under a rule; of one that
  `harmony.RULES` has not, nothing is known."""
  if rule not in harmony.RULES:
    return set()
  taken = {*inspect.signature(harmony.RULES[rule]).parameters}
  taken |= {''} if harmony.make(rule).start else set()
  taken |= {'tasks'} if rule != 'none' else set()
  taken |= {'coefficients'} if rule in ('none', 'fixed') else set()
  return {name for name, hyper in _BECOMES.items() if hyper not in taken}


def spelled_out(config: Mapping[str, Any]) -> Mapping[str, Any]:
  """Return a run's configuration, a tree; of a Dreamer with rule `none` with what that is: `fixed`,
  with weights of 1, and of the dynamics that of its losses."""
  section, losses = config.get('weighting') or {}, config.get('losses') or {}
  if section.get('rule') != 'none' or 'w_r' not in section or 'dyn' not in losses:
    return config
  scale = LossSettings(dyn=losses['dyn'], rep=losses['rep']).scale
  weights = {'w_o': 1.0, 'w_r': 1.0, 'w_d': scale, 'tasks': [*WeightingSettings().tasks]}
  return {**config, 'weighting': {**section, **weights, 'rule': 'fixed'}}


def rest(config: Mapping[str, Any]) -> Callable[[Any, str], Any]:
  """Return (loss, task) -> log σ at which the harmonizer of a task comes to rest.

  That of eq. 12; unrectified it is the loss. The dynamics' is of a larger loss where its
  regulariser has a weight (`dynamics_regularizer`). Other rules are held against eq. 12, too.

  Args:
    config: settings by their names, such as 'weighting.rule'.
  """
  rule, share = config.get('weighting.rule'), 1.0
  if config.get('weighting.dynamics_regularizer') == 'code':
    share = LossSettings(dyn=config['losses.dyn'], rep=config['losses.rep']).balance
  own = rule in ('harmony', 'harmony_unrectified')
  regularizer = {'dynamics': share} if own else {}
  made: Any = harmony.make(rule if own else 'harmony', regularizer=regularizer)
  return made.start


def make_weighting(
  config: WeightingSettings, losses: LossSettings, objective: Objective, continues: bool = False
) -> tuple[harmony.Weighting, tuple[str, ...]]:
  """Return the rule and its tasks.

  `config.tasks` says which tasks are weighed; the others keep the weights of DreamerV3 itself (rule
  `none`): 1, and 0.5 + 0.1 for the dynamics.

  Args:
    objective: what the task `observation` is; DreamerPro's are `swav` and `temporal` (eq. 17).
    continues: whether there is a continue head, whose loss can be a task.

  Raises:
    ValueError: the settings weigh an observation or a continuation, and there is none to weigh.
  """
  observing = objective.tasks
  _check(config, observing)
  if 'continue' in config.tasks and not continues:
    raise ValueError('continue is among weighting.tasks, and continue_head.enabled is False')
  plain = {'dynamics': losses.scale}
  tasks = tuple(
    k for task in config.tasks for k in (observing if task == 'observation' else (task,))
  )
  weights = {**dict.fromkeys(observing, config.w_o), 'reward': config.w_r, 'dynamics': config.w_d}
  if config.rule in ('none', 'fixed') or not tasks:
    chosen = {task: weights.get(task, 1.0) for task in tasks if config.rule == 'fixed'}
    return harmony.make('fixed', weights=plain | chosen), ()
  rule = harmony.make(
    config.rule,
    regularizer={'dynamics': losses.balance} if config.dynamics_regularizer == 'code' else {},
    elements=objective.elements(),
    observing=observing,
    **config.hyper,
  )
  if rule.start:
    rule = _started(rule, config.start)
  return (rule if 'dynamics' in tasks else _scaled(rule, plain)), tasks


def _check(config, observing):
  """Refuse what would be another rule under this one's name, or a weight of nothing."""
  told = f'weighting.rule is {config.rule!r}'
  if harmony.observes(config.rule):
    if not (observing and {'observation', 'dynamics'} <= {*config.tasks}):
      raise ValueError(
        f'{told}, which weighs the dynamics by the observation: both must be weighting.tasks, and '
        'vectors are part of the observation with weighting.harmonize_vector=True alone; the rule '
        'harmony takes any tasks'
      )
  if observing or config.rule == 'none' or 'observation' not in config.tasks:
    return
  # In a program whose weights are arguments these are no numbers yet.
  chosen = config.rule == 'fixed' and isinstance(config.w_o, int | float) and config.w_o != 1
  if chosen or config.tasks == ('observation',):
    what = f'weighting.w_o is {config.w_o:g}' if chosen else f'{told}, of the observation alone'
    raise ValueError(
      f'{what}: here are vectors, whose loss has weight 1 but with weighting.harmonize_vector=True'
    )


def _started(rule: harmony.Weighting, sigma: float) -> harmony.Weighting:
  """Return the rule with harmonizers that start from σ."""

  def init(tasks):
    params, state = rule.init(tasks)
    return {name: s + jnp.log(sigma) for name, s in params.items()}, state

  return rule._replace(init=init)


def _scaled(rule: harmony.Weighting, scales: Mapping[str, float]) -> harmony.Weighting:
  """Return the rule on losses that are multiplied by constants first."""

  def weigh(losses, params, state):
    return rule.weigh({k: v * scales.get(k, 1.0) for k, v in losses.items()}, params, state)

  return rule._replace(weigh=weigh)
