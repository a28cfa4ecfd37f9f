"""Element-wise ops as expressions, joined with their producers into one loop nest.

An op whose one reader is element-wise too is not stored: the reader's expression contains it.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from ....ir import DType, Node, Value
from ....ir.ops.activation import Clip
from ....ir.ops.elementwise import Pow
from ....ir.ops.normalization import BatchNormalization
from ...schedule.layout import KERNEL_TYPES
from ...schedule.templates import POINTWISE, TEMPLATES
from .generic import Leaf
from .lowering import Lowering, Pending
from .registry import lowers

MAX_LEAVES = 6
F32, F64 = DType.f32, DType.f64


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


@lowers(*POINTWISE)
def elementwise(low: Lowering, node: Node) -> bool:
    """A node as (part of) an expression."""
    out = node.type.dtype
    values = low.graph.operands(node)
    made = _formula(low, node, values)
    if made is None or not usable(low, node):
        return False
    text, scalars = made
    present = [v for v in values if v is not None]
    if isinstance(node.op, BatchNormalization | Pow):
        present = present[: 1 + ("{1}" in text and isinstance(node.op, Pow))]
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
    if any(t.dtype not in KERNEL_TYPES for t in types) or len(node.type.static_shape) > 6:
        return False
    return not (node.type.dtype.is_float and any(t.dtype is DType.u64 for t in types))


def _formula(low: Lowering, node: Node, values: list[Value | None]):
    kinds = [v.type.dtype for v in values if v is not None]
    if isinstance(node.op, BatchNormalization):
        return _batch_normalization(low, node, values)
    if isinstance(node.op, Pow):
        exponent = low.array(values[1])
        single = exponent is not None and exponent.size == 1 and node.type.dtype in (F32, F64)
        if single and exponent is not None and float(exponent.reshape(())) == 2.0:
            return "{0} * {0}", []
    if isinstance(node.op, Clip):
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
    if value in low.schedule.layouts.homes or low.graph.is_output(value):
        return False
    readers = [u for u in low.graph.uses(value) if u.node in low.facts.live]
    if len(readers) != 1:
        return False
    user = readers[0].node
    if user in low.groups.absorbed or user.op.name not in POINTWISE:
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
