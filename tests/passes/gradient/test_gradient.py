"""The passes parameters, loss and gradient together: what a training loop is built of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from taut.ir import (
    Builder,
    DType,
    FeedError,
    Graph,
    NotDifferentiableError,
    interpret,
    parse,
    print_graph,
    verify,
)
from taut.passes import Context, PassManager, optimize, random_feeds
from taut.passes.gradient import freeze, trainable

import taut

Array = np.ndarray[Any, Any]
rng = np.random.default_rng(5)


def weights(*shape: int) -> Array:
    return rng.standard_normal(shape) * 0.4


def mlp(dtype: Any = np.float64) -> Graph:
    b = Builder()
    x = b.input("x", DType.of(dtype), ("n", 6))
    w1 = b.constant(weights(6, 8).astype(dtype), "one.weight")
    b1 = b.constant(weights(8).astype(dtype), "one.bias")
    h = b.tanh(b.gemm(x, w1, b1), name="hidden")
    h = b.mul(h, b.constant(np.asarray(0.5, dtype), "half"))
    return b.outputs(y=b.gemm(h, b.constant(weights(8, 3).astype(dtype), "two.weight")))


def classifier(dtype: Any = np.float64) -> Graph:
    """Convolutions, batch normalization, a residual, pooling."""
    b = Builder()

    def const(name: str, *shape: int) -> Any:
        return b.constant(weights(*shape).astype(dtype), name)

    x = b.input("x", DType.of(dtype), ("n", 2, 8, 8))
    h = b.conv(x, const("stem.weight", 4, 2, 3, 3), const("stem.bias", 4), pads=(1, 1, 1, 1))
    var = b.constant(np.abs(weights(4)).astype(dtype) + 0.5, "bn.var")
    scale, bias, mean = (const(f"bn.{k}", 4) for k in ("scale", "bias", "mean"))
    h = b.batch_normalization(h, scale, bias, mean, var)
    h = b.relu(h)
    side = b.conv(h, const("side.weight", 4, 1, 3, 3), pads=(1, 1, 1, 1), group=4)
    h = b.max_pool(b.add(h, side), kernel_shape=(2, 2), strides=(2, 2))
    h = b.conv(h, const("down.weight", 6, 4, 3, 3), strides=(2, 2), pads=(1, 1, 1, 1))
    h = b.flatten(b.average_pool(b.swish(h), kernel_shape=(2, 2)))
    return b.outputs(logits=b.gemm(h, const("head.weight", 6, 5), const("head.bias", 5)))


TRAIN = "parameters,loss{target=labels},gradient{loss=loss}"


def feeds_of(graph: Graph, batch: int = 3) -> dict[str, Array]:
    arrays = trainable(graph)
    shape = [batch if d == "n" else d for d in graph.inputs[0].type.shape or ()]
    x = rng.standard_normal(shape).astype(graph.inputs[0].type.dtype.numpy)
    return {"x": x, "labels": rng.integers(0, 3, batch), **arrays}


def slope(graph: Graph, feeds: dict[str, Array], name: str, way: Array, step: float) -> float:
    ends = [interpret(graph, {**feeds, name: feeds[name] + s * step * way})["loss"]
            for s in (1, -1)]  # fmt: skip
    return float(ends[0] - ends[1]) / (2 * step)


@pytest.mark.parametrize("make", [mlp, classifier])
@pytest.mark.parametrize("pipeline", [TRAIN, f"{TRAIN},O1"])
def test_gradients_are_the_slopes_of_the_loss(make: Any, pipeline: str) -> None:
    graph = make()
    feeds = feeds_of(graph)
    made = optimize(graph, pipeline)
    verify(made)
    out = interpret(made, feeds)
    names = [n for n in made.output_names if n.startswith("grad.")]
    assert names == [f"grad.{n}" for n in ("x", *trainable(graph))]
    for name in (n.removeprefix("grad.") for n in names):
        way = rng.standard_normal(feeds[name].shape)
        want = slope(made, feeds, name, way, 1e-6)
        assert np.sum(out[f"grad.{name}"] * way) == pytest.approx(want, rel=1e-6, abs=1e-8)


def test_statistics_and_scalars_are_not_parameters() -> None:
    assert list(trainable(classifier())) == [
        "stem.weight", "stem.bias", "bn.scale", "bn.bias", "side.weight", "down.weight",
        "head.weight", "head.bias",
    ]  # fmt: skip
    assert list(trainable(mlp())) == ["one.weight", "one.bias", "two.weight"]


def test_what_is_set_is_no_parameter() -> None:
    """Exponents, the two values of one_hot, and bounds, of any size."""
    b = Builder()
    x, i = b.input("x", "f32", (3, 2)), b.input("i", "i64", (3,))
    hot = b.one_hot(i, np.int64(2), b.constant(np.float32([0, 1]), "values"))
    power = b.pow(b.mul(x, b.constant(np.float32([2, 3]), "w")),
                  b.constant(np.float32([2, 3]), "exponents"))  # fmt: skip
    assert list(trainable(b.outputs(y=b.add(hot, power)))) == ["w"]


def test_masks_are_not_parameters() -> None:
    b = Builder()
    x = b.input("x", "f32", (3, 3))
    low = b.constant(np.triu(np.full((3, 3), np.float32(-1e9)), 1), "low")
    never = b.constant(np.triu(np.full((3, 3), np.float32(-np.inf)), 1), "never")
    scores = b.add(b.mat_mul(x, b.constant(np.ones((3, 3), np.float32), "w")), low)
    assert list(trainable(b.outputs(y=b.softmax(b.add(scores, never))))) == ["w"]


def test_batch_statistics_follow_the_batches() -> None:
    graph = classifier()
    names = ["bn.mean", "bn.var"]
    arrays = {**trainable(graph), **{k: graph[k][0].array for k in names}}
    step = optimize(graph, f"batch-statistics,{TRAIN}")
    assert [n for n in step.output_names if n.startswith("next.")] == [f"next.{k}" for k in names]
    x = rng.standard_normal((8, 2, 8, 8))
    out = interpret(step, {"x": x, "labels": rng.integers(0, 5, 8), **arrays})
    stem = optimize(graph, "infer")
    stem.set_outputs({"h": stem["conv"]})
    h = interpret(stem, {"x": x})["h"]
    np.testing.assert_allclose(out["next.bn.mean"],
                               arrays["bn.mean"] * 0.9 + h.mean((0, 2, 3)) * 0.1)  # fmt: skip
    np.testing.assert_allclose(out["next.bn.var"],
                               arrays["bn.var"] * 0.9 + h.var((0, 2, 3), ddof=1) * 0.1)  # fmt: skip
    way = rng.standard_normal(arrays["stem.weight"].shape)
    feeds = {"x": x, "labels": rng.integers(0, 5, 8), **arrays}
    want = slope(step, feeds, "stem.weight", way, 1e-6)
    got = np.sum(interpret(step, feeds)["grad.stem.weight"] * way)
    assert got == pytest.approx(want, rel=1e-5, abs=1e-8)
    every = ",".join([*trainable(graph), *names])
    trained = freeze(optimize(graph, f"parameters{{names=[{every}]}}"),
                     {**arrays, **{k: out[f"next.{k}"] for k in names}})  # fmt: skip
    assert [n.name for n in trained.inputs] == ["x"]
    again = PassManager("batch-statistics,batch-statistics").run(graph)
    assert [str(r) for _, r in again.remarks("missed")] == [
        'missed "batch_normalization": it is in training mode already'
    ]


def test_what_is_not_sought_needs_no_gradient() -> None:
    """Of the first layer's input, which would need its size, nothing is asked."""
    b = Builder()
    x, w = b.input("x", "f32", ("n", 1, "h", "w")), b.input("weight", "f32", (2, 1, 3, 3))
    y = b.conv(x, w, strides=(2, 2), auto_pad="SAME_UPPER")
    graph = b.outputs(loss=b.reduce_sum(y, keepdims=False))
    made = optimize(graph, "gradient{wrt=[weight]}")
    assert ops(made, "conv_transpose") == 0 and ops(made, "conv_weight_gradient") == 1
    with pytest.raises(NotDifferentiableError, match="bind its symbols first"):
        optimize(graph, "gradient")


