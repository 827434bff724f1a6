"""One command for all: harmony COMMAND …, which is `python -m experiments.COMMAND …` by its name.

A suite of configs/ that has no file here is a command, too: `harmony SUITE --task=…`.
"""

if not __package__:
  import as_file  # noqa: F401

import ast
import pathlib
import runpy
import sys

from harmony_jax.errors import UserError

from . import configs, streams

_HERE = pathlib.Path(__file__).parent


def commands() -> dict[str, str]:
  """Return {name: first line of its docstring} of the files that do something by themselves."""
  found = {}
  for path in sorted(_HERE.glob('[a-z]*.py')):
    tree = ast.parse(path.read_text(encoding='utf-8'))
    if isinstance(tree.body[-1], ast.If):  # if __name__ == '__main__'
      found[path.stem] = (ast.get_docstring(tree) or '').partition('\n')[0]
  return found


def main() -> int:
  """Run the command that is named first; without one, list them."""
  streams.settle()
  known = commands()
  if not sys.argv[1:] or sys.argv[1] in ('-h', '--help', 'help'):
    print(f'{__doc__}\nharmony COMMAND --help tells its options.\n')
    print('\n'.join(f'  {name:14} {text}' for name, text in known.items()))
    return 0
  name = sys.argv[1]
  try:
    if name not in known and name not in configs().suites():
      near = configs().nearest(name, known)
      raise UserError(f'unknown command {name!r}: did you mean {near!r}?')
  except UserError as error:
    print(f'error: {error}', file=sys.stderr)
    return 2
  if name in known:
    del sys.argv[1]
  module = f'{__package__}.{name if name in known else "train"}'
  runpy.run_module(module, run_name='__main__', alter_sys=True)
  return 0


if __name__ == '__main__':
  sys.exit(main())
