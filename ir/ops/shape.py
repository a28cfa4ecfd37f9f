"""Ops that change shape, not elements. All know shape data: the sizes that flow between them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from ..dependence import ANY, Dependences
from ..errors import FeedError, UnsupportedError, VerifyError
from ..numerics import ARITHMETIC, MOVES
from ..op import Abstract, Array, Inferred, Op, Operands, Results, register
from ..relate import Space, everything, ints_at, known, reduced, reshaped, shape_at
from ..traits import Moves, Trait
from ..types import Dim, DType, Shape, TensorType, broadcast
from .adjoint import in_type_of, ints, inverse, rank_of, shaped, size_of, sum_to
from .common import (
    cast,
    check_axes,
    check_choice,
    check_integer,
    check_rank,
    check_scalar,
    differs,
    length,
    unknown,
)
from .minifloat import ROUND_MODES

if TYPE_CHECKING:
    from ..build import Builder


@dataclass(frozen=True)
class Same(Op):
    """One operand, whose shape data is handed on."""

    numerics = MOVES

    def infer(self, x: Abstract) -> Inferred:
        return x.type

    def reference(self, x: Array) -> Any:
        return x

    def dims(self, x: Abstract, *rest: Abstract | None) -> Shape | None:
        return x.as_dims() if x.dtype.is_integer else None

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        return (shaped(b, gradients[0], operands[0]),)


@register
@dataclass(frozen=True)
class Identity(Same):
    """x"""

    moves = Moves()
    axes = "x[...] -> y[...]"


@register
@dataclass(frozen=True)
class Cast(Same):
    """x in another element type: floats to integers toward zero and by their low bits, where what
    is beyond i64, an infinity or NaN counts as -2^63; to bool as x != 0. To a float of 8 or 4 bits
    what is too large becomes the largest number, or without `saturate` infinity, or NaN where the
    type has none. `round_mode` concerns f8e8m0fnu, which holds powers of two: the next one "up" or
    "down", or the "nearest", of 2^-127 to 2^127 (ends stand for what is outside, else NaN).
    """

    numerics = ARITHMETIC.but(
        nan="to an integer: -2^63, which wraps to 0 in narrower ones; to bool: true",
        infinity="to an integer: -2^63, as NaN",
        overflow="to a float: to infinity (of 8 and 4 bits: as saturate says); floats beyond i64: "
        "-2^63; integers wrap",
    )
    axes = "x[...] -> y[...]"
    minifloats = True
    to: DType
    saturate: bool = True
    round_mode: str = "up"

    def infer(self, x: Abstract) -> Inferred:
        check_choice(self.round_mode, ROUND_MODES, "round_mode")
        return x.type.with_dtype(self.to)

    def reference(self, x: Array) -> Array:
        return cast(x, self.to, self.saturate, self.round_mode)

    def dims(self, x: Abstract, *rest: Abstract | None) -> Shape | None:
        # Sizes stay far below 2^31, so that only wide types keep them.
        return super().dims(x) if self.to in (DType.i64, DType.i32) else None

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        (x,), (g,) = operands, gradients
        return (in_type_of(b, g, x) if x.type.dtype.is_float else g,)


@register
@dataclass(frozen=True)
class CastLike(Same):
    """x in the element type of `like`"""

    numerics = ARITHMETIC.but(nan="as cast", infinity="as cast", overflow="as cast")
    axes = "x[...] like[-] -> y[...]"
    minifloats = True
    saturate: bool = True
    round_mode: str = "up"

    def infer(self, x: Abstract, like: Abstract) -> Inferred:
        check_choice(self.round_mode, ROUND_MODES, "round_mode")
        return x.type.with_dtype(like.dtype)

    def reference(self, x: Array, like: Array) -> Array:
        return cast(x, DType.of(like), self.saturate, self.round_mode)

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        (x, _), (g,) = operands, gradients
        return in_type_of(b, g, x) if x.type.dtype.is_float else g, None


@register
@dataclass(frozen=True)
class Dropout(Op):
    """x (inference); with outputs=2 also the mask, all true. Training is refused, but at ratio 0

    `shared` and `alpha` say what `dropout-masks` makes of it for training: over axes `shared` all
    elements are kept or dropped together; with `alpha` what is dropped becomes the lowest value of
    selu, and mean and variance stay (G. Klambauer and others, "Self-normalizing neural networks",
    2017).
    """

    traits = Trait.RANDOM
    numerics = MOVES
    axes = "x[...] ratio[] training_mode[] -> y[...] mask[...]"
    results = ("y", "mask")
    held = MappingProxyType({"ratio": "it is a probability"})
    seed: int = 0
    outputs: int = 1
    shared: tuple[int, ...] = ()
    alpha: bool = False

    def infer(
        self, x: Abstract, ratio: Abstract | None = None, training_mode: Abstract | None = None
    ) -> Inferred:
        if self.shared and x.shape is not None:
            check_axes(self.shared, len(x.shape))
        check_scalar(ratio, "the ratio")
        check_scalar(training_mode, "training_mode")
        known = ratio is None or ratio.value is not None
        if training_mode is not None and training_mode.value is not None and known:
            self._refuse_training(None if ratio is None else ratio.value, training_mode.value)
        made = (x.type, x.type.with_dtype(DType.bool))
        return made if self.outputs == 2 else made[0]

    def reference(
        self, x: Array, ratio: Array | None = None, training_mode: Array | None = None
    ) -> Any:
        if training_mode is not None:
            self._refuse_training(ratio, training_mode)
        return (x, np.ones(x.shape, bool)) if self.outputs == 2 else x

    def _refuse_training(self, ratio: Array | None, training_mode: Array) -> None:
        if training_mode.any() and (ratio is None or ratio.any()):
            raise UnsupportedError("dropout in training mode is random",
                                   hint="run it with training_mode false")  # fmt: skip

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        return gradients[0], None, None  # what is refused has no gradient either


# ---- new shape, same elements ------------------------------------------------------------------


def reshaping(operands: Operands, results: Results) -> Dependences:
    """Operand 0 in another shape."""
    s = Space(operands, results)
    s.relate(0, 0, *reshaped(s, shape_at(operands, 0), s.results[0]))
    s.rest("it says the shape")
    return s.made()


@register
@dataclass(frozen=True)
class Reshape(Same):
    """x in another shape; one -1 stands for what remains, 0 for x's own dimension (with allowzero
    for zero)
    """

    moves = Moves()
    allowzero: bool = False

    def infer(self, x: Abstract, shape: Abstract) -> Inferred:
        check_integer(shape, "the shape")
        want, size = shape.as_dims(), length(shape)
        if want is None:
            return TensorType(x.dtype, None if size is None else unknown(size))
        return TensorType(x.dtype, self.resolve(x, want))

    def resolve(self, x: Abstract, want: Shape) -> Shape:
        """The new shape. Raises VerifyError where the numbers of elements differ."""
        out: list[Dim] = []
        copied = {i for i, d in enumerate(want) if d == 0 and not self.allowzero}
        for i, d in enumerate(want):
            if i in copied:
                if x.shape is not None and i >= len(x.shape):
                    raise VerifyError(f"dimension {i} is to be {x.type}'s own, which has none")
                d = None if x.shape is None else x.shape[i]
            elif isinstance(d, int) and d < -1:
                raise VerifyError(f"dimension {d} of the new shape is negative")
            out.append(d)
        if out.count(-1) > 1 or (self.allowzero and -1 in out and 0 in out):
            raise VerifyError(f"the new shape {list(want)} is ambiguous")
        rest: Dim = None
        if x.type.is_static and x.type.size == 0 and -1 not in out:
            if 0 not in out and all(isinstance(d, int) for d in out):
                raise VerifyError(f"{x.type} cannot take the shape {list(want)}")
        elif x.shape is not None:  # what is copied cancels, known or not, empty or not
            old = tuple(d for i, d in enumerate(x.shape) if i not in copied)
            rest = _ratio(old, [d for i, d in enumerate(out) if d != -1 and i not in copied])
        if -1 in out:
            out[out.index(-1)] = rest
        elif isinstance(rest, int) and rest != 1 and x.type.is_static:
            raise VerifyError(f"{x.type} cannot take the shape {list(want)}")
        return tuple(out)

    def dependence(self, operands: Operands, results: Results) -> Dependences:
        return reshaping(operands, results)

    def reference(self, x: Array, shape: Array) -> Array:
        made = self.resolve(Abstract(TensorType.of(x)), tuple(int(d) for d in shape))
        if None in made:
            raise FeedError(f"no elements are left to tell the size of -1 in {shape.tolist()}")
        return x.reshape(made)  # type: ignore[arg-type]


def _ratio(of: Shape, by: list[Dim]) -> Dim:
    """prod(of) / prod(by), equal symbols cancelled; None where it is no number or symbol."""
    rest = [d for d in of if not isinstance(d, int)]
    for d in by:
        if isinstance(d, int):
            continue
        if d is None or d not in rest:
            return None
        rest.remove(d)
    top, low = (math.prod(d for d in s if isinstance(d, int)) for s in (of, by))
    if not rest:
        if low == 0:
            return None if top == 0 else _refuse(of, by)
        return top // low if top % low == 0 else _refuse(of, by)
    return rest[0] if len(rest) == 1 and top == low else None


def _refuse(of: Shape, by: list[Dim]) -> Dim:
    raise VerifyError(f"elements of shape {list(of)} do not divide into {by}")


@register
@dataclass(frozen=True)
class Flatten(Op):
    """A matrix: the axes before `axis` joined, and those from it on"""

    moves = Moves()
    numerics = MOVES
    axis: int = 1

    def infer(self, x: Abstract) -> Inferred:
        if x.shape is None:
            return TensorType(x.dtype, (None, None))
        rank = len(x.shape)
        if not -rank <= self.axis <= rank:
            raise VerifyError(f"axis {self.axis} is out of range for rank {rank}")
        axis = self.axis + rank if self.axis < 0 else self.axis
        return TensorType(x.dtype, (_joined(x.shape[:axis]), _joined(x.shape[axis:])))

    def dependence(self, operands: Operands, results: Results) -> Dependences:
        return reshaping(operands, results)

    def reference(self, x: Array) -> Array:
        axis = self.axis + x.ndim if self.axis < 0 else self.axis
        return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        return (shaped(b, gradients[0], operands[0]),)


def _joined(dims: Shape) -> Dim:
    return _ratio(dims, [])


@register
@dataclass(frozen=True)
class Transpose(Op):
    """y's axis i is x's axis perm[i]; without perm the axes are reversed"""

    moves = Moves()
    numerics = MOVES
    perm: tuple[int, ...] = ()

    def order(self, rank: int) -> tuple[int, ...]:
        if not self.perm:
            return tuple(reversed(range(rank)))
        if sorted(self.perm) != list(range(rank)):
            raise VerifyError(f"perm {list(self.perm)} does not permute {rank} axes")
        return self.perm

    def dependence(self, operands: Operands, results: Results) -> Dependences:
        s = Space(operands, results)
        shape, order = shape_at(operands, 0), self.order(results[0].rank)
        own = s.loops(known(m, shape[i]) for i, m in zip(order, s.results[0]))
        s.relate(0, 0, [own[i] for i in inverse(order)], own)
        return s.made()

    def infer(self, x: Abstract) -> Inferred:
        if x.shape is None:
            return TensorType(x.dtype, unknown(len(self.perm)) if self.perm else None)
        shape = x.shape
        return TensorType(x.dtype, tuple(shape[i] for i in self.order(len(shape))))

    def reference(self, x: Array) -> Array:
        return np.transpose(x, self.order(x.ndim)).copy()

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        order = self.order(rank_of(gradients[0]))
        return (b.transpose(gradients[0], perm=inverse(order)),)


@register
@dataclass(frozen=True)
class Squeeze(Same):
    """x without these axes (without all of size 1 if none are given)"""

    moves = Moves()

    def infer(self, x: Abstract, axes: Abstract | None = None) -> Inferred:
        if x.shape is None:
            return x.type
        if axes is None:
            known = None not in x.shape and not any(isinstance(d, str) for d in x.shape)
            return x.type.with_shape([d for d in x.shape if d != 1] if known else None)
        which, count = axes.as_ints(), length(axes) if axes.shape != () else 1
        if which is None:
            return x.type.with_shape(None if count is None else unknown(len(x.shape) - count))
        gone = check_axes(which, len(x.shape))
        for a in gone:
            if differs(x.shape[a], 1):
                raise VerifyError(f"axis {a} of {x.type} has not size 1")
        return x.type.with_shape([d for i, d in enumerate(x.shape) if i not in gone])

    def dependence(self, operands: Operands, results: Results) -> Dependences:
        which = ints_at(operands, 1)
        if which is None:
            return reshaping(operands, results)
        gone = check_axes(which, len(shape_at(operands, 0)))
        return reduced(operands, results, gone, "sum")  # of one element

    def reference(self, x: Array, axes: Array | None = None) -> Array:
        return np.squeeze(x, None if axes is None else tuple(int(a) for a in axes.reshape(-1)))


@register
@dataclass(frozen=True)
class Unsqueeze(Same):
    """x with axes of size 1 at these places of the result"""

    moves = Moves()

    def infer(self, x: Abstract, axes: Abstract) -> Inferred:
        which, count = axes.as_ints(), length(axes) if axes.shape != () else 1
        if x.shape is None or count is None:
            return x.type.with_shape(None)
        if which is None:
            return x.type.with_shape(unknown(len(x.shape) + count))
        new = check_axes(which, len(x.shape) + len(which))
        rest = iter(x.shape)
        return x.type.with_shape(
            [1 if i in new else next(rest) for i in range(len(x.shape) + len(new))]
        )

    def dependence(self, operands: Operands, results: Results) -> Dependences:
        which = ints_at(operands, 1)
        if which is None:
            return reshaping(operands, results)
        s, new = Space(operands, results), check_axes(which, results[0].rank)
        own = s.loops(s.results[0])
        s.relate(0, 0, [p for k, p in enumerate(own) if k not in new], own)
        s.rest("it says which axes")
        return s.made()

    def reference(self, x: Array, axes: Array) -> Array:
        return np.expand_dims(x, tuple(int(a) for a in axes.reshape(-1)))


@register
@dataclass(frozen=True)
class DepthToSpace(Op):
    """Blocks of channels moved into space: (n, c, h, w) to (n, c / b^2, h * b, w * b)

    DCR reads channels as (b, b, c / b^2), CRD as (c / b^2, b, b).
    """

    moves = Moves()
    numerics = MOVES
    blocksize: int
    mode: str = "DCR"

    def infer(self, x: Abstract) -> Inferred:
        check_choice(self.mode, ("DCR", "CRD"), "mode")
        _check_block(x, self.blocksize)
        if x.shape is None:
            return TensorType(x.dtype, unknown(4))
        (n, c, h, w), b = x.shape, self.blocksize
        if isinstance(c, int) and c % (b * b):
            raise VerifyError(f"{c} channels do not divide into blocks of {b} x {b}")
        return TensorType(x.dtype, (n, _div(c, b * b), _times(h, b), _times(w, b)))

    def dependence(self, operands: Operands, results: Results) -> Dependences:
        s, size = Space(operands, results), self.blocksize
        count = s.results[0][1]
        if not isinstance(count, int):
            return everything(operands, results, "the number of channels is not known")
        n, h, w = (s.loop(k, d) for k, d in zip("nhw", (d for i, d in enumerate(
            shape_at(operands, 0)) if i != 1)))  # fmt: skip
        c, i, j = s.digit("c", count), s.digit("i", size), s.digit("j", size)
        block = i.scaled(size) + j
        channel = block.scaled(count) + c if self.mode == "DCR" else c.scaled(size * size) + block
        s.relate(0, 0, (n, channel, h, w), (n, c, h.scaled(size) + i, w.scaled(size) + j))
        return s.made()

    def reference(self, x: Array) -> Array:
        (n, c, h, w), b = x.shape, self.blocksize
        if self.mode == "DCR":
            parts = x.reshape(n, b, b, c // (b * b), h, w).transpose(0, 3, 4, 1, 5, 2)
        else:
            parts = x.reshape(n, c // (b * b), b, b, h, w).transpose(0, 1, 4, 2, 5, 3)
        return parts.reshape(n, c // (b * b), h * b, w * b)

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        (x,), (g,) = operands, gradients
        parts = b.space_to_depth(g, blocksize=self.blocksize)
        if self.mode == "CRD":  # its blocks come before the channels, to be put after them
            area = self.blocksize**2
            n, c, h, w = (size_of(b, x, i) for i in range(4))
            split = b.reshape(parts, b.concat(n, ints(b, area, -1), h, w, axis=0))
            parts = b.reshape(b.transpose(split, perm=(0, 2, 1, 3, 4)),
                              b.concat(n, c, h, w, axis=0))  # fmt: skip
        return (shaped(b, parts, x),)


@register
@dataclass(frozen=True)
class SpaceToDepth(Op):
    """Blocks of space moved into channels: (n, c, h, w) to (n, c * b^2, h / b, w / b), the inverse
    of depth_to_space (DCR)
    """

    moves = Moves()
    numerics = MOVES
    blocksize: int

    def infer(self, x: Abstract) -> Inferred:
        _check_block(x, self.blocksize)
        if x.shape is None:
            return TensorType(x.dtype, unknown(4))
        (n, c, h, w), b = x.shape, self.blocksize
        for d in (h, w):
            if isinstance(d, int) and d % b:
                raise VerifyError(f"{x.type} does not divide into blocks of {b} x {b}")
        return TensorType(x.dtype, (n, _times(c, b * b), _div(h, b), _div(w, b)))

    def dependence(self, operands: Operands, results: Results) -> Dependences:
        s, size = Space(operands, results), self.blocksize
        n, c, h, w = s.loops((*shape_at(operands, 0)[:2], *s.results[0][2:]))
        i, j, count = s.digit("i", size), s.digit("j", size), shape_at(operands, 0)[1]
        if not isinstance(count, int):
            return everything(operands, results, "the number of channels is not known")
        channel = (i.scaled(size) + j).scaled(count) + c
        s.relate(0, 0, (n, c, h.scaled(size) + i, w.scaled(size) + j), (n, channel, h, w))
        return s.made()

    def reference(self, x: Array) -> Array:
        (n, c, h, w), b = x.shape, self.blocksize
        parts = x.reshape(n, c, h // b, b, w // b, b).transpose(0, 3, 5, 1, 2, 4)
        return parts.reshape(n, c * b * b, h // b, w // b)

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        made = b.depth_to_space(gradients[0], blocksize=self.blocksize)
        return (shaped(b, made, operands[0]),)


def _check_block(x: Abstract, block: int) -> None:
    check_rank(x, 4, "the operand")
    if not 1 <= block <= 1 << 20:
        raise VerifyError(f"blocksize is {block}, which should be positive")


def _times(d: Dim, by: int) -> Dim:
    return d * by if isinstance(d, int) else d if by == 1 else None


def _div(d: Dim, by: int) -> Dim:
    return d // by if isinstance(d, int) else d if by == 1 else None


# ---- more of the same elements -----------------------------------------------------------------


@register
@dataclass(frozen=True)
class Expand(Same):
    """x broadcast with a shape"""

    moves = Moves()

    def infer(self, x: Abstract, shape: Abstract) -> Inferred:
        check_integer(shape, "the shape")
        want, size = shape.as_dims(), length(shape)
        if want is None and size is not None:
            want = unknown(size)
        return x.type.with_shape(broadcast(x.shape, want))

    def dependence(self, operands: Operands, results: Results) -> Dependences:
        s = Space(operands, results)
        s.broadcast(0, s.loops(s.results[0]))
        s.rest("it says the shape")
        return s.made()

    def reference(self, x: Array, shape: Array) -> Array:
        want = np.broadcast_shapes(x.shape, tuple(int(d) for d in shape))
        return np.broadcast_to(x, want).copy()

    def dims(self, x: Abstract, *rest: Abstract | None) -> Shape | None:
        dims, count = x.as_dims(), rest[0].as_ints() if rest and rest[0] is not None else None
        if dims is None or len(dims) != 1 or count is None or math.prod(count) > 64:
            return None
        return dims * math.prod(count)

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        return sum_to(b, gradients[0], operands[0]), None


@register
@dataclass(frozen=True)
class Tile(Op):
    """x repeated along each axis"""

    moves = Moves()
    numerics = MOVES

    def infer(self, x: Abstract, repeats: Abstract) -> Inferred:
        check_integer(repeats, "repeats")
        if x.shape is None:
            return x.type
        counts = repeats.as_dims()
        if counts is None:
            return x.type.with_shape(unknown(len(x.shape)))
        if len(counts) != len(x.shape):
            raise VerifyError(f"repeats {list(counts)} do not fit {x.type}")
        return x.type.with_shape(
            n * c if isinstance(n, int) and isinstance(c, int) else n if c == 1
            else c if n == 1 else None
            for n, c in zip(x.shape, counts)
        )  # fmt: skip

    def dependence(self, operands: Operands, results: Results) -> Dependences:
        s, read, written = Space(operands, results), [], []
        for k, (n, m) in enumerate(zip(shape_at(operands, 0), s.results[0])):
            if n == m and n is not None:
                place = again = s.loop(f"i{k}", n)
            elif isinstance(n, int) and isinstance(m, int) and n:
                place = s.loop(f"i{k}", n)
                again = s.digit(f"r{k}", m // n).scaled(n) + place
            else:
                place, again = s.loop(f"all{k}", n, ANY), s.loop(f"i{k}", m)
            read.append(place)
            written.append(again)
        s.relate(0, 0, read, written)
        s.rest("it says how often")
        return s.made()

    def reference(self, x: Array, repeats: Array) -> Array:
        return np.tile(x, tuple(int(r) for r in repeats))

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        (x, repeats), (g,) = operands, gradients
        rank = rank_of(x)
        pairs = [b.slice(repeats, ints(b, i), ints(b, i + 1)) for i in range(rank)]
        sizes = [v for i, r in enumerate(pairs) for v in (r, size_of(b, x, i))]
        apart = b.reshape(g, b.concat(*sizes, axis=0)) if rank else g
        over = ints(b, *range(0, 2 * rank, 2))
        return (shaped(b, b.reduce_sum(apart, over, keepdims=False), x) if rank else g), None
