"""Whole models drawn op by op: ONNX models, or graphs for ops that ONNX does not name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, helper, numpy_helper

from taut.ir import Builder, DType, Graph, TautError, Value, all_ops, op_class, print_graph
from taut.ir.op import Array, Op, op_for_onnx
from taut.ir.standard import ONNX_TYPES, dtype_of, schema

from .choices import Choices
from .recipes import RECIPES, generic
from .sketch import MOST, Misfit, Ref, Sketch, node_proto

NEWEST = min(onnx.defs.onnx_opset_version(), 26)
USUAL = 21
_OLDEST = 7  # the first in which shapes broadcast as they do today
_STRUCTURE = ("input", "constant", "return", "fusion")
_ATTEMPTS = 20


@dataclass
class Case:
    """A drawn model (`model`, or `graph` where ONNX has no such op) with inputs by name."""

    ops: tuple[str, ...]
    feeds: dict[str, Array]
    made: list[int]
    model: ModelProto | None = None
    graph: Graph | None = None
    attributes: set[tuple[str, str]] = field(default_factory=set)
    sizes: dict[str, int] = field(default_factory=dict)  # elements of each drawn operand

    @property
    def text(self) -> str:
        if self.model is not None:
            return onnx.printer.to_text(self.model)
        assert self.graph is not None
        return print_graph(self.graph)


def drawable() -> list[type[Op]]:
    """Every op of the registry but the ones that only hold a graph together."""
    return [c for c in all_ops() if c.name not in _STRUCTURE]


Spans = Mapping[str, Sequence[tuple[int, int]]]
"""Elements of operands, by name and place in row-major order, that are set to 1."""


def draw(op: str, seed: int = 0, replay: Sequence[int] | None = None, chains: bool = True,
         ones: Spans | None = None, drop: Iterable[int] = ()) -> Case:  # fmt: skip
    """A model around the op with this text name; `replay` makes again what another draw made.
    `ones` and `drop` simplify it: elements set to 1, and nodes left out (by their place), whose
    results become inputs.

    Raises Misfit where replayed numbers make no model.
    """
    cls = op_class(op)
    for attempt in range(_ATTEMPTS if replay is None else 1):
        choices = Choices(seed * 1000003 + attempt, replay)
        try:
            if cls.onnx:
                return _model(choices, cls, chains, ones or {}, drop)
            return _graph(choices, cls, ones or {})
        except Misfit:
            continue
        except TautError:
            if cls.onnx:  # our own ops are checked while they are drawn
                raise
    raise Misfit(f"no model of {op} came of seed {seed}")


# ---- ONNX ----------------------------------------------------------------------------------------


def versions(op: str) -> list[int]:
    """Opsets to draw for an op: the usual one first, then each in which it changed and the last
    before a change."""
    since = sorted({s.since_version for s in onnx.defs.get_all_schemas_with_history()
                    if s.name == op and not s.domain})  # fmt: skip
    ends = [v - 1 for v in since[1:]]
    options = [USUAL, NEWEST, *(v for v in (*since, *ends) if _OLDEST <= v <= NEWEST)]
    return list(dict.fromkeys(v for v in options if _has(op, v)))


def _has(op: str, opset: int) -> bool:
    found = schema(op, opset)
    return found is not None and not found.deprecated


_versions: dict[str, list[int]] = {}


def _model(choices: Choices, cls: type[Op], chains: bool, ones: Spans,
           drop: Iterable[int]) -> Case:  # fmt: skip
    assert cls.onnx is not None
    options = _versions.setdefault(cls.onnx, versions(cls.onnx))
    if not options:
        raise Misfit(f"{cls.onnx} has no opset")
    sketch = Sketch(choices, options[0] if not choices.flag(40) else choices.one(options))
    before = choices.between(0, 2) if chains and choices.flag(20) else 0
    after = choices.between(1, 3) if chains and choices.flag(25) else 0
    others = [c for c in drawable() if c.onnx and _has(c.onnx, sketch.opset)]
    chosen = [choices.one(others) for _ in range(before)] + [cls]
    chosen += [choices.one(others) for _ in range(after)]
    for one in chosen:
        _node(sketch, one, required=one is cls)
    _drop(sketch, set(drop))
    _set_ones(sketch, ones)
    return _finish(sketch)


def _node(sketch: Sketch, cls: type[Op], required: bool) -> None:
    """Draw one node and learn its results' types; others than the op in question may misfit."""
    assert cls.onnx is not None
    kept = len(sketch.refs)
    sketch.start(cls.onnx)
    try:
        RECIPES.get(cls.onnx, generic)(sketch)
    except Misfit:
        if required:
            raise
        del sketch.refs[kept:]
        return
    sketch.results += _inferred(sketch)


