"""What is written of a finding: the model, its inputs, and a page that says what is wrong."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from taut.ir.files import write_atomic

from .check import described
from .draw import Case, draw
from .search import Finding


def drawn(finding: Finding) -> Case:
    """The finding's model, drawn again."""
    r = finding.request
    return draw(r["op"], r["seed"], r.get("made"), r.get("chains", True), r.get("ones"),
                r.get("drop", ()))  # fmt: skip


def page(finding: Finding, case: Case) -> str:
    """Model, inputs and both results as text."""
    lines = [f"{'/'.join(finding.ops)}: wrong when {finding.stage}: {finding.reason}", "",
             case.text.rstrip(), "", "inputs"]  # fmt: skip
    lines += [f"  {described(k, v)}" for k, v in case.feeds.items()]
    if finding.results:
        lines += ["results", *(f"  {line}" for line in finding.results)]
    return "\n".join(lines) + "\n"


def write(finding: Finding, folder: str | Path, number: int, seed: int) -> list[Path]:
    """`failing-<seed>-<number>.onnx` (`.ir` for graphs that ONNX has no words for), `.npz`, `.txt`.

    Raises StorageError where they cannot be written.
    """
    case = drawn(finding)
    stem = Path(folder) / f"failing-{seed}-{number}"
    buffer = io.BytesIO()
    arrays: dict[str, Any] = dict(case.feeds)
    np.savez(buffer, **arrays)
    model = case.text.encode() if case.model is None else case.model.SerializeToString()
    made = []
    for suffix, content in (
        (".ir" if case.model is None else ".onnx", model), (".npz", buffer.getvalue()),
        (".txt", page(finding, case).encode()),
    ):  # fmt: skip
        path = stem.with_suffix(suffix)
        write_atomic(path, content)
        made.append(path)
    return made
