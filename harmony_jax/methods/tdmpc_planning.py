"""How TD-MPC plans: model predictive path integral control (MPPI) in its latent space.

Shapes: H steps of a plan at most, h of them in use, S samples, P rollouts of the policy, K elites,
A actions, Z numbers of a latent state. All functions are of one environment.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from harmony_jax.settings import group, setting

Step = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
_LARGEST_NOISE = 0.3  # of the policy, after its scale


@dataclasses.dataclass(frozen=True)
class ScheduleSettings:
  """A number that moves on a line, by the steps of the run."""

  start: float = setting(0.0, 'at step 0')
  end: float = setting(0.0, 'from `steps` on')
  steps: int = setting(25_000, 'agent steps, those of resets included, of the way', least=1)


@dataclasses.dataclass(frozen=True)
class PlanningSettings:
  """MPPI: see tdmpc_planning.py."""

  samples: int = setting(512, 'plans drawn in an iteration, S', least=1)
  elites: int = setting(64, 'the best of them, K', least=1)
  policy_share: float = setting(
    0.05, "the policy's own rollouts beside them, as a share of the samples", most=1
  )
  iterations: int = setting(6, 'refinements of the distribution of plans', least=1)
  temperature: float = setting(0.5, 'elites count by exp(temperature · value)')
  momentum: float = setting(0.1, 'share of the mean before in the next one', most=1)
  max_std: float = setting(2.0, 'first and largest standard deviation of actions', above=0)
  action: str = setting(
    'elite',
    'elite: the first action of one, drawn by its score, as the code; mean: of all, as the paper; '
    'noise is added in training alone',
    choices=('elite', 'mean'),
  )
  horizon: ScheduleSettings = group(
    ScheduleSettings, 'Steps of a plan, rounded down; at most batch_length - 1.', start=1.0, end=5.0
  )
  std: ScheduleSettings = group(
    ScheduleSettings, 'Smallest standard deviation of planned actions.', start=0.5, end=0.05
  )

  @property
  def rollouts(self) -> int:
    """P."""
    return int(self.policy_share * self.samples)


class Model(NamedTuple):
  """What planning asks of a model, for latent states [..., Z] and actions [..., A].

  Attributes:
    step: (z, a) -> (next latent state, reward [...]). value: (z, a) -> [...].
    policy: (z, standard normal noise [..., A]) -> a.
  """

  step: Step
  value: Callable[[jax.Array, jax.Array], jax.Array]
  policy: Callable[[jax.Array, jax.Array], jax.Array]


class Noise(NamedTuple):
  """The random numbers of one decision: standard normal, but for `choice`, which is uniform."""

  policy: jax.Array  # [H, P, A]
  samples: jax.Array  # [iterations, H, S, A]
  terminal: jax.Array  # [iterations, S + P, A], of the policy at the end of a plan
  choice: jax.Array  # []
  action: jax.Array  # [A]


def draw(key: jax.Array, config: PlanningSettings, horizon: int, actions: int) -> Noise:
  """Draw the random numbers of one decision."""
  keys = jax.random.split(key, 5)
  count, iterations = config.samples + config.rollouts, config.iterations
  return Noise(
    jax.random.normal(keys[0], (horizon, config.rollouts, actions)),
    jax.random.normal(keys[1], (iterations, horizon, config.samples, actions)),
    jax.random.normal(keys[2], (iterations, count, actions)),
    jax.random.uniform(keys[3]),
    jax.random.normal(keys[4], (actions,)),
  )


def noisy(mean: jax.Array, std: float, noise: jax.Array) -> jax.Array:
  """Return mean + clip(std · noise), kept inside (-1, 1); gradients pass as if it were not."""
  action = mean + jnp.clip(std * noise, -_LARGEST_NOISE, _LARGEST_NOISE)
  inside = jnp.clip(action, -1 + 1e-6, 1 - 1e-6)
  return action + jax.lax.stop_gradient(inside - action)


def linear(config: ScheduleSettings, step: Any) -> jax.Array:
  """Return a schedule's number at a step."""
  gone = jnp.clip(jnp.asarray(step, jnp.float32), 0, config.steps)
  left = (config.steps - gone) / config.steps  # 1 - gone / steps is mostly rounding near the end
  return left * config.start + gone / config.steps * config.end


