"""The table on a terminal: latencies and ratios, start-up and memory, and the verdicts."""

from __future__ import annotations

from typing import Any

import bars
from rich.console import Console
from rich.table import Table

COLOURS = {"aim": "green", "must": "cyan", "short": "red", "not available": "yellow"}
RUNNERS = ("taut-int8", "ort-int8", "ov-int8", "taut-f32", "ort-f32", "ov-f32")

Row = dict[str, Any]


def everything(console: Console, rows: list[Row], markdown: bool = False) -> None:
    """Print all tables, and how many bars were met; or the tables alone, to paste in a text."""
    timed = [row for row in rows if row.get("load") in (bars.IDLE, bars.BUSY)]
    starts = [row for row in rows if row.get("load") == "start"]
    medians = table_of(timed)
    tables = [_latency(case, timed, medians) for case in sorted({row[1:] for row in medians})]
    tables += [_starts(starts)] if starts else []
    if markdown:
        print("\n".join(map(_markdown, tables)), end="")
        return
    if not console.is_terminal:
        console.width = max(console.width, 140)
    for table in tables:
        console.print(table)
    verdicts = bars.judge(medians)
    verdicts += [
        bars.judge_share(_case(row), row["share"])
        for row in timed
        if row["runner"] == "taut-int8" and "share" in row
    ]
    if verdicts:
        console.print(_verdicts(verdicts))
        count = {g: sum(v.grade == g for v in verdicts) for g in COLOURS}
        console.print(", ".join(f"{g}: {n}" for g, n in count.items()))


def _markdown(table: Table) -> str:
    heads = [str(column.header) for column in table.columns]
    lines = zip(*(column.cells for column in table.columns))
    rows = [heads, ["---"] * len(heads), *lines]
    text = "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)
    return f"{table.title}\n\n{text}\n"


def table_of(rows: list[Row]) -> dict[bars.Row, dict[str, float]]:
    """Medians by row and runner."""
    made: dict[bars.Row, dict[str, float]] = {case: {} for case in _cases(rows)}
    for row in rows:
        if "median_ms" in row:
            made[_case(row)][row["runner"]] = row["median_ms"]
    return made


def _case(row: Row) -> bars.Row:
    return row["model"], row["batch"], row["threads"], row["load"]


def _cases(rows: list[Row]) -> list[bars.Row]:
    """In the order of the bars, the large products last."""
    place = {name: i for i, name in enumerate(bars.MODELS)}
    return sorted(dict.fromkeys(_case(row) for row in rows),
                  key=lambda case: place.get(case[0], len(place)))  # fmt: skip


def _latency(
    case: tuple[int, int, str], rows: list[Row], medians: dict[bars.Row, dict[str, float]]
) -> Table:
    batch, threads, load = case
    made = Table(title=f"median ms: batch {batch}, threads {threads}, {load}")
    made.add_column("model")
    for name in (*RUNNERS, "int8: ort / ov", "f32: ort / ov"):
        made.add_column(name, justify="right")
    for row in medians:
        if row[1:] != case:
            continue
        cells = medians[row]
        errors = {r["runner"] for r in rows if _case(r) == row and "error" in r}
        times = [_time(cells.get(name), name in errors) for name in RUNNERS]
        made.add_row(row[0], *times, _ratios(cells, "int8"), _ratios(cells, "f32"))
    return made


def _time(value: float | None, failed: bool) -> str:
    if value is None:
        return "failed" if failed else "-"
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


def _ratios(cells: dict[str, float], precision: str) -> str:
    ours = (f"taut-{precision}",)
    found = [bars.ratio(cells, ours, (f"{peer}-{precision}",)) for peer in ("ort", "ov")]
    return " / ".join("-" if v is None else f"{v:.2f}x" for v in found)


def _starts(rows: list[Row]) -> Table:
    made = Table(title="start-up (file to first answer, s) and memory gained (MB)")
    for name in ("model", "runner"):
        made.add_column(name)
    for name in ("cold", "warm", "loaded", "peak"):
        made.add_column(name, justify="right")
    for row in rows:
        if "error" in row:
            made.add_row(row["model"], row["runner"], row["error"])
            continue
        cold, warm = row["cold"], row["warm"]
        seconds = [f"{s['first_answer_s']:.2f}" for s in (cold, warm)]
        memory = [f"{warm[k] / 1e6:.1f}" for k in ("loaded_bytes", "peak_bytes")]
        made.add_row(row["model"], row["runner"], *seconds, *memory)
    return made


def _verdicts(verdicts: list[bars.Verdict]) -> Table:
    made = Table(title="bars (theirs / ours)")
    for name in ("model", "batch", "threads", "load", "what"):
        made.add_column(name)
    for name in ("ratio", "must", "verdict"):
        made.add_column(name, justify="right")
    for v in verdicts:
        value = "-" if v.ratio is None else f"{v.ratio:.2f}"
        grade = f"[{COLOURS[v.grade]}]{v.grade}"
        made.add_row(*map(str, v.row), v.what, value, f"{v.needed:.2f}", grade)
    return made
