"""Networks written by hand, layer by layer, with weights drawn from a seed."""

from .initializers import (
    SMALL_NORMAL,
    Initializer,
    fill,
    glorot_normal,
    glorot_uniform,
    he_normal,
    he_uniform,
    normal,
    ones,
    zeros,
)
from .layers import ACTIVATIONS
from .network import Branch, Network
from .scopes import Init, parameters

__all__ = [
    "ACTIVATIONS", "SMALL_NORMAL", "Branch", "Init", "Initializer", "Network", "fill",
    "glorot_normal", "glorot_uniform", "he_normal", "he_uniform", "normal", "ones", "parameters",
    "zeros",
]  # fmt: skip
