"""The RSSM's step and its gradient as four GPU kernels each, in Pallas.

A kernel is a product. What comes before it (a norm, an activation, a GRU) needs whole rows, and is
found again by each block of columns, as it is small beside a launch; what comes after it goes by
columns. Rows of all steps lie in stacks [T, B, N], which a kernel reads and writes in place at its
step, so that nothing is sliced, stored or copied between the kernels.

On a GPU sizes must be powers of two, and rows (B) come by 16. On a CPU kernels are interpreted,
which is for tests.

Shapes: T time, B batch, D deter, U units, S groups of K classes.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from harmony_jax import distributions as dists
from harmony_jax.errors import UserError
from harmony_jax.networks import ACTIVATIONS, EPSILON, gru
from harmony_jax.recurrence import steps_at_once

_PART, _WARPS = 128, 16
_COLUMNS, _ROWS = 32, 16  # of a block: as many rows as a product on tensor cores has at least


class Row(NamedTuple):
  """Where a kernel reads or writes: row t + `ahead` of a stack [T, B or 1, N]; ahead None: the only
  row. Of its columns the `size` from `start`, or all, in so many `parts` or more.
  """

  stack: jax.Array
  ahead: int | None = 0
  start: int = 0
  size: int = 0
  parts: int = 1

  @property
  def width(self) -> int:
    """Columns, of all parts."""
    return self.size or self.stack.shape[2]


class Step(NamedTuple):
  """A step as a kernel finds it, so that no other kernel has to count: `sign` (`several` i + n)
  behind `origin`, in pass i [1] of a loop of several steps at once.
  """

  i: jax.Array
  several: int
  n: int
  origin: int = 0
  sign: int = 1

  def at(self, i: jax.Array) -> jax.Array:
    """Return t."""
    return self.origin + self.sign * (self.several * i + self.n)


def constant(x: jax.Array) -> Row:
  """Return [N] or [B, N] as the only row of a stack."""
  return Row(x.reshape(1, -1, x.shape[-1]), None)


Parts = tuple[jax.Array, ...]  # of a row, side by side


def product(
  step: Step,
  before: Callable[..., tuple[Parts, Parts]],
  rows: Sequence[Row],
  matrix: jax.Array,
  after: Callable[..., Sequence[jax.Array]],
  columns: Sequence[Row],
  results: Sequence[Row],
  aside: Row | None = None,
  unit: int = 1,
) -> list[jax.Array]:
  """One kernel: `x, more = before(*rows)`, `after(x @ matrix, *columns)`.

  Args:
    step: t.
    before: of whole rows [B, N], float32, each in parts, so that few numbers are at hand at a time.
    matrix: [inputs, N], in the type that is multiplied in.
    after: by columns: of blocks of the product and of what has as many columns, or a share or a
      multiple of them, or one.
    results: where what `after` returns is written. aside: where `more` is.
    unit: columns that belong together.

  Returns: the stacks of `results` and `aside`, changed in place.
  """
  batch, total = max(each.stack.shape[1] for each in results), matrix.shape[1]
  block = unit * max(1, _COLUMNS // unit)
  block, tile = (block if total % block == 0 else total), math.gcd(batch, _ROWS)
  written = [*results, *([aside] if aside else [])]
  stacks = list({id(row.stack): row.stack for row in (*rows, *columns, *written)}.values())
  places = [id(stack) for stack in stacks]
  changed = [places.index(id(row.stack)) for row in written]

  def body(i, *refs):
    ins, kernel, outs = refs[: len(stacks)], refs[len(stacks)], refs[len(stacks) + 1 :]
    at_row, at_column = pl.program_id(0), pl.program_id(1)

    def place(row, start, size):
      index = 0 if row.ahead is None else step.at(i[0]) + row.ahead
      whole = row.stack.shape[1] == 1
      return index, pl.ds(0, 1) if whole else pl.ds(at_row * tile, tile), pl.ds(start, size)

    def read(row, start, size):
      ref = ins[places.index(id(row.stack))]
      return ref[place(row, start, size)].astype(jnp.float32)

    def parts(row):
      size = row.width // row.parts
      size = _PART if size % _PART == 0 == _PART % unit else size
      return tuple(read(row, row.start + at, size) for at in range(0, row.width, size))

    def by_column(row):
      size = row.width * block // total if row.width > 1 else 1
      return row, row.start + (at_column * size if row.width > 1 else 0), size

    x, more = before(*map(parts, rows))
    sums, at = 0, 0
    for part in x:
      factor = kernel[pl.ds(at, part.shape[1]), pl.ds(at_column * block, block)]
      sums += jnp.dot(part.astype(factor.dtype), factor, preferred_element_type=jnp.float32)
      at += part.shape[1]
    found = after(sums, *(read(*by_column(row)) for row in columns))
    for row, ref, part in zip(results, outs, found):
      ref[place(*by_column(row))] = part.astype(ref.dtype)
    for row in [aside] if aside else []:

      @pl.when(at_column == 0)
      def _(row=row):
        at = row.start
        for part in more:
          outs[-1][place(row, at, part.shape[1])] = part.astype(outs[-1].dtype)
          at += part.shape[1]

  moved = (
    row.stack.shape[1] * row.width * row.stack.dtype.itemsize for row in (*rows, *columns, *written)
  )
  work = {  # for benchmarking/hlo.py, which sees whole stacks only
    'kind': 'bf16' if matrix.dtype == jnp.bfloat16 else 'f32',
    'flops': 2 * batch * matrix.size,
    'bytes': sum(moved) + matrix.nbytes,
  }
  return pl.pallas_call(
    body,
    out_shape=[jax.ShapeDtypeStruct(row.stack.shape, row.stack.dtype) for row in written],
    grid=(batch // tile, total // block),
    input_output_aliases={1 + place: n for n, place in enumerate(changed)},
    interpret=jax.default_backend() != 'gpu',
    compiler_params=triton.CompilerParams(num_warps=_WARPS),
    metadata={name: str(value) for name, value in work.items()},
  )(step.i, *stacks, matrix)


def check(stoch: int, **sizes: int) -> None:
  """Raise UserError where kernels cannot have these sizes, or not on this platform."""
  platform = jax.default_backend()
  if platform == 'cpu':  # interpreted
    return
  if platform != 'gpu':
    raise UserError(f'rssm.recurrence=fused is for GPUs, not for a {platform}: take resident')
  odd = [f'{name} is {n}' for name, n in sizes.items() if n & (n - 1) or n < _COLUMNS]
  odd += [f'stoch is {stoch}'] if stoch & (stoch - 1) else []
  if odd:
    raise UserError(
      f'rssm.recurrence=fused takes powers of two from {_COLUMNS} on (stoch: from 1 on): '
      f'{", ".join(odd)}; take batched'
    )


def fits(batch: int) -> bool:
  """Whether kernels take so many rows."""
  return jax.default_backend() == 'cpu' or batch % _ROWS == 0


# --------------------------------------------------------------------------------------------------
# The step


@dataclasses.dataclass(frozen=True)
class Filter:
  """Both loops of `RSSM.observe` for `recurrence.scan`, of states of S categoricals.

  `known` is (parameters, rows of `img_in` and `obs_out` that meet the state, initial deter and
  stoch), `inputs` (embed_part, action_part, keep, noise or nothing), `carry` (deter, stoch).
  """

  classes: int
  unimix: float
  activation: str
  dtype: Any

  def forward(self, known: Any, carry: Any, inputs: Any) -> tuple[Any, Any]:
    """Return ((the carry after every step, stats), what `backward` needs)."""
    params, of_stoch, of_deter, *initial = known
    embed, action, keep, *noise = inputs
    length, batch = keep.shape
    deter, stoch = (_before(x, length) for x in carry)
    first = [constant(x.reshape(1, -1)) for x in initial]
    keep = keep[..., None]
    width, size = deter.shape[-1], stoch.shape[-1]
    kernels = [of_stoch, params['gru']['kernel'], of_deter, params['obs_stats']['kernel']]
    matrices = [x.astype(self.dtype) for x in kernels]
    bias = constant(params['obs_stats']['bias'])
    gru_bias = [constant(params['gru']['bias'])] if 'bias' in params['gru'] else []
    action, embed = (
      part + params[name]['bias'] if 'bias' in params[name] else part
      for part, name in ((action, 'img_in'), (embed, 'obs_out'))
    )
    norms = {name: _norm(params[name]) for name in ('img_in', 'obs_out')}
    gates = [x._replace(parts=3) for x in _norm(params['gru'])]
    new = lambda size, dtype=self.dtype: jnp.zeros((length, batch, size), dtype)
    products = [new(action.shape[-1]), new(3 * width), new(embed.shape[-1]), new(size)]
    stats = new(size, jnp.float32)

    def step(t, stacks):
      deter, stoch, stats, y_in, y_gru, y_out, logits = stacks
      [y_in] = product(
        t,
        lambda *kept: (_keep(*kept), ()),
        [Row(keep), Row(stoch), first[1]],
        matrices[0],
        lambda y, part: [y + part],
        [Row(action)],
        [Row(y_in)],
      )
      [y_gru] = product(
        t,
        lambda keep, deter, first, *y: (_keep(keep, deter, first) + self._finish(*y), ()),
        [Row(keep), Row(deter), first[0], Row(y_in), *norms['img_in']],
        matrices[1],
        lambda y, *bias: [y + bias[0] if bias else y],
        gru_bias,
        [Row(y_gru)],
      )

      def turn(keep, deter, first, *y):
        deter = _cell(_keep(keep, deter, first), *y)
        return deter, deter

      y_out, deter = product(
        t,
        turn,
        [Row(keep), Row(deter), first[0], Row(y_gru, parts=3), *gates],
        matrices[2],
        lambda y, part: [y + part],
        [Row(embed)],
        [Row(y_out)],
        Row(deter, 1),
      )

      def draw(y, bias, *noise):
        logits = (y + bias).reshape(-1, self.classes)
        stats = dists.unimix(logits, self.unimix)
        sample = _draw(stats, *(x.reshape(-1) for x in noise))
        return [x.reshape(y.shape) for x in (logits, stats, sample)]

      logits, stats, stoch = product(
        t,
        lambda *y: (self._finish(*y), ()),
        [Row(y_out), *norms['obs_out']],
        matrices[3],
        draw,
        [bias, *map(Row, noise)],
        [Row(logits), Row(stats), Row(stoch, 1)],
        unit=self.classes,
      )
      return deter, stoch, stats, y_in, y_gru, y_out, logits

    deter, stoch, stats, *products = _loop(length, step, (deter, stoch, stats, *products))
    groups = (length, batch, -1, self.classes)
    return ((deter[1:], stoch[1:].reshape(groups)), stats.reshape(groups)), products

  def backward(
    self, known: Any, before: Any, inputs: Any, products: Any, gradients: Any
  ) -> tuple[Any, Any]:
    """Return (gradient of the first carry, of the carry after every step).

    Args:
      before: the carry before every step. gradients: of the carry after every step and of stats,
        but for what later steps add.
    """
    params, of_stoch, of_deter, *initial = known
    keep = inputs[2][..., None]
    length, batch, _ = keep.shape
    y_in, y_gru, y_out, logits = products
    deter, width = before[0], before[0].shape[-1]
    first = constant(initial[0].reshape(1, -1))
    (of_deters, of_stochs), of_stats = gradients
    of_stats = of_stats.reshape(length, batch, -1)
    of_stochs = of_stochs.reshape(length, batch, -1)
    nothing = lambda size: jnp.zeros((1, batch, size), jnp.float32)
    totals = [_behind(x) for x in (of_deters, of_stochs)]
    # The last step has none behind it, which would be dropped there.
    later = jnp.concatenate([keep, jnp.zeros_like(keep[:1])])
    kernels = [params['obs_stats']['kernel'], of_deter, params['gru']['kernel'], of_stoch]
    matrices = [x.T.astype(self.dtype) for x in kernels]
    norms = {name: _norm(params[name]) for name in ('img_in', 'obs_out')}
    gates = [x._replace(parts=3) for x in _norm(params['gru'])]
    units = y_in.shape[-1]
    scratch = {'out': y_out.shape[-1], 'whole': width, 'direct': width, 'gru': width + units}

    def step(t, stacks):
      of_deter, of_stoch, (of_out, whole, direct, of_gru) = stacks

      [of_out] = product(
        t,
        lambda *x: (tuple(map(self._undrawn, *x)), ()),
        [Row(logits), Row(of_stats), Row(of_stoch, 1)],
        matrices[0],
        lambda y: [y],
        [],
        [Row(of_out, None)],
        unit=self.classes,
      )

      def unfinish(gradient, y, *norm):
        return jax.vjp(lambda y: self._finish(y, *norm), y)[1](gradient)[0], ()

      def gather(y, total, keep, direct, through):
        total = total + keep * (direct + through)
        return [total, total + y]

      of_deter, whole = product(
        t,
        unfinish,
        [Row(of_out, None), Row(y_out), *norms['obs_out']],
        matrices[1],
        gather,
        [Row(of_deter, 1), Row(later, 1), Row(direct, None), Row(of_gru, None, 0, width)],
        [Row(of_deter, 1), Row(whole, None)],
      )

      def unturn(gradient, keep, deter, first, y, *norm):
        kept = _keep(keep, deter, first)
        of_kept, of_y = jax.vjp(lambda kept, y: _cell(kept, y, *norm), kept, y)[1](gradient)
        return of_y, of_kept

      of_gru, direct = product(
        t,
        unturn,
        [Row(whole, None), Row(keep), Row(deter), first, Row(y_gru, parts=3), *gates],
        matrices[2],
        lambda y: [y],
        [],
        [Row(of_gru, None)],
        Row(direct, None),
      )
      [of_stoch] = product(
        t,
        unfinish,
        [Row(of_gru, None, width, units), Row(y_in), *norms['img_in']],
        matrices[3],
        lambda y, total, keep: [total + keep * y],
        [Row(of_stoch), Row(keep)],
        [Row(of_stoch)],
      )
      return of_deter, of_stoch, (of_out, whole, direct, of_gru)

    start = (*totals, tuple(map(nothing, scratch.values())))
    of_deter, of_stoch, (*_, direct, of_gru) = _loop(length, step, start, reverse=True)
    of_first = of_deter[0] + keep[0] * (direct[0] + of_gru[0, :, :width])
    of_stoch = of_stoch.reshape(length + 1, *before[1].shape[1:])
    return (of_first, of_stoch[0]), (of_deter[1:], of_stoch[1:])

  def _finish(self, y, *norm):
    """As a layer ends (`networks.Dense`), but for the bias, of a layer with or without a norm."""
    return tuple(map(ACTIVATIONS[self.activation], _normalized(y, *norm)))

  def _undrawn(self, logits, of_stats, of_stoch):
    """The gradient of logits [B, some groups of classes]."""
    groups = lambda x: x.reshape(-1, self.classes)

    def drawn(logits):
      stats = dists.unimix(groups(logits), self.unimix)
      return jax.nn.softmax(stats), stats

    return jax.vjp(drawn, logits)[1]((groups(of_stoch), groups(of_stats)))[0]


def _loop(length, step, stacks, reverse=False):
  several = steps_at_once(length, 'batched')
  direction = (length - 1, -1) if reverse else (0, 1)

  def steps(i, stacks):
    for n in range(several):
      stacks = step(Step(i[None], several, n, *direction), stacks)
    return stacks

  return jax.lax.fori_loop(0, length // several, steps, stacks)


def _keep(keep, x, first):
  return tuple(jnp.where(keep[0] > 0, *both) for both in zip(x, first, strict=True))


def _cell(deter, y, *norm):
  gates, count = _normalized(y, *norm), len(deter)
  return tuple(map(gru, gates[:count], gates[count : 2 * count], gates[2 * count :], deter))


def _normalized(y, scale=None, bias=None):
  """A layer norm of a row in parts, or the row."""
  if scale is None or bias is None:
    return y
  count = sum(x.shape[-1] for x in y)
  mean = sum(x.sum(-1, keepdims=True) for x in y) / count
  square = sum((x * x).sum(-1, keepdims=True) for x in y) / count
  deviation = jax.lax.rsqrt(jnp.maximum(square - mean * mean, 0) + EPSILON)
  return tuple((x - mean) * (deviation * s) + b for x, s, b in zip(y, scale, bias))


def _draw(stats, uniform=None):
  """As `distributions.draw_one_hot`, of operations that Triton has."""
  classes = stats.shape[-1]
  place = lambda *shape, axis: jax.lax.broadcasted_iota(jnp.int32, shape, axis)
  if uniform is None:
    index = jnp.argmax(stats, -1)
  else:
    square = (classes, classes)
    triangle = (place(*square, axis=0) <= place(*square, axis=1)).astype(jnp.float32)
    cumulative = jnp.dot(jax.nn.softmax(stats), triangle, precision='highest')
    last = place(*stats.shape, axis=1) == classes - 1
    whole = jnp.where(last, cumulative, 0).sum(-1, keepdims=True)
    index = (cumulative <= uniform[:, None] * whole).astype(jnp.int32).sum(-1)
    index = jnp.minimum(index, classes - 1)
  return (place(*stats.shape, axis=1) == index[:, None]).astype(jnp.float32)


def _norm(layer):
  return [constant(layer['norm'][name]) for name in ('scale', 'bias') if 'norm' in layer]


def _before(x, length):
  """A stack of so many steps behind x [B, ...]: [1 + T, B, N]."""
  x = x.reshape(1, x.shape[0], -1)
  return jnp.concatenate([x, jnp.zeros((length, *x.shape[1:]), x.dtype)])


def _behind(x):
  return jnp.concatenate([jnp.zeros_like(x[:1]), x])
