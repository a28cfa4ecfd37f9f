"""ATen's ops in terms of the IR's, a file for each family. Importing this fills `call.ATEN`."""

from . import (
    activation,
    convolution,
    creation,
    elementwise,
    indexing,
    linear,
    normalization,
    pooling,
    recurrent,
    reduction,
    resize,
    shape,
    sizes,
)

__all__ = [
    "activation", "convolution", "creation", "elementwise", "indexing", "linear", "normalization",
    "pooling", "recurrent", "reduction", "resize", "shape", "sizes",
]  # fmt: skip
