"""Axis signatures: an op's dependence in one line, `a[...,m,k] b[...,k,n] -> y[...,m,n]`.

Each operand and each result is named with its axes, a letter (or word) for each: axes of one letter
have one size and one index. A letter that no result has is contracted. Beyond letters there are

    ...         any number of axes, which broadcast; counted from the right
    k...        the same with a name, for a second such run
    group*i     an axis of blocks, as many as the attribute `group` says; i counts within a block
    ...@k       a window: at result p and kernel element k it reads stride * p + dilation * k - pad.
                The op's `taps` gives the numbers; k is an operand's axis, or kernel_shape's
    1, 1...     axes of size 1
    k:max       how a contracted axis is joined (sum if it is not said)
    i!          the result depends on everything along this axis
    m?          an axis that may be of size 1 and broadcast
    ~transA     after the brackets: the last two axes are swapped where this attribute is true
    shape[!]    all of this operand may change all of the result
    like[-]     only the type and the shape of this operand count

`x[]` is a scalar, also as a vector of one element; an operand of fewer axes than its term has the
last ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

from .affine import ZERO, Affine
from .dependence import ANY, Dependences, Place
from .relate import Space, unknown
from .types import Dim, Shape

_TERM = re.compile(r"(\w+)\[([^\]]*)\](?:~(\w+))?\Z")
_AXIS = re.compile(
    r"(?:(?P<by>[a-z]\w*)\*)?(?P<name>[A-Za-z]\w*|1)?(?P<many>\.\.\.)?(?:@(?P<window>\w+))?"
    r"(?P<end>!|\?|:[a-z]\w*)?\Z"
)


@dataclass(frozen=True, slots=True)
class Axis:
    """One entry of a term; fields that do not apply are empty."""

    name: str
    many: bool = False
    by: str = ""
    window: str = ""
    how: str = ""
    whole: bool = False
    spread: bool = False


@dataclass(frozen=True, slots=True)
class Term:
    """An operand or a result with its axes."""

    name: str
    axes: tuple[Axis, ...] = ()
    turned: str = ""
    unread: bool = False
    everything: bool = False

    @property
    def is_full(self) -> bool:
        """Whether this is `[...]`, an element for each of the result's."""
        return self.axes == (Axis("", many=True),) and not (self.unread or self.everything)

    @property
    def is_scalar(self) -> bool:
        return not (self.axes or self.unread or self.everything)


class Tap(NamedTuple):
    """The geometry of a window along one axis: it reads stride * p + dilation * k - begin."""

    stride: int
    dilation: int
    begin: int


@dataclass(frozen=True)
class Signature:
    operands: tuple[Term, ...]
    results: tuple[Term, ...]

    @property
    def pointwise(self) -> bool:
        """Whether each element of a result is a function of one element of each operand."""
        return (all(t.is_full for t in self.results)
                and all(t.is_full or t.is_scalar for t in self.operands)
                and any(t.is_full for t in self.operands))  # fmt: skip


@cache
def read_signature(text: str) -> Signature:
    """Read a signature. Raises ValueError, which says what is wrong."""
    left, arrow, right = text.partition("->")
    if not arrow or not right.strip():
        raise ValueError(f"the axis signature {text!r} has no result")
    return Signature(tuple(map(_term, left.split())), tuple(map(_term, right.split())))


def _term(text: str) -> Term:
    found = _TERM.match(text)
    if found is None:
        raise ValueError(f"the term {text!r} of an axis signature cannot be read")
    name, inside, turned = found.groups()
    if inside in ("!", "-"):
        return Term(name, everything=inside == "!", unread=inside == "-")
    axes = tuple(_axis(a) for a in inside.split(",")) if inside else ()
    if sum(a.many for a in axes) > 1:
        raise ValueError(f"the term {text!r} has two runs of any number of axes")
    if turned and len(axes) < 2:
        raise ValueError(f"the term {text!r} has no two axes to swap")
    return Term(name, axes, turned or "")


