"""Matches of patterns, made: a pattern (a small graph written as code) is turned into nodes.

A `Plant` holds a graph that is evaluated as it grows, so that what an op refuses, in its types or
in its numbers, is known at once and taken back. Operands are drawn so that an op's own inference
takes them (`fits`); what a guard may ask for beyond that is left to chance, in both ways: numbers
that the rule's own code names come often, and now and then a match is nearly one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, TypeVar

import ml_dtypes
import numpy as np

from taut.ir import DType, Graph, Node, Op, TautError, TensorType, Value
from taut.ir.analysis.cost import node_cost
from taut.ir.interpret import run_node
from taut.ir.op import Array, op_class
from taut.passes.pattern import (
    AnyOf,
    ConstPattern,
    OpPattern,
    OptionalPattern,
    Pattern,
    Rest,
    Var,
)

from .values import filled

LARGEST = 2048  # elements of a value
MACS = 1 << 18
NUMBERS = (0.0, 1.0, -1.0, 2.0, 0.5, -0.5, 3.0, 6.0, 0.25, 1 / 6, -2.0, 10.0)
HARD = (-0.0, float("nan"), float("inf"), float("-inf"), 1e30, 1e-40)
FLOATS = (DType.f32,) * 6 + (DType.f64, DType.f64, DType.f16, DType.bf16)
WHOLE = (DType.i32, DType.i64, DType.i8, DType.u8, DType.i32, DType.i64, DType.i16)
BYTES = (DType.i8, DType.u8)
SIZES = (1, 2, 3, 4, 2, 3, 5, 1)
DEEPEST = 2  # ops that a rule names, one before the other
NEARLY = 0.05  # how often something in a match is made not to fit

T = TypeVar("T")


class Unfit(Exception):
    """What was drawn does not go together; another draw may."""


@dataclass(frozen=True)
class Want:
    """What is asked of a value; None or empty leaves it open. `shape` may hold None for any size.

    `param`: weights and the like, constant more often than not. `array`: exactly this constant.
    `low`, `high` bound integers. `positive`: numbers over 0. `like`: broadcasts into this shape.
    """

    dtype: DType | None = None
    shape: tuple[Any, ...] | None = None
    kinds: tuple[DType, ...] = ()
    ranks: tuple[int, ...] = ()
    param: bool = False
    array: Array | None = None
    low: int | None = None
    high: int | None = None
    positive: bool = False
    like: tuple[Any, ...] | None = None

    def of(self, **changes: Any) -> Want:
        return dataclasses.replace(self, **changes)


ANY = Want()
Fit = Callable[["Plan"], list["Value | None"]]
"""Draws the operands of a planned op, and the attributes that depend on them."""


class Plant:
    """A graph under growth, with what its inputs are fed and what every value then is."""

    def __init__(self, random: Random, fit: Fit, awkward: Iterable[str] = ()) -> None:
        self.random, self.fit, self.awkward = random, fit, tuple(awkward)
        self.graph = Graph()
        self.values: dict[Value, Array] = {}
        self.feeds: dict[str, Array] = {}
        self.sizes = {"n": random.choice((1, 2, 3, 4)), "m": random.choice((1, 2, 3))}
        self.numbers: list[float] = []  # that the match under way has used
        self.hints: tuple[float, ...] = ()  # that the rule's code names
        self.words: tuple[str, ...] = ()
        self.makers: tuple[type[Op], ...] = ()
        self.depth = 0  # of ops before the match under way
        self.related = False  # whether the numbers of this match are made of each other
        self.protected: set[Node] = set()  # that must stay read once

    # ---- chance --------------------------------------------------------------------------------

    def pick(self, *choices: T) -> T:
        return self.random.choice(choices)

    def chance(self, p: float) -> bool:
        return self.random.random() < p

    def nearly(self) -> bool:
        return self.chance(NEARLY)

    # ---- nodes ---------------------------------------------------------------------------------

    def add(self, op: Op, *operands: Value | None) -> Value:
        """Add a node and run it. Raises Unfit and takes it back where that cannot be."""
        graph = self.graph
        try:
            node = graph.add(op, *operands, name=op.name)
        except TautError as error:
            raise Unfit(str(error)) from error
        try:
            self._small(node, operands)
            arrays = run_node(node, [None if v is None else self.values[v] for v in operands])
            if any(a.size > LARGEST for a in arrays):
                raise Unfit("too large")
        except (TautError, Unfit) as error:
            graph.erase(node)
            raise Unfit(str(error)) from error
        self.values.update({node[i]: a for i, a in enumerate(arrays)})
        return node[0]

    def _small(self, node: Node, operands: Sequence[Value | None]) -> None:
        for t in node.types:
            if t.shape is None:
                raise Unfit("of unknown rank")
            known = [self.size(d) for d in t.shape]
            if int(np.prod(known, dtype=object)) > LARGEST:
                raise Unfit("too large")
        cost = node_cost(self.graph, node)
        if cost is not None and cost.macs > MACS:
            raise Unfit("too much work")

    def size(self, dim: Any) -> int:
        return dim if isinstance(dim, int) else self.sizes.get(dim, 2) if dim is not None else 2

    def constant(self, array: Array, name: str = "c") -> Value:
        value = self.graph.constant(array, name)
        self.values[value] = np.asarray(array)
        return value

    def input(self, kind: TensorType, want: Want = ANY) -> Value:
        shape = tuple(self.size(d) for d in kind.shape or ())
        name = f"x{len(self.feeds)}"
        array = self.array(TensorType(kind.dtype, shape), want)
        value = self.graph.add_input(name, kind)[0]
        self.feeds[name] = self.values[value] = array
        return value

    def mark(self) -> tuple[int, int]:
        """A point to come back to by `back`."""
        return len(self.values), len(self.feeds)

    def back(self, mark: tuple[int, int]) -> None:
        """Take back what was made since."""
        for value in list(self.values)[: mark[0] - 1 if mark[0] else None : -1]:
            del self.values[value]
            node = value.node
            if node in self.graph.nx and not self.graph.nx.succ[node]:
                self.feeds.pop(node.name, None)
                self.graph.erase(node)

    # ---- numbers -------------------------------------------------------------------------------

    def array(self, kind: TensorType, want: Want = ANY) -> Array:
        numbers = np.random.default_rng(self.random.getrandbits(32))
        made = filled(kind, numbers, () if want.positive else self.awkward, want.low, want.high)
        return np.abs(made) + np.asarray(0.5, made.dtype) if want.positive else made

    def number(self, dtype: DType) -> float:
        """One that the rule's code names, one used before or its inverse, or a usual one."""
        choices: list[Callable[[], float]] = []
        if not self.related or not self.hints or self.chance(0.2):
            choices += [lambda: self.pick(*NUMBERS)] * 3
        if self.hints:
            choices += [lambda: self.pick(*self.hints)] * 5
            near = self.pick(*self.hints)  # beside the edge
            choices.append(lambda: self.pick(near + 1, near - 1, near * 2))
        if self.numbers:
            choices += [lambda: self.pick(*self.numbers)] * 2
            last = self.pick(*self.numbers)
            if last:
                choices += [lambda: 1 / last] + [lambda: -last] * (not self.related)
        if self.awkward and dtype.is_float:
            choices.append(lambda: self.pick(*HARD))
        made = self.random.choice(choices)()
        self.numbers.append(made)
        return made

    def scalar_of(self, dtype: DType, number: float, shape: tuple[int, ...]) -> Array:
        if dtype is DType.bool:
            return np.full(shape, bool(number))
        if dtype.is_integer:
            low, high = dtype.bounds
            whole = number if np.isfinite(number) else float(self.pick(low, high))
            return np.full(shape, min(max(round(whole), low), high), dtype.numpy)
        with np.errstate(all="ignore"):
            return np.full(shape, number, dtype.numpy)

    def dense(self, kind: TensorType, want: Want) -> Array:
        """A constant of a static type: drawn numbers most often; one number, powers of two,
        positive ones, with a zero or a negative one, else."""
        shape, dtype = kind.static_shape, kind.dtype
        style = self.pick("drawn", "drawn", "drawn", "one", "powers", "positive", "mixed")
        if kind.size == 1 and self.chance(0.5):
            style = "one"
        if style == "one" and not want.positive:
            return self.scalar_of(dtype, self.number(dtype), shape)
        if not dtype.is_float or want.positive or style == "drawn":
            return self.array(kind, want)
        plain = self.array(kind, want.of(positive=style in ("positive", "mixed")))
        if style == "powers":
            most = _exponents(dtype) if self.awkward and self.chance(0.3) else (-3, 3)
            exponents = np.random.default_rng(self.random.getrandbits(32)).integers(
                *most, shape, endpoint=True)  # fmt: skip
            return np.ldexp(np.where(np.signbit(plain), -1.0, 1.0), exponents).astype(dtype.numpy)
        if style == "mixed" and plain.size:
            plain.reshape(-1)[self.random.randrange(plain.size)] = self.pick(0.0, -1.0, 1.0)
        return plain

    # ---- leaves --------------------------------------------------------------------------------

    def kind(self, want: Want) -> TensorType:
        """A type that fits what is wanted."""
        choices = want.kinds or (*FLOATS, *FLOATS, *WHOLE, DType.bool)
        dtype = want.dtype or self.pick(*choices)
        if want.like is not None and want.shape is None:
            return TensorType(dtype, self.broadcast(want.like))
        if want.shape is None:
            rank = self.pick(*(want.ranks or (2, 3, 4, 1, 2, 3, 4, 0)))
            shape: list[Any] = [None] * rank
        else:
            shape = list(want.shape)
        for i, d in enumerate(shape):
            if d is None:
                shape[i] = 0 if self.chance(0.015) else self.pick(*SIZES)
                if self.chance(0.25 if i == 0 else 0.06):
                    shape[i] = "n" if i == 0 else self.pick("n", "m")
        while int(np.prod([self.size(d) for d in shape], dtype=object)) > LARGEST:
            shape[self.random.randrange(len(shape))] = 2 if want.shape is None else 1
        return TensorType(dtype, tuple(shape))

    def broadcast(self, shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """A shape that broadcasts into this one most often; or widens it."""
        styles = ("same",) * 5 + ("channel",) * 3 + (
            "scalar", "scalar", "last", "tail", "ones", "wider")  # fmt: skip
        style = self.pick(*styles)
        rank = len(shape)
        if style == "scalar":
            return (1,) * self.pick(0, 0, 1, rank)
        if style == "last":
            return tuple(shape[-1:])
        if style == "tail":
            return tuple(shape[self.random.randrange(rank + 1) :])
        if style == "channel" and rank > 2:
            return (shape[1], *(1,) * (rank - 2))
        if style == "ones":
            kept = tuple(d if self.chance(0.5) else 1 for d in shape)
            return kept[self.random.randrange(rank + 1) :] if self.chance(0.3) else kept
        if style == "wider":
            ones = [i for i, d in enumerate(shape) if d == 1]
            if ones and self.chance(0.5):
                at = self.pick(*ones)
                return (*shape[:at], 2, *shape[at + 1 :])
            return (self.pick(1, 2), *shape) if rank < 5 else shape
        return shape

    def leaf(self, want: Want) -> Value:
        """A value that nothing of the pattern makes: an input, a constant, what some op made of
        one, or a value that is there already."""
        if want.array is not None:
            return self.constant(want.array)
        bounded = want.low is not None or want.positive
        kind = self.kind(want)
        if want.param and self.chance(0.85) and all(isinstance(d, int) for d in kind.shape or ()):
            return self.constant(self.dense(kind, want))
        if not bounded and self.chance(0.25):
            found = [v for v in self.values if v.type == kind and v.node not in self.protected]
            made = self.pick(*found[-12:]) if found else None
            if made is not None and (self.awkward or np.isfinite(self.values[made]).all()):
                return made  # an infinity that pads is for its window, where bounds want numbers
        static = kind.is_static
        if static and self.chance(0.08):
            return self.constant(self.dense(kind, want))
        if not bounded and self.makers and self.chance(0.45 if not self.depth else 0.3):
            made = self.made(want)
            if made is not None:
                return made
        x = self.input(kind, want)
        return self.changed(x) if not bounded and self.chance(0.3) else x

    def made(self, want: Want) -> Value | None:
        """What one of the ops that the rule's code names makes, if that is of the wanted type."""
        makers, self.depth = self.makers, self.depth + 1
        self.makers = makers if self.depth < DEEPEST else ()
        mark, bound = self.mark(), self.numbers
        try:
            cls = self.pick(*makers)
            pattern = OpPattern(frozenset([cls]), (Rest("operands"),))
            made = Match(self).op(pattern, want.of(param=False))
        except Unfit:
            self.back(mark)
            return None
        finally:
            self.makers, self.numbers, self.depth = makers, bound, self.depth - 1
        fits = (want.dtype is None or made.type.dtype is want.dtype) and (
            want.shape is None or made.shape == want.shape or None in want.shape)  # fmt: skip
        if not fits:
            self.back(mark)
        return made if fits else None

    def changed(self, x: Value) -> Value:
        """x, or an element-wise function of it of the same type."""
        names = ("relu", "abs", "sigmoid", "tanh", "softplus", "exp", "mul", "add", "identity") \
            if x.type.dtype.is_float else ("abs", "max", "add")  # fmt: skip
        name = self.pick(*names)
        try:
            made = self.add(op_class(name)(), x, *([x] if name in ("mul", "add", "max") else []))
        except Unfit:
            return x
        return made if made.type == x.type else x


def _exponents(dtype: DType) -> tuple[int, int]:
    """Of the least and the largest power of two that a float type has."""
    limits = ml_dtypes.finfo(dtype.numpy)
    return int(limits.minexp - limits.nmant), int(limits.maxexp) - 1


class Match:
    """One pattern on its way into a plant."""

    def __init__(self, plant: Plant) -> None:
        self.plant = plant
        self.bound: dict[str, Any] = {}
        self.inner: list[Node] = []
        self.done: dict[int, Value] = {}  # nodes of patterns that occur more than once

    def make(self, pattern: Pattern, want: Want = ANY) -> Value | None:
        """Nodes for a pattern; None for an operand that is left out. Raises Unfit."""
        match pattern:
            case Var(name):
                if name not in self.bound:
                    self.bound[name] = self.plant.leaf(want)
                return self.bound[name]
            case ConstPattern():
                return self.const(pattern, want)
            case OptionalPattern(of):
                return None if self.plant.chance(0.35) else self.make(of, want)
            case AnyOf(choices):
                return self.make(self.plant.pick(*choices), want)
            case OpPattern():
                return self.op(pattern, want)
        raise Unfit(f"no way to make a {type(pattern).__name__}")

    def const(self, pattern: ConstPattern, want: Want) -> Value:
        if pattern.name is not None and pattern.name in self.bound:
            return self.bound[pattern.name]
        plant = self.plant
        if plant.chance(NEARLY / 2) and want.array is None:
            made = plant.leaf(want)
        else:
            made = plant.constant(self.const_array(pattern, want))
        if pattern.name is not None:
            self.bound[pattern.name] = made
        return made

    def const_array(self, pattern: ConstPattern, want: Want) -> Array:
        plant = self.plant
        if want.array is not None and pattern.value is None:
            return self.evened(want.array) if pattern.scalar else want.array
        if not pattern.scalar:
            kind = plant.kind(want)
            shape = tuple(plant.size(d) if d is not None else 2 for d in kind.shape or ())
            return plant.dense(TensorType(kind.dtype, shape), want)
        dtype = plant.kind(want.of(like=None)).dtype
        number = pattern.value if pattern.value is not None else plant.number(dtype)
        if want.positive and not number > 0:
            number = 0.5
        shape = (1,) * plant.pick(0, 0, 0, 1)
        target = want.shape if want.shape is not None else want.like
        if target is not None and plant.chance(0.3 if want.shape is None else 0.7):
            shape = tuple(plant.size(d) for d in target)
        array = plant.scalar_of(dtype, number, shape)
        if plant.nearly() and array.size > 1:  # not all of one number
            array.reshape(-1)[0] = plant.scalar_of(dtype, 1.0, ())
        elif plant.nearly():
            array = plant.scalar_of(dtype, plant.number(dtype), shape)
        return array

    def evened(self, array: Array) -> Array:
        """An array of one number, most often."""
        if array.size < 2 or self.plant.nearly():
            return array
        return np.full_like(array, self.plant.pick(*array.reshape(-1).tolist()))

    def op(self, pattern: OpPattern, want: Want) -> Value:
        plant = self.plant
        if id(pattern) in self.done and plant.chance(0.8):
            return self.done[id(pattern)]
        cls = plant.pick(*sorted(pattern.ops, key=lambda c: c.name))
        plan = Plan(self, cls, pattern, want)
        try:
            operands = plant.fit(plan)
        except (IndexError, ValueError) as error:  # a shape was asked for that the op cannot have
            raise Unfit(str(error)) from error
        while operands and operands[-1] is None:
            operands.pop()
        if pattern.commutes and len(operands) == 2 and plant.chance(0.5):
            operands.reverse()
        made = plant.add(plan.op(), *operands)
        self.inner.append(made.node)
        self.done[id(pattern)] = made
        return made


class Plan:
    """An op of a pattern, its operands and attributes about to be drawn."""

    def __init__(self, match: Match, cls: type[Op], pattern: OpPattern, want: Want) -> None:
        self.match, self.plant, self.cls, self.pattern = match, match.plant, cls, pattern
        self.want = want
        self.attributes: dict[str, Any] = dict(pattern.attributes)
        if self.attributes and self.plant.nearly():
            self.attributes.pop(self.plant.pick(*self.attributes))

    def operand(self, place: int, want: Want = ANY, optional: bool | None = None) -> Value | None:
        """The operand at this place of the op, as the pattern says or, in its rest, as it comes."""
        wanted = self.pattern.operands
        last = len(wanted) - 1
        declared = self.cls.operands
        if optional is None:
            optional = place < len(declared) and declared[place].optional
        if place >= len(declared) and not (declared and declared[-1].variadic):
            return None
        if wanted and isinstance(wanted[-1], Rest) and place >= last:
            rest: tuple[Any, ...] = self.match.bound.get(wanted[-1].name, ())
            made = None if optional and self.plant.chance(0.5) else self.plant.leaf(want)
            self.match.bound[wanted[-1].name] = (*rest, made)
            return made
        if place > last:  # the pattern wants it left out
            return self.plant.leaf(want) if self.plant.nearly() else None
        sub = wanted[place]
        if isinstance(sub, Var) and optional and self.plant.chance(0.3):
            return None
        return self.match.make(sub, want)

    def need(self, place: int, want: Want = ANY) -> Value:
        """An operand that is there and has a rank. Raises Unfit."""
        made = self.operand(place, want, optional=False)
        if made is None or made.shape is None:
            raise Unfit("a needed operand is left out")
        return made

    def set(self, name: str, value: Any) -> Any:
        """An attribute, unless the pattern gives it; returns what it is."""
        return self.attributes.setdefault(name, value)

    def op(self) -> Op:
        """The op: what is set, and now and then another value for what is not."""
        given = dict(self.attributes)
        for a in self.cls.attributes:
            required = a.default is dataclasses.MISSING
            float_hint = a.kind == "float" and self.plant.hints
            often = 0.4 if float_hint or a.name == "activation" else 0.12
            if a.name in given or (not required and not self.plant.chance(often)):
                continue
            value = self._drawn(a.name, a.kind)
            if value is not None:
                given[a.name] = value
        try:
            return self.cls(**given)
        except (TautError, TypeError):
            pass
        try:
            return self.cls(**self.attributes)
        except (TautError, TypeError) as error:  # a body, say, cannot be drawn
            raise Unfit(str(error)) from error

    def _drawn(self, name: str, kind: str) -> Any:
        plant = self.plant
        if kind == "float":
            return plant.pick(1e-5, 1e-2, 0.1) if name == "epsilon" else \
                plant.pick(0.5, 0.1, 2.0, -0.5, 1 / 6, *plant.hints, *plant.hints)  # fmt: skip
        if kind == "bool":
            return plant.chance(0.5)
        if kind == "str" and name != "auto_pad":
            return plant.pick("relu", "sigmoid", "tanh", *plant.words)
        if kind == "int" and name in ("axis", "outputs"):
            return plant.pick(-1, 1, 0, 2, -2) if name == "axis" else plant.pick(1, 2)
        return None
