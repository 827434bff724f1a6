"""What the README shows is true: its Python runs, its commands exist."""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
TEXT = (ROOT / 'README.md').read_text(encoding='utf-8')


def test_python_blocks_run():
  blocks = re.findall(r'```python\n(.*?)```', TEXT, re.S)
  assert blocks
  for block in blocks:
    names = {}
    exec(compile(block, 'README.md', 'exec'), names)
    assert names['params']['harmony']['observation'] != 0  # the harmonizer was trained


def test_commands_exist():
  for module in set(re.findall(r'python -m (experiments\.\w+)', TEXT)):
    result = subprocess.run([sys.executable, '-m', module, '--help'], cwd=ROOT, capture_output=True, text=True,
                            timeout=120)
    assert 'Traceback' not in result.stderr, (module, result.stderr)
  for target in re.findall(r'^make ([\w-]+)', TEXT, re.M):
    assert re.search(rf'^{target}:', (ROOT / 'Makefile').read_text(), re.M)


def test_links_and_pictures_exist():
  for target in re.findall(r'\]\(((?!http)[^)#]+)\)', TEXT):
    assert (ROOT / target).exists(), target