def test_parameters_and_freeze_are_inverse() -> None:
    graph = classifier()
    feeds = feeds_of(graph)
    arrays = trainable(graph)
    opened = optimize(graph, "parameters")
    assert [n.name for n in opened.inputs] == ["x", *arrays]
    again = freeze(opened, arrays)
    verify(again)
    assert [n.name for n in again.inputs] == ["x"]
    want = interpret(graph, {"x": feeds["x"]})["logits"]
    np.testing.assert_array_equal(interpret(again, {"x": feeds["x"]})["logits"], want)
    assert all(again[k][0].array is not None for k in arrays)


def test_named_parameters_only() -> None:
    opened = optimize(mlp(), "parameters{names=[half]}")
    assert [n.name for n in opened.inputs] == ["x", "half"]
    with pytest.raises(FeedError, match="no constant is named 'haf'; did you mean half"):
        optimize(mlp(), "parameters{names=[haf]}")
    with pytest.raises(FeedError, match="no input is named"):
        freeze(mlp(), {"w": np.zeros(3)})


def test_one_program_for_any_batch() -> None:
    """Compiled once, run at several sizes; the loss falls when steps follow the gradient."""
    graph = mlp(np.float32)
    program = taut.compile(optimize(graph, f"{TRAIN},O2"), threads=1)
    arrays = trainable(graph)
    losses = []
    x = rng.standard_normal((16, 6)).astype(np.float32)
    labels = np.argmax(x[:, :3], axis=1)
    for step in range(60):
        part = slice(None) if step % 3 else slice(0, 7)  # another batch size now and then
        out = program(x=x[part], labels=labels[part], **arrays)
        losses.append(float(out["loss"]))
        arrays = {k: v - np.float32(0.5) * out[f"grad.{k}"] for k, v in arrays.items()}
    assert losses[-1] < 0.5 * losses[1]


