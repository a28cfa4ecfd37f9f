"""Where and with what a benchmark ran, and its JSON file."""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("numpy", "numba", "llvmlite", "onnx", "onnxruntime", "openvino", "nncf", "torch")

BEGUN = datetime.datetime.now(datetime.UTC).date()
"""A run that goes on past midnight belongs to the day on which it began."""


def machine() -> dict[str, Any]:
    """The processor, its vector instructions that matter here, and package versions."""
    info = {"processor": platform.processor() or platform.machine(), "flags": []}
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines: dict[str, str] = {}
        for line in cpuinfo.read_text().splitlines():
            key, _, value = line.partition(":")
            lines[key.strip()] = value.strip()
        flags = set(lines.get("flags", lines.get("Features", "")).split())
        wanted = {"avx2", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "asimddp", "i8mm"}
        family = f"family {lines.get('cpu family')} model {lines.get('model')}"
        info["processor"] = f"{lines.get('model name', info['processor'])} ({family})"
        info["flags"] = sorted(flags & wanted)
    info["cores"] = os.cpu_count()
    info["python"] = platform.python_version()
    info["packages"] = {name: _version(name) for name in PACKAGES}
    return info


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def write(kind: str, rows: list[dict[str, Any]], **settings: Any) -> Path:
    """`results/<kind>-<machine>-<date>.json`, beside this file; returns its path.

    Rows of an earlier run on the same day with the same settings stay, unless measured again.
    """
    here = machine()
    slug = re.sub(r"[^a-z0-9]+", "-", f"{here['processor']} {here['cores']}c".lower()).strip("-")
    date = BEGUN.isoformat()
    path = Path(__file__).parent / "results" / f"{kind}-{slug}-{date}.json"
    path.parent.mkdir(exist_ok=True)
    content = {"kind": kind, "date": date, "machine": here, "settings": settings}
    kept = {}
    if path.exists():
        old = json.loads(path.read_text())
        if old.get("settings") == settings:
            kept = {_identity(row): row for row in old["rows"]}
    content["rows"] = list((kept | {_identity(row): row for row in rows}).values())
    path.write_text(json.dumps(content, indent=1, default=float) + "\n")
    return path


def _identity(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(key) for key in ("model", "batch", "threads", "load", "runner"))
