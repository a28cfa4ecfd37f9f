"""What every backend offers: `compile(graph, target, **options) -> Program`.

A backend is a module with a function `compile(graph, *, threads, **options) -> Program`; `threads`
is the most that a call may use (None: as many as the machine has). The ones here are
imported when first asked for, so that `import taut` stays light; other packages add theirs by an
entry point in the group `taut.backends` (name = target, value = the module).
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from ..ir import Array, CompileError, Graph, UnsupportedError
from . import shield

GROUP = "taut.backends"
DEFAULT_TARGET = "cpu"
_MODULES = {"cpu": ".cpu", "reference": ".reference"}


class KernelTime(NamedTuple):
    """One row of a profile: a kernel, the names of the nodes it computes, and what it took."""

    kernel: str
    nodes: tuple[str, ...]
    seconds: float
    macs: int = 0


@runtime_checkable
class Program(Protocol):
    """A graph made ready to run. `target` prints itself (instruction set, threads)."""

    @property
    def graph(self) -> Graph:
        """The graph as compiled; its inputs and outputs are the program's."""
        ...

    @property
    def target(self) -> object: ...

    @property
    def memory(self) -> int:
        """Bytes that the program holds: packed weights and the arena for one call."""
        ...

    @property
    def fallbacks(self) -> list[str]:
        """Names of the nodes for which the target has no kernel: their reference runs."""
        ...

    @property
    def facts(self) -> Mapping[str, int]:
        """Counts that say how the program was made, as the target has them: pieces of machine
        code compiled, measured schedules, ..."""
        ...

    def __call__(self, *arrays: Any, **named: Any) -> dict[str, Array]:
        """Outputs by name. Inputs by position in graph order or by name. Raises FeedError."""
        ...

    def run(
        self, arrays: Sequence[Array], out: Sequence[Array | None] | None = None
    ) -> list[Array]:
        """The outputs in order, of arrays of the right types in graph order.

        Where `out` holds an array of an output's type (contiguous, apart from all inputs), the
        output may be written there: what is returned says where it is.
        """
        ...

    def profile(self, *arrays: Any, repeat: int = 1, **named: Any) -> list[KernelTime]:
        """Seconds for each kernel in the order they run: the median over `repeat` calls."""
        ...

    def source(self, form: str = "source") -> str:
        """What was generated, for people to read: `source`, or another form that the target has
        (`llvm`, `asm`, ...). Raises UnsupportedError for a form that it has not."""
        ...


@runtime_checkable
class Tuned(Protocol):
    """A program whose target measures schedules and can keep them in a file."""

    def save_tuning(self, path: str | os.PathLike[str]) -> None:
        """Write the schedules in use, for `compile(..., tuning=path)`. Raises StorageError."""
        ...


def compile(
    graph: Graph, target: str = DEFAULT_TARGET, threads: int | None = None, **options: Any
) -> Program:
    """A program for `graph` on one of `targets()`. Raises CompileError (UnsupportedError for ops
    that the backend lacks).
    """
    make = _backend(target)
    if threads is not None:
        options["threads"] = threads
    known = inspect.signature(make).parameters
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known.values())
    strange = [] if takes_any else sorted(k for k in options if k not in known)
    if strange:
        rest = sorted(list(known)[1:])
        raise CompileError(f"target {target!r} has no option {strange}", hint=f"it takes {rest}")
    return make(graph, **options)


def targets() -> list[str]:
    """Names of the targets that can be asked for."""
    return sorted({*_MODULES, *(e.name for e in importlib.metadata.entry_points(group=GROUP))})


def pick_form(forms: Mapping[str, Callable[[], str]], form: str, target: object) -> str:
    """The text of one of a program's forms. Raises UnsupportedError."""
    make = forms.get(form)
    if make is None:
        raise UnsupportedError(f"target {target} has no {form} to show",
                               hint=f"it has {', '.join(forms)}")  # fmt: skip
    return make()


def _backend(target: str) -> Callable[..., Program]:
    try:
        if target in _MODULES:
            # Cut off in the middle, the import of a compiler would leave its locks taken.
            module: Any = shield.run(lambda: importlib.import_module(_MODULES[target], __package__))
        else:
            found = [e for e in importlib.metadata.entry_points(group=GROUP) if e.name == target]
            if not found:
                raise CompileError(f"no target {target!r}", hint=f"there are {targets()}")
            module = found[0].load()
        return module.compile
    except (ImportError, AttributeError) as error:
        raise CompileError(f"target {target!r} cannot be used here ({error})") from error
