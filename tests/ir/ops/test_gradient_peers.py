"""Gradients of the ops that training lives on, against torch.autograd, in double precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from taut.ir import Builder, TensorType, Value, differentiate, interpret

torch: Any = pytest.importorskip("torch")
F = torch.nn.functional

rng = np.random.default_rng(4)
Array = np.ndarray[Any, Any]


def a(*shape: int) -> Array:
    return rng.standard_normal(shape)


def positive(*shape: int) -> Array:
    return np.abs(a(*shape)) + 0.5


LABELS = np.array([[0, 4, 2], [1, -1, 3], [2, 2, -1], [0, 1, 4]])

Case = tuple[Callable[..., Value], Callable[..., Any], list[Array]]
CASES: dict[str, Case] = {
    "conv": (
        lambda b, x, w, c: b.conv(x, w, c, strides=(2, 1), pads=(1, 2, 1, 2), dilations=(1, 2),
                                  group=2),
        lambda x, w, c: F.conv2d(x, w, c, (2, 1), (1, 2), (1, 2), 2),
        [a(2, 4, 9, 8), a(6, 2, 3, 3), a(6)],
    ),
    "conv_transpose": (
        lambda b, x, w, c: b.conv_transpose(x, w, c, strides=(2, 3), pads=(1, 1, 1, 1),
                                            output_padding=(1, 2), group=2),
        lambda x, w, c: F.conv_transpose2d(x, w, c, (2, 3), 1, (1, 2), 2),
        [a(2, 4, 5, 4), a(4, 3, 3, 3), a(6)],
    ),
    "max_pool": (
        lambda b, x: b.max_pool(x, kernel_shape=(3, 2), strides=(2, 2), pads=(1, 1, 1, 1),
                                ceil_mode=True),
        lambda x: F.max_pool2d(x, (3, 2), 2, 1, ceil_mode=True), [a(2, 3, 9, 8)],
    ),
    "average_pool": (
        lambda b, x: b.average_pool(x, kernel_shape=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1)),
        lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False), [a(2, 3, 9, 8)],
    ),
    "batch_normalization": (
        lambda b, x, s, c: b.batch_normalization(x, s, c, b.constant(np.zeros(3)),
                                                 b.constant(np.ones(3)), training_mode=True)[0],
        lambda x, s, c: F.batch_norm(x, None, None, s, c, training=True), [a(4, 3, 5), a(3), a(3)],
    ),
    "layer_normalization": (
        lambda b, x, s, c: b.layer_normalization(x, s, c),
        lambda x, s, c: F.layer_norm(x, (6,), s, c), [a(2, 4, 6), a(6), a(6)],
    ),
    "group_normalization": (
        lambda b, x, s, c: b.group_normalization(x, s, c, num_groups=2),
        lambda x, s, c: F.group_norm(x, 2, s, c), [a(2, 4, 5), a(4), a(4)],
    ),
    "gelu": (lambda b, x: b.gelu(x), F.gelu, [a(50)]),
    "gelu_tanh": (lambda b, x: b.gelu(x, approximate="tanh"),
                  lambda x: F.gelu(x, approximate="tanh"), [a(50)]),
    "silu": (lambda b, x: b.swish(x), F.silu, [a(50)]),
    "mish": (lambda b, x: b.mish(x), F.mish, [a(50)]),
    "hard_swish": (lambda b, x: b.hard_swish(x), F.hardswish, [a(50) * 3]),
    "prelu": (lambda b, x, s: b.prelu(x, s), lambda x, s: torch.where(x >= 0, x, x * s),
              [a(3, 4, 5), a(4, 1)]),
    "softmax": (lambda b, x: b.softmax(x, axis=1), lambda x: torch.softmax(x, 1), [a(3, 4, 5)]),
    "reduce_max_ties": (lambda b, x: b.reduce_max(x, np.array([1])),
                        lambda x: x.amax(1, keepdim=True), [np.round(a(6, 9))]),
    "pow": (lambda b, x, y: b.pow(x, y), torch.pow, [positive(4, 5), a(5)]),
    "cross_entropy": (
        lambda b, x: b.softmax_cross_entropy_loss(x, b.constant(LABELS), b.constant(CLASSES),
                                                  ignore_index=-1),
        lambda x: F.cross_entropy(x, torch.tensor(LABELS), torch.tensor(CLASSES), ignore_index=-1),
        [a(4, 5, 3)],
    ),
    "attention": (
        lambda b, q, k, v: b.attention(q, k, v, is_causal=True),
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        [a(2, 3, 5, 4), a(2, 3, 5, 4), a(2, 3, 5, 4)],
    ),
    "attention_masked": (
        lambda b, q, k, v, m: b.attention(q, k, v, m),
        F.scaled_dot_product_attention, [a(2, 3, 5, 4), a(2, 3, 6, 4), a(2, 3, 6, 4), a(5, 6)],
    ),
    "embedding": (lambda b, w: b.gather(w, b.constant(np.array([[1, 1], [3, 0]]))),
                  lambda w: F.embedding(torch.tensor([[1, 1], [3, 0]]), w), [a(5, 4)]),
    "einsum": (lambda b, x, y: b.einsum(x, y, equation="bhld,bhsd->bhls"),
               lambda x, y: torch.einsum("bhld,bhsd->bhls", x, y), [a(2, 3, 4, 5), a(2, 3, 6, 5)]),
    "resize": (
        lambda b, x: b.resize(x, None, None, np.array([1, 2, 8, 14]), mode="linear"),
        lambda x: F.interpolate(x, (8, 14), mode="bilinear"), [a(1, 2, 4, 7)],
    ),
    "grid_sample": (
        lambda b, x: b.grid_sample(x, b.constant(GRID)),
        lambda x: F.grid_sample(x, torch.tensor(GRID), align_corners=False), [a(2, 3, 5, 4)],
    ),
    "cumsum": (lambda b, x: b.cum_sum(x, np.int64(1)), lambda x: torch.cumsum(x, 1), [a(3, 6)]),
    "prod": (lambda b, x: b.reduce_prod(x, np.array([1])), lambda x: x.prod(1, keepdim=True),
             [np.where(np.eye(3, 6) > 0, 0, a(3, 6))]),
}  # fmt: skip
CLASSES = positive(5)
GRID = a(2, 4, 3, 2)


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_torch(name: str) -> None:
    ours, theirs, arrays = CASES[name]
    b = Builder()
    inputs = [b.graph.add_input(f"x{i}", TensorType.of(x))[0] for i, x in enumerate(arrays)]
    y = ours(b, *inputs)
    tensors = [torch.tensor(x, requires_grad=True) for x in arrays]
    z = theirs(*tensors)
    weight = rng.standard_normal(tuple(z.shape))
    found = differentiate(b.graph, {y: b.constant(weight)}, inputs, b=b)
    made = {f"d{i}": found[x] for i, x in enumerate(inputs)}
    assert None not in made.values()
    graph = b.outputs(y=y, **made)
    out = interpret(graph, {f"x{i}": x for i, x in enumerate(arrays)})
    np.testing.assert_allclose(out["y"], z.detach().numpy(), rtol=1e-9, atol=1e-9)
    z.backward(torch.tensor(weight))
    for i, t in enumerate(tensors):
        np.testing.assert_allclose(out[f"d{i}"], t.grad.numpy(), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_gradients_of_recurrent_layers_are_those_of_torch(kind: str) -> None:
    """Weights in ONNX's order of gates (i, o, f, n and z, r, n) against torch's."""
    order = [0, 2, 3, 1] if kind == "lstm" else [1, 0, 2]  # torch's place for each of its gates
    h, i, gates = 3, 4, len(order)
    x, w, r, c = a(5, 2, i), a(1, gates * h, i), a(1, gates * h, h), a(1, 2 * gates * h)
    b = Builder()
    values = [b.graph.add_input(n, TensorType.of(v))[0] for n, v in zip("xwrc", (x, w, r, c))]
    extra = {"linear_before_reset": True} if kind == "gru" else {}
    y = getattr(b, kind)(*values, hidden_size=h, **extra)
    weight = a(5, 1, 2, h)
    found = differentiate(b.graph, {y: b.constant(weight)}, values, b=b)
    out = interpret(b.outputs(**{n: found[v] for n, v in zip("xwrc", values)}),
                    {"x": x, "w": w, "r": r, "c": c})  # fmt: skip
    layer = (torch.nn.LSTM if kind == "lstm" else torch.nn.GRU)(i, h).double()

    def turned(v: Array) -> Array:
        return v.reshape(gates, h, -1)[order].reshape(gates * h, -1)

    halves = np.split(c[0], 2)
    with torch.no_grad():
        layer.weight_ih_l0.copy_(torch.tensor(turned(w[0])))
        layer.weight_hh_l0.copy_(torch.tensor(turned(r[0])))
        layer.bias_ih_l0.copy_(torch.tensor(turned(halves[0])[:, 0]))
        layer.bias_hh_l0.copy_(torch.tensor(turned(halves[1])[:, 0]))
    tx = torch.tensor(x, requires_grad=True)
    layer(tx)[0].backward(torch.tensor(weight[:, 0]))
    np.testing.assert_allclose(out["x"], tx.grad.numpy(), rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(turned(out["w"][0]), layer.weight_ih_l0.grad.numpy(), rtol=1e-8)
    np.testing.assert_allclose(turned(out["r"][0]), layer.weight_hh_l0.grad.numpy(), rtol=1e-8)
    for half, got in zip(np.split(out["c"][0], 2), (layer.bias_ih_l0, layer.bias_hh_l0)):
        np.testing.assert_allclose(turned(half)[:, 0], got.grad.numpy(), rtol=1e-8)
