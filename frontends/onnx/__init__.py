"""ONNX files as graphs, opsets 6 to the newest, functions and external data included; and graphs as
ONNX models, so that what Taut made smaller also runs where people already deploy."""

from __future__ import annotations

import os

from onnx import ModelProto

from ...ir import DEFAULT_LIMITS, Graph, LimitError, Limits, TautError, verify
from ...ir.conditions import stored
from ..unsupported import Unsupported, UnsupportedOps
from .exporter import export_onnx
from .functions import local_functions
from .importer import Importer
from .nested import all_graphs
from .read import Source, opsets, properties, read_model
from .survey import survey
from .tensors import TensorReader

__all__ = ["Unsupported", "UnsupportedOps", "export_onnx", "load_onnx", "unsupported_ops"]


def load_onnx(source: Source, *, limits: Limits = DEFAULT_LIMITS) -> Graph:
    """Import an ONNX model from a path, its bytes or a ModelProto, and verify it.

    Nodes are named after their first output, inputs and constants as in the file; named dimensions
    become symbols; metadata properties become `graph.metadata`. External data is read only from
    within the model's folder.

    Raises UnsupportedOps that lists every unsupported node; ModelError for damaged or lying files,
    VerifyError for ill-typed nodes, LimitError, StorageError. Nothing else.
    """
    try:
        model, folder = read_model(source, limits)
        versions = opsets(model.opset_import)
        functions = local_functions(model)
        _check_size(model, limits)
        found = survey(model.graph, versions, functions)
        if found:
            raise UnsupportedOps(found)
        reader = TensorReader(folder, limits)
        graph = Importer(model.graph, versions, functions, reader, limits).run()
        graph.metadata.update(properties(model))
        for condition in stored(graph.metadata):
            graph.require(condition)
        verify(graph, limits)
    except TautError as error:
        raise error.with_context(file=_label(source))
    except MemoryError as error:
        raise LimitError("there is not memory enough to read it", file=_label(source)) from error
    return graph


def unsupported_ops(source: Source, *, limits: Limits = DEFAULT_LIMITS) -> list[Unsupported]:
    """Every node and input of a model that cannot be imported, and why; empty if all can."""
    try:
        model, _ = read_model(source, limits)
        _check_size(model, limits)
        return survey(model.graph, opsets(model.opset_import), local_functions(model))
    except TautError as error:
        raise error.with_context(file=_label(source))


def _check_size(model: ModelProto, limits: Limits) -> None:
    """Count the nodes of all graphs and look how deep they are nested."""
    nodes = len(model.graph.node)
    for top in (model.graph.node, *(f.node for f in model.functions)):
        nodes += sum(len(g.node) for g in all_graphs(top, limits))
    if nodes > limits.nodes:
        raise LimitError(f"the model has {nodes} nodes, over the limit of {limits.nodes}")


def _label(source: Source) -> object:
    return os.fspath(source) if isinstance(source, str | os.PathLike) else None
