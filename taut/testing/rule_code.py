"""What stands in the code of a rewrite, and which of it is run.

The fuzzer draws numbers, words and ops that a rule's code names more often than others, and keeps
draws that take a new branch of its guards.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Iterable, Iterator
from types import CodeType, FrameType, FunctionType
from typing import Any

from taut.ir import Op, TautError, op_class
from taut.ir.analysis.pointwise import is_pointwise
from taut.passes import Rewrite

MOST_HINTS = 12


@functools.cache
def literals(
    cls: type,
) -> tuple[tuple[float, ...], tuple[str, ...], tuple[type[Op], ...]]:
    """Numbers, words and ops that stand in the code of a rule's methods and of what they call."""
    numbers: dict[float, None] = {}
    words: dict[str, None] = {}
    makers: dict[type[Op], None] = {}
    for code, names in _codes(cls):
        for item in _flat((*code.co_consts, *names)):
            if isinstance(item, int | float) and not isinstance(item, bool) and abs(item) <= 64:
                numbers[float(item)] = None
            elif isinstance(item, type) and issubclass(item, Op) and item.operands:
                makers[item] = None
            elif isinstance(item, str) and item.isidentifier() and len(item) < 24:
                words[item] = None
                with contextlib.suppress(TautError):
                    makers[op_class(item)] = None
    usable = [m for m in makers if drawable(m)]
    # Element-wise ops are many and alike: the others come as often as all of them.
    rare = [m for m in usable if not is_pointwise(m)]
    usable += rare * (len(usable) // max(len(rare), 1))
    return tuple(numbers)[:MOST_HINTS], tuple(words)[:MOST_HINTS], tuple(usable)


@functools.cache
def code_ids(cls: type) -> frozenset[int]:
    return frozenset(id(code) for code, _ in _codes(cls))


def drawable(cls: type[Op]) -> bool:
    """Whether it is an op as registered (no base of some), and one without a body."""
    with contextlib.suppress(TautError):
        return op_class(cls.name) is cls and cls.name not in ("return", "fusion") and bool(
            cls.operands) and all(a.kind != "graph" for a in cls.attributes)  # fmt: skip
    return False


def _codes(cls: type) -> Iterator[tuple[CodeType, list[Any]]]:
    """The code of a rule's methods and of the functions that they call, with what else their names
    stand for."""
    seen: set[CodeType] = set()
    stack: list[tuple[CodeType, dict[str, Any]]] = []
    for base in cls.__mro__:
        if base not in (Rewrite, object):
            made = [f.fget if isinstance(f, property) else f for f in vars(base).values()]
            stack += [(f.__code__, f.__globals__) for f in made if isinstance(f, FunctionType)]
    while stack and len(seen) < 64:
        code, scope = stack.pop()
        if code in seen:
            continue
        seen.add(code)
        known = [scope[n] for n in code.co_names if n in scope]
        stack += [(c, scope) for c in code.co_consts if isinstance(c, CodeType)]
        stack += [(f.__code__, f.__globals__) for f in known if isinstance(f, FunctionType)
                  and not f.__module__.startswith(("taut.ir.", "numpy"))]  # fmt: skip
        yield code, [k for k in known if isinstance(k, tuple | frozenset | type | int | float)]


def _flat(items: Iterable[Any]) -> Iterator[Any]:
    for item in items:
        if isinstance(item, tuple | frozenset):
            yield from _flat(sorted(item, key=str) if isinstance(item, frozenset) else item)
        else:
            yield item


class Steps:
    """Which branches of a rule's guards are taken: pairs of instructions run one after the other.

    Python's own tracing, of the code of this rule alone; what traces already (a debugger, a
    coverage tool) is left as it is, and then nothing is known.
    """

    def __init__(self, cls: type) -> None:
        self.codes = code_ids(cls)
        self.taken: set[Any] = set()

    def __enter__(self) -> Steps:
        self.idle = sys.gettrace() is None
        if self.idle:
            sys.settrace(self.called)
        return self

    def __exit__(self, *error: object) -> None:
        if self.idle:
            sys.settrace(None)

    def called(self, frame: FrameType, event: str, arg: Any) -> Any:
        code = id(frame.f_code)
        if code not in self.codes:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        before = -1

        def stepped(frame: FrameType, event: str, arg: Any) -> Any:
            nonlocal before
            if event == "opcode":
                self.taken.add((code, before, frame.f_lasti))
                before = frame.f_lasti
            return stepped

        return stepped
