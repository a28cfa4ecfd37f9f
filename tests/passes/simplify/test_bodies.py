"""Passes reach into branches and loops, and take apart what is known of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from taut.ir import Builder, Graph, interpret, verify
from taut.passes import Changes, Outcome, Pass, PassManager, bisect, replay

from taut.testing import difference

F32 = np.float32
X = np.linspace(-1, 1, 6, dtype=F32).reshape(3, 2)


def names(graph: Graph) -> list[str]:
    return [n.op.name for n in graph.nodes()]


def optimized(graph: Graph, text: str, *feeds: dict[str, Any]) -> Graph:
    """The result, verified and with the same outputs."""
    made = PassManager(text, check=True).run(graph).graph
    verify(made)
    for f in feeds:
        got = interpret(made, f)
        for name, want in interpret(graph, f).items():
            assert difference(want, got[name], 1e-6, 1e-6) is None
    return made


def wasteful(factor: float) -> Graph:
    """x * factor, with a dead node, a double negation, an equal pair and a capture of no use."""
    b: Any = Builder()
    x, unread = b.input("x", "f32", ("n", 2)), b.input("unread", "f32", ("n", 2))
    b.exp(unread)
    y = b.mul(b.neg(b.neg(x)), F32(factor))
    z = b.mul(x, F32(factor))
    return b.outputs(y=b.add(y, b.neg(z)), z=b.add(b.add(F32(1), F32(2)), z))


def branching(cond: bool | None = None) -> Graph:
    b: Any = Builder()
    x = b.input("x", "f32", ("n", 2))
    c = b.input("c", "bool") if cond is None else np.array(cond)
    made = getattr(b, "if")(c, x, b.relu(x), then_branch=wasteful(2), else_branch=wasteful(3),
                            name="pick")  # fmt: skip
    return b.outputs(y=made[0], z=made[1])


def test_bodies_are_simplified() -> None:
    graph = branching()
    feeds = [{"x": X, "c": np.array(c)} for c in (True, False)]
    made = optimized(graph, "O1", *feeds)
    op: Any = made["pick"].op
    assert len(op.then_branch) < len(wasteful(2)) - 4
    assert "exp" not in names(op.then_branch) and names(op.else_branch).count("neg") == 1
    assert [n.name for n in op.then_branch.inputs] == ["x"] and "relu" not in names(made)
    assert graph["pick"].op.then_branch["exp"] is not None  # type: ignore[attr-defined]


def test_a_known_branch_is_inlined() -> None:
    for cond, factor in ((True, 2), (False, 3)):
        made = optimized(branching(cond), "O1", {"x": X})
        assert "if" not in names(made)
        assert any(v.array == factor for n in made.nodes() for v in [n[0]][: len(n.results)]
                   if v.array is not None and v.array.size == 1)  # fmt: skip


def test_results_that_nothing_reads_go() -> None:
    graph = branching()
    graph.set_outputs({"z": graph["pick"][1]})
    made = optimized(graph, "dce", {"x": X, "c": np.array(True)})
    assert len(made["pick"].results) == 1


def looping(trip: Any = 3) -> Graph:
    """v doubles, w counts v's sums, dead only makes itself; scans: v's sum, and one of no use."""
    b: Any = Builder()
    i, cond = b.input("i", "i64"), b.input("cond", "bool")
    v, w, dead = (b.input(k, "f32", (None, 2)) for k in ("v", "w", "dead"))
    total = b.reduce_sum(v)
    body = b.outputs(cond=cond, v=b.add(v, v), w=b.add(w, total), dead=b.exp(dead), seen=total,
                     no=b.cast(i, to=v.type.dtype))  # fmt: skip
    b = Builder()
    x = b.input("x", "f32", ("n", 2))
    trip = b.input("trip", "i64") if trip is None else np.array(trip)
    made = b.loop(trip, None, x, x, b.relu(x), carried=3, body=body, name="loop")
    return b.outputs(w=made[1], seen=made[3])


def test_carried_values_that_only_make_themselves_go() -> None:
    made = optimized(looping(None), "dce", {"x": X, "trip": np.array(3)})
    op: Any = made["loop"].op
    assert op.carried == 2 and len(made["loop"].results) == 3
    assert [n.name for n in op.body.inputs] == ["i", "cond", "v", "w"] and "relu" not in names(made)


def test_scans_lose_results_with_their_axes() -> None:
    b: Any = Builder()
    h, x = b.input("h", "f32", (2,)), b.input("x", "f32", (2,))
    body = b.outputs(h=b.exp(h), a=b.relu(x), s=b.reduce_sum(x))
    b = Builder()
    made = b.scan(b.input("h", "f32", (2,)), b.input("x", "f32", ("n", 2)), states=1,
                  num_scan_inputs=1, body=body, scan_output_axes=(1, 0),
                  scan_output_directions=(0, 1), name="scan")  # fmt: skip
    made = optimized(b.outputs(s=made[2]), "dce", {"h": X[0], "x": X})
    op: Any = made["scan"].op
    assert (op.states, op.scan_output_axes, op.scan_output_directions) == (0, (0,), (1,))


def test_short_loops_unroll() -> None:
    for trip in (1, 3):
        made = optimized(looping(trip), "unroll{trips=3},O1", {"x": X})
        assert "loop" not in names(made)
    assert "loop" in names(optimized(looping(4), "unroll{trips=3}", {"x": X}))
    report = PassManager("unroll").run(looping(None))
    assert [r.reason for _, r in report.remarks("missed")] == [
        "the number of iterations is not known"
    ]


def test_equal_branches_are_one_node() -> None:
    b: Any = Builder()
    x, c = b.input("x", "f32", ("n", 2)), b.input("c", "bool")
    one, two = (
        getattr(b, "if")(c, x, x, then_branch=wasteful(2), else_branch=wasteful(f)) for f in (3, 3)
    )
    graph = b.outputs(y=one[0], z=two[0])
    assert names(optimized(graph, "cse", {"x": X, "c": np.array(True)})).count("if") == 1


def test_steps_in_bodies_are_counted_and_remarks_name_them() -> None:
    total = PassManager("simplify").run(branching()).steps

    def good(limit: int) -> bool:
        made = PassManager("simplify", bisect_limit=limit).run(branching()).graph
        return names(made["pick"].op.else_branch).count("neg") == 3  # type: ignore[attr-defined]

    first = bisect(0, total, good)
    assert 0 < first <= total
    last = PassManager("simplify", bisect_limit=first).run(branching()).last_step
    assert last.startswith("simplify/")


def test_a_failure_inside_names_the_pass_and_replays(tmp_path) -> None:
    import pytest
    from taut.ir import PassError

    with pytest.raises(PassError, match="pass break-bodies"):
        PassManager([BreakBodies()], reproduce=tmp_path / "r").run(branching())
    assert "then_branch=graph" in (tmp_path / "r").read_text()


class BreakBodies(Pass):
    """Fails where a graph has no branches."""

    name = "break-bodies"
    bound = Changes()
    nested = True

    def run(self, graph: Graph, context: Any) -> Outcome:
        if "if" not in names(graph):
            raise ValueError("no branch")
        return Outcome()


def test_a_reproducer_keeps_bodies(tmp_path) -> None:
    from taut.passes import Pipeline, write_reproducer

    write_reproducer(tmp_path / "r", branching(), Pipeline.parse("O1"), samples=[
        {"x": X, "c": np.array(True)}])  # fmt: skip
    assert names(replay(tmp_path / "r", check=True).graph).count("if") == 1
