"""A model while it is drawn: its operands, its nodes, and what the recipes ask of both.

A recipe draws one node: it asks a `Sketch` for operands (`data` takes a result of an earlier node
where one fits) and attributes, and emits the node. Element types follow ONNX's schema: operands
of one type parameter have one type.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from taut.ir import DType, Op
from taut.ir.op import Array, op_for_onnx
from taut.ir.standard import ONNX_TYPES, attribute_proto, dtype_of

from .choices import Choices
from .values import array

SIZES = (2, 3, 1, 4, 5, 0, 7, 17)
_SIZE_WEIGHTS = (0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 4, 5, 6, 7)
MOST = 4096
"""Elements of a drawn operand at most."""


@dataclass(eq=False)
class Ref:
    """A value of the model; `array` is None for results."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    array: Array | None = None
    constant: bool = False

    @property
    def rank(self) -> int:
        return len(self.shape)


@dataclass
class Call:
    """A node as drawn: `op` is ONNX's name, or Taut's for an op that ONNX lacks."""

    op: str
    operands: list[Ref | None]
    attributes: dict[str, Any]
    results: list[str]


class Misfit(Exception):
    """The drawn numbers fit no model of this op; another draw may."""


@dataclass
class Sketch:
    choices: Choices
    opset: int
    refs: list[Ref] = field(default_factory=list)  # operands with contents
    results: list[Ref] = field(default_factory=list)  # of earlier nodes, types known
    calls: list[Call] = field(default_factory=list)
    op: str = ""
    schema: Any = None
    bound: dict[str, DType] = field(default_factory=dict)  # type parameters of this node

    def start(self, op: str) -> None:
        """Begin a node of this op."""
        self.op, self.bound = op, {}
        known = op_for_onnx(op)
        self.schema = onnx.defs.get_schema(op, self.opset) if known is not None else None

    # ---- element types -----------------------------------------------------------------------

    def allowed(self, place: int) -> list[DType]:
        """Element types that operand `place` may have: f32 first."""
        spec = self.schema.inputs[min(place, len(self.schema.inputs) - 1)]
        return _dtypes(spec.types)

    def dtype(self, place: int, among: Iterable[DType] | None = None, usual: int = 45) -> DType:
        """The element type of operand `place`, drawn if nothing says it yet: in `usual` percent of
        draws f32, where it may be."""
        spec = self.schema.inputs[min(place, len(self.schema.inputs) - 1)]
        found = self.bound.get(spec.type_str)
        if found is None:
            options = self.allowed(place)
            if among is not None:
                options = [d for d in options if d in set(among)]
            if not options:
                raise Misfit(f"{self.op}: no element type for operand {place}")
            first = options[0] is DType.f32 and not self.choices.flag(100 - usual)
            found = DType.f32 if first else self.choices.one(options)
            self.bound[spec.type_str] = found
        return found

    # ---- shapes ------------------------------------------------------------------------------

    def size(self, zeros: bool = True) -> int:
        made = SIZES[self.choices.one(_SIZE_WEIGHTS)]
        return made if made or (zeros and self.choices.flag(50)) else 1

    def shape(self, ranks: Sequence[int] = (2, 1, 3, 0, 4, 5), zeros: bool = True
              ) -> tuple[int, ...]:  # fmt: skip
        dims: list[int] = []
        for _ in range(self.choices.one(ranks)):
            size = self.size(zeros)
            dims.append(size if int(np.prod(dims, dtype=np.int64)) * size <= MOST else 2)
        return tuple(dims)

    def broadcasts(self, shape: Sequence[int]) -> tuple[int, ...]:
        """A shape that broadcasts with this one: axes dropped in front, sizes 1."""
        made = [1 if self.choices.flag(25) else d for d in shape]
        return tuple(made[self.choices.below(len(made) + 1) if self.choices.flag(35) else 0 :])

    # ---- operands ----------------------------------------------------------------------------

    def data(self, place: int = 0, ranks: Sequence[int] = (2, 1, 3, 0, 4, 5), level: str = "wild",
             zeros: bool = True, among: Iterable[DType] | None = None) -> Ref:  # fmt: skip
        """The operand that a node is about: an earlier result where one fits, or a new one."""
        options = set(self.allowed(place)) & set(among or DType)
        spec = self.schema.inputs[min(place, len(self.schema.inputs) - 1)]
        bound = self.bound.get(spec.type_str)
        fits = [r for r in self.results[::-1]
                if r.rank in ranks and r.dtype in options and bound in (None, r.dtype)
                and (zeros or 0 not in r.shape)]  # fmt: skip
        if fits:
            found = fits[0] if not self.choices.flag(20) else self.choices.one(fits)
            self.bound[spec.type_str] = found.dtype
            return found
        dtype = self.dtype(place, among)
        return self.given(dtype, self.shape(ranks, zeros), level)

    def operand(self, place: int, shape: Sequence[int], level: str = "wild",
                constant: int = 40, scale: float = 1.0) -> Ref:  # fmt: skip
        """A new operand of the element type that the schema wants at `place`."""
        return self.given(self.dtype(place), tuple(shape), level, constant, scale)

    def given(self, dtype: DType, shape: tuple[int, ...], level: str = "wild",
              constant: int = 35, scale: float = 1.0) -> Ref:  # fmt: skip
        return self.put(array(self.choices, dtype, shape, level, scale), constant)

    def put(self, contents: Any, constant: int = 50) -> Ref:
        """An operand with these contents; an initializer in `constant` percent of draws."""
        made = np.asarray(contents)
        fixed = constant > 0 and not self.choices.flag(100 - constant)
        ref = Ref(f"x{len(self.refs)}", DType.of(made), made.shape, made, fixed)
        self.refs.append(ref)
        return ref

    def ints(self, numbers: Sequence[int], dtype: DType = DType.i64, constant: int = 85) -> Ref:
        """Shape data: axes, sizes, pads."""
        return self.put(np.array(list(numbers), dtype.numpy), constant)

    def index_dtype(self, place: int) -> DType:
        return self.dtype(place, (DType.i64, DType.i32))

    def maybe(self, percent: int = 50) -> bool:
        return self.choices.flag(percent)

    # ---- the node ----------------------------------------------------------------------------

    def attributes(self, **options: Sequence[Any]) -> dict[str, Any]:
        """A value out of `options` for each attribute that this version of the op has; one that
        is not required is left out of a third of draws."""
        found: dict[str, Any] = {}
        for name, values in options.items():
            spec = None if self.schema is None else self.schema.attributes.get(name)
            if self.schema is not None and spec is None:
                continue
            if (spec is not None and spec.required) or self.maybe(65):
                found[name] = self.choices.one(values)
        return found

    def has(self, attribute: str) -> bool:
        """Whether this version of the op has an attribute."""
        return attribute in self.schema.attributes

    def emit(self, operands: Sequence[Ref | None], attributes: Mapping[str, Any] | None = None,
             results: int = 1) -> None:  # fmt: skip
        """Add the node. Operands left out at the end are not written."""
        kept = list(operands)
        while kept and kept[-1] is None:
            kept.pop()
        start = sum(len(c.results) for c in self.calls)
        names = [f"y{start + i}" for i in range(results)]
        self.calls.append(Call(self.op, kept, dict(attributes or {}), names))


def _dtypes(types: Iterable[str]) -> list[DType]:
    """Of ONNX's type strings those that Taut has, f32 before others, others as DType lists them."""
    found = {_by_string.get(t) for t in types}
    return sorted((d for d in DType if d in found), key=lambda d: d is not DType.f32)


_by_string = {
    f"tensor({onnx.TensorProto.DataType.Name(code).lower()})": dtype_of(code)
    for code in ONNX_TYPES.values()
}


def node_proto(call: Call) -> onnx.NodeProto:
    """The node as ONNX writes it."""
    names = ["" if r is None else r.name for r in call.operands]
    node = onnx.helper.make_node(call.op, names, call.results)
    for name, value in call.attributes.items():
        if isinstance(value, onnx.GraphProto):
            node.attribute.append(onnx.helper.make_attribute(name, value))
        elif isinstance(value, tuple | list) and not value:
            node.attribute.add(name=name, type=onnx.AttributeProto.INTS)
        else:
            node.attribute.append(attribute_proto(name, value))
    return node


def declaration(op: str) -> type[Op] | None:
    return op_for_onnx(op)
