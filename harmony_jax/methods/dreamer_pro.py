"""DreamerPro with harmonizers (eq. 17): what differs from DreamerV2.

Source: the authors' TensorFlow code, configurations `defaults dmc` with `norm_off` (plain
backgrounds) or `reward_1000` (natural ones). Published with Gaussian latents and, for natural ones,
a reward weight of 1000 and the norm loss: --weighting=fixed --config.weighting.w_r=1000
--config.prototypes.norm=1. Shapes as on the page of DreamerV3, with V = 2 views.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from harmony_jax import method, replicas, settings
from harmony_jax.distributions import Percentiles
from harmony_jax.encoders import Decoder, ImageSettings
from harmony_jax.envs.base import Spec
from harmony_jax.methods import dreamer_v2
from harmony_jax.methods.dreamer_parts import (
  Draws,
  Params,
  TrainState,
  Trajectory,
  imagination_metrics,
)
from harmony_jax.methods.dreamer_settings import DreamerSettings, upgrade
from harmony_jax.optimizers import OptimizerSettings, descend, make_optimizer
from harmony_jax.prototypes import Prototypes, PrototypeSettings
from harmony_jax.rssm import State
from harmony_jax.settings import group, setting

sg = jax.lax.stop_gradient


@dataclasses.dataclass(frozen=True)
class ProbeSettings(ImageSettings):
  """The probing decoder: learns from the states, and nothing from it."""

  probe: bool = setting(False, 'train a detached decoder, for people to look at')


@dataclasses.dataclass(frozen=True)
class DreamerProSettings(DreamerSettings):
  """Harmony DreamerPro: 2,925,681 parameters of the world model, 4 harmonizers, with 6 actions."""

  decoder: ProbeSettings = group(
    ProbeSettings, 'Latent state -> observations, of the probe.', 'decoder.probe'
  )
  prototypes: PrototypeSettings = group(
    PrototypeSettings, 'Assignments to prototypes in place of reconstruction: prototypes.py.'
  )
  probe_opt: OptimizerSettings = group(
    OptimizerSettings, "The probing decoder's.", 'decoder.probe', lr=3e-4
  )


_OPT = {'kind': 'tensorflow', 'eps': 1e-5, 'clip': 100.0, 'weight_decay': 1e-6}
_V2 = {
  k: v for k, v in settings.flatten(dreamer_v2.SETTINGS).items() if not k.startswith('prototypes')
}
SETTINGS = settings.replace(
  DreamerProSettings(),
  {
    **_V2,
    'batch_size': 50,
    'batch_length': 51,
    'rssm.latent': 'gaussian',
    'rssm.deter': 200,
    'rssm.units': 200,
    'rssm.gru_init': 'style',
    'actor.distribution': 'tanh_normal',
    'behavior.horizon': 14,  # 15 states: the authors count the first one
    **{f'{each}_opt.{k}': v for each in ('model', 'actor', 'critic') for k, v in _OPT.items()},
    'replay.first_action': True,
    'train_ratio': 510.0,  # 50 · 51 / 5: one update every 5 steps
    'prefill': 2500,
  },
)
# A tenth of a short run, as 10,000 updates are of a long one.
_SMALL = {'prototypes.count': 256, 'actor.samples': 20, 'prototypes.freeze': 500}


class DreamerPro(dreamer_v2.DreamerV2):
  """DreamerV2 that learns from assignments to prototypes, seen in two views of each sequence.

  With `decoder.probe` a decoder learns from the states, for people to look at: parameters and an
  optimiser of its own, `probe`, and nothing learns from it.
  """

  shortest = 1  # an action is judged in its own state

  def __init__(self, settings: DreamerProSettings, spec: Spec, deterministic: bool = False):
    super().__init__(settings, spec, deterministic)
    self.unstarted = int(settings.continue_head.enabled)  # the last step
    if settings.decoder.probe:
      self.optimizers['probe'] = make_optimizer(settings.probe_opt)

  settings: DreamerProSettings

  def make_objective(self) -> Prototypes:
    """Return the prototypes, and make the probing decoder if it is asked for."""
    s, size = self.settings, self.rssm.feature_size
    if s.encoder.kind != 'plain' or not self.encoder.images:
      raise ValueError('DreamerPro is for pictures and plain encoders')
    self.probe: Decoder | None = None
    if s.decoder.probe:
      if s.decoder.kind != 'plain':
        raise ValueError(f"with decoder.probe decoder.kind must be 'plain', not {s.decoder.kind!r}")
      self.probe = Decoder.make(s.decoder, self.shapes, size, s.losses.likelihood, **self.layers)
    return Prototypes(config=s.prototypes, encoder=self.encoder, feature=size)

  def discounts(
    self, params: Params, feature: jax.Array, alive: jax.Array
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """As DreamerV2's, but the first state asks the head, too."""
    keep = self.expected_keep(params, feature)
    return dreamer_v2.discounted(keep, self.settings.behavior.discount)

  def actor_loss(
    self,
    actor: Params,
    params: Mapping[str, Params],
    state: TrainState,
    start: State,
    alive: jax.Array,
    draws: Draws,
  ) -> tuple[jax.Array, tuple[Trajectory, jax.Array, Percentiles, method.Metrics]]:
    """As DreamerV2's, but an action is judged by the return of its own state, Rₜ; no bonus in it.

    The first reward does not depend on the action. Returns are of the slow critic, what REINFORCE
    holds them against is of the critic itself.
    """
    trajectory, (returns, value, reward) = self.judged(actor, params, state, start, alive, draws)
    policy = self.actor.policy(actor, sg(trajectory.feature[:-1]))
    entropy = policy.entropy(draws.entropy)  # [H, N]
    bonus = self.settings.behavior.entropy * entropy
    baseline = self.critic.mean(params['critic'], trajectory.feature)[:-1]
    loss, advantage = self.weighed_loss(policy, trajectory, returns, baseline, bonus)
    metrics = imagination_metrics(loss, returns, value, reward, entropy, advantage)
    return loss, (sg(trajectory), sg(returns), state.normalizer, metrics)

  # ------------------------------------------------------------------------------------------------
  # The probe

  def update(
    self, state: TrainState, batch: method.Batch
  ) -> tuple[TrainState, method.Metrics, dict[str, Any], tuple[State, Draws]]:
    """Do the update, and the probe's on the first view's states."""
    after, metrics, gradients, (post, draws) = super().update(state, batch)
    decoder = self.probe
    if not decoder:
      return after, metrics, gradients, (post, draws)
    size = len(batch['is_first'])
    feature = sg(post.feature()[:size])  # [B, T, F]
    shifts = None if draws.view is None else draws.view[:size]
    target = self.objective.view({k: batch[k] for k in self.shapes}, shifts)

    def loss(probe):
      total = sum(decoder.losses(probe, None, feature, target)[0].values(), jnp.float32(0))
      return total, {'loss/probe': total}

    params, opt, gradient, more = descend(
      self.optimizers['probe'], loss, state.params['probe'], state.opt_state['probe']
    )
    after = after.replace(
      params={**after.params, 'probe': params}, opt_state={**after.opt_state, 'probe': opt}
    )
    return after, metrics | replicas.mean(more), gradients | {'probe': gradient}, (post, draws)

  def init_behavior(self, key: jax.Array, model_key: jax.Array) -> dict[str, Params]:
    """Return the parameters beside the world model's."""
    params = super().init_behavior(key, model_key)
    if self.probe:
      params['probe'] = self.probe.init(jax.random.fold_in(model_key, 100))['params']
    return params

  def predict(self, variables: Mapping[str, Params], feature: jax.Array) -> dict[str, Any]:
    """Return what the model makes of features, with the probe's observations if there are any."""
    found = super().predict(variables, feature)
    if self.probe:
      found['observation'] = self.probe.predict(variables['probe'], None, feature)
    return found

  def draws_pictures(self) -> bool:
    """With a probe."""
    return self.probe is not None


METHOD = method.Entry(
  settings=SETTINGS,
  make=DreamerPro,
  sizes={'small': {**dreamer_v2.SMALL, **_SMALL}, 'toy': {**dreamer_v2.TOY, **_SMALL}},
  family='dreamer',
  adapt=dreamer_v2.adapt,
  upgrade=upgrade,
)
