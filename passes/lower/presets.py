"""The pipelines that end in 8-bit integers."""

from ..pipeline import register_preset
from ..presets import LAYERS, PRODUCTS

# What stays float after static quantization are products whose input is float, and attention: these
# take a scale for each row.
ROWS = "quantize-dynamic,quantize-attention,cse,dce,fuse-auto"
REST = f"fuse-matmul,merge-matmuls{{convolutions=false}},{ROWS}"

register_preset("int8-qdq", f"{LAYERS},quantize")
register_preset(
    "int8", f"{LAYERS},fuse-attention,motion,quantize{{rows=true}},lower-integer,{REST}"
)
register_preset("int8-finish", f"finalize-quantization,lower-integer,{REST}")  # what was trained
register_preset(
    "fixed-point",
    f"{LAYERS},quantize{{scheme=power-of-two}},lower-integer{{multipliers=power-of-two}},cse,dce,"
    "fuse-auto",
)
register_preset("int8-dynamic", f"{LAYERS},{PRODUCTS},{ROWS}")
