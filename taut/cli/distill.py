"""`distill`: a student trained to do as a teacher does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import common
from .app import app
from .common import AsJson, Output, Seed, Target, Threads
from .training import (
    Augmentation,
    BatchSize,
    Clip,
    DataSet,
    Decay,
    Epochs,
    Every,
    Folder,
    Freeze,
    HistoryFile,
    Optimizer,
    Patience,
    Rate,
    Resume,
    ScheduleText,
    TopK,
    Validation,
    run_training,
)

if TYPE_CHECKING:
    from taut.distillation import Joined


@app.command()
def distill(
    teacher: Annotated[str, typer.Option("--teacher", help="A model's file: whom to learn from.")],
    student: Annotated[str, typer.Option("--student", help="A model's file, or zoo:NAME.")],
    output: Output,
    data: DataSet,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            "--kind",
            metavar="KIND",
            help="response (by default), relation, attention or hint, with options of the pass "
            "distill-KIND: attention{weight=100}. Repeatable: losses add up.",
        ),
    ] = None,
    labels: Annotated[
        float | None,
        typer.Option("--labels", min=0, help="Weight of the labels; 1 unless the response has it."),
    ] = None,
    record: Annotated[
        str | None,
        typer.Option("--record", metavar="DIR", help="Run the teacher once, and keep this there."),
    ] = None,
    validation: Validation = None,
    epochs: Epochs = 10,
    batch_size: BatchSize = 64,
    optimizer: Optimizer = "sgd{momentum=0.9}",
    lr: Rate = 0.05,
    schedule: ScheduleText = "cosine",
    weight_decay: Decay = None,
    clip: Clip = 0.0,
    top: TopK = None,
    augment: Augmentation = None,
    patience: Patience = 0,
    freeze: Freeze = None,
    checkpoint: Folder = None,
    checkpoint_steps: Every = 0,
    resume: Resume = False,
    history: HistoryFile = None,
    seed: Seed = 0,
    threads: Threads = None,
    target: Target = "cpu",
    json: AsJson = False,
) -> None:
    """Train a student next to a frozen teacher, and write the student."""
    import taut
    from taut.distillation import passes_of
    from taut.training import Recipe

    given = {**locals(), "model": student, "loss": Recipe.loss, "label_smoothing": 0.0}
    kinds = kind or ["response"]
    passes_of(kinds, labels)  # a typing error should not wait for a large model

    def tell(made: Joined) -> None:
        if not json:
            rows = [(r.node, r.reason) for r in made.outcome.remarks]
            common.show(common.table(None, "student", "what it learns", rows=rows), error=True)

    def by(graph: Any, rows: Any, **options: Any) -> Any:
        return taut.distill(graph, common.load(teacher), rows, kinds, labels=labels, folder=record,
                            on_join=tell, **options)  # fmt: skip

    run_training(given, by=by)
