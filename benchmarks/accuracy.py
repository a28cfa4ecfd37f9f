"""How close int8 stays to float: ours against NNCF and onnxruntime, on the same calibration inputs.

    SQNR = 10 log10(sum ref^2 / sum (ref - int8)^2)

over the logits (before a last softmax or sigmoid) of many inputs that were not calibrated on. The
reference is the float model in onnxruntime. NNCF's models run in OpenVINO with float32 for what
stays float.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass

import models
import numpy as np
import peers
import results
import sentences
from rich.console import Console
from rich.table import Table

from taut import samples

COUNTS = {
    "efficientnet-lite0": 200, "orientation": 500, "ocr-det": 20, "ocr-rec": 100,
    "minilm-128": 200,
}  # fmt: skip
PEERS = ("ov-int8", "ov-int8-mixed", "ort-int8")


@dataclass(frozen=True)
class Accuracy:
    """One runtime on one model; `agreement` and `task` are fractions, `task` by the labels."""

    model: str
    runner: str
    sqnr_db: float
    agreement: float
    task: float
    worst_db: float


Score = Callable[[np.ndarray], tuple[np.ndarray, float]]


def scorer(name: str, count: int) -> tuple[np.ndarray, Score]:
    """Held-out inputs, and a function from all logits to (decisions, how many are right)."""
    if name == "ocr-rec":
        x, texts = samples.ocr_strings(count, seed=2)
        alphabet = samples.characters(samples.fetch(name))

        def read(logits: np.ndarray) -> tuple[np.ndarray, float]:
            found = samples.decode(logits, alphabet)
            return logits.argmax(-1), sum(map(str.__eq__, found, texts)) / count

        return x, read
    if name == "ocr-det":
        x, masks = samples.ocr_pages(count, seed=2)

        def inside(logits: np.ndarray) -> tuple[np.ndarray, float]:
            found = logits[:, 0] > 0
            return found, float((found & masks).sum() / max(1, found.sum()))

        return x, inside
    if name.startswith("minilm"):
        x, topics = sentences.batch(count, int(name.partition("-")[2]), seed=2)

        def nearest(embeddings: np.ndarray) -> tuple[np.ndarray, float]:
            alike = embeddings @ embeddings.T - 2 * np.eye(count)
            found = alike.argmax(-1)
            return found, float((topics[found] == topics).mean())

        return x, nearest
    draw = samples.pictures if name == "efficientnet-lite0" else samples.orientation_lines
    x, labels = draw(count, seed=2)

    def classify(logits: np.ndarray) -> tuple[np.ndarray, float]:
        return logits.argmax(-1), float((logits.argmax(-1) == labels).mean())

    return x, classify


def sqnr(reference: np.ndarray, value: np.ndarray) -> float:
    reference, value = reference.astype(np.float64), value.astype(np.float64)
    noise = float(((reference - value) ** 2).sum())
    return 10 * np.log10(float((reference**2).sum()) / noise) if noise else float("inf")


def measure(name: str, runners: list[peers.Runner], count: int) -> list[Accuracy]:
    """The float model first, then each of `runners`, on `count` inputs."""
    model = models.model(name, logits=True)
    x, score = scorer(name, count)
    reference, decisions, rows = np.empty(0), np.empty(0), []
    for runner in [peers.OnnxRuntime(), *runners]:
        runner.prepare(model, threads=2)
        feeds = [{model.inputs[0]: x[k : k + 1]} for k in range(count)]
        logits = np.concatenate([np.array(runner.run(feed)[0]) for feed in feeds])
        found, task = score(logits)
        if not rows:
            reference, decisions = logits, found
        each = [sqnr(reference[k], logits[k]) for k in range(count)]
        agreement = float((found == decisions).mean())
        total = sqnr(reference, logits)
        rows.append(Accuracy(name, runner.name, total, agreement, task, min(each)))
    return rows


def show(console: Console, rows: list[Accuracy]) -> None:
    table = Table(title=f"{rows[0].model}: logits against float")
    for heading in ("runner", "SQNR dB", "worst input", "same decision", "right"):
        table.add_column(heading, justify="left" if heading == "runner" else "right")
    for r in rows:
        quality = [f"{r.sqnr_db:.2f}", f"{r.worst_db:.1f}"]
        table.add_row(r.runner, *quality, f"{r.agreement:.2%}", f"{r.task:.2%}")
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--models", nargs="+", default=models.TRAINED, choices=models.TRAINED)
    parser.add_argument("--runners", nargs="+", default=PEERS, choices=list(peers.PEERS))
    parser.add_argument("--only-peers", action="store_true", help="leave Taut out")
    parser.add_argument("--calibrate", nargs="+", default=["percentile"], help="Taut's methods")
    parser.add_argument("--count", type=int, help="held-out inputs (default: by model)")
    options = parser.parse_args()
    console, rows = Console(), []
    for name in options.models:
        runners = [peers.PEERS[r]() for r in options.runners]
        if not options.only_peers:
            from ours import TautInt8

            for method in options.calibrate:
                ours = TautInt8()
                ours.calibrate, ours.name = method, f"taut-int8 {method}"
                runners.append(ours)
        found = measure(name, runners, options.count or COUNTS[name])
        show(console, found)
        rows += [asdict(r) for r in found]
    console.print(f"written to {results.write('accuracy', rows)}")


if __name__ == "__main__":
    main()
