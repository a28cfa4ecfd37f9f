"""Latency of Taut, onnxruntime and OpenVINO, float and int8, taken in turn in one process.

Every round visits each runner once: a wait until the last runner's threads have stopped spinning,
calls that are not counted (they wake the runner's threads and bring its weights back into the
caches: three, or fewer once 50 ms have gone by), then three that are. So a busy neighbour or a
change of clock speed meets all runners alike, and nobody is timed against another's spinning.
Ratios are of medians, above 1 where Taut is faster.
"""

from __future__ import annotations

import argparse
import os
import time
from typing import Any

import models
import numpy as np
import peers
import results
from rich.console import Console
from rich.table import Table

PER_VISIT = 3


def settle(limit: float = 0.5) -> None:
    """Sleep until this process uses next to no processor time: all worker threads are asleep."""
    end = time.perf_counter() + limit
    while time.perf_counter() < end:
        before = time.process_time()
        time.sleep(0.01)
        if time.process_time() - before < 0.001:
            return


def machine_roof(threads: int) -> float | None:
    """The machine's measured int8 dot-product rate in giga-operations per second."""
    try:
        from roof import measure_roof  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    return float(measure_roof(threads))


def time_in_turn(
    runners: list[peers.Runner], feed: models.Feed, repeats: int, warm_up: int
) -> dict[str, list[float]]:
    """Seconds of each counted call, by runner."""
    for runner in runners:
        for _ in range(warm_up):
            runner.run(feed)
    taken: dict[str, list[float]] = {r.name: [] for r in runners}
    for _ in range(-(-repeats // PER_VISIT)):
        for runner in runners:
            settle()
            _wake(runner, feed)
            for _ in range(PER_VISIT):
                start = time.perf_counter()
                runner.run(feed)
                taken[runner.name].append(time.perf_counter() - start)
    return taken


def _wake(runner: peers.Runner, feed: models.Feed) -> None:
    end = time.perf_counter() + 0.05
    for _ in range(PER_VISIT):
        runner.run(feed)
        if time.perf_counter() > end:
            return


def bench(
    model: models.Model, names: list[str], threads: int, repeats: int, roof: float | None
) -> list[dict[str, Any]]:
    """One row for each runner: milliseconds, ratios, share of the roof, or why it failed."""
    rows: dict[str, dict[str, Any]] = {}
    ready: list[peers.Runner] = []
    for name in names:
        row = rows[name] = {"model": model.name, "runner": name, "batch": model.batch}
        try:
            runner = make(name)
            start = time.perf_counter()
            runner.prepare(model, threads)
            row["prepare_s"] = time.perf_counter() - start
            runner.run(model.test(1)[0])
            ready.append(runner)
        except Exception as error:  # one runner that fails must not end the comparison
            row["error"] = f"{type(error).__name__}: {str(error).strip()[:200]}"
    for name, seconds in time_in_turn(ready, model.test(1)[0], repeats, warm_up=10).items():
        median = float(np.median(seconds))
        spread = [float(v) * 1e3 for v in np.percentile(seconds, [25, 75])]
        rows[name] |= {
            "median_ms": median * 1e3,
            "best_ms": min(seconds) * 1e3,
            "quartiles": spread,
        }
        if roof:
            rows[name] |= {"roof_gops": roof, "roof_share": 2 * model.macs / median / 1e9 / roof}
    ours = rows.get("taut-int8", {}).get("median_ms")
    for row in rows.values():
        if ours and "median_ms" in row:
            row["ours_is_faster_by"] = row["median_ms"] / ours
    return list(rows.values())


def make(name: str) -> peers.Runner:
    if name in peers.PEERS:
        return peers.PEERS[name]()
    from ours import OURS

    return OURS[name]()


def show(console: Console, model: models.Model, rows: list[dict[str, Any]]) -> None:
    size = f"{2 * model.macs / 1e9:.2f} GOP, batch {model.batch}"
    table = Table(title=f"{model.name} ({size})")
    table.add_column("runner")
    for heading in ("median ms", "best ms", "quartiles", "of roof", "theirs/ours"):
        table.add_column(heading, justify="right")
    for row in rows:
        if "error" in row:
            table.add_row(row["runner"], row["error"])
            continue
        low, high = row["quartiles"]
        share = f"{row['roof_share']:.1%}" if "roof_share" in row else "-"
        ratio = f"{row['ours_is_faster_by']:.2f}x" if "ours_is_faster_by" in row else "-"
        times = [f"{row['median_ms']:.2f}", f"{row['best_ms']:.2f}", f"{low:.2f}..{high:.2f}"]
        table.add_row(row["runner"], *times, share, ratio)
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description="Taut beside onnxruntime and OpenVINO")
    parser.add_argument("--models", nargs="+", default=models.DEFAULT, choices=models.NAMES)
    parser.add_argument("--runners", nargs="+", default=peers.DEFAULT, choices=list(peers.PEERS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--only-peers", action="store_true", help="leave Taut out")
    parser.add_argument("--no-float", action="store_true", help="leave Taut's float32 out")
    options = parser.parse_args()
    if options.repeats < 30:
        parser.error("--repeats: at least 30, or medians mean little")
    ours = [] if options.only_peers else ["taut-int8", "taut-f32"][: 1 if options.no_float else 2]
    console, rows = Console(), []
    load = os.getloadavg()[0]
    if load > 0.5 * (os.cpu_count() or 1):
        console.print(f"[yellow]the machine is busy (load {load:.1f}): trust no ratio but of bests")
    roof = machine_roof(options.threads)
    if roof:
        console.print(f"dot-product roof, {options.threads} threads: {roof:.0f} GOPS")
    for name in options.models:
        model = models.model(name, options.batch)
        names = [*ours, *options.runners]
        found = bench(model, names, options.threads, options.repeats, roof)
        show(console, model, found)
        rows += found
    path = results.write("latency", rows, threads=options.threads, repeats=options.repeats)
    console.print(f"written to {path}")


if __name__ == "__main__":
    main()
