"""DreamerPro with harmonizers (eq. 17): what differs from DreamerV2."""

import dataclasses

from harmony_jax import method, settings
from harmony_jax.methods import dreamer, dreamer_v2
from harmony_jax.networks import ImageSettings
from harmony_jax.optimizers import OptimizerSettings
from harmony_jax.prototypes import PrototypeSettings
from harmony_jax.settings import group, setting


@dataclasses.dataclass(frozen=True)
class ProbeSettings(ImageSettings):
  """The probing decoder: learns from the states, and nothing from it."""

  probe: bool = setting(False, 'train a detached decoder, for people to look at')


@dataclasses.dataclass(frozen=True)
class DreamerProSettings(dreamer.DreamerSettings):
  """Harmony DreamerPro: 2,925,681 parameters of the world model, 4 harmonizers, with 6 actions."""

  decoder: ProbeSettings = group(ProbeSettings, 'Latent state -> observations, of the probe.')
  prototypes: PrototypeSettings = group(
    PrototypeSettings, 'Assignments to prototypes in place of reconstruction: prototypes.py.'
  )
  probe_opt: OptimizerSettings = group(OptimizerSettings, "The probing decoder's.", lr=3e-4)


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
  """See the page of DreamerV3."""

  flags = {**dreamer_v2.DreamerV2.flags, 'lead': 0, 'critic_entropy': False}
  prototypes = {**dreamer.Dreamer.prototypes, 'enabled': True}

  def __init__(self, settings, spec, deterministic=False):
    # The authors ask the head about the first state, too, and start nowhere at a last step.
    self.flags = {**self.flags, 'known_ends': not settings.continue_head.enabled}
    super().__init__(settings, spec, deterministic)


METHOD = method.Entry(
  settings=SETTINGS,
  make=DreamerPro,
  sizes={'small': {**dreamer_v2.SMALL, **_SMALL}, 'toy': {**dreamer_v2.TOY, **_SMALL}},
  family='dreamer',
  adapt=dreamer_v2.adapt,
)
