"""Bad attributes and operands are refused by inference, with words that say what is wrong."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from taut.ir import (
    Abstract,
    DType,
    FeedError,
    LimitError,
    TensorType,
    UnsupportedError,
    VerifyError,
    op_class,
)
from taut.ir.graph import infer

_TYPE = re.compile(r"(\w+)\[(.*)\]\Z")


def operand(x: Any) -> Abstract | None:
    """An operand from a type's text ("f32[2,n,?]"), an array or None."""
    if x is None:
        return None
    if isinstance(x, np.ndarray):
        return Abstract(TensorType.of(x), x)
    match = _TYPE.match(x)
    assert match
    if match[2] == "*":
        return Abstract(TensorType(DType(match[1]), None))
    dims = [d for d in match[2].split(",") if d]
    shape = tuple(None if d == "?" else int(d) if d.isdigit() else d for d in dims)
    return Abstract(TensorType(DType(match[1]), shape))


def i(*values: int) -> np.ndarray[Any, Any]:
    return np.array(values, np.int64)


def s(value: float, dtype: Any = np.float32) -> np.ndarray[Any, Any]:
    return np.array(value, dtype)


X, W = "f32[1,4,9,9]", "f32[6,4,3,3]"
XT = ["f32[4,3,5]", "f32[1,24,5]", "f32[1,24,6]"]  # an LSTM's first operands, and others'
GRU = ["f32[4,3,5]", "f32[1,18,5]", "f32[1,18,6]"]
KEYS = ["u8[2,5,2,8]", "u8[2,5,2,6]"]  # of attention on bytes
ROWS = ["u8[2,3,4,8]", *KEYS]
SCALES = ["f32[2,3,4,1]", "f32[2,5,2,1]", "f32[2,5,2,1]"]
RNN = ["f32[4,3,5]", "f32[1,6,5]", "f32[1,6,6]"]
CASES: list[tuple[str, dict[str, Any], list[Any], str]] = [
    ("conv", {"group": 0}, [X, W], "group is 0"),
    ("conv", {"group": -1}, [X, W], "group is -1"),
    ("conv", {"group": 4}, [X, "f32[6,1,3,3]"], "do not divide into 4 groups"),
    ("conv", {}, [X, "f32[6,3,3,3]"], "4 channels where the weight"),
    ("conv", {"pads": (2**40, 0, 0, 0)}, [X, W], "pads .* should lie within"),
    ("conv", {"pads": (-1, 0, 0, 0)}, [X, W], "pads .* should lie within"),
    ("conv", {"pads": (1, 1)}, [X, W], "pads .* should have 4 entries"),
    ("conv", {"strides": (0, 1)}, [X, W], "strides .* should lie within"),
    ("conv", {"dilations": (1,)}, [X, W], "dilations .* should have 2 entries"),
    ("conv", {"dilations": (5, 5)}, [X, W], "a window of 11 does not fit"),
    ("conv", {"auto_pad": "SAME"}, [X, W], "auto_pad 'SAME' is none of"),
    ("conv", {"auto_pad": "VALID", "pads": (1, 1, 1, 1)}, [X, W], "contradict auto_pad"),
    ("conv", {"kernel_shape": (5, 5)}, [X, W], "is not that of the weight"),
    ("conv", {}, [X, W, "f32[5]"], "the bias is .* a vector of 6"),
    ("conv", {}, [X, "f16[6,4,3,3]"], "differ in element type"),
    ("conv", {}, ["i32[1,4,9,9]", "i32[6,4,3,3]"], "not a float type"),
    ("conv", {}, ["f32[4,9]", W], "no batch, channel and spatial axes"),
    ("conv", {}, ["f32[1,4,9]", W], "a kernel of rank 2 on 1 spatial axes"),
    ("conv", {}, [X], "operand weight is missing"),
    ("conv", {"pads": (2**40,) * 4}, ["f32[*]", W], "pads .* should lie within"),
    ("fused_conv", {"activation": "exec"}, [X, W], "activation 'exec' is no op"),
    ("fused_conv", {"activation": "softmax"}, [X, W], "does not take"),
    ("fused_conv", {"activation": "clip"}, [X, W], "wants params"),
    ("fused_conv", {"activation": "relu", "params": (1.0,)}, [X, W], "does not take"),
    ("fused_conv", {}, [X, W, None, "f32[1,6,9,9]"], "dimensions 7 and 9"),
    ("fused_conv", {"activation": "prelu"}, [X, W], "a slope goes with the activation prelu"),
    ("fused_conv", {}, [X, W, None, None, "f32[6]"], "a slope goes with the activation prelu"),
    ("fused_conv", {"activation": "prelu"}, [X, W, None, None, "f32[5]"], "the slope is"),
    ("fused_conv", {"activation": "prelu", "params": (1.0,)}, [X, W, None, None, "f32[6]"],
     "takes no params"),
    ("fused_conv_transpose", {"activation": "exec"}, [X, "f32[4,2,3,3]"], "is no op"),
    ("conv_transpose", {"output_padding": (1, 0)}, [X, "f32[4,2,3,3]"], "not below stride"),
    ("conv_transpose", {"group": 3}, [X, "f32[4,2,3,3]"], "do not divide"),
    ("conv_transpose", {"pads": (9, 9, 9, 9)}, [X, "f32[4,2,3,3]"], "leave nothing"),
    ("max_pool", {"kernel_shape": (3, 3), "pads": (3, 0, 0, 0)}, [X], "not smaller than"),
    ("max_pool", {"kernel_shape": (3,)}, [X], "a kernel of rank 1 on 2"),
    ("max_pool", {"kernel_shape": (0, 1)}, [X], "kernel .* should lie within"),
    ("max_pool", {"kernel_shape": (20, 20)}, [X], "does not fit into 9"),
    ("lp_pool", {"kernel_shape": (2, 2), "p": 0}, [X], "p is 0"),
    ("add", {}, ["f32[2]", "f32[3]"], "2 and 3 do not broadcast"),
    ("add", {}, ["f32[2]", "i32[2]"], "differ in element type"),
    ("exp", {}, ["i32[2]"], "not a float type"),
    ("and", {}, ["f32[2]", "f32[2]"], "not bool"),
    ("bit_shift", {"direction": "UP"}, ["u8[2]", "u8[2]"], "direction 'UP' is none of"),
    ("softmax", {"axis": 2}, ["f32[2,3]"], "axis 2 is out of range for rank 2"),
    ("clip", {}, ["f32[2]", "f32[2]"], "no scalar"),
    ("prelu", {}, ["f32[2]", "f32[3,2]"], "does not broadcast to"),
    ("mat_mul", {}, ["f32[2,3]", "f32[4,5]"], "inner dimensions 3 and 4"),
    ("mat_mul", {}, ["f32[]", "f32[4,5]"], "without dimensions"),
    ("gemm", {"transA": True}, ["f32[2,3]", "f32[3,5]"], "inner dimensions 2 and 3"),
    ("gemm", {}, ["f32[2,3]", "f32[3,5]", "f32[4,1]"], "2 and 4 do not broadcast"),
    ("einsum", {"equation": "ij,jk->iz"}, ["f32[2,3]", "f32[3,4]"], "does not fit"),
    ("einsum", {"equation": "ij;os"}, ["f32[2,3]"], "cannot be read"),
    ("einsum", {"equation": "ij,jk"}, ["f32[2,3]"], "has 2 operands"),
    ("einsum", {"equation": "ij,jk"}, ["f32[2,3]", "f32[4,5]"], "3 and 4 do not agree"),
    ("batch_normalization", {}, [X, "f32[3]", "f32[4]", "f32[4]", "f32[4]"], "a vector of 4"),
    ("group_normalization", {"num_groups": 3}, [X, "f32[4]", "f32[4]"], "do not divide into 3"),
    ("group_normalization", {"num_groups": 0}, [X, "f32[4]", "f32[4]"], "0 groups"),
    ("lrn", {"size": 0}, [X], "size is 0"),
    ("reshape", {}, ["f32[2,3]", i(4, 2)], "do not divide into"),
    ("reshape", {}, ["f32[2,3]", i(4, -1)], "do not divide"),
    ("reshape", {}, ["f32[2,3]", i(-1, -1)], "ambiguous"),
    ("reshape", {}, ["f32[2,3]", i(-2)], "negative"),
    ("reshape", {}, ["f32[2,3]", i(1, 2, 0)], "which has none"),
    ("transpose", {"perm": (0, 0)}, ["f32[2,3]"], "does not permute"),
    ("squeeze", {}, ["f32[2,3]", i(0)], "has not size 1"),
    ("squeeze", {}, ["f32[1,1]", i(0, -2)], "name an axis twice"),
    ("unsqueeze", {}, ["f32[3]", i(5)], "out of range for rank 2"),
    ("expand", {}, ["f32[3]", i(-3)], "-3 do not broadcast"),
    ("tile", {}, ["f32[3]", i(-2)], "negative"),
    ("constant_of_shape", {}, [i(-2)], "negative"),
    ("constant_of_shape", {}, ["i64[100]"], "rank 100 has more than 64 axes"),
    ("constant_of_shape", {}, [i(2**62, 2)], "too large"),
    ("constant_of_shape", {"value": np.zeros(2)}, [i(2)], "has 2 elements"),
    ("range", {}, [s(0), s(1), s(0)], "delta is 0"),
    ("range", {}, [s(0), s(np.inf), s(1)], "not finite"),
    ("depth_to_space", {"blocksize": 3}, [X], "do not divide into blocks"),
    ("depth_to_space", {"blocksize": 0}, [X], "blocksize is 0"),
    ("concat", {"axis": 0}, ["f32[2,3]", "f32[2,4]"], "3 and 4 do not agree"),
    ("concat", {"axis": 0}, ["f32[2,3]", "f32[2]"], "ranks 2 and 1"),
    ("split", {}, ["f32[4]"], "num_outputs is None"),
    ("split", {}, ["f32[4]", i(3, 3)], "does not add up to 4"),
    ("split", {}, ["f32[4]", i(5, -1)], "negative"),
    ("split", {"num_outputs": 3}, ["f32[4]", i(2, 2)], "2 sizes for 3 results"),
    ("pad", {"mode": "mirror"}, ["f32[4]", i(1, 1)], "mode 'mirror' is none of"),
    ("pad", {}, ["f32[4]", i(1, 1, 1)], "3 pads for 1 axes"),
    ("pad", {}, ["f32[4]", i(-3, -3)], "remove more than 4"),
    ("pad", {"mode": "reflect"}, ["f32[0]", i(1, 1)], "nothing to repeat"),
    ("slice", {}, ["f32[4]", i(0), i(4), i(0), i(0)], "step is 0"),
    ("slice", {}, ["f32[4]", i(0), i(4, 4)], "does not have 1 elements"),
    ("gather", {"axis": 1}, ["f32[4]", "i64[2]"], "axis 1 is out of range"),
    ("gather", {}, ["f32[4]", "f32[2]"], "not an integer type"),
    ("gather_nd", {}, ["f32[4]", "i64[2,2]"], "too long"),
    ("scatter_elements", {"reduction": "xor"}, ["f32[4]", "i64[2]", "f32[2]"], "none of"),
    ("scatter_nd", {}, ["f32[4,3]", "i64[2,1]", "f32[2,2]"], "should be f32\\[2,3\\]"),
    ("top_k", {}, ["f32[4]", i(5)], "k is 5 on an axis of 4"),
    ("top_k", {}, ["f32[4]", i(1, 2)], "k is .*, which is no scalar"),
    ("trilu", {}, ["f32[4,4]", i(1, 2)], "k is .*, which is no scalar"),
    ("reduce_sum", {}, ["f32[4]", i(1)], "axes 1 is out of range"),
    ("arg_max", {}, ["f32[0]"], "has no elements"),
    ("resize", {}, [X, None, None, None], "either scales or sizes"),
    ("resize", {}, [X, None, np.ones(4, np.float32), i(1, 1, 1, 1)], "either scales or sizes"),
    ("resize", {}, [X, None, np.array([1, 1, 0, 1], np.float32)], "finite and positive"),
    ("resize", {}, [X, None, np.array([1, 1, np.nan, 1], np.float32)], "finite and positive"),
    ("resize", {}, [X, None, np.array([1, 1e38, 1, 1], np.float32)], "finite and positive"),
    ("resize", {}, [X, None, None, i(1, 4, 0, 9)], "size 0 is not positive"),
    ("resize", {"mode": "area"}, [X, None, None, i(1, 4, 2, 9)], "mode 'area'"),
    ("quantize_linear", {}, ["f32[4]", s(0.0)], "finite positive"),
    ("quantize_linear", {}, ["f32[4]", s(-1.0)], "finite positive"),
    ("quantize_linear", {}, ["f32[4]", s(np.nan)], "finite positive"),
    ("quantize_linear", {}, ["f32[4]", s(np.inf)], "finite positive"),
    ("quantize_linear", {}, ["f32[2,4]", "f32[3]"], "a vector of 4"),
    ("quantize_linear", {}, ["f32[2,4]", "f32[4]", "u8[3]"], "differ in shape"),
    ("quantize_linear", {"output_dtype": DType.f32}, ["f32[4]", s(1.0)], "cannot quantize to"),
    ("quantize_linear", {"block_size": -1}, ["f32[2,4]", "f32[2,2]"], "negative"),
    ("quantize_linear", {"block_size": 3}, ["f32[2,4]", "f32[2,3]"], "does not fit blocks"),
    ("dequantize_linear", {}, ["i8[4]", s(1.0), "u8[]"], "differ in type"),
    ("dequantize_linear", {}, ["f32[4]", s(1.0)], "not a quantized type"),
    ("qlinear_mat_mul", {}, ["u8[2,3]", s(1.0), s(0, np.uint8), "i8[3,4]", s(0.0),
                             s(0, np.int8), s(1.0), s(0, np.uint8)], "finite positive"),
    ("conv_integer", {}, ["i32[1,4,9]", "i8[6,4,3]"], "not an integer of 8 bits"),
    ("conv_integer", {}, ["u8[1,4,9]", "i8[6,4,3]", "i8[]"], "differs in element type"),
    ("conv_integer", {}, ["u8[1,4,9]", "i8[6,4,3]", None, "i8[5]"], "a vector of 6"),
    ("conv_integer", {}, ["u8[1,4,9]", "i8[6,4,3]", None, None, "i64[6]"], "not i32"),
    ("mat_mul_integer", {}, ["u8[2,3]", "i8[3,4]", None, "i8[3]"], "a vector of 4"),
    ("mat_mul_integer", {}, ["u8[2,3]", "i8[3,4]", None, None, "i32[3]"], "3"),
    ("quantize_rows", {}, ["f32[]"], "no rows"),
    ("quantize_rows", {}, ["f64[4]"], "not f32"),
    ("scaled_mat_mul", {}, ["u8[3]", "i8[3,4]", "f32[]", "f32[4]"], "no matrix"),
    ("scaled_mat_mul", {}, ["u8[2,3]", "i8[3,4]", "f32[3,1]", "f32[4]"], "broadcast"),
    ("scaled_mat_mul", {}, ["u8[2,3]", "i8[3,4]", "f32[1,3]", "f32[4]"], "f32.1,3. does not fit"),
    ("scaled_mat_mul", {}, ["u8[2,3]", "i8[3,4]", "f32[2,1]", "f32[3]"], "a vector of 4"),
    ("scaled_mat_mul", {}, ["u8[2,3]", "i8[3,4]", "f32[]", s(0.0)], "finite positive"),
    ("scaled_mat_mul", {}, ["u8[2,3]", "i8[3,4]", "f64[]", "f32[4]"], "not f32"),
    ("scaled_mat_mul", {}, ["u8[2,3]", "i8[3,4]", "f32[]", "f32[4]", "i8[]"], "differs in type"),
    ("scaled_mat_mul", {}, ["u8[2,3]", "i8[3,4]", "f32[]", "f32[4]", None, None, "f64[4]"],
     "the bias"),
    ("scaled_mat_mul", {}, ["u8[2,3]", "i8[3,4]", "f32[]", "f32[4]", None, None, None,
                            "f32[2,2,4]"], "the residual"),
    ("scaled_mat_mul", {}, ["u8[3,2]", "i8[2,3]", "f32[]", "f32[3]", None, None, "f32[3,1]"],
     "a vector of 3"),
    ("scaled_mat_mul", {}, ["u8[3,2]", "i8[2,3]", "f32[]", "f32[3]", None, None, "f32[3,3]"],
     "a vector of 3"),
    ("scaled_mat_mul", {"activation": "conv"}, ["u8[2,3]", "i8[3,4]", "f32[]", "f32[4]"],
     "activation 'conv'"),
    *(("scaled_attention", attributes, [*bytes_, *scales, *mask], text)
      for attributes, bytes_, scales, mask, text in (
        ({}, ["i8[2,3,4,8]", *KEYS], SCALES, [], "not u8"),
        ({}, ["u8[2,3,8]", *KEYS], SCALES, [], "rank 3"),
        ({}, ROWS, ["f64[2,3,4,1]", *SCALES[1:]], [], "not f32"),
        ({}, ROWS, ["f32[2,3,4,8]", *SCALES[1:]], [], "not one number a row"),
        ({}, ["u8[2,3,3,8]", *KEYS], ["f32[2,3,3,1]", *SCALES[1:]], [], "evenly"),
        ({}, ["u8[2,3,4,9]", *KEYS], SCALES, [], "sizes of q and k"),
        ({}, ["u8[1,3,4,8]", *KEYS], ["f32[1,3,4,1]", *SCALES[1:]], [], "batches"),
        ({"scale": -1.0}, ROWS, SCALES, [], "scale is -1"),
        ({}, ROWS, SCALES, ["bool[5]"], "not f32"),
        ({}, ROWS, SCALES, ["f32[4]"], "does not broadcast"),
        ({}, ROWS, SCALES, ["f32[3,1]"], "last axis in full"),
      )),
    ("requantize", {"shift": 45}, ["i32[4]", "i32[]"], "shift 45"),
    ("requantize", {"shift": -1}, ["i32[4]", "i32[]"], "shift -1"),
    ("requantize", {"lo": 9, "hi": 8}, ["i32[4]", "i32[]"], "lo 9 and hi 8"),
    ("requantize", {"hi": 256}, ["i32[4]", "i32[]"], "are not a range within u8"),
    ("requantize", {"zero_point": -1}, ["i32[4]", "i32[]"], "zero point -1"),
    ("requantize", {"dtype": DType.i32}, ["i32[4]", "i32[]"], "not of 8 or 16 bits"),
    ("requantize", {"rounding": "up"}, ["i32[4]", "i32[]"], "rounding 'up'"),
    ("requantize", {}, ["i32[4]"], "pairs"),
    ("requantize", {}, ["i32[4]", s(-1, np.int32)], "multiplier of -1"),
    ("requantize", {}, ["u8[4]", s(-(2**31), np.int32)], "is below"),
    ("requantize", {}, ["i32[4]", "f32[]"], "not i32"),
    ("requantize", {"axis": 0}, ["i32[4]", "i32[3]"], "a vector of 4"),
    ("requantize", {"zero_points": (1,)}, ["i32[4]", "i32[]"], "zero point 1 does not fit"),
    ("requantize", {"zero_points": (256,)}, ["u8[4]", "i32[]"], "zero point 256"),
    ("requantize", {}, ["i32[4]", "i32[]"] * 3, "may overflow"),
    ("requantize", {}, ["i32[4]", "i32[]"] * 2 + ["u8[4]", "i32[]"], "may overflow"),
    ("lookup", {}, ["u8[4]", "u8[0]"], "a table of 0 entries"),
    ("lookup", {}, ["u8[4]", "u8[257]"], "a table of 257 entries"),
    ("lookup", {"low": 300}, ["u8[4]", "u8[9]"], "low 300"),
    ("lookup", {}, ["i32[4]", "u8[9]"], "not of 8 or 16 bits"),
    ("mul_integer", {"a_zero_point": 200}, ["i8[4]", "i8[4]"], "zero point 200"),
    ("sum_pool_integer", {"pads": (1, 1)}, ["u8[1,1,4]"], "over the whole image"),
    ("lstm", {"direction": "back"}, XT, "direction 'back' is none of"),
    ("lstm", {"layout": 2}, XT, "layout is 0 or 1"),
    ("lstm", {"outputs": 4}, XT, "outputs 1 to 3"),
    ("gru", {"outputs": 0}, GRU, "outputs 1 to 2"),
    ("lstm", {"clip": -1.0}, XT, "clip is -1.0"),
    ("lstm", {"hidden_size": 0}, XT, "hidden_size is 0"),
    ("lstm", {"hidden_size": 7}, XT, "but hidden_size is 7"),
    ("lstm", {"activations": ("Tanh",)}, XT, "activations has 1 names, which should be 3"),
    ("rnn", {"activations": ("Cube",)}, RNN, "activation 'Cube' is none of"),
    ("rnn", {"activations": ("Affine",)}, RNN, "Affine has no alpha"),
    ("lstm", {}, ["i32[4,3,5]", *XT[1:]], "is not a float type"),
    ("lstm", {}, ["f64[4,3,5]", *XT[1:]], "differ in element type"),
    ("lstm", {}, ["f32[4,5]", *XT[1:]], "x is .* should have rank 3"),
    ("lstm", {}, ["f32[4,3,7]", *XT[1:]], r"x is .* should be \[4,3,5\]"),
    ("lstm", {"direction": "bidirectional"}, XT, r"w is .* should be \[2,24,\?\]"),
    ("lstm", {}, [XT[0], "f32[1,18,5]", XT[2]], r"w is .* should be \[1,24,\?\]"),
    ("lstm", {}, [*XT, "f32[1,24]"], r"b is .* should be \[1,48\]"),
    ("lstm", {}, [*XT, None, "i64[3]"], "lengths are .* should be i32"),
    ("lstm", {}, [*XT, None, "i32[4]"], "lengths is .* should be a vector of 3"),
    ("lstm", {}, [*XT, None, None, "f32[3,1,6]"], "initial state is"),
    ("lstm", {}, [*XT, None, None, None, None, "f32[1,6]"], r"p is .* should be \[1,18\]"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "attributes", "operands", "words"), CASES)
