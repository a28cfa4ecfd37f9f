"""Attention that is written out, as one op:

    softmax(scale * q @ k^T + mask) @ v  ->  attention(q, k, v, mask){scale}

with the scale before or after the product, on q, k or both; masks added or selected; keys turned by
any transpose. Then heads that are split and joined by reshape and transpose go into the op too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from ...ir import Abstract, DType, Graph, Value, VerifyError, op_class
from ...ir.graph import infer
from ...ir.ops.activation import Softmax
from ...ir.ops.attention import Attention
from ...ir.ops.elementwise import Where
from ...ir.ops.shape import Cast
from ..base import Outcome, Pass, Within, register_pass
from ..context import Context
from ..pattern import Pattern, PatternBuilder
from ..rewrite import Failure, Match, Rewrite, RewriteBuilder, apply_rewrites
from ..simplify.reshaping import same_shape
from . import near_misses, seeds
from .extents import Extents
from .products import PRODUCTS, settings
from .scores import Mask, Turned, Unfit, Written, read_weights


class FuseAttention(Rewrite):
    """softmax(scale * q @ k^T + mask) @ v -> attention(q, k, v, mask){scale}

    Without a scale 1. Operands of rank 3 get a head of their own.
    """

    def __init__(self, extents: Extents) -> None:
        self.extents = extents

    def pattern(self, p: PatternBuilder, x: Any, v: Any) -> Pattern:
        return p.op(*PRODUCTS)(x, v)

    def applies(self, m: Match) -> bool:
        above = [m.x]
        if isinstance(m.x.node.op, Cast | Where):
            above = m.graph.operands(m.x.node)
        return any(v is not None and isinstance(v.node.op, Softmax) for v in above)

    def read(self, m: Match) -> tuple[Written, Turned]:
        """What is written, and the values. Raises Unfit."""
        op = settings(m.op)
        if op.alpha != 1 or op.activation:
            raise Unfit("the product with the values is scaled or has an end", m.root)
        if op.transA:
            raise Unfit("the weights are turned", m.root)
        found = read_weights(self.extents, m.x)
        values = Turned.of(m.v)
        if op.transB:
            values = values.swapped()
        rank = len(m.x.shape or ())
        if rank not in (3, 4) or any(t.rank != rank for t in (found.q, found.k, values)):
            raise Unfit(f"the operands do not all have the rank 3 or 4, but {rank}", m.root)
        self.check_batch(m, found, values)
        if found.scale < 0:
            raise Unfit(f"the scale is {found.scale:g}, below 0", m.root)
        for mask in found.masks:
            self.check_mask(m, mask, rank)
        self.check_order(m, found.masks)
        return found, values

    def check_order(self, m: Match, masks: tuple[Mask, ...]) -> None:
        """What is added after scores were replaced by a fill weighs the keys of a row in which all
        were; beside the scores themselves, which come to it here, it would be lost."""
        added = False
        for mask in masks:  # from softmax to the product
            if added and mask.fill is not None and np.isfinite(mask.fill) \
                    and mask.fill > -deepest(m.root.type.dtype):  # fmt: skip
                raise Unfit(f"a mask is added to scores that were set to {mask.fill:g}", m.root)
            added |= mask.fill is None

    def check_batch(self, m: Match, found: Written, values: Turned) -> None:
        """Batch and heads are those of q in k and v, not broadcast."""
        want = self.tokens(found.q)
        for t in (found.k, values):
            if self.tokens(t)[:-2] != want[:-2]:
                raise Unfit("batch or heads of q, k and v broadcast or may differ", m.root)

    def tokens(self, t: Turned) -> list[Any]:
        known = self.extents.of(t.value)
        return [object() for _ in t.perm] if known is None else [known[i] for i in t.perm]

    def check_mask(self, m: Match, mask: Mask, rank: int) -> None:
        """It is as long as there are keys (a shorter one would mask the rest), and no wider."""
        shape, scores = mask.value.shape, self.extents.of(m.x)
        tokens = self.extents.of(mask.value)
        if not shape or len(shape) > rank or tokens is None or scores is None:
            raise Unfit(f"the mask {mask.value.type} has more axes than the scores", m.root)
        if tokens[-1] != scores[-1]:
            raise Unfit(f"the mask {mask.value.type} may not be as long as the keys", m.root)

    def check(self, m: Match) -> Failure | None:
        try:
            found, values = self.read(m)
            operands = [found.q.abstract, found.k.abstract, values.abstract]
            if len(found.q.perm) == 3:
                operands = [self.headed(x) for x in operands]
            op = Attention(scale=found.scale)
            made = infer(op, operands, m.root.name)[0].type
        except Unfit as error:
            return m.fail(error.reason, error.node)
        except VerifyError as error:
            return m.fail(error.message)
        if made.rank != m.root.type.rank + (m.root.type.rank == 3) or made.dtype is not \
                m.root.type.dtype:  # fmt: skip
            return m.fail(f"the result would be {made}, not {m.root.type}")
        return m.ok

    def headed(self, x: Abstract) -> Abstract:
        shape = x.type.shape
        assert shape is not None
        return Abstract(x.type.with_shape((shape[0], 1, *shape[1:])))

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value | None:
        found, values = self.read(m)
        q, k, v = (t.build(b) for t in (found.q, found.k, values))
        mask = self.mask(b, found, m)
        causal = mask is not None and is_triangle(mask)
        if causal:
            mask = None
        flat = len(found.q.perm) == 3
        if flat:
            q, k, v = (b.unsqueeze(x, b.constant(np.array([1]))) for x in (q, k, v))
            if mask is not None and mask.type.rank == 3:
                mask = b.unsqueeze(mask, b.constant(np.array([1])))
        op = Attention(scale=found.scale, is_causal=causal, softmax_precision=found.precision)
        made = b.node(op, q, k, v, mask)
        made = b.squeeze(made, b.constant(np.array([1]))) if flat else made
        return made if m.root.type.accepts(made.type) else None

    def mask(self, b: RewriteBuilder, found: Written, m: Match) -> Value | None:
        """One mask for all: boolean where it alone may be, else added."""
        if len(found.masks) == 1 and found.masks[0].forbids:
            mask = found.masks[0]
            return mask.value if mask.keeps else b.node(op_class("not")(), mask.value)
        total: Value | None = None
        kind = m.root.type.dtype.numpy
        more = deeper(found.masks, deepest(m.root.type.dtype))
        for mask in reversed(found.masks):  # from the product on: what is selected last stands
            if mask.fill is None:
                total = mask.value if total is None else b.add(total, mask.value)
                continue
            kept: Any = np.zeros((), kind) if total is None else total
            parts = [kept, np.asarray(mask.fill * more, kind)]
            total = b.where(mask.value, *parts[:: 1 if mask.keeps else -1])
        return total


def deepest(dtype: DType) -> float:
    """A number in which no score shows that is added to it, and that may be added to itself."""
    return float(ml_dtypes.finfo(dtype.numpy).max) / 16


def deeper(masks: tuple[Mask, ...], lowest: float) -> float:
    """By how much fills are multiplied, so that a score that one is added to no longer shows: a row
    whose keys all are masked weighs those of the highest fill alike."""
    fills = [-m.fill for m in masks if m.fill is not None and np.isfinite(m.fill)]
    return max(1.0, lowest / max(fills)) if fills else 1.0


def is_triangle(mask: Value) -> bool:
    """Whether a constant mask lets query i see keys 0 to i, and nothing else."""
    array = mask.array
    if array is None or array.ndim < 2 or array.shape[-1] != array.shape[-2]:
        return False
    if any(d != 1 for d in array.shape[:-2]) or not array.size:
        return False
    lower = np.tri(array.shape[-1], dtype=bool)
    if array.dtype == np.bool_:
        return bool(np.all(array == lower))
    return bool(np.all(array[..., lower] == 0) and np.all(np.isneginf(array[..., ~lower])))


class TakeHeads(Rewrite):
    """attention of q, k, v that are [b,l,h*d] split into heads, and its heads joined
    -> attention(q, k, v){q_num_heads=h}, which splits and joins by itself
    """

    def pattern(self, p: PatternBuilder, q: Any, k: Any, v: Any, mask: Any, shape: Any) -> Pattern:
        heads = [p.transpose(x, perm=(0, 2, 1, 3)) for x in (q, k, v)]
        made = p.attention(*heads, p.optional(mask), uses=1, into="inner")
        return p.reshape(p.transpose(made, perm=(0, 2, 1, 3), uses=1), shape)

    def sizes(self, m: Match) -> tuple[int, int, int] | None:
        """Query heads, key heads and a value's size."""
        if any(x.shape is None or len(x.shape) != 4 for x in (m.q, m.k, m.v)):
            return None
        h, g, e = m.q.shape[2], m.k.shape[2], m.v.shape[3]
        known = all(isinstance(d, int) for x in (m.q, m.k, m.v) for d in x.shape[2:])
        return (h, g, e) if known else None

    def check(self, m: Match) -> Failure | None:
        sizes = self.sizes(m)
        if m.inner.op.outputs != 1:
            return m.fail("the attention shows more than its result", m.inner)
        if sizes is None:
            return m.fail("the number of heads or their size is not known", m.inner)
        if any(0 in x.shape for x in (m.q, m.k, m.v)):
            return m.fail("there are no elements to share out", m.inner)
        b, length = m.q.shape[:2]
        if not same_shape((b, length, sizes[0] * sizes[2]), m.root.type.shape):
            return m.fail(f"the heads are not joined to {m.root.type}")
        return m.ok

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value | None:
        sizes = self.sizes(m)
        assert sizes is not None
        flat = []
        for x in (m.q, m.k, m.v):
            width = x.shape[2] * x.shape[3]
            flat.append(b.reshape(x, b.constant(np.array([0, 0, width], np.int64))))
        op = m.inner.op.replace(q_num_heads=sizes[0], kv_num_heads=sizes[1])
        made = b.node(op, *flat, m.mask)
        return made if m.root.type.accepts(made.type) else None


