"""Post-training quantization and quantization-aware training."""

from . import attention as attention
from . import aware as aware
from . import calibrate as calibrate
from . import dynamic as dynamic
from . import static as static
