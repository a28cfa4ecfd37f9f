"""What the commands share: arguments, reading and writing graphs, data, tables and JSON."""

from __future__ import annotations

import json
import math
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from taut.data import FileFeeds, RandomFeeds
    from taut.ir import Graph
    from taut.ir.op import Array

Model = Annotated[
    str, typer.Argument(help="A .onnx, .taut or .ir file, or zoo:NAME; - is standard input.")
]
Output = Annotated[
    str, typer.Option("-o", "--output", help="Where to write, by suffix; - prints text IR.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Pipeline = Annotated[
    str, typer.Option("-p", "--pipeline", help="A preset (O1, O2, int8) or passes: fold,dce,...")
]
DataFile = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="Inputs: .npy, .npz or .safetensors (never pickles), or a data set: mnist:train, ...",
    ),
]
RandomCount = Annotated[
    int | None, typer.Option("--random", min=1, help="Use this many random inputs.")
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="For random inputs and passes.")]
Dims = Annotated[
    list[str] | None,
    typer.Option(
        "--dim",
        metavar="NAME=N",
        help="Size of an open dimension (* for all), or an input's shape: image=1x3x48x192.",
    ),
]
Batch = Annotated[
    int | None, typer.Option("--batch", min=1, help="Rows a call where the first axis is open.")
]
Target = Annotated[str, typer.Option("--target", help="cpu or reference.")]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, max=1024, help="Default: all cores.")
]


# ---- graphs ------------------------------------------------------------------------------------


def load(source: str) -> Graph:
    """A graph from a file or, for `-`, from standard input (text IR, container or ONNX bytes)."""
    import taut
    from taut.ir import DEFAULT_LIMITS, LimitError, ModelError, TautError

    if source != "-":
        return taut.load(source)
    data = sys.stdin.buffer.read(DEFAULT_LIMITS.model_bytes + 1)
    if len(data) > DEFAULT_LIMITS.model_bytes:
        raise LimitError(f"has over {DEFAULT_LIMITS.model_bytes} bytes", file="-")
    if not data.strip():
        raise ModelError("is empty", file="-", hint="pipe text IR in, e.g. from `taut dump`")
    is_text = data.lstrip().startswith((b"graph", b"//"))
    suffix = ".ir" if is_text else ".taut" if data[:2] == b"PK" else ".onnx"
    with tempfile.TemporaryDirectory(prefix="taut-") as folder:
        path = Path(folder) / f"stdin{suffix}"
        path.write_bytes(data)
        try:
            return taut.load(path)
        except TautError as error:
            error.file = "-"
            raise


def write(graph: Graph, output: str, *, weights: bool = True) -> None:
    """To a file by its suffix, or as text IR on standard output for `-`."""
    import taut
    from taut.ir import print_graph

    if output != "-":
        taut.save(graph, output)
        return
    sys.stdout.write(print_graph(graph, resources="inline" if weights else "none"))


# ---- data --------------------------------------------------------------------------------------


def feeds(
    graph: Graph, file: str | None, count: int | None, seed: int, dims: list[str] | None,
    batch: int | None, *, default: int | None = None,
) -> FileFeeds | RandomFeeds | None:  # fmt: skip
    """The data that the options ask for; without any, `default` random calls, or none."""
    from taut.data import FileFeeds, RandomFeeds
    from taut.data.feeds import check_dims

    if file is not None and count is not None:
        raise typer.BadParameter("--data and --random exclude each other")
    if file is not None and dims:
        raise typer.BadParameter("--dim is for --random: the data have sizes of their own")
    if file is not None:
        return FileFeeds(file, graph, batch)
    wanted = count or default
    sizes = parse_dims(dims)
    if batch is not None:
        sizes = {"*": batch, **sizes}
    check_dims(graph, sizes)
    return None if wanted is None else RandomFeeds(graph, wanted, seed, sizes)


def parse_dims(dims: list[str] | None) -> dict[str, int | tuple[int, ...]]:
    """`["batch=4", "image=1x3"]` -> {"batch": 4, "image": (1, 3)}"""
    found: dict[str, int | tuple[int, ...]] = {}
    for text in dims or []:
        name, _, size = text.rpartition("=")
        if not name or not re.fullmatch(r"[0-9]{1,12}(x[0-9]{1,12})*", size):
            raise typer.BadParameter(f"--dim wants NAME=N or INPUT=1x3x48x192, not {text!a}")
        sizes = tuple(int(s) for s in size.split("x"))
        found[name] = sizes if len(sizes) > 1 else int(size)
    return found


def need_data(found: Any) -> Any:
    """`found`, or a usage error where no data was given."""
    if found is None:
        raise typer.BadParameter("this needs inputs: --data FILE or --random N")
    return found


# ---- printing ----------------------------------------------------------------------------------


def console(*, error: bool = False) -> Console:
    """Colours only on a terminal; elsewhere wide enough that no table wraps."""
    from rich.console import Console

    stream = sys.stderr if error else sys.stdout
    return Console(stderr=error, width=None if stream.isatty() else 200, highlight=False)


def show(*parts: RenderableType, error: bool = False) -> None:
    to = console(error=error)
    for part in parts:
        to.print(part)


def show_json(value: Any) -> None:
    """One object on standard output; NaN and infinities, which JSON lacks, become strings."""
    indent = 2 if sys.stdout.isatty() else None
    print(json.dumps(_plain(value), indent=indent))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value if isinstance(value, str | int | bool | None) else str(value)


def safe(text: object, limit: int = 400) -> str:
    """Text from a model for the terminal: no control characters, no markup, not without end."""
    from rich.markup import escape

    plain = str(text)
    shown = plain if plain.isprintable() else ascii(plain)[1:-1]
    return escape(shown if len(shown) <= limit else shown[: limit - 3] + "...")


def table(title: str | None, *columns: str, rows: Iterable[Iterable[object]] = ()) -> Any:
    """A table under its title; a column whose heading ends in `>` is aligned to the right."""
    from rich import box
    from rich.console import Group
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for c in columns:
        made.add_column(c.rstrip(">"), justify="right" if c.endswith(">") else "left",
                        overflow="fold")  # fmt: skip
    for row in rows:
        made.add_row(*(safe(cell) for cell in row))
    return Group(f"[bold]{safe(title)}[/bold]", made) if title else made


def describe(arrays: Mapping[str, Array]) -> list[dict[str, Any]]:
    """Shape and a few numbers of each array, for people and for JSON."""
    import numpy as np

    rows = []
    for name, a in arrays.items():
        wide = a.astype(np.float64) if a.size else np.zeros(1)
        with np.errstate(all="ignore"):
            low, high, mean = float(wide.min()), float(wide.max()), float(wide.mean())
        rows.append({"name": name, "dtype": str(a.dtype), "shape": list(a.shape),
                     "min": low, "max": high, "mean": mean})  # fmt: skip
    return rows


def engineering(value: float, unit: str = "") -> str:
    """1234567 -> '1.23 M'"""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.4g} {unit}".rstrip()


@contextmanager
def progress(label: str, total: int | None = None) -> Iterator[Any]:
    """A bar on stderr while it is a terminal; yields `advance(done, total=None)`."""
    if not sys.stderr.isatty():
        yield lambda done, total=None: None
        return
    from rich.progress import Progress

    with Progress(console=console(error=True), transient=True) as bar:
        task = bar.add_task(label, total=total)
        yield lambda done, total=None: bar.update(task, completed=done, total=total)
