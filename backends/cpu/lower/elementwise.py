"""Element-wise ops as expressions, joined with their producers into one loop nest.

A template is the op's formula over `{0}`, `{1}`, ... (its operands) in the language of `numeric`.
An op whose one reader is element-wise too is not stored: the reader's expression contains it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ....ir import DType, Node, Op, Value
from .generic import SUPPORTED, Leaf
from .lowering import Lowering, Pending, lowers

MAX_LEAVES = 6
F32, F64 = DType.f32, DType.f64

# A template says the formula and the scalars that it takes as further operands.
Template = Callable[[Any, list[DType], DType], tuple[str, list[tuple[float, DType]]] | None]

TEMPLATES: dict[str, Template] = {}


def template(*names: str) -> Callable[[Template], Template]:
    def register(made: Template) -> Template:
        TEMPLATES.update(dict.fromkeys(names, made))
        return made

    return register


def _plain(text: str, *, floats_only: bool = False) -> Template:
    """The same formula for every type; `T` stands for the result's type."""

    def make(op: Op, kinds: list[DType], out: DType):
        if floats_only and not out.is_float:
            return None
        return text.replace("T(", f"{out.value}("), []

    return make


def _by_width(text: str) -> Template:
    """Floats only; `#` stands for the width, 32 or 64, of a function of `numeric`."""

    def make(op: Op, kinds: list[DType], out: DType):
        return (text.replace("#", out.value[1:]), []) if out in (F32, F64) else None

    return make


def _float(in_f32: str, in_f64: str) -> Template:
    """Formulas of their own for f32 and f64."""

    def make(op: Op, kinds: list[DType], out: DType):
        text = {F32: in_f32, F64: in_f64}.get(out)
        return None if text is None else (text, [])

    return make


def _library(name: str) -> Template:
    """A function of C's library, in double precision."""
    return _float(f"f32(math.{name}(f64({{0}})))", f"math.{name}({{0}})")


for _name, _text in {
    "identity": "{0}",
    "add": "T({0} + {1})",
    "sub": "T({0} - {1})",
    "mul": "T({0} * {1})",
    "neg": "T(-{0})",
    "equal": "{0} == {1}",
    "greater": "{0} > {1}",
    "greater_or_equal": "{0} >= {1}",
    "less": "{0} < {1}",
    "less_or_equal": "{0} <= {1}",
    "and": "{0} and {1}",
    "or": "{0} or {1}",
    "xor": "{0} != {1}",
    "not": "not {0}",
    "where": "({1} if {0} else {2})",
    "bitwise_and": "T({0} & {1})",
    "bitwise_or": "T({0} | {1})",
    "bitwise_xor": "T({0} ^ {1})",
    "bitwise_not": "T(~{0})",
    "relu": "least({0}, T(0))",
    "is_nan": "{0} != {0}",
}.items():
    TEMPLATES[_name] = _plain(_text)

TEMPLATES |= {
    "sqrt": _by_width("sqrt#({0})"),
    "floor": _by_width("floor#({0})"),
    "ceil": _by_width("ceil#({0})"),
    "round": _by_width("rint#({0})"),
    "exp": _float("exp32({0})", "math.exp({0})"),
    "log": _float("log32({0})", "math.log({0})"),
    "sin": _library("sin"),
    "cos": _library("cos"),
    "tan": _library("tan"),
    "asin": _library("asin"),
    "acos": _library("acos"),
    "atan": _library("atan"),
    "sinh": _library("sinh"),
    "cosh": _library("cosh"),
    "tanh": _float("tanh32({0})", "math.tanh({0})"),
    "erf": _float("erf32({0})", "math.erf({0})"),
    "sigmoid": _float("sigmoid32({0})", "1.0 / (1.0 + math.exp(-{0}))"),
    "softplus": _float("softplus32({0})", "softplus64({0})"),
    "softsign": _float("{0} / (f32(1) + abs32({0}))", "{0} / (1.0 + abs64({0}))"),
    "reciprocal": _float("f32(1) / {0}", "1.0 / {0}"),
    "hard_swish": _float(
        "{0} * within({0} / f32(6) + f32(0.5), f32(0), f32(1))",
        "{0} * within({0} / 6.0 + 0.5, 0.0, 1.0)",
    ),
    "mish": _float("{0} * tanh32(softplus32({0}))", "{0} * math.tanh(softplus64({0}))"),
}


