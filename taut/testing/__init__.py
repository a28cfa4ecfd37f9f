"""Fuzz your own pass or backend in three lines.

    from taut import testing

    def test_my_pass():
        testing.check_pass("my-pass")

Strategies draw types, arrays and whole graphs that shrink to small ones; the checks draw graphs,
transform or compile them and hold the result against the NumPy reference. Needs hypothesis (the
`test` extra).
"""

from .checks import check_backend, check_pass, check_pipeline, check_pipelines, difference
from .control import controls
from .dags import dags
from .failure import CheckFailure
from .families import cnns, integers, mlps, quantized
from .fusible import fusibles
from .gradients import check_gradient, in_double
from .graphs import FAMILIES, graphs
from .recurrents import recurrents
from .search import GROWN
from .tally import FuzzReport, NeverApplied
from .transformers import transformers
from .values import AWKWARD, arrays, feeds, shapes, tensor_types

__all__ = [
    "AWKWARD", "FAMILIES", "GROWN", "CheckFailure", "FuzzReport", "NeverApplied", "arrays",
    "check_backend", "check_gradient", "check_pass", "check_pipeline", "check_pipelines", "cnns",
    "controls", "dags", "difference", "feeds", "fusibles", "graphs", "in_double", "integers",
    "mlps", "quantized", "recurrents", "shapes", "tensor_types", "transformers",
]  # fmt: skip
