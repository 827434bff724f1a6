"""What facts about a machine mean for Harmony-JAX, and what to do about it.

Each `check_*` function turns facts that it is given into findings and looks nothing up by itself,
so tests can hand it machines that do not exist. `experiments.doctor` gathers the facts. Only the
standard library is imported, as any other package may be what is broken.
"""

from __future__ import annotations  # An old Python should be told so, not crash here.

import dataclasses
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Mapping

# Without these no Atari run starts.
NEEDED = (
  'jax',
  'jaxlib',
  'flax',
  'optax',
  'chex',
  'numpy',
  'ml_collections',
  'absl-py',
  'orbax-checkpoint',
  'ale-py',
  'gymnasium',
  'tensorboardX',
  'pillow',
  'imageio',
  'imageio-ffmpeg',
  'matplotlib',
  'rich',
)
# Without these only some suite, extra or test does not work.
OPTIONAL = (
  'dm-haiku',
  'dm_control',
  'mujoco',
  'metaworld',
  'packaging',
  'wandb',
  'pytest',
  'pytest-xdist',
  'hypothesis',
)
# Of interest only because of the trouble they cause or mend.
OTHERS = ('jax-cuda12-plugin', 'jax-cuda13-plugin', 'pyrep', 'tensorflow')

# A dm_control works with the MuJoCo that it was released for, and no other.
MUJOCO_OF_DM_CONTROL = {
  (1, 0, 28): (3, 3),
  (1, 0, 48): (3, 15),
  (1, 0, 49): (3, 16),
  (1, 0, 50): (3, 17),
}

RESTORE = 'Go back to the tested versions: make clean setup'
UPDATE_ALE = "pip install 'ale-py>=0.12,<0.13'"


@dataclasses.dataclass(frozen=True)
class Finding:
  """One line of the report.

  Attributes:
    level: `ok`, `note`, `warn` (something other than Atari does not work, or Atari is slower than
      it could be) or `fail` (Atari cannot run).
    text: what was found.
    remedy: what to do about it; empty if there is nothing to do.
  """

  level: str
  text: str
  remedy: str = ''


@dataclasses.dataclass(frozen=True)
class Probe:
  """What a child process that tried something answered (`answer`), or why there is no answer
  (`error`).
  """

  answer: dict | None
  error: str = ''


def release(version: str) -> tuple[int, ...]:
  """The leading numbers of a version: '0.10.2rc1' gives (0, 10, 2)."""
  numbers = re.match(r'\d+(\.\d+)*', version)
  return tuple(map(int, numbers[0].split('.'))) if numbers else ()


def cuda_plugins(versions: Mapping[str, str]) -> list[str]:
  """Names of the installed packages that give JAX an NVIDIA GPU."""
  return [name for name in versions if re.match(r'jax-cuda\d+-plugin', name)]


# --------------------------------------------------------------------------------------------------
# Versions: sets that cannot work together although pip accepts them


def check_python(python: tuple[int, ...]) -> list[Finding]:
  """Python 3.11 and 3.12 are the versions that are tested."""
  text = 'Python ' + '.'.join(map(str, python))
  if python[:2] < (3, 11):
    return [
      Finding(
        'fail', f'{text} is older than 3.11', 'Name a newer one: make setup PYTHON=python3.12'
      )
    ]
  if python[:2] > (3, 12):
    return [Finding('note', f'{text}; tested are 3.11 and 3.12, newer ones have no dm_control')]
  return [Finding('ok', text)]


def check_packages(versions: Mapping[str, str]) -> list[Finding]:
  """All versions on one line, and the packages that are missing."""
  listed = ', '.join(f'{name} {version}' for name, version in versions.items())
  findings = [Finding('ok', listed)] if listed else []
  missing = [name for name in NEEDED if name not in versions]
  if missing:
    findings.append(Finding('fail', f'Missing: {", ".join(missing)}', 'make setup'))
  absent = [name for name in OPTIONAL if name not in versions]
  if absent:
    findings.append(Finding('note', f'Not installed: {", ".join(absent)}'))
  return findings


