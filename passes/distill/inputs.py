"""Which of a student's inputs a teacher reads, and what the teacher's symbols are there."""

from __future__ import annotations

from collections.abc import Mapping

from ...ir import Dim, FeedError, Graph, Node, TensorType
from ...ir.errors import show_name


def shared_inputs(graph: Graph, teacher: Mapping[str, TensorType]) -> dict[str, Node]:
    """The student's input for each of the teacher's: of its name where all are there, else by
    position. Raises FeedError that names both where one is missing or of an unfit type.
    """
    inputs = {n.name: n for n in graph.inputs}
    if all(name in inputs for name in teacher):
        pairs = {name: inputs[name] for name in teacher}
    elif len(teacher) <= len(inputs):
        pairs = dict(zip(teacher, inputs.values()))
    else:
        raise FeedError(f"the teacher takes {', '.join(map(show_name, teacher))}, the student only "
                        f"{', '.join(map(show_name, inputs))}")  # fmt: skip
    sizes: dict[str, Dim] = {}
    for name, node in pairs.items():
        if not _fits(teacher[name], node.type, sizes):
            raise FeedError(
                f"the teacher's input {show_name(name)} is {teacher[name]}, the student's "
                f"{show_name(node.name)} {node.type}", hint="bind or rename the sizes that differ"
            )  # fmt: skip
    return pairs


def _fits(teacher: TensorType, student: TensorType, sizes: dict[str, Dim]) -> bool:
    """Whether all that a student takes, a teacher takes too; notes what its symbols stand for."""
    if teacher.dtype is not student.dtype:
        return False
    if teacher.shape is None:
        return True
    if student.shape is None or len(student.shape) != len(teacher.shape):
        return False
    for t, s in zip(teacher.shape, student.shape):
        if isinstance(t, int) and t != s:
            return False
        if isinstance(t, str) and sizes.setdefault(t, s) != s:
            return False
    return True


def symbols(graph: Graph, teacher: Mapping[str, TensorType]) -> dict[str, Dim]:
    """What the teacher's symbols are in the student."""
    sizes: dict[str, Dim] = {}
    for name, node in shared_inputs(graph, teacher).items():
        _fits(teacher[name], node.type, sizes)
    return sizes
