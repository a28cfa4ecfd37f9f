"""`train` and `finetune`: parameters learned from a data set, by the compiled program."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import common
from .app import app
from .common import AsJson, Model, Output, Seed, Target, Threads

if TYPE_CHECKING:
    from collections.abc import Callable

    from taut.data import Augment, Dataset
    from taut.training import Trained

DataSet = Annotated[
    str, typer.Option("--data", help="mnist:train, optdigits:train, a .npz, IDX or folder.")
]
Validation = Annotated[
    str | None,
    typer.Option("--validation", help="Another data set, or a share of --data, or rows: 0.1."),
]
Epochs = Annotated[int, typer.Option("--epochs", min=1, help="Times through the data.")]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Rows a step.")]
Optimizer = Annotated[
    str, typer.Option("--optimizer", help="sgd, adam or adamw, with options: sgd{momentum=0.9}")
]
Rate = Annotated[float, typer.Option("--lr", min=0, help="Learning rate, which --schedule scales.")]
ScheduleText = Annotated[
    str,
    typer.Option("--schedule", help="constant, step, cosine, linear, one-cycle; cosine{warmup=99}"),
]
Decay = Annotated[
    float | None, typer.Option("--weight-decay", min=0, help="In place of the optimizer's own.")
]
LossName = Annotated[
    str,
    typer.Option("--loss", help="cross-entropy, or the name of a scalar output."),
]
Smoothing = Annotated[
    float, typer.Option("--label-smoothing", min=0, max=0.99, help="Share spread over classes.")
]
Clip = Annotated[float, typer.Option("--clip", min=0, help="Largest norm of gradients; 0: any.")]
TopK = Annotated[
    list[int] | None, typer.Option("--top", min=2, help="Measure top-K too; may be repeated.")
]
Augmentation = Annotated[
    list[str] | None, typer.Option("--augment", help="flip, or shift=PIXELS; may be repeated.")
]
Patience = Annotated[
    int,
    typer.Option("--patience", min=0, help="Epochs without a better one to stop after; 0: never."),
]
Folder = Annotated[
    str | None, typer.Option("--checkpoint", metavar="DIR", help="Save there after each epoch.")
]
Every = Annotated[
    int, typer.Option("--checkpoint-steps", min=0, help="And after every so many steps.")
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on from the checkpoint, if there is one.")
]
HistoryFile = Annotated[
    str | None, typer.Option("--history", help="Write it to a .json, .csv or .svg file.")
]
Bits = Annotated[int, typer.Option(min=2, max=8, help="Of the integers, with --qat.")]
Freeze = Annotated[
    list[str] | None,
    typer.Option("--freeze", metavar="PATTERN", help="Parameters that stay: 'conv*'. Repeatable."),
]


@app.command()
def train(
    model: Model,
    output: Output,
    data: DataSet,
    validation: Validation = None,
    epochs: Epochs = 10,
    batch_size: BatchSize = 64,
    optimizer: Optimizer = "sgd{momentum=0.9}",
    lr: Rate = 0.05,
    schedule: ScheduleText = "cosine",
    weight_decay: Decay = None,
    loss: LossName = "cross-entropy",
    label_smoothing: Smoothing = 0.0,
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
    """Train a model from the weights it has: taut train zoo:lenet-5 --data mnist:train -o a.taut"""
    run_training(locals())


@app.command()
def finetune(
    model: Model,
    output: Output,
    data: DataSet,
    validation: Validation = None,
    epochs: Epochs = 3,
    batch_size: BatchSize = 64,
    optimizer: Optimizer = "sgd{momentum=0.9}",
    lr: Rate = 0.005,
    schedule: ScheduleText = "cosine",
    weight_decay: Decay = None,
    loss: LossName = "cross-entropy",
    label_smoothing: Smoothing = 0.0,
    clip: Clip = 1.0,
    top: TopK = None,
    augment: Augmentation = None,
    patience: Patience = 0,
    freeze: Freeze = None,
    keep_zeros: Annotated[
        bool, typer.Option("--keep-zeros", help="Weights that are zero, from pruning, stay zero.")
    ] = False,
    qat: Annotated[
        bool, typer.Option("--qat", help="Quantization-aware; an integer program comes of it.")
    ] = False,
    weight_bits: Bits = 8,
    activation_bits: Bits = 8,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", metavar="NAME=VALUE", help="Of quantize-aware, with --qat."),
    ] = None,
    checkpoint: Folder = None,
    checkpoint_steps: Every = 0,
    resume: Resume = False,
    history: HistoryFile = None,
    seed: Seed = 0,
    threads: Threads = None,
    target: Target = "cpu",
    json: AsJson = False,
) -> None:
    """Train a little further, gently: a lower rate, clipped gradients, pruned weights kept zero.

    With --qat weights and activations are rounded to integers of few bits meanwhile, and the file
    written holds the integer program (an .onnx file quantize/dequantize pairs).
    """
    run_training(locals(), keep_zeros=keep_zeros)


def run_training(
    given: dict[str, Any], *, keep_zeros: bool = False, by: Callable[..., Trained] | None = None
) -> None:
    """What the commands do; `given` are their options by name, `by` trains (`taut.train`)."""
    import taut
    from taut.data import load_dataset
    from taut.training import Recipe, Settings, zero_masks
    from taut.training.history import brief

    recipe = Recipe(
        loss=given["loss"], optimizer=given["optimizer"], smoothing=given["label_smoothing"],
        clip=given["clip"], metrics=("accuracy", *(f"top-{k}" for k in given["top"] or ())),
        frozen=tuple(given["freeze"] or ()),
    )  # fmt: skip
    decay = given["weight_decay"]
    if decay is not None:
        recipe = replace(recipe, optimizer=replace(recipe.update, decay=decay))
    names = {"learning_rate": "lr"}
    settings = {name: given[names.get(name, name)] for name in Settings.__dataclass_fields__
                if names.get(name, name) in given}  # fmt: skip
    Settings(**settings)  # refuses what is wrong before anything is loaded
    augment = _augment(given["augment"] or [])
    graph = common.load(given["model"])
    rows, held = _parts(load_dataset(given["data"]), given["validation"], given["seed"])
    tells = not given["json"] and not sys.stderr.isatty()

    def tell(trainer: Any, row: Any) -> None:
        if tells:
            print(f"epoch {row['epoch']:.0f}  {brief(row)}", file=sys.stderr, flush=True)

    options: dict[str, Any] = dict(
        validation=held, recipe=recipe, seed=given["seed"],
        masks=zero_masks(graph, recipe.frozen) if keep_zeros else None, augment=augment,
        threads=given["threads"], target=given["target"], on_epoch=tell, **settings,
    )  # fmt: skip
    if given.get("qat"):
        quantized = taut.quantize_aware(graph, rows, **_quantization(given), **options)
        made = quantized.trained
        exports = given["output"].lower().endswith(".onnx")
        common.write(quantized.graph if exports else quantized.integer, given["output"])
    else:
        made = (by or taut.train)(graph, rows, **options)
        common.write(made.graph, given["output"])
    if given["history"] is not None:
        made.history.save(given["history"])
    _report(made, given)


def _quantization(given: dict[str, Any]) -> dict[str, Any]:
    """What `--qat` takes besides the options of training."""
    from taut.presets import option_value

    made: dict[str, Any] = {k: given[k] for k in ("weight_bits", "activation_bits")}
    for text in given["option"] or []:
        name, equals, value = text.partition("=")
        if not equals:
            raise typer.BadParameter(f"--option wants NAME=VALUE, not {text!a}")
        made[name] = option_value(value)
    return made


def _parts(data: Dataset, validation: str | None, seed: int) -> tuple[Dataset, Dataset | None]:
    """What to train on and what to validate on."""
    from taut.data import load_dataset

    if validation is None:
        return data, None
    try:
        share = int(validation) if validation.isdigit() else float(validation)
    except ValueError:
        return data, load_dataset(validation)
    return data.split(share, seed)


def _augment(texts: list[str]) -> Augment | None:
    from taut.data import chain, flip, shift

    steps = []
    for text in texts:
        name, _, pixels = text.partition("=")
        if text == "flip":
            steps.append(flip)
        elif name == "shift" and pixels.isdigit() and 0 < int(pixels) < 1000:
            steps.append(shift(int(pixels)))
        else:
            raise typer.BadParameter(f"--augment wants flip or shift=PIXELS, not {text!a}")
    return chain(*steps) if steps else None


def _report(made: Trained, given: dict[str, Any]) -> None:
    """The history and what came of it; on stderr where stdout has the graph."""
    output, rows = given["output"], made.history.rows
    facts = {"model": given["model"], "data": given["data"], "output": output,
             "epochs": len(rows), "epoch": made.epoch, "stopped": made.stopped,
             "seconds": sum(r["seconds"] for r in rows), "history": rows}  # fmt: skip
    if given["json"]:
        if output != "-":
            common.show_json(facts)
        return
    to_error = output == "-"
    common.show(made.history, error=to_error)
    early = f"stopped early: {made.stopped}; " if made.stopped else ""
    common.show(common.safe(f"{early}{output}: the weights after epoch {made.epoch}, "
                            f"{facts['seconds']:.1f} s"), error=to_error)  # fmt: skip