def _inferred(sketch: Sketch) -> list[Ref]:
    """The last node's results, as far as ONNX's own shape inference knows their types."""
    wanted = set(sketch.calls[-1].results)
    try:
        made = onnx.shape_inference.infer_shapes(_proto(sketch, sketch.calls[-1].results),
                                                 data_prop=True)  # fmt: skip
    except Exception:
        return []  # not a valid node: its peers will say so
    found = []
    for info in (*made.graph.value_info, *made.graph.output):
        kind = info.type.tensor_type
        dims = [d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim]
        if info.name in wanted and kind.HasField("shape") and _small(dims):
            dtype = _stated(sketch, info.name, kind.elem_type)
            if dtype is not None:
                found.append(Ref(info.name, dtype, tuple(d or 0 for d in dims)))
    return found


def _stated(sketch: Sketch, name: str, elem_type: int) -> DType | None:
    """The element type of a result: by the schema's type parameter where an operand has bound it
    (inference takes the first operand's for some ops), else as inferred."""
    outputs = sketch.schema.outputs
    place = min(sketch.calls[-1].results.index(name), len(outputs) - 1)
    bound = sketch.bound.get(outputs[place].type_str)
    try:
        return bound or dtype_of(elem_type)
    except TautError:
        return None


def _set_ones(sketch: Sketch, ones: Spans) -> None:
    for ref in sketch.refs:
        assert ref.array is not None
        if ref.name in ones:
            ref.array = np.array(ref.array)
            for start, stop in ones[ref.name]:
                ref.array.reshape(-1)[start:stop] = 1


def _sizes(sketch: Sketch) -> dict[str, int]:
    return {r.name: int(np.prod(r.shape, dtype=np.int64)) for r in sketch.refs}


def _small(dims: Sequence[int | None]) -> bool:
    """Whether all sizes are known (of what cannot be, inference says that it is negative)."""
    known = [d for d in dims if d is not None and d >= 0]
    return len(known) == len(dims) and int(np.prod(known, dtype=np.int64)) <= 4 * MOST


def _drop(sketch: Sketch, places: set[int]) -> None:
    """Leave nodes out; what others read of them becomes an operand."""
    if not places:
        return
    gone = {r for i, c in enumerate(sketch.calls) if i in places for r in c.results}
    calls = [c for i, c in enumerate(sketch.calls) if i not in places]
    known = {r.name: r for r in sketch.results}
    made: dict[str, Ref] = {}
    for call in calls:
        for k, operand in enumerate(call.operands):
            if operand is None or operand.name not in gone:
                continue
            if operand.name not in made:
                ref = known.get(operand.name, operand)
                ramp = np.arange(int(np.prod(ref.shape))).reshape(ref.shape) % 3
                made[operand.name] = Ref(ref.name, ref.dtype, ref.shape,
                                         ramp.astype(ref.dtype.numpy))  # fmt: skip
            call.operands[k] = made[operand.name]
    sketch.calls = calls
    wanted = {r.name for c in calls for r in c.operands if r is not None}
    bodies = any(isinstance(v, onnx.GraphProto) for c in calls for v in c.attributes.values())
    kept = [r for r in sketch.refs if bodies or r.name in wanted]
    sketch.refs = kept + list(made.values())
    if not calls:
        raise Misfit("no node is left")


