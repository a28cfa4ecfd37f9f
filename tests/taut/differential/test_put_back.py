"""The search finds faults that were real, in its default budget, narrowed to their op."""

from __future__ import annotations

import sys

import pytest

pytest.importorskip("onnxruntime")

import put_back
from put_back import FAULTS, Fault

from taut.testing import differential


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.slug)
def test_a_fault_put_back_is_found(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = differential.Worker(command=[sys.executable, put_back.__file__, fault.slug])
    ask = worker.ask if fault.crashes else differential.here
    if not fault.crashes:
        put_back.put_back(monkeypatch, fault)
    try:
        report = differential.fuzz(
            "onnxruntime", ops=[fault.op], examples=100, seed=fault.seed, most=1, tries=0, ask=ask,
            stages=fault.stages, chains=False,
        )  # fmt: skip
    finally:
        worker.close()
    (finding,) = report.findings
    assert finding.stage in (*fault.stages, *(["crash"] if fault.crashes else []))
