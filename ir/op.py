"""How an op is declared: one frozen dataclass that says everything known about it.

    @register
    @dataclass(frozen=True)
    class Relu(Op):
        '''max(x, 0)'''
        def infer(self, x: Abstract) -> TensorType: return x.type
        def reference(self, x: Array) -> Array: return np.maximum(x, 0)

Fields are attributes, the parameters of `infer` are the operands (a default of None makes one
optional, `*xs` takes any number). The text name is the class name in snake case and the ONNX name
is the class name, unless `name` or `onnx` says otherwise.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from .dependence import Dependences
from .errors import NotDifferentiableError, UnsupportedError, VerifyError
from .numerics import Numerics
from .relate import everything
from .signature import Signature, check, derived, layer_axes, read_signature
from .traits import NONE, REALS, Interval, Monotone, Moves, Trait, WeightedLayer
from .types import DType, Limits, Shape, TensorType

if TYPE_CHECKING:
    from .build import Builder
    from .graph import Value

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Abstract:
    """What is known of a value without running: its type, and for shape data also the contents.

    `value` is a constant's array. `dims` is the content of a small integer vector (or scalar)
    that describes a shape and may hold symbols.
    """

    type: TensorType
    value: Array | None = None
    dims: Shape | None = None

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Abstract)
            and self.type == other.type
            and self.dims == other.dims
            and self.value is other.value
        )

    __hash__ = None  # type: ignore[assignment]

    @property
    def dtype(self) -> DType:
        return self.type.dtype

    @property
    def shape(self) -> Shape | None:
        return self.type.shape

    @property
    def rank(self) -> int:
        return self.type.rank

    def as_dims(self) -> Shape | None:
        """The contents as dimensions, if this is a constant or known shape data."""
        if self.dims is not None:
            return self.dims
        return self._elements(64)

    def _elements(self, most: int) -> tuple[int, ...] | None:
        """The elements of a constant vector (or scalar) of integers that is not too long."""
        if self.value is None or self.value.ndim > 1 or self.value.size > most:
            return None
        if not self.dtype.is_integer and self.dtype is not DType.bool:
            return None
        return tuple(int(v) for v in self.value.reshape(-1))

    def as_ints(self) -> tuple[int, ...] | None:
        """The contents as integers, or None if any is not known."""
        dims = self._elements(1 << 16) if self.dims is None else self.dims
        if dims is None or not all(isinstance(d, int) for d in dims):
            return None
        return typing.cast(tuple[int, ...], dims)


Operands = Sequence[Abstract | None]
Results = Sequence[TensorType]


class Cost(NamedTuple):
    """Multiply-accumulates and bytes moved (operands read once, results written once)."""

    macs: int
    bytes: int


class Operand(NamedTuple):
    name: str
    optional: bool
    variadic: bool


class Attribute(NamedTuple):
    name: str
    kind: str  # int float bool str dtype ints floats strs array graph
    optional: bool
    default: Any  # dataclasses.MISSING where required


Inferred = TensorType | Abstract | tuple[TensorType | Abstract, ...]


@dataclass(frozen=True)
class Op:
    """Base of every op. Subclasses declare; nothing here is specific to one op."""

    name: ClassVar[str] = ""
    onnx: ClassVar[str | None] = None
    operands: ClassVar[tuple[Operand, ...]] = ()
    attributes: ClassVar[tuple[Attribute, ...]] = ()
    results: ClassVar[tuple[str, ...]] = ("y",)
    axes: ClassVar[str] = ""
    """Axis signature, e.g. `a[m,k] b[k,n] -> y[m,n]` (`signature` has its grammar)."""
    signature: ClassVar[Signature | None] = None
    """`axes`, read when the op is registered."""
    renamed: ClassVar[tuple[tuple[str, str], ...]] = ()
    """(ONNX attribute name, field name) where they differ."""
    pure: ClassVar[bool] = True
    """Whether equal operands and attributes give equal results, with no other effect."""
    not_differentiable: ClassVar[str] = ""
    """Why there is no gradient, where results are floats that depend on float operands."""
    held: ClassVar[Mapping[str, str]] = types.MappingProxyType({})
    """Float operands that no gradient reaches, each with the reason (places, sizes)."""
    straight_through: ClassVar[bool] = False
    """Whether a gradient passes an integer result as if it had not been rounded."""
    numerics: ClassVar[Numerics | None] = None
    """What is promised of NaN, infinities, ties and overflow (`numerics`)."""
    minifloats: ClassVar[bool] = False
    """Whether it takes floats of 8 and 4 bits, as what only moves elements does in any case."""
    settings: ClassVar[tuple[str, ...]] = ()
    """Operands that are set rather than trained (statistics, bounds, scales of quantization)."""
    traits: ClassVar[Trait] = NONE
    """Properties that passes rely on (`traits`, as the next four)."""
    monotone: ClassVar[Monotone | None] = None
    """How results go with the first operand, for functions of one element."""
    within: ClassVar[Interval] = REALS
    """An interval that float results cannot leave, whatever the operands and attributes."""
    moves: ClassVar[Moves | None] = None
    """Which operands' elements it moves, for an op that computes none."""
    weighted: ClassVar[WeightedLayer | None] = None
    """Which operand is the weight, and where its channels are."""

    def __post_init__(self) -> None:
        for a in self.attributes:
            value = getattr(self, a.name)
            coerced = _coerce(a, value)
            if coerced is not value:
                object.__setattr__(self, a.name, coerced)

    def infer(self, *operands: Any) -> Inferred:
        raise NotImplementedError

    def reference(self, *operands: Any) -> Any:
        raise NotImplementedError

    def evaluate(self, operands: Sequence[Array | None], limits: Limits) -> Any:
        """The reference on these operands; ops that carry bodies hold them to `limits`."""
        return self.reference(*operands)

    def dims(self, *operands: Any) -> Shape | None:
        """Contents of an integer result as (symbolic) dimensions, where operands tell them."""
        return None

    def dependence(self, operands: Operands, results: Results) -> Dependences:
        """How each result depends on each operand, axis by axis (`dependence` has the types). All
        ranks are known. An operand that joins no relation has no influence by its values.

        The default follows from the axis signature.
        """
        if self.signature is None:
            return everything(operands, results, "the op does not say")
        return derived(self.signature, self, operands, results)

    def results_within(self, dtype: DType) -> Interval:
        """`within` for this op's attributes and results of this element type."""
        return self.within

    def cost(self, *operands: Abstract | None, results: tuple[TensorType, ...]) -> Cost:
        """Default: no multiply-accumulates. Called with static types only."""
        return Cost(0, memory_bytes(operands, results))

    def definition(self, b: Builder, *operands: Value | None) -> Any:
        """The results as a composition of other ops, if the op is one; the gradient follows."""
        raise NotImplementedError

    def gradient(
        self,
        b: Builder,
        operands: Sequence[Value | None],
        results: Sequence[Value],
        gradients: Sequence[Value | None],
    ) -> Sequence[Value | None]:
        """Reverse mode: emit with `b` the gradient for each operand, given those of the results.

        `b.wants(operand)` tells which are needed; others may be None.
        `operands` has an entry for each declared one (None if left out), `gradients` one for each
        result (None where nothing depends on it). A gradient has its value's type; that of an
        integer tensor that stands for reals is a float tensor of its shape. None means zero.
        The default goes through `definition`. Raises NotDifferentiableError.
        """
        if type(self).definition is Op.definition:
            raise NotDifferentiableError(
                self.not_differentiable or "declares no gradient",
                op=self.name, hint="cut the path, or declare one (docs/writing-an-op.md)",
            )  # fmt: skip
        return b.through(lambda *xs: self.definition(b, *xs), operands, gradients)

    def key(self) -> tuple[Any, ...]:
        """A hashable identity: equal keys and equal operands give equal results."""
        return (self.name, *(_hashable(getattr(self, a.name)) for a in self.attributes))

    def given(self) -> Iterator[tuple[str, Any]]:
        """Attributes that differ from their defaults, in declared order."""
        for a in self.attributes:
            value = getattr(self, a.name)
            if a.default is dataclasses.MISSING or _hashable(value) != _hashable(a.default):
                yield a.name, value

    def is_set(self, position: int) -> bool:
        """Whether an operand is set rather than trained: `settings`, or one that is `held`."""
        if not self.operands:
            return True
        name = self.operands[min(position, len(self.operands) - 1)].name
        return name in self.held or name in self.settings

    def replace(self, **changes: Any) -> typing.Self:
        return dataclasses.replace(self, **changes)


