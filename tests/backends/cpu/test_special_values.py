"""Every compiled op keeps what it declares of NaN, infinities, zeros, the smallest and the largest
numbers, and runs on axes of size 0 and 1.

Without `--thorough` each op runs once, on the best instruction table (where other tests compile the
same kernels), element-wise ones in more types; with it, every sample runs on every table that this
machine has, in every type (some minutes).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import pytest
from special_values import (
    Case,
    cases,
    disagreement,
    findings,
    is_loop,
    is_pointwise,
    thin,
    thin_findings,
)
from support import ISAS
from taut.ir import DType

TABLES = [isa.name for isa in ISAS]
TYPES = [DType(k) for k in ("f64", "f16", "bf16", "i8", "i16", "i32", "i64", "u8", "u16", "u32",
                            "u64")]  # fmt: skip
SHARDS = 3
TOGETHER = 40  # in one loop


def by_op(dtype: DType | None = None) -> dict[str, list[Case]]:
    """All cases of every op."""
    made: dict[str, list[Case]] = {}
    for case in cases(dtype):
        made.setdefault(case.sample.op.name, []).append(case)
    return made


def shard(name: str, of: int) -> int:
    """A number of its own for each op, the same in every run."""
    return zlib.crc32(name.encode()) % of


def one_each() -> Iterator[Case]:
    """One case of every op that is not element-wise."""
    for group in by_op().values():
        if not any(is_pointwise(case) for case in group):
            yield group[0]
    yield from (c for c in element_wise() if not is_loop(c))


def element_wise(dtype: DType | None = None) -> list[Case]:
    """Two vectors and a tail of every element-wise op, each with its attributes once."""
    found = {
        (c.sample.op.key(), *(str(x.dtype) for x in c.operands if x is not None)): c
        for group in by_op(dtype).values()
        for c in group
        if is_pointwise(c) and c.operands[0] is not None and c.operands[0].size == 37
    }
    return list(found.values())


@pytest.mark.parametrize(("dtype", "table"), [
    (None, TABLES[0]), (None, TABLES[-1]), (DType.f64, TABLES[0]), (DType.u8, TABLES[0]),
    (DType.i64, TABLES[0]),
], ids=str)  # fmt: skip
def test_element_wise_ops_on_special_values(dtype: DType | None, table: str):
    chosen = [c for c in element_wise(dtype) if is_loop(c)]
    assert chosen
    for k in range(0, len(chosen), TOGETHER):
        assert list(findings(chosen[k : k + TOGETHER], table, joined=True)) == []


@pytest.mark.parametrize("number", range(SHARDS))
def test_ops_on_special_values(number: int):
    chosen = [c for c in one_each() if shard(c.sample.op.name, SHARDS) == number]
    assert list(findings(chosen, TABLES[0])) == []


@pytest.mark.parametrize("number", range(SHARDS))
def test_axes_of_size_zero(number: int):
    chosen = [t for c in one_each() if shard(c.sample.op.name, SHARDS) == number
              for t in thin(c, (0,))]  # fmt: skip
    assert list(thin_findings(chosen, TABLES[0])) == []


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("dtype", [None, *TYPES], ids=str)
def test_everything(dtype: DType | None, table: str, request: pytest.FixtureRequest):
    if not request.config.getoption("--thorough"):
        pytest.skip("takes minutes: --thorough")
    said: list[str] = []
    for group in by_op(dtype).values():
        said += findings(group, table, seeds=3)
        said += thin_findings([t for case in group for t in thin(case)], table)
    assert said == []


def test_a_broken_promise_is_found():
    """The comparison sees what it is for."""
    import numpy as np

    relu = next(c for c in cases() if str(c) == "Relu()(float32[37])")
    want = np.array([0.0, np.nan, np.inf, 1.0], np.float32)
    for at, other in ((1, 0.0), (2, 3e38), (3, 1.0000001), (0, 1e-40)):
        got = want.copy()
        got[at] = other
        assert disagreement(relu, want, got, [want])
    assert not disagreement(relu, want, np.negative(want, where=want == 0, out=want.copy()), [want])
