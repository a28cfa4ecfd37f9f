"""Joining a teacher, and taking the student out again."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from taut.frontends.zoo import zoo
from taut.ir import (
    Builder,
    FeedError,
    Graph,
    TautError,
    interpret,
    load_container,
    print_graph,
    save_container,
)
from taut.ir.ops.structure import Constant
from taut.passes import Context, PassManager, random_feeds
from taut.passes.distill import attentions, features
from taut.passes.gradient import freeze, trainable
from taut.passes.gradient.gradient import Gradient

from taut import testing

ALL = "distill-response,distill-relation{similarity=1},distill-attention,distill-hint"


def join(pipeline: str, student: Graph, teacher: Any, seed: int = 0) -> Graph:
    return PassManager(pipeline).run(student, Context(teacher=teacher, seed=seed)).graph


def take(graph: Graph) -> Graph:
    return PassManager("take-student").run(graph).graph


def text(graph: Graph) -> str:
    """All of it, every bit of the weights and the order of nodes too."""
    return print_graph(graph, resources="inline")


def moved(graph: Graph, random: np.random.Generator) -> Graph:
    """The graph with other weights."""
    twin = graph.copy()
    for name, array in trainable(twin).items():
        noise = random.standard_normal(array.shape).astype(array.dtype)
        twin.set_op(twin[name], Constant(array + noise))
    return twin


def mlp(*sizes: int, seed: int = 0, name: str = "x", batch: Any = "batch") -> Graph:
    b, random = Builder(), np.random.default_rng(seed)
    x = b.input(name, "f32", (batch, sizes[0]))
    for i, (n, m) in enumerate(itertools.pairwise(sizes), 1):
        weight = random.standard_normal((m, n)).astype(np.float32)
        x = b.gemm(x, b.constant(weight, f"fc{i}.weight"), transB=True, name=f"fc{i}")
        x = b.tanh(x, name=f"act{i}") if i < len(sizes) - 1 else x
    return b.outputs(scores=x)


NETWORKS = {
    "mlp": (mlp(4, 5, 3), mlp(4, 9, 8, 3, seed=1)),
    "lenet": (zoo("lenet-5", width=0.2), zoo("lenet-5", width=0.4, seed=1)),
    "resnet": (zoo("resnet-20", width=0.25, size=8), zoo("resnet-32", width=0.5, size=8)),
    "mobilenet": (zoo("mobilenet-v2", width=0.25, size=32, classes=4),
                  zoo("mobilenet-v2", width=0.25, size=32, classes=4, seed=1)),
    "encoder": (zoo("transformer-encoder", hidden=8),
                zoo("transformer-encoder", layers=4, hidden=16)),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_the_student_comes_out_as_it_went_in(name: str):
    student, teacher = NETWORKS[name]
    pipeline = "distill-response,distill-relation,distill-hint"
    if name != "mlp":
        pipeline += ",distill-attention"
    joined = join(pipeline, student, teacher)
    assert len(joined) > len(student) + len(teacher)
    assert text(take(joined)) == text(student)


@settings(max_examples=60, deadline=None)
@given(st.one_of(testing.mlps(), testing.cnns(), testing.transformers()), st.integers(0, 99))
def test_drawn_students_come_out_as_they_went_in(student: Graph, seed: int):
    """Joined to itself with other weights, by every pass that finds something to compare."""
    teacher = moved(student, np.random.default_rng(seed))
    passes = []
    if all(v.shape is not None and len(v.shape) > 1 for v in student.outputs):
        passes.append("distill-response")
    if features(student, student.nodes()):
        passes += ["distill-relation{similarity=1}", "distill-hint"]
    if attentions(student, student.nodes()):
        passes.append("distill-attention")
    try:
        joined = join(",".join(passes), student, teacher, seed)
    except FeedError as error:  # of the drawn kinds only a batch that is no first axis is refused
        assert "first axis" in str(error) or "linear layer" in str(error)
        return
    before = {k: v for k, v in zip(joined.output_names, joined.outputs) if k != "loss"}
    assert list(before) == list(student.output_names)
    assert text(take(joined)) == text(student)


def test_the_student_keeps_what_it_learned():
    """Trained weights come along; regressor, gradients and the label's input go."""
    student, teacher = NETWORKS["lenet"]
    joined = join(ALL, student, teacher)
    random = np.random.default_rng(3)
    arrays = {k: a + random.standard_normal(a.shape).astype(a.dtype)
              for k, a in trainable(joined).items()}  # fmt: skip
    assert "distill.hint.conv2.weight" in arrays
    work = PassManager("parameters,gradient{loss=loss recompute=true}").run(joined).graph
    given_ = {k: v for k, v in arrays.items() if k in work.signature.inputs}
    out = take(freeze(work, given_))
    want = student.copy()
    for name in trainable(student):
        want.set_op(want[name], Constant(arrays[name]))
    assert text(out) == text(want)
    assert list(out.signature.inputs) == ["image"]


