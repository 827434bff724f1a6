"""Set-up of all tests.

Tracing and compiling is most of their time. Programs are kept on disk between runs, by JAX's
version, and are compiled at the compiler's lowest level, each in one piece, in a third of the time
that training's level takes; what a worker has compiled is dropped, and its memory given back, after
a file of tests where it has grown large. Signals are heard even where what started the tests
ignores them.

On accelerators products are exact. Shapes in annotations are checked in every call (`SHAPED`).
"""

import ctypes
import gc
import os
import pathlib
import signal
import sys
from importlib.metadata import version

import psutil
import pytest
from jaxtyping import install_import_hook

LARGE = 1.2e9  # bytes
# Files of tests that share programs, in their order.
TOGETHER = (('dreamerpro', 'finite', 'probe'), ('from', 'loop'))
# What takes and gives arrays of the shapes in its annotations.
SHAPED = ('actions', 'convolution', 'distributions', 'prototypes', 'rssm')
# Installed before anything imports them.
install_import_hook([f'harmony_jax.{name}' for name in SHAPED], 'beartype.beartype')

if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
  _root = pathlib.Path(os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache')
  _folder = _root / 'harmony_jax' / f'tests-jax{version("jax")}'
  os.environ['JAX_COMPILATION_CACHE_DIR'] = str(_folder)  # workers and subprocesses inherit it
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
os.environ.setdefault('JAX_TRACEBACK_IN_LOCATIONS_LIMIT', '0')  # lowering writes them for a tenth

# Some containers keep Python from writing bytecode: each process would compile all of the source.
# What is written is ignored by git, and `make clean` removes it.
os.environ.pop('PYTHONDONTWRITEBYTECODE', None)
sys.dont_write_bytecode = False

_given = os.environ.get('XLA_FLAGS', '')
_quick = ['--xla_backend_optimization_level=0', '--xla_cpu_parallel_codegen_split_count=1']
_quick += [f'--xla_llvm_enable_{name}_metadata=false' for name in ('alias_scope', 'noalias')]
if version('jaxlib').startswith('0.10.'):  # later ones have no such flag, and end at an unknown one
  _quick.append('--xla_cpu_use_fusion_emitters=false')
_quick = [flag for flag in _quick if flag.split('=')[0] not in _given]
os.environ['XLA_FLAGS'] = ' '.join([_given, *_quick]).strip()  # subprocesses inherit it

# Programs are small, and workers as many as cores: threads of XLA's would wait for one another.
os.environ.setdefault('PJRT_NPROC', '1')  # subprocesses inherit it

os.fsync = lambda file: None  # milliseconds, hundreds of times: no test cuts the power

gc.set_threshold(100_000)  # tracing makes objects by the million, of which few are garbage

# A shell's background jobs ignore the one, those of nohup the other.
for _number, _usual in (
  (signal.SIGINT, signal.default_int_handler),
  (signal.SIGHUP, signal.SIG_DFL),
):
  if signal.getsignal(_number) == signal.SIG_IGN:
    signal.signal(_number, _usual)


@pytest.fixture(autouse=True, scope='session')
def set_up_jax():
  """Have products of float32 exact, whose factors accelerators round; quicken tracing."""
  import jax

  from tests import lowering

  lowering.quicken()
  if jax.default_backend() != 'cpu':
    jax.config.update('jax_default_matmul_precision', 'highest')


def group_of(path):
  """The names of the files whose programs a file of tests shares, and its own."""
  name = path.stem.removesuffix('_test')
  return name, next((group for group in TOGETHER if name in group), (name,))


def pytest_collection_modifyitems(items):
  """Have files that share programs follow one another, as far as workers leave them together."""
  places = {}
  for item in items:
    places.setdefault(group_of(item.path)[1], len(places))
  items.sort(key=lambda item: places[group_of(item.path)[1]])


@pytest.fixture(autouse=True, scope='module')
def drop_programs(request):
  """Drop what was compiled, after the files of tests that share it, once a process has grown to
  `LARGE`.
  """
  yield
  name, group = group_of(request.path)
  if name == group[-1] and psutil.Process().memory_info().rss > LARGE:
    import jax

    jax.clear_caches()
    gc.collect()
    # glibc keeps what is freed: the process would look as large after every file to come
    getattr(ctypes.CDLL(None), 'malloc_trim', lambda _: None)(0)


def pytest_terminal_summary(terminalreporter):
  """Shows what tests recorded as `cases`, whichever process they ran in."""
  for report in terminalreporter.getreports('passed'):
    for name, value in report.user_properties:
      if name == 'cases':
        terminalreporter.write_line(value)
