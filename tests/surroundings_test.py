"""What a process brings along: variables of JAX, homes and caches that are not there, platforms."""

import json
import os
import subprocess
import sys

import jax
import pytest

from experiments import doctor
from harmony_jax import parallel, surroundings
from harmony_jax.training import faults
from tests import commands
from tests.commands import ROOT
from tests.runs import config_of, train


def start(*words, without=(), **variables):
  """Return how a Python with such variables ended."""
  given = {**os.environ, 'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu', **variables}
  given = {name: value for name, value in given.items() if name not in without}
  return subprocess.run([sys.executable, *words], env=given, capture_output=True, text=True)


SETTLED = """
import json, jax
from harmony_jax import surroundings
lines = surroundings.settle()
draws = jax.random.normal(jax.random.key(0), (3,))
print(json.dumps([lines, str(draws.dtype), draws.tolist(), surroundings.settle()]))
"""
OTHERS = {
  'JAX_ENABLE_X64': '1',
  'JAX_NUMPY_RANK_PROMOTION': 'raise',
  'JAX_NUMPY_DTYPE_PROMOTION': 'strict',
  'JAX_DEFAULT_PRNG_IMPL': 'rbg',
  'JAX_THREEFRY_PARTITIONABLE': '0',
  'JAX_RANDOM_SEED_OFFSET': '7',
  'JAX_DEBUG_NANS': '1',
  'JAX_TRANSFER_GUARD': 'disallow',
}


def test_what_would_change_the_numbers_is_not_taken():
  done = start('-c', SETTLED, **OTHERS, JAX_DEFAULT_MATMUL_PRECISION='highest')
  lines, dtype, draws, again = json.loads(done.stdout)
  assert [line.partition('=')[0] for line in lines if 'is not taken' in line] == [
    name.upper() for name in surroundings.SET if name.upper() in OTHERS
  ]
  assert len(lines) == len(OTHERS) + 1 and lines[-1] == again[0]
  assert lines[-1].startswith('JAX_DEFAULT_MATMUL_PRECISION=highest is taken')
  assert dtype == 'float32' and draws == jax.random.normal(jax.random.key(0), (3,)).tolist()


def test_the_settings_are_those_of_this_jax():
  """A name that JAX gives up would be looked past without a word."""
  assert all(hasattr(jax.config, name) for name in {**surroundings.SET, **surroundings.LEFT})
  assert not [line for line in surroundings.settle() if 'is not taken' in line]


@pytest.mark.parametrize(
  'backend, precision, told',
  [
    ('gpu', 'default', 'TensorFloat-32, where'),
    ('gpu', 'high', 'TensorFloat-32, where'),
    ('tpu', 'default', 'bfloat16'),
    ('tpu', 'high', 'sums of three bfloat16'),
    ('gpu', 'highest', 'float32'),
    ('cpu', 'highest', 'float32, as always on a CPU'),
    ('METAL', 'high', "what METAL makes of JAX's high"),
  ],
)
def test_what_products_are_made_of(backend, precision, told, monkeypatch):
  monkeypatch.setattr(jax, 'default_backend', lambda: backend)
  assert surroundings.products(precision).startswith(told)


def test_the_variable_counts_where_the_setting_says_nothing():
  with jax.default_matmul_precision('highest'):
    assert surroundings.products('default') == 'float32, as always on a CPU'
  with jax.default_matmul_precision(None):
    assert not surroundings.products('default')


def test_commands_tell_what_is_not_taken():
  done = start('-m', 'experiments.reproduce', '--logdir=nowhere', JAX_ENABLE_X64='1')
  note, error = done.stderr.splitlines()
  assert note.startswith('note: JAX_ENABLE_X64=True is not taken') and done.returncode == 2
  assert error.startswith('error: nowhere holds no run')


# JAX reads the variable when it is imported, which it is already where commands are forked.
ON_A_PLATFORM = """
import os, runpy, jax
jax.config.update('jax_platforms', os.environ['JAX_PLATFORMS'])
runpy.run_module('experiments.catch', run_name='__main__', alter_sys=True)
"""


@pytest.mark.parametrize('platform', ['cuda', 'gpu', 'tpu', 'nonsense'])
def test_a_platform_that_is_not_there_is_one_line(platform, tmp_path):
  words = ['-c', ON_A_PLATFORM, '--preset=tiny', f'--logdir={tmp_path}/run']
  done = commands.Command(*words, JAX_PLATFORMS=platform).end()
  if done.returncode == 0:
    pytest.skip(f'there is {platform}')
  lines = [line for line in done.stderr.splitlines() if line.startswith('error: ')]
  assert done.returncode == 2 and 'Traceback' not in done.stderr, done.stderr
  assert len(lines) == 1 and f'JAX_PLATFORMS={platform} (' in lines[0] and 'doctor' in lines[0]
  assert not (tmp_path / 'run').exists()


def test_sweeps_and_the_doctor_tell_it_too():
  words = ['--suite=catch', '--games=catch', '--dry_run']
  done = start('-m', 'experiments.sweep', *words, JAX_PLATFORMS='nonsense')
  assert done.returncode == 2 and 'error: JAX cannot start with' in done.stderr, done.stderr
  [finding] = doctor.check_devices(doctor.Probe(None, 'AssertionError'), False, [], 'cuda')
  assert finding.remedy == 'unset JAX_PLATFORMS' and 'JAX_PLATFORMS=cuda' in finding.text
  assert faults.explain(AssertionError('of another kind')) is None


@pytest.fixture
def cache():
  """JAX's folder for programs, which is put back."""
  before = jax.config.jax_compilation_cache_dir
  jax.config.update('jax_compilation_cache_dir', None)
  yield lambda: jax.config.jax_compilation_cache_dir
  jax.config.update('jax_compilation_cache_dir', before)


@pytest.mark.parametrize(
  'variables',
  [{'XDG_CACHE_HOME': '/proc/none'}, {'HOME': '/proc/none'}, {}, {'given': '/proc/none'}],
)
def test_without_a_place_programs_are_not_kept(variables, cache, monkeypatch, caplog):
  """A folder that cannot be made, no home at all, or what JAX was told."""
  for name in ('XDG_CACHE_HOME', 'HOME'):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setattr(os, 'getuid', lambda: 12345)
  jax.config.update('jax_compilation_cache_dir', variables.pop('given', None))
  for name, value in variables.items():
    monkeypatch.setenv(name, value)
  parallel.use_compilation_cache()
  [record] = caplog.records
  assert 'are not kept' in record.getMessage() and cache() is None


def test_with_a_place_they_are_kept(cache, monkeypatch, tmp_path, caplog):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  parallel.use_compilation_cache()
  assert cache() == str(tmp_path / 'harmony_jax/xla') and not caplog.records


def test_copies_are_guarded_where_programs_are_compiled():
  with parallel.no_transfer():
    assert jax.config.jax_transfer_guard == 'disallow'
  with jax.disable_jit(), parallel.no_transfer():
    assert jax.config.jax_transfer_guard is None


@pytest.mark.slow
def test_a_run_where_nothing_is_compiled(tmp_path):
  small = dict(steps=32, batch_size=2, batch_length=4, behavior__horizon=2, train_ratio=1.0)
  rare = dict(eval_every=32, checkpoint_every=32, video_every=32, eval_envs=2)
  config = config_of(**small, **rare, final_eval_episodes=2, prefill_chunk=28)
  with jax.disable_jit():
    assert train(tmp_path, config).state.update == 1
