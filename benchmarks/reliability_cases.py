"""What is interrupted and forked by `reliability_calls`: programs of every kind, each with calls
whose results are known, and the making and saving of programs and models.

A *case* has actions that an exception may cut off at any moment, and `check`, which nothing
interrupts and which says what is wrong afterwards ("" for nothing).
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from taut.ir import Builder, DType, FeedError, Graph, interpret
from taut.ir.equality import digest

import taut
from taut.training import Recipe, Trainer

F32 = np.float32
WIDTH = 16


class Case:
    """Something to do, `repeat` times in a row, and what must hold afterwards."""

    name = ""
    repeat = 1

    def act(self, k: int) -> None:
        """Something that may be interrupted; `k` counts."""
        raise NotImplementedError

    def check(self) -> str:
        """What is wrong; "" for nothing."""
        raise NotImplementedError


class Calls(Case):
    """Calls of one program on several inputs, whose results are kept from a quiet time."""

    def __init__(self, name: str, graph: Graph, feeds: Sequence[dict[str, Any]], threads: int,
                 repeat: int = 1) -> None:  # fmt: skip
        self.name, self.repeat, self.feeds = f"{name}/{threads}", repeat, list(feeds)
        self.graph, self.threads = graph, threads
        self.program = taut.compile(graph, threads=threads)
        self.wanted = [self.call(f) for f in self.feeds]
        for feed, made in zip(self.feeds, self.wanted):
            for name, value in interpret(graph, feed).items():
                np.testing.assert_allclose(made[name], value, rtol=1e-3, atol=1e-3)

    def call(self, feed: dict[str, Any]) -> dict[str, Any]:
        return {k: a.copy() for k, a in self.program(**feed).items()}

    def act(self, k: int) -> None:
        run = self.program.profile if k % 5 == 3 else self.program
        run(**self.feeds[k % len(self.feeds)])

    def check(self) -> str:
        for k, (feed, wanted) in enumerate(zip(self.feeds, self.wanted)):
            made = self.call(feed)
            for name, value in wanted.items():
                if made[name].shape != value.shape or made[name].tobytes() != value.tobytes():
                    return f"{self.name}: output {name} of feed {k} is another than before"
        return ""


class Faults(Calls):
    """A program whose inputs are refused in every other call."""

    bad: dict[str, Any]

    def act(self, k: int) -> None:
        if k % 2:
            super().act(k)
            return
        try:
            self.program(**self.bad)
        except FeedError:
            return
        raise AssertionError(f"{self.name}: a bad index was taken")


class Compiles(Case):
    """Programs made anew, for sizes that were never there; now and then with code that was not."""

    name = "compile"

    def __init__(self, seed: int, fresh: float) -> None:
        self.random, self.fresh = random.Random(seed), fresh
        self.sizes = itertools.count(2)
        self.scales = (float(s) for s in np.random.default_rng(seed).uniform(0.5, 2, 1 << 20))
        self.graph, self.size = network(3), 1

    def act(self, k: int) -> None:
        self.size = 1 + next(self.sizes) % 97
        if self.random.random() < self.fresh:
            self.graph = network(3, next(self.scales))
        self.run()

    def run(self) -> Any:
        x = np.ones((self.size, WIDTH), F32) / 4
        program = taut.compile(self.graph, threads=1 + self.size % 2)
        return program(x[:1])["y"], program(x)["y"]

    def check(self) -> str:
        one, all_ = self.run()
        want = interpret(self.graph, {"x": np.ones((1, WIDTH), F32) / 4})["y"]
        good = np.allclose(all_, want, rtol=1e-3, atol=1e-4) and (all_[0] == all_[-1]).all()
        good = good and np.allclose(one, want, rtol=1e-3, atol=1e-4)
        return "" if good else f"compile: a new program for {self.size} rows is wrong"


class Tunes(Case):
    """A program whose layers are measured in other tilings, which change no bit."""

    name = "tune"

    def __init__(self) -> None:
        b: Any = Builder()
        x = b.input("x", "f32", (1, 8, 12, 12))
        w = np.random.default_rng(0).standard_normal((24, 8, 3, 3), F32)
        self.graph = b.outputs(y=b.relu(b.conv(x, w)))
        self.x = np.random.default_rng(1).standard_normal((1, 8, 12, 12), F32)
        self.wanted = taut.compile(self.graph, threads=1)(self.x)["y"].tobytes()

    def act(self, k: int) -> None:
        taut.compile(self.graph, threads=1 + k % 2, tune=0.05)

    def check(self) -> str:
        made = [taut.compile(self.graph, threads=n, tune=0)(self.x)["y"] for n in (1, 2)]
        return "" if {a.tobytes() for a in made} == {self.wanted} else "tune: other bits"


class Saves(Case):
    """A model saved over another: afterwards one of the two is there."""

    name = "save"

    def __init__(self, folder: Path) -> None:
        self.path = folder / "m.taut"
        self.models = [network(2), network(4)]
        self.digests = {digest(m) for m in self.models}
        taut.save(self.models[0], self.path)

    def act(self, k: int) -> None:
        taut.save(self.models[k % 2], self.path)

    def check(self) -> str:
        found = digest(taut.load(self.path))
        return "" if found in self.digests else "save: neither the old nor the new model is there"


class Trains(Case):
    """Steps of training: afterwards the state is that of before or of after the step."""

    name = "train"

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        graph = taut.load("zoo:lenet-300-100{size=8}")
        recipe = Recipe(optimizer="adam")
        self.trainer, self.quiet = (Trainer(graph, recipe, threads=1) for _ in range(2))
        images = rng.standard_normal((8, 1, 8, 8), F32)
        self.batches = [(images[k:], np.arange(8 - k, dtype=np.int64)) for k in range(3)]
        self.done: list[int] = []

    def act(self, k: int) -> None:
        self.done.append(k % 3)
        self.trainer.step(self.batches[k % 3], 0.01)

    def check(self) -> str:
        for k in self.done[:-1]:  # those that went through
            self.quiet.step(self.batches[k], 0.01)
        last, self.done = self.done[-1:], []
        states = [self.quiet.state]
        for k in last:
            self.quiet.step(self.batches[k], 0.01)
            states.append(self.quiet.state)
        steps, now = self.trainer.steps, self.trainer.state
        place = len(states) - 1 - (self.quiet.steps - steps)
        good = 0 <= place < len(states) and all(
            now[name].tobytes() == array.tobytes() for name, array in states[place].items()
        )
        self.quiet.load_state(now, steps)
        return "" if good else "train: the state is of neither before nor after the step"


def network(layers: int, scale: float = 0.5) -> Graph:
    """Products with element-wise ops between them."""
    b: Any = Builder()
    x = y = b.input("x", "f32", ("n", WIDTH))
    for k in range(layers):
        w = np.random.default_rng(k).standard_normal((WIDTH, WIDTH), F32)
        y = b.tanh(b.mul(b.mat_mul(y, w), F32(scale)))
    return b.outputs(y=b.add(y, x))


def large() -> Graph:
    """Element-wise over much memory, so that most of a call is native."""
    b: Any = Builder()
    x = b.input("x", "f32", ("n", 1 << 16))
    return b.outputs(y=b.relu(b.mul(x, F32(3))), z=b.reduce_sum(x, np.array([1])))


def in_python() -> Graph:
    """Steps in Python between native ones."""
    b: Any = Builder()
    x = b.input("x", "f32", ("n", WIDTH))
    half = b.relu(b.cast(b.mul(x, F32(2)), to=DType.f16))
    return b.outputs(y=b.exp(b.neg(b.abs(b.cast(half, to=DType.f32)))))


def control() -> Graph:
    """A loop around a product."""
    inner: Any = Builder()
    inner.input("i", "i64")
    cond = inner.input("cond", "bool")
    v = inner.input("v", "f32", (None, WIDTH))
    w = np.random.default_rng(1).standard_normal((WIDTH, WIDTH), F32)
    made = inner.tanh(inner.mat_mul(v, w))
    body = inner.outputs(cond=inner.identity(cond), v=made)
    b: Any = Builder()
    x, trip = b.input("x", "f32", ("n", WIDTH)), b.input("trip", "i64")
    y = b.loop(trip, np.array(True), x, carried=1, body=body, name="loop")
    return b.outputs(y=b.relu(y))


def staged() -> Graph:
    """Sizes that only a run can tell."""
    b: Any = Builder()
    x = b.input("x", "f32", ("n", WIDTH))
    places = b.non_zero(b.relu(x))
    return b.outputs(y=b.add(b.cast(places, to=DType.f32), F32(0.5)))


def gathers() -> Graph:
    b: Any = Builder()
    x, i = b.input("x", "f32", ("n", WIDTH)), b.input("i", "i64", ("k",))
    return b.outputs(y=b.relu(b.gather(b.cast(b.relu(b.cast(x, to=DType.f16)), to=DType.f32), i)))


def calls(threads: int, small: bool = False) -> list[Calls]:
    """A program of each kind."""
    rng = np.random.default_rng(5)
    rows = [rng.standard_normal((n, WIDTH), F32) for n in (1, 3, 7, 4)]
    wide = [rng.standard_normal((n, 1 << 16), F32) for n in (2, 5)]
    faults = Faults(
        "faults", gathers(), [{"x": r, "i": np.arange(len(r))} for r in rows], threads, 5
    )
    faults.bad = {"x": rows[1], "i": np.array([0, 99])}
    made = [
        Calls("small", network(1), [{"x": r} for r in rows], threads, 20),
        Calls("large", large(), [{"x": r} for r in wide], threads, 3),
        Calls("python", in_python(), [{"x": r} for r in rows], threads, 5),
        Calls("control", control(), [{"x": r, "trip": np.array(3)} for r in rows], threads, 2),
        Calls("staged", staged(), [{"x": r} for r in rows], threads, 3),
        faults,
    ]
    if not small:
        resnet = taut.load("zoo:resnet-20")
        (image,) = resnet.inputs
        images = [rng.standard_normal((n, 3, 32, 32), F32) for n in (1, 2)]
        made.append(Calls("resnet-20", resnet, [{image.name: r} for r in images], threads))
    return made


def all_cases(seed: int, folder: Path, small: bool) -> list[Case]:
    """Everything; `small` leaves out what takes seconds to compile."""
    made: list[Case] = [*calls(1, small), *calls(2, small)]
    made += [Compiles(seed, 0 if small else 0.02), Saves(folder)]
    return made if small else [*made, Trains(seed), Tunes()]
