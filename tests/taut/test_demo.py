"""The main job on the real default model, over fewer lines than `make demo`."""

from __future__ import annotations

import json

import pytest

from taut import samples
from taut.cli import main

pytest.importorskip("PIL", reason="the samples extra (Pillow) is not installed")


@pytest.mark.sample
@pytest.mark.slow
def test_demo_holds_accuracy(capsys: pytest.CaptureFixture[str]):
    try:
        samples.fetch(samples.DEFAULT)
    except samples.SampleError as error:
        pytest.skip(f"the sample cannot be had: {error}")
    assert main(["demo", "--lines", "128", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["lines"] == 128
    assert facts["float32"]["accuracy"] > 0.95
    assert facts["int8"]["accuracy"] >= facts["float32"]["accuracy"] - 0.02
    assert facts["agreement"] > 0.97
    assert facts["int8"]["bytes"] < 0.5 * facts["float32"]["bytes"]
    assert facts["quantized"] > 40
    assert all(k["reason"] for k in facts["kept_float"])
