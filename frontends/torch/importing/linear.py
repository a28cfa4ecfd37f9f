"""Matrix products and attention."""

from __future__ import annotations

from ....ir import UnsupportedError, Value
from ..call import Call, aten, rank


@aten("linear")
def linear(c: Call, x: Value, weight: Value, bias: Value | None) -> Value:
    """x @ weight^T + bias; matrices are one gemm."""
    if rank(x) == 2 and rank(weight) == 2:
        return c.b.gemm(x, weight, bias, transB=True)
    turned = c.b.transpose(weight, perm=(1, 0)) if rank(weight) == 2 else weight
    product = c.b.mat_mul(x, turned)
    return product if bias is None else c.b.add(product, bias)


@aten("mm", "bmm", "matmul")
def matmul(c: Call, a: Value, b: Value) -> Value:
    return c.b.mat_mul(a, b)


@aten("addmm")
def addmm(c: Call, added: Value, a: Value, b: Value, beta: float, alpha: float) -> Value:
    return c.b.gemm(a, b, added, alpha=float(alpha), beta=float(beta))


@aten("baddbmm")
def baddbmm(c: Call, added: Value, a: Value, b: Value, beta: float, alpha: float) -> Value:
    product = c.b.mat_mul(a, b)
    if alpha != 1:
        product = c.b.mul(product, c.tensor(alpha))
    if beta != 1:
        added = c.b.mul(added, c.tensor(beta))
    return c.b.add(product, added)


@aten("einsum")
def einsum(c: Call, equation: str, operands: list[Value], path: object) -> Value:
    return c.b.einsum(*operands, equation=equation)


@aten("scaled_dot_product_attention")
def attention(c: Call, q: Value, k: Value, v: Value, mask: Value | None, dropout: float,
              causal: bool, scale: float | None, grouped: bool) -> Value:  # fmt: skip
    """Operands (batch, heads, length, size); without heads there is one."""
    c.no(dropout, "dropout of attention weights")
    if rank(q) not in (3, 4) or {rank(k), rank(v)} != {rank(q)}:
        raise UnsupportedError(f"q, k and v of ranks {rank(q)}, {rank(k)}, {rank(v)}")
    scale = None if scale is None else float(scale)
    if rank(q) == 4:
        return c.b.attention(q, k, v, mask, is_causal=causal, scale=scale)
    one = c.ints([1])
    q, k, v = (c.b.unsqueeze(x, one) for x in (q, k, v))
    if mask is not None and rank(mask) == 3:
        mask = c.b.unsqueeze(mask, one)
    return c.b.squeeze(c.b.attention(q, k, v, mask, is_causal=causal, scale=scale), one)
