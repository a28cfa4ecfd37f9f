"""Every declared trait holds for the NumPy reference, and what holds is declared."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from op_samples import SAMPLES, Sample
from taut.ir import DType, Op, TautError, all_ops, op_class
from taut.ir.analysis.pointwise import operand_kinds
from taut.ir.op import ops_with, positions
from taut.ir.ops.structure import Constant
from taut.ir.traits import NONE, REALS, Direction, Trait, lines

Array = np.ndarray[Any, Any]
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # odd values overflow
OWN = [c for c in all_ops() if c.__module__.startswith(Constant.__module__.rpartition(".")[0])]
ODD = np.array([-np.inf, -3e38, -100, -8, -3, -1, -0.5, -0.0, 0.0, 1e-3, 0.5, 1, 2, 5, 90, np.inf])
WORDS = np.array([-128, -127, -5, -1, 0, 1, 2, 7, 126, 127], np.int8)


def run(op: Op, *operands: Array | None) -> Array:
    """The first result."""
    with np.errstate(all="ignore"):
        made = op.reference(*operands)
    return np.asarray(made[0] if isinstance(made, tuple) else made)


def samples_of(cls: type[Op]) -> list[Sample]:
    return [s for s in SAMPLES if type(s.op) is cls and s.operands]


def same_bits(a: Array, b: Array, cls: type[Op]) -> bool:
    """Equal, any NaN being any other and 0 being -0 where the op leaves its sign free."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if a.dtype.kind not in "fV":
        return bool((a == b).all())
    a, b = a.astype(np.float64), b.astype(np.float64)
    free = "sign" in _freedom(cls)
    equal = (a == b) & (free | (np.signbit(a) == np.signbit(b)))
    return bool((equal | (np.isnan(a) & np.isnan(b))).all())


def _freedom(cls: type[Op]) -> tuple[str, ...]:
    return () if cls.numerics is None else cls.numerics.free


def domain(cls: type[Op], count: int = 4001) -> Array:
    """Ordered float32 numbers over where the op is defined."""
    low, high = (-60.0, 60.0) if cls.monotone is None else (cls.monotone.low, cls.monotone.high)
    ends = [v for v in ODD if low <= v <= high and np.isfinite(v)]
    spread = np.linspace(max(low, -60.0), min(high, 60.0), count)
    return np.unique(np.concatenate([ends, spread])).astype(np.float32)


def function(op: Op) -> tuple[Op, tuple[Array, ...]] | None:
    """A function of one float element: the op and its constant further operands."""
    sample = next((s for s in samples_of(type(op)) if s.op == op), None)
    if sample is None or operand_kinds(type(op)) is None:
        return None
    x, *rest = sample.operands
    if x is None or x.dtype != np.float32 or any(r is not None and r.size != 1 for r in rest):
        return None
    return op, tuple(rest)  # type: ignore[arg-type]


FUNCTIONS = [f for f in (function(s.op) for s in SAMPLES) if f is not None and
             not isinstance(f[0], tuple(ops_with(Trait.COMMUTATIVE)))]  # fmt: skip
one_element = pytest.mark.parametrize(
    "op,rest", FUNCTIONS, ids=[f"{op.name}{i}" for i, (op, _) in enumerate(FUNCTIONS)]
)


def direction(op: Op, rest: tuple[Array, ...]) -> set[Direction]:
    """Which ways the samples go, to within rounding."""
    x = domain(type(op))
    y = run(op, x, *rest).astype(np.float64)
    if y.shape != x.shape or not np.isfinite(y).any() or np.isnan(y).any():
        return set()
    slack = 4e-7 * np.maximum(np.abs(y[1:]), np.abs(y[:-1])) + 1e-37
    if "cancels" in _freedom(type(op)):
        slack += 4e-7 * np.abs(x[1:])
    with np.errstate(invalid="ignore"):
        up = np.where(np.isfinite(slack), y[1:] - y[:-1], 0)
    rises, falls = up >= -slack, up <= slack
    found = {Direction.INCREASING} if rises.all() else set()
    found |= {Direction.DECREASING} if falls.all() else set()
    least = int(np.argmin(y))
    if falls[:least].all() and rises[least:].all():
        found.add(Direction.TURNING)
    return found


