"""Every op on numbers at the edges of its types, compiled and by the reference.

Samples of ops (tests/ir/ops/op_samples.py) become programs of many nodes, their operands are salted
with special values, and what comes out is held to what the op declares (`Op.numerics`).
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from taut.backends import cpu
from taut.backends.cpu.lower.fusion import is_nest
from taut.ir import DType, Graph, TautError, TensorType
from taut.ir.analysis.pointwise import operand_kinds
from taut.ir.numerics import Numerics
from taut.ir.op import has_body
from taut.ir.ops.fusion import Fusion

import taut

sys.path.insert(0, str(Path(__file__).parents[2] / "ir" / "ops"))
from op_samples import SAMPLES, Sample  # pyright: ignore

Array = np.ndarray[Any, Any]
SIZES = (37, 16, 7, 1)  # two vectors and a tail; one vector; a tail; a number

# What a salt plants. Large numbers are not for sums, which may overflow in one order only.
SALTS: dict[str, tuple[float, ...]] = {
    "nan": (np.nan,),
    "infinite": (np.inf, -np.inf),
    "small": (0.0, -0.0, 1e-45, -1e-45, 1e-40, -1e-40, 1.1754944e-38, -1.1754944e-38),
    "large": (3.4028235e38, -3.4028235e38, 88.8, -104.5, 2.0**31, -(2.0**31), 2.5, -3.5, 0.5),
}


@dataclass(frozen=True)
class Case:
    """A sample in some element type, and which operands are constants of the graph."""

    sample: Sample
    operands: tuple[Array | None, ...]
    fixed: tuple[bool, ...]

    @property
    def promise(self) -> Numerics:
        promise = type(self.sample.op).numerics
        assert promise is not None
        return promise

    def __str__(self) -> str:
        kinds = ",".join("-" if x is None else f"{x.dtype}{list(x.shape)}" for x in self.operands)
        return f"{self.sample.op}({kinds})"


def cases(dtype: DType | None = None) -> Iterator[Case]:
    """The samples, in their own types or with their first type changed to this one. Element-wise
    ops come in several sizes, so that vectors and tails are seen."""
    for sample in SAMPLES:
        if has_body(sample.op) or sample.data_dependent:
            continue
        given = _typed(sample, dtype)
        if given is None:
            continue
        names = [o.name for o in sample.op.operands]
        names += names[-1:] * len(given)
        signature = type(sample.op).signature
        terms = () if signature is None else signature.operands
        axes = {t.name for t in terms if not t.everything}
        fixed = tuple(x is not None and i > 0 and x.dtype == np.int64 and names[i] not in axes
                      for i, x in enumerate(given))  # fmt: skip
        yield Case(sample, given, fixed)
        sizes = {x.size for x in given if x is not None}
        if operand_kinds(type(sample.op)) is not None and not any(fixed) and max(sizes) > 1:
            for n in SIZES if 0 not in sizes else ():
                flat = tuple(None if x is None else np.resize(x, n) if x.size > 1 else x
                             for x in given)  # fmt: skip
                yield Case(sample, flat, fixed)


def _typed(sample: Sample, dtype: DType | None) -> tuple[Array | None, ...] | None:
    first = sample.operands[0]
    if dtype is None or first is None:
        return sample.operands if dtype is None else None
    kind = DType.of(first)
    if kind is dtype or kind is DType.bool or kind.is_float != dtype.is_float:
        return None
    with np.errstate(all="ignore"):
        made = tuple(x.astype(dtype.numpy) if x is not None and x.dtype == first.dtype else x
                     for x in sample.operands)  # fmt: skip
    case = Case(sample, made, (False,) * len(made))
    try:
        return made if _runs(case, made) else None
    except TautError:  # the op has not this type
        return None


def is_pointwise(case: Case) -> bool:
    """Whether the op works on each element of flat operands by itself."""
    ranks = {x.ndim for x in case.operands if x is not None}
    kinds = operand_kinds(type(case.sample.op))
    return kinds is not None and ranks == {1} and not any(case.fixed) and len(case.operands) > 0


def is_loop(case: Case) -> bool:
    """Whether the compiler has a formula for it, so that it can be joined with others."""
    graph = fused([case])
    return is_nest(graph, graph["fused"])


def fused(chosen: Sequence[Case]) -> Graph:
    """Element-wise cases as one loop, which compiles several times as fast as one for each."""
    body = graph_of(chosen)
    graph = Graph("special")
    inputs = [graph.add_input(v.name, v.type) for v in body.inputs]
    node = graph.add(Fusion(body=body), *inputs, name="fused")
    graph.set_outputs({name: node[i] for i, name in enumerate(body.output_names)})
    return graph


def graph_of(chosen: Sequence[Case]) -> Graph:
    """All of them side by side; node `c3` is case 3, its operands `c3x0` and so on."""
    graph = Graph("special")
    outputs = {}
    for k, case in enumerate(chosen):
        values = [
            None if x is None else graph.constant(x) if fixed
            else graph.add_input(f"c{k}x{i}", TensorType.of(x))
            for i, (x, fixed) in enumerate(zip(case.operands, case.fixed))
        ]  # fmt: skip
        node = graph.add(case.sample.op, *values, name=f"c{k}")
        outputs |= {f"c{k}y{i}": node[i] for i in range(len(node.results))}
    graph.set_outputs(outputs)
    return graph


def salted(case: Case, salt: str, seed: int) -> list[Array | None]:
    """The operands with special values here and there; constants, settings and places stay, and
    all of them where the reference refuses what was planted."""
    rng = np.random.default_rng([zlib.crc32(str(case).encode()), seed])
    names = [o.name for o in case.sample.op.operands]
    names += names[-1:] * len(case.operands)
    first = case.operands[0]
    real = first is not None and DType.of(first).is_float
    made = [
        x if x is None or fixed or name in (*case.sample.op.settings, *case.promise.spreads)
        or (real and not DType.of(x).is_float) else _salt(x, salt, rng)
        for x, fixed, name in zip(case.operands, case.fixed, names)
    ]  # fmt: skip
    return made if _runs(case, made) else list(case.operands)


def _runs(case: Case, operands: Sequence[Array | None]) -> bool:
    """Whether the reference takes these operands."""
    try:
        with np.errstate(all="ignore"):
            taut.reference(graph_of([case]), **_feeds(0, case, operands))
    except TautError:
        return False
    return True


def _feeds(k: int, case: Case, operands: Sequence[Array | None]) -> dict[str, Array]:
    return {f"c{k}x{i}": x for i, (x, fixed) in enumerate(zip(operands, case.fixed))
            if x is not None and not fixed}  # fmt: skip


def _all_feeds(chosen: Sequence[Case], given: Sequence[Sequence[Array | None]]) -> dict[str, Array]:
    made: dict[str, Array] = {}
    for k, (case, operands) in enumerate(zip(chosen, given)):
        made |= _feeds(k, case, operands)
    return made


def _salt(x: Array, salt: str, rng: np.random.Generator) -> Array:
    dtype = DType.of(x)
    if dtype is DType.bool or not x.size:
        return x
    count = max(1, x.size // 6)
    at = rng.permutation(x.size)[:count]
    if dtype.is_float:
        with np.errstate(all="ignore"):
            chosen = rng.choice(np.array(SALTS[salt]), count).astype(x.dtype)
    else:
        low, high = dtype.bounds
        ends = [v for v in (low, low + 1, high, high - 1, 0, 1, -1) if low <= v <= high]
        chosen = rng.choice(np.array(ends, object), count).astype(x.dtype)
    made = x.copy()
    made.reshape(-1)[at] = chosen
    return made


def disagreement(case: Case, want: Array, got: Array, given: Sequence[Array | None]) -> str:
    """How a compiled result breaks the op's promise; "" where it does not."""
    if want.dtype != got.dtype or want.shape != got.shape:
        return f"{want.dtype}{want.shape} and not {got.dtype}{got.shape}"
    if not DType.of(want).is_float:
        return "" if np.array_equal(want, got) else "other integers"
    w, g = want.astype(np.float64), got.astype(np.float64)
    if not np.array_equal(np.isnan(w), np.isnan(g)):
        return "NaN elsewhere"
    finite = np.isfinite(w) & np.isfinite(g)
    if not np.array_equal(w[~finite], g[~finite], equal_nan=True):
        return "infinity elsewhere"
    free, w, g = case.promise.free, w[finite], g[finite]
    if "sign" not in free and not np.array_equal(np.signbit(w[w == 0]), np.signbit(g[w == 0])):
        return "another sign of zero"
    if set(free) <= {"sign"}:
        return "" if np.array_equal(w, g) else f"off by {np.abs(w - g).max():.3g}"
    least = float(np.finfo(np.float32).tiny) if "subnormal" in free else 0.0
    bound = case.sample.tolerance * (np.abs(w) + _size(given)) + least
    off = np.abs(w - g) - bound
    return "" if off.size == 0 or off.max() <= 0 else f"off by {off.max():.3g}"


