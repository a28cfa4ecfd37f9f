"""Transforms between signals and frequencies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..dependence import Dependences
from ..errors import FeedError, NotDifferentiableError, VerifyError
from ..numerics import SUMS
from ..op import Abstract, Array, Inferred, Op, Operands, Results, register
from ..relate import along, everything, ints_at, is_given
from ..types import Dim, DType, TensorType
from .adjoint import ints, known_shape, places, rank_of, shaped, size_of
from .common import check_axis, check_float, check_scalar, differs, in_wide

if TYPE_CHECKING:
    from ..build import Builder
    from ..graph import Value


@register
@dataclass(frozen=True)
class DFT(Op):
    """The discrete Fourier transform along one axis; the last axis holds real and imaginary parts

    Real signals have one part. With `onesided` the redundant half of a real signal's spectrum is
    left out (and with `inverse` is not given, for a real result). `inverse` divides by the length.
    """

    numerics = SUMS
    inverse: bool = False
    onesided: bool = False

    def infer(
        self, x: Abstract, dft_length: Abstract | None = None, axis: Abstract | None = None
    ) -> Inferred:
        check_float(x)
        check_scalar(dft_length, "the length")
        check_scalar(axis, "the axis")
        if x.shape is None:
            return x.type
        rank = len(x.shape)
        if rank < 2 or not (x.shape[-1] in (1, 2) or not isinstance(x.shape[-1], int)):
            raise VerifyError(f"the operand is {x.type}, whose last axis is not 1 or 2 long")
        if self.onesided and differs(x.shape[-1], 2 if self.inverse else 1):
            raise VerifyError(f"a one-sided transform does not take {x.type}")
        parts = 1 if self.inverse and self.onesided else 2
        at = (-2,) if axis is None else axis.as_ints()
        if at is None:
            return x.type.with_shape((*(None,) * (rank - 1), parts))
        place = _signal_axis(at[0], rank)
        given = None if dft_length is None else dft_length.as_ints()
        length: Dim = None if dft_length is not None else x.shape[place]
        if given is not None:
            length = given[0]
        shape = list(x.shape)
        shape[place] = self._size(length, dft_length is not None)
        shape[-1] = parts
        return TensorType(x.dtype, tuple(shape))

    def _size(self, length: Dim, stated: bool) -> Dim:
        """Elements along the axis after a transform of this length."""
        if not isinstance(length, int):
            return None if self.onesided else length
        if stated and length < 1:
            raise VerifyError(f"a transform of length {length} does not exist")
        if not self.onesided:
            return length
        if self.inverse:
            return length if stated else max(2 * (length - 1), 0)
        return length // 2 + 1

    def dependence(self, operands: Operands, results: Results) -> Dependences:
        rank = results[0].rank
        at = ints_at(operands, 2) if is_given(operands, 2) else (-2,)
        if not at:
            return everything(operands, results, "the axis is computed")
        return along(operands, results, [at[0] % rank, rank - 1], sized=False)

    def reference(
        self, x: Array, dft_length: Array | None = None, axis: Array | None = None
    ) -> Array:
        place = _signal_axis(-2 if axis is None else int(axis.reshape(-1)[0]), x.ndim)
        length = x.shape[place] if dft_length is None else int(dft_length.reshape(-1)[0])
        if self.inverse and self.onesided and dft_length is None:
            length = 2 * (length - 1)
        if length < 1:
            raise FeedError(f"a transform of length {length} does not exist")
        return in_wide(lambda v: self._transform(v, length, place), x)

    def _transform(self, x: Array, length: int, place: int) -> Array:
        signal = x[..., 0] if x.shape[-1] == 1 else x[..., 0] + 1j * x[..., 1]
        if not x.shape[place]:  # NumPy's transforms read what is not there
            signal = np.zeros([1 if i == place else n for i, n in enumerate(signal.shape)])
        if self.inverse and self.onesided:
            return np.fft.irfft(signal, length, place)[..., None].astype(x.dtype)
        made = (np.fft.ifft if self.inverse else np.fft.fft)(signal, length, place)
        if self.onesided:
            made = np.take(made, np.arange(length // 2 + 1), place)
        return np.stack([made.real, made.imag], -1).astype(x.dtype)

    def gradient(self, b: Builder, operands: Any, results: Any, gradients: Any) -> Any:
        """The transform is linear: its adjoint is the other direction, without or with 1 / N."""
        (x, stated, axis), (y,), (g,) = operands, results, gradients
        at = (-2,) if axis is None else axis.abstract.as_ints()
        if at is None:
            raise NotDifferentiableError("its axis is computed", hint="fold constants first")
        place = _signal_axis(at[0], rank_of(x))
        full = y if not self.onesided or self.inverse else x
        length = size_of(b, full, place) if stated is None else b.reshape(stated, ints(b, 1))
        length = b.cast(length, to=DType.i64)
        count = b.cast(length, to=g.type.dtype)
        where_ = b.constant(np.int64(place))
        if self.inverse and self.onesided:
            half = b.div(b.dft(g, length, where_, onesided=True), count)
            made = b.mul(half, self._doubled(b, half, length, place))
        elif self.inverse:
            made = b.div(b.dft(g, length, where_), count)
        else:
            whole = _fitted(b, g, length, place) if self.onesided else g
            made = b.mul(b.dft(whole, length, where_, inverse=True), count)
        made = _fitted(b, made, size_of(b, x, place), place)
        if known_shape(x)[-1] == 1:
            made = b.slice(made, ints(b, 0), ints(b, 1), ints(b, -1))
        return shaped(b, made, x), None, None

    def _doubled(self, b: Builder, half: Value, length: Value, place: int) -> Value:
        """2 for each element of a spectrum that stands for two, 1 for the first and middle one."""
        k = places(b, half, place)
        twice = b.add(k, k)
        single = b.or_(b.equal(k, np.int64(0)), b.equal(twice, length))
        factors = b.where(single, b.number(1, half), b.number(2, half))
        return b.reshape(factors, ints(b, *(-1 if i == place else 1 for i in range(rank_of(half)))))


def _signal_axis(axis: int, rank: int) -> int:
    place = check_axis(axis, rank)
    if place == rank - 1:
        raise VerifyError("the last axis holds real and imaginary parts, no signal")
    return place


def _fitted(b: Builder, g: Value, length: Value, axis: int) -> Value:
    """g cut, or followed by zeros, along an axis."""
    more = b.sub(length, size_of(b, g, axis))
    return b.pad(g, b.concat(ints(b, 0), more, axis=0), None, ints(b, axis))
