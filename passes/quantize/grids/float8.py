"""Floats of 8 bits with a scale: e4m3 (three bits of mantissa), and e5m2 (two, and more range).

P. Micikevicius and others, "FP8 formats for deep learning", 2022. ONNX and its runtimes read them
as quantize_linear and dequantize_linear (opset 19).
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ....ir import Builder, DType, Value
from ....ir.op import Array
from ....ir.ops.quantization import DequantizeLinear, QuantizeLinear
from ..grid import ScaledGrid, register_grid


@register_grid
class Float8(ScaledGrid):
    """f8e4m3fn: numbers up to 448 times a scale, rounded to nearest, ties to even."""

    schemes = ("float8",)
    dtype: ClassVar[DType] = DType.f8e4m3fn  # type: ignore[misc]

    @classmethod
    def table(cls) -> Array:
        return np.arange(256, dtype=np.uint8).view(cls.dtype.numpy).astype(np.float32)

    @classmethod
    def codes_of(cls, x: Array) -> Array:
        largest = np.float32(cls.largest())
        return np.clip(x, -largest, largest).astype(np.float32).astype(cls.dtype.numpy)

    def decode(self, codes: Array) -> Array:
        return codes.astype(np.float32) * self.steps(codes.ndim)

    def read(self, b: Builder, codes: Value, name: str) -> Value:
        return self._read(b, codes, b.constant(self.scale, f"{name}.scale"), name)

    def round(self, b: Builder, x: Value, name: str, on_grid: bool = False) -> Value:
        scale = b.constant(self.scale, f"{name}.scale")
        op = QuantizeLinear(axis=self.axis or 0, output_dtype=self.dtype)
        codes = b.add_op(op, x, scale, name=f"{name}.quantized")
        return self._read(b, codes, scale, name)

    def _read(self, b: Builder, codes: Value, scale: Value, name: str) -> Value:
        op = DequantizeLinear(axis=self.axis or 0)
        return b.add_op(op, codes, scale, name=f"{name}.dequantized")


@register_grid
class Float8E5M2(Float8):
    """f8e5m2: numbers up to 57344 times a scale."""

    schemes = ("float8-e5m2",)
    dtype: ClassVar[DType] = DType.f8e5m2  # type: ignore[misc]
