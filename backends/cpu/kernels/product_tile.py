"""The register tile of matrix products, as LLVM IR (see `product`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from ..codegen.emit import F32, F64, I32, Emit, Value, vec
from ..codegen.emit_math import madd
from ..codegen.isa import Isa
from .conv_record import BYTES
from .product_record import Form, ProductRecord
from .tile import Emission, Fields, Tile


class Place(Fields):
    """Where a tile stands: the record, `row`, the index of its first row among the parameters of
    rows, and `count`, the rows that exist from it on."""

    record = ProductRecord

    def __init__(self, e: Emit, d: Value, row: Value, count: Value):
        super().__init__(e, d)
        self.row, self.count = row, count

    def within(self, i: Any) -> Value:
        """min(i, count - 1): the row that the tile's row i repeats."""
        e, last = self.e, self.e.b.sub(self.count, self.e.i64(1))
        i = e.i64(i) if isinstance(i, int) else i
        return e.b.select(e.b.icmp_signed("<", i, last), i, last)

    def parameter(self, name: str, step: str, kind: Any, i: Any) -> Value:
        """Row i's value in the array `name`, in all lanes."""
        e = self.e
        index = e.add(self.row, self.within(i))
        at = e.add(self.field(name), e.mul(self.field(step), index))
        return e.splat(e.load(at, kind))


