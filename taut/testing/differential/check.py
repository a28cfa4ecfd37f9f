"""One drawn model through all of Taut, each way held against the reference and that against a peer.

The ways: the reference, compiled as it is, compiled after O2, exported and read again; and the
peer on the exported file. What is compared is said by `Verdict.compared`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
from onnx import ModelProto

from taut.backends.base import compile
from taut.frontends.onnx import export_onnx, load_onnx
from taut.ir import DType, Graph, TautError, interpret, parse, print_graph, verify
from taut.ir.analysis.pointwise import is_pointwise
from taut.ir.envelope import explained
from taut.ir.op import Array, Op, op_class
from taut.passes import optimize

from .compare import RTOL, difference
from .draw import NEWEST, Case
from .known import known_reason
from .look import Look
from .oracles import Oracle
from .refused import Refused

OPTIMISED = "O2"
UNITS = 8
"""Units in the last place of its operand that a formula which cancels may be off."""

STAGES = ("peer", "compiled", "optimised", "exported")


@dataclass
class Verdict:
    """What came of one model. `finding` is (stage, what was wrong) or None."""

    ops: tuple[str, ...] = ()
    status: str = "ok"  # ok, refused (a TautError where a peer may take it), finding
    finding: tuple[str, str] | None = None
    refused: dict[str, str] = field(default_factory=dict)  # by stage: why
    compared: list[str] = field(default_factory=list)
    known: list[str] = field(default_factory=list)
    peer: str = ""  # who took the model
    fallbacks: list[str] = field(default_factory=list)
    seconds: float = 0.0
    results: list[str] = field(default_factory=list)  # what both gave, where they differ


class _Wrong(Exception):
    """A stage gave what it should not."""


@dataclass
class _Run:
    """The state of one check."""

    case: Case
    oracles: Sequence[Oracle]
    stages: Sequence[str]
    verdict: Verdict
    graph: Graph | None = None  # as Taut reads it
    sums: bool = True
    signs: bool = False
    slack: Array | float = 0.0  # what the op's formula may be off


def check(case: Case, oracles: Sequence[Oracle], stages: Sequence[str] = STAGES) -> Verdict:
    """Run all stages; the first that is wrong ends it. Exceptions that are no TautError are wrong
    too, wherever they come from."""
    verdict = Verdict(case.ops)
    start = time.perf_counter()
    state = _Run(case, oracles, stages, verdict)
    stage = "import"
    try:
        classes = [op_class(name) for name in case.ops]
        state.sums = len(classes) > 1 or not is_pointwise(classes[0])
        state.signs = len(classes) == 1 and _moves(classes[0])
        deque(_stages(state), maxlen=0)
    except _Wrong as wrong:
        stage, reason = wrong.args
        verdict.status, verdict.finding = "finding", (stage, reason)
    except Exception as error:  # a fault by definition: nothing but TautErrors may come out
        stage = getattr(state, "at", "import")
        import traceback

        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{frame.filename.rsplit('/', 1)[-1]}:{frame.name}"
        verdict.status = "finding"
        verdict.finding = (stage, f"{type(error).__name__} in {where}: {error}"[:500])
    verdict.seconds = time.perf_counter() - start
    return verdict


def _slack(graph: Graph, case: Case) -> Array | float:
    """By how much a lone op whose formula cancels may be off, for each element of its operand."""
    lone = [n for n in graph.nodes() if n.op.numerics and "cancels" in n.op.numerics.free]
    operand = graph.operand(lone[0], 0) if lone and len(case.ops) == 1 else None
    if operand is None:
        return 0.0
    x = case.feeds.get(operand.node.name, operand.array)
    if x is None:
        return 0.0
    with np.errstate(all="ignore"):
        wide = np.where(np.isfinite(x), np.abs(x.astype(np.float64)), 0.0)
    return UNITS * float(ml_dtypes.finfo(x.dtype).eps) * wide


def _moves(cls: type[Op]) -> bool:
    return bool(getattr(cls, "moves_data", False))


def _stages(state: _Run) -> Any:
    case, verdict = state.case, state.verdict
    state.at = "import"  # type: ignore[attr-defined]
    try:
        graph = case.graph if case.model is None else load_onnx(case.model)
        assert graph is not None
        verify(graph)
        state.graph = graph
        state.slack = _slack(graph, case)
    except TautError as error:
        _refuse(verdict, "import", error)
        return
    yield "import"
    state.at = "reference"  # type: ignore[attr-defined]
    try:
        with np.errstate(all="ignore"):
            want = interpret(graph, case.feeds)
    except TautError as error:
        _refuse(verdict, "reference", error)
        want = None
    if case.model is not None and want is not None and "peer" in state.stages:
        state.at = "peer"  # type: ignore[attr-defined]
        _hold_to_peer(state, "peer", case.model, want, case.model)
        yield "peer"
    if "compiled" in state.stages:
        state.at = "compiled"  # type: ignore[attr-defined]
        program = _compiled(state, "compiled", graph, want)
        if program is not None:
            verdict.fallbacks = list(program.fallbacks)
        yield "compiled"
    if want is None:
        return
    if "optimised" in state.stages:
        state.at = "optimised"  # type: ignore[attr-defined]
        better = optimize(graph, OPTIMISED)
        _compiled(state, "optimised", better, want)
        yield "optimised"
    if "exported" in state.stages:
        state.at = "exported"  # type: ignore[attr-defined]
        _exported(state, graph, want)
        yield "exported"


def _refuse(verdict: Verdict, stage: str, error: TautError) -> None:
    verdict.status = "refused" if stage in ("import", "reference") else verdict.status
    verdict.refused[stage] = f"{type(error).__name__}: {error}"[:300]


def _hold_to_peer(
    state: _Run, stage: str, model: ModelProto, want: dict[str, Array], drawn: ModelProto
) -> None:
    """The reference's outputs against those of the first peer that takes the model."""
    verdict = state.verdict
    for oracle in state.oracles:
        try:
            made = oracle(model, state.case.feeds)
        except Refused as refused:
            verdict.refused[f"{stage} {oracle.__name__}"] = str(refused)
            continue
        verdict.peer = verdict.peer or oracle.__name__
        left, excuses = _judged(state, oracle.__name__, want, made)
        if left is not None:
            _show(verdict, "reference", want.values(), oracle.__name__, made)
            raise _Wrong(stage, f"{oracle.__name__} gives otherwise: {left}")
        if excuses:
            verdict.known += excuses
            return
        verdict.compared.append(f"{stage} {oracle.__name__}")
        return


