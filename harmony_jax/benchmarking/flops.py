"""Multiplications and additions (2 per pair) that one training step cannot do without, counted from
layer shapes.

Nothing is asked of XLA: what a program does beside, or twice, does not make its floor higher.
Norms, activations, losses and optimisers are left out: they are far below a hundredth. Conventions,
per frame or imagined state:

    world model         3 × forward (forward, gradient of inputs, gradient of weights), but the
    layers that see the
                        observation itself need no gradient of their inputs; every view of
                        DreamerPro counts, and its slow encoder's forward pass
    imagination         forward: H transitions, and the actor in H + 1 states
    imagined heads      forward: reward, continue and critic in H + 1 states
    imagined gradient   only where the actor learns through the dynamics: the gradient of inputs (1
    × forward) of H
                        transitions, and of reward, critic (and continue, where its mean counts) in
                        the H states that depend on an action; the actor's share is in its own 3 ×
    actor               3 × forward in H + 1 states
    critic              3 × forward in H + 1 states, and the slow critic's forward where it
    regularises
"""

import jax

# Layers of the RSSM that run in imagination, too.
TRANSITION = ('img_in', 'gru', 'img_out', 'img_stats')
STAGES = 3  # of a residual image network


def forward(agent) -> dict:
  """FLOP of each network's forward pass over one frame or state.

  `observed` is the share of the encoder's layers that see the observation itself; `transition` that
  of the RSSM that imagines.
  """
  params = jax.eval_shape(agent.init, jax.random.key(0)).params
  model = params['world_model']
  encoder = _encoder(agent.world_model.encoder, model['encoder'])
  decoder = model.get('decoder') or params.get('probe')
  decoder = _decoder(agent.world_model.decoder, decoder) if decoder else {}
  rssm = {name: _kernels(layer) for name, layer in model['rssm'].items() if name != 'initial'}
  first = ('stem', 'h_0', 'residual/Conv_0') + (() if 'stem' in encoder else ('down_0',))
  return {
    'encoder': sum(encoder.values()),
    'observed': sum(encoder.get(name, 0) for name in first),
    'decoder': sum(decoder.values()),
    'rssm': sum(rssm.values()),
    'transition': sum(rssm[name] for name in TRANSITION),
    **_prototypes(model.get('prototypes'), sum(encoder.values())),
    'reward': _kernels(model['reward']),
    'continue': _kernels(model.get('continue', {})),
    'actor': _kernels(params['actor']),
    'critic': _kernels(params['critic']),
  }


def train_step(agent, batch_size: int, batch_length: int) -> tuple[int, dict]:
  """(FLOP of one training step, {part: its share}) for batches of `batch_size` × `batch_length`
  frames.
  """
  cost, behavior = forward(agent), agent.behavior
  frames = batch_size * batch_length * agent.world_model.views
  steps, states = frames * behavior.horizon, frames * (behavior.horizon + 1)
  probing = agent.world_model.probing
  networks = (
    'encoder',
    'prototypes',
    'rssm',
    'reward',
    'continue',
    *(() if probing else ('decoder',)),
  )
  model = sum(cost[name] for name in networks)
  parts = {
    'world_model': frames * (3 * model - cost['observed'] + cost['slow']),
    'imagination': steps * cost['transition'] + states * cost['actor'],
    'imagined_heads': states * (cost['reward'] + cost['continue'] + cost['critic']),
    'imagined_gradient': 0,
    'actor': 3 * states * cost['actor'],
    'critic': states * cost['critic'] * (4 if behavior.slow_regularizer else 3),
  }
  if probing:
    parts['probe'] = 3 * batch_size * batch_length * cost['decoder']
  if not agent.discrete:
    through_continue = cost['continue'] if behavior.keep == 'mean' else 0
    parts['imagined_gradient'] = steps * (
      cost['transition'] + cost['reward'] + cost['critic'] + through_continue
    )
  return sum(parts.values()), parts


def _prototypes(params, encoder) -> dict:
  """FLOP of the projections and scores of a frame that learn, and of its slow embedding with
  projection and scores.
  """
  if not params:
    return {'prototypes': 0, 'slow': 0}
  scores = 2 * params['vectors'].size
  return {
    'prototypes': _kernels(params) + 2 * scores,
    'slow': encoder + _kernels(params['embed']) + scores,
  }


def _kernels(tree, positions: int = 1) -> int:
  """FLOP of all products and convolutions of a subtree, each applied at so many positions."""
  paths = jax.tree_util.tree_leaves_with_path(tree)
  return sum(2 * leaf.size * positions for path, leaf in paths if path[-1].key == 'kernel')


def _encoder(encoder, params) -> dict:
  """{layer: FLOP} for one frame. A convolution is applied once per output position."""
  side, found = _side(encoder) // encoder.patch, {}
  for name in _in_order(params):
    if name.startswith('down'):
      side = side // 2 if encoder.padding == 'same' else (side - 4) // 2 + 1
    if name == 'residual':
      found |= _residual(params[name], lambda stage, side=side: side // 2 >> stage)
    else:
      found[name] = _kernels(params[name], 1 if name.startswith('h_') else side**2)
  return found


def _decoder(decoder, params) -> dict:
  """{layer: FLOP} for one state. A transposed convolution is applied once per input position."""
  side, found = _start(decoder, params), {}
  for name in _in_order(params):
    if name == 'residual':
      found |= _residual(params[name], lambda stage, side=side: side << stage + 1)
      continue
    spatial = name.startswith('up') or name == 'last'
    found[name] = _kernels(params[name], side**2 if spatial else 1)
    if spatial:
      size = params[name]['kernel'].shape[0]
      side = 2 * side if decoder.padding == 'same' else 2 * (side - 1) + size
  return found


def _residual(params, side_of) -> dict:
  """{layer: FLOP} of a residual image network; `side_of(stage)` is the side of the pictures in a
  stage.
  """
  blocks, found = sum(name.startswith('Block') for name in params) // STAGES, {}
  for name in params:
    if name.startswith('Block'):
      side = side_of(int(name.split('_')[1]) // blocks)
    else:  # the strided layer before the first stage or after the last one, both at that stage's side
      side = side_of(0 if name.startswith('Conv_') else STAGES - 1)
    found[f'residual/{name}'] = _kernels(params[name], side**2)
  return found


def _in_order(params):
  """Names of an encoder's or decoder's layers in the order in which pictures pass them."""
  return sorted(params, key=lambda name: (name != 'stem', name == 'last', name))


def _side(network) -> int:
  """Height and width of the images; 0 where there are none."""
  return next((shape[0] for shape in network.shapes.values() if len(shape) == 3), 0)


def _start(decoder, params) -> int:
  """Side of the picture that a decoder starts from."""
  if 'start' not in params:
    return 0
  if decoder.kind == 'residual':
    return _side(decoder) // 16
  return 1 if decoder.padding == 'valid' else decoder.minres
