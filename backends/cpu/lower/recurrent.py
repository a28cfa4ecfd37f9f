"""RNN, GRU and LSTM: the products with the input as one layer of the tile kernels, then a kernel
for each direction that walks over the steps."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ....ir import Array, DType, Node, Value
from ...schedule.layout import Tensor, round_up
from ...schedule.steps import Step, Word, record_words
from ..kernels import recurrent
from ..kernels.product_record import Form
from ..kernels.recurrent import GATES
from ..kernels.sequences import RecurrentRecord
from .lowering import Lowering
from .products import Product, dense_rows, emit_product, known_columns
from .registry import lowers


@lowers("rnn", "gru", "lstm")
def layer(low: Lowering, node: Node) -> bool:
    """In f32 with known weights."""
    x, w, r, b, lengths, h, c, p = [*low.graph.operands(node), *[None] * 8][:8]
    assert x is not None
    weights, state_weights, bias, peepholes = (low.array(v) for v in (w, r, b, p))
    if (b is not None and bias is None) or (p is not None and peepholes is None):
        return False
    if weights is None or state_weights is None:
        return False
    if node.type.dtype is not DType.f32 or not min(low.shape(x)):
        return False
    Layout(low, node, weights, state_weights, bias, peepholes).lower(x, lengths, h, c)
    return True


class Layout:
    """A layer's weights in the kernel's order, and its steps."""

    def __init__(self, low: Lowering, node: Node, w: Array, r: Array, b: Array | None,
                 p: Array | None) -> None:  # fmt: skip
        self.low, self.node = low, node
        self.op: Any = node.op
        self.cell = node.op.name
        if self.cell == "gru" and self.op.linear_before_reset:
            self.cell = "gru_linear"
        self.w, self.r, self.p = w, r, p
        self.gates, self.hidden = GATES[self.cell], r.shape[2]
        self.b = np.zeros((len(w), 2 * self.gates * self.hidden), np.float32) if b is None else b

    def lower(self, x: Value, lengths: Value | None, h: Value | None, c: Value | None) -> None:
        low, op, node = self.low, self.op, self.node
        source = low.tensor(x)
        self.steps, self.batch = source.shape[:2][:: -1 if op.layout else 1]
        self.shape = recurrent.shape(self.cell, self.hidden, self.batch, low.isa)
        self.unit = self.shape[1] * low.isa.lanes
        self.padded = round_up(self.hidden, self.unit)
        sums = self._project(source)
        results = [self._place(i) for i in range(3)]
        for way, (back, functions) in enumerate(zip(op.backwards, op.functions())):
            values, reads = self._weights(way), [sums.buffer]
            part = sums.slice(2, way * self.gates * self.padded, self.gates * self.padded)
            values |= self._at("sums", part, way=None)
            if lengths is not None:
                at = self.low.dense(self.low.tensor(lengths), (self.node.name,))
                values["lengths"] = at.ref
                message = f"node {node.name!r}: a length is not within 0 to {self.steps}"
                values["fault"] = low.fault(message)
                reads.append(at.buffer)
            for name, state in (("h", h), ("c", c)):
                if state is not None:
                    t = low.tensor(state)
                    t = t if t.strides[-1] == 4 or t.shape[-1] == 1 else self._copied(t)
                    values |= self._at(name, t, way)
                    reads.append(t.buffer)
            for name, t in zip(("y", "y_h", "y_c"), results):
                if t is not None:
                    values |= self._at(name, t, way)
            values |= self._functions(functions)
            self._emit(way, back, [f.name for f in functions], values, reads, results)

    def _copied(self, t: Tensor) -> Tensor:
        made = self.low.new(t.dtype, t.shape)
        self.low.copy(t, made, (self.node.name,))
        return made

    def _place(self, i: int) -> Tensor | None:
        """Where a result goes, if anything reads it."""
        if i >= len(self.node.results):
            return None
        value = self.node[i]
        if self.low.graph.use_count(value) == 0 and not self.low.graph.is_output(value):
            return None
        made = self.low.result(value, exact=True)
        assert made.strides[-1] == 4 or made.shape[-1] == 1
        return made

    def _at(self, name: str, t: Tensor, way: int | None) -> dict[str, Word]:
        """Address and strides of x-like (sums, y) and state-like tensors, for one direction."""
        axes = {"sums": "tn.", "y": "tdn.", "h": "dn.", "c": "dn.", "y_h": "dn.", "y_c": "dn."}
        order = axes[name]
        if self.op.layout:
            order = {"tn.": "nt.", "tdn.": "ntd.", "dn.": "nd."}[order]
        strides = dict(zip(order, t.strides))
        made: dict[str, Word] = {f"{name}_batch": strides["n"]}
        made[name] = t.ref if way is None else t.ref + way * strides["d"]
        if "t" in strides:
            made[f"{name}_time"] = strides["t"]
        return made

    # ---- weights -----------------------------------------------------------------------------

    def _units(self, values: Array) -> Array:
        """[..., gates * hidden] as [..., block, gate, unit], hidden filled up with zeros."""
        split = values.reshape(*values.shape[:-1], -1, self.hidden)
        room = [(0, 0)] * (split.ndim - 1) + [(0, self.padded - self.hidden)]
        split = np.pad(split, room)
        blocks = split.reshape(*split.shape[:-1], -1, self.unit)
        return np.ascontiguousarray(blocks.swapaxes(-3, -2))

    def _project(self, source: Tensor) -> Tensor:
        """x Wt and the biases that are only added, all directions side by side."""
        low, half = self.low, self.gates * self.hidden
        bias = self.b[:, :half].copy()
        added = half if self.cell != "gru_linear" else 2 * self.hidden
        bias[:, :added] += self.b[:, half : half + added]
        columns = self._units(self.w.transpose(2, 0, 1)).reshape(self.w.shape[2], -1)
        sums = low.new(DType.f32, (*source.shape[:2], columns.shape[1]))
        nodes = (self.node.name,)
        product = Product(Form("float", bias=True), self._units(bias).reshape(-1), nodes=nodes)
        known = known_columns(low, columns.astype(np.float32), math.prod(source.shape[:2]))
        emit_product(low, dense_rows(low, source, nodes), known, sums, product)
        return sums

    def _packed(self, way: int, first: int, count: int) -> Array:
        """Weights of `count` gates, for the state: [block][hidden k][gate][unit]."""
        h = self.hidden
        chosen = self.r[way, first * h : (first + count) * h]
        return np.ascontiguousarray(self._units(chosen.T).swapaxes(0, 1), np.float32)

    def _weights(self, way: int) -> dict[str, Word]:
        low = self.low
        if self.cell == "gru":
            return {
                "weights": low.constant(self._packed(way, 0, 2)),
                "rest": low.constant(self._packed(way, 2, 1)),
            }
        made: dict[str, Word] = {"weights": low.constant(self._packed(way, 0, self.gates))}
        if self.cell == "gru_linear":
            last = self.b[way, -self.hidden :]
            made["bias"] = low.constant(self._units(last).astype(np.float32))
        if self.p is not None:
            # One gate after the other, each over all blocks.
            gates = [self._units(v) for v in self.p[way].reshape(3, -1)]
            made["peepholes"] = low.constant(np.concatenate(gates).astype(np.float32))
        return made

    def _functions(self, functions: tuple[Any, ...]) -> dict[str, Word]:
        made: dict[str, Word] = {}
        for k, f in enumerate(functions):
            made |= {f"alpha{k}": float(f.alpha), f"beta{k}": float(f.beta)}
        return made

    def _emit(self, way: int, back: bool, names: list[str], values: dict[str, Word],
              reads: list[Any], results: list[Tensor | None]) -> None:  # fmt: skip
        low, (tall, vectors) = self.low, self.shape
        state_batch = 16 * self.padded + 64
        scratch = low.scratch(self.batch * state_batch)
        per = round_up(-(-self.batch // low.threads), tall)
        clip = self.op.clip
        values |= {
            "chunks": -(-self.batch // per),
            "batch": self.batch,
            "chunk_rows": per,
            "steps": self.steps,
            "hidden": self.hidden,
            "blocks": self.padded // self.unit,
            "padded": 4 * self.padded,
            "back": int(back),
            "state": Tensor(scratch, DType.u8, (scratch.size,), (1,)).ref,
            "state_batch": state_batch,
            "clip": np.inf if clip is None else float(clip),
        }
        kernel = recurrent.kernel(
            self.cell, tall, vectors, tuple(names), clipped=clip is not None,
            peepholes=self.p is not None, coupled=getattr(self.op, "input_forget", False),
        )  # fmt: skip
        writes = [scratch, *(t.buffer for t in results if t is not None)]
        macs = self.steps * self.batch * self.gates * self.hidden**2
        words = record_words(RecurrentRecord, values)
        low.emit(Step(kernel, words, reads, writes, (self.node.name,), macs))
