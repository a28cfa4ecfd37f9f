"""The CPU backend: `compile(graph, threads=, isa=) -> Program`.

Lowering and planning are in `lower`, `plan_layout`, `layout` and `arena`, handlers for ops in
`lower_*`, micro-kernels in `kernels/`, generated loop nests in `generic`, native code in `jit`.
"""

from . import lower_attention as lower_attention
from . import lower_axis as lower_axis
from . import lower_control as lower_control
from . import lower_conv as lower_conv
from . import lower_elementwise as lower_elementwise
from . import lower_fusion as lower_fusion
from . import lower_index as lower_index
from . import lower_integer as lower_integer
from . import lower_losses as lower_losses
from . import lower_matmul as lower_matmul
from . import lower_matmul_integer as lower_matmul_integer
from . import lower_quantize as lower_quantize
from . import lower_recurrent as lower_recurrent
from . import lower_reduce as lower_reduce
from . import lower_rows as lower_rows
from . import lower_shape as lower_shape
from . import lower_transposed as lower_transposed
from . import lower_weight_gradient as lower_weight_gradient
from .program import CpuTarget, Program, compile

__all__ = ["CpuTarget", "Program", "compile"]
