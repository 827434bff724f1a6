"""The doctor names what a machine cannot run and how to mend it, and is content with this one."""

import os
import pathlib
import subprocess
import sys

import pytest

from experiments import doctor
from experiments.doctor import Probe

ROOT = pathlib.Path(doctor.__file__).parents[1]
CPU = Probe({'backend': 'cpu', 'devices': ['cpu:0 (cpu)']})
PLUGIN = ['jax-cuda13-plugin']


@pytest.mark.parametrize(
  'version, level',
  [((3, 10, 13), 'fail'), ((3, 11, 7), 'ok'), ((3, 12, 1), 'ok'), ((3, 14), 'note')],
)
def test_python(version, level):
  assert doctor.check_python(version).level == level


def test_versions_that_do_not_fit_are_named(tmp_path, monkeypatch):
  """Requirements of whatever is installed count, those of this library among them."""
  assert [f.level for f in doctor.check_packages({'jax': '1'})] == ['ok']
  (tmp_path / 'needy-1.0.dist-info').mkdir()
  metadata = 'Metadata-Version: 2.1\nName: needy\nVersion: 1.0\nRequires-Dist: numpy>=99\n'
  (tmp_path / 'needy-1.0.dist-info' / 'METADATA').write_text(metadata)
  monkeypatch.setenv('PYTHONPATH', str(tmp_path))
  bad = [f for f in doctor.check_packages({}) if f.level == 'warn']
  assert len(bad) == 1 and 'needy 1.0' in bad[0].text and 'numpy' in bad[0].text and bad[0].remedy


@pytest.mark.parametrize(
  'plugins, gpu, platforms, remedy',
  [
    ([], False, '', None),
    ([], True, '', "-e '.[cuda13]'"),
    (PLUGIN, True, 'cpu', 'unset JAX_PLATFORMS'),
    (PLUGIN, True, '', 'driver 580'),
  ],
)
def test_unused_gpu(plugins, gpu, platforms, remedy):
  started, *rest = doctor.check_devices(CPU, gpu, plugins, platforms)
  assert started.level == 'ok' and 'cpu:0' in started.text
  assert [f.level for f in rest] == ([] if remedy is None else ['warn'])
  assert all(remedy in f.remedy for f in rest)


def test_jax_that_does_not_start():
  [finding] = doctor.check_devices(Probe(None, 'libcuda is broken'), True, [])
  assert finding.level == 'fail' and 'libcuda is broken' in finding.text


def test_folder(tmp_path):
  assert doctor.check_folder(tmp_path).level == 'ok'
  assert doctor.check_folder(tmp_path / 'absent').level == 'fail'


def test_ask_reports_what_went_wrong():
  assert doctor.ask('print("noise"); print("[1]")') == Probe([1])
  assert doctor.ask('raise ValueError("why")') == Probe(None, 'ValueError: why')
  assert 'code 0' in doctor.ask('import sys; sys.exit()').error
  assert 'code -6' in doctor.ask('import os; os.abort()').error
  assert 'no answer' in doctor.ask('import time; time.sleep(60)', timeout=0.5).error


def run_doctor(**environment):
  return subprocess.run(
    [sys.executable, '-m', 'experiments.doctor'],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=300,
    env={**os.environ, **environment},
  )


def test_suites_are_tried(monkeypatch):
  """By an environment of each in a process; what RLBench lacks is told, and is no failure."""
  ask, found = doctor.ask, doctor.ask(doctor.SUITES_PROBE, 'experiments').answer
  some = Probe({name: found[name] for name in ('gym', 'rlbench')})
  suites = lambda code, *words: some if code == doctor.SUITES_PROBE else ask(code, *words)
  monkeypatch.setattr(doctor, 'ask', suites)
  gym, rlbench = doctor.check_suites()
  assert gym == doctor.Finding('ok', 'gym')
  assert rlbench.level == 'note' and 'COPPELIASIM_ROOT' in rlbench.text


@pytest.mark.slow  # a process per suite, twenty seconds; its parts are tested one by one
def test_command_reports_this_machine():
  """Every suite is tried; what RLBench lacks is told, and is no failure."""
  result = run_doctor()
  assert result.returncode == 0, result.stdout + result.stderr
  for text in ('ok    atari100k', 'ok    catch', 'ok    dmcr', 'COPPELIASIM_ROOT'):
    assert text in result.stdout
  assert result.stdout.endswith('Atari can run here.\n')


def test_command_fails_where_packages_are_broken(tmp_path):
  (tmp_path / 'jax.py').write_text('raise ImportError("libcuda is broken")')
  (tmp_path / 'ale_py.py').write_text('raise ImportError("no ale")')
  result = run_doctor(PYTHONPATH=str(tmp_path))
  assert result.returncode == 1, result.stderr
  assert 'FAIL  JAX does not start: ImportError: libcuda is broken' in result.stdout
  assert 'FAIL  The suites cannot be read: ' in result.stdout
  assert 'make clean setup' in result.stdout
