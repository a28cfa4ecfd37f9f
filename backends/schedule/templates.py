"""Formulas of element-wise ops: over `{0}`, `{1}`, ... (an op's operands), as Python source.

Their language is small: arithmetic and comparisons, the names of element types as conversions, and
functions that a backend has to provide (`least`, `most`, `within`, `clamp`, `exp32`, ...; the CPU's
are in `cpu.codegen.numeric`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...ir import DType, Op
from ...ir.ops.elementwise import Max

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


@template("max", "min")
def _extreme(op: Op, kinds: list[DType], out: DType):
    text = "{0}"
    for i in range(1, len(kinds)):
        text = f"{'least' if isinstance(op, Max) else 'most'}({text}, {{{i}}})"
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


POINTWISE = frozenset((*TEMPLATES, "clip", "batch_normalization"))
"""Ops that compute each element by a formula (some of known operands only)."""