@one_element
def test_monotone_functions_are(op: Op, rest: tuple[Array, ...]) -> None:
    declared = type(op).monotone
    if declared is None or not declared.when(op):
        return
    assert declared.direction in direction(op, rest)
    assert np.isnan(run(op, np.full(1, np.nan, np.float32), *rest)).all()


def test_monotone_over_attributes() -> None:
    """The condition is right for negative, zero and positive attributes."""
    for cls in OWN:
        if cls.monotone is None:
            continue
        names = [a.name for a in cls.attributes if a.kind == "float"]
        if not names:
            continue
        for value in (-0.7, 0.5, 2.0):
            op = cls(**{names[0]: value})
            if cls.monotone.when(op):
                assert cls.monotone.direction in direction(op, ()), op
            else:
                assert cls.monotone.direction not in direction(op, ()), op


def _undeclared(found: dict[str, str], known: dict[str, str]) -> None:
    """What satisfies a trait in trials is declared, or listed with a reason."""
    assert found.keys() == known.keys(), {
        "declare it or give a reason": found.keys() - known.keys(),
        "does not satisfy it, or declares it": known.keys() - found.keys(),
    }


def test_what_is_monotone_is_declared() -> None:
    found = {
        op.name: ""
        for op, rest in FUNCTIONS
        if type(op).monotone is None and direction(op, rest)
        and run(op, domain(type(op)), *rest).dtype.kind == "f"
    }  # fmt: skip
    known = {
        "identity": "it moves its operand: passes drop it",
        "cast": "it may be to integers, which wrap",
        "dropout": "drops in training",
        "thresholded_relu": "makes 0 of NaN, which a maximum keeps",
        "shrink": "not for every bias and threshold",
    }
    _undeclared(found, known)


@pytest.mark.parametrize("cls", ops_with(Trait.COMMUTATIVE), ids=lambda c: c.name)
def test_commutative(cls: type[Op]) -> None:
    assert list(_swapped(cls)) and all(_swapped(cls))


def _pairs(cls: type[Op]) -> Iterator[tuple[Op, Array, Array]]:
    """Operands that the op takes two of, of one type, any values among them."""
    for s in samples_of(cls):
        given = [x for x in s.operands if x is not None]
        given = given[:2] if cls.operands[0].variadic else given
        if len(given) != 2 or given[0].dtype != given[1].dtype:
            continue
        kind = given[0].dtype
        if kind.kind == "f":
            rng = np.random.default_rng(3)
            many = np.concatenate([ODD, [np.nan], rng.standard_normal(20)]).astype(kind)
        elif kind.kind in "iu":
            info = np.iinfo(kind)
            many = np.array([info.min, info.max, 0, 1, 3, 7, 100], kind)
        elif kind.kind == "b":
            many = np.array([False, True])
        else:
            continue
        yield s.op, many[:, None], many[None, :]


def _swapped(cls: type[Op]) -> Iterator[bool]:
    for op, a, b in _pairs(cls):
        try:
            there, back = run(op, a, b), run(op, b, a)
        except (TautError, AssertionError, ValueError, IndexError, TypeError):
            continue
        yield there.shape == (len(a), b.shape[1]) and same_bits(there, back, cls)


def test_what_commutes_is_declared() -> None:
    found = {
        c.name: "" for c in OWN
        if Trait.COMMUTATIVE not in c.traits and not any(a.kind == "graph" for a in c.attributes)
        and (trials := list(_swapped(c))) and all(trials)
    }  # fmt: skip
    _undeclared(found, {})


def _grouped(cls: type[Op]) -> Iterator[bool]:
    """Whether f(f(a, b), c) is f(a, f(b, c)), for small whole numbers, which are exact."""
    for op, a, _ in _pairs(cls):
        many = np.arange(-3 if a.dtype.kind in "fi" else 0, 2 if a.dtype.kind == "b" else 5)
        x, y, z = np.meshgrid(*[many.astype(a.dtype)] * 3, indexing="ij")
        try:
            left, right = run(op, run(op, x, y), z), run(op, x, run(op, y, z))
        except (TautError, AssertionError, ValueError, IndexError, TypeError):
            continue
        yield left.dtype == x.dtype and same_bits(left, right, cls)


