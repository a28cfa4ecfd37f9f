"""At least one sample of every declared op: its attributes and operands.

`peer` says who else runs it: "ort" (onnxruntime), "ref" (onnx's reference evaluator) or "" where
neither can (Taut's own ops, odd element types); the reason stands beside it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from taut.ir import Builder, DType, Op, op_class

Array = np.ndarray[Any, Any]
_random = np.random.default_rng(7)


class Sample(NamedTuple):
    op: Op
    operands: tuple[Array | None, ...]
    peer: str = "ort"
    tolerance: float = 1e-5
    data_dependent: bool = False  # the result's shape depends on more than shape data

    def __str__(self) -> str:
        given = ",".join(f"{k}={v!r}" for k, v in self.op.given() if not isinstance(v, np.ndarray))
        shapes = ",".join("-" if x is None else f"{x.dtype}{list(x.shape)}" for x in self.operands)
        return f"{self.op.name}({given})({shapes})".replace(" ", "")


def f(*shape: int, scale: float = 1.0) -> Array:
    return np.asarray(_random.standard_normal(shape) * scale, np.float32)


def positive(*shape: int) -> Array:
    return np.abs(f(*shape)) + np.float32(0.1)


def integers(low: int, high: int, *shape: int, dtype: Any = np.int64) -> Array:
    return np.asarray(_random.integers(low, high, shape), dtype)


def words(dtype: Any, *shape: int) -> Array:
    """Any values of an integer type, its extremes among them."""
    low, high = DType.of(dtype).bounds
    made = _random.integers(low, high + 1, shape)
    made.reshape(-1)[:2] = [low, high][: made.size]
    return made.astype(dtype)


def words_of(text: str) -> list[str]:
    return text.split()


def bools(*shape: int) -> Array:
    return _random.random(shape) < 0.5


def i(*values: int) -> Array:
    return np.array(values, np.int64)


def scalar(value: float, dtype: Any = np.float32) -> Array:
    return np.array(value, dtype)


SAMPLES: list[Sample] = []


def add(name: str, *operands: Array | None, peer: str = "ort", tol: float = 1e-5,
        data: bool = False, **attributes: Any) -> None:  # fmt: skip
    SAMPLES.append(Sample(op_class(name)(**attributes), operands, peer, tol, data))


def _elementwise() -> None:
    odd = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 3e38, -1e-40], np.float32)
    for name in words_of("""
        relu sigmoid tanh elu selu celu leaky_relu hard_sigmoid hard_swish softplus mish softsign
        thresholded_relu erf exp abs neg sign floor ceil round sin cos tan sinh cosh atan asinh
        reciprocal softmax log_softmax hardmax is_nan is_inf gelu shrink identity
        global_average_pool global_max_pool
    """):
        add(name, f(2, 3, 4, 5, scale=2))
    for name in words_of("relu abs neg sign floor ceil round is_nan is_inf sqrt"):
        add(name, odd)
    for name in words_of("sigmoid tanh softplus erf exp hard_swish swish gelu mish"):
        add(name, odd[:5], peer="ref" if name in ("sigmoid", "erf", "exp", "tanh") else "")
    add("swish", f(3, 4), peer="ref", alpha=0.5)
    add("gelu", f(3, 4), approximate="tanh")
    add("is_inf", odd, detect_negative=False)
    for name in ["log", "sqrt"]:
        add(name, positive(3, 4))
    for name in ["asin", "acos", "atanh"]:
        add(name, np.tanh(f(3, 4)))
    add("acosh", positive(3, 4) + 1)
    add("leaky_relu", f(3, 4), alpha=0.3)
    add("clip", f(3, 4), scalar(-0.5), scalar(0.5))
    add("clip", f(3, 4), None, scalar(0.5))
    add("clip", f(3, 4))
    add("prelu", f(2, 3, 4), f(3, 1))
    for name in ["add", "sub", "mul", "div"]:
        add(name, f(3, 1, 5), f(4, 1))
        add(name, f(0, 3), f(1, 3))
        add(name, f(), f())
        add(name, integers(-9, 9, 3, 5), integers(1, 5, 5))
        for dtype in (np.float16, ml_dtypes.bfloat16, np.float64):
            peer = "" if dtype is ml_dtypes.bfloat16 else "ref"  # NumPy's bf16 rounds differently
            add(name, f(3, 5).astype(dtype), positive(5).astype(dtype), peer=peer, tol=1e-2)
    add("div", i(-7, 7, -7, 7), i(2, 2, -2, -2))
    for fmod in (False, True):
        add("mod", i(-7, 7, -7, 7), i(2, 3, -2, -3), fmod=fmod)
        add("mod", f(9), f(9), fmod=fmod, peer="ref")
    add("pow", positive(3, 1, 5), f(4, 1))
    add("pow", i(0, 1, 2, 3), i(3, 2, 1, 0))
    add("pow", i(0, 1, 2, 3), f(4) * 0 + 2)
    for name in ["max", "min", "sum", "mean"]:
        add(name, f(3, 1, 5), f(4, 1), f(5))
        add(name, f(3))
    for name in words_of("equal less greater less_or_equal greater_or_equal"):
        add(name, integers(0, 3, 3, 1, 5), integers(0, 3, 4, 1))
    for name in ["and", "or", "xor"]:
        add(name, bools(3, 1, 5), bools(4, 1))
    add("not", bools(3))
    add("where", bools(3, 1), f(4), f(3, 4))
    for name in ["bitwise_and", "bitwise_or", "bitwise_xor"]:
        add(name, words(np.int32, 3, 5), words(np.int32, 5))
    add("bitwise_not", words(np.uint8, 5))
    for direction in ("LEFT", "RIGHT"):
        add("bit_shift", words(np.uint8, 5), np.arange(5, dtype=np.uint8), direction=direction)
        add("bit_shift", i(5, -5, 5, -5), i(1, 1, 99, -1), direction=direction, peer="ref")
        add("bit_shift", np.array([2**64 - 3, 2**58 + 1, 5], np.uint64),
            np.arange(3, dtype=np.uint64), direction=direction)  # fmt: skip
    add("optimization_barrier", f(3, 4), peer="")  # Taut's own
    add("round_bias", f(5), scalar(0.125), peer="")
    variances = np.abs(f(5)) + np.float32(0.1)
    add("round_bias", f(5), scalar(0.125), f(5), f(5), variances, f(5), peer="")
    add("scale_gradient", f(3, 4), scalar(1), peer="")
    add("softmax", f(2, 3, 4), axis=1)
    add("log_softmax", f(2, 3, 4, scale=100), axis=0)


def _windows() -> None:
    layouts: list[dict[str, Any]] = [
        {}, {"strides": (2, 1), "pads": (1, 2, 0, 1)}, {"dilations": (2, 2)},
        {"auto_pad": "SAME_UPPER", "strides": (2, 2)},
        {"auto_pad": "SAME_LOWER", "strides": (2, 2)},
        {"auto_pad": "VALID"},
    ]  # fmt: skip
    for at in layouts:
        add("conv", f(2, 4, 9, 11), f(6, 4, 3, 2), f(6), tol=1e-4, **at)
        add("conv", f(2, 4, 9, 11), f(6, 2, 3, 2), f(6), group=2, tol=1e-4, **at)
        add("conv", f(2, 4, 9, 11), f(4, 1, 3, 2), group=4, tol=1e-4, **at)
        add("conv", f(1, 2, 9, 11), f(4, 1, 3, 2), group=2, tol=1e-4, **at)
        add("conv_transpose", f(2, 4, 5, 6), f(4, 3, 3, 2), f(3), tol=1e-4, **at)
        add("conv_transpose", f(2, 4, 5, 6), f(4, 3, 3, 2), group=2, tol=1e-4, **at)
    add("conv", f(2, 4, 9), f(6, 4, 3), pads=(1, 1), kernel_shape=(3,))
    add("conv", f(2, 4, 5, 6, 7), f(6, 2, 3, 2, 1), group=2, pads=(1, 0, 0, 1, 1, 1), tol=1e-4)
    add("conv", f(0, 2, 5, 5), f(3, 2, 3, 3), peer="ref")
    add("conv", f(1, 2, 5, 5).astype(np.float16), f(3, 2, 3, 3).astype(np.float16), tol=2e-2,
        peer="")  # neither peer computes f16 in f32  # fmt: skip
    residual, x, w = f(1, 3, 5, 5), f(1, 2, 5, 5), f(3, 2, 3, 3)
    for activation, params in [("", ()), ("relu", ()), ("clip", (0.0, 6.0)),
                               ("leaky_relu", (0.1,)), ("hard_swish", ())]:  # fmt: skip
        add("fused_conv", x, w, f(3), residual, pads=(1, 1, 1, 1), activation=activation,
            params=params, peer="")  # Taut's own  # fmt: skip
    add("fused_conv", x, w, None, residual, f(3), pads=(1, 1, 1, 1), activation="prelu", peer="")
    add("fused_conv", x, w, None, residual, f(1), pads=(1, 1, 1, 1), activation="prelu",
        residual_last=True, peer="")  # fmt: skip
    up, side = f(2, 4, 5, 6), f(2, 3, 10, 12)
    for last, slope in ((False, None), (True, f(3))):
        add("fused_conv_transpose", up, f(4, 3, 2, 2), f(3), side, slope, strides=(2, 2),
            activation="prelu" if last else "sigmoid", residual_last=last, peer="",
            tol=1e-4)  # fmt: skip
    add("conv_transpose", f(2, 4, 5, 6), f(4, 3, 3, 3), strides=(2, 2), output_padding=(1, 1),
        tol=1e-4)  # fmt: skip
    add("conv_transpose", f(2, 4, 5, 6), f(4, 3, 3, 3), strides=(2, 2), output_shape=(12, 13),
        tol=1e-4)  # fmt: skip
    add("conv_transpose", f(2, 4, 9), f(4, 3, 3), strides=(3,), pads=(1, 0), tol=1e-4)
    layouts += [{"strides": (3, 2), "ceil_mode": True}]
    layouts += [{"strides": (2, 2), "pads": (1, 1, 1, 1), "ceil_mode": True}]
    for at in layouts:
        if at.get("pads") == (1, 2, 0, 1):
            at = dict(at, pads=(1, 1, 0, 1))  # a pooling's pads are below its window
        x = f(2, 3, 9, 11)
        for name in ("max_pool", "average_pool", "lp_pool"):
            add(name, x, kernel_shape=(3, 2), **at)
        add("average_pool", x, kernel_shape=(3, 2), count_include_pad=True, **at)
        for order in (0, 1):
            add("max_pool", x, kernel_shape=(3, 2), outputs=2, storage_order=order, **at)
    add("max_pool", words(np.int8, 2, 3, 6), kernel_shape=(3,), pads=(1, 1))
    add("max_pool", np.zeros((1, 1, 3, 3), np.float32), kernel_shape=(2, 2), outputs=2)
    add("average_pool", f(1, 2, 4, 5, 6), kernel_shape=(2, 3, 2))
    add("lp_pool", f(1, 2, 7), kernel_shape=(3,), p=1)
    add("global_lp_pool", f(2, 3, 4, 5), peer="", p=3)  # no peer has it


def _linear() -> None:
    add("mat_mul", f(2, 3, 4), f(4, 5))
    add("mat_mul", f(4), f(2, 4, 5))
    add("mat_mul", f(2, 3, 4), f(4))
    add("mat_mul", f(4), f(4))
    add("mat_mul", f(0, 4), f(4, 5))
    add("mat_mul", integers(-9, 9, 3, 4), integers(-9, 9, 4, 2))
    add("gemm", f(3, 4), f(4, 5))
    add("gemm", f(4, 3), f(5, 4), f(5), transA=True, transB=True, alpha=0.5, beta=2.0)
    add("gemm", f(3, 4), f(4, 5), f(3, 1), beta=0.0)
    for kind, params in [("", ()), ("relu", ()), ("clip", (0.0, 6.0)), ("leaky_relu", (0.1,)),
                         ("gelu", ()), ("gelu_tanh", ()), ("swish", ())]:  # fmt: skip
        add("fused_mat_mul", f(2, 3, 4), f(4, 5), f(5), f(2, 3, 5), activation=kind,
            params=params, peer="")  # Taut's own  # fmt: skip
    add("fused_mat_mul", f(2, 4, 3), f(3, 1, 5, 4), None, f(3, 1, 1, 5), transA=True,
        transB=True, alpha=0.5, peer="")  # fmt: skip
    add("einsum", f(2, 3, 4), f(2, 4, 5), equation="bij,bjk->bik")
    add("einsum", f(2, 3, 3), equation="...ii->...i")
    add("einsum", f(2, 3), f(3), equation=" ij , j ")
    add("batch_normalization", f(2, 3, 4, 5), f(3), f(3), f(3), positive(3))
    add("batch_normalization", f(4, 3), f(3), f(3), f(3), positive(3))
    add("batch_normalization", f(2, 3, 4), f(3), f(3), f(3), positive(3), training_mode=True,
        peer="ref")  # fmt: skip
    add("instance_normalization", f(2, 3, 4, 5), f(3), f(3))
    add("group_normalization", f(2, 4, 4, 5), f(4), f(4), num_groups=2)
    add("layer_normalization", f(2, 3, 4), f(4), f(4), outputs=3)
    add("layer_normalization", f(2, 3, 4), f(3, 4), axis=1)
    add("layer_normalization", f(2, 3).astype(np.float64), f(3).astype(np.float64), outputs=3)
    add("rms_normalization", f(2, 3, 4), f(4), peer="ref")
    add("lp_normalization", f(2, 4, 5), axis=1, p=1)
    add("lp_normalization", np.zeros((2, 3), np.float32), peer="ref")
    add("mean_variance_normalization", f(2, 3, 4, 5))
    add("lrn", f(2, 7, 4, 5), size=3, alpha=0.1)
    # The reference evaluator does only as many channels as there are images.
    add("lrn", f(7, 7, 4, 5), size=4, alpha=0.1, peer="ref")


def _attention() -> None:
    q, k, v = f(2, 4, 3, 8), f(2, 2, 5, 8), f(2, 2, 5, 6)
    past = f(2, 2, 4, 8), f(2, 2, 4, 6)
    # onnxruntime has the op, but masks in another way; the reference evaluator does it all.
    add("attention", q, k, v, peer="ref")
    add("attention", q, k, v, bools(3, 5), peer="ref", is_causal=True, outputs=4,
        qk_matmul_output_mode=3)  # fmt: skip
    add("attention", q, k, v, f(2, 1, 3, 7), *past, peer="ref", softcap=2.0, outputs=4,
        qk_matmul_output_mode=2, softmax_precision=DType.f64, scale=0.3)  # fmt: skip
    add("attention", q, k, v, None, *past, peer="ref", is_causal=True, outputs=3,
        left_window_size=2)  # fmt: skip
    add("attention", q, k, v, None, None, None, i(5, 2), peer="ref", is_causal=True,
        right_window_size=0)  # fmt: skip
    add("attention", f(2, 3, 32), f(2, 5, 16), f(2, 5, 12), peer="ref", q_num_heads=4,
        kv_num_heads=2, outputs=4)  # fmt: skip
    add("rotary_embedding", q, f(2, 3, 4), f(2, 3, 4), peer="ref")
    add("rotary_embedding", q, f(9, 2), f(9, 2), integers(0, 9, 2, 3), peer="ref",
        rotary_embedding_dim=4, interleaved=True)  # fmt: skip
    add("rotary_embedding", f(2, 3, 32), f(2, 3, 4), f(2, 3, 4), peer="ref", num_heads=4)


def _shapes() -> None:
    add("reshape", f(2, 3, 4), i(0, -1))
    add("reshape", f(0, 3), i(0, 3), allowzero=True)
    for axis in (0, 1, 3, -1):
        add("flatten", f(2, 3, 4), axis=axis)
    add("transpose", f(2, 3, 4), perm=(1, 2, 0))
    add("transpose", f(2, 3, 4))
    add("squeeze", f(1, 3, 1))
    add("squeeze", f(1, 3, 1), i(-1))
    add("unsqueeze", f(3), i(0, -1))
    add("expand", f(3, 1), i(2, 1, 4))
    add("tile", f(3, 2), i(2, 3))
    add("shape", f(2, 3, 4), start=-2)
    add("shape", f(2, 3, 4), start=1, end=-1)
    add("size", f(2, 3))
    for to in (DType.i32, DType.f64, DType.bool, DType.u8):
        add("cast", positive(3), to=to)
    add("cast", np.array([300, -1, 7]), to=DType.u8)
    add("cast", np.array([-9, 7, 8]), to=DType.i4, peer="ref")
    add("cast", f(3), to=DType.bf16, peer="")  # ort has no such cast on every machine
    add("cast_like", f(3, scale=9), i(0))
    add("dropout", f(2, 3), outputs=2)
    add("dropout", f(2, 3), scalar(0.5), np.array(False))
    add("constant_of_shape", i(2, 3))
    add("constant_of_shape", i(2), value=np.array([3]))
    add("constant_of_shape", i())
    for bounds in ((3, 10, 3), (10, 3, -3), (5, 5, 1)):
        add("range", *(scalar(b, np.int64) for b in bounds))
    add("range", scalar(1), scalar(2.2), scalar(0.3))
    add("depth_to_space", f(2, 8, 2, 3), blocksize=2)
    add("depth_to_space", f(2, 8, 2, 3), blocksize=2, mode="CRD")
    add("space_to_depth", f(2, 2, 4, 6), blocksize=2)
    add("concat", f(2, 3), f(2, 0), f(2, 5), axis=-1)
    add("split", f(7, 2), num_outputs=3)
    add("split", f(2, 7), i(2, 5), axis=1, num_outputs=2)
    for mode in ("constant", "reflect", "edge", "wrap"):
        add("pad", f(4, 5), i(1, 2, 3, 1), mode=mode)
        add("pad", f(4, 5), i(2, -1), None, i(-1), mode=mode)
    add("pad", f(4, 5), i(1, -2, 3, 1), scalar(3.0))


def _indices() -> None:
    add("slice", f(5, 6), i(1, -1), i(9, -9), i(0, 1), i(2, -2))
    add("slice", f(5, 6), i(-3), i(2**40))
    add("slice", f(5, 0), i(3), i(-9), i(1), i(-1))
    at = np.array([[0, -1], [2, 3]])
    add("gather", f(5, 6), i(1, -1), axis=1)
    add("gather", f(5, 6), scalar(2, np.int64))
    add("gather_elements", f(5, 6), at, axis=1)
    add("gather_nd", f(5, 6, 3), at)
    add("gather_nd", f(2, 6, 3), np.array([[1], [2]]), batch_dims=1)
    for join in ("none", "add", "mul", "max", "min"):
        add("scatter_elements", f(5, 6), at, f(2, 2), axis=1, reduction=join)
        add("scatter_nd", f(5, 6, 3), np.array([[0, -1], [2, 3], [0, 5]]), f(3, 3), reduction=join)
    add("one_hot", np.array([[0, -1], [5, 2]]), scalar(4, np.int64), f(2), axis=1)
    add("one_hot", f(3).round(), scalar(4), f(2))
    add("non_zero", integers(0, 2, 3, 4), data=True)
    add("compress", f(3, 4), np.array([True, False, True]), axis=0)
    add("compress", f(3, 4), np.array([True, False, True]))
    add("trilu", f(2, 4, 5), scalar(1, np.int64))
    add("trilu", f(4, 5), upper=False)
    add("eye_like", f(3, 4), k=1)
    add("eye_like", f(3, 4), k=-1, dtype=DType.i64)
    add("top_k", integers(0, 5, 4, 7).astype(np.float32), i(3))
    add("top_k", integers(0, 5, 4, 7), i(3), largest=False, axis=0)
    for name in words_of("sum mean max min prod l1 l2 log_sum log_sum_exp sum_square"):
        x = positive(3, 4, 5)
        add(f"reduce_{name}", x)
        add(f"reduce_{name}", x, i(1, -1))
        add(f"reduce_{name}", x, i(1), keepdims=False)
        add(f"reduce_{name}", x, i(), noop_with_empty_axes=True)
        add(f"reduce_{name}", integers(1, 5, 3, 4, dtype=np.int32), i(1))
        if name not in ("mean", "log_sum", "log_sum_exp"):
            add(f"reduce_{name}", f(2, 0, 3), i(1), peer="ref")
    for name in ("arg_max", "arg_min"):
        add(name, integers(0, 3, 4, 5), axis=1)
        add(name, f(4, 5).round(), axis=-1, keepdims=False, select_last_index=True)
    runs: list[dict[str, Any]] = [{}, {"exclusive": True}, {"reverse": True},
                                  {"exclusive": True, "reverse": True}]  # fmt: skip
    for flags in runs:
        add("cum_sum", f(3, 4), scalar(1, np.int64), **flags)
        add("cum_prod", f(3, 4), scalar(0, np.int64), peer="ref", **flags)
    for mode in ("nearest", "linear", "cubic"):
        for where in ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"):
            how: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": where}
            add("resize", f(1, 2, 5, 6), None, np.array([1, 1, 1.4, 0.5], np.float32), **how)
            add("resize", f(1, 2, 5, 6), None, None, i(1, 2, 10, 3), **how)
    add(
        "resize",
        f(1, 1, 2, 4),
        None,
        np.array([1, 1, 0.6, 0.6], np.float32),
        mode="linear",
        coordinate_transformation_mode="align_corners",
        peer="ref",
    )  # ort rounds what it scales by
    for rounding in ("round_prefer_ceil", "floor", "ceil"):
        add("resize", f(1, 2, 5, 6), None, None, i(1, 2, 10, 3), nearest_mode=rounding)
    for policy in ("not_larger", "not_smaller"):
        add("resize", f(1, 2, 5, 6), None, None, i(7, 7), over=(2, 3),
            keep_aspect_ratio_policy=policy)  # fmt: skip
    for mode in ("linear", "cubic"):
        add("resize", f(1, 2, 5, 6), None, np.array([1, 1, 0.6, 0.6], np.float32), mode=mode,
            antialias=True, peer="ref")  # fmt: skip
    add("resize", f(1, 2, 5, 6), None, None, i(1, 2, 4, 9), mode="cubic", exclude_outside=True)
    roi = np.array([0, 0, 0.2, 0.3, 1, 1, 0.8, 1.4], np.float32)
    add("resize", f(1, 2, 5, 6), roi, None, i(1, 2, 4, 7), mode="linear",
        coordinate_transformation_mode="tf_crop_and_resize", extrapolation_value=10.0)  # fmt: skip
    add("upsample", f(1, 2, 3, 4), np.array([1, 1, 2, 3], np.float32), peer="")  # opset 9 only


def _quantized() -> None:
    for dtype in (np.uint8, np.int8, np.uint16, np.int16):
        scales = positive(4)
        add("quantize_linear", f(3, 4, scale=9), scalar(0.1), scalar(3, dtype), tol=0)
        add("quantize_linear", f(3, 4, scale=9), scales, words(dtype, 4), axis=-1, tol=0)
        add("quantize_linear", f(4, 5, scale=9), positive(4, 3), words(dtype, 4, 3),
            block_size=2, tol=0)  # fmt: skip
        add("dequantize_linear", words(dtype, 3, 4), scales, words(dtype, 4))
        add("dequantize_linear", words(dtype, 4, 5), positive(4, 3), words(dtype, 4, 3),
            block_size=2)  # fmt: skip
    for dtype in (ml_dtypes.int4, ml_dtypes.uint4):
        add("quantize_linear", f(3, 4, scale=9), scalar(0.1), scalar(3, dtype), peer="ref", tol=0)
        add("dequantize_linear", words(dtype, 3, 4), scalar(0.5), scalar(3, dtype), peer="ref")
    add("quantize_linear", f(3, 4), scalar(0.1), tol=0)
    add("quantize_linear", f(3, 4), scalar(0.1), output_dtype=DType.i16, peer="ref", tol=0)
    add("dequantize_linear", words(np.int32, 3, 4), positive(4))
    add("dynamic_quantize_linear", f(3, 4), tol=1e-6)
    add("dynamic_quantize_linear", np.zeros((2, 2), np.float32))
    for dtype in (np.int8, np.uint8):
        zeros = np.full(6, 0 if dtype is np.int8 else 7, dtype)
        add("qlinear_conv", words(np.uint8, 1, 4, 7, 7), scalar(0.1), scalar(120, np.uint8),
            words(dtype, 6, 2, 3, 3), positive(6) * 0.01, zeros, scalar(1), scalar(99, np.uint8),
            integers(-999, 999, 6, dtype=np.int32), group=2, pads=(1, 1, 1, 1), tol=0)  # fmt: skip
        add("qlinear_mat_mul", words(np.uint8, 5, 9), scalar(0.1), scalar(120, np.uint8),
            words(dtype, 9, 4), positive(4) * 0.01, np.zeros(4, dtype), scalar(1),
            scalar(99, np.uint8), tol=0)  # fmt: skip
        add("mat_mul_integer", words(np.uint8, 2, 5, 9), words(dtype, 9, 4), scalar(5, np.uint8),
            words(dtype, 4), tol=0)  # fmt: skip
    add("mat_mul_integer", words(np.uint8, 5, 9), words(np.int8, 9, 4), words(np.uint8, 5), None,
        words(np.int32, 4), peer="", tol=0)  # the bias is Taut's  # fmt: skip
    for symmetric in (True, False):
        for x in (
            f(2, 3, 7, scale=9),
            np.zeros((2, 4), np.float32),
            f(3, 20) + 9,
            f(5),
            np.array([[np.nan, 1], [np.inf, 1], [3e38, -3e38], [1e-40, 0]], np.float32),
        ):
            add("quantize_rows", x, peer="", symmetric=symmetric)
    rows = (words(np.uint8, 2, 5, 9), words(np.int8, 9, 4), positive(2, 5, 1), positive(4))
    add("scaled_mat_mul", *rows, peer="")
    add("scaled_mat_mul", *rows, words(np.uint8, 2, 5, 1), None, f(4), f(2, 5, 4), peer="",
        activation="gelu")  # fmt: skip
    add("scaled_mat_mul", *rows[:2], scalar(0.5), positive(4), scalar(9, np.uint8),
        words(np.int8, 4), peer="", activation="clip", params=(-1.0, 60.0))  # fmt: skip
    add("scaled_mat_mul", words(np.uint8, 2, 5, 9), words(np.uint8, 2, 9, 4), positive(5),
        positive(2, 1, 4), scalar(128, np.uint8), words(np.uint8, 2, 1, 4), peer="")  # fmt: skip
    for b, h, length, g, t, d, e in ((2, 4, 3, 2, 5, 8, 6), (1, 1, 150, 1, 150, 3, 1)):
        bytes_of = [words(np.uint8, b, *s) for s in ((length, h, d), (t, g, d), (t, g, e))]
        scales = [positive(b, *s, 1) for s in ((length, h), (t, g), (t, g))]
        add("scaled_attention", *bytes_of, *(x * np.float32(0.02) for x in scales), peer="")
        add("scaled_attention", *bytes_of, *scales, f(b, 1, 1, t), peer="", scale=1e-4,
            is_causal=True)  # fmt: skip
    add("conv_integer", words(np.uint8, 1, 4, 9, 9), words(np.uint8, 6, 2, 3, 3),
        scalar(9, np.uint8), scalar(3, np.uint8), group=2, pads=(1, 1, 0, 1), strides=(2, 1),
        tol=0)  # fmt: skip
    add("conv_integer", words(np.uint8, 1, 2, 5), words(np.int8, 3, 2, 2), scalar(9, np.uint8),
        words(np.int8, 3), words(np.int32, 3), peer="", tol=0)  # fmt: skip
    acc, m = words(np.int32, 1, 3, 4, 5), words(np.int32, 3) & np.int32(0x7FFFFFFF)
    other = words(np.uint8, 1, 3, 4, 5)
    for rounding in ("half_even", "half_up", "floor"):
        add("requantize", acc, m, other, scalar(-(2**30), np.int32), peer="", dtype=DType.i8,
            shift=40, zero_points=(0, 128), zero_point=-3, lo=-3, hi=99,
            rounding=rounding)  # fmt: skip
    add("requantize", acc, m, peer="", shift=44, axis=-3)
    add("lookup", words(np.int8, 3, 5), words(np.uint8, 256), peer="")
    add("lookup", integers(-99, 99, 9, dtype=np.int16), words(np.uint8, 50), peer="", low=-20)
    add("mul_integer", words(np.uint8, 3, 1), words(np.int8, 4), peer="", a_zero_point=9,
        b_zero_point=-5)  # fmt: skip
    add("sum_pool_integer", words(np.uint8, 1, 2, 5, 6), peer="", kernel_shape=(3, 2),
        strides=(2, 1), pads=(1, 0, 1, 1), x_zero_point=7)  # fmt: skip
    add("sum_pool_integer", words(np.int8, 1, 2, 5, 6), peer="")


def _sampled() -> None:
    grid = f(2, 4, 3, 2)
    for mode in ("linear", "nearest", "cubic"):
        for padding in ("zeros", "border", "reflection"):
            add("grid_sample", f(2, 3, 5, 4), grid, mode=mode, padding_mode=padding,
                align_corners=padding == "border", tol=1e-4)  # fmt: skip
    add("grid_sample", f(1, 2, 3, 3, 4), f(1, 2, 2, 3, 3), tol=1e-4)
    boxes, scores = np.sort(f(2, 9, 4)), positive(2, 3, 9)
    limits = (np.array([4]), np.float32([0.3]), np.float32([0.4]))
    add("non_max_suppression", boxes, scores, *limits, data=True)
    add("non_max_suppression", boxes, scores, limits[0], data=True)
    add("non_max_suppression", positive(1, 7, 4), positive(1, 2, 7), *limits, data=True,
        center_point_box=True)  # fmt: skip
    add("non_max_suppression", boxes, scores, data=True)
    add("col2im", f(1, 12, 6), i(4, 5), i(2, 2), pads=(0, 1, 0, 0), strides=(2, 2),
        dilations=(1, 1))  # fmt: skip
    add("col2im", f(2, 6, 1), i(3, 4), i(3, 2), peer="ref", dilations=(1, 3))
    add("col2im", f(2, 6, 4), i(5), i(2))
    for parts, how in ((1, {}), (2, {}), (1, {"onesided": True}), (2, {"inverse": True})):
        add("dft", f(2, 6, 3, parts), None, np.array(1), tol=1e-5, **how)
        add("dft", f(2, 5, parts), np.array(7), tol=1e-5, **how)
    add("dft", f(2, 4, 2), np.array(6), peer="ref", inverse=True, onesided=True)
    repeated = integers(0, 4, 3, 4)
    for ordered in (True, False):
        add("unique", repeated, data=True, sorted=ordered)
        add("unique", repeated[[0, 1, 0]], data=True, sorted=ordered, axis=0)
    add("reverse_sequence", f(4, 3, 2), i(1, 4, 0))
    add("reverse_sequence", f(3, 4), i(1, 4, 2), batch_axis=0, time_axis=1)
    add("det", f(3, 4, 4), tol=1e-4)
    add("bit_cast", f(2, 3), peer="", to=DType.i32)
    add("bit_cast", words(np.uint8, 4), peer="", to=DType.bool)


def _bodies() -> None:
    b = Builder()
    x, y = b.input("x", "f32", ("n", 4)), b.input("y", "f32", (4,))
    e = b.exp(b.mul(x, y))
    body = b.outputs(share=b.div(e, b.reduce_sum(e, np.array([1]))), total=b.reduce_sum(e))
    add("fusion", f(3, 4), f(4), peer="", body=body)
    b = Builder()
    x, y = b.input("x", "f32", ("n", 4)), b.input("y", "f32", (4,))
    other = b.outputs(share=b.mul(x, y), total=b.reduce_max(x))
    for cond in (True, False):
        add("if", np.array(cond), f(3, 4), f(4), peer="", then_branch=body, else_branch=other)
    b = Builder()
    b.input("i", "i64")
    cond = b.input("cond", "bool")
    v, y = b.input("v", "f32", (None, 4)), b.input("y", "f32", (4,))
    body = b.outputs(cond=b.identity(cond), v=b.mul(v, y), seen=b.reduce_sum(v, np.array([0])))
    trip = np.array(3, np.int64)
    add("loop", trip, None, f(2, 4), f(4), peer="", carried=1, body=body)
    add("loop", np.array([2]), np.array(True), f(2, 4), f(4), peer="", carried=1, body=body)
    b = Builder()
    b.input("i", "i64")
    b.input("cond", "bool")
    v = b.input("v", "f32", (None,))
    goes_on = b.less(b.squeeze(b.shape(v)), np.int64(5))
    body = b.outputs(cond=goes_on, v=b.concat(v, v, axis=0))
    add("loop", np.array(9), np.array(True), f(2), peer="", data=True, carried=1, body=body)
    b = Builder()
    state, x, y = b.input("h", "f32", (4,)), b.input("x", "f32", (4,)), b.input("y", "f32", (4,))
    made = b.add(b.mul(state, y), x)
    body = b.outputs(h=made, y=made, s=b.reduce_sum(x))
    add("scan", f(4), f(3, 4), f(4), peer="", states=1, num_scan_inputs=1, body=body)
    add("scan", f(4), f(4, 3), f(4), peer="", states=1, num_scan_inputs=1, body=body,
        scan_input_axes=(-1,), scan_input_directions=(1,), scan_output_axes=(1, 0),
        scan_output_directions=(0, 1))  # fmt: skip


def _recurrent() -> None:
    t, n, i_, h = 4, 3, 5, 6

    def layer(name: str, ways: int, *rest: Array | None, layout: int = 0, **at: Any) -> None:
        rows = {"rnn": 1, "gru": 3, "lstm": 4}[name] * h
        x = f(n, t, i_) if layout else f(t, n, i_)
        at = {"outputs": 3 if name == "lstm" else 2, "hidden_size": h, "layout": layout, **at}
        add(name, x, f(ways, rows, i_), f(ways, rows, h), *rest, **at)

    def b(rows: int, ways: int = 1) -> Array:
        return f(ways, 2 * rows * h)

    lengths = np.array([4, 1, 3], np.int32)
    for name, rows in (("rnn", 1), ("gru", 3), ("lstm", 4)):
        start = [f(1, n, h)] * (1 + (name == "lstm"))
        layer(name, 1, outputs=1)
        layer(name, 1, b(rows), None, *start, direction="reverse", clip=0.5)
        layer(name, 2, b(rows, 2), lengths, direction="bidirectional")
        layer(name, 1, b(rows), np.array([0, 4, 2], np.int32), *start)
        layer(name, 1, b(rows), layout=1, peer="ref", hidden_size=None)
        layer(name, 2, b(rows, 2), lengths, *[f(n, 2, h)] * len(start), layout=1, peer="",
              direction="bidirectional")  # no peer has both  # fmt: skip
    for name in words_of("Relu Tanh Sigmoid Softsign Softplus LeakyRelu Elu HardSigmoid"):
        layer("rnn", 1, b(1), activations=(name,))
    layer("rnn", 1, b(1), activations=("ThresholdedRelu",), peer="")  # ort's default is 0, not 1
    for name in ("Affine", "ScaledTanh", "Elu", "LeakyRelu", "ThresholdedRelu"):
        layer("rnn", 1, b(1), activations=(name,), activation_alpha=(0.7,), activation_beta=(0.2,))
    layer("gru", 1, b(3), linear_before_reset=True, clip=0.7)
    layer("lstm", 1, b(4), None, f(1, n, h), f(1, n, h), f(1, 3 * h), clip=0.4)
    layer("lstm", 1, b(4), None, f(1, n, h), f(1, n, h), f(1, 3 * h), input_forget=True)
    layer("lstm", 1, activations=("HardSigmoid", "ScaledTanh", "Affine"),
          activation_alpha=(0.3, 1.5, 0.5), activation_beta=(0.4, 0.5, 0.1))  # fmt: skip


def _training() -> None:
    scores, labels = f(4, 5, 3), integers(0, 5, 4, 3)
    for reduction in ("none", "sum", "mean"):
        for name in ("negative_log_likelihood_loss", "softmax_cross_entropy_loss"):
            add(name, scores, labels, reduction=reduction)
            add(name, scores, labels, positive(5), reduction=reduction, ignore_index=2)
            add(name, scores[..., 0], labels[:, 0], reduction=reduction)
    ignored = np.where(labels == 2, -1, labels)
    add("softmax_cross_entropy_loss", scores, ignored, positive(5), outputs=2, ignore_index=-1)
    layouts: list[dict[str, Any]] = [
        {}, {"strides": (2, 1), "pads": (1, 1, 0, 1)}, {"dilations": (2, 2)},
        {"auto_pad": "SAME_UPPER", "strides": (2, 2)},
    ]  # fmt: skip
    for at in layouts:
        x = f(2, 4, 9, 11)
        for group in (1, 2):
            dy = op_class("conv")(group=group, **at).reference(x, f(6, 4 // group, 3, 2))
            add("conv_weight_gradient", x, dy, kernel_shape=(3, 2), group=group, peer="",
                tol=1e-4, **at)  # fmt: skip
        for mode in ({}, {"ceil_mode": True}):
            kind: dict[str, Any] = {"kernel_shape": (3, 2), **at, **mode}
            dy = op_class("max_pool")(**kind).reference(x)
            add("max_pool_gradient", x, dy, peer="", **kind)
            for form in ({}, {"count_include_pad": True}, {"total": True}):
                add("average_pool_gradient", dy, i(*x.shape), peer="", **kind, **form)
    for mode in ("nearest", "linear", "cubic"):
        dy, sizes = f(1, 2, 10, 3), i(1, 2, 10, 3)
        add("resize_gradient", dy, i(1, 2, 5, 6), None, None, sizes, mode=mode, peer="")
        add("grid_sample_gradient", f(2, 3, 3, 2), i(2, 3, 5, 4), f(2, 3, 2, 2), mode=mode, peer="")


for _fill in (_elementwise, _windows, _linear, _attention, _shapes, _indices, _quantized, _bodies,
              _sampled, _recurrent, _training):  # fmt: skip
    _fill()
