"""What this machine can run, and what to do about what it cannot: python -m experiments.doctor.

The exit code is 0 if Atari runs can be started here and 1 if they cannot. Whatever may be missing,
mismatched or crash is tried in a child process: this one needs the standard library only.

With --run=FOLDER: whether a run looks right, and what is unusual about it; the exit code is 0
whatever is found. --measure=RUNS… writes the ranges that it is held against anew, from runs or
results files.
"""

from __future__ import annotations  # an old Python should be told so, not crash here

if not __package__:
  import as_file  # noqa: F401

import argparse
import contextlib
import importlib.metadata
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
from typing import Any, NamedTuple

from . import streams

PYTHONS = ((3, 11), (3, 12))  # the tested ones
RESTORE = 'Go back to the tested versions: make clean setup'
SHOWN = ('jax', 'jaxlib', 'flax', 'optax', 'ale-py', 'dm_control', 'mujoco', 'metaworld')

JAX_PROBE = """
import json, jax
jax.block_until_ready(jax.jit(lambda x: x @ x)(jax.numpy.ones((8, 8))))
print(json.dumps({
    'backend': jax.default_backend(),
    'devices': [f'{d.platform}:{d.id} ({d.device_kind})' for d in jax.devices()]}))
"""

SUITES_PROBE = """
import importlib, json, sys
suites = importlib.import_module(sys.argv[1]).configs().suites()
print(json.dumps({name: [suite.SUITE, suite.DEFAULT_TASK] for name, suite in suites.items()}))
"""

# An environment of the suite begins an episode and takes a step.
SUITE_PROBE = """
import json, sys, numpy as np
from harmony_jax import envs
from harmony_jax.envs import base
envs.require(sys.argv[1])
env = envs.make(*sys.argv[1:], 1)
for restart in (True, False):
    env.step(base.zero_actions(env.spec, 1), np.array([restart]), np.array([0]))
env.close()
print(json.dumps(True))
"""


class Finding(NamedTuple):
  """A line of the report; `level` is `ok`, `note`, `warn`, or `fail` where Atari cannot run."""

  level: str
  text: str
  remedy: str = ''


class Probe(NamedTuple):
  """What a child process that tried something answered, or why there is no answer."""

  answer: Any
  error: str = ''


def ask(code: str, *arguments: str, timeout: float = 120, **environment: str) -> Probe:
  """Run `code` in a child process, which answers with JSON in its last line of output."""
  try:
    child = subprocess.run(
      [sys.executable, '-W', 'ignore', '-c', code, *arguments],
      capture_output=True,
      text=True,
      timeout=timeout,
      env={**os.environ, **environment},
    )
  except subprocess.TimeoutExpired:
    return Probe(None, f'no answer within {timeout:.0f} s')
  if child.returncode == 0:
    with contextlib.suppress(IndexError, ValueError):  # what it tried has called sys.exit(0)
      return Probe(json.loads(child.stdout.splitlines()[-1]))
  lines = child.stderr.strip().splitlines()
  if child.returncode <= 0 or not lines:
    return Probe(None, f'the process ended with code {child.returncode}')
  return Probe(None, lines[-1])


def check_python(version: tuple[int, ...]) -> Finding:
  """Judge a version of Python."""
  text, remedy = f'Python {".".join(map(str, version))}', 'make setup PYTHON=python3.12'
  if version[:2] < PYTHONS[0]:
    return Finding('fail', f'{text} is older than 3.11', remedy)
  if version[:2] > PYTHONS[-1]:
    return Finding('note', f'{text}; tested are 3.11 and 3.12, newer ones have no dm_control')
  return Finding('ok', text)


def check_packages(shown: dict[str, str]) -> list[Finding]:
  """Tell the installed versions, and hold all against what they and we require of each other."""
  listed = ', '.join(f'{name} {version}' for name, version in shown.items())
  child = subprocess.run([sys.executable, '-m', 'pip', 'check'], capture_output=True, text=True)
  told = f'{child.stdout}{child.stderr}'.strip().splitlines() if child.returncode else []
  return [Finding('ok', listed), *(Finding('warn', line, RESTORE) for line in told)]


def check_devices(
  probe: Probe, gpu: bool, plugins: list[str], platforms: str = ''
) -> list[Finding]:
  """Judge what JAX runs on.

  Args:
    probe: of JAX_PROBE. gpu: whether the machine has an NVIDIA GPU. plugins: the packages that
      give it to JAX. platforms: the environment's JAX_PLATFORMS.
  """
  if probe.answer is None:
    if platforms and probe.error.startswith(('AssertionError', 'RuntimeError')):  # not there
      text = f'JAX does not start with JAX_PLATFORMS={platforms}: {probe.error}'
      return [Finding('fail', text, 'unset JAX_PLATFORMS')]
    return [Finding('fail', f'JAX does not start: {probe.error}', RESTORE)]
  backend = probe.answer['backend']
  findings = [Finding('ok', f'Backend {backend}: {", ".join(probe.answer["devices"])}')]
  if not gpu or backend != 'cpu':
    return findings
  if not plugins:
    minor = min(sys.version_info.minor, PYTHONS[-1][1])
    text = 'There is a GPU, but jaxlib is the one for CPU only'
    remedy = f".venv/bin/pip install -c constraints/python3.{minor}.txt -e '.[cuda13]'"
  elif platforms:
    text, remedy = f'There is a GPU, but JAX_PLATFORMS is {platforms}', 'unset JAX_PLATFORMS'
  else:
    text = 'There is a GPU and its plugin, but JAX fell back to the CPU'
    remedy = 'CUDA 13 needs driver 580 or newer, which nvidia-smi shows: the extra cuda12 takes 525'
  return [*findings, Finding('warn', text, remedy)]


