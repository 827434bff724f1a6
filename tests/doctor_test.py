"""The doctor names every combination that is known to be bad, and is content with the pinned ones."""

import pathlib
import subprocess
import sys

import pytest

from experiments import diagnosis, doctor
from experiments.diagnosis import Probe

ROOT = pathlib.Path(doctor.__file__).parents[1]
PYTHONS = {'3.11': (3, 11, 7), '3.12': (3, 12, 1)}
CPU = Probe({'backend': 'cpu', 'devices': ['cpu:0 (cpu)'], 'cache': None})
PLUGIN = {'jaxlib': '0.10.2', 'jax-cuda13-plugin': '0.10.2'}


def pinned(python):
  """Versions of a constraints file, under the names that the doctor uses."""
  lines = (ROOT / f'constraints/python{python}.txt').read_text().splitlines()
  pins = dict(line.split('==') for line in lines if '==' in line)
  names = diagnosis.NEEDED + diagnosis.OPTIONAL + diagnosis.OTHERS
  keys = {name: name.lower().replace('_', '-') for name in names}
  return {name: pins[key] for name, key in keys.items() if key in pins}


def check_versions(versions, python=(3, 11, 7), pyrep_is_simulator=False):
  """All that is wrong with a set of versions."""
  findings = (
    diagnosis.check_python(python)
    + diagnosis.check_packages(versions)
    + diagnosis.check_jax(versions, python)
    + diagnosis.check_ale(versions)
    + diagnosis.check_mujoco(versions)
    + diagnosis.check_strays(versions, pyrep_is_simulator)
  )
  return [finding for finding in findings if finding.level != 'ok']


@pytest.mark.parametrize('python', PYTHONS)
def test_pinned_versions_are_good(python):
  versions = pinned(python)
  assert set(versions) == set(diagnosis.NEEDED + diagnosis.OPTIONAL)
  assert check_versions(versions, PYTHONS[python]) == []


@pytest.mark.parametrize(
  'python, change, level, text',
  [
    ((3, 10, 13), {}, 'fail', 'older than 3.11'),
    ((3, 11, 7), {'ale-py': '0.10.1'}, 'fail', 'paddle'),
    ((3, 11, 7), {'jax': '0.11.2', 'jaxlib': '0.11.2'}, 'fail', 'need Python 3.12'),
    ((3, 12, 1), {'jax': '0.12.0.1', 'jaxlib': '0.12.0'}, 'warn', 'untested'),
    ((3, 12, 1), {}, 'warn', 'jax 0.10.2 on Python 3.12 is untested'),
    ((3, 11, 7), {'jaxlib': '0.9.2'}, 'fail', 'jaxlib 0.9.2 is not for jax 0.10.2'),
    (
      (3, 11, 7),
      {'jax-cuda13-plugin': '0.11.2'},
      'warn',
      'jax-cuda13-plugin 0.11.2 is not for jaxlib 0.10.2',
    ),
    ((3, 11, 7), {'dm_control': '1.0.50'}, 'warn', 'needs mujoco 3.17'),
    ((3, 11, 7), {'dm_control': '1.0.51'}, 'warn', 'untested pair'),
    ((3, 11, 7), {'mujoco': '4.0.0'}, 'warn', '4 and newer is untested'),
    ((3, 11, 7), {'mujoco': '3.17.0'}, 'warn', 'metaworld 3.0.0 with mujoco 3.17.0'),
    ((3, 11, 7), {'metaworld': '3.1.1'}, 'warn', 'needs mujoco 3.3'),
    ((3, 11, 7), {'packaging': None}, 'warn', 'metaworld imports packaging'),
    ((3, 11, 7), {'pyrep': '3.2.0'}, 'warn', 'unrelated package'),
    ((3, 11, 7), {'tensorflow': '2.20.0'}, 'note', 'nothing here needs it'),
    ((3, 11, 7), {'optax': None}, 'fail', 'Missing: optax'),
    ((3, 11, 7), {'wandb': None}, 'note', 'Not installed: wandb'),
  ],
)
def test_bad_versions_are_named(python, change, level, text):
  versions = {name: version for name, version in (pinned('3.11') | change).items() if version}
  found = [f for f in check_versions(versions, python) if text in f.text]
  assert [f.level for f in found] == [level]
  assert found[0].remedy or level == 'note'


def test_the_simulator_pyrep_is_welcome():
  assert check_versions(pinned('3.11') | {'pyrep': '4.1.0.3'}, pyrep_is_simulator=True) == []


def test_release_reads_the_leading_numbers():
  assert diagnosis.release('0.10.2rc1') == (0, 10, 2)
  assert diagnosis.release('0.12.0.1') == (0, 12, 0, 1)
  assert diagnosis.release('unknown') == ()


