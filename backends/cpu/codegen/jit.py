"""Python functions to native objects, and native objects into this process.

A *kernel* is a Python function `f(tid, nt, d)` of int64s that returns nothing. Numba lowers it to
LLVM IR; the rest is ours: a C wrapper with a stable symbol, LLVM's O3 for the table's target, and
object code. Objects hold no pickles and no Python: loading one needs llvmlite only. So a program
whose kernels come out of the disk cache starts without importing Numba, though it may be new.

`Kernel` names one variant of a kernel and knows how to build it; `load` gives its address, from
this process's memory, from the disk cache, or by compiling. `build_entry` does the same for
generated source that calls kernels (its language: `entry`).
"""

from __future__ import annotations

import ctypes
import hashlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import llvmlite
import llvmlite.binding as llvm

from ....ir import CompileError
from ... import shield
from ...schedule.kernel import Kernel, exact
from . import cache as disk
from . import objects
from .chunked import Chunked, Function
from .isa import Isa, Target

_ENTRY = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)
_loaded: dict[str, Loaded] = {}
_compiling = False  # by the thread that has the shield's turn

# What object code may call outside itself: C's library, all of it free of state that matters.
_LIBC = frozenset(
    f"{name}{single}"
    for single in ("", "f")
    for name in (
        "exp", "exp2", "log", "log2", "log10", "log1p", "expm1", "pow", "sin", "cos", "tan", "asin",
        "acos", "atan", "atan2", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "erf", "erfc",
        "fmod", "fma", "floor", "ceil", "trunc", "rint", "round", "nearbyint", "roundeven", "sqrt",
        "cbrt", "hypot", "ldexp", "fmin", "fmax", "exp10", "sincos",  # LLVM makes the last two
    )
) | {
    "memcpy", "memset", "memmove", "syscall", "sched_yield", "SwitchToThread",
    "__sincos_stret", "__sincosf_stret", "_GLOBAL_OFFSET_TABLE_",
}  # fmt: skip


@dataclass(frozen=True)
class Loaded:
    """Native code in this process. It stays for the life of the process."""

    symbol: str
    address: int
    cached: bool
    object_code: bytes

    def __call__(self, tid: int, nt: int, d: int) -> None:
        """Run on this thread without the GIL."""
        _ENTRY(self.address)(tid, nt, d)


def load(kernel: Kernel, isa: Isa, store: disk.Cache | None = None) -> Loaded:
    """The kernel as native code: memory, then disk, then the compiler."""
    key = _kernel_key(kernel, isa)

    def text(symbol: str, target: Target) -> str:
        return llvm_ir(kernel.build(isa, **dict(kernel.parameters)), symbol, target)

    return _loaded.get(key) or shield.run(lambda: _load(key, text, {}, isa, store))


def build_entry(
    source: str, kernels: Mapping[str, Kernel], isa: Isa, store: disk.Cache | None = None
) -> Loaded:
    """Compile generated source that defines `entry(tid, nt, base)`, in the language of `entry`.

    It calls kernels as `name(tid, nt, record)`, by the keys of `kernels`. ValueError for source
    that is not in the language.
    """
    symbols = {name: _symbol(_kernel_key(kernel, isa)) for name, kernel in kernels.items()}
    names = "".join(f"{name}={symbol};" for name, symbol in sorted(symbols.items()))
    key = _key("entry", source, names, isa)

    def text(symbol: str, target: Target) -> str:
        from . import entry

        return _headed(target, entry.llvm_ir(source, symbols, symbol))

    def build() -> Loaded:
        loaded = [load(kernel, isa, store) for kernel in kernels.values()]
        return _load(key, text, {one.symbol: one.address for one in loaded}, isa, store)

    return _loaded.get(key) or shield.run(build)


_FLAGS = {
    "no_compile": True,
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
    "nrt": False,
    "boundscheck": False,
    "error_model": "numpy",
}


def llvm_ir(function: Function, symbol: str, target: Target) -> str:
    """LLVM IR, retargeted, of `void symbol(i64, i64, i64)`, as Numba makes it of `function`."""
    if not isinstance(function, Chunked):
        return _headed(target, _numba(function, symbol, 3))
    # The loop over chunks takes Numba longer than most bodies: it is made once a process.
    module = llvm.parse_assembly(_driver().replace(_DRIVER, symbol))
    body = llvm.parse_assembly(_numba(function.body, BODY, 2))
    for part in body.functions:
        if not part.is_declaration:
            part.add_function_attribute("alwaysinline")
    body.get_function(BODY).add_function_attribute("noduplicate")  # as `vector.driver` calls it
    module.link_in(body)
    return _headed(target, str(module))


BODY, _DRIVER = "taut_body", "taut_driver"


@cache
def _driver() -> str:
    """LLVM IR of `void taut_driver(tid, nt, d)`, which calls `void taut_body(d, chunk)`."""
    from . import vector

    return _numba(vector.driver(BODY), _DRIVER, 3)


def _numba(function: Callable[..., None], symbol: str, arguments: int) -> str:
    """Numba's LLVM IR of a function of int64s, with `void symbol(i64, ...)` around it."""
    from numba.core import compiler, registry, types

    flags = compiler.Flags()
    for name, value in _FLAGS.items():
        setattr(flags, name, value)
    cpu = registry.cpu_target
    result = compiler.compile_extra(
        cpu.typing_context, cpu.target_context, function, (types.int64,) * arguments, types.void,
        flags, {},
    )  # fmt: skip
    values = ", ".join(f"i64 %a{i}" for i in range(arguments))
    return f"""{result.library.get_llvm_str()}
define void @{symbol}({values}) {{
  %result = alloca ptr
  %error = alloca ptr
  %status = call i32 @{result.fndesc.llvm_func_name}(ptr %result, ptr %error, {values})
  ret void
}}
"""


