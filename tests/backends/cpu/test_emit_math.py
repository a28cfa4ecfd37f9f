"""Float32 functions against double precision, as vectors on every table this machine can run."""

from __future__ import annotations

import math

import numpy as np
import pytest
from support import ISAS, Arena
from taut.backends.cpu.codegen import emit_math
from taut.backends.cpu.codegen.chunked import Chunked
from taut.backends.cpu.codegen.emit import F32, vec
from taut.backends.schedule import records
from taut.backends.schedule.kernel import Kernel
from taut.ir import Builder, interpret
from taut.ir.ops.unary import erf

RNG = np.random.default_rng(5)
SPECIAL = np.array(
    [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 1e-40, -1e-40, 3e38, -3e38, 88.7, -87.4, -103],
    np.float32,
)


def apply_kernel(isa, name: str, first: float = 0.0, second: float = 0.0):
    """target[i] = name(source[i]); words: header, count, source, target."""
    from taut.backends.cpu.codegen import vector as v

    function = emit_math.ACTIVATIONS.get(name) or getattr(emit_math, name)
    parameters = [first, second] if name in emit_math.ACTIVATIONS else []

    def body(e, d, chunk):
        at = e.mul(chunk, 4 * e.n)
        x = e.load(e.add(e.load(e.add(d, 24)), at), vec(F32, e.n))
        y = function(e, x, *(e.vector(F32, p) for p in parameters))
        e.store(y, e.add(e.load(e.add(d, 32)), at))

    one = v.emitted(isa, 2, body)
    return Chunked(lambda d, chunk: one(d, chunk))


class Words(records.Header):
    """A header and two addresses."""

    def __init__(self, sync: int, chunks: int, source: int, target: int):
        self.values = np.array([sync, 0, chunks, source, target], np.int64)

    def pack(self) -> np.ndarray:
        return self.values


def apply(isa, name: str, x: np.ndarray, *parameters: float) -> np.ndarray:
    arena = Arena()
    padded = np.zeros(-(-len(x) // 16) * 16, np.float32)
    padded[: len(x)] = x
    target = arena.empty(padded.shape, np.float32)
    kernel = Kernel(
        f"apply_{name}", apply_kernel,
        (("name", name), *zip(("first", "second"), parameters)),
    )  # fmt: skip
    chunks = len(padded) // isa.lanes
    arena.run(isa, (kernel, Words(arena.sync, chunks, arena.place(padded), target.ctypes.data)))
    return target[: len(x)].copy()


def ulps(got: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Distance in units in the last place of the exact result, where that is a normal number."""
    bounded = np.clip(np.abs(exact), 2.0**-126, 3.4e38).astype(np.float32)
    return np.abs(got.astype(np.float64) - exact) / np.spacing(bounded)


FUNCTIONS = {  # name: (double precision, from, to, ulp)
    "exp": (np.exp, -103, 88.7, 2),
    "exp_negative": (np.exp, -87.3, 0, 2),
    "expm1": (np.expm1, -30, 88.7, 3),
    "log": (np.log, 1e-38, 3e38, 1.5),
    "log1p_unit": (np.log1p, 0, 1, 3),
    "tanh": (np.tanh, -10, 10, 5),
    "erf": (erf, -5, 5, 7),
    "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), -87, 87, 4),
    "softplus": (lambda x: np.maximum(x, 0) + np.log1p(np.exp(-abs(x))), -87, 90, 4),
}


@pytest.mark.parametrize("isa", ISAS, ids=lambda i: i.name)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_units_in_the_last_place(isa, name):
    function, low, high, bound = FUNCTIONS[name]
    x = RNG.uniform(low, high, 4000)
    small = RNG.choice([-1, 1], 4000) * 10 ** RNG.uniform(-30, 0, 4000)
    x = np.concatenate([x, np.clip(small, low, high), np.clip(1 + small, low, high)])
    x = x.astype(np.float32)
    if name == "log":
        x = np.concatenate([x, np.float32(10) ** RNG.uniform(-45, 38, 4000).astype(np.float32)])
        x = x[x > 0]
    found = ulps(apply(isa, name, x), function(x.astype(np.float64)))
    worst = int(found.argmax())
    slack = 1.5 if isa.name == "portable" else 1.0  # no fused multiply-add
    assert found[worst] <= bound * slack, (x[worst], found[worst])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_special_arguments(name):
    x = SPECIAL
    if name in ("exp_negative", "log1p_unit"):
        x = x[~(x > 0)] if name == "exp_negative" else x[(x >= 0) & (x <= 1)]
    with np.errstate(all="ignore"):
        exact = FUNCTIONS[name][0](x.astype(np.float64)).astype(np.float32)
    # Subnormal results may be zero.
    np.testing.assert_allclose(apply(ISAS[0], name, x), exact, rtol=1e-6, atol=2e-38)


ACTIVATIONS = {
    "leaky_relu": ("leaky_relu", {"alpha": 0.1}),
    "elu": ("elu", {"alpha": 1.5}),
    "selu": ("selu", {"alpha": 1.25, "gamma": 1.0625}),
    "hard_sigmoid": ("hard_sigmoid", {"alpha": 0.25, "beta": 0.5}),
    "hard_swish": ("hard_swish", {}),
    "sigmoid": ("sigmoid", {}),
    "swish": ("swish", {"alpha": 1.5}),
    "tanh": ("tanh", {}),
    "softplus": ("softplus", {}),
    "mish": ("mish", {}),
    "gelu": ("gelu", {}),
    "gelu_tanh": ("gelu", {"approximate": "tanh"}),
}


def test_every_activation_is_tested():
    # prelu is leaky_relu with a slope for each lane
    assert set(ACTIVATIONS) | {"clamp", "prelu"} == set(emit_math.ACTIVATIONS)


@pytest.mark.parametrize("isa", ISAS, ids=lambda i: i.name)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(isa, name):
    op, attributes = ACTIVATIONS[name]
    rng = np.random.default_rng(3)
    x = np.concatenate([rng.uniform(-9, 9, 3000), rng.uniform(-90, 90, 500)]).astype(np.float32)
    b = Builder()
    graph = b.outputs(y=getattr(b, op)(b.input("x", "f64", x.shape), **attributes))
    exact = interpret(graph, {"x": x.astype(np.float64)})["y"]
    parameters = [v for v in attributes.values() if not isinstance(v, str)]
    got = apply(isa, name, x, *parameters)
    # Near a zero of the function the error is one of the argument's size; GELU multiplies that
    # of tanh, a few units in the last place of 1, by x / 2.
    bound = 9e-7 if isa.name == "portable" else 6e-7
    assert (abs(got - exact) <= bound * np.maximum(abs(exact), np.minimum(abs(x), 4))).all()


def test_clamp_keeps_nan():
    x = np.array([-3, -0.5, 0.5, 3, math.nan, math.inf], np.float32)
    np.testing.assert_array_equal(apply(ISAS[0], "clamp", x, -1.0, 1.0), np.clip(x, -1, 1))
