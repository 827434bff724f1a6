"""Environments that are JAX: python -m experiments.jax_envs --env=gymnax:Breakout-MinAtar."""

if not __package__:
  import as_file  # noqa: F401

from . import launcher

if __name__ == '__main__':
  launcher.run('jax_envs')