def test_inference_refuses(
    name: str, attributes: dict[str, Any], operands: list[Any], words: str
) -> None:
    with pytest.raises(VerifyError, match=words) as caught:
        infer(op_class(name)(**attributes), [operand(x) for x in operands], "node")
    assert caught.value.node == "node"
    assert "types cannot be inferred" not in str(caught.value)


def test_training_dropout_is_unsupported() -> None:
    with pytest.raises(UnsupportedError, match="training"):
        infer(op_class("dropout")(), [operand(x) for x in ("f32[2]", None, s(1, bool))], "node")


RUNS: list[tuple[str, dict[str, Any], list[Any], type[Exception]]] = [
    ("quantize_linear", {}, [s(1.0), s(0.0)], FeedError),
    ("quantize_linear", {}, [s(1.0), s(np.nan)], FeedError),
    ("dequantize_linear", {}, [s(1, np.int8), s(-1.0)], FeedError),
    ("dynamic_quantize_linear", {}, [s(np.nan)], FeedError),
    ("gather", {}, [i(1, 2), i(2)], FeedError),
    ("gather_nd", {}, [i(1, 2), np.array([[-3]])], FeedError),
    ("scatter_elements", {}, [i(1, 2), i(2), i(2)], FeedError),
    ("requantize", {}, [s(1, np.int32), s(-1, np.int32)], FeedError),
    ("rnn", {}, [np.ones((2, 1, 1), np.float32), *[np.ones((1, 1, 1), np.float32)] * 2, None,
                 np.array([3], np.int32)], FeedError),
    ("conv_transpose", {"strides": (2**20,), "output_shape": (1,)},
     [np.ones((1, 1, 10000), np.float32), np.ones((1, 1, 1), np.float32)], LimitError),
    ("max_pool", {"kernel_shape": (2**20, 2**20), "pads": (2**19,) * 4, "strides": (2**20,) * 2},
     [np.ones((1, 1, 1, 1), np.float32)], LimitError),
]  # fmt: skip


@pytest.mark.parametrize(("name", "attributes", "operands", "error"), RUNS)
def test_the_reference_refuses(
    name: str, attributes: dict[str, Any], operands: list[Any], error: type[Exception]
) -> None:
    with pytest.raises(error), np.errstate(all="ignore"):
        op_class(name)(**attributes).reference(*operands)
