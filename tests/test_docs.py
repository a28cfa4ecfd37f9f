"""Every example in README.md and docs/ runs.

Blocks marked `python` of one page run in order as one program, blocks marked `sh` as one shell
script, both in a folder of their own that holds `model.onnx` (a small classifier), `images.npy`
and `labelled.npz` (the same images with labels). `python torch` runs where PyTorch is. `python
notest` and `sh notest` are shown only.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import taut
from taut import samples

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_FENCE = re.compile(r"^```(.*)$")


def blocks(page: Path) -> Iterator[tuple[str, int, list[str]]]:
    """(language, number of the first line, lines) of each fenced block."""
    inside: list[str] | None = None
    language, start = "", 0
    for number, line in enumerate(page.read_text().splitlines(), 1):
        fence = _FENCE.match(line)
        if fence is None:
            if inside is not None:
                inside.append(line)
        elif inside is None:
            language, start, inside = fence[1].strip(), number + 1, []
        else:
            yield language, start, inside
            inside = None
    assert inside is None, f"{page.name}: a fence is never closed"


def program(page: Path, language: str) -> str:
    """All blocks of a language, on the lines that they have in the page."""
    lines: list[str] = []
    for found, start, block in blocks(page):
        if found == language:
            lines += [""] * (start - 1 - len(lines)) + block
    return "\n".join(lines) + "\n" if lines else ""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A scratch folder with a small classifier and images for it."""
    random = np.random.default_rng(0)

    def weight(*shape: int) -> np.ndarray:
        fan_in = int(np.prod(shape[1:]))
        return (random.standard_normal(shape) * np.sqrt(2 / fan_in)).astype(np.float32)

    b = taut.ir.Builder()
    x = b.input("image", "f32", ("batch", 3, 16, 16))
    for i, (c_in, c_out) in enumerate([(3, 8), (8, 16), (16, 16)]):
        conv = b.conv(x, weight(c_out, c_in, 3, 3), weight(c_out, 1)[:, 0], pads=(1, 1, 1, 1),
                      strides=(2, 2) if i else (1, 1), name=f"conv{i}")  # fmt: skip
        x = b.relu(conv, name=f"relu{i}")
    pooled = b.flatten(b.global_average_pool(x))
    y = b.gemm(pooled, weight(10, 16), np.zeros(10, np.float32), transB=True, name="classify")
    taut.save(b.outputs(scores=y), tmp_path / "model.onnx")
    images = random.standard_normal((64, 3, 16, 16)).astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    np.savez(tmp_path / "labelled.npz", images=images, labels=random.integers(0, 10, 64))
    return tmp_path


def run(command: list[str], folder: Path) -> None:
    # The examples run elsewhere: where this package was found must not depend on the folder.
    paths = [os.path.abspath(p) for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    env = os.environ | {"COLUMNS": "100", "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300,
                          check=False, env=env)  # fmt: skip
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


def pages_with(language: str) -> list[Path]:
    return [p for p in PAGES if program(p, language)]


@pytest.mark.parametrize("page", pages_with("python"), ids=lambda p: p.name)
def test_python_examples_run(page: Path, folder: Path):
    if "optdigits(" in program(page, "python"):
        try:
            samples.fetch("optdigits-train"), samples.fetch("optdigits-test")
        except samples.SampleError as error:
            pytest.skip(f"the sample cannot be had: {error}")
    script = folder / f"{page.stem}.py"
    script.write_text(program(page, "python"))
    run([sys.executable, "-P", str(script)], folder)


@pytest.mark.parametrize("page", pages_with("python torch"), ids=lambda p: p.name)
def test_examples_with_pytorch_run(page: Path, folder: Path):
    pytest.importorskip("torch", reason="PyTorch is not installed (the extra torch)")
    script = folder / f"{page.stem}.py"
    script.write_text(program(page, "python torch"))
    run([sys.executable, "-P", str(script)], folder)


@pytest.mark.parametrize("page", pages_with("sh"), ids=lambda p: p.name)
def test_shell_examples_run(page: Path, folder: Path):
    script = folder / f"{page.stem}.sh"
    head = f'set -euo pipefail; taut() {{ "{sys.executable}" -P -m taut "$@"; }};'
    script.write_text(f"{head} {program(page, 'sh')}")
    run(["bash", str(script)], folder)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_only_known_languages(page: Path):
    """A block with a misspelt language would never run."""
    for language, start, _ in blocks(page):
        known = {"", "python", "sh", "python torch", "python notest", "sh notest", "text"}
        assert language in known, f"{page.name}:{start}: {language}"


def test_readme_says_what_it_must():
    text = (ROOT / "README.md").read_text()
    assert "make demo" in text and "make test" in text
    assert len(text.splitlines()) <= 90  # one page
    for page in PAGES[1:]:
        assert f"docs/{page.name}" in text or page.name == "index.md"  # which is the site's README


def test_every_page_is_on_the_site():
    site = (ROOT / "mkdocs.yml").read_text()
    assert {p.name for p in PAGES[1:]} == set(re.findall(r": ([a-z-]+\.md)$", site, re.MULTILINE))