def check_jax(versions: Mapping[str, str], python: tuple[int, ...]) -> list[Finding]:
  """jax against Python, jaxlib and the CUDA plugins."""
  if 'jax' not in versions or 'jaxlib' not in versions:
    return []
  jax, jaxlib = release(versions['jax']), release(versions['jaxlib'])
  old_python = python[:2] < (3, 12)
  tested = (0, 10) if old_python else (0, 11)
  pair = f'jax {versions["jax"]} on Python {python[0]}.{python[1]}'
  findings = []
  if old_python and jax >= (0, 11):
    findings.append(Finding('fail', f'{pair}: jax 0.11 and newer need Python 3.12', RESTORE))
  elif jax[:2] != tested:
    findings.append(
      Finding('warn', f'{pair} is untested; tested is {tested[0]}.{tested[1]}', RESTORE)
    )
  if jaxlib[:2] != jax[:2] or jaxlib > jax:
    findings.append(
      Finding('fail', f'jaxlib {versions["jaxlib"]} is not for jax {versions["jax"]}', RESTORE)
    )
  for name in cuda_plugins(versions):
    if release(versions[name]) != jaxlib:
      text = f'{name} {versions[name]} is not for jaxlib {versions["jaxlib"]}'
      findings.append(Finding('warn', text, install_cuda(python)))
  return findings


def check_ale(versions: Mapping[str, str]) -> list[Finding]:
  """ale-py from before its paddle games were mended."""
  if 'ale-py' not in versions or release(versions['ale-py']) >= (0, 10, 2):
    return []
  text = (
    f'ale-py {versions["ale-py"]}: before 0.10.2 the paddle of Pong and Breakout can ignore its actions, without '
    'an error'
  )
  return [Finding('fail', text, UPDATE_ALE)]


def check_mujoco(versions: Mapping[str, str]) -> list[Finding]:
  """MuJoCo against dm_control and Meta-World; `pip check` sees none of it."""
  if 'mujoco' not in versions:
    return []
  mujoco, beside = release(versions['mujoco']), f'with mujoco {versions["mujoco"]}'
  bad = []
  if mujoco >= (4,):
    bad.append(f'mujoco {versions["mujoco"]}: 4 and newer is untested')
  if 'dm_control' in versions:
    pair = f'dm_control {versions["dm_control"]} {beside}'
    wanted = MUJOCO_OF_DM_CONTROL.get(release(versions['dm_control']))
    if wanted is None:
      bad.append(f'{pair} is an untested pair')
    elif mujoco[:2] != wanted:
      bad.append(f'{pair}: needs mujoco {wanted[0]}.{wanted[1]}')
  if 'metaworld' in versions:
    pair = f'metaworld {versions["metaworld"]} {beside}'
    old = release(versions['metaworld']) < (3, 1)
    if old and mujoco >= (3, 17):
      bad.append(f'{pair}: needs mujoco older than 3.17')
    elif not old and mujoco[:2] != (3, 3):
      bad.append(f'{pair}: needs mujoco 3.3')
    if 'packaging' not in versions:
      bad.append('metaworld imports packaging, which is missing')
  return [Finding('warn', text, RESTORE) for text in bad]


def check_strays(versions: Mapping[str, str], pyrep_is_simulator: bool) -> list[Finding]:
  """Packages that are not what they seem, or that nothing needs."""
  findings = []
  if 'pyrep' in versions and not pyrep_is_simulator:
    text = f'pyrep {versions["pyrep"]} is the unrelated package from PyPI, not the one that RLBench needs'
    findings.append(
      Finding('warn', text, 'pip uninstall pyrep, then install PyRep from its repository')
    )
  if 'tensorflow' in versions:
    text = f'tensorflow {versions["tensorflow"]} is installed; nothing here needs it'
    findings.append(
      Finding('note', text, 'Best left out of this environment: pip uninstall tensorflow')
    )
  return findings


# --------------------------------------------------------------------------------------------------
# The machine: what was tried on it


