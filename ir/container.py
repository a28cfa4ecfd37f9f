"""Graphs on disk: `model.taut` (a zip of the text and its tensors) and `model.ir` (text).

The zip holds `graph.ir`, `tensors.safetensors` and `metadata.json`; nothing in it is executable and
nothing is unpickled. A `.ir` file carries its large constants in a safetensors file beside it,
bound to it by a digest in its first line: `// tensors: 0123456789abcdef` stands for the file
`model.ir.0123456789abcdef.safetensors`.
"""

from __future__ import annotations

import io
import json
import os
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save as save_tensors

from .conditions import stored
from .errors import LimitError, ModelError, StorageError, TautError
from .files import companion, companion_path, digest_of, read_bounded, write_atomic
from .graph import Graph
from .packing import narrow, pack, unpack
from .parser import parse
from .printer import constants, print_graph
from .types import DEFAULT_LIMITS, DType, Limits, TensorType
from .verify import verify

FORMAT = 1
_TEXT, _TENSORS, _META = "graph.ir", "tensors.safetensors", "metadata.json"
_BESIDE = ".safetensors"
_TENSORS_LINE = re.compile(rb"// tensors: ([0-9a-f]{16})\r?\n")
_NAMES = {
    DType.f64: "F64", DType.f32: "F32", DType.f16: "F16", DType.bf16: "BF16",
    DType.f8e4m3fn: "F8_E4M3", DType.f8e5m2: "F8_E5M2",
    DType.i64: "I64", DType.i32: "I32", DType.i16: "I16", DType.i8: "I8",
    DType.u64: "U64", DType.u32: "U32", DType.u16: "U16", DType.u8: "U8", DType.bool: "BOOL",
}  # fmt: skip
_PACKED = re.compile(r"(\w+)\[((?:\d{1,19},?)*)\]")
_EPOCH = (1980, 1, 1, 0, 0, 0)  # equal graphs give equal files


def save_container(graph: Graph, path: str | os.PathLike[str]) -> None:
    """Write a `.taut` file, whole or not at all. Raises StorageError."""
    buffer = io.BytesIO()
    with writing_zip(buffer) as archive:
        meta = {"format": FORMAT, "metadata": graph.metadata}
        _add(archive, _META, json.dumps(meta, sort_keys=True).encode(), zipfile.ZIP_DEFLATED)
        text = print_graph(graph, resources="none").encode()
        _add(archive, _TEXT, text, zipfile.ZIP_DEFLATED)
        _add(archive, _TENSORS, pack_tensors(dict(constants(graph))), zipfile.ZIP_STORED)
    write_atomic(path, buffer.getvalue())


@contextmanager
def writing_zip(buffer: io.BytesIO) -> Iterator[zipfile.ZipFile]:
    """A new archive in memory. Where it is given up in the middle it is not closed, which would
    hide an interrupt behind an error of its own."""
    archive = zipfile.ZipFile(buffer, "w")
    try:
        yield archive
    except BaseException:
        archive.fp = None
        raise
    archive.close()


def load_container(path: str | os.PathLike[str], limits: Limits = DEFAULT_LIMITS) -> Graph:
    """Read and verify a `.taut` file. Raises ModelError, ParseError, VerifyError, LimitError."""
    data = read_bounded(path, limits.model_bytes)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            meta = json.loads(_member(archive, _META, 1 << 24))
            text = _member(archive, _TEXT, min(limits.model_bytes, 1 << 31)).decode()
            tensors = unpack_tensors(_member(archive, _TENSORS, limits.model_bytes))
        if not isinstance(meta, dict) or meta.get("format") != FORMAT:
            raise ModelError("is of a format this version cannot read", hint="update taut")
        graph = parse(text, tensors, limits=limits)
        given = meta.get("metadata")
        if isinstance(given, dict):
            graph.metadata = {str(k): str(v) for k, v in given.items()}
            for text in stored(graph.metadata):
                graph.require(text)
        verify(graph, limits)
    except TautError as error:
        raise error.with_context(file=path)
    except (zipfile.BadZipFile, zlib.error, ValueError, KeyError, NotImplementedError,
            RuntimeError, EOFError, RecursionError) as error:  # fmt: skip
        raise ModelError(f"is not a sound .taut file ({error})", file=path) from error
    return graph


def save_text(graph: Graph, path: str | os.PathLike[str]) -> None:
    """Write `model.ir`, and `model.ir.DIGEST.safetensors` beside it where constants are large:
    both or, whenever the save ends, what was there before. Raises StorageError."""
    large = dict(constants(graph))
    text = print_graph(graph, resources="none").encode()
    with companion(path, _BESIDE) as beside:
        if large:
            beside.file.write(pack_tensors(large))
            text = b"// tensors: %s\n" % beside.seal().encode() + text
        write_atomic(path, text)


