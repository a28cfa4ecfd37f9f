"""What the ONNX standard says of element types and operators, from its own schemas.

For what reads and writes ONNX; nothing else in `ir` imports this, nor the onnx package.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto

from .errors import ModelError, UnsupportedError
from .types import DType

P = TensorProto

DTYPES: dict[int, DType] = {
    P.FLOAT: DType.f32, P.DOUBLE: DType.f64, P.FLOAT16: DType.f16, P.BFLOAT16: DType.bf16,
    P.INT64: DType.i64, P.INT32: DType.i32, P.INT16: DType.i16, P.INT8: DType.i8,
    P.UINT64: DType.u64, P.UINT32: DType.u32, P.UINT16: DType.u16, P.UINT8: DType.u8,
    P.INT4: DType.i4, P.UINT4: DType.u4, P.BOOL: DType.bool,
    P.FLOAT8E4M3FN: DType.f8e4m3fn, P.FLOAT8E5M2: DType.f8e5m2,
    P.FLOAT8E4M3FNUZ: DType.f8e4m3fnuz, P.FLOAT8E5M2FNUZ: DType.f8e5m2fnuz,
    P.FLOAT4E2M1: DType.f4e2m1fn,
    # The oldest onnx package that serves lacks these.
    **{getattr(P, name): dtype for name, dtype in (
        ("INT2", DType.i2), ("UINT2", DType.u2), ("FLOAT8E8M0", DType.f8e8m0fnu),
    ) if hasattr(P, name)},
}  # fmt: skip
ONNX_TYPES = {d: code for code, d in DTYPES.items()}


def dtype_of(code: int) -> DType:
    """The DType of an ONNX element type. Raises UnsupportedError; ModelError for none at all."""
    found = DTYPES.get(code)
    if found is not None:
        return found
    if code in P.DataType.values() and code != P.UNDEFINED:
        raise UnsupportedError(f"element type {P.DataType.Name(code)} is not supported")
    raise ModelError(f"element type {code} does not exist")


@functools.lru_cache(maxsize=4096)
def schema(op: str, version: int, domain: str = "") -> Any:
    """ONNX's schema of an op at an opset version, or None if it had no such op."""
    try:
        return onnx.defs.get_schema(op, version, domain)
    except onnx.defs.SchemaError:
        return None


def takes(place: Any, dtype: DType, found: Any) -> bool:
    """Whether an operand or a result of a schema (`found.inputs[i]`) may have this element type."""
    kind = f"tensor({P.DataType.Name(ONNX_TYPES[dtype]).lower()})"
    allowed = [c.allowed_type_strs for c in found.type_constraints
               if c.type_param_str == place.type_str]  # fmt: skip
    return any(kind in a for a in allowed) if allowed else place.type_str == kind


@functools.lru_cache(maxsize=4096)
def schema_defaults(op: str, version: int, domain: str = "") -> Mapping[str, Any]:
    """Attributes an op had at a version: the default of each, or None if it has none."""
    found = schema(op, version, domain)
    attributes = {} if found is None else found.attributes
    return {name: _default(spec.default_value) for name, spec in attributes.items()}


def _default(proto: AttributeProto) -> Any:
    if not proto.name:
        return None
    value = onnx.helper.get_attribute_value(proto)
    if isinstance(value, TensorProto):
        return onnx.numpy_helper.to_array(value)
    if isinstance(value, float):
        return shortest(value)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, list):
        return tuple(v.decode() if isinstance(v, bytes) else v for v in value)
    return value


def shortest(value: float) -> float:
    """The shortest decimal that is this float32: 0.1, where a file can only hold 0.100000001."""
    return float(str(np.float32(value)))


def attribute_proto(name: str, value: Any) -> AttributeProto:
    """An attribute as ONNX writes it, from its Python value."""
    if isinstance(value, DType):
        value = ONNX_TYPES[value]
    if isinstance(value, bool):
        value = int(value)
    if isinstance(value, np.ndarray):
        value = onnx.numpy_helper.from_array(np.ascontiguousarray(value))
    if isinstance(value, tuple):
        value = list(value)
    return onnx.helper.make_attribute(name, value)
