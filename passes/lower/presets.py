"""The pipelines that end in 8-bit integers."""

from ..pipeline import register_preset

register_preset("int8-qdq", "O2,quantize")
register_preset("int8", "O2,quantize{rows=true},quantize-dynamic,lower-integer,cse,dce")
register_preset(
    "fixed-point",
    "O2,quantize{scheme=power-of-two},lower-integer{multipliers=power-of-two},cse,dce",
)
register_preset("int8-dynamic", "O2,quantize-dynamic,cse,dce")
