"""What O2 makes of real models: counts of what is fused, and the bound kept on the way.

A change that fuses less fails here; one that fuses more may raise the counts.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from taut.frontends.onnx import load_onnx
from taut.ir import Graph, LimitError
from taut.passes import Context, PassManager

from taut import samples


def load(name: str) -> Graph:
    try:
        return load_onnx(samples.light_model(name[6:]) if name.startswith("light-") else
                         Path(samples.fetch(name)))  # fmt: skip
    except samples.SampleError as error:
        pytest.skip(f"{name} cannot be had: {error}")


@pytest.mark.sample
@pytest.mark.parametrize("name, shape, want", [
    ("light-squeezenet", (1, 3, 224, 224), {"fused_conv": 26, "relu": 0, "concat": 8}),
    ("light-shufflenet", (1, 3, 224, 224), {"fused_conv": 33, "conv": 16, "relu": 0, "add": 0,
                                            "batch_normalization": 0, "transpose": 16}),
    ("light-resnet50", (1, 3, 224, 224), {"fused_conv": 49, "conv": 4, "relu": 0, "add": 0}),
    ("orientation", (2, 3, 48, 192), {"fused_conv": 49, "conv": 4, "add": 0, "clip": 0, "div": 0,
                                      "reshape": 1, "batch_normalization": 0}),
    ("ocr-det", (1, 3, 64, 96), {"fused_conv": 45, "div": 0, "clip": 0, "mul": 2}),
    ("ocr-rec", (1, 3, 48, 96), {"fused_conv": 37, "attention": 2, "mul": 2, "pow": 0,
                                 "hard_sigmoid": 0, "cast": 0}),
])  # fmt: skip
def test_o2(name: str, shape: tuple[int, ...], want: dict[str, int]) -> None:
    graph = load(name)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    context = Context(data=[x])
    report = PassManager("O2", check=True, check_samples=1).run(graph, context)
    counts: Any = Counter(n.op.name for n in report.graph.nodes())
    assert {op: counts[op] for op in want} == want
    assert len(report.graph) < 0.8 * len(graph)


def test_limits_hold_inside_passes() -> None:
    """Folding asks for no more than the context allows."""
    from taut.ir import Builder, Limits

    b = Builder()
    x = b.input("x", "f32", (4,))
    big = b.expand(b.constant(np.ones(4, np.float32)), b.constant(np.array([1 << 20, 4])))
    graph = b.outputs(y=b.add(x, big))
    small = Context(limits=Limits(tensor_bytes=1 << 16))
    with pytest.raises(LimitError):
        PassManager("fold").run(graph, small)  # the verifier sees it before any pass does
    report = PassManager("fold", verify_each=False).run(graph, small)
    assert any("would make" in r.reason for _, r in report.remarks("missed"))
