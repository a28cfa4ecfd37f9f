"""Strategies for types, arrays (awkward values included) and a graph's inputs."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from hypothesis import strategies as st

from taut.ir import DType, Graph, TensorType
from taut.ir.op import Array
from taut.ir.ops.common import cast

AWKWARD = ("nan", "inf", "denormal", "negative_zero", "extreme")
"""Kinds of values that break what holds for ordinary numbers."""

FLOATS = (DType.f32, DType.f64, DType.f16, DType.bf16)
INTEGERS = (DType.i32, DType.i64, DType.i8, DType.u8, DType.i16, DType.u16, DType.u32, DType.u64)
SMALL = tuple(d for d in DType if d.is_minifloat or (d.is_integer and d.bits < 8))
DTYPES = (*FLOATS[:1], *INTEGERS[:4], DType.bool, *FLOATS[1:], *INTEGERS[4:], *SMALL)


def shapes(
    min_rank: int = 0, max_rank: int = 4, max_dim: int = 6, min_dim: int = 1
) -> st.SearchStrategy[tuple[int, ...]]:
    """Static shapes; shrink to few and small dimensions."""
    dim = st.integers(min_dim, max_dim)
    return st.lists(dim, min_size=min_rank, max_size=max_rank).map(tuple)


@st.composite
def tensor_types(
    draw: st.DrawFn,
    dtypes: Iterable[DType] = DTYPES,
    symbols: Iterable[str] = ("batch", "n", "m"),
    max_rank: int = 4,
) -> TensorType:
    """Tensor types with numbers, symbols and (rarely) unknown dimensions."""
    dtype = draw(st.sampled_from(list(dtypes)))
    choices = [st.integers(0, 6), st.sampled_from(list(symbols)), st.none()]
    shape = draw(st.lists(st.one_of(*choices), max_size=max_rank))
    return TensorType(dtype, tuple(shape))


@st.composite
def arrays(
    draw: st.DrawFn,
    type: TensorType,
    awkward: Iterable[str] = (),
    scale: float = 1.0,
    low: int | None = None,
    high: int | None = None,
) -> Array:
    """A dense array of a static type: -1, 0, 1, ... at its simplest, else normal or uniform.

    `awkward` names kinds out of AWKWARD of which up to three elements are put in. `low` and
    `high` bound integers. A few drawn numbers make the whole array, so that it shrinks fast.
    """
    seed = draw(st.integers(0, 1 << 16))
    kinds = tuple(awkward) if type.dtype.is_float else ()
    array = _plain(type, seed, scale, low, high, bool(tuple(awkward)))
    if kinds and array.size:
        places = st.tuples(st.integers(0, array.size - 1), st.sampled_from(_in_order(kinds)))
        _put(array, draw(st.lists(places, max_size=3)), type.dtype)
    return array


def filled(
    type: TensorType, random: np.random.Generator, awkward: Iterable[str] = (),
    low: int | None = None, high: int | None = None,
) -> Array:  # fmt: skip
    """An array as `arrays` draws it, by NumPy's generator."""
    kinds = _in_order(awkward) if type.dtype.is_float else []
    seed = 0 if random.random() < 0.1 else int(random.integers(1, 1 << 16))
    array = _plain(type, seed, 1.0, low, high, bool(tuple(awkward)) and random.random() < 0.5)
    if kinds and array.size and random.random() < 0.5:
        count = int(random.integers(1, 4))
        places = [(int(random.integers(array.size)), kinds[int(random.integers(len(kinds)))])
                  for _ in range(count)]  # fmt: skip
        _put(array, places, type.dtype)
    return array


def _in_order(awkward: Iterable[str]) -> list[str]:
    return [k for k in AWKWARD if k in tuple(awkward)]


def _put(array: Array, places: Iterable[tuple[int, str]], dtype: DType) -> None:
    flat = array.reshape(-1)
    for place, kind in places:
        flat[place] = _awkward(kind, dtype)


def _plain(
    type: TensorType, seed: int, scale: float, low: int | None, high: int | None, extremes: bool
) -> Array:
    """The array that a seed stands for; that of 0 is -1, 0, 1, ..."""
    shape, dtype = type.static_shape, type.dtype
    random = np.random.default_rng(seed)
    if dtype is DType.bool:
        plain = np.arange(type.size).reshape(shape) % 2 == 0
        return plain if seed == 0 else random.random(shape) < 0.5
    if dtype.is_integer:
        return _integers(type, seed, random, low, high, extremes)
    ramp = (np.arange(type.size, dtype=np.float64).reshape(shape) % 3 - 1) * scale
    values = ramp if seed == 0 else random.standard_normal(shape) * scale
    return np.asarray(cast(np.exp2(values) if dtype is DType.f8e8m0fnu else values, dtype))


def _integers(
    type: TensorType, seed: int, random: np.random.Generator, low: int | None, high: int | None,
    extremes: bool,
) -> Array:  # fmt: skip
    dtype = type.dtype
    least, most = dtype.bounds
    ends = [least if low is None else low, most if high is None else high]
    # Wide types: small numbers, so that sums and products of a few do not wrap by chance.
    least = low if low is not None else max(least, -100) if dtype.bits > 8 else least
    most = high if high is not None else min(most, 100) if dtype.bits > 8 else most
    if seed == 0:
        start = min(max(-1, least), most)
        made = (start + np.arange(type.size) % min(3, most - start + 1)).astype(dtype.numpy)
    else:
        made = random.integers(least, most, type.size, endpoint=True).astype(dtype.numpy)
        if extremes and type.size > 1:  # one number alone may be how often a loop runs
            made[random.integers(type.size)] = ends[random.integers(2)]
    return made.reshape(type.static_shape)


def _awkward(kind: str, dtype: DType) -> float:
    import ml_dtypes

    limits = ml_dtypes.finfo(dtype.numpy)
    return {
        "nan": float("nan"),
        "inf": float("inf"),
        "denormal": float(limits.smallest_subnormal),
        "negative_zero": -0.0,
        "extreme": -float(limits.max),
    }[kind]


@st.composite
def feeds(
    draw: st.DrawFn, graph: Graph, awkward: Iterable[str] = (), max_dim: int = 4
) -> dict[str, Array]:
    """Inputs for a graph: each symbol bound to one size, each unknown dimension to its own."""
    sizes: dict[str, int] = {}
    found: dict[str, Array] = {}
    for node in graph.inputs:
        shape = []
        for dim in node.type.shape or ():
            if isinstance(dim, int):
                shape.append(dim)
            elif dim is None:
                shape.append(draw(st.integers(1, max_dim)))
            else:
                if dim not in sizes:
                    sizes[dim] = draw(st.integers(1, max_dim))
                shape.append(sizes[dim])
        found[node.name] = draw(arrays(TensorType(node.type.dtype, tuple(shape)), awkward))
    return found
