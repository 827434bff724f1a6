"""What a compiled program has a device do, read from its HLO text: kernels, FLOP, bytes, loops.

A kernel is a scheduled instruction that does something; it runs as often as the loops around it go
round. What it reads and writes is counted as if nothing stayed in a cache: of a stack that is
sliced, gathered from or written into, the rows alone; what a TPU keeps in its fast memory, S(1),
is free. Its copies to and from there are no kernels: it computes in front of them. Kernels of our
own say themselves what they read, write and multiply (fused.py, resident.py).
"""

import functools
import json
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

COLLECTIVES = ('all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all', 'collective-permute')
OUTSIDE = 'outside of loops'
_IDLE = {
  *('parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'bitcast-convert', 'iota'),
  *('after-all', 'partition-id', 'replica-id', 'opt-barrier'),
}
_VIEW = '"ConcatBitcast"'  # of what a TPU has fetched in parts
_FETCHES = ('copy-start', 'slice-start', 'async-start')
_ENDS = ('-done', '-update')
_BYTES = {'pred': 1, 's8': 1, 'u8': 1, 's16': 2, 'u16': 2, 'f16': 2, 'bf16': 2}
_BYTES |= {'s64': 8, 'u64': 8, 'f64': 8, 'token': 0}
_WINDOWS = ('slice', 'dynamic-slice', 'gather')  # read as much as they give
_WHOLE = {  # need all of their operands, however little of them is needed
  *('reduce', 'reduce-window', 'dot', 'convolution', 'sort', 'scatter', 'custom-call', 'fusion')
}
_INSERTS = {'dynamic-update-slice': 1, 'scatter': 2}  # write as much as this operand holds
_WINDOW = {'stride': 1, 'pad': 0, 'lhs_dilate': 1, 'rhs_dilate': 1}  # where nothing is said
_HEAD = re.compile(r'(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$')
_LINE = re.compile(r'\s+(ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$')


class Instruction(NamedTuple):
  """One line: `name = shape opcode(operands), rest`."""

  root: bool
  name: str
  shape: str
  opcode: str
  operands: list[str]
  inner: str  # the operands as they stand there
  rest: str

  def attribute(self, pattern: str) -> str:
    """Return what the group in a pattern matches in the attributes, or ''."""
    found = re.search(pattern, self.rest)
    return found.group(1) if found else ''


Body = dict[str, Instruction]


class Kernel(NamedTuple):
  """One kernel: how often it runs, and what it does each time.

  flops: {'f32' | 'bf16' | …: FLOP of products by what they multiply, 'highest' at that precision}.
  part: the loop that it is in. prefetch: a copy to or from fast memory, beside the kernels.
  spent: FLOP that the device could do meanwhile, where they are more; of our own kernels only.
  """

  it: Instruction
  runs: int
  flops: dict[str, float]
  bytes: int
  part: str
  prefetch: bool = False
  spent: dict[str, float] | None = None


class Program:
  """A compiled program; `text` as of `compiled.as_text()`."""

  def __init__(self, text: str):
    self._bodies: dict[str, Body] = {}
    self._entry, body = '', {}
    # what one of our own kernels says of itself may have several lines
    one_line = lambda found: found.group().replace('\n', '')
    for line in re.sub(r'kernel_metadata=\{[^}]*\}', one_line, text).splitlines():
      if head := _HEAD.match(line):
        body = self._bodies.setdefault(head.group(2), {})
        self._entry = head.group(2) if head.group(1) else self._entry
      elif found := _LINE.match(re.sub(r'/\*.*?\*/', '', line)):
        made = _instruction(*found.groups())
        body[made.name] = made

  def kernels(self) -> Iterator[Kernel]:
    """Yield all kernels in the order in which they are first run."""
    loops = (f'loop {number}' for number in range(1, 1 + len(self._bodies)))
    return self._walk(self._entry, 1, OUTSIDE, loops)

  def _walk(self, name, runs, part, loops):
    body = self._bodies[name]
    for it in body.values():
      if it.opcode == 'while':
        trips = self._trips(it)
        inside = f'{next(loops)}: {trips} × {_place(it)}'
        yield from self._walk(it.attribute(r'body=%?([\w.\-]+)'), runs * trips, inside, loops)
      elif it.opcode == 'conditional':
        names = re.findall(r'[\w.\-]+', it.attribute(r'branch_computations=\{([^}]*)\}'))
        names += re.findall(r'(?:true|false)_computation=%?([\w.\-]+)', it.rest)
        ways = [list(self._walk(each, runs, part, loops)) for each in names]
        yield from max(ways, key=lambda way: sum(kernel.runs for kernel in way))
      elif it.opcode == 'call':
        yield from self._walk(it.attribute(r'to_apply=%?([\w.\-]+)'), runs, part, loops)
      elif it.opcode in _FETCHES and 'S(1)' in it.shape:
        yield Kernel(it, runs, {}, nbytes(it.shape, near=True), part, True)
      elif work := _told(it):
        size = int(work['bytes']) if 'bytes' in work else self._bytes(it, body)
        flops = {work['kind']: float(work['flops'])}
        spent = {work['kind']: float(work['spent'])} if 'spent' in work else None
        yield Kernel(it, runs, flops, size, part, spent=spent)
      elif it.opcode not in _IDLE and not it.opcode.endswith(_ENDS) and _VIEW not in it.rest:
        yield Kernel(it, runs, self._flops(it, body), self._bytes(it, body), part)

  def _trips(self, loop):
    """How often a loop goes round: a TPU's does not say it, but compares with a constant."""
    known = loop.attribute(r'known_trip_count"?:\s*\{"?n"?:\s*"?(\d+)')
    condition = self._bodies.get(loop.attribute(r'condition=%?([\w.\-]+)'), {})
    constants = (it for it in condition.values() if it.opcode == 'constant')
    numbers = [it.inner for it in constants if it.shape.startswith('s32[]') and it.inner.isdigit()]
    return int(known or next(iter(numbers), 1))

  def _called(self, it) -> Body:
    return self._bodies.get(it.attribute(r'calls=%?([\w.\-]+)'), {})

  # ----------------------------------------------------------------------------------------------
  # FLOP

  def _flops(self, it, body) -> dict[str, float]:
    found: dict[str, float] = {}
    inner = self._called(it)
    for each, where in [(x, inner) for x in inner.values()] or [(it, body)]:
      parts = self._flops(each, inner) if each is not it and self._called(each) else {}
      if not parts and (count := _products(each, where)):
        parts = {_kind(each, where): count}
      for kind, count in parts.items():
        found[kind] = found.get(kind, 0) + count
    return found

  # ----------------------------------------------------------------------------------------------
  # Bytes

  def _bytes(self, it, body) -> int:
    inner = self._called(it) if it.opcode == 'fusion' else {}
    if not inner:
      operands = [(at, body[name]) for at, name in enumerate(it.operands) if name in body]
      distinct = {each.name: (at, each) for at, each in operands}.values()
      return _written(it, body) + sum(_read_by(it, at, body) for at, _ in distinct)
    root = next((each for each in inner.values() if each.root), it)
    shares, given = _shares(inner), [x for x in inner.values() if x.opcode == 'parameter']
    return round(sum(shares[x.name] * nbytes(x.shape) for x in given)) + _written(root, inner)


def _instruction(root, name, shape, opcode, text):
  depth, end = 1, -1
  while depth and end + 1 < len(text):  # to the bracket that closes the operands
    end += 1
    depth += {'(': 1, ')': -1}.get(text[end], 0)
  inner = text[:end]
  return Instruction(
    bool(root), name, shape, opcode, re.findall(r'%([\w.\-]+)', inner), inner, text[end:]
  )


def _told(it):
  """What one of our own kernels says of itself: a GPU's is given whole stacks."""
  of_gpu = it.attribute(r'serialized_metadata = "([^"]*)"').replace(r'\22', '"')
  # A TPU's compiler copies it to what it puts around them.
  of_tpu = it.attribute(r'"tpu_custom_call".*kernel_metadata=(\{[^}]*\})')
  return json.loads(of_gpu or of_tpu or '{}')


def _place(it):
  """Where in the Python a loop stands, and whether it is a gradient."""
  path = it.attribute(r'op_name="([^"]*)"')
  return ('backward ' if 'transpose(' in path else '') + '/'.join(path.split('/')[-3:])


# --------------------------------------------------------------------------------------------------
# Shapes


def dims(shape: str) -> list[int]:
  """Return the sizes of the (first) array of a shape."""
  found = re.search(r'\[([\d,]*)\]', shape)
  return [int(x) for x in found.group(1).split(',') if x] if found else []


def _count(it):
  return math.prod(dims(it.shape))


def nbytes(shape: str, near: bool = False) -> int:
  """Return the bytes of all arrays of a shape that lie in the device's large memory, or near it."""
  return sum(
    _BYTES.get(kind, 4) * math.prod(int(x) for x in sizes.split(',') if x)
    for kind, sizes, layout in re.findall(r'\b([a-z]+\d*)\[([\d,]*)\](\{[^}]*\})?', shape)
    if ('S(1)' in layout) == near
  )


def _read_by(it, at, body):
  """Bytes that an instruction reads of its operand number `at`."""
  if not at and it.opcode in _WINDOWS:
    return nbytes(it.shape)
  return 0 if not at and it.opcode in _INSERTS else nbytes(body[it.operands[at]].shape)


def _shares(body):
  """{name: the share of its numbers that a fusion's results need}.

  Different pieces of an array add up; of all else that needs it, what needs most counts.
  """
  pieces, most, shares = dict.fromkeys(body, 0.0), dict.fromkeys(body, 0.0), {}
  rows = dict.fromkeys(body, True)  # whether what is needed are whole rows, of the first axis
  for it in reversed(body.values()):
    size = _count(it)
    needed = size if it.root else min(max(pieces[it.name], most[it.name]), size)
    shares[it.name] = needed / max(size, 1)
    for at, name in enumerate(it.operands):
      if not at and it.opcode in _WINDOWS:
        pieces[name] += needed
        rows[name] &= dims(it.shape)[1:] == dims(body[name].shape)[1:]
      elif name in body and (at or it.opcode not in _INSERTS):
        by_row = rows[it.name] and _keeps_rows(it, body[name])
        most[name] = max(most[name], _asked(it, _count(body[name]), needed, by_row))
        rows[name] &= by_row
  return shares


def _keeps_rows(it, operand):
  """Whether each row of a result is made of that row of an operand alone."""
  kept = dims(it.shape)[:1] == dims(operand.shape)[:1] != []
  if it.opcode == 'broadcast':
    return kept and it.attribute(r'dimensions=\{([\d,]*)\}').split(',')[0] == '0'
  if it.opcode == 'reduce':
    return kept and '0' not in it.attribute(r'dimensions=\{([\d,]*)\}').split(',')
  return kept and dims(it.shape) == dims(operand.shape) and it.opcode not in _WHOLE


def _asked(it, size, needed, by_row):
  """The numbers of an operand of so many that an instruction reads for so many of its own."""
  if it.opcode == 'concatenate' or by_row:
    return size * needed / max(_count(it), 1)
  inside = 'output_to_operand_aliasing' in it.rest  # a TPU's fusion in a fusion, in place
  return size if it.opcode in {'tuple', *_WHOLE} and not inside else min(size, needed)


def _written(it, body):
  """Bytes that are written for a result, which is changed in place where it can be."""
  if it.opcode in _INSERTS and it.operands[_INSERTS[it.opcode]] in body:
    return nbytes(body[it.operands[_INSERTS[it.opcode]]].shape)
  if it.opcode in ('tuple', 'bitcast'):
    return sum(_written(body[name], body) for name in it.operands if name in body)
  return nbytes(it.shape)


# --------------------------------------------------------------------------------------------------
# Products


def _kind(it, body):
  if 'highest' in it.attribute(r'operand_precision=\{([^}]*)\}'):
    return 'highest'
  return 'bf16' if all(body[x].shape.startswith('bf16') for x in it.operands[:2]) else 'f32'


def _products(it, body) -> float:
  """FLOP of a product or convolution, 2 for each pair of numbers; 0 of anything else."""
  target = it.attribute(r'custom_call_target="([^"]*)"')
  if it.opcode == 'convolution' or 'cudnn$conv' in target:
    return _convolution(it, target, [dims(body[name].shape) for name in it.operands[:2]])
  if it.opcode == 'dot':
    contracted = it.attribute(r'lhs_contracting_dims=\{([\d,]*)\}')
  elif 'cublas' in target:
    contracted = it.attribute(r'"lhs_contracting_dimensions":\[([^\]]*)\]')
  else:
    return 0
  left = dims(body[it.operands[0]].shape)
  return (
    2 * math.prod(dims(it.shape)) * math.prod(left[int(x)] for x in re.findall(r'\d+', contracted))
  )


def _convolution(it, target, operands):
  """Its gradients are written in its own terms, and have its pairs."""
  x, kernel, y = *operands, dims(it.shape)
  if 'BackwardInput' in target:
    x, y = y, x
  elif 'BackwardFilter' in target:
    kernel, y = y, kernel
  of_x, of_kernel, of_y = re.split('_|->', it.attribute(r'dim_labels=([\w?]+->[\w?]+)'))
  size = lambda shape, labels, label: shape[labels.index(label)]
  window = re.findall(r'(\w+)=([\d_x\-]+)', it.attribute(r'window=\{([^}]*)\}'))
  window = {name: sizes.split('x') for name, sizes in window}  # of pads: 'before_behind'
  pairs = size(y, of_y, 'b') * size(y, of_y, 'f') * size(kernel, of_kernel, 'i')
  for axis in filter(str.isdigit, of_y):
    along = lambda name: window[name][int(axis)].split('_')[0] if name in window else None
    pairs *= _meetings(
      size(x, of_x, axis),
      size(kernel, of_kernel, axis),
      size(y, of_y, axis),
      *(int(along(name) or default) for name, default in _WINDOW.items()),
    )
  return 2 * pairs


@functools.cache
def _meetings(size, taps, made, stride, before, holes, apart):
  """Pairs of a place of the result and a tap that falls on a number, not on padding or a hole."""
  place = np.arange(made)[:, None] * stride + np.arange(taps) * apart - before
  return int(((place >= 0) & (place <= (size - 1) * holes) & (place % holes == 0)).sum())