def _size(given: Sequence[Array | None]) -> float:
    """What sums and formulas may be off by is in proportion to this."""
    largest = [np.abs(x[np.isfinite(x)], dtype=np.float64).max(initial=0) for x in given
               if x is not None and x.dtype.kind == "f"]  # fmt: skip
    return float(min(max(largest, default=0.0), 16.0))


def findings(
    chosen: Sequence[Case], isa: str | None, seeds: int = 1, *, joined: bool = False
) -> Iterator[str]:
    """What breaks a promise, case by case. Those left to the reference are not looked at. With
    `joined` they are element-wise and run in one loop."""
    program = cpu.compile((fused if joined else graph_of)(chosen), threads=1, isa=isa)
    program(**_all_feeds(chosen, [case.operands for case in chosen]))  # plans it
    left = set(program.fallbacks)
    for salt in SALTS:
        for seed in range(seeds):
            given = [salted(case, salt, seed) for case in chosen]
            feeds = _all_feeds(chosen, given)
            with np.errstate(all="ignore"):
                want = taut.reference(program.graph, **feeds)
                got = program(**feeds)
            for k, case in enumerate(chosen):
                if f"c{k}" in left or (salt == "large" and "order" in case.promise.free):
                    continue
                for name in (n for n in want if n.startswith(f"c{k}y")):
                    said = disagreement(case, want[name], got[name], given[k])
                    if said:
                        yield f"{case} {salt}: {said}"


