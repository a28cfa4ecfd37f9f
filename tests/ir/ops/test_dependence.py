"""The dependence of every op, held to its reference.

*Perturbation*: elements of the operands are changed; only results that a relation joins to them
may. *Slicing*: where a loop can be cut, the reference on slices of the operands gives the slice of
the result; of a sum (product, maximum), parts that add up to it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from op_samples import SAMPLES, Sample
from relations import JOIN, Array, Cut, changed, cuts, joint, other, related, related_with_less, run
from taut.ir import Op, TautError, all_ops
from taut.ir.dependence import Relation, Unknown

FULL = [s for s in SAMPLES if all(x is None or x.size for x in s.operands)]
by_op = pytest.mark.parametrize("name", sorted({s.op.name for s in FULL}))

ROUNDED = {"rnn": 4, "gru": 4, "lstm": 4}
"""Operands (lengths) that say how many rows a matrix product has, which changes how it rounds."""

AT_RUN_TIME = {
    "scatter_nd": "indices",
    "scatter_elements": "indices",
    "grid_sample": "places",
    "grid_sample_gradient": "places",
    "rotary_embedding": "positions",
    "max_pool_gradient": "the places of maxima",
}
"""Ops that read few elements of many that they may read, by their operands' values."""


def samples_of(name: str) -> list[Sample]:
    return [s for s in FULL if s.op.name == name]


def tables(sample: Sample) -> tuple[list[Array], dict[tuple[int, int], Array]]:
    """The results, and what of them depends on each operand."""
    made = run(sample.op, sample.operands)
    found = related(sample, made)
    return made, {(o, r): joint(found, o, r, x, y) for o, x in enumerate(sample.operands)
                  if x is not None for r, y in enumerate(made)}  # fmt: skip


def tried(sample: Sample, operands: list[Array | None], made: list[Array]) -> list[Array]:
    """The results for other operands; none where these are refused or give other shapes."""
    try:
        got = run(sample.op, operands)
    except (TautError, IndexError):
        return []
    return got if [a.shape for a in got] == [a.shape for a in made] else []


@by_op
def test_only_related_results_change(name: str) -> None:
    chance = np.random.default_rng(len(name))
    seen: dict[tuple[int, int], float] = defaultdict(float)
    for sample in samples_of(name):
        made, allowed = tables(sample)
        for o, x in enumerate(sample.operands):
            tight = [r for r in range(len(made)) if (o, r) in allowed and not allowed[o, r].all()]
            hits = {r: [0, 0] for r in tight}
            for i in chance.permutation(x.size)[:4] if x is not None and tight else ():
                marks = np.zeros(x.size, bool)
                marks[i] = True
                found = {r: np.zeros(made[r].size, bool) for r in tight}
                for _ in range(2):
                    operands = [*sample.operands]
                    operands[o] = other(x, marks, chance)
                    for r, got in enumerate(tried(sample, operands, made)):
                        if r in found:
                            found[r] |= changed(made[r], got, ROUNDED.get(name) == o)
                for r, moved in found.items():
                    assert not (moved & ~allowed[o, r][i]).any(), (str(sample), o, r, i)
                    if moved.any():
                        hits[r][0] += int(moved.sum())
                        hits[r][1] += int(allowed[o, r][i].sum())
            for r, (got, most) in hits.items():
                seen[o, r] = max(seen[o, r], got / most if most else 0.0)
    if name not in AT_RUN_TIME:  # what a relation allows is much of what happens
        assert all(share >= 0.2 or not share for share in seen.values()), seen


@by_op
def test_unrelated_elements_do_not_count(name: str) -> None:
    """All that a few results do not depend on is changed at once."""
    chance = np.random.default_rng(len(name))
    for sample in samples_of(name):
        made, allowed = tables(sample)
        for r, y in enumerate(made):
            for j in chance.permutation(y.size)[:2]:
                operands = [
                    x if x is None or allowed[o, r][:, j].all()
                    else other(x, ~allowed[o, r][:, j], chance)
                    for o, x in enumerate(sample.operands)
                ]  # fmt: skip
                got = tried(sample, operands, made)
                moved = changed(y, got[r], name in ROUNDED) if got else np.zeros(y.size, bool)
                assert not moved[j], (str(sample), r, j)


@pytest.mark.parametrize("how", ["types", "symbols", "dimensions"])
def test_with_less_known_no_less_depends(how: str) -> None:
    said = 0
    for sample in FULL:
        made, allowed = tables(sample)
        found = related_with_less(sample, made, how)
        for o, x in enumerate(sample.operands):
            for r, y in enumerate(made):
                if x is not None:
                    more = joint(found, o, r, x, y)
                    assert not (allowed[o, r] & ~more).any(), (str(sample), o, r)
                    said += not more.all()
    print(f"with {how}, {said} pairs are told apart")
    assert said > 300


