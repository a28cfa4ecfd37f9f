"""Drawn models and damaged files: `drawn_graphs` and `mutations` of the reliability benchmark.

Both work in watched children, many cases a request: what crashes, hangs or takes memory without
end is counted, told with its seed, and the run goes on.
"""

from __future__ import annotations

import io
import random
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
from taut.frontends.onnx import load_onnx
from taut.ir import Graph, TautError, print_graph, save_container, verify

import taut
from taut.testing.differential.worker import Answer, Request, Worker, serve

Report = Callable[[str], None]
BATCH = 25
LIMIT = 60.0
"""Seconds for one batch of mutations, and for one batch of graphs times ten."""

MEMORY = 12 << 30  # of address space
GROWTH = 3 << 30  # bytes that reading one file may add to what a child had at its most
BASES = 60  # sound models that are damaged


def drawn_graphs(seconds: float, seed: int, report: Report) -> dict[str, Any]:
    """For so many seconds: whole ONNX models against onnxruntime and the reference, then graphs of
    every family compiled and held against the reference."""
    from taut.testing import FAMILIES, differential

    start = time.monotonic()
    found = Counter[str]()
    number = 0
    while (left := seconds / 2 - (time.monotonic() - start)) > 0:
        made = differential.fuzz("onnxruntime", examples=2000, seed=seed + number, seconds=left,
                                 tries=60)  # fmt: skip
        number += 1
        found["tried"] += made.examples
        for f in made.findings:
            what = f.stage if f.stage in ("crash", "hang") else "wrong"
            found[what] += f.count
            report(f"{'/'.join(f.ops)}, {f.stage}: {f.reason} ({f.request})")
    worker = Worker(10 * LIMIT, [sys.executable, __file__])
    try:
        for number, family in enumerate(_turns(sorted(FAMILIES))):
            if time.monotonic() - start > seconds:
                break
            request = {"family": family, "seed": seed * 1009 + number, "examples": BATCH}
            _tell(found, worker.ask(request), request, BATCH, report)
    finally:
        worker.close()
    return _row("graphs", found, start)


