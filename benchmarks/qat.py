"""Accuracy at few bits on test images: float, quantized after training, and trained for it.

    model      on                                      float training   quantization-aware
    lenet-5    20,000 images of MNIST, 28x28           3 epochs         2 epochs
    mobilenet  10,000 images of MNIST, padded to 32x32 12 epochs        3 epochs

`mobilenet` is mobilenet-v1-cifar of an eighth of the width; all are tested on the 10,000 test
images. Each is trained in float once. Then for each number of bits (weights and activations alike,
first and last layer 8) it is quantized by `quantize` with bias correction (`ptq`), by the grids
that training starts from (`start`), and after quantization-aware training with batch
normalizations by the batch (`qat`) or with frozen statistics (`qat-running`). `float-longer` is the
control: the float network trained on for as many epochs, without quantizers. Every row has the
accuracy of the graph that training evaluates, of quantize/dequantize pairs, and of the integer
program.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import results
from rich.console import Console
from rich.table import Table
from taut.frontends.zoo import zoo
from taut.ir import Graph
from taut.passes import Context, PassManager
from taut.passes.presets import LAYERS
from taut.passes.quantize.aware import QuantizeAware

import taut
from taut.data import Dataset, mnist
from taut.runner import CompiledRunner
from taut.training.aware import prepared

BITS = (8, 4)


@dataclass(frozen=True)
class Case:
    """A network, its images, and how it is trained."""

    graph: Callable[[], Graph]
    pad: int
    images: int
    epochs: int
    rate: float
    aware_epochs: int
    aware_rate: float


CASES = {
    "lenet-5": Case(lambda: zoo("lenet-5"), 0, 20_000, 3, 0.001, 2, 0.0003),
    "mobilenet": Case(
        lambda: zoo("mobilenet-v1-cifar", channels=1, width=0.125), 2, 10_000, 12, 0.003, 3,
        0.001,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Accuracy:
    """Shares of test images that are right; `seconds` of training and compiling."""

    model: str
    runner: str
    bits: int
    trained: float
    pairs: float
    integer: float
    seconds: float


def images(split: str, pad: int, count: int) -> Dataset:
    data = mnist(split)[:count]
    room = ((0, 0), (0, 0), (pad, pad), (pad, pad))
    return Dataset(np.pad(data.images, room), data.labels, data.classes)


def accuracy(graph: Graph, data: Dataset) -> float:
    program, right = taut.compile(graph), 0
    for pixels, labels in data.batches(500):
        right += int((program(pixels)["scores"].argmax(1) == labels).sum())
    return right / len(data)


def row(
    name: str, runner: str, bits: int, trained: Graph, seconds: float, test: Dataset
) -> Accuracy:
    """The accuracies of one graph with quantizers, or of a float one (bits 32)."""
    seen = accuracy(trained, test)
    if bits == 32:
        return Accuracy(name, runner, bits, seen, seen, seen, seconds)
    runner = f"{runner}-{bits}"
    final = PassManager("finalize-quantization").run(trained, Context()).graph
    integer = PassManager("int8-finish").run(trained, Context()).graph
    return Accuracy(name, runner, bits, seen, accuracy(final, test), accuracy(integer, test),
                    seconds)  # fmt: skip


def after_training(name: str, graph: Graph, bits: int, data: Any, test: Dataset) -> Accuracy:
    """`quantize` at these bits, with the better of two ways to calibrate."""
    found = []
    for calibrate in ("mse", "percentile"):
        text = (f"{LAYERS},quantize{{bits={bits} activation_bits={bits} edge_bits=8 "
                f"calibrate={calibrate}}}")  # fmt: skip
        context = Context(data=data, runner=CompiledRunner())
        pairs = PassManager(text).run(graph, context).graph
        integer = PassManager("int8-finish").run(pairs, Context()).graph
        seen = accuracy(pairs, test)
        found.append(Accuracy(name, f"ptq-{bits}", bits, seen, seen, accuracy(integer, test), 0.0))
    return max(found, key=lambda a: a.pairs)


def measure(
    name: str, count: int | None, tell: Callable[[Accuracy], None], statistics: list[str]
) -> list[Accuracy]:
    case = CASES[name]
    train, test = images("train", case.pad, count or case.images), images("test", case.pad, 10_000)
    rows: list[Accuracy] = []

    def add(made: Accuracy) -> None:
        rows.append(made)
        tell(made)

    common: dict[str, Any] = {"optimizer": "adam", "schedule": "cosine", "progress": False}
    start = time.perf_counter()
    first = taut.train(case.graph(), train, epochs=case.epochs, learning_rate=case.rate, **common)
    add(row(name, "float", 32, first.graph, time.perf_counter() - start, test))
    start = time.perf_counter()
    longer = taut.train(first.graph, train, epochs=case.aware_epochs,
                        learning_rate=case.aware_rate, **common)  # fmt: skip
    add(row(name, "float-longer", 32, longer.graph, time.perf_counter() - start, test))
    calibration = train[:512].inputs(64)
    for bits in BITS:
        aware = QuantizeAware(weight_bits=bits, activation_bits=bits)
        plain = prepared(first.graph, aware, calibration).graph
        add(row(name, "start", bits, plain, 0.0, test))
        add(after_training(name, first.graph, bits, calibration, test))
        for kind in statistics:
            start = time.perf_counter()
            made = taut.quantize_aware(
                first.graph, train, weight_bits=bits, activation_bits=bits, statistics=kind,
                epochs=case.aware_epochs, learning_rate=case.aware_rate, **common,
            )  # fmt: skip
            seconds = time.perf_counter() - start
            runner = "qat" if kind == "batch" else f"qat-{kind}"
            add(row(name, runner, bits, made.trained.graph, seconds, test))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--models", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--images", type=int, help="of the training set (default: by model)")
    parser.add_argument("--statistics", nargs="+", default=["batch"],
                        choices=["batch", "running"])  # fmt: skip
    options = parser.parse_args()
    console, rows = Console(), []
    for name in options.models:
        rows += measure(name, options.images, lambda r: console.print(asdict(r)),
                        options.statistics)  # fmt: skip
    table = Table(title="right test images")
    for heading in ("model", "runner", "bits", "as trained", "pairs", "integer program", "s"):
        table.add_column(heading, justify="left" if heading in ("model", "runner") else "right")
    for r in rows:
        shares = [f"{v:.2%}" for v in (r.trained, r.pairs, r.integer)]
        table.add_row(r.model, r.runner, str(r.bits), *shares, f"{r.seconds:.0f}")
    console.print(table)
    console.print(f"written to {results.write('qat', [asdict(r) for r in rows])}")


if __name__ == "__main__":
    main()
