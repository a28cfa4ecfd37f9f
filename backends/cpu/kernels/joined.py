"""Tiles of a float convolution whose groups are joined, with zeros for what they do not share.

A zero times infinity or NaN is NaN, so what is not finite in one group's input would be seen in
all of them. Nothing else can go wrong, and NaN is the sign of it: a tile whose sums hold NaN is
computed once more, pixel by pixel, each channel from its own group's input only.
"""

from __future__ import annotations

from ..codegen.emit import I1, I32, I64, Emit, Value, vec
from .tile import Fields, Tile


class WatchedTile(Tile):
    """A tile whose `emit` returns 1 where one of its sums is NaN, else 0."""

    def _seen(self, e: Emit, accs: list[Value]) -> Value:
        b, found = e.b, None
        # A group has fewer channels than a vector: NaN from one group's input is in lanes of
        # others in every vector of the pixel, so the first ones tell. A comparison sees two.
        firsts = accs[:: self.vectors]
        for x, y in zip(firsts[::2], [*firsts[1::2], firsts[-1]]):
            odd = b.fcmp_unordered("uno", x, y)
            found = odd if found is None else b.or_(found, odd)
        return b.zext(e.call(f"llvm.vector.reduce.or.v{e.n}i1", I1, found), I64)


class ApartTile(Tile):
    """A tile that adds to each channel the products of its own group."""

    def _dots(
        self, e: Emit, spot: Fields, source: list[Value], panel: Value, accs: list[Value]
    ) -> list[Value]:
        b, taps, of_steps = e.b, spot.field("taps"), spot.field("step_owners")
        weights = e.add(spot.field("weights"), e.mul(panel, spot.field("panel_bytes")))
        owners = e.add(spot.field("owners"), e.mul(panel, 4 * self.vectors * e.n))
        lanes = [e.load(e.add(owners, 4 * e.n * j), vec(I32, e.n)) for j in range(self.vectors)]
        lanes *= self.pixels

        def run(i: Value, carried: list[Value]) -> list[Value]:
            offset = e.load(e.add(taps, e.mul(i, 8)), I64, 8)

            def step(at: Value, inner: list[Value]) -> list[Value]:
                w_at, *old = inner
                here = e.add(offset, at)
                new = self._multiply(e, [e.add(row, here) for row in source], w_at, old)
                owner = e.splat(e.load(e.add(of_steps, at), I32))
                kept = [b.select(b.icmp_signed("==", owner, lane), x, y)
                        for lane, x, y in zip(lanes, new, old)]  # fmt: skip
                return [e.add(w_at, 4 * self.vectors * e.n), *kept]

            return e.loop(e.i64(0), e.mul(spot.field("steps"), 4), 4, carried, step)

        return e.loop(e.i64(0), spot.field("runs"), 1, [weights, *accs], run)[1:]
