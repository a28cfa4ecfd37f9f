"""Attention and fused products as the ops that ONNX has, or had."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from taut.frontends.onnx import export_onnx
from taut.ir import Builder, DType, UnsupportedError

import taut

onnxruntime = pytest.importorskip("onnxruntime")


ATTENTIONS: list[dict[str, Any]] = [
    {}, {"mask": "bool"}, {"mask": "f32", "scale": 0.3}, {"is_causal": True},
    {"kv": 2, "mask": "bool"}, {"flat": True, "mask": "bool"}, {"flat": True, "kv": 1},
    {"past": True, "is_causal": True},
]  # fmt: skip


@pytest.mark.parametrize("form", ATTENTIONS, ids=str)
def test_attention_is_written_out_for_older_opsets(form: dict[str, Any]) -> None:
    """What the file computes in onnxruntime is what the op computes."""
    form = dict(form)
    mask, kv = form.pop("mask", None), form.pop("kv", 4)
    flat, past = form.pop("flat", False), form.pop("past", False)
    b, random = Builder(), np.random.default_rng(0)
    shapes = [(2, "l", 4 * 6), (2, "s", kv * 6), (2, "s", kv * 5)] if flat else \
        [(2, 4, "l", 6), (2, kv, "s", 6), (2, kv, "s", 5)]  # fmt: skip
    sizes = {"l": 3, "s": 7}
    values: list[Any] = [b.input(n, "f32", s) for n, s in zip("qkv", shapes)]
    values.append(b.input("m", mask, (2, 1, "l", "s")) if mask else None)
    if past:
        values += [b.input("pk", "f32", (2, kv, 2, 6)), b.input("pv", "f32", (2, kv, 2, 5))]
    if flat:
        form |= {"q_num_heads": 4, "kv_num_heads": kv}
    graph = b.outputs(y=b.attention(*values, **form))
    feeds = {}
    for n in graph.inputs:
        shape = [d if isinstance(d, int) else sizes[str(d)] for d in n.type.shape or ()]
        made = random.standard_normal(shape)
        feeds[n.name] = made > 0 if n.type.dtype is DType.bool else made.astype(np.float32)
    if mask == "bool":
        feeds["m"][..., 0] = True  # a row without keys is zero here, even there
    session = onnxruntime.InferenceSession(export_onnx(graph, opset=20).SerializeToString())
    want = taut.reference(graph, **feeds)["y"]
    np.testing.assert_allclose(session.run(None, feeds)[0], want, rtol=0, atol=1e-5)


def test_attention_without_an_older_form_names_the_opset() -> None:
    b = Builder()
    q = b.input("q", "f32", (1, 2, 3, 4))
    graph = b.outputs(y=b.attention(q, q, q, softcap=2.0, name="seen"))
    with pytest.raises(UnsupportedError, match=r'node "seen".*softcap.*opset 23'):
        export_onnx(graph, opset=20)
    export_onnx(graph, opset=23)


@pytest.mark.parametrize("activation", [("", ()), ("relu", ()), ("clip", (0.0, 1.0)),
                                        ("gelu_tanh", ()), ("leaky_relu", (0.1,))])  # fmt: skip
def test_fused_products_are_written_out(activation: tuple[str, tuple[float, ...]]) -> None:
    b, random = Builder(), np.random.default_rng(0)
    x, r = b.input("x", "f32", ("n", 4, 3)), b.input("r", "f32", ("n", 3, 5))
    w, c = (random.standard_normal(s).astype(np.float32) for s in ((5, 4), (5,)))
    name, params = activation
    graph = b.outputs(y=b.fused_mat_mul(x, w, c, r, alpha=0.5, transA=True, transB=True,
                                        activation=name, params=params))  # fmt: skip
    feeds = {"x": random.standard_normal((2, 4, 3)).astype(np.float32),
             "r": random.standard_normal((2, 3, 5)).astype(np.float32)}  # fmt: skip
    session = onnxruntime.InferenceSession(export_onnx(graph, opset=20).SerializeToString())
    want = taut.reference(graph, **feeds)["y"]
    np.testing.assert_allclose(session.run(None, feeds)[0], want, rtol=0, atol=1e-5)
