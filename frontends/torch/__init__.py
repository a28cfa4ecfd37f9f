"""PyTorch modules as graphs, and graphs as modules that can be trained. Needs the extra `torch`.

graph = taut.from_torch(module, (x,), dynamic_shapes={"x": {0: "batch"}})
module = taut.to_torch(graph)
...  # train it
graph = taut.from_torch(module)
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...ir import DEFAULT_LIMITS, Graph, Limits, UnsupportedError, verify
from ..unsupported import NotCarried, Unsupported, UnsupportedOps

if TYPE_CHECKING:
    import torch

    from .module import GraphModule

__all__ = ["NotCarried", "Unsupported", "UnsupportedOps", "from_torch", "load_state", "to_torch"]

Source = Any
"""A torch.nn.Module or a torch.export.ExportedProgram."""


def from_torch(
    source: Source,
    args: tuple[Any, ...] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
    output_names: Sequence[str] | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Graph:
    """A module or an exported program as a graph, verified.

    A module is exported with `torch.export` on the example inputs `args` and `kwargs` in evaluation
    mode. `dynamic_shapes` says which axes may vary as torch.export has it, and a string stands for
    a Dim of that name, which becomes the IR's symbol; for a program, where the exporter has decided
    what varies, it only gives names. A module made by `to_torch` gives its graph back with its
    parameters and buffers as they are now, and needs no inputs.

    Inputs have the names of the module's arguments, constants those of its state_dict, other values
    those of the program's nodes. Outputs are `output_names`, or keys where the module returns a
    dict.

    What the exporter assumed of sizes becomes conditions of the graph: inputs that break one are
    refused. Warns (NotCarried) of what a graph cannot hold: assertions on data, and what a module
    does in training only (noise that is no dropout, state that moves).

    Raises UnsupportedOps, which lists every unsupported node; ModelError where the module cannot be
    traced; VerifyError, LimitError; UnsupportedError, also where PyTorch is missing.
    """
    _require_torch()
    from torch import nn
    from torch.export import ExportedProgram

    from .module import GraphModule
    from .program import export
    from .training import lost_in_training

    if isinstance(source, GraphModule) and args is None:
        return source.to_graph()
    if isinstance(source, nn.Module):
        program = export(source, args or (), kwargs or {}, dynamic_shapes)
    elif isinstance(source, ExportedProgram):
        program = source
    else:
        raise UnsupportedError(
            f"a {type(source).__name__} is neither a torch.nn.Module nor an ExportedProgram",
            hint="files of weights are read by taut.frontends.torch.load_state",
        )
    graph = _import(program, dynamic_shapes, output_names)
    if isinstance(source, nn.Module):
        for reason in lost_in_training(source, args or (), kwargs or {}, graph):
            warnings.warn(reason, NotCarried, stacklevel=2)
    verify(graph, limits)
    return graph


def _import(program: Any, spec: Any, output_names: Sequence[str] | None) -> Graph:
    from . import importing  # noqa: F401 (fills the table of ops)
    from .guards import add_conditions, left_out
    from .importer import Importer
    from .program import check_signature, known_ops, symbol_names

    known, found = known_ops(program)
    for checked in (program, known):  # what is written to shows once writes are made explicit
        check_signature(checked)
    if found:
        raise UnsupportedOps(found, hint="docs/torch.md lists what is supported")
    names = symbol_names(program, spec)
    chosen = None if output_names is None else tuple(output_names)
    for reason in left_out(known):
        warnings.warn(reason, NotCarried, stacklevel=3)
    importer = Importer(known, names)
    graph = importer.run(chosen)
    if known is not program:  # decompositions are traced anew
        add_conditions(graph, program, importer.symbols)
    return graph


def to_torch(graph: Graph, *, trainable: Callable[[str], bool] | None = None) -> GraphModule:
    """A torch.nn.Module that computes what the graph does and can be trained.

    Float constants are its parameters under their own names (`layer1.0.weight` is a parameter of
    nested modules), but not those that are no weights: running statistics, bounds, scales of
    quantizers, single numbers; these are buffers. `trainable` decides by name instead.
    `forward` takes the graph's inputs by position or name and returns a dict of its outputs.

    In training mode batch normalization uses and updates statistics as PyTorch does and dropout
    drops. Quantizers round but let the gradient through (straight-through estimator: Bengio,
    Leonard and Courville, 2013), integer weights become floats that are quantized in each call.

    Raises UnsupportedError that names the first node without a form in PyTorch.
    """
    _require_torch()
    from .module import GraphModule

    return GraphModule(graph, trainable)


def load_state(
    path: str | os.PathLike[str], *, limits: Limits = DEFAULT_LIMITS
) -> dict[str, torch.Tensor]:
    """The tensors of a `.safetensors` file, or of a `.pt`, `.pth` or `.bin` file of a state_dict.

    The latter are pickles: they are read with `torch.load(weights_only=True)` and nothing else.
    Raises StorageError, LimitError; ModelError for a damaged file and one that holds more than
    tensors; UnsupportedError for another suffix.
    """
    _require_torch()
    from .weights import load_state

    return load_state(path, limits)


def _require_torch() -> None:
    if importlib.util.find_spec("torch") is None:
        raise UnsupportedError("PyTorch is not installed", hint="pip install 'taut[torch]'")
