"""TD-MPC, the implicit world model that the paper compares with, from top to bottom.

It never draws what it sees: its latent states know rewards, values and their own future only. One
update: (1) the model learns from sequences, weighed by their priorities: consistency of the latent
states that it makes up with those of a slow encoder, rewards, values; these are tasks of harmony.py
like any others, with the authors' coefficients under the rule `none`. (2) The policy learns to do
what the new values like, in the latent states of (1). (3) The slow copies follow. Every action is
planned (tdmpc_planning.py).

Source: the authors' PyTorch code of 2023. Where it and their paper differ, a setting says so. No
setting of the HarmonyDream authors' runs is known: the defaults are the code's for pictures, with
the sizes of the suites of this project, which is inferred.

Shapes: B sequences of T rows, H = T - 1 steps that are learned, N environments, Z numbers of a
latent state, A actions, F pictures in a stack. Time comes first inside.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from harmony_jax import harmony, method, replicas
from harmony_jax.envs.base import Spec
from harmony_jax.methods import tdmpc_planning as planning
from harmony_jax.methods.tdmpc_networks import SMALLEST, Encoder, Head, Value
from harmony_jax.methods.tdmpc_replay import PriorityReplay
from harmony_jax.methods.tdmpc_settings import SETTINGS, SMALL, TASKS, TOY, TDMPCSettings
from harmony_jax.optimizers import descend, guard, make_optimizer, weighed

sg = jax.lax.stop_gradient
Params = Mapping[str, Any]
_LARGEST = 1e4  # of one sequence's loss, and its priority


class TrainState(method.TrainState):
  """Params by `world_model` and `policy`, one optimiser each; `carry` are priorities [B]."""

  targets: dict  # slow copies of all parameters, of which encoder and values are used
  weighting: Any  # state of the weighting rule; empty for harmony
  run_step: jax.Array  # of the run when the last batch was drawn


class Draws(NamedTuple):
  """The random numbers of one update: standard normal, but for crops (x, y) in 0 … 2 pad."""

  shift: jax.Array  # [H+1, B, 2], of each observation
  td: jax.Array  # [H, B, A], of the policy in the values' targets
  policy: jax.Array  # [H+1, B, A], of the policy when it learns


class TDMPC(method.Method):
  """The algorithm as pure functions over a `TrainState`.

  Attributes:
    stack: F; 1 for vectors. pad: pixels by which pictures are moved at most.
    shared: the model's parts that all tasks learn through.
  """

  replay = PriorityReplay
  acting = ('params', 'run_step')
  shared = ('encoder', 'dynamics')
  settings: TDMPCSettings

  def __init__(self, settings: TDMPCSettings, spec: Spec):
    s = settings
    self.settings, self.spec = settings, spec
    if spec.factors:
      raise ValueError('tdmpc plans continuous actions; here are choices: take --method=dreamerv3')
    if s.replay.sampling != 'inside':
      raise ValueError(f"replay.sampling is {s.replay.sampling!r}: with tdmpc it must be 'inside'")
    if s.planning.elites > s.planning.samples:
      raise ValueError(
        f'planning.elites is {s.planning.elites}: expected at most planning.samples, '
        f'{s.planning.samples}'
      )
    shapes = {name: array.shape for name, array in sorted(spec.observation.items())}
    self.pictures = [name for name, shape in shapes.items() if len(shape) == 3]
    if self.pictures and (len(shapes) > 1 or min(shapes[self.pictures[0]][:2]) < SMALLEST):
      raise ValueError(
        f'tdmpc sees one picture of {SMALLEST} pixels a side or more, or vectors alone; here is '
        f'{spec.spaces.partition(" and ")[0]}'
      )
    self.shapes = shapes
    self.stack = s.replay.frames if self.pictures else 1
    self.pad = shapes[self.pictures[0]][0] // 21 if self.pictures else 0
    dtype = jnp.dtype(s.compute_dtype)
    head = lambda outputs, zero=False: Head(s.units, outputs, zero, dtype)
    self.networks = {
      'encoder': Encoder(s.latent, s.channels, s.vector_units, bool(self.pictures), dtype),
      'dynamics': head(s.latent),
      'reward': head(1, zero=True),
      'q1': Value(s.units, dtype),
      'q2': Value(s.units, dtype),
      'policy': head(spec.num_actions),
    }
    w = s.weighting
    if harmony.observes(w.rule):
      raise ValueError(
        f'weighting.rule is {w.rule!r}: tdmpc predicts no observation, by whose loss that rule '
        'weighs the dynamics; take harmony or running'
      )
    if w.rule in ('none', 'fixed'):
      self.rule = harmony.make('fixed', weights={task: getattr(w, task) for task in TASKS})
    else:
      self.rule = harmony.make(w.rule, **w.hyper)
    rates = (w.rate, w.beta2) if self.rule.init(TASKS)[0] else ()
    self.optimizers = {
      'world_model': make_optimizer(s.model_opt, *rates),
      'policy': make_optimizer(s.policy_opt),
    }
    self.lead = self.stack - 1
    self.capabilities = {'open_loop': self.open_loop, 'features': self.features}

  def apply(self, params: Params, name: str, *inputs: jax.Array) -> jax.Array:
    """Return what a network makes of its inputs [...], with its entry of the parameters."""
    return self.networks[name].apply({'params': params[name]}, *inputs)  # pyright: ignore

  # ------------------------------------------------------------------------------------------------
  # The model

  def encode(self, params: Params, seen: jax.Array) -> jax.Array:
    """Return latent states [..., Z] of stacks [..., S, S, 3 F] or vectors [..., D]."""
    return self.apply(params, 'encoder', seen)

  def step(self, params: Params, latent: jax.Array, action: jax.Array) -> tuple:
    """Return (next latent state [..., Z], reward [...])."""
    reward = self.apply(params, 'reward', latent, action)[..., 0]
    return self.apply(params, 'dynamics', latent, action), reward

  def values(self, params: Params, latent: jax.Array, action: jax.Array) -> jax.Array:
    """Return both values [2, ...]."""
    return jnp.stack([self.apply(params, name, latent, action) for name in ('q1', 'q2')])

  def act_noisily(self, policy: Params, latent: jax.Array, noise: jax.Array) -> jax.Array:
    """Return actions [..., A] of the policy, for standard normal noise."""
    mean = jnp.tanh(self.apply({'policy': policy}, 'policy', latent))
    return planning.noisy(mean, self.settings.policy_std, noise)

  def see(self, batch: Mapping[str, jax.Array], lead: int) -> jax.Array:
    """Return what the encoder sees of rows from `lead` on: stacks with the newest picture last."""
    if not self.pictures:
      flat = (batch[k].reshape(*batch[k].shape[:2], -1) for k in self.shapes)
      return jnp.concatenate([*flat], -1)[:, lead:]
    picture = batch[self.pictures[0]]
    count = picture.shape[1] - lead
    return jnp.concatenate([picture[:, i : i + count] for i in range(lead + 1)], -1)

  def shifted(self, seen: jax.Array, shift: jax.Array) -> jax.Array:
    """Move pictures [..., S, S, C] by whole pixels: a crop at (x, y) of them with longer edges."""
    if not self.pictures:
      return seen
    pad, shape = self.pad, seen.shape[-3:]

    def move(picture, shift):
      padded = jnp.pad(picture, ((pad, pad), (pad, pad), (0, 0)), mode='edge')
      return jax.lax.dynamic_slice(padded, (shift[1], shift[0], 0), shape)

    return jax.vmap(move)(seen.reshape(-1, *shape), shift.reshape(-1, 2)).reshape(seen.shape)

  def losses(
    self, params: Params, state: TrainState, batch: method.Batch, draws: Draws
  ) -> tuple[dict[str, jax.Array], dict[str, Any]]:
    """Return (every task's loss on a batch, what it was made of, by step and sequence).

        consistency  |zₜ₊₁ - z'ₜ₊₁|² / Z      z' of the slow encoder
        reward       (r̂ₜ - rₜ)²
        value        Σᵢ (Qᵢ(zₜ, aₜ) - yₜ)²    yₜ = rₜ + γ min Q'(z'', π(z'')), z'' = encoder(oₜ₊₁)

    each Σₜ ρᵗ over t = 0 … H-1 and at most 10⁴, times the sequence's weight. z₀ is of the first
    observation, zₜ₊₁ follows zₜ: gradients flow through all steps, into the encoder from there
    only. Every observation is moved by a shift of its own.

    Args:
      params: the model's.
    """
    s, lead = self.settings, self.stack - 1
    of_rows = lambda name: batch[name][:, lead:].swapaxes(0, 1)  # [H+1, B, ...]
    action, reward = of_rows('action')[:-1], of_rows('reward')[1:]
    alive = 1 - of_rows('is_terminal')[1:].astype(jnp.float32)
    seen = self.shifted(self.see(batch, lead).swapaxes(0, 1), draws.shift)  # [H+1, B, ...]
    latents = [self.encode(params, seen[0])]
    for each in action:
      latents.append(self.apply(params, 'dynamics', latents[-1], each))
    latent = jnp.stack(latents)  # [H+1, B, Z]
    rewards = self.apply(params, 'reward', latent[:-1], action)[..., 0]  # [H, B]
    values = self.values(params, latent[:-1], action)  # [2, H, B]

    slow = state.targets['world_model']
    target = sg(self.encode(slow, seen[1:]))  # [H, B, Z]
    online = sg(latent[1:] if s.td_target == 'model' else self.encode(params, seen[1:]))
    chosen = sg(self.act_noisily(state.params['policy'], online, draws.td))  # [H, B, A]
    future = self.values(slow, online, chosen)  # [2, H, B]
    wanted = sg(reward + s.discount * alive * future.min(0))
    error = values - wanted
    steps = {
      'consistency': jnp.square(latent[1:] - target).mean(-1),
      'reward': jnp.square(rewards - reward),
      'value': jnp.square(error).sum(0),
      'priority': jnp.abs(error).sum(0),
    }  # [H, B]
    share = s.rho ** jnp.arange(len(action), dtype=jnp.float32)[:, None]
    sums = {name: (share * each).sum(0) for name, each in steps.items()}  # [B]
    priority = sg(jnp.minimum(sums['priority'], _LARGEST) + 1e-6)
    weight = batch.get('weight', jnp.ones_like(priority))
    if replicas.axis():  # a process knows but its own weights
      weight = weight / replicas.everywhere(weight).max()
    if s.importance == 'batch':
      weight = replicas.mean(weight.mean())
    losses = {name: (weight * jnp.minimum(sums[name], _LARGEST)).mean() for name in TASKS}
    found = {'latent': latent, 'rewards': rewards, 'values': values, 'target': target}
    found |= {'online': online, 'chosen': chosen, 'future': future, 'wanted': wanted}
    found |= {'steps': steps, 'sums': sums, 'priority': priority, 'seen': seen}
    # Before anything that is not linear in the means: some weighting rules.
    return replicas.mean(losses), found

  def weigh(
    self, found: tuple[dict[str, jax.Array], dict], harmonizers: dict, weighting: Any
  ) -> tuple[jax.Array, tuple[dict, Any, method.Metrics]]:
    """Return what the rule makes of the losses; and more."""
    losses, found_more = found
    total, weighting, weights = self.rule.weigh(losses, harmonizers, weighting)
    metrics = {f'loss/{name}': found_more['sums'][name].mean() for name in TASKS}
    metrics |= {'loss/world_model': total}
    metrics |= {f'harmony/{name}': value for name, value in weights.items()}
    return total, (found_more, weighting, metrics)

  # ------------------------------------------------------------------------------------------------
  # The policy

  def policy_loss(
    self, policy: Params, params: Params, latent: jax.Array, noise: jax.Array
  ) -> tuple[jax.Array, method.Metrics]:
    """Return -Σₜ ρᵗ mean min Q(zₜ, π(zₜ)) over t = 0 … H, and what is logged of it.

    Args:
      params: the model's, after its update. latent: [H+1, B, Z], made up before it.
    """
    action = self.act_noisily(policy, latent, noise)
    value = self.values(params, latent, action).min(0).mean(-1)  # [H+1]
    loss = -(self.settings.rho ** jnp.arange(len(value), dtype=jnp.float32) * value).sum()
    return loss, {'loss/policy': loss, 'policy/value': value[0]}

  # ------------------------------------------------------------------------------------------------
  # One update

  def train_step(self, state: TrainState, batch: method.Batch) -> tuple[TrainState, method.Metrics]:
    """Do one update of everything, unless it is not finite; see `Method.train_step`."""
    update = lambda state, batch: self.update(state, batch, self.draws(state, batch))
    return guard(update, state, batch, self.settings.skip_nonfinite)

  model_step = train_step  # the policy learns along: the values' targets ask what it would do

  def task_losses(self, state: TrainState, batch: method.Batch) -> dict[str, jax.Array]:
    """Return the losses of as many of the first rows as an update takes, without training."""
    rows = self.settings.batch_length + self.lead
    batch = jax.tree.map(lambda x: x[:, :rows], batch)
    return self.losses(state.params['world_model'], state, batch, self.draws(state, batch))[0]

  def draws(self, state: TrainState, batch: method.Batch) -> Draws:
    """Draw the random numbers of an update, by the row in the whole batch."""
    horizon, actions = self.settings.horizon, self.spec.num_actions

    def row(key):
      keys = jax.random.split(key, 3)
      return Draws(
        jax.random.randint(keys[0], (horizon + 1, 2), 0, 2 * self.pad + 1),
        jax.random.normal(keys[1], (horizon, actions)),
        jax.random.normal(keys[2], (horizon + 1, actions)),
      )

    key, count = jax.random.fold_in(state.rng, state.step), len(batch['is_first'])
    return jax.tree.map(lambda x: x.swapaxes(0, 1), replicas.draw_rows(key, count, row))

  def update(
    self, state: TrainState, batch: method.Batch, draws: Draws
  ) -> tuple[TrainState, method.Metrics, dict[str, Any]]:
    """Return (next state, metrics, gradients by subtree, before they are clipped).

    The model's gradient is divided by H first, whatever the weighting rule.
    """
    s, params, opt, gradients = self.settings, {}, {}, {}
    params['world_model'], opt['world_model'], gradients['world_model'], more = descend(
      self.optimizers['world_model'],
      lambda model: self.losses(model, state, batch, draws),
      state.params['world_model'],
      state.opt_state['world_model'],
      lambda gradient: jax.tree.map(lambda x: x / s.horizon, gradient),
      weighed(self.rule, self.weigh, state.weighting, self.shared),
    )
    found, weighting, metrics = more
    params['policy'], opt['policy'], gradients['policy'], of_policy = descend(
      self.optimizers['policy'],
      lambda policy: self.policy_loss(
        policy, params['world_model'], sg(found['latent']), draws.policy
      ),
      state.params['policy'],
      state.opt_state['policy'],
    )
    share = jnp.where(state.step % s.slow_every == 0, s.slow_fraction, 0.0)
    slow = jax.tree.map(lambda a, b: a + share * (b - a), state.targets, _without_harmony(params))
    state = state.replace(
      params=params,
      opt_state=opt,
      targets=slow,
      weighting=weighting,
      carry=found['priority'],
      run_step=batch['run_step'][0] if 'run_step' in batch else state.run_step,
      step=state.step + 1,
    )
    return state, replicas.mean(metrics | of_policy), gradients

  def feedback(self, state: TrainState) -> jax.Array:
    """Return the new priorities [B] of the last batch's sequences."""
    return state.carry

  # ------------------------------------------------------------------------------------------------
  # Acting

  def initial_carry(self, variables: Any, num_envs: int) -> dict[str, jax.Array]:
    """Return an empty plan, and nothing seen, leaves [N, ...]."""
    s, actions = self.settings, self.spec.num_actions
    carry = {
      'plan': jnp.zeros((num_envs, s.horizon, actions)),
      'horizon': jnp.ones(num_envs, jnp.int32),
      'latent': jnp.zeros((num_envs, s.latent)),
      'action': jnp.zeros((num_envs, actions)),
      'reward': jnp.zeros(num_envs),
    }
    if self.stack > 1:
      *side, channels = self.shapes[self.pictures[0]]
      carry['before'] = jnp.zeros((num_envs, *side, (self.stack - 1) * channels), jnp.uint8)
    return carry

  def act(
    self,
    variables: Params,
    carry: Params,
    observation: Mapping[str, jax.Array],
    is_first: jax.Array,
    key: jax.Array,
    mode: bool = False,
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Plan actions [N, A]; see `Method.act`. In training they may be beyond [-1, 1].

    The plan goes on with the one before. Its length is chosen when an episode begins. `mode` leaves
    the noise out, not the draw among the elites.
    """
    s, config, step = self.settings, self.settings.planning, variables['run_step']
    model, count = variables['world_model'], len(is_first)
    seen = self.see({k: v[:, None] for k, v in observation.items()}, 0)[:, 0]
    after = {}
    if self.stack > 1:
      again = jnp.concatenate([seen] * (self.stack - 1), -1)
      seen = jnp.concatenate([jnp.where(_rows(is_first, 4), again, carry['before']), seen], -1)
      after['before'] = seen[..., observation[self.pictures[0]].shape[-1] :]
    latent = self.encode(model, seen)  # [N, Z]
    now = planning.horizon_at(config.horizon, s.horizon, step)
    after['horizon'] = jnp.where(is_first, now, carry['horizon']).astype(jnp.int32)
    last = jnp.where(_rows(is_first, 3), 0, carry['plan'])  # [N, H, A]
    noise = replicas.draw_rows(
      key, count, lambda key: planning.draw(key, config, s.horizon, self.spec.num_actions)
    )
    chooser, floor = self.planner(variables), self.floor(step)

    def one(latent, last, horizon, noise):
      inputs = (latent, last, horizon, floor, noise)
      return planning.plan(chooser, config, s.discount, *inputs, explore=not mode)[:2]

    action, after['plan'] = jax.vmap(one)(latent, last, after['horizon'], noise)
    expected = self.step(model, carry['latent'], carry['action'])[1]
    after |= {'latent': latent, 'action': action, 'reward': jnp.where(is_first, 0, expected)}
    return action, after

  def planner(self, variables: Params) -> planning.Model:
    """Return what planning asks of the model."""
    model, policy = variables['world_model'], variables['policy']
    return planning.Model(
      lambda latent, action: self.step(model, latent, action),
      lambda latent, action: self.values(model, latent, action).min(0),
      lambda latent, noise: self.act_noisily(policy, latent, noise),
    )

  def floor(self, step: jax.Array) -> jax.Array:
    """Return the smallest standard deviation of planned actions at a step of the run."""
    return planning.linear(self.settings.planning.std, step)

  def variables(self, state: Any) -> dict[str, Any]:
    """Return the parameters by subtree, and the step that the schedules go by."""
    return {**state.params, 'run_step': state.run_step}

  def open_loop(
    self, variables: Params, carries: Params, actions: jax.Array, context: int, key: jax.Array
  ) -> dict[str, Any]:
    """Predict rewards and values, for there is no picture; see viewing.py."""
    model, known = variables['world_model'], carries['latent'][:, :context]
    future, reward = self.rollout(model, known[:, -1], actions[:, context - 1 : -1])
    latent = jnp.concatenate([known, future], 1)
    reward = jnp.concatenate([carries['reward'][:, :context], reward], 1)
    chosen = self.act_noisily(variables['policy'], latent, jnp.zeros(()))
    value = self.values(model, latent, chosen).min(0)
    return {'observation': {}, 'reward': reward, 'value': value, 'continue': jnp.ones_like(reward)}

  def features(
    self, variables: Params, batch: method.Batch, context: int, key: jax.Array
  ) -> dict[str, jax.Array]:
    """Return latent states and rewards of a batch; see viewing.py. There is no KL.

    A reward is predicted a step before it comes, also where it is 'seen'; that of row 0 is 0. The
    first picture stands for those before it.
    """
    model, action = variables['world_model'], batch['action']
    before = lambda x: jnp.concatenate([x[:, :1]] * self.lead + [x], 1)
    latent = self.encode(model, self.see({k: before(batch[k]) for k in self.shapes}, self.lead))
    reward = self.step(model, latent[:, :-1], action[:, :-1])[1]
    future = self.rollout(model, latent[:, context - 1], action[:, context - 1 : -1])[1]
    return {'feature': latent, 'reward': jnp.pad(reward, ((0, 0), (1, 0))), 'open_loop': future}

  def rollout(
    self, model: Params, latent: jax.Array, actions: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Return what follows actions [W, T, A]: latent states [W, T, Z], rewards [W, T]."""

    def step(latent, action):
      after = self.step(model, latent, action)
      return after[0], after

    found = jax.lax.scan(step, latent, actions.swapaxes(0, 1))[1]
    return jax.tree.map(lambda x: x.swapaxes(0, 1), found)

  # ------------------------------------------------------------------------------------------------
  # The rest of the protocol

  def init(self, key: jax.Array) -> TrainState:
    """Return a fresh state; the slow copies are as what they are copies of."""
    *keys, rng = jax.random.split(key, len(self.networks) + 1)
    s, pictures, zero = self.settings, self.pictures, jnp.zeros((), jnp.int32)
    shape = (sum(math.prod(shape) for shape in self.shapes.values()),)
    if pictures:
      *side, channels = self.shapes[pictures[0]]
      shape = (*side, channels * self.stack)
    latent, action = jnp.zeros((1, s.latent)), jnp.zeros((1, self.spec.num_actions))
    given = dict.fromkeys(self.networks, (latent, action))
    given |= {'encoder': (jnp.zeros((1, *shape)),), 'policy': (latent,)}
    made = {
      name: network.init(each, *given[name])['params']
      for each, (name, network) in zip(keys, self.networks.items())
    }
    policy = made.pop('policy')
    harmonizers, weighting = self.rule.init(TASKS)
    params = {'world_model': {**made, 'harmony': harmonizers}, 'policy': policy}
    return TrainState(
      params=params,
      opt_state={name: self.optimizers[name].init(params[name]) for name in params},
      targets=jax.tree.map(jnp.copy, _without_harmony(params)),
      weighting=weighting,
      carry=jnp.zeros(s.batch_size),
      step=zero,
      nonfinite=zero,
      run_step=zero,
      rng=rng,
    )

  def examine(self, state: TrainState, batch: method.Batch) -> dict[str, Any]:
    """Return what an update uses and makes, stage by stage; see `Method.examine`."""
    after, metrics, gradients = self.update(state, batch, self.draws(state, batch))
    return {
      'batch': batch,
      'params': state.params,
      'targets': state.targets,
      'optimizer': state.opt_state,
      'loss': {k: v for k, v in metrics.items() if k.startswith('loss/')},
      **{f'gradient of {k}': gradient for k, gradient in gradients.items()},
      'new params': after.params,
    }


def _without_harmony(params):
  model = {k: v for k, v in params['world_model'].items() if k != 'harmony'}
  return {**params, 'world_model': model}


def _rows(flags, rank):
  """[N] -> [N, 1, ...]."""
  return flags.reshape(-1, *[1] * (rank - 1))


def adapt(traits: method.Traits) -> dict:
  """Learn from the last reward, too, where episodes may end early: it may be the only one."""
  return {'replay.ends': True} if traits.ends_early else {}


METHOD = method.Entry(
  settings=SETTINGS,
  make=TDMPC,
  sizes={'small': SMALL, 'toy': TOY},
  family='tdmpc',
  adapt=adapt,
  note='the settings of the paper are not known; `paper` is inferred from the code of 2022 and '
  '2023 for pictures, with the steps and evaluations that the other methods have',
)
