"""Says how a command of this folder is started; for one that was started by its path."""

import os
import sys

# Python then looks for packages in this folder first: experiments/metaworld.py would be what
# `import metaworld` finds.
name = os.path.splitext(os.path.basename(sys.argv[0]))[0]
module = 'experiments' if name in ('experiments', '__main__') else f'experiments.{name}'
print(f'error: start it as a module: python -m {module}', file=sys.stderr)
sys.exit(2)
