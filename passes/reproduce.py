"""A failing pass in one file: the graph before it, the rest of the pipeline, seed and inputs.

// taut reproducer 1
// pipeline: fuse-conv,dce
// place: 3                  the number of the first of these passes in the whole pipeline
// seed: 0
// error: ...
// samples: <base64 of safetensors>
graph @main(...) ...
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..ir import DEFAULT_LIMITS, Array, Graph, Limits, ParseError, TautError, parse, print_graph
from ..ir.container import pack_tensors, unpack_tensors
from ..ir.files import read_bounded, write_atomic
from .pipeline import Pipeline

SAMPLE_BYTES = 4 << 20


def write_reproducer(
    path: str | os.PathLike[str],
    graph: Graph,
    pipeline: Pipeline,
    *,
    place: int = 0,
    seed: int = 0,
    error: BaseException | None = None,
    samples: Sequence[dict[str, Array]] = (),
    check: bool = False,
) -> None:
    """Write the file whole or not at all. Samples over 4 MiB are left out. Raises StorageError."""
    head = ["taut reproducer 1", f"pipeline: {pipeline}", f"place: {place}", f"seed: {seed}"]
    head += [f"check: {'yes' if check else 'no'}"]
    if error is not None:
        head.append(f"error: {' '.join(str(error).split())}")
    tensors = {f"{i}/{k}": np.asarray(v) for i, s in enumerate(samples) for k, v in s.items()}
    if tensors and sum(t.nbytes for t in tensors.values()) <= SAMPLE_BYTES:
        head.append(f"samples: {base64.b64encode(pack_tensors(tensors)).decode()}")
    lines = "".join(f"// {line}\n" for line in head)
    write_atomic(path, (lines + print_graph(graph, resources="inline")).encode())


def read_reproducer(
    path: str | os.PathLike[str], limits: Limits = DEFAULT_LIMITS
) -> tuple[Graph, Pipeline, dict[str, Any]]:
    """Graph, pipeline and the rest of the head. Raises ParseError, ModelError, StorageError."""
    try:
        text = read_bounded(path, limits.model_bytes).decode()
        head = dict(re.findall(r"^// ([a-z]+): (.*)$", text.partition("\ngraph ")[0], re.M))
        if not text.startswith("// taut reproducer 1\n") or "pipeline" not in head:
            raise ParseError("is not a reproducer", hint="`taut opt` reads plain IR")
        graph = parse(text, limits=limits)
        rest: dict[str, Any] = {"error": head.get("error", ""), "check": head.get("check") == "yes"}
        try:
            rest["place"], rest["seed"] = int(head.get("place", 0)), int(head.get("seed", 0))
            packed = base64.b64decode(head.get("samples", ""), validate=True)
        except (ValueError, binascii.Error):
            raise ParseError("the head of the reproducer is damaged") from None
        rest["samples"] = _unpack(packed) if packed else []
        return graph, Pipeline.parse(head["pipeline"]), rest
    except UnicodeDecodeError as error:
        raise ParseError("is not UTF-8 text", file=path) from error
    except TautError as error:
        raise error.with_context(file=path)


def _unpack(packed: bytes) -> list[dict[str, Array]]:
    out: dict[str, dict[str, Array]] = {}
    for key, array in unpack_tensors(packed).items():
        batch, _, name = key.partition("/")
        out.setdefault(batch, {})[name] = array
    return [out[k] for k in sorted(out, key=lambda k: (len(k), k))]
