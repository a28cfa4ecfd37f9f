"""What a pass is: a frozen dataclass whose fields are its textual options.

@register_pass
@dataclass(frozen=True)
class DropIdentity(Pass):
    '''identity(x) -> x'''
    name = "drop-identity"
    bound = Exact()
    keep_named: bool = False
    def run(self, graph: Graph, context: Context) -> Outcome: ...
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import warnings
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

from ..ir import Graph, Node, ParseError
from ..ir.errors import near, show_name
from .context import Context
from .text import print_pass

MAX_REMARKS = 10_000


@dataclass(frozen=True)
class Exact:
    """Equal numbers, NaN for NaN. The sign of a zero does not count: IEEE 754 leaves it open for
    minimum and maximum, and NumPy's answer depends on the vector unit.
    """

    def __str__(self) -> str:
        return "exact"


@dataclass(frozen=True)
class Within:
    """|after - before| <= atol + rtol * max|before|, over each output tensor.

    For f16 and bf16 outputs rtol is at least eight units in the last place.
    """

    rtol: float = 1e-5
    atol: float = 1e-6

    def __str__(self) -> str:
        return f"within {self.rtol:g} of the largest, or {self.atol:g}"


@dataclass(frozen=True)
class Changes:
    """The pass changes the function on purpose; nothing is promised."""

    def __str__(self) -> str:
        return "changes the function"


@dataclass(frozen=True)
class WithinSteps:
    """What is quantized lies within `count` steps of where the reference has it, each result by
    itself, and what depends on it follows (`taut.ir.envelope` draws what that makes possible).
    """

    count: float = 1.0

    def __str__(self) -> str:
        return f"within {self.count:g} step{'s' if self.count != 1 else ''} of each result's grid"


Bound = Exact | Within | WithinSteps | Changes

Kind = Literal["applied", "missed", "note"]


class Remark(NamedTuple):
    """What a pass did, or why it did not, at one node ("" for the whole graph)."""

    kind: Kind
    node: str
    reason: str

    def __str__(self) -> str:
        where = f" {show_name(self.node)}" if self.node else ""
        return f"{self.kind}{where}: {self.reason}"


@dataclass
class Outcome:
    """What a run did: counts by a word of the pass's own, and remarks (deduplicated, bounded)."""

    counts: Counter[str] = field(default_factory=Counter)
    remarks: list[Remark] = field(default_factory=list)
    dropped: int = 0  # remarks over MAX_REMARKS
    _seen: set[Remark] = field(default_factory=set, repr=False, compare=False)

    def count(self, what: str, by: int = 1) -> None:
        if by:
            self.counts[what] += by

    def applied(self, what: str, node: Node | str = "", reason: str = "") -> None:
        """Count `what`, and remark on it if there is a reason to tell."""
        self.count(what)
        if reason:
            self.remark("applied", node, reason)

    def missed(self, node: Node | str, reason: str) -> None:
        self.remark("missed", node, reason)

    def note(self, reason: str, node: Node | str = "") -> None:
        self.remark("note", node, reason)

    def remark(self, kind: Kind, node: Node | str, reason: str) -> None:
        made = Remark(kind, node.name if isinstance(node, Node) else node, reason)
        if made in self._seen:
            return
        if len(self.remarks) >= MAX_REMARKS:
            self.dropped += 1
            return
        self._seen.add(made)
        self.remarks.append(made)

    def merge(self, other: Outcome) -> None:
        """Take over the counts and remarks of a part of the work."""
        self.counts.update(other.counts)
        self.dropped += other.dropped
        for r in other.remarks:
            self.remark(*r)


