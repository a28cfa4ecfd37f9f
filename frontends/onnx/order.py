"""Nodes in an order in which each follows what it reads."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from onnx import NodeProto

from ...ir import ModelError
from ...ir.errors import show_name
from .nested import reads
from .survey import node_name
from .tensors import text


def in_order(
    nodes: Sequence[NodeProto],
    defined: Mapping[str, Any],
    around: Callable[[str], bool] = lambda name: False,
) -> Sequence[NodeProto]:
    """Nodes so that each follows what it reads; the file's own order where that does already.
    `around` tells which names a body may take from the graphs around it.

    Raises ModelError for names that are defined twice or never, and for cycles. Linear, but for a
    heap over the nodes that are ready at one time.
    """
    producer: dict[str, int] = {}
    sorted_already = True
    for k, node in enumerate(nodes):
        for name in reads(node):
            if name not in defined and name not in producer and not around(name):
                sorted_already = False
        for name in node.output:
            if not name:
                continue
            if name in producer or name in defined:
                raise ModelError(f"value {show_name(name)} is defined twice", node=node_name(node))
            producer[name] = k
        if not any(node.output):
            raise ModelError("a node has no outputs", node=node_name(node), op=op_name(node))
    if sorted_already:
        return nodes
    needs = [_producers(n, producer, defined, around) for n in nodes]
    users: dict[int, list[int]] = {}
    for k, found in enumerate(needs):
        for p in found:
            users.setdefault(p, []).append(k)
    left = [len(found) for found in needs]
    ready = [k for k, count in enumerate(left) if not count]
    order: list[NodeProto] = []
    while ready:
        k = heapq.heappop(ready)
        order.append(nodes[k])
        for user in users.get(k, ()):
            left[user] -= 1
            if not left[user]:
                heapq.heappush(ready, user)
    if len(order) < len(nodes):
        stuck = next(n for n, count in zip(nodes, left) if count)
        raise ModelError("the nodes form a cycle", node=node_name(stuck), op=op_name(stuck))
    return order


def _producers(
    node: NodeProto,
    producer: Mapping[str, int],
    defined: Mapping[str, Any],
    around: Callable[[str], bool],
) -> set[int]:
    found = set()
    for name in reads(node):
        if name in producer:
            found.add(producer[name])
        elif name not in defined and not around(name):
            raise ModelError(
                f"reads {show_name(text(name))}, which nothing defines",
                node=node_name(node), op=op_name(node),
            )  # fmt: skip
    return found


def op_name(node: NodeProto) -> str:
    name = node.op_type
    return name if isinstance(name, str) and name.isidentifier() else show_name(name)
