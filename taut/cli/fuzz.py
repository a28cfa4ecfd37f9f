"""`fuzz`: hold a pass, a pipeline or a backend against the reference over drawn graphs."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import common
from .app import app
from .common import AsJson

if TYPE_CHECKING:
    from taut.testing import FuzzReport


@app.command()
def fuzz(
    name: Annotated[
        str | None, typer.Option("--pass", help="A pass, or a whole pipeline text.")
    ] = None,
    target: Annotated[str | None, typer.Option("--target", help="A backend instead.")] = None,
    against: Annotated[
        str | None,
        typer.Option(
            "--against", help="Whole ONNX models against onnxruntime, torch or reference instead."
        ),
    ] = None,
    ops: Annotated[
        list[str] | None,
        typer.Option("--op", help="Of --against: only models of this op; may be given again."),
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(min=0, help="Of --against: stop after this long.")
    ] = None,
    family: Annotated[
        list[str] | None,
        typer.Option(
            "--family",
            help="One of grown, mlp, cnn, dag, fusible, quantized, integer, "
            "control, recurrent, transformer; may be given again.",
        ),
    ] = None,
    examples: Annotated[int, typer.Option(min=1, help="Graphs to draw.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Another seed draws other graphs.")] = 0,
    awkward: Annotated[
        bool | None, typer.Option("--awkward/--tame", help="NaN, infinities, extremes in weights.")
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            help="Write the failing graph's text IR here; of --against: "
            "the folder for failing models.",
        ),
    ] = None,
    json: AsJson = False,
) -> None:
    """Draw graphs and check a pass or a backend on each; print the smallest failing graph.

    Half of the graphs for a pass are grown from its own patterns and seeds. Exit code 1 when one
    fails, and when a pass applied to none of them. Needs hypothesis (the `test` extra).
    """
    from taut.ir import UnsupportedError

    if sum(given is not None for given in (name, target, against)) != 1:
        raise typer.BadParameter("give one of --pass NAME, --target NAME and --against PEER")
    try:
        from taut import testing
    except ModuleNotFoundError as error:
        hint = "install it with: pip install 'taut[test]'"
        raise UnsupportedError(f"fuzzing needs {error.name}", hint=hint) from error
    if against is not None:
        from .differential import fuzz_against

        fuzz_against(against, ops, examples, seed, seconds, output, json)
        return
    known = {*testing.FAMILIES, *([testing.GROWN] if name is not None else [])}
    strange = sorted(set(family or ()) - known)
    if strange:
        raise typer.BadParameter(f"no family {strange}; there are {sorted(known)}")
    families = tuple(family or ())
    start = time.perf_counter()
    facts: dict[str, Any] = {"checked": name or target, "failed": False, "examples": examples,
                             "seed": seed}  # fmt: skip
    try:
        if name is not None:
            report = testing.check_pipeline(name, families=families, examples=examples, seed=seed,
                                            awkward=awkward)  # fmt: skip
            _tell(report, seed, json)
            return
        testing.check_backend(target or "", families=families, examples=examples, seed=seed,
                              awkward=bool(awkward))  # fmt: skip
    except testing.CheckFailure as failure:
        _report(failure, name or target or "", seed, output, json)
        raise typer.Exit(1) from None
    except testing.NeverApplied as vacuous:
        if json:
            reason = str(vacuous)
            common.show_json(vacuous.report.to_json() | {"failed": True, "seed": seed,
                                                         "reason": reason})  # fmt: skip
        print(f"taut: {common.safe(str(vacuous))}", file=sys.stderr)
        raise typer.Exit(1) from None
    took = time.perf_counter() - start
    if json:
        common.show_json(facts | {"seconds": took})
    else:
        common.show(common.safe(f"{name or target}: {examples} graphs, all good ({took:.1f} s)"))


def _tell(report: FuzzReport, seed: int, json: bool) -> None:
    """What was checked: to how many graphs the pass applied, and each of its rewrites."""
    if json:
        common.show_json(report.to_json() | {"failed": False, "seed": seed})
        return
    common.show(common.safe(f"{report}, all good ({report.seconds:.1f} s)"))
    if len(report.rewrites) > 1:
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None)
        table.add_column("rewrite")
        table.add_column("graphs", justify="right")
        for name, count in report.rewrites.items():
            table.add_row(Text(name), str(count))
        common.show(table)
    if report.unexercised:
        common.show(common.safe(f"not exercised: {', '.join(report.unexercised)}"))


def _report(failure: object, name: str, seed: int, output: str | None, json: bool) -> None:
    from taut.ir.files import write_atomic
    from taut.testing import CheckFailure

    assert isinstance(failure, CheckFailure)
    if output is not None:
        write_atomic(output, failure.text.encode())
    if json:
        inputs = {k: v.tolist() for k, v in failure.feeds.items()}
        common.show_json({"checked": name, "failed": True, "seed": seed,
                          "reason": failure.reason, "graph": failure.text,
                          "inputs": inputs})  # fmt: skip
        return
    sys.stdout.write(failure.text)
    for key, array in failure.feeds.items():
        print(f"// {ascii(key)[1:-1]} = {array.dtype}{list(array.shape)} "
              f"{array.reshape(-1)[:8].tolist()}")  # fmt: skip
    reason = "".join(c if c.isprintable() else " " for c in failure.reason)
    print(f"taut: {name} fails on the graph above: {reason}", file=sys.stderr)
