"""Taut as one more runner. Its transformed graph is kept, as the peers' quantized files are."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

import models
import numpy as np
from peers import Runner, cached

import taut


class TautFloat(Runner):
    """Taut, float32: the O2 pipeline and its own kernels."""

    name = "taut-f32"

    def prepare(self, model: models.Model, threads: int) -> None:
        api: Any = taut
        self.graph = api.load(self.file(model))
        self.program = api.compile(self.graph, target="cpu", threads=threads)

    def file(self, model: models.Model) -> Path:
        return cached(model, f"{self.name}-{_passes()}", ".taut", self.write)

    def write(self, model: models.Model, path: Path) -> None:
        api: Any = taut
        api.save(self.transform(api, api.load(model.path), model), path)

    def transform(self, api: Any, graph: Any, model: models.Model) -> Any:
        return api.optimize(graph, "O2")

    def run(self, feed: models.Feed) -> list[np.ndarray]:
        return list(self.program(*feed.values()).values())


class TautInt8(TautFloat):
    """Taut, int8: calibrated on the same inputs as the peers."""

    name = "taut-int8"
    calibrate = "percentile"

    def transform(self, api: Any, graph: Any, model: models.Model) -> Any:
        return api.quantize(graph, data=model.calibration(), calibrate=self.calibrate)


@cache
def _passes() -> str:
    """A digest of what a transformed graph depends on: our sources but the backends'."""
    digest = hashlib.sha256()
    root = Path(__file__).parents[1]
    for folder in ("ir", "passes", "frontends", "taut"):
        for path in sorted((root / folder).rglob("*.py")):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


OURS: dict[str, type[Runner]] = {r.name: r for r in (TautFloat, TautInt8)}
