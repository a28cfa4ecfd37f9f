"""Drawing, comparing, shrinking and telling, on small and known cases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from taut.ir import UnsupportedError

import taut
from taut.cli import main
from taut.testing import differential
from taut.testing.differential import Choices, draw, drawable, here
from taut.testing.differential.choices import simpler
from taut.testing.differential.compare import difference
from taut.testing.differential.sketch import Misfit
from taut.testing.differential.worker import Worker


def test_every_op_is_drawn_and_a_replay_is_the_same_model() -> None:
    for n, cls in enumerate(drawable()):
        case = draw(cls.name, 1)
        assert cls.name in case.ops
        if n % 5:
            continue
        again = draw(cls.name, 1, case.made)
        assert again.text == case.text
        assert all(again.feeds[k].tobytes() == a.tobytes() for k, a in case.feeds.items())


def test_what_is_left_of_a_replay_is_simplest() -> None:
    case = draw("conv", 3, [])
    assert case.model is not None
    (node,) = case.model.graph.node
    assert not node.attribute  # all at their defaults
    made = Choices(1)
    assert [made.below(5), made.one("abc")] == [Choices(0, made.made).below(5), "abc"[made.made[1]]]


def test_simpler_choices_never_grow() -> None:
    made = [3, 0, 7]
    for candidate in simpler(made):
        assert (len(candidate), sum(candidate)) <= (len(made), sum(made))


def test_most_draws_are_valid_models() -> None:
    report = differential.fuzz("reference", examples=40, seed=2, ask=here, stages=("peer",))
    rows = report.rows.values()
    assert not report.findings, [(f.ops, f.reason) for f in report.findings]
    assert sum(r.valid for r in rows) > 0.6 * sum(r.drawn for r in rows)


@pytest.mark.parametrize(
    ("want", "got", "says"),
    [
        (np.array([1, 2], np.float32), np.array([1, 2.00001], np.float32), None),
        (np.array([1, np.nan], np.float32), np.array([1, np.nan], np.float32), None),
        (np.array([1, 2], np.float32), np.array([1, np.nan], np.float32), "1 of 2 elements"),
        (np.array([1, np.inf], np.float32), np.array([1, 3e38], np.float32), "1 of 2 elements"),
        (np.array([0, 2], np.float32), np.array([1e-38, 2], np.float32), "1 of 2 elements"),
        (np.array([1e-3, 1e3], np.float32), np.array([1.1e-3, 1e3], np.float32), "1 of 2 elements"),
        (np.array([1, 2], np.int64), np.array([1, 3], np.int64), "3, not 2"),
        (np.array([1], np.int64), np.array([1], np.int32), "type int32"),
        (np.zeros((0, 2)), np.zeros((2, 0)), "shape"),
    ],
)
def test_comparison(want: Any, got: Any, says: str | None) -> None:
    found = difference(want, got, sums=False)
    assert (found is None) == (says is None)
    assert says is None or says in str(found)


def _wrong(request: dict[str, Any]) -> dict[str, Any]:
    """Says that any model with a Relu of more than one element is wrong."""
    try:
        case = draw(request["op"], request["seed"], request.get("made"), True,
                    request.get("ones"), request.get("drop", ()))  # fmt: skip
    except Misfit:
        return {"status": "misfit"}
    assert case.model is not None
    relus = [n for n in case.model.graph.node if n.op_type == "Relu"]
    big = any(case.sizes.get(n.input[0], 0) > 1 for n in relus)
    found = ("peer", "it is large") if big else None
    status = "finding" if big else "ok"
    return {"status": status, "finding": found, "made": case.made, "sizes": case.sizes,
            "ops": case.ops, "attributes": [], "compared": ["peer"]}  # fmt: skip


def test_shrinking_drops_nodes_and_sizes_and_is_repeatable() -> None:
    def first() -> differential.Finding:
        report = differential.fuzz("reference", ops=["relu"], examples=40, seed=5, ask=_wrong,
                                   most=1)  # fmt: skip
        return report.findings[0]

    finding = first()
    case = differential.drawn(finding)
    assert case.model is not None
    assert [n.op_type for n in case.model.graph.node] == ["Relu"]
    assert max(case.sizes.values()) <= 4
    assert first().request == finding.request


def test_files_of_a_finding(tmp_path: Path) -> None:
    report = differential.fuzz("reference", ops=["relu"], examples=40, seed=5, ask=_wrong, most=1)
    model, inputs, page = differential.write(report.findings[0], tmp_path, 0, 5)
    assert model.name == "failing-5-0.onnx"
    graph = taut.load(model)
    with np.load(inputs) as arrays:
        taut.reference(graph, **arrays)
    assert "it is large" in page.read_text() and "Relu" in page.read_text()
    onnx.load(str(model))


def test_a_crash_and_a_hang_are_answers() -> None:
    import sys

    say = "import sys, os, time; sys.stdin.readline(); "
    dead = Worker(20, [sys.executable, "-c", say + "os.kill(os.getpid(), 11)"])
    assert dead.ask({}) == {"status": "crash", "reason": "the process died: SIGSEGV"}
    slow = Worker(-58, [sys.executable, "-c", say + "time.sleep(60)"])
    assert slow.ask({})["status"] == "hang"
    dead.close()


def test_peers_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnsupportedError, match="there is no peer 'tvm'"):
        differential.fuzz("tvm", examples=1)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UnsupportedError, match=r"pip install 'taut\[torch\]'"):
        differential.oracles("torch")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["fuzz", "--against", "reference", "--op", "transpose", "--examples", "2"]
    assert main([*command, "--json", "-o", str(tmp_path)]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["examples"] == 2 and not facts["failed"] and not list(tmp_path.iterdir())
    assert facts["ops"]["transpose"]["compared"] == 2
    assert main(["fuzz", "--against", "reference", "--op", "levitate"]) == 2
    assert main(["fuzz", "--against", "reference", "--pass", "cse"]) == 2


def test_torch_rows_agree_with_the_reference() -> None:
    pytest.importorskip("torch")
    ops = ["conv", "max_pool", "softmax", "gelu", "layer_normalization", "grid_sample"]
    report = differential.fuzz("torch", ops=ops, examples=18, seed=1, ask=here, stages=("peer",),
                               chains=False)  # fmt: skip
    assert not [f.reason for f in report.findings if "grid_sample" not in f.ops]
    assert sum(row.compared for row in report.rows.values()) > 5


def test_a_formula_that_cancels_may_be_off_in_units_of_its_operand() -> None:
    want, x = np.array([-3e-7, 1e-4, 0], np.float32), np.array([-5, 5, np.inf])
    slack = 8 * 2.0**-23 * np.where(np.isfinite(x), abs(x), 0)

    def found(*got: float, slack: Any = 0.0) -> str | None:
        return difference(want, np.array(got, np.float32), sums=False, slack=slack)

    assert found(0, 1e-4, 0) is not None
    assert found(0, 1.02e-4, 0, slack=slack) is None
    assert found(0, 1.2e-4, 0, slack=slack) is not None
    assert found(0, 1e-4, 1e-9, slack=slack) is not None
