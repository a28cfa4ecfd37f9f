"""Graphs as modules that can be trained, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...ir import Array, DType, FeedError, Graph, Node, TautError, UnsupportedError, Use, Value
from ...ir.errors import show_name
from ...ir.interpret import run_node
from ...ir.ops.normalization import BatchNormalization
from ...ir.ops.quantization import DequantizeLinear
from ...ir.ops.structure import Constant, Input
from ...ir.training import buffer_names, padding_rows
from .exporting import FORWARD, Step, check
from .exporting.quantization import quantized
from .tensors import to_array, to_tensor, torch_dtype

"""Operands that are no weights though they may be floats."""


@dataclass(frozen=True)
class Latent:
    """An integer constant that is trained as the float that it stands for."""

    op: DequantizeLinear
    dtype: DType
    scale: str
    zero: str | None


@dataclass(frozen=True)
class Plan:
    """A graph and how it is run. Nothing changes it, so copies of a module share it."""

    graph: Graph
    steps: list[tuple[Node, Step, list[Value | None]]]
    last: dict[Node, list[Value]]

    def __deepcopy__(self, memo: Any) -> Plan:
        return self


class GraphModule(nn.Module):
    """What `to_torch` makes: see there. `to_graph()` gives the graph back with today's weights."""

    def __init__(self, graph: Graph, trainable: Callable[[str], bool] | None = None) -> None:
        super().__init__()
        graph = graph.copy()
        steps = [with_node(node, _step, graph, node) for node in _computed(graph)]
        self._plan = Plan(graph, steps, _last_uses(graph))
        self._places: dict[str, tuple[str, str]] = {}  # of a constant: its module's path, its name
        self._latents: dict[str, Latent] = {}
        self._fixed = buffer_names(graph)
        self._padding = padding_rows(graph)
        for node in graph.of(Constant):
            with_node(node, self._hold, node, trainable)

    # ---- constants -----------------------------------------------------------------------------

    def _hold(self, node: Node, trainable: Callable[[str], bool] | None) -> None:
        """Register a constant as a parameter or a buffer."""
        array, graph = node.results[0].value, self._plan.graph
        assert array is not None
        latent = _latent(graph, node)
        wanted = False
        if latent is not None or node.type.dtype.is_float:
            wanted = self._trainable(node, array, latent) if trainable is None else \
                trainable(node.name)  # fmt: skip
        owner, name = self._place(node.name)
        if not wanted:
            statistics = any(_is_statistic(u) for u in graph.uses(node))
            owner.register_buffer(name, to_tensor(_stored(array)), persistent=statistics)
            return
        if latent is not None:
            self._latents[node.name] = latent
            (user,) = {u.node for u in graph.uses(node)}
            operands = [v and v.array for v in graph.operands(user)]
            array = run_node(user, operands)[0]
        owner.register_parameter(name, nn.Parameter(to_tensor(array)))

    def _trainable(self, node: Node, array: Array, latent: Latent | None) -> bool:
        fixed = node.name in self._fixed
        return not fixed and (latent is not None or _is_weight(self._plan.graph, node, array))

    def _place(self, name: str) -> tuple[nn.Module, str]:
        """Where a name with dots lives: modules in modules, made on the way. What PyTorch's modules
        cannot take as a name gets underscores at its end.
        """
        owner: nn.Module = self
        *path, last = name.split(".")
        walked = []
        for part in path:
            part = part or "_"
            while part not in owner._modules and hasattr(owner, part):
                part += "_"
            if part not in owner._modules:
                owner.add_module(part, nn.Module())
            owner = owner._modules[part]  # type: ignore[assignment]
            walked.append(part)
        last = last or "_"
        while hasattr(owner, last):
            last += "_"
        self._places[name] = ".".join(walked), last
        return owner, last

    def constant(self, name: str) -> Tensor:
        """The parameter or buffer that the graph's constant `name` is. Raises KeyError."""
        path, last = self._places[name]
        return getattr(self.get_submodule(path), last)

    def _value(self, name: str) -> Tensor:
        """A constant as ops read it: an integer weight rounded to what it will be."""
        tensor = self.constant(name)
        latent = self._latents.get(name)
        row = self._padding.get(name)
        if row is not None and row < len(tensor):  # which has no gradient
            at = torch.arange(len(tensor), device=tensor.device) == row
            tensor = torch.where(at.reshape(-1, *[1] * (tensor.ndim - 1)), tensor.detach(), tensor)
        if latent is None:
            return tensor
        zero = None if latent.zero is None else self.constant(latent.zero)
        return quantized(latent.op, tensor, self.constant(latent.scale), zero, latent.dtype)

    # ---- running -------------------------------------------------------------------------------

    def forward(self, *args: Tensor, **named: Tensor) -> dict[str, Tensor]:
        """Outputs by name. Raises FeedError for missing or extra inputs."""
        values: dict[Value, Tensor] = {}
        for node, tensor in self._feeds(args, named):
            values[Value(node)] = tensor
        for node, step, operands in self._plan.steps:
            read = [None if v is None else self._read(v, values) for v in operands]
            made = with_node(node, FORWARD[step.op.name], self._now(step), *read)
            for i, tensor in enumerate(made if isinstance(made, tuple | list) else (made,)):
                values[Value(node, i)] = tensor
            for v in self._plan.last.get(node, ()):
                values.pop(v, None)
        found = zip(self._plan.graph.output_names, self._plan.graph.outputs)
        return {name: self._result(v, self._read(v, values)) for name, v in found}

    def _now(self, step: Step) -> Step:
        return replace(step, training=True) if self.training else step

    def _read(self, value: Value, values: dict[Value, Tensor]) -> Tensor:
        known = values.get(value)
        return self._value(value.node.name) if known is None else known

    def _result(self, value: Value, tensor: Tensor) -> Tensor:
        """Whole numbers that were floats inside, so that gradients passed, as their own type."""
        kind = torch_dtype(_storable(value.type.dtype))
        return tensor if tensor.dtype is kind else tensor.to(kind)

    def _feeds(
        self, args: tuple[Tensor, ...], named: dict[str, Tensor]
    ) -> Iterator[tuple[Node, Tensor]]:
        nodes = self._plan.graph.inputs
        names = [n.name for n in nodes]
        given = dict(zip(names, args)) | named
        count = len(args) + len(named)
        if len(given) < count or set(given) != set(names):
            raise FeedError(f"{len(args)} inputs and {sorted(named)} are given",
                            hint=f"the inputs are {names}")  # fmt: skip
        for node in nodes:
            tensor = given[node.name]
            want = torch_dtype(node.type.dtype)
            if tensor.dtype is not want:
                raise FeedError(f"wants {node.type}, not {tensor.dtype}", node=node.name)
            yield node, tensor

    # ---- back ----------------------------------------------------------------------------------

    def to_graph(self) -> Graph:
        """A new graph: the one this was made of, with the constants as they are now."""
        graph = self._plan.graph.copy()
        for name in self._places:
            node = graph[name]
            with_node(node, self._take_back, graph, node)
        return graph

    def _take_back(self, graph: Graph, node: Node) -> None:
        old = node.results[0].value
        assert old is not None
        array = to_array(self.constant(node.name))
        latent = self._latents.get(node.name)
        if latent is not None:
            array = self._quantized(latent, array)
        array = array.astype(old.dtype).reshape(old.shape)
        if array.tobytes() != old.tobytes():
            graph.set_op(node, Constant(array))

    def _quantized(self, latent: Latent, array: Array) -> Array:
        """Rounded as in forward, by the same function."""
        zero = None if latent.zero is None else self.constant(latent.zero).cpu()
        scale = self.constant(latent.scale).cpu()
        with torch.no_grad():
            made = quantized(latent.op, to_tensor(array), scale, zero, latent.dtype)
        return made.numpy()

    def extra_repr(self) -> str:
        return f"{self._plan.graph.name!r}, {len(self._plan.graph)} nodes"


