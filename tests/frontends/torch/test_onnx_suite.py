"""The cases of ONNX's backend suite as modules: what `to_torch` takes, it computes."""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from bridge import torch
from onnx.backend.test.runner import Runner
from taut.frontends.onnx.backend import TautBackend, TautRep
from taut.frontends.torch.tensors import to_array, to_tensor
from taut.ir import UnsupportedError

import taut
from taut.testing import difference

sys.path.insert(0, str(Path(__file__).parents[2] / "conformance"))
from suite import KINDS

LEAST = {"node": 1268, "simple": 3, "converted": 82, "operator": 35}


class TorchRep(TautRep):
    """Runs both and compares. Half precision rounds after each of several steps."""

    counts: ClassVar[Counter[str]] = Counter()
    wrong: ClassVar[list[str]] = []

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        made = super().run(inputs, **kwargs)
        try:
            module = taut.to_torch(self.graph).eval()
            with torch.no_grad():
                got = module(*(to_tensor(np.asarray(x)) for x in inputs))
        except UnsupportedError as error:
            assert error.node is not None
            self.counts[f"refused {error.op}"] += 1
            return made
        except Exception as error:
            self.wrong.append(f"{self.graph.name}: {type(error).__name__}: {error}")
            return made
        for want, name in zip(made, self.graph.output_names):
            half = want.dtype.itemsize == 2 and want.dtype.kind not in "iu"
            bounds = (2e-2, 1e-3) if half else (1e-4, 1e-5)
            reason = difference(want, to_array(got[name]), *bounds)
            if reason is not None:
                self.wrong.append(f"{self.graph.name}, {name}: {reason}")
        self.counts["ran"] += 1
        return made


class TorchBackend(TautBackend):
    target = "reference"

    @classmethod
    def prepare(cls, model: Any, device: str = "CPU", **kwargs: Any) -> TautRep:
        made = super().prepare(model, device, **kwargs)
        return TorchRep(made.graph, made.program)


@pytest.mark.slow
@pytest.mark.parametrize("kind", LEAST)
def test_suite(kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ONNX_HOME", str(tmp_path))
    TorchRep.counts.clear()
    TorchRep.wrong.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        case = Runner(TorchBackend, __name__).test_cases[KINDS[kind]]
        for name in sorted(t for t in vars(case) if t.endswith("_cpu")):
            try:
                getattr(case(name), name)()
            except Exception:  # what the importer refuses is another test's business
                TorchRep.counts["not imported"] += 1
    assert not TorchRep.wrong, "\n".join(TorchRep.wrong)
    assert TorchRep.counts["ran"] >= LEAST[kind], TorchRep.counts
