"""Distillation: passes that join a student and a frozen teacher into one training graph.

Importing this package registers them.
"""

import importlib
import pkgutil

from .layers import (
    Layer,
    Recorded,
    attentions,
    features,
    is_attention,
    with_probabilities,
)

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["Layer", "Recorded", "attentions", "features", "is_attention", "with_probabilities"]
