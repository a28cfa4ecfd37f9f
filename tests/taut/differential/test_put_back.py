"""The search finds faults that were real, in its default budget, narrowed to their op."""

from __future__ import annotations

import pytest

pytest.importorskip("onnxruntime")

from put_back import FAULTS, Fault, put_back

from taut.testing import differential


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.slug)
def test_a_fault_put_back_is_found(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    put_back(monkeypatch, fault)
    report = differential.fuzz(
        "onnxruntime", ops=[fault.op], examples=100, seed=fault.seed, most=1, tries=0,
        ask=differential.here, stages=fault.stages, chains=False,
    )  # fmt: skip
    (finding,) = report.findings
    assert finding.stage in fault.stages
