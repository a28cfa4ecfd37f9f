"""One graph of a student and its teacher, and the way back to the student alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ...ir import Builder, Dim, FeedError, Graph, Node, TensorType, Value
from ...ir.analysis.liveness import above
from ...ir.errors import show_name
from ...ir.ops.adjoint import in_type_of, scaled
from ...ir.ops.attention import Attention
from ..base import near
from ..context import Context
from ..gradient.parameters import FROZEN
from .inputs import shared_inputs, symbols
from .layers import (
    DISTILL,
    Kind,
    Layer,
    Recorded,
    attentions,
    features,
    is_attention,
    probability_type,
    with_probabilities,
)

TEACHER = FROZEN
"""What names of the teacher's nodes start with, which also keeps its weights from training."""

STUDENT = "distill.student"
"""Key of a joined graph's metadata: what the student was (JSON), for `take_out`."""


class Joint:
    """A student's graph to which a teacher is joined, by the first pass that asks.

    The teacher is `context.teacher`: a Graph, whose nodes are copied, or `Recorded`, whose layers
    become inputs. Student and teacher share the student's inputs, by name or else by position.
    Raises FeedError, which names both sides, where they do not fit.
    """

    def __init__(self, graph: Graph, context: Context) -> None:
        self.graph, self.b = graph, Builder(graph, prefix=DISTILL)
        self.teacher: Graph | Recorded = _teacher(context)
        if STUDENT in graph.metadata:
            self.state = read_state(graph)
        else:
            self.state = _state(graph)
            self._join()
            self._write()

    # ---- joining -------------------------------------------------------------------------------

    def _join(self) -> None:
        if isinstance(self.teacher, Recorded):
            shared_inputs(self.graph, self.teacher.inputs)
            return
        types = {n.name: n.type for n in self.teacher.inputs}
        feeds = shared_inputs(self.graph, types)
        made = self.graph.splice(self.teacher, feeds, prefix=TEACHER)
        self.state["teacher"] = {name: _place(v) for name, v in made.items()}

    def _write(self) -> None:
        self.graph.metadata[STUDENT] = json.dumps(self.state)

    # ---- layers --------------------------------------------------------------------------------

    def output(self, name: str) -> tuple[Layer, Value]:
        """The student's output of this name, its first by default."""
        outputs = {k: find_value(self.graph, at) for k, at in self.state["outputs"].items()}
        name = _chosen(name, outputs, "the student")
        return Layer(name, "output", outputs[name].type), outputs[name]

    def teacher_output(self, name: str) -> Layer:
        """The teacher's output of this name, its first by default."""
        layers = {n.name: n for n in self.teacher_layers("output")}
        return layers[_chosen(name, layers, "the teacher")]

    def layers(self, kind: Kind) -> list[Layer]:
        """The student's features or attention, in order."""
        nodes = [n for n in self.graph.nodes() if not n.name.startswith((TEACHER, DISTILL))]
        return self._layers(kind, nodes, "")

    def teacher_layers(self, kind: Kind) -> list[Layer]:
        """The teacher's layers of a kind, in order, in the student's symbols."""
        if isinstance(self.teacher, Recorded):
            sizes = symbols(self.graph, self.teacher.inputs)
            return [Layer(n.name, n.kind, _recorded_type(n.type, sizes, self.batch))
                    for n in self.teacher.layers if n.kind == kind]  # fmt: skip
        if kind == "output":
            places = self.state["teacher"].items()
            return [Layer(k, kind, find_value(self.graph, at).type) for k, at in places]
        nodes = [n for n in self.graph.nodes() if n.name.startswith(TEACHER)]
        return self._layers(kind, nodes, TEACHER)

    def _layers(self, kind: Kind, nodes: list[Node], prefix: str) -> list[Layer]:
        if kind == "feature":
            return [Layer(v.node.name.removeprefix(prefix), kind, v.type)
                    for v in features(self.graph, nodes)]  # fmt: skip
        return [Layer(n.name.removeprefix(prefix), kind, probability_type(self.graph, n))
                for n in attentions(self.graph, nodes)]  # fmt: skip

    def named(self, name: str, kind: Kind) -> Layer:
        """The student's layer at node `name`. Raises FeedError."""
        return self._named(name, name, kind, "the student")

    def teacher_named(self, name: str, kind: Kind) -> Layer:
        """The teacher's layer at node `name`. Raises FeedError."""
        if not isinstance(self.teacher, Recorded):
            return self._named(TEACHER + name, name, kind, "the teacher")
        known = {n.name: n for n in self.teacher_layers(kind)}
        if name not in known:
            raise FeedError(f"no {kind} {show_name(name)} was recorded{near(name, list(known))}",
                            hint=f"recorded are {', '.join(known) or 'none'}")  # fmt: skip
        return known[name]

    def _named(self, full: str, name: str, kind: Kind, whose: str) -> Layer:
        node = self.graph.find(full)
        if node is None or not node.results:
            names = [n.name.removeprefix(TEACHER) for n in self.graph.nodes()
                     if n.name.startswith(TEACHER) == (full != name)]  # fmt: skip
            raise FeedError(f"{whose} has no node {show_name(name)}{near(name, names)}")
        if kind == "attention" and not is_attention(self.graph, node):
            raise FeedError(f"is of {whose} and has no attention probabilities", node=name,
                            op=node.op.name)  # fmt: skip
        type = probability_type(self.graph, node) if kind == "attention" else node.type
        if not type.dtype.is_float or type.shape is None or len(type.shape) < 2:
            raise FeedError(f"is of {whose} and gives {type}, no floats with a batch", node=name)
        return Layer(name, kind, type)

    # ---- values --------------------------------------------------------------------------------

    @property
    def batch(self) -> Dim:
        """The first dimension of the student's first input."""
        shape = self.graph.inputs[0].type.shape
        return shape[0] if shape else None

    def value(self, layer: Layer) -> Value:
        """The student's value at a layer."""
        if layer.kind == "output":
            return self.output(layer.name)[1]
        node = self.graph[layer.name]
        return self._probabilities(node) if layer.kind == "attention" else node[0]

    def teacher_value(self, layer: Layer, like: Value) -> Value:
        """The teacher's value at a layer, in the element type of `like`."""
        if isinstance(self.teacher, Recorded):
            name = TEACHER + layer.key
            node = self.graph.find(name) or self.graph.add_input(name, layer.type)
            return in_type_of(self.b, node[0], like)
        if layer.kind == "output":
            found = find_value(self.graph, self.state["teacher"][layer.name])
        else:
            node = self.graph[TEACHER + layer.name]
            found = self._probabilities(node) if layer.kind == "attention" else node[0]
        return in_type_of(self.b, found, like)

    def note_pair(self, asker: str, student: Layer, teacher: Layer) -> None:
        self.state["pairs"].append([asker, student.kind, student.name, teacher.name])
        self._write()

    def _probabilities(self, node: Node) -> Value:
        """Of a student's attention that is changed for it, the joined graph notes how it was."""
        op = node.op
        if isinstance(op, Attention) and op.outputs < 4 and not node.name.startswith(TEACHER):
            self.state["attention"][node.name] = [op.outputs, op.qk_matmul_output_mode]
            self._write()
        return with_probabilities(self.graph, node)

    # ---- the loss ------------------------------------------------------------------------------

    def labels(self, name: str, type: TensorType) -> Value:
        """The input of labels: the one of this name that is there, or a new one."""
        node = self.graph.find(name)
        if node is None:
            return self.graph.add_input(name, type)[0]
        if node not in self.graph.inputs or not node.type.accepts(type):
            raise FeedError(f"is {node.type} and cannot be labels {type}", node=name,
                            hint="give another name with target=")  # fmt: skip
        return node[0]

    def add(self, term: Value, weight: float, result: str) -> None:
        """Add weight * term to the output `result`, which the first term makes."""
        outputs = dict(zip(self.graph.output_names, self.graph.outputs))
        term, old = scaled(self.b, term, weight), outputs.get(result)
        if old is not None:
            if not old.type.dtype.is_float or old.shape != ():
                raise FeedError(f"output {show_name(result)} is {old.type}, no scalar to add to",
                                hint="give another name with result=")  # fmt: skip
            term = self.b.add(old, in_type_of(self.b, term, old))
        self.graph.set_outputs({**outputs, result: term})


