"""Every op that is imported gives what PyTorch gives: on NumPy, after O2, and compiled; and the
module made of the graph gives it too, with the same gradients.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from bridge import agrees, by_torch, dynamic, same, torch  # first: it skips without PyTorch
from cases import FAMILIES, inputs, module_of

import taut.frontends.torch.importing  # isort: skip
from taut.frontends.torch.call import ATEN  # isort: skip

import taut


@pytest.mark.parametrize("family", FAMILIES)
def test_imported(family: str) -> None:
    """With the batch left open: traced at one size, run at two."""
    cases, shapes = FAMILIES[family]
    args = inputs(family, shapes[0][0])
    calls = [args, inputs(family, shapes[0][0] + 2)]
    agrees(module_of(cases), calls, dynamic(args, {0: "batch"}), compiled=False)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_compiled(family: str) -> None:
    cases, shapes = FAMILIES[family]
    args = inputs(family, shapes[0][0])
    module = module_of(cases)
    graph = taut.optimize(taut.from_torch(module, args))
    made = taut.compile(graph, threads=1)(*(a.numpy() for a in args))
    same(by_torch(module, args), made, "compiled")


@pytest.mark.parametrize("family", FAMILIES)
def test_decomposed(family: str) -> None:
    """The same functions as PyTorch takes them apart: core ATEN."""
    cases, shapes = FAMILIES[family]
    args = inputs(family, shapes[0][0])
    module = module_of(cases).eval()
    program = torch.export.export(module, args).run_decompositions()
    made = taut.reference(taut.from_torch(program), *(a.numpy() for a in args))
    same(by_torch(module, args), made, "decomposed")


def test_the_table_names_ops_and_takes_their_arguments() -> None:
    for name, handler in ATEN.items():
        domain, op, *overload = name.split(".")
        if domain == "aten":
            schema = getattr(getattr(torch.ops.aten, op), overload[0])._schema
            inspect.signature(handler).bind(None, *schema.arguments)


@pytest.mark.slow
def test_every_op_of_the_table_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    used = set[str]()
    for name, handler in list(ATEN.items()):
        monkeypatch.setitem(ATEN, name, _noted(used, name, handler))
    for family, (cases, shapes) in FAMILIES.items():
        args = inputs(family, shapes[0][0])
        axes = (tuple({0: torch.export.Dim.DYNAMIC} for _ in args),)
        program = torch.export.export(module_of(cases).eval(), args, dynamic_shapes=axes)
        for source in (program, program.run_decompositions()):
            taut.from_torch(source)
    assert set(ATEN) - used == set()


def _noted(used: set[str], name: str, handler: Any) -> Any:
    def f(*args: Any) -> Any:
        used.add(name)
        return handler(*args)

    return f


NO_TWIN = {"detach"}
"""The IR has no op that stops a gradient."""


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_those_of_the_module(family: str) -> None:
    """Of every input and parameter, for a random combination of each float output."""
    cases, shapes = FAMILIES[family]
    args = inputs(family, shapes[0][0])
    module = module_of(cases).eval()
    copy = taut.to_torch(taut.from_torch(module, args)).eval()
    here, there = gradients(module, args), gradients(copy, args)
    for name in here.keys() - NO_TWIN:
        same(here[name], there[name], f"gradients of {name}", rtol=1e-4, atol=1e-5)
    assert sum(len(g) > 0 for g in here.values()) >= len(cases) // 4


def gradients(module: Any, args: Sequence[Any]) -> dict[str, dict[str, np.ndarray]]:
    """By output, then by input or parameter; those that are 0 everywhere left out."""
    leaves = {f"input {i}": a.clone().requires_grad_() for i, a in enumerate(args)}
    outputs = module(*leaves.values())
    leaves |= dict(sorted(module.named_parameters()))
    random = np.random.default_rng(0)
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, value in outputs.items():
        weights = torch.from_numpy(random.normal(size=tuple(value.shape)).astype(np.float32))
        found[name] = {}
        if value.is_floating_point() and value.requires_grad:
            loss = (value * weights).sum()
            made = torch.autograd.grad(loss, leaves.values(), retain_graph=True, allow_unused=True)
            pairs = zip(leaves, made)
            found[name] = {k: g.numpy() for k, g in pairs if g is not None and g.any()}
    return found