def test_associative() -> None:
    for cls in ops_with(Trait.ASSOCIATIVE):
        assert list(_grouped(cls)) and all(_grouped(cls)), cls.name


def test_what_is_associative_is_declared() -> None:
    plain = [c for c in OWN if not any(a.kind == "graph" for a in c.attributes)]
    found = {
        c.name: "" for c in plain
        if Trait.ASSOCIATIVE not in c.traits and (trials := list(_grouped(c))) and all(trials)
    }  # fmt: skip
    matrices = "of matrices, whose order matters"
    known = {
        "mat_mul": matrices, "gemm": matrices, "einsum": matrices, "concat": "its axis grows",
        "scale_gradient": "it is its first operand", "sum": "a sum of two becomes an addition",
        "layer_normalization": "these rows have a scale of 0",
    }  # fmt: skip
    _undeclared(found, known)


def _repeated(cls: type[Op], trait: Trait) -> Iterator[bool]:
    """Whether f(f(x)) is f(x) or x, in the samples and on odd values."""
    for s in samples_of(cls):
        x, *rest = s.operands
        if x is None:
            continue
        odd = {"f": ODD, "i": WORDS.astype(x.dtype)}.get(x.dtype.kind)
        for v in [x] if odd is None else [x, odd.astype(x.dtype)]:
            try:
                once = run(s.op, v, *rest)
                if once.shape != v.shape or once.dtype != v.dtype:
                    yield False
                    return
                wanted = once if trait is Trait.IDEMPOTENT else v
                yield same_bits(run(s.op, once, *rest), wanted, cls)
            except (TautError, ValueError, IndexError, TypeError):
                continue


GIVEN_THE_SECOND = "only in its first operand, given the second"
ALONE = "passes drop even one of it"
REPEATS: Mapping[Trait, dict[str, str]] = {
    Trait.IDEMPOTENT: {
        "bitwise_and": GIVEN_THE_SECOND, "bitwise_or": GIVEN_THE_SECOND, "mod": GIVEN_THE_SECOND,
        "trilu": GIVEN_THE_SECOND, "shrink": "where its bias is 0 only", "identity": ALONE,
        "dropout": ALONE, "optimization_barrier": "no pass looks through it",
        "scale_gradient": "its gradient is another",
    },
    Trait.INVOLUTION: {
        "bitwise_xor": GIVEN_THE_SECOND, "reverse_sequence": GIVEN_THE_SECOND, "identity": ALONE,
        "dropout": ALONE, "optimization_barrier": "no pass looks through it",
        "scale_gradient": "its gradient is another",
    },
}  # fmt: skip


@pytest.mark.parametrize("trait", [Trait.IDEMPOTENT, Trait.INVOLUTION], ids=str)
def test_repeated(trait: Trait) -> None:
    for cls in ops_with(trait):
        assert list(_repeated(cls, trait)) and all(_repeated(cls, trait)), cls.name


@pytest.mark.parametrize("trait", [Trait.IDEMPOTENT, Trait.INVOLUTION], ids=str)
def test_what_repeats_is_declared(trait: Trait) -> None:
    found = {
        c.name: "" for c in OWN
        if trait not in c.traits and (trials := list(_repeated(c, trait))) and all(trials)
    }  # fmt: skip
    _undeclared(found, REPEATS[trait])


def test_homogeneous() -> None:
    for cls in ops_with(Trait.HOMOGENEOUS):
        for s in samples_of(cls):
            x, *rest = s.operands
            if x is None or x.dtype != np.float32:
                continue
            for scale in (np.float32(0.25), np.float32(2), np.float32(1024)):  # exact factors
                made = run(s.op, np.abs(ODD[2:-1]).astype(np.float32) if x.size == 1 else x, *rest)
                again = run(s.op, x * scale, *rest)
                assert same_bits(again, made * scale, cls), s


