"""Floats of 8 and 4 bits: every code, every rounding, by the standard's tables and its peers."""

from __future__ import annotations

import ctypes
import itertools
import math
from fractions import Fraction
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from taut.backends.base import compile
from taut.frontends.onnx import export_onnx, load_onnx
from taut.ir import Builder, DType, TautError, UnsupportedError, VerifyError, interpret, op_class
from taut.ir.differentiate import differentiate
from taut.ir.ops.common import cast
from taut.ir.standard import ONNX_TYPES

Array = np.ndarray[Any, Any]
FORMATS = {  # exponent bits, mantissa bits, bias; infinities; codes of NaN
    DType.f8e4m3fn: (4, 3, 7, False, {0x7F, 0xFF}),
    DType.f8e5m2: (5, 2, 15, True, {0x7D, 0x7E, 0x7F, 0xFD, 0xFE, 0xFF}),
    DType.f8e4m3fnuz: (4, 3, 8, False, {0x80}),
    DType.f8e5m2fnuz: (5, 2, 16, False, {0x80}),
    DType.f4e2m1fn: (2, 1, 1, False, set()),
}
SMALL = [*FORMATS, DType.f8e8m0fnu]


def codes(dtype: DType) -> Array:
    return np.arange(1 << dtype.bits, dtype=np.uint8).view(dtype.numpy)


def number(dtype: DType, code: int) -> float:
    """What a code stands for, from the format's definition."""
    if dtype is DType.f8e8m0fnu:
        return math.nan if code == 255 else math.ldexp(1.0, code - 127)
    exponent_bits, mantissa_bits, bias, infinities, nans = FORMATS[dtype]
    if code in nans:
        return math.nan
    sign = -1.0 if code >> (dtype.bits - 1) else 1.0
    exponent = code >> mantissa_bits & (1 << exponent_bits) - 1
    mantissa = code & (1 << mantissa_bits) - 1
    if infinities and exponent == (1 << exponent_bits) - 1:
        return sign * math.inf
    if exponent == 0:
        return sign * math.ldexp(mantissa, 1 - bias - mantissa_bits)
    return sign * math.ldexp((1 << mantissa_bits) + mantissa, exponent - bias - mantissa_bits)


def finite(dtype: DType) -> list[tuple[float, int]]:
    """(number, code) of what is finite and not negative, in order."""
    sign = 1 << (dtype.bits - 1)
    found = ((number(dtype, c), c) for c in range(256 if dtype is DType.f8e8m0fnu else sign))
    return sorted((v, c) for v, c in found if math.isfinite(v))


def code_of(x: float | Array, to: DType, source: Any = np.float64, **how: Any) -> list[int]:
    made = cast(np.atleast_1d(np.asarray(x, source)), to, **how)
    assert made.dtype == to.numpy
    return made.view(np.uint8).tolist()


@pytest.mark.parametrize("dtype", SMALL)
def test_every_code_is_the_number_that_the_format_defines(dtype: DType) -> None:
    want = np.array([number(dtype, c) for c in range(1 << dtype.bits)])
    wide = (DType.f64, DType.f32, DType.bf16)
    for to in (*wide, DType.f16) if dtype is not DType.f8e8m0fnu else wide:
        np.testing.assert_array_equal(cast(codes(dtype), to).astype(np.float64), want)
    back = cast(want, dtype)
    same = (back.view(np.uint8) == codes(dtype).view(np.uint8)) | np.isnan(want)
    if dtype is DType.f8e5m2:  # infinities saturate
        same |= np.isinf(want)
    assert same.all()
    assert np.isnan(back[np.isnan(want)].astype(np.float32)).all()


@pytest.mark.parametrize("dtype", list(FORMATS))
def test_between_two_numbers_the_nearer_one_and_at_the_middle_the_even_one(dtype: DType) -> None:
    held = finite(dtype)
    for (low, a), (high, b) in itertools.pairwise(held):
        middle = float((Fraction(low) + Fraction(high)) / 2)  # exact: one more bit
        even = a if a % 2 == 0 else b
        below, above = math.nextafter(middle, 0), math.nextafter(middle, math.inf)
        assert code_of([low, below, middle, above, high], dtype) == [a, a, even, b, b]
        if dtype not in (DType.f8e4m3fnuz, DType.f8e5m2fnuz):
            sign = 1 << (dtype.bits - 1)
            got = code_of([-low, -below, -middle, -above, -high], dtype)
            assert got == [c | sign for c in (a, a, even, b, b)]