def horizon_at(config: ScheduleSettings, longest: int, step: Any) -> Any:
  """Return min(longest, ⌊schedule⌋), at least 1, at a step.

  A float32 could end up on the wrong side of a whole number, so the steps at which it changes are
  found beforehand.
  """
  share = np.arange(config.steps + 1) / config.steps
  values = np.floor((1 - share) * config.start + share * config.end)
  values = np.clip(values, 1, longest).astype(np.int32)
  changes = np.flatnonzero(np.diff(values)) + 1
  return values[0] + ((step >= changes) * np.diff(values)[changes - 1]).sum()


def plan(
  model: Model,
  config: PlanningSettings,
  discount: float,
  latent: jax.Array,
  last: jax.Array,
  horizon: jax.Array,
  floor: jax.Array,
  noise: Noise,
  explore: bool,
) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
  """Plan from a latent state [Z]; return (action [A], means of the plan [H, A], all on the way).

      J = Σₜ<ₕ γᵗ r(zₜ, aₜ) + γʰ min Q(zₕ, π(zₕ))

  of samples from a Gaussian whose mean and deviation are made anew from the best of them, again and
  again. The policy's rollouts stand behind the samples, the same in every iteration. The action is
  not clipped.

  Args:
    last: the plan of the step before [H, A], zeros at an episode's beginning.
    horizon: h. floor: the smallest standard deviation.
    explore: whether to add noise to the action.
  """
  longest, actions = last.shape
  start = jnp.broadcast_to(latent, (config.samples + config.rollouts, len(latent)))

  def follow(z, noise):
    action = model.policy(z, noise)
    return model.step(z, action)[0], action

  _, of_policy = jax.lax.scan(follow, start[: config.rollouts], noise.policy)  # [H, P, A]

  def evaluate(plans, noise):
    def go(t, state):
      z, total, weight = state
      z, reward = model.step(z, plans[t])
      return z, total + weight * reward, weight * discount

    nothing = jnp.zeros(len(start)), jnp.float32(1)
    z, total, weight = jax.lax.fori_loop(0, horizon, go, (start, *nothing))
    action = model.policy(z, noise)
    return jnp.nan_to_num(total + weight * model.value(z, action)), action

  def refine(state, noise):
    mean, std = state
    samples = jnp.clip(mean[:, None] + std[:, None] * noise[0], -1, 1)
    plans = jnp.concatenate([samples, of_policy], 1)  # [H, S + P, A]
    value, terminal = evaluate(plans, noise[1])
    best, index = jax.lax.top_k(value, config.elites)
    elites = plans[:, index]  # [H, K, A]
    score = jax.nn.softmax(config.temperature * best)
    center = (score[:, None] * elites).sum(1)  # [H, A]
    spread = jnp.sqrt((score[:, None] * jnp.square(elites - center[:, None])).sum(1))
    std = jnp.clip(spread, floor, config.max_std)
    mean = config.momentum * mean + (1 - config.momentum) * center
    way = {'actions': plans, 'terminal': terminal, 'value': value, 'index': index, 'best': best}
    way |= {'score': score, 'mean': mean, 'std': std, 'first': elites[0]}
    return (mean, std), way

  shifted = jnp.concatenate([last[1:], jnp.zeros((1, actions))])
  begin = shifted, jnp.full((longest, actions), config.max_std)
  (mean, std), way = jax.lax.scan(refine, begin, (noise.samples, noise.terminal))
  reached = jnp.cumsum(way['score'][-1])
  choice = (reached > noise.choice * reached[-1]).argmax()
  action = way['first'][-1][choice] if config.action == 'elite' else mean[0]
  if explore:
    action = action + std[0] * noise.action
  kept = jnp.where(jnp.arange(longest)[:, None] < horizon, mean, 0)
  return (
    action,
    kept,
    way
    | {'choice': choice, 'initial_mean': begin[0], 'initial_std': begin[1], 'policy': of_policy},
  )
