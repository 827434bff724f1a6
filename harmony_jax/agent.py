"""The agent: one `TrainState` and four pure functions over it, `init`, `train_step`, `policy` and
`report`.

One training step does, in this order: (1) gradient and update of the world model, harmonizers
included; (2) imagination with the updated world model from the posterior states of (1), and the
actor's update; (3) the critic's update on the same imagination; (4) the slow critic's; and, where
there is one, the probing decoder's. Randomness is folded from (rng, step, index in the batch): the
same state and batch always give the same result.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from harmony_jax import harmony, replicas
from harmony_jax.behavior import Behavior, Noise
from harmony_jax.returns import Percentiles
from harmony_jax.rssm import State
from harmony_jax.targets import follow
from harmony_jax.world_model import WorldModel, with_statistics

SUBTREES = ('world_model', 'actor', 'critic', 'probe')  # those that there may be
# What `Agent.finite` looks at, in the order in which an update uses and makes it.
FINITE = (
  'batch',
  'params',
  'targets',
  'optimizer',
  'loss',
  *(f'gradient of {k}' for k in SUBTREES),
  'metric',
  'new params',
)


class Carry(NamedTuple):
  """What is carried between steps: latent state, leaves [B, ...], and the last action [B, A]."""

  latent: State
  action: jax.Array


@flax.struct.dataclass
class TrainState:
  """Everything that training changes. `params` and `opt_state` have the keys world_model, actor,
  critic, and with a probing decoder probe."""

  params: dict
  opt_state: dict
  targets: dict  # slow critic; with prototypes the slow parts of the world model, too
  statistics: dict  # running statistics of the networks that keep some (residual ones)
  weighting: Any  # state of the weighting rule; empty for harmony
  normalizer: Percentiles
  carry: Carry
  step: jax.Array  # updates done
  # of these, those that were left out because a loss or a gradient was not finite
  nonfinite: jax.Array
  rng: jax.Array

  @property
  def weights(self) -> dict:
    """What acting and predicting need: as of the function `weights`."""
    return weights(self.params, self.statistics)


def weights(params, statistics) -> dict:
  """`params` with the world model's as it predicts with them: with its statistics, and a probe as
  its decoder.
  """
  model = with_statistics(params['world_model'], statistics)
  if 'probe' in params:
    model = {**model, 'decoder': params['probe']}
  return {**params, 'world_model': model}


@dataclasses.dataclass(frozen=True)
class Agent:
  """A world model and a behaviour with their optimisers. `deterministic` replaces every draw by its
  mode.
  """

  world_model: WorldModel
  behavior: Behavior
  optimizers: Mapping[str, optax.GradientTransformation]
  actions: int
  discrete: bool
  batch_size: int
  slow_fraction: float = 0.02
  slow_every: int = 1
  skip_nonfinite: int = 0
  deterministic: bool = False

  @classmethod
  def from_config(
    cls,
    config,
    shapes: Mapping[str, tuple],
    actions: int,
    discrete: bool,
    deterministic: bool = False,
  ) -> 'Agent':
    """`config` as in configs/dreamerv3.py, observation shapes by name, number of actions."""
    dtype = jnp.dtype(config.compute_dtype)
    # it would not learn where sequences begin inside one
    if config.replay.first_action and config.rssm.learned_initial:
      raise ValueError('with replay.first_action rssm.learned_initial must be False')
    model = WorldModel.from_config(config, shapes, actions, dtype)
    behavior = Behavior.from_config(config, model.rssm.feature_size, actions, discrete, dtype)
    rates = (
      (config.weighting.rate, config.weighting.beta2)
      if model.weighting.init(model.tasks)[0]
      else ()
    )
    optimizers = {
      'world_model': optimizer(config.model_opt, *rates),
      'actor': optimizer(config.actor_opt),
      'critic': optimizer(config.critic_opt),
    }
    if model.probing:
      optimizers['probe'] = optimizer(config.probe_opt)
    return cls(
      model,
      behavior,
      optimizers,
      actions,
      discrete,
      config.batch_size,
      config.critic.slow_fraction,
      config.critic.slow_every,
      config.skip_nonfinite,
      deterministic,
    )

  # ------------------------------------------------------------------------------------------------

  def init(self, key) -> TrainState:
    """A fresh state; the slow critic starts as the critic and takes its values again after the
    first update.
    """
    model_key, behavior_key, rng = jax.random.split(key, 3)
    model, statistics, weighting = self.world_model.init(model_key)
    actor, critic = self.behavior.init(behavior_key)
    params = {'world_model': model, 'actor': actor, 'critic': critic}
    if self.world_model.probing:
      # no part of it
      params['probe'] = self.world_model.init_probe(jax.random.fold_in(model_key, 100))
    opt_state = {k: self.optimizers[k].init(params[k]) for k in params}
    targets = {
      'critic': critic,
      **({'world_model': slow} if (slow := self.world_model.targets(model)) else {}),
    }
    return TrainState(
      params,
      opt_state,
      jax.tree.map(jnp.copy, targets),
      statistics,
      weighting,
      Percentiles.zeros(),
      self.initial_carry(params, self.batch_size),
      jnp.zeros((), jnp.int32),
      jnp.zeros((), jnp.int32),
      rng,
    )

  def initial_carry(self, params, batch: int) -> Carry:
    """The learned initial latent state and a zero action, for `batch` sequences or environments."""
    latent = self.world_model.rssm.initial(params['world_model']['rssm'], batch)
    return Carry(latent, jnp.zeros((batch, self.actions), jnp.float32))

  # ------------------------------------------------------------------------------------------------

  def _carry(self, params, batch) -> Carry:
    """The initial latent state with the action before a batch's sequences, where that is known."""
    carry = self.initial_carry(params, len(batch['is_first']))
    return carry._replace(action=batch.get('before', carry.action))

  def train_step(self, state: TrainState, batch) -> tuple[TrainState, dict]:
    """One update of everything.

    Args:
      batch: observations [B, T, ...], `action` [B, T, A] (one-hot if discrete) taken *after* the
        observation of its row, `reward`, `is_first`, `is_terminal` [B, T]. With `before` [B, A],
        the action before the first row, sequences begin with the initial state in place of that
        where the last batch ended.

    Returns: the next state and scalar metrics.

    Where a metric (a loss, the norm of a gradient, …) is not finite, nothing changes but the counts
    `step` and `nonfinite`; after more than `skip_nonfinite` such updates nothing changes at all any
    more, so that the state is the one in which update number `step` goes wrong.
    """
    after, metrics, _ = self._update(state, batch)
    finite = jnp.isfinite(jnp.stack(list(metrics.values()))).all()
    frozen = state.nonfinite > self.skip_nonfinite
    count = state.nonfinite + (~finite & ~frozen)
    fixed = dict(rng=state.rng, nonfinite=count, step=state.step + (count <= self.skip_nonfinite))
    kept = jax.tree.map(
      lambda new, old: jnp.where(finite & ~frozen, new, old),
      *(each.replace(rng=None) for each in (after, state)),
    )
    return kept.replace(**fixed), metrics | {'nonfinite_updates': count}

  def finite(self, state: TrainState, batch) -> tuple:
    """For each of `FINITE`, {name: whether it is finite everywhere} of one update."""
    after, metrics, gradients = self._update(state, batch)
    losses = {k: v for k, v in metrics.items() if k.startswith('loss/')}
    found = (
      batch,
      state.params,
      state.targets,
      state.opt_state,
      losses,
      *(gradients.get(k, {}) for k in SUBTREES),
      metrics,
      after.params,
    )
    return tuple(
      {
        jax.tree_util.keystr(path, simple=True, separator='/'): jnp.isfinite(leaf).all()
        for path, leaf in jax.tree.leaves_with_path(tree)
        if jnp.issubdtype(leaf.dtype, jnp.floating)
      }
      for tree in found
    )

  def _update(self, state, batch):
    """(next state, metrics, gradients by subtree), finite or not."""
    params, optimizers = dict(state.params), dict(state.opt_state)
    params['world_model'] = self.world_model.prepared(params['world_model'])
    noise = self._train_noise(jax.random.fold_in(state.rng, state.step), *batch['is_first'].shape)
    carry = jax.lax.stop_gradient(self._carry(params, batch) if 'before' in batch else state.carry)
    previous_action = shift_actions(batch['action'], carry.action)
    metrics, gradients = {}, {}

    def update(name, loss, *args):
      """Gradient and update of one subtree; returns what the loss returns beside its value."""
      (_, aux), gradient = jax.value_and_grad(loss, has_aux=True)(params[name], *args)
      gradient = replicas.mean(gradient)
      if name == 'world_model':
        gradient = self.world_model.frozen(gradient, state.step)
      gradients[name] = gradient
      # the optimiser's vector
      metrics[f'grad_norm/{name}'] = jnp.linalg.norm(ravel_pytree(gradient)[0])
      updates, optimizers[name] = self.optimizers[name].update(
        gradient, optimizers[name], params[name]
      )
      params[name] = optax.apply_updates(params[name], updates)
      return aux

    model_loss = lambda params, *args: self.world_model.loss(
      with_statistics(params, state.statistics), *args
    )
    weighting, outputs, model_metrics = update(
      'world_model',
      model_loss,
      state.weighting,
      carry.latent,
      batch,
      previous_action,
      noise['posterior'],
      state.targets.get('world_model'),
    )
    start, not_terminal = self._starts(outputs.posterior, batch)
    trajectory, returns, normalizer, actor_metrics = update(
      'actor',
      self.behavior.actor_loss,
      self.world_model,
      params['world_model'],
      {'fast': params['critic'], 'slow': state.targets['critic']},
      start,
      not_terminal,
      noise['imagination'],
      state.normalizer,
    )
    critic_metrics = update(
      'critic', self.behavior.critic_loss, state.targets['critic'], trajectory, returns
    )
    probe_metrics = {}
    if self.world_model.probing:
      probe_metrics = update(
        'probe', self.world_model.probe_loss, outputs, batch, noise['posterior']
      )
    metrics |= replicas.mean(model_metrics | actor_metrics | critic_metrics | probe_metrics)
    targets = {
      'critic': follow(
        state.targets['critic'], params['critic'], state.step, self.slow_fraction, self.slow_every
      )
    }
    if 'world_model' in state.targets:
      targets['world_model'] = self.world_model.update_targets(
        state.targets['world_model'], params['world_model'], state.step
      )
    # the first view's
    last = jax.tree.map(lambda x: x[: len(batch['action']), -1], outputs.posterior)
    state = state.replace(
      params=params,
      opt_state=optimizers,
      targets=targets,
      statistics=outputs.statistics,
      weighting=weighting,
      normalizer=normalizer,
      carry=jax.lax.stop_gradient(Carry(last, batch['action'][:, -1])),
      step=state.step + 1,
    )
    return state, metrics, gradients

  def _starts(self, posterior, batch):
    """(states that imagination starts from, whether their episodes go on): all steps of all views,
    in one row.
    """
    count = None if self.behavior.known_ends else -1
    not_terminal = 1 - batch['is_terminal'].astype(jnp.float32)
    not_terminal = jnp.concatenate([not_terminal] * self.world_model.views)
    return jax.tree.map(lambda x: x[:, :count].reshape(-1, *x.shape[2:]), (posterior, not_terminal))

  def _train_noise(self, key, batch: int, length: int) -> dict:
    """All draws of one update, keyed by the row in the whole batch: of the posterior as of
    `WorldModel.noise`, of the imagination a `Noise` for all starts."""
    if self.deterministic:
      return {'posterior': None, 'imagination': Noise()}
    model, behavior, actor = self.world_model, self.behavior, self.behavior.actor
    starts = (model.views, length if behavior.known_ends else length - 1)

    def row(index):
      keys = jax.random.split(jax.random.fold_in(key, index), 3)
      entropy = None
      if actor.estimates:
        entropy = actor.noise(
          jax.random.fold_in(keys[2], 1), (actor.samples, behavior.horizon, *starts)
        )
      return (
        model.noise(keys[0], length),
        model.rssm.latents.noise(keys[1], (behavior.horizon, *starts)),
        actor.noise(keys[2], (behavior.horizon + 1, *starts)),
        entropy,
      )

    # The axis of rows comes after that of views: the first views of all sequences stand before the
    # second.
    posterior, latent, action, entropy = jax.vmap(row, out_axes=(1, 2, 2, 3))(replicas.rows(batch))
    merge = lambda x, first, last: x.reshape(*x.shape[:first], -1, *x.shape[last + 1 :])
    return {
      'posterior': jax.tree.map(lambda x: merge(x, 0, 1), posterior),
      'imagination': Noise(
        merge(latent, 1, 3),
        merge(action, 1, 3),
        entropy if entropy is None else merge(entropy, 2, 4),
      ),
    }

  # ------------------------------------------------------------------------------------------------

  def policy(
    self, params, carry: Carry, observation, is_first, key: jax.Array | None, mode: bool = False
  ) -> tuple[jax.Array, Carry]:
    """Chooses actions for N environments.

    Args:
      params: `TrainState.weights`. carry: from `initial_carry` or the previous call.
      observation: {name: [N, ...]}. is_first: [N] bool; those environments start from the initial
        state.
      key: randomness of this step, or None for modes everywhere. mode: take the most likely action,
        with the latent still sampled.

    Returns: actions [N, A] (one-hot if discrete), and the next carry.
    """
    count = is_first.shape[0]
    model, rssm, actor = params['world_model'], self.world_model.rssm, self.behavior.actor
    latent_noise = action_noise = None
    if key is not None and not self.deterministic:
      latent_key, action_key = jax.random.split(key)
      rows = jnp.arange(count)
      latent_noise = jax.vmap(lambda i: rssm.latents.noise(jax.random.fold_in(latent_key, i), ()))(
        rows
      )
      draws = (actor.samples,) if mode and actor.estimates else ()
      action_noise = jax.vmap(lambda i: actor.noise(jax.random.fold_in(action_key, i), draws))(rows)
    embed = self.world_model.encode(model, observation)
    latent = rssm.filter(model['rssm'], carry.latent, embed, carry.action, is_first, latent_noise)
    distribution = actor(params['actor'], latent.feature())
    action = (
      actor.mode(distribution, action_noise) if mode else actor.sample(distribution, action_noise)
    )
    return action, Carry(latent, action)

  def act(
    self, params, carry: Carry, observation, is_first, call, key, mode: bool = False
  ) -> tuple[jax.Array, Carry]:
    """`policy` with the randomness of call number `call` (uint32) of a player with this key."""
    return self.policy(params, carry, observation, is_first, jax.random.fold_in(key, call), mode)

  def report(self, state: TrainState, batch, context: int = 5) -> dict:
    """Open-loop predictions for a batch, leaves [B, T, ...] of `WorldModel.predict`, the first
    `context` steps filtered.

    With prototypes also 'assigned', what the predicted assignments are to be compared with: see
    `WorldModel.assign`.
    """
    key = jax.random.fold_in(state.rng, state.step)
    noise = self._train_noise(key, *batch['is_first'].shape)['posterior']
    noise = noise and noise['latent'][: len(batch['is_first'])]
    previous_action = shift_actions(batch['action'], self._carry(state.params, batch).action)
    model, params = self.world_model, state.weights['world_model']
    found = model.open_loop(params, batch, previous_action, context, noise)
    return found | {'assigned': model.assign(params, batch)} if model.prototypes else found

  def task_losses(self, state: TrainState, batch) -> dict:
    """The world model's losses by name on one batch, without training."""
    carry = self._carry(state.params, batch)
    noise = self._train_noise(jax.random.fold_in(state.rng, state.step), *batch['is_first'].shape)
    return self.world_model.losses(
      self.world_model.prepared(state.weights['world_model']),
      carry.latent,
      batch,
      shift_actions(batch['action'], carry.action),
      noise['posterior'],
      state.targets.get('world_model'),
    )[0]

  def with_harmonizers(self, state: TrainState, losses) -> TrainState:
    """The state with every harmonizer at its rule's closed form (eq. 12) for the given losses
    {name: scalar}.
    """
    model = state.params['world_model']
    chosen = {k: jnp.asarray(losses[k]) for k in model['harmony']}
    start = harmony.from_losses(chosen, self.world_model.weighting)
    return state.replace(params={**state.params, 'world_model': {**model, 'harmony': start}})


