"""Shared by all tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def private_cache(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Path]:
    """Compiled code goes to a cache of the test run's own, never to the user's."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAUT_CACHE_DIR", str(folder))
        yield folder
