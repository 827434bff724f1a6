"""Commands that are started by their path say how they are started."""

import subprocess
import sys

import pytest

from experiments.__main__ import commands
from tests.commands import ROOT

FILES = ['__main__.py', *(f'{name}.py' for name in commands())]


@pytest.mark.parametrize('file', FILES)
def test_started_by_its_path(file, tmp_path):
  """Otherwise experiments/metaworld.py would stand in the place of its simulator."""
  words = [sys.executable, str(ROOT / 'experiments' / file), '--task=hammer']
  done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
  name = '' if file == '__main__.py' else f'.{file.removesuffix(".py")}'
  told = f'error: start it as a module: python -m experiments{name}'
  assert done.returncode == 2 and done.stderr.splitlines() == [told]
