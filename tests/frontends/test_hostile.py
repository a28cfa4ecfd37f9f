"""Damaged and malicious files: a typed error or a sound graph, within seconds, and nothing else."""

from __future__ import annotations

import faulthandler
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from hostile import Case, onnx_files, sound, stored
from hostile_ir import container_files, text_files
from taut.frontends.onnx import load_onnx
from taut.ir import FeedError, Graph, TautError, interpret, load_container, load_text

SECONDS = 5
SMALL = 1 << 16  # elements of an input that is worth running


def run_small(graph: Graph) -> None:
    """Run what loaded on zeros, if its inputs are small."""
    feeds = {}
    for name, type in graph.signature.inputs.items():
        shape = tuple(d if isinstance(d, int) else 1 for d in type.shape or ())
        if np.prod([float(d) for d in shape]) > SMALL:
            return
        feeds[name] = np.zeros(shape, type.dtype.numpy)
    interpret(graph, feeds)


def run_all(cases: Iterable[Case], load: Callable[[Path], Graph], folder: Path) -> Counter[str]:
    """Load (and run) every file; counts by outcome. Fails with the names of all that misbehave."""
    found: Counter[str] = Counter()
    wrong: list[str] = []
    for k, (name, write) in enumerate(cases):
        place = folder / str(k)
        place.mkdir()
        path = write(place)
        faulthandler.dump_traceback_later(10 * SECONDS, exit=True)
        start = time.monotonic()
        try:
            run_small(load(path))
            found["loads"] += 1
        except TautError as error:
            found[type(error).__name__] += 1
            text = str(error)
            if "\n" in text or not text.isprintable() or len(text) > 2000:
                wrong.append(f"{name}: the message is not one plain line: {text[:200]!a}")
        except BaseException as error:
            wrong.append(f"{name}: {type(error).__name__}: {str(error)[:200]!a}")
        finally:
            faulthandler.cancel_dump_traceback_later()
        took = time.monotonic() - start
        if took > SECONDS:
            wrong.append(f"{name}: took {took:.1f} s")
    print(dict(found), sum(found.values()))
    assert not wrong, "\n".join(wrong)
    return found


def test_the_sound_model_loads(tmp_path):
    assert len(load_onnx(stored(sound())(tmp_path))) > 5


def test_onnx_files(tmp_path):
    found = run_all(onnx_files(), load_onnx, tmp_path)
    assert sum(found.values()) >= 300
    assert found["ModelError"] > 100 and found["loads"] < 100


def test_ir_text(tmp_path):
    found = run_all(text_files(), load_text, tmp_path)
    assert sum(found.values()) >= 80 and found["ParseError"] > 30


def test_containers(tmp_path):
    found = run_all(container_files(tmp_path), load_container, tmp_path)
    assert sum(found.values()) >= 60 and found["ModelError"] > 30


LARGE = ("terabyte", "overflow", "huge", "2^", "HUGE", "billion", "doubling", "many large")


def test_nothing_is_allocated_before_it_is_checked(tmp_path):
    large = [c for c in onnx_files() if any(word in c[0] for word in LARGE)]
    assert len(large) >= 20
    for k, (name, write) in enumerate(large):
        (tmp_path / str(k)).mkdir()
        path = write(tmp_path / str(k))
        tracemalloc.start()
        try:
            run_small(load_onnx(path))
        except TautError:
            pass
        finally:
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        assert peak < 64 << 20, f"{name}: {peak} bytes at its peak"


@pytest.mark.parametrize("feeds", [
    {}, {"z": 1}, {"x": np.zeros((1, 4, 8, 8))}, {"x": np.zeros((1, 4, 8, 9), np.float32)},
    {"x": np.zeros(3, np.float32)}, {"x": "text"}, {"x": None}, {"x": [[1.0], [2.0, 3.0]]},
    {"x": np.array(["a"])}, {"x": object()},
])  # fmt: skip
def test_wrong_feeds(feeds):
    from taut.backends.base import compile

    program = compile(load_onnx(sound()), "reference")
    with pytest.raises(FeedError):
        program(**feeds)
