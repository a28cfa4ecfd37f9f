"""`interpolate` and `grid_sample` in every mode, over drawn sizes and factors, against PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from bridge import Many, by_torch, randn, torch
from taut.ir import UnsupportedError

import taut

F = torch.nn.functional
FACTORS = [0.1, 0.2, 0.29, 0.3, 0.5, 0.58, 1 / 3, 0.7, 2 / 3, 1.1, 1.2, 1.3, 1.5, 1.9, 2, 2.5, 3,
           5, 7, 11]  # fmt: skip
SMOOTH = {1: ["linear"], 2: ["bilinear", "bicubic"], 3: ["trilinear"]}


def drawn(axes: int, sizes: list[int], count: int, seed: int) -> dict[str, Any]:
    """Ways to interpolate an image of these sizes, by what they are."""
    random = np.random.default_rng(seed)
    found: dict[str, Any] = {}
    while len(found) < count:
        mode = str(random.choice(["nearest", "nearest-exact", *SMOOTH[axes]]))
        how: dict[str, Any] = {"mode": mode}
        if random.random() < 0.7:
            factors = [float(random.choice(FACTORS)) for _ in sizes]
            if any(int(n * f) < 1 for n, f in zip(sizes, factors)):
                continue
            how["scale_factor"] = tuple(factors)
        else:
            how["size"] = tuple(int(random.integers(1, 20)) for _ in sizes)
        if mode in SMOOTH[axes]:
            how["align_corners"] = bool(random.integers(2))
        found[str(how)] = lambda x, how=how: F.interpolate(x, **how)
    return found


def right(got: dict[str, np.ndarray], want: dict[Any, np.ndarray], atol: float = 3e-5) -> None:
    for (how, b), a in zip(want.items(), got.values(), strict=True):
        assert a.shape == b.shape, how
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=atol, err_msg=str(how))


@pytest.mark.parametrize("sizes", [(10,), (37,), (5, 7), (1, 12), (4, 3, 5)])
def test_drawn_interpolations(sizes: tuple[int, ...]) -> None:
    module = Many(drawn(len(sizes), list(sizes), 16, seed=sum(sizes)))
    x = randn(2, 3, *sizes)
    graph = taut.from_torch(module, (x,))
    right(taut.reference(graph, x.numpy()), by_torch(module, (x,)))
    if len(sizes) == 2:
        program = taut.compile(taut.optimize(graph), threads=1)
        right(program(x.numpy()), by_torch(module, (x,)))


@pytest.mark.parametrize("sizes", [(12,), (11, 13)])
def test_drawn_interpolations_of_any_size(sizes: tuple[int, ...]) -> None:
    """Factors that are no powers of two place samples at run time, and sizes are PyTorch's."""
    module = Many(drawn(len(sizes), [10] * len(sizes), 8, seed=len(sizes)))
    axes = {2 + i: f"n{i}" for i in range(len(sizes))}
    graph = taut.from_torch(module, (randn(1, 3, *sizes),), dynamic_shapes=((axes,),))
    program = taut.compile(graph, threads=1) if len(sizes) == 1 else None
    for other in (sizes, (10,) * len(sizes), (30,) * len(sizes), (100, 10)[: len(sizes)]):
        x = randn(1, 3, *other, seed=other[0])
        for run in (lambda a: taut.reference(graph, a), program):
            if run is None:
                continue
            right(run(x.numpy()), by_torch(module, (x,)), atol=2e-4)  # far places round


def test_sizes_are_cut_off_in_double_precision() -> None:
    """0.29 * 100 is 28.99 in double precision and 29 in single."""
    module = Many({"up": lambda x: F.interpolate(x, scale_factor=0.29, mode="linear")})
    x = randn(1, 2, 100)
    graph = taut.from_torch(module, (x,))
    right(taut.reference(graph, x.numpy()), by_torch(module, (x,)))
    assert graph.outputs[0].shape == (1, 2, 28)


def test_usual_factors_stay_one_op() -> None:
    module = Many({
        "nearest": lambda x: F.interpolate(x, scale_factor=2),
        "bilinear": lambda x: F.interpolate(x, scale_factor=1.5, mode="bilinear"),
        "half": lambda x: F.interpolate(x, scale_factor=0.5, mode="bicubic"),
    })  # fmt: skip
    graph = taut.from_torch(module, (randn(1, 3, 8, 8),),
                            dynamic_shapes=(({2: "h", 3: "w"},),))  # fmt: skip
    assert sum(n.op.name == "resize" for n in graph.nodes()) == 3
    assert not any(n.op.name == "gather" for n in graph.nodes())


def test_antialiasing_is_refused() -> None:
    module = Many({"aa": lambda x: F.interpolate(x, (3, 3), mode="bilinear", antialias=True)})
    with pytest.raises(UnsupportedError, match="_aa"):
        taut.from_torch(module, (randn(1, 2, 6, 6),))


@pytest.mark.parametrize("axes", [2, 3])
def test_grid_sample(axes: int) -> None:
    modes = ["bilinear", "nearest", "bicubic"][: 3 if axes == 2 else 2]
    module = Many({
        f"{mode}-{padding}-{corners}": lambda x, g, m=mode, p=padding, c=corners:
        F.grid_sample(x, g, m, p, c)
        for mode in modes for padding in ("zeros", "border", "reflection")
        for corners in (False, True)
    })  # fmt: skip
    x, grid = randn(2, 3, *(5, 4, 3)[:axes]), randn(2, *(3, 4, 2)[:axes], axes, seed=1) * 1.5
    graph = taut.from_torch(module, (x, grid))
    assert sum(n.op.name == "grid_sample" for n in graph.nodes()) == len(module.cases)
    for got in (taut.reference(graph, x.numpy(), grid.numpy()),
                taut.compile(graph, threads=1)(x.numpy(), grid.numpy())):  # fmt: skip
        right(got, by_torch(module, (x, grid)))
