"""How two graphs (or programs) differ, layer by layer, over some data.

SQNR is 10 log10(sum a^2 / sum (a - b)^2) in decibels over all elements and items. Agreement is
the share of positions at which both have their largest element in the same place: along the last
axis of tensors of up to three dimensions, along the channels (axis 1) of larger ones.

Where a float layer `conv` has become integers (`conv.requantized`), these count as the numbers that
they stand for: (q - zero point) * step, as the graph tells it (`taut.passes.quantize.meaning`), for
the tensor, each channel or each block. Integers of which the graph tells nothing are named and not
compared.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from taut.ir import FeedError, Graph, interpret
from taut.ir.graph import Value
from taut.ir.interpret import bind_feeds, feeds_of
from taut.ir.op import Array
from taut.ir.ops.structure import Constant, Input
from taut.passes.quantize.meaning import Meaning, meanings

if TYPE_CHECKING:
    from rich.table import Table


@dataclass
class Layer:
    """One compared value. `sqnr_db` is inf where both are equal. It is nan, and so is `agreement`,
    where no element is a finite number, where one side is of integers of which nobody knows what
    they stand for (`unscaled`), and for a layer that has other shapes on both sides (`unlike`).
    """

    name: str
    op: str
    type: str
    sqnr_db: float
    max_error: float
    agreement: float
    output: bool = False
    unscaled: bool = False  # integers without a known step: not compared
    unlike: bool = False  # of other shapes on both sides: not compared
    non_finite: int = 0  # elements that are NaN or infinite on either side


@dataclass
class _Sums:
    name: str
    op: str
    type: str
    output: bool
    signal: float = 0.0
    noise: float = 0.0
    largest: float = 0.0
    agree: int = 0
    places: int = 0
    elements: int = 0
    non_finite: int = 0
    unscaled: bool = False
    unlike: bool = False

    def see(self, x: Array, y: Array) -> None:
        """Add an item of floats."""
        with np.errstate(all="ignore"):
            error = np.where((x == y) | (np.isnan(x) & np.isnan(y)), 0.0, x - y)
            self.signal += float(np.sum(np.square(np.where(np.isfinite(x), x, 0))))
            self.noise += float(np.sum(np.square(error)))
            if error.size:
                self.largest = float(np.maximum(self.largest, np.abs(error).max()))
        self.elements += x.size
        self.non_finite += int(np.sum(~(np.isfinite(x) & np.isfinite(y))))
        if x.size:
            axis = 1 if x.ndim > 3 else -1
            same = np.equal(np.argmax(x, axis), np.argmax(y, axis)) if x.ndim else np.equal(x, y)
            # Where there is a NaN no element is the largest.
            told = ~(np.isnan(x) & np.isnan(y)).any(axis) if x.ndim else ~np.isnan(x)
            self.agree += int(np.sum(same & told))
            self.places += int(np.sum(told))

    def layer(self) -> Layer:
        if self.unscaled or self.unlike:
            nan = math.nan
            return Layer(self.name, self.op, self.type, nan, nan, nan, self.output,
                         self.unscaled, self.unlike)  # fmt: skip
        if self.non_finite == self.elements:  # there may be none
            sqnr = math.nan
        elif self.noise == 0:
            sqnr = math.inf
        elif not math.isfinite(self.noise):
            sqnr = math.nan
        else:
            sqnr = 10 * math.log10(self.signal / self.noise) if self.signal else -math.inf
        share = self.agree / self.places if self.places else math.nan
        return Layer(self.name, self.op, self.type, sqnr, self.largest, share, self.output,
                     non_finite=self.non_finite)  # fmt: skip


@dataclass
class Comparison:
    """Layers in the order of graph `a`, outputs last. Prints as a table."""

    layers: list[Layer] = field(default_factory=list)
    items: int = 0

    @property
    def outputs(self) -> list[Layer]:
        return [layer for layer in self.layers if layer.output]

    def __getitem__(self, name: str) -> Layer:
        """The layer (or output) of this name. Raises KeyError."""
        found = next((layer for layer in reversed(self.layers) if layer.name == name), None)
        if found is None:
            raise KeyError(name)
        return found

    def to_json(self) -> str:
        """One object; infinities and NaN, which JSON lacks, are strings."""
        layers = [{k: _finite(v) for k, v in asdict(x).items()} for x in self.layers]
        return json.dumps({"items": self.items, "layers": layers})

    def __rich__(self) -> Table:
        from rich import box
        from rich.markup import escape
        from rich.table import Table

        from taut.ir.errors import show_name

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption=self._caption())
        for heading, justify in [("layer", "left"), ("op", "left"), ("type", "left"),
                                 ("SQNR dB", "right"), ("max error", "right"),
                                 ("agreement", "right")]:  # fmt: skip
            table.add_column(heading, justify=justify, overflow="fold")  # type: ignore[arg-type]
        for x in self.layers:
            name = x.name if x.name.isprintable() else show_name(x.name)
            numbers = (f"{x.sqnr_db:.1f}", f"{x.max_error:.3g}", f"{x.agreement:.1%}")
            if x.unscaled or x.unlike:
                numbers = ("?", "?", "?")
            table.add_row(escape(name), "output" if x.output else x.op, x.type, *numbers,
                          style="bold" if x.output else None)  # fmt: skip
        return table

    def _caption(self) -> str:
        what = ""
        if any(x.unscaled for x in self.layers):
            what += "; ?: integers, and the graph does not tell their step"
        if any(x.unlike for x in self.layers):
            what += "; ?: of another shape in the other model"
        bad = [x for x in self.layers if x.non_finite]
        if bad:
            count = sum(x.non_finite for x in bad)
            what += f"; {count} elements are NaN or infinite, the first in {bad[0].name!a}"
        return f"over {self.items} items{what}"

    def __str__(self) -> str:
        from rich.console import Console

        console = Console(width=100, color_system=None)
        with console.capture() as capture:
            console.print(self)
        return capture.get()


class Seen(NamedTuple):
    """An array as it was computed, and what its integers stand for."""

    array: Array
    meaning: Meaning | None = None

    @property
    def counts(self) -> bool:
        """Whether these are integers."""
        return self.array.dtype.kind in "iu"


Layers = dict[tuple[str, int], Seen]
Runner = Callable[[Mapping[str, Array]], tuple[Layers, dict[str, Seen]]]


def compare(a: Any, b: Any, data: Iterable[Any]) -> Comparison:
    """See `taut.compare`. Raises FeedError for unfit or no data, and where the two have inputs or
    outputs of other names, or outputs of other shapes."""
    graph = a if isinstance(a, Graph) else b if isinstance(b, Graph) else getattr(a, "graph", None)
    if graph is None:
        raise FeedError("neither side of the comparison is a graph or a compiled program")
    run_a, run_b = _runner(a, b), _runner(b, a)
    sums: dict[tuple[str, int, bool], _Sums] = {}
    items = 0
    for item in data:
        feeds = feeds_of(graph, item)
        (layers_a, out_a), (layers_b, out_b) = run_a(feeds), run_b(feeds)
        if list(out_a) != list(out_b):
            raise FeedError(f"outputs {list(out_a)} cannot be compared with {list(out_b)}")
        pairs = [(k, False, v, layers_b.get(k)) for k, v in layers_a.items()]
        pairs += [((k, 0), True, v, out_b[k]) for k, v in out_a.items()]
        for (name, index), output, x, y in pairs:
            if y is None:
                continue
            if output and x.array.shape != y.array.shape:
                shapes = f"{list(x.array.shape)} and {list(y.array.shape)}"
                raise FeedError(f"output {name!a} has shapes {shapes}, which cannot be compared")
            key = (name, index, output)
            if key not in sums:
                sums[key] = _start(graph, name, index, output, x.array)
            _see(sums[key], x, y)
        items += 1
    if not items:
        raise FeedError("there is no data to compare over")
    ordered = sorted(sums.values(), key=lambda s: s.output)
    return Comparison([s.layer() for s in ordered], items)


def _start(graph: Graph, name: str, index: int, output: bool, x: Array) -> _Sums:
    node = graph.find(name)
    op = node.op.name if node is not None else ""
    return _Sums(name if not index else f"{name}#{index}", op, f"{x.dtype}{list(x.shape)}", output)


def _see(sums: _Sums, x: Seen, y: Seen) -> None:
    """Compare two arrays as real numbers, or as they are where neither or both are integers of
    one type that stand for the same."""
    if x.array.shape != y.array.shape:
        sums.unlike = True
        return
    # 64-bit integers are exact in extended precision, where the machine has it.
    wide = np.longdouble if x.array.dtype.kind in "iu" else np.float64
    real = [s.array.astype(wide) for s in (x, y)]
    if x.counts or y.counts:
        if all(s.meaning is not None or not s.counts for s in (x, y)):
            real = [s.array.astype(np.float64) if s.meaning is None else s.meaning.real(s.array)
                    for s in (x, y)]  # fmt: skip
        elif x.array.dtype != y.array.dtype:
            sums.unscaled = True
            return
    sums.see(*real)


INTEGER_NAMES = (".requantized", ".looked_up", ".integers", ".clipped")
"""What quantization and `lower-integer` append to a float layer's name for its 8-bit result."""
ACCUMULATOR = ".accumulator"
"""The same for int32 sums, before anything that is fused to the layer."""


