"""Updates: optimisers of one subtree of the parameters (clip, decay, Adam, all leaves in one
vector), slow copies, and what leaves out an update that is not finite, or names what is not.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from harmony_jax import harmony, replicas
from harmony_jax.settings import setting


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
  """Clip by global norm, then Adam."""

  kind: str = setting(
    'adam',
    "adam: optax's, decay joins the gradient (L2); tensorflow: its ε and decay differ",
    choices=('adam', 'tensorflow'),
  )
  lr: float = setting(1e-4, 'learning rate')
  eps: float = setting(1e-8, "Adam's epsilon")
  clip: float = setting(1000.0, 'largest global norm of the gradient', above=0)  # 0 learns nothing
  weight_decay: float = setting(0.0, 'share of the parameters: added to the gradient, or taken')
  beta2: float = setting(0.999, "Adam's memory of squared gradients", most=0.99999)


def make_optimizer(
  config: OptimizerSettings, harmony_rate: float = 1.0, harmony_beta2: float | None = None
) -> optax.GradientTransformation:
  """Return clip by global norm -> weight decay -> Adam -> -lr for one subtree.

  All leaves are one vector: fewer, larger loops. The harmonizers are leaves like any other. For
  short runs they may have a learning rate of their own (times `harmony_rate`) and a shorter memory
  of squared gradients: a harmonizer's gradient -L/σ shrinks as σ grows, and Adam divides by its
  root mean square over 1/(1-β₂) steps, so that s = log σ rises by at most (1-β₂)/2 per update in
  the long run, whatever the rate: 0.5 in 1,000 updates with 0.999. That never binds at the paper's
  rate of 1e-4.
  """

  def adam(rate: float = 1.0, beta2: float = config.beta2) -> optax.GradientTransformation:
    step = optax.scale(-config.lr * rate)
    if config.kind == 'tensorflow':
      # The decay shrinks every parameter by this share in each update, whatever the learning rate.
      decay = [optax.add_decayed_weights(-config.weight_decay)] if config.weight_decay else []
      return optax.flatten(optax.chain(_tensorflow_adam(beta2, config.eps), step, *decay))
    # Coupled (L2): decay joins the gradient before Adam, on every parameter, as in DreamerV2.
    decay = [optax.add_decayed_weights(config.weight_decay)] if config.weight_decay else []
    adam = optax.scale_by_adam(b2=beta2, eps=config.eps)
    return optax.flatten(optax.chain(*decay, adam, step))

  body = adam()
  harmony_beta2 = config.beta2 if harmony_beta2 is None else harmony_beta2
  mapped = isinstance(harmony_rate, jax.Array)  # over agents (harmony_jax/ondevice)
  if mapped or harmony_rate != 1.0 or harmony_beta2 != config.beta2:
    label = lambda params: {k: 'harmony' if k == 'harmony' else 'model' for k in params}
    body = optax.partition({'model': body, 'harmony': adam(harmony_rate, harmony_beta2)}, label)
  return optax.chain(optax.flatten(optax.clip_by_global_norm(config.clip)), body)


def _tensorflow_adam(b2: float, eps: float, b1: float = 0.9) -> optax.GradientTransformation:
  """Adam as TensorFlow has it: √(1-β₂ᵗ)/(1-β₁ᵗ) m / (√v + ε), that is ε / √(1-β₂ᵗ) for ε."""

  def update(gradient: Any, state: Any, params: Any = None, **more: Any) -> tuple[Any, Any]:
    del params, more
    count = state.count + 1
    mu = optax.tree.update_moment(gradient, state.mu, b1, 1)
    nu = optax.tree.update_moment(gradient, state.nu, b2, 2)
    t = count.astype(jnp.float32)
    rate = jnp.sqrt(1 - b2**t) / (1 - b1**t)
    updates = jax.tree.map(lambda m, v: rate * m / (jnp.sqrt(v) + eps), mu, nu)
    return updates, optax.ScaleByAdamState(count, mu, nu)

  init = optax.scale_by_adam(b1, b2, eps).init
  return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType]


def descend(
  optimizer: optax.GradientTransformation,
  loss: Callable[[Any], Any],
  params: Any,
  opt_state: Any,
  mask: Callable[[Any], Any] = lambda gradient: gradient,
  differentiate: Callable[..., tuple[tuple[Any, Any], Any]] = lambda loss, params: (
    jax.value_and_grad(loss, has_aux=True)(params)
  ),
) -> tuple[Any, Any, Any, Any]:
  """Do one update by the gradient of `loss(params) -> (scalar, more)`, over all replicas.

  Args:
    mask: of the gradient, before it is used.
    differentiate: what takes the gradient; see `weighed`.

  Returns: (parameters, optimiser state, gradient, more).
  """
  (_, more), gradient = differentiate(loss, params)
  gradient = mask(replicas.mean(gradient))
  updates, opt_state = optimizer.update(gradient, opt_state, params)
  return optax.apply_updates(params, updates), opt_state, gradient, more


def weighed(
  rule: harmony.Weighting, weigh: Callable, state: Any, shared: Sequence[str]
) -> Callable:
  """Return how `descend` differentiates what a weighting rule makes of several losses.

  Where the rule looks at gradients (`rule.balance`) this takes a backward pass per loss: the
  total's gradient is Σᵢ wᵢ gᵢ over all parameters, with wᵢ = ∂total/∂Lᵢ.

  Args:
    weigh: `weigh(found, harmonizers, state) -> (total, more)`, where `found = losses(params)` are
      the losses by name, and more. state: the rule's.
    shared: the entries of the parameters whose gradients the rule sees.
  """

  total = lambda losses: lambda params: weigh(losses(params), params['harmony'], state)
  balance = rule.balance
  if balance is None:
    return lambda losses, params: jax.value_and_grad(total(losses), has_aux=True)(params)
  part = lambda gradient: {name: gradient[name] for name in shared}

  def by_task(losses: Callable[[Any], Any], params: Any) -> tuple[tuple[Any, Any], Any]:
    twice = lambda found: (found[0], found)
    named, pull, found = jax.vjp(lambda params: twice(losses(params)), params, has_aux=True)
    # Zeros that are constants: XLA leaves out the parts that a loss does not reach.
    pulled = {k: pull({name: jnp.float32(name == k) for name in named})[0] for k in named}
    each = replicas.mean(pulled)
    after = balance(named, {k: ravel_pytree(part(each[k]))[0] for k in each}, state)
    total = lambda named: weigh((named, *found[1:]), params['harmony'], after)
    value, weights = jax.value_and_grad(total, has_aux=True)(named)
    add = lambda *leaves: sum(weights[k] * leaf for k, leaf in zip(each, leaves))
    gradient = jax.tree.map(add, *each.values())
    if rule.clip:
      clip = optax.clip_by_global_norm(rule.clip)
      gradient |= clip.update(part(gradient), optax.EmptyState())[0]
    return value, gradient

  return by_task


def ema_update(slow: Any, fast: Any, step: jax.Array, fraction: float, every: int) -> Any:
  """Return slow + f (fast - slow) in every `every`-th update; the first one (step 0) copies."""
  mix = jnp.where(step == 0, 1.0, jnp.where(step % every == 0, fraction, 0.0))
  return jax.tree.map(lambda s, f: (1 - mix) * s + mix * f, slow, fast)


def guard(update: Callable, state: Any, batch: Any, skip: int) -> tuple[Any, dict]:
  """Do `update(state, batch)` where it is finite; else count it and change nothing.

  Only the batch, the losses (metrics `loss/…`) and the norms of the gradients decide, no other
  metric. After more than `skip` updates that were not finite nothing changes at all any more, so
  that the state is the one in which update number `state.step` goes wrong.

  Args:
    update: returns (next state, metrics, gradients by name, …).

  Returns: (state, metrics with `grad_norm/…` and `nonfinite_updates`).
  """
  after, metrics, gradients, *_ = update(state, batch)
  # Of the vectors that the optimisers make of gradients.
  norms = {f'grad_norm/{k}': jnp.linalg.norm(ravel_pytree(x)[0]) for k, x in gradients.items()}
  checked = batch, norms, {k: v for k, v in metrics.items() if k.startswith('loss/')}
  leaves = [x for x in jax.tree.leaves(checked) if jnp.issubdtype(x.dtype, jnp.floating)]
  finite = jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all()
  # Every replica looks at its own rows; all must come to the same end.
  finite = replicas.mean(finite.astype(jnp.float32)) == 1
  frozen = state.nonfinite > skip
  count = state.nonfinite + (~finite & ~frozen)
  step = state.step + (count <= skip)
  kept = jax.tree.map(
    lambda new, old: jnp.where(finite & ~frozen, new, old),
    *(each.replace(rng=None) for each in (after, state)),
  )
  state = kept.replace(rng=state.rng, nonfinite=count, step=step)
  return state, {**metrics, **norms, 'nonfinite_updates': count}


def finite_by_name(stages: dict[str, Any]) -> dict[str, dict[str, jax.Array]]:
  """Return {stage: {name of an array: whether it is finite}} for trees of arrays by stage."""
  name = lambda path: jax.tree_util.keystr(path, simple=True, separator='/')
  return {
    stage: {
      name(path): jnp.isfinite(leaf).all()
      for path, leaf in jax.tree.leaves_with_path(tree)
      if jnp.issubdtype(leaf.dtype, jnp.floating)
    }
    for stage, tree in stages.items()
  }


def parameter_count(params: Any) -> int:
  """Return the number of scalars in a tree."""
  return sum(leaf.size for leaf in jax.tree.leaves(params))
