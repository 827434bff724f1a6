"""The library as others install it: out of the way of their names, and light where it can be."""

import ast
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile

import pytest
import yaml

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = ('harmony_jax', 'configs', 'experiments')


def run(*words, folder, **variables):
  result = subprocess.run(
    [*map(str, words)],
    cwd=folder,
    capture_output=True,
    text=True,
    timeout=500,
    env={**os.environ, 'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': '', **variables},
  )
  assert result.returncode == 0, (words, result.stdout[-3000:], result.stderr[-3000:])
  return result.stdout


def test_the_rules_need_jax_and_nothing_else(tmp_path):
  code = """
import sys
import jax, jax.numpy
before = {name.partition('.')[0] for name in sys.modules}
import harmony_jax.harmony
new = {name.partition('.')[0] for name in sys.modules} - before
assert new == {'harmony_jax'}, new
assert [name for name in sys.modules if name.startswith('harmony_jax')] == [
    'harmony_jax', 'harmony_jax.harmony']
"""
  run(sys.executable, '-c', code, folder=tmp_path, PYTHONPATH=str(ROOT))


def test_the_library_knows_no_command():
  """No file of it imports experiments/ or configs/, and loading a method takes no simulator."""
  code = """
import importlib, pkgutil, sys
sys.modules['configs'] = sys.modules['experiments'] = None  # an import of them fails
import harmony_jax
for each in pkgutil.walk_packages(harmony_jax.__path__, 'harmony_jax.'):
  importlib.import_module(each.name)
assert not {'ale_py', 'dm_control', 'mujoco', 'gymnasium', 'metaworld', 'ray'} & sys.modules.keys()
"""
  run(sys.executable, '-c', code, folder=ROOT)


def test_every_public_function_is_typed():
  paths = [path for name in PACKAGES for path in sorted((ROOT / name).rglob('*.py'))]
  untyped = [
    f'{path.relative_to(ROOT)}:{node.lineno}: {node.name}'
    for path in paths
    for node in _public(ast.parse(path.read_text()).body)
    if not _typed(node)
  ]
  assert len(paths) > 50 and not untyped, '\n'.join(untyped)


def _public(body):
  """Yield functions, and methods of classes, whose names others may use."""
  for node in body:
    hidden = getattr(node, 'name', '').startswith('_')
    if isinstance(node, ast.ClassDef) and not hidden:
      yield from _public(node.body)
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
      if not hidden or node.name in ('__init__', '__call__'):
        yield node


def _typed(function):
  """Return whether all arguments have a type, and the result if there is one."""
  given = function.args
  arguments = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
  results = [each for each in ast.walk(function) if isinstance(each, ast.Return | ast.Yield)]
  gives = any(each.value for each in results) and function.name != '__init__'
  return (function.returns or not gives) and all(
    each.annotation for each in arguments if each and each.arg not in ('self', 'cls')
  )


def test_containers_and_the_workflow_name_what_is_there():
  docker, ci = ((ROOT / name).read_text() for name in ('Dockerfile', '.ci/run'))
  build = json.loads((ROOT / '.devcontainer/devcontainer.json').read_text())['build']
  assert f' AS {build["target"]}\n' in docker
  assert (ROOT / '.devcontainer' / build['dockerfile']).samefile(ROOT / 'Dockerfile')
  assert all((ROOT / name).exists() for name in re.findall(r'constraints/\S+', docker))
  extras = re.findall(r'EXTRAS=([\w,]+)', docker)
  assert extras and all(f"'{extra}':" in (ROOT / 'setup.py').read_text() for extra in extras)
  (packages,) = re.findall(r'for package in (.+);', ci)  # chromium is for the tests alone
  assert {*packages.split()} - {'chromium', 'chromium-driver'} <= {*docker.split()}
  jobs = yaml.safe_load((ROOT / '.github/workflows/ci.yml').read_text())['jobs']
  runs = [step['run'] for job in jobs.values() for step in job['steps'] if 'run' in step]
  assert '.ci/run' in runs and runs[-1].replace('=python3.12', '="$newer"') in ci


LOAD = """
import sys
import numpy as np
import configs, experiments
assert configs.MINE and experiments.MINE
from harmony_jax.trained import Agent
agent = Agent.load('run')
action, state = agent.policy(np.zeros((64, 64, 3), np.uint8))
assert action in range(3)
action, state = agent.policy(np.zeros((64, 64, 3), np.uint8), state)
print('loaded', agent.title)
assert 'harmony_jax._commands.configs' not in sys.modules
"""


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
  """Return the wheel, built from a copy of the sources."""
  source = tmp_path_factory.mktemp('source')
  for name in PACKAGES:
    ignore = shutil.ignore_patterns('__pycache__', '*.egg-info')
    shutil.copytree(ROOT / name, source / name, ignore=ignore)
  for name in ('setup.py', 'pyproject.toml', 'LICENSE'):
    shutil.copy(ROOT / name, source)
  words = ('wheel', '--no-deps', '--no-build-isolation', '-w', source / 'dist', source)
  run(sys.executable, '-m', 'pip', *words, folder=source)
  [path] = (source / 'dist').glob('*.whl')
  return path


@pytest.mark.slow
def test_what_a_wheel_holds(wheel):
  names = zipfile.ZipFile(wheel).namelist()
  assert {name.partition('/')[0] for name in names} == {
    'harmony_jax',
    f'{wheel.name.rpartition("-py3")[0]}.dist-info',
  }
  wanted = [
    f'harmony_jax/{path.relative_to(ROOT / "harmony_jax")}' for path in _files('harmony_jax')
  ]
  wanted += [
    f'harmony_jax/_commands/{path.relative_to(ROOT)}'
    for folder in ('configs', 'experiments')
    for path in _files(folder)
  ]
  assert sorted(name for name in names if '.dist-info/' not in name) == sorted(wanted)


def _files(folder):
  return [
    path
    for path in (ROOT / folder).rglob('*')
    if path.is_file() and '__pycache__' not in path.parts
  ]


@pytest.mark.slow
def test_an_installed_library_in_a_folder_with_other_configs(wheel, tmp_path):
  environment, folder = tmp_path / 'venv', tmp_path / 'mine'
  venv.create(environment, with_pip=False)
  python = environment / 'bin' / 'python'
  words = ('--python', python, 'install', '--no-deps', '--no-index', wheel)
  run(sys.executable, '-m', 'pip', *words, folder=tmp_path)
  [site] = environment.glob('lib/python*/site-packages')
  (site / 'dependencies.pth').write_text(sysconfig.get_paths()['purelib'])  # not its .pth files
  (folder / 'experiments').mkdir(parents=True)
  for name in ('configs.py', 'experiments/__init__.py'):
    (folder / name).write_text('MINE = True\n')
  harmony = environment / 'bin' / 'harmony'
  assert '  atari100k ' in run(harmony, '--help', folder=folder)
  short = ('--config.steps=240', '--config.video_every=0', '--logdir=run')
  assert 'complete: ' in run(harmony, 'catch', '--preset=tiny', *short, folder=folder)
  assert 'loaded' in run(python, '-c', LOAD, folder=folder)
  assert run(harmony, 'evaluate', '--logdir=run', '--episodes=2', folder=folder)
