"""The IR's ops as functions of PyTorch, a file for each family. Importing this fills the table."""

from . import (
    elementwise,
    linear,
    losses,
    pooling,
    quantization,
    recurrent,
    reduction,
    resize,
    shape,
)
from .table import FORWARD, Step, check

__all__ = [
    "FORWARD", "Step", "check", "elementwise", "linear", "losses", "pooling", "quantization",
    "recurrent", "reduction", "resize", "shape",
]  # fmt: skip
