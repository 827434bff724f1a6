"""The settings of Denoised MDP, and its smaller sizes.

The defaults are those of its authors' code for the control suite (the published variant: x and y),
with the steps, evaluations and action repeat that the suites of this project have. What the
HarmonyDream authors ran is not known: `paper` is inferred.
"""

import dataclasses

from harmony_jax import harmony, method, settings
from harmony_jax.methods.denoised_mdp_dynamics import DynamicsSettings
from harmony_jax.methods.denoised_mdp_networks import PictureSettings
from harmony_jax.methods.denoised_mdp_replay import EpisodeSettings
from harmony_jax.networks import HeadSettings
from harmony_jax.optimizers import OptimizerSettings
from harmony_jax.settings import group, setting
from harmony_jax.weighting import RuleSettings

_IMAGINING = 'behavior.learner=imagination'


@dataclasses.dataclass(frozen=True)
class LossSettings:
  """The KL of each part: its weight, and what of it is free."""

  alpha: float = setting(
    1.0, 'weight of all KLs together, for the rule none', only='weighting.rule=none'
  )
  beta_x: float = setting(1.0, 'weight of the KL of x')
  beta_y: float = setting(
    0.25, 'weight of the KL of y: below 1, so that noise is cheaper there', only='rssm.y.deter'
  )
  beta_z: float = setting(0.25, 'weight of the KL of z', only='rssm.z.deter')
  free_x: float = setting(3.0, "a step's KL of x below this is not reduced")
  free_y: float = setting(0.0, "a step's KL of y below this is not reduced", only='rssm.y.deter')
  free_z: float = setting(0.0, "a step's KL of z below this is not reduced", only='rssm.z.deter')
  beta_free_x: float = setting(
    0.0,
    'of beta_x, the part that leaves free_x free; the rest counts in full; 0: all of it',
    only='.free_x',
  )

  @property
  def scale(self) -> float:
    """As of `weighting.LossSettings`."""
    return self.alpha


@dataclasses.dataclass(frozen=True)
class TaskSettings(RuleSettings):
  """How observation, reward and KL are weighed: harmony.py."""

  rule: str = setting('none', 'the rule: chosen by --weighting', choices=harmony.RULES)
  kl: str = setting(
    'together',
    'the KLs of all parts are one task, dynamics, or (apart) one each: dynamics_x, dynamics_y, …',
    choices=('together', 'apart'),
    only='.rule!=none|fixed',
  )
  w_o: float = setting(1.0, 'weight of the observation loss, for rule fixed (eq. 3)')
  w_r: float = setting(1.0, 'weight of the reward loss, for rule fixed')
  w_d: float = setting(1.0, 'weight of the dynamics loss, for rule fixed')


@dataclasses.dataclass(frozen=True)
class BehaviorSettings:
  """How the policy learns on x, and acts."""

  learner: str = setting(
    'imagination',
    'imagination: from returns imagined with x, as Dreamer; sac: soft actor critic on the batch',
    choices=('imagination', 'sac'),
  )
  horizon: int = setting(15, 'imagined steps, H', least=2, only='.learner=imagination')
  discount: float = setting(0.99, 'γ; 1 - 1/333 is a horizon of 333 steps', most=1)
  lam: float = setting(0.95, 'λ of the λ-returns', most=1, only='.learner=imagination')
  exploration: float = setting(0.3, 'deviation of the noise on actions of training')
  tries: int = setting(
    100, 'draws of which evaluation takes the likeliest', least=1, only='eval_policy=mode'
  )


@dataclasses.dataclass(frozen=True)
class SACSettings:
  """The soft actor critic."""

  tau: float = setting(0.005, 'how far the slow values go in an update', most=1)
  temperature: float = setting(1.0, 'weight of the entropy at first', above=0)
  target: str = setting(
    'code',
    "code: log π of the next state at this step's action, a slip of the authors; paper: at the "
    'action drawn there',
    choices=('code', 'paper'),
  )
  opt: OptimizerSettings = group(
    OptimizerSettings, 'Of values, policy and temperature, one each.', lr=3e-4, eps=1e-7, clip=1e9
  )