def _with_attributes(text: str, *names: str) -> Template:
    """Floats only; the attributes are operands after the op's own."""

    def make(op: Op, kinds: list[DType], out: DType):
        if out not in (F32, F64):
            return None
        return text.replace("T(", f"{out.value}(").replace("#", out.value[1:]), [
            (getattr(op, n), out) for n in names
        ]

    return make


TEMPLATES |= {
    "leaky_relu": _with_attributes("({0} if {0} >= 0 else {0} * {1})", "alpha"),
    "prelu": _with_attributes("({0} if {0} >= 0 else {0} * {1})"),
    "elu": _with_attributes("({0} if {0} >= 0 else {1} * expm1_#({0}))", "alpha"),
    "selu": _with_attributes("{2} * ({0} if {0} > 0 else {1} * expm1_#({0}))", "alpha", "gamma"),
    "thresholded_relu": _with_attributes("({0} if {0} > {1} else T(0))", "alpha"),
    "hard_sigmoid": _with_attributes("within({0} * {1} + {2}, T(0), T(1))", "alpha", "beta"),
}


@template("abs")
def _abs(op: Op, kinds: list[DType], out: DType):
    if out in (F32, F64):
        return f"abs{out.bits}({{0}})", []
    if out.is_signed:
        return f"{out.value}(-{{0}} if {{0}} < 0 else {{0}})", []
    return "{0}", []


@template("swish")
def _swish(op: Any, kinds: list[DType], out: DType):
    if out is not F32:
        return None
    return "{0} * sigmoid32({0} * {1})", [(op.alpha, out)]


@template("gelu")
def _gelu(op: Any, kinds: list[DType], out: DType):
    if out is not F32:
        return None
    if op.approximate == "tanh":
        inner = "f32(0.7978845608028654) * ({0} + f32(0.044715) * {0} * {0} * {0})"
        return f"{{0}} * f32(0.5) * (f32(1) + tanh32({inner}))", []
    return "{0} * f32(0.5) * (f32(1) + erf32({0} * f32(0.7071067811865476)))", []


@template("div")
def _div(op: Op, kinds: list[DType], out: DType):
    if out.is_float:
        return "{0} / {1}", []
    return f"{out.value}({'trunc_div' if out.is_signed else 'unsigned_div'}({{0}}, {{1}}))", []


@template("pow")
def _pow(op: Op, kinds: list[DType], out: DType):
    if out is F32 and kinds[1].is_float:
        return "f32(f64({0}) ** f64({1}))", []
    return None


def _batch_normalization(low: Lowering, node: Node, values: list[Value | None]):
    """x * factor + rest with known statistics; where a factor is infinite, they stay apart."""
    op: Any = node.op
    known = [low.array(v) for v in values[1:]]
    if op.training_mode or any(a is None or a.dtype != np.float32 for a in known):
        return None
    if node.type.dtype is not F32 or node.type.rank < 2:
        return None
    scale, bias, mean, var = (a.astype(np.float64) for a in known if a is not None)
    with np.errstate(all="ignore"):
        factor = scale / np.sqrt(var + op.epsilon)
    place = (-1, *(1,) * (node.type.rank - 2))
    if np.isinf(factor).any():
        parts = [(a.reshape(place), F32) for a in (mean, factor, bias)]
        return "({0} - {1}) * {2} + {3}", parts
    rest = (bias - mean * factor).reshape(place)
    return "{0} * {1} + {2}", [(factor.reshape(place), F32), (rest, F32)]


@template("max", "min")
def _extreme(op: Op, kinds: list[DType], out: DType):
    text = "{0}"
    for i in range(1, len(kinds)):
        text = f"{'least' if op.name == 'max' else 'most'}({text}, {{{i}}})"
    return text, []


@template("sum")
def _sum(op: Op, kinds: list[DType], out: DType):
    return f"{out.value}({' + '.join(f'{{{i}}}' for i in range(len(kinds)))})", []


@template("cast")
def _cast(op: Op, kinds: list[DType], out: DType):
    kind = kinds[0]
    if out is DType.bool:
        return "{0} != 0", []
    if kind.is_float and out.is_integer:
        return None if out is DType.u64 else (f"{out.value}(whole({{0}}))", [])
    return f"{out.value}({{0}})", []


EXPRESSIONS = frozenset((*TEMPLATES, "clip", "batch_normalization"))