def _axis(text: str) -> Axis:
    found = _AXIS.match(text)
    if found is None or not (found["name"] or found["many"]):
        raise ValueError(f"the axis {text!r} of an axis signature cannot be read")
    end = found["end"] or ""
    return Axis(found["name"] or "", bool(found["many"]), found["by"] or "",
                found["window"] or "", end[1:] if end.startswith(":") else "", end == "!",
                end == "?")  # fmt: skip


def check(signature: Signature, cls: Any) -> None:
    """Raises ValueError where a signature does not fit the op's operands, results, attributes."""
    for what, terms, declared in (
        ("operands", signature.operands, [o.name for o in cls.operands]),
        ("results", signature.results, list(cls.results)),
    ):
        named = [t.name for t in terms]
        if named != declared:
            raise ValueError(f"{cls.__name__}: the axis signature has the {what} "
                             f"{named}, the op {declared}")  # fmt: skip
    kinds = {a.name: a.kind for a in cls.attributes}
    terms = (*signature.operands, *signature.results)
    for term in terms:
        if term.turned and kinds.get(term.turned) != "bool":
            raise ValueError(f"{cls.__name__}: ~{term.turned} is no attribute that is true or not")
        for a in term.axes:
            if a.by and kinds.get(a.by) != "int":
                raise ValueError(f"{cls.__name__}: {a.by}*{a.name}: no attribute counts blocks")
            if a.window and not hasattr(cls, "taps"):
                raise ValueError(f"{cls.__name__}: @{a.window}: the op has no `taps`")
    known = {a.name for t in signature.operands for a in t.axes} | {"1"}
    known |= {a.window for t in terms for a in t.axes}
    free = any(t.everything or t.unread for t in signature.operands)
    for a in (a for t in signature.results for a in t.axes):
        if a.name not in known and not free:
            raise ValueError(f"{cls.__name__}: no operand has the axis {a.name!r} of a result")


class LayerAxes(NamedTuple):
    """Where a weight's channels are: axes of the weight and of the result. They count from the end
    unless a run of axes follows. `grouped` is the one that has channels of one group only.
    """

    outputs: int
    inputs: int
    channels: int
    grouped: str
    transposed: str


def layer_axes(signature: Signature, data: str, weight: str) -> LayerAxes:
    """What a signature says of a product of data with a weight: its output channels are an axis
    that weight and result share, its input channels one that weight and data share. Raises
    ValueError where there are no such axes.
    """
    terms = {t.name: t for t in signature.operands}
    x, w, y = terms[data], terms[weight], signature.results[0]
    plain = {t.name: {a.name: a for a in t.axes if not a.many} for t in (x, w, y)}
    own = [a for k, a in plain[w.name].items() if k in plain[y.name] and k not in plain[x.name]]
    summed = [a for k, a in plain[w.name].items() if k in plain[x.name] and k not in plain[y.name]]
    if len(own) != 1 or len(summed) != 1:
        raise ValueError(f"the axes of {weight} do not tell output from input channels")
    (o,), (i,) = own, summed
    channels = plain[y.name][o.name]
    grouped = "outputs" if channels.by != o.by else "inputs" if plain[x.name][i.name].by != i.by \
        else ""  # fmt: skip
    return LayerAxes(_at(w, o), _at(w, i), _at(y, channels), grouped, w.turned)


def _at(term: Term, axis: Axis) -> int:
    k = term.axes.index(axis)
    return k if any(a.many for a in term.axes[k:]) else k - len(term.axes)


# ---- relations of a node -----------------------------------------------------------------------


class Label(NamedTuple):
    """An axis of a term as it stands in a tensor: `at` counts a run's axes from the right."""

    axis: Axis
    at: int = -1

    @property
    def key(self) -> tuple[str, int]:
        return self.axis.name, self.at


_ONE = Label(Axis("1"))


