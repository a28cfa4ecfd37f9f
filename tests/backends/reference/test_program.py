import numpy as np
import pytest
from taut.backends import base
from taut.backends.base import Program, compile, targets
from taut.ir import Builder, CompileError, FeedError, Graph, UnsupportedError


def small() -> Graph:
    b = Builder()
    x = b.input("x", "f32", ("n", 3))
    return b.outputs(y=b.relu(b.add(x, np.ones(3, np.float32), name="sum")))


def test_runs_by_position_and_by_name():
    program = compile(small(), "reference")
    x = np.array([[-2, 0, 1]], np.float32)
    for outputs in (program(x), program(x=x)):
        np.testing.assert_array_equal(outputs["y"], [[0, 1, 2]])
    with pytest.raises(FeedError):
        program()


def test_follows_the_protocol():
    program = compile(small(), "reference")
    assert isinstance(program, Program)
    assert program.memory == 12
    assert "relu" in program.source()


def test_profile_names_each_node_once_in_order():
    rows = compile(small(), "reference").profile(np.zeros((2, 3), np.float32), repeat=3)
    assert [r.nodes for r in rows] == [("sum",), ("relu",)]
    assert all(r.seconds >= 0 for r in rows)
    with pytest.raises(FeedError):
        compile(small(), "reference").profile(np.zeros((2, 3), np.float32), repeat=0)


def test_unknown_targets_and_options_are_refused():
    assert {"cpu", "reference"} <= set(targets())
    with pytest.raises(CompileError, match="no target"):
        compile(small(), "abacus")
    with pytest.raises(CompileError, match="no option"):
        compile(small(), "reference", tune=2)


def test_every_target_has_the_whole_protocol():
    """What the command line, training and distillation ask of a program."""
    x = np.ones((1, 3), np.float32)
    for target in ("cpu", "reference"):
        program = compile(small(), target, threads=1)
        assert isinstance(program, Program)
        assert np.array_equal(program.run([x])[0], next(iter(program(x).values())))
        assert program.fallbacks == [] and all(v >= 0 for v in program.facts.values())
        assert program.source() and str(program.target).startswith(target)
        with pytest.raises(UnsupportedError, match="has no poem"):
            program.source("poem")


def test_a_backend_that_cannot_be_imported_is_an_error_not_a_traceback(monkeypatch):
    monkeypatch.setitem(base._MODULES, "broken", ".nowhere")
    with pytest.raises(CompileError, match="cannot be used here"):
        compile(small(), "broken")
