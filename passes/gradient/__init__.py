"""Passes that make a graph trainable: parameters as inputs, a loss, gradients.

Importing this package registers them.
"""

import importlib
import pkgutil

from .parameters import freeze, trainable

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["freeze", "trainable"]
