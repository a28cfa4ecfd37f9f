"""Every op says what it promises of numbers at the edges; docs/numerics.md has the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from taut.ir import all_ops, numerics
from taut.ir.ops.structure import Constant

PAGE = Path(__file__).parents[1] / "docs" / "numerics.md"
MARK = "<!-- table -->\n"


def own() -> list[type]:
    """Taut's ops (tests may have registered others)."""
    return [c for c in all_ops() if c.__module__.startswith(Constant.__module__.rpartition(".")[0])]


def test_every_op_declares_a_promise():
    assert [c.name for c in own() if c.numerics is None] == []


def test_the_page_has_the_declared_promises(request: pytest.FixtureRequest):
    head, mark, _ = PAGE.read_text().partition(MARK)
    assert mark
    made = f"{head}{MARK}\n{numerics.table((c.name, c.numerics) for c in own())}"
    if request.config.getoption("--update-golden"):
        PAGE.write_text(made)
    assert PAGE.read_text() == made, "run pytest tests/test_numerics.py --update-golden"
    assert all(f"**{name}**" in head for name in (*numerics.FREE, "exact"))


def test_unknown_freedom_is_refused():
    with pytest.raises(ValueError, match="speed"):
        numerics.FUNCTION.but(free=("speed",))
