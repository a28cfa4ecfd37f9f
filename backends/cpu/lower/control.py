"""Branches and loops: one step that runs its bodies as programs of their own.

A body is compiled when it first runs, and planned for each set of sizes that reaches it. What it
captures and is known while planning becomes a constant of it, so that its weights are packed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ....ir import Node
from ...schedule.steps import PythonStep
from .bodies import Bodies
from .lowering import Lowering
from .registry import lowers


@lowers("if", "loop", "scan")
def control(lowering: Lowering, node: Node) -> bool:
    """A step in Python around compiled bodies."""
    setting = lowering.setting
    if setting.compile_body is None:
        return False
    operands = lowering.graph.operands(node)
    fixed = [lowering.array(v) for v in operands]
    bodies = Bodies(node, fixed, setting.compile_body, setting.limits)
    lowering.made.bodies.append(bodies)
    flowing = [v for v, a in zip(operands, fixed) if v is not None and a is None]
    inputs = [lowering.tensor(v) for v in flowing]
    outputs = [lowering.result(node[i], exact=True) for i in range(len(node.results))]

    def run(arrays: list[np.ndarray[Any, Any]]) -> Sequence[np.ndarray[Any, Any]]:
        rest = iter(arrays)
        return bodies([
            None if v is None else np.asarray(next(rest), order="C") if a is None else a
            for v, a in zip(operands, fixed)
        ])  # fmt: skip

    lowering.made.steps.append(
        PythonStep(run, inputs, outputs, [t.buffer for t in inputs], [t.buffer for t in outputs],
                   (node.name,), kind=node.op.name)
    )  # fmt: skip
    return True
