"""What fusion does depends on the machine that the graph is meant for."""

from __future__ import annotations

from dataclasses import replace

import pytest
from taut.ir import Builder, Graph
from taut.ir.machine import Machine
from taut.passes import PassManager
from taut.passes.context import Context


def few_rows() -> Graph:
    """A softmax of two long rows, with a product before it."""
    b = Builder()
    x = b.input("x", "f32", (2, 60_000))
    return b.outputs(y=b.softmax(b.mul(x, b.tanh(x))))


def ops(machine: Machine) -> list[str]:
    made = PassManager("fuse-auto").run(few_rows(), Context(target=machine)).graph
    return [n.op.name for n in made.nodes() if n not in made.inputs and n is not made.result]


@pytest.mark.parametrize(
    "change, fused",
    [({}, False), ({"threads": 2}, True), ({"alone_bytes": 1 << 20}, True),
     ({"threads": 2, "row_bytes": 1 << 16}, False)],
)  # fmt: skip
def test_threads_and_caches_decide(change: dict[str, int], fused: bool) -> None:
    made = ops(replace(Machine(), **change))
    assert made == ["fusion"] if fused else made[-1] == "softmax"


def test_a_machine_says_what_it_is() -> None:
    assert str(Machine("cpu avx2", lanes=8, threads=1)) == "cpu avx2 (8 lanes, 1 thread)"
