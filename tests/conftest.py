"""Shared by all tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def private_cache(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Path]:
    """Compiled code goes to a cache of the test run's own (its workers share it), never to the
    user's."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "cache"
    folder.mkdir(mode=0o700, exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAUT_CACHE_DIR", str(folder))
        yield folder


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What tests want said at the end of a run: (`"said"`, line) among their properties."""
    for report in terminalreporter.getreports("passed"):
        for kind, line in report.user_properties:
            if kind == "said":
                terminalreporter.write_line(str(line))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write tests/golden anew")
    parser.addoption("--thorough", action="store_true", help="run what takes minutes too")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """`golden(name, text)`: the text equals tests/golden/name, or is written there if asked."""
    folder = Path(__file__).parent / "golden"

    def compare(name: str, text: str) -> None:
        path = folder / name
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        assert path.is_file(), f"{path} is missing: run pytest --update-golden and read it"
        assert text == path.read_text(), f"differs from {path}; if right, run --update-golden"

    return compare