def load_text(path: str | os.PathLike[str], limits: Limits = DEFAULT_LIMITS) -> Graph:
    """Read and verify IR text, with the safetensors file that belongs to it if there is one.

    Raises ModelError, ParseError, VerifyError, LimitError, StorageError.
    """
    data, tensors = _read_pair(path, limits)
    try:
        graph = parse(data.decode(), tensors, limits=limits)
        verify(graph, limits)
    except UnicodeDecodeError as error:
        raise ModelError("is not UTF-8 text", file=path) from error
    except TautError as error:
        raise error.with_context(file=path)
    return graph


def _read_pair(
    path: str | os.PathLike[str], limits: Limits
) -> tuple[bytes, Mapping[str, np.ndarray[Any, Any]]]:
    """The text and the tensors that it names. A save may replace both in between: then again."""
    data = read_bounded(path, limits.model_bytes)
    while True:
        found = _TENSORS_LINE.match(data)
        if not found:
            return data, _read_unbound(path, limits)
        digest = found[1].decode()
        beside = companion_path(path, digest, _BESIDE)
        held = b"" if beside.is_symlink() else _read_if_there(beside, limits)
        if held:
            break
        before, data = data, read_bounded(path, limits.model_bytes)
        if before == data:
            raise ModelError(f"its constants are not there: {beside.name!a} belongs beside it",
                             file=path, hint="move both files together, or save again")  # fmt: skip
    if digest_of(held) != digest:
        raise ModelError("does not hold what was saved", file=beside, hint="save the graph again")
    return data, _unpack(held, beside)


def _read_if_there(path: Path, limits: Limits) -> bytes:
    try:
        return read_bounded(path, limits.model_bytes)
    except StorageError:
        return b""


def _read_unbound(
    path: str | os.PathLike[str], limits: Limits
) -> Mapping[str, np.ndarray[Any, Any]]:
    """The tensors of a text that names none: `model.ir.safetensors`, written by hand, if any."""
    beside = Path(f"{os.fspath(path)}{_BESIDE}")
    if beside.is_file() and not beside.is_symlink():
        return _unpack(read_bounded(beside, limits.model_bytes), beside)
    return {}


def _unpack(data: bytes, path: Path) -> Mapping[str, np.ndarray[Any, Any]]:
    try:
        return unpack_tensors(data)
    except TautError as error:
        raise error.with_context(file=path)


def pack_tensors(tensors: Mapping[str, np.ndarray[Any, Any]]) -> bytes:
    """Safetensors bytes. A key starts with the element type. Elements of 4 and 2 bits are packed
    into bytes, with the whole type in the key; other types that safetensors has not had from early
    on travel as bytes of the same shape.
    """
    stored = dict(_stored(k, v) for k, v in tensors.items())
    # NumPy makes scalars vectors here: they get their shape back.
    return save_tensors({k: np.ascontiguousarray(v).reshape(v.shape) for k, v in stored.items()})


def unpack_tensors(data: bytes) -> dict[str, np.ndarray[Any, Any]]:
    """The inverse of `pack_tensors`. Raises ModelError."""
    try:
        out = {}
        for key, entry in deserialize(data):
            kind, _, name = key.partition(":")
            out[name] = _loaded(kind, entry)
            out[name].flags.writeable = False
        return out
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"the tensors cannot be read ({error})") from error


def _stored(name: str, array: np.ndarray[Any, Any]) -> tuple[str, np.ndarray[Any, Any]]:
    dtype = DType.of(array)
    if dtype.bits < 8:
        return f"{TensorType.of(array)}:{name}", np.frombuffer(pack(array), np.uint8)
    return f"{dtype.value}:{name}", array if dtype in _NAMES else array.view(np.uint8)


def _loaded(kind: str, entry: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    packed = _PACKED.fullmatch(kind)
    if packed:
        shape = tuple(int(d) for d in packed[2].split(",") if d)
        return unpack(bytes(entry["data"]), TensorType(DType(packed[1]), shape))
    dtype = DType(kind)
    native = entry["dtype"] == _NAMES.get(dtype)
    if not native and entry["dtype"] != "U8":
        raise ValueError(f"{kind} is stored as {entry['dtype']}")
    array = np.frombuffer(entry["data"], dtype.numpy if native else np.uint8)
    array = array.reshape(entry["shape"])
    if dtype.bits < 8:
        return narrow(array, dtype)  # a byte each: an older file
    return array if native else array.view(dtype.numpy)


def _add(archive: zipfile.ZipFile, name: str, data: bytes, how: int) -> None:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.compress_type = how
    info.external_attr = 0o644 << 16
    archive.writestr(info, data)


def _member(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    """One member, its true length held to what the directory says and to the limit."""
    info = archive.getinfo(name)
    if info.file_size > limit:
        raise LimitError(f"{name} takes {info.file_size} bytes, over the limit of {limit}")
    with archive.open(info) as file:
        data = file.read(info.file_size + 1)
    if len(data) != info.file_size:
        raise ModelError(f"{name} is not as long as the archive says")
    return data
