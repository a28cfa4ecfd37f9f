"""The compiled step: the reference's numbers, fixed parts that stay, bad batches refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from taut.frontends.builder import Network
from taut.frontends.zoo import zoo
from taut.ir import Builder, FeedError, Graph, TrainingError, interpret
from taut.passes import Context, PassManager

import taut
from taut.data import Dataset
from taut.training import Recipe, Trainer, zero_masks

Array = np.ndarray[Any, Any]


def batches(data: Dataset, size: int = 64) -> list[tuple[Array, Array]]:
    return list(data.batches(size))


def equal(a: dict[str, Array], b: dict[str, Array]) -> bool:
    return a.keys() == b.keys() and all(a[k].tobytes() == b[k].tobytes() for k in a)


@pytest.mark.parametrize(("name", "optimizer"), [("mlp", "adam"), ("cnn", "sgd{momentum=0.9}")])
def test_nothing_falls_back_and_the_last_short_batch_fits(
    name: str, optimizer: str, data: Dataset, request: pytest.FixtureRequest
) -> None:
    trainer = Trainer(request.getfixturevalue(name), Recipe(optimizer=optimizer, clip=5.0))
    sizes = set()
    for batch in batches(data):
        trainer.step(batch, 0.01)
        sizes.add(len(batch[0]))
        assert trainer.program().fallbacks == []
    assert sizes == {64, 10}
    trainer.evaluate(data)
    assert trainer.program(trainer.evaluation_graph).fallbacks == []


SMOOTH = "adamw{epsilon=0.01}"
"""With Adam's own epsilon a gradient that is rounding noise becomes a whole step."""


@st.composite
def networks(draw: st.DrawFn) -> Graph:
    net = Network(seed=draw(st.integers(0, 99)))
    x = net.input("image", (1, 8, 8))
    if draw(st.booleans()):
        x = net.conv(x, 3, 3, padding=1)
        x = net.relu(net.batch_norm(x) if draw(st.booleans()) else x)
        x = net.max_pool(x, 2) if draw(st.booleans()) else net.average_pool(x, 2)
    x = net.flatten(x)
    for units in draw(st.lists(st.integers(1, 9), max_size=2)):
        x = net.activation(net.linear(x, units), draw(st.sampled_from(["relu", "tanh"])))
    return net.outputs(scores=net.classifier(x, 10))


