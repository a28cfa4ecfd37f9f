"""The CPU backend: `compile(graph, threads=, isa=) -> Program`.

Handlers for ops are in `lower`, micro-kernels in `kernels`, generated loop nests in `nests`, what
makes native code in `codegen`, programs and threads in `runtime`; what does not depend on the
machine (layouts, groups, steps, the arena) is in `backends.schedule`.
"""

from .lower.registry import discover
from .runtime.program import CpuTarget, Program, compile

__all__ = ["CpuTarget", "Program", "compile"]

discover()
