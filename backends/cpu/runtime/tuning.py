"""Tilings: how one layer is cut into register tiles and chunks, and records of the best ones.

A tiling changes the order of work and nothing else: every output is the same sum in the same
order, so any tiling gives the same bits. A *case* is all that the time of a layer depends on. A
record holds for one instruction table, thread count, processor and version of the kernels.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from ....ir import CompileError, StorageError
from ....ir.files import write_atomic
from ..codegen import cache as disk
from ..codegen import jit
from ..codegen.isa import Isa
from ..kernels.tiling import Case, Tiling

FORMAT = "taut-tuning-1"
_FILE_LIMIT = 16 << 20


def machine(isa: Isa, threads: int) -> dict[str, Any]:
    """What a record holds for."""
    return {"processor": _processor(), "isa": isa.name, "threads": threads,
            "kernels": jit.version(isa)}  # fmt: skip


@cache
def _processor() -> str:
    path = Path("/proc/cpuinfo")
    wanted = ("model name", "cpu family", "model", "stepping", "CPU part")
    found: dict[str, str] = {}
    if path.exists():
        for line in path.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() in wanted:
                found.setdefault(key.strip(), value.strip())
    text = " ".join(found[k] for k in wanted if k in found) or platform.processor()
    return f"{text}, {os.cpu_count()} cores"


# Records in the cache: one a case, authenticated there like object code.


def _key(case: str, isa: Isa, threads: int) -> str:
    text = repr((FORMAT, case, sorted(machine(isa, threads).items())))
    return hashlib.sha256(text.encode()).hexdigest()


def recall(case: Case, isa: Isa, threads: int, store: disk.Cache | None = None) -> Tiling | None:
    """What was found for this case on this machine by this version, if that can be trusted."""
    data = (store or disk.default()).get(_key(case.name, isa, threads))
    if data is None:
        return None
    try:
        return Tiling.read(json.loads(data))
    except ValueError:  # authentic, so ours, but of another format
        return None


def remember(
    chosen: Mapping[str, Tiling], isa: Isa, threads: int, store: disk.Cache | None = None
) -> None:
    """Keep tilings for the next program with such a layer."""
    store = store or disk.default()
    for case, tiling in chosen.items():
        store.put(_key(case, isa, threads), json.dumps(asdict(tiling)).encode())


# Records in files.


def write(
    chosen: Mapping[str, Tiling], isa: Isa, threads: int, path: str | os.PathLike[str]
) -> None:
    """Write a record as JSON. Raises StorageError."""
    content = {
        "format": FORMAT,
        "machine": machine(isa, threads),
        "layers": {case: asdict(tiling) for case, tiling in sorted(chosen.items())},
    }
    write_atomic(path, (json.dumps(content, indent=1) + "\n").encode())


def read(path: str | os.PathLike[str], isa: Isa, threads: int) -> dict[str, Tiling]:
    """A record from a file.

    Raises StorageError where the file cannot be read, CompileError where it is not a record, or is
    one of another machine, thread count or version.
    """
    try:
        with open(path, "rb") as stream:
            data = stream.read(_FILE_LIMIT + 1)
    except OSError as error:
        raise StorageError(f"cannot be read ({error.strerror})", file=path) from error
    try:
        if len(data) > _FILE_LIMIT:
            raise ValueError("it is too long")
        content = json.loads(data)
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ValueError(f"it does not say {FORMAT}")
        layers, theirs = content["layers"], content["machine"]
        if not isinstance(layers, dict) or not isinstance(theirs, dict):
            raise ValueError("its machine and layers are not there")
        made = {case: Tiling.read(value) for case, value in layers.items()}
    except (ValueError, KeyError, RecursionError) as error:
        raise CompileError(
            f"is not a tuning record ({error})", file=path, hint="write one with `--tune`"
        ) from error
    for name, here in machine(isa, threads).items():
        if theirs.get(name) != here:
            raise CompileError(
                f"this tuning record is for another machine or version: its {name} is "
                f"{str(theirs.get(name))[:80]!a}, here it is {here!a}",
                file=path, hint="tune again here",
            )  # fmt: skip
    return made
