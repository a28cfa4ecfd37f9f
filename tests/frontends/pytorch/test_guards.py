"""What torch.export assumes of sizes is checked: for each size a module's graph gives what the
module gives, or refuses it.
"""

from __future__ import annotations

import io
import math
import warnings
from typing import Any

import numpy as np
import pytest
from bridge import same, torch
from taut.frontends.torch import NotCarried
from taut.ir import FeedError, UnsupportedError

import taut

F, nn = torch.nn.functional, torch.nn


class Function(nn.Module):
    def __init__(self, f: Any) -> None:
        super().__init__()
        self.f = f

    def forward(self, *xs: Any) -> Any:
        return self.f(*xs)


def rows(x: Any) -> Any:
    """The length of the axis that varies."""
    return x.shape[1]


def windows(x: Any) -> Any:
    """Padded to a multiple of 4, cut into windows, put back and cropped."""
    n = rows(x)
    x = F.pad(x, (0, 0, 0, -n % 4))
    parts = x.reshape(x.shape[0], -1, 4, x.shape[2])
    return (parts - parts.mean(2, keepdim=True)).reshape(x.shape[0], -1, x.shape[2])[:, :n]


CASES: dict[str, tuple[Any, list[int]]] = {
    # name: what is computed of x[2,n,3], and the lengths of 1 to 13 that are taken when traced at 7
    "branch": (lambda x: x * 2 if rows(x) > 5 else x - 1, [*range(6, 14)]),
    "two": (lambda x: x * 2 if 3 < rows(x) < 10 else x - 1, [*range(4, 10)]),
    "one": (lambda x: x * 2 if rows(x) > 1 else x - 1, [*range(2, 14)]),
    "not one": (lambda x: x * 2 if rows(x) == 1 else x - 1, [*range(2, 14)]),
    "odd": (lambda x: x * 2 if rows(x) % 2 else x - 1, [1, 3, 5, 7, 9, 11, 13]),
    "multiple": (
        lambda x: F.pad(x, (0, 0, 0, 4 - rows(x) % 4 if rows(x) % 4 else 0)),
        [1, 2, 3, 5, 6, 7, 9, 10, 11, 13],
    ),
    "always a multiple": (windows, [*range(1, 14)]),
    "scaled": (lambda x: F.interpolate(x.mT, size=int(rows(x) * 1.5)), [7]),
    "scaled symbol": (
        lambda x: F.interpolate(x.mT, size=torch.sym_int(rows(x) * 1.5)),
        [*range(1, 14)],
    ),
    "root": (lambda x: x * int(math.sqrt(rows(x))), []),  # the exporter itself refuses
    "power": (lambda x: x * int(rows(x) ** 0.5), [4, 5, 6, 7, 8]),
    "quarter": (lambda x: x[:, : rows(x) // 4 + 1] * (rows(x) / 4), [*range(1, 14)]),
    "ceiling": (lambda x: x[:, : -(-rows(x) // 4)], [*range(1, 14)]),
    "difference": (lambda x: x + (3 - rows(x)) // 2 + (4 - rows(x)) % 3, [*range(1, 14)]),
    "checked": (lambda x: (torch._check(rows(x) % 7 == 0), x + 1)[1], [7]),
    "squeezed": (lambda x: x.squeeze(1), [*range(2, 14)]),
    "table": (lambda x: x + torch.arange(30.0).reshape(10, 3)[: rows(x)], [*range(1, 11)]),
    "halves": (lambda x: x.reshape(2, rows(x) // 7, -1), [*range(7, 14)]),
}


@pytest.mark.parametrize("name", CASES)
def test_a_size_is_right_or_refused(name: str) -> None:
    f, taken = CASES[name]
    module = Function(f)
    x = torch.arange(42.0).reshape(2, 7, 3)
    try:
        graph = taut.from_torch(module, (x,), dynamic_shapes=(({1: "n"},),))
    except (UnsupportedError, taut.ir.ModelError):
        assert not taken
        return
    program = taut.compile(graph, threads=1)
    good = []
    for n in range(1, 14):
        given = torch.arange(6.0 * n).reshape(2, n, 3)
        for run in (program, lambda a: taut.reference(graph, a)):
            try:
                got = run(given.numpy())
            except FeedError as error:
                assert f"n is {n}, where the model" in str(error)
                continue
            same({0: module(given).numpy()}, got, f"{name} of {n}")
            good += [n] if n not in good else []
    assert good == taken


def test_relations_between_inputs() -> None:
    module = Function(lambda x, y: x.sum() + y if x.shape[0] * y.shape[0] > 10 else y - 1)
    dims = (({0: "n"}, {0: "m"}),)
    graph = taut.from_torch(module, (torch.ones(4), torch.ones(5)), dynamic_shapes=dims)
    assert len(graph.conditions) == 1 and graph.conditions[0].symbols == {"m", "n"}
    taut.reference(graph, np.ones(11, np.float32), np.ones(1, np.float32))
    with pytest.raises(FeedError, match="m is 2 and n is 5, where the model needs"):
        taut.reference(graph, np.ones(5, np.float32), np.ones(2, np.float32))


def test_sizes_that_are_made_of_others() -> None:
    n = torch.export.Dim("n")
    module = Function(lambda x, y: x + y[::2])
    graph = taut.from_torch(module, (torch.ones(4), torch.ones(8)),
                            dynamic_shapes=(({0: n}, {0: 2 * n}),))  # fmt: skip
    assert graph.inputs[1].type.shape == ("xs_1_0",)
    made = taut.reference(graph, np.ones(5, np.float32), np.ones(10, np.float32))
    assert next(iter(made.values())).shape == (5,)
    with pytest.raises(FeedError):
        taut.reference(graph, np.ones(5, np.float32), np.ones(9, np.float32))
    # Of one input alone: any multiple.
    graph = taut.from_torch(Function(lambda x: x[::2] + x[1::2]), (torch.ones(8),),
                            dynamic_shapes=(({0: 2 * n},),))  # fmt: skip
    taut.reference(graph, np.ones(6, np.float32))
    with pytest.raises(FeedError):
        taut.reference(graph, np.ones(7, np.float32))


class Named(nn.Module):
    def forward(self, x: Any, parts: dict[str, Any], *, last: Any) -> Any:
        y = x * 2 if x.shape[0] > 3 else x
        y = y + 1 if parts["a"][0].shape[0] % 2 else y
        return y - 1 if last.shape[0] < 9 else y


def test_programs_of_the_users_own_and_of_files() -> None:
    """A program from a file has its guards as text, by the names of forward's arguments."""
    free = {0: torch.export.Dim.DYNAMIC}
    args = (torch.ones(5), {"a": [torch.ones(7)]})
    program = torch.export.export(Named(), args, {"last": torch.ones(6)}, dynamic_shapes={
        "x": free, "parts": {"a": [free]}, "last": free})  # fmt: skip
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    for source in (program, torch.export.load(file)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph = taut.from_torch(source)
        arrays = [np.ones(n, np.float32) for n in (5, 7, 6)]
        taut.reference(graph, *arrays)
        for place, n in ((0, 3), (1, 8), (2, 9)):
            wrong = [a if i != place else np.ones(n, np.float32) for i, a in enumerate(arrays)]
            with pytest.raises(FeedError, match=f"is {n}, where the model"):
                taut.reference(graph, *wrong)


def test_what_cannot_be_carried_is_said() -> None:
    free = {0: torch.export.Dim.DYNAMIC}
    program = torch.export.export(Function(lambda x: x + 1), (torch.ones(5),),
                                  dynamic_shapes=((free,),))  # fmt: skip
    with pytest.warns(NotCarried, match="not 0 or 1"):
        taut.from_torch(program)
    module = Function(lambda x: (torch._assert_async(x.sum() > 0), x + 1)[1])
    with pytest.warns(NotCarried, match="an assertion on data"):
        taut.from_torch(module, (torch.ones(5),))


def test_what_cannot_be_said_is_refused_with_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from taut.ir import conditions

    monkeypatch.delitem(conditions._CALLS, "trunc")
    module = Function(lambda x: x.expand(int(rows(x) * 1.5), *x.shape))
    with pytest.raises(UnsupportedError, match=r"trunc\(1.5 .*== 10 \(at test_guards.py:\d+\)"):
        taut.from_torch(module, (torch.ones(2, 7),), dynamic_shapes=(({1: "n"},),))
