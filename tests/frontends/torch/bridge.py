"""What the tests of the PyTorch bridge share. Importing it skips the module where PyTorch is
missing, which pytest counts and shows with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from taut.ir import Graph

import taut
from taut.testing import difference

torch = pytest.importorskip("torch", reason="PyTorch is not installed (the extra torch)")
torch.set_num_threads(1)

RTOL, ATOL = 2e-5, 2e-6
Case = Callable[..., Any]


class Many(torch.nn.Module):
    """Many functions of the same inputs, by name: one program to trace and to compile."""

    def __init__(self, cases: Mapping[str, Case]) -> None:
        super().__init__()
        self.cases = dict(cases)
        modules = {k: f for k, f in cases.items() if isinstance(f, torch.nn.Module)}
        self.parts = torch.nn.ModuleDict(modules)

    def forward(self, *xs: Any) -> dict[str, Any]:
        return {k: f(*xs) for k, f in self.cases.items()}


def dynamic(args: Sequence[Any], axes: Mapping[int, str]) -> Any:
    """The first axes of every input under these names."""
    return (tuple({a: n for a, n in axes.items() if a < x.ndim} for x in args),)


def by_torch(module: Any, args: Sequence[Any]) -> dict[Any, np.ndarray]:
    with torch.no_grad():
        made = module.eval()(*args)
    if isinstance(made, torch.Tensor):
        made = (made,)
    named = made if isinstance(made, dict) else dict(enumerate(made))
    return {k: v.numpy() for k, v in named.items()}


def same(want: Mapping[Any, np.ndarray], got: Mapping[str, np.ndarray], what: str,
         rtol: float = RTOL, atol: float = ATOL) -> None:  # fmt: skip
    """Every output in order, within the tolerance of its largest number."""
    assert len(want) == len(got)
    for name, a, b in zip(want, want.values(), got.values()):
        reason = difference(a, b, rtol, atol)
        assert reason is None, f"{what}, {name}: {reason}"


def agrees(module: Any, calls: Sequence[Sequence[Any]], shapes: Any = None, *,
           compiled: bool = True, rtol: float = RTOL, atol: float = ATOL) -> Graph:  # fmt: skip
    """The module's graph, which gives what PyTorch gives on every call: as it is, after O2, and
    compiled.
    """
    graph = taut.from_torch(module, tuple(calls[0]), dynamic_shapes=shapes)
    better = taut.optimize(graph)
    program = taut.compile(better, threads=1) if compiled else None
    for args in calls:
        want = by_torch(module, args)
        arrays = [a.numpy() for a in args]
        same(want, taut.reference(graph, *arrays), "reference", rtol, atol)
        same(want, taut.reference(better, *arrays), "reference after O2", rtol, atol)
        if program is not None:
            same(want, program(*arrays), "compiled", rtol, atol)
    return graph


def randn(*shape: int, seed: int = 0) -> Any:
    return torch.from_numpy(
        np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    )  # fmt: skip
