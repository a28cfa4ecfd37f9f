"""Named pipelines. Each is only text: print it, copy it, mix it with more."""

from __future__ import annotations

from .pipeline import register_preset

register_preset("O0", "infer")
register_preset("O1", "infer,fold,simplify,motion,cse,dce")
register_preset(
    "O2",
    "infer,fold,simplify,motion,cse,recognize,simplify,fuse-conv,fuse-scaled,motion,fold,cse,dce",
)