def mutations(count: int, seed: int, report: Report) -> dict[str, Any]:
    """Damage ONNX files, IR texts and containers: each must load, or raise a TautError."""
    start, found = time.monotonic(), Counter[str]()
    worker = Worker(LIMIT, [sys.executable, __file__])
    try:
        for first in range(0, count, BATCH):
            size = min(BATCH, count - first)
            request = {"mutations": size, "seed": seed * 1_000_003 + first}
            answer = worker.ask(request)
            if answer["status"] == "ok":
                _tell(found, answer, request, size, report)
                continue
            for one in range(size):  # which of them was it?
                alone = {"mutations": 1, "seed": request["seed"] + one}
                _tell(found, worker.ask(alone), alone, 1, report)
            if (first // BATCH) % 40 == 0:
                report(f"{first} of {count}: {dict(found)}")
    finally:
        worker.close()
    return {**_row("mutations", found, start), "loaded": found["loaded"],
            "refused": found["refused"]}  # fmt: skip


def _turns(names: list[str]) -> Iterator[str]:
    while True:
        yield from names


def _tell(found: Counter[str], answer: Answer, request: Request, size: int, report: Report) -> None:
    found["tried"] += size
    if answer["status"] in ("crash", "hang"):
        found[answer["status"]] += 1
        report(f"{answer['status']}: {request}: {answer['reason']}")
    for what in answer.get("wrong", ()):
        found["wrong"] += 1
        report(f"wrong: {what}")
    for key in ("loaded", "refused"):
        found[key] += answer.get(key, 0)


def _row(name: str, found: Counter[str], start: float) -> dict[str, Any]:
    return {"name": name, "tried": found["tried"], "wrong": found["wrong"],
            "signals": found["crash"], "hangs": found["hang"],
            "seconds": time.monotonic() - start}  # fmt: skip


# ---- in the child --------------------------------------------------------------------------------


def run(request: Request) -> Answer:
    if "family" in request:
        return _family(request)
    counts, wrong = Counter[str](), []
    with tempfile.TemporaryDirectory(prefix="taut-mutations-") as folder:
        for one in range(request["mutations"]):
            outcome = _mutation(request["seed"] + one, Path(folder))
            counts[outcome.split(":")[0]] += 1
            if outcome.startswith("wrong"):
                wrong.append(f"seed {request['seed'] + one}: {outcome}")
    return {"status": "ok", "wrong": wrong, **counts}


def _family(request: Request) -> Answer:
    from taut.testing import CheckFailure, check_backend

    try:
        check_backend("cpu", families=(request["family"],), examples=request["examples"],
                      seed=request["seed"])  # fmt: skip
    except CheckFailure as failure:
        return {"status": "ok", "wrong": [f"{request}: {failure.reason}\n{failure.text}"]}
    return {"status": "ok", "wrong": []}


def _mutation(seed: int, folder: Path) -> str:
    """Damage a file and read it: `loaded`, `refused`, or `wrong: why`."""
    rng = random.Random(seed)
    suffix = rng.choice((".onnx", ".onnx", ".ir", ".taut"))
    path = folder / f"model{suffix}"
    path.write_bytes(_damaged(rng, suffix))
    before = _peak()
    try:
        graph = taut.load(path)
        verify(graph)
        print_graph(graph)
        outcome = _tried(graph) if _is_small(graph) else "loaded"
    except TautError:
        outcome = "refused"
    except Exception as error:
        outcome = f"wrong: {type(error).__name__}: {error}"[:300]
    grown = _peak() - before
    return f"wrong: took {grown >> 20} MiB" if grown > GROWTH else outcome


def _peak() -> int:
    """Bytes of memory that this process had at its most."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _is_small(graph: Graph) -> bool:
    types = [t for node in graph.nx for t in node.types]
    return all(t.is_static and t.size < 1 << 16 for t in types) and len(types) < 1000


def _tried(graph: Graph) -> str:
    """What loads must run as well, on zeros, or say why not."""
    import numpy as np

    feeds = {n.name: np.zeros(n.type.static_shape, n.type.dtype.numpy) for n in graph.inputs}
    with np.errstate(all="ignore"):
        taut.reference(graph, **feeds)
    return "loaded"


_bases: dict[int, Any] = {}


def _base(rng: random.Random) -> Any:
    """A sound model: (ModelProto, Graph)."""
    from taut.testing.differential import draw, drawable

    key = rng.randrange(BASES)
    while key not in _bases:
        own = random.Random(key)
        name = own.choice([c.name for c in drawable() if c.onnx])
        case = draw(name, key)
        assert case.model is not None
        try:
            _bases[key] = (case.model, load_onnx(case.model))
        except TautError:
            key += BASES  # another one
    return _bases[key]


def _damaged(rng: random.Random, suffix: str) -> bytes:
    """A file of this format with one to three mutations."""
    model, graph = _base(rng)
    if suffix == ".onnx":
        if rng.random() < 0.75:
            return _fields(rng, model).SerializeToString()
        data, other = model.SerializeToString(), _base(rng)[0].SerializeToString()
    elif suffix == ".ir":
        text = print_graph(graph, resources="inline")
        if rng.random() < 0.6:
            return _tokens(rng, text).encode()
        data = text.encode()
        other = print_graph(_base(rng)[1], resources="inline").encode()
    else:
        data, other = _container(graph), _container(_base(rng)[1])
        if rng.random() < 0.6:
            return _members(rng, data)
    return _bytes(rng, data, other)


def _container(graph: Graph) -> bytes:
    with tempfile.TemporaryDirectory(prefix="taut-mutations-") as folder:
        save_container(graph, Path(folder) / "model.taut")
        return (Path(folder) / "model.taut").read_bytes()


def _bytes(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Flips, cuts, runs of one byte, pieces moved, pieces of another file."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if not data:
            return data
        at, size = rng.randrange(len(data)), rng.choice((1, 2, 4, 16, 64))
        kind = rng.randrange(6)
        if kind == 0:
            data = data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
        elif kind == 1:
            data = data[:at]
        elif kind == 2:
            data = data[:at] + bytes([rng.choice((0, 0x7F, 0x80, 0xFF))]) * size + data[at + size :]
        elif kind == 3:
            data = data[:at] + data[at + size :]
        elif kind == 4:
            to = rng.randrange(len(data))
            data = data[:to] + data[at : at + size] + data[to:]
        else:
            there = rng.randrange(max(len(other), 1))
            data = data[:at] + other[there : there + 8 * size] + data[at + size :]
    return data


_NUMBERS = (0, 1, -1, 2, 7, 127, 128, 1 << 31, (1 << 31) - 1, -(1 << 31), 1 << 40, (1 << 63) - 1,
            -(1 << 63))  # fmt: skip


def _fields(rng: random.Random, model: onnx.ModelProto) -> onnx.ModelProto:
    """Edit fields of the protobuf wherever they are: another number, another string, an element
    twice, none, or one moved."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        messages = list(_messages(made))
        message = rng.choice(messages)
        fields = [f for f, _ in message.ListFields()]
        if not fields:
            continue
        field = rng.choice(fields)
        value = getattr(message, field.name)
        try:
            if field.is_repeated:
                _repeated(rng, field, value)
            elif field.type == field.TYPE_MESSAGE or rng.random() < 0.2:
                message.ClearField(field.name)
            else:
                setattr(message, field.name, _other(rng, field, value))
        except (ValueError, TypeError):
            continue  # a number that the field cannot hold
    return made


def _messages(message: Any) -> Iterator[Any]:
    stack = [message]
    while stack:
        now = stack.pop()
        yield now
        for field, value in now.ListFields():
            if field.type == field.TYPE_MESSAGE:
                stack += list(value) if field.is_repeated else [value]


def _repeated(rng: random.Random, field: Any, value: Any) -> None:
    place = rng.randrange(len(value))
    kind = rng.randrange(4)
    if kind == 0:
        del value[place]
    elif field.type == field.TYPE_MESSAGE:
        value.add().CopyFrom(value[rng.randrange(len(value) - 1)] if len(value) > 1 else value[0])
    elif kind == 1:
        value.append(value[place])
    else:
        value[place] = _other(rng, field, value[place])


def _other(rng: random.Random, field: Any, value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice((*_NUMBERS, value + 1, value - 1, value ^ (1 << rng.randrange(31))))
    if isinstance(value, float):
        return rng.choice((0.0, -1.0, float("nan"), float("inf"), 3e38, 1e-40))
    if isinstance(value, str):
        return rng.choice(("", "x0", "y0", "Conv", "\u202e", "a" * 1000, value[:-1], value + "0"))
    return _bytes(rng, bytes(value), b"\xff\x00" * 8)


def _tokens(rng: random.Random, text: str) -> str:
    """Edit a text by its words: swap, drop, double, or put another number or word."""
    import re

    words = re.split(r"([\s,()\[\]{}:=]+)", text)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        at, kind = rng.randrange(len(words)), rng.randrange(5)
        if kind == 0:
            to = rng.randrange(len(words))
            words[at], words[to] = words[to], words[at]
        elif kind == 1:
            words[at] = ""
        elif kind == 2:
            words[at] = words[at] * 2
        elif kind == 3:
            words[at] = str(rng.choice(_NUMBERS))
        else:
            words[at] = rng.choice(words)
    return "".join(words)


def _members(rng: random.Random, data: bytes) -> bytes:
    """A container that unpacks, with a member damaged, missing, or packed in another way."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {n: archive.read(n) for n in archive.namelist()}
    chosen = rng.choice(sorted(members))
    if rng.random() < 0.15:
        del members[chosen]
    elif chosen.endswith(".ir") and rng.random() < 0.6:
        members[chosen] = _tokens(rng, members[chosen].decode()).encode()
    else:
        members[chosen] = _bytes(rng, members[chosen], b"{}[]\xff" * 9)
    how = rng.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED))
    with zipfile.ZipFile(buffer, "w", how) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


if __name__ == "__main__":
    serve(run, MEMORY)
