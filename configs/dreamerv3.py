"""DreamerV3 with harmonizers, at the sizes that the paper's authors used for Atari 100K (the
`paper` preset).

This file lists every setting of the method; benchmarks (configs/atari100k.py, …) start from it and
say what differs. The comment beside or above a setting is its documentation: docs/configuration.md
is made of them.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """Harmony DreamerV3, Atari 100K sizes: 17,922,955 trained parameters with 6 actions."""
  return ConfigDict(
    dict(
      method='dreamerv3',  # base method: chosen by --method
      # or bfloat16; losses, norms, harmonizers and optimisers stay float32
      compute_dtype='float32',
      # updates that may be left out because a loss or gradient is not finite; then stop
      skip_nonfinite=0,
      batch_size=16,  # sequences in a batch, B
      batch_length=64,  # steps of each of them, T
      # All hidden layers.
      network=dict(
        normalization='layer',  # layer norm in place of a bias (layer), or none
        activation='silu',  # silu | elu | relu | tanh
        init='normal',
      ),  # initial weights: normal | uniform
      # Observations -> embedding.
      encoder=dict(
        # plain: strided convolutions; residual: residual.py, with batch norms
        kind='plain',
        # channels of the first convolution; doubled by every further one
        depth=32,
        minres=4,  # side of the last feature map, with padding same
        # side of the blocks that one product maps to `depth` channels; 1: none; for CPUs
        patch=1,
        padding='same',  # of the convolutions: same, or valid as DreamerV2
        mlp_layers=2,  # hidden layers for vector observations
        mlp_units=512,
      ),  # their width
      # Latent state -> observations.
      decoder=dict(
        kind='plain',  # as of encoder
        depth=32,  # as of encoder
        minres=4,  # as of encoder
        patch=1,  # as of encoder
        padding='same',  # as of encoder
        mlp_layers=2,  # as of encoder
        mlp_units=512,  # as of encoder
        # with prototypes: learns from the states, and nothing from it; to look at
        probe=False,
      ),
      # The recurrent state-space model: the dynamics.
      rssm=dict(
        deter=512,  # size of the deterministic state, D
        units=512,  # width of its hidden layers
        # the stochastic state: groups of classes, or gaussian (DreamerPro)
        latent='categorical',
        stoch=32,  # groups, or dimensions of a Gaussian, S
        classes=32,  # classes of each group, K
        # share of a uniform distribution in a group's prior and posterior
        unimix=0.01,
        min_std=0.1,  # smallest standard deviation of a Gaussian
        action_clip=1.0,  # actions are scaled down to this; 0: taken as they are
        learned_initial=True,  # the first deterministic state is learned, or zeros
        gru_bias=False,  # a bias before the GRU's norm
        # initial weights of a GRU with that bias: fan_in as PyTorch, or style: as all layers
        gru_init='fan_in',
      ),
      # Assignments to prototypes in place of reconstruction: DreamerPro's head, prototypes.py.
      prototypes=dict(
        # True: the losses swav and temporal in place of observation, and no decoder
        enabled=False,
        count=2500,  # prototypes, K
        size=32,  # their dimensions, P
        temperature=0.1,  # of the predicted assignments
        sinkhorn_epsilon=0.0125,  # of the target assignments
        sinkhorn_iterations=3,  # rounds in which they are made equal shares
        warm_up=1,  # first steps of a sequence that are not predicted
        norm=0.0,  # weight of the loss that holds projections at length 1
        freeze=10_000,  # updates during which the prototypes stay as they were drawn
        # how far the slow encoder goes towards the encoder in one of its updates
        slow_fraction=0.05,
        slow_every=1,  # updates between two of them
        # pixels by which the two views of a sequence are shifted at most
        max_shift=3.0,
      ),
      # Latent state -> reward.
      reward_head=dict(
        layers=2,  # hidden layers
        units=512,  # their width
        # two_hot: cross entropy over bins in symlog space; gaussian: half squared error
        distribution='two_hot',
        bins=255,
      ),  # bins of two_hot
      # Latent state -> whether the episode goes on.
      continue_head=dict(
        enabled=True,  # False where episodes never end early: it always goes on
        layers=2,  # hidden layers
        units=512,  # their width
        # continue: 0 or 1; discount: the discount in place of 1, as DreamerV2
        predicts='continue',
        scale=1.0,  # weight of its loss, which has no harmonizer
        gradient=True,
      ),  # the latent state learns from it, too
      # The policy.
      actor=dict(
        layers=2,  # hidden layers
        units=512,  # their width
        # of continuous actions: normal; trunc_normal as DreamerV2, tanh_normal as DreamerPro
        distribution='normal',
        samples=100,  # from which entropy and mode of a tanh_normal are estimated
        unimix=0.01,  # share of a uniform distribution, for discrete actions
        min_std=0.1,  # smallest standard deviation, for continuous ones
        max_std=1.0,
      ),  # largest one, of normal
      # The value of a latent state.
      critic=dict(
        layers=2,  # hidden layers
        units=512,  # their width
        distribution='two_hot',  # as of reward_head
        bins=255,  # bins of two_hot
        slow_regularizer=1.0,  # weight of the loss that holds the critic near the slow one
        # how far the slow critic goes towards the critic in one of its updates
        slow_fraction=0.02,
        slow_every=1,
      ),  # updates between two of them
      # The world model's losses, before they are weighed.
      losses=dict(
        # symlog: squared errors, of vectors in symlog space; gaussian: unit variance
        likelihood='symlog',
        free_nats=1.0,  # KL below this is not reduced
        free_average=False,  # they count for the batch's mean KL, not for every step's
        # weight of the KL that trains the prior; over dyn + rep it is the balance (eq. 15)
        dyn=0.5,
        # weight of the KL that trains the posterior; dyn + rep: of both, under rule none
        rep=0.1,
      ),
      # How the tasks are weighed: harmony.py.
      weighting=dict(
        # harmony | none | harmony_unrectified | fixed | reciprocal: chosen by --weighting
        rule='harmony',
        tasks=('observation', 'reward', 'dynamics'),  # those with a harmonizer
        # 'code': 5/6 log(1+σ_d), as the authors ran it; 'paper': log(1+σ_d) (eq. 5)
        dynamics_regularizer='code',
        # vector observations: weight 1 as the authors ran it, or part of `observation`
        harmonize_vector=False,
        w_o=1.0,  # weight of the observation loss, for rule='fixed' (eq. 3)
        w_r=1.0,  # weight of the reward loss, for rule='fixed'
        w_d=1.0,  # weight of the dynamics loss, for rule='fixed'
        # learning rate of the harmonizers over that of the model; 1 in the paper
        rate=1.0,
        # Adam's memory of the harmonizers' squared gradients; 0.999 in the paper
        beta2=0.999,
        # batches from whose losses σ starts (eq. 12); 0: σ starts at 1, as in the paper
        calibrate=0,
      ),
      # How actor and critic learn in imagination: behavior.py.
      behavior=dict(
        horizon=15,  # imagined steps, H
        discount=1 - 1 / 333,  # γ; here 1 - 1/333, a horizon of 333 steps
        lam=0.95,  # λ of the λ-returns
        entropy=3e-4,  # weight of the policy's entropy
        # an action is judged by the return so many states after its own
        lead=0,
        # the actor's: reinforce, dynamics, both; auto: the former for discrete actions
        gradient='auto',
        mix=0.1,  # share of dynamics in both
        # where an episode ended is known to imagination; False: its first state asks the head
        known_ends=True,
        # a value begins with the next state's reward, or the present one's (DreamerV2)
        reward_of='next',
        value='fast',  # the critic that returns bootstrap from: fast or slow
        # subtract the value where the gradient goes through the dynamics, too
        baseline=True,
        normalize=True,  # divide advantages by the range of returns
        # imagined episodes go on by the continue head's mode (0 or 1) or its mean
        keep='mode',
        critic_entropy=False,  # the critic's targets contain the actor's entropy bonus
        return_decay=0.99,  # memory of the range of returns
        return_low=5.0,  # percentile where the range begins
        return_high=95.0,
      ),  # percentile where it ends
      # The world model's optimiser: clip, then Adam. The harmonizers are among its parameters.
      model_opt=dict(
        # adam: optax's, decay joins the gradient (L2); tensorflow: its ε and decay differ
        kind='adam',
        lr=1e-4,  # learning rate
        eps=1e-8,  # Adam's epsilon
        clip=1000.0,  # largest global norm of the gradient
        # share of the parameters: added to the gradient, or taken from them
        weight_decay=0.0,
      ),
      # The actor's.
      actor_opt=dict(
        kind='adam',  # as of model_opt
        lr=3e-5,  # learning rate
        eps=1e-5,  # Adam's epsilon
        clip=100.0,  # largest global norm of the gradient
        weight_decay=0.0,
      ),  # as of model_opt
      # The critic's.
      critic_opt=dict(
        kind='adam',  # as of model_opt
        lr=3e-5,  # learning rate
        eps=1e-5,  # Adam's epsilon
        clip=100.0,  # largest global norm of the gradient
        weight_decay=0.0,
      ),  # as of model_opt
      # The probing decoder's.
      probe_opt=dict(
        kind='adam',  # as of model_opt
        lr=3e-4,  # learning rate
        eps=1e-8,  # Adam's epsilon
        clip=1000.0,  # largest global norm of the gradient
        weight_decay=0.0,
      ),  # as of model_opt
      # How experience is taken up.
      replay=dict(
        # windows: uniform over all windows of the stream; episodes: over complete episodes
        sampling='windows',
        prioritize_ends=False,  # of episodes: their last windows are drawn more often
        # of episodes: windows that begin inside one know the action before them (DreamerPro)
        first_action=False,
      ),
      pretrain=1,  # updates before the first step with the policy
      # replayed steps per environment step: 1024 / (16 · 64) = 1 update per step
      train_ratio=1024.0,
      # random steps before training, if the first batch does not need more
      prefill=0,
      eval_policy='sample',  # evaluation samples its actions, or takes the mode
      eval_at_start=False,  # evaluate before the first step, too
    )
  )
