"""Quantization-aware training as a whole: what holds while it trains, and what comes of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from taut.frontends.builder import Network
from taut.ir import FeedError, Graph, interpret, verify
from taut.ir.ops.structure import Constant
from taut.passes import Context, PassManager

import taut
from taut.data import Dataset
from taut.training import Recipe, Trainer, quantize_aware, train

Array = np.ndarray[Any, Any]


def integers(graph: Graph) -> dict[str, Array]:
    return {n.name: n.op.value for n in graph.of(Constant)
            if isinstance(n.op, Constant) and n.op.value.dtype == np.int8}  # fmt: skip


def accuracy(graph: Graph, data: Dataset) -> float:
    scores = taut.reference(graph, data.images)["scores"]
    return float((scores.argmax(1) == data.labels).mean())


@st.composite
def networks(draw: st.DrawFn) -> Graph:
    net = Network(seed=draw(st.integers(0, 99)))
    x = net.input("image", (1, 8, 8))
    for _ in range(draw(st.integers(0, 2))):
        x = net.conv(x, 4, 3, padding=1)
        x = net.batch_norm(x) if draw(st.booleans()) else x
        x = net.activation(x, draw(st.sampled_from(["relu", "relu6", "hard_swish"])))
        x = net.max_pool(x, 2) if draw(st.booleans()) else x
    x = net.relu(net.linear(net.flatten(x), draw(st.integers(2, 9))))
    return net.outputs(scores=net.classifier(x, 10))


@settings(max_examples=6, deadline=None, derandomize=True,
          suppress_health_check=[HealthCheck.too_slow])  # fmt: skip
@given(
    graph=networks(), bits=st.sampled_from([2, 3, 4, 8]),
    zeros=st.sampled_from(["learned", "frozen"]),
    optimizer=st.sampled_from(["sgd{momentum=0.9}", "adamw{decay=0.1}"]), seed=st.integers(0, 99),
)  # fmt: skip
def test_what_holds_while_it_trains(
    data: Dataset, graph: Graph, bits: int, zeros: str, optimizer: str, seed: int
) -> None:
    """Pruned weights stay zero, scales positive, integers within their bits; the graphs verify."""
    data, random = data[:64], np.random.default_rng(seed)
    text = (f"quantize-aware{{weight_bits={bits} activation_bits={bits} edge_bits=0 "
            f"zero_points={zeros}}}")  # fmt: skip
    aware = PassManager(text).run(graph, Context(data=[data.images[:32]])).graph
    verify(aware)
    node = next(n for n in aware.of(Constant) if n.name.endswith(".weight"))
    assert isinstance(node.op, Constant)
    mask = random.random(node.op.value.shape) < 0.5
    aware.set_op(node, Constant(node.op.value * mask))
    recipe = Recipe(optimizer=optimizer, clip=1.0)
    trainer = Trainer(aware, recipe, masks={node.name: mask}, target="reference")
    for _ in range(3):
        for batch in data.batches(32):
            trainer.step(batch, 0.05)
    moved = trainer.parameters
    changed = [
        k for k in moved if k.endswith("log_scale") and (moved[k] != aware[k].op.value).any()
    ]  # type: ignore[attr-defined]
    assert changed and not moved[node.name][~mask].any()
    final = PassManager("finalize-quantization").run(trainer.graph, Context()).graph
    verify(final)
    top = (1 << (bits - 1)) - 1
    made = integers(final)
    assert made and all(np.abs(a).max() <= top for a in made.values())
    assert not made[f"{node.name}.int8"][~mask].any()
    for n in final.nodes():
        if n.op.name in ("quantize_linear", "dequantize_linear"):
            scale = final.operand(n, 1)
            assert scale is not None and scale.array is not None and (scale.array > 0).all()


def test_decay_leaves_scales_alone(mlp: Graph, data: Dataset) -> None:
    aware = PassManager("quantize-aware").run(mlp, Context(data=[data.images[:64]])).graph
    made = []
    for decay in (0.0, 0.9):
        recipe = Recipe(optimizer=f"adamw{{decay={decay}}}")
        trainer = Trainer(aware, recipe, target="reference")
        trainer.step(next(iter(data.batches(64))), 0.01)
        made.append(trainer.parameters)
    assert all((made[0][k] == made[1][k]).all() == k.endswith("log_scale")
               for k in made[0] if not k.endswith("bias"))  # fmt: skip


@pytest.mark.parametrize("statistics", ["batch", "running"])
def test_the_integer_program_is_as_good(
    cnn: Graph, data: Dataset, validation: Dataset, statistics: Any
) -> None:
    numpy: dict[str, Any] = {"optimizer": "adam", "progress": False, "target": "reference"}
    first = train(cnn, data, epochs=4, learning_rate=0.01, **numpy)
    made = quantize_aware(
        first.graph, data, weight_bits=4, activation_bits=4, statistics=statistics,
        validation=validation, epochs=4, learning_rate=0.003, **numpy,
    )  # fmt: skip
    seen = made.trained.history.rows[-1]["validation accuracy"]
    assert seen > 0.9
    assert abs(accuracy(made.graph, validation) - seen) < 0.0005
    assert abs(accuracy(made.integer, validation) - seen) < 0.0005
    names = [n.op.name for n in made.integer.nodes()]
    assert "conv_integer" in names and "conv" not in names and "batch_normalization" not in names


def test_the_compiled_step_is_the_references(cnn: Graph, data: Dataset) -> None:
    """Quantizers run by kernels, none by the reference, with its numbers to float's rounding."""
    text = "quantize-aware{weight_bits=4 activation_bits=4 zero_points=learned}"
    aware = PassManager(text).run(cnn, Context(data=[data.images[:64]])).graph
    trainer = Trainer(aware, Recipe(), threads=1)
    batch = next(iter(data.batches(64)))
    trainer.step(batch, 0.01)
    assert trainer.program().fallbacks == []
    graph = trainer.evaluation_graph
    feeds = {"image": batch[0], "target": batch[1], **trainer.parameters, **trainer.statistics}
    want = interpret(graph, {n.name: feeds[n.name] for n in graph.inputs})["loss"]
    got = trainer.program(graph)(*(feeds[n.name] for n in graph.inputs))["loss"]
    assert abs(want - got) < 0.02 * abs(want)  # ties may round to either side


def test_bad_options(mlp: Graph, data: Dataset) -> None:
    with pytest.raises(FeedError, match="statistics are"):
        quantize_aware(mlp, data, statistics="moving")  # type: ignore[arg-type]
    with pytest.raises(FeedError, match="start from sample inputs"):
        quantize_aware(mlp, list(data.batches(64)))
    with pytest.raises(FeedError, match="training has no option 'wieght_bits'"):
        quantize_aware(mlp, data, wieght_bits=4)
