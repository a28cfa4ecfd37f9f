"""What kernels may read and write is proven of a plan before it runs: every kernel says so, plans
that are wrong on purpose are refused, and drawn geometries run between guard pages."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from taut.backends.cpu import compile as compiled
from taut.backends.cpu.codegen import isa
from taut.backends.cpu.runtime import plan
from taut.backends.schedule import bounds, reach
from taut.backends.schedule.layout import Buffer, Ref
from taut.backends.schedule.steps import Step
from taut.ir import Builder, CompileError, FeedError, Graph, interpret

ROOT = Path(__file__).parents[3]
CPU = ROOT / "backends" / "cpu"
NATIVE = isa.find(None)

sys.path.insert(0, str(ROOT / "benchmarks"))
geometries: Any = importlib.import_module("geometries")
memory: Any = importlib.import_module("reliability_memory")


# ---- every kernel says what it reaches ---------------------------------------------------------


def builders() -> Iterator[tuple[str, str]]:
    """(module, function) of all that make the code of a chunk."""
    for path in sorted([*CPU.glob("kernels/*.py"), *CPU.glob("nests/*.py")]):
        module = "taut.backends.cpu." + ".".join(path.relative_to(CPU).with_suffix("").parts)
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.args.args[:1] and \
                    node.args.args[0].arg == "isa" and _makes_code(node):  # fmt: skip
                yield module, node.name


def _makes_code(function: ast.FunctionDef) -> bool:
    returns = (n.value for n in ast.walk(function) if isinstance(n, ast.Return))
    calls = (ast.unparse(v.func) for v in returns if isinstance(v, ast.Call))
    return any(c in ("Chunked", "grid", "numeric.chunked") for c in calls) \
        and function.name != "grid"  # fmt: skip


def test_every_kernel_says_what_it_reaches() -> None:
    found = list(builders())
    assert len(found) > 25
    for module, name in found:
        build = getattr(importlib.import_module(module), name)
        assert reach.declared(build), f"{module}.{name}"


def _silent(isa: Any) -> Any:
    return isa


def test_a_kernel_that_does_not_say_is_refused() -> None:
    step = steps_of(_graph(lambda b, x: b.relu(x), (3, 4)))[0]
    step.kernel = type(step.kernel)("other", _silent, step.kernel.parameters)
    with pytest.raises(CompileError, match="does not say"):
        bounds.check([step], NATIVE)


# ---- plans that are wrong on purpose -----------------------------------------------------------


def _graph(build: Callable[..., Any], *shapes: tuple[int, ...]) -> Graph:
    b = Builder()
    return b.outputs(y=build(b, *(b.input(f"x{i}", "f32", s) for i, s in enumerate(shapes))))


def steps_of(graph: Graph) -> list[Step]:
    """The steps of a graph, without any machine code made."""
    kept: list[Any] = []

    class Found(Exception):
        pass

    def keep(steps: Any, table: Any) -> None:
        kept.append(steps)
        raise Found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan.bounds, "check", keep)
        with pytest.raises(Found):
            compiled(graph, threads=1)
    return [s for s in kept[0] if isinstance(s, Step)]


def sound(steps: list[Step]) -> bool:
    try:
        bounds.check(steps, NATIVE)
    except CompileError as error:
        assert "would leave its buffers" in str(error)
        return False
    return True


MAY_LACK = {"recurrent"}  # kernels that ask whether some of their addresses are there


def _set(buffer: Buffer, name: str, value: object) -> None:
    """Change what nobody may change."""
    object.__setattr__(buffer, name, value)


def harmed(step: Step) -> Iterator[str]:
    """Ways in which a step's record or buffers may be wrong; each is mended before the next."""
    spans = reach.spans_of(step, NATIVE)
    for span in spans:
        ref = step.words[span.word]
        assert isinstance(ref, Ref)
        least = min(s.low for s in spans if s.word == span.word)
        step.words[span.word] = Ref(ref.buffer, -least - 1)
        yield f"word {span.word} begins before its buffer"
        granted = 0 if span.writes or ref.buffer.space == "input" else 256
        step.words[span.word] = Ref(ref.buffer, ref.buffer.size + granted - span.high + 1)
        yield f"word {span.word} ends behind its buffer"
        if step.kernel.build.__name__ not in MAY_LACK:
            step.words[span.word] = 0
            yield f"word {span.word} is no address"
        step.words[span.word] = ref
        size = ref.buffer.size
        _set(ref.buffer, "size", ref.offset + span.high - granted - 1)
        yield f"the buffer of word {span.word} is too small"
        _set(ref.buffer, "size", size)
        if span.writes and ref.buffer.space != "fault":
            space = ref.buffer.space
            _set(ref.buffer, "space", "constant")
            yield f"word {span.word} leads to a constant"
            _set(ref.buffer, "space", space)