# ---- axes of size 0 and 1 ----------------------------------------------------------------------


def thin(case: Case, sizes: Sequence[int] = (0, 1)) -> Iterator[Case]:
    """The case with one of the first operand's axes, or everything of that size, 0 or 1 long, as
    far as the op takes that."""
    first = case.operands[0] if case.operands else None
    if first is None:
        return
    for size in sizes:
        for axis, old in enumerate(first.shape):
            together = tuple(_resized(x, old, size) for x in case.operands)
            alone = (_along(first, axis, size), *case.operands[1:])
            for operands in (together, alone):
                made = Case(case.sample, operands, case.fixed)
                if _accepts(made):
                    yield made


def _along(x: Array, axis: int, size: int) -> Array:
    shape = [size if k == axis else n for k, n in enumerate(x.shape)]
    return np.resize(x, shape) if x.size else np.zeros(shape, x.dtype)


def _resized(x: Array | None, old: int, size: int) -> Array | None:
    if x is None or old not in x.shape:
        return x
    shape = [size if n == old else n for n in x.shape]
    return np.resize(x, shape) if x.size else np.zeros(shape, x.dtype)


def _accepts(case: Case) -> bool:
    """Whether inference and the reference take the operands; anything but a refusal is raised."""
    try:
        return _runs(case, case.operands)
    except TautError:
        return False


def thin_findings(chosen: Sequence[Case], isa: str | None = None) -> Iterator[str]:
    """Where axes of size 0 and 1 make a compiled program fail or differ."""
    program = cpu.compile(graph_of(chosen), threads=1, isa=isa)
    feeds = _all_feeds(chosen, [case.operands for case in chosen])
    with np.errstate(all="ignore"):
        want, got = taut.reference(program.graph, **feeds), program(**feeds)
    for k, case in enumerate(chosen):
        for name in (n for n in want if n.startswith(f"c{k}y")):
            said = disagreement(case, want[name], got[name], case.operands)
            if said:
                yield f"{case}: {said}"