@settings(max_examples=6, deadline=None, derandomize=True,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(
    graph=networks(), rows=st.integers(2, 5), smoothing=st.sampled_from([0.0, 0.1]),
    optimizer=st.sampled_from(["sgd{momentum=0.9 decay=0.01}", SMOOTH]),
)  # fmt: skip
def test_a_compiled_step_is_the_reference_of_its_graph(
    graph: Graph, rows: int, smoothing: float, optimizer: str, data: Dataset
) -> None:
    trainer = Trainer(graph, Recipe(optimizer=optimizer, smoothing=smoothing))
    before, part = trainer.state, data[:rows]
    feeds = {**before, "image": part.images, "target": part.labels,
             "learning_rate": np.float32(0.1), "step": np.int64(1)}  # fmt: skip
    inputs = {n.name: np.asarray(feeds[n.name]) for n in trainer.step_graph.inputs}
    want = interpret(trainer.step_graph, inputs)
    got = trainer.step((part.images, part.labels), 0.1)
    assert got["loss"] == pytest.approx(float(want["loss"]), rel=1e-4)
    assert got["accuracy"] == pytest.approx(float(want["correct"]) / rows)
    after = trainer.state
    for name, array in after.items():
        expected = want[f"next.{name}"]
        off = np.abs(array - expected)
        assert off.max(initial=0) <= 1e-3 * max(1, np.abs(expected).max(initial=0)), name


def test_two_runs_give_the_same_bits(cnn: Graph, data: Dataset) -> None:
    states = []
    for _ in range(2):
        trainer = Trainer(cnn, seed=3, threads=2)
        for batch in data.batches(64, seed=5):
            trainer.step(batch, 0.01)
        states.append(trainer.state)
    assert equal(*states)


def test_it_learns_and_gives_back_a_graph(cnn: Graph, data: Dataset, validation: Dataset) -> None:
    trainer = Trainer(cnn)
    given = trainer.parameters
    before = trainer.evaluate(validation)
    for epoch in range(6):
        for batch in data.batches(32, seed=0, epoch=epoch):
            trainer.step(batch, 0.05)
    after = trainer.evaluate(validation)
    assert after["loss"] < before["loss"] / 2 and after["accuracy"] > 0.9
    scores = taut.compile(trainer.graph)(validation.images)["scores"]
    assert (scores.argmax(1) == validation.labels).mean() == pytest.approx(after["accuracy"])
    assert set(trainer.statistics) == {"bn1.mean", "bn1.var", "bn2.mean", "bn2.var"}
    assert [n.name for n in trainer.graph.inputs] == ["image"]
    assert equal(given, Trainer(cnn).parameters)  # the graph handed in is as it was


def test_frozen_layers_stay_bit_for_bit(cnn: Graph, data: Dataset) -> None:
    trainer = Trainer(cnn, Recipe(frozen=("conv1*", "bn1.*")), target="reference")
    assert set(trainer.parameters) == {"conv2.weight", "bn2.gamma", "bn2.beta", "fc.weight",
                                       "fc.bias"}  # fmt: skip
    assert set(trainer.statistics) == {"bn2.mean", "bn2.var"}
    trainer.step(batches(data)[0], 0.1)
    for name in ("conv1.weight", "bn1.gamma", "bn1.mean", "bn1.var"):
        assert trainer.graph[name].op.value.tobytes() == cnn[name].op.value.tobytes()  # type: ignore[attr-defined]
    assert not np.array_equal(trainer.graph["bn2.mean"].op.value, cnn["bn2.mean"].op.value)  # type: ignore[attr-defined]


def test_pruned_weights_stay_zero(mlp: Graph, data: Dataset) -> None:
    random = np.random.default_rng(0)
    mask = random.random((16, 64)) < 0.3
    trainer = Trainer(mlp)
    trainer.load_state({"fc1.weight": trainer.parameters["fc1.weight"] * mask})
    pruned = trainer.graph
    masks = zero_masks(pruned)
    assert np.array_equal(masks["fc1.weight"], mask) and set(masks) == {"fc1.weight"}
    recipe = Recipe(optimizer="sgd{momentum=0.9 decay=0.01}")
    trainer = Trainer(pruned, recipe, masks=masks)
    for batch in batches(data):
        trainer.step(batch, 0.05)
    weight = trainer.parameters["fc1.weight"]
    assert not weight[~mask].any() and weight[mask].all()
    assert not trainer.state["optimizer.momentum.fc1.weight"][~mask].any()


def test_masks_may_change_between_steps(mlp: Graph, data: Dataset) -> None:
    trainer = Trainer(mlp, masks={"fc2.weight": np.ones((10, 16), bool)}, target="reference")
    trainer.step(batches(data)[0], 0.1)
    held = trainer.parameters["fc2.weight"]
    trainer.masks["fc2.weight"][:5] = False
    trainer.step(batches(data)[1], 0.1)
    now = trainer.parameters["fc2.weight"]
    assert now[:5].tobytes() == held[:5].tobytes() and not np.array_equal(now[5:], held[5:])


def test_a_loss_that_the_graph_has_and_metrics_of_ones_own() -> None:
    net = Network(seed=0)
    x, z = net.input("x", (4,)), net.input("z", (3,))
    off = net.b.sub(net.linear(x, 3, name="fc"), z)
    far = net.b.reduce_mean(net.b.mul(off, off), keepdims=False)
    graph = net.outputs(far=far, off=off)

    def largest(outputs: Any, target: Array) -> float:
        assert target.size == 0
        return float(np.abs(outputs["off"]).max())

    trainer = Trainer(graph, Recipe(loss="far", metrics=(largest,)), target="reference")
    random = np.random.default_rng(0)
    batch = {"x": random.random((8, 4), np.float32), "z": random.random((8, 3), np.float32)}
    first = trainer.step(batch, 0.1)
    want = np.abs(taut.reference(graph, **batch)["off"]).max()
    assert first["largest"] == pytest.approx(want)
    for _ in range(20):
        last = trainer.step(batch, 0.1)
    assert last["loss"] < first["loss"] / 2


def test_mean_squared_error_and_soft_targets(mlp: Graph, data: Dataset) -> None:
    wanted = np.eye(10, dtype=np.float32)[data.labels]
    for loss in ("mean-squared-error", "soft-cross-entropy"):
        trainer = Trainer(mlp, Recipe(loss=loss), target="reference")
        found = [trainer.step((data.images, 4 * wanted), 0.05) for _ in range(12)]
        assert found[-1]["loss"] < found[0]["loss"] and "accuracy" not in found[0]


# ---- what is refused -----------------------------------------------------------------------------

X, Y = np.zeros((4, 1, 8, 8), np.float32), np.arange(4)
NAN = np.full_like(X, np.nan)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ((X, Y + 7), 'node "target": label 3 of the batch is 10, not from 0 to below 10'),
        ((X, Y - 1), "label 0 of the batch is -1"),
        ((X, Y.astype(np.int32)), r"node \"target\": wants i64\[batch\], not int32\[4\]"),
        ((X, Y.astype(np.float32)), "node \"target\": wants i64"),
        ((NAN, Y), 'node "image": holds NaN'),
        ((X[:, :, :7], Y), r'node "image": wants f32\[batch,1,8,8\], not shape \[4, 1, 7, 8\]'),
        ((X, Y[:3]), r'node "target": wants i64\[batch\], not shape \[3\]: batch is already 4'),
        ((X[:0], Y[:0]), "a batch is empty"),
        (X, "has 1 arrays"),
        ({"image": X}, r"where \['image', 'target'\] are wanted"),
        ({"image": X, "labels": Y}, "'labels'"),
    ],
)  # fmt: skip
def test_bad_batches_are_refused_and_change_nothing(mlp: Graph, batch: Any, message: str) -> None:
    trainer = Trainer(mlp, target="reference")
    before = trainer.state
    with pytest.raises(FeedError, match=message):
        trainer.step(batch, 0.1)
    assert equal(before, trainer.state) and trainer.steps == 0