RECOMPUTE = ["recompute=true", "memory=1", "memory=4000", "memory=100000000"]


@pytest.mark.parametrize("option", RECOMPUTE)
@pytest.mark.parametrize("make", [mlp, classifier])
def test_recomputation_changes_no_number(make: Any, option: str) -> None:
    graph = make()
    feeds = feeds_of(graph)
    plain = optimize(graph, TRAIN)
    other = optimize(graph, TRAIN.replace("loss=loss", f"loss=loss {option}"))
    verify(other)
    want, got = interpret(plain, feeds), interpret(other, feeds)
    for name in want:
        np.testing.assert_array_equal(got[name], want[name])
    text = print_graph(other)
    assert print_graph(parse(text)) == text


def ops(graph: Graph, name: str) -> int:
    return sum(n.op.name == name for n in graph.nodes())


def test_no_pass_merges_what_is_computed_anew() -> None:
    graph = classifier(np.float32)
    plain = optimize(graph, TRAIN)
    made = optimize(graph, TRAIN.replace("loss=loss", "recompute=true"))
    again = ops(made, "conv") - ops(plain, "conv")
    assert again >= 1
    assert ops(optimize(made, "cse,simplify,cse,dce"), "conv") == ops(made, "conv")
    fused = [optimize(g, "O2") for g in (plain, made)]
    counts = [sum(n.op.name in ("conv", "fused_conv") for n in g.nodes()) for g in fused]
    assert counts[1] - counts[0] == again


def live_bytes(graph: Graph, feeds: dict[str, Array]) -> int:
    """The most bytes of values that are still to be read, in the graph's order."""
    left = {(n, i): graph.use_count(n[i]) for n in graph.nodes() for i in range(len(n.results))}
    sizes: dict[Any, int] = {}
    interpret(graph, feeds, watch=lambda v, a: sizes.__setitem__((v.node, v.index), a.nbytes))
    live = peak = 0
    for node in graph.nodes():
        if node.op.name in ("input", "constant", "return"):
            continue
        live += sum(sizes[node, i] for i in range(len(node.results)))
        peak = max(peak, live)
        for v in graph.operands(node):
            if v is not None:
                left[v.node, v.index] -= 1
                if not left[v.node, v.index] and v.node.op.name not in ("input", "constant"):
                    live -= sizes[v.node, v.index]
    return peak


