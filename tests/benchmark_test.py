"""The benchmark: counted work, what is measured, and the command as users type it."""

import functools
import json
import math

import jax
import jax.numpy as jnp
import pytest

from harmony_jax.benchmarking import flops, parts
from harmony_jax.benchmarking.subject import Subject
from tests import commands, small

F32 = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
X, W = F32((5, 7)), F32((7, 7))
DENSE = 2 * 5 * 7 * 7


def dense(x, w):
  return jnp.tanh(x @ w)


def scanned(x, w):
  return jax.lax.scan(lambda carry, _: (dense(carry, w), None), x, length=6)[0]


def loss(function):
  """Return its gradient for all arguments, as a function."""
  return lambda *inputs: jax.grad(lambda all: (function(*all) ** 2).sum())(inputs)


def conv(padding, x, w):
  axes = ('NHWC', 'HWIO', 'NHWC')
  return jax.lax.conv_general_dilated(x, w, (2, 2), padding, dimension_numbers=axes)


def up(x, w):
  axes = ('NHWC', 'HWOI', 'NHWC')
  return jax.lax.conv_transpose(x, w, (2, 2), 'VALID', dimension_numbers=axes)


valid, same = (functools.partial(conv, padding) for padding in ('VALID', 'SAME'))
PICTURE, KERNEL = F32((2, 16, 16, 3)), F32((4, 4, 3, 8))
PLACE = 2 * 2 * (4 * 4 * 3 * 8)  # of a kernel on two pictures; 7 × 7 or 8 × 8 of them
POINT, SPREAD = F32((2, 1, 1, 6)), F32((5, 5, 4, 6))  # from one place to 5 × 5: each tap once


@pytest.mark.parametrize(
  'function, x, w, expected',
  [
    (dense, X, W, DENSE),
    (loss(dense), X, W, 3 * DENSE),
    (lambda x, w: jax.grad(lambda w: dense(x, w).sum())(w), X, W, 2 * DENSE),  # none of x
    (jax.jit(jax.checkpoint(dense)), X, W, DENSE),
    (loss(jax.checkpoint(dense)), X, W, 4 * DENSE),  # once more
    (loss(scanned), X, W, 3 * 6 * DENSE),
    (loss(valid), PICTURE, KERNEL, 3 * 49 * PLACE),
    (loss(same), PICTURE, KERNEL, 3 * 64 * PLACE),
    (loss(up), POINT, SPREAD, 3 * 2 * 2 * 25 * 4 * 6),
    (lambda x, w: jax.lax.cond(x.sum() > 0, dense, lambda x, w: x, x, w), X, W, DENSE),
    (lambda x, w: (x, x @ w)[0], X, W, 0),  # not used
  ],
)
def test_work_counted_by_hand(function, x, w, expected):
  assert flops.count(function, x, w) == expected


@pytest.mark.parametrize(
  'function, x, w', [(loss(dense), F32((64, 96)), F32((96, 96))), (valid, PICTURE, KERNEL)]
)
def test_work_as_the_compiler_counts_it(function, x, w):
  """Which counts what is elementwise, too."""
  compiled = jax.jit(function).lower(x, w).compile().cost_analysis()['flops']
  assert flops.count(function, x, w) == pytest.approx(compiled, rel=0.03)


def test_loop_of_unknown_length_is_refused():
  loop = lambda x, w: jax.lax.while_loop(lambda x: x.sum() < 9, lambda x: dense(x, w), x)
  with pytest.raises(flops.Uncountable, match='while'):
    flops.count(loop, X, W)


@pytest.mark.parametrize('name, shapes', [('dreamerv3', small.VECTOR), ('dreamerpro', small.IMAGE)])
def test_work_of_an_update(name, shapes):
  """The same whether or not it was traced for the CPU before, and by more parts than the model."""
  make = functools.partial(small.agent, shapes, name=name)
  method = make()
  state, batch = jax.eval_shape(method.init, jax.random.key(0)), small.batch(shapes)
  jax.jit(method.train_step).trace(state, batch)
  found = flops.count(method.train_step, state, batch)
  assert found == flops.count(make().train_step, state, batch)
  longer = make(behavior__horizon=5)
  assert flops.count(longer.train_step, state, batch) > found
  exchanged = flops.exchanged_bytes(method.train_step, state, batch)
  trained = sum(leaf.size for leaf in jax.tree.leaves(state.params))
  assert 4 * trained <= exchanged < 8 * trained


@pytest.mark.parametrize('name', ['dreamerv3', 'dreamerv2', 'dreamerpro'])  # windows, episodes
def test_noise_is_a_batch(name):
  """What is measured on is what a run would see."""
  subject = Subject(small.run_config(name))
  batch, state = subject.batch(), jax.eval_shape(subject.method.init, jax.random.key(0))
  after, _ = jax.eval_shape(subject.method.train_step, state, batch)
  assert jax.tree.structure(after) == jax.tree.structure(state)
  found = parts.replay(subject, 3, stored=800)
  assert found['host']['repeats'] == 3 and found['device']['gbytes_per_second'] > 0


def test_update_from_the_command_line(tmp_path):
  file = tmp_path / 'benchmark.json'
  sizes = ['--repeats=2', '--product_size=256', '--suite=catch', '--preset=tiny']
  sizes += ['--method=tests.shooting:METHOD']
  sizes += ['--config.batch_size=2']
  quick = {'JAX_DISABLE_MOST_OPTIMIZATIONS': '1'}  # where it measures, which is a new process
  result = commands.run('benchmark', *sizes, f'--output={file}', **quick)
  assert result.returncode == 0, result.stderr
  record = json.loads(file.read_text())
  names = 'gflops_achieved', 'memory_gbytes_per_second', 'peak_memory_bytes', 'cpu_seconds'
  assert all(math.isfinite(record[name]) and record[name] > 0 for name in names), record
  assert 0 < record['planned']['temp_bytes'] < record['peak_memory_bytes']
  floor = 1e-9 * record['flops'] / record['matmul_gflops']
  assert record['floor_ratio'] == pytest.approx(record['seconds_median'] / floor)
  assert (record['batch_size'], record['repeats']) == (2, 2) and 'jax' in record['versions']


def test_bad_input_is_one_line():
  result = commands.run('benchmark', '--suite=atari')
  assert result.returncode == 2 and result.stderr.count('\n') == 1, result.stderr
  assert result.stderr.startswith('error: ') and 'atari100k' in result.stderr
