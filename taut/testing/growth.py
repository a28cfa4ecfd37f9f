"""Graphs to which a pass applies: grown around matches of its rewrites, and around its seeds.

A graph holds several matches side by side, each with other values in front of it, readers behind
it and, now and then, readers of what is inside it. Which of a rule's draws are taken is steered by
what its guards say, so that it fires often and is refused for every reason that can be met.
"""

from __future__ import annotations

import contextlib
import copy
import math
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from random import Random
from typing import Any

import numpy as np

from taut.ir import Graph, Node, Op, TautError, TensorType, Value, parse
from taut.ir.op import Array
from taut.ir.ops.structure import Constant, Input
from taut.passes import Context, Exact, Pass, PassManager, Rewrite
from taut.passes.pattern import Operands, Pattern, build, solutions, variables
from taut.passes.rewrite import Match as Found

from .fits import fit, op_of
from .plants import Match, Plant, Unfit, Want
from .rule_code import Steps, literals

MATCHES = 60  # of each rule, in all graphs together, at least
MOST_IN_ONE = 28
TRIES = 20
OFTEN = 0.85
OFTEN_ENOUGH = 3  # matches that take a branch of a rule's guards
FIRES = 0.6  # the share of draws that are to pass the guards
BLURRED = 0.3  # the share of graphs of which less is known than drawn

BARE = "graph @main(%x: f32[n,2]) -> (%y: f32[n,2]) {\n  %y = relu(%x) : f32[n,2]\n  return %y\n}\n"


class Growth:
    """Draws graphs for some passes; the same seed gives the same graphs."""

    def __init__(
        self, rules: Mapping[str, Rewrite], seeds: Sequence[str], families: Iterable[str],
        awkward: Iterable[str], seed: int,
    ) -> None:  # fmt: skip
        self.rules = dict(rules)
        self.seeds = [parse(text) for text in seeds]
        self.families = tuple(dict.fromkeys(families))
        self.awkward = tuple(awkward)
        self.random = Random(seed)
        self.turn: deque[str | int] = deque()
        self.patterns = {name: build(rule.pattern) for name, rule in rules.items()}
        self.drawn: dict[str, Counter[str]] = {name: Counter() for name in rules}
        self.met: dict[str, Counter[str]] = {name: Counter() for name in rules}
        self.steps: dict[str, Counter[Any]] = {name: Counter() for name in rules}
        self.by_pipe: dict[int, list[str]] = {}

    @classmethod
    def of(cls, pipes: Sequence[Any], awkward: Iterable[str], seed: int) -> Growth:
        """For pipelines: the rules that their passes offer to the driver, and what they declare."""
        offered = [offered_rules(pipe) for pipe in pipes]
        passes = [p for pipe in pipes for p in pipe]
        seeds = dict.fromkeys(
            text for p in passes
            for text in (*p.seeds, *(p.exact_seeds if isinstance(p.promise, Exact) else ()))
        )  # fmt: skip
        families = [f for p in passes for f in p.families]
        rules = {name: rule for one in offered for name, rule in one.items()}
        growth = cls(rules, list(seeds), families, awkward, seed)
        growth.by_pipe = {id(pipe): list(one) for pipe, one in zip(pipes, offered)}
        return growth

    def offered(self, pipe: Any) -> list[str]:
        """Names of the rules that a pipeline offers, by `pass/rule`."""
        return self.by_pipe.get(id(pipe), [])

    @property
    def possible(self) -> bool:
        return bool(self.rules or self.seeds)

    def draw(self, examples: int) -> tuple[Graph, dict[str, Array]]:
        """A graph with several matches, and its inputs; one of about `examples`."""
        plant = Plant(Random(self.random.getrandbits(64)), fit, self.awkward)
        count = math.ceil(MATCHES * (len(self.rules) + len(self.seeds)) / examples)
        outputs: dict[str, Value] = {}
        for _ in range(min(max(count, 2), MOST_IN_ONE)):
            for name, value in self.planted(plant, self.next()):
                named = name if "." in name and name not in outputs else f"y{len(outputs)}"
                outputs[named] = value
        graph = plant.graph
        if not outputs:
            outputs["y0"] = plant.leaf(Want(shape=(2,)))
        graph.set_outputs(outputs)
        unread = [v for v in graph.inputs if not graph.nx.succ[v]]
        for node in unread[: len(graph.inputs) - 1]:
            graph.erase(node)
        blur(plant)
        return graph, {n.name: plant.feeds[n.name] for n in graph.inputs}

    def next(self) -> str | int:
        """Whose turn it is: each rule and seed comes as often as the others."""
        if not self.turn:
            every: list[str | int] = [*self.rules, *range(len(self.seeds))]
            self.random.shuffle(every)
            self.turn.extend(every)
        return self.turn.popleft()

    def planted(self, plant: Plant, what: str | int) -> list[tuple[str, Value]]:
        """Values to show of one more match; none where no draw went together."""
        for left in range(TRIES)[::-1]:
            mark = plant.mark()
            try:
                if isinstance(what, int):
                    return regrown(plant, self.seeds[what])
                return [("", v) for v in self.matched(plant, what, last=not left)]
            except Unfit:
                plant.back(mark)
        return []

    def matched(self, plant: Plant, name: str, last: bool) -> list[Value]:
        """One match of a rule. Raises Unfit where another draw is wanted rather."""
        rule = self.rules[name]
        plant.numbers.clear()
        plant.hints, plant.words, plant.makers = literals(type(rule))
        plant.related = plant.chance(0.5)
        match = Match(plant)
        pattern = self.patterns[name]
        root = match.make(pattern)
        if root is None:
            raise Unfit("the pattern is left out")
        with Steps(type(rule)) as steps:
            met = verdict(rule, pattern, plant.graph, root.node)
        plant.makers = ()
        self.drawn[name][met] += 1
        new = any(self.steps[name][s] < OFTEN_ENOUGH for s in steps.taken)
        if not last and not new and not self.wanted(name, met):
            raise Unfit("enough of these")
        self.met[name][met] += 1
        self.steps[name].update(steps.taken)
        return around(plant, match, root)

    def wanted(self, name: str, met: str) -> bool:
        """Whether one more of these is wanted: rare verdicts are, and half and half of both."""
        seen, drawn = self.met[name], self.drawn[name]
        total = sum(seen.values())
        if met in ("fires", "unknown"):
            often = drawn[met] > OFTEN * sum(drawn.values())  # refusals would be long in coming
            return often or seen[met] <= FIRES * total + 1
        refused = total - seen["fires"]
        return seen[met] <= 2 or seen[met] * len(seen) <= refused or self.random.random() < 0.25


