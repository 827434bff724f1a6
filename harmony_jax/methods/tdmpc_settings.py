"""The settings of TD-MPC, and its smaller sizes.

No setting of the HarmonyDream authors' runs is known. The defaults are those of TD-MPC's code for
pictures in 2022 and 2023 (three stacked, batches of 256, rate 3e-4), for the suites of this project
as the other methods have them: inferred, not published. From vectors its authors have batches of
512 and the rate 1e-3.
"""

import dataclasses

from harmony_jax import harmony, method, settings
from harmony_jax.methods.tdmpc_planning import PlanningSettings
from harmony_jax.methods.tdmpc_replay import PrioritySettings
from harmony_jax.optimizers import OptimizerSettings
from harmony_jax.settings import group, setting
from harmony_jax.weighting import RuleSettings

TASKS = ('consistency', 'reward', 'value')


@dataclasses.dataclass(frozen=True)
class TaskSettings(RuleSettings):
  """How consistency, reward and value are weighed: harmony.py."""

  rule: str = setting('none', 'the rule: chosen by --weighting', choices=harmony.RULES)
  consistency: float = setting(2.0, "the task's weight, for the rules none and fixed")
  reward: float = setting(0.5, "the task's weight, for the rules none and fixed")
  value: float = setting(0.1, "the task's weight, for the rules none and fixed")


@dataclasses.dataclass(frozen=True)
class TDMPCSettings(method.MethodSettings):
  """TD-MPC from pictures: 1,548,043 parameters with 4 actions, and their slow copies."""

  latent: int = setting(50, 'numbers of a latent state, Z', least=1)
  units: int = setting(512, 'width of the hidden layers', least=1)
  channels: int = setting(32, 'of each convolution of pictures', least=1, only='pictures')
  vector_units: int = setting(
    256, "width of the encoder's hidden layer, for vectors", least=1, only='vectors'
  )
  discount: float = setting(0.99, 'γ', most=1)
  rho: float = setting(0.5, 'step t of a sequence counts ρᵗ', most=1)
  policy_std: float = setting(0.05, "of the policy's noise, wherever it acts")
  slow_fraction: float = setting(0.01, 'how far the slow copies go in one of their steps', most=1)
  slow_every: int = setting(2, 'updates between two of them', least=1)
  importance: str = setting(
    'element',
    "weights of prioritised sequences: each its own, or (batch) all the batch's mean, as the "
    "authors' code before December 2022",
    choices=('element', 'batch'),
  )
  td_target: str = setting(
    'observation',
    'values are learned from those of the next observation, as the code, or of the next latent '
    'state that the model makes up (model), as the paper',
    choices=('observation', 'model'),
  )
  planning: PlanningSettings = group(PlanningSettings, 'How actions are planned.')
  weighting: TaskSettings = group(TaskSettings, 'How the tasks are weighed: harmony.py.')
  model_opt: OptimizerSettings = group(OptimizerSettings, "The model's.", lr=3e-4, clip=10.0)
  policy_opt: OptimizerSettings = group(OptimizerSettings, "The policy's.", lr=3e-4, clip=10.0)
  replay: PrioritySettings = group(PrioritySettings, 'Sequences by priority.', sampling='inside')

  @property
  def horizon(self) -> int:
    """H: steps of a sequence that are learned, and of the longest plan."""
    return self.batch_length - 1


SETTINGS = settings.replace(
  TDMPCSettings(),
  {
    'batch_size': 256,
    'batch_length': 6,
    'train_ratio': 1536.0,  # 256 · 6: one update per step
    'prefill': 5_000,
    'pretrain': 5_000,
    'update_at': 'episodes',
    'eval_policy': 'mode',
    'eval_at_start': True,
  },
)


# Half an update per step of the environment, with a train_ratio of 64 (the suites' `cpu`) or 16.
SMALL = {
  'latent': 32,
  'units': 128,
  'channels': 16,
  'vector_units': 128,
  'batch_size': 32,
  'batch_length': 4,
  'prefill': 1_000,
  'pretrain': 500,
  'planning.samples': 128,
  'planning.elites': 16,
  'planning.iterations': 4,
  'planning.policy_share': 0.1,
  'planning.horizon.end': 3.0,
  'planning.horizon.steps': 5_000,
  'planning.std.steps': 5_000,
  'model_opt.lr': 1e-3,
  'policy_opt.lr': 1e-3,
}
TOY = {
  **SMALL,
  'latent': 16,
  'units': 32,
  'channels': 8,
  'vector_units': 32,
  'batch_size': 8,
  'prefill': 0,
  'pretrain': 1,
  'planning.samples': 32,
  'planning.elites': 4,
  'planning.iterations': 2,
  'planning.horizon.steps': 200,
  'planning.std.steps': 200,
}