def deep(layers: int) -> Graph:
    b = Builder()
    x = b.input("x", "f32", ("n", 32))
    w = b.input("w", "f32", (32, 32))
    for _ in range(layers):
        x = b.tanh(b.exp(b.tanh(b.mat_mul(b.sin(x), w))))
    return b.outputs(y=x)


def test_recomputation_saves_memory() -> None:
    feeds = {"x": rng.standard_normal((64, 32)).astype(np.float32),
             "w": weights(32, 32).astype(np.float32),
             "target": rng.standard_normal((64, 32)).astype(np.float32)}  # fmt: skip
    peaks = []
    for option in ("", " recompute=true"):
        made = optimize(deep(20), "loss{kind=mean-squared-error},gradient{wrt=[w]" + option + "}")
        peaks.append(live_bytes(made, feeds))
    assert peaks[1] < 0.45 * peaks[0]  # 100 nodes in 10 segments


def test_a_budget_that_cannot_be_met_is_remarked_on() -> None:
    report = PassManager("parameters,loss,gradient{memory=1}").run(mlp())
    assert any("bytes at least, over 1" in str(r) for _, r in report.remarks("missed"))


def test_gradients_add_up_where_a_value_is_read_more_than_once() -> None:
    b = Builder()
    x = b.input("x", "f64", (3,))
    y = b.mul(x, x)
    total = b.sum(b.add(y, x), b.sin(x), x)
    made = optimize(b.outputs(loss=b.reduce_sum(total, keepdims=False)), "gradient")
    at = rng.standard_normal(3)
    np.testing.assert_allclose(interpret(made, {"x": at})["grad.x"], 2 * at + 2 + np.cos(at))
    before = len(made)
    assert len(optimize(made, "cse")) == before  # nothing stands there twice


def test_the_gradient_of_a_gradient() -> None:
    b = Builder()
    x = b.input("x", "f64", (4,))
    once = optimize(b.outputs(loss=b.reduce_sum(b.exp(b.sin(x)), keepdims=False)), "gradient")
    b = Builder(once)
    g = dict(zip(once.output_names, once.outputs))["grad.x"]
    once.set_outputs({"loss": b.reduce_sum(b.mul(g, g), keepdims=False)})
    twice = optimize(once, "gradient")
    at = rng.standard_normal(4)
    e = np.exp(np.sin(at))
    first, second = e * np.cos(at), e * (np.cos(at) ** 2 - np.sin(at))
    np.testing.assert_allclose(interpret(twice, {"x": at})["grad.x"], 2 * first * second)


def test_what_the_loss_does_not_depend_on_has_gradient_zero_and_a_remark() -> None:
    b = Builder()
    x, z = b.input("x", "f32", ("n", 2)), b.input("z", "f32", ("n", 5))
    graph = b.outputs(z=b.relu(z), loss=b.reduce_sum(b.mul(x, b.round(b.reduce_sum(z))),
                                                     keepdims=False))  # fmt: skip
    report = PassManager("gradient").run(graph)
    assert [str(r) for _, r in report.remarks("missed")] == [
        'missed "z": the loss does not depend on it: its gradient is 0'
    ]
    out = interpret(report.graph, random_feeds(report.graph, rng))
    assert out["grad.z"].shape == (2, 5) and not out["grad.z"].any()


