"""The cases of ONNX's backend suite that must execute and pass, by the manifest.

`python tests/conformance/suite.py --write` adds what newly passes; a case leaves the manifest only
by hand, with a reason in the commit.
"""

from __future__ import annotations

from collections import Counter

import pytest
from suite import KINDS, CountingBackend, cases, execute, manifest
from taut.frontends.onnx.backend import TautBackend

FIRST_TIER = {"node": 404, "simple": 5, "converted": 68, "operator": 29}


def run_kinds(*kinds: str) -> tuple[Counter, list[str]]:
    """Counts by (kind, status), and a line for each case of the manifest that did not pass."""
    required = {(k, n) for k, n in manifest() if k in kinds}
    counts: Counter[tuple[str, str]] = Counter()
    lost: list[str] = []
    for kind, name, test in cases():
        if kind not in kinds:
            continue
        status, why = execute(test)
        counts[kind, status] += 1
        if (kind, name) in required:
            required.discard((kind, name))
            if status != "passed":
                lost.append(f"{kind} {name}: {status}: {why}")
    lost += [f"{kind} {name}: is not in the suite" for kind, name in sorted(required)]
    return counts, lost


def said(counts: Counter) -> str:
    """The counts as a line for the end of the run."""
    parts = []
    for kind in dict.fromkeys(kind for kind, _ in counts):
        total = sum(n for (k, _), n in counts.items() if k == kind)
        parts.append(f"{kind} {counts[kind, 'passed']}/{total}")
    passed = sum(n for (_, status), n in counts.items() if status == "passed")
    return f"ONNX suite: {passed} of {sum(counts.values())} cases passed ({', '.join(parts)})"


@pytest.fixture(autouse=True)
def scratch_home(tmp_path, monkeypatch):
    """ONNX's runner writes the light models' data under its home."""
    monkeypatch.setenv("ONNX_HOME", str(tmp_path))


def test_every_case_of_the_manifest_runs_and_passes(monkeypatch, record_property):
    monkeypatch.setattr(TautBackend, "target", "reference")
    counts, lost = run_kinds("node", "simple", "converted", "operator")
    record_property("said", said(counts))
    assert not lost, "\n".join(lost)
    for kind, least in FIRST_TIER.items():
        assert counts[kind, "passed"] >= least


def test_the_manifest_names_each_case_once_and_covers_the_first_tier():
    listed = Counter(kind for kind, _ in manifest())
    assert set(listed) <= set(KINDS)
    assert all(listed[kind] >= least for kind, least in FIRST_TIER.items())
    assert listed["light"] == 9


@pytest.mark.slow
def test_light_models(monkeypatch, record_property):
    monkeypatch.setattr(TautBackend, "target", "reference")
    counts, lost = run_kinds("light")
    record_property("said", said(counts))
    assert not lost, "\n".join(lost)
    assert counts["light", "passed"] == 9


@pytest.mark.slow
def test_the_cpu_target_on_the_pytorch_models(monkeypatch):
    """Compiled, not interpreted. (`suite.py --kind node` runs the others: minutes.)"""
    monkeypatch.setattr(TautBackend, "target", "cpu")
    counts, lost = run_kinds("converted", "operator")
    assert not lost, "\n".join(lost)
    print("in Python, by op:", dict(CountingBackend.in_python))
    assert counts["converted", "passed"] == 82 and counts["operator", "passed"] == 35


def test_a_case_that_never_runs_the_model_is_not_passed():
    """ONNX's own runner counts these as passed."""
    assert execute(lambda: None)[0] == "unsupported"
