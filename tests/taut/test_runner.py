"""The compiled runner shows what the interpreter shows."""

import numpy as np
from taut.ir import Builder, interpret

import taut
from taut.runner import CompiledRunner


def network():
    b = Builder()
    x = b.input("x", "f32", ("n", 3, 8, 8))
    weight = np.random.default_rng(0).standard_normal((5, 3, 3, 3)).astype(np.float32)
    y = b.relu(b.conv(x, b.constant(weight), pads=(1, 1, 1, 1)))
    low, high = b.split(y, axis=2, num_outputs=2)
    return b.outputs(y=b.max_pool(b.add(low, high), kernel_shape=(2, 2)))


def test_it_shows_every_value():
    graph = network()
    feeds = {"x": np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(np.float32)}
    seen, want = {}, {}
    CompiledRunner(threads=1)(graph, feeds, lambda v, a: seen.__setitem__(v, a))
    interpret(graph, feeds, watch=lambda v, a: want.__setitem__(v, a))
    constants = {v for v in want if v.node.op.name == "constant"}
    assert seen.keys() == want.keys() - constants
    for value, array in seen.items():
        np.testing.assert_allclose(array, want[value], rtol=1e-5, atol=1e-5)


def test_a_changed_graph_is_compiled_again():
    graph, run, seen = network(), CompiledRunner(threads=1), []
    feeds = {"x": np.ones((1, 3, 8, 8), np.float32)}
    run(graph, feeds, lambda v, a: None)
    b = Builder(graph)
    graph.set_outputs({"y": b.neg(graph.outputs[0], name="last")})
    run(graph, feeds, lambda v, a: seen.append((v.node.name, a)))
    want = taut.reference(graph, **feeds)["y"]
    np.testing.assert_allclose(dict(seen)["last"], want, rtol=1e-5)


def test_any_input_name_will_do():
    b = taut.ir.Builder()
    x = b.input("self", "f32", ("n", 3, 4, 4))
    graph = b.outputs(y=b.relu(b.conv(x, np.ones((2, 3, 1, 1), np.float32))))
    image = np.random.default_rng(0).normal(size=(2, 3, 4, 4)).astype(np.float32)
    int8 = taut.quantize(graph, [image])
    assert taut.compare(graph, int8, [image])["y"].sqnr_db > 25
