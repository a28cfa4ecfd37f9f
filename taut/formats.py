"""Model files by their suffix: which reader and which writer takes them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taut.ir import Graph, Limits

SUFFIXES = (".onnx", ".taut", ".ir")
PICKLES = (".pt2", ".pt", ".pth", ".pkl")
"""Files of PyTorch that Taut does not open as models: docs/torch.md says why."""


def load(path: str | os.PathLike[str], *, limits: Limits | None = None) -> Graph:
    """Read a model: `.onnx`, `.taut` (container) or `.ir` (text), verified; or a BERT-like encoder
    by its `config.json` (or their folder) with `model.safetensors` beside it. A string
    `zoo:NAME{argument=value ...}` makes a network of `taut.frontends.zoo` instead.

    Raises one of the TautError family that names the file: StorageError (cannot be read),
    ModelError (damaged), UnsupportedError (every unsupported op by node name), VerifyError,
    ParseError, LimitError.
    """
    from taut.frontends import ZOO_PREFIX
    from taut.ir import DEFAULT_LIMITS, load_container, load_text, verify

    limits = DEFAULT_LIMITS if limits is None else limits
    if isinstance(path, str) and path.startswith(ZOO_PREFIX):
        from taut.frontends.zoo import load_zoo

        graph = load_zoo(path)
        verify(graph, limits)
        return graph
    if Path(path).suffix.lower() == ".json" or os.path.isdir(path):
        from taut.frontends.transformers import load_bert

        return load_bert(path, limits=limits)
    _refuse_pickles(path)
    match _suffix(path):
        case ".taut":
            return load_container(path, limits)
        case ".ir":
            return load_text(path, limits)
        case _:
            from taut.frontends.onnx import load_onnx

            return load_onnx(path, limits=limits)


def save(graph: Graph, path: str | os.PathLike[str]) -> None:
    """Write a graph, whole or not at all: `.onnx` exports, `.taut` and `.ir` keep everything.

    Raises StorageError where it cannot be written, UnsupportedError for ops without an ONNX form.
    """
    from taut.ir import save_container, save_text

    match _suffix(path):
        case ".taut":
            save_container(graph, path)
        case ".ir":
            save_text(graph, path)
        case _:
            from taut.frontends.onnx import export_onnx

            export_onnx(graph, path)


def _suffix(path: str | os.PathLike[str]) -> str:
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        from taut.ir import UnsupportedError

        raise UnsupportedError(
            f"files are told apart by their suffix and {suffix!a} is not one Taut knows",
            file=path, hint=f"use {', '.join(SUFFIXES)}",
        )  # fmt: skip
    return suffix


def _refuse_pickles(path: str | os.PathLike[str]) -> None:
    suffix = Path(path).suffix.lower()
    if suffix in PICKLES:
        from taut.ir import UnsupportedError

        raise UnsupportedError(
            f"files of suffix {suffix!a} are not read: PyTorch's pickles in them run code",
            file=path, hint="if you trust it, load it with torch and use taut.from_torch",
        )  # fmt: skip