@pytest.mark.parametrize(
  'versions, gpu, platforms, remedy',
  [
    ({}, False, '', None),
    ({}, True, '', "constraints/python3.11.txt -e '.[cuda13]'"),
    (PLUGIN, True, 'cpu', 'unset JAX_PLATFORMS'),
    (PLUGIN, True, '', 'driver 580'),
  ],
)
def test_unused_gpu(versions, gpu, platforms, remedy):
  started, *rest = diagnosis.check_devices(CPU, versions, (3, 11, 7), gpu, platforms)
  assert started.level == 'ok' and 'cpu:0' in started.text
  assert [f.level for f in rest] == ([] if remedy is None else ['warn'])
  assert all(remedy in f.remedy for f in rest)


def test_jax_that_does_not_start():
  [finding] = diagnosis.check_devices(Probe(None, 'libcuda is broken'), {}, (3, 11, 7), True)
  assert finding.level == 'fail' and 'libcuda is broken' in finding.text


@pytest.mark.parametrize(
  'probe, bad',
  [
    (Probe({'roms': 26, 'missing': [], 'moved': True}), None),
    (Probe({'roms': 26, 'missing': ['pong'], 'moved': True}), 'ROMs missing: pong'),
    (Probe({'roms': 26, 'missing': [], 'moved': False}), 'ignores its actions'),
    (Probe(None, 'No module named ale_py'), 'No module named ale_py'),
  ],
)
def test_atari(probe, bad):
  failed = [f for f in diagnosis.check_atari(probe) if f.level == 'fail']
  assert len(failed) == (bad is not None)
  assert all(bad in f.text and f.remedy for f in failed)


def test_atari_probe_sees_a_paddle_that_ignores_actions():
  deaf = doctor.ATARI_PROBE.replace('ale.act(action)', 'ale.act(ale_py.Action.NOOP)')
  assert doctor.ask(doctor.ATARI_PROBE, '["pong"]').answer == {
    'roms': 1,
    'missing': [],
    'moved': True,
  }
  assert doctor.ask(deaf, '["no_game"]').answer == {
    'roms': 1,
    'missing': ['no_game'],
    'moved': False,
  }


def test_rendering():
  drawn, empty, broken = Probe({'drawn': True}), Probe({'drawn': False}), Probe(None, 'no libEGL')

  def bad(probes, chosen=''):
    return [f for f in diagnosis.check_rendering(probes, chosen) if f.level == 'warn']

  assert bad({'egl': drawn, 'osmesa': broken}) == []
  assert 'libegl1' in bad({'egl': broken, 'osmesa': empty})[0].remedy
  assert bad({'glfw': broken, 'egl': drawn}, 'glfw')[0].remedy == 'export MUJOCO_GL=egl'


def test_folder(tmp_path):
  assert diagnosis.check_folder(tmp_path)[0].level == 'ok'
  assert diagnosis.check_folder(tmp_path / 'absent')[0].level == 'fail'


def test_cache(tmp_path, monkeypatch):
  (tmp_path / 'compiled').write_bytes(bytes(3_000_000))
  assert '~/.cache' in diagnosis.check_cache(None)[0].text
  assert 'not there yet' in diagnosis.check_cache(str(tmp_path / 'absent'))[0].text
  assert diagnosis.check_cache(str(tmp_path))[0].text.endswith(' 3 MB')
  monkeypatch.setattr(diagnosis.os, 'access', lambda *_: False)
  assert diagnosis.check_cache(str(tmp_path))[0].level == 'warn'


def test_ask_reports_what_went_wrong():
  assert doctor.ask('print("noise"); print("[1]")') == Probe([1])
  assert doctor.ask('raise ValueError("why")') == Probe(None, 'ValueError: why')
  assert 'code -6' in doctor.ask('import os; os.abort()').error
  assert 'no answer' in doctor.ask('import time; time.sleep(60)', timeout=0.5).error


def run_doctor(*flags):
  return subprocess.run(
    [sys.executable, *flags, '-m', 'experiments.doctor'],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=300,
  )


def test_command_reports_this_machine():
  result = run_doctor()
  assert result.returncode == 0, result.stdout + result.stderr
  assert 'The paddle of Pong moves' in result.stdout
  assert 'ROMs of all 26 Atari 100K games' in result.stdout
  assert result.stdout.endswith('Atari can run here.\n')


def test_command_fails_without_packages():
  result = run_doctor('-S')  # Without the site module no package is found.
  assert result.returncode == 1, result.stderr
  assert 'FAIL  Missing: jax' in result.stdout
  assert 'make setup' in result.stdout
