"""Which weighting rule a configuration asks for, and for which tasks."""

from harmony_jax import harmony


def make_weighting(config, shapes) -> tuple[harmony.Weighting, tuple[str, ...]]:
  """The rule that `config.weighting.rule` names, and its tasks for these observations.

  `none` is DreamerV3 itself: the reconstruction, reward and continue losses with weight 1, and the
  dynamics with 0.5 + 0.1. `config.weighting.tasks` says which tasks have a harmonizer; the others
  keep the weights of `none`. With prototypes the task `observation` is two, `swav` and `temporal`
  (eq. 17).
  """
  weighting, losses = config.weighting, config.losses
  observing = ()
  if config.prototypes.enabled:
    observing = ('swav', 'temporal')
  elif weighting.harmonize_vector or any(len(shape) == 3 for shape in shapes.values()):
    observing = ('observation',)
  tasks = tuple(
    name for task in weighting.tasks for name in (observing if task == 'observation' else (task,))
  )
  plain = {'dynamics': losses.dyn + losses.rep}
  if weighting.rule == 'none':
    return harmony.fixed(plain), ()
  if weighting.rule == 'fixed':
    weights = {
      **dict.fromkeys(observing, weighting.w_o),
      'reward': weighting.w_r,
      'dynamics': weighting.w_d,
    }
    return harmony.fixed(weights), ()
  if weighting.rule == 'reciprocal':
    rule = harmony.reciprocal()
  else:
    regularizer = {'dynamics': balance(config)} if weighting.dynamics_regularizer == 'code' else {}
    rule = harmony.RULES[weighting.rule](regularizer)
  return (rule if 'dynamics' in tasks else _scaled(rule, plain)), tasks


def _scaled(rule, scales):
  """`rule` on losses that are multiplied by constants first: for tasks without a harmonizer."""

  def weigh(losses, params, state):
    return rule.weigh({k: v * scales.get(k, 1.0) for k, v in losses.items()}, params, state)

  return rule._replace(weigh=weigh)


def balance(config):
  """α of eq. 15: the share of the KL that trains the prior."""
  return config.losses.dyn / (config.losses.dyn + config.losses.rep)
