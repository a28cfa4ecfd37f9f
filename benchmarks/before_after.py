"""Two versions of Taut on the models of the table, in one run: is anything slower?

    python benchmarks/before_after.py --before ../old/.venv/bin/python

`--before` is an interpreter in whose environment the other version is installed. Each version has
a process of its own, which prepares the model (float by O2, int8 by quantize) and waits; they are
visited in turn, first one then the other first, a few calls a visit. A ratio is before / after: 1.1
is faster now. The figure is the median of the ratios of neighbouring visits, beside it the ratio
of the best times; a model is held to be slower where both are under 1 - tolerance.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

PRECISIONS = ("f32", "int8")
CALLS = 3  # a visit


def main() -> int:
    import bars
    import results
    from rich.console import Console

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", required=True, help="the other version's interpreter")
    parser.add_argument("--models", nargs="+", default=list(bars.MODELS), choices=bars.MODELS)
    parser.add_argument("--precisions", nargs="+", default=PRECISIONS, choices=PRECISIONS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--visits", type=int, default=30)
    parser.add_argument("--tolerance", type=float, default=0.02)
    given = parser.parse_args()
    console, rows = Console(), []
    for model in given.models:
        for precision in given.precisions:
            job = [model, precision, str(given.threads)]
            row = compare([given.before, sys.executable], job, given.visits)
            row["slower"] = max(row["ratio"], row["best_ratio"]) < 1 - given.tolerance
            rows.append({"model": model, "runner": precision, "threads": given.threads, **row})
            console.print(f"{model:20} {precision:5} before {row['before_ms']:8.3f} ms  "
                          f"after {row['after_ms']:8.3f} ms  ratio {row['ratio']:.3f} "
                          f"(best times {row['best_ratio']:.3f})"
                          + "  SLOWER" * row["slower"])  # fmt: skip
            results.write("before-after", rows, visits=given.visits)
    return int(any(row["slower"] for row in rows))


def compare(interpreters: Sequence[str], job: Sequence[str], visits: int) -> dict[str, Any]:
    """Milliseconds and ratios of one model, the two versions visited in turn."""
    import numpy as np

    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(worker(python, job)) for python in interpreters]
        taken: list[list[float]] = [[], []]
        for visit in range(visits + 2):
            for k in (0, 1) if visit % 2 else (1, 0):
                seconds = ask(workers[k])
                if visit >= 2:
                    taken[k].append(seconds)
    before, after = (1e3 * np.array(t) for t in taken)
    return {
        "before_ms": float(np.median(before)), "after_ms": float(np.median(after)),
        "ratio": float(np.median(before / after)), "best_ratio": float(before.min() / after.min()),
    }  # fmt: skip


@contextlib.contextmanager
def worker(python: str, job: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    command = [python, str(Path(__file__)), "--worker", *job]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        ask(child)
        yield child
    finally:
        child.kill()
        child.wait()


def ask(child: subprocess.Popen[str]) -> float:
    assert child.stdin is not None and child.stdout is not None
    child.stdin.write("\n")
    child.stdin.flush()
    while line := child.stdout.readline():
        if line.startswith("took "):
            return json.loads(line[5:])
    raise SystemExit(f"{' '.join(map(str, child.args))} ended with {child.wait()}")  # type: ignore


def serve(name: str, precision: str, threads: int) -> None:
    """Prepare a model, then answer each line with the median seconds of a few calls."""
    import models
    import numpy as np

    import taut

    model = models.model(name, 1)
    graph = taut.load(model.path)
    if precision == "int8":
        graph = taut.quantize(graph, data=model.calibration(), calibrate="percentile")
    else:
        graph = taut.optimize(graph, "O2")
    program = taut.compile(graph, threads=threads)
    feed = list(model.test(1)[0].values())
    for _ in sys.stdin:
        program(*feed)
        times = []
        for _ in range(CALLS):
            start = time.perf_counter()
            program(*feed)
            times.append(time.perf_counter() - start)
        print("took", float(np.median(times)), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        serve(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        sys.exit(main())
