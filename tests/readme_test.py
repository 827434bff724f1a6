"""What the README shows is true: its Python runs, its figures of rules are the code's. Commands and
links of all pages: docs_test.py."""

import jax
import numpy as np

from configs import common
from tests import documents

TEXT = documents.PAGES['README.md']


def test_python_blocks_run():
  """Those that load a run are in docs_test.py."""
  blocks = [block for block in documents.blocks(TEXT, 'python') if 'Agent.load' not in block]
  assert blocks
  for block in blocks:
    names = {}
    exec(compile(block, 'README.md', 'exec'), names)
    assert names['params']['harmony']['observation'] != 0  # the harmonizer was trained
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(names['params']))


def test_the_readme_has_the_commands_of_every_suite():
  commands = documents.commands(TEXT)
  for module in (*common.suites(), 'sweep', 'doctor'):
    assert any(f'experiments.{module}' in command for command in commands), module
  assert all(f'make {target}' in TEXT for target in ('train', 'test'))
