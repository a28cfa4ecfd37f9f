"""The typed family of errors. Each is one line that names file, node, op and mend."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence


def show_name(name: object) -> str:
    """A name from a model, quoted so that no control character reaches a terminal."""
    text = json.dumps(str(name))
    return text if len(text) <= 200 else text[:196] + '..."'


def near(word: str, words: Sequence[str]) -> str:
    """`; did you mean ...?` or nothing."""
    close = difflib.get_close_matches(word[:80], words, n=3, cutoff=0.5)
    return f"; did you mean {', '.join(close)}?" if close else ""


class TautError(Exception):
    """Base of all errors that Taut raises on purpose.

    `hint` says what the user can do; `with_context` fills in what a caller further out knows.
    """

    def __init__(
        self,
        message: str,
        *,
        file: object = None,
        node: str | None = None,
        op: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message, self.file, self.node, self.op, self.hint = message, file, node, op, hint

    def with_context(
        self, *, file: object = None, node: str | None = None, op: str | None = None
    ) -> TautError:
        """Fill in what is not yet known and return self, to be raised again."""
        self.file = self.file if self.file is not None else file
        self.node = self.node if self.node is not None else node
        self.op = self.op if self.op is not None else op
        return self

    def __str__(self) -> str:
        where = [] if self.file is None else [show_name(self.file)]
        if self.node is not None:
            where.append(f"node {show_name(self.node)}")
        if self.op is not None:
            where.append(f"op {self.op}")
        text = ", ".join(where) + (": " if where else "") + self.message
        return " ".join((f"{text}; {self.hint}" if self.hint else text).split())


class ModelError(TautError):
    """A model file that is damaged, lies about itself or breaks its format's rules."""


class UnsupportedError(TautError):
    """Something valid that Taut does not do (yet): an op, a version, a data type."""


class NotDifferentiableError(UnsupportedError):
    """A gradient was asked for that an op does not give; the hint says what to do."""


class ParseError(TautError):
    """IR or pipeline text that cannot be read; the message has line and column."""


class VerifyError(TautError):
    """A graph that breaks an invariant of the IR or of an op's declaration."""


class RankUnknown(VerifyError):
    """The rank of a tensor was asked for and is not known."""


class FeedError(TautError):
    """Inputs to a run that do not fit: names, dtypes, shapes, NaN where it is refused."""


class LimitError(TautError):
    """A limit on memory, nodes or nesting was reached before anything was allocated."""


class PassError(TautError):
    """A pass failed or broke what it promised."""


class CompileError(TautError):
    """A backend could not make a program."""


class TrainingError(TautError):
    """Training that cannot go on: a loss or a gradient that is no number."""


class StorageError(TautError):
    """A file or folder that cannot be read or written."""
