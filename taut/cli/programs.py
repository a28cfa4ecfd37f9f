"""`compile`, `run`, `bench`, `profile`, `emit` and `compare`: programs made and used."""

from __future__ import annotations

import sys
import time
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import common
from .app import app
from .common import (
    AsJson,
    Batch,
    DataFile,
    Dims,
    Model,
    RandomCount,
    Seed,
    Target,
    Threads,
)

if TYPE_CHECKING:
    from taut.ir import Graph

MaybePipeline = Annotated[
    str | None, typer.Option("-p", "--pipeline", help="Passes to run first: a preset or a list.")
]


def prepare(model: str, pipeline: str | None, seed: int, data: Any = None) -> Graph:
    import taut

    graph = common.load(model)
    return graph if pipeline is None else taut.optimize(graph, pipeline, data=data, seed=seed)


def one_call(graph: Graph, data: str | None, seed: int, dims: Any, batch: int | None) -> Any:
    """Feeds for one call, as positional arrays: from the file's first item, or random."""
    found = common.feeds(graph, data, None, seed, dims, batch, default=1)
    assert found is not None
    feeds = next(iter(found))
    return [feeds[n.name] for n in graph.inputs]


@app.command()
def compile(
    model: Model,
    pipeline: MaybePipeline = None,
    target: Target = "cpu",
    threads: Threads = None,
    dims: Dims = None,
    batch: Batch = None,
    seed: Seed = 0,
    tune: Annotated[
        bool, typer.Option("--tune", help="Measure other schedules for layers, keep the best.")
    ] = False,
    budget: Annotated[float, typer.Option(min=0, help="Seconds for --tune.")] = 30.0,
    tuning: Annotated[
        str | None, typer.Option("--tuning", help="File of schedules: read; with --tune, written.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Compile a model (into the on-disk cache too) and say what came of it."""
    import taut
    from taut.backends.base import Tuned

    start = time.perf_counter()
    graph = prepare(model, pipeline, seed)
    loaded = time.perf_counter()
    with common.progress("tune") as advance:
        options: dict[str, Any] = {"tune": budget, "progress": advance} if tune else {}
        if tuning is not None and not tune:
            options["tuning"] = tuning
        program = taut.compile(graph, target, threads, **options)
        arrays = one_call(graph, None, seed, dims, batch)
        program(*arrays)
    seconds = time.perf_counter() - loaded
    if tune and tuning is not None and isinstance(program, Tuned):
        program.save_tuning(tuning)
    rows = program.profile(*arrays)
    made = program.facts
    facts = {
        "model": model, "target": str(program.target), "nodes": len(graph) - 1,
        "kernels": len(rows), "memory": program.memory, "load_seconds": loaded - start,
        "compile_seconds": seconds, **made, "in_python": program.fallbacks,
    }  # fmt: skip
    if json:
        common.show_json(facts)
        return
    common.show(common.safe(
        f"{model}: {facts['nodes']} nodes in {len(rows)} kernels for {program.target}, "
        f"{common.engineering(program.memory, 'B')} held, compiled and called once in "
        f"{seconds:.2f} s"
    ))  # fmt: skip
    if made:
        counts = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in made.items())
        common.show(common.safe(f"machine code, measured schedules: {counts}"))
    if program.fallbacks:
        listed = [(n, graph[n].op.name) for n in program.fallbacks if graph.find(n)]
        common.show(common.table("no kernel, run in Python:", "node", "op", rows=listed))


@app.command()
def run(
    model: Model,
    data: DataFile = None,
    random: RandomCount = None,
    pipeline: MaybePipeline = None,
    target: Target = "cpu",
    threads: Threads = None,
    output: Annotated[
        str | None, typer.Option("-o", "--output", help="Write outputs: .npz .safetensors .npy")
    ] = None,
    check_finite: Annotated[
        bool, typer.Option("--check-finite", help="Refuse inputs with NaN or infinities.")
    ] = False,
    dims: Dims = None,
    batch: Batch = None,
    seed: Seed = 0,
    json: AsJson = False,
) -> None:
    """Run a model on data; show or write its outputs, calls joined along the first axis."""
    import numpy as np

    import taut
    from taut import data as files

    graph = prepare(model, pipeline, seed)
    items = common.need_data(common.feeds(graph, data, random, seed, dims, batch))
    program = taut.compile(graph, target, threads)
    made: list[dict[str, Any]] = []
    with common.progress("run", len(items)) as advance:
        for feeds in items:
            if check_finite:
                files.check_finite(feeds)
            found = program(*(feeds[n.name] for n in graph.inputs))
            made.append({k: np.array(v) for k, v in found.items()})
            advance(len(made))
    joined = {k: _join([m[k] for m in made]) for k in graph.output_names}
    if output is not None:
        files.write_arrays(joined, output)
    rows = common.describe(joined)
    if json:
        common.show_json({"calls": len(made), "outputs": rows, "written": output})
        return
    title = f"{len(made)} calls on {program.target}"
    keys = ("name", "dtype", "shape", "min", "max", "mean")
    cells = [[f"{r[k]:.6g}" if isinstance(r[k], float) else r[k] for k in keys] for r in rows]
    common.show(common.table(title, "output", "dtype", "shape", "min>", "max>", "mean>",
                             rows=cells))  # fmt: skip


def _join(arrays: list[Any]) -> Any:
    """Calls' outputs along their first axis, or stacked where that cannot be."""
    import numpy as np

    if len(arrays) == 1:
        return arrays[0]
    alike = arrays[0].ndim and len({a.shape[1:] for a in arrays}) == 1
    if alike:
        return np.concatenate(arrays)
    if len({a.shape for a in arrays}) == 1:
        return np.stack(arrays)
    from taut.ir import FeedError

    shapes = sorted({a.shape for a in arrays})[:3]
    raise FeedError(f"outputs of different shapes cannot be joined: {shapes}",
                    hint="run the calls one by one")  # fmt: skip


@app.command()
def bench(
    models: Annotated[list[str], typer.Argument(help="Models, timed in turn, call by call.")],
    pipeline: MaybePipeline = None,
    target: Target = "cpu",
    threads: Threads = None,
    repeat: Annotated[int, typer.Option(min=1, help="Timed calls of each.")] = 100,
    warmup: Annotated[int, typer.Option(min=1, help="Calls before timing starts.")] = 5,
    budget: Annotated[float, typer.Option(min=0.1, help="Seconds to stop after.")] = 60.0,
    data: DataFile = None,
    dims: Dims = None,
    batch: Batch = None,
    seed: Seed = 0,
    json: AsJson = False,
) -> None:
    """Latency: the median of many calls after a warm-up, several models in turn."""
    import taut
    from taut.measure import measure

    from .graphs import summary

    calls: dict[str, Any] = {}
    macs: dict[str, int] = {}
    for i, model in enumerate(models):
        name = model if model not in calls else f"{model} ({i + 1})"
        graph = prepare(model, pipeline, seed)
        arrays = one_call(graph, data, seed, dims, batch)
        sizes = {n.name: a.shape for n, a in zip(graph.inputs, arrays)}
        macs[name] = summary(graph, sizes)["macs"]
        program = taut.compile(graph, target, threads)
        calls[name] = lambda program=program, arrays=arrays: program(*arrays)
    with common.progress("bench", repeat) as advance:
        timings = measure(calls, repeat=repeat, warmup=warmup, budget=budget, progress=advance)
    if json:
        common.show_json({k: {**t.facts(), "macs": macs[k]} for k, t in timings.items()})
        return
    first = next(iter(timings.values())).median
    rows = [
        (name, f"{t.median * 1e3:.3f}", f"{t.best * 1e3:.3f}", f"{t.p90 * 1e3:.3f}", t.calls,
         f"{2e-9 * macs[name] / t.median:.1f}", f"{first / t.median:.2f}x")
        for name, t in timings.items()
    ]  # fmt: skip
    common.show(common.table(f"on {target}, milliseconds a call", "model", "median>", "best>",
                             "p90>", "calls>", "GOPS>", "speed>", rows=rows))  # fmt: skip


@app.command()
def profile(
    model: Model,
    pipeline: MaybePipeline = None,
    target: Target = "cpu",
    threads: Threads = None,
    repeat: Annotated[int, typer.Option(min=1, help="Calls; each row is a median.")] = 20,
    data: DataFile = None,
    dims: Dims = None,
    batch: Batch = None,
    seed: Seed = 0,
    json: AsJson = False,
) -> None:
    """Time per kernel, with the nodes that each computes."""
    import taut

    graph = prepare(model, pipeline, seed)
    arrays = one_call(graph, data, seed, dims, batch)
    program = taut.compile(graph, target, threads)
    program(*arrays)
    rows = program.profile(*arrays, repeat=repeat)
    if json:
        common.show_json({"target": str(program.target), "kernels": [r._asdict() for r in rows]})
        return
    total = sum(r.seconds for r in rows) or 1.0
    cells = [
        (r.kernel, ", ".join(r.nodes), f"{r.seconds * 1e6:.1f}", f"{r.seconds / total:.1%}",
         common.engineering(r.macs), f"{2e-9 * r.macs / r.seconds:.1f}" if r.seconds else "")
        for r in rows
    ]  # fmt: skip
    common.show(
        common.table(f"on {program.target}, median of {repeat}", "kernel", "nodes", "us>",
                     "share>", "MACs>", "GOPS>", rows=cells),
        f"{len(rows)} kernels, {total * 1e3:.3f} ms in all",
    )  # fmt: skip


class Form(StrEnum):
    source = "source"
    llvm = "llvm"
    asm = "asm"


@app.command()
def emit(
    model: Model,
    form: Annotated[Form, typer.Option("--form", help="What to print.")] = Form.source,
    pipeline: MaybePipeline = None,
    target: Target = "cpu",
    threads: Threads = None,
    dims: Dims = None,
    batch: Batch = None,
    seed: Seed = 0,
) -> None:
    """Print what was generated: the program's source, its LLVM IR or its assembly."""
    import taut

    graph = prepare(model, pipeline, seed)
    program = taut.compile(graph, target, threads)
    program(*one_call(graph, None, seed, dims, batch))
    text = program.source(form.value)
    sys.stdout.write(text if text.endswith("\n") else text + "\n")


@app.command()
def compare(
    a: Annotated[str, typer.Argument(help="The model to hold the other against.")],
    b: Annotated[str, typer.Argument(help="The other model.")],
    data: DataFile = None,
    random: RandomCount = None,
    outputs: Annotated[bool, typer.Option("--outputs", help="Only the graphs' outputs.")] = False,
    target: Annotated[
        str, typer.Option("--target", help="reference compares every layer, cpu only outputs.")
    ] = "reference",
    dims: Dims = None,
    batch: Batch = None,
    seed: Seed = 0,
    json: AsJson = False,
) -> None:
    """How two models differ over data, layer by layer: SQNR, largest error, agreement."""
    import taut

    first, second = common.load(a), common.load(b)
    items = common.need_data(common.feeds(first, data, random, seed, dims, batch))
    sides: list[Any] = [first, second]
    if target != "reference" or outputs:
        sides = [taut.compile(g, target) for g in sides]
    with common.progress("compare", len(items)) as advance:
        made = taut.compare(sides[0], sides[1], _counted(items, advance))
    print(made.to_json()) if json else common.show(made)


def _counted(items: Any, advance: Any) -> Any:
    for i, item in enumerate(items):
        advance(i)
        yield item
