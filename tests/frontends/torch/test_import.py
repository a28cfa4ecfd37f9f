"""What is imported under which names, and what is refused how."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bridge import agrees, randn, same, torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from taut.frontends.torch import UnsupportedOps, load_state
from taut.ir import LimitError, ModelError, StorageError, UnsupportedError

import taut

F, nn = torch.nn.functional, torch.nn
Dim = torch.export.Dim


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, f: Any) -> None:
        super().__init__()
        self.f = f

    def forward(self, x: Any) -> Any:
        return self.f(x)


# ---- names and sizes ---------------------------------------------------------------------------


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        self.scale = nn.Parameter(torch.full((4,), 2.0))
        self.register_buffer("shift", torch.arange(4.0), persistent=False)

    def forward(self, left: Any, *, right: Any) -> dict[str, Any]:
        y = self.inner(left) * self.scale + self.shift
        return {"sum": y + right, "same": right}


def test_names_are_those_of_the_module() -> None:
    module = Named()
    graph = taut.from_torch(module, (randn(2, 4),), {"right": randn(2, 4)},
                            dynamic_shapes={"left": {0: "rows"}, "right": {0: "rows"}})  # fmt: skip
    assert module.training  # as it was
    assert {k: str(t) for k, t in graph.signature.inputs.items()} == {
        "left": "f32[rows,4]", "right": "f32[rows,4]",
    }  # fmt: skip
    assert list(graph.signature.outputs) == ["sum", "same"]
    names = {n.name for n in graph.nodes()}
    assert names >= {"inner.0.weight", "inner.0.bias", "scale", "shift", "linear", "relu"}
    again = taut.to_torch(graph)
    assert {n for n, _ in again.named_parameters()} == {n for n, _ in module.named_parameters()}


def test_parameters_keep_names_that_nodes_would_take() -> None:
    class Taken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name in ("add", "const", "shape", "mul"):
                setattr(self, name, nn.Parameter(randn(3)))

        def forward(self, x: Any) -> Any:
            y = (x + 1) * 2
            return (y + self.add).view(x.shape[0], -1) * self.mul + self.const * self.shape

    graph = agrees(Taken(), [(randn(2, 3),)], {"x": {0: "n"}}, compiled=False)
    names = {n for n, _ in taut.to_torch(graph).named_parameters()}
    assert names == {"add", "const", "shape", "mul"}


def test_outputs_can_be_named() -> None:
    module = Function(lambda x: (x + 1, x * 2, x))
    graph = taut.from_torch(module, (randn(2),), output_names=["a", "b", "c"])
    assert list(graph.signature.outputs) == ["a", "b", "c"]
    assert list(taut.from_torch(module, (randn(2),)).signature.outputs) == ["add", "mul", "x"]


def test_an_output_may_stand_twice_and_be_missing_or_a_number() -> None:
    graph = taut.from_torch(Function(lambda x: (x, x, None, x.shape[0])), (randn(2, 3),),
                            dynamic_shapes=({0: "n"},))  # fmt: skip
    made = taut.reference(graph, np.ones((5, 3), np.float32))
    assert [v.shape for v in made.values()] == [(5, 3), (5, 3), ()]
    assert list(made.values())[2] == 5


def test_tied_weights_are_one_constant() -> None:
    import networks

    graph = taut.from_torch(networks.Causal(), (torch.zeros(2, 5, dtype=torch.long),))
    large = [n for n in graph.of(taut.ir.op_class("constant")) if n.type.shape == (50, 16)]
    assert len(large) == 1


@pytest.mark.parametrize("spec", [
    {"x": {0: "batch", 1: Dim("length", max=64)}}, ({0: "batch", 1: "length"},),
    {"x": ("batch", "length", None)}, {"x": {0: Dim("batch"), 1: "length"}},
])  # fmt: skip
def test_axes_are_named(spec: Any) -> None:
    graph = agrees(Function(lambda x: x.softmax(1)), [(randn(2, 5, 3),), (randn(4, 1, 3),)], spec,
                   compiled=False)  # fmt: skip
    assert graph.inputs[0].type.shape == ("batch", "length", 3)


def test_a_program_of_the_users_own() -> None:
    """Its sizes are as its exporter decided; names may be given to them."""
    x, n = randn(2, 3), Dim("n")
    program = torch.export.export(nn.Linear(3, 2), (x,), dynamic_shapes={"input": {0: n}})
    (plain,) = (i.type.shape for i in taut.from_torch(program).inputs)
    assert isinstance(plain[0], str) and plain[0] != "rows"
    graph = taut.from_torch(program, dynamic_shapes={"input": {0: "rows"}})
    assert graph.inputs[0].type.shape == ("rows", 3)
    want = {0: program.module()(x).detach().numpy()}
    for source in (program, program.run_decompositions()):
        same(want, taut.reference(taut.from_torch(source), x.numpy()), "program")


@settings(max_examples=25, deadline=None, database=None, derandomize=True,
          suppress_health_check=list(HealthCheck))  # fmt: skip
@given(st.data())
def test_drawn_convolutions_and_pools(data: st.DataObject) -> None:
    """Any kernel, stride, padding, dilation and group that fits."""
    whole = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    axes, groups = whole(1, 3), whole(1, 3)
    kernel, stride, dilation = whole(1, 3), whole(1, 3), whole(1, 2)
    pad = whole(0, kernel // 2)
    size = [whole(kernel * dilation, 7) for _ in range(axes)]
    conv = getattr(nn, f"Conv{axes}d")(2 * groups, groups * whole(1, 2), kernel, stride, pad,
                                       dilation, groups, bias=data.draw(st.booleans()))  # fmt: skip
    pool = getattr(nn, f"MaxPool{axes}d")(kernel, stride, pad, ceil_mode=data.draw(st.booleans()))
    mean = getattr(nn, f"AvgPool{axes}d")(kernel, stride, pad, ceil_mode=data.draw(st.booleans()),
                                          count_include_pad=data.draw(st.booleans()))  # fmt: skip
    small = getattr(nn, f"AdaptiveAvgPool{axes}d")(whole(1, 3))
    x = randn(whole(1, 2), 2 * groups, *size)
    for module in (conv, pool, mean, small):
        agrees(module, [(x,)], compiled=False)


@settings(max_examples=40, deadline=None, database=None, derandomize=True,
          suppress_health_check=list(HealthCheck))  # fmt: skip
@given(st.data())
def test_drawn_shapes(data: st.DataObject) -> None:
    """Broadcasting, reductions, views and cuts of tensors of any rank."""
    whole = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    shape = [whole(1, 4) for _ in range(whole(1, 4))]
    rank = len(shape)
    other = [1 if data.draw(st.booleans()) else n for n in shape][whole(0, rank - 1) :]
    axes = data.draw(st.lists(st.integers(0, rank - 1), unique=True, min_size=1))
    order = data.draw(st.permutations(range(rank)))
    first = whole(0, rank - 1)
    last, axis = whole(first, rank - 1), whole(-rank, rank - 1)
    start, stop, step = whole(-5, 5), whole(-5, 5), whole(1, 3)
    keep, wide = data.draw(st.booleans()), whole(1, 3)

    def f(x: Any) -> dict[str, Any]:
        cut = x.movedim(axis, 0)[start:stop:step]
        return {
            "sum": x + torch.ones(other), "less": x < torch.zeros(other),
            "mean": x.mean(axes, keepdim=keep), "amax": x.amax(axes, keepdim=keep),
            "permute": x.permute(order), "flatten": x.flatten(first, last),
            "back": x.flatten(first, last).view(shape), "cut": cut, "cat": torch.cat([x, x], axis),
            "unsqueeze": x.unsqueeze(axis), "expand": x.unsqueeze(0).expand(wide, *shape),
            "softmax": x.softmax(axis), "repeat": x.repeat(wide, *[1] * rank),
            "one": x.select(axis, 0),
        }  # fmt: skip

    agrees(Function(f), [(randn(*shape),)], compiled=False)


# ---- writes in place ---------------------------------------------------------------------------


class Shared(nn.Module):
    """A write into what only seems to be memory of its own."""

    def forward(self, x: Any) -> Any:
        y = x + 1
        turned = torch.einsum("ij->ji", y)
        turned.relu_()
        return y, turned * 1


class Writes(nn.Module):
    """In place where nobody else sees it, and where somebody does."""

    def forward(self, x: Any) -> Any:
        y = F.relu_(x + 1)
        z = y.view(-1)
        z.mul_(2)  # y sees this
        w = x.clone()
        w[:, 0] = 7
        w[1:, 1:-1] *= 3
        return y.add_(1), z, w


def test_writes_into_views_are_seen() -> None:
    for module in (Writes(), Shared()):
        agrees(module, [(randn(3, 4),)], compiled=False)


def test_harmless_writes_leave_the_ops_as_they_are() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(inplace=True), nn.Hardswish(inplace=True),
                            nn.AdaptiveAvgPool2d(1), nn.Dropout(0.5, inplace=True))  # fmt: skip
    graph = agrees(network, [(randn(1, 1, 3, 3),)], compiled=False)
    ops = [n.op.name for n in graph.nodes()]
    assert {"relu", "hard_swish", "global_average_pool", "dropout"} <= set(ops)


# ---- refusals ----------------------------------------------------------------------------------


def test_every_unsupported_node_is_listed_up_front() -> None:
    module = Function(lambda x: torch.special.i0(x) + torch.linalg.svdvals(x).sum() + x.i0())
    with pytest.raises(UnsupportedOps) as caught:
        taut.from_torch(module, (randn(3, 3),))
    assert len(caught.value.found) >= 3
    assert {"aten.special_i0.default", "aten.i0.default"} & {u.op for u in caught.value.found}
    assert "cannot be imported" in str(caught.value) and "docs/torch.md" in str(caught.value)


@pytest.mark.parametrize(("f", "reason"), [
    (lambda x: x[x > 0], "depends on data"),
    (lambda x: F.batch_norm(x, None, None, training=True), "own statistics|trace"),
    (lambda x: F.max_pool2d(x[None, None], 1, return_indices=True)[1], "result 1"),
    (lambda x: torch.linalg.vector_norm(x, 3), "order 3"),
    (lambda x: F.avg_pool2d(x[None, None], 2, divisor_override=3), "divisor_override"),
    (lambda x: x.to(torch.complex64).real, "not supported|complex"),
])  # fmt: skip
def test_what_is_not_supported_is_said(f: Any, reason: str) -> None:
    with pytest.raises((UnsupportedError, ModelError), match=reason):
        taut.from_torch(Function(f), (randn(3, 3),))


def test_a_program_that_changes_its_state_is_refused() -> None:
    program = torch.export.export(nn.BatchNorm1d(3).train(), (randn(4, 3),))
    with pytest.raises(UnsupportedError, match="evaluation mode"):
        taut.from_torch(program)


def test_what_cannot_be_traced_says_why() -> None:
    module = Function(lambda x: x if x.sum() > 0 else -x)
    with pytest.raises(ModelError, match="cannot trace Function"):
        taut.from_torch(module, (randn(3),))
    with pytest.raises(UnsupportedError, match="neither"):
        taut.from_torch("model.pt2")


# ---- files -------------------------------------------------------------------------------------


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_state_dicts_are_read(tmp_path: Path) -> None:
    state = {"a.weight": randn(2, 3), "n": torch.tensor(3), "h": randn(2).to(torch.bfloat16)}
    torch.save(state, tmp_path / "a.pt")
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "b.pth")
    save_file({"a.weight": state["a.weight"].numpy()}, tmp_path / "c.safetensors")
    for name in ("a.pt", "b.pth"):
        found = load_state(tmp_path / name)
        assert all(torch.equal(found[k], v) for k, v in state.items())
    assert torch.equal(load_state(tmp_path / "c.safetensors")["a.weight"], state["a.weight"])


def test_pickles_run_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    for i, made in enumerate(({"a": Bomb(mark)}, Bomb(mark))):
        torch.save(made, tmp_path / f"{i}.pt")
        with pytest.raises(ModelError, match="more than tensors"):
            load_state(tmp_path / f"{i}.pt")
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(ModelError):
        load_state(tmp_path / "raw.pth")
    assert not mark.exists()
    with pytest.raises(UnsupportedError, match="suffix"):
        load_state(tmp_path / "model.pkl")


@pytest.mark.parametrize("made", [b"", b"PK", b"\x80\x02}q\x00.", bytes(range(256))[:64]])
def test_damaged_files_of_weights(tmp_path: Path, made: bytes) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(made)
    try:
        assert load_state(path) == {}
    except ModelError as error:
        assert str(path) in str(error)
    with pytest.raises(StorageError):
        load_state(tmp_path / "none.pt")
    torch.save({"a": torch.zeros(1000)}, path)
    with pytest.raises(LimitError):
        load_state(path, limits=taut.Limits(model_bytes=100))
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(ModelError):
        load_state(path)


def test_exported_files_are_not_opened(tmp_path: Path) -> None:
    """Because `torch.export.load` unpickles: here a weight of the archive makes a folder."""
    path, mark = tmp_path / "model.pt2", tmp_path / "mark"
    torch.export.save(torch.export.export(nn.Linear(2, 2), (randn(1, 2),)), path)
    for name in (path, tmp_path / "model.pt"):
        with pytest.raises(UnsupportedError, match="run code") as caught:
            taut.load(name)
        assert "from_torch" in str(caught.value)
    harmful = tmp_path / "harmful.pt2"
    _poison(path, harmful, mark)
    with contextlib.suppress(Exception):  # a second weight makes the same folder
        torch.export.load(harmful)
    assert mark.exists(), "PyTorch no longer unpickles what it loads: docs/torch.md can say so"


def _poison(source: Path, target: Path, mark: Path) -> None:
    """The same archive with pickles of our own as weights."""
    bomb = _saved(Bomb(mark))
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            data = bomb if "weights/weight_" in name else old.read(name)
            if name.endswith("weights_config.json"):
                data = data.replace(b'"use_pickle": false', b'"use_pickle": true')
            new.writestr(name, data)


def _saved(thing: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(thing, stream)
    return stream.getvalue()
