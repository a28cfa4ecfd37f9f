"""`inspect`, `dump` and `export`: look at a graph, print it, write it in another form."""

from __future__ import annotations

import sys
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import common
from .app import app
from .common import AsJson, Dims, Model, Output

if TYPE_CHECKING:
    from taut.data import Sizes
    from taut.ir import Graph


@app.command()
def inspect(
    model: Model,
    dims: Dims = None,
    json: AsJson = False,
) -> None:
    """What is in a model: inputs, ops, parameters, multiply-accumulates, what is unsupported.

    Exit code 1 when an op is unsupported.
    """
    if model.lower().endswith(".onnx"):
        missing = unsupported(model)
        if missing:
            _show_unsupported(model, missing, json)
            raise typer.Exit(1)
    graph = common.load(model)
    from taut.data.feeds import check_dims

    sizes = common.parse_dims(dims)
    check_dims(graph, sizes)
    facts = summary(graph, sizes)
    if json:
        common.show_json({"model": model, **facts, "unsupported": []})
        return
    ends = [("input", n, t) for n, t in facts["inputs"].items()]
    ends += [("output", n, t) for n, t in facts["outputs"].items()]
    ends += [("needs", c, "") for c in facts["conditions"]]
    ops = sorted(facts["ops"].items(), key=lambda kv: (-kv[1]["macs"], -kv[1]["count"], kv[0]))
    rows = [(k, v["count"], f"{v['macs']:,}", f"{v['parameters']:,}") for k, v in ops]
    totals = (
        f"{facts['nodes']} nodes, {common.engineering(facts['parameters'])} parameters in "
        f"{common.engineering(facts['constant_bytes'], 'B')}, "
        f"{common.engineering(facts['macs'])} multiply-accumulates"
    )
    if facts["open"]:
        sizes = ", ".join(f"{k}={v}" for k, v in facts["open"].items())
        totals += f" (with {sizes}; --dim sets them)"
    if facts["uncounted"]:
        totals += f"; {facts['uncounted']} nodes of unknown shape are not counted"
    common.show(
        common.table(f"{model}: graph @{graph.name}", "", "name", "type", rows=ends),
        common.table(None, "op", "nodes>", "MACs>", "parameters>", rows=rows),
        common.safe(totals),
    )


def unsupported(path: str) -> list[tuple[str, str, str]]:
    """(node, op, reason) of everything in an ONNX file that Taut does not do."""
    from taut.frontends.onnx import unsupported_ops

    return [(u.node, u.op, u.reason) for u in unsupported_ops(path)]


def _show_unsupported(model: str, missing: list[tuple[str, str, str]], json: bool) -> None:
    if json:
        keys = ("node", "op", "reason")
        common.show_json({"model": model, "unsupported": [dict(zip(keys, m)) for m in missing]})
        return
    counts = Counter(op for _, op, _ in missing)
    title = f"{model}: {len(missing)} nodes of {len(counts)} ops are not supported"
    common.show(common.table(title, "node", "op", "reason", rows=missing))


def summary(graph: Graph, dims: Sizes) -> dict[str, Any]:
    """Counts by op, with open dimensions bound to `dims` (1 by default) for the costs."""
    from taut.data import bound_type
    from taut.ir import TautError
    from taut.ir.analysis.cost import graph_cost
    from taut.ir.ops.structure import Constant

    shapes = [n.type.shape or () for n in graph.inputs if n.name not in dims]
    symbols = {d or "?" for shape in shapes for d in shape if not isinstance(d, int)}
    uses = {d: dims.get(d, dims.get("*", 1)) for d in symbols}
    bound = graph.copy()
    bound.conditions = ()  # the sizes of a count need not be ones that the graph may run on
    try:
        for node in bound.inputs:
            if not node.type.is_static and (node.type.shape is not None or node.name in dims):
                bound.set_input_type(node, bound_type(node, dims))
    except TautError:
        bound = graph  # sizes that do not fit this graph: count what is known without them
    costs = graph_cost(bound)
    ops = {
        op: {"count": int(r.node), "macs": r.macs, "parameters": r.parameters}
        for op, r in costs.by_op().items()
    }
    constants = [n.op.value for n in bound.of(Constant)]  # type: ignore[attr-defined]
    signature = graph.signature
    return {
        "nodes": len(graph) - 1,
        "inputs": {k: str(t) for k, t in signature.inputs.items()},
        "outputs": {k: str(t) for k, t in signature.outputs.items()},
        "open": dict(sorted(uses.items())),
        "parameters": sum(a.size for a in constants),
        "constant_bytes": sum(a.nbytes for a in constants),
        "conditions": [c.text for c in graph.conditions],
        "macs": costs.macs, "uncounted": len(costs.unknown), "ops": ops,
    }  # fmt: skip


@app.command()
def dump(
    model: Model,
    output: Output = "-",
    weights: Annotated[
        bool | None,
        typer.Option("--weights/--no-weights", help="Default: not on a terminal."),
    ] = None,
) -> None:
    """Print a model as text IR, which `taut opt -` and every other command reads."""
    graph = common.load(model)
    shown = weights if weights is not None else not sys.stdout.isatty()
    common.write(graph, output, weights=shown)


@app.command()
def export(
    model: Model,
    output: Annotated[str, typer.Option("-o", "--output", help="A .onnx, .taut or .ir file.")],
    json: AsJson = False,
) -> None:
    """Write a model in another form; ONNX (float or QDQ) runs in the runtimes you have."""
    import os

    graph = common.load(model)
    common.write(graph, output)
    lost = [c.text for c in graph.conditions] if output.lower().endswith(".onnx") else []
    if lost and not json:
        common.show(common.safe(f"ONNX has no checks of sizes, so other runtimes will not refuse "
                                f"what breaks: {'; '.join(lost)}"), error=True)  # fmt: skip
    if json:
        size = os.path.getsize(output)
        common.show_json({"output": output, "bytes": size, "unchecked": lost})
    elif output != "-":
        common.show(common.safe(f"{output}: {common.engineering(os.path.getsize(output), 'B')}"))
