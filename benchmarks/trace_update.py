"""What one enters to follow an update: python benchmarks/trace_update.py [METHOD …].

Traces `train_step` of a small method on a small batch and prints, of the package's own files: files
and named functions entered, lines of both, calls, changes of file, and the deepest stack of own
frames. Dreamers see 16 × 16 pixels, the other methods, of the preset `toy`, 64 × 64.
"""

import collections
import inspect
import pathlib
import sys

import jax

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from harmony_jax import method as methods  # noqa: E402
from harmony_jax import settings  # noqa: E402
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


def example(name):
  """Return (a small method, a batch)."""
  entry = methods.entry(name)
  if entry.family == 'dreamer':
    return small.agent(name=name), small.batch()
  shapes, size, length = {'image': (64, 64, 3)}, 3, 5
  sizes = {**entry.sizes['toy'], 'batch_size': size, 'batch_length': length}
  method = entry.make(settings.replace(entry.settings, sizes), small.spec(shapes, discrete=False))
  batch = small.batch(shapes, discrete=False, size=size, length=length + method.lead)
  return method, {**batch, 'before': batch['action'][:, 0]}


if __name__ == '__main__':
  for name in sys.argv[1:] or methods.METHODS:
    method, batch = example(name)
    state = jax.eval_shape(method.init, jax.random.key(0))
    found = profile(jax.make_jaxpr(method.train_step), state, batch)
    print(f'{name:12}', ', '.join(f'{value:,} {what}' for what, value in found.items()))
