"""The arena: whatever lifetimes come, buffers that are alive together lie apart."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from taut.backends.schedule.arena import ALIGNMENT, assign, check_size, extent
from taut.backends.schedule.layout import SLACK, Buffer
from taut.ir import LimitError

SIZES = st.one_of(st.integers(0, 300), st.sampled_from([4096, 8192, 4096 - SLACK, 1 << 20]))
SPANS = st.tuples(SIZES, st.integers(0, 12), st.integers(0, 5))


@settings(max_examples=150, deadline=None)
@given(st.lists(SPANS, max_size=30))
def test_buffers_alive_together_lie_apart(spans: list[tuple[int, int, int]]) -> None:
    lifetimes = {Buffer("arena", size): (first, first + more) for size, first, more in spans}
    arena = assign(lifetimes, lifetimes)
    assert arena.offsets.keys() == lifetimes.keys()
    ends = {b: arena.offsets[b] + extent(b) for b in lifetimes}
    for b, (first, last) in lifetimes.items():
        assert arena.offsets[b] % ALIGNMENT == 0 and extent(b) >= b.size + SLACK
        for other, (since, until) in lifetimes.items():
            if other is not b and since <= last and first <= until:
                apart = arena.offsets[b] >= ends[other] or arena.offsets[other] >= ends[b]
                assert apart, (b, other)
    assert arena.size == max(ends.values(), default=0) <= sum(map(extent, lifetimes))
    for phase in range(18):
        alive = sum(extent(b) for b, (at, to) in lifetimes.items() if at <= phase <= to)
        assert arena.size >= alive
    assert assign(lifetimes, lifetimes).offsets == arena.offsets


def test_what_is_never_alive_together_shares_memory() -> None:
    lifetimes = {Buffer("arena", 1000): (k, k) for k in range(9)}
    assert assign(lifetimes, lifetimes).size == extent(next(iter(lifetimes)))


def test_an_arena_beyond_the_limit_is_refused() -> None:
    check_size(100, 100)
    with pytest.raises(LimitError, match="101 bytes, over the limit of 100"):
        check_size(101, 100)
