"""Lowering: from quantize/dequantize pairs to plain integers."""

from . import passes as passes
from . import presets as presets