def offered_rules(pipe: Iterable[Pass]) -> dict[str, Rewrite]:
    """Every rule that the passes offer to the driver, on a graph with nothing to do."""
    found: dict[str, Rewrite] = {}
    for one in pipe:
        context = Context(data=[{"x": np.ones((1, 2), np.float32)}])
        try:
            PassManager([one]).run(parse(BARE), context)
        except TautError:
            continue  # what is offered before that counts all the same
        finally:
            found |= context.rewrites
    return found


def verdict(rule: Rewrite, pattern: Pattern, graph: Graph, root: Node) -> str:
    """What the rule's guards say at a node: fires, or why not."""
    names = frozenset(variables(pattern))
    answer = "no match"
    try:
        rule = acquainted(rule, graph)
        for bound, _ in solutions(Operands(graph), pattern, root):
            m = Found(graph, root, bound, names)
            if not rule.applies(m):
                answer = "does not apply"
                continue
            failure = rule.check(m)
            if failure is None:
                return "fires"
            answer = _PLACES.sub("", failure.reason)
    except Exception:  # a rule may ask what is not known here; then nothing is known of it
        return "unknown"
    return answer


_PLACES = re.compile(r"\b\w*\d\w*\b|\[[^\]]*\]")


def acquainted(rule: Rewrite, graph: Graph) -> Rewrite:
    """The rule with what it knows about a graph (an analysis of it) made anew for this one."""
    twin = copy.copy(rule)
    for name, known in vars(rule).items():
        if isinstance(getattr(known, "graph", None), Graph):
            setattr(twin, name, type(known)(graph))
    return twin


# ---- around a match ------------------------------------------------------------------------------