def test_dead_nodes_and_unread_inputs_of_the_student_stay():
    b = Builder()
    x, _ = b.input("x", "f32", ("n", 4)), b.input("unread", "f32", ("n",))
    b.relu(x, name="dead")
    student = b.outputs(y=b.gemm(x, np.eye(4, dtype=np.float32)))
    assert text(take(join("distill-response", student, student))) == text(student)


def test_a_joined_graph_survives_its_file(tmp_path: Any):
    student, teacher = NETWORKS["encoder"]
    joined = join("distill-labels,distill-attention", student, teacher)
    save_container(joined, tmp_path / "joined.taut")
    assert text(take(load_container(tmp_path / "joined.taut"))) == text(student)


def test_the_student_still_answers_the_same():
    student, teacher = NETWORKS["resnet"]
    feeds = random_feeds(student, np.random.default_rng(0))
    joined = join(ALL, student, teacher)
    got = interpret(joined, {**feeds, "target": np.zeros(2, np.int64)})
    want, theirs = interpret(student, feeds), interpret(teacher, feeds)
    np.testing.assert_array_equal(got["scores"], want["scores"])
    shown = joined.copy()
    shown.set_outputs({"t": shown["teacher.classifier"][0]})
    got = interpret(shown, {**feeds, "target": np.zeros(2, np.int64)})
    np.testing.assert_array_equal(got["t"], theirs["scores"])


@pytest.mark.parametrize("name", NETWORKS)
def test_the_teacher_is_frozen(name: str):
    """Its weights stay constants, and the gradients of all that is trained pass it by."""
    student, teacher = NETWORKS[name]
    joined = join("distill-response,distill-relation,distill-hint", student, teacher)
    learned = tuple(trainable(joined))
    assert set(trainable(student)) < set(learned)
    assert not [n for n in learned if n.startswith("teacher.")]
    work = PassManager(["parameters", Gradient(loss="loss", wrt=learned)]).run(joined).graph
    assert not [n.name for n in work.nodes() if n.name.startswith("grad.teacher.")]
    constants = {n.name for n in work.of(Constant)}
    assert {f"teacher.{n}" for n in trainable(teacher)} <= constants


def test_terms_add_up():
    """A loss that is there stays in the sum, and each term has its weight."""
    student, teacher = NETWORKS["mlp"]
    feeds = random_feeds(student, np.random.default_rng(1), {"batch": 6})
    feeds["target"] = np.arange(6) % 3

    def loss(pipeline: str) -> float:
        return float(interpret(join(pipeline, student, teacher), feeds)["loss"])

    def soft(weight: float) -> str:
        return f"distill-response{{alpha=0 weight={weight}}}"

    labels = float(interpret(PassManager("loss").run(student).graph, feeds)["loss"])
    single = loss(f"distill-labels{{weight=0}},{soft(1)}")
    both = loss(f"loss,{soft(2)},distill-labels{{weight=3}}")
    np.testing.assert_allclose(both, labels * 4 + single * 2, rtol=1e-6)
    mixed = loss("distill-response{alpha=0.25}")
    np.testing.assert_allclose(mixed, 0.25 * labels + 0.75 * single, rtol=1e-6)


def test_a_loss_that_was_there_is_there_again():
    student, teacher = NETWORKS["mlp"]
    with_loss = PassManager("loss").run(student).graph
    assert text(take(join("distill-response", with_loss, teacher))) == text(with_loss)


def test_inputs_are_shared_by_position_where_names_differ():
    joined = join("distill-response", mlp(4, 3), mlp(4, 3, name="other", batch="m"))
    assert list(joined.signature.inputs) == ["x", "target"]


