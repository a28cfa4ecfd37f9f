"""Draw whole models over every op and attribute, and hold Taut against someone else's results.

    from taut.testing import differential

    report = differential.fuzz("onnxruntime", ops=["conv_transpose"], examples=100, seed=1)

`taut fuzz --against onnxruntime` does it from the shell.
"""

from .check import Verdict, check
from .choices import Choices
from .draw import Case, draw, drawable
from .files import drawn, page, write
from .oracles import ORACLES, oracles
from .search import Finding, Report, fuzz, shrink
from .worker import Worker, here

__all__ = [
    "ORACLES", "Case", "Choices", "Finding", "Report", "Verdict", "Worker", "check", "draw",
    "drawable", "drawn", "fuzz", "here", "oracles", "page", "shrink", "write",
]  # fmt: skip