def around(plant: Plant, match: Match, root: Value) -> list[Value]:
    """Readers of the match, and what to show of it."""
    shown = [behind(plant, root)]
    if plant.chance(0.12) and shown[0] != root:
        shown.append(root)
    inner = [n for n in match.inner if n is not root.node and n in plant.graph.nx]
    if inner and plant.chance(0.25):
        read = Value(plant.pick(*inner), 0)
        shown.append(read if plant.chance(0.5) else behind(plant, read, always=True))
    keep = plant.chance(0.9) or not plant.awkward
    for node in match.inner:
        if keep:
            plant.protected.add(node)
    return shown


def behind(plant: Plant, x: Value, always: bool = False) -> Value:
    """x, or what some reader makes of it. Where numbers may be rounded, readers that keep errors
    as small as they are."""
    if not always and plant.chance(0.6):
        return x
    floats = x.type.dtype.is_float
    calm: list[Callable[[], Value]] = [
        lambda: plant.add(op_of("identity"), x),
        lambda: plant.add(op_of("concat", axis=0), x, x),
        lambda: plant.add(op_of("transpose"), x),
    ]
    if floats:
        calm += [
            lambda: plant.add(op_of("relu"), x), lambda: plant.add(op_of("tanh"), x),
            lambda: plant.add(op_of("add"), x, plant.leaf(Want(x.type.dtype, like=x.shape))),
            lambda: plant.add(op_of("mul"), x, plant.constant(np.asarray(0.5, x.type.dtype.numpy))),
            lambda: plant.add(op_of("reduce_max"), x),
        ]  # fmt: skip
    elif x.type.dtype.is_integer:
        calm += [lambda: plant.add(op_of("add"), x, x), lambda: plant.add(op_of("mul"), x, x)]
    if plant.awkward and floats:
        name = plant.pick("neg", "floor", "abs", "exp")
        calm += [lambda: plant.add(op_of(name), x)] * 4
    for _ in range(2):
        try:
            made = plant.pick(*calm)()
        except Unfit:
            continue
        plant.protected.add(made.node)
        return made
    return x


# ---- around a seed -------------------------------------------------------------------------------


def regrown(plant: Plant, seed: Graph) -> list[tuple[str, Value]]:
    """A seed's nodes once more, on other numbers and values, one of them changed now and then; and
    what to show of them, with its name in the seed."""
    here: dict[Value, Value] = {}
    inner: list[Node] = []
    symbols = symbols_of(seed)
    nodes = [n for n in seed.nodes() if n is not seed.result]
    change = plant.pick("", "", "", *CHANGES)
    able = [n for n in nodes if change in changes_of(n)]
    changed = plant.pick(*able) if able else None
    for node in nodes:
        this = change if node is changed else ""
        if isinstance(node.op, Input):
            known = node.type.shape
            shape = None if known is None else tuple(symbols.get(str(d), d) for d in known)
            shape = plant.broadcast(shape) if shape and this == "shape" else shape
            here[Value(node)] = plant.leaf(Want(node.type.dtype, shape))
        elif isinstance(node.op, Constant):
            here[Value(node)] = varied(plant, node, this)
        else:
            operands = [None if v is None else here[v] for v in seed.operands(node)]
            if this == "between" and operands and operands[0] is not None:
                operands[0] = plant.changed(operands[0])
            made = plant.add(altered(plant, node.op, this), *operands).node
            inner.append(made)
            here |= {Value(node, i): Value(made, i) for i in range(len(node.results))}
    made_here = [plant.values[Value(n, i)] for n in inner for i in range(len(n.results))]
    if not plant.awkward and any(np.isnan(a).any() for a in made_here if a.dtype.kind == "f"):
        raise Unfit("bounds that are not exact hold for numbers")
    for node in seed.inputs:  # what the seed does not know of its inputs, nor does the graph
        made, known = here[Value(node)], node.type.shape
        if known is None:
            forget(plant, made.node, None)
        elif made.shape is not None and len(made.shape) == len(known):
            less = (None if k is None else d for k, d in zip(known, made.shape))
            forget(plant, made.node, tuple(less))
    if changed is not None and (change == "rank" or (change == "opened" and plant.chance(0.5))):
        forget(plant, here[Value(changed)].node, None)
    shown = [(k, behind(plant, here[v])) for k, v in zip(seed.output_names, seed.outputs)]
    plant.protected.update(inner)
    if len(inner) > 1 and plant.chance(0.3):
        shown.append(("", Value(plant.pick(*inner), 0)))
    return shown


