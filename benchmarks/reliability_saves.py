"""Kills in the middle of saves: what is on the disk is one of the models saved, whole.

A child saves two versions in turn, for ever; it is killed (SIGKILL) at a random moment. Then the
file must load as one of the two, and after one more save nothing else may lie in the folder.
"""

from __future__ import annotations

import os
import random
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from taut.frontends.onnx import export_onnx
from taut.ir import Builder, Graph, TautError

import taut
from taut.training import History, Recipe, Trainer, checkpoint

SIZE = 96  # of the square of weights: some 36 kB a file


class Kind(NamedTuple):
    """One thing that is saved: `save(path, k)` writes version k, `load(path)` tells it (or -1)."""

    name: str
    file: str
    files: int
    save: Callable[[Path, int], None]
    load: Callable[[Path], int]


def network(k: int) -> Graph:
    """y = x (k + 1) * (k + 1), the factor in a large and in a small constant."""
    b = Builder()
    x = b.input("x", "f32", ("n", SIZE))
    weight = np.full((SIZE, SIZE), k + 1, np.float32)
    return b.outputs(y=b.mul(b.mat_mul(x, b.constant(weight, "w")), np.float32(k + 1)))


def version(graph: Graph) -> int:
    y = taut.reference(graph, np.ones((1, SIZE), np.float32))["y"]
    return next((k for k in (0, 1) if (y == SIZE * (k + 1) ** 2).all()), -1)


class _Trainers:
    """Two states of one training run, told apart by their parameters and their history."""

    def __init__(self) -> None:
        b = Builder()
        x = b.input("x", "f32", ("n", 16))
        graph = b.outputs(y=b.gemm(x, np.ones((16, 16), np.float32), np.zeros(16, np.float32)))
        self.trainer = Trainer(graph, Recipe(optimizer="adam"), threads=1)

    def save(self, path: Path, k: int) -> None:
        state = {name: np.full_like(a, k) for name, a in self.trainer.state.items()}
        self.trainer.load_state(state, k)
        history = History([{"epoch": float(k)}])
        checkpoint.save(path.parent, self.trainer, checkpoint.Position(k, 0, history=history), {})

    def load(self, path: Path) -> int:
        found = checkpoint.load(path.parent, self.trainer, {})
        if found is None:
            return -1
        k = found.epoch
        same = all((a == k).all() for a in self.trainer.state.values())
        return k if same and found.history.rows[0]["epoch"] == k else -1


def kinds() -> list[Kind]:
    runs = _Trainers()

    def onnx(path: Path, k: int, external: int = 1 << 30) -> None:
        export_onnx(network(k), path, external_bytes=external)

    def graph(path: Path) -> int:
        return version(taut.load(path))

    return [
        Kind("IR text with its constants", "m.ir", 2, lambda p, k: taut.save(network(k), p), graph),
        Kind("container", "m.taut", 1, lambda p, k: taut.save(network(k), p), graph),
        Kind("ONNX", "m.onnx", 1, onnx, graph),
        Kind("ONNX with external data", "m.onnx", 2, lambda p, k: onnx(p, k, 100), graph),
        Kind("checkpoint", checkpoint.FILE, 1, runs.save, runs.load),
    ]


def kills(count: int, seed: int, report: Callable[[str], None] = print) -> dict[str, Any]:
    """Kill `count` savers, the kinds of files in turn."""
    start, rng = time.perf_counter(), random.Random(seed)
    every = kinds()
    wrong: list[str] = []
    for i in range(count):
        kind = every[i % len(every)]
        with tempfile.TemporaryDirectory() as folder:
            reason = _kill(kind, Path(folder), rng)
        if reason:
            wrong.append(f"{kind.name}: {reason}")
            report(wrong[-1])
    return {"name": "kills in saves and checkpoints", "tried": count, "wrong": len(wrong),
            "signals": 0, "hangs": 0, "seconds": time.perf_counter() - start}  # fmt: skip


def _kill(kind: Kind, folder: Path, rng: random.Random) -> str:
    """What is wrong after one kill, or nothing."""
    path = folder / kind.file
    kind.save(path, 0)
    child = os.fork()
    if child == 0:
        k = 1
        while True:
            kind.save(path, k)
            k = 1 - k
    time.sleep(rng.uniform(0.001, 0.05))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    try:
        if kind.load(path) not in (0, 1):
            return "is a mixture of two saves"
    except TautError as error:
        return f"does not load ({error})"
    kind.save(path, 1)
    left = sorted(p.name for p in folder.iterdir())
    if len(left) != kind.files or kind.load(path) != 1:
        return f"the next save leaves {left}"
    return ""


if __name__ == "__main__":
    print(kills(200, 0))
