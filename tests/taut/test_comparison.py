"""Layers of integers are compared as the numbers that they stand for."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from taut.ir import Builder, DType, FeedError, Graph
from taut.passes import Context, PassManager
from taut.passes.quantize.meaning import meanings

import taut

R = np.random.default_rng(0)
IMAGES = [R.standard_normal((1, 3, 12, 12)).astype(np.float32) for _ in range(6)]


def weight(*shape: int, spread: float = 1.0) -> np.ndarray:
    """Channels of very different sizes."""
    made = R.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
    sizes = spread ** R.uniform(-1, 1, shape[0])
    return (made * sizes.reshape(-1, *(1,) * (len(shape) - 1))).astype(np.float32)


def network() -> Graph:
    """A residual, a depthwise layer whose input has a scale for each channel, tables, data that
    moves, means, and a float end."""
    b = Builder()
    x = b.input("x", "f32", (1, 3, 12, 12))
    y = b.relu(b.conv(x, weight(16, 3, 3, 3, spread=6), np.ones(16, np.float32), pads=(1,) * 4,
                      name="first"), name="first_relu")  # fmt: skip
    wide = b.conv(y, weight(16, 16, 1, 1, spread=8), name="wide")
    y = b.hard_swish(b.conv(wide, weight(16, 1, 3, 3), pads=(1,) * 4, group=16, name="depthwise"),
                     name="curved")  # fmt: skip
    z = b.conv(y, weight(16, 16, 1, 1), name="branch")
    y = b.relu(b.add(z, y, name="sum"), name="sum_relu")
    y = b.max_pool(y, kernel_shape=(2, 2), strides=(2, 2), name="pooled")
    y = b.concat(y, y, axis=1, name="joined")
    y = b.conv(b.transpose(y, perm=(0, 1, 3, 2), name="turned"), weight(8, 32, 3, 3), name="late")
    y = b.average_pool(b.sigmoid(y, name="gate"), kernel_shape=(2, 2), strides=(2, 2), name="mean")
    y = b.gemm(b.flatten(y, name="flat"), weight(10, 32), transB=True, name="head")
    return b.outputs(scores=y)


@pytest.fixture(scope="module")
def pair() -> tuple[Graph, Graph]:
    graph = network()
    return graph, PassManager("int8").run(graph, Context(data=IMAGES)).graph


def test_sound_layers_have_high_numbers(pair: tuple[Graph, Graph]) -> None:
    found = taut.compare(*pair, IMAGES)
    names = [x.name for x in found.layers]
    for name in ("first_relu", "wide", "curved", "sum_relu", "turned", "gate", "head"):
        assert name in names, names
    assert not any(x.unscaled for x in found.layers)
    assert {x.name: x.sqnr_db for x in found.layers if not x.sqnr_db > 25} == {}
    assert found["scores"].sqnr_db > 25
    assert "?" not in str(found)


@pytest.mark.parametrize("layer", ["first_relu", "wide", "sum_relu", "gate"])
def test_a_fault_is_shown_where_it_is(pair: tuple[Graph, Graph], layer: str) -> None:
    """One channel of one layer gets other weights."""
    graph, integers = pair[0], pair[1].copy()
    sound = {x.name: x.sqnr_db for x in taut.compare(graph, integers, IMAGES).layers}
    node = integers[f"{layer}.accumulator"]
    w = integers.operand(node, 1)
    assert w is not None and w.array is not None
    wrong = w.array.copy()
    wrong[3] = np.roll(wrong[3], 1) // 2
    integers.set_operand(node, 1, integers.constant(wrong, before=node))
    found = taut.compare(graph, integers, IMAGES).layers
    worse = [x.name for x in found if x.sqnr_db < sound[x.name] - 3]
    assert worse[0] == layer
    before = found[: [x.name for x in found].index(layer)]
    assert all(x.sqnr_db == sound[x.name] for x in before)


def test_what_lowered_files_keep(pair: tuple[Graph, Graph], tmp_path: object) -> None:
    """Steps survive text and container, and a graph on the other side."""
    graph, integers = pair
    again = taut.ir.parse(taut.ir.print_graph(integers))
    want = [x.sqnr_db for x in taut.compare(graph, integers, IMAGES[:2]).layers]
    assert [x.sqnr_db for x in taut.compare(graph, again, IMAGES[:2]).layers] == want
    turned = taut.compare(integers, graph, IMAGES[:2])
    assert all(x.sqnr_db > 24 for x in turned.layers) and len(turned.layers) == len(want)


def test_integers_without_steps_are_named() -> None:
    b = Builder()
    x = b.input("x", "u8", (1, 4))
    y = b.requantize(x, np.int32(1 << 20), shift=20, dtype=DType.u8, name="y.requantized")
    integers = b.outputs(y=b.cast(y, to=DType.f32))
    b = Builder()
    y = b.relu(b.cast(b.input("x", "u8", (1, 4)), to=DType.f32), name="y")
    found = taut.compare(b.outputs(y=y), integers, [np.arange(4, dtype=np.uint8)[None]])
    layer = next(x for x in found.layers if x.name == "y" and not x.output)
    assert layer.name == "y" and layer.unscaled and np.isnan(layer.sqnr_db)
    assert "does not tell their step" in str(found)
    rows = {x["name"]: x for x in json.loads(found.to_json())["layers"] if not x["output"]}
    assert rows["y"]["sqnr_db"] == "nan" and rows["y"]["unscaled"]
    assert found.outputs[0].sqnr_db == np.inf


def test_meanings_of_each_kind() -> None:
    """Per tensor, channel and block; through movement; accumulators from either side."""
    b = Builder()
    x = b.input("x", "f32", (2, 6))
    scale = np.arange(1, 7).astype(np.float32)
    q = b.quantize_linear(x, scale, np.zeros(6, np.int8) + 3, axis=1)
    turned = b.transpose(q, perm=(1, 0))
    split = b.reshape(turned, np.array([3, 2, 2]))
    blocks = b.quantize_linear(x, np.array([[1, 2], [3, 4]], np.float32), axis=1, block_size=3)
    plain = b.slice(b.quantize_linear(x, np.float32(0.5), np.uint8(9)), [0], [1])
    acc = b.mat_mul_integer(plain, np.ones((6, 2), np.int8), np.uint8(9))
    real = b.mul(b.cast(acc, to=DType.f32), np.array([0.5, 0.25], np.float32))
    inner = b.mat_mul_integer(plain, np.ones((6, 2), np.int8))
    last = b.requantize(inner, np.array([1, 3], np.int32), shift=1, axis=1, dtype=DType.u8)
    unknown = b.lookup(last, np.arange(256, dtype=np.uint8))
    d = b.dequantize_linear(last, np.float32(4), np.uint8(0))
    graph = b.outputs(a=split, b=blocks, c=real, d=d, e=unknown)
    found = meanings(graph)
    assert found[turned].step.reshape(-1).tolist() == np.repeat(scale, 2).tolist()
    assert found[split].step[:, :, 0].tolist() == [[1, 2], [3, 4], [5, 6]]
    assert np.all(found[split].zero == 3)
    assert found[blocks].step.tolist() == [[1, 1, 1, 2, 2, 2], [3, 3, 3, 4, 4, 4]]
    assert (found[plain].step, found[plain].zero) == (0.5, 9)
    assert found[acc].step.tolist() == [0.5, 0.25]
    assert found[inner].step.reshape(-1).tolist() == [2, 6]
    assert unknown not in found


def model(input: str = "x", columns: int = 4, output: str = "y") -> Graph:
    b = Builder()
    x = b.input(input, "f32", ("n", 4))
    w = np.arange(4.0 * columns, dtype=np.float32).reshape(4, columns)
    return b.outputs(**{output: b.relu(b.mat_mul(x, w, name="product"), name="last")})


ROW = np.ones((1, 4), np.float32)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(("other", "what"), [
    (model(columns=5), r"output 'y' has shapes \[1, 4\] and \[1, 5\]"),
    (model("input"), "x"), (model(output="z"), "'z'"),
])  # fmt: skip
def test_models_that_cannot_be_compared_are_refused(
    other: Graph, what: str, compiled: bool
) -> None:
    for pair in ((model(), other), (other, model())):
        sides = [taut.compile(g) if compiled else g for g in pair]
        with pytest.raises(FeedError, match=what if pair[1] is other else None):
            taut.compare(*sides, [{pair[0].inputs[0].name: ROW}])


def test_inputs_are_fed_by_their_names() -> None:
    def two(*names: str) -> Graph:
        b = Builder()
        given = {n: b.input(n, "f32", (2,)) for n in names}
        return b.outputs(y=b.sub(given["a"], given["b"]))

    data = [{"a": np.ones(2, np.float32), "b": np.zeros(2, np.float32)}]
    for b in (two("b", "a"), taut.compile(two("b", "a"))):
        assert taut.compare(two("a", "b"), b, data)["y"].sqnr_db == math.inf


def test_layers_of_other_shapes_are_named_and_not_passed_over() -> None:
    b = Builder()
    x = b.input("x", "f32", ("n", 4))
    wide = b.relu(b.mat_mul(x, np.ones((4, 6), np.float32), name="product"))
    narrow = b.outputs(y=b.slice(wide, [0], [4], [1]))
    found = taut.compare(model(), narrow, [ROW])
    assert found["product"].unlike and math.isnan(found["product"].sqnr_db)
    assert "of another shape" in str(found)


def test_numbers_that_are_none_agree_about_nothing() -> None:
    data = [np.full((1, 4), np.nan, np.float32)]
    y = taut.compare(model(), model(), data)["y"]
    assert math.isnan(y.sqnr_db) and math.isnan(y.agreement) and y.non_finite == 4
    found = taut.compare(model(), model(), [ROW, *data])
    assert found["y"].sqnr_db == math.inf and found["y"].agreement == 1
    assert "12 elements are NaN or infinite" in str(found).replace("\n", " ")


def test_large_integers_are_compared_exactly() -> None:
    def counted(more: int) -> Graph:
        b = Builder()
        x = b.input("x", "i64", (3,))
        return b.outputs(y=b.add(x, np.int64(more)))

    y = taut.compare(counted(0), counted(100), [np.full(3, 2**62, np.int64)])["y"]
    assert y.max_error == 100 and math.isfinite(y.sqnr_db)


def test_nothing_agrees_about_nothing() -> None:
    y = taut.compare(model(), model(), [ROW[:0]])["y"]
    assert math.isnan(y.sqnr_db) and math.isnan(y.agreement)
