"""What every grid promises, over all that are registered and one that only this file has."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import onnxruntime
import pytest
from taut.frontends.onnx import export_onnx, load_onnx
from taut.frontends.zoo import lenet_5, resnet_cifar
from taut.ir import (
    Builder,
    DType,
    Graph,
    ParseError,
    PassError,
    TautError,
    assert_equal,
    interpret,
    parse,
    print_graph,
)
from taut.ir.differentiate import differentiate
from taut.ir.ops.quantization import DequantizeLinear
from taut.passes import Context, PassManager, Pipeline
from taut.passes.quantize.grid import ScaledGrid, register_grid
from taut.passes.quantize.schemes import grid_class, schemes
from taut.passes.quantize.static import Quantize

import taut

Array = np.ndarray[Any, Any]


@register_grid
class Fibonacci(ScaledGrid):
    """A table and nothing else: all that a scheme must say."""

    schemes = ("test-fibonacci",)
    dtype: ClassVar[DType] = DType.u4  # type: ignore[misc]

    @classmethod
    def table(cls) -> Array:
        up = [1, 2, 3, 5, 8, 13, 21]
        return np.array([0, *up, *(-v for v in up), math.nan], np.float32)


@pytest.fixture(autouse=True)
def only_here(monkeypatch):
    """Other tests do not meet it."""
    from taut.passes.quantize import grid

    monkeypatch.setitem(grid.SCHEMES, "test-fibonacci", Fibonacci)
    yield


grid_names = sorted({*schemes(), "test-fibonacci"})
for_weights = [s for s in grid_names if s != "test-fibonacci" and not schemes()[s].lowers]
for_weights.append("test-fibonacci")


def rows(seed: int = 0) -> Array:
    made = np.random.default_rng(seed).standard_normal((4, 90)) * [[0.1], [1], [30], [0]]
    return made.astype(np.float64)


def grids(scheme: str) -> list[Any]:
    """Of a range, and where there are some of channels."""
    kind = grid_class(scheme)
    found: list[Any] = [kind.covering(-1.5, 4.0, scheme), kind.covering(0.0, 0.0, scheme)]
    if issubclass(kind, ScaledGrid):
        found += [kind.search(rows(), axis, least) for axis in (0, None) for least in (True, False)]
    return found


@pytest.mark.parametrize("scheme", grid_names)
def test_levels_are_what_codes_stand_for_and_are_kept(scheme: str) -> None:
    for grid in grids(scheme)[:2]:
        levels = grid.levels
        assert (np.diff(levels) > 0).all() and 0 in levels
        held = levels.astype(np.float32)
        codes = grid.encode(held)
        assert codes.dtype == grid.dtype.numpy and codes.shape == held.shape
        made = grid.decode(codes)
        assert made.dtype == np.float32
        np.testing.assert_allclose(made, levels, rtol=1e-6)
        np.testing.assert_array_equal(grid.decode(grid.encode(made)), made)
        assert grid.decode(grid.encode(np.zeros(3, np.float32))).tolist() == [0, 0, 0]


@pytest.mark.parametrize("scheme", grid_names)
def test_numbers_go_to_the_nearest_level_and_the_ends_hold_what_is_beyond(scheme: str) -> None:
    grid = grid_class(scheme).covering(-1.5, 4.0, scheme)
    x = np.random.default_rng(1).uniform(-9, 9, 3000).astype(np.float32)
    made = grid.decode(grid.encode(x)).astype(np.float64)
    inside = np.clip(x.astype(np.float64), grid.levels[0], grid.levels[-1])
    nearest = np.abs(grid.levels[None] - inside[:, None]).min(1)
    np.testing.assert_allclose(np.abs(made - inside), nearest, atol=1e-5)


@pytest.mark.parametrize("scheme", grid_names)
def test_a_graph_reads_bit_for_bit_what_decode_says(scheme: str) -> None:
    x = rows().astype(np.float32)
    for i, grid in enumerate(grids(scheme)):
        b = Builder()
        codes = grid.encode(x)
        graph = b.outputs(y=grid.read(b, b.constant(codes, "codes"), "w"))
        want = grid.decode(codes)
        assert interpret(graph, {})["y"].tobytes() == want.tobytes()
        if i in (0, 2):
            assert taut.compile(graph, threads=1)()["y"].tobytes() == want.tobytes()
        assert print_graph(parse(print_graph(graph))) == print_graph(graph)


@pytest.mark.parametrize("scheme", [s for s in grid_names if s != "test-fibonacci"])
def test_rounding_in_a_graph_and_its_straight_through_gradient(scheme: str) -> None:
    grid = grid_class(scheme).covering(-1.5, 4.0, scheme)
    b = Builder()
    x, seed = b.input("x", "f32", (200,)), b.input("seed", "f32", (200,))
    y = grid.round(b, x, "x")
    assert y.node.op == DequantizeLinear() or y.node.op == DequantizeLinear(axis=0)
    graph = b.outputs(y=y, g=differentiate(b.graph, {y: seed}, [x])[x])
    feeds = {"x": np.random.default_rng(2).uniform(-9, 9, 200).astype(np.float32),
             "seed": np.arange(1, 201, dtype=np.float32)}  # fmt: skip
    made = interpret(graph, feeds)
    np.testing.assert_array_equal(made["y"], grid.decode(grid.encode(feeds["x"])))
    inside = (feeds["x"] > grid.levels[0]) & (feeds["x"] < grid.levels[-1])
    half = np.abs(feeds["x"] - np.clip(feeds["x"], grid.levels[0], grid.levels[-1])) < 0.02
    want = np.where(inside, feeds["seed"], 0)
    np.testing.assert_allclose(made["g"][inside | ~half], want[inside | ~half], rtol=1e-6)


@pytest.mark.parametrize("scheme", for_weights)
def test_the_search_holds_the_largest_weight_or_makes_less_error(scheme: str) -> None:
    kind: Any = grid_class(scheme)
    x = rows()

    def error(grid: ScaledGrid, weight: Any = 1.0) -> Array:
        made = grid.decode(grid.encode(x.astype(np.float32)))
        return (np.square(made - x) * weight).sum(1)

    largest, least = kind.search(x, 0, False), kind.search(x, 0, True)
    assert largest.scale.shape == (4,) and largest.scale.dtype == np.float32
    np.testing.assert_allclose(largest.scale[:3] * kind.largest(), np.abs(x).max(1)[:3], rtol=1e-6)
    assert largest.scale[3] == 1 and error(largest)[3] == 0
    assert (error(least) <= error(largest) * (1 + 1e-6)).all()
    matters = np.random.default_rng(3).uniform(0, 1, x.shape) ** 8
    weighted = kind.search(x, 0, True, matters)
    assert (error(weighted, matters) <= error(least, matters) * (1 + 1e-6)).all()
    assert kind.search(x, None, True).scale.shape == ()


# ---- the option, the pass, files -----------------------------------------------------------------


@pytest.mark.parametrize("scheme", grid_names)
def test_the_option_prints_and_parses(scheme: str) -> None:
    given = Quantize(scheme=scheme)
    text = "quantize" if scheme == "asymmetric" else f"quantize{{scheme={scheme}}}"
    assert str(given) == text and list(Pipeline.parse(text)) == [given]


def test_an_unknown_scheme_names_the_nearest() -> None:
    for make in (lambda: Quantize(scheme="float9"),
                 lambda: Pipeline.parse("quantize{scheme=float9}"),
                 lambda: taut.quantize(lenet_5(), [], scheme="float9")):  # fmt: skip
        with pytest.raises(TautError, match="no scheme is named 'float9'; did you mean float8"):
            make()
    with pytest.raises(PassError, match="float8 has no option bits"):
        Quantize(scheme="float8", bits=4)
    with pytest.raises(ParseError, match="no option"):
        taut.quantize(lenet_5(), [], scheme="float8", shceme=1)


def test_a_scheme_is_declared_once_and_well() -> None:
    with pytest.raises(ValueError, match="scheme float8 is declared twice"):
        register_grid(type("Other", (ScaledGrid,), {"schemes": ("float8",)}))
    with pytest.raises(ValueError, match="names no scheme"):
        register_grid(type("Other", (ScaledGrid,), {}))


def model() -> Graph:
    b = Builder()
    r = np.random.default_rng(4)

    def f(*shape: int) -> Array:
        return r.standard_normal(shape).astype(np.float32) * np.float32(0.2)

    x = b.input("x", "f32", ("n", 6, 8, 8))
    y = b.relu(b.conv(x, f(8, 6, 3, 3), f(8), pads=(1, 1, 1, 1)))
    y = b.conv(y, f(8, 1, 3, 3), pads=(1, 1, 1, 1), group=8)
    y = b.conv_transpose(y, f(8, 4, 2, 2), strides=(2, 2))
    y = b.gemm(b.reshape(b.global_average_pool(y), np.array([0, -1])), f(10, 4), transB=True)
    half = b.cast(b.mat_mul(b.cast(y, to=DType.f16), f(10, 5).astype(np.float16)), to=DType.f32)
    return b.outputs(y=y, half=half)


@pytest.mark.parametrize("scheme", for_weights)
def test_weights_stored_end_to_end(scheme: str, tmp_path: Any) -> None:
    graph = model()
    data = [np.random.default_rng(s).standard_normal((2, 6, 8, 8)).astype(np.float32)
            for s in range(3)]  # fmt: skip
    made = taut.quantize(graph, data, scheme=scheme)
    kind = grid_class(scheme)
    stored = [n for n in made.nodes() if n.op.name == "constant" and n.type.dtype is kind.dtype]
    assert len(stored) == 5
    want, got = (taut.reference(g, data[0]) for g in (graph, made))
    for name, v in want.items():
        assert np.linalg.norm(got[name] - v) < 0.15 * np.linalg.norm(v)
        assert not np.array_equal(got[name], v)
    program = taut.compile(made, threads=1)
    for name, v in program(data[0]).items():
        np.testing.assert_allclose(v, got[name], rtol=2e-3, atol=2e-3 if name == "half" else 1e-5)
    further = taut.reference(taut.optimize(made, "O2"), data[0])
    np.testing.assert_allclose(further["y"], got["y"], rtol=1e-4, atol=1e-5)
    taut.save(made, tmp_path / "m.taut")
    assert_equal(taut.load(tmp_path / "m.taut"), made, names=True)
    export_onnx(made, tmp_path / "m.onnx", opset=21)
    again = load_onnx(tmp_path / "m.onnx")
    assert taut.reference(again, data[0])["y"].tobytes() == got["y"].tobytes()
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    theirs = session.run(["y"], {"x": data[0]})[0]
    np.testing.assert_allclose(theirs, got["y"], rtol=1e-4, atol=1e-5)


def test_a_resnet_in_float8_is_a_quarter_as_large_and_nearly_as_exact(tmp_path: Any) -> None:
    graph = resnet_cifar(8)
    r = np.random.default_rng(0)
    image = r.standard_normal((1, 3, 32, 32)).astype(np.float32)
    made = taut.quantize(graph, [], scheme="float8", weight_scales="max")
    want, got = (next(iter(taut.reference(g, image).values())) for g in (graph, made))
    assert np.linalg.norm(got - want) < 0.05 * np.linalg.norm(want)
    sizes = []
    for name, g in (("float", graph), ("eight", made)):
        taut.save(g, tmp_path / f"{name}.taut")
        sizes.append((tmp_path / f"{name}.taut").stat().st_size)
    assert sizes[1] < 0.3 * sizes[0]
    export_onnx(made, tmp_path / "m.onnx", opset=19)


def test_what_stays_in_float_is_told() -> None:
    b = Builder()
    x = b.input("x", "f32", (4, 4))
    bad = np.full((4, 4), np.inf, np.float32)
    y = b.mat_mul(b.mat_mul(b.mat_mul(x, x, name="two"), bad, name="bad"), np.eye(4, dtype="f"),
                  name="skipped")  # fmt: skip
    report = PassManager("quantize{scheme=float8 skip=[skipped]}").run(b.outputs(y=y), Context())
    told = {r.node: r.reason for _, r in report.remarks("missed")}
    assert told["two"] == "not quantized: its weight is computed"
    assert told["bad"] == "not quantized: its weight is not finite in f32"
    assert told["skipped"] == "not quantized: it is named in `skip`"