POSITIONAL: dict[str, Callable[[Any], bool]] = {
    "trilu": lambda op: True,  # the diagonal is counted from the corner
    "attention": lambda op: op.is_causal or op.left_window_size >= 0 or op.right_window_size >= 0,
    "scaled_attention": lambda op: op.is_causal,  # what a query sees is counted from the first
    "max_pool": lambda op: op.outputs == 2,  # places in the whole of x
}
"""Ops whose slices are, with these attributes, another function than the whole."""


def is_positional(op: Op) -> bool:
    return op.name in POSITIONAL and POSITIONAL[op.name](op)


def test_slices_give_slices() -> None:
    counts: dict[str, int] = defaultdict(int)
    for sample in FULL:
        made = run(sample.op, sample.operands)
        for cut in cuts(sample, made):
            if not is_positional(sample.op):
                counts[sample.op.name] += _sliced(cut, made)
    run_ = {name for name, n in counts.items() if n}
    print(f"{sum(counts.values())} cuts of {len(run_)} ops")
    assert len(run_) > 130


def _sliced(cut: Cut, made: list[Array]) -> bool:
    """Whether both parts could be run; they are what the relations say."""
    parts = [cut.part(k) for k in range(2)]
    got = [tried_part(p) for p in parts]
    if not all(got):
        return False
    if cut.how:
        joined = [JOIN[cut.how](a, b) for a, b in zip(*got)]
        pairs = list(zip(joined, made))
    else:
        pairs = [pair for part, results in zip(parts, got) for pair in zip(results, part.wanted)]
    if any(a.shape != b.shape for a, b in pairs):
        return False
    assert not any(changed(a, b, True).any() for a, b in pairs), (str(cut.sample), cut.loop)
    return True


def tried_part(part: Any) -> list[Array]:
    try:
        return run(part.op, part.operands)
    except (TautError, ValueError, IndexError):
        return []


@pytest.mark.parametrize("name", ["scan", "loop", "if", "fusion"])
def test_bodies_keep_axes_apart(name: str) -> None:
    found = [d for sample in samples_of(name)
             for d in related(sample, run(sample.op, sample.operands))]  # fmt: skip
    assert any(d.pairs() for d in found if isinstance(d, Relation))


# ---- how much is said ----------------------------------------------------------------------------

WHOLE = {
    "it says sizes or places": {
        "average_pool_gradient": "shape", "col2im": "image block", "constant_of_shape": "shape",
        "expand": "shape", "grid_sample_gradient": "shape", "pad": "pads", "reshape": "shape",
        "resize": "scales sizes roi", "resize_gradient": "shape sizes",
        "slice": "starts ends axes steps", "split": "split", "tile": "repeats",
        "unsqueeze": "axes", "upsample": "scales",
    },
    "elements are chosen by their values": {
        "compress": "condition", "non_max_suppression": "boxes scores", "non_zero": "x",
        "unique": "x",
    },
    "it says which axes": {
        f"reduce_{c}": "axes"
        for c in ("l1", "l2", "log_sum", "log_sum_exp", "max", "mean", "min", "prod", "sum",
                  "sum_square")
    },
    "all of it is one parameter": {
        "dynamic_quantize_linear": "x", "lookup": "table",
        "one_hot": "values",
        "negative_log_likelihood_loss": "weight", "softmax_cross_entropy_loss": "weights",
    },
    "its elements are places in the result": {"scatter_nd": "indices"},
}  # fmt: skip
"""Operands of which every sample says that all of a result depends on all of them, and why."""


def read_whole() -> tuple[dict[str, set[str]], int]:
    """By op the operands that only `everything` relations join to its results, and how many
    operands there are."""
    found: dict[tuple[str, str], set[bool]] = defaultdict(set)
    for sample in FULL:
        declared = [o.name for o in sample.op.operands]
        for d in related(sample, run(sample.op, sample.operands)):
            name = declared[min(d.operand, len(declared) - 1)]
            if isinstance(d, Unknown) or d.operand_shape not in ((), (1,)):
                found[sample.op.name, name].add(is_whole(d))
    whole: dict[str, set[str]] = defaultdict(set)
    for (op, name), answers in found.items():
        if answers == {True}:
            whole[op].add(name)
    return dict(whole), len(found)


def is_whole(d: Relation | Unknown) -> bool:
    if isinstance(d, Unknown):
        return True
    shared = any(p.axes & q.axes for p in d.read for q in d.written)
    kinds = {d.kind(i) for i in range(len(d.read))}
    return not shared and "everything" in kinds and kinds <= {"everything", "fixed"}


def test_operands_that_are_read_whole_are_those_listed() -> None:
    found, count = read_whole()
    listed = {op: set(names.split()) for ops in WHOLE.values() for op, names in ops.items()}
    print(f"{sum(map(len, found.values()))} of {count} operands are read whole")
    assert found == listed


def test_every_op_says_what_it_depends_on() -> None:
    """By a signature or a method of its own."""
    silent = [c.name for c in all_ops() if c.signature is None and c.operands
              and c.dependence is Op.dependence]  # fmt: skip
    assert silent == ["return"]
    for sample in SAMPLES:
        for d in related(sample, run(sample.op, sample.operands)):
            assert not isinstance(d, Unknown)
            assert str(d)
