"""PyTorch's own functions for models of one node: a table from ONNX's words to torch's.

Each row takes the operands as tensors (None where left out) and the node's attributes with ONNX's
defaults filled in, and returns the result; `Refused` where torch has no such form.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from onnx import ModelProto, helper, numpy_helper

from taut.ir.op import Array
from taut.ir.standard import schema_defaults

from .refused import Refused

T = Any  # torch.Tensor or None
Row = Callable[..., Any]
ROWS: dict[str, Row] = {}


def row(*ops: str) -> Callable[[Row], Row]:
    def add(f: Row) -> Row:
        ROWS.update(dict.fromkeys(ops, f))
        return f

    return add


def run(model: ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
    import torch

    graph = model.graph
    if len(graph.node) != 1 or graph.node[0].op_type not in ROWS:
        raise Refused("torch's table has no such model")
    node = graph.node[0]
    if len(node.output) != 1:
        raise Refused("torch's table gives one result")
    version = next(o.version for o in model.opset_import if not o.domain)
    given = {**schema_defaults(node.op_type, version), "op": node.op_type}
    for a in node.attribute:
        value = helper.get_attribute_value(a)
        given[a.name] = value.decode() if isinstance(value, bytes) else value
    arrays = {t.name: numpy_helper.to_array(t) for t in graph.initializer} | dict(feeds)
    if any(a.dtype.name not in _TYPES for a in arrays.values()):
        raise Refused("an element type that torch's table leaves out")
    operands = [torch.from_numpy(np.array(arrays[i])) if i else None for i in node.input]
    with torch.no_grad():
        try:
            made = ROWS[node.op_type](given, *operands)
        except (RuntimeError, ValueError, IndexError, TypeError, NotImplementedError) as error:
            raise Refused(f"{type(error).__name__}: {error}"[:200]) from error
    return [made.numpy()]


_TYPES = ("float32", "float64", "int64", "int32", "int8", "uint8", "int16", "bool")


def _f() -> Any:
    import torch

    return torch.nn.functional


def _need(holds: bool, what: str) -> None:
    if not holds:
        raise Refused(f"torch has no {what}")


# ---- windows -------------------------------------------------------------------------------------


def _layout(g: dict[str, Any], n: int) -> tuple[list[int], list[int], list[int]]:
    """(strides, symmetric pads, dilations)"""
    _need(g.get("auto_pad") in (None, "", "NOTSET", "VALID"), "automatic pads")
    pads = list(g.get("pads") or [0] * 2 * n)
    pads = [0] * 2 * n if g.get("auto_pad") == "VALID" else pads
    _need(pads[:n] == pads[n:], "pads that differ before and after")
    return list(g.get("strides") or [1] * n), pads[:n], list(g.get("dilations") or [1] * n)


@row("Conv")
def conv(g: dict[str, Any], x: T, w: T, b: T = None) -> T:
    n = x.dim() - 2
    s, p, d = _layout(g, n)
    f = (_f().conv1d, _f().conv2d, _f().conv3d)[n - 1]
    return f(x, w, b, s, p, d, g["group"])


@row("ConvTranspose")
def conv_transpose(g: dict[str, Any], x: T, w: T, b: T = None) -> T:
    n = x.dim() - 2
    _need(not g.get("output_shape"), "stated output shape")
    s, p, d = _layout(g, n)
    f = (_f().conv_transpose1d, _f().conv_transpose2d, _f().conv_transpose3d)[n - 1]
    return f(x, w, b, s, p, list(g.get("output_padding") or [0] * n), g["group"], d)


@row("MaxPool")
def max_pool(g: dict[str, Any], x: T) -> T:
    n = x.dim() - 2
    s, p, d = _layout(g, n)
    f = (_f().max_pool1d, _f().max_pool2d, _f().max_pool3d)[n - 1]
    return f(x, list(g["kernel_shape"]), s, p, d, bool(g.get("ceil_mode")))


@row("AveragePool")
def average_pool(g: dict[str, Any], x: T) -> T:
    n = x.dim() - 2
    s, p, d = _layout(g, n)
    _need(d == [1] * n, "dilated average")
    f = (_f().avg_pool1d, _f().avg_pool2d, _f().avg_pool3d)[n - 1]
    return f(x, list(g["kernel_shape"]), s, p, bool(g.get("ceil_mode")),
             bool(g.get("count_include_pad")))  # fmt: skip


@row("Resize")
def resize(g: dict[str, Any], x: T, roi: T = None, scales: T = None, sizes: T = None) -> T:
    where = g["coordinate_transformation_mode"]
    mode, n = g["mode"], x.dim() - 2
    _need(n >= 1 and not g.get("axes") and not g.get("antialias"), "such resize")
    _need(not g.get("exclude_outside"), "exclude_outside")
    by = [float(v) for v in scales] if scales is not None and scales.numel() else None
    to = [int(v) for v in sizes] if sizes is not None else None
    outer = by[:2] == [1.0, 1.0] if by else to is not None and to[:2] == list(x.shape[:2])
    _need(outer, "resize of the batch")
    assert to is not None or by is not None
    size = to[2:] if to else [int(np.floor(a * s)) for a, s in zip(x.shape[2:], (by or [])[2:])]
    kw: dict[str, Any] = {"size": size} if by is None else {"scale_factor": by[2:]}
    if mode == "nearest":
        _need(where == "asymmetric" and g["nearest_mode"] == "floor", "such nearest")
        return _f().interpolate(x, mode="nearest", **kw)
    _need(where in ("pytorch_half_pixel", "align_corners", "half_pixel"), "such coordinates")
    _need(where != "half_pixel" or min(size) > 1, "half_pixel of one")
    if mode == "linear":
        name = ("linear", "bilinear", "trilinear")[n - 1]
    else:
        _need(n == 2 and np.float32(g["cubic_coeff_a"]) == np.float32(-0.75), "such cubic")
        name = "bicubic"
    return _f().interpolate(x, mode=name, align_corners=where == "align_corners",
                            **({"size": size} if where == "align_corners" else kw),
                            **({} if by is None or where == "align_corners"
                               else {"recompute_scale_factor": False}))  # fmt: skip


@row("GridSample")
def grid_sample(g: dict[str, Any], x: T, grid: T) -> T:
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(g["mode"], g["mode"])
    return _f().grid_sample(x, grid.to(x.dtype), mode, g["padding_mode"],
                            bool(g["align_corners"]))  # fmt: skip


# ---- normalizations, products, losses ------------------------------------------------------------


@row("Softmax", "LogSoftmax")
def softmax(g: dict[str, Any], x: T) -> T:
    _need(g["axis"] in (-1, x.dim() - 1), "flattened softmax of old opsets")
    return (_f().log_softmax if g["op"] == "LogSoftmax" else _f().softmax)(x, g["axis"])


@row("BatchNormalization")
def batch_norm(g: dict[str, Any], x: T, s: T, b: T, m: T, v: T) -> T:
    _need(not g.get("training_mode"), "training here")
    return _f().batch_norm(x, m, v, s, b, False, 0.0, g["epsilon"])


@row("InstanceNormalization")
def instance_norm(g: dict[str, Any], x: T, s: T, b: T) -> T:
    return _f().instance_norm(x, None, None, s, b, True, 0.0, g["epsilon"])


@row("GroupNormalization")
def group_norm(g: dict[str, Any], x: T, s: T, b: T) -> T:
    _need(s.numel() == x.shape[1], "one factor a group")
    return _f().group_norm(x, g["num_groups"], s, b, g["epsilon"])


@row("LayerNormalization")
def layer_norm(g: dict[str, Any], x: T, s: T, b: T = None) -> T:
    axis = g["axis"] % x.dim()
    _need(s.shape == x.shape[axis:], "broadcast factors")
    return _f().layer_norm(x, x.shape[axis:], s, b, g["epsilon"])


@row("RMSNormalization")
def rms_norm(g: dict[str, Any], x: T, s: T) -> T:
    axis = g["axis"] % x.dim()
    _need(s.shape == x.shape[axis:] and s.dtype == x.dtype, "broadcast factors")
    return _f().rms_norm(x, x.shape[axis:], s, g["epsilon"])


@row("LRN")
def lrn(g: dict[str, Any], x: T) -> T:
    _need(g["size"] % 2 == 1, "even windows as ONNX has them")
    return _f().local_response_norm(x, g["size"], g["alpha"], g["beta"], g["bias"])


@row("Gemm")
def gemm(g: dict[str, Any], a: T, b: T, c: T = None) -> T:
    a, b = a.T if g["transA"] else a, b.T if g["transB"] else b
    made = g["alpha"] * (a @ b)
    return (made if c is None else made + g["beta"] * c).to(a.dtype)


@row("MatMul")
def mat_mul(g: dict[str, Any], a: T, b: T) -> T:
    return a @ b


@row("NegativeLogLikelihoodLoss")
def nll(g: dict[str, Any], x: T, labels: T, weight: T = None) -> T:
    ignored = -100 if g.get("ignore_index") is None else g["ignore_index"]
    return _f().nll_loss(x, labels.long(), weight, ignore_index=ignored, reduction=g["reduction"])


@row("SoftmaxCrossEntropyLoss")
def cross_entropy(g: dict[str, Any], x: T, labels: T, weight: T = None) -> T:
    ignored = -100 if g.get("ignore_index") is None else g["ignore_index"]
    return _f().cross_entropy(x, labels.long(), weight, ignore_index=ignored,
                              reduction=g["reduction"])  # fmt: skip


@row("Attention")
def attention(g: dict[str, Any], q: T, k: T, v: T, mask: T = None, *rest: T) -> T:
    _need(q.dim() == 4 and not any(r is not None for r in rest), "such attention")
    _need(not g.get("softcap") and not g.get("qk_matmul_output_mode"), "such attention")
    _need(not (g.get("is_causal") and mask is not None), "a mask that is causal too")
    _need("left_window_size" not in g or g["left_window_size"] in (None, -1), "windows")
    _need("right_window_size" not in g or g["right_window_size"] in (None, -1), "windows")
    return _f().scaled_dot_product_attention(
        q, k, v, mask, is_causal=bool(g.get("is_causal")), scale=g.get("scale"),
        enable_gqa=q.shape[1] != k.shape[1],
    )  # fmt: skip


# ---- element by element --------------------------------------------------------------------------


def _unary(name: str, *attributes: str) -> Row:
    def call(g: dict[str, Any], x: T) -> T:
        import torch

        _need(x.is_floating_point() or not attributes, "integers here")
        f = getattr(torch, name, None) or getattr(torch.nn.functional, name)
        return f(x, *(g[a] for a in attributes))

    return call


def _binary(name: str) -> Row:
    def call(g: dict[str, Any], a: T, b: T) -> T:
        import torch

        _need(a.dtype == b.dtype, "mixed types")
        return getattr(torch, name)(a, b)

    return call


_UNARY = {
    "Relu": "relu", "Sigmoid": "sigmoid", "Tanh": "tanh", "Selu": "selu", "Softsign": "softsign",
    "HardSwish": "hardswish", "Mish": "mish", "Erf": "erf", "Exp": "exp", "Abs": "abs",
    "Neg": "neg", "Floor": "floor", "Ceil": "ceil", "Round": "round", "Sign": "sign",
    "Sin": "sin", "Cos": "cos", "Tan": "tan", "Sinh": "sinh", "Cosh": "cosh", "Asin": "asin",
    "Acos": "acos", "Atan": "atan", "Asinh": "asinh", "Acosh": "acosh", "Atanh": "atanh",
    "Log": "log", "Sqrt": "sqrt", "Reciprocal": "reciprocal", "IsNaN": "isnan", "Det": "det",
}  # fmt: skip
_BINARY = {
    "Add": "add", "Sub": "sub", "Mul": "mul", "Less": "lt", "Greater": "gt", "Equal": "eq",
    "LessOrEqual": "le", "GreaterOrEqual": "ge", "And": "logical_and", "Or": "logical_or",
    "Xor": "logical_xor", "BitwiseAnd": "bitwise_and", "BitwiseOr": "bitwise_or",
    "BitwiseXor": "bitwise_xor",
}  # fmt: skip
ROWS.update({op: _unary(name) for op, name in _UNARY.items()})
ROWS.update({op: _binary(name) for op, name in _BINARY.items()})
ROWS.update({
    "Elu": _unary("elu", "alpha"), "Celu": _unary("celu", "alpha"),
    "LeakyRelu": _unary("leaky_relu", "alpha"),
})  # fmt: skip


@row("Gelu")
def gelu(g: dict[str, Any], x: T) -> T:
    return _f().gelu(x, approximate=g["approximate"])


@row("Div")
def div(g: dict[str, Any], a: T, b: T) -> T:
    import torch

    _need(a.is_floating_point() or bool((b != 0).all()), "division by zero")
    return torch.div(a, b, rounding_mode=None if a.is_floating_point() else "trunc")


@row("PRelu")
def prelu(g: dict[str, Any], x: T, slope: T) -> T:
    import torch

    return torch.where(x < 0, x * slope, x)
