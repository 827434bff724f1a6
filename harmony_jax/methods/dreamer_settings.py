"""The settings of the Dreamers, put together from those of their parts."""

import dataclasses

from harmony_jax.actions import ActorSettings
from harmony_jax.encoders import ImageSettings
from harmony_jax.method import MethodSettings
from harmony_jax.networks import HeadSettings, ScalarSettings, Style
from harmony_jax.optimizers import OptimizerSettings
from harmony_jax.rssm import RSSMSettings
from harmony_jax.settings import group, setting
from harmony_jax.weighting import LossSettings, WeightingSettings

_RANGE = 'method!=dreamerv2|dreamerpro'  # which do not normalise returns
_SLOW = 'method!=dreamerv3 or .slow_regularizer'  # others bootstrap from the slow critic


@dataclasses.dataclass(frozen=True)
class ContinueSettings(HeadSettings):
  """The head that predicts whether an episode goes on."""

  enabled: bool = setting(True, 'False where episodes never end early: it always goes on')
  predicts: str = setting(
    'continue',
    'continue: 0 or 1; discount: the discount in place of 1, as DreamerV2',
    choices=('continue', 'discount'),
  )
  scale: float = setting(1.0, 'weight of its loss, which has no harmonizer')
  gradient: bool = setting(True, 'the latent state learns from it, too')


@dataclasses.dataclass(frozen=True)
class CriticSettings(ScalarSettings):
  """The value of a latent state."""

  slow_regularizer: float = setting(
    1.0, 'weight of the loss that holds the critic near the slow one'
  )
  slow_fraction: float = setting(
    0.02,
    'how far the slow critic goes towards the critic in one of its updates',
    most=1,
    only=_SLOW,
  )
  slow_every: int = setting(1, 'updates between two of them', least=1, only=_SLOW)


@dataclasses.dataclass(frozen=True)
class BehaviorSettings:
  """How actor and critic learn in imagination."""

  horizon: int = setting(15, 'imagined steps, H', least=1)
  discount: float = setting(1 - 1 / 333, 'γ; 1 - 1/333 is a horizon of 333 steps', most=1)
  lam: float = setting(0.95, 'λ of the λ-returns', most=1)
  entropy: float = setting(3e-4, "weight of the policy's entropy")
  return_decay: float = setting(
    0.99, 'memory of the range of returns (DreamerV3)', most=1, only=_RANGE
  )
  return_low: float = setting(5.0, 'percentile where the range begins', only=_RANGE)
  return_high: float = setting(95.0, 'percentile where it ends', only=_RANGE)


@dataclasses.dataclass(frozen=True)
class DreamerSettings(MethodSettings):
  """Harmony DreamerV3 as the authors ran it on Atari 100K: 17,922,955 parameters with 6 actions."""

  network: Style = group(Style, 'All hidden layers.')
  encoder: ImageSettings = group(ImageSettings, 'Observations -> embedding.')
  decoder: ImageSettings = group(ImageSettings, 'Latent state -> observations.')
  rssm: RSSMSettings = group(RSSMSettings, 'The recurrent state-space model: the dynamics.')
  reward_head: ScalarSettings = group(ScalarSettings, 'Latent state -> reward.')
  continue_head: ContinueSettings = group(
    ContinueSettings, 'Latent state -> whether the episode goes on.', 'continue_head.enabled'
  )
  actor: ActorSettings = group(ActorSettings, 'The policy.')
  critic: CriticSettings = group(CriticSettings, 'The value of a latent state.')
  losses: LossSettings = group(LossSettings, "The world model's losses, before they are weighed.")
  weighting: WeightingSettings = group(WeightingSettings, 'How the tasks are weighed: harmony.py.')
  behavior: BehaviorSettings = group(BehaviorSettings, 'How actor and critic learn in imagination.')
  model_opt: OptimizerSettings = group(
    OptimizerSettings, "The world model's optimiser; the harmonizers are among its parameters."
  )
  actor_opt: OptimizerSettings = group(
    OptimizerSettings, "The actor's.", lr=3e-5, eps=1e-5, clip=100.0
  )
  critic_opt: OptimizerSettings = group(
    OptimizerSettings, "The critic's.", lr=3e-5, eps=1e-5, clip=100.0
  )


# Sizes for small machines: 1.6 million parameters in place of 18, and smaller still for a look at
# whether everything works.
_HEADS = ('reward_head', 'continue_head', 'actor', 'critic')
SMALL = {
  **{f'{net}.depth': 32 for net in ('encoder', 'decoder')},
  **{f'{net}.patch': 8 for net in ('encoder', 'decoder')},
  'rssm.deter': 256,
  'rssm.units': 128,
  'rssm.stoch': 16,
  'rssm.classes': 16,
  **{f'{head}.units': 128 for head in _HEADS},
  'batch_size': 8,
  'batch_length': 16,
  'behavior.horizon': 8,
  'behavior.entropy': 2e-2,
  'model_opt.lr': 1e-3,
  'actor_opt.lr': 3e-4,
  'critic_opt.lr': 5e-4,
}
TOY = {
  **SMALL,
  **{f'{net}.depth': 16 for net in ('encoder', 'decoder')},
  'rssm.deter': 64,
  'rssm.units': 32,
  'rssm.stoch': 8,
  'rssm.classes': 8,
  **{f'{head}.units': 32 for head in _HEADS},
  'batch_size': 4,
  'behavior.horizon': 5,
}

# What told three methods apart in run folders of format 1, now functions and parts.
_FORMER = (
  'reward_of',
  'lead',
  'gradient',
  'mix',
  'known_ends',
  'value',
  'baseline',
  'normalize',
  'keep',
  'critic_entropy',
)


def upgrade(tree: dict) -> dict:
  """Return the settings of a run folder of format 1 without those that are gone."""
  tree = {**tree, 'behavior': {k: v for k, v in tree['behavior'].items() if k not in _FORMER}}
  if tree['method'] != 'dreamerpro':
    gone = ('prototypes', 'probe_opt')
    decoder = {k: v for k, v in tree['decoder'].items() if k != 'probe'}
    return {'decoder': decoder, **{k: v for k, v in tree.items() if k not in (*gone, 'decoder')}}
  head = {k: v for k, v in tree['prototypes'].items() if k != 'enabled'}
  return {**tree, 'prototypes': head}