def _finish(sketch: Sketch) -> Case:
    used = {r.name for c in sketch.calls for r in c.operands if r is not None}
    outputs = [name for call in sketch.calls for name in call.results
               if name not in used or call is sketch.calls[-1]]  # fmt: skip
    if len(sketch.calls) > 1 and sketch.choices.flag(20):
        outputs.append(sketch.calls[0].results[0])
    dims = _declared(sketch)
    model = _proto(sketch, list(dict.fromkeys(outputs)), dims)
    feeds = {r.name: r.array for r in sketch.refs if not r.constant and r.array is not None}
    attributes = {(c.op, a) for c in sketch.calls for a in c.attributes}
    names = tuple(found.name for c in sketch.calls if (found := op_for_onnx(c.op)) is not None)
    return Case(names, feeds, sketch.choices.made, model, attributes=attributes,
                sizes=_sizes(sketch))  # fmt: skip


def _declared(sketch: Sketch) -> dict[str, list[Any]]:
    """What the model says of its inputs' sizes: numbers, or symbols for some or all."""
    found: dict[str, list[Any]] = {}
    symbolic = sketch.choices.flag(15)
    for ref in sketch.refs:
        if not ref.constant:
            found[ref.name] = [
                f"{ref.name}_{i}" if symbolic and sketch.choices.flag(60) else d
                for i, d in enumerate(ref.shape)
            ]
    return found


def _proto(
    sketch: Sketch, outputs: Iterable[str], dims: dict[str, list[Any]] | None = None
) -> ModelProto:
    inputs, tensors = [], []
    for ref in sketch.refs:
        if ref.constant:
            assert ref.array is not None
            tensors.append(numpy_helper.from_array(np.ascontiguousarray(ref.array).reshape(
                ref.shape), ref.name))  # fmt: skip
        else:
            shape = list(ref.shape) if dims is None else dims[ref.name]
            inputs.append(helper.make_tensor_value_info(ref.name, ONNX_TYPES[ref.dtype], shape))
    kinds = {r.name: ONNX_TYPES[r.dtype] for r in sketch.results}
    graph = helper.make_graph(
        [node_proto(c) for c in sketch.calls], "drawn", inputs,
        [_output(o, kinds) for o in outputs], tensors,
    )  # fmt: skip
    imports = [helper.make_opsetid("", sketch.opset)]
    version = max(10, helper.find_min_ir_version_for(imports, ignore_unknown=True))
    return helper.make_model(graph, opset_imports=imports, ir_version=version)


def _output(name: str, kinds: dict[str, int]) -> onnx.ValueInfoProto:
    """An output, its element type stated where shape inference knew it."""
    if name in kinds:
        return helper.make_tensor_value_info(name, kinds[name], None)
    return helper.make_empty_tensor_value_info(name)


# ---- ops of our own ------------------------------------------------------------------------------


def _graph(choices: Choices, cls: type[Op], ones: Spans) -> Case:
    sketch = Sketch(choices, USUAL)
    sketch.op = cls.name
    RECIPES[cls.name](sketch)
    _set_ones(sketch, ones)
    (call,) = sketch.calls
    b = Builder()
    values: dict[int, Value] = {}
    for ref in sketch.refs:
        assert ref.array is not None
        values[id(ref)] = (b.constant(ref.array, ref.name) if ref.constant
                           else b.input(ref.name, ref.dtype, ref.shape))  # fmt: skip
    node = b.graph.add(cls(**call.attributes),
                       *(None if r is None else values[id(r)] for r in call.operands))  # fmt: skip
    b.graph.set_outputs({f"y{i}": node[i] for i in range(len(node.results))})
    feeds = {r.name: r.array for r in sketch.refs if not r.constant and r.array is not None}
    attributes = {(cls.name, a) for a in call.attributes}
    return Case((cls.name,), feeds, choices.made, graph=b.graph, attributes=attributes,
                sizes=_sizes(sketch))  # fmt: skip