def memory_bytes(operands: tuple[Abstract | None, ...], results: tuple[TensorType, ...]) -> int:
    """Bytes of all operands and results; unknown dimensions make a tensor count as nothing."""
    all_types = [o.type for o in operands if o is not None] + list(results)
    return sum(t.nbytes for t in all_types if t.is_static)


def implements(cls: type[Op], method: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: a method of an op that stands in a file of its own, because it is long and made
    of other ops, which that file may import."""

    def attach(function: Callable[..., Any]) -> Callable[..., Any]:
        setattr(cls, method, function)
        return function

    return attach


def is_differentiable(cls: type[Op]) -> bool:
    """Whether an op declares a gradient, directly or by its definition."""
    return cls.gradient is not Op.gradient or cls.definition is not Op.definition


def has_body(op: Op) -> bool:
    """Whether an op carries a graph."""
    return any(a.kind == "graph" for a in op.attributes)


T = typing.TypeVar("T", bound=type[Op])

_REGISTRY: dict[str, type[Op]] = {}
_BY_ONNX: dict[str, type[Op]] = {}


def register(cls: T) -> T:
    """Class decorator: read operands and attributes from the declaration and make it known."""
    if "name" not in vars(cls):
        cls.name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()
    if "onnx" not in vars(cls):
        cls.onnx = cls.__name__
    if cls.name in _REGISTRY:
        raise ValueError(f"op {cls.name} is declared twice")
    cls.operands = tuple(_operands(cls))
    cls.attributes = tuple(_attributes(cls))
    cls.signature = read_signature(cls.axes) if cls.axes else None
    if cls.signature is not None:
        check(cls.signature, cls)
    if cls.weighted is not None:
        cls.weighted = _placed(cls, cls.weighted)
    _REGISTRY[cls.name] = cls
    if cls.onnx is not None:
        _BY_ONNX[cls.onnx] = cls
    return cls


def _placed(cls: type[Op], layer: WeightedLayer) -> WeightedLayer:
    """A weighted layer with its axes, which the axis signature tells."""
    if cls.signature is None:
        raise ValueError(f"{cls.__name__}: a weighted layer needs an axis signature")
    axes = layer_axes(cls.signature, layer.data, layer.weight)
    return dataclasses.replace(layer, **axes._asdict())


def op_class(name: str) -> type[Op]:
    """The declaration of the op with this text name. Raises UnsupportedError."""
    found = _REGISTRY.get(name)
    if found is None:
        raise UnsupportedError(f"unknown op {name!r}", hint="`taut ops` lists the ops")
    return found


def op_for_onnx(op_type: str) -> type[Op] | None:
    return _BY_ONNX.get(op_type)


def all_ops() -> list[type[Op]]:
    """Every declared op, by name."""
    return [_REGISTRY[k] for k in sorted(_REGISTRY)]


def declared() -> int:
    """How many ops there are: what is found among them once is right until this changes."""
    return len(_REGISTRY)


def ops_where(holds: Callable[[type[Op]], bool]) -> tuple[type[Op], ...]:
    """The ops for which a function holds, by name: found once for each function, and again when
    another op is declared."""
    return _chosen(holds, declared())


@functools.cache
def _chosen(holds: Callable[[type[Op]], bool], count: int) -> tuple[type[Op], ...]:
    return tuple(filter(holds, all_ops()))


def ops_with(trait: Trait) -> tuple[type[Op], ...]:
    """The ops that have a trait (all of several), by name."""
    return _having(trait, declared())


@functools.cache
def _having(trait: Trait, count: int) -> tuple[type[Op], ...]:
    return tuple(c for c in all_ops() if trait in c.traits)


@functools.cache
def positions(cls: type[Op]) -> Mapping[str, int]:
    """Where each declared operand stands."""
    return types.MappingProxyType({o.name: i for i, o in enumerate(cls.operands)})


def _operands(cls: type[Op]) -> Iterator[Operand]:
    for p in list(inspect.signature(cls.infer).parameters.values())[1:]:
        variadic = p.kind is inspect.Parameter.VAR_POSITIONAL
        yield Operand(p.name, p.default is not inspect.Parameter.empty, variadic)


_KINDS: dict[Any, str] = {
    int: "int", float: "float", bool: "bool", str: "str", DType: "dtype",
    tuple[int, ...]: "ints", tuple[float, ...]: "floats", tuple[str, ...]: "strs",
    np.ndarray: "array",
}  # fmt: skip


_Body = type("Graph", (), {})  # stands for graph.Graph, which imports the ops and so comes later


def _attributes(cls: type[Op]) -> Iterator[Attribute]:
    hints = typing.get_type_hints(cls, localns={"Graph": _Body})
    for f in dataclasses.fields(cls):
        hint, optional = hints[f.name], False
        if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
            rest = [h for h in typing.get_args(hint) if h is not type(None)]
            hint, optional = rest[0], True
        kind = "array" if typing.get_origin(hint) is np.ndarray else _KINDS.get(hint)
        if kind is None and getattr(hint, "__name__", "") == "Graph":
            kind = "graph"
        if kind is None:
            raise TypeError(f"{cls.__name__}.{f.name}: no attribute kind for {hint}")
        yield Attribute(f.name, kind, optional, f.default)


def _is_int(v: Any) -> bool:
    return isinstance(v, int | np.integer) and not isinstance(v, bool)


def _is_number(v: Any) -> bool:
    return isinstance(v, int | float | np.integer | np.floating) and not isinstance(v, bool)


_SCALARS: dict[str, tuple[Callable[[Any], bool], Callable[[Any], Any]]] = {
    "int": (_is_int, int),
    "float": (_is_number, float),
    "bool": (lambda v: isinstance(v, bool | np.bool_) or (_is_int(v) and v in (0, 1)), bool),
    "str": (lambda v: isinstance(v, str), str),
    "dtype": (lambda v: isinstance(v, DType), lambda v: v),
    "array": (lambda v: isinstance(v, np.ndarray), lambda v: v),
    "graph": (lambda v: type(v).__name__ == "Graph", lambda v: v),
}


def _coerce(a: Attribute, value: Any) -> Any:
    if value is None and a.optional:
        return None
    if a.kind in _SCALARS:
        fits, make = _SCALARS[a.kind]
        if fits(value):
            return make(value)
    elif isinstance(value, tuple | list | np.ndarray):
        fits, make = _SCALARS[a.kind[:-1]]
        if all(fits(v) for v in value):
            return tuple(make(v) for v in value)
    raise VerifyError(f"attribute {a.name} wants {a.kind}, not {type(value).__name__}")


@functools.singledispatch
def body_key(value: Any) -> Any:
    """What of an attribute with a body counts in `Op.key`; `equality` says it for graphs."""
    return value


_PLAIN = (int, str, DType, types.NoneType)


def _hashable(value: Any) -> Any:
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, tuple):
        return tuple(_hashable(v) for v in value)
    if isinstance(value, float):
        return (value.hex(), "float")  # NaN equals itself, 0.0 differs from -0.0
    if isinstance(value, np.ndarray):
        return (str(value.dtype), value.shape, hashlib.blake2b(value.tobytes()).digest())
    return body_key(value)
