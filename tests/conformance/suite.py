"""ONNX's backend test suite over Taut, with every real execution counted.

ONNX's runner calls a case passed when the backend raises "not supposed to implement it", so its
own count of passes says nothing. Here a case is `passed` only if `run` was called on all of its
data and gave outputs that were compared; a case that Taut refuses is `unsupported`.
"""

from __future__ import annotations

import os
import unittest
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from onnx.backend.test.runner import Runner
from taut.frontends.onnx.backend import TautBackend, TautRep
from taut.ir import FeedError, UnsupportedError

MANIFEST = Path(__file__).parent / "manifest.txt"
KINDS = {
    "node": "OnnxBackendNodeModelTest",
    "simple": "OnnxBackendSimpleModelTest",
    "converted": "OnnxBackendPyTorchConvertedModelTest",
    "operator": "OnnxBackendPyTorchOperatorModelTest",
    "light": "OnnxBackendRealModelTest",
}


class CountingRep(TautRep):
    """Counts the calls that gave outputs."""

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        made = super().run(inputs, **kwargs)
        CountingBackend.runs += 1
        for name in getattr(self.program, "fallbacks", ()):
            node = self.graph.find(name)
            CountingBackend.in_python["(in a body)" if node is None else node.op.name] += 1
        return made


class CountingBackend(TautBackend):
    """`runs` counts calls that gave outputs, `in_python` nodes that cpu left to the reference."""

    runs = 0
    in_python: ClassVar[Counter[str]] = Counter()

    @classmethod
    def prepare(cls, model: Any, device: str = "CPU", **kwargs: Any) -> TautRep:
        made = super().prepare(model, device, **kwargs)
        return CountingRep(made.graph, made.program)


def cases() -> Iterator[tuple[str, str, Any]]:
    """(kind, case name, test function) of every CPU case, in order."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = Runner(CountingBackend, __name__).test_cases
    for kind, name in KINDS.items():
        case = made[name]
        for test in sorted(t for t in vars(case) if t.endswith("_cpu")):
            yield kind, test, getattr(case(test), test)


def execute(test: Any) -> tuple[str, str]:
    """('passed' | 'unsupported' | 'failed', why) of one case."""
    before = CountingBackend.runs
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            test()
    except UnsupportedError as error:
        return "unsupported", str(error)
    except FeedError as error:
        if "is no tensor" in str(error):
            return "unsupported", str(error)
        return "failed", f"FeedError: {error}"
    except unittest.SkipTest as error:
        return "unsupported", str(error)
    except Exception as error:
        return "failed", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    if CountingBackend.runs == before:
        return "unsupported", "the case never ran the model"
    return "passed", ""


def manifest() -> set[tuple[str, str]]:
    """(kind, case) of every case that must execute and pass."""
    lines = MANIFEST.read_text().splitlines()
    found = [tuple(line.split()) for line in lines if line and not line.startswith("#")]
    return {(kind, name) for kind, name in found}


def main() -> None:
    """Run everything and print what each case came to; with --write, write the manifest."""
    import argparse
    import time

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="add what passes to the manifest")
    parser.add_argument("--kind", choices=[*KINDS], action="append")
    parser.add_argument("--match", default="")
    parser.add_argument("--verbose", "-v", action="count", default=0)
    options = parser.parse_args()
    counts: Counter[tuple[str, str]] = Counter()
    passed = set(manifest()) if MANIFEST.exists() else set()
    for kind, name, test in cases():
        if options.match not in name or (options.kind and kind not in options.kind):
            continue
        start = time.perf_counter()
        status, why = execute(test)
        counts[kind, status] += 1
        seconds = time.perf_counter() - start
        if status == "passed":
            passed.add((kind, name))
        elif status == "failed" or options.verbose:
            lost = " LOST" if (kind, name) in passed else ""
            print(f"{status}{lost} {kind} {name} ({seconds:.1f} s): {why}", flush=True)
        if seconds > 2:
            print(f"slow {kind} {name}: {seconds:.1f} s")
    for kind in KINDS:
        print(kind, {s: counts[kind, s] for s in ("passed", "unsupported", "failed")})
    print(dict(TautBackend.prepared), "refused by cpu:", sum(TautBackend.fallbacks.values()))
    print("in Python on cpu, by op:", dict(CountingBackend.in_python.most_common()))
    if options.write:
        lines = [f"{k} {n}" for k, n in sorted(passed, key=lambda p: ([*KINDS].index(p[0]), p[1]))]
        head = "# Cases of ONNX's backend suite that must execute and pass: kind, name.\n"
        MANIFEST.write_text(head + "\n".join(lines) + "\n")


if __name__ == "__main__":
    os.environ.setdefault("ONNX_HOME", os.environ.get("TMPDIR", "/tmp") + "/taut-onnx-home")
    main()
