"""The search: draw models over the registry, count what came of each, shrink what is wrong."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from taut.ir import op_class

from .choices import Choices, simpler
from .draw import drawable
from .worker import Answer, Request, Worker

TRIES = 150
"""Simpler models tried for one finding, before and after its numbers are simplified."""

_BAD = ("finding", "crash", "hang")
Ask = Callable[[Request], Answer]


@dataclass
class Row:
    """What came of the models drawn for one op."""

    drawn: int = 0
    valid: int = 0  # taken by Taut, and by a peer if ONNX has the op
    compared: int = 0  # with a peer, or with the reference where ONNX lacks the op
    refused: int = 0  # by a TautError
    fallbacks: int = 0  # with nodes that run in Python
    findings: int = 0
    attributes: set[str] = field(default_factory=set)  # in models that were compared


@dataclass
class Finding:
    """Something wrong, made small. `request` draws it again."""

    ops: tuple[str, ...]
    stage: str
    reason: str
    request: Request
    results: list[str]
    count: int = 1  # models that failed in the same way

    @property
    def kind(self) -> tuple[str, ...]:
        return _kind(self.request["op"], self.stage, self.reason)


@dataclass
class Report:
    against: str
    seed: int
    rows: dict[str, Row] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    known: Counter[str] = field(default_factory=Counter)
    refused: Counter[tuple[str, str]] = field(default_factory=Counter)  # (op, why)
    examples: int = 0
    seconds: float = 0.0

    @property
    def never_compared(self) -> list[str]:
        return [name for name, row in self.rows.items() if not row.compared]

    @property
    def attributes_never_compared(self) -> list[str]:
        """Attributes as `op.attribute`, of ops that were compared."""
        found = []
        for name, row in self.rows.items():
            cls = op_class(name)
            back = {f: n for n, f in cls.renamed}
            found += [f"{name}.{a.name}" for a in cls.attributes
                      if row.compared and back.get(a.name, a.name) not in row.attributes
                      and a.name not in _SAID_OTHERWISE]  # fmt: skip
        return found


_SAID_OTHERWISE = ("outputs", "carried", "states")
"""Fields that ONNX says by how many operands or results a node has."""


def fuzz(
    against: str = "onnxruntime",
    *,
    ops: Iterable[str] = (),
    examples: int = 200,
    seed: int = 0,
    seconds: float | None = None,
    ask: Ask | None = None,
    stages: Sequence[str] | None = None,
    chains: bool = True,
    tries: int = TRIES,
    most: int = 50,
    advance: Callable[[int, int], object] = lambda done, total: None,
) -> Report:
    """Draw `examples` models, the ops in turn, until `seconds` are over or `most` kinds of faults
    are found. `ask` answers requests (a watched child process unless given). Each kind of fault is
    shrunk once. Raises UnsupportedError for a peer that is not there or an op that does not exist.
    """
    from .oracles import oracles

    oracles(against)
    chosen = [op_class(name).name for name in ops] or [c.name for c in drawable()]
    report = Report(against, seed, {name: Row() for name in chosen})
    worker = Worker() if ask is None else None
    run = worker.ask if worker is not None else ask
    assert run is not None
    start, order = time.monotonic(), Choices(seed)
    kinds: dict[tuple[str, ...], Finding] = {}
    try:
        turn: list[str] = []
        for n in range(examples):
            if seconds is not None and time.monotonic() - start > seconds:
                break
            turn = turn or order.shuffled(chosen)
            request = {"op": turn.pop(), "seed": seed * 1_000_003 + n, "against": against,
                       "stages": stages, "chains": chains}  # fmt: skip
            answer = _settled(run, request, run(request))
            _count(report, request["op"], answer)
            if answer["status"] in _BAD:
                _found(report, kinds, run, request, answer, tries)
            report.examples += 1
            advance(n + 1, examples)
            if len(report.findings) >= most:
                break
    finally:
        if worker is not None:
            worker.close()
    report.seconds = time.monotonic() - start
    return report


def _settled(run: Ask, request: Request, answer: Answer) -> Answer:
    """Whether a crash or a hang was the peer's own: without it there is none."""
    if answer["status"] not in ("crash", "hang"):
        return answer
    alone = run({**request, "peers": False})
    if alone["status"] in _BAD:
        return answer
    what = f"{request['against']}, {request['op']}: a {answer['status']} of its own"
    return {**alone, "known": [*alone.get("known", ()), what], "peer": request["against"]}


