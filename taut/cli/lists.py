"""`ops`, `passes` and `zoo`: what there is, read from the declarations themselves."""

from __future__ import annotations

import dataclasses
import inspect
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import common
from .app import app
from .common import AsJson

if TYPE_CHECKING:
    from taut.ir import Op


@app.command()
def ops(
    name: Annotated[str | None, typer.Argument(help="One op's text name, or ONNX name.")] = None,
    json: AsJson = False,
) -> None:
    """List the ops, or show one: operands, attributes, ONNX name, what it computes."""
    from taut.ir import all_ops, op_class, op_for_onnx

    if name is None:
        listed = [op_facts(cls) for cls in all_ops()]
        if json:
            common.show_json(listed)
        else:
            rows = [(f["name"], f["onnx"] or "", ", ".join(f["operands"]), f["summary"])
                    for f in listed]  # fmt: skip
            common.show(common.table(None, "op", "ONNX", "operands", "", rows=rows))
        return
    facts = op_facts(op_for_onnx(name) or op_class(name))
    if json:
        common.show_json(facts)
        return
    common.show(
        common.safe(f"{facts['name']}({', '.join(facts['operands'])})"),
        common.safe(f"ONNX: {facts['onnx'] or 'none'}"),
        common.safe(f"gradient: {facts['gradient']}"),
        common.safe(f"depends: {facts['dependence']}"),
    )
    print(f"\n{facts['doc']}\n")
    rows = [(a["name"], a["type"], a["default"]) for a in facts["attributes"]]
    if rows:
        common.show(common.table(None, "attribute", "type", "default", rows=rows))
    if facts["traits"]:
        common.show(common.table(None, "trait", "", rows=[*facts["traits"].items()]))
    if facts["numerics"]:
        common.show(common.table(None, "edge", "promise", rows=[*facts["numerics"].items()]))


def gradient_of(cls: type[Op]) -> str:
    """Whether an op has a gradient, and for which operands not."""
    from taut.ir.op import is_differentiable

    if not is_differentiable(cls):
        return f"none: {cls.not_differentiable}" if cls.not_differentiable else "none"
    return "".join(["yes", *(f", not for {k} ({why})" for k, why in cls.held.items())])


def dependence_of(cls: type[Op]) -> str:
    """What an op says of its dependence: its axis signature; with a method, that it has one."""
    from taut.ir import Op

    own = cls.dependence is not Op.dependence
    if cls.axes:
        return cls.axes + (", and by attributes (see docs/dependence.md)" if own else "")
    return "by operands and attributes (see docs/dependence.md)" if own else "nothing is said"


def op_facts(cls: type[Op]) -> dict[str, Any]:
    """An op's declaration as plain data."""
    from taut.ir.traits import lines

    operands = [("*" if o.variadic else "") + o.name + ("?" if o.optional else "")
                for o in cls.operands]  # fmt: skip
    attributes = [
        {
            "name": a.name,
            "type": a.kind + ("?" if a.optional else ""),
            "default": "required" if a.default is dataclasses.MISSING else _shown(a.default),
        }
        for a in cls.attributes
    ]
    doc = inspect.getdoc(cls) or ""
    return {
        "gradient": gradient_of(cls),
        "name": cls.name, "onnx": cls.onnx, "operands": operands, "results": list(cls.results),
        "axes": cls.axes, "dependence": dependence_of(cls), "attributes": attributes,
        "summary": summary(doc), "doc": doc,
        "traits": dict(lines(cls)),
        "numerics": dict([] if cls.numerics is None else cls.numerics.lines()),
    }  # fmt: skip


def _shown(value: Any) -> str:
    from taut.ir.printer import print_attribute

    return print_attribute(value)


def summary(doc: str) -> str:
    """A docstring's first paragraph on one line, cut to fit a table."""
    line = " ".join(doc.split("\n\n")[0].split())
    return line if len(line) <= 72 else line[:71].rsplit(" ", 1)[0] + " ..."


@app.command()
def passes(
    name: Annotated[str | None, typer.Argument(help="One pass's or preset's name.")] = None,
    json: AsJson = False,
) -> None:
    """List the passes and presets, or show one: what it does, its bound, its options."""
    from taut.passes import PRESETS, all_passes, pass_class

    if name is None:
        listed = [pass_facts(cls) for cls in all_passes()]
        if json:
            common.show_json({"passes": listed, "presets": {k: str(v) for k, v in PRESETS.items()}})
            return
        rows = [(f["name"], f["bound"], f["summary"]) for f in listed]
        common.show(
            common.table(None, "pass", "bound", "", rows=rows),
            common.table(None, "preset", "pipeline", rows=PRESETS.items()),
        )
        return
    if name in PRESETS:
        common.show_json({name: str(PRESETS[name])}) if json else print(PRESETS[name])
        return
    facts = pass_facts(pass_class(name))
    if json:
        common.show_json(facts)
        return
    common.show(common.safe(f"{facts['name']}  (bound: {facts['bound']})"))
    print(f"\n{facts['doc']}\n")
    rows = [(o["name"], o["type"], o["default"]) for o in facts["options"]]
    if rows:
        common.show(common.table(None, "option", "type", "default", rows=rows))


def pass_facts(cls: Any) -> dict[str, Any]:
    """A pass's declaration as plain data."""
    options = [
        {
            "name": f.name,
            "type": f.type if isinstance(f.type, str) else getattr(f.type, "__name__", str(f.type)),
            "default": "required" if f.default is dataclasses.MISSING else str(f.default),
        }
        for f in dataclasses.fields(cls)
    ]
    doc = inspect.getdoc(cls) or ""
    return {"name": cls.name, "bound": str(cls.bound), "options": options,
            "summary": summary(doc), "doc": doc}  # fmt: skip


@app.command()
def zoo(
    name: Annotated[str | None, typer.Argument(help="One network's name.")] = None,
    json: AsJson = False,
) -> None:
    """List the networks that `zoo:NAME` names, or show one: what it is, its arguments."""
    from taut.frontends.zoo import ZOO, find

    if name is None:
        listed = [zoo_facts(entry) for entry in ZOO.values()]
        if json:
            common.show_json(listed)
        else:
            rows = [(f["name"], " ".join(f"{k}={v}" for k, v in f["preset"].items()), f["summary"])
                    for f in listed]  # fmt: skip
            common.show(common.table(None, "network", "with", "", rows=rows))
        return
    facts = zoo_facts(find(name))
    if json:
        common.show_json(facts)
        return
    print(f"{facts['doc']}\n")
    common.show(common.table(None, "argument", "default", rows=facts["arguments"].items()))


def zoo_facts(entry: Any) -> dict[str, Any]:
    """A network's declaration as plain data."""
    return {"name": entry.name, "preset": entry.preset, "arguments": entry.arguments,
            "summary": summary(entry.doc), "doc": entry.doc}  # fmt: skip