@pytest.mark.parametrize("dtype", list(FORMATS))
def test_what_is_too_large(dtype: DType) -> None:
    """By the tables of ONNX's Cast; f4e2m1fn, which has nothing else, always saturates."""
    held = finite(dtype)
    (second, _), (largest, code) = held[-2:]
    edge = largest + (largest - second) / 2  # halfway to what would come next
    under = math.nextafter(edge, 0)
    edge = edge if code % 2 else math.nextafter(edge, math.inf)  # of the two the even one
    sign = 1 << (dtype.bits - 1)
    nan = {DType.f8e4m3fn: 0x7F, DType.f8e5m2: 0x7E, DType.f4e2m1fn: 0}.get(dtype, 0x80)
    beyond = [edge, 1e30, math.inf]
    assert code_of([under, *beyond], dtype) == [code] * 4
    assert code_of([-under, *(-v for v in beyond)], dtype) == [code | sign] * 4
    assert code_of(math.nan, dtype) == [nan]
    over = {DType.f8e5m2: 0x7C, DType.f4e2m1fn: code}.get(dtype, nan)
    assert code_of([under, *beyond], dtype, saturate=False) == [code, over, over, over]
    got = code_of([-v for v in beyond], dtype, saturate=False)
    assert got == [over | sign] * 3
    assert code_of(math.nan, dtype, saturate=False) == [nan]
    if dtype in (DType.f8e4m3fn, DType.f8e5m2):
        assert code_of(np.copysign(math.nan, -1), dtype, saturate=False) == [nan | sign]
    uz = dtype in (DType.f8e4m3fnuz, DType.f8e5m2fnuz)
    assert code_of([0.0, -0.0], dtype) == [0, 0 if uz else sign]


def test_powers_of_two_up_down_and_nearest() -> None:
    e8 = DType.f8e8m0fnu
    x = [1.0, math.nextafter(1, 2), math.nextafter(1.5, 1), 1.5, math.nextafter(2, 1), 2.0]
    assert code_of(x, e8, round_mode="up") == [127, 128, 128, 128, 128, 128]
    assert code_of(x, e8, round_mode="down") == [127, 127, 127, 127, 127, 128]
    assert code_of(x, e8, round_mode="nearest") == [127, 127, 127, 128, 128, 128]
    outside = [0.0, -0.0, -3.0, 2.0**-128, -math.inf]
    for mode in ("up", "down", "nearest"):
        assert code_of(outside, e8, round_mode=mode) == [0] * 5
        assert code_of([1.8e38, 1e300, math.inf], e8, round_mode=mode) == [254] * 3
        both = [*outside, 1.8e38, 1e300, math.inf]
        assert code_of(both, e8, saturate=False, round_mode=mode) == [255] * 8
        assert code_of(math.nan, e8, round_mode=mode) == [255]
    assert code_of([2.0**-127, 2.0**127], e8, saturate=False) == [0, 254]
    b = Builder()
    x = b.input("x", "f32", (1,))
    with pytest.raises(VerifyError, match="round_mode 'even' is none of up, down, nearest"):
        b.graph.add(op_class("cast")(to=e8, round_mode="even"), x)


@pytest.mark.parametrize("dtype", SMALL)
def test_numbers_are_rounded_once(dtype: DType) -> None:
    """Doubles not through f32, wide integers not through doubles."""
    if dtype is DType.f8e8m0fnu:
        assert code_of(1 + 2.0**-52, dtype) == [128]
        assert code_of((1 << 60) + 1, dtype, np.int64) == [127 + 61]
        assert code_of((1 << 63) + 1, dtype, np.uint64, round_mode="down") == [127 + 63]
        assert code_of([(3 << 61) - 1, 3 << 61], dtype, np.uint64, round_mode="nearest") == [
            127 + 62, 127 + 63]  # fmt: skip
        return
    (a, _), (b, code) = finite(dtype)[3:5]
    assert code_of((a + b) / 2 + 2.0**-40, dtype) == [code]
    largest = int(finite(dtype)[-1][0])
    assert code_of(np.arange(largest + 1), dtype, np.int32) == code_of(
        np.arange(largest + 1), dtype
    )
    assert code_of(np.iinfo(np.int64).max, dtype, np.int64) == code_of(1e19, dtype)


