"""Taut as one more runner."""

from __future__ import annotations

from typing import Any

import models
import numpy as np
from peers import Runner

import taut


class TautFloat(Runner):
    """Taut, float32: the O2 pipeline and its own kernels."""

    name = "taut-f32"

    def prepare(self, model: models.Model, threads: int) -> None:
        api: Any = taut
        self.graph = self.transform(api, api.load(model.path), model)
        self.program = api.compile(self.graph, target="cpu", threads=threads)

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


OURS: dict[str, type[Runner]] = {r.name: r for r in (TautFloat, TautInt8)}
