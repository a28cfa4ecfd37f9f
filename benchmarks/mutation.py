"""Whether the fuzzer finds faults: plants small ones in our own rewrites and passes, and counts.

    python benchmarks/mutation.py --count 200 --seed 0 --jobs 2

Each fault changes one node of the source of a pass (operands swapped, a guard dropped, off by one,
...) and is then looked for as `taut fuzz --pass NAME` does by default, 100 graphs drawn by seed 0,
in a process of its own. It is found where the command fails, or says that a rewrite was not
exercised (without faults all are). Faults that change nothing a pass can make differ are listed in
`equivalent.txt`, each with its reason, and not counted; neither are those with which a module does
not import.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import sys
import time
import warnings
from collections import Counter, deque
from pathlib import Path
from typing import Any

from faults import Fault, faults, planted

ROOT = Path(__file__).resolve().parents[1]
EQUIVALENT = Path(__file__).with_name("equivalent.txt")
FEW = 20  # faults for which no graphs are drawn beforehand
SECONDS = 400  # for one fault; a pass that hangs is a fault that is found

SUBJECTS: dict[str, tuple[str, ...]] = {
    "passes/simplify/algebra.py": ("simplify", "simplify{fast=true}"),
    "passes/simplify/bodies.py": ("simplify", "dce", "unroll"),
    "passes/simplify/clean.py": ("dce", "cse"),
    "passes/simplify/clips.py": ("simplify",),
    "passes/simplify/decompose.py": ("decompose",),
    "passes/simplify/fold.py": ("fold",),
    "passes/simplify/layout.py": ("motion",),
    "passes/simplify/reshaping.py": ("motion", "fuse-attention"),
    "passes/simplify/windows.py": ("simplify", "fuse-conv"),
    "passes/fuse/affine.py": ("fuse-conv",),
    "passes/fuse/attention.py": ("fuse-attention",),
    "passes/fuse/conv.py": ("fuse-conv", "fuse-matmul"),
    "passes/fuse/extents.py": ("fuse-conv", "fuse-matmul", "fuse-attention"),
    "passes/fuse/extremes.py": ("extremes-first",),
    "passes/fuse/linear.py": ("fuse-linear",),
    "passes/fuse/lookup.py": ("fuse-lookup",),
    "passes/fuse/matmul.py": ("fuse-matmul",),
    "passes/fuse/merge.py": ("merge-matmuls",),
    "passes/fuse/order.py": ("fuse-conv",),
    "passes/fuse/products.py": ("fuse-matmul", "fuse-linear", "merge-matmuls"),
    "passes/fuse/recognize.py": ("recognize",),
    "passes/fuse/scaled.py": ("fuse-scaled",),
    "passes/fuse/scores.py": ("fuse-attention",),
}
"""The files in which faults are planted, and the passes that show them. (Costs, and the
groups that they choose, only say what pays; the passes that change the function have no bound to
break.)"""


def chosen(count: int, seed: int, known: set[str]) -> list[Fault]:
    """That many faults, all kinds and files alike, and half as many to take the places of those
    that do not import. Which ones does not depend on what else stands in the files."""
    every = [f for file in SUBJECTS for f in faults(ROOT / file, ROOT)]
    every.sort(key=lambda f: hashlib.sha256(f"{seed} {f.key}".encode()).digest())
    by_kind: dict[str, deque[Fault]] = {}
    for fault in every:
        if fault.key not in known:  # the others keep their order
            by_kind.setdefault(fault.kind, deque()).append(fault)
    found: list[Fault] = []
    while len(found) < count + count // 2 and any(by_kind.values()):
        found += [queue.popleft() for kind, queue in sorted(by_kind.items()) if queue]
    return found


def equivalent() -> dict[str, str]:
    """Faults judged to change nothing, with the reasons."""
    if not EQUIVALENT.exists():
        return {}
    blocks = EQUIVALENT.read_text().split("\n\n")
    pairs = [b.strip().split("\n", 1) for b in blocks if b.strip() and not b.startswith("#")]
    return {fault: reason.strip() for fault, reason in pairs}


# ---- one fault, in a child -----------------------------------------------------------------------


def plant(fault: Fault) -> None:
    """Run a module of the passes anew with the fault in it, and let all others read its new
    functions and classes."""
    path = ROOT / fault.file
    name = "taut." + fault.file.removesuffix(".py").replace("/", ".")
    module = sys.modules[name]
    old = {k: v for k, v in vars(module).items() if not k.startswith("__")}  # keeps ids taken
    before = {id(v): k for k, v in old.items() if getattr(v, "__module__", "") == name}
    exec(compile(planted(path, fault), str(path), "exec"), vars(module))
    for other in [m for n, m in sys.modules.items() if n.startswith("taut.passes")]:
        for key, value in list(vars(other).items()):
            if id(value) in before:
                setattr(other, key, vars(module)[before[id(value)]])


def verdict(fault: Fault | None, pipelines: tuple[str, ...], examples: int) -> tuple[str, str]:
    """(found, survived or no import; how)"""
    from taut import testing

    try:
        if fault is not None:
            plant(fault)
    except Exception as error:
        return "no import", f"{type(error).__name__}: {error}"
    for pipeline in pipelines:
        try:
            shared = DRAWN.get(pipeline) if fault is None or not in_pattern(fault) else None
            made = (
                held(pipeline, shared)
                if shared
                else testing.check_pipelines([pipeline], examples=examples, seed=0, shrink=False)[0]
            )
        except Exception as error:
            said = str(error).strip().splitlines() or [""]
            return "found", f"{pipeline}: {type(error).__name__}: {said[0][:160]}"
        if made.unexercised:
            return "found", f"{pipeline}: not exercised: {', '.join(made.unexercised)}"
    return "survived", ""


# ---- graphs that are drawn once ------------------------------------------------------------------

DRAWN: dict[str, list[Any]] = {}
"""For each pipeline what `taut fuzz` draws for it: graph, inputs, the reference's outputs, whether
it is grown. A child that inherits them need not draw again, unless a pattern has changed."""
MAKERS = {"extreme", "square", "half_product"}
"""Functions that patterns are made by."""


def draw(pipeline: str, examples: int) -> list[Any]:
    """The graphs of one run of the fuzzer."""
    from taut.passes import Pipeline

    from taut.testing import AWKWARD, growth, search

    pipe = Pipeline.of(pipeline)
    kinds = AWKWARD if all(type(p.promise).__name__ == "Exact" for p in pipe) else ()
    found: list[Any] = []
    search.search(lambda *drawn: found.append(drawn), growth.Growth.of([pipe], kinds, 0), (),
                  examples, 0, kinds, shrink=False)  # fmt: skip
    return found


def held(pipeline: str, graphs: list[Any]) -> Any:
    """The check of `taut fuzz` over graphs that are drawn already; its report."""
    from taut.ir import FeedError, print_graph
    from taut.passes import Pipeline

    from taut.testing import checks, growth, tally

    pipe = Pipeline.of(pipeline)
    count = tally.Tally(pipeline)
    count.offered(growth.offered_rules(pipe))
    for graph, inputs, want, grown in graphs:
        try:
            did = checks._keeps(pipeline, [p.promise for p in pipe], graph, print_graph(graph),
                                inputs, want)  # fmt: skip
        except FeedError:
            continue
        count.add(*did, grown)
    return count.report(0.0)


def in_pattern(fault: Fault) -> bool:
    """Whether a fault may change what is drawn: it stands in a pattern, or where those are made."""
    number = fault.kind in ("constant", "off by one", "sign dropped")  # it is a hint to draw by
    return number or fault.where.endswith(".pattern") or fault.where in MAKERS


def forked(fault: Fault | None, pipelines: tuple[str, ...], examples: int) -> tuple[int, int]:
    """Begin to look for a fault in a child; its process and the pipe on which it answers."""
    read, write = os.pipe()
    pid = os.fork()
    if pid:
        os.close(write)
        return pid, read
    signal.alarm(SECONDS)
    warnings.simplefilter("ignore")
    started = time.perf_counter()
    answer = verdict(fault, pipelines, examples)
    with os.fdopen(write, "w") as pipe:
        json.dump([*answer, time.perf_counter() - started], pipe)
    os._exit(0)


def judged(work: list[Fault], jobs: int, examples: int, count: int) -> list[dict[str, Any]]:
    """Look for faults, `jobs` at a time, until so many have been looked for."""
    running: dict[int, tuple[Fault, int]] = {}
    rows: list[dict[str, Any]] = []
    waiting = deque(work)
    while running or (waiting and _counted(rows) < count):
        while waiting and len(running) < jobs and _counted(rows) + len(running) < count:
            fault = waiting.popleft()
            pid, pipe = forked(fault, SUBJECTS[fault.file], examples)
            running[pid] = fault, pipe
        pid, _ = os.wait()
        fault, pipe = running.pop(pid)
        with os.fdopen(pipe) as stream:
            text = stream.read()
        what, how, seconds = json.loads(text) if text else ("found", "it hangs or kills", SECONDS)
        rows.append({"fault": fault.key, "file": fault.file, "line": fault.line,
                     "kind": fault.kind, "result": what, "how": how,
                     "seconds": round(seconds, 2)})  # fmt: skip
        print(f"{len(rows):4} {what:9} {fault.kind:17} {fault.key}   {how}", file=sys.stderr,
              flush=True)  # fmt: skip
    return rows


def _counted(rows: list[dict[str, Any]]) -> int:
    return sum(r["result"] != "no import" for r in rows)


def sound(examples: int) -> list[str]:
    """Passes that fail without any fault: with these nothing could be shown."""
    bad = []
    for pipeline in sorted({p for pipes in SUBJECTS.values() for p in pipes}):
        pid, pipe = forked(None, (pipeline,), examples)
        with os.fdopen(pipe) as stream:
            what, how, _ = json.loads(stream.read())
        os.waitpid(pid, 0)
        if what != "survived":
            bad.append(f"{pipeline}: {how}")
    return bad


def table(rows: list[dict[str, Any]]) -> str:
    """Found of planted, by kind, as Markdown."""
    planted_, found = Counter[str](), Counter[str]()
    for row in rows:
        if row["result"] != "no import":
            planted_[row["kind"]] += 1
            found[row["kind"]] += row["result"] == "found"
    lines = ["| fault | planted | found |", "| --- | --- | --- |"]
    lines += [f"| {k} | {n} | {found[k]} |" for k, n in sorted(planted_.items())]
    total, hits = sum(planted_.values()), sum(found.values())
    return "\n".join([*lines, f"| all | {total} | {hits} ({hits / max(total, 1):.1%}) |"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200, help="faults to plant")
    parser.add_argument("--seed", type=int, default=0, help="which faults")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--examples", type=int, default=100, help="graphs for each pass")
    parser.add_argument("--faults", type=Path, help="a file with the names of faults to plant")
    parser.add_argument("--trust", action="store_true",
                        help="do not look at the passes without faults first")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--write", action="store_true", help="write results/mutation-*.json")
    given = parser.parse_args()
    import taut.testing  # noqa: F401
    from taut.passes import all_passes  # isort: skip

    all_passes()  # what every child needs is loaded once
    known = equivalent()
    if given.faults:
        wanted = set(given.faults.read_text().splitlines())
        files = {name.split()[0] for name in wanted} & SUBJECTS.keys()
        work = [f for file in files for f in faults(ROOT / file, ROOT) if f.key in wanted]
    else:
        work = chosen(given.count, given.seed, set(known))
    if len(work) > FEW:
        every = sorted({p for f in work for p in SUBJECTS[f.file]})
        DRAWN.update({p: draw(p, given.examples) for p in every})
    bad = [] if given.trust else sound(given.examples)
    if bad:
        raise SystemExit("without a fault, already: " + "; ".join(bad))
    rows = judged(work, given.jobs, given.examples, given.count)
    survivors = [r["fault"] for r in rows if r["result"] == "survived"]
    if given.write:
        from results import write

        write("mutation", rows, count=given.count, seed=given.seed, examples=given.examples)
    if given.json:
        print(json.dumps({"rows": rows, "survivors": survivors, "equivalent": len(known)}))
        return
    print(table(rows))
    for fault in survivors:
        print(f"survived: {fault}")


if __name__ == "__main__":
    main()
