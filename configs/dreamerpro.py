"""DreamerPro with harmonizers (eq. 17): every setting that differs from DreamerV2.

Source: the authors' TensorFlow code of DreamerPro, configurations `defaults dmc` with `norm_off`
(plain backgrounds) or `reward_1000` (natural ones). Published with Gaussian latents and, for
natural ones, a reward weight of 1000 and the norm
loss: --weighting=fixed --config.weighting.w_r=1000 --config.prototypes.norm=1. No decoder is built.
"""

from ml_collections import ConfigDict

from configs import dreamerv2


def get_config() -> ConfigDict:
  """Harmony DreamerPro: 2,925,681 parameters of the world model and 4 harmonizers, with 6 actions."""
  config = dreamerv2.get_config()
  optimizer = dict(kind='tensorflow', eps=1e-5, clip=100.0, weight_decay=1e-6)
  changes = dict(
    method='dreamerpro',
    batch_size=50,
    batch_length=51,
    prototypes=dict(enabled=True),
    rssm=dict(latent='gaussian', deter=200, units=200, gru_init='style'),
    actor=dict(distribution='tanh_normal'),
    # 15 states: the authors count the first one. An action is judged by the return of its own
    # state.
    behavior=dict(horizon=14, lead=0, critic_entropy=False),
    model_opt=dict(**optimizer, lr=3e-4),
    actor_opt=dict(**optimizer, lr=8e-5),
    critic_opt=dict(**optimizer, lr=8e-5),
    replay=dict(first_action=True),
    train_ratio=510.0,  # 50 · 51 / 5: one update every 5 steps
    prefill=2500,
  )
  with config.unlocked():
    config.update(changes)
  return config
