"""DreamerV2 with harmonizers, as the paper's authors ran it on robotic tasks: every setting that
differs from DreamerV3.

Source: the authors' PyTorch code, configurations `metaworld` and `dmc_remastered`, and Table 1 of
the paper. What the suites change (batch size, prefill, free nats, sampling of replay) stands in
their own files.
"""

from ml_collections import ConfigDict

from configs import dreamerv3


def get_config() -> ConfigDict:
  """HarmonyDream on DreamerV2: 29,735,632 trained parameters with 4 actions."""
  config = dreamerv3.get_config()
  mlp = dict(layers=4, units=400)
  changes = dict(
    method='dreamerv2',
    batch_size=16,
    batch_length=50,
    network=dict(normalization='none', activation='elu', init='uniform'),
    encoder=dict(depth=48, padding='valid', mlp_layers=4, mlp_units=400),
    decoder=dict(depth=48, padding='valid', mlp_layers=4, mlp_units=400),
    rssm=dict(
      deter=1024, units=1024, unimix=0.0, action_clip=0.0, learned_initial=False, gru_bias=True
    ),
    reward_head=dict(**mlp, distribution='gaussian'),
    # Off in the paper's configurations: episodes never end early there. RLBench turns it on.
    continue_head=dict(enabled=False, **mlp, predicts='discount'),
    actor=dict(**mlp, distribution='trunc_normal', unimix=0.0, min_std=0.1),
    critic=dict(
      **mlp, distribution='gaussian', slow_regularizer=0.0, slow_fraction=1.0, slow_every=100
    ),
    losses=dict(likelihood='gaussian', free_nats=1.0, free_average=True, dyn=0.8, rep=0.2),
    # here the code has log(1+σ_d) with weight 1, too
    weighting=dict(dynamics_regularizer='paper'),
    # The entropy bonus in the critic's target is what the authors' code does; False is the
    # paper's eq. 7.
    behavior=dict(
      discount=0.99,
      entropy=1e-4,
      reward_of='present',
      lead=1,
      value='slow',
      baseline=False,
      normalize=False,
      keep='mean',
      critic_entropy=True,
    ),
    model_opt=dict(lr=3e-4, eps=1e-5, clip=100.0, weight_decay=1e-6),
    actor_opt=dict(lr=8e-5, weight_decay=1e-6),
    critic_opt=dict(lr=8e-5, weight_decay=1e-6),
    replay=dict(sampling='episodes'),
    pretrain=100,
    train_ratio=160.0,  # 16 · 50 / 5: one update every 5 steps
    prefill=1000,
    eval_policy='mode',
    eval_at_start=True,
  )
  with config.unlocked():
    config.update(changes)
  return config
