"""MiniLM as exporters write BERT: sizes fixed, attention by its steps, the mask added.

Runtimes know attention by this form.
"""

from __future__ import annotations

import numpy as np
import onnx
from taut.backends.onnx import export_onnx
from taut.frontends.transformers import load_bert
from taut.ir import Builder, DType

import taut
from taut import samples


def source(batch: int, sequence: int) -> onnx.ModelProto:
    """The encoder and its sentence embedding over batch x sequence tokens."""
    graph = load_bert(samples.fetch("minilm-config"), samples.fetch("minilm"))
    b = Builder(graph, before=graph["encoder.layer.0.attention"])
    wide = b.unsqueeze(b.unsqueeze(graph["attention_mask"], np.array([1])), np.array([2]))
    absent = b.sub(np.float32(1), b.cast(wide, to=DType.f32))
    added = b.mul(absent, np.finfo(np.float32).min)
    graph.replace_all_uses(graph["mask"], added, retype=True)
    bound = taut.optimize(graph, f"bind{{batch={batch} sequence={sequence}}},fold,dce")
    return export_onnx(bound, opset=20)