def _show(verdict: Verdict, left: str, want: Any, right: str, got: Any) -> None:
    verdict.results = [described(f"{side} {i}", a)
                       for side, arrays in ((left, want), (right, got))
                       for i, a in enumerate(arrays)]  # fmt: skip


def described(name: str, array: Array, most: int = 64) -> str:
    """A tensor in a line: its type and first elements."""
    flat = array.reshape(-1)[:most].tolist()
    more = ", ..." if array.size > most else ""
    return f"{name}: {array.dtype}{list(array.shape)} {str(flat)[:-1]}{more}]"


def _outputs(state: _Run, want: list[Array], got: list[Array]) -> dict[int, str]:
    """What differs between two lists of outputs, by place; `want` is the reference's."""
    if len(want) != len(got):
        return {-1: f"{len(got)} outputs, not {len(want)}"}
    found = {}
    for place, (a, b) in enumerate(zip(want, got)):
        reason = difference(a, b, sums=state.sums, factor=_factor(state), signs=state.signs,
                            slack=state.slack)  # fmt: skip
        if reason is not None:
            found[place] = f"output {place}: {reason}"
    return found


def _judged(
    state: _Run, who: str, want: dict[str, Array], got: Sequence[Array]
) -> tuple[str | None, list[str]]:
    """What differs from the reference and has no excuse, and the excuses of what has one."""
    names, excuses = list(want), []
    reasons = _outputs(state, list(want.values()), list(got))
    open_ones = _ties(state, {names[p]: got[p] for p in reasons if p >= 0})
    for place, reason in reasons.items():
        if place < 0 or state.graph is None:
            return reason, []
        name = names[place]
        if name in open_ones:
            continue
        look = Look(state.case, state.graph, reason, [want[name]], [got[place]], [name])
        excuse = known_reason(look, who)
        if excuse is None:
            return reason, []
        excuses.append(excuse)
    return None, list(dict.fromkeys(excuses))


