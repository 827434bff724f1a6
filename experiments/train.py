"""Any suite of configs/ by its name: python -m experiments.train SUITE --task=… [--preset=auto]."""

if not __package__:
  import as_file  # noqa: F401

import sys

from . import launcher

if __name__ == '__main__':
  launcher.run(sys.argv.pop(1) if sys.argv[1:] and sys.argv[1][:1] != '-' else '')
