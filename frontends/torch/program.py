"""Modules as exported programs whose ops the importer knows, as far as that goes."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.fx.experimental._config
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.fx import Node as FxNode

from ...ir import ModelError, UnsupportedError
from ...ir.types import symbol
from ..unsupported import Unsupported
from .call import ATEN
from .guards import user_inputs

Spec = Any
"""What `torch.export` takes as dynamic_shapes; a string names an axis that varies."""

_FRESH = """conv1d conv2d conv3d batch_norm group_norm layer_norm linear addmm mm bmm add sub mul
div relu hardtanh clamp silu hardswish hardsigmoid sigmoid tanh gelu mean max_pool2d avg_pool2d
adaptive_avg_pool2d cat clone"""
FRESH = frozenset(_FRESH.split())
"""Ops whose result is always memory of its own. Others may hand on their operand's, whatever their
schema says: dropout does where it does nothing."""

MAY_ALIAS = ("aten.einsum.default", "aten.type_as.default")
"""Known ops that must be decomposed where there are writes, to see what they write to."""


def _any_sizes() -> Any:
    """The exporter takes no size for "not 1" on its own: a branch on it is a guard as any other,
    and what does not matter to results (which memory format strides are of) is none.
    """
    return torch.fx.experimental._config.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]


def export(
    module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], shapes: Spec
) -> ExportedProgram:
    """`torch.export` in evaluation mode; the module's own modes stay as they are.

    Raises ModelError with PyTorch's reason where it cannot trace the module.
    """
    modes = {m: m.training for m in module.modules()}
    fast = torch.backends.mha.get_fastpath_enabled()
    module.eval()
    torch.backends.mha.set_fastpath_enabled(False)  # one fused op, which nothing else knows
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with _any_sizes():
                return torch.export.export(
                    module, args, dict(kwargs), dynamic_shapes=_with_dims(shapes)
                )
    except Exception as error:  # what a traced module raises is its own affair
        reason = " ".join(str(error).split())[:400]
        raise ModelError(
            f"torch.export cannot trace {type(module).__name__} ({type(error).__name__}: {reason})",
            hint="see that torch.export.export(module.eval(), inputs) works",
        ) from error
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for m, training in modes.items():
            m.training = training


def _with_dims(spec: Spec) -> Spec:
    """Strings as axes that vary, within bounds that the exporter finds."""
    if isinstance(spec, str):
        return Dim.DYNAMIC
    if isinstance(spec, Mapping):
        return {k: _with_dims(v) for k, v in spec.items()}
    if isinstance(spec, tuple | list):
        return type(spec)(_with_dims(v) for v in spec)
    return spec


def known_ops(program: ExportedProgram) -> tuple[ExportedProgram, list[Unsupported]]:
    """The program, its unknown ops decomposed (and made free of writes) where there are any; and
    the nodes that remain unknown.
    """
    if not survey(program):
        return program, []
    table = torch.export.default_decompositions()
    for op in list(table):
        if str(op) in ATEN and str(op) not in MAY_ALIAS:
            table.pop(op)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with _any_sizes():
            program = program.run_decompositions(table)
    return program, survey(program)


def survey(program: ExportedProgram) -> list[Unsupported]:
    """Every node that counts and whose op is not known, in order."""
    return [
        Unsupported(n.name, op_name(n), reason)
        for n in live_nodes(program)
        if (reason := _reason(n)) is not None
    ]


def live_nodes(program: ExportedProgram) -> Iterator[FxNode]:
    """The calls that the outputs depend on, in order."""
    nodes = list(program.graph.nodes)
    wanted: set[FxNode] = set()
    for n in reversed(nodes):
        writes = n.op == "call_function" and is_in_place(n)
        if n.op == "output" or n in wanted or writes:
            wanted.update(n.all_input_nodes)
            wanted.add(n)
    return (n for n in nodes if n in wanted and n.op not in ("placeholder", "output"))


def op_name(node: FxNode) -> str:
    """`aten.conv2d.default`, `operator.mul`, or a made-up name for what is no op."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return str(target)
    if isinstance(target, str):
        return f"{node.op}:{target}"
    module = getattr(target, "__module__", "").lstrip("_")
    return f"{module}.{getattr(target, '__name__', 'unknown')}"


def handler_name(node: FxNode) -> str:
    """The op that computes what this node does: of a write that nobody else sees, the same without
    the write.
    """
    name = op_name(node)
    if is_in_place(node) and _unseen(node):
        base, _, overload = name.rpartition(".")
        return f"{base.rstrip('_')}.{overload}"
    return name


