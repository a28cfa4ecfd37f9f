"""Source of what a nest computes: ops by their templates, and numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ...ir import DType
from ...ir.analysis.index import NotNest
from ...ir.analysis.nest import Apply, Count, Expr, Number
from .templates import TEMPLATES


def formula(e: Expr, names: Sequence[str]) -> str:
    """The source of an element-wise op, or of the number of points."""
    kind = e.dtype.value
    if isinstance(e, Count):
        return f"{kind}(count)"
    if isinstance(e, Number):
        return literal(e)
    assert isinstance(e, Apply)
    text = template_of(e)
    if text is None:
        raise NotNest(f"{e.op.name} of {kind} has no formula")
    return text.format(*names)


def template_of(e: Apply) -> str | None:
    """The op's formula over {0}, {1}, ...; None where there is none for these types."""
    kinds, out = [a.dtype for a in e.args], e.dtype
    if out.is_float and DType.u64 in kinds:
        return None
    own = QUANTIZATION.get(e.op.name)
    if own is not None:
        return own(e.op, kinds, out)
    make = TEMPLATES.get(e.op.name)
    made = None if make is None else make(e.op, kinds, out)
    if made is None:
        return None
    text, scalars = made
    fixed = [_number(value, dtype) for value, dtype in scalars]
    return text.format(*(f"{{{i}}}" for i in range(len(kinds))), *fixed)


def _quantize(op: Any, kinds: list[DType], out: DType) -> str | None:
    if kinds[:2] != [DType.f32] * 2 or out not in (DType.u8, DType.i8, DType.i16, DType.u16):
        return None
    zero = "i32({2})" if len(kinds) > 2 else "i32(0)"
    low, high = out.bounds
    return f"{out.value}(quantize32({{0}}, {{1}}, {zero}, i32({low}), i32({high})))"


def _dequantize(op: Any, kinds: list[DType], out: DType) -> str | None:
    if kinds[1] is not DType.f32 or out is not DType.f32:
        return None
    wide = "i64" if kinds[0] is DType.i32 else "i32"
    minus = f" - {wide}({{2}})" if len(kinds) > 2 else ""
    return f"f32({wide}({wide}({{0}}){minus})) * {{1}}"


QUANTIZATION = {"quantize_linear": _quantize, "dequantize_linear": _dequantize}


def literal(e: Expr) -> str:
    assert isinstance(e, Number)
    return _number(e.value, e.dtype)


def _number(value: float, dtype: DType) -> str:
    if not dtype.is_float:
        return f"{dtype.value}({int(value)})"
    if math.isfinite(value):
        return f"{dtype.value}({float(value)!r})"
    text = "np.nan" if math.isnan(value) else "-np.inf" if value < 0 else "np.inf"
    return f"{dtype.value}({text})"
