"""The NumPy backend: obvious, exact, slow. The definition of right."""

from .program import ReferenceProgram, compile

__all__ = ["ReferenceProgram", "compile"]