def shift_actions(action, before):
  """[B, T, A] taken after each row -> taken before each row, with `before` [B, A] for the first."""
  return jnp.concatenate([before[:, None], action[:, :-1]], 1)


def optimizer(
  config, harmony_rate: float = 1.0, harmony_beta2: float = 0.999
) -> optax.GradientTransformation:
  """clip by global norm -> weight decay -> Adam -> -lr, for one subtree, all leaves in one vector:
  fewer, larger loops.

  The harmonizers are leaves like any other. For short runs they may have a learning rate of their
  own (times `harmony_rate`) and a shorter memory of squared gradients: a harmonizer's gradient -L/σ
  shrinks as σ grows, and Adam divides by its root mean square over 1/(1-β₂) steps, so that s = log
  σ rises by at most (1-β₂)/2 per update in the long run, whatever the rate: 0.5 in 1,000 updates
  with 0.999. That never binds at the paper's rate of 1e-4.
  """
  decay = lambda share: [optax.add_decayed_weights(share)] if config.weight_decay else []

  def adam(rate=1.0, beta2=0.999):
    if config.kind == 'tensorflow':
      # The decay shrinks every parameter by this share in each update, whatever the learning rate.
      # optax adds `eps` after the correction of the second moment's bias, TensorFlow before it.
      return optax.flatten(
        optax.chain(
          scale_by_tensorflow_adam(beta2, config.eps),
          optax.scale(-config.lr * rate),
          *decay(-config.weight_decay),
        )
      )
    # The decay is coupled (L2): it joins the gradient before Adam, on every parameter, as
    # DreamerV2's authors have it.
    return optax.flatten(
      optax.chain(
        *decay(config.weight_decay),
        optax.scale_by_adam(b2=beta2, eps=config.eps),
        optax.scale(-config.lr * rate),
      )
    )

  body = adam()
  if (harmony_rate, harmony_beta2) != (1.0, 0.999):
    body = optax.partition(
      {'model': body, 'harmony': adam(harmony_rate, harmony_beta2)},
      lambda params: {name: 'harmony' if name == 'harmony' else 'model' for name in params},
    )
  return optax.chain(optax.flatten(optax.clip_by_global_norm(config.clip)), body)


def scale_by_tensorflow_adam(
  b2: float, eps: float, b1: float = 0.9
) -> optax.GradientTransformation:
  """Adam as TensorFlow has it: √(1-β₂ᵗ)/(1-β₁ᵗ) m / (√v + ε), which is optax's with ε / √(1-β₂ᵗ) in
  place of ε.
  """

  def update(gradient, state, params=None):
    del params
    count = optax.safe_increment(state.count)
    mu = optax.tree.update_moment(gradient, state.mu, b1, 1)
    nu = optax.tree.update_moment(gradient, state.nu, b2, 2)
    step = jnp.sqrt(1 - b2 ** count.astype(jnp.float32)) / (1 - b1 ** count.astype(jnp.float32))
    updates = jax.tree.map(lambda m, v: step * m / (jnp.sqrt(v) + eps), mu, nu)
    return updates, optax.ScaleByAdamState(count, mu, nu)

  return optax.GradientTransformation(optax.scale_by_adam(b1, b2, eps).init, update)


def parameter_count(params) -> int:
  """Number of trainable scalars in a tree."""
  return sum(leaf.size for leaf in jax.tree.leaves(params))