def _headed(target: Target, text: str) -> str:
    """The module for `target`, whatever it was made for."""
    head = f"""target datalayout = "{target.machine().target_data}"
target triple = "{target.triple}"
"""
    lines = text.splitlines()
    return head + "\n".join(
        line for line in lines if not line.startswith(("target datalayout", "target triple"))
    )


def optimise(text: str, symbol: str, target: Target) -> tuple[llvm.ModuleRef, llvm.TargetMachine]:
    """Parse and verify IR, hide everything but `symbol`, and run LLVM's O3."""
    machine = target.machine()
    module = llvm.parse_assembly(text)
    module.verify()
    for function in module.functions:
        if not function.is_declaration and function.name != symbol:
            function.linkage = "internal"
    for variable in module.global_variables:
        if not variable.is_declaration:
            variable.linkage = "internal"
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    options.loop_vectorization = True
    options.slp_vectorization = False
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    return module, machine


def assembly(kernel: Kernel, isa: Isa, target: Target | None = None) -> str:
    """The kernel's assembly for `target` (the table's own when it cannot run here)."""
    wanted = target or Target.native(isa)

    def build() -> str:
        text = llvm_ir(kernel.build(isa, **dict(kernel.parameters)), "kernel", wanted)
        module, machine = optimise(text, "kernel", wanted)
        machine.set_asm_verbosity(True)
        return machine.emit_assembly(module)

    return shield.run(build)


def _load(
    key: str,
    text: Callable[[str, Target], str],
    links: Mapping[str, int],
    isa: Isa,
    store: disk.Cache | None,
) -> Loaded:
    """To be called as a job of the shield: LLVM and Numba would not survive being interrupted."""
    global _compiling
    if key in _loaded:
        return _loaded[key]
    shield.rest()
    shield.check()
    if _compiling:
        raise CompileError("a finalizer called a program that is not compiled yet, while the "
                           "compiler was at work on its thread")  # fmt: skip
    try:
        _compiling = True
        store = store if store is not None else disk.default()
        symbol = _symbol(key)
        code = store.get(key)
        cached = code is not None
        if code is None:
            target = Target.native(isa)
            module, machine = optimise(text(symbol, target), symbol, target)
            code = machine.emit_object(module)
            store.put(key, code)
        address = _link(code, symbol, links, isa)
        llvm.add_symbol(symbol, address)
        _loaded[key] = Loaded(symbol, address, cached, code)
        return _loaded[key]
    finally:
        _compiling = False


_engines: list[llvm.ExecutionEngine] = []


def _link(code: bytes, symbol: str, links: Mapping[str, int], isa: Isa) -> int:
    """Put object code into this process. LLVM aborts on a missing symbol, so look first."""
    missing = objects.undefined(code) - _LIBC - links.keys()
    if missing:
        raise RuntimeError(f"object code wants symbols that are not there: {sorted(missing)}")
    for name in objects.undefined(code) & _LIBC:
        if not name.startswith("_GLOBAL") and not llvm.address_of_symbol(name):
            llvm.add_symbol(name, _in_process(name))
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), Target.native(isa).machine())
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _engines.append(engine)
    address = engine.get_function_address(symbol)
    if not address:
        raise RuntimeError(f"object code does not define {symbol}")
    return address


def _in_process(name: str) -> int:
    """The address of a C library's function in this process; RuntimeError when it has none."""
    libraries = ("msvcrt", "kernel32") if sys.platform == "win32" else (None,)
    for library in libraries:
        function = getattr(ctypes.CDLL(library), name, None)
        if function is not None:
            return ctypes.cast(function, ctypes.c_void_p).value or 0
    raise RuntimeError(f"this process has no symbol {name}")


def _symbol(key: str) -> str:
    return "taut_" + key[:32]


def _kernel_key(kernel: Kernel, isa: Isa) -> str:
    return _key("kernel", kernel.name, exact(kernel.parameters), isa, kernel.build.__module__)


def _key(kind: str, *parts: object) -> str:
    isa = next(p for p in parts if isinstance(p, Isa))
    text = exact((kind, parts, Target.native(isa), _world()))
    return hashlib.sha256(text.encode()).hexdigest()


_SOURCES = ("cpu/codegen", "cpu/kernels", "cpu/nests", "schedule/records.py")  # what makes code


def origins() -> dict[str, int]:
    """How many pieces of machine code this process has compiled, and loaded from disk."""
    loaded = list(_loaded.values())
    cached = sum(one.cached for one in loaded)
    return {"compiled": len(loaded) - cached, "from_disk": cached}


def version(isa: Isa) -> str:
    """A digest of what machine code for this table depends on, the kernels themselves apart."""
    return _key("version", isa)[:16]


@cache
def _world() -> tuple[str, ...]:
    """Everything else that machine code depends on: our sources and the compilers' versions."""
    from importlib.metadata import version

    backends = Path(__file__).parents[2]
    digest = hashlib.sha256()
    for place in (backends / name for name in _SOURCES):
        for path in [place] if place.is_file() else sorted(place.glob("*.py")):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    parts = (llvmlite.__version__, llvm.llvm_version_info, version("numba"), version("numpy"))
    return (digest.hexdigest(), *map(str, parts))
