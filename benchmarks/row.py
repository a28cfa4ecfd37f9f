"""One model at one batch size and thread count: all runners in this process, taken in turn.

Writes a JSON list to the file given: a row for each load (idle, busy) and runner.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import models
import numpy as np
import peers
from bars import BUSY, IDLE
from neighbour import busy
from vs_peers import make, settle, time_in_turn

Row = dict[str, Any]


def prepare(
    names: list[str], model: models.Model, threads: int
) -> tuple[list[peers.Runner], dict[str, str]]:
    """(runners that answered once, why the others did not)."""
    ready: list[peers.Runner] = []
    failed: dict[str, str] = {}
    for name in names:
        try:
            runner = make(name)
            runner.prepare(model, threads)
            runner.run(model.test(1)[0])
            ready.append(runner)
        except Exception as error:  # one runner that fails must not end the comparison
            failed[name] = f"{type(error).__name__}: {str(error).strip()[:200]}"
    return ready, failed


def measure(
    runners: list[peers.Runner], model: models.Model, loads: list[str], repeats: int
) -> list[Row]:
    """Milliseconds of each runner under each load."""
    feed, rows = model.test(1)[0], []
    for load in loads:
        settle()
        with busy(load == BUSY):
            taken = time_in_turn(runners, feed, repeats, warm_up=5)
        rows += [{"load": load, "runner": name, **spread(taken[name])} for name in taken]
    return rows


def spread(seconds: list[float]) -> Row:
    low, middle, high = (1e3 * float(v) for v in np.percentile(seconds, [25, 50, 75]))
    return {
        "median_ms": middle,
        "best_ms": 1e3 * min(seconds),
        "quartiles": [low, high],
        "calls": len(seconds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="One row of the table")
    parser.add_argument("model")
    parser.add_argument("out", type=Path)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--loads", nargs="+", default=[IDLE, BUSY])
    parser.add_argument("--runners", nargs="+", required=True)
    parser.add_argument("--repeats", type=int, default=30)
    options = parser.parse_args()
    model = models.model(options.model, options.batch)
    ready, failed = prepare(options.runners, model, options.threads)
    rows = measure(ready, model, options.loads, options.repeats)
    rows += [{"load": n, "runner": r, "error": why} for n in options.loads
             for r, why in failed.items()]  # fmt: skip
    known = {"model": model.name, "batch": options.batch, "threads": options.threads}
    options.out.write_text(json.dumps([known | {"gop": 2e-9 * model.macs} | row for row in rows]))


if __name__ == "__main__":
    main()
