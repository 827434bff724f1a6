"""Says what this machine can run, and what to do about what it cannot.

    python -m experiments.doctor

The exit code is 0 if Atari runs can be started here and 1 if they cannot. This file gathers the
facts and prints the findings; `experiments.diagnosis` knows what is good and bad. Whatever may be
missing, mismatched or crash is tried in a child process.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import pathlib
import platform
import subprocess
import sys
import textwrap

from experiments import diagnosis
from experiments.diagnosis import Finding, Probe

ROMS = (
  'alien',
  'amidar',
  'assault',
  'asterix',
  'bank_heist',
  'battle_zone',
  'boxing',
  'breakout',
  'chopper_command',
  'crazy_climber',
  'demon_attack',
  'freeway',
  'frostbite',
  'gopher',
  'hero',
  'jamesbond',
  'kangaroo',
  'krull',
  'kung_fu_master',
  'ms_pacman',
  'pong',
  'private_eye',
  'qbert',
  'road_runner',
  'seaquest',
  'up_n_down',
)

JAX_PROBE = """
import json, jax
jax.block_until_ready(jax.jit(lambda x: x @ x)(jax.numpy.ones((8, 8))))
print(json.dumps({
    'backend': jax.default_backend(),
    'devices': [f'{d.platform}:{d.id} ({d.device_kind})' for d in jax.devices()],
    'cache': jax.config.jax_compilation_cache_dir}))
"""

# From the same start, the paddle driven up and driven down must end in different places.
ATARI_PROBE = """
import json, sys, warnings, ale_py
from ale_py import roms
warnings.simplefilter('ignore')
wanted = json.loads(sys.argv[1])
missing = [rom for rom in wanted if not roms.get_rom_path(rom)]
ale = ale_py.ALEInterface()
ale.setInt('random_seed', 0)
ale.setFloat('repeat_action_probability', 0.0)
ale.loadROM(roms.get_rom_path('pong'))
def play(action):
    ale.reset_game()
    for _ in range(60):
        ale.act(action)
    return ale.getScreenRGB()
moved = (play(ale_py.Action.RIGHT) != play(ale_py.Action.LEFT)).any()
print(json.dumps({'roms': len(wanted), 'missing': missing, 'moved': bool(moved)}))
"""

RENDER_PROBE = """
import json
from dm_control import suite
env = suite.load('cartpole', 'swingup')
env.reset()
image = env.physics.render(64, 64, camera_id=0)
env.physics.free()
print(json.dumps({'drawn': bool(image.std() > 0)}))
"""


def ask(code: str, *arguments: str, timeout: float = 120, **environment: str) -> Probe:
  """Runs `code` in a child process, which answers with JSON in its last line of output."""
  try:
    child = subprocess.run(
      [sys.executable, '-c', code, *arguments],
      capture_output=True,
      text=True,
      timeout=timeout,
      env={**os.environ, **environment},
    )
  except subprocess.TimeoutExpired:
    return Probe(None, f'no answer within {timeout:.0f} s')
  if child.returncode == 0:
    return Probe(json.loads(child.stdout.splitlines()[-1]))
  lines = child.stderr.strip().splitlines()
  if child.returncode < 0 or not lines:
    return Probe(None, f'the process ended with code {child.returncode}')
  return Probe(None, lines[-1])


def installed_versions() -> dict[str, str]:
  """Version by name of every package that a check looks at."""
  versions = {}
  for name in diagnosis.NEEDED + diagnosis.OPTIONAL + diagnosis.OTHERS:
    try:
      versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      pass
  return versions


def has_gpu() -> bool:
  """Whether the machine has an NVIDIA GPU, whatever JAX makes of it."""
  return any(pathlib.Path('/dev').glob('nvidia[0-9]*'))


def pyrep_is_simulator() -> bool:
  """Whether `pyrep` is the robot simulator; found without importing it."""
  spec = importlib.util.find_spec('pyrep')
  folders = (spec and spec.submodule_search_locations) or []
  return any((pathlib.Path(folder) / 'backend').is_dir() for folder in folders)


def describe_machine() -> Finding:
  """Operating system, cores and memory; nothing is demanded of them."""
  cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
  text = f'{platform.platform()}, {cores} CPU cores'
  if 'SC_PHYS_PAGES' in getattr(os, 'sysconf_names', {}):
    text += f', {os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9:.1f} GB RAM'
  return Finding('ok', text)


def examine_rendering(versions: dict[str, str]) -> list[Finding]:
  """Draws one picture with each way to draw without a display, and with the one chosen in
  MUJOCO_GL.
  """
  if 'dm_control' not in versions:
    return [Finding('note', 'Not tried: dm_control is missing')]
  chosen = os.environ.get('MUJOCO_GL', '')
  names = {name: None for name in (chosen, 'egl', 'osmesa') if name}
  return diagnosis.check_rendering(
    {name: ask(RENDER_PROBE, MUJOCO_GL=name) for name in names}, chosen
  )


def examine() -> dict[str, list[Finding]]:
  """Findings about this machine by title of their section."""
  versions, python = installed_versions(), sys.version_info[:3]
  jax = ask(JAX_PROBE, XLA_PYTHON_CLIENT_PREALLOCATE='false')
  packages = (
    diagnosis.check_packages(versions)
    + diagnosis.check_jax(versions, python)
    + diagnosis.check_ale(versions)
    + diagnosis.check_mujoco(versions)
    + diagnosis.check_strays(versions, pyrep_is_simulator())
  )
  devices = diagnosis.check_devices(
    jax, versions, python, has_gpu(), os.environ.get('JAX_PLATFORMS', '')
  )
  return {
    'Machine': [describe_machine()] + diagnosis.check_python(python),
    'Packages': packages,
    'JAX': devices + diagnosis.check_cache((jax.answer or {}).get('cache')),
    'Atari': diagnosis.check_atari(ask(ATARI_PROBE, json.dumps(ROMS))),
    'Rendering': examine_rendering(versions),
    'Folder': diagnosis.check_folder(pathlib.Path.cwd()),
  }


def wrap(finding: Finding) -> str:
  """The finding in lines of 79 characters, its remedy on lines of its own."""
  lines = [(f'  {finding.level.replace("fail", "FAIL"):<6}', finding.text)]
  if finding.remedy:
    lines.append(('        -> ', finding.remedy))
  return '\n'.join(
    textwrap.fill(
      text,
      79,
      initial_indent=head,
      subsequent_indent=' ' * len(head),
      break_on_hyphens=False,
      break_long_words=False,
    )
    for head, text in lines
  )


def main() -> int:
  """Prints the report; returns the exit code."""
  sections = examine()
  for title, findings in sections.items():
    print(title, *map(wrap, findings), sep='\n')
  if any(finding.level == 'fail' for findings in sections.values() for finding in findings):
    print('\nAtari cannot run here until the lines marked FAIL are mended.')
    return 1
  print('\nAtari can run here.')
  return 0


if __name__ == '__main__':
  sys.exit(main())
