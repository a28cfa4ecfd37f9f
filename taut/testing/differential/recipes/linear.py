"""Products and attention."""

from __future__ import annotations

import numpy as np

from taut.ir import DType

from ..sketch import Misfit, Ref, Sketch
from .base import FLAG, recipe


def _matrices(d: Sketch) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of two operands of a product: vectors, matrices, stacks that broadcast."""
    m, k, n = d.size(), d.size(), d.size()
    stack = tuple(d.choices.one((2, 1, 3)) for _ in range(d.choices.one((0, 0, 1, 2))))
    a, b = (*d.broadcasts(stack), m, k), (*d.broadcasts(stack), k, n)
    return ((k,) if d.maybe(10) else a), ((k,) if d.maybe(10) else b)


@recipe("MatMul")
def mat_mul(d: Sketch) -> None:
    fits = [r for r in d.results[::-1] if r.rank and r.dtype in d.allowed(0)]
    if fits:
        x = fits[0]
        d.bound["T"] = x.dtype
        d.emit([x, d.operand(1, (x.shape[-1], d.size()), "mild", constant=70)])
        return
    a, b = _matrices(d)
    d.emit([d.operand(0, a, "mild", constant=10), d.operand(1, b, "mild", constant=70)])


@recipe("Gemm")
def gemm(d: Sketch) -> None:
    m, k, n = d.size(), d.size(), d.size()
    given = d.attributes(alpha=(0.5, 1.0, 2.0, 0.0), beta=(0.5, 1.0, 2.0, 0.0), transA=FLAG,
                         transB=FLAG)  # fmt: skip
    a = (k, m) if given.get("transA") else (m, k)
    b = (n, k) if given.get("transB") else (k, n)
    needed = d.opset < 11
    c = d.operand(2, d.broadcasts((m, n)), "mild") if needed or d.maybe(60) else None
    d.emit([d.operand(0, a, "mild", constant=10), d.operand(1, b, "mild", constant=70), c], given)


@recipe("MatMulInteger")
def mat_mul_integer(d: Sketch) -> None:
    a, b = _matrices(d)
    x, y = d.operand(0, a, constant=10), d.operand(1, b, constant=70)
    rows = (a[-2],) if len(a) == 2 and d.maybe(25) else ()
    columns = (b[-1],) if len(b) == 2 and d.maybe(40) else ()
    d.emit([x, y, d.operand(2, rows, constant=70) if d.maybe(60) else None,
            d.operand(3, columns, constant=70) if d.maybe(50) else None])  # fmt: skip


@recipe("QLinearMatMul")
def qlinear_mat_mul(d: Sketch) -> None:
    a, b = _matrices(d)
    if len(a) < 2 or len(b) < 2:
        raise Misfit("vectors")
    kind = d.dtype(1, (DType.f32,)) if d.schema.inputs[1].type_str == "TS" else DType.f32
    columns = (b[-1],) if len(b) == 2 and d.maybe(30) else ()

    def scale(value: float, shape: tuple[int, ...] = ()) -> Ref:
        return d.put(np.full(shape, value, kind.numpy), 90)

    d.emit([
        d.operand(0, a, constant=5), scale(0.1), d.operand(2, (), constant=90),
        d.operand(3, b, constant=80), scale(0.02, columns), d.operand(5, columns, constant=90),
        scale(d.choices.one((0.5, 0.1, 3.0))), d.operand(7, (), constant=90),
    ])  # fmt: skip


@recipe("Einsum")
def einsum(d: Sketch) -> None:
    equation = d.choices.one((
        "ij,jk->ik", "ij->ji", "ij->", "ii->i", "bij,bjk->bik", "i,j->ij", "...ij,...jk->...ik",
        "ij,ij->ij", "ij,jk", "bij,bj->bi", "...i->...", "ijk->kij", "ij,kj->ik", "abc,cd,de->abe",
    ))  # fmt: skip
    sizes: dict[str, int] = {}
    operands = []
    for term in equation.split("->")[0].split(","):
        letters = term.replace("...", "")
        front = (2,) if "..." in term else ()
        shape = tuple(sizes.setdefault(c, d.size()) for c in letters)
        operands.append(d.operand(0, (*front, *shape), "mild"))
    d.emit(operands, {"equation": equation})


@recipe("Det")
def det(d: Sketch) -> None:
    n = d.choices.one((2, 1, 3, 4))
    d.emit([d.operand(0, (*d.shape((0, 1, 2)), n, n), "tame")])


@recipe("DFT")
def dft(d: Sketch) -> None:
    n, parts = d.choices.one((4, 3, 5, 8, 1)), d.choices.one((1, 2))
    x = d.operand(0, (2, n, d.choices.one((3, 1)), parts) if d.maybe(50) else (2, n, parts), "tame")
    length = d.ints([d.choices.one((4, 3, 6))], constant=100) if d.maybe(30) else None
    given = d.attributes(inverse=FLAG, onesided=FLAG)
    axis = None
    if d.has("axis"):
        given |= d.attributes(axis=(1, -2))
    elif d.maybe(60):
        axis = d.put(np.array(d.choices.one((1, -2))), 100)
    if length is not None:
        length.array, length.shape = np.asarray(length.array).reshape(()), ()
    d.emit([x, length, axis], given)


@recipe("Attention")
def attention(d: Sketch) -> None:
    b, group, kv = d.choices.one((1, 2)), d.choices.one((1, 2)), d.choices.one((1, 2))
    heads, wide, out = group * kv, d.choices.one((4, 2, 8, 1)), d.choices.one((4, 3, 8))
    q_len, k_len, past = d.choices.one((3, 1, 5)), d.choices.one((4, 1, 6)), 0
    given = d.attributes(is_causal=FLAG, scale=(0.3, 1.0), softcap=(0.0, 2.0))
    flat = d.maybe(40)
    if flat:
        given |= {"q_num_heads": heads, "kv_num_heads": kv}
        shapes = [(b, q_len, heads * wide), (b, k_len, kv * wide), (b, k_len, kv * out)]
    else:
        shapes = [(b, heads, q_len, wide), (b, kv, k_len, wide), (b, kv, k_len, out)]
    operands: list[Ref | None] = [d.operand(i, s, "tame", constant=5) for i, s in enumerate(shapes)]
    results = 1
    before: list[Ref | None] = [None, None]
    if d.maybe(30):
        past = d.choices.one((2, 1, 4))
        before = [d.operand(4, (b, kv, past, wide), "tame"),
                  d.operand(5, (b, kv, past, out), "tame")]  # fmt: skip
        results = 3
    mask = None
    if d.maybe(45):
        kind = d.dtype(3, (DType.bool, DType.f32))
        front = d.choices.one(((), (b, heads), (1, 1), (heads,), (b, 1)))
        mask = d.given(kind, (*front, q_len, past + k_len), "tame")
    lengths = None
    if d.opset >= 24 and not past and not flat and d.maybe(25):
        lengths = d.ints([d.choices.between(1, k_len) for _ in range(b)])
    if d.maybe(25):
        results = 4
        given |= d.attributes(qk_matmul_output_mode=(0, 1, 2, 3))
    if d.has("left_window_size") and d.maybe(30):
        given |= d.attributes(left_window_size=(1, 0, 2, -1), right_window_size=(1, 0, -1))
    if d.maybe(15):
        given["softmax_precision"] = d.choices.one((DType.f32, DType.f64))
    d.emit([*operands, mask, *before, lengths], given, results)


@recipe("RotaryEmbedding")
def rotary(d: Sketch) -> None:
    b, heads, length, wide = d.choices.one((1, 2)), d.choices.one((1, 2)), d.choices.one((3, 1)), 8
    given = d.attributes(interleaved=FLAG, rotary_embedding_dim=(4, 0, 8))
    turned = given.get("rotary_embedding_dim") or wide
    flat = d.maybe(40)
    shape = (b, length, heads * wide) if flat else (b, heads, length, wide)
    if flat:
        given["num_heads"] = heads
    x = d.operand(0, shape, "tame", constant=5)
    if d.maybe(50):
        rows = d.choices.one((5, 9))
        generator = np.random.default_rng(d.choices.below(99))
        places = d.put(generator.integers(0, rows, (b, length)), 20)
        caches = [d.operand(i, (rows, turned // 2), "tame") for i in (1, 2)]
        d.emit([x, *caches, places], given)
    else:
        caches = [d.operand(i, (b, length, turned // 2), "tame") for i in (1, 2)]
        d.emit([x, *caches], given)
