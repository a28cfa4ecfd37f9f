"""What a graph may give where its sums are rounded otherwise.

A quantizer turns the last bit of a float into a whole step where the float lies half way between
two integers; so do casts to integers, comparisons and the place of a maximum. Whether 0.49999997 or
0.5 stands there depends on the order of a sum, which no two programs share. So an output that
depends on such a jump has no one right value but several: those of the reference with its floats
moved by what another order of summation may move them.

Only what is rounded in an open way moves. Inputs, arithmetic that IEEE 754 defines to the last bit
(+, -, *, /, sqrt), movements of data, quantizing and dequantizing do not: a quantizer behind these
alone has one right answer, at ties too.

A zero whose sign an op leaves open (`Numerics.free`) takes both: 1 / -0 is -inf, and the angle
of -0 is another than that of 0.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from .graph import Graph, Node, Value
from .interpret import Feeds, interpret
from .op import Array
from .ops.quantization import Quantization, QuantizeLinear
from .types import DEFAULT_LIMITS, DType, Limits

UNITS = {DType.f64: 2.0**-47, DType.f32: 2.0**-18, DType.f16: 2.0**-8, DType.bf16: 2.0**-5}
"""How far sums move, as a share of the largest magnitude in their tensor: 32 units in the last
place (8 of the small types, which are summed in single precision)."""

DEFINED = (
    np.add, np.subtract, np.multiply, np.divide, np.sqrt, np.negative, np.abs, np.maximum,
    np.minimum, np.floor, np.ceil, np.rint, np.trunc, np.sign,
)  # fmt: skip
"""Functions whose every bit IEEE 754 defines."""

RUNS = 64

Envelope = dict[str, tuple[Array, Array]]
Bounds = tuple[Array, Array, Array]  # least, largest, and whether it may be NaN


def envelope(
    graph: Graph, feeds: Feeds, *, steps: float = 0.0, rounding: bool = True, runs: int = RUNS,
    seed: int = 0, limits: Limits = DEFAULT_LIMITS,
) -> Envelope:  # fmt: skip
    """Least and largest value of each element of each output, in double precision, over `runs` runs
    of the reference (the first of them unmoved): {output: (low, high)}.

    With `steps` also what is quantized moves, by so many steps of its grid; without `rounding`
    nothing but signs of zeros. A run in which an output has another shape says nothing of it.
    Raises what `interpret` does.
    """
    bounds = _bounds(graph, feeds, steps, rounding, runs, seed, limits)
    return {name: (low, high) for name, (low, high, _) in bounds.items()}


def _bounds(
    graph: Graph, feeds: Feeds, steps: float, rounding: bool, runs: int, seed: int, limits: Limits
) -> dict[str, Bounds]:
    moves = _moves(graph, feeds, steps, limits) if rounding else {}
    rng = np.random.default_rng(seed)
    found: dict[str, Bounds] = {}
    for signs in _signs(runs, rng):

        def move(value: Value, array: Array, signs: object = signs) -> Array | None:
            zeros = _open_zeros(value, array) if signs != 0.0 else None
            amount = moves.get(value)
            if not array.size or (amount is None and zeros is None):
                return None
            with np.errstate(all="ignore"):
                moved = array.astype(np.float64)
                if amount is not None:
                    moved = moved + _direction(signs, array, rng) * amount
                if zeros is not None:
                    moved = np.where(zeros & (moved == 0), _zeros(signs, array, rng), moved)
                return moved.astype(array.dtype)

        for name, array in interpret(graph, feeds, limits=limits, watch=move).items():
            wide = array.astype(np.float64)
            low, high, nan = found.get(name, (wide, wide, np.isnan(wide)))
            if low.shape == wide.shape:
                found[name] = np.fmin(low, wide), np.fmax(high, wide), nan | np.isnan(wide)
    return found


def explained(
    graph: Graph, feeds: Feeds, got: Feeds, rtol: float, atol: float, *, steps: float = 0.0,
    rounding: bool = True, runs: int = RUNS, limits: Limits = DEFAULT_LIMITS,
) -> list[str]:  # fmt: skip
    """Names of the outputs in `got` of which every element lies within the envelope, floats also
    within atol + rtol * (the largest that the reference gives) of it. Without `rounding` nothing
    but the signs of zeros is open: for what promises to be exact.
    """
    bounds = _bounds(graph, feeds, steps, rounding, runs, 0, limits)
    want = interpret(graph, feeds, limits=limits)
    return [k for k, v in got.items() if k in want and _inside(want[k], v, *bounds[k], rtol, atol)]


def _inside(
    want: Array, got: Array, low: Array, high: Array, nan: Array, rtol: float, atol: float
) -> bool:
    if want.shape != got.shape or want.dtype != got.dtype:
        return False
    a, b = want.astype(np.float64), got.astype(np.float64)
    largest = float(np.abs(a[np.isfinite(a)]).max(initial=0.0))
    slack = 0.0 if want.dtype.kind in "iub" else atol + rtol * largest
    with np.errstate(all="ignore"):
        between = (low - slack <= b) & (b <= high + slack)
        # Between -inf and inf of 1 / 0 there is nothing.
        between &= np.isfinite(low) | np.isfinite(high) | (low == high) | ~np.isfinite(b)
        fits = (a == b) | (nan & np.isnan(b)) | between
    return bool(np.all(fits))


def _signs(runs: int, rng: np.random.Generator) -> Iterable[object]:
    """Nothing, all up, all down, away from zero, toward it, then each element by chance: all of the
    way, and in the last quarter a part of it (what is periodic is not largest at the ends)."""
    named = (0.0, 1.0, -1.0, "away", "toward")
    part = runs // 4
    whole = max(runs - len(named) - part, 0)
    return [*named, *[None] * whole, *["part"] * part][:runs]


def _direction(signs: object, array: Array, rng: np.random.Generator) -> Array | float:
    if isinstance(signs, float):
        return signs
    if signs == "part":
        return rng.uniform(-1.0, 1.0, array.shape)
    if signs is None:
        return rng.choice(np.array([-1.0, 1.0]), array.shape)
    return np.sign(array.astype(np.float64)) * (1 if signs == "away" else -1)


def _open_zeros(value: Value, array: Array) -> Array | None:
    """Which zeros of an op's result may have either sign."""
    promise = value.node.op.numerics
    if promise is None or "sign" not in promise.free or not DType.of(array).is_float:
        return None
    zeros = array == 0
    return zeros if zeros.any() else None