@dataclass(frozen=True)
class Pass:
    """Base of every pass. A subclass declares `name`, `bound` and what it `preserves`; its
    docstring says what it does and when that is legal; its fields are its textual options.
    """

    name: ClassVar[str] = ""
    bound: ClassVar[Bound] = Exact()
    preserves: ClassVar[tuple[str, ...]] = ()
    """Names of analyses whose results stay right (checked where the manager checks)."""
    keeps_signature: ClassVar[bool] = True
    """Whether the graph's inputs and outputs stay as they are (types may become better known)."""
    absent: ClassVar[str] = ""
    """What a graph lacks that a pass finds nothing to do in and has nothing else to say of."""
    nested: ClassVar[bool] = False
    """Whether the manager runs it on the bodies of branches and loops too, each a graph of its own
    (inputs and outputs by position, nothing known of what calls it)."""
    narrows: ClassVar[bool] = False
    """Whether inputs of other sizes no longer fit: symbols have become numbers."""
    seeds: ClassVar[tuple[str, ...]] = ()
    """Graphs as text to which the pass applies: the fuzzer grows more around them. (Rewrites need
    none, their patterns serve.)"""
    exact_seeds: ClassVar[tuple[str, ...]] = ()
    """More of them, with infinities: for where the pass promises to be exact."""
    families: ClassVar[tuple[str, ...]] = ()
    """Families of `taut.testing` of which the fuzzer draws more, as the pass applies to them."""
    open_options: ClassVar[str] = ""
    """The field, a tuple of (name, value) pairs, that takes options of any name."""

    @property
    def promise(self) -> Bound:
        """The bound with these options; `bound` unless a pass says otherwise."""
        return self.bound

    def promise_on(self, graph: Graph) -> Bound:
        """What it promises on this graph, as it stands before the pass."""
        return self.promise

    def run(self, graph: Graph, context: Context) -> Outcome:
        """Change `graph` in place through its methods and say what was done."""
        raise NotImplementedError

    def __str__(self) -> str:
        return print_pass(self)


P = TypeVar("P", bound=type[Pass])

_REGISTRY: dict[str, type[Pass]] = {}
_plugins_loaded = False


def register_pass(cls: P) -> P:
    """Class decorator: make a pass known by its name. Raises ValueError for a bad declaration."""
    name = cls.name
    words = name.split("-")
    if not words[0] or not all(w.isalnum() and w == w.lower() for w in words):
        raise ValueError(f"{cls.__name__}: {name!r} is not a kebab-case name")
    known = _REGISTRY.get(name)
    if known is not None and known.__qualname__ != cls.__qualname__:
        raise ValueError(f"pass {name} is declared twice")
    if not cls.__doc__ or cls.__doc__.startswith(f"{cls.__name__}("):
        raise ValueError(f"pass {name} has no docstring")
    for f in dataclasses.fields(cls):
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise ValueError(f"pass {name}: option {f.name} has no default")
    _REGISTRY[name] = cls
    return cls


def pass_class(name: str) -> type[Pass]:
    """The pass of this name, from here or a plug-in. Raises ParseError with near misses."""
    if name not in _REGISTRY:
        load_plugins()
    found = _REGISTRY.get(name)
    if found is None:
        raise ParseError(f"no pass is named {name[:80]!a}{near(name, list(_REGISTRY))}",
                         hint="`taut passes` lists them")  # fmt: skip
    return found


def all_passes() -> list[type[Pass]]:
    """Every pass, plug-ins included, by name."""
    load_plugins()
    return [_REGISTRY[k] for k in sorted(_REGISTRY)]


def load_plugins() -> None:
    """Import every entry point of the group `taut.passes`; one that breaks warns."""
    global _plugins_loaded
    if _plugins_loaded:
        return
    _plugins_loaded = True
    try:
        for point in importlib.metadata.entry_points(group="taut.passes"):
            _load_plugin(point)
    except BaseException:  # an interrupt: the rest is for the next time
        _plugins_loaded = False
        raise


def _load_plugin(point: importlib.metadata.EntryPoint) -> None:
    try:
        loaded: Any = point.load()
        if isinstance(loaded, type) and issubclass(loaded, Pass):
            register_pass(loaded)
    except Exception as error:  # a plug-in may raise anything; it must not take us along
        warnings.warn(f"plug-in {point.name!a} cannot be loaded: {error!r}", stacklevel=3)


__all__ = [
    "Bound", "Changes", "Exact", "Kind", "Outcome", "Pass", "Remark", "Within", "WithinSteps",
    "all_passes", "load_plugins", "near", "pass_class", "register_pass",
]  # fmt: skip