@pytest.mark.parametrize("target", ["reference", "cpu"])
def test_a_step_that_is_cut_off_changes_nothing(
    mlp: Graph, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever: before the program runs, behind it, or while the new state is put together."""
    trainers = [Trainer(mlp, Recipe(optimizer="adam"), target=target) for _ in range(2)]
    for trainer in trainers:
        for _ in range(2):  # so that arrays are written again
            trainer.step((X, Y), 0.1)
    cut, quiet = trainers

    def fail(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    call = cut._call

    def late(*arguments: Any) -> Any:
        call(*arguments)
        raise KeyboardInterrupt

    for name, stop in (("_call", fail), ("_call", late), ("_add", fail), ("_kept", fail)):
        before = cut.state
        with monkeypatch.context() as patch:
            patch.setattr(cut, name, stop)
            with pytest.raises(KeyboardInterrupt):
                cut.step((X, Y), 0.1)
        assert equal(before, cut.state) and cut.steps == quiet.steps
        cut.step((X, Y), 0.1)
        quiet.step((X, Y), 0.1)
        assert equal(quiet.state, cut.state) and cut.steps == quiet.steps


@pytest.mark.parametrize("target", ["reference", "cpu"])
def test_a_step_within_a_step_is_made_and_the_outer_one_says_so(mlp: Graph, target: str) -> None:
    inner: list[Any] = []

    def metric(outputs: Any, labels: Any) -> float:
        if len(inner) == 2:
            inner.append(None)
            trainer.step((X[:2], Y[:2]), 0.1)
        return 0.0

    trainer = Trainer(mlp, Recipe(metrics=(metric,)), target=target)
    quiet = Trainer(mlp, target=target)
    for _ in range(2):
        trainer.step((X, Y), 0.1)
        quiet.step((X, Y), 0.1)
        inner.append(None)
    with pytest.raises(TrainingError, match="another step"):
        trainer.step((X, Y), 0.1)
    quiet.step((X[:2], Y[:2]), 0.1)
    assert equal(quiet.state, trainer.state) and trainer.steps == 3


@pytest.mark.parametrize("target", ["reference", "cpu"])
def test_a_loss_that_is_no_number_stops_and_changes_nothing(mlp: Graph, target: str) -> None:
    trainer = Trainer(mlp, target=target)
    x = X + 1
    trainer.step((x, Y), 1e30)
    before = trainer.state
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf)"):
        trainer.step((x, Y), 0.1)
    assert equal(before, trainer.state) and trainer.steps == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recipe": Recipe(loss="distance")}, "'distance'"),
        ({"recipe": Recipe(metrics=("recall",))}, "'recall'"),
        ({"recipe": Recipe(optimizer="dce")}, "no optimizer"),
        ({"recipe": Recipe(frozen=("fc*",))}, "no parameter to train"),
        ({"recipe": Recipe(frozen=("conv*",))}, r"conv\*"),
        ({"masks": {"fc9": np.ones(3, bool)}}, "'fc9'"),
        ({"masks": {"fc1.weight": np.ones(3, bool)}}, r"bool\[3\], not bool\[16, 64\]"),
        ({"masks": {"fc1.weight": np.ones((16, 64))}}, "the mask is float64"),
    ],
)  # fmt: skip
def test_bad_recipes_are_refused(mlp: Graph, options: Any, message: str) -> None:
    with pytest.raises(FeedError, match=message):
        Trainer(mlp, **options)


def test_state_that_does_not_fit_is_refused(mlp: Graph) -> None:
    trainer = Trainer(mlp)
    with pytest.raises(FeedError, match="'fc9'"):
        trainer.load_state({"fc9": np.zeros(3)})
    with pytest.raises(FeedError, match=r"fc1\.bias"):
        trainer.load_state({"fc1.bias": np.zeros(3, np.float32)})


@pytest.mark.parametrize("pipeline", ["int8", "quantize"])
def test_weights_that_are_integers_already_are_not_trained(pipeline: str) -> None:
    """What is left of such a model is the scale of its output, which is no weight."""
    data = [np.random.default_rng(0).standard_normal((2, 1, 28, 28)).astype(np.float32)]
    integers = PassManager(pipeline).run(zoo("lenet-5"), Context(data=data)).graph
    with pytest.raises(FeedError, match="are integers already") as refused:
        Trainer(integers, Recipe())
    weights = [n.name for n in integers.nodes() if n.op.name == "constant"]
    assert str(refused.value).split("its weights '")[1].split("'")[0] in weights
    with pytest.raises(FeedError, match=r"nothing|no parameter"):
        Trainer(integers, Recipe(frozen=tuple(weights)))


def test_zero_points_of_weights_that_are_floats_are_no_weights() -> None:
    b = Builder()
    x = b.input("x", "f32", ("n", 4))
    w = b.constant(np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32), "w")
    scale, zero = np.full(3, 0.1, np.float32), np.zeros(3, np.int8)
    rounded = b.dequantize_linear(b.quantize_linear(w, scale, zero), scale, zero)
    graph = b.outputs(y=b.mat_mul(x, rounded))
    assert set(Trainer(graph, Recipe()).parameters) == {"w"}
