"""Post-training quantization."""

from . import passes as passes
