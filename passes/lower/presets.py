"""The pipelines that end in 8-bit integers."""

from ..pipeline import register_preset
from ..presets import LAYERS

register_preset("int8-qdq", f"{LAYERS},quantize")
register_preset("int8", "int8-qdq,lower-integer,cse,dce,fuse-auto")
register_preset(
    "fixed-point",
    f"{LAYERS},quantize{{scheme=power-of-two}},lower-integer{{multipliers=power-of-two}},cse,dce,"
    "fuse-auto",
)
register_preset("int8-dynamic", f"{LAYERS},quantize-dynamic,cse,dce,fuse-auto")
