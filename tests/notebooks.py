"""Notebooks without Jupyter: their code cells run in order, in one namespace.

`python -m tests.notebooks docs/trained_agent.ipynb` runs one and writes what it printed and drew
into it, as Jupyter would.
"""

import base64
import contextlib
import io
import json
import pathlib
import sys


def cells(path):
  """Return a notebook's tree, and its code cells."""
  tree = json.loads(pathlib.Path(path).read_text(encoding='utf-8'))
  return tree, [cell for cell in tree['cells'] if cell['cell_type'] == 'code']


def run(path):
  """Run a notebook; return (its tree with new outputs, its names at the end)."""
  import matplotlib

  matplotlib.use('Agg')
  from matplotlib import pyplot

  names = {'__name__': '__main__'}
  tree, code = cells(path)
  for number, cell in enumerate(code, 1):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
      exec(compile(''.join(cell['source']), f'{path}, cell {number}', 'exec'), names)
    lines = printed.getvalue().splitlines(keepends=True)
    outputs = [{'output_type': 'stream', 'name': 'stdout', 'text': lines}] if lines else []
    for figure in pyplot.get_fignums():
      file = io.BytesIO()
      pyplot.figure(figure).savefig(file, dpi=60, metadata={'Software': None})
      data = {'image/png': base64.b64encode(file.getvalue()).decode()}
      outputs.append({'output_type': 'display_data', 'metadata': {}, 'data': data})
    pyplot.close('all')
    cell.update(outputs=outputs, execution_count=number)
  return tree, names


if __name__ == '__main__':
  for each in sys.argv[1:]:
    text = json.dumps(run(each)[0], indent=1, ensure_ascii=False)
    pathlib.Path(each).write_text(text + '\n', encoding='utf-8')
