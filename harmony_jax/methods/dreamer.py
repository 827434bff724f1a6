"""DreamerV3 with harmonizers. (Being rewritten: this adapts the former `Agent` to the protocol.)"""

import dataclasses

from ml_collections import ConfigDict

from harmony_jax import harmony, method, viewing
from harmony_jax import settings as settings_
from harmony_jax.agent import Agent, shift_actions
from harmony_jax.agent import weights as _weights
from harmony_jax.networks import HeadSettings, ImageSettings, ScalarSettings, Style
from harmony_jax.optimizers import OptimizerSettings
from harmony_jax.rssm import RSSMSettings
from harmony_jax.settings import group, setting


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
class ActorSettings(HeadSettings):
  """The policy."""

  distribution: str = setting(
    'normal',
    'of continuous actions: normal; trunc_normal as DreamerV2, tanh_normal as DreamerPro',
    choices=('normal', 'trunc_normal', 'tanh_normal'),
  )
  samples: int = setting(100, 'from which entropy and mode of a tanh_normal are estimated', least=1)
  unimix: float = setting(0.01, 'share of a uniform distribution, for discrete actions', most=1)
  min_std: float = setting(0.1, 'smallest standard deviation, for continuous ones')
  max_std: float = setting(1.0, 'largest one, of normal')


@dataclasses.dataclass(frozen=True)
class CriticSettings(ScalarSettings):
  """The value of a latent state."""

  slow_regularizer: float = setting(
    1.0, 'weight of the loss that holds the critic near the slow one'
  )
  slow_fraction: float = setting(
    0.02, 'how far the slow critic goes towards the critic in one of its updates', most=1
  )
  slow_every: int = setting(1, 'updates between two of them', least=1)


@dataclasses.dataclass(frozen=True)
class LossSettings:
  """The world model's losses, before they are weighed."""

  likelihood: str = setting(
    'symlog',
    'symlog: squared errors, of vectors in symlog space; gaussian: unit variance',
    choices=('symlog', 'gaussian'),
  )
  free_nats: float = setting(1.0, 'KL below this is not reduced')
  free_average: bool = setting(False, "they count for the batch's mean KL, not for every step's")
  dyn: float = setting(
    0.5, 'weight of the KL that trains the prior; over dyn + rep it is the balance (eq. 15)'
  )
  rep: float = setting(
    0.1, 'weight of the KL that trains the posterior; dyn + rep: of both, under rule none'
  )


@dataclasses.dataclass(frozen=True)
class WeightingSettings:
  """How the tasks are weighed: harmony.py."""

  rule: str = setting(
    'harmony', 'the rule: chosen by --weighting', choices=('none', *harmony.RULES)
  )
  tasks: tuple[str, ...] = setting(
    ('observation', 'reward', 'dynamics'),
    'those with a harmonizer',
    choices=('observation', 'reward', 'dynamics'),
  )
  dynamics_regularizer: str = setting(
    'code',
    'code: 5/6 log(1+σ_d), as the authors ran it; paper: log(1+σ_d) (eq. 5)',
    choices=('code', 'paper'),
  )
  harmonize_vector: bool = setting(
    False, 'vector observations: weight 1 as the authors ran it, or part of `observation`'
  )
  w_o: float = setting(1.0, 'weight of the observation loss, for rule fixed (eq. 3)')
  w_r: float = setting(1.0, 'weight of the reward loss, for rule fixed')
  w_d: float = setting(1.0, 'weight of the dynamics loss, for rule fixed')
  rate: float = setting(
    1.0, 'learning rate of the harmonizers over that of the model; 1 in the paper'
  )
  beta2: float = setting(
    0.999, "Adam's memory of the harmonizers' squared gradients; 0.999 in the paper", most=1
  )
  calibrate: int = setting(
    0, 'batches from whose losses σ starts (eq. 12); 0: σ starts at 1, as in the paper'
  )


@dataclasses.dataclass(frozen=True)
class BehaviorSettings:
  """How actor and critic learn in imagination."""

  horizon: int = setting(15, 'imagined steps, H', least=1)
  discount: float = setting(1 - 1 / 333, 'γ; 1 - 1/333 is a horizon of 333 steps', most=1)
  lam: float = setting(0.95, 'λ of the λ-returns', most=1)
  entropy: float = setting(3e-4, "weight of the policy's entropy")
  return_decay: float = setting(0.99, 'memory of the range of returns (DreamerV3)', most=1)
  return_low: float = setting(5.0, 'percentile where the range begins')
  return_high: float = setting(95.0, 'percentile where it ends')


@dataclasses.dataclass(frozen=True)
class DreamerSettings(method.MethodSettings):
  """Harmony DreamerV3 as the authors ran it on Atari 100K: 17,922,955 parameters with 6 actions."""

  network: Style = group(Style, 'All hidden layers.')
  encoder: ImageSettings = group(ImageSettings, 'Observations -> embedding.')
  decoder: ImageSettings = group(ImageSettings, 'Latent state -> observations.')
  rssm: RSSMSettings = group(RSSMSettings, 'The recurrent state-space model: the dynamics.')
  reward_head: ScalarSettings = group(ScalarSettings, 'Latent state -> reward.')
  continue_head: ContinueSettings = group(
    ContinueSettings, 'Latent state -> whether the episode goes on.'
  )
  actor: ActorSettings = group(ActorSettings, 'The policy.')
  critic: CriticSettings = group(CriticSettings, 'The value of a latent state.')
  losses: LossSettings = group(LossSettings, "The world model's losses, before they are weighed.")
  weighting: WeightingSettings = group(WeightingSettings, 'How the tasks are weighed: harmony.py.')
  behavior: BehaviorSettings = group(BehaviorSettings, 'How actor and critic learn in imagination.')
  model_opt: OptimizerSettings = group(
    OptimizerSettings,
    "The world model's optimiser: clip, then Adam. The harmonizers are among its parameters.",
  )
  actor_opt: OptimizerSettings = group(
    OptimizerSettings, "The actor's.", lr=3e-5, eps=1e-5, clip=100.0
  )
  critic_opt: OptimizerSettings = group(
    OptimizerSettings, "The critic's.", lr=3e-5, eps=1e-5, clip=100.0
  )


