"""Named pipelines. Each is only text: print it, copy it, mix it with more."""

from __future__ import annotations

from .pipeline import register_preset

register_preset("O0", "infer")
register_preset("O1", "infer,fold,simplify,motion,cse,dce")

LAYERS = (
    "inline-fusions,infer,fold,simplify,motion,cse,recognize,fuse-lookup,extremes-first,simplify,"
    "fuse-conv,fuse-scaled,motion,fold,cse,dce"
)
"""What the float and the integer pipelines have in common."""

PRODUCTS = (
    "fuse-attention,motion,lower-integer,fuse-linear,fuse-matmul,merge-matmuls{convolutions=false},"
    "fold,cse,dce"
)
"""Matrix products with what stands around them. Quantization puts its pairs around plain products,
so what a file holds in integers is lowered before."""

register_preset("O2", f"{LAYERS},{PRODUCTS},fuse-auto")
