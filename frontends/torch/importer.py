"""Exported programs as graphs: one pass over the nodes, each by its op's function."""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping
from typing import Any

import sympy
import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind
from torch.fx import Node as FxNode

from ...ir import Builder, Dim, TautError, TensorType, UnsupportedError, Value
from ...ir.errors import show_name
from ...ir.graph import Graph
from ...ir.ops.structure import Constant, Input
from ...ir.training import BUFFERS, PADDING
from ...ir.types import symbol
from .call import ATEN, Call, Size
from .guards import add_conditions, show
from .program import handler_name, live_nodes, op_name
from .tensors import dtype_of, to_array


class Importer:
    """Builds the graph of one program, whose ops are all known.

    Values are named after the program's nodes, inputs after the module's arguments, constants after
    the parameters and buffers that they are.
    """

    def __init__(self, program: ExportedProgram, symbols: Mapping[str, str]) -> None:
        self.program, self.symbols = program, dict(symbols)
        self.derived: list[str] = []  # conditions on sizes that are made of others
        self.graph = Graph("main")
        self.b = Builder(self.graph)
        self.values: dict[FxNode, Any] = {}
        self.arrays: dict[FxNode, tuple[str, torch.Tensor]] = {}
        self.named: set[Value] = set()
        self.padding: dict[Value, int] = {}  # rows of tables that are not trained
        self.held: set[str] = set()  # names of parameters and buffers that are in the graph

    def run(self, output_names: tuple[str, ...] | None) -> Graph:
        """Raises TautErrors that name the node."""
        specs = self.program.graph_signature.input_specs
        for node, spec in zip(_placeholders(self.program), specs):
            self._add_input(node, spec)
        for node in live_nodes(self.program):
            try:
                self.values[node] = self._import(node)
            except TautError as error:
                raise error.with_context(node=node.name, op=op_name(node))
        self._set_outputs(output_names)
        for text in self.derived:
            self.graph.require(text)
        add_conditions(self.graph, self.program, self.symbols)
        self._note_buffers()
        return self.graph

    # ---- the boundary --------------------------------------------------------------------------

    def _add_input(self, node: FxNode, spec: Any) -> None:
        match spec.kind:
            case InputKind.USER_INPUT if isinstance(spec.arg, ConstantArgument):
                self.values[node] = spec.arg.value
            case InputKind.USER_INPUT:
                tensor = node.meta["val"]
                if not isinstance(tensor, torch.Tensor):
                    raise UnsupportedError(f"an input is a {type(tensor).__name__}, not a tensor",
                                           node=node.name)  # fmt: skip
                shape = tuple(self._dim(node.name, i, d) for i, d in enumerate(tensor.shape))
                made = self.graph.add_input(node.name, TensorType(dtype_of(tensor.dtype), shape))
                self.values[node] = self._keep(Value(made))
            case InputKind.PARAMETER | InputKind.BUFFER | InputKind.CONSTANT_TENSOR:
                state, constants = self.program.state_dict, self.program.constants
                held = state.get(spec.target, constants.get(spec.target))
                if isinstance(held, torch.Tensor):
                    self.arrays[node] = spec.target, held  # a constant once something reads it
            case _:
                pass  # effect tokens and objects: an op that reads one is not known either

    def _dim(self, name: str, axis: int, size: int | torch.SymInt) -> Dim:
        """An input's size: a number, a symbol, or a symbol of its own that must be what the
        exporter makes it of others."""
        if isinstance(size, int):
            return size
        expression = size.node.expr
        if expression.is_number:
            return int(expression)
        if expression.is_symbol:
            return self.symbols[str(expression)]
        made = symbol(f"{name}_{axis}")
        while made in self.symbols.values():
            made += "_"
        roots = [s for s in expression.free_symbols if str(s) not in self.symbols]
        if len(roots) == 1:  # 2 * n where no input is n long: n is what the input makes it
            (solved,) = sympy.solve(expression - sympy.Symbol(made), roots[0])
            whole, by = sympy.fraction(sympy.together(solved))
            self.symbols[str(roots[0])] = f"(({whole}) // ({by}))"
        self.derived.append(f"{made} == {show(expression, self.symbols)}")
        return made

    def _set_outputs(self, names: tuple[str, ...] | None) -> None:
        (result,) = (n for n in self.program.graph.nodes if n.op == "output")
        kinds = [s.kind for s in self.program.graph_signature.output_specs]
        made = [a for a, kind in zip(result.args[0], kinds) if kind is OutputKind.USER_OUTPUT]
        chosen = names if names is not None else self._output_names(made)
        outputs: dict[str, Value] = {}
        for name, node in zip(chosen, made, strict=True):
            if node is None:
                continue
            value = self._read(node) if isinstance(node, FxNode) else node
            if isinstance(value, Size):
                value = self.b.squeeze(value.vector, self.b.constant([0]))
            if not isinstance(value, Value):
                value = self.b.constant(value)
            outputs[name] = value
        if not outputs:
            raise UnsupportedError("the program has no outputs")
        self.graph.set_outputs(outputs)

    def _output_names(self, made: list[Any]) -> tuple[str, ...]:
        """Keys where the module returns a dict, else the nodes' names."""
        spec = self.program.call_spec.out_spec
        if spec is not None and spec.type is dict and len(spec.context) == len(made):
            return tuple(str(k) for k in spec.context)
        names: list[str] = []
        for i, node in enumerate(made):
            name = node.name if isinstance(node, FxNode) else f"output_{i}"
            names.append(name if name not in names else f"{name}.{i}")
        return tuple(names)

    def _note_buffers(self) -> None:
        """What training must leave alone, though it may be a float tensor."""
        parameters = {
            self.values[node].node.name for node, (target, _) in self.arrays.items()
            if target in self.program.graph_signature.parameters and node in self.values
            and self.arrays[node][1].requires_grad
        }  # fmt: skip
        names = [
            n.name for n in self.graph.of(Constant)
            if n.type.dtype.is_float and n.type.shape and n.name not in parameters
        ]  # fmt: skip
        if names:
            self.graph.metadata[BUFFERS] = json.dumps(names)
        rows = {v.node.name: row for v, row in self.padding.items()}
        if rows:
            self.graph.metadata[PADDING] = json.dumps(rows)

    # ---- nodes ---------------------------------------------------------------------------------

    def _read(self, node: FxNode) -> Any:
        if node not in self.values and node in self.arrays:
            self.values[node] = self._keep(self._constant(*self.arrays[node]))
        if node not in self.values:
            raise UnsupportedError(f"reads {show_name(node.name)}, which is no tensor")
        return self.values[node]

    def _constant(self, name: str, tensor: torch.Tensor) -> Value:
        """A parameter or buffer under its own name: another node that has it gives way."""
        other = self.graph.find(name)
        if other is not None and not isinstance(other.op, Input) and name not in self.held:
            self.graph.rename(other, self.graph.fresh(name))
        self.held.add(name)
        try:
            return self.graph.constant(to_array(tensor), name)
        except TautError as error:
            raise error.with_context(node=name)

    def _import(self, node: FxNode) -> Any:
        if node.target is operator.getitem:
            source, index = node.args
            value = self._read(source)[index]  # type: ignore[arg-type,index]
            if value is None:
                raise UnsupportedError(f"result {index} of {show_name(source)} is not supported")
            return value
        call = Call(self.b, node, self._read, self.symbols, self.padding)
        made = ATEN[handler_name(node)](call, *call.args)
        if isinstance(made, Value):
            self._name(made, node.name)
        return made

    def _name(self, value: Value, name: str) -> None:
        """Call what a node made by the node's name, unless it is something older."""
        if value not in self.named and value.index == 0 and value.node.name != name:
            self.graph.rename(value.node, self.graph.fresh(name))
        self._keep(value)

    def _keep(self, value: Value) -> Value:
        self.named.add(value)
        return value


def _placeholders(program: ExportedProgram) -> list[FxNode]:
    return [n for n in program.graph.nodes if n.op == "placeholder"]