@lowers(*EXPRESSIONS)
def elementwise(low: Lowering, node: Node) -> bool:
    """A node as (part of) an expression."""
    out = node.type.dtype
    values = low.graph.operands(node)
    made = _formula(low, node, values)
    if made is None or not usable(low, node):
        return False
    text, scalars = made
    present = [v for v in values if v is not None]
    if node.op.name in ("batch_normalization", "pow"):
        present = present[: 1 + ("{1}" in text and node.op.name == "pow")]
    joined = join(low, node, text, present, [low.scalar(x, kind) for x, kind in scalars])
    if len(joined.leaves) > MAX_LEAVES:
        for v in present:
            low.tensor(v)  # stores what was pending
        joined = join(low, node, text, present, [low.scalar(x, kind) for x, kind in scalars])
    low.pending[node[0]] = replace(joined, dtype=out)
    if not keeps_pending(low, node[0]):
        low.store(node[0])
    return True


def usable(low: Lowering, node: Node) -> bool:
    """Whether the loop nest takes these types and shapes."""
    types = [*node.types, *(v.type for v in low.graph.operands(node) if v is not None)]
    if any(t.dtype not in SUPPORTED for t in types) or len(node.type.static_shape) > 6:
        return False
    return not (node.type.dtype.is_float and any(t.dtype is DType.u64 for t in types))


def _formula(low: Lowering, node: Node, values: list[Value | None]):
    kinds = [v.type.dtype for v in values if v is not None]
    if node.op.name == "batch_normalization":
        return _batch_normalization(low, node, values)
    if node.op.name == "pow":
        exponent = low.array(values[1])
        single = exponent is not None and exponent.size == 1 and node.type.dtype in (F32, F64)
        if single and exponent is not None and float(exponent.reshape(())) == 2.0:
            return "{0} * {0}", []
    if node.op.name == "clip":
        text, i = "{0}", 0
        for k, how in ((1, "least"), (2, "most")):
            if len(values) > k and values[k] is not None:
                i += 1
                text = f"{how}({text}, {{{i}}})"
        return text, []
    return TEMPLATES[node.op.name](node.op, kinds, node.type.dtype)


def join(low: Lowering, node: Node, text: str, values: list[Value], scalars: list[Leaf]) -> Pending:
    """The expression with its operands' pending expressions put in."""
    leaves: list[Leaf] = []
    parts: list[str] = []
    names: list[str] = []
    nodes: list[str] = []

    def leaf(x: Leaf) -> str:
        for i, other in enumerate(leaves):
            if other == x:
                return f"a{i}"
        leaves.append(x)
        return f"a{len(leaves) - 1}"

    rank = len(node.type.static_shape)
    for v in values:
        p = low.pending.get(v)
        if p is None:
            parts.append(leaf(Leaf(flat_scalar(low, v, rank))))
            continue
        inner = [leaf(x) for x in p.leaves]
        parts.append(substitute(p.text, inner))
        names.append(p.name)
        nodes += [n for n in p.nodes if n not in nodes]
    parts += [leaf(x) for x in scalars]
    made = text.format(*(f"({x})" if not x.isidentifier() else x for x in parts))
    name = "_".join([*names, node.op.name])[-40:].strip("_")
    return Pending(made, name, leaves, (*nodes, node.name), node.type.dtype)


def flat_scalar(low: Lowering, value: Value, rank: int):
    """The operand's tensor; one element of too high a rank becomes a scalar."""
    tensor = low.tensor(value)
    if tensor.size == 1 and len(tensor.shape) > 0:
        return tensor.view((), ())
    return tensor


def substitute(text: str, names: list[str]) -> str:
    """Rename a0, a1, ... in an expression."""
    import re

    return re.sub(r"\ba(\d+)\b", lambda m: names[int(m[1])], text)


def keeps_pending(low: Lowering, value: Value) -> bool:
    """Whether a value's only reader will compute it itself."""
    if value in low.homes or low.graph.is_output(value):
        return False
    readers = [u for u in low.graph.uses(value) if u.node in low.live]
    if len(readers) != 1:
        return False
    user = readers[0].node
    if user in low.absorbed or user.op.name not in EXPRESSIONS:
        return False
    made = _formula(low, user, low.graph.operands(user))
    texts = "" if made is None else made[0]
    position = readers[0].position
    once = texts.count(f"{{{position}}}") <= 1 or len(low.pending[value].text) < 40
    return (
        made is not None
        and once
        and usable(low, user)
        and user[0].type.static_shape == value.type.static_shape
        and math.prod(value.type.static_shape) > 0
    )
