"""The whole table: every model, batch, thread count and load, beside the peers, against its bars.

    python benchmarks/table.py                 # everything; says beforehand how long it takes
    python benchmarks/table.py --models resnet50 minilm-128 --batches 1 --threads 2
    python benchmarks/table.py --quick         # does it run at all? (figures mean nothing)
    python benchmarks/table.py --show results/table-....json [--markdown]

Each (model, batch, threads) is measured in a process of its own (`row.py`), all runners in turn;
start-up and memory (`footprint.py`) take a process for each runner and start. Results are written
after every process, so an interrupted run keeps what it has, and a later one on the same day adds
to it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bars
import results
import show
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

HERE = Path(__file__).parent
RUNNERS = {
    "int8": ("taut-int8", "ort-int8", "ov-int8"),
    "f32": ("taut-f32", "ort-f32", "ov-f32"),
}
GOP = {
    "resnet50": 8.2, "squeezenet": 0.7, "shufflenet": 0.25, "densenet121": 5.7,
    "efficientnet-lite0": 0.8, "ocr-det": 4.6, "ocr-rec": 1.2, "minilm-16": 0.4,
    "minilm-128": 2.9, "minilm-512": 13.0,
}  # fmt: skip  # for the estimate of time only

Row = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """A process (or a few) to run: its rows, what to call it, and about how long it takes."""

    name: str
    seconds: float
    run: Callable[[], list[Row]]


def main() -> None:
    options = parse()
    console = Console()
    if options.show:
        rows = json.loads(options.show.read_text())["rows"]
        show.everything(console, rows, options.markdown)
        return
    jobs = list(plan(options))
    busy = os.getloadavg()[0]
    if busy > 0.5 * (os.cpu_count() or 1):
        console.print(f"[yellow]the machine is busy (load {busy:.1f}): rows called idle are not")
    total = sum(job.seconds for job in jobs)
    console.print(f"{len(jobs)} steps, about {total / 60:.0f} minutes, more where peers' files "
                  "have yet to be quantized")  # fmt: skip
    rows: list[Row] = []
    path: Path | None = None
    with progress(console) as bar:
        task = bar.add_task("table", total=len(jobs), what="")
        for job in jobs:
            bar.update(task, what=job.name)
            rows += job.run()
            path = results.write("quick" if options.quick else "table", rows,
                                 repeats=options.repeats)  # fmt: skip
            bar.advance(task)
    show.everything(console, rows)
    console.print(f"written to {path}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Taut beside its peers, against its bars")
    parser.add_argument("--models", nargs="+", default=list(bars.MODELS), choices=bars.MODELS)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--loads", nargs="+", default=[bars.IDLE, bars.BUSY],
                        choices=[bars.IDLE, bars.BUSY])  # fmt: skip
    parser.add_argument("--precisions", nargs="+", default=list(RUNNERS), choices=list(RUNNERS))
    parser.add_argument("--products", nargs="*", type=int, default=[1024, 4096],
                        help="sizes of the large int8 products")  # fmt: skip
    parser.add_argument("--repeats", type=int, default=30, help="counted calls, at least 30")
    parser.add_argument("--no-footprint", action="store_true", help="no memory and start-up")
    parser.add_argument("--only-footprint", action="store_true", help="memory and start-up only")
    parser.add_argument("--timeout", type=int, default=3600, help="seconds for one process")
    parser.add_argument("--quick", action="store_true", help="a smoke test: 3 calls, batch 1")
    parser.add_argument("--show", type=Path, help="print a results file, measure nothing")
    parser.add_argument("--markdown", action="store_true", help="--show as Markdown")
    options = parser.parse_args()
    if options.quick:
        options.repeats, options.batches = 3, [1]
    elif options.repeats < 30:
        parser.error("--repeats: at least 30, or medians mean little")
    return options


def progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
               TimeRemainingColumn(), TextColumn("{task.fields[what]}"))  # fmt: skip
    return Progress(*columns, console=console)


def plan(options: argparse.Namespace) -> Iterator[Job]:
    """The steps in order: a model's rows, then its footprint."""
    runners = [r for p in options.precisions for r in RUNNERS[p]]
    for name in options.models:
        for batch in [] if options.only_footprint else options.batches:
            for threads in options.threads:
                yield _row_job(name, batch, threads, runners, options)
        for runner in [] if options.no_footprint else runners:
            yield _footprint_job(name, runner, max(options.threads), options.timeout)
    for size in [] if options.only_footprint else options.products:
        for threads in options.threads:
            yield _product_job(size, threads, options)


def _row_job(
    name: str, batch: int, threads: int, runners: list[str], options: argparse.Namespace
) -> Job:
    # About 80 G float and 300 G int8 operations a second a thread, six calls for each three
    # that are counted, 60 ms a visit until threads are asleep.
    call = GOP.get(name, 0.05) * batch / threads / 80
    visits = options.repeats / 3 * len(options.loads) * len(runners)
    seconds = 20 + visits * (0.06 + 6 * 0.7 * call)
    settings = ["--batch", batch, "--threads", threads, "--repeats", options.repeats,
                "--loads", *options.loads, "--runners", *runners]  # fmt: skip

    def run() -> list[Row]:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "rows.json"
            why = call_script("row.py", [name, out, *settings], options.timeout)[1]
            if out.exists():
                return json.loads(out.read_text())
        known = {"model": name, "batch": batch, "threads": threads, "error": why}
        return [known | {"load": n, "runner": r} for n in options.loads for r in runners]

    return Job(f"{name}, batch {batch}, threads {threads}", seconds, run)


def _product_job(size: int, threads: int, options: argparse.Namespace) -> Job:
    seconds = 1 if options.quick else 20

    def run() -> list[Row]:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "rows.json"
            given = ["--sizes", size, "--threads", threads, "--seconds", seconds, "--out", out]
            why = call_script("products.py", given, options.timeout)[1]
            if out.exists():
                return json.loads(out.read_text())
        return [{"model": f"product-{size}", "batch": 1, "threads": threads, "load": bars.IDLE,
                 "runner": "taut-int8", "error": why}]  # fmt: skip

    return Job(f"product of {size} cubed, threads {threads}", seconds + 10.0, run)


def _footprint_job(name: str, runner: str, threads: int, timeout: int) -> Job:
    def run() -> list[Row]:
        row: Row = {"model": name, "batch": 1, "threads": threads, "load": "start",
                    "runner": runner}  # fmt: skip
        given: list[object] = [name, runner, "--threads", threads]
        call_script("footprint.py", [*given, "--files"], timeout)
        with tempfile.TemporaryDirectory() as folder:
            for start in ("cold", "warm"):
                text, why = call_script("footprint.py", given, timeout, TAUT_CACHE_DIR=folder)
                if why:
                    return [row | {"error": why}]
                row[start] = json.loads(text.splitlines()[-1])
        return [row]

    return Job(f"{name}, start-up of {runner}", 25.0, run)


def call_script(
    script: str, arguments: Sequence[object], timeout: int, **environment: str
) -> tuple[str, str]:
    """(output, why it failed or "") of one of the scripts beside this one."""
    command = [sys.executable, str(HERE / script), *map(str, arguments)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout,
            env={**os.environ, **environment},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return "", f"not done after {timeout} s"
    if done.returncode == 0:
        return done.stdout, ""
    last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    return done.stdout, last[:200]


if __name__ == "__main__":
    main()
