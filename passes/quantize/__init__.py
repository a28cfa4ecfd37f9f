"""Post-training quantization."""

from . import dynamic as dynamic
from . import passes as passes