def _ties(state: _Run, got: dict[str, Array]) -> list[str]:
    """Outputs of a chain that hang on the last bits of floats within it: behind a rounding, a
    comparison or the place of a maximum, all that its floats allow is right (`taut.ir.envelope`).
    """
    if not got or state.graph is None or len(state.case.ops) < 2:
        return []
    found = []
    for name, array in got.items():
        rtol = RTOL.get(DType.of(array), 0.0) * _factor(state)
        with np.errstate(all="ignore"):
            found += explained(state.graph, state.case.feeds, {name: array}, rtol, 0.1 * rtol)
    return found


def _factor(state: _Run) -> float:
    """How much more than one op's error is allowed."""
    return 4.0 * len(state.case.ops) if len(state.case.ops) > 1 else 1.0


def _compiled(state: _Run, stage: str, graph: Graph, want: dict[str, Array] | None) -> Any:
    """Compile and call twice. Where the reference refuses, so must the program."""
    verdict, feeds = state.verdict, state.case.feeds
    try:
        program = compile(graph, "cpu", threads=1)
        results = [program(**feeds) for _ in range(2)]
    except TautError as error:
        _refuse(verdict, stage, error)
        if want is not None and type(error).__name__ in ("FeedError", "VerifyError"):
            raise _Wrong(stage, f"refuses what the reference takes: {error}") from error
        return None
    if want is None:
        if "reference" in verdict.refused and "FeedError" in verdict.refused["reference"]:
            raise _Wrong(stage, "computes what the reference refuses: "
                         + verdict.refused["reference"])  # fmt: skip
        return program
    for call, got in zip(("first", "second"), results):
        if list(got) != list(want):
            raise _Wrong(stage, f"outputs {list(got)}, not {list(want)}")
        left, excuses = _judged(state, "cpu", want, list(got.values()))
        if left is not None:
            _show(verdict, "reference", want.values(), stage, got.values())
            raise _Wrong(stage, f"{call} call: {left}")
        if excuses:
            verdict.known += excuses
            return program
    verdict.compared.append(stage)
    return program


def _exported(state: _Run, graph: Graph, want: dict[str, Array]) -> None:
    """As ONNX and back, or as text and back for graphs that ONNX has no words for."""
    case, verdict = state.case, state.verdict
    exported = None
    if case.model is None:
        again = parse(print_graph(graph))
    else:
        opset = next(o.version for o in case.model.opset_import if not o.domain)
        try:
            exported = export_onnx(graph, opset=min(max(opset, 21), NEWEST))
        except TautError as error:
            _refuse(verdict, "exported", error)
            return
        try:
            again = load_onnx(exported)
        except TautError as error:
            raise _Wrong("exported", f"is refused when read again: {error}") from error
    with np.errstate(all="ignore"):
        got = interpret(again, case.feeds)
    reasons = _outputs(state, list(want.values()), list(got.values()))
    if reasons:
        _show(verdict, "reference", want.values(), "read again", got.values())
        raise _Wrong("exported",
                     f"reads back as another function: {next(iter(reasons.values()))}")  # fmt: skip
    if case.model is not None and exported is not None and verdict.peer and "peer" in state.stages:
        _hold_to_peer(state, "exported", exported, want, case.model)
    verdict.compared.append("exported")
