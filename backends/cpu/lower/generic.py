"""Compiled loop nests around a generated expression: any strides, any broadcasting.

`map_kernel` computes one expression for every element of its result. Operands are strided views;
the inner loop is specialised for operands that are contiguous in it (c), constant over it (s), or
neither (g), so that LLVM vectorises what can be. `p` operands are plain addresses (tables).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from ...schedule.kernel import Kernel, exact
from ...schedule.layout import Tensor
from ...schedule.steps import Step, Word
from ..nests.loops import OPERAND, OUTER, map_kernel


@dataclass(frozen=True)
class Leaf:
    """An operand of an expression: a tensor, or (kind p) the address of a table."""

    tensor: Tensor
    pointer: bool = False


def map_step(
    text: str, name: str, out: Tensor, leaves: Sequence[Leaf], threads: int,
    nodes: tuple[str, ...] = (),
) -> Step:  # fmt: skip
    """The step that fills `out` by the expression `text` of a0, a1, ...; leaves broadcast to it."""
    views = [out, *(x.tensor if x.pointer else x.tensor.broadcast(out.shape) for x in leaves)]
    pointers = [False, *(x.pointer for x in leaves)]
    shape, strides = collapse(out.shape, [() if p else v.strides for v, p in zip(views, pointers)])
    *outer, inner = shape
    rows = 1
    for n in outer:
        rows *= n
    width = tail = inner
    one_row = rows == 1 and inner > 4096
    if one_row:  # share one long row out
        width = 2048
        rows = -(-inner // width)
        tail = inner - (rows - 1) * width
        outer = [rows]
    outer = [1] * (OUTER - len(outer)) + outer
    per = max(1, min(-(-rows // (4 * threads)), -(-8192 // max(width, 1))))
    if threads == 1:
        per = rows
    words: list[Word] = [0, 0, -(-rows // max(per, 1)), rows, per, width, tail, *outer[1:]]
    kinds = ""
    for v, p, s in zip(views, pointers, strides):
        if p:
            words += [v.ref, *[0] * (OPERAND - 1)]
            kinds += "p"
            continue
        lead, step = [*s[:-1]], s[-1]
        if one_row:
            lead = [step * width]
        words += [v.ref, *[0] * (OUTER - len(lead)), *lead, step]
        kinds += "c" if step == v.item or inner == 1 else "s" if step == 0 else "g"
    kinds = kinds[0].replace("s", "c") + kinds[1:]
    types = tuple("p" if p else v.dtype.value for v, p in zip(views, pointers))
    kernel = kernel_of(map_kernel, name, text=text, types=types, kinds=kinds)
    reads = [x.tensor.buffer for x in leaves]
    return Step(kernel, words, reads, [out.buffer], nodes)


def kernel_of(build, name: str, **parameters: object) -> Kernel:
    """A kernel whose name is `name` and a digest of its parameters."""
    digest = hashlib.sha256(exact(sorted(parameters.items())).encode()).hexdigest()[:8]
    return Kernel(f"{name}_{digest}", build, tuple(parameters.items()))


def collapse(
    shape: Sequence[int], strides: Sequence[Sequence[int]]
) -> tuple[list[int], list[list[int]]]:
    """Reorder axes so that the result's smallest stride is innermost, and merge what is contiguous
    in every operand. An operand with no strides (a table) does not count."""
    axes = [k for k in range(len(shape)) if shape[k] != 1]
    axes.sort(key=lambda k: (-strides[0][k], k))
    sizes: list[int] = []
    out: list[list[int]] = [[] for _ in strides]
    for k in axes:
        steps = [s[k] if len(s) else 0 for s in strides]
        if sizes and all(o[-1] == step * shape[k] for o, step in zip(out, steps)):
            sizes[-1] *= shape[k]
            for o, step in zip(out, steps):
                o[-1] = step
        else:
            sizes.append(shape[k])
            for o, step in zip(out, steps):
                o.append(step)
    if not sizes:
        return [1], [[0] for _ in strides]
    return sizes, out


def fits(out: Tensor, leaves: Sequence[Leaf]) -> bool:
    """Whether the loop nest has axes enough."""
    strides = [out.strides, *(x.tensor.broadcast(out.shape).strides for x in leaves
                              if not x.pointer)]  # fmt: skip
    return len(collapse(out.shape, strides)[0]) <= OUTER + 1
