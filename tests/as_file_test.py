"""Commands that are started by their path say how they are started."""

import subprocess
import sys

import pytest

from tests.commands import ROOT

FILES = sorted(path.name for path in (ROOT / 'experiments').glob('*.py'))
NO_COMMANDS = {'__init__.py', 'as_file.py', 'streams.py'}


@pytest.mark.parametrize('file', sorted(set(FILES) - NO_COMMANDS))
def test_started_by_its_path(file, tmp_path):
  """Otherwise experiments/metaworld.py would stand in the place of its simulator."""
  words = [sys.executable, str(ROOT / 'experiments' / file), '--task=hammer']
  done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
  name = '' if file == '__main__.py' else f'.{file.removesuffix(".py")}'
  told = f'error: start it as a module: python -m experiments{name}'
  assert done.returncode == 2 and done.stderr.splitlines() == [told]
