"""Standard streams that cannot show a sign, are closed, full or gone end no program."""

import os
import subprocess
import sys

import pytest

from tests.commands import ROOT

# what every command does first
SHOW = r"""
from experiments import streams
streams.settle()
for number in range(3000):
  print(f'{number} \xb1 \u03c3', flush=number % 2 == 0)
with open('made', 'w') as file:
  print(file.fileno() > 2)
  file.write('done')
"""
PLAIN = {'LC_ALL': 'C', 'PYTHONUTF8': '0', 'PYTHONCOERCECLOCALE': '0'}


def show(folder, shell, code=SHOW, **variables):
  """Return how a shell's line ended in which PYTHON is a program that shows much."""
  variables = {**os.environ, 'PYTHONPATH': str(ROOT), 'CODE': code, **variables}
  shell = shell.replace('PYTHON', f'{sys.executable} -c "$CODE"')
  return subprocess.run(['bash', '-c', shell], cwd=folder, env=variables, capture_output=True)


@pytest.mark.parametrize(
  'variables', [{'PYTHONIOENCODING': 'ascii'}, {'PYTHONIOENCODING': 'latin-1'}, PLAIN]
)
def test_a_sign_that_cannot_be_shown_is_escaped(variables, tmp_path):
  done = show(tmp_path, 'PYTHON', **variables)
  assert done.returncode == 0 and not done.stderr, done.stderr
  assert rb'\u03c3' in done.stdout and done.stdout.endswith(b'True\n')


@pytest.mark.parametrize(
  'shell, told',
  [
    ('PYTHON >&-', ''),
    ('PYTHON >&- 2>&-', ''),
    ('PYTHON >&- 2>&- <&-', ''),
    ('set -o pipefail; PYTHON | head -1', ''),
    ('PYTHON >/dev/full', 'No space left'),
    ('PYTHON >/dev/full 2>/dev/full', ''),
  ],
)
def test_an_end_that_takes_nothing_more_ends_nothing(shell, told, tmp_path):
  done = show(tmp_path, shell)
  lines = done.stderr.decode().splitlines()
  assert done.returncode == 0 and (tmp_path / 'made').read_text() == 'done', done.stderr
  assert len(lines) == bool(told) and all(told in line for line in lines)


@pytest.mark.parametrize('command', ['catch --help', '__main__ --help'])
def test_commands_settle_them_first(command, tmp_path):
  done = show(tmp_path, f'{sys.executable} -m experiments.{command}', **PLAIN)
  assert b'Traceback' not in done.stderr and done.returncode in (0, 1, 2), done.stderr
