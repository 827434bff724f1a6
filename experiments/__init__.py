"""Entry points: a command per suite over one shared launcher, and those around runs."""

import importlib
from types import ModuleType

from . import streams

streams.keep_descriptors()


def configs() -> ModuleType:
  """Return `configs.common` of the folder beside this one, wherever the two are installed."""
  return importlib.import_module(f'{(__package__ or "").removesuffix("experiments")}configs.common')
