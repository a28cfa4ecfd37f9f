"""The IR's ops as functions of PyTorch, a file for each family. Importing this fills the table."""

from . import elementwise, linear, pooling, quantization, reduction, resize, shape
from .table import FORWARD, Step, check

__all__ = [
    "FORWARD", "Step", "check", "elementwise", "linear", "pooling", "quantization", "reduction",
    "resize", "shape",
]  # fmt: skip
