"""Before and after: each tests/golden/passes/NAME.ir is run through the passes that its first line
names, and gives NAME.after (the graph, and as comments what was remarked on).

`pytest tests/passes/test_golden.py --update-golden` writes the files anew.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from taut.ir import parse, print_graph
from taut.passes import PassManager

FOLDER = Path(__file__).parents[1] / "golden" / "passes"
CASES = sorted(p.stem for p in FOLDER.glob("*.ir"))


@pytest.mark.parametrize("case", CASES)
def test_golden(case: str, golden: Callable[[str, str], None]) -> None:
    text = (FOLDER / f"{case}.ir").read_text()
    pipeline = text.partition("\n")[0].removeprefix("// ")
    report = PassManager(pipeline, check=True).run(parse(text))
    remarks = "".join(f"// {name}: {remark}\n" for name, remark in report.remarks())
    golden(f"passes/{case}.after", print_graph(report.graph) + remarks)


def test_there_are_cases() -> None:
    assert len(CASES) >= 20