def labels(term: Term, rank: int, op: Any = None) -> list[Label]:
    """What stands at each axis of a tensor of this rank."""
    axes = list(term.axes)
    if term.turned and getattr(op, term.turned, False):
        axes[-2:] = axes[:-3:-1]
    made: list[Label] = []
    free = rank - sum(not a.many for a in axes)
    for a in axes:
        made += [Label(a, free - 1 - i) for i in range(free)] if a.many else [Label(a)]
    if free < 0 or not any(a.many for a in axes):
        made = [_ONE] * (rank - len(made)) + made[max(len(made) - rank, 0) :]
    return made


class Deriver:
    """The relations of one node, from its op's signature."""

    def __init__(
        self, signature: Signature, op: Any, operands: Sequence[Any],
        results: Sequence[Any],
    ) -> None:  # fmt: skip
        self.op, self.results = op, results
        self.space = Space(operands, results)
        self.given = {o: (t, x.shape or (), labels(t, len(x.shape or ()), op))
                      for o, (t, x) in enumerate(zip(_spread(signature, len(operands)), operands))
                      if x is not None}  # fmt: skip
        self.made = [(y.shape or (), labels(t, len(y.shape or ()), op))
                     for t, y in zip(signature.results, results)]  # fmt: skip
        self.sizes = self._sizes()
        self.cache: dict[Any, Affine] = {}
        self.readers: dict[tuple[str, int], int] = {}
        for _, _, found in self.given.values():
            for key in {label.key for label in found}:
                self.readers[key] = self.readers.get(key, 0) + 1

    def relations(self) -> Dependences:
        for r, (shape, made) in enumerate(self.made):
            for o, (term, own, places) in self.given.items():
                if term.unread:
                    continue
                found = _seen(made, places)
                if term.everything:
                    self.space.everything(o, r, "it says how the op goes")
                    continue
                written = self._places(shape, found, found, None)
                self.space.relate(o, r, self._places(own, places, found, o), written)
        return self.space.made()

    # ---- sizes -----------------------------------------------------------------------------------

    def _sizes(self) -> dict[tuple[str, int], Dim]:
        """The size of each letter's loop: a number if one is known, and 1 only if all are."""
        found: dict[tuple[str, int], list[Dim]] = {}
        tensors = [(shape, _seen(places, ())) for shape, places in self.made]
        tensors += [(shape, [p if not p.axis.window else _ONE for p in places])
                    for _, shape, places in self.given.values()]  # fmt: skip
        for shape, places in tensors:
            for n, label in zip(shape, places):
                if label.axis.name != "1":
                    count = self._blocks(label.axis)
                    if count > 1 and n != 1:
                        n = n // count if isinstance(n, int) else None
                    found.setdefault(label.key, []).append(n)
        return {k: min(v, key=_doubt) for k, v in found.items()}

    def _blocks(self, axis: Axis) -> int:
        return getattr(self.op, axis.by) if axis.by else 1

    # ---- indices ---------------------------------------------------------------------------------

    def _loop(self, name: str, at: int, size: Dim, how: str, of: int = -1) -> Affine:
        key = (name, at, how, of)
        if key not in self.cache:
            shown = f"{name or 's'}{at}" if at >= 0 else name
            self.cache[key] = self.space.loop(shown, size, how)
        return self.cache[key]

    def _places(
        self, shape: Shape, places: Sequence[Label], result: Sequence[Label], operand: int | None
    ) -> list[Place]:
        """The index at each axis of an operand, or (None) of the result."""
        shown = {label.key for label in result if not label.axis.window}
        windows = [label for label in result if label.axis.window]
        summed = {label.key for label in windows} | {(p.axis.window, p.at) for p in windows}
        out: list[Place] = []
        for k, (n, label) in enumerate(zip(shape, places)):
            a, own = label.axis, label.key in shown
            how = "" if own else ANY if a.whole else a.how or "sum"
            if a.name == "1" or (n == 1 and not a.window and self.sizes[label.key] != 1):
                out.append(ZERO)
            elif a.window:
                out.append(self._window(k, label, shape, places))
            elif operand is not None and a.by and a.whole and own:
                out.append(self._index(label, ANY, operand))
            elif operand is not None and ((a.whole and own) or not self._is_proven(n, label)):
                out.append(self._loop(f"all_{a.name}", label.at, n, ANY, operand))
            else:
                out.append(self._index(label, "sum" if label.key in summed else how))
        return out

    def _index(self, label: Label, how: str, of: int = -1) -> Affine:
        a, size, count = label.axis, self.sizes[label.key], self._blocks(label.axis)
        if count > 1 and size == 1:
            return self._loop(a.by, -1, count, "")
        inner = self._loop(a.name if of < 0 else f"all_{a.name}", label.at, size, how, of)
        if count == 1:
            return inner
        outer = self._loop(a.by, -1, count, "")
        if not isinstance(size, int):
            raise _Unsized(f"the size of a block of {a.by} is not known")
        return outer.scaled(size) + inner

    def _is_proven(self, n: Dim, label: Label) -> bool:
        """Whether an axis surely has the size of its loop, and is not broadcast."""
        broadcasts = label.axis.spread or (label.axis.many and not label.axis.name)
        if not broadcasts or (self.readers[label.key] == 1 and not label.axis.spread):
            return True
        return isinstance(n, int) or (n is not None and n == self.sizes[label.key])

    def _window(self, k: int, label: Label, shape: Shape, places: Sequence[Label]) -> Affine:
        """stride * p + dilation * k - pad, as the op's `taps` tell."""
        a, run = label.axis, [i for i, p in enumerate(places) if p.axis is label.axis]
        dims, at = [shape[i] for i in run], [places[i].at for i in run]
        loops = [self.sizes.get((a.name, i)) for i in at]
        kernel, here = self._kernel(a.window, at, dims), k - run[0]
        tap = self.op.taps(dims, loops, kernel)[here]
        if tap is None:
            raise _Unsized("the size of a padded axis is not known")
        how = "" if self._is_own((a.window, label.at)) else ANY if a.whole else a.how or "sum"
        inner = self._part(a.window, label.at, kernel[here], how)
        # A window's places are the result's own, or added up where windows overlap in it.
        outer = self._part(a.name, label.at, loops[here], "" if self._is_own(label.key) else "sum")
        return outer.scaled(tap.stride, -tap.begin) + inner.scaled(tap.dilation)

    def _part(self, name: str, at: int, size: Dim, how: str) -> Affine:
        return ZERO if size == 1 else self._loop(name, at, size, how)

    def _is_own(self, key: tuple[str, int]) -> bool:
        """Whether a result has this axis (not as a window)."""
        return any(p.key == key and not p.axis.window for _, found in self.made for p in found)

    def _kernel(self, name: str, at: Sequence[int], dims: Sequence[Dim]) -> list[Dim]:
        known = [self.sizes.get((name, i)) for i in at]
        if any((name, i) in self.sizes for i in at):
            return known
        given = getattr(self.op, "kernel_shape", ())
        return list(given) if given else list(dims)


def _seen(result: Sequence[Label], operand: Sequence[Label]) -> list[Label]:
    """The axes of a result as an operand meets them: windows that it takes no part in are axes
    like others.
    """
    names = {p.axis.name for p in operand} | {p.axis.window for p in operand}
    return [Label(Axis("", many=True), p.at)
            if p.axis.window and not {p.axis.name, p.axis.window} & names else p
            for p in result]  # fmt: skip


class _Unsized(Exception):
    """Sizes that a relation needs are not known; the message says which."""


def _doubt(n: Dim) -> int:
    """Orders what is known of a size: numbers, symbols, nothing, 1."""
    return 3 if n == 1 else 0 if isinstance(n, int) else 1 if n is not None else 2


def _spread(signature: Signature, count: int) -> Iterator[Term]:
    """The terms of `count` operands, the last one for all that follow."""
    terms = signature.operands
    return (terms[min(i, len(terms) - 1)] for i in range(count))


def derived(
    signature: Signature, op: Any, operands: Sequence[Any], results: Sequence[Any]
) -> Dependences:
    """The relations that a signature stands for, for operands and results of known rank."""
    try:
        return Deriver(signature, op, operands, results).relations()
    except _Unsized as error:
        return unknown(operands, results, str(error))
