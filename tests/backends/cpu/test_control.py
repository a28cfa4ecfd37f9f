"""Branches, loops and sizes that depend on data: compiled, and equal to the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from taut.backends.cpu import compile
from taut.backends.cpu.lower.bodies import closed
from taut.ir import Builder, Graph, LimitError, Limits, interpret

F32 = np.float32
rng = np.random.default_rng(3)
WEIGHT = rng.standard_normal((16, 16), F32)


def dense(b: Any, x: Any) -> Any:
    return b.relu(b.mat_mul(x, WEIGHT))


def check(graph: Graph, *feeds: dict[str, Any], **options: Any) -> Any:
    program = compile(graph, threads=1, **options)
    for _ in range(2):
        for f in feeds:
            want = interpret(graph, f)
            got = program(**f)
            assert list(got) == list(want)
            for name, x in want.items():
                assert got[name].shape == x.shape and got[name].dtype == x.dtype
                np.testing.assert_allclose(got[name], x, rtol=1e-4, atol=1e-4)
    return program


def loop(b: Any, trip: Any, x: Any, *, grows: bool = False, stops: bool = False) -> Any:
    inner: Any = Builder()
    inner.input("i", "i64")
    cond = inner.input("cond", "bool")
    v = inner.input("v", "f32", (None, 16))
    w = inner.input("w", "f32", (16,))
    y = inner.add(dense(inner, inner.mul(v, F32(0.3))), w)
    total = inner.reduce_sum(y, keepdims=False)
    if stops:
        cond = inner.less(total, F32(300))
    made = inner.concat(v, y, axis=0) if grows else y
    body = inner.outputs(cond=inner.identity(cond), v=made, total=total)
    return b.loop(trip, np.array(True), x, b.relu(b.constant(np.ones(16, F32))), carried=1,
                  body=body, name="loop")  # fmt: skip


X = rng.standard_normal((3, 16), F32)


def test_a_loop_of_a_known_count_is_one_step_between_native_ones() -> None:
    b: Any = Builder()
    x = b.input("x", "f32", ("n", 16))
    y, total = loop(b, np.array(4), dense(b, x))
    program = check(b.outputs(y=b.relu(y), total=total), {"x": X}, {"x": X[:1]})
    assert program.fallbacks == []
    kinds = [r.kernel for r in program.profile(X)]
    assert kinds.count("loop") == 1 and len(kinds) > 2
    assert "# body body" in program.source()


@pytest.mark.parametrize("how", [{}, {"grows": True}, {"stops": True}])
def test_sizes_after_a_loop(how: dict[str, bool]) -> None:
    b: Any = Builder()
    x, trip = b.input("x", "f32", ("n", 16)), b.input("trip", "i64")
    y, total = loop(b, trip, dense(b, x), **how)
    graph = b.outputs(y=dense(b, y), total=b.exp(b.neg(b.abs(total))))
    program = check(graph, *({"x": X, "trip": np.array(k)} for k in (3, 0, 5)))
    assert program.fallbacks == []
    kinds = [r.kernel for r in program.profile(x=X, trip=np.array(3))]
    assert "loop" in kinds and "python" not in kinds


def branches(b: Any, cond: Any, *operands: Any, keep: bool = True) -> Any:
    then: Any = Builder()
    x = then.input("x", "f32", ("n", 16))
    yes = then.outputs(y=dense(then, x))
    other: Any = Builder()
    x = other.input("x", "f32", ("n", 16))
    z = other.add(x, F32(1))
    no = other.outputs(y=z if keep else other.slice(z, np.array([0]), np.array([1])))
    return getattr(b, "if")(cond, *operands, then_branch=yes, else_branch=no, name="if")


@pytest.mark.parametrize("keep", [True, False])
def test_branches(keep: bool) -> None:
    b: Any = Builder()
    x = b.input("x", "f32", ("n", 16))
    cond = b.less(b.reduce_sum(x, keepdims=False), F32(0))
    graph = b.outputs(y=dense(b, branches(b, cond, dense(b, x), keep=keep)))
    program = check(graph, {"x": X + 1}, {"x": X - 1})
    assert program.fallbacks == []


def test_bodies_in_bodies() -> None:
    inner: Any = Builder()
    i = inner.input("i", "i64")
    cond, v = inner.input("cond", "bool"), inner.input("v", "f32", (None, 16))
    odd = inner.equal(inner.mod(i, np.int64(2)), np.int64(1))
    w, _ = loop(inner, np.array(2), branches(inner, odd, v))
    body = inner.outputs(cond=cond, v=w)
    b: Any = Builder()
    y = b.loop(np.array(3), None, b.input("x", "f32", ("n", 16)), carried=1, body=body)
    program = check(b.outputs(y=y), {"x": X})
    assert program.fallbacks == ["loop/body/mod"]


def test_scan() -> None:
    inner: Any = Builder()
    h, x = inner.input("h", "f32", (16,)), inner.input("x", "f32", (16,))
    g = inner.tanh(inner.add(inner.mat_mul(h, WEIGHT * F32(0.1)), x))
    body = inner.outputs(h=g, y=g)
    b: Any = Builder()
    made = b.scan(b.input("h", "f32", (16,)), b.input("x", "f32", (16, "t")), states=1,
                  num_scan_inputs=1, body=body, scan_input_axes=(1,), scan_output_axes=(1,),
                  scan_input_directions=(1,), scan_output_directions=(1,))  # fmt: skip
    graph = b.outputs(h=made[0], y=made[1])
    program = check(graph, {"h": np.zeros(16, F32), "x": X.T.copy()},
                    {"h": np.zeros(16, F32), "x": np.zeros((16, 0), F32)})  # fmt: skip
    assert program.fallbacks == []


def test_what_surrounds_sizes_that_depend_on_data_is_compiled() -> None:
    b: Any = Builder()
    x = b.input("x", "f32", ("n", 16))
    y = dense(b, x)
    places = b.non_zero(b.greater(y, F32(1)))
    rows = b.gather(y, b.squeeze(b.slice(places, np.array([0]), np.array([1])), np.array([0])))
    again = b.non_zero(b.greater(dense(b, rows), F32(2)))
    program = check(b.outputs(y=b.neg(dense(b, rows)), z=again, early=y), {"x": X}, {"x": X * 3})
    assert program.fallbacks.count("non_zero") == 1
    assert set(program.fallbacks) <= {"non_zero", "non_zero_0", "gather"}
    kinds = [r.kernel for r in program.profile(X)]
    assert sum(k != "python" for k in kinds) >= 4


def test_an_endless_loop_ends() -> None:
    inner: Any = Builder()
    inner.input("i", "i64")
    cond, v = inner.input("cond", "bool"), inner.input("v", "f32", (2,))
    body = inner.outputs(cond=cond, v=inner.add(v, F32(1)))
    b: Any = Builder()
    x = b.input("x", "f32", (2,))
    y = b.loop(None, np.array(True), x, carried=1, body=body, name="loop")
    program = compile(b.outputs(y=y), threads=1, limits=Limits(iterations=50))
    with pytest.raises(LimitError, match=r'node "loop", op loop: .*50 iterations'):
        program(np.zeros(2, F32))


def test_what_a_body_captures_and_is_known_is_its_constant() -> None:
    inner: Any = Builder()
    x, w = inner.input("x", "f32", ("n", 16)), inner.input("w", "f32", (16, 16))
    yes = inner.outputs(y=inner.mat_mul(x, w))
    other: Any = Builder()
    x = other.input("x", "f32", ("n", 16))
    other.input("w", "f32", (16, 16))
    no = other.outputs(y=x)
    b: Any = Builder()
    x, cond = b.input("x", "f32", ("n", 16)), b.input("cond", "bool")
    y = getattr(b, "if")(cond, x, WEIGHT, then_branch=yes, else_branch=no)
    graph = b.outputs(y=y)
    program = check(graph, {"x": X, "cond": np.array(True)}, {"x": X, "cond": np.array(False)})
    assert program.fallbacks == []
    held = closed(graph[y.node.name].op.then_branch, {1: WEIGHT})  # type: ignore[attr-defined]
    assert [n.name for n in held.inputs] == ["x"]


@pytest.mark.parametrize("trips", [0, 2])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_carried_and_captured_values_keep_their_rank(trips: int, shape: tuple[int, ...]) -> None:
    """A scalar became a vector of one element on its way to a body, which was refused where the
    body never ran."""
    inner: Any = Builder()
    inner.input("i", "i64")
    cond, v, w = inner.input("cond", "bool"), *(inner.input(k, "f32", shape) for k in "vw")
    y = inner.add(v, w)
    body = inner.outputs(cond=inner.identity(cond), v=y)
    b: Any = Builder()
    x, z, trip = b.input("x", "f32", shape), b.input("z", "f32", shape), b.input("trip", "i64", ())
    y = b.loop(trip, np.array(True), x, z, carried=1, body=body)
    feeds = {"x": np.full(shape, 2, F32), "z": np.full(shape, 3, F32), "trip": np.array(trips)}
    check(b.outputs(y=y), feeds)
