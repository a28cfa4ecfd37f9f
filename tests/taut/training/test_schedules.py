"""Learning rates at each step, and the history that tells them."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from taut.ir import FeedError, ParseError, StorageError, UnsupportedError

from taut.training import History, schedule


def values(text: str, steps: list[int], total: int = 100, epoch: int = 10) -> list[float]:
    made = schedule(text)
    return [made(s, total, epoch) for s in steps]


@pytest.mark.parametrize(
    ("text", "steps", "want"),
    [
        ("constant", [0, 99], [1, 1]),
        ("constant{warmup=4}", [0, 1, 3, 4], [0.25, 0.5, 1, 1]),
        ("step{every=2 by=0.5}", [0, 19, 20, 39, 40], [1, 1, 0.5, 0.5, 0.25]),
        ("cosine", [0, 25, 50, 100], [1, (1 + 2**-0.5) / 2, 0.5, 0]),
        ("cosine{floor=0.2}", [0, 50, 100], [1, 0.6, 0.2]),
        ("cosine{warmup=20}", [19, 20, 60, 100], [1, 1, 0.5, 0]),
        ("linear{floor=0.5}", [0, 50, 100], [1, 0.75, 0.5]),
        ("one-cycle{rise=0.5}", [0, 25, 50, 75, 100], [0.04, 0.52, 1, 0.50005, 1e-4]),
    ],
)
def test_factors(text: str, steps: list[int], want: list[float]) -> None:
    assert values(text, steps) == pytest.approx(want, abs=1e-9)


def test_one_cycle_is_that_of_torch() -> None:
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    peer = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 1.0, total_steps=5000, final_div_factor=400
    )
    ours, theirs = values("one-cycle", list(range(4999)), 5000), []
    for _ in range(4999):
        theirs.append(peer.get_last_lr()[0])
        optimizer.step()
        peer.step()
    assert ours == pytest.approx(theirs, abs=2e-3)  # theirs counts a step less on each way


@pytest.mark.parametrize("text", ["constant", "cosine{warmup=20}", "step{every=2 by=0.5}"])
def test_text_reads_back(text: str) -> None:
    assert str(schedule(text)) == text and schedule(str(schedule(text))) == schedule(text)


@pytest.mark.parametrize(
    ("text", "kind"),
    [("sine", ParseError), ("cosine{", ParseError), ("cosine{top=1}", ParseError),
     ("cosine{floor=x}", ParseError), ("cosine{floor=2}", FeedError),
     ("cosine{warmup=-1}", FeedError), ("cosine{floor=nan}", FeedError)],
)  # fmt: skip
def test_bad_schedules_are_refused(text: str, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        schedule(text)


ROWS = [
    {"epoch": 1, "loss": 2.0, "accuracy": 0.5, "learning rate": 0.1, "seconds": 1.0},
    {"epoch": 2, "loss": 1.0, "accuracy": 0.75, "my <metric>": 3.0, "learning rate": 0.1,
     "seconds": 1.0},
]  # fmt: skip


def test_history_as_files(tmp_path: Path) -> None:
    history = History([dict(r) for r in ROWS])
    for suffix in ("json", "csv", "svg"):
        history.save(tmp_path / f"h.{suffix}")
    assert json.loads((tmp_path / "h.json").read_text()) == ROWS
    lines = (tmp_path / "h.csv").read_text().splitlines()
    assert lines[0] == "epoch,loss,accuracy,learning rate,seconds,my <metric>"
    assert lines[1] == "1,2.0,0.5,0.1,1.0," and len(lines) == 3
    root = ElementTree.fromstring((tmp_path / "h.svg").read_text())
    texts = [t.text for t in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"loss", "accuracy", "my <metric>", "epoch"} <= set(texts)
    lines = root.findall(".//{http://www.w3.org/2000/svg}polyline")
    assert [len(p.get("points", "").split()) for p in lines] == [2, 2, 1]
    with pytest.raises(UnsupportedError, match=r"\.svg"):
        history.save(tmp_path / "h.txt")
    with pytest.raises(StorageError):
        history.save(tmp_path / "none" / "h.csv")


def test_a_flat_history_and_an_empty_one_have_pictures() -> None:
    for rows in ([], [{"epoch": 1.0, "loss": 1.0}], [{"epoch": 1.0, "accuracy": 0.5}] * 2):
        ElementTree.fromstring(History(rows).to_svg())
