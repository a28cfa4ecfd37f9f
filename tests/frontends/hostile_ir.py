"""Malformed IR text and `.taut` files, in the manner of `hostile`."""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from hostile import HUGE, Case, Write, damaged, sound, stored, weights
from taut.ir import Builder, save_container

TEXT = """graph @g(%x: f32[1,4]) -> (%y: f32[1,4]) {
  %k = constant [1.0, 2.0, 3.0, 4.0] : f32[4]
  %s = add(%x, %k) : f32[1,4]
  %y = relu(%s) : f32[1,4]
  return %y
}
"""


def text_files() -> Iterator[Case]:
    yield from damaged(TEXT.encode(), "model.ir", 20, 30)
    for name, old, new in (
        ("unknown op", "relu", "levitate"),
        ("op without a name", "relu(", "("),
        ("undefined operand", "%s)", "%nothing)"),
        ("operand after", "add(%x", "add(%y"),
        ("no such result", "relu(%s", "relu(%s#7"),
        ("huge result index", "%s)", "%s#" + "9" * 30),
        ("negative dim", "f32[1,4]", "f32[-1,4]"),
        ("huge dim", "f32[1,4]", f"f32[{1 << 70},4]"),
        ("terabytes", "f32[1,4]", f"f32[{HUGE},4]"),
        ("wrong type", ": f32[1,4]\n  ret", ": i8[]\n  ret"),
        ("unknown type", "f32", "f33"),
        ("bad number", "4.0]", "4.0.0]"),
        ("constant too long", "4.0]", "4.0, 5.0]"),
        ("constant of words", "4.0", "four"),
        ("twice", "%s = add", "%k = add"),
        ("no return", "return %y", ""),
        ("return too many", "return %y", "return %y, %y"),
        ("open string", "@g", '@"g'),
        ("bad escape", "@g", '@"\\q"'),
        ("control characters", "@g", '@"\x00\x1b"'),
        ("unknown attribute", "relu(%s)", "relu(%s) {a=1}"),
        ("resource", "[1.0, 2.0, 3.0, 4.0]", "@k"),
        ("braces", "relu(%s)", "relu(%s) " + "{" * 5000),
        ("nested lists", "[1.0", "[" * 100000 + "1.0"),
        ("long number", "4.0]", "9" * 100000 + "]"),
        ("too many operands", "relu(%s)", "relu(%s, %s)"),
        ("no operands", "relu(%s)", "relu()"),
        ("rest", "}\n", "} }\n"),
        ("null", "graph", "\0graph"),
    ):
        assert old in TEXT, old
        yield name, stored(TEXT.replace(old, new).encode(), "model.ir")
    yield "not UTF-8", stored(b"\xff\xfe" + TEXT.encode(), "model.ir")
    yield (
        "resource bad base64",
        stored(
            TEXT.replace("[1.0, 2.0, 3.0, 4.0]", "@k").encode() + b'resources {\n  @k = "AAA"\n}\n',
            "model.ir",
        ),
    )
    yield "megabytes of brackets", stored(b"(" * 3_000_000, "model.ir")
    yield "megabytes of spaces", stored(b" " * 20_000_000, "model.ir")
    yield "megabytes of quotes", stored(b'"' * 3_000_000, "model.ir")
    yield "megabytes of backslashes", stored(b'graph @"' + b"\\" * 3_000_000, "model.ir")
    yield "megabytes of words", stored(b"graph " * 1_000_000, "model.ir")
    yield "safetensors beside is noise", _beside(random.Random(3).randbytes(100))
    yield "safetensors beside lies", _beside(struct.pack("<Q", 1 << 62) + b"{}")


def _beside(data: bytes) -> Write:
    def write(folder: Path) -> Path:
        (folder / "model.ir.safetensors").write_bytes(data)
        return stored(TEXT.replace("[1.0, 2.0, 3.0, 4.0]", "@k").encode(), "model.ir")(folder)

    return write


def container_files(scratch: Path) -> Iterator[Case]:
    b = Builder()
    x = b.input("x", "f32", (1, 40))
    graph = b.outputs(y=b.relu(b.add(x, weights(40))))
    save_container(graph, scratch / "sound.taut")
    data = (scratch / "sound.taut").read_bytes()
    yield from damaged(data, "model.taut", 16, 30)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {n: archive.read(n) for n in archive.namelist()}

    def packed(how: int = zipfile.ZIP_DEFLATED, **changes: bytes | None) -> Write:
        names = {"ir": "graph.ir", "tensors": "tensors.safetensors", "meta": "metadata.json"}
        given = {**members, **{names[k]: v for k, v in changes.items()}}
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", how) as archive:
            for name, content in given.items():
                if content is not None:
                    archive.writestr(name, content)
        return stored(buffer.getvalue(), "model.taut")

    yield "no members", packed(ir=None, tensors=None, meta=None)
    yield "no text", packed(ir=None)
    yield "no tensors", packed(tensors=None)
    yield "no metadata", packed(meta=None)
    yield "bomb of metadata", packed(meta=bytes(64 << 20))
    yield "bomb of tensors", packed(tensors=bytes(64 << 20))
    yield "bomb of text", packed(ir=b" " * (32 << 20))
    yield "metadata is deep", packed(meta=b"[" * 1_000_000)
    yield "metadata is a list", packed(meta=b"[]")
    yield "metadata of the future", packed(meta=b'{"format": 99}')
    yield "metadata of odd things", packed(meta=b'{"format": 1, "metadata": {"a": [1, {}]}}')
    yield "metadata not JSON", packed(meta=b"{'format': 1}")
    yield "text not UTF-8", packed(ir=b"\xff" * 10)
    yield "lzma", packed(zipfile.ZIP_LZMA)
    yield "bzip2", packed(zipfile.ZIP_BZIP2)
    header = json.dumps({"f32:k": {"dtype": "F32", "shape": [HUGE], "data_offsets": [0, 4]}})
    for name, content in (
        ("empty", b""), ("short", b"1234"), ("header too long", struct.pack("<Q", 1 << 60)),
        ("header not JSON", struct.pack("<Q", 4) + b"abcd"),
        ("shape lies", struct.pack("<Q", len(header)) + header.encode() + bytes(4)),
    ):  # fmt: skip
        yield f"tensors {name}", packed(tensors=content)
    at = data.rfind(b"PK\x01\x02")
    lying = bytearray(data)
    lying[at + 24 : at + 28] = struct.pack("<I", 5)  # the directory's uncompressed size
    yield "size lies low", stored(bytes(lying), "model.taut")
    lying[at + 24 : at + 28] = struct.pack("<I", 0xFFFFFFF0)
    yield "size lies high", stored(bytes(lying), "model.taut")
    flagged = bytearray(data)
    flagged[at + 8] |= 1
    yield "encrypted", stored(bytes(flagged), "model.taut")
    yield "gzip", stored(zlib.compress(data), "model.taut")
    yield "two archives", stored(data + data, "model.taut")
    yield "is ONNX", stored(sound().SerializeToString(), "model.taut")