@dataclasses.dataclass(frozen=True)
class DenoisedMDPSettings(method.MethodSettings):
  """Denoised MDP of parts x and y: 7,482,514 parameters with 6 actions."""

  encoder: PictureSettings = group(PictureSettings, 'Pictures -> embedding.')
  decoder: PictureSettings = group(PictureSettings, 'All parts of the latent state -> pictures.')
  rssm: DynamicsSettings = group(DynamicsSettings, 'The dynamics, in parts.')
  reward_head: HeadSettings = group(
    HeadSettings, 'x -> reward, and y -> reward; their sum is predicted.', units=400
  )
  actor: HeadSettings = group(HeadSettings, 'The policy, of x.', layers=4, units=400)
  critic: HeadSettings = group(HeadSettings, 'The value of x.', layers=3, units=400)
  losses: LossSettings = group(LossSettings, 'The KLs, before they are weighed as tasks.')
  weighting: TaskSettings = group(TaskSettings, 'How the tasks are weighed: harmony.py.')
  behavior: BehaviorSettings = group(BehaviorSettings, 'How the policy learns on x, and acts.')
  sac: SACSettings = group(SACSettings, 'With behavior.learner=sac.', only='behavior.learner=sac')
  model_opt: OptimizerSettings = group(
    OptimizerSettings, "The world model's.", lr=6e-4, eps=1e-7, clip=100.0
  )
  actor_opt: OptimizerSettings = group(
    OptimizerSettings, "The policy's.", _IMAGINING, lr=8e-5, eps=1e-7, clip=100.0
  )
  critic_opt: OptimizerSettings = group(
    OptimizerSettings, "The value's.", _IMAGINING, lr=8e-5, eps=1e-7, clip=100.0
  )
  replay: EpisodeSettings = group(
    EpisodeSettings, 'Windows of complete episodes.', sampling='episodes', first_action=True
  )
  eval_as: str = setting(
    'house',
    'house: as all methods here; authors: all episodes from one seed (1841), whatever the run, and '
    'without the reward of their last step',
    choices=('house', 'authors'),
  )


SETTINGS = settings.replace(
  DenoisedMDPSettings(),
  {
    'batch_size': 50,
    'batch_length': 50,
    'train_ratio': 500.0,  # 100 updates of 50 · 50 for an episode of 500 steps
    'update_at': 'episodes',
    'pretrain': 100,
    'prefill': 2_500,
    'eval_policy': 'mode',
    'eval_at_start': True,
  },
)

# Pictures as in the small Dreamers, through patches, and as many updates: half a one per step.
SMALL = {
  **{f'{net}.patch': 8 for net in ('encoder', 'decoder')},
  'encoder.units': 256,
  'rssm.x.deter': 96,
  'rssm.y.deter': 96,
  **{f'{head}.units': 96 for head in ('reward_head', 'actor', 'critic')},
  **{f'{head}.layers': 2 for head in ('actor', 'critic')},
  'batch_size': 8,
  'batch_length': 16,
  'behavior.horizon': 10,
  'weighting.beta2': 0.99,
  'model_opt.lr': 1e-3,
  'actor_opt.lr': 3e-4,
  'critic_opt.lr': 5e-4,
  'prefill': 1_000,
  'pretrain': 100,
}
TOY = {
  **SMALL,
  **{f'{net}.depth': 16 for net in ('encoder', 'decoder')},
  'encoder.units': 64,
  'decoder.units': 256,
  'rssm.x.deter': 32,
  'rssm.y.deter': 32,
  'rssm.x.stoch': 8,
  'rssm.y.stoch': 8,
  **{f'{head}.units': 32 for head in ('reward_head', 'actor', 'critic')},
  'batch_size': 4,
  'behavior.horizon': 5,
  'prefill': 0,
  'pretrain': 1,
}
