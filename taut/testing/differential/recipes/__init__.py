"""How each op's operands hang together: one recipe a family, `generic` for the element-wise ones.

Recipes draw what usually makes sense (indices in range, axes that exist, channels that divide) and
now and then what does not.
"""

from . import control, indexing, linear, normalization, own, quantized, recurrent, shapes, windows
from .base import RECIPES, generic

__all__ = [
    "RECIPES", "control", "generic", "indexing", "linear", "normalization", "own", "quantized",
    "recurrent", "shapes", "windows",
]  # fmt: skip