CHANGES = ("shape", "shape", "attribute", "attribute", "between", "op", "opened", "rank")
"""How one node of a seed may be changed."""


def changes_of(node: Node) -> tuple[str, ...]:
    """The changes that a node may suffer. Constants that are no floats stay: they are axes, sizes
    or places, by which a seed is what it is."""
    if isinstance(node.op, Input):
        return ("shape", "rank")
    if isinstance(node.op, Constant):
        return ("shape", "opened") if node.type.dtype.is_float and node.type.shape else ()
    return ("attribute", "between", "op")


def forget(plant: Plant, node: Node, less: tuple[Any, ...] | None) -> None:
    """Let an input be of a type that says less: its known sizes, or no rank at all."""
    if isinstance(node.op, Input) and (less is None or None in less):
        with contextlib.suppress(TautError):  # some op has to know it
            plant.graph.set_input_type(node, TensorType(node.type.dtype, less))


def blur(plant: Plant) -> None:
    """Forget, in some graphs, sizes or ranks of some inputs or of all: what a rule concludes from
    shapes must hold where they are not known too."""
    graph = plant.graph
    if not plant.chance(BLURRED):
        return
    often = plant.pick(0.3, 0.3, 1.0)
    for node in graph.inputs:
        shape = node.type.shape
        if shape is None or not plant.chance(often):
            continue
        style = plant.pick("rank", "sizes", "sizes", "one")
        less: list[Any] = [None if style == "sizes" else d for d in shape]
        if style == "one" and shape:
            less[plant.random.randrange(len(shape))] = None
        forget(plant, node, None if style == "rank" else tuple(less))


ALIKE = (("add", "sub", "mul", "div", "max", "min"), ("relu", "abs", "neg", "sigmoid", "tanh"),
         ("reduce_mean", "reduce_max", "reduce_min", "reduce_sum"))  # fmt: skip
"""Ops that may stand for each other."""


def altered(plant: Plant, op: Op, change: str) -> Op:
    """The op with another attribute, or another op like it. Raises Unfit."""
    if change == "op":
        others = [n for group in ALIKE if op.name in group for n in group if n != op.name]
        return op_of(plant.pick(*others)) if others else op
    known = [a for a in op.attributes if a.kind in ("int", "float", "bool", "ints")]
    if change != "attribute" or not known:
        return op
    a = plant.pick(*known)
    value = getattr(op, a.name)
    if a.kind == "bool":
        value = not value
    elif a.kind == "int" and value is not None:
        value += plant.pick(-1, 1)
    elif a.kind == "float" and value is not None:
        value = plant.pick(0.5, 2.0, -1.0, 1.0)
    elif a.kind == "ints" and value:
        value = tuple(plant.random.sample(value, len(value)))
    try:
        return op.replace(**{a.name: value})
    except TautError as error:
        raise Unfit(str(error)) from error


def symbols_of(seed: Graph) -> dict[str, str]:
    """The plant's own symbols for a seed's, in their order."""
    theirs = dict.fromkeys(d for n in seed.inputs for d in n.type.shape or () if isinstance(d, str))
    return dict(zip(theirs, "nmnmnmnm"))


def varied(plant: Plant, node: Node, change: str = "") -> Value:
    """A seed's constant as it is, drawn anew (floats that say no more than numbers), or a bit off;
    of another shape, or fed, where it is changed."""
    array: Array = node.op.value  # type: ignore[attr-defined]
    if change == "opened":
        return plant.input(node.type)
    if change == "shape":
        shape = plant.broadcast(array.shape)
        return plant.constant(plant.dense(TensorType(node.type.dtype, shape), Want()), node.name)
    if array.dtype.kind != "f" or array.size < 2:
        if array.size and plant.nearly():
            array = array.copy()
            array.reshape(-1)[plant.random.randrange(array.size)] += np.asarray(1, array.dtype)
    elif plant.chance(0.5):
        array = plant.dense(TensorType.of(array), Want())
    return plant.constant(array, node.name)


__all__ = ["Growth", "offered_rules", "regrown", "verdict"]