def check_suites() -> list[Finding]:
  """Try an environment of each suite; one that fails says by itself what it lacks."""
  suites = ask(SUITES_PROBE, __package__ or '')
  if suites.answer is None:
    return [Finding('fail', f'The suites cannot be read: {suites.error}', RESTORE)]
  findings = []
  for command, place in suites.answer.items():
    error = ask(SUITE_PROBE, *place).error
    bad = ('fail', RESTORE) if place[0] == 'atari' else ('note', '')
    told = Finding(bad[0], f'{command} does not: {error}', bad[1])
    findings.append(told if error else Finding('ok', command))
  return findings


def check_folder(folder: pathlib.Path) -> Finding:
  """Judge the current folder, below which runs are written."""
  if not os.access(folder, os.W_OK):
    return Finding('fail', f'{folder} is not writable', 'Start from a folder of your own')
  free = shutil.disk_usage(folder).free / 1e9
  return Finding('ok', f'{folder} is writable, {free:.0f} GB free')


def examine() -> dict[str, list[Finding]]:
  """Return findings about this machine by title of their section."""
  versions = {each.name: each.version for each in importlib.metadata.distributions()}
  plugins = [name for name in versions if name.startswith('jax-cuda')]
  jax = ask(JAX_PROBE, XLA_PYTHON_CLIENT_PREALLOCATE='false')
  gpu = any(pathlib.Path('/dev').glob('nvidia[0-9]*'))
  devices = check_devices(jax, gpu, plugins, os.environ.get('JAX_PLATFORMS', ''))
  return {
    'Machine': [
      Finding('ok', f'{platform.platform()}, {os.cpu_count()} CPU cores'),
      check_python(sys.version_info[:3]),
    ],
    'Packages': check_packages({name: versions[name] for name in SHOWN if name in versions}),
    'JAX': devices,
    'Suites': check_suites(),
    'Folder': [check_folder(pathlib.Path.cwd())],
  }


def look_at(folder: str) -> None:
  """Print what is unusual about a run, and its numbers beside those of our runs."""
  from harmony_jax.reporting import diagnosis, tables

  record, signs, rows = diagnosis.examine(folder)
  state = 'complete' if record.complete else tables.progress(record)
  print(f'{record.suite} {record.task}, {record.method}, seed {record.seed}: {state}')
  for sign in sorted(signs, key=lambda sign: not sign.unusual):
    print(f'  {"ODD" if sign.unusual else "note":<6}{sign.text}')
    if sign.meaning:
      print(f'        -> {sign.meaning}')
  if not any(sign.unusual for sign in signs):
    print('  ok    nothing unusual')
  if rows:
    print('In the last quarter that is over (median; lowest and highest of our runs):')
    width = max(len(name) for name, *_ in rows)
    for name, value, ours in rows:
      print(f'  {name:<{width}}  {value:>10}  ({ours})')


def of_runs(options: argparse.Namespace) -> int:
  """Do what --run or --measure asks for; return the exit code."""
  from harmony_jax.errors import UserError

  try:
    if options.run is not None:
      look_at(options.run)
    else:
      from harmony_jax.reporting import ranges

      table, problems = ranges.write(options.measure, ranges.EXPECTED)
      for problem in problems:
        print(f'problem: {problem}', file=sys.stderr)
      told = [f'{key} ({each["runs"]})' for key, each in table.items()]
      print(f'{ranges.EXPECTED}: {", ".join(told)}')
  except UserError as error:
    print(f'error: {error}', file=sys.stderr)
    return error.exit_code
  except ImportError as error:
    print(f'error: to read runs needs what is not installed ({error}): make setup', file=sys.stderr)
    return UserError.exit_code
  return 0


class _Parser(argparse.ArgumentParser):
  def error(self, message):
    """One line in place of a usage."""
    self.exit(2, f'error: {message}; the doctor takes --run=FOLDER or --measure RUNS, or nothing\n')


def parse(words: list[str]) -> argparse.Namespace:
  """Read the command's words."""
  parser = _Parser(prog='python -m experiments.doctor', allow_abbrev=False)
  parser.add_argument('--run', metavar='FOLDER', help='Say whether this run looks right.')
  parser.add_argument(
    '--measure', metavar='RUNS', nargs='+', help='Write the expected ranges anew, from these.'
  )
  return parser.parse_args(words)


def main() -> int:
  """Print the report; return the exit code."""
  streams.settle()
  options = parse(sys.argv[1:])
  if options.run is not None or options.measure:
    return of_runs(options)
  sections = examine()
  for title, findings in sections.items():
    print(title)
    for each in findings:
      print(f'  {each.level.replace("fail", "FAIL"):<6}{each.text}')
      if each.remedy:
        print(f'        -> {each.remedy}')
  if any(finding.level == 'fail' for findings in sections.values() for finding in findings):
    print('\nAtari cannot run here until the lines marked FAIL are mended.')
    return 1
  print('\nAtari can run here.')
  return 0


if __name__ == '__main__':
  sys.exit(main())
