"""Faults that Taut once had, put back into the functions that were mended."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import pytest
from taut.backends.cpu.codegen import jit
from taut.backends.cpu.kernels import pool
from taut.backends.cpu.lower import conv as lower_conv
from taut.backends.cpu.lower import transposed as lower_transposed
from taut.backends.schedule.layout import Tensor
from taut.ir import graph
from taut.ir.ops import bits, convolution, normalization, resize


@dataclass(frozen=True)
class Fault:
    """`changes` are (new text, old text) within the source of `function`; `stages` are the ones
    that can see it. Most seeds find it in the default budget; `seed` takes few draws."""

    name: str
    op: str
    function: Any
    changes: Sequence[tuple[str, str]]
    stages: tuple[str, ...]
    seed: int = 0

    @property
    def slug(self) -> str:
        return self.name.replace(" ", "-")


def put_back(monkeypatch: pytest.MonkeyPatch, fault: Fault) -> None:
    """Give a function the code that it had, and keep what is compiled now apart from the cache."""
    function: FunctionType = inspect.unwrap(fault.function)
    lines = textwrap.dedent(inspect.getsource(function)).splitlines(keepends=True)
    while not lines[0].startswith("def "):
        del lines[0]  # decorators have done their work
    source = "".join(lines)
    for new, old in fault.changes:
        assert source.count(new) == 1, f"{new!r} is in {function.__qualname__} no more"
        source = source.replace(new, old)
    scope: dict[str, Any] = {}
    exec(compile("from __future__ import annotations\n" + source, "<put back>", "exec"),
         function.__globals__ | {}, scope)  # fmt: skip
    made = scope[function.__name__]
    monkeypatch.setattr(function, "__code__", made.__code__)
    monkeypatch.setattr(jit, "_world", lambda: ("put back", fault.name))
    monkeypatch.setenv("TAUT_CACHE", "0")


FAULTS = [
    Fault("a stated output shape makes pads negative", "conv_transpose",
          convolution.ConvTranspose.transposed_window,
          [("max((n - 1) * s + (k - 1) * d + 1 + e - o, 0)",
            "(n - 1) * s + (k - 1) * d + 1 + e - o")], ("compiled",), seed=1),
    Fault("windows with holes are taken for neighbours", "conv_transpose",
          lower_transposed.transposed_conv,
          [("window.strides == window.extent == window.kernel", "window.strides == window.kernel")],
          ("compiled",), seed=2),
    Fault("the largest of a window leaves NaN out", "max_pool", pool._largest,
          [("best.type.element != F32 or len(taps) == 1", "True")], ("compiled",), seed=1),
    Fault("NaN spreads over joined groups", "conv", lower_conv.merge_groups,
          [("        owners=owners,\n", "")], ("compiled",), seed=4),
    Fault("shape arithmetic beyond its type", "neg", graph._fit,
          [("all(not isinstance(d, int) or low <= d <= high for d in dims)", "True")],
          ("compiled",), seed=7),
    Fault("unsigned shifts through floats", "bit_shift", bits.BitShift.reference,
          [("np.where(a < 0, -1, 0).astype(a.dtype)", "np.where(a < 0, -1, 0)"),
           ("np.right_shift(a, by))", "np.right_shift(a, by)).astype(a.dtype)")], ("peer",)),
    Fault("element types without kernels are copied by kernels", "reshape", Tensor.words,
          [("self.dtype in KERNEL_TYPES", "True")], ("compiled",), seed=4),
    Fault("statistics of f64 in f64", "layer_normalization",
          normalization.LayerNormalization.reference,
          [("mean.astype(np.float32), inverse.astype(np.float32)", "mean, inverse")], ("peer",)),
    Fault("zeros between elements times weights that are not finite", "conv_transpose",
          lower_transposed.transposed_conv,
          [("known is not None and not np.isfinite(known).all()", "False")], ("compiled",), seed=4),
    Fault("what has no weight counts", "resize", resize.Resize.along,
          [("np.where(w == 0, x.dtype.type(0), np.take(x, i, axis=axis) * w)",
            "np.take(x, i, axis=axis) * w")], ("compiled",)),
]  # fmt: skip
