"""The benchmark: the counted work, and the command as users type it."""

import json
import math
import os
import pathlib
import subprocess
import sys

import jax
import pytest

from configs import atari100k, catch, metaworld, rlbench
from harmony_jax.agent import parameter_count
from harmony_jax.benchmarking import acting, flops, loops, replays, scaling, subject
from harmony_jax.benchmarking.ceilings import larger
from harmony_jax.benchmarking.timing import repeat, spread
from harmony_jax.envs.base import Spec

ROOT = pathlib.Path(__file__).parents[1]
WANTED = (
  'seconds_median',
  'flops',
  'gflops_achieved',
  'matmul_gflops',
  'memory_gbytes_per_second',
  'floor_seconds',
  'floor_ratio',
  'trace_seconds',
  'compile_seconds',
  'peak_memory_bytes',
  'cpu_seconds',
  'updates_per_second',
)
# Fewer layers, so that there is less to compile.
SMALLER = {
  'network.normalization': 'none',
  'reward_head.layers': 1,
  'continue_head.enabled': False,
  'actor.layers': 1,
  'critic.layers': 1,
}


def count(config):
  agent = subject.make_agent(config, subject.make_spec(config))
  return flops.train_step(agent, config.batch_size, config.batch_length)


def test_work_of_dreamerv3():
  """0.906 TFLOP, made up as in the account of where the floor is."""
  total, parts = count(atari100k.get_config('dreamerv3', 'paper'))
  assert total == pytest.approx(0.906e12, rel=0.01) and total == sum(parts.values())
  expected = {
    'world_model': 0.413,
    'imagination': 0.123,
    'imagined_heads': 0.112,
    'imagined_gradient': 0.0,
    'actor': 0.103,
    'critic': 0.155,
  }
  assert parts == pytest.approx({name: value * 1e12 for name, value in expected.items()}, rel=0.005)


def test_work_per_frame_of_dreamerv3():
  config = atari100k.get_config('dreamerv3', 'paper')
  cost = flops.forward(subject.make_agent(config, subject.make_spec(config)))
  expected = {'encoder': 53.5, 'decoder': 66.1, 'rssm': 11.5}
  assert {name: cost[name] for name in expected} == pytest.approx(
    {k: v * 1e6 for k, v in expected.items()}, rel=0.005
  )
  assert cost['reward'] + cost['continue'] == pytest.approx(4.5e6, rel=0.01)


def test_work_of_dreamerv2():
  config = metaworld.get_config('dreamerv2', 'paper')
  config.batch_size = 16
  assert count(config)[0] == pytest.approx(1.29e12, rel=0.03)


def test_work_of_patches_and_residual_networks():
  """Layers at their own resolution: a stem on 8×8 patches, and 3×3 convolutions from 32×32 to 4×4
  and back.
  """
  config = atari100k.get_config('dreamerv3', 'cpu')
  cost = flops.forward(subject.make_agent(config, subject.make_spec(config)))
  assert cost['observed'] == 2 * 8 * 8 * 192 * 32
  assert cost['encoder'] == cost['observed'] + 2 * 4 * 4 * (4 * 4 * 32 * 64)
  spec = subject.make_spec(metaworld.get_config('dreamerv2', 'paper'))
  cost = flops.forward(subject.make_agent(rlbench.get_config('dreamerv2', 'paper'), spec))
  stacks = sum(
    (side**2) * (9 * depth * (ins + 3 * depth) + (ins != depth) * ins * depth)
    for side, ins, depth in ((32, 48, 48), (16, 48, 96), (8, 96, 192))
  )
  assert (
    cost['observed'] == 2 * 32**2 * 9 * 3 * 48 and cost['encoder'] == cost['observed'] + 2 * stacks
  )
  stacks = sum(
    (side**2) * (9 * depth * (ins + 3 * depth) + (ins != depth) * ins * depth)
    for side, ins, depth in ((8, 192, 192), (16, 192, 96), (32, 96, 48))
  )
  assert cost['decoder'] == 2 * (stacks + 2048 * 3072 + 32**2 * 9 * 48 * 3)


def test_timing():
  calls = []
  assert len(repeat(lambda: calls.append(0), 3)) == len(calls) == 3
  assert (
    len(repeat(lambda: None, least=5, seconds=0.0)) == 5 and len(repeat(lambda: None, most=7)) == 7
  )
  found = spread([0.001, 0.003, 0.002], 'ms', 1e3)
  assert (
    found['ms_median'] == pytest.approx(2)
    and found['ms_max'] == pytest.approx(3)
    and found['repeats'] == 3
  )
  assert larger({'rate': 1.0}, {'rate': 2.0}) == {
    'rate': 2.0,
    'rate_before': 1.0,
    'rate_after': 2.0,
  }


