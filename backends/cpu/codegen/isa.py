"""Instruction tables: what the micro-kernel generator needs to know about a machine.

A table says how many 32-bit lanes a vector register has, how many input channels one
dot-product step consumes (`group`), which register tiles are worth generating, and which LLVM
target compiles it. `vector.Emit.dot` holds the instruction itself. All tables give the same bits.

Nothing here imports Numba.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache

import llvmlite.binding as llvm

from ....ir.machine import Machine

ENVIRONMENT = "TAUT_ISA"


@dataclass(frozen=True)
class Isa:
    """One instruction table.

    name      how it is asked for (`TAUT_ISA`, `find(name)`)
    lanes     int32 lanes of a vector register
    group     bytes of one input pixel that one dot step eats: the packed weights are
              `[panel][run][step][NV][lanes][group]` (float32: one float a step, 4 bytes)
    tiles     (pixels, vectors) of the int8 register tiles, best first for large layers
    float_tiles   the same for float32
    dot       which instruction: vpdpbusd (zmm or ymm), pmaddwd, usdot, sdot, plain
    cpu, features   LLVM target when the table is forced; "" means the host's own
    needs     host features (LLVM's names) without which the table cannot run
    """

    name: str
    lanes: int
    group: int
    tiles: tuple[tuple[int, int], ...]
    dot: str
    architecture: str = "x86_64"
    cpu: str = ""
    features: str = ""
    needs: tuple[str, ...] = ()
    float_tiles: tuple[tuple[int, int], ...] = ((6, 2), (6, 1), (1, 4))

    @property
    def vbmi(self) -> bool:
        """True when code for this table may use AVX-512's byte permutations."""
        return self.lanes == 16 and self == available()[0] and "avx512vbmi" in host_features()

    def machine(self, threads: int) -> Machine:
        """What schedules need to know of a processor with these instructions."""
        return Machine(f"cpu {self.name}", lanes=self.lanes, threads=threads)

    @property
    def signed(self) -> bool:
        """True when the dot product is s8 x s8: inputs are then offset by -128 on the fly."""
        return self.dot == "sdot"


TABLES = {
    t.name: t
    for t in (
        Isa("avx512vnni", 16, 4, ((14, 2), (10, 2), (8, 2), (5, 4), (4, 4), (14, 1), (1, 4)),
            "vpdpbusd512",
            cpu="cascadelake", needs=("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni"),
            float_tiles=((14, 2), (10, 2), (8, 2), (5, 4), (4, 4), (14, 1), (1, 4))),
        Isa("avxvnni", 8, 4, ((6, 2), (6, 1), (1, 4)), "vpdpbusd256",
            cpu="alderlake", needs=("avx2", "fma", "avxvnni")),
        Isa("avx2", 8, 4, ((6, 2), (6, 1), (1, 4)), "pmaddwd",
            cpu="haswell", needs=("avx2", "fma")),
        Isa("i8mm", 4, 4, ((6, 4), (8, 2), (8, 1), (1, 4)), "usdot",
            architecture="aarch64", cpu="generic", features="+neon,+dotprod,+i8mm",
            needs=("i8mm",),
            float_tiles=((6, 4), (8, 2), (8, 1), (1, 4))),
        Isa("dotprod", 4, 4, ((6, 4), (8, 2), (8, 1), (1, 4)), "sdot",
            architecture="aarch64", cpu="generic", features="+neon,+dotprod",
            needs=("dotprod",),
            float_tiles=((6, 4), (8, 2), (8, 1), (1, 4))),
        Isa("portable", 4, 1, ((4, 2), (4, 1), (1, 4)), "plain", architecture=""),
    )
}  # fmt: skip


@cache
def host_architecture() -> str:
    """LLVM's name of this process's architecture, `x86_64` or `aarch64` for instance."""
    name = llvm.get_process_triple().split("-")[0]
    return {"arm64": "aarch64", "amd64": "x86_64"}.get(name, name)


@cache
def host_features() -> frozenset[str]:
    """The host's features that LLVM reports as present."""
    return frozenset(name for name, on in llvm.get_host_cpu_features().items() if on)


def runnable(table: Isa) -> bool:
    """Can this machine run `table`?"""
    if table.architecture not in ("", host_architecture()):
        return False
    return all(need in host_features() for need in table.needs)


@cache
def available() -> tuple[Isa, ...]:
    """Every table that this machine can run, best first; `portable` is always among them."""
    return tuple(t for t in TABLES.values() if runnable(t))


def find(name: str | None = None) -> Isa:
    """The table called `name`, else the one in $TAUT_ISA, else the best this machine can run.

    Raises ValueError, with the runnable names, for a name that is unknown or cannot run here.
    """
    name = name or os.environ.get(ENVIRONMENT) or ""
    if not name:
        return available()[0]
    table = TABLES.get(name)
    if table is None or not runnable(table):
        known = ", ".join(t.name for t in available())
        raise ValueError(f"instruction table {name!r} cannot run here; runnable: {known}")
    return table


@dataclass(frozen=True)
class Target:
    """What LLVM compiles for. `native(table)` tunes for this very machine."""

    triple: str
    cpu: str
    features: str

    @staticmethod
    @cache
    def native(table: Isa) -> Target:
        """The host's CPU for its best table; a forced lesser table is compiled for its own CPU."""
        if table == available()[0]:
            return _host()
        return Target(llvm.get_process_triple(), table.cpu, table.features)

    def machine(self) -> llvm.TargetMachine:
        """A new LLVM target machine (O3, JIT relocation)."""
        return llvm.Target.from_triple(self.triple).create_target_machine(
            cpu=self.cpu, features=self.features, opt=3, jit=True
        )


@cache
def _host() -> Target:
    """This machine, which LLVM takes a millisecond to describe."""
    features = llvm.get_host_cpu_features().flatten()
    return Target(llvm.get_process_triple(), llvm.get_host_cpu_name(), features)


llvm.initialize_native_target()
llvm.initialize_native_asmprinter()