def check_devices(
  probe: Probe, versions: Mapping[str, str], python: tuple[int, ...], gpu: bool, platforms: str = ''
) -> list[Finding]:
  """JAX starts, and uses the GPU if there is one.

  Args:
    probe: answers `backend` (its name) and `devices` (their names).
    versions: installed packages.
    python: version of Python.
    gpu: whether the machine has an NVIDIA GPU.
    platforms: value of the environment variable JAX_PLATFORMS.
  """
  if probe.answer is None:
    return [Finding('fail', f'JAX does not start: {probe.error}', RESTORE)]
  backend = probe.answer['backend']
  findings = [Finding('ok', f'Backend {backend}: {", ".join(probe.answer["devices"])}')]
  if not gpu or backend != 'cpu':
    return findings
  if not cuda_plugins(versions):
    text, remedy = 'There is a GPU, but jaxlib is the one for CPU only', install_cuda(python)
  elif platforms:
    text, remedy = f'There is a GPU, but JAX_PLATFORMS is {platforms}', 'unset JAX_PLATFORMS'
  else:
    text = 'There is a GPU and its plugin, but JAX fell back to the CPU'
    remedy = 'CUDA 13 needs driver 580 or newer: nvidia-smi shows which one this is'
  return findings + [Finding('warn', text, remedy)]


def install_cuda(python: tuple[int, ...]) -> str:
  """Command that installs JAX for NVIDIA GPUs; pythons newer than 3.12 share the constraints of
  3.12.
  """
  minor = 11 if python[:2] < (3, 12) else 12
  return f".venv/bin/pip install -c constraints/python3.{minor}.txt -e '.[cuda13]'"


def check_atari(probe: Probe) -> list[Finding]:
  """The probe answers how many `roms` there are, which are `missing`, and whether the paddle of
  Pong `moved`.
  """
  if probe.answer is None:
    return [Finding('fail', f'Atari does not step: {probe.error}', RESTORE)]
  findings = [Finding('ok', 'Atari steps')]
  if probe.answer['missing']:
    findings.append(Finding('fail', f'ROMs missing: {", ".join(probe.answer["missing"])}', RESTORE))
  else:
    findings.append(Finding('ok', f'ROMs of all {probe.answer["roms"]} Atari 100K games'))
  if probe.answer['moved']:
    findings.append(Finding('ok', 'The paddle of Pong moves'))
  else:
    findings.append(Finding('fail', 'The paddle of Pong ignores its actions', UPDATE_ALE))
  return findings


def check_rendering(probes: Mapping[str, Probe], chosen: str = '') -> list[Finding]:
  """Drawing without a display, for every suite on MuJoCo; Atari does not need it.

  Args:
    probes: by value of MUJOCO_GL, whether a picture was `drawn`.
    chosen: value of MUJOCO_GL in the environment.
  """
  works = [name for name, probe in probes.items() if probe.answer and probe.answer['drawn']]
  findings = []
  for name, probe in probes.items():
    if name in works:
      findings.append(Finding('ok', f'MUJOCO_GL={name} draws'))
    else:
      findings.append(
        Finding('note', f'MUJOCO_GL={name} does not: {probe.error or "the picture is empty"}')
      )
  if not works:
    remedy = 'apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri'
    findings.append(Finding('warn', 'MuJoCo cannot draw here: no DMC, no Meta-World', remedy))
  elif chosen and chosen not in works:
    findings.append(
      Finding('warn', f'MUJOCO_GL={chosen} is chosen', f'export MUJOCO_GL={works[0]}')
    )
  return findings


def check_folder(folder: pathlib.Path) -> list[Finding]:
  """Runs are written below the current folder."""
  try:
    with tempfile.NamedTemporaryFile(dir=folder):
      pass
  except OSError as error:
    return [
      Finding(
        'fail', f'{folder} is not writable: {error.strerror}', 'Start from a folder of your own'
      )
    ]
  return [
    Finding('ok', f'{folder} is writable, {shutil.disk_usage(folder).free / 1e9:.0f} GB free')
  ]


def check_cache(folder: str | None) -> list[Finding]:
  """JAX's persistent compilation cache, which shortens every start but the first."""
  if not folder:
    return [
      Finding(
        'ok',
        'Compilation cache: JAX_COMPILATION_CACHE_DIR is not set, so runs use ~/.cache/harmony_jax/xla',
      )
    ]
  path = pathlib.Path(folder)
  if not path.is_dir():
    return [Finding('ok', f'Compilation cache {folder}, not there yet')]
  if not os.access(path, os.W_OK):
    return [
      Finding('warn', f'Compilation cache {folder} is not writable', 'Choose a folder of your own')
    ]
  size = sum(file.stat().st_size for file in path.rglob('*') if file.is_file())
  return [Finding('ok', f'Compilation cache {folder}, {size / 1e6:.0f} MB')]
