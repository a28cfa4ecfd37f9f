"""Entries: what their text says is what runs, and anything else is refused."""

from __future__ import annotations

import numpy as np
import pytest
from support import ISAS
from taut.backends.cpu.codegen import entry, jit


def run(body: str, words: list[int]) -> list[int]:
    """The words at `base` after the entry ran, as thread 2 of 5."""
    source = "def entry(tid, nt, base):\n" + "".join(f"    {line}\n" for line in body.split("\n"))
    memory = np.array(words, np.int64)
    jit.build_entry(source, {}, ISAS[0])(2, 5, memory.ctypes.data)
    return memory.tolist()


@pytest.mark.parametrize(
    "body, words, expected",
    [
        ("store_i64(base, 10 * tid + nt)", [0], [25]),
        ("a = load_i64(base + 8)\nb = a * a\nstore_i64(base, b + a)", [0, -7], [42, -7]),
        ("for i in range(load_i64(base)):\n    store_i64(base + 8 * i + 8, i)",
         [3, 9, 9, 9, 9], [3, 0, 1, 2, 9]),
        ("for i in range(load_i64(base)):\n    store_i64(base + 8, 1)", [0, 9], [0, 9]),
        ("for i in range(load_i64(base)):\n    store_i64(base + 8, 1)", [-1, 9], [-1, 9]),
        ("for i in range(3):\n    for j in range(i):\n        k = load_i64(base)\n"
         "        store_i64(base, k + 10 * i + j)\n    k = i\nstore_i64(base + 8, 4)",
         [0, 0], [10 + 20 + 21, 4]),
        (f"# a comment\nstore_i64(base, {1 << 62})", [0], [1 << 62]),
    ],
    ids=["arguments", "names", "loop", "no round", "fewer", "nested", "large"],
)  # fmt: skip
def test_runs_as_python_would(body, words, expected):
    assert run(body, words) == expected


HEAD = "def entry(tid, nt, base):\n    "


@pytest.mark.parametrize(
    "source, line",
    [
        ("import os", None),
        (HEAD + "pass\nx = 1", None),
        ("def other(tid, nt, base):\n    pass", None),
        ("def entry(tid, nt):\n    a = 1", "line 1"),
        (HEAD + "a = 1\n    a = 2", "line 3: a = 2"),
        (HEAD + "a = unknown", "line 2: unknown"),
        (HEAD + "for i in range(2):\n        a = i\n    b = a", "line 4: a"),
        (HEAD + "unknown(tid, nt, base)", "line 2"),
        (HEAD + "load_i64(base)", "line 2"),
        (HEAD + "lookup(tid, nt)", "line 2"),
        (HEAD + "lookup(tid, nt, d=base)", "line 2"),
        (HEAD + "a = True", "line 2"),
        (HEAD + "a = 1.5", "line 2"),
        (HEAD + "a = tid - 1", "line 2: tid - 1"),
        (HEAD + "a = __import__('os')", "line 2"),
        (HEAD + "while tid:\n        a = 1", "line 2"),
        (HEAD + "return base", "line 2: return base"),
    ],
)
def test_refuses_anything_else(source, line):
    with pytest.raises(ValueError, match=line and line.replace(": ", r" .*: ")):
        entry.llvm_ir(source, {"lookup": "taut_0"}, "taut_1")
