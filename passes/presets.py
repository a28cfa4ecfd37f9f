"""Named pipelines. Each is only text: print it, copy it, mix it with more."""

from __future__ import annotations

from .pipeline import register_preset

register_preset("O0", "infer")
register_preset("O1", "infer,fold,simplify,motion,cse,dce")
register_preset(
    "O2",
    "infer,fold,simplify,motion,cse,recognize,simplify,fuse-attention,fuse-conv,motion,fuse-linear,"
    "fuse-matmul,merge-matmuls{convolutions=false},fold,cse,dce",
)
# Products stay as they are written: what static quantization puts its pairs around.
register_preset(
    "O2-plain",
    "infer,fold,simplify,motion,cse,recognize,simplify,fuse-conv,motion,fold,cse,dce",
)