def with_node(node: Node, f: Callable[..., Any], *args: Any) -> Any:
    """`f(*args)`, its errors naming the node."""
    try:
        return f(*args)
    except TautError as error:
        raise error.with_context(node=node.name, op=node.op.name)
    except NotImplementedError as error:
        reason = (str(error).splitlines() or ["?"])[0]
        raise UnsupportedError(f"PyTorch has no such op: {reason}", node=node.name,
                               op=node.op.name) from error  # fmt: skip
    except (RuntimeError, IndexError, ValueError) as error:
        error.add_note(f"at node {show_name(node.name)}, op {node.op.name}")
        raise


def _computed(graph: Graph) -> Iterator[Node]:
    return (n for n in graph.nodes()
            if n is not graph.result and not isinstance(n.op, Input | Constant))  # fmt: skip


def _step(graph: Graph, node: Node) -> tuple[Node, Step, list[Value | None]]:
    types = tuple(t.dtype for t in node.types)
    step = Step(node.name, node.op, tuple(graph.abstracts(node)), types)
    check(step)
    return node, step, graph.operands(node)


def _last_uses(graph: Graph) -> dict[Node, list[Value]]:
    """For each node the values that nothing reads after it."""
    last: dict[Node, list[Value]] = {}
    for node in _computed(graph):
        for i in range(len(node.results)):
            value = Value(node, i)
            uses = graph.uses(value)
            if not graph.is_output(value):
                last.setdefault(uses[-1].node if uses else node, []).append(value)
    return last


def _is_statistic(use: Use) -> bool:
    """Whether training updates an operand by other means than a gradient."""
    return isinstance(use.node.op, BatchNormalization) and use.node.op.is_set(use.position)


def _is_weight(graph: Graph, node: Node, array: Array) -> bool:
    """Whether a float constant is for training to change: no single number, no mask, no statistics,
    no operand that only configures an op.
    """
    if array.ndim == 0 or not np.isfinite(array.astype(np.float64)).all():
        return False
    return not any(u.node.op.is_set(u.position) for u in graph.uses(node))


def _latent(graph: Graph, node: Node) -> Latent | None:
    """How an integer constant is a float weight: one dequantization with constant scales reads it,
    and nothing else does.
    """
    users = graph.users(node)
    if node.type.dtype.is_float or len(users) != 1 or graph.is_output(node):
        return None
    (user,) = users
    if not isinstance(user.op, DequantizeLinear) or graph.use_count(node) != 1:
        return None
    x, scale, *rest = graph.operands(user)
    zero = rest[0] if rest else None
    parts = [v for v in (scale, zero) if v is not None]
    if x is None or x.node is not node or any(v.array is None for v in parts):
        return None
    assert scale is not None
    zero_name = None if zero is None else zero.node.name
    return Latent(user.op, node.type.dtype, scale.node.name, zero_name)


def _storable(kind: DType) -> DType:
    """The narrowest type that PyTorch has for one that it lacks."""
    return kind if kind.bits >= 8 else DType.i8 if kind.is_signed else DType.u8


def _stored(array: Array) -> Array:
    return array.astype(_storable(DType.of(array)).numpy)
