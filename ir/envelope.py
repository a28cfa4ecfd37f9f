"""What a graph may give where its sums are rounded otherwise.

A quantizer turns the last bit of a float into a whole step where the float lies half way between
two integers; so do casts to integers, comparisons and the place of a maximum. Whether 0.49999997 or
0.5 stands there depends on the order of a sum, which no two programs share. So an output that
depends on such a jump has no one right value but several: those of the reference with its floats
moved by what another order of summation may move them.

Only what is rounded in an open way moves. Inputs, arithmetic that IEEE 754 defines to the last bit
(+, -, *, /, sqrt), movements of data, quantizing and dequantizing do not: a quantizer behind these
alone has one right answer, at ties too.
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


def envelope(
    graph: Graph, feeds: Feeds, *, steps: float = 0.0, runs: int = RUNS, seed: int = 0,
    limits: Limits = DEFAULT_LIMITS,
) -> Envelope:  # fmt: skip
    """Least and largest value of each element of each output, in double precision, over `runs` runs
    of the reference (the first of them unmoved): {output: (low, high)}.

    With `steps` also what is quantized moves, by so many steps of its grid. Raises what `interpret`
    does.
    """
    moves = _moves(graph, feeds, steps, limits)
    rng = np.random.default_rng(seed)
    found: Envelope = {}
    for signs in _signs(runs, rng):

        def move(value: Value, array: Array, signs: object = signs) -> Array | None:
            amount = moves.get(value)
            if amount is None or not array.size:
                return None
            with np.errstate(all="ignore"):
                moved = array.astype(np.float64) + _direction(signs, array, rng) * amount
                return moved.astype(array.dtype)

        for name, array in interpret(graph, feeds, limits=limits, watch=move).items():
            wide = array.astype(np.float64)
            low, high = found.get(name, (wide, wide))
            found[name] = np.fmin(low, wide), np.fmax(high, wide)
    return found


def explained(
    graph: Graph, feeds: Feeds, got: Feeds, rtol: float, atol: float, *, steps: float = 0.0,
    runs: int = RUNS, limits: Limits = DEFAULT_LIMITS,
) -> list[str]:  # fmt: skip
    """Names of the outputs in `got` of which every element lies within the envelope, floats also
    within atol + rtol * (the largest that the reference gives) of it.
    """
    bounds = envelope(graph, feeds, steps=steps, runs=runs, limits=limits)
    want = interpret(graph, feeds, limits=limits)
    return [k for k, v in got.items() if k in want and _inside(want[k], v, *bounds[k], rtol, atol)]


def _inside(
    want: Array, got: Array, low: Array, high: Array, rtol: float, atol: float
) -> bool:
    if want.shape != got.shape or want.dtype != got.dtype:
        return False
    a, b = want.astype(np.float64), got.astype(np.float64)
    largest = float(np.abs(a[np.isfinite(a)]).max(initial=0.0))
    slack = 0.0 if want.dtype.kind in "iub" else atol + rtol * largest
    with np.errstate(all="ignore"):
        fits = (a == b) | (np.isnan(a) & np.isnan(b)) | ((low - slack <= b) & (b <= high + slack))
    return bool(np.all(fits))


def _signs(runs: int, rng: np.random.Generator) -> Iterable[object]:
    """Nothing, all up, all down, away from zero, toward it, and then each element by chance."""
    named = (0.0, 1.0, -1.0, "away", "toward")
    return [*named, *[None] * (runs - len(named))][:runs]


def _direction(signs: object, array: Array, rng: np.random.Generator) -> Array | float:
    if isinstance(signs, float):
        return signs
    if signs is None:
        return rng.choice(np.array([-1.0, 1.0]), array.shape)
    return np.sign(array.astype(np.float64)) * (1 if signs == "away" else -1)


def _moves(
    graph: Graph, feeds: Feeds, steps: float, limits: Limits
) -> dict[Value, Array | float]:
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