def _zeros(signs: object, array: Array, rng: np.random.Generator) -> Array | float:
    """Zeros of one sign, or each of one by chance."""
    if isinstance(signs, float):
        return np.copysign(0.0, signs)
    return np.copysign(0.0, rng.choice(np.array([-1.0, 1.0]), array.shape))


def _moves(graph: Graph, feeds: Feeds, steps: float, limits: Limits) -> dict[Value, Array | float]:
    """By how much each value may move."""
    found: dict[Value, Array | float] = {}
    arrays: dict[Value, Array] = {}

    def see(value: Value, array: Array) -> None:
        arrays[value] = array
        unit = UNITS.get(DType.of(array))
        if unit is None or not array.size:
            return
        if not _defined(value.node, array, [arrays[v] for v in graph.operands(value.node) if v]):
            wide = np.abs(array.astype(np.float64))
            found[value] = unit * float(wide[np.isfinite(wide)].max(initial=0.0))

    interpret(graph, feeds, limits=limits, watch=see)
    if steps:
        for node in graph.of(QuantizeLinear):
            x, scale = graph.operands(node)[:2]
            assert x is not None and scale is not None and isinstance(node.op, QuantizeLinear)
            step = node.op.spread(arrays[scale].astype(np.float64), arrays[x].shape)
            found[x] = np.maximum(found.get(x, 0.0), steps * step)
    return found


def _defined(node: Node, array: Array, operands: list[Array]) -> bool:
    """Whether every bit of a node's float result is defined."""
    if not operands or isinstance(node.op, Quantization):
        return True
    if getattr(node.op, "ufunc", None) in DEFINED:
        return True
    given = [a.reshape(-1).astype(np.float64) for a in operands if a.dtype == array.dtype]
    known = np.concatenate([np.zeros(1), *given])
    real = array.astype(np.float64)
    return bool(np.all(np.isin(real, known) | np.isnan(real)))  # data was moved or chosen
