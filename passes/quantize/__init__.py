"""Post-training quantization."""

from . import attention as attention
from . import dynamic as dynamic
from . import passes as passes