# Presets for small machines: 1.6 million parameters in place of 18, and smaller still for a look
# at whether everything works.
SMALL = {
  'encoder.depth': 32,
  'encoder.patch': 8,
  'decoder.depth': 32,
  'decoder.patch': 8,
  'rssm.deter': 256,
  'rssm.units': 128,
  'rssm.stoch': 16,
  'rssm.classes': 16,
  'reward_head.units': 128,
  'continue_head.units': 128,
  'actor.units': 128,
  'critic.units': 128,
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
  'rssm.deter': 64,
  'rssm.units': 32,
  'rssm.stoch': 8,
  'rssm.classes': 8,
  'encoder.depth': 16,
  'decoder.depth': 16,
  'reward_head.units': 32,
  'continue_head.units': 32,
  'actor.units': 32,
  'critic.units': 32,
  'batch_size': 4,
  'batch_length': 16,
  'behavior.horizon': 5,
}

_FLAGS = dict(
  lead=0,
  gradient='auto',
  mix=0.1,
  known_ends=True,
  reward_of='next',
  value='fast',
  baseline=True,
  normalize=True,
  keep='mode',
  critic_entropy=False,
)


class Dreamer(method.Method):
  """The former `Agent` behind the protocol."""

  flags = _FLAGS
  prototypes = dict(
    enabled=False,
    count=2500,
    size=32,
    temperature=0.1,
    sinkhorn_epsilon=0.0125,
    sinkhorn_iterations=3,
    warm_up=1,
    norm=0.0,
    freeze=10_000,
    slow_fraction=0.05,
    slow_every=1,
    max_shift=3.0,
  )
  acting = ('params', 'statistics')

  def __init__(self, settings, spec, deterministic=False):
    self.settings, self.spec = settings, spec
    tree = settings_.to_json(settings)
    tree['behavior'] |= self.flags
    tree['prototypes'] = {**self.prototypes, **tree.get('prototypes', {})}
    tree['decoder'].setdefault('probe', False)
    tree.setdefault('probe_opt', dict(kind='adam', lr=3e-4, eps=1e-8, clip=1e3, weight_decay=0.0))
    shapes = {name: array.shape for name, array in spec.observation.items()}
    self.agent = Agent.from_config(
      ConfigDict(tree), shapes, spec.num_actions, spec.discrete, deterministic
    )
    model = self.agent.world_model
    self.capabilities = {'report': self._report}
    if model.decoder or not model.prototypes:
      self.capabilities['dream'] = lambda v, key, count, length: viewing.dream(
        self.agent, v, key, count, length
      )
    self.capabilities['open_loop'] = lambda v, carries, actions, context, key: viewing.open_loop(
      self.agent, v, carries.latent, actions, context, key
    )
    if model.prototypes:
      self.capabilities['assign'] = lambda v, observation: model.assign(
        v['world_model'], observation
      )
    self.calibration = None
    if settings.weighting.calibrate and model.weighting.optimum:
      self.calibration = method.Calibration(
        settings.weighting.calibrate, self.agent.task_losses, self.agent.with_harmonizers
      )

  def _report(self, variables, batch, context, key):
    agent, model = self.agent, self.agent.world_model
    noise = agent._train_noise(key, *batch['is_first'].shape)['posterior']
    noise = noise and noise['latent'][: len(batch['is_first'])]
    before = agent._carry(variables, batch).action
    params = variables['world_model']
    found = model.open_loop(params, batch, shift_actions(batch['action'], before), context, noise)
    assigned = {'assigned': model.assign(params, batch)} if model.prototypes else {}
    return found | assigned

  def init(self, key):
    return self.agent.init(key)

  def train_step(self, state, batch):
    return self.agent.train_step(state, batch)

  def initial_carry(self, variables, num_envs):
    return self.agent.initial_carry(variables, num_envs)

  def act(self, variables, carry, observation, is_first, key, mode=False):
    return self.agent.policy(variables, carry, observation, is_first, key, mode)

  def variables(self, state):
    return _weights(state.params, getattr(state, 'statistics', {}))

  def examine(self, state, batch):
    after, metrics, gradients = self.agent._update(state, batch)
    losses = {k: v for k, v in metrics.items() if k.startswith('loss/')}
    return {
      'batch': batch,
      'params': state.params,
      'targets': state.targets,
      'optimizer': state.opt_state,
      'loss': losses,
      **{f'gradient of {k}': v for k, v in gradients.items()},
      'new params': after.params,
    }


METHOD = method.Entry(
  settings=DreamerSettings(), make=Dreamer, sizes={'small': SMALL, 'toy': TOY}, family='dreamer'
)
