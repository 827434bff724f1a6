"""Harmony-JAX: world models whose tasks are kept in harmony by learned loss weights."""

__version__ = '0.2.0'
