"""Arbitrary well-typed graphs over the whole op registry.

A step draws an op, its operands out of what is already there and its attributes, and adds the node
if the op's own inference takes it; otherwise the step makes nothing. So every op that is declared
takes part without a line here. Ops that a blind draw would seldom satisfy have a recipe.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from taut.ir import Builder, DType, Graph, Op, TautError, TensorType, Value, all_ops
from taut.ir.analysis.cost import node_cost
from taut.ir.ops.convolution import ConvTranspose
from taut.ir.ops.linear import Gemm
from taut.ir.ops.quantization import DequantizeLinear
from taut.ir.ops.shape import Squeeze, Unsqueeze

from .values import arrays

MAX_ELEMENTS = 4096
MAX_MACS = 1 << 20

INPUT_TYPES = (DType.f32, DType.f32, DType.f32, DType.i64, DType.bool, DType.u8, DType.i32)
INPUT_SHAPES = ((2,), (), (2, 3), ("n", 3), (1, 2, 3), (2, 3, 4, 4), ("n", 2, 3, 3), (1, 4, 5))

_SKIP = {"input", "constant", "return"}


def _drawn(cls: type[Op]) -> bool:
    """Ops with bodies have strategies of their own."""
    return cls.name not in _SKIP and all(a.kind != "graph" for a in cls.attributes)


class Pool:
    """Values to draw from, and the builder that makes more."""

    def __init__(self, draw: st.DrawFn, awkward: Iterable[str]) -> None:
        self.draw, self.awkward = draw, tuple(awkward)
        self.b = Builder()
        self.values: list[Value] = []

    def constant(self, dtype: DType, *shape: int, scale: float = 1.0, **bounds: int) -> Value:
        kind = TensorType(dtype, shape)
        made = self.draw(arrays(kind, self.awkward, scale=scale, **bounds))
        return self.b.constant(made, "c")

    def ints(self, *numbers: int) -> Value:
        """A shape-like constant: i64[n]."""
        return self.b.constant(np.array(numbers, np.int64), "c")

    def any(self, wanted: Callable[[Value], bool] = lambda v: True) -> Value | None:
        fits = [v for v in self.values if wanted(v)]
        # The newest first: shrinking towards index 0 makes chains, which are easy to read.
        return self.draw(st.sampled_from(fits[::-1])) if fits else None

    def floats(self, *ranks: int) -> Value | None:
        """A float32 value of one of these ranks (any rank without)."""
        return self.any(lambda v: v.type.dtype is DType.f32
                        and (not ranks or len(_shape(v)) in ranks))  # fmt: skip


def _shape(v: Value) -> tuple[Any, ...]:
    return v.shape or ()


def _numbers(v: Value) -> bool:
    return all(isinstance(d, int) for d in _shape(v))


@st.composite
def dags(
    draw: st.DrawFn,
    awkward: Iterable[str] = (),
    max_steps: int = 12,
    ops: Iterable[str] | None = None,
    min_steps: int = 1,
) -> Graph:
    """Graphs of up to `max_steps` nodes (constants aside) over the registry, or over `ops`."""
    pool = Pool(draw, awkward)
    classes = [c for c in all_ops() if _drawn(c) and (ops is None or c.name in ops)]
    for i in range(draw(st.integers(1, 2))):
        dtype = draw(st.sampled_from(INPUT_TYPES))
        shape = draw(st.sampled_from(INPUT_SHAPES))
        pool.values.append(pool.b.input(f"x{i}", dtype, shape))
    chosen = st.lists(st.sampled_from(classes), min_size=min_steps, max_size=max_steps)
    for cls in draw(chosen):
        _step(pool, cls)
    last = pool.values[-1]
    graph = pool.b.graph
    outputs = {"y": last}
    loose = [v for v in pool.values if not graph.use_count(v) and v != last]
    for i, v in enumerate(loose):
        if draw(st.booleans()):
            outputs[f"z{i}"] = v
    graph.set_outputs(outputs)
    return graph


def _step(pool: Pool, cls: type[Op]) -> None:
    """Add one node, or leave the pool as it was."""
    graph = pool.b.graph
    kept = set(graph.nx)
    made = RECIPES[cls.name](pool, cls) if cls.name in RECIPES else _generic(pool, cls)
    for op, operands in made if isinstance(made, list) else [made] if made else []:
        try:
            node = graph.add(op, *operands, name=cls.name)
        except TautError:
            continue  # this op does not take these operands
        if _small(graph, node):
            pool.values += [node[i] for i in range(len(node.results))]
            break
        graph.erase(node)
    for node in [n for n in graph.nx if n not in kept and not graph.nx.succ[n]]:
        if not any(v.node is node for v in pool.values):
            graph.erase(node)


def _small(graph: Graph, node: Any) -> bool:
    for t in node.types:
        if t.shape is None:
            return False
        sizes = [d if isinstance(d, int) else 4 for d in t.shape]
        if int(np.prod(sizes, dtype=object)) > MAX_ELEMENTS:
            return False
    cost = node_cost(graph, node)
    return cost is None or cost.macs <= MAX_MACS


Made = tuple[Op, list[Any]]


def _generic(pool: Pool, cls: type[Op]) -> list[Made]:
    """For each value that could be the first operand, from a drawn one on: an attempt. The other
    operands are like the first; attributes go by their kind.
    """
    given = attributes(pool.draw, cls)
    try:
        op = cls(**given)
    except TautError:
        return []
    count = sum(not s.variadic for s in cls.operands)
    count += pool.draw(st.integers(1, 3)) if any(s.variadic for s in cls.operands) else 0
    if any(s.optional for s in cls.operands) and pool.draw(st.booleans()):
        count = max(1, sum(not s.optional for s in cls.operands))
    start = pool.draw(st.integers(0, len(pool.values) - 1))
    fill = [(pool.draw(st.booleans()), pool.draw(st.integers(0, 9))) for _ in range(count - 1)]
    rotated = pool.values[::-1][start:] + pool.values[::-1][:start]
    return [(op, [x, *(_like(pool, x, *f) for f in fill)][:count]) for x in rotated]


def _like(pool: Pool, first: Value, constant: bool, index: int) -> Value:
    """A value of the same element type, or a small constant of it."""
    fits = [v for v in pool.values if v.type.dtype is first.type.dtype]
    if not constant:
        return fits[index % len(fits)]
    shape = [d for d in _shape(first)[-1:] if isinstance(d, int)] if index % 2 else []
    plain = np.arange(int(np.prod(shape, dtype=int))).reshape(shape) % 3 + index % 3
    return pool.b.constant(plain.astype(first.type.dtype.numpy), "c")


_ATTRIBUTES: dict[str, st.SearchStrategy[Any]] = {
    "int": st.integers(-2, 3),
    "float": st.sampled_from([0.5, 1.0, 0.1, 2.0]),
    "bool": st.booleans(),
    "str": st.sampled_from(["none", "constant", "linear", "nearest"]),
    "dtype": st.sampled_from(
        [
            DType.f32,
            DType.i64,
            DType.bool,
            DType.u8,
            DType.f16,
            DType.i32,
            DType.f8e4m3fn,
            DType.f8e5m2,
            DType.i4,
        ]
    ),
    "ints": st.lists(st.integers(-1, 3), max_size=4).map(tuple),
    "floats": st.lists(st.sampled_from([0.5, 1.0]), max_size=3).map(tuple),
    "strs": st.just(()),
}


def attributes(draw: st.DrawFn, cls: type[Op]) -> dict[str, Any]:
    """Required attributes, and now and then another value for an optional one."""
    found: dict[str, Any] = {}
    for a in cls.attributes:
        if a.kind not in _ATTRIBUTES:
            continue
        required = a.default is dataclasses.MISSING
        if required or draw(st.integers(0, 4)) == 4:
            found[a.name] = draw(_ATTRIBUTES[a.kind])
    return found


# ---- recipes: ops that a blind draw seldom satisfies ---------------------------------------------


def _conv(pool: Pool, cls: type[Op]) -> Made | None:
    x = pool.floats(3, 4, 5)
    if x is None or not all(isinstance(d, int) for d in _shape(x)[1:]):
        return None
    channels, space = _shape(x)[1], _shape(x)[2:]
    group = pool.draw(st.sampled_from(sorted({1, channels})))
    out = group * pool.draw(st.integers(1, 3))
    kernel = [pool.draw(st.integers(1, min(3, s))) for s in space]
    rows = (channels, out // group) if cls is ConvTranspose else (out, channels // group)
    weight = pool.constant(DType.f32, *rows, *kernel)
    bias = pool.constant(DType.f32, out) if pool.draw(st.booleans()) else None
    pads = tuple(pool.draw(st.integers(0, k - 1)) for k in (*kernel, *kernel))
    strides = tuple(pool.draw(st.integers(1, 2)) for _ in kernel)
    return cls(group=group, pads=pads, strides=strides), [x, weight, bias]  # type: ignore[call-arg]


def _pool(pool: Pool, cls: type[Op]) -> Made | None:
    x = pool.floats(3, 4, 5)
    if x is None or not all(isinstance(d, int) for d in _shape(x)[2:]):
        return None
    kernel = tuple(pool.draw(st.integers(1, min(3, s))) for s in _shape(x)[2:])
    strides = tuple(pool.draw(st.integers(1, 2)) for _ in kernel)
    return cls(kernel_shape=kernel, strides=strides), [x]  # type: ignore[call-arg]


def _norm(count: int) -> Callable[[Pool, type[Op]], Made | None]:
    def recipe(pool: Pool, cls: type[Op]) -> Made | None:
        axis = -1 if cls.name in ("layer_normalization", "rms_normalization") else 1
        x = pool.floats(2, 3, 4)
        if x is None or not isinstance(_shape(x)[axis], int):
            return None
        c = _shape(x)[axis]
        operands: list[Value | None] = [x, *(pool.constant(DType.f32, c) for _ in range(count))]
        if count == 4:
            spread = np.float32(0.5) + np.abs(pool.draw(arrays(TensorType(DType.f32, (c,)))))
            operands[-1] = pool.b.constant(spread, "c")
        return cls(), operands

    return recipe


def _matrices(pool: Pool, cls: type[Op]) -> Made | None:
    x = pool.floats(2) if cls is Gemm else pool.floats(1, 2, 3)
    if x is None or not isinstance(_shape(x)[-1], int):
        return None
    out = pool.draw(st.integers(1, 4))
    operands: list[Value | None] = [x, pool.constant(DType.f32, _shape(x)[-1], out)]
    if cls is Gemm and pool.draw(st.booleans()):
        operands.append(pool.constant(DType.f32, out))
    return cls(), operands


def _clip(pool: Pool, cls: type[Op]) -> Made | None:
    x = pool.any(lambda v: v.type.dtype is not DType.bool)
    if x is None:
        return None
    dtype = x.type.dtype
    return cls(), [x, pool.constant(dtype), pool.constant(dtype)]


def _reshape(pool: Pool, cls: type[Op]) -> Made | None:
    x = pool.any(_numbers)
    if x is None:
        return None
    size = int(np.prod(_shape(x), dtype=np.int64))
    factors = [f for f in (2, 3, 4) if size and size % f == 0]
    return cls(), [x, pool.draw(st.sampled_from(
        [pool.ints(-1) if size else pool.ints(0), *(pool.ints(f, size // f) for f in factors)]
    ))]  # fmt: skip


def _transpose(pool: Pool, cls: type[Op]) -> Made | None:
    x = pool.any()
    assert x is not None
    perm = pool.draw(st.permutations(range(len(_shape(x)))))
    return cls(perm=tuple(perm)), [x]  # type: ignore[call-arg]


def _concat(pool: Pool, cls: type[Op]) -> Made | None:
    x = pool.any(lambda v: bool(_shape(v)))
    if x is None:
        return None
    axis = pool.draw(st.integers(0, len(_shape(x)) - 1))
    other = pool.any(lambda v: v.type == x.type)
    return cls(axis=axis), [x, other]  # type: ignore[call-arg]


def _axes(pool: Pool, cls: type[Op]) -> Made | None:
    """Ops whose second operand lists axes: reductions, squeeze, unsqueeze."""
    x = pool.any()
    assert x is not None
    rank = len(_shape(x)) + (cls is Unsqueeze)
    places = range(rank)
    if cls is Squeeze:
        places = [i for i, d in enumerate(_shape(x)) if d == 1]
    if not len(places):
        return None
    axes = pool.draw(st.lists(st.sampled_from(list(places)), min_size=1, unique=True))
    kept = {k: v for k, v in attributes(pool.draw, cls).items() if k == "keepdims"}
    return cls(**kept), [x, pool.ints(*axes)]


def _slice(pool: Pool, cls: type[Op]) -> Made | None:
    x = pool.any(lambda v: bool(_shape(v)))
    if x is None:
        return None
    axis = pool.draw(st.integers(0, len(_shape(x)) - 1))
    start, stop = pool.draw(st.integers(-2, 2)), pool.draw(st.integers(-1, 4))
    step = pool.draw(st.sampled_from([1, 2, -1]))
    return cls(), [x, pool.ints(start), pool.ints(stop), pool.ints(axis), pool.ints(step)]


def _pad(pool: Pool, cls: type[Op]) -> Made | None:
    x = pool.any(lambda v: v.type.dtype is not DType.bool)
    if x is None:
        return None
    pads = [pool.draw(st.integers(0, 2)) for _ in range(2 * len(_shape(x)))]
    return cls(), [x, pool.ints(*pads)]


def _gather(pool: Pool, cls: type[Op]) -> Made | None:
    x = pool.any(lambda v: bool(_shape(v)) and isinstance(_shape(v)[0], int) and _shape(v)[0] > 0)
    if x is None:
        return None
    index = pool.draw(st.integers(0, _shape(x)[0] - 1))
    return cls(axis=0), [x, pool.ints(index)]  # type: ignore[call-arg]


def _expand(pool: Pool, cls: type[Op]) -> Made | None:
    x = pool.any(_numbers)
    return None if x is None else (cls(), [x, pool.ints(2, *_shape(x))])


def _quantize(pool: Pool, cls: type[Op]) -> Made | None:
    dequantize = cls is DequantizeLinear
    stored = (DType.u8, DType.i8, DType.f8e4m3fn)
    wanted = stored if dequantize else (DType.f32,)
    x = pool.any(lambda v: v.type.dtype in wanted)
    if x is None:
        return None
    kind = x.type.dtype if dequantize else pool.draw(st.sampled_from(stored))
    scale = pool.b.constant(np.float32(pool.draw(st.sampled_from([0.1, 1.0, 0.03]))), "scale")
    return cls(), [x, scale, pool.constant(kind)]


RECIPES: dict[str, Callable[[Pool, type[Op]], Made | None]] = {
    **dict.fromkeys(("conv", "conv_transpose"), _conv),
    **dict.fromkeys(("max_pool", "average_pool", "lp_pool"), _pool),
    **dict.fromkeys(("mat_mul", "gemm"), _matrices),
    **dict.fromkeys(("squeeze", "unsqueeze", "reduce_sum", "reduce_mean", "reduce_max",
                     "reduce_min", "reduce_prod", "reduce_l1", "reduce_l2"), _axes),
    **dict.fromkeys(("quantize_linear", "dequantize_linear"), _quantize),
    "batch_normalization": _norm(4),
    "layer_normalization": _norm(2),
    "instance_normalization": _norm(2),
    "clip": _clip,
    "reshape": _reshape,
    "transpose": _transpose,
    "concat": _concat,
    "slice": _slice,
    "pad": _pad,
    "gather": _gather,
    "expand": _expand,
}  # fmt: skip
