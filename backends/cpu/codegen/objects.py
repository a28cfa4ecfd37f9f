"""Which symbols does an object file leave to others? (ELF, Mach-O and COFF, 64-bit little-endian.)

LLVM's run-time linker ends the process when a symbol is missing, so we look before it does.
Formats: the ELF-64 specification; Apple's `mach-o/loader.h` and `nlist.h`; Microsoft's PE/COFF.
"""

from __future__ import annotations

import struct


def undefined(code: bytes) -> frozenset[str]:
    """Names that `code` refers to and does not define. ValueError for anything malformed."""
    try:
        if code[:4] == b"\x7fELF":
            return _elf(code)
        if code[:4] == b"\xcf\xfa\xed\xfe":
            return _macho(code)
        return _coff(code)
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"malformed object code: {error}") from error


def _text(table: bytes, at: int) -> str:
    return table[at : table.index(b"\0", at)].decode("ascii")


def _elf(code: bytes) -> frozenset[str]:
    (offset,) = struct.unpack_from("<Q", code, 40)
    size, count = struct.unpack_from("<HH", code, 58)
    sections = [struct.unpack_from("<IIQQQQII", code, offset + i * size) for i in range(count)]
    names = set()
    for _, kind, _, _, start, length, link, _ in sections:
        if kind != 2:  # SHT_SYMTAB
            continue
        table = code[sections[link][4] : sections[link][4] + sections[link][5]]
        for at in range(start, start + length, 24):
            name, _, _, section = struct.unpack_from("<IBBH", code, at)
            if section == 0 and name:
                names.add(_text(table, name))
    return frozenset(names)


def _macho(code: bytes) -> frozenset[str]:
    (commands,) = struct.unpack_from("<I", code, 16)
    at, names = 32, set()
    for _ in range(commands):
        command, size = struct.unpack_from("<II", code, at)
        if command == 2:  # LC_SYMTAB
            symbols, count, strings, length = struct.unpack_from("<IIII", code, at + 8)
            table = code[strings : strings + length]
            for i in range(count):
                name, kind = struct.unpack_from("<IB", code, symbols + 16 * i)
                if kind & 0x0E == 0 and kind & 1:  # N_UNDF, external
                    names.add(_text(table, name).removeprefix("_"))
        at += size
    return frozenset(names)


def _coff(code: bytes) -> frozenset[str]:
    start, count = struct.unpack_from("<II", code, 8)
    table = code[start + 18 * count :]
    names, i = set(), 0
    while i < count:
        raw, _, section, _, kind, extra = struct.unpack_from("<8sIhHBB", code, start + 18 * i)
        if section == 0 and kind == 2:  # undefined, external
            zero, offset = struct.unpack("<II", raw)
            names.add(raw.rstrip(b"\0").decode("ascii") if zero else _text(table, offset))
        i += 1 + extra
    return frozenset(names)
