"""Ops that join, split and pad along axes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..affine import ZERO, Affine
from ..dependence import ANY, Dependences, Place, Table
from ..errors import FeedError, NotDifferentiableError, VerifyError
from ..numerics import MOVES
from ..op import Abstract, Array, Inferred, Op, Operands, Results, register
from ..relate import Space, everything, ints_at, is_given, known, shape_at
from ..traits import Moves
from ..types import Dim, Shape, TensorType, unify
from .adjoint import ints, places, put, rank_of, shaped, size_of, zeros
from .common import (
    check_axes,
    check_axis,
    check_choice,
    check_integer,
    check_same,
    check_scalar,
    length,
    unknown,
)

if TYPE_CHECKING:
    from ..build import Builder


@register
@dataclass(frozen=True)
class Concat(Op):
    """Tensors one after the other along an axis"""

    moves = Moves(("xs",))
    numerics = MOVES
    axis: int

    def infer(self, *xs: Abstract) -> Inferred:
        if not xs:
            raise VerifyError("takes at least one operand")
        dtype = check_same(*xs)
        shapes = [x.shape for x in xs if x.shape is not None]
        if not shapes:
            return TensorType(dtype, None)
        rank = len(shapes[0])
        axis = check_axis(self.axis, rank)
        out: list[Dim] = [None] * rank
        for shape in shapes:
            if len(shape) != rank:
                raise VerifyError(f"operands have ranks {rank} and {len(shape)}")
            out = [unify(a, b) if i != axis else None for i, (a, b) in enumerate(zip(out, shape))]
        along = [s[axis] for s in shapes]
        rest = [d for d in along if d != 0]
        if len(shapes) == len(xs):
            numbers = [d for d in along if isinstance(d, int)]
            out[axis] = sum(numbers) if len(numbers) == len(xs) else None
            if len(rest) == 1:
                out[axis] = rest[0]
        return TensorType(dtype, tuple(out))

    def dependence(self, operands: Operands, results: Results) -> Dependences:
        s, axis, start = Space(operands, results), self.axis % results[0].rank, 0
        shapes = [shape_at(operands, o) for o in range(len(operands))]
        own = s.loops(known(m, *(x[k] for x in shapes)) if k != axis else m
                      for k, m in enumerate(s.results[0]))  # fmt: skip
        for o in range(len(operands)):
            n, read, written = shape_at(operands, o)[axis], list(own), list(own)
            read[axis] = written[axis] = s.loop(f"part{o}", n)
            if start is None:  # somewhere behind parts of unknown sizes
                written[axis], read[axis] = own[axis], s.loop(f"all{o}", n, ANY)
            else:
                written[axis] = written[axis].scaled(1, start)
            start = start + n if isinstance(start, int) and isinstance(n, int) else None
            s.relate(o, 0, read, written)
        return s.made()

    def reference(self, *xs: Array) -> Array:
        return np.concatenate(xs, axis=self.axis)

    def dims(self, *xs: Abstract) -> Shape | None:
        out: list[Dim] = []
        for x in xs:
            dims, size = x.as_dims(), length(x)
            if dims is None and size is not None and size <= 64:
                dims = unknown(size)
            if dims is None:
                return None
            out += dims
        return tuple(out) if len(out) <= 256 else None

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        (g,), axis = gradients, check_axis(self.axis, rank_of(gradients[0]))
        if len(operands) == 1:
            return (g,)
        sizes = b.concat(*(size_of(b, x, axis) for x in operands), axis=0)
        made = b.split(g, sizes, axis=axis, num_outputs=len(operands))
        return [shaped(b, d, x) for d, x in zip(made, operands)]


@register
@dataclass(frozen=True)
class Split(Op):
    """x cut along an axis into pieces of the sizes in `split`, or into num_outputs pieces of
    ceil(n / num_outputs), the last one smaller
    """

    moves = Moves()
    numerics = MOVES
    axis: int = 0
    num_outputs: int | None = None

    def infer(self, x: Abstract, split: Abstract | None = None) -> Inferred:
        axis = check_axis(self.axis, None if x.shape is None else len(x.shape))
        size = None if x.shape is None else x.shape[axis]
        made = []
        contents = x.as_dims() if x.dtype.is_integer and x.shape and len(x.shape) == 1 else None
        at: int | None = 0
        for piece in self.pieces(size, split):
            shape = None if x.shape is None else (*x.shape[:axis], piece, *x.shape[axis + 1 :])
            end = at + piece if at is not None and isinstance(piece, int) else None
            part = None if contents is None or at is None or end is None else contents[at:end]
            made.append(Abstract(TensorType(x.dtype, shape), None, part))
            at = end
        return tuple(made)

    def pieces(self, size: Dim, split: Abstract | None) -> list[Dim]:
        """The size of each piece. Raises VerifyError where they do not fit."""
        count = self.num_outputs
        if split is not None:
            check_integer(split, "split")
            given = split.as_dims() or split.as_ints()
            count = count if given is None else len(given)
            count = length(split) if count is None else count
            if count is None:
                raise VerifyError("the number of results is not known: split is not constant")
            if self.num_outputs not in (None, count):
                raise VerifyError(f"split has {count} sizes for {self.num_outputs} results")
            if given is None:
                return [None] * count
            sizes = [d for d in given if isinstance(d, int)]
            if min(sizes, default=0) < 0:
                raise VerifyError(f"split {list(given)} has a negative size")
            if isinstance(size, int) and len(sizes) == len(given) and sum(sizes) != size:
                raise VerifyError(f"split {list(given)} does not add up to {size}")
            return list(given)
        if count is None or not 1 <= count <= 1 << 16:
            raise VerifyError(f"num_outputs is {count}, which should be positive")
        if not isinstance(size, int):
            return [size if count == 1 else None] * count
        piece = -(-size // count)
        sizes = [max(min(piece, size - i * piece), 0) for i in range(count)]
        return list(sizes)

    def dependence(self, operands: Operands, results: Results) -> Dependences:
        s, axis, start = Space(operands, results), self.axis % results[0].rank, 0
        shape = shape_at(operands, 0)
        own = s.loops(shape)
        for r, y in enumerate(s.results):
            n, read, written = y[axis], list(own), list(own)
            read[axis] = written[axis] = s.loop(f"part{r}", n)
            if start is None:
                read[axis] = s.loop(f"all{r}", shape[axis], ANY)
            else:
                read[axis] = read[axis].scaled(1, start)
            start = start + n if isinstance(start, int) and isinstance(n, int) else None
            s.relate(0, r, read, written)
        s.rest("it says the sizes")
        return s.made()

    def reference(self, x: Array, split: Array | None = None) -> Any:
        given = None if split is None else Abstract(TensorType.of(split), split)
        sizes = [int(d) for d in self.pieces(x.shape[self.axis], given)]  # type: ignore[arg-type]
        ends = np.cumsum(sizes)[:-1]
        return tuple(np.split(x, ends, axis=self.axis))

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        parts = [zeros(b, y, operands[0]) if g is None else g for y, g in zip(results, gradients)]
        return shaped(b, b.concat(*parts, axis=self.axis), operands[0]), None


@register
@dataclass(frozen=True)
class Pad(Op):
    """x with elements added (or with negative pads removed) at both ends of axes

    `pads` holds all begins, then all ends. constant fills with `value` (0), reflect mirrors without
    repeating the border, edge repeats it, wrap goes round.
    """

    moves = Moves(when=lambda op: op.mode != "constant")
    settings = ("value",)
    numerics = MOVES
    mode: str = "constant"

    def infer(
        self,
        x: Abstract,
        pads: Abstract,
        value: Abstract | None = None,
        axes: Abstract | None = None,
    ) -> Inferred:
        check_choice(self.mode, ("constant", "reflect", "edge", "wrap"), "mode")
        check_integer(pads, "pads")
        if value is not None:
            check_same(x, value)
            check_scalar(value, "the value")
        if x.shape is None:
            return x.type
        amounts = pads.as_dims()
        which = tuple(range(len(x.shape))) if axes is None else axes.as_ints()
        if amounts is None or which is None:
            return x.type.with_shape(unknown(len(x.shape)))
        out = list(x.shape)
        which = check_axes(which, len(x.shape))
        if len(amounts) != 2 * len(which):
            raise VerifyError(f"{len(amounts)} pads for {len(which)} axes of {x.type}")
        for axis, a, b in zip(which, amounts, amounts[len(which) :]):
            out[axis] = self._padded(out[axis], a, b)
        return x.type.with_shape(out)

    def _padded(self, n: Dim, a: Dim, b: Dim) -> Dim:
        if not isinstance(a, int) or not isinstance(b, int):
            return None
        if not isinstance(n, int):
            return n if a == b == 0 else None
        if n + min(a, 0) + min(b, 0) < 0:
            raise VerifyError(f"pads {a} and {b} remove more than {n} elements")
        if self.mode != "constant" and n + min(a, 0) + min(b, 0) == 0 and max(a, b) > 0:
            raise VerifyError(f"mode {self.mode} has nothing to repeat")
        return n + a + b

    def dependence(self, operands: Operands, results: Results) -> Dependences:
        amounts, shape = ints_at(operands, 1), shape_at(operands, 0)
        which = ints_at(operands, 3) if is_given(operands, 3) else tuple(range(len(shape)))
        if amounts is None or which is None:
            return everything(operands, results, "the pads are computed")
        s, which = Space(operands, results), check_axes(which, len(shape))
        sides = dict(zip(which, zip(amounts, amounts[len(which) :])))
        own = s.loops(s.results[0])
        read = [self._place(s, k, n, own[k], *sides.get(k, (0, 0))) for k, n in enumerate(shape)]
        s.relate(0, 0, read, own)
        if is_given(operands, 2):
            s.relate(2, 0, (ZERO,) * len(shape_at(operands, 2)), own)
        s.rest("it says how many")
        return s.made()

    def _place(self, s: Space, k: int, n: Dim, own: Affine, a: int, b: int) -> Place:
        """What an axis is read at for index `own` of the result."""
        if a == b == 0 or self.mode == "constant":
            return own.scaled(1, -a)
        if not isinstance(n, int):
            return s.loop(f"all{k}", n, ANY)
        first, kept = max(-a, 0), n + min(a, 0) + min(b, 0)
        if not kept:
            return own
        return Table(tuple((first + self.sources(kept, max(a, 0), max(b, 0))).tolist()), own)

    def reference(
        self,
        x: Array,
        pads: Array,
        value: Array | None = None,
        axes: Array | None = None,
    ) -> Array:
        which = range(x.ndim) if axes is None else [int(a) for a in axes]
        amounts = [int(p) for p in pads.reshape(-1)]
        begins, ends = [0] * x.ndim, [0] * x.ndim
        for axis, a, b in zip(which, amounts, amounts[len(amounts) // 2 :]):
            begins[axis], ends[axis] = a, b
        keep = [slice(max(-a, 0), n - max(-b, 0)) for n, a, b in zip(x.shape, begins, ends)]
        kept = x[tuple(keep)]
        widths = [(max(a, 0), max(b, 0)) for a, b in zip(begins, ends)]
        if self.mode == "constant":
            fill = np.zeros((), x.dtype) if value is None else value.reshape(())
            made = np.full([n + a + b for n, (a, b) in zip(kept.shape, widths)], fill)
            made[tuple(slice(a, a + n) for n, (a, _) in zip(kept.shape, widths))] = kept
            return made
        for axis, (a, b) in enumerate(widths):
            if a or b:
                kept = np.take(kept, self.sources(kept.shape[axis], a, b), axis=axis)
        return kept

    def sources(self, n: int, a: int, b: int) -> Array:
        """Where each element of a padded axis comes from."""
        if n == 0:
            raise FeedError(f"mode {self.mode} has nothing to repeat")
        at = np.arange(-a, n + b)
        if self.mode == "edge":
            return np.clip(at, 0, n - 1)
        if self.mode == "wrap":
            return at % n
        period = max(2 * (n - 1), 1)
        return (n - 1) - np.abs((n - 1) - at % period)

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        (x, pads, value, axes), (g,) = operands, gradients
        if self.mode == "constant":
            dx = b.pad(g, b.neg(pads), None, axes)
            if value is None:
                return (shaped(b, dx, x),)
            lost = b.sub(*(b.reduce_sum(v, keepdims=False) for v in (g, dx)))
            return shaped(b, dx, x), None, shaped(b, lost, value)
        which = tuple(range(rank_of(x))) if axes is None else axes.abstract.as_ints()
        if which is None:
            raise NotDifferentiableError("its axes are computed", hint="fold constants first")
        for i, axis in enumerate(check_axes(which, rank_of(x))):
            ends = [b.slice(pads, ints(b, k), ints(b, k + 1)) for k in (i, i + len(which))]
            source = b.pad(places(b, x, axis), b.concat(*ends, axis=0), mode=self.mode)
            g = put(b, g, source, x, axis)
        return shaped(b, g, x), None
