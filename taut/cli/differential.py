"""`fuzz --against PEER`: what the search found, as tables, as JSON, and as files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from . import common

if TYPE_CHECKING:
    from taut.testing.differential import Finding, Report


def fuzz_against(
    peer: str, ops: list[str] | None, examples: int, seed: int, seconds: float | None,
    output: str | None, json: bool,
) -> None:  # fmt: skip
    """Draw models, hold Taut against the peer, write and print what differs.

    Exit code 1 when something does. Raises UnsupportedError without the peer.
    """
    from taut.testing import differential

    differential.oracles(peer)
    with common.progress(f"against {peer}", examples) as advance:
        report = differential.fuzz(peer, ops=ops or (), examples=examples, seed=seed,
                                   seconds=seconds, advance=advance)  # fmt: skip
    written = [_written(f, output, n, seed) for n, f in enumerate(report.findings)]
    if json:
        common.show_json(_object(report, written))
    else:
        _show(report, written)
    if report.findings:
        raise typer.Exit(1)


def _written(finding: Finding, output: str | None, number: int, seed: int) -> list[str]:
    from taut.testing import differential

    if output is None:
        return []
    os.makedirs(output, exist_ok=True)
    return [str(p) for p in differential.write(finding, Path(output), number, seed)]


def _object(report: Report, written: list[list[str]]) -> dict[str, Any]:
    from taut.testing import differential

    return {
        "against": report.against, "seed": report.seed, "examples": report.examples,
        "seconds": report.seconds, "failed": bool(report.findings),
        "findings": [
            {"ops": f.ops, "stage": f.stage, "reason": f.reason, "count": f.count, "files": files,
             "text": differential.page(f, differential.drawn(f))}
            for f, files in zip(report.findings, written)
        ],
        "ops": {
            name: {"drawn": r.drawn, "valid": r.valid, "compared": r.compared,
                   "refused": r.refused, "fallbacks": r.fallbacks, "findings": r.findings}
            for name, r in report.rows.items()
        },
        "never_compared": report.never_compared,
        "attributes_never_compared": report.attributes_never_compared,
        "known": dict(report.known),
        "refused": [{"op": op, "why": why, "count": n}
                    for (op, why), n in report.refused.most_common()],
    }  # fmt: skip


def _show(report: Report, written: list[list[str]]) -> None:
    from taut.testing import differential

    rows = [(name, r.drawn, r.valid, r.compared, r.refused, r.fallbacks, r.findings)
            for name, r in report.rows.items() if r.drawn]  # fmt: skip
    total = [sum(int(row[i]) for row in rows) for i in range(1, 7)]
    common.show(common.table(
        f"models of each op, held against {report.against}", "op", "drawn>", "valid>",
        "compared>", "refused>", "in Python>", "wrong>", rows=[*rows, ("all", *total)],
    ))  # fmt: skip
    for title, counts in (("refused, and why", _by_op(report)),
                          ("where the peer is known to differ",
                           report.known.most_common())):  # fmt: skip
        if counts:
            common.show(common.table(title, "what", "models>", rows=counts))
    missed = report.attributes_never_compared
    for what, names in (("never compared", report.never_compared),
                        ("attributes never compared", missed)):  # fmt: skip
        if names:
            common.show(common.safe(f"{what}: {', '.join(names)}", limit=4000))
    for finding, files in zip(report.findings, written):
        print()
        print(_printable(differential.page(finding, differential.drawn(finding))), end="")
        if files:
            common.show(common.safe(f"written to {', '.join(files)}"))
    verdict = f"{len(report.findings)} kinds of faults" if report.findings else "all good"
    common.show(common.safe(
        f"\n{report.examples} models against {report.against}, seed {report.seed}: {verdict} "
        f"({report.seconds:.1f} s)".strip()))  # fmt: skip


def _by_op(report: Report) -> list[tuple[str, int]]:
    return [(f"{op}: {why}", n) for (op, why), n in report.refused.most_common(40)]


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)
