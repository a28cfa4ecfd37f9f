"""The pipelines that end in 8-bit integers."""

from ..pipeline import register_preset

register_preset("int8-qdq", "O2,quantize")
register_preset(
    "int8",
    "O2,fuse-attention,motion,quantize{rows=true},lower-integer,"
    "fuse-matmul,merge-matmuls,quantize-dynamic,cse,dce",
)
register_preset(
    "fixed-point",
    "O2,quantize{scheme=power-of-two},lower-integer{multipliers=power-of-two},cse,dce",
)
register_preset(
    "int8-dynamic",
    "O2,fuse-attention,motion,fuse-matmul,merge-matmuls,quantize-dynamic,cse,dce",
)
