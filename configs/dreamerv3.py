"""DreamerV3 with harmonizers, at the sizes that the paper's authors used for Atari 100K (the `paper` preset).

This file lists every setting of the method; benchmarks (configs/atari100k.py, …) start from it and say what differs.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """Harmony DreamerV3, Atari 100K sizes: 17,922,955 trained parameters with 6 actions."""
  return ConfigDict(dict(
      method='dreamerv3',
      compute_dtype='float32',       # or bfloat16; losses, norms, harmonizers and optimisers stay float32
      batch_size=16,
      batch_length=64,
      encoder=dict(depth=32, minres=4, patch=1, mlp_layers=2, mlp_units=512),
      decoder=dict(depth=32, minres=4, patch=1, mlp_layers=2, mlp_units=512),
      rssm=dict(deter=512, units=512, stoch=32, classes=32, unimix=0.01, action_clip=1.0),
      reward_head=dict(layers=2, units=512, bins=255),
      continue_head=dict(layers=2, units=512),
      actor=dict(layers=2, units=512, unimix=0.01, min_std=0.1, max_std=1.0),
      critic=dict(layers=2, units=512, bins=255, slow_regularizer=1.0, slow_fraction=0.02, slow_every=1),
      losses=dict(free_nats=1.0, dyn=0.5, rep=0.1),
      weighting=dict(
          rule='harmony',            # harmony | none | harmony_unrectified | fixed | reciprocal
          tasks=('observation', 'reward', 'dynamics'),  # those with a harmonizer
          dynamics_regularizer='code',  # 'code': 5/6 log(1+σ_d), as the authors ran it; 'paper': log(1+σ_d) (eq. 5)
          harmonize_vector=False,    # vector observations: weight 1 as the authors ran it, or part of `observation`
          w_o=1.0, w_r=1.0, w_d=1.0,  # for rule='fixed' (eq. 3)
          rate=1.0,                  # learning rate of the harmonizers over that of the model; 1 in the paper
          beta2=0.999,               # Adam's memory of the harmonizers' squared gradients; 0.999 in the paper
          calibrate=0,               # batches from whose losses σ starts (eq. 12); 0: σ starts at 1, as in the paper
      ),
      behavior=dict(horizon=15, discount_horizon=333, lam=0.95, entropy=3e-4, return_decay=0.99, return_low=5.0,
                    return_high=95.0),
      model_opt=dict(lr=1e-4, eps=1e-8, clip=1000.0),
      actor_opt=dict(lr=3e-5, eps=1e-5, clip=100.0),
      critic_opt=dict(lr=3e-5, eps=1e-5, clip=100.0),
  ))