@pytest.mark.parametrize(
    "cls", [c for c in OWN if c.within != REALS or "results_within" in vars(c)],
    ids=lambda c: c.name,
)  # fmt: skip
def test_results_lie_within(cls: type[Op]) -> None:
    tried = 0
    for s in samples_of(cls):
        x, *rest = s.operands
        assert x is not None
        tall = [x] if x.dtype.kind not in "fi" else [x, x * x.dtype.type(7)]
        if operand_kinds(cls) is not None and x.dtype.kind in "fi":
            tall += [ODD.astype(x.dtype) if x.dtype.kind == "f" else WORDS.astype(x.dtype)]
            tall += [np.linspace(-4, 4, 8001).astype(x.dtype)]
        for v in tall:
            made = run(s.op, v, *rest)
            if made.dtype.kind not in "fi":
                continue
            low, high = s.op.results_within(DType.of(made))
            real = made.astype(np.float64)
            assert (np.isnan(real) | ((real >= low) & (real <= high))).all(), s
            positive = math.copysign(1, low) > 0 and low >= 0
            assert (
                not positive or not np.signbit(real[real == 0]).any() or "sign" in _freedom(cls)
            ), s
            tried += 1
    assert tried


def test_what_is_never_negative_is_declared() -> None:
    """Functions of one element and float results of samples that hold negative numbers."""
    found: dict[str, str] = {}
    for cls in OWN:
        trials = [s for s in samples_of(cls) if _has_negative(s)]
        made = [run(s.op, *s.operands) for s in trials]
        if not made or any(y.dtype.kind != "f" for y in made):
            continue
        if all((y[~np.isnan(y)] >= 0).all() for y in made) and cls.within[0] < 0:
            found[cls.name] = ""
    known = {
        "fusion": "its body says", "global_max_pool": "of a sample only",
        "softmax_cross_entropy_loss": "weights may be negative",
        "thresholded_relu": "by `results_within`, where alpha is not negative",
    }  # fmt: skip
    _undeclared(found, known)


def _has_negative(s: Sample) -> bool:
    x = s.operands[0]
    return x is not None and x.dtype.kind == "f" and bool((x < 0).any())


def test_ranges_follow_attributes() -> None:
    for name in ("elu", "thresholded_relu", "swish", "hard_sigmoid", "celu", "selu"):
        for alpha in (-1.5, -0.2, 0.3, 2.0):
            op = op_class(name)(alpha=alpha)
            low, high = op.results_within(DType.f32)
            made = run(op, np.linspace(-30, 30, 20001).astype(np.float32))
            assert low <= made.min() and made.max() <= high, op


def test_the_least_integer_has_no_absolute_value() -> None:
    """|-128| is -128: of a signed type abs has no lower bound."""
    absolute = op_class("abs")()
    assert run(absolute, WORDS).min() == -128
    assert absolute.results_within(DType.i8) == REALS
    assert absolute.results_within(DType.f32)[0] == 0


# ---- data movement and averages ---------------------------------------------------------------


def _moved_operands(s: Sample) -> list[int]:
    moves = type(s.op).moves
    assert moves is not None
    at = positions(type(s.op))
    found: list[int] = []
    for name in moves.operands:
        variadic = type(s.op).operands[at[name]].variadic
        found += range(at[name], len(s.operands)) if variadic else [at[name]]
    return found


@pytest.mark.parametrize("cls", [c for c in OWN if c.moves is not None], ids=lambda c: c.name)
def test_moves(cls: type[Op]) -> None:
    """Numbers all different are found again, wherever they stand, whatever they are."""
    tried = 0
    for s in samples_of(cls):
        assert cls.moves is not None
        if not cls.moves.holds(s.op) or s.op.name == "cast":
            continue
        made: list[list[Array]] = []
        for turn in (1, -1):  # other values go to the same places
            operands, count = list(s.operands), 1
            for i in _moved_operands(s):
                x = operands[i]
                if x is None:
                    continue
                numbers = np.arange(count, count + x.size).reshape(x.shape) * turn
                operands[i], count = numbers.astype(np.float64).astype(np.float32), count + x.size
            with np.errstate(all="ignore"):
                y = s.op.reference(*operands)
            parts = [np.asarray(p) for p in (y if isinstance(y, tuple) else (y,))]
            for part in parts:
                assert np.isin(part, turn * np.arange(1, count)).all(), s
            made.append(parts)
            tried += 1
        assert all((a == -b).all() for a, b in zip(*made)), s
    assert tried


