"""Row quantization and scaled products: the reference's bits on every instruction table."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support import ISAS
from taut.backends.cpu import compile
from taut.ir import Builder, Graph, interpret

NAMES = [table.name for table in ISAS]
SEEDS = st.integers(0, 2**32 - 1)
ODD = [np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-45, -1e-40, -0.0, 2.0**-101]


def same(graph: Graph, feeds: dict[str, Any], **options: Any) -> None:
    """The program gives the reference's bits (NaN for NaN) without falling back on it."""
    program = compile(graph, **options)
    with np.errstate(all="ignore"):
        want = interpret(graph, feeds)
    made = program(**feeds)
    assert program.fallbacks == []
    for name, array in want.items():
        assert made[name].dtype == array.dtype and made[name].shape == array.shape
        np.testing.assert_array_equal(made[name], array, err_msg=name)


def floats(rng: np.random.Generator, *shape: int) -> np.ndarray[Any, Any]:
    """Rows of very different ranges: ties, one sign only, zeros, and values that are not finite."""
    x = rng.standard_normal(shape).astype(np.float32)
    rows = x.reshape(-1, shape[-1])
    for row in rows:
        match rng.integers(8):
            case 0:
                row[:] = rng.integers(-127, 128, row.size) / 2
                row[rng.integers(row.size)] = 63.5
            case 1:
                row[:] = np.abs(row) * 1e20
            case 2:
                row[:] = -np.abs(row) * 1e-30
            case 3:
                row[:] = 0
            case 4:
                row[rng.integers(row.size)] = rng.choice(ODD)
            case _:
                row *= np.float32(10.0 ** rng.integers(-3, 4))
    return x


@settings(max_examples=25, deadline=None)
@given(
    seed=SEEDS, symmetric=st.booleans(), threads=st.integers(1, 2), name=st.sampled_from(NAMES),
    lead=st.lists(st.integers(1, 5), max_size=2),
    width=st.integers(1, 20) | st.sampled_from([63, 64, 65, 80, 130, 384]),
    turned=st.booleans(),
)  # fmt: skip
def test_rows(
    seed: int, symmetric: bool, threads: int, name: str, lead: list[int], width: int, turned: bool
) -> None:
    x = floats(np.random.default_rng(seed), *lead, width)
    b = Builder()
    value = b.input("x", "f32", x.shape)
    if turned and len(lead) == 2:  # rows that do not follow one another in memory
        value = b.transpose(value, perm=(1, 0, 2))
    q, scale, zero = b.quantize_rows(value, symmetric=symmetric)
    same(b.outputs(q=q, scale=scale, zero=zero), {"x": x}, threads=threads, isa=name)


@settings(max_examples=25, deadline=None)
@example(seed=1, name=NAMES[0], size=1, kind=2)  # a span of 6 subnormal steps: 6 / 255 is 0
@given(
    seed=SEEDS, name=st.sampled_from(NAMES), size=st.integers(1, 9) | st.sampled_from([64, 200]),
    kind=st.integers(0, 4),
)  # fmt: skip
def test_whole_tensors(seed: int, name: str, size: int, kind: int) -> None:
    """ONNX's dynamic_quantize_linear, which divides; the smallest spans make scales subnormal."""
    rng = np.random.default_rng(seed)
    factor = np.float32([1, 0, 1e-44, 1e38, 0.5][kind])
    x = (rng.integers(-9, 10, (2, size)) if kind > 3 else rng.uniform(-1, 1, (2, size))) * factor
    b = Builder()
    q, scale, zero = b.dynamic_quantize_linear(b.input("x", "f32", x.shape))
    same(b.outputs(q=q, scale=scale, zero=zero), {"x": x.astype(np.float32)}, isa=name)


@settings(max_examples=25, deadline=None)
@given(
    seed=SEEDS, threads=st.integers(1, 2), name=st.sampled_from(NAMES[:1] + NAMES[-1:]),
    size=st.tuples(st.integers(1, 20), st.integers(1, 70), st.integers(1, 40)),
    batch=st.sampled_from([(), (2,), (2, 1)]), zero=st.sampled_from(["none", "known", "rows"]),
    known=st.booleans(), row=st.booleans(), bias=st.booleans(), residual=st.booleans(),
    activation=st.sampled_from([("", ()), ("relu", ()), ("clip", (-1.0, 2.0))]),
)  # fmt: skip
def test_scaled_products(
    seed: int, threads: int, name: str, size: tuple[int, int, int], batch: tuple[int, ...],
    zero: str, known: bool, row: bool, bias: bool, residual: bool,
    activation: tuple[str, tuple[float, ...]],
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    (m, k, n), b = size, Builder()
    feeds: dict[str, Any] = {}

    def computed(array: np.ndarray[Any, Any]) -> Any:
        feeds[f"x{len(feeds)}"] = array
        return b.input(f"x{len(feeds) - 1}", str(array.dtype.name).replace("uint", "u").replace(
            "int", "i").replace("float", "f"), array.shape)  # fmt: skip

    def bytes_(kind: Any, *shape: int) -> np.ndarray[Any, Any]:
        low = np.iinfo(kind).min
        return rng.integers(low, low + 256, shape).astype(kind)

    a = computed(bytes_(np.uint8, *batch, m, k))
    weights = bytes_(np.int8, k, n)
    zeros = {"none": None, "known": np.uint8(rng.integers(256))}.get(zero)
    if zero == "rows":
        zeros = computed(bytes_(np.uint8, *batch, m, 1))
    scales = floats(rng, *batch, m, 1) if row else np.float32(0.03)
    y = b.scaled_mat_mul(
        a, weights if known else computed(weights),
        computed(np.abs(scales)), rng.uniform(0.01, 1, n).astype(np.float32), zeros, None,
        floats(rng, n) if bias else None,
        computed(floats(rng, *batch, m, n)) if residual else None,
        activation=activation[0], params=activation[1],
    )  # fmt: skip
    same(b.outputs(y=y), feeds, threads=threads, isa=name)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("symmetric", [True, False])
def test_a_quantized_product_with_gelu(name: str, symmetric: bool) -> None:
    """The whole chain; only the activation's own error remains."""
    rng = np.random.default_rng(3)
    b = Builder()
    x = b.input("x", "f32", (2, 17, 48))
    q, scale, zero = b.quantize_rows(x, symmetric=symmetric)
    w = rng.integers(-127, 128, (48, 96)).astype(np.int8)
    y = b.scaled_mat_mul(q, w, scale, np.float32(0.004), zero, None, floats(rng, 96),
                         activation="gelu")  # fmt: skip
    graph = b.outputs(y=y)
    feeds = {"x": rng.standard_normal((2, 17, 48), np.float32)}
    program = compile(graph, isa=name, threads=2)
    want = interpret(graph, feeds)["y"]
    np.testing.assert_allclose(program(**feeds)["y"], want, rtol=1e-5, atol=1e-6)
    assert program.fallbacks == []
