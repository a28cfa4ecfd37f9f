"""Export to ONNX, so that what Taut made smaller also runs where people already deploy."""

from .export import export_onnx

__all__ = ["export_onnx"]