def kernels_drawn(count: int) -> dict[str, Step]:
    """A step of each kernel that drawn geometries come to (by the function that makes it)."""
    found: dict[str, Step] = {}
    for number in range(count):
        for step in steps_of(geometries.drawn(4, number)[1]):
            found.setdefault(step.kernel.build.__name__, step)
    return found


@pytest.fixture(scope="module")
def drawn_kernels() -> dict[str, Step]:
    return kernels_drawn(14 * len(geometries.FAMILIES))


def test_drawn_geometries_come_to_every_kernel(drawn_kernels) -> None:
    spare = {"quantize"}  # which nothing emits
    names = {name for _, name in builders()}
    assert names - spare - set(drawn_kernels) == set()


def test_a_wrong_record_is_refused(drawn_kernels) -> None:
    for name, step in drawn_kernels.items():
        assert sound([step]), name
        tried = 0
        for what in harmed(step):
            tried += 1
            assert not sound([step]), f"{name}: {what}"
        assert tried, name
        assert sound([step]), name


def test_what_the_schedule_does_not_know_of_is_refused(drawn_kernels) -> None:
    for name, step in drawn_kernels.items():
        for names in ("reads", "writes"):
            kept = list(getattr(step, names))
            other = step.writes if names == "reads" else step.reads
            if not kept or any(b in other or b.space == "constant" for b in kept):
                continue
            setattr(step, names, [])
            assert not sound([step]), f"{name}: {names}"
            setattr(step, names, kept)


@pytest.mark.parametrize("field,more", [("rows", 1), ("width", 1), ("channels", 16),
                                        ("source_row", 64), ("target_pixel", 64)])  # fmt: skip
def test_a_record_that_goes_too_far_is_refused(field: str, more: int) -> None:
    """A depthwise convolution with a border: one row, pixel, vector or stride too many."""
    weight = np.ones((16, 1, 3, 3), np.float32)
    graph = _graph(lambda b, x: b.conv(x, weight, pads=(1, 1, 1, 1), group=16), (1, 16, 6, 7))
    steps = steps_of(graph)
    (step,) = (s for s in steps if s.kernel.build.__name__ == "depthwise")
    at = list(importlib.import_module("taut.backends.cpu.kernels.depthwise")
              .DepthwiseRecord.__dataclass_fields__).index(field)  # fmt: skip
    step.words[at] += more  # type: ignore[operator]
    assert not sound(steps)


def test_a_border_that_is_missing_is_refused() -> None:
    """A convolution that pads more than its source has a border."""
    steps = steps_of(_graph(
        lambda b, x: b.conv(x, np.ones((4, 3, 3, 3), np.float32), pads=(1, 1, 1, 1)), (1, 3, 5, 5)
    ))  # fmt: skip
    (step,) = (s for s in steps if s.kernel.build.__name__ == "conv")
    source = step.words[3]
    assert isinstance(source, Ref)
    step.words[3] = Ref(source.buffer, source.offset - 64)
    with pytest.raises(CompileError) as caught:
        bounds.check(steps, NATIVE)
    assert caught.value.node == "conv" and "kernel conv_" in str(caught.value)


