"""What pyproject.toml and the checkers' symlinks say agrees with the folders."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SETUP = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
FOLDERS: dict[str, str] = SETUP["package-dir"]


def packages() -> set[str]:
    """Every folder of the mapped ones that holds Python files, as an import name."""
    found = set()
    for name, folder in FOLDERS.items():
        for path in (ROOT / folder).rglob("*.py"):
            inner = path.parent.relative_to(ROOT / folder).parts
            if "__pycache__" not in inner:
                found.add(".".join([name, *inner]))
    return found


def test_every_package_is_listed():
    assert set(SETUP["packages"]) == packages()


def test_every_package_is_a_package():
    bare = [
        name for name in packages()
        for folder in [_folder(name)] if not (folder / "__init__.py").is_file()
    ]  # fmt: skip
    assert bare == []


def _folder(name: str) -> Path:
    base = max((n for n in FOLDERS if f"{name}.".startswith(f"{n}.")), key=len)
    return ROOT / FOLDERS[base] / Path(*name.removeprefix(base).strip(".").split("."))


def test_checkers_see_every_module():
    wanted = {Path(n.split(".")[1]): ROOT / d for n, d in FOLDERS.items() if "." in n}
    taut = ROOT / "taut"
    wanted |= {
        p.relative_to(taut): p
        for p in taut.iterdir()
        if p.suffix == ".py" or (p / "__init__.py").is_file()
    }
    links = {p.relative_to(ROOT / ".pkg/taut"): p for p in (ROOT / ".pkg/taut").iterdir()
             if p.name != "__pycache__"}  # fmt: skip
    assert set(links) == set(wanted)
    for name, link in links.items():
        assert link.resolve() == wanted[name].resolve(), name
        assert not os.path.isabs(os.readlink(link))


@pytest.mark.parametrize("module", ["numba", "onnx", "rich", "networkx", "hypothesis"])
def test_import_is_light(module: str):
    code = f"import sys, taut; sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-P", "-c", code], check=False).returncode == 0


def test_importing_the_ir_leaves_backends_alone():
    code = "import sys, taut; taut.ir.Graph(); sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-P", "-c", code], check=False).returncode == 0


def test_checkers_are_told_that_there_are_types():
    assert (ROOT / "taut/py.typed").is_file()
    assert (
        "py.typed"
        in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"][
            "package-data"
        ]["taut"]
    )


def test_the_architecture_page_shows_the_folders():
    """Every package, and nothing else, in the picture of the tree."""
    text = (ROOT / "docs/architecture.md").read_text()
    picture = text.split("## The folders")[1].split("```")[1]
    shown, above = set(), []
    for line in picture.splitlines()[1:]:
        name = line.strip().split("/")[0]
        above = [*above[: (len(line) - len(line.lstrip())) // 2], name]
        shown.add("/".join(above))
    folders = {_folder(name).relative_to(ROOT).as_posix() for name in packages()}
    assert shown == folders
