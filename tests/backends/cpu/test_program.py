"""Programs against the reference: the frame around kernels (feeds, sizes, threads, fallbacks)."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from taut.backends.cpu import compile
from taut.ir import Builder, CompileError, FeedError, Graph, TensorType, interpret


def chain(shape=("n", 3, 5, 7)) -> Graph:
    b = Builder()
    x, y = b.input("x", "f32", shape), b.input("y", "f32", (3, 1, 1))
    z = b.relu(b.add(b.relu(x), y))
    return b.outputs(z=z, w=b.add(z, x))


def feeds(n: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "x": rng.standard_normal((n, 3, 5, 7), np.float32),
        "y": rng.standard_normal((3, 1, 1), np.float32),
    }


def agree(graph: Graph, given: dict[str, np.ndarray], **options) -> None:
    made = compile(graph, **options)(**given)
    expected = interpret(graph, given)
    assert list(made) == list(expected)
    for name, array in expected.items():
        assert made[name].dtype == array.dtype
        np.testing.assert_allclose(made[name], array, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_chain(threads):
    agree(chain((2, 3, 5, 7)), feeds(2), threads=threads)


def test_sizes_are_bound_by_the_call_and_share_code():
    graph = chain()
    program = compile(graph, threads=1)
    sources = set()
    for n in (1, 4, 2, 4):
        given = feeds(n)
        made = program(**given)
        np.testing.assert_allclose(made["w"], interpret(graph, given)["w"], rtol=1e-6)
        sources.add(program.source())
    assert len(sources) == 1


def test_wrong_feeds():
    program = compile(chain((2, 3, 5, 7)), threads=1)
    good = feeds(2)
    for bad in (
        {"x": good["x"]},
        {**good, "z": good["y"]},
        {**good, "x": good["x"].astype(np.float64)},
        {**good, "x": feeds(3)["x"]},
    ):
        with pytest.raises(FeedError):
            program(**bad)
    with pytest.raises(FeedError):
        program(good["x"], good["y"], good["y"])


def test_strided_feeds_are_taken():
    program = compile(chain((2, 3, 5, 7)), threads=1)
    given = feeds(2)
    mirrored = {**given, "x": given["x"][:, :, ::-1]}
    np.testing.assert_allclose(
        program(**mirrored)["w"], interpret(chain((2, 3, 5, 7)), mirrored)["w"], rtol=1e-6
    )


def test_bad_options():
    for options in ({"threads": 0}, {"threads": 2.5}, {"isa": "abacus"}):
        with pytest.raises(CompileError):
            compile(chain(), **options)


def test_calls_from_threads_do_not_mix():
    graph = chain((2, 3, 5, 7))
    program = compile(graph, threads=2)
    wrong = []

    def work(seed: int) -> None:
        given = feeds(2, seed)
        expected = interpret(graph, given)["w"]
        for _ in range(20):
            if not np.allclose(program(**given)["w"], expected, rtol=1e-6):
                wrong.append(seed)

    workers = [threading.Thread(target=work, args=(s,)) for s in range(4)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert not wrong


def test_profile_and_source_speak_of_every_step():
    program = compile(chain((2, 3, 5, 7)), threads=2)
    given = feeds(2)
    rows = program.profile(**given, repeat=3)
    assert {n for row in rows for n in row.nodes} >= {"relu", "add", "relu_0", "add_0"}
    assert all(row.seconds >= 0 and row.kernel in program.source() for row in rows)
    assert program.memory > 0 and "2 threads" in str(program.target)


def test_empty_tensors():
    agree(chain(), feeds(0), threads=2)


def test_constants_and_outputs_that_are_inputs():
    b = Builder()
    x = b.input("x", "f32", (3,))
    c = b.constant(np.arange(3, dtype=np.float32))
    agree(b.outputs(same=x, fixed=c, folded=b.add(c, c), sum=b.add(x, c)), {"x": np.ones(3, "f4")})


def test_types_of_the_signature():
    program = compile(chain((2, 3, 5, 7)), threads=1)
    assert program.graph.signature.inputs["y"] == TensorType.of(feeds(1)["y"])
