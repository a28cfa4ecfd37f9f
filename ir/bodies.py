"""Bodies: the graphs that ops carry (branches, loops, fused groups).

A body is closed: what it reads from around it is one of its inputs, matched with its node's
operands by position. Inputs it does not type fully take the operands' types.
"""

from __future__ import annotations

from collections.abc import Sequence

from .errors import TautError, VerifyError
from .graph import Graph
from .interpret import interpret
from .op import Abstract, Array
from .types import DEFAULT_LIMITS, Limits


def specialize(body: Graph, operands: Sequence[Abstract]) -> Graph:
    """A copy whose inputs have the operands' types (and contents, where known), inferred again.

    Raises VerifyError where their number or a type does not fit.
    """
    inputs = body.inputs
    if len(inputs) != len(operands):
        raise VerifyError(f"its body takes {len(inputs)} inputs, not {len(operands)}")
    for node, x in zip(inputs, operands):
        if not node.type.accepts(x.type):
            raise VerifyError(f"its body's input {node.name!r} is {node.type}, not {x.type}")
    twin = body.copy()
    changed = [
        (node, x) for node, x in zip(twin.inputs, operands) if node.results != (x,)
    ]
    for node, x in changed:
        node.results = (x,)
    if changed:
        twin.reinfer([user for node, _ in changed for user in twin.users(node)])
    return twin


def infer_body(body: Graph, operands: Sequence[Abstract]) -> tuple[Abstract, ...]:
    """What is known of the body's outputs when its inputs are `operands`. Raises VerifyError."""
    return tuple(v.abstract for v in specialize(body, operands).outputs)


def run_body(
    body: Graph, arrays: Sequence[Array], limits: Limits = DEFAULT_LIMITS
) -> tuple[Array, ...]:
    """The body's outputs by the reference. Errors name the body."""
    feeds = {node.name: a for node, a in zip(body.inputs, arrays)}
    try:
        return tuple(interpret(body, feeds, limits=limits).values())
    except TautError as error:
        error.message = f"in its body: {error.message}"
        raise