def test_what_moves_is_declared() -> None:
    """Ops of the promise `numerics.MOVES` that move data and do not declare it, each with why."""
    from taut.ir.numerics import MOVES

    known = {
        "bit_cast": "bits of another type",
        "constant": "no operand", "constant_of_shape": "one value, no operand's",
        "dropout": "drops in training", "input": "no operand",
        "one_hot": "values are two numbers, not a tensor that is moved", "return": "no result",
        "trilu": "makes zeros", "scale_gradient": "its gradient is another",
        "optimization_barrier": "no pass looks through it",
    }  # fmt: skip
    found = {c.name: "" for c in OWN if c.numerics == MOVES and c.moves is None}
    _undeclared(found, known)


def test_averages_lie_between() -> None:
    for cls in ops_with(Trait.AVERAGES):
        for s in samples_of(cls):
            x = s.operands[0]
            assert x is not None
            made, wide = run(s.op, x).astype(np.float64), x.astype(np.float64)
            low, high = min(wide.min(), 0), max(wide.max(), 0)
            slack = 1e-6 * max(abs(low), abs(high))
            known = np.isfinite(made)  # a window of padding alone has the least number
            assert (made[known] >= low - slack).all() and (made[known] <= high + slack).all(), s


# ---- layers ------------------------------------------------------------------------------------

LAYERS = [c for c in OWN if c.weighted is not None]


@pytest.mark.parametrize("cls", LAYERS, ids=lambda c: c.name)
def test_layer_channels(cls: type[Op]) -> None:
    """A weight of output channel o bears on channel o of the result (of every group) and no other;
    a bias likewise."""
    layer, tried = cls.weighted, 0
    assert layer is not None
    at = positions(cls)
    assert layer.data in at and layer.weight in at and (not layer.bias or layer.bias in at)
    for s in samples_of(cls):
        operands = list(s.operands)
        w = operands[at[layer.weight]]
        if w is None or w.ndim < 2 or not w.size:
            continue
        before = run(s.op, *operands)
        outputs, inputs = (a % w.ndim for a in layer.axes(s.op))
        assert outputs != inputs
        channels = layer.channels % before.ndim
        groups = getattr(s.op, "group", 1) if layer.grouped == "outputs" else 1
        assert before.shape[channels] == w.shape[outputs] * groups, s
        for o in {0, w.shape[outputs] - 1}:
            changed = np.moveaxis(w.copy(), outputs, 0)
            changed[o] = changed[o] // 2 + 1 if layer.integer else changed[o] * -3 + 1
            operands[at[layer.weight]] = np.moveaxis(changed, 0, outputs)
            after = run(s.op, *operands)
            over = tuple(i for i in range(before.ndim) if i != channels)
            where = np.flatnonzero((before != after).any(axis=over))
            assert set(where % w.shape[outputs]) <= {o}, s
            tried += len(where)
    assert tried


def test_every_product_with_a_weight_is_a_layer() -> None:
    """An op that sums over input channels of an operand named as weights are, is one."""
    named = {c.name for c in OWN if {"weight", "w"} & {o.name for o in c.operands}}
    found = dict.fromkeys(named - {c.name for c in LAYERS}, "")
    known = {
        "gru": "two weights, for input and state", "lstm": "the same", "rnn": "the same",
        "negative_log_likelihood_loss": "weights of classes",
    }  # fmt: skip
    _undeclared(found, known)


# ---- what they say -----------------------------------------------------------------------------


def test_traits_are_told() -> None:
    assert dict(lines(op_class("relu"))) == {
        "idempotent": "", "homogeneous": "", "activation": "", "monotone": "increasing",
        "results within": "[0, inf]",
    }  # fmt: skip
    assert "axis 0" in dict(lines(op_class("conv")))["weighted"]
    assert dict(lines(op_class("log")))["monotone"] == "increasing on [0, inf]"
    assert list(lines(op_class("tan"))) == []


def test_activations_are_those_of_fused_layers() -> None:
    from taut.ir.ops.epilogue import activation_op

    for cls in ops_with(Trait.ACTIVATION):
        assert isinstance(activation_op(cls.name, ()), cls)


def test_no_trait_is_for_nobody() -> None:
    assert all(ops_with(t) for t in Trait) and NONE not in Trait
