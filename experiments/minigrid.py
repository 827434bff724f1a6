"""MiniGrid: python -m experiments.minigrid --task=DoorKey-8x8 [--view=partial]."""

if not __package__:
  import as_file  # noqa: F401

from . import launcher

if __name__ == '__main__':
  launcher.run('minigrid')
