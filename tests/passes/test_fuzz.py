"""Every pass and preset of these folders over drawn graphs of every family: the result verifies,
is the same each time, and stays within the bound.
"""

from __future__ import annotations

import pytest

from taut import testing

PIPELINES = (
    "dce", "cse", "infer", "fold", "fold{dequantize=true}", "simplify", "simplify{fast=true}",
    "motion", "recognize", "fuse-lookup", "extremes-first", "fuse-conv", "O1", "O2",
)  # fmt: skip


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_keeps_its_promise(pipeline: str) -> None:
    testing.check_pipeline(pipeline, examples=40)


@pytest.mark.slow
@pytest.mark.parametrize("pipeline", PIPELINES)
def test_keeps_its_promise_at_length(pipeline: str) -> None:
    testing.check_pipeline(pipeline, examples=400, seed=1)
