"""Time of a training step, and peak memory, beside PyTorch: the same network, batch and threads.

    python benchmarks/training_speed.py
    python benchmarks/training_speed.py --models resnet-20 --threads 2 --repeats 30

A step is forward, cross-entropy, backward and SGD with momentum, from arrays of a batch that lie
ready. PyTorch runs in its default layout and in channels last; the better counts. All runners of a
row take turns in one process; peak memory takes a process for each. Needs the `torch` extra.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import footprint
import numpy as np
import results
from rich.console import Console
from rich.table import Table
from vs_peers import settle

BATCHES = {"lenet-5": 64, "resnet-20": 128, "mobilenet-v2-cifar": 64}
RUNNERS = ("taut", "torch", "torch channels last")
PER_VISIT = 2
Row = dict[str, Any]
Step = Callable[[], float]


def data(name: str, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """A batch of noise with labels."""
    rng = np.random.default_rng(0)
    shape = (1, 28, 28) if name == "lenet-5" else (3, 32, 32)
    return rng.standard_normal((batch, *shape), np.float32), rng.integers(0, 10, batch)


def taut_step(name: str, batch: int, threads: int) -> Step:
    import taut
    from taut.training import Recipe, Trainer

    trainer = Trainer(taut.load(f"zoo:{name}"), Recipe(metrics=()), threads=threads)
    images, labels = data(name, batch)
    return lambda: trainer.step((images, labels), 1e-3, trusted=True)["loss"]


def torch_step(name: str, batch: int, threads: int, last: bool) -> Step:
    import torch
    from torch_models import MODULES

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    module = MODULES[name]().train()
    images, labels = (torch.from_numpy(a) for a in data(name, batch))
    if last:
        module = module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        images = images.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-3, momentum=0.9)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(module(images), labels)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def step_of(runner: str, name: str, batch: int, threads: int) -> Step:
    if runner == "taut":
        return taut_step(name, batch, threads)
    return torch_step(name, batch, threads, runner != "torch")


def measure(name: str, batch: int, threads: int, repeats: int) -> list[Row]:
    """Milliseconds of each runner's steps, taken in turn."""
    steps = {r: step_of(r, name, batch, threads) for r in RUNNERS}
    taken: dict[str, list[float]] = {r: [] for r in RUNNERS}
    for step in steps.values():
        for _ in range(3):
            loss = step()
            assert np.isfinite(loss)
    for _ in range(-(-repeats // PER_VISIT)):
        for runner, step in steps.items():
            settle()
            step()
            for _ in range(PER_VISIT):
                start = time.perf_counter()
                step()
                taken[runner].append(time.perf_counter() - start)
    return [
        {"model": name, "batch": batch, "threads": threads, "runner": r,
         "median_ms": float(np.median(t)) * 1e3, "best_ms": min(t) * 1e3, "steps": len(t)}
        for r, t in taken.items()
    ]  # fmt: skip


def peak(runner: str, name: str, batch: int, threads: int) -> float:
    """Megabytes that a process grows by at most, over what its imports take, while it trains."""
    if runner == "taut":
        import taut.training  # noqa: F401
    else:
        import torch  # noqa: F401
    before = footprint.resident()
    step = step_of(runner, name, batch, threads)
    for _ in range(3):
        step()
    return (footprint.resident("VmHWM") - before) / 1e6


def main() -> None:
    options = parse()
    name, threads = options.models[0], options.threads[0]
    if options.peak:
        print(peak(options.peak, name, BATCHES[name], threads))
        return
    if options.json:
        print(json.dumps(measure(name, BATCHES[name], threads, options.repeats)))
        return
    console, rows = Console(), []
    for name in options.models:
        for threads in options.threads:
            rows += row(name, threads, options.repeats)
    show(console, rows)
    console.print(f"written to {results.write('training-speed', rows, repeats=options.repeats)}")


def row(name: str, threads: int, repeats: int) -> list[Row]:
    """Each runner's figures, from processes of their own."""
    arguments = ["--models", name, "--threads", str(threads)]
    made = json.loads(_child([*arguments, "--repeats", str(repeats), "--json"]))
    for found in made:
        found["peak_mb"] = float(_child([*arguments, "--peak", found["runner"]]))
    return made


def _child(arguments: list[str]) -> str:
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True,
                          check=False)  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout.strip().splitlines()[-1]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Training steps beside PyTorch")
    parser.add_argument("--models", nargs="+", default=list(BATCHES), choices=list(BATCHES))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--json", action="store_true", help="measure here, print rows")
    parser.add_argument("--peak", choices=RUNNERS, help="print one runner's peak memory")
    return parser.parse_args()


def show(console: Console, rows: list[Row]) -> None:
    """Medians, memory, and the better PyTorch's ratio to ours."""
    table = Table("model", "batch", "threads", *(f"{r} ms" for r in RUNNERS), "torch / taut",
                  *(f"{r} MB" for r in RUNNERS), title="a training step, median")  # fmt: skip
    keys = dict.fromkeys((r["model"], r["batch"], r["threads"]) for r in rows)
    for key in keys:
        found = {r["runner"]: r for r in rows if (r["model"], r["batch"], r["threads"]) == key}
        times = [found[r]["median_ms"] for r in RUNNERS]
        memory = [f"{found[r]['peak_mb']:.0f}" for r in RUNNERS]
        table.add_row(*map(str, key), *(f"{t:.1f}" for t in times),
                      f"{min(times[1:]) / times[0]:.2f}x", *memory)  # fmt: skip
    console.print(table)


if __name__ == "__main__":
    main()
