"""Taut takes the slack out of neural networks: ONNX in, fast int8 programs out.

    graph = taut.load("model.onnx")
    int8 = taut.quantize(graph, data=batches)
    program = taut.compile(int8, threads=2)
    outputs = program(x)

`import taut` itself is quick: what a call needs is imported when it is made.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from .formats import load as load
from .formats import save as save

if TYPE_CHECKING:
    from taut.backends.base import Program
    from taut.comparison import Comparison
    from taut.frontends.torch import from_torch, to_torch
    from taut.ir import DEFAULT_LIMITS, DType, Graph, Limits, TautError, TensorType
    from taut.ir.op import Array
    from taut.passes import Pipeline

    from . import backends, data, frontends, ir, passes, samples, testing, training
    from .distillation import distill
    from .training import quantize_aware, train

__version__ = "0.1.0"

__all__ = [
    "DEFAULT_LIMITS", "DType", "Data", "Graph", "Limits", "TautError", "TensorType", "backends",
    "compare", "compile", "data", "distill", "from_torch", "frontends", "ir", "load", "optimize",
    "passes", "quantize", "quantize_aware", "reference", "samples", "save", "testing", "to_torch",
    "train", "training",
]  # fmt: skip

Data = Iterable["Array | tuple[Array, ...] | list[Array] | Mapping[str, Array]"]
"""Inputs, one item a call: an array, a tuple of arrays in graph order, or a dict by name."""

_MODULES = {"backends", "data", "frontends", "ir", "passes", "samples", "testing", "training"}
_FUNCTIONS = {
    "distill": "distillation", "quantize_aware": "training", "train": "training",
    "from_torch": "frontends.torch", "to_torch": "frontends.torch",
}  # fmt: skip
_FROM_IR = {"DEFAULT_LIMITS", "DType", "Graph", "Limits", "TautError", "TensorType"}


def __getattr__(name: str) -> Any:
    """Import a sub-package, or a name of one, when it is first asked for."""
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    if name in _FROM_IR:
        return getattr(importlib.import_module(".ir", __name__), name)
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(f".{_FUNCTIONS[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


def optimize(
    graph: Graph, pipeline: str | Pipeline = "O2", data: Data | None = None, seed: int = 0
) -> Graph:
    """A new graph: `graph` after a pipeline text (`fold,fuse-conv,dce`) or preset (`O1`, `O2`).

    `data` is what calibrating passes read; `seed` makes passes that draw numbers repeatable.
    Raises ParseError for bad pipeline text and PassError where a pass fails.
    """
    from taut.passes import Context, PassManager
    from taut.runner import CompiledRunner

    context = Context(data=data, seed=seed, runner=CompiledRunner())
    return PassManager(pipeline).run(graph, context).graph


def quantize(
    graph: Graph, data: Data, calibrate: str = "percentile", seed: int = 0, **options: Any
) -> Graph:
    """A new int8 graph: the `int8` preset, its ranges measured on `data`. With another `scheme`
    (`float8`) its weights are stored in that, and it stays a float graph.

    `calibrate` and `options` are those of the `quantize` pass (`taut passes quantize` lists them).
    Which layers stay in floating point, and why, is in the report of `taut.passes.PassManager`,
    which `taut quantize` prints. Raises ParseError for an unknown option, FeedError for unfit data.
    """
    from taut.presets import int8_pipeline

    return optimize(graph, int8_pipeline({"calibrate": calibrate, **options}), data, seed)


def compile(
    graph: Graph, target: str = "cpu", threads: int | None = None, **options: Any
) -> Program:
    """A program for `target` (`cpu`, `reference`): call it with arrays in graph order or by name.

    `threads` defaults to the machine's cores. Raises CompileError.
    """
    from taut.backends.base import compile

    return compile(graph, target, threads, **options)


def reference(graph: Graph, *arrays: Array, **named: Array) -> dict[str, Array]:
    """Outputs by name from the NumPy reference: slow and exact, the definition of right.

    Raises FeedError where inputs do not fit.
    """
    from taut.ir import interpret
    from taut.ir.interpret import bind_feeds

    return interpret(graph, bind_feeds(graph, arrays, named))


def compare(a: Graph | Program, b: Graph | Program, data: Data) -> Comparison:
    """How `b` differs from `a`, layer by layer over `data`: SQNR, largest error, agreement.

    Graphs are run by the reference and compared at every node whose name both have; of a program
    only the outputs are seen. The result prints as a table and has `.to_json()`.
    """
    from taut.comparison import compare

    return compare(a, b, data)