@pytest.mark.parametrize("dtype", SMALL)
@pytest.mark.parametrize("to", [d for d in DType if d.is_integer or d is DType.bool])
def test_every_code_as_an_integer_is_that_of_its_float(dtype: DType, to: DType) -> None:
    wide = cast(codes(dtype), DType.f32)
    np.testing.assert_array_equal(cast(codes(dtype), to), cast(wide, to))
    if to.bits <= 4 and to is not DType.bool:
        every = np.arange(to.bounds[0], to.bounds[1] + 1).astype(to.numpy)
        assert same(cast(every, dtype), cast(every.astype(np.float32), dtype))


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(list(FORMATS)), st.integers(0, 1 << 20), st.sampled_from(["f", "e"]))
def test_many_numbers_as_ml_dtypes_and_onnx_have_them(dtype: DType, seed: int, kind: str) -> None:
    random = np.random.default_rng(seed)
    with np.errstate(all="ignore"):
        x = (random.standard_normal(200) * np.exp(random.uniform(-40, 15, 200))).astype(kind)
    if dtype is DType.f4e2m1fn:
        assert code_of(x, dtype, kind) == x.astype(dtype.numpy).view(np.uint8).tolist()
        return
    with np.errstate(all="ignore"):
        plain = x.astype(dtype.numpy)
        saturating = onnx.numpy_helper.saturate_cast(x, dtype.numpy)
    assert code_of(x, dtype, kind, saturate=False) == plain.view(np.uint8).tolist()
    assert code_of(x, dtype, kind) == saturating.view(np.uint8).tolist()


# ---- against onnxruntime -------------------------------------------------------------------------


def by_onnxruntime(
    node: onnx.NodeProto, feeds: dict[str, Array], to: DType, opset: int
) -> tuple[Array, Array]:
    """(onnxruntime's result, the imported graph's), bit for bit."""
    inputs = [helper.make_tensor_value_info(k, ONNX_TYPES[DType.of(v)], v.shape)
              for k, v in feeds.items()]  # fmt: skip
    outputs = [helper.make_tensor_value_info("y", ONNX_TYPES[to], None)]
    graph = helper.make_graph([node], "g", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=[
        "CPUExecutionProvider"])  # fmt: skip
    binding = session.io_binding()
    for name, array in feeds.items():
        dtype = DType.of(array)
        plain = array.view(np.uint8) if dtype.is_minifloat else array
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(
            plain, ONNX_TYPES[dtype]))  # fmt: skip
    binding.bind_output("y", "cpu")
    session.run_with_iobinding(binding)
    value = binding.get_outputs()[0]
    size = math.prod(value.shape()) * to.numpy.itemsize
    raw = (ctypes.c_uint8 * size).from_address(value.data_ptr())
    theirs = np.frombuffer(bytes(raw), to.numpy).reshape(value.shape())
    return theirs, interpret(load_onnx(model), feeds)["y"]


def same(a: Array, b: Array) -> bool:
    """Equal bits; NaN is NaN whatever its code."""
    nan = np.isnan(a.astype(np.float32)) & np.isnan(b.astype(np.float32))
    bits = f"u{a.dtype.itemsize}"
    return bool(np.all((a.view(bits) == b.view(bits)) | nan))


EIGHT = [DType.f8e4m3fn, DType.f8e5m2, DType.f8e4m3fnuz, DType.f8e5m2fnuz]


def many(kind: Any = np.float32) -> Array:
    random = np.random.default_rng(5)
    x = random.standard_normal(2000) * np.exp(random.uniform(-30, 9, 2000))
    edges = [0, -0.0, np.nan, np.inf, -np.inf, 448, 464, 240, 248, 57344, 1e4, -1e4, 2.0**-17]
    with np.errstate(all="ignore"):
        return np.concatenate([x, edges]).astype(kind)


