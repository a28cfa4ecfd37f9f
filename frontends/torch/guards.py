"""What torch.export assumed of sizes while it traced, as conditions of the graph.

A branch on a size is traced one way; an `int(size * 1.5)` becomes the number of the example. The
exporter notes in both cases what other sizes must fulfil to take the same way: its guards, ranges
of symbols, and assertions in the program.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import sympy
import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import Node as FxNode
from torch.utils import _pytree as pytree
from torch.utils._sympy.printers import PythonPrinter

from ...ir import Graph, TautError, UnsupportedError
from ...ir.conditions import condition

Assumed = tuple[str, str]
"""A condition and where the exporter was led to it."""

ASSERTIONS = ("aten._assert_scalar.default",)
DATA_ASSERTIONS = ("aten._assert_async.default", "aten._assert_async.msg")
_FUNCTIONS = {
    "math.trunc": "trunc", "math.floor": "floor", "math.ceil": "ceil", "torch.sym_float": "float",
    "round": "round", "float": "float", "abs": "abs", "min": "min", "max": "max",
    "torch.sym_min": "min", "torch.sym_max": "max", "torch._sym_int": "trunc",
    "torch._sym_sqrt": "sqrt",
}  # fmt: skip


def add_conditions(graph: Graph, program: ExportedProgram, names: Mapping[str, str]) -> None:
    """Require of the graph's sizes what the exporter assumed. `names` has the graph's symbol for
    each of the program's. Raises UnsupportedError for what cannot be said, with its source line.
    """
    known = {d for n in graph.inputs for d in n.type.shape or () if isinstance(d, str)}
    for text, where in (*_ranges(program, names), *_guards(program, names),
                        *_assertions(program, names)):  # fmt: skip
        if _says_nothing(text):
            continue
        try:
            graph.require(text)
            strange = condition(text).symbols - known
            if not strange:
                continue
            reason = f"{sorted(strange)} are no sizes of inputs"
        except TautError as error:
            reason = error.message
        raise UnsupportedError(
            f"the exporter assumes {text[:200]} (at {where}), which cannot be checked: "
            f"{reason[:200]}",
            hint="leave the axis out of dynamic_shapes, or compute the size without a branch",
        )


def user_inputs(program: ExportedProgram) -> list[FxNode]:
    """The placeholders of what the user gives."""
    kinds = [s.kind for s in program.graph_signature.input_specs]
    nodes = [n for n in program.graph.nodes if n.op == "placeholder"]
    return [n for n, kind in zip(nodes, kinds) if kind is InputKind.USER_INPUT]


def _says_nothing(text: str) -> bool:
    match ast.parse(text, mode="eval").body:
        case ast.Compare(left, [ast.Eq()], [right]):
            return ast.unparse(left) == ast.unparse(right)
    return False


def show(expression: Any, names: Mapping[str, str]) -> str:
    """A size, or what is asked of sizes, in the language of conditions."""

    def read(node: ast.expr) -> str | None:
        return names.get(node.id) if isinstance(node, ast.Name) else None

    return _translated(PythonPrinter().doprint(expression), read)


def left_out(program: ExportedProgram) -> Iterator[str]:
    """What the program says of its inputs that no condition on sizes can say."""
    for node in program.graph.nodes:
        if str(node.target) in DATA_ASSERTIONS:
            said = next((a for a in node.args if isinstance(a, str)), "")
            yield f"an assertion on data is left out: {node.name} {said[:200]}".rstrip()
    made = _environment(program)
    known = [e.free_symbols for e, _ in _noted(made)] if made is not None else []
    for key, bounds in program.range_constraints.items():
        if bounds.lower == 2 and {key} not in known and str(key).startswith("s"):
            yield (f"the program was exported as one whose size {key} is not 0 or 1, which is "
                   "not checked: let from_torch export the module")  # fmt: skip


def same_size(a: Any, b: Any) -> bool:
    """Whether the exporter knows two sizes to be equal."""
    if not isinstance(a, torch.SymInt) or not isinstance(b, torch.SymInt):
        return False
    x, y = a.node.expr, b.node.expr
    known = (e for e, _ in _noted(a.node.shape_env) if isinstance(e, sympy.Eq))
    return x == y or any({x, y} == {*e.args} for e in known)


def _noted(made: Any) -> list[tuple[Any, Any]]:
    """What the tracing assumed, and where, of the sizes that are left once equal ones are one."""
    found = {made.replace(g.expr): g.sloc.framework_loc for g in made.guards}
    alone = {_simpler(e) for e in found}

    def follows(e: Any) -> bool:
        return isinstance(e, sympy.Or) and any(_simpler(part) in alone for part in e.args)

    return [(e, place) for e, place in found.items() if e != sympy.true and not follows(e)]


def _ranges(program: ExportedProgram, names: Mapping[str, str]) -> Iterator[Assumed]:
    """Bounds of symbols. That a size is not 0 or 1 is what the exporter assumes of all of them."""
    for key, bounds in program.range_constraints.items():
        if str(key) not in names:
            continue  # a number that depends on data: the ops that make it are not known
        if bounds.lower.is_Integer and int(bounds.lower) > 2:
            yield f"{names[str(key)]} >= {int(bounds.lower)}", "its range"
        if bounds.upper.is_Integer and int(bounds.upper) < 1 << 32:
            yield f"{names[str(key)]} <= {int(bounds.upper)}", "its range"


def _guards(program: ExportedProgram, names: Mapping[str, str]) -> Iterator[Assumed]:
    """The guards: those of the tracing, or of a program from a file what it says of them."""
    made = _environment(program)
    if made is None or not made.guards:
        sizes = _sizes_by_source(program, names) if program._guards_code else {}
        for text in program._guards_code:
            yield _translated(text, lambda node: sizes.get(ast.unparse(node))), "a guard"
        return
    for expression, place in _noted(made):
        if not (_of_layout(expression) and _is_machinery(place)):
            yield show(_simpler(expression), names), _line(place)


def _environment(program: ExportedProgram) -> Any:
    """Where the tracing noted what it assumed."""
    for node in program.graph.nodes:
        mode = getattr(node.meta.get("val"), "fake_mode", None)
        if mode is not None:
            return mode.shape_env
    return None


def _simpler(expression: Any) -> Any:
    """s == min(n, s) is s <= n."""
    if isinstance(expression, sympy.Eq):
        for size, least in (expression.args, expression.args[::-1]):
            if str(least.func) == "Min" and size in least.args and len(least.args) == 2:
                (other,) = (a for a in least.args if a != size)
                return sympy.Le(size, other)
    return expression


def _of_layout(expression: Any) -> bool:
    """Whether a guard keeps sizes apart only: what broadcasts, and which strides memory has."""
    if isinstance(expression, sympy.Ne):
        return True
    match expression:
        case sympy.StrictGreaterThan():
            return expression.rhs == 1
        case sympy.GreaterThan():
            return expression.rhs == 2
        case sympy.StrictLessThan():
            return expression.lhs == 1
        case sympy.LessThan():
            return expression.lhs == 2
    return False


def _is_machinery(place: Any) -> bool:
    """Whether PyTorch's own bookkeeping asked, whose results in the IR depend on no such branch:
    its ops broadcast and have no strides.
    """
    inside = Path(getattr(place, "filename", "")).resolve()
    root = Path(torch.__file__).resolve().parent
    return inside.is_relative_to(root) and not inside.is_relative_to(root / "nn")


def _line(place: Any) -> str:
    name = Path(getattr(place, "filename", "?")).name
    return f"{name}:{getattr(place, 'lineno', '?')}"


def _sizes_by_source(program: ExportedProgram, names: Mapping[str, str]) -> dict[str, str]:
    """What stands for each size of each input, by the way guards call it."""
    args, kwargs = pytree.tree_unflatten(user_inputs(program), program.call_spec.in_spec)
    signature = program.module_call_graph[0].signature
    given = (signature.forward_arg_names if signature else None) or []
    arguments: dict[str, Any] = dict(zip(given, args)) | dict(kwargs)
    for name, x in list(arguments.items()):  # forward(*xs) has the arguments xs_0, xs_1, ...
        base, _, place = name.rpartition("_")
        if place.isdigit() and base not in given:
            arguments.setdefault(base, {})[int(place)] = x
    found: dict[str, str] = {}
    for path, node in pytree.tree_flatten_with_path(arguments)[0]:
        tensor = node.meta.get("val") if isinstance(node, FxNode) else None
        source = ast.unparse(ast.parse(f"L{pytree.keystr(path)}", mode="eval"))
        for axis, size in enumerate(tensor.shape if isinstance(tensor, torch.Tensor) else ()):
            text = show(size.node.expr, names) if isinstance(size, torch.SymInt) else str(size)
            found[f"{source}.size()[{axis}]"] = text
    return found


def _assertions(program: ExportedProgram, names: Mapping[str, str]) -> Iterator[Assumed]:
    """What the program asserts of sizes when it runs."""
    for node in program.graph.nodes:
        if str(node.target) not in ASSERTIONS or not isinstance(node.args[0], FxNode):
            continue
        held = node.args[0].meta.get("val")
        expression = held.node.expr if isinstance(held, torch.SymBool) else sympy.true
        if not expression.is_Boolean or expression in (sympy.true, sympy.false):
            continue
        if {str(s) for s in expression.free_symbols} <= names.keys():
            yield show(_simpler(expression), names), "an assertion"


def _translated(text: str, read: Any) -> str:
    """Python's text of a condition with functions and sizes under their names here; what is not
    known stays and is refused when it is read.
    """
    tree = _Translate(read).visit(ast.parse(text.replace("\n", " "), mode="eval"))
    return _bounded(ast.unparse(ast.fix_missing_locations(tree)))


def _bounded(text: str) -> str:
    """Bounds of whole numbers in the form in which ranges have them: n > 5 is n >= 6."""
    match ast.parse(text, mode="eval").body:
        case ast.Compare(ast.Name(name), [ast.Gt()], [ast.Constant(int() as bound)]):
            return f"{name} >= {bound + 1}"
        case ast.Compare(ast.Name(name), [ast.Lt()], [ast.Constant(int() as bound)]):
            return f"{name} <= {bound - 1}"
    return text


class _Translate(ast.NodeTransformer):
    def __init__(self, read: Any) -> None:
        self.read = read

    def visit(self, node: ast.AST) -> Any:
        if isinstance(node, ast.expr):
            found = self.read(node)
            if found is not None:
                return ast.parse(found, mode="eval").body
        return super().visit(node)

    def visit_Call(self, node: ast.Call) -> Any:
        name = _FUNCTIONS.get(ast.unparse(node.func))
        func = node.func if name is None else ast.Name(name)
        return ast.Call(func, [self.visit(a) for a in node.args], node.keywords)
