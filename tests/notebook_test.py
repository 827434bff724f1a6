"""The notebook runs, and what it says of the published agent is so."""

import numpy as np

from tests import commands, notebooks

PATH = commands.ROOT / 'docs/trained_agent.ipynb'


def texts(code):
  """What each cell printed."""
  streams = [[o for o in cell['outputs'] if o['output_type'] == 'stream'] for cell in code]
  return [''.join(line for each in found for line in each['text']) for found in streams]


def test_the_notebook():
  code = notebooks.cells(PATH)[1]
  stored = texts(code)
  assert any(o['output_type'] == 'display_data' for cell in code for o in cell['outputs'])
  tree, names = notebooks.run(PATH)
  printed = texts([cell for cell in tree['cells'] if cell['cell_type'] == 'code'])
  assert printed[0] == stored[0] and printed[-1] == stored[-1]  # read, not computed
  assert names['scores']['latent state'].min() > 0.8
  assert np.mean((names['told'] > 0) == (names['true'] > 0)) > 0.9
  dreams = names['dreams']
  assert (dreams['continue'][:, 0] > 0.9).all() and (dreams['continue'][:, -1] < 0.1).all()
