"""The main job on a real model: ONNX in, a faster int8 program out, with its accuracy measured.

The model is the text-orientation classifier of PP-OCR (3x48x192 -> upright or upside down); its
labelled data are drawn text lines. Calibration lines come from another seed than test lines. The
model's sizes are open; they are bound to one line of 48x192, so that every layer can be lowered.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import taut
from taut.ir.op import Array
from taut.ir.ops.elementwise import Mul
from taut.ir.ops.quantization import DequantizeLinear, QuantizeLinear
from taut.ir.ops.shape import Cast
from taut.ir.ops.structure import Constant, Input
from taut.measure import Timing, measure

if TYPE_CHECKING:
    from taut.ir import Graph, Node
    from taut.passes import Report

SIZES = "bind{x=[1,3,48,192]}"
FLOAT = ("O1", "O2")
CALIBRATION_LINES = 64

Progress = Callable[[int, int | None], Any]


@dataclass
class Side:
    """One of the two programs compared."""

    accuracy: float
    bytes: int
    latency: Timing
    kernels: int


@dataclass
class Result:
    model: str
    target: str
    lines: int
    float_pipeline: str  # the faster of FLOAT
    float32: Side
    int8: Side
    agreement: float  # share of lines on which both give the same answer
    sqnr_db: float  # of the outputs
    quantized: int  # layers with weights
    kept_float: list[tuple[str, str, str]] = field(default_factory=list)  # node, op, why
    pipeline: str = ""

    def facts(self) -> dict[str, Any]:
        """Everything as plain data, for JSON."""
        sides = {
            name: {**vars(side), "latency": side.latency.facts()}
            for name, side in (("float32", self.float32), ("int8", self.int8))
        }
        kept = [dict(zip(("node", "op", "reason"), k)) for k in self.kept_float]
        return {**vars(self), **sides, "kept_float": kept}


def run(
    lines: int = 512, threads: int | None = None, progress: Progress = lambda done, total: None
) -> Result:
    """Quantize the default sample and measure both programs on `lines` drawn lines.

    Raises SampleError where the model cannot be fetched or drawn lines cannot be made.
    """
    from taut.passes import Context, PassManager, Pipeline
    from taut.presets import int8_pipeline
    from taut.runner import CompiledRunner

    samples = _samples()
    path = samples.fetch(samples.DEFAULT)
    progress(1, 6)
    calibration, _ = samples.orientation_lines(CALIBRATION_LINES, seed=1)
    images, labels = samples.orientation_lines(lines, seed=2)
    progress(2, 6)
    graph = taut.load(path)
    pipeline = Pipeline.of([SIZES, int8_pipeline({})])
    context = Context(data=singles(calibration), runner=CompiledRunner(threads))
    report = PassManager(pipeline).run(graph, context)
    progress(3, 6)
    one = singles(images)[0]
    made = {name: taut.optimize(graph, f"{SIZES},{name}") for name in FLOAT}
    made["int8"] = report.graph
    compiled = {name: taut.compile(g, threads=threads) for name, g in made.items()}
    progress(4, 6)
    timings = measure(
        {name: lambda p=p: p(one) for name, p in compiled.items()}, repeat=300, budget=20.0
    )
    fastest = min(FLOAT, key=lambda name: timings[name].median)
    names = (fastest, "int8")
    answers = [answer(compiled[name], images) for name in names]
    progress(5, 6)
    with tempfile.TemporaryDirectory(prefix="taut-") as folder:
        packed = Path(folder) / "int8.taut"
        taut.save(report.graph, packed)
        sizes = [path.stat().st_size, packed.stat().st_size]
    sides = [
        Side(
            float((a.argmax(1) == labels).mean()),
            size,
            timings[name],
            len(compiled[name].profile(one)),
        )
        for name, a, size in zip(names, answers, sizes)
    ]
    noise = float(np.square(answers[0] - answers[1], dtype=np.float64).sum())
    signal = float(np.square(answers[0], dtype=np.float64).sum())
    progress(6, 6)
    return Result(
        model=path.name.partition("-")[2], target=str(compiled["int8"].target), lines=lines,
        float_pipeline=fastest,
        float32=sides[0], int8=sides[1],
        agreement=float((answers[0].argmax(1) == answers[1].argmax(1)).mean()),
        sqnr_db=10 * float(np.log10(signal / noise)) if noise else float("inf"),
        quantized=sum(p.counts["quantized"] for p in report.passes),
        kept_float=kept_float(report), pipeline=str(pipeline),
    )  # fmt: skip


def kept_float(report: Report) -> list[tuple[str, str, str]]:
    """(node, op, reason) of what still computes in floating point, conversions aside."""
    graph, found = report.graph, []
    reasons = {r.node: r.reason for _, r in report.remarks("missed")}
    for node in graph.nodes():
        if not node.results or isinstance(node.op, NO_COMPUTING):
            continue
        if not node.type.dtype.is_float or _rescales(graph, node):
            continue
        reason = "makes an output, which is float" if graph.is_output(node) else "no integer form"
        found.append((node.name, node.op.name, reasons.get(node.name, reason)))
    return found


NO_COMPUTING = (Input, Constant, Cast, QuantizeLinear, DequantizeLinear)


def _rescales(graph: Graph, node: Node) -> bool:
    """Whether a node is the product with a scale that makes integers real numbers again."""
    x = graph.operand(node, 0)
    return isinstance(node.op, Mul) and x is not None and isinstance(x.node.op, Cast)


def answer(program: Any, images: Array) -> Array:
    """The first output for all images."""
    return np.concatenate([np.array(next(iter(program(x).values()))) for x in singles(images)])


def singles(images: Array) -> list[Array]:
    """One batch of one for each image."""
    return [np.ascontiguousarray(images[i : i + 1]) for i in range(len(images))]


def _samples() -> Any:
    from taut import samples

    try:
        import PIL  # noqa: F401
    except ModuleNotFoundError as error:
        raise taut.TautError(
            "the demo draws its test lines with Pillow, which is missing",
            hint="install it with: pip install 'taut[samples]'",
        ) from error
    return samples
