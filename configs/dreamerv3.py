"""DreamerV3 with harmonizers, at the sizes that the paper's authors used for Atari 100K (the `paper` preset).

This file lists every setting of the method; benchmarks (configs/atari100k.py, …) start from it and say what differs.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """Harmony DreamerV3, Atari 100K sizes: 17,922,955 trained parameters with 6 actions."""
  return ConfigDict(dict(
      method='dreamerv3',
      compute_dtype='float32',       # or bfloat16; losses, norms, harmonizers and optimisers stay float32
      skip_nonfinite=0,              # updates that may be left out because a loss or gradient is not finite; then stop
      batch_size=16,
      batch_length=64,
      # Hidden layers: layer norm in place of a bias, or none; silu | elu | relu; normal | uniform initialisation.
      network=dict(normalization='layer', activation='silu', init='normal'),
      # kind: plain or residual (residual.py). padding: same, or valid as DreamerV2. patch: networks.py, for CPUs.
      encoder=dict(kind='plain', depth=32, minres=4, patch=1, padding='same', mlp_layers=2, mlp_units=512),
      decoder=dict(kind='plain', depth=32, minres=4, patch=1, padding='same', mlp_layers=2, mlp_units=512),
      rssm=dict(deter=512, units=512, stoch=32, classes=32, unimix=0.01, action_clip=1.0, learned_initial=True,
                gru_bias=False),
      reward_head=dict(layers=2, units=512, distribution='two_hot', bins=255),
      continue_head=dict(enabled=True, layers=2, units=512, predicts='continue', scale=1.0, gradient=True),
      actor=dict(layers=2, units=512, distribution='normal', unimix=0.01, min_std=0.1, max_std=1.0),
      critic=dict(layers=2, units=512, distribution='two_hot', bins=255, slow_regularizer=1.0, slow_fraction=0.02,
                  slow_every=1),
      # likelihood: squared errors, of vectors in symlog space (symlog), or unit-variance Gaussians (gaussian).
      losses=dict(likelihood='symlog', free_nats=1.0, free_average=False, dyn=0.5, rep=0.1),
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
      # What each setting means: harmony_jax/behavior.py.
      behavior=dict(horizon=15, discount=1 - 1 / 333, lam=0.95, entropy=3e-4, reward_of='next', value='fast',
                    baseline=True, normalize=True, keep='mode', critic_entropy=False, return_decay=0.99,
                    return_low=5.0, return_high=95.0),
      model_opt=dict(lr=1e-4, eps=1e-8, clip=1000.0, weight_decay=0.0),
      actor_opt=dict(lr=3e-5, eps=1e-5, clip=100.0, weight_decay=0.0),
      critic_opt=dict(lr=3e-5, eps=1e-5, clip=100.0, weight_decay=0.0),
      # How experience is taken up. Replay: uniform over all windows of the stream, or over episodes.
      replay=dict(sampling='windows', prioritize_ends=False),
      pretrain=1,                    # updates before the first step with the policy
      train_ratio=1024.0,            # replayed steps per environment step: 1024 / (16 · 64) = 1 update per step
      prefill=0,                     # random steps before training, beside what the first batch needs
      eval_policy='sample',          # evaluation samples its actions, or takes the mode
      eval_at_start=False,
  ))
