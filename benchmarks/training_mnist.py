"""LeNet-300-100 and LeNet-5 trained on MNIST by compiled steps: test error and time.

    python benchmarks/training_mnist.py                     # both, three seeds
    python benchmarks/training_mnist.py --nets lenet-5 --seeds 1 --epochs 2

60,000 images to train with, 10,000 to test, no choice by the test set: the error is that after the
last epoch. LeNet-300-100 sees the images as they are, LeNet-5 moved by up to 2 pixels (as they are
it comes to 0.9 %); labels are smoothed. The bars are the baselines that "Deep Compression" (S. Han,
H. Mao and W. Dally, 2016) starts from.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import results

import taut
from taut.data import mnist, shift


@dataclass(frozen=True)
class Net:
    """A network of the zoo, its bar (test error in percent) and how it is trained."""

    name: str
    bar: float
    epochs: int
    rate: float
    smoothing: float
    shift: int = 0


NETS = (Net("lenet-300-100", 1.64, 20, 0.1, 0.1), Net("lenet-5", 0.80, 12, 0.02, 0.05, 2))
RECIPE: dict[str, Any] = {"optimizer": "sgd{momentum=0.9 decay=0.0005}", "schedule": "cosine",
                          "batch_size": 64}  # fmt: skip


def run(net: Net, epochs: int, seed: int, threads: int) -> tuple[float, float, float]:
    """(test error in percent, seconds in all, milliseconds a step)"""
    train, test = mnist("train"), mnist("test")
    start = time.perf_counter()
    made = taut.train(
        taut.load(f"zoo:{net.name}{{seed={seed}}}"), train, epochs=epochs, learning_rate=net.rate,
        smoothing=net.smoothing, augment=shift(net.shift) if net.shift else None, seed=seed,
        threads=threads, progress=False, **RECIPE,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    quickest = min(r["seconds"] for r in made.history.rows)
    steps = -(-len(train) // RECIPE["batch_size"])
    error = 100 * (1 - made.trainer.evaluate(test)["accuracy"])
    return error, seconds, 1e3 * quickest / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--nets", nargs="+", default=[n.name for n in NETS])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=0, help="in place of each network's own")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    rows = []
    print(f"{'network':16}{'error %':>9}{'bar':>6}  each seed{'':17}{'s':>7}{'ms/step':>9}")
    for net in (n for n in NETS if n.name in options.nets):
        epochs = options.epochs or net.epochs
        found = [run(net, epochs, s, options.threads) for s in range(options.seeds)]
        errors, seconds, steps = (list(v) for v in zip(*found))
        row = {
            "model": net.name, "threads": options.threads, "batch": RECIPE["batch_size"],
            "epochs": epochs, "learning_rate": net.rate, "smoothing": net.smoothing,
            "shift": net.shift, "bar": net.bar, "errors": errors,
            "mean_error": float(np.mean(errors)), "seconds": seconds, "step_ms": steps,
        }  # fmt: skip
        rows.append(row)
        each = " ".join(f"{e:.2f}" for e in errors)
        print(f"{net.name:16}{row['mean_error']:9.3f}{net.bar:6.2f}  {each:26}"
              f"{np.mean(seconds):7.0f}{min(steps):9.2f}", flush=True)  # fmt: skip
    print(results.write("training", rows, **RECIPE))


if __name__ == "__main__":
    main()
