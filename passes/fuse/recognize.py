"""Functions that exporters write out in full, put back together as the one op they are.

Each class is one form of one function; the algebra is in its docstring.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ...ir import Graph, Node, Value
from ...ir.ops.activation import HardSigmoid, LeakyRelu, PRelu, Swish
from ...ir.ops.elementwise import Div, Mul
from ...ir.ops.linear import MatMul
from ...ir.ops.normalization import LayerNormalization, RMSNormalization
from ...ir.ops.pooling import MaxPool
from ...ir.ops.reduction import ReduceMax
from ..base import Outcome, Pass, Within, register_pass
from ..context import Context
from ..pattern import Pattern, PatternBuilder
from ..rewrite import Match, Rewrite, RewriteBuilder, apply_rewrites
from . import near_misses, seeds


def close(a: float | None, b: float, rtol: float = 1e-4) -> bool:
    return a is not None and abs(a - b) <= rtol * abs(b)


class HardSigmoidFromClip(Rewrite):
    """clip(x * a + b, 0, h) / h -> hard_sigmoid(x; a / h, b / h)

    with or without the product, the sum, and the quotient (or a product with 1 / h).
    """

    def pattern(self, p: PatternBuilder, x: Any, a: Any, b: Any, low: Any, h: Any, q: Any) -> Any:
        line = p.any_of(
            p.add(p.mul(x, p.scalar(a), uses=1), p.scalar(b), uses=1),
            p.add(x, p.scalar(b), uses=1),
        )
        clip = p.clip(line, p.scalar(low), p.scalar(h), into="clip")
        return p.any_of(p.div(clip, p.scalar(q)), p.mul(clip, p.scalar(q)), clip)

    def numbers(self, m: Match) -> tuple[float, float] | None:
        a = 1.0 if m.a is None else m.number(m.a)
        b, low, h = m.number(m.b), m.number(m.low), m.number(m.h)
        q = 1.0 if m.q is None else m.number(m.q)
        if isinstance(m.op, Mul) and q:
            q = 1 / q
        if None in (a, b, low, h, q) or low != 0 or not h or h <= 0 or not close(q, h):
            return None
        assert a is not None and b is not None
        return a / h, b / h

    def applies(self, m: Match) -> bool:
        if m.q is not None and m.uses(m.clip) > 1:
            return False
        numbers = self.numbers(m)
        return numbers is not None and m.same_type(m.x) and m.root.type.dtype.is_float

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value:
        numbers = self.numbers(m)
        assert numbers is not None
        return b.node(HardSigmoid(*numbers), m.x)


class HardSwishFromHardSigmoid(Rewrite):
    """x * hard_sigmoid(x; 1/6, 1/2) -> hard_swish(x)"""

    def pattern(self, p: PatternBuilder, x: Any) -> Pattern:
        return p.mul(x, p.hard_sigmoid(x, into="gate"))

    def applies(self, m: Match) -> bool:
        return close(m.gate.op.alpha, 1 / 6) and close(m.gate.op.beta, 0.5)

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value:
        return b.hard_swish(m.x)


class HardSwishFromClip(Rewrite):
    """(x * clip(x + 3, 0, 6)) / 6 -> hard_swish(x), and the factor anywhere in the product"""

    def pattern(self, p: PatternBuilder, x: Any, q: Any, low: Any) -> Pattern:
        gate = p.clip(p.add(x, 3.0), p.scalar(low), 6.0)
        product = p.mul(x, gate, uses=1)

        def sixth(v: Any) -> Pattern:
            return p.any_of(p.div(v, p.scalar(q), into="by"), p.mul(v, p.scalar(q), into="by"))

        scaled = [p.div(product, p.scalar(q), into="by"), p.mul(product, p.scalar(q), into="by")]
        return p.any_of(*scaled, p.mul(gate, sixth(x)))

    def applies(self, m: Match) -> bool:
        q, low = m.number(m.q), m.number(m.low)
        return low == 0 and close(q, 6.0 if isinstance(m.by.op, Div) else 1 / 6) \
            and m.same_type(m.x) and m.root.type.dtype.is_float  # fmt: skip

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value:
        return b.hard_swish(m.x)


class SigmoidFromExp(Rewrite):
    """1 / (1 + e^-x) -> sigmoid(x)"""

    def pattern(self, p: PatternBuilder, x: Any) -> Pattern:
        total = p.add(p.exp(p.neg(x), uses=1), 1.0, uses=1)
        return p.any_of(p.div(1.0, total), p.reciprocal(total))

    def applies(self, m: Match) -> bool:
        return m.same_type(m.x)

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value:
        return b.sigmoid(m.x)


class SwishFromSigmoid(Rewrite):
    """x * sigmoid(x) -> swish(x) (SiLU);  x * sigmoid(x * a) -> swish(x; a)"""

    def pattern(self, p: PatternBuilder, x: Any, a: Any) -> Pattern:
        return p.mul(x, p.sigmoid(p.any_of(x, p.mul(x, p.scalar(a)))))

    def applies(self, m: Match) -> bool:
        return m.same_type(m.x)

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value:
        alpha = 1.0 if m.a is None else m.number(m.a)
        assert alpha is not None
        return b.node(Swish(alpha), m.x)


class MishFromTanh(Rewrite):
    """x * tanh(softplus(x)) -> mish(x)"""

    def pattern(self, p: PatternBuilder, x: Any) -> Pattern:
        return p.mul(x, p.tanh(p.softplus(x)))

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value:
        return b.mish(m.x)


class GeluFromErf(Rewrite):
    """x * (1 + erf(x / sqrt 2)) * 1/2 -> gelu(x), the half anywhere in the product"""

    def pattern(self, p: PatternBuilder, x: Any) -> Pattern:
        root2 = math.sqrt(2)
        line = p.any_of(p.div(x, root2), p.mul(x, 1 / root2))
        gate = p.add(p.erf(line, uses=1), 1.0, uses=1)
        return half_product(p, x, gate)

    def applies(self, m: Match) -> bool:
        return m.same_type(m.x)

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value:
        return b.gelu(m.x)


class GeluFromTanh(Rewrite):
    """x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) * 1/2 -> gelu(x; tanh)"""

    def pattern(self, p: PatternBuilder, x: Any) -> Pattern:
        cube = p.any_of(p.pow(x, 3.0), p.mul(x, p.any_of(p.mul(x, x), p.pow(x, 2.0))))
        inner = p.any_of(
            p.mul(p.add(x, p.mul(cube, 0.044715)), math.sqrt(2 / math.pi)),
            p.mul(p.mul(x, math.sqrt(2 / math.pi)),
                  p.add(p.mul(p.mul(x, 0.044715), x), 1.0)),
            p.mul(p.add(x, p.mul(x, p.mul(x, p.mul(x, 0.044715)))), math.sqrt(2 / math.pi)),
        )  # fmt: skip
        return half_product(p, x, p.add(p.tanh(inner, uses=1), 1.0, uses=1))

    def applies(self, m: Match) -> bool:
        return m.same_type(m.x)

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value:
        return b.gelu(m.x, approximate="tanh")


def half_product(p: PatternBuilder, x: Any, gate: Any) -> Pattern:
    """x * gate / 2 in each order that it is written in."""
    return p.any_of(
        p.mul(p.mul(x, gate, uses=1), 0.5),
        p.div(p.mul(x, gate, uses=1), 2.0),
        p.mul(p.any_of(p.mul(x, 0.5), p.div(x, 2.0)), gate),
        p.mul(x, p.any_of(p.mul(gate, 0.5, uses=1), p.div(gate, 2.0, uses=1))),
    )


class LeakyReluFromMax(Rewrite):
    """max(x, x * a) -> leaky_relu(x; a) for 0 <= a <= 1;  prelu(x, a) -> leaky_relu(x; a)"""

    def pattern(self, p: PatternBuilder, x: Any, a: Any) -> Pattern:
        return p.any_of(p.max(x, p.mul(x, p.scalar(a))), p.prelu(x, p.scalar(a)))

    def applies(self, m: Match) -> bool:
        a = m.number(m.a)
        assert a is not None
        bounded = isinstance(m.op, PRelu) or 0 <= a <= 1
        return bounded and m.same_type(m.x) and m.root.type.dtype.is_float

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value:
        alpha = m.number(m.a)
        assert alpha is not None
        return b.node(LeakyRelu(alpha), m.x)


# ---- normalizations ----------------------------------------------------------------------------


def last_axes(m: Match, *reductions: Node) -> int | None:
    """The axis from which on all of these reductions go, if they do and keep dimensions."""
    found: set[int] = set()
    for node in reductions:
        x, axes = [*m.graph.operands(node), None][:2]
        if x is None or x.shape is None or not node.op.keepdims:  # type: ignore[attr-defined]
            return None
        given = () if axes is None else axes.abstract.as_ints()
        nothing = not given and node.op.noop_with_empty_axes  # type: ignore[attr-defined]
        if given is None or nothing:
            return None
        rank = len(x.shape)
        over = sorted(a % rank for a in given) if given else list(range(rank))
        if over != list(range(over[0], rank)):
            return None
        found.add(over[0] - rank)
    return found.pop() if len(found) == 1 else None


def fits_tail(m: Match, v: Value | None, axis: int) -> bool:
    """Whether a scale or bias certainly has the shape of the normalized axes."""
    if v is None:
        return True
    shape, own = m.x.shape, v.shape
    if shape is None or own is None or None in own:
        return False
    return own == shape[len(shape) + axis :]


def square(p: PatternBuilder, x: Any) -> Pattern:
    return p.any_of(p.pow(x, 2.0), p.mul(x, x))


class LayerNormFromMeans(Rewrite):
    """d = x - mean(x);  d / sqrt(mean(d^2) + eps) * scale -> layer_normalization(x)"""

    def pattern(self, p: PatternBuilder, x: Any, eps: Any, scale: Any) -> Pattern:
        # The subtraction may be written twice.
        centre = p.sub(x, p.reduce_mean(x, p.optional(p.const()), into="mean"))
        again = p.sub(x, p.reduce_mean(x, p.optional(p.const()), into="again"))
        variance = p.reduce_mean(square(p, again), p.optional(p.const()), uses=1, into="variance")
        deviation = p.sqrt(p.add(variance, p.scalar(eps), uses=1), uses=1)
        normal = p.any_of(
            p.div(centre, deviation, uses=1),
            p.mul(centre, p.any_of(p.div(1.0, deviation), p.reciprocal(deviation)), uses=1),
        )
        return p.mul(normal, scale)

    def applies(self, m: Match) -> bool:
        axis = last_axes(m, m.mean, m.again, m.variance)
        return axis is not None and m.same_type(m.x) and fits_tail(m, m.scale, axis)

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value:
        axis, eps = last_axes(m, m.mean, m.again, m.variance), m.number(m.eps)
        assert axis is not None and eps is not None
        return b.node(LayerNormalization(axis, eps), m.x, m.scale)


class LayerNormBias(Rewrite):
    """layer_normalization(x) + bias -> layer_normalization(x) with a bias"""

    def pattern(self, p: PatternBuilder, x: Any, scale: Any, bias: Any) -> Pattern:
        return p.add(p.layer_normalization(x, scale, uses=1, into="norm"), bias)

    def applies(self, m: Match) -> bool:
        axis = m.norm.op.axis
        rank = len(m.x.shape or ())
        back = axis - rank if axis >= 0 else axis
        return m.same_type(m.x) and fits_tail(m, m.bias, back)

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value:
        return b.node(m.norm.op, m.x, m.scale, m.bias)


class RMSNormFromMean(Rewrite):
    """x / sqrt(mean(x^2) + eps) * scale -> rms_normalization(x)"""

    def pattern(self, p: PatternBuilder, x: Any, eps: Any, scale: Any) -> Pattern:
        mean = p.reduce_mean(square(p, x), p.optional(p.const()), uses=1, into="mean")
        total = p.add(mean, p.scalar(eps), uses=1)
        root = p.sqrt(total, uses=1)
        normal = p.any_of(
            p.div(x, root, uses=1),
            p.mul(x, p.any_of(p.div(1.0, root), p.reciprocal(root), p.pow(total, -0.5)), uses=1),
        )
        return p.mul(normal, scale)

    def applies(self, m: Match) -> bool:
        axis = last_axes(m, m.mean)
        return axis is not None and m.same_type(m.x) and fits_tail(m, m.scale, axis)

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value:
        axis, eps = last_axes(m, m.mean), m.number(m.eps)
        assert axis is not None and eps is not None
        return b.node(RMSNormalization(axis, eps), m.x, m.scale)


# ---- pooling and matrix products ---------------------------------------------------------------


class GlobalPoolFromMean(Rewrite):
    """reduce_mean(x, all spatial axes) -> global_average_pool(x), and so the maximum; the average
    over one window of the whole image is one too. (Of images: in sequences a mean is a mean.)
    """

    def pattern(self, p: PatternBuilder, x: Any, axes: Any) -> Pattern:
        reduce = p.op("reduce_mean", "reduce_max")(x, p.const(axes), keepdims=True)
        return p.any_of(reduce, p.op("average_pool", "max_pool")(x))

    def applies(self, m: Match) -> bool:
        shape = m.x.shape
        if shape is None or len(shape) < 4 or not m.x.type.dtype.is_float:
            return False
        if m.axes is None:
            out = m.root.type.shape or ()
            whole = m.op.kernel_shape == shape[2:] and out[2:] == (1,) * (len(shape) - 2)
            plain = not any(m.op.pads) and all(d == 1 for d in m.op.dilations)
            return whole and plain and len(m.root.results) == 1
        axes = sorted(int(a) % len(shape) for a in m.axes.array.reshape(-1))
        return axes == list(range(2, len(shape)))

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value:
        top = isinstance(m.op, ReduceMax | MaxPool)
        return b.global_max_pool(m.x) if top else b.global_average_pool(m.x)


class GemmTranspose(Rewrite):
    """gemm(a^T, b) -> gemm(a, b){transA}, and so for b;  a @ b^T -> gemm(a, b){transB}"""

    def pattern(self, p: PatternBuilder, x: Any, w: Any, c: Any) -> Pattern:
        tx, tw = p.transpose(x, into="first"), p.transpose(w, into="second")
        return p.any_of(
            p.gemm(tx, w, p.optional(c)), p.gemm(x, tw, p.optional(c)), p.mat_mul(x, tw)
        )  # fmt: skip

    def applies(self, m: Match) -> bool:
        turned = m.second if m.second is not None else m.first
        shape = m.x.shape
        return turned.op.perm in ((), (1, 0)) and turned.type.shape is not None \
            and turned.type.rank == 2 and shape is not None and len(shape) == 2  # fmt: skip

    def rewrite(self, b: RewriteBuilder, m: Match) -> Value:
        if isinstance(m.op, MatMul):
            return b.gemm(m.x, m.w, transB=True)
        change = {"transB": not m.op.transB} if m.second is not None \
            else {"transA": not m.op.transA}  # fmt: skip
        return b.node(m.op.replace(**change), m.x, m.w, m.c)


RULES: tuple[type[Rewrite], ...] = (
    HardSigmoidFromClip, HardSwishFromHardSigmoid, HardSwishFromClip, SigmoidFromExp,
    SwishFromSigmoid, MishFromTanh, GeluFromErf, GeluFromTanh, LeakyReluFromMax,
    LayerNormFromMeans, LayerNormBias, RMSNormFromMean, GemmTranspose,
)  # fmt: skip


@register_pass
@dataclass(frozen=True)
class Recognize(Pass):
    """Put functions that are written out in full back together: hard sigmoid and hard swish, SiLU,
    sigmoid, mish, GELU, leaky ReLU, layer and RMS normalization, global pooling, matrix products
    with a transpose. Legal where the form matches with its constants to 1e-4 (exporters round
    1/6 and the like) and no part but the whole is read. Equal in real numbers.
    """

    name = "recognize"
    absent = "no function is written out in simpler ones"
    bound = Within(rtol=2e-4, atol=1e-5)
    seeds = (seeds.HARD, seeds.NORMS, near_misses.UNRANKED, near_misses.WHOLE_WINDOWS)
    nested = True

    def run(self, graph: Graph, context: Context) -> Outcome:
        outcome = apply_rewrites(graph, [r() for r in RULES], context, who=self.name)
        # What is left of the means after the normalizations have taken theirs.
        outcome.merge(apply_rewrites(graph, [GlobalPoolFromMean()], context, who=self.name))
        return outcome
