"""From a path or bytes to a ModelProto whose outer layer is sound."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto, OperatorSetIdProto

from ...ir import Limits, ModelError, UnsupportedError
from ...ir.errors import show_name
from ...ir.files import read_bounded
from .tensors import text

OLDEST = 6
Source = str | os.PathLike[str] | bytes | ModelProto


def read_model(source: Source, limits: Limits) -> tuple[ModelProto, Path | None]:
    """The model and the folder that its external data may lie in.

    Raises ModelError for what is no ONNX file, StorageError, LimitError.
    """
    folder = None
    if isinstance(source, ModelProto):
        model = source
    else:
        data = source
        if not isinstance(data, bytes):
            folder = Path(data).parent
            data = read_bounded(data, limits.model_bytes)
        try:
            model = ModelProto.FromString(data)
        except (DecodeError, RecursionError, ValueError) as error:
            raise ModelError(
                "is damaged or no ONNX file: its protobuf cannot be read",
                hint="fetch it again",
            ) from error
    if not model.HasField("graph") or model.ir_version < 1:
        raise ModelError("holds no ONNX graph", hint="is it an ONNX file?")
    if model.ir_version > onnx.IR_VERSION:
        raise UnsupportedError(
            f"has IR version {model.ir_version}; the newest known is {onnx.IR_VERSION}",
            hint="update the onnx package",
        )
    return model, folder


def domain_name(domain: str | bytes) -> str:
    """A domain's one name: ONNX's own goes by two."""
    name = text(domain, "a domain")
    return "" if name == "ai.onnx" else name


def opsets(imports: Iterable[OperatorSetIdProto]) -> dict[str, int]:
    """Version by domain. Raises ModelError for a domain given twice, UnsupportedError for versions
    of ONNX's own operators before `OLDEST` or after the installed onnx package's.
    """
    found: dict[str, int] = {}
    for entry in imports:
        domain, version = domain_name(entry.domain), int(entry.version)
        if domain in found:
            raise ModelError(
                f"domain {show_name(domain)} has two opset versions, {found[domain]} and {version}"
            )
        if version < 1:
            raise ModelError(f"domain {show_name(domain)} has opset version {version}")
        newest = onnx.defs.onnx_opset_version()
        if domain == "" and not OLDEST <= version <= newest:
            raise UnsupportedError(
                f"opset {version} is not supported: {OLDEST} to {newest} are",
                hint="convert it with onnx.version_converter",
            )
        found[domain] = version
    return found


def properties(model: ModelProto) -> Mapping[str, str]:
    """The model's metadata. Raises ModelError for a key that is given twice."""
    made = {text(p.key, "a key"): text(p.value, "metadata") for p in model.metadata_props}
    if len(made) < len(model.metadata_props):
        raise ModelError("a metadata key is given twice")
    return made