@register_pass
@dataclass(frozen=True)
class FuseAttentionPass(Pass):
    """Put attention that is written out as products, scale, mask and softmax back together.

    Legal where softmax goes over the keys, scales are numbers, masks are as long as the keys, and
    nothing else reads what is between. A row that is masked everywhere by minus infinity gives
    zeros, where softmax would give NaN. With `heads` also the splitting of heads before and their
    joining after it. Equal in real numbers.
    """

    name = "fuse-attention"
    absent = "no softmax stands directly between two matrix products"
    bound = Within(rtol=2e-4, atol=1e-5)
    seeds = (seeds.WRITTEN_ATTENTION, seeds.ADDED_MASK, seeds.CAUSAL, seeds.SHORT_MASK,
             seeds.NEARLY_ATTENTION, seeds.SELECTED, near_misses.WIDENED_SCORES,
             near_misses.NEARLY_SELECTED, near_misses.NEARLY_JOINED, near_misses.HARD_MASKS,
             near_misses.TURNED_HEADS, seeds.CONSTANT_MASKS)  # fmt: skip
    families = ("transformer",)
    heads: bool = True

    def run(self, graph: Graph, context: Context) -> Outcome:
        rules: list[Rewrite] = [FuseAttention(Extents(graph))]
        outcome = apply_rewrites(graph, rules, context, who=self.name)
        if self.heads:
            outcome.merge(apply_rewrites(graph, [TakeHeads()], context, who=self.name))
        return outcome