def is_in_place(node: FxNode) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def _unseen(node: FxNode) -> bool:
    """Whether a write into the first argument is seen through this node's result only: nothing
    else reads that argument, and it is memory of its own.
    """
    first = node.args[0]
    if not isinstance(first, FxNode) or len(first.users) != 1 or first.op != "call_function":
        return False
    if is_in_place(first):
        return _unseen(first)
    return op_name(first).split(".")[1] in FRESH


def _reason(node: FxNode) -> str | None:
    if node.op != "call_function":
        return "is no call of an op"
    if node.target is operator.getitem or handler_name(node) in ATEN:
        return None
    return "writes into its operand" if is_in_place(node) else "not supported yet"


def symbol_names(program: ExportedProgram, spec: Spec) -> dict[str, str]:
    """The graph's names of the symbols that inputs have: the user's, found where the example inputs
    have them, else the program's own.
    """
    tensors = [n.meta.get("val") for n in user_inputs(program)]
    sizes = [d for t in tensors if isinstance(t, torch.Tensor) for d in t.shape]
    plain = [s.node.expr for s in sizes if isinstance(s, torch.SymInt) and s.node.expr.is_symbol]
    return {str(s): symbol(str(s)) for s in plain} | _users_names(program, spec)


def _users_names(program: ExportedProgram, spec: Spec) -> dict[str, str]:
    if spec is None or program.example_inputs is None:
        return {}
    args, kwargs = program.example_inputs
    signature = program.module_call_graph[0].signature
    names = (signature.forward_arg_names if signature else None) or []
    spec = _spread(spec, list(args))
    if len(names) < len(args) + len(kwargs):  # forward(*args): one name for all of them
        parts = list(spec.values()) if isinstance(spec, Mapping) else list(spec)
        axes = _by_leaf(args, parts[0] if len(parts) == 1 else parts)
    else:
        by_name = spec if isinstance(spec, Mapping) else dict(zip(names, spec))
        axes = _by_leaf(dict(zip(names, args)) | kwargs, by_name)
    found: dict[str, str] = {}
    for node, named in zip(user_inputs(program), axes):
        found |= _axis_names(node.meta.get("val"), named)
    return found


def _spread(spec: Spec, args: list[Any]) -> Spec:
    """The spec of forward(*xs), which has one entry for them all, with one for each."""
    if isinstance(spec, Mapping):
        inner = {f"{k}_{i}": s for k, v in spec.items() if isinstance(v, tuple | list)
                 for i, s in enumerate(v)}  # fmt: skip
        return {**inner, **spec}
    parts = list(spec)
    last = parts[-1] if parts else None
    if isinstance(last, tuple | list) and len(parts) + len(last) - 1 == len(args) and \
            isinstance(args[len(parts) - 1], torch.Tensor) and \
            any(isinstance(s, Mapping | tuple | list) for s in last):  # fmt: skip
        return [*parts[:-1], *last]
    return spec


def _by_leaf(value: Any, spec: Spec) -> Iterator[Spec]:
    """The part of the spec for each leaf of the inputs, in PyTorch's order."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _by_leaf(inner, spec.get(key) if isinstance(spec, Mapping) else None)
    elif isinstance(value, tuple | list):
        parts = list(spec) if isinstance(spec, tuple | list) else []
        for i, inner in enumerate(value):
            yield from _by_leaf(inner, parts[i] if i < len(parts) else None)
    else:
        yield spec


def _axis_names(tensor: Any, axes: Spec) -> dict[str, str]:
    if isinstance(axes, tuple | list):
        axes = dict(enumerate(axes))
    if not isinstance(axes, Mapping) or not isinstance(tensor, torch.Tensor):
        return {}
    found = {}
    for axis, dim in axes.items():
        name = dim if isinstance(dim, str) else getattr(dim, "__name__", None)
        size = tensor.shape[axis]
        if isinstance(name, str) and isinstance(size, torch.SymInt) and size.node.expr.is_symbol:
            found[str(size.node.expr)] = symbol(name)
    return found


def check_signature(program: ExportedProgram) -> None:
    """Raises UnsupportedError for a program that changes its own state or inputs."""
    signature = program.graph_signature
    for what in ("buffers_to_mutate", "user_inputs_to_mutate", "parameters_to_mutate"):
        for target in (getattr(signature, what, None) or {}).values():
            raise UnsupportedError(
                f"the program writes into {target!r}, which a graph cannot",
                hint="export the module in evaluation mode: module.eval()",
            )