def _count(report: Report, op: str, answer: Answer) -> None:
    row, status = report.rows[op], answer["status"]
    row.drawn += 1
    row.findings += status in _BAD
    row.refused += status == "refused"
    own = op_class(op).onnx is None
    compared = answer.get("compared", [])
    by_peer = any(c.startswith("peer") for c in compared) or (own and bool(compared))
    row.valid += by_peer or bool(answer.get("peer")) or (own and status in ("ok", "finding"))
    if by_peer or answer.get("known"):
        row.compared += 1
        row.attributes |= {a for o, a in answer["attributes"] if o in (op, op_class(op).onnx)}
    row.fallbacks += bool(answer.get("fallbacks"))
    report.known.update(answer.get("known", ()))
    if status == "refused":
        why = answer["refused"].get("import") or answer["refused"].get("reference", "")
        report.refused[op, re.sub(r'node "[^"]*", ', "", why)] += 1


def _found(
    report: Report, kinds: dict[tuple[str, ...], Finding], run: Ask, request: Request,
    answer: Answer, tries: int,
) -> None:  # fmt: skip
    stage, reason = _fault(answer)
    kind = _kind(request["op"], stage, reason)
    if kind in kinds:
        kinds[kind].count += 1
        return
    finding = shrink(run, request, answer, tries)
    kinds[kind] = finding
    if finding.kind in kinds and finding.kind != kind:
        kinds[finding.kind].count += 1
        return
    kinds[finding.kind] = finding
    report.findings.append(finding)


def _fault(answer: Answer) -> tuple[str, str]:
    if answer["status"] == "finding":
        stage, reason = answer["finding"]
        return stage, reason
    return answer["status"], answer["reason"]


def _kind(op: str, stage: str, reason: str) -> tuple[str, ...]:
    """What makes two faults the same: the op, the stage, and the reason without its numbers."""
    return op, stage, _words(reason)


def _words(reason: str) -> str:
    plain = re.sub(r"(first|second) call: |output \d+: |\[[^\]]*\]|-?\d[\d.e+-]*|nan|-?inf", "",
                   reason.lower())  # fmt: skip
    return " ".join(plain.split())[:120]


# ---- shrinking -----------------------------------------------------------------------------------


def shrink(run: Ask, request: Request, answer: Answer, tries: int = TRIES) -> Finding:
    """A smaller model that is wrong at the same stage in the same words: fewer nodes, smaller
    sizes, attributes at their defaults, ordinary numbers. The same for the same request."""
    stage, reason = _fault(answer)
    words = _words(reason)
    if "made" not in answer:  # it died before it could say what it had drawn
        answer = {**answer, **_drawn(request)}
    best: tuple[Request, Answer] = ({**request, "made": answer["made"]}, answer)

    def worse(candidate: Request) -> Answer | None:
        got = _settled(run, candidate, run(candidate))
        if got["status"] not in _BAD:
            return None
        same = _fault(got)[0] == stage and _words(_fault(got)[1]) == words
        return got if same else None

    for place in range(len(answer.get("ops", ())) - 1, -1, -1):
        candidate = {**best[0], "drop": [*best[0].get("drop", ()), place]}
        got = worse(candidate)
        if got is not None:
            best = (candidate, got)
    left, going = tries, True
    while left > 0 and going:
        going = False
        for made in simpler(best[0]["made"]):
            if made == best[0]["made"]:
                continue
            left -= 1
            if left < 0:
                break
            candidate = {**best[0], "made": made}
            got = worse(candidate)
            if got is not None:
                # what a replay made is what counts: trailing numbers may have gone unused
                kept = got.get("made", made)
                if _weight(kept) < _weight(best[0]["made"]):
                    best, going = ({**candidate, "made": kept}, got), True
                    break
    best = _plain_numbers(worse, best, tries // 3)
    stage, reason = _fault(best[1])
    return Finding(tuple(best[1].get("ops") or (request["op"],)), stage, reason, best[0],
                   best[1].get("results", []))  # fmt: skip


def _drawn(request: Request) -> dict[str, Any]:
    from .draw import draw

    case = draw(request["op"], request["seed"], chains=request.get("chains", True))
    return {"made": case.made, "sizes": case.sizes, "ops": list(case.ops)}


def _weight(made: Sequence[int]) -> tuple[int, int]:
    return len(made), sum(made)


def _plain_numbers(
    worse: Callable[[Request], Answer | None], best: tuple[Request, Answer], tries: int
) -> tuple[Request, Answer]:
    """Set what need not be otherwise to 1: whole operands, halves, down to single elements."""
    spans = [(name, 0, size) for name, size in best[1].get("sizes", {}).items() if size]
    while spans and tries > 0:
        name, start, stop = spans.pop(0)
        tries -= 1
        ones = dict(best[0].get("ones") or {})
        ones[name] = [*ones.get(name, []), [start, stop]]
        candidate = {**best[0], "ones": ones}
        got = worse(candidate)
        if got is not None:
            best = (candidate, got)
        elif stop - start > 1:
            middle = (start + stop) // 2
            spans += [(name, start, middle), (name, middle, stop)]
    return best
