"""Quantization-aware training: the grids put in, the loop, and the integer program at the end."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from taut.data import Augment, Dataset
from taut.ir import Array, FeedError, Graph
from taut.ir.ops.normalization import BatchNormalization
from taut.passes import Context, PassManager
from taut.passes.quantize.aware import FinalizeQuantization, QuantizeAware
from taut.passes.report import Report

from .feed import Batch
from .history import Row
from .loop import Trained, train
from .recipe import Recipe
from .source import Data
from .trainer import Trainer

CALIBRATION = 512  # rows of a Dataset that quantizers start from
CALIBRATION_BATCH = 64

Statistics = Literal["batch", "running"]


@dataclass(frozen=True)
class QuantizedTraining:
    """What came of quantization-aware training.

    graph     quantize/dequantize pairs with constants, as `quantize` writes them; exports to ONNX
    integer   the same as a program on integers
    trained   the run; its `graph` still has the quantizers' parameters and can be trained further
    report    of `quantize-aware`: what stayed in float, and why
    """

    graph: Graph
    integer: Graph
    trained: Trained
    report: Report


def quantize_aware(
    graph: Graph, data: Data, *, weight_bits: int = 8, activation_bits: int = 8,
    calibration: Iterable[Any] | None = None, statistics: Statistics = "batch",
    validation: Dataset | Iterable[Batch] | None = None, recipe: Recipe | None = None,
    masks: Mapping[str, Array] | None = None, augment: Augment | None = None, seed: int = 0,
    threads: int | None = None, target: str = "cpu", progress: bool | None = None,
    on_epoch: Callable[[Trainer, Row], Any] | None = None, **options: Any,
) -> QuantizedTraining:  # fmt: skip
    """Train a graph's weights, and the scales that they and activations are rounded with, for
    integers of `weight_bits` and `activation_bits` (2 to 8). The graph should be trained already;
    it stays as it is.

    calibration   inputs without targets, as `taut.quantize` takes them, that scales start from; by
                  default some images of a Dataset
    statistics    whether batch normalizations go by each batch, as in training, or stay with their
                  running statistics, as at inference
    masks         as `train` has them: pruned weights stay zero, which every grid holds
    options       fields of the pass `quantize-aware` (edge_bits, scales, scale_rate, skip, ...) and
                  what `train` takes (epochs, batch_size, learning_rate, optimizer, schedule, ...)

    Scales learn with the optimizer's rate times `scale_rate`. Raises FeedError, PassError for
    options and data that do not fit, and what `train` raises.
    """
    names = {f.name for f in dataclasses.fields(QuantizeAware)}
    own = {k: options.pop(k) for k in list(options) if k in names}
    aware = QuantizeAware(weight_bits=weight_bits, activation_bits=activation_bits, **own)
    if statistics not in ("batch", "running"):
        raise FeedError(f"statistics are {statistics!a}, which should be batch or running")
    if statistics == "running":
        frozen = (*options.pop("frozen", ()), *_normalizations(graph))
        if recipe is not None:
            recipe = dataclasses.replace(recipe, frozen=(*recipe.frozen, *frozen))
        else:
            options["frozen"] = frozen
    report = prepared(graph, aware, _calibration(data, calibration, seed), seed)
    trained = train(
        report.graph, data, validation=validation, recipe=recipe, masks=masks, augment=augment,
        seed=seed, threads=threads, target=target, progress=progress, on_epoch=on_epoch, **options,
    )  # fmt: skip
    final = PassManager([FinalizeQuantization()]).run(trained.graph, Context()).graph
    integer = PassManager("int8-finish").run(final, Context()).graph
    return QuantizedTraining(final, integer, trained, report)


def prepared(graph: Graph, aware: QuantizeAware, calibration: Any, seed: int = 0) -> Report:
    """The report of `quantize-aware` over samples that the compiled graph runs on."""
    from taut.runner import CompiledRunner

    context = Context(data=calibration, seed=seed, runner=CompiledRunner())
    return PassManager([aware]).run(graph, context)


def _calibration(data: Data, given: Iterable[Any] | None, seed: int) -> Iterable[Any]:
    if given is not None:
        return given
    if not isinstance(data, Dataset):
        raise FeedError("quantizers start from sample inputs",
                        hint="give calibration=, as taut.quantize takes data")  # fmt: skip
    rows = np.random.default_rng(seed).permutation(len(data))[:CALIBRATION]
    return data[np.sort(rows)].inputs(CALIBRATION_BATCH)


def _normalizations(graph: Graph) -> tuple[str, ...]:
    return tuple(n.name for n in graph.nodes() if isinstance(n.op, BatchNormalization))
