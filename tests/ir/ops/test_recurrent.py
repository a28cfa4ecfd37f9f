"""Recurrent ops on drawn attributes and shapes, beside onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_peers
from hypothesis import given, settings
from hypothesis import strategies as st
from op_samples import Sample
from taut.ir import op_class
from taut.ir.ops.recurrent import FUNCTIONS

GATES = {"rnn": 1, "gru": 3, "lstm": 4}
EACH = {"rnn": 1, "gru": 2, "lstm": 3}
# Its defaults for these differ from ONNX's; what is unbounded would grow past any tolerance.
OMITTED = {"Affine", "ScaledTanh", "ThresholdedRelu", "Relu", "LeakyRelu", "Elu", "Softplus"}


@st.composite
def layers(draw: st.DrawFn) -> Sample:
    """A layer with any of its options and operands."""
    name = draw(st.sampled_from(sorted(GATES)))
    ways = draw(st.sampled_from([1, 2]))
    direction = "bidirectional" if ways == 2 else draw(st.sampled_from(["forward", "reverse"]))
    time, batch, size, hidden = (draw(st.integers(1, n)) for n in (5, 4, 5, 9))
    random = np.random.default_rng(draw(st.integers(0, 99)))
    rows = GATES[name] * hidden

    def f(*shape: int) -> Any:
        return (random.standard_normal(shape) * 0.7).astype(np.float32)

    def maybe(made: Any) -> Any:
        return made if draw(st.booleans()) else None

    lengths = random.integers(0, time + 1, batch).astype(np.int32)
    operands = [f(time, batch, size), f(ways, rows, size), f(ways, rows, hidden)]
    operands += [maybe(f(ways, 2 * rows)), maybe(lengths), maybe(f(ways, batch, hidden))]
    given: dict[str, Any] = {"hidden_size": hidden, "direction": direction, "outputs": 2}
    if name == "lstm":
        operands += [maybe(f(ways, batch, hidden)), maybe(f(ways, 3 * hidden))]
        given |= {"outputs": 3, "input_forget": draw(st.booleans())}
    if name == "gru":
        given["linear_before_reset"] = draw(st.booleans())
    if draw(st.booleans()):
        given["clip"] = draw(st.sampled_from([0.3, 1.0]))
    if draw(st.booleans()):
        some = st.sampled_from(sorted(set(FUNCTIONS) - OMITTED))
        count = ways * EACH[name]
        given["activations"] = tuple(draw(st.lists(some, min_size=count, max_size=count)))
    while operands[-1] is None:
        operands.pop()
    return Sample(op_class(name)(**given), tuple(operands))


@settings(max_examples=150, deadline=None)
@given(layers())
def test_layers_are_those_of_onnxruntime(sample: Sample) -> None:
    made = sample.op.reference(*sample.operands)
    for ours, theirs in zip(made, onnx_peers.run(sample, len(made))):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_half_precision_is_computed_in_single() -> None:
    random = np.random.default_rng(0)
    x, w, r = (random.standard_normal(s).astype(np.float16) for s in
               ((9, 2, 5), (1, 24, 5), (1, 24, 6)))  # fmt: skip
    op = op_class("lstm")()
    wide = op.reference(x.astype(np.float32), w.astype(np.float32), r.astype(np.float32))
    got = op.reference(x, w, r)
    assert got.dtype == np.float16
    np.testing.assert_array_equal(got, wide.astype(np.float16))