def _base(name: str) -> str:
    """The float layer that a node's name speaks of."""
    for suffix in INTEGER_NAMES:
        name = name.removesuffix(suffix)
    return name


def _plain(graph: Graph, name: str) -> bool:
    """Whether a layer is its accumulator: no residual or activation is part of it."""
    node = graph.find(name)
    if node is None or getattr(node.op, "activation", ""):
        return False
    return len(graph.operands(node)) < 4


def _runner(side: Any, other: Any) -> Runner:
    """Runs one side; a graph's layers are kept where the other graph has one of that name."""
    graph = side if isinstance(side, Graph) else getattr(side, "graph", None)
    known = {} if graph is None else meanings(graph)
    means = {} if graph is None else {k: known.get(v) for k, v in
                                      zip(graph.output_names, graph.outputs)}  # fmt: skip

    def results(arrays: Mapping[str, Array]) -> dict[str, Seen]:
        return {k: Seen(v, means.get(k)) for k, v in arrays.items()}

    if not isinstance(side, Graph):
        # By name where names are known: these are then checked.
        return lambda feeds: ({}, results(side(*feeds.values()) if graph is None
                                          else side(**bind_feeds(graph, (), feeds))))  # fmt: skip
    there = other if isinstance(other, Graph) else Graph()
    names = {n.name for n in there.nodes()} | {_base(n.name) for n in there.nodes()}

    def run(feeds: Mapping[str, Array]) -> tuple[Layers, dict[str, Seen]]:
        layers: Layers = {}
        sums: Layers = {}

        def watch(value: Value, array: Array) -> None:
            name, base = value.node.name, _base(value.node.name)
            if isinstance(value.node.op, Input | Constant):
                return
            seen = Seen(array, known.get(value))
            if name in names:
                layers[name, value.index] = seen
            elif base in names:
                layers.setdefault((base, value.index), seen)
            elif name.endswith(ACCUMULATOR) and _plain(there, name.removesuffix(ACCUMULATOR)):
                sums[name.removesuffix(ACCUMULATOR), value.index] = seen

        outputs = results(interpret(side, bind_feeds(side, (), feeds), watch=watch))
        return {**sums, **layers}, outputs

    return run


def _finite(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
