"""Well-known architectures, written with the builder, with weights drawn from a seed.

`zoo("resnet-20", classes=100)` makes one; wherever Taut takes a model file,
`zoo:resnet-20{classes=100}` stands for the same.
"""

from .lenet import lenet_5, lenet_300_100
from .mobilenet import mobilenet_v1, mobilenet_v2
from .registry import ZOO, Entry, entry, find, load_zoo, zoo
from .resnet import resnet, resnet_cifar
from .shufflenet import shufflenet_v1, shufflenet_v2
from .transformer import llama_decoder, transformer_decoder, transformer_encoder

__all__ = [
    "ZOO", "Entry", "entry", "find", "lenet_5", "lenet_300_100", "llama_decoder",
    "load_zoo", "mobilenet_v1", "mobilenet_v2", "resnet", "resnet_cifar", "shufflenet_v1",
    "shufflenet_v2", "transformer_decoder", "transformer_encoder", "zoo",
]  # fmt: skip
