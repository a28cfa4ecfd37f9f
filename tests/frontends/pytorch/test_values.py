"""Functions of one number at thresholds, borders and far out, against PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
from bridge import Many, by_torch, dynamic, torch

import taut

F = torch.nn.functional

EDGES = [0.5, 1, 2, 2.5, 3, 6, 9, 10, 19.9, 20, 20.1, 25, 40, 80, 100, 1e3, 1e10, 1e20, 1e-3, 1e-10]
VALUES = np.array([0.0, *EDGES, *(-e for e in EDGES)], np.float32)
BEYOND = np.array([np.nan, np.inf, -np.inf, 3e38, -3e38, -0.0], np.float32)

FUNCTIONS = {
    "softplus": F.softplus,
    "softplus steep": lambda x: F.softplus(x, 2.0, 5.0),
    "softplus flat": lambda x: F.softplus(x, 0.5, 20.0),
    "softplus cut at 0": lambda x: F.softplus(x, 1.0, 0.0),
    "softplus cut below": lambda x: F.softplus(x, 1.0, -3.0),
    "softplus backwards": lambda x: F.softplus(x, -1.0, 20.0),
    "threshold": lambda x: F.threshold(x, 0.1, -3.0),
    "hardtanh": lambda x: F.hardtanh(x, -0.3, 0.7),
    "celu": lambda x: F.celu(x, 1.7), "elu": lambda x: F.elu(x, 1.3),
    "elu down": lambda x: F.elu(x, -0.7), "selu": F.selu, "relu6": F.relu6,
    "log sigmoid": F.logsigmoid, "leaky": lambda x: F.leaky_relu(x, 2.0),
    "soft shrink": lambda x: F.softshrink(x, 0.5),
    "soft shrink at 0": lambda x: F.softshrink(x, 0.0),
    "hard shrink": lambda x: F.hardshrink(x, 2.5),
    "hard shrink below 0": lambda x: F.hardshrink(x, -1.0),
    "sign": torch.sign, "floor": lambda x: x // 2.5, "floor of minus": lambda x: x // -2.5,
    "floor of each": lambda x: torch.div(x, x.flip(0), rounding_mode="floor"),
    "root below": lambda x: x**-0.5, "clamped": lambda x: x.clamp(3, -2),
}  # fmt: skip
"""What holds for NaN and infinities too."""

FINITE = {
    "gelu": F.gelu, "gelu by tanh": lambda x: F.gelu(x, approximate="tanh"),
    "hard swish": F.hardswish, "hard sigmoid": F.hardsigmoid, "silu": F.silu, "mish": F.mish,
    "soft sign": F.softsign, "tanh shrink": F.tanhshrink,
}  # fmt: skip


@pytest.mark.parametrize("beyond", [False, True])
def test_functions_at_their_edges(beyond: bool) -> None:
    module = Many(FUNCTIONS if beyond else FUNCTIONS | FINITE)
    values = np.concatenate([VALUES, BEYOND]) if beyond else VALUES
    graph = taut.from_torch(module, (torch.from_numpy(values),))
    want = by_torch(module, (torch.from_numpy(values),))
    runs = [taut.reference(graph, values)]
    runs += [] if beyond else [taut.compile(taut.optimize(graph), threads=1)(values)]
    for got in runs:
        for (name, b), a in zip(want.items(), got.values(), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6, err_msg=name)


def test_softplus_in_double_precision() -> None:
    values = np.linspace(15, 40, 101)
    module = Many({"softplus": F.softplus})
    graph = taut.from_torch(module, (torch.from_numpy(values),))
    got = next(iter(taut.reference(graph, values).values()))
    np.testing.assert_allclose(got, F.softplus(torch.from_numpy(values)).numpy(), rtol=1e-15)


HALVES = np.array([1e-3, 2, -3, 0, 6e-8, 6e4], np.float16)
BY_NUMBERS = {
    "times large": lambda x: x * 1e5, "times small": lambda x: x * 1e-8,
    "by large": lambda x: x / 1e5, "by small": lambda x: x / 1e-8, "of large": lambda x: 1e5 / x,
    "tensor": lambda x: x * torch.tensor(1e5), "plus": lambda x: x - 7e4,
    "below": lambda x: x < 1e5, "exact": lambda x: x * 0.5,
}  # fmt: skip


def test_numbers_that_have_no_place_in_a_half() -> None:
    module = Many(BY_NUMBERS)
    want = by_torch(module, (torch.from_numpy(HALVES),))
    graph = taut.from_torch(module, (torch.from_numpy(HALVES),))
    for got in (taut.reference(graph, HALVES), taut.compile(graph, threads=1)(HALVES)):
        for (name, b), a in zip(want.items(), got.values(), strict=True):
            np.testing.assert_allclose(
                a.astype(np.float32), b.astype(np.float32), rtol=2e-3, atol=1e-7, err_msg=name
            )


@pytest.mark.parametrize(
    "f", [lambda x: x + -1, lambda x: x > 300, lambda x: torch.full_like(x, 300)]
)
def test_numbers_beyond_an_integer_type_are_refused(f) -> None:
    bytes = torch.tensor([0, 7], dtype=torch.uint8)
    with pytest.raises(taut.ir.UnsupportedError, match="is no number of type"):
        taut.from_torch(Many({"made": f}), (bytes,))


def test_narrow_counts_a_negative_start_from_the_end() -> None:
    module = Many({
        "up to the end": lambda x: x.narrow(0, -2, 2), "inner": lambda x: x.narrow(1, -3, 1),
        "by size": lambda x: x.narrow(0, -x.shape[1], x.shape[1]),
    })  # fmt: skip
    x = torch.arange(20.0).reshape(5, 4)
    want = by_torch(module, (x,))
    still, free = taut.from_torch(module, (x,)), taut.from_torch(
        module, (x,), dynamic_shapes=dynamic((x,), {0: "n", 1: "k"}))  # fmt: skip
    for graph in (still, free):
        for b, a in zip(want.values(), taut.reference(graph, x.numpy()).values(), strict=True):
            assert a.tolist() == b.tolist()
