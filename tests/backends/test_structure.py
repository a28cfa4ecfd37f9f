"""How the CPU backend finds its handlers. (What imports what: the contracts in pyproject.toml.)"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from taut.backends.cpu.lower.registry import HANDLERS, lowers


def test_two_handlers_of_one_priority_are_refused() -> None:
    with pytest.raises(ValueError, match="relu has two handlers of priority 0"):
        lowers("relu")(lambda low, node: False)
    assert all(list(found) == sorted(found, reverse=True) for found in HANDLERS.values())


def test_the_order_of_imports_decides_nothing() -> None:
    """A process that imports the files the other way round asks the same handlers."""
    script = """
import json, pkgutil
plain = pkgutil.iter_modules
pkgutil.iter_modules = lambda *where: reversed(list(plain(*where)))
import taut.backends.cpu
from taut.backends.cpu.lower.registry import HANDLERS
print(json.dumps({op: [f"{h.__module__}.{h.__name__}" for h in by.values()]
                  for op, by in HANDLERS.items()}))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    here = {op: [f"{h.__module__}.{h.__name__}" for h in by.values()]
            for op, by in HANDLERS.items()}  # fmt: skip
    assert json.loads(done.stdout) == here and len(here) > 100
    assert [h.rsplit(".", 2)[1] for h in here["gather"]] == ["index", "shape"]
