"""Transposed convolution in drawn combinations of its attributes: against ONNX's formulas written
out, against onnxruntime where it takes the node, and compiled; its gradient; its int8 form."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import numpy as np
import pytest
from op_samples import Sample
from taut.backends.cpu import compile
from taut.ir import (
    Builder,
    DType,
    Graph,
    TensorType,
    Value,
    VerifyError,
    differentiate,
    interpret,
    op_class,
)

import taut

Array = np.ndarray[Any, Any]


def test_channels_follow_from_the_weight_alone() -> None:
    b = Builder()
    x = b.graph.add_input("x", TensorType(DType.f32, None))[0]
    weight = np.ones((4, 3, 2, 2), np.float32)
    y = b.conv_transpose(x, weight, group=2)
    assert y.type == TensorType(DType.f32, (None, 6, None, None))
    with pytest.raises(VerifyError, match="vector of 6"):
        b.conv_transpose(x, weight, np.ones(3, np.float32), group=2)


class Case(NamedTuple):
    """A node: attributes, and operands with or without a bias."""

    attributes: dict[str, Any]
    x: Array
    weight: Array
    bias: Array | None

    @property
    def operands(self) -> list[Array]:
        return [v for v in (self.x, self.weight, self.bias) if v is not None]


def drawn(seed: int) -> Case:
    """Any combination that has a meaning: results larger and smaller than stride and kernel make,
    gaps between windows, holes in them, pads of the whole result."""
    r = np.random.default_rng(seed)
    rank, group = int(r.choice([1, 2, 2, 3])), int(r.choice([1, 1, 2, 3]))

    def numbers(low: int, high: int, count: int = rank) -> tuple[int, ...]:
        return tuple(int(v) for v in r.integers(low, high, count))

    sizes, kernel, strides, dilations = (numbers(1, n) for n in (6, 5, 5, 4))
    made: dict[str, Any] = {"strides": strides, "dilations": dilations, "group": group}
    made["auto_pad"] = str(r.choice(["NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    full = [(n - 1) * s + (k - 1) * d + 1 for n, s, k, d in zip(sizes, strides, kernel, dilations)]
    if made["auto_pad"] == "NOTSET" and r.random() < 0.6:
        before = [int(r.integers(0, min(n, 4))) for n in full]
        made["pads"] = (*before, *(int(r.integers(0, min(n - p, 4))) for n, p in
                                   zip(full, before)))  # fmt: skip
    if r.random() < 0.4:
        made["output_padding"] = tuple(int(r.integers(0, max(s, d))) for s, d in
                                       zip(strides, dilations))  # fmt: skip
    if r.random() < 0.4:
        made["output_shape"] = tuple(max(1, n + int(r.integers(-4, 5))) for n in full)
    c, o = group * int(r.integers(1, 4)), int(r.integers(1, 4))
    weight = r.standard_normal((c, o, *kernel)).astype(np.float32)
    bias = r.standard_normal(o * group).astype(np.float32) if r.random() < 0.5 else None
    x = r.standard_normal((int(r.integers(1, 3)), c, *sizes)).astype(np.float32)
    return Case(made, x, weight, bias)


def defined(case: Case) -> Array:
    """ONNX's text, element by element: the sizes, the pads that follow from them, the sums."""
    at, x, weight = case.attributes, case.x, case.weight
    sizes, kernel, rank = x.shape[2:], weight.shape[2:], x.ndim - 2
    strides, dilations, group = at["strides"], at["dilations"], at["group"]
    extra = at.get("output_padding", (0,) * rank)
    full = [(n - 1) * s + e + (k - 1) * d + 1
            for n, s, e, k, d in zip(sizes, strides, extra, kernel, dilations)]  # fmt: skip
    pads = at.get("pads", (0,) * 2 * rank)
    out, begin = [n - a - b for n, a, b in zip(full, pads, pads[rank:])], list(pads[:rank])
    same = at["auto_pad"].startswith("SAME")
    if same or "output_shape" in at:
        out = list(at.get("output_shape", [n * s for n, s in zip(sizes, strides)]))
        total = [max(n - o, 0) for n, o in zip(full, out)]  # onnxruntime pads no less than nothing
        upper = at["auto_pad"] == "SAME_UPPER"
        begin = [t // 2 if upper else t - t // 2 for t in total]
    y = np.zeros((len(x), group * weight.shape[1], *out))
    per_in, per_out = x.shape[1] // group, weight.shape[1]
    for p in np.ndindex(*sizes):
        for k in np.ndindex(*kernel):
            place = tuple(i * s + j * d - b for i, s, j, d, b in
                          zip(p, strides, k, dilations, begin))  # fmt: skip
            if any(not 0 <= i < n for i, n in zip(place, out)):
                continue
            for g in range(group):
                inside = slice(g * per_in, (g + 1) * per_in)
                part = x[(slice(None), inside, *p)] @ weight[(inside, slice(None), *k)]
                y[(slice(None), slice(g * per_out, (g + 1) * per_out), *place)] += part
    return y if case.bias is None else y + case.bias.reshape(-1, *[1] * rank)


def graph_of(case: Case, held: bool = True) -> Graph:
    """The node; weight and bias are constants, or (not held) inputs."""
    b = Builder()
    x = b.input("x", "f32", case.x.shape)
    names = ("w", "c")
    rest = [b.constant(v) if held else b.input(n, "f32", v.shape)
            for n, v in zip(names, case.operands[1:])]  # fmt: skip
    return b.outputs(y=b.conv_transpose(x, *rest, **case.attributes))


@pytest.mark.parametrize("part", range(4))
def test_numbers_are_those_of_the_standard(part: int) -> None:
    for seed in range(100 * part, 100 * part + 100):
        case = drawn(seed)
        made = interpret(graph_of(case), {"x": case.x})["y"]
        want = defined(case)
        assert made.shape == want.shape, case.attributes
        np.testing.assert_allclose(made, want, atol=1e-4, err_msg=str(case.attributes))


def test_onnxruntime_agrees_where_it_takes_the_node() -> None:
    pytest.importorskip("onnxruntime")
    import onnx_peers
    import onnxruntime as ort

    ort.set_default_logger_severity(4)
    agreed = 0
    for seed in range(200):
        case = drawn(seed)
        op: Any = op_class("conv_transpose")(**case.attributes)
        made = op.reference(*case.operands)
        try:
            found = onnx_peers.run(Sample(op, tuple(case.operands)), 1)[0]
        except Exception:
            continue
        if found.shape != made.shape:  # SAME, windows apart: ONNX says size * stride
            reach = [(k - 1) * d + 1 for k, d in zip(case.weight.shape[2:], op.dilations)]
            assert op.auto_pad.startswith("SAME") and not op.output_shape
            assert any(s > e for s, e in zip(op.strides, reach))
            continue
        agreed += 1
        np.testing.assert_allclose(found, made, atol=1e-4, err_msg=str(case.attributes))
    assert agreed > 80


def test_pytorch_agrees() -> None:
    torch: Any = pytest.importorskip("torch")
    functional = torch.nn.functional
    kinds: list[Any] = [getattr(functional, f"conv_transpose{n}d") for n in (1, 2, 3)]
    compared = 0
    for seed in range(400):
        case = drawn(seed)
        at, rank = dict(case.attributes), case.x.ndim - 2
        pads = at.get("pads", (0,) * 2 * rank)
        if at["auto_pad"].startswith("SAME") or "output_shape" in at or pads[:rank] != pads[rank:]:
            continue
        compared += 1
        extra = at.get("output_padding", (0,) * rank)
        given = [None if v is None else torch.tensor(v) for v in case[1:]]
        rest = (at["strides"], pads[:rank], extra, at["group"], at["dilations"])
        want = kinds[rank - 1](*given, *rest)
        made = interpret(graph_of(case), {"x": case.x})["y"]
        np.testing.assert_allclose(made, want.numpy(), atol=1e-4, err_msg=str(at))
    assert compared > 50


def test_compiled_numbers_are_the_references() -> None:
    compiled = 0
    for seed in range(20):
        case = drawn(seed)
        for held in (True, False):
            graph = graph_of(case, held=held)
            feeds = dict(zip("xwc", case.operands[:1] if held else case.operands))
            program = compile(graph, threads=1)
            made = program(**feeds)["y"]
            compiled += not program.fallbacks
            np.testing.assert_allclose(
                made, interpret(graph, feeds)["y"], atol=1e-4, err_msg=str(case.attributes)
            )
    assert compiled > 20


def test_gradients_are_the_adjoint() -> None:
    """The op is linear in x and in the weight: sum(g * y) is sum(x * dx) and sum(weight * dw)."""
    for seed in range(60):
        case = Case(*drawn(seed)[:3], None)
        b = Builder()
        x, w = (b.input(n, "f64", v.shape) for n, v in zip("xw", case.operands))
        y = b.conv_transpose(x, w, **case.attributes)
        g = b.input("g", "f64", y.type.static_shape)
        slopes = differentiate(b.graph, {y: g}, [x, w], b=b)
        graph = b.outputs(y=y, dx=cast(Value, slopes[x]), dw=cast(Value, slopes[w]))
        r = np.random.default_rng(seed)
        feeds = {n.name: r.standard_normal(n.type.static_shape) for n in graph.inputs}
        made = interpret(graph, feeds)
        total = float((feeds["g"] * made["y"]).sum())
        for name in "xw":
            found = float((feeds[name] * made[f"d{name}"]).sum())
            assert found == pytest.approx(total, rel=1e-9, abs=1e-9), case.attributes


@pytest.mark.parametrize("dilations", [(1, 1), (2, 2), (2, 1)])
def test_int8_form_is_only_taken_of_windows_side_by_side(dilations: tuple[int, int]) -> None:
    r = np.random.default_rng(0)
    b = Builder()
    x = b.input("x", "f32", (1, 4, 6, 5))
    y = b.conv_transpose(
        b.relu(b.conv(x, r.standard_normal((8, 4, 1, 1)).astype(np.float32))),
        r.standard_normal((8, 5, 2, 2)).astype(np.float32), strides=(2, 2), dilations=dilations,
    )  # fmt: skip
    graph = b.outputs(y=y)
    feeds = {"x": r.standard_normal((1, 4, 6, 5)).astype(np.float32)}
    want = interpret(graph, feeds)["y"]
    small = taut.optimize(graph, "int8", [feeds])
    unfolded = any(n.op.name == "depth_to_space" for n in small.nodes())
    assert unfolded == (dilations == (1, 1))
    for made in (interpret(small, feeds)["y"], taut.compile(small, threads=1)(**feeds)["y"]):
        assert np.square(made - want).sum() < 1e-3 * np.square(want).sum()
