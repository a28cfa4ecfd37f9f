"""Post-training quantization and quantization-aware training."""

from . import attention as attention
from . import aware as aware
from . import dynamic as dynamic
from . import passes as passes