@pytest.mark.parametrize("pipeline, message", [
    ("gradient", "is f64.n,3., which is no scalar to differentiate; join one with the pass loss"),
    ("gradient{loss=los}", "no output is named 'los'"),
    ("loss,gradient{wrt=[w]}", "no input is named 'w'.*; the pass parameters makes inputs"),
    ("loss{target=t},gradient{wrt=[t]}", "input 't' is i64.n., no tensor of floats"),
    ("loss{kind=hinge}", "no loss is named 'hinge'.*; the losses are cross-entropy"),
    ("loss{output=z}", "no output is named 'z'"),
    ("loss{result=y}", "an output is named 'y' already"),
    ("loss{axis=2}", "has no axis 2 of classes"),
    ("loss{temperature=0.0}", "temperature is 0.0"),
])  # fmt: skip
def test_what_cannot_be_done_is_said(pipeline: str, message: str) -> None:
    with pytest.raises(FeedError, match=message):
        optimize(mlp(), pipeline)


def test_an_op_without_a_gradient_is_named() -> None:
    b = Builder()
    x = b.input("x", "f32", (3, 3))
    graph = b.outputs(loss=b.det(b.exp(x), name="volume"))
    with pytest.raises(NotDifferentiableError, match=r'node "volume", op det: .*it needs inverse'):
        optimize(graph, "gradient")


def test_losses_are_those_of_the_formulas() -> None:
    graph = mlp()
    x = rng.standard_normal((5, 6))
    y = interpret(graph, {"x": x})["y"]

    def logs(v: Array) -> Array:
        return v - np.log(np.exp(v).sum(1, keepdims=True))

    labels, t = rng.integers(0, 3, 5), rng.standard_normal((5, 3))
    hard = interpret(optimize(graph, "loss"), {"x": x, "target": labels})["loss"]
    np.testing.assert_allclose(hard, -logs(y)[np.arange(5), labels].mean())
    soft = optimize(graph, "loss{kind=soft-cross-entropy temperature=2.0}")
    want = -4 * (np.exp(logs(t / 2)) * logs(y / 2)).sum(1).mean()
    np.testing.assert_allclose(interpret(soft, {"x": x, "target": t})["loss"], want)
    square = optimize(graph, "loss{kind=mean-squared-error}")
    np.testing.assert_allclose(interpret(square, {"x": x, "target": t})["loss"],
                               ((y - t) ** 2).mean())  # fmt: skip


SMOOTH = [
    "add", "sub", "mul", "tanh", "sigmoid", "exp", "sin", "cos", "softplus", "softsign", "erf",
    "gelu", "swish", "softmax", "log_softmax", "reduce_sum", "reduce_mean", "transpose", "reshape",
    "concat", "mat_mul", "flatten", "neg", "reduce_log_sum_exp", "where", "unsqueeze", "gather",
    "slice", "layer_normalization", "mean_variance_normalization", "average_pool", "identity",
]  # fmt: skip


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_gradients_of_drawn_graphs(data: st.DataObject) -> None:
    """The graph verifies, reads back, and its gradients are slopes; recomputed ones are equal."""
    from taut import testing
    from taut.testing.dags import dags

    drawn = data.draw(dags(ops=SMOOTH, min_steps=3))
    text = print_graph(drawn).replace("f32", "f64")
    graph = parse(text)
    floats = [v for v in graph.outputs if v.type.dtype.is_float]
    inputs = [n.name for n in graph.inputs if n.type.dtype.is_float]
    assume(floats and inputs)
    b = Builder(graph)
    total = b.reduce_sum(b.mul(floats[0], floats[0]), keepdims=False)
    graph.set_outputs({"loss": total})
    feeds = random_feeds(graph, np.random.default_rng(0), {"n": 3})
    loss = interpret(graph, feeds)["loss"]
    assume(np.isfinite(loss) and abs(loss) < 1e4)  # e^(e^x) tells nothing by differences
    made = [optimize(graph, p, Context()) for p in ("gradient", "gradient{recompute=true}")]
    for g in made:
        verify(g)
        assert print_graph(parse(print_graph(g))) == print_graph(g)
    want, got = (interpret(g, feeds) for g in made)
    for name, array in want.items():
        np.testing.assert_array_equal(got[name], array)
    testing.check_gradient(graph, feeds, rtol=1e-4, directions=1)
