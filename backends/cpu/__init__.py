"""The CPU backend: `compile(graph, threads=, isa=) -> Program`.

Handlers for ops are in `lower`, micro-kernels in `kernels`, generated loop nests in `nests`, what
makes native code in `codegen`, programs and threads in `runtime`; what does not depend on the
machine (buffers, steps, the arena) is in `backends.schedule`.
"""

from .lower import (  # noqa: F401 (each registers its handlers)
    attention,
    axis,
    control,
    conv,
    elementwise,
    fusion,
    index,
    integer,
    losses,
    matmul,
    matmul_integer,
    quantize,
    recurrent,
    reduce,
    rows,
    shape,
    transposed,
    weight_gradient,
)
from .runtime.program import CpuTarget, Program, compile

__all__ = ["CpuTarget", "Program", "compile"]