# ---- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("pipeline", "student", "teacher", "words"), [
    ("distill-response", mlp(4, 3), mlp(4, 5), ("scores", "f32[batch,3]", "f32[batch,5]")),
    ("distill-response", mlp(4, 3), mlp(5, 3, name="y"), ('"y"', '"x"', "f32[batch,5]")),
    ("distill-response", mlp(4, 3), mlp(4, 3, batch=1), ("f32[1,4]", "f32[batch,4]")),
    ("distill-response{output=z}", mlp(4, 3), mlp(4, 3), ('student has no output "z"',)),
    ("distill-response{teacher_output=score}", mlp(4, 3), mlp(4, 3), ("mean scores?",)),
    ("distill-response{temperature=0.0}", mlp(4, 3), mlp(4, 3), ("temperature is 0.0",)),
    ("distill-response{alpha=2.0}", mlp(4, 3), mlp(4, 3), ("alpha is 2.0",)),
    ("distill-response{weight=-1.0}", mlp(4, 3), mlp(4, 3), ("weight is -1.0",)),
    ("distill-response{axis=2}", mlp(4, 3), mlp(4, 3), ("no axis 2",)),
    ("distill-attention", mlp(4, 5, 3), mlp(4, 5, 3), ("no maps",)),
    ("distill-attention", *NETWORKS["mlp"], ("no maps",)),
    ("distill-attention", zoo("transformer-encoder", heads=2), zoo("transformer-encoder"),
     ("f32[batch,2,sequence,sequence]", "f32[batch,4,sequence,sequence]", "heads=mean")),
    ("distill-attention{layers=[conv1] teacher_layers=[pool1]}", *NETWORKS["lenet"],
     ('"conv1" f32[batch,4,24,24]', '"pool1" f32[batch,8,12,12]')),
    ("distill-attention{of=heads layers=[layer.0.gelu]}", *NETWORKS["encoder"],
     ("layer.0.gelu", "no attention")),
    ("distill-hint{layers=[conv2] teacher_layers=[conv1]}", *NETWORKS["lenet"],
     ('"conv2" f32[batch,10,8,8]', '"conv1" f32[batch,8,24,24]', "not the larger")),
    ("distill-hint{layers=[relu1] teacher_layers=[conv1]}", *NETWORKS["lenet"], ("linear layer",)),
    ("distill-hint{layers=[conv]}", *NETWORKS["lenet"], ('no node "conv"', "conv1")),
    ("distill-hint{layers=[conv1,conv2] teacher_layers=[conv1]}", *NETWORKS["lenet"],
     ("2 layers of the student and 1",)),
    ("distill-hint", mlp(4, 3), mlp(4, 3), ("no feature of the student (none)",)),
    ("distill-relation", mlp(4, 3), mlp(4, 3), ("the student has no layer",)),
    ("distill-relation{angle=-1.0}", *NETWORKS["mlp"], ("0 or more",)),
])  # fmt: skip
def test_refusals_name_both(pipeline: str, student: Graph, teacher: Graph, words: tuple[str, ...]):
    with pytest.raises(FeedError) as caught:
        join(pipeline, student, teacher)
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_a_teacher_of_other_inputs_is_refused():
    b = Builder()
    x, y = (b.input(k, "f32", ("batch", 4)) for k in "xy")
    with pytest.raises(FeedError, match='takes "x", "y", the student only "x"'):
        join("distill-response", mlp(4, 4), b.outputs(scores=b.add(x, y)))


def test_no_teacher_and_no_student():
    with pytest.raises(FeedError, match="there is no teacher; give Context"):
        join("distill-response", mlp(4, 3), None)
    with pytest.raises(FeedError, match="no teacher is joined"):
        take(mlp(4, 3))


def test_names_of_distillation_are_not_the_students():
    b = Builder()
    x = b.input("x", "f32", ("n", 3))
    with pytest.raises(FeedError, match="rename the student's node"):
        join("distill-response", b.outputs(y=b.relu(x, name="teacher.relu")), mlp(3, 3))


def test_labels_need_an_input_of_their_own():
    b = Builder()
    x = b.input("target", "f32", ("n", 3))
    with pytest.raises(TautError, match="cannot be labels"):
        join("distill-response", b.outputs(y=b.tanh(x)), mlp(3, 3))