@pytest.mark.parametrize("to", EIGHT)
@pytest.mark.parametrize("saturate", [True, False])
def test_cast_as_onnxruntime_has_it(to: DType, saturate: bool) -> None:
    x = many()
    if not saturate:  # where onnxruntime rounds past the largest number it takes it, or NaN
        top = finite(to)[-1][0]
        x = x[(np.abs(x) <= top) | (np.abs(x) >= 1.2 * top) | np.isnan(x)]
    node = helper.make_node("Cast", ["x"], ["y"], to=ONNX_TYPES[to], saturate=int(saturate))
    assert same(*by_onnxruntime(node, {"x": x}, to, 19))
    back = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)
    assert same(*by_onnxruntime(back, {"x": codes(to)}, DType.f32, 19))


@pytest.mark.parametrize("saturate", [True, False])
@pytest.mark.parametrize("mode", ["up", "down", "nearest"])
def test_cast_to_powers_of_two_as_onnxruntime_has_it(saturate: bool, mode: str) -> None:
    x = np.concatenate([many(), [2.0**-127, 2.0**-128, 1.5, 3, 6, 1.7e38, 1.8e38, 3e38, -1]])
    node = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT8E8M0,
                            saturate=int(saturate), round_mode=mode)  # fmt: skip
    made = by_onnxruntime(node, {"x": x.astype(np.float32)}, DType.f8e8m0fnu, 24)
    assert same(*made)


@pytest.mark.parametrize("to", EIGHT)
@pytest.mark.parametrize("layout", ["tensor", "axis", "blocks"])
def test_quantize_and_dequantize_as_onnxruntime_has_it(to: DType, layout: str) -> None:
    x = many()[:1995].reshape(19, 105)
    shape = {"tensor": (), "axis": (105,), "blocks": (19, 21)}[layout]
    scale = np.random.default_rng(1).uniform(0.01, 2, shape).astype(np.float32)
    more = {"axis": 1, "block_size": 5} if layout == "blocks" else {"axis": 1}
    zero = np.zeros(shape, np.uint8).view(to.numpy)
    node = helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"], **more)
    ort, ours = by_onnxruntime(node, {"x": x, "s": scale, "z": zero}, to, 21)
    assert same(ort, ours)
    node = helper.make_node("DequantizeLinear", ["x", "s", "z"], ["y"], **more)
    made = by_onnxruntime(node, {"x": ours, "s": scale, "z": zero}, DType.f32, 21)
    assert same(*made)


# ---- in graphs -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [*EIGHT, DType.f4e2m1fn])
def test_quantize_without_saturation_shifts_and_blocks(dtype: DType) -> None:
    b = Builder()
    x = b.input("x", "f32", (2, 6))
    steps = np.array([[1e9, -0.0, 0.5, 3, np.inf, -1e9]] * 2, np.float32)
    q = op_class("quantize_linear")(output_dtype=dtype, saturate=False)
    node = b.graph.add(q, x, b.constant(np.float32(0.5)))
    zero = b.constant(np.ones(6).astype(dtype.numpy))
    moved = b.quantize_linear(x, np.full(6, 0.5, np.float32), zero)
    back = b.dequantize_linear(moved, np.full(6, 0.5, np.float32), zero)
    graph = b.outputs(y=node[0], moved=moved, back=back)
    for program in (lambda **f: interpret(graph, f), compile(graph, "cpu")):
        made = program(x=steps)
        want = cast(steps.astype(np.float64) * 2, dtype, False)
        assert same(made["y"], want)
        assert same(made["moved"], cast(steps.astype(np.float64) * 2 + 1, dtype))
        up = made["moved"].astype(np.float32) - np.float32(1)
        np.testing.assert_array_equal(made["back"], up * np.float32(0.5))