def _teacher(context: Context) -> Graph | Recorded:
    teacher = context.teacher
    if not isinstance(teacher, Graph | Recorded):
        raise FeedError("there is no teacher",
                        hint="give Context(teacher=...), or --teacher FILE")  # fmt: skip
    return teacher


def _state(graph: Graph) -> dict[str, Any]:
    """What must be known to make the student again."""
    if not graph.inputs or not graph.outputs:
        raise FeedError("a student needs inputs and outputs")
    for node in graph.nodes():
        if node.name.startswith((TEACHER, DISTILL)):
            raise FeedError(f"names that start with {TEACHER} or {DISTILL} are for distillation",
                            node=node.name, hint="rename the student's node")  # fmt: skip
    live = reached(graph)
    return {
        "outputs": {k: _place(v) for k, v in zip(graph.output_names, graph.outputs)},
        "kept": [n.name for n in graph.nodes() if n not in live] + [n.name for n in graph.inputs],
        "attention": {}, "teacher": {}, "pairs": [],
    }  # fmt: skip


def read_state(graph: Graph) -> dict[str, Any]:
    return json.loads(graph.metadata[STUDENT])


def pairs_of(graph: Graph, asker: str = "") -> list[tuple[Kind, str, str]]:
    """What a joined graph compares, or one of the passes that joined it: kind, node of the student,
    node of the teacher.
    """
    return [(kind, student, teacher) for who, kind, student, teacher in read_state(graph)["pairs"]
            if who == asker or not asker]  # fmt: skip


def reached(graph: Graph) -> set[Node]:
    """What the outputs depend on, the return included."""
    return above(graph, [graph.result])


def _recorded_type(type: TensorType, sizes: Mapping[str, Dim], batch: Dim) -> TensorType:
    assert type.shape is not None
    rest = [sizes.get(d) if isinstance(d, str) else d for d in type.shape[1:]]
    return type.with_shape((batch, *rest))


def _place(value: Value) -> list[Any]:
    return [value.node.name, value.index]


def find_value(graph: Graph, at: list[Any]) -> Value:
    node = graph.find(at[0])
    if node is None:
        raise FeedError(f"node {show_name(at[0])} is gone since the teacher was joined",
                        hint="join again")  # fmt: skip
    return node[at[1]]


def _chosen(name: str, known: Mapping[str, Any], whose: str) -> str:
    if name and name not in known:
        raise FeedError(f"{whose} has no output {show_name(name)}{near(name, list(known))}")
    if not known:
        raise FeedError(f"{whose} has no output")
    return name or next(iter(known))
