"""Passes and presets of these folders at length, over drawn graphs of every family: the result
verifies, is the same each time, and stays within the bound. (`tests/taut/test_testing.py` runs
every pass that is registered, over fewer graphs.)
"""

from __future__ import annotations

import pytest

from taut import testing

GROUPS = {  # each over the same graphs
    "one by one": ("dce", "cse", "infer", "fold", "fold{dequantize=true}"),
    "moving": ("simplify", "motion", "O1"),
    "fusing": ("simplify{fast=true}", "recognize", "fuse-lookup", "extremes-first", "fuse-conv"),
    "all": ("O2",),
}


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_keeps_its_promise_at_length(group: str) -> None:
    testing.check_pipelines(GROUPS[group], examples=200, seed=1)