@dataclass(frozen=True)
class ProductTile(Tile):
    """`emit(e, d, source, weights, target, other, row, column, term, rows, columns)`.

    Addresses of the tile's first row (target: of its first column too); the indices of its first
    row, column and column term among their parameters; rows and columns that are left.
    """

    form: Form

    weight_align: ClassVar[int] = 4  # float32 columns may be read where they lie

    @staticmethod
    def of(isa: Isa, rows: int, vectors: int, form: Form) -> ProductTile:
        f = form
        return ProductTile(
            isa,
            rows,
            vectors,
            f.out,
            "first" if f.residual else "",
            f.activation,
            f.bounded,
            False,
            form,
        )

    @property
    def item(self) -> int:
        """Bytes of an element of the result."""
        return BYTES[self.out]

    def emit(self, e: Emit, d: Value, source: Value, *place: Value) -> None:
        """Emit the tile."""
        weights, target, other, row, column, term, rows, columns = place
        b, width = e.b, self.vectors * e.n
        spot = Place(e, d, row, rows)
        sources = self._rows(e, spot, source, "source_row")
        accs = self._sums(e, spot, sources, weights, self._begin(e, spot, column))
        accs = self._corrected(e, spot, term, accs)
        others = self._rows(e, spot, other, "other_row") if self.residual else []
        others = self._vectors(e, others, column)
        stack, pitch = e.stack(self.pixels * width * self.item, 64), width * self.item
        partial = b.icmp_signed("<", columns, e.i64(width))
        base, step = b.select(partial, stack, target), spot.field("target_row")
        step = b.select(partial, e.i64(pitch), step)
        targets = [e.add(base, e.mul(step, spot.within(i))) for i in range(self.pixels)]
        self._finish(e, spot, accs, column, self._vectors(e, targets, e.i64(0)), others)
        with b.if_then(partial):
            self._copy_out(e, spot, stack, target, columns)

    def _rows(self, e: Emit, spot: Place, start: Value, stride: str) -> list[Value]:
        step = spot.field(stride)
        return [e.add(start, e.mul(step, spot.within(i))) for i in range(self.pixels)]

    def _vectors(self, e: Emit, rows: list[Value], column: Value) -> list[list[Value]]:
        """The addresses of each row's vectors from a column on."""
        at = [e.mul(e.add(column, e.n * j), self.item) for j in range(self.vectors)]
        return [[e.add(row, a) for a in at] for row in rows]

    def _copy_out(self, e: Emit, spot: Place, stack: Value, target: Value, columns: Value) -> None:
        pitch, step = self.vectors * e.n * self.item, spot.field("target_row")
        last = spot.within(self.pixels - 1)

        def row(i: Value, _: list[Value]) -> list[Value]:
            here = e.add(stack, e.mul(i, pitch))
            e.copy(here, e.add(target, e.mul(i, step)), e.mul(columns, self.item))
            return []

        e.loop(e.i64(0), e.add(last, 1), 1, [], row)

    def _begin(self, e: Emit, spot: Place, column: Value) -> list[Value]:
        """Integer sums begin with the bias."""
        kind = vec(F32 if self.out == "float" else I32, e.n)
        if self.out == "float" or not self.form.bias:
            return [e.vector(kind.element, 0)] * (self.pixels * self.vectors)
        return self._columns(e, spot, "bias", kind, column) * self.pixels

    def _columns(self, e: Emit, spot: Place, name: str, kind: Any, column: Value) -> list[Value]:
        """The tile's part of an array with 4 bytes a column."""
        at = e.add(spot.field(name), e.mul(column, 4))
        return [e.load(e.add(at, 4 * e.n * j), kind, 4) for j in range(self.vectors)]

    def _sums(
        self, e: Emit, spot: Place, sources: list[Value], weights: Value, accs: list[Value]
    ) -> list[Value]:
        group = 4 if self.out == "float" else self.isa.group
        length, next_ = e.mul(spot.field("steps"), group), spot.field("weights_step")

        def step(at: Value, carried: list[Value]) -> list[Value]:
            w_at, *acc = carried
            made = self._multiply(e, [e.add(row, at) for row in sources], w_at, acc)
            return [e.add(w_at, next_), *made]

        return e.loop(e.i64(0), length, group, [weights, *accs], step)[1:]

    def _corrected(self, e: Emit, spot: Place, column: Value, accs: list[Value]) -> list[Value]:
        """The sums with the products of row and column terms added, modulo 2^32."""
        b, made = e.b, list(accs)
        for name in ("first", "second")[: self.form.terms]:
            terms = self._columns(e, spot, f"{name}_column_term", vec(I32, e.n), column)
            for i in range(self.pixels):
                factor = spot.parameter(f"{name}_row_term", f"{name}_row_step", I32, i)
                for j, term in enumerate(terms):
                    k = i * self.vectors + j
                    made[k] = b.add(made[k], b.mul(factor, term))
        return made

    # Epilogues.

    def _float(self, e, spot, first, others) -> Callable[[int], Emission]:
        kind = vec(F32, e.n)
        alpha = e.splat(e.b.fptrunc(spot.field("alpha", F64), F32))
        bias = self._columns(e, spot, "bias", kind, first) if self.form.bias else []
        finish = self._real(e, spot, first, others)

        def emit(j: int) -> Emission:
            end = finish(j)

            def store(acc: Value, i: Any) -> Value:
                scaled = madd(e, acc, alpha, bias[j]) if bias else e.b.fmul(acc, alpha)
                return end(scaled, i)

            return store

        return emit

    def _dequantized(self, e, spot, first, others) -> Callable[[int], Emission]:
        kind = vec(F32, e.n)
        scale = self._columns(e, spot, "scale", kind, first)
        offset = self._columns(e, spot, "offset", kind, first) if self.form.row_scaled else []
        finish = self._real(e, spot, first, others)

        def emit(j: int) -> Emission:
            end = finish(j)

            def store(acc: Value, i: Any) -> Value:
                value = e.b.fmul(e.b.sitofp(acc, kind), scale[j])
                if self.form.row_scaled:
                    factor = spot.parameter("row_scale", "row_scale_step", F32, i)
                    value = e.b.fadd(e.b.fmul(value, factor), offset[j])
                return end(value, i)

            return store

        return emit

    def _real(self, e, spot, first, others) -> Callable[[int], Emission]:
        """Residual and activation of float32 values."""
        return Tile._float(self, e, spot, first, others)
