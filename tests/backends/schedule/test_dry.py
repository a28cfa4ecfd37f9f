"""Schedules without a code generator: plans of whole networks, carried out by a dry backend."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import dry
import numpy as np
import pytest
from taut.frontends.zoo import ZOO, zoo
from taut.ir import Builder, interpret
from taut.ir.machine import Machine
from taut.passes import PassManager
from taut.passes.context import Context, random_feeds

SMALL = {
    "lenet-5": {}, "resnet-20": {"width": 0.5}, "shufflenet-v2-cifar": {"width": 0.5},
    "transformer-encoder": {"vocabulary": 20, "size": 8, "hidden": 16, "layers": 1, "heads": 2},
}  # fmt: skip


CASES = [(name, kind) for name in SMALL for kind in ("plain", "O2")]
CASES += [("lenet-5", "int8"), ("transformer-encoder", "int8")]


@pytest.mark.parametrize("name, kind", CASES)
def test_plans_carried_out_in_numpy(name: str, kind: str) -> None:
    """Bits of the reference, in whatever order the tasks of a phase come."""
    graph = zoo(name, **SMALL[name])
    feeds = random_feeds(graph, np.random.default_rng(0))
    if kind != "plain":
        graph = PassManager(kind).run(graph, Context(data=[feeds])).graph
    want = [*interpret(graph, feeds).values()]
    types = [dry.bound_type(n, feeds[n.name]) for n in graph.inputs]
    given = [feeds[n.name] for n in graph.inputs]
    for machine in (
        Machine(threads=1), Machine(threads=4), Machine(threads=4, image_order="row-major")
    ):  # fmt: skip
        program = dry.Program(graph, machine, types)
        for shuffle in (list, lambda tasks: tasks[::-1]):
            for made, right in zip(program(*given, shuffle=shuffle), want):
                np.testing.assert_array_equal(made, right)


def test_values_have_homes_borders_and_groups() -> None:
    """What the plans above have to get right is really there."""
    b = Builder()
    x = b.input("x", "f32", (1, 3, 8, 8))
    w = np.ones((5, 3, 3, 3), np.float32)
    parts = [b.conv(x, w, pads=(1, 1, 1, 1)), b.conv(x, w, pads=(1, 1, 1, 1))]
    joined = b.relu(b.concat(*parts, axis=1))
    graph = b.outputs(y=b.max_pool(joined, kernel_shape=(3, 3), pads=(1, 1, 1, 1)))
    program = dry.Program(graph)
    layouts = program.schedule.layouts
    assert sorted(start for _, start in layouts.homes.values()) == [0, 5]
    assert {h.fill for h in layouts.halos.values()} == {0, -np.inf}
    tensor = program.lowering.tensors[joined]
    assert tensor.strides[1] == 4 and tensor.halo is not None and tensor.halo.before == (1, 1)


def test_every_network_of_the_zoo_is_planned_without_a_code_generator() -> None:
    script = f"""
import sys
sys.path.insert(0, {str(Path(dry.__file__).parent)!r})
import dry
from taut.frontends.zoo import ZOO, zoo
for name in ZOO:
    graph = zoo(name, **({{"width": 0.5}} if "net" in name else {{}}))
    program = dry.Program(graph, types=[dry.small_type(n) for n in graph.inputs])
    sizes = [b.size for b in program.times.places.offsets]
    assert 0 < program.times.places.size <= sum(s + 512 for s in sizes)
    print(name, len(program.lowering.steps), program.times.places.size)
assert not {{"llvmlite", "numba"}} & set(sys.modules), "a code generator was imported"
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert {row[0] for row in rows} == set(ZOO) and all(int(row[1]) > 2 for row in rows)
