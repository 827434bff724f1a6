"""Memory Maze: python -m experiments.memory_maze [--task=9x9]."""

if not __package__:
  import as_file  # noqa: F401

from . import launcher

if __name__ == '__main__':
  launcher.run('memory_maze')
