"""What distillation gains on MNIST: students trained alone and next to a teacher.

`mlp` is the experiment of G. Hinton, O. Vinyals and J. Dean, "Distilling the knowledge in a neural
network" (2015), section 3, in kind: a teacher of two layers of 1200 units, trained with dropout and
images moved by up to two pixels; students of two layers of 30 units, whose images are not moved.
`cnn` teaches a convolutional student of at least ten times fewer multiply-accumulates.

Every student of an experiment has the same epochs, rates and first weights of its seed. Gradients
are clipped to a norm of 1: those of softened scores are several times larger, and without it one
of three convolutional students broke down. Errors are those of the 10,000 test images. All train on
the first 10,000 images unless told otherwise, since what a teacher adds shows more where labels are
few. Teachers and what they answered are kept in `--work`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import results
from rich.console import Console
from rich.table import Table
from taut.frontends.builder import Network
from taut.frontends.zoo import zoo
from taut.ir import Graph
from taut.ir.analysis.cost import graph_cost

import taut
from taut.data import Dataset, mnist, shift

ALONE = "alone"


@dataclass(frozen=True)
class Experiment:
    """`kinds` are what `taut.distill` takes, by the name that is shown."""

    name: str
    teacher: Callable[[int], Graph]
    student: Callable[[int], Graph]
    kinds: dict[str, dict[str, Any]]
    teacher_options: dict[str, Any]
    options: dict[str, Any]


def layers(units: int, seed: int, dropout: float = 0.0) -> Graph:
    """Two layers of ReLUs, and scores."""
    net = Network(seed=seed)
    x = net.flatten(net.input("image", (1, 28, 28)))
    for i in (1, 2):
        x = net.relu(net.linear(x, units, name=f"fc{i}"), name=f"relu{i}")
        x = net.dropout(x, dropout, name=f"dropout{i}") if dropout else x
    return net.outputs(scores=net.classifier(x, 10))


EXPERIMENTS = (
    Experiment(
        "mlp", lambda seed: layers(1200, seed, 0.5), lambda seed: layers(30, seed),
        {
            "response": {"kind": "response{temperature=4.0}"},
            "relation": {"kind": "relation{distance=25.0 angle=50.0}"},
            "hint": {"kind": "hint{weight=0.1 layers=[relu1]}"},
        },
        {"epochs": 15, "batch_size": 64, "learning_rate": 0.03, "augment": shift(2)},
        {"epochs": 15, "batch_size": 64, "learning_rate": 0.02, "clip": 1.0},
    ),
    Experiment(
        "cnn", lambda seed: zoo("lenet-5", seed=seed),
        lambda seed: zoo("lenet-5", width=0.2, seed=seed),
        {
            "response": {"kind": "response{temperature=4.0}"},
            "relation": {"kind": "relation{distance=25.0 angle=50.0}"},
            "attention": {"kind": "attention{weight=0.3 layers=[conv2]}"},
        },
        {"epochs": 8, "batch_size": 64, "learning_rate": 0.02, "augment": shift(2)},
        {"epochs": 15, "batch_size": 64, "learning_rate": 0.02, "clip": 1.0},
    ),
)  # fmt: skip


def errors(graph: Graph, test: Dataset, threads: int) -> int:
    """Wrong answers among the test images."""
    program = taut.compile(graph, threads=threads)
    found = [next(iter(program(x).values())).argmax(1) for x in test.inputs(1000)]
    return int(np.sum(np.concatenate(found) != test.labels))


def taught(experiment: Experiment, data: Dataset, work: Path, threads: int) -> Graph:
    """The experiment's teacher, trained once."""
    path = work / f"{experiment.name}-teacher-{len(data)}.taut"
    if not path.exists():
        work.mkdir(parents=True, exist_ok=True)
        made = taut.train(experiment.teacher(0), data, schedule="cosine", threads=threads,
                          **experiment.teacher_options)  # fmt: skip
        taut.save(made.graph, path)
    return taut.load(path)


def run(
    experiment: Experiment, data: Dataset, test: Dataset, args: argparse.Namespace
) -> list[dict[str, Any]]:
    teacher = taught(experiment, data, args.work, args.threads)
    macs = [graph_cost(g, {"batch": 1}).macs for g in (teacher, experiment.student(0))]
    rows = [{"runner": "teacher", "errors": [errors(teacher, test, args.threads)],
             "macs": macs[0]}]  # fmt: skip
    print(f"{experiment.name} teacher: {rows[0]['errors'][0]} errors", flush=True)
    for name in args.kinds or (ALONE, *experiment.kinds):
        started, found = time.perf_counter(), []
        for seed in range(args.seeds):
            found.append(errors(_student(experiment, name, teacher, data, seed, args), test,
                                args.threads))  # fmt: skip
            print(f"{experiment.name} {name}, seed {seed}: {found[-1]} errors", flush=True)
        rows.append({"runner": name, "errors": found, "macs": macs[1],
                     "seconds": (time.perf_counter() - started) / args.seeds})  # fmt: skip
    return [{"model": f"mnist-{experiment.name}", **r, "mean": float(np.mean(r["errors"]))}
            for r in rows]  # fmt: skip


def _student(
    experiment: Experiment, name: str, teacher: Graph, data: Dataset, seed: int,
    args: argparse.Namespace,
) -> Graph:  # fmt: skip
    options = {"schedule": "cosine", "threads": args.threads, "seed": seed, **experiment.options}
    student = experiment.student(seed)
    if name == ALONE:
        return taut.train(student, data, **options).graph
    return taut.distill(student, teacher, data, folder=args.work, **experiment.kinds[name],
                        **options).graph  # fmt: skip


def show(rows: list[dict[str, Any]]) -> Table:
    """Errors, and the share of the gap between the student alone and the teacher that is closed."""
    table = Table("experiment", "how", "errors", "mean", "gap closed", "MACs", "seconds a run")
    mean = {(r["model"], r["runner"]): r["mean"] for r in rows}
    for r in rows:
        alone, best = mean.get((r["model"], ALONE)), mean[r["model"], "teacher"]
        known = alone is not None and alone != best
        closed = f"{(alone - r['mean']) / (alone - best):.0%}" if known else ""
        table.add_row(r["model"], r["runner"], ", ".join(map(str, r["errors"])), f"{r['mean']:.1f}",
                      closed, f"{r['macs']:,}", f"{r.get('seconds', 0):.0f}")  # fmt: skip
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawTextHelpFormatter)  # fmt: skip
    parser.add_argument("--experiments", nargs="*", default=[e.name for e in EXPERIMENTS])
    parser.add_argument("--kinds", nargs="*", help="alone and kinds of the experiment; all")
    parser.add_argument("--images", type=int, default=10_000, help="of the 60,000 to train with")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path(".cache/distillation"))
    args = parser.parse_args()
    data, test = mnist("train")[: args.images], mnist("test")
    rows = []
    for experiment in EXPERIMENTS:
        if experiment.name in args.experiments:
            rows += run(experiment, data, test, args)
    Console(width=120).print(show(rows))
    print("written to", results.write("distillation", rows, images=args.images,
                                      seeds=args.seeds, threads=args.threads))  # fmt: skip


if __name__ == "__main__":
    main()
