"""Data movement needs no kernel of its own for an element type: bytes are moved as they stand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from taut.ir import Builder, DType, Value

import taut

Make = Callable[[Builder, Value], Any]

MOVES: dict[str, Make] = {
    "identity": lambda b, x: x,
    "transpose": lambda b, x: b.transpose(x, perm=(1, 0)),
    "slice": lambda b, x: b.slice(x, np.array([1]), np.array([6]), np.array([1]), np.array([2])),
    "concat": lambda b, x: b.concat(x, x, axis=1),
    "pad": lambda b, x: b.pad(x, np.array([1, 0, 0, 2])),
    "expand": lambda b, x: b.expand(x, np.array([2, 3, 6])),
    "gather": lambda b, x: b.gather(x, np.array([1, 0, 1]), axis=1),
    "scatter": lambda b, x: b.scatter_nd(
        x, np.array([[1]]), b.slice(x, np.array([0]), np.array([1]), np.array([0]))
    ),
    "blocks": lambda b, x: b.depth_to_space(b.reshape(x, np.array([1, 9, 1, 2])), blocksize=3),
}


@pytest.mark.parametrize("dtype", [DType.f16, DType.bf16, DType.i4, DType.u2], ids=str)
@pytest.mark.parametrize("constant", [False, True])
def test_types_without_kernels_are_moved_by_kernels(dtype: DType, constant: bool) -> None:
    data = (np.arange(18).reshape(3, 6) % 2).astype(dtype.numpy)
    b = Builder()
    x = b.constant(data, "x") if constant else b.input("x", dtype, (3, 6))
    graph = b.outputs(**{name: make(b, x) for name, make in MOVES.items()})
    program = taut.compile(graph, threads=1)
    feeds = {} if constant else {"x": data}
    got, want = program(**feeds), taut.reference(graph, **feeds)
    assert not program.fallbacks
    for name, array in want.items():
        assert got[name].dtype == array.dtype, name
        assert got[name].tobytes() == array.tobytes(), name