def test_scales_that_are_powers_of_two() -> None:
    b = Builder()
    x = b.input("x", "f32", (4, 64))
    scale = b.input("s", DType.f8e8m0fnu, (4, 2))
    given = {"axis": 1, "block_size": 32}
    q = b.quantize_linear(x, scale, output_dtype=DType.f4e2m1fn, **given)
    y = b.dequantize_linear(q, scale, output_dtype=DType.f32, **given)
    graph = b.outputs(y=y, q=q)
    random = np.random.default_rng(0)
    scales = random.integers(120, 130, (4, 2)).astype(np.uint8).view(DType.f8e8m0fnu.numpy)
    feeds = {"x": random.standard_normal((4, 64)).astype(np.float32), "s": scales}
    made = interpret(graph, feeds)
    factor = feeds["s"].astype(np.float32).repeat(32, axis=1)
    want = cast(feeds["x"].astype(np.float64) / factor, DType.f4e2m1fn)
    assert made["q"].tobytes() == want.tobytes()
    np.testing.assert_array_equal(made["y"], want.astype(np.float32) * factor)
    with pytest.raises(VerifyError, match="give output_dtype"):
        b.dequantize_linear(q, scale, **given)
    again = load_onnx(export_onnx(graph, opset=25))
    assert interpret(again, feeds)["y"].tobytes() == made["y"].tobytes()
    with pytest.raises(UnsupportedError, match=r"no .* f8e8m0fnu; export with opset 24"):
        export_onnx(graph, opset=23)


def test_nothing_is_calculated_in_them() -> None:
    b = Builder()
    x = b.input("x", DType.f8e4m3fn, (4, 4))
    one, two = ("relu", "softmax", "reduce_max", "arg_max"), ("add", "mat_mul", "max", "equal")
    for name, operands in (*((n, [x]) for n in one), *((n, [x, x]) for n in two),
                           ("top_k", [x, b.constant(np.array([1]))])):  # fmt: skip
        with pytest.raises(VerifyError, match="takes no f8e4m3fn") as caught:
            b.graph.add(op_class(name)(), *operands)
        assert "cast to f32" in (caught.value.hint or "")


@pytest.mark.parametrize("dtype", SMALL)
def test_moved_and_asked_about_on_both_targets(dtype: DType) -> None:
    b = Builder()
    x = b.input("x", dtype, (2, 1 << (dtype.bits - 1)))
    y = b.concat(b.transpose(x, perm=(1, 0)), b.transpose(x, perm=(1, 0)), axis=1)
    graph = b.outputs(y=y, nan=b.is_nan(x), inf=b.is_inf(x), same=b.cast(b.cast(x, to=DType.f32),
                                                                         to=dtype))  # fmt: skip
    feeds = {"x": codes(dtype).reshape(2, -1)}
    wide = feeds["x"].astype(np.float32)
    for made in (interpret(graph, feeds), compile(graph, "cpu")(**feeds)):
        assert made["y"].tobytes() == np.concatenate([feeds["x"].T] * 2, 1).tobytes()
        np.testing.assert_array_equal(made["nan"], np.isnan(wide))
        np.testing.assert_array_equal(made["inf"], np.isinf(wide))
    with pytest.raises(TautError):
        interpret(graph, {"x": wide})


def test_a_gradient_goes_through_a_cast_as_through_that_to_bf16() -> None:
    b = Builder()
    x, seed = b.input("x", "f32", (3,)), b.input("seed", "f32", (3,))
    y = b.mul(b.cast(b.cast(x, to=DType.f8e4m3fn), to=DType.f32), np.float32(3))
    found = differentiate(b.graph, {y: seed}, [x])[x]
    graph = b.outputs(g=found)
    made = interpret(graph, {"x": np.ones(3, np.float32), "seed": np.arange(3, dtype=np.float32)})
    np.testing.assert_array_equal(made["g"], [0, 3, 6])


@pytest.mark.parametrize("op, operands, opset", [
    ("concat", 2, 28), ("gather", 1, 28), ("transpose", 1, 19), ("pad", 1, 19),
])  # fmt: skip
def test_onnx_has_them_in_few_ops(op: str, operands: int, opset: int) -> None:
    """Its checker does not look: a file that nobody reads would come out."""
    b = Builder()
    x = b.input("x", DType.f8e5m2, (2, 2))
    rest = {"gather": [np.array([0])], "pad": [np.array([0, 0, 1, 1])]}.get(op, [])
    y = getattr(b, op)(*[x] * operands, *rest, **({"axis": 0} if op == "concat" else {}))
    with pytest.raises(UnsupportedError, match=f"opset {opset} has no .* of f8e5m2") as caught:
        export_onnx(b.outputs(y=y), opset=opset)
    assert "21" in (caught.value.hint or "") or "cast" in (caught.value.hint or "")
