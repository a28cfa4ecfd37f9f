"""The `taut` command. `main` turns every failure into one line on stderr and an exit code.

0 done; 1 the answer is no (a fuzzed pass failed, an op is unsupported); 2 bad input or usage;
70 a fault in Taut itself; 130 interrupted. TAUT_DEBUG=1 shows tracebacks.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (`sys.argv` by default) and return its exit code."""
    try:
        code = _run(sys.argv[1:] if arguments is None else list(arguments))
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:
        _discard_stdout()  # the reader has seen enough: not an error
        return 0
    except MemoryError:
        return _fail("out of memory; use a smaller model or batch", 2)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EIO, errno.EFBIG, errno.EDQUOT):
            _discard_stdout()
            return _fail(f"standard output: {error.strerror}", 2)
        return _fail_on(error)
    except Exception as error:
        return _fail_on(error)


def _run(arguments: list[str]) -> int:
    from .tree import command

    made = command().main(args=arguments, prog_name="taut", standalone_mode=False)
    return made if isinstance(made, int) else 0


def _fail_on(error: Exception) -> int:
    """The exit code for an exception, its line printed."""
    if os.environ.get("TAUT_DEBUG"):
        import traceback

        traceback.print_exc()
    kinds = {cls.__name__ for cls in type(error).__mro__}
    if kinds & {"TautError", "SampleError"}:
        return _fail(str(error), 2)
    if "ClickException" in kinds:
        message = error.format_message()  # type: ignore[attr-defined]
        return _fail(f"{message} (try 'taut --help')", 2)
    if "Abort" in kinds:
        return _fail("interrupted", 130)
    what = f"{type(error).__name__}: {error}"
    return _fail(f"a fault in taut ({what}); TAUT_DEBUG=1 shows where, please report it", 70)


def _fail(message: str, code: int) -> int:
    """One line on stderr, free of control characters."""
    line = " ".join(message.split())
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
    try:
        print(f"taut: error: {line}", file=sys.stderr, flush=True)
    except OSError:
        _discard(sys.stderr.fileno())
    return code


def _discard_stdout() -> None:
    """Nothing more is to be written, nor complained about when the interpreter ends."""
    try:
        _discard(sys.stdout.fileno())
    except (OSError, ValueError, AttributeError):
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def _discard(descriptor: int) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)