def test_pads_below_zero_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A transposed convolution whose windows begin before the result: it once wrote there."""
    from taut.ir.ops.convolution import ConvTranspose
    from taut.ir.ops.windows import Window

    weight = np.ones((2, 3, 3, 3), np.float32)
    graph = _graph(
        lambda b, x: b.conv_transpose(
            x, weight, strides=(1, 1), output_shape=(12, 12), auto_pad="SAME_LOWER"
        ),
        (1, 2, 3, 3),
    )
    assert compiled(graph, threads=1).fallbacks == []
    shifted = Window((3, 3), (1, 1), (1, 1), (-3, -3), (-4, -4))
    monkeypatch.setattr(ConvTranspose, "transposed_window", lambda *_: shifted)
    with pytest.raises(CompileError, match="would leave its buffers"):
        compiled(graph, threads=1)


def test_a_table_that_leads_outside_is_refused() -> None:
    """Offsets that are constants count: a convolution's taps, a gather's rows."""
    steps = steps_of(_graph(lambda b, x: b.pad(x, np.array([0, 2, 0, 2]), mode="edge"), (3, 4)))
    (step,) = (s for s in steps if s.kernel.build.__name__ == "take_kernel")
    table = step.words[9]
    assert isinstance(table, Ref) and table.buffer.data is not None
    entries = table.buffer.data[: table.buffer.size].view(np.int64)
    entries[-1] += 16 * 3
    assert not sound(steps)


def test_an_index_that_is_not_clamped_is_refused() -> None:
    b = Builder()
    x = b.input("x", "i8", (50,))
    steps = steps_of(b.outputs(y=b.lookup(x, np.arange(100, dtype=np.int8), low=-50)))
    (step,) = (s for s in steps if s.kernel.build.__name__ == "map_kernel")
    assert sound(steps)
    parameters = dict(step.kernel.parameters)
    text = str(parameters["text"])
    assert "clamp(" in text
    clamped = "clamp(i64(a0) - a2, i64(0), a3)"
    for other in (clamped.replace("a3", "a2"), "i64(a0) - a2", "clamp(i64(a0), a2, a3)"):
        other = text.replace(clamped, other)
        kernel = type(step.kernel)("other", step.kernel.build,
                                   tuple((parameters | {"text": other}).items()))  # fmt: skip
        kept, step.kernel = step.kernel, kernel
        assert not sound(steps), other
        step.kernel = kept


# ---- data that leads outside -------------------------------------------------------------------


@pytest.mark.parametrize("index", [-(2**63), -(2**40), -8, 7, 2**31, 2**63 - 1])
def test_indices_far_outside_are_refused_and_harm_nothing(index: int) -> None:
    r = np.random.default_rng(0)
    x = r.standard_normal((7, 5)).astype(np.float32)
    at = np.array([[1], [index]])
    updates = r.standard_normal((2, 5)).astype(np.float32)
    makers: dict[str, Callable[..., Any]] = {
        "gather": lambda b, x, at, u: b.gather(x, at),
        "scatter_nd": lambda b, x, at, u: b.scatter_nd(x, at, u),
        "scatter_elements": lambda b, x, at, u: b.scatter_elements(
            x, b.expand(at, np.array([2, 5])), u),
    }  # fmt: skip
    for name, make in makers.items():
        b = Builder()
        given = [b.input(n, k, v.shape) for n, k, v in
                 (("x", "f32", x), ("at", "i64", at), ("u", "f32", updates))]  # fmt: skip
        graph = b.outputs(y=make(b, *given))
        feeds = {"x": x, "at": at, "u": updates}
        with pytest.raises(FeedError):
            interpret(graph, feeds)
        assert memory.attempt(graph, feeds, modes=["end"]) == [], name


# ---- guard pages -------------------------------------------------------------------------------


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mprotect as Linux has it")
def test_drawn_geometries_stay_between_guard_pages() -> None:
    told: list[str] = []
    found = memory.guard_pages(6, seed=11, report=told.append)
    assert found["tried"] == 6
    assert found["wrong"] == found["signals"] == found["hangs"] == 0, told


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mprotect as Linux has it")
def test_guard_pages_find_a_fault(tmp_path: Path) -> None:
    """A kernel that is told of a row too many, with the proof turned off, dies or is wrong."""
    script = tmp_path / "child.py"
    script.write_text(f"""
import sys
sys.path[:0] = [{str(ROOT / "benchmarks")!r}]
import numpy as np, reliability_memory as memory
from taut.backends.cpu.runtime import plan
from taut.backends.schedule import bounds
from taut.backends.cpu.kernels.depthwise import DepthwiseRecord
from taut.ir import Builder

def harm(steps, isa):
    for step in steps:
        if step.kernel.build.__name__ == "depthwise":
            for name in ("rows", "chunk_rows"):
                step.words[DepthwiseRecord.at(name)] += 1

plan.bounds.check = harm
b = Builder()
x = b.input("x", "f32", (1, 16, 6, 7))
y = b.conv(x, np.ones((16, 1, 1, 1), np.float32), group=16)
feeds = {{"x": np.ones((1, 16, 6, 7), np.float32)}}
print(memory.attempt(b.outputs(y=y), feeds, modes=["end"]))
""")
    import subprocess

    made = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300)
    assert made.returncode < 0 or "writes behind" in made.stdout, made
