"""How two graphs (or programs) differ, layer by layer, over some data.

SQNR is 10 log10(sum a^2 / sum (a - b)^2) in decibels over all elements and items. Agreement is
the share of positions at which both have their largest element in the same place: along the last
axis of tensors of up to three dimensions, along the channels (axis 1) of larger ones.

Where a float layer `conv` has become integers (`conv.requantized`), which say nothing of their
scale, they are compared after the straight line that fits the first item best (least squares).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from taut.ir import FeedError, Graph, interpret
from taut.ir.graph import Value
from taut.ir.interpret import feeds_of
from taut.ir.op import Array
from taut.ir.ops.structure import Constant, Input

if TYPE_CHECKING:
    from rich.table import Table

Arrays = dict[tuple[str, int], Array]


@dataclass
class Layer:
    """One compared value. `sqnr_db` is inf where both are equal, nan where neither is finite."""

    name: str
    op: str
    type: str
    sqnr_db: float
    max_error: float
    agreement: float
    output: bool = False
    fitted: bool = False  # integers, compared after a linear fit


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
    line: tuple[float, float] | None = None  # slope and offset, for integers

    def see(self, a: Array, b: Array) -> None:
        with np.errstate(all="ignore"):
            x, y = a.astype(np.float64), b.astype(np.float64)
            if a.dtype != b.dtype:
                self.line = self.line or _fit(x, y)
                y = y * self.line[0] + self.line[1]
            error = np.where((x == y) | (np.isnan(x) & np.isnan(y)), 0.0, x - y)
            self.signal += float(np.sum(np.square(np.where(np.isfinite(x), x, 0))))
            self.noise += float(np.sum(np.square(error)))
            if error.size:
                self.largest = float(np.maximum(self.largest, np.abs(error).max()))
        if x.size:
            axis = 1 if x.ndim > 3 else -1
            same = np.equal(np.argmax(x, axis), np.argmax(y, axis)) if x.ndim else np.equal(x, y)
            self.agree += int(np.sum(same))
            self.places += int(np.size(same))

    def layer(self) -> Layer:
        if self.noise == 0:
            sqnr = math.inf
        elif not math.isfinite(self.noise):
            sqnr = math.nan
        else:
            sqnr = 10 * math.log10(self.signal / self.noise) if self.signal else -math.inf
        share = self.agree / self.places if self.places else 1.0
        return Layer(self.name, self.op, self.type, sqnr, self.largest, share, self.output,
                     self.line is not None)  # fmt: skip


def _fit(x: Array, q: Array) -> tuple[float, float]:
    """Slope and offset of the line x = slope * q + offset with the least squared error."""
    centred = q - q.mean() if q.size else q
    spread = float(np.square(centred).sum())
    slope = float((centred * x).sum()) / spread if spread else 0.0
    offset = float(x.mean() - slope * q.mean()) if q.size else 0.0
    return slope, offset


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
            table.add_row(
                escape(name), "output" if x.output else x.op, x.type,
                f"{'~' if x.fitted else ''}{x.sqnr_db:.1f}",
                f"{x.max_error:.3g}", f"{x.agreement:.1%}", style="bold" if x.output else None,
            )  # fmt: skip
        return table

    def _caption(self) -> str:
        fitted = any(x.fitted for x in self.layers)
        return f"over {self.items} items" + ("; ~: integers, after a linear fit" if fitted else "")

    def __str__(self) -> str:
        from rich.console import Console

        console = Console(width=100, color_system=None)
        with console.capture() as capture:
            console.print(self)
        return capture.get()


Runner = Callable[[Mapping[str, Array]], tuple[Arrays, dict[str, Array]]]


def compare(a: Any, b: Any, data: Iterable[Any]) -> Comparison:
    """See `taut.compare`. Raises FeedError for unfit or no data and for other output names."""
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
            if y is not None and x.shape == y.shape and (output or _comparable(x, y)):
                key = (name, index, output)
                if key not in sums:
                    sums[key] = _start(graph, name, index, output, x)
                sums[key].see(x, y)
        items += 1
    if not items:
        raise FeedError("there is no data to compare over")
    ordered = sorted(sums.values(), key=lambda s: s.output)
    return Comparison([s.layer() for s in ordered], items)


def _start(graph: Graph, name: str, index: int, output: bool, x: Array) -> _Sums:
    node = graph.find(name)
    op = node.op.name if node is not None else ""
    return _Sums(name if not index else f"{name}#{index}", op, f"{x.dtype}{list(x.shape)}", output)


INTEGER_NAMES = (".requantized", ".looked_up", ".integers")
"""What `lower-integer` appends to a float layer's name for its 8-bit result."""


def _comparable(x: Array, y: Array) -> bool:
    return x.dtype == y.dtype or (x.dtype.kind == "f" and y.dtype.kind in "iu")


def _base(name: str) -> str:
    """The float layer that a node's name speaks of."""
    for suffix in INTEGER_NAMES:
        name = name.removesuffix(suffix)
    return name


def _runner(side: Any, other: Any) -> Runner:
    """Runs one side; a graph's layers are kept where the other graph has one of that name."""
    if not isinstance(side, Graph):
        return lambda feeds: ({}, dict(side(*feeds.values())))  # in graph order
    nodes = other.nodes() if isinstance(other, Graph) else ()
    names = {n.name for n in nodes} | {_base(n.name) for n in nodes}

    def run(feeds: Mapping[str, Array]) -> tuple[Arrays, dict[str, Array]]:
        layers: Arrays = {}

        def watch(value: Value, array: Array) -> None:
            name = value.node.name
            if isinstance(value.node.op, Input | Constant):
                return
            if name in names:
                layers[name, value.index] = array
            elif _base(name) in names:
                layers.setdefault((_base(name), value.index), array)

        return layers, interpret(side, feeds, watch=watch)

    return run


def _finite(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
