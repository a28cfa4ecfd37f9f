"""What a row of the table must reach, and whether it did.

A row is one model, batch, thread count and load ("idle", or "busy": another process keeps a core
busy). A cell is one runner's median in that row. Ratios are theirs / ours: above 1, Taut is faster.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

IDLE, BUSY = "idle", "busy"
INT8_PEERS, FLOAT_PEERS = ("ort-int8", "ov-int8"), ("ort-f32", "ov-f32")

Row = tuple[str, int, int, str]  # model, batch, threads, load
Cells = Mapping[str, float]  # runner -> median milliseconds


@dataclass(frozen=True)
class Bar:
    """The fastest of `ours` beside the fastest of `peers`: the ratio that it must have, and the one
    aimed at. `aim_against` narrows whom the aim is measured by (all of `peers` when empty).
    """

    ours: tuple[str, ...]
    peers: tuple[str, ...]
    must: float
    aim: float
    aim_against: tuple[str, ...] = ()


@dataclass(frozen=True)
class Group:
    """Models that share their bars; with `ahead_of`, also in geometric mean against that peer."""

    name: str
    models: tuple[str, ...]
    bars: tuple[Bar, ...]
    ahead_of: str | None = None


_FLOAT = Bar(("taut-f32",), FLOAT_PEERS, 0.8, 1.0)
_IMAGES = Bar(("taut-int8",), ("ort-int8",), 1.0, 1.2, ("ov-int8",))
GROUPS = (
    Group(
        "light models",
        ("resnet50", "squeezenet", "shufflenet", "densenet121"),
        (_IMAGES, _FLOAT),
        "ov-int8",
    ),
    Group(
        "trained images",
        ("efficientnet-lite0", "ocr-det", "ocr-rec"),
        (_IMAGES, _FLOAT),
        "ov-int8",
    ),
    Group(
        "MiniLM",
        ("minilm-16", "minilm-128", "minilm-512"),
        (Bar(("taut-int8",), INT8_PEERS, 1.0, 1.2, ("ov-int8",)), _FLOAT),
    ),
    Group(
        "small models",
        ("magika", "silero-vad", "orientation"),
        # Where overhead rules, everybody takes the precision that is fastest for him.
        (Bar(("taut-int8", "taut-f32"), INT8_PEERS + FLOAT_PEERS, 1.0, 2.0),),
    ),
)
MODELS = tuple(name for group in GROUPS for name in group.models)
ROOF_MUST, ROOF_AIM = 0.7, 0.85  # of the dot-product roof, for large int8 products
NEIGHBOUR_MUST, NEIGHBOUR_AIM = 3.0, 2.0  # how many times longer a call takes beside a busy one


@dataclass(frozen=True)
class Verdict:
    """`grade` is 'aim', 'must', 'short' or 'not available' (no peer, or not ours, to compare)."""

    row: Row
    what: str
    ratio: float | None
    needed: float
    grade: str


def judge(table: Mapping[Row, Cells]) -> list[Verdict]:
    """Every bar over every row that was measured."""
    made = []
    for group in GROUPS:
        rows = [row for row in table if row[0] in group.models]
        for row in rows:
            made += [_hold(row, bar, table[row]) for bar in group.bars]
        if group.ahead_of is not None:
            made += _means(group, rows, table)
    return made + _neighbours(table)


def judge_share(row: Row, share: float) -> Verdict:
    """A large int8 product's part of the machine's dot-product roof."""
    grade = _grade(share, share, ROOF_MUST, ROOF_AIM)
    return Verdict(row, "taut-int8, share of the roof", share, ROOF_MUST, grade)


def ratio(cells: Cells, ours: Iterable[str], peers: Iterable[str]) -> float | None:
    """The fastest peer's time over our fastest; None where one of the two was not measured."""
    own, theirs = ([cells[n] for n in names if n in cells] for names in (ours, peers))
    return min(theirs) / min(own) if theirs and own else None


def geometric_mean(values: Iterable[float]) -> float:
    logs = [math.log(v) for v in values]
    return math.exp(sum(logs) / len(logs))


def _grade(must: float | None, aim: float | None, bar_must: float, bar_aim: float) -> str:
    if must is None:
        return "not available"
    if must < bar_must:
        return "short"
    return "aim" if aim is not None and aim >= bar_aim else "must"


def _hold(row: Row, bar: Bar, cells: Cells) -> Verdict:
    must = ratio(cells, bar.ours, bar.peers)
    aim = ratio(cells, bar.ours, bar.aim_against or bar.peers)
    what = f"{' or '.join(bar.ours)} / best of {', '.join(bar.peers)}"
    return Verdict(row, what, must, bar.must, _grade(must, aim, bar.must, bar.aim))


def _means(group: Group, rows: Iterable[Row], table: Mapping[Row, Cells]) -> list[Verdict]:
    """One verdict for each batch, thread count and load: the mean over the group's models."""
    assert group.ahead_of is not None
    found: dict[tuple[int, int, str], list[float]] = {}
    for row in rows:
        value = ratio(table[row], ("taut-int8",), (group.ahead_of,))
        if value is not None:
            found.setdefault(row[1:], []).append(value)
    made = []
    for case, values in found.items():
        mean = geometric_mean(values)
        what = f"taut-int8 / {group.ahead_of}, geometric mean of {len(values)}"
        made.append(Verdict((group.name, *case), what, mean, 1.0, _grade(mean, mean, 1.0, 1.2)))
    return made


def _neighbours(table: Mapping[Row, Cells]) -> list[Verdict]:
    """Idle time over busy time, for Taut's runners: at least 1 / how much longer it may take."""
    made = []
    for row, cells in table.items():
        model, batch, threads, load = row
        quiet = table.get((model, batch, threads, IDLE))
        if load != BUSY or quiet is None:
            continue
        for ours in ("taut-int8", "taut-f32"):
            if ours in cells and ours in quiet:
                value = quiet[ours] / cells[ours]
                grade = _grade(value, value, 1 / NEIGHBOUR_MUST, 1 / NEIGHBOUR_AIM)
                made.append(Verdict(row, f"{ours} idle / busy", value, 1 / NEIGHBOUR_MUST, grade))
    return made