def test_random_data_fit_the_agent():
  """What is measured on is what a run would see: the training step takes the batch, the policy the
  time step.
  """
  config = metaworld.get_config('dreamerv2', 'tiny')
  spec = subject.make_spec(config)
  assert (
    isinstance(spec, Spec)
    and spec.num_actions == 4
    and subject.make_spec(config, 7).num_actions == 7
  )
  agent, batch = subject.make_agent(config, spec), subject.random_batch(config, spec)
  state = jax.eval_shape(agent.init, jax.random.key(0))
  after, metrics = jax.eval_shape(agent.train_step, state, batch)
  assert jax.tree.structure(after) == jax.tree.structure(state) and 'loss/world_model' in metrics
  assert batch['is_first'][:, 0].all() and not batch['is_first'][:, 1].any()


@pytest.mark.slow
def test_scaling_is_measured(quick_compilation):
  """One device, and the same update by the mapped program."""
  config = atari100k.get_config('dreamerv3', 'tiny')
  config.update_from_flattened_dict(SMALLER)
  found = scaling.measure(config, repeats=2)
  assert found['devices'] == 1 and found['by_devices'].keys() == {'1', 'mapped'}
  assert all(each['seconds_median'] > 0 for each in found['by_devices'].values())


def test_what_replicas_exchange():
  """Gradients of 17,922,955 parameters, and 15 returns of 1,024 imaginations; DreamerV2 does not
  normalise returns.
  """
  config = atari100k.get_config('dreamerv3', 'paper')
  agent = subject.make_agent(config, subject.make_spec(config))
  assert scaling.reduced_bytes(agent, config) == 4 * 17_922_955 + 4 * 15 * 1024
  config = atari100k.get_config('dreamerv2', 'paper')
  agent = subject.make_agent(config, subject.make_spec(config))
  params = jax.eval_shape(agent.init, jax.random.key(0)).params
  assert scaling.reduced_bytes(agent, config) == 4 * parameter_count(params)


@pytest.mark.parametrize('method', ['dreamerv3', 'dreamerv2'])  # windows and episodes
def test_replay_is_measured(method):
  found = replays.measure(atari100k.get_config(method, 'tiny'), repeats=3)
  assert found['batch_bytes'] > 4 * 16 * 64 * 64 * 3
  for name in ('host', 'host_to_device', 'device'):
    assert found[name]['repeats'] == 3 and found[name]['gbytes_per_second'] > 0


def test_policy_is_measured(quick_compilation):
  found = acting.measure_policy(atari100k.get_config('dreamerv3', 'tiny'), repeats=3)
  assert (
    found['batch_64']['ms_per_step'] == found['batch_64']['ms_median'] / 64
    and found['batch_1']['repeats'] == 3
  )


@pytest.fixture
def quick_compilation():
  jax.config.update('jax_disable_most_optimizations', True)
  yield
  jax.config.update('jax_disable_most_optimizations', False)


@pytest.mark.slow
def test_loop_is_measured(quick_compilation):
  """The stretch holds as many steps as updates, and nothing but training; the trainer is stopped in
  the middle.
  """
  config = catch.get_config('dreamerv3', 'tiny')
  config.update_from_flattened_dict({'task': catch.DEFAULT_TASK, **SMALLER})
  found = loops.measure(config, repeats=10)  # taken up to a multiple of 8 environments
  assert found['updates'] == 16 and found['steps'] == 16
  assert (
    found['ratio'] == pytest.approx(found['loop_ms_per_step'] / found['step_ms'])
    and found['step_ms'] > 0
  )


def command(*arguments):
  return subprocess.run(
    [sys.executable, '-m', 'experiments.benchmark', *arguments],
    cwd=ROOT,
    timeout=200,
    capture_output=True,
    text=True,
    env={**os.environ, 'JAX_PLATFORMS': 'cpu', 'JAX_DISABLE_MOST_OPTIMIZATIONS': '1'},
  )


def test_train_step_from_the_command_line(tmp_path):
  file = tmp_path / 'benchmark.json'
  result = command(
    '--what=train_step',
    '--preset=tiny',
    '--repeats=2',
    '--product_size=256',
    f'--output={file}',
    '--config.batch_size=2',
    *(f'--config.{name}={value}' for name, value in SMALLER.items()),
  )
  assert result.returncode == 0, result.stderr
  record = json.loads(file.read_text())
  assert all(math.isfinite(record[name]) and record[name] > 0 for name in WANTED), record
  assert record['floor_ratio'] == pytest.approx(record['seconds_median'] / record['floor_seconds'])
  assert (
    record['batch_size'] == 2
    and record['repeats'] == 2
    and record['commit']
    and 'jax' in record['versions']
  )
  assert 'floor_ratio' in result.stdout


@pytest.mark.parametrize(
  'arguments, expected',
  [
    (['--what=train_stop'], 'train_step'),
    (['--what=policy', '--suite=atari'], 'atari100k'),
    (['--what=policy', '--config.batch_sise=8'], 'batch_size'),
    (['--what=policy', '--profile=trace'], 'train_step'),
  ],
)
def test_bad_input_is_one_line(arguments, expected):
  result = command(*arguments)
  lines = result.stderr.splitlines()
  assert (
    result.returncode == 2
    and len(lines) == 1
    and lines[0].startswith('error: ')
    and expected in lines[0]
  )
