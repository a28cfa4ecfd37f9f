"""The parts of the benchmarks that decide something: bars, and the busy neighbour."""

from __future__ import annotations

import importlib
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def bars(monkeypatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("bars")


def grades(bars, table) -> dict[tuple[str, str], str]:
    return {(v.row[0], v.what): v.grade for v in bars.judge(table)}


def test_each_bar_is_held_to_its_peers(bars):
    row = ("squeezenet", 1, 2, "idle")
    cells = {"taut-int8": 1.0, "ort-int8": 1.1, "ov-int8": 1.3, "taut-f32": 2.0, "ov-f32": 1.5}
    int8, real = "taut-int8 / best of ort-int8", "taut-f32 / best of ort-f32, ov-f32"
    found = grades(bars, {row: cells})
    assert found["squeezenet", int8] == "aim"  # ahead of one, 1.2 times ahead of the other
    assert found["squeezenet", real] == "short"
    found = grades(bars, {row: cells | {"ov-int8": 0.9, "ort-f32": 5.0, "taut-f32": 1.6}})
    assert found["squeezenet", int8] == found["squeezenet", real] == "must"
    found = grades(bars, {row: {"taut-int8": 1.0, "ov-int8": 3.0}})
    assert found["squeezenet", int8] == found["squeezenet", real] == "not available"


def test_small_models_take_the_faster_precision(bars):
    row = ("magika", 1, 1, "idle")
    cells = {"taut-int8": 0.5, "taut-f32": 2.0, "ort-f32": 1.1, "ov-int8": 1.2}
    (verdict,) = bars.judge({row: cells})
    assert verdict.ratio == pytest.approx(2.2) and verdict.grade == "aim"


def test_large_products_are_held_to_the_roof(bars):
    row = ("product-1024", 1, 2, "idle")
    assert [bars.judge_share(row, s).grade for s in (0.69, 0.7, 0.9)] == ["short", "must", "aim"]


def test_geometric_means_are_per_case(bars):
    table = {
        ("squeezenet", 1, 2, "idle"): {"taut-int8": 1.0, "ov-int8": 2.0},
        ("resnet50", 1, 2, "idle"): {"taut-int8": 1.0, "ov-int8": 0.5},
        ("resnet50", 16, 2, "idle"): {"taut-int8": 1.0, "ov-int8": 0.9},
    }
    means = [v for v in bars.judge(table) if "geometric" in v.what]
    assert [(v.row[1], v.grade) for v in means] == [(1, "must"), (16, "short")]
    assert means[0].ratio == pytest.approx(1.0)


@pytest.mark.parametrize("busy, grade", [(1.9, "aim"), (2.5, "must"), (12.0, "short")])
def test_a_neighbour_is_held_against_the_idle_time(bars, busy, grade):
    table = {
        ("magika", 1, 2, "idle"): {"taut-f32": 1.0},
        ("magika", 1, 2, "busy"): {"taut-f32": busy},
    }
    assert grades(bars, table)["magika", "taut-f32 idle / busy"] == grade


def test_the_neighbour_comes_and_goes(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    neighbour: Any = importlib.import_module("neighbour")
    started: list[subprocess.Popen] = []
    popen = subprocess.Popen

    def start(*args, **kwargs):
        started.append(popen(*args, **kwargs))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    with neighbour.busy(False):
        assert not started
    with neighbour.busy():
        time.sleep(0.2)
        assert started[0].poll() is None
    assert started[0].poll() == 0
