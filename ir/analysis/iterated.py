"""The dependence of loops and scans: what of an axis stays by itself through all iterations.

Between the inputs and the outputs of a body only one thing is kept of its relations: which axes
have the same index, in all of them. Iterations put such pairs one after the other; what comes back
to where it was keeps the pairs that all ways round have in common. So the batch of a recurrence
stays apart from step to step, and everything else is read as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..affine import Affine
from ..bodies import specialize
from ..dependence import ANY, Dependences, Relation
from ..errors import TautError
from ..graph import Graph
from ..op import Abstract, Operands, Results
from ..relate import Space, everything
from .dependence import graph_dependence

Pairs = frozenset[tuple[int, int]]
"""(axis of one tensor, axis of the other) whose indices are the same."""
Steps = dict[tuple[int, int], Pairs]
"""By (input, output); what is not there does not depend."""


@dataclass(frozen=True)
class Iteration:
    """A body that runs again and again. Body inputs count as the node's operands do."""

    body: Graph
    inputs: Sequence[Abstract]
    carried: dict[int, int]
    """Inputs that get an output of the iteration before: by input the output."""
    stacked: dict[int, tuple[int, int]]
    """By result: the output whose values are joined along a new axis, and that axis."""
    sliced: dict[int, int]
    """Operands that are read slice by slice, with the axis."""
    first: int
    """The result that is the first carried value."""


def iterated(it: Iteration, operands: Operands, results: Results) -> Dependences:
    """The relations of the node."""
    try:
        inside = specialize(it.body, it.inputs)
    except TautError:
        return everything(operands, results, "its body cannot take the operands")
    step = _steps(graph_dependence(inside))
    around = _closure(it, step)
    s = Space(operands, results)
    own = [s.loops(shape) for shape in s.results]
    states = {i: it.first + k for k, i in enumerate(it.carried)}
    for o, x in enumerate(operands):
        if x is None or o >= len(it.inputs):
            continue
        into = {t: around[o, t] for t in it.carried if (o, t) in around} if o in it.carried \
            else _entered(it, step, around, o)  # fmt: skip
        for t, pairs in into.items():
            _relate(s, o, states[t], _sliced(it, o, pairs), own[states[t]])
        for r, (output, axis) in it.stacked.items():
            ways = [_then(p, step[t, output]) for t, p in into.items() if (t, output) in step]
            if o not in it.carried and (o, output) in step:
                ways.append(step[o, output])
            if ways:
                pairs = frozenset((i, j + (j >= axis)) for i, j in _common(ways))
                _relate(s, o, r, _sliced(it, o, pairs), own[r])
    return s.made()


def _steps(found: Dependences) -> Steps:
    made: Steps = {}
    for d in found:
        pairs = frozenset(d.pairs()) if isinstance(d, Relation) else frozenset()
        key = d.operand, d.result
        made[key] = made[key] & pairs if key in made else pairs
    return made


def _closure(it: Iteration, step: Steps) -> Steps:
    """By (state, state): through any number of iterations, none among them."""
    made: Steps = {(i, i): frozenset((k, k) for k in range(it.inputs[i].rank)) for i in it.carried}
    while True:
        before = dict(made)
        for (a, b), pairs in before.items():
            for c, output in it.carried.items():
                if (b, output) in step:
                    new = _then(pairs, step[b, output])
                    made[a, c] = made[a, c] & new if (a, c) in made else new
        if made == before:
            return made


def _entered(it: Iteration, step: Steps, around: Steps, o: int) -> dict[int, Pairs]:
    """By state: from an operand into a state, in whichever iteration."""
    made: dict[int, Pairs] = {}
    for a, output in it.carried.items():
        if (o, output) not in step:
            continue
        for b in it.carried:
            if (a, b) in around:
                new = _then(step[o, output], around[a, b])
                made[b] = made[b] & new if b in made else new
    return made


def _then(a: Pairs, b: Pairs) -> Pairs:
    return frozenset((i, k) for i, j in a for other, k in b if j == other)


def _common(ways: Iterable[Pairs]) -> Pairs:
    first, *rest = ways
    return first.intersection(*rest)


def _sliced(it: Iteration, o: int, pairs: Pairs) -> Pairs:
    """Pairs of a slice as those of the operand that it is taken from."""
    at = it.sliced.get(o)
    return pairs if at is None else frozenset((i + (i >= at), j) for i, j in pairs)


def _relate(s: Space, o: int, r: int, pairs: Pairs, own: Sequence[Affine]) -> None:
    places = dict(pairs)
    read = [own[places[k]] if k in places else s.loop(f"all{o}_{k}", n, ANY)
            for k, n in enumerate(s.shapes[o] or ())]  # fmt: skip
    s.relate(o, r, read, own, "values go from iteration to iteration")
