"""Named pipelines. Each is only text: print it, copy it, mix it with more."""

from __future__ import annotations

from .pipeline import register_preset

register_preset("O0", "infer")
register_preset("O1", "infer,fold,simplify,motion,cse,dce")

LAYERS = (
    "inline-fusions,infer,fold,simplify,motion,cse,recognize,fuse-lookup,extremes-first,simplify,"
    "fuse-conv,motion,fold,cse,dce"
)
"""What the float and the integer pipelines have in common."""

register_preset("O2", f"{LAYERS},fuse-auto")
