"""What one enters to follow an update: python benchmarks/trace_update.py [METHOD …].

Traces `train_step` on a small batch and prints, of the package's own files: files and named
functions entered, lines of both, calls, changes of file, and the deepest stack of own frames.
"""

import collections
import inspect
import pathlib
import sys

import jax

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests import small  # noqa: E402

PACKAGE = str(ROOT / 'harmony_jax')


def profile(function, *arguments):
  """Return {what: how many} of a call."""
  codes, stack, seen = set(), [], collections.Counter()

  def note(frame, event, _):
    code = frame.f_code
    if event not in ('call', 'return') or not code.co_filename.startswith(PACKAGE):
      return
    if event == 'return':
      stack.pop()
      return
    seen['changes of file'] += bool(stack) and stack[-1] != code.co_filename
    stack.append(code.co_filename)
    seen['deepest stack'] = max(seen['deepest stack'], len(stack))
    seen['calls'] += 1
    codes.add(code)

  sys.setprofile(note)
  try:
    function(*arguments)
  finally:
    sys.setprofile(None)
  named = [code for code in codes if not code.co_name.startswith('<')]
  files = {code.co_filename for code in codes}
  lines = [pathlib.Path(file).read_text(encoding='utf-8').count('\n') for file in files]
  of_functions = sum(len(inspect.getsourcelines(code)[0]) for code in named)
  sizes = {'files': len(files), 'functions': len(named), 'lines of files': sum(lines)}
  return {**sizes, 'lines of functions': of_functions, **seen}


if __name__ == '__main__':
  for name in sys.argv[1:] or ('dreamerv3', 'dreamerv2', 'dreamerpro'):
    method = small.agent(name=name)
    state = jax.eval_shape(method.init, jax.random.key(0))
    found = profile(jax.make_jaxpr(method.train_step), state, small.batch())
    print(f'{name:12}', ', '.join(f'{value:,} {what}' for what, value in found.items()))
