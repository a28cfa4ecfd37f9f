"""What a `config.json` says of an encoder, checked."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from dataclasses import dataclass
from typing import Any

from ...ir import ModelError, UnsupportedError
from ...ir.errors import show_name
from ...ir.files import read_bounded

_LARGEST = 1 << 24
_ACTIVATIONS = {
    "gelu": ("gelu", {}),
    "gelu_new": ("gelu", {"approximate": "tanh"}),
    "gelu_pytorch_tanh": ("gelu", {"approximate": "tanh"}),
    "relu": ("relu", {}),
    "silu": ("swish", {}),
    "swish": ("swish", {}),
}


@dataclass(frozen=True)
class BertConfig:
    """The sizes of a BERT-like encoder, by the names that `config.json` uses.

    Raises ModelError for numbers that make no model.
    """

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    hidden_act: str = "gelu"

    def __post_init__(self) -> None:
        for name, kind in type(self).__annotations__.items():
            value = getattr(self, name)
            if kind == "int" and (type(value) is not int or not 1 <= value <= _LARGEST):
                raise ModelError(f"{name} is {str(value)[:40]!a}, no integer of 1 to {_LARGEST}")
        if self.hidden_size % self.num_attention_heads:
            raise ModelError(f"hidden_size {self.hidden_size} does not divide into "
                             f"{self.num_attention_heads} heads")  # fmt: skip
        eps = self.layer_norm_eps
        if type(eps) not in (int, float) or not 0 < eps < 1 or not math.isfinite(eps):
            raise ModelError(f"layer_norm_eps is {str(eps)[:40]!a}, which should be small")
        if not isinstance(self.hidden_act, str) or self.hidden_act not in _ACTIVATIONS:
            raise UnsupportedError(f"the activation {str(self.hidden_act)[:40]!a} is not known",
                                   hint=f"one of {', '.join(_ACTIVATIONS)} is")  # fmt: skip

    @property
    def activation(self) -> tuple[str, dict[str, Any]]:
        """The op's name and attributes."""
        return _ACTIVATIONS[self.hidden_act]


def read_config(path: str | os.PathLike[str]) -> BertConfig:
    """The configuration in a file. Raises StorageError, ModelError, UnsupportedError."""
    try:
        found = json.loads(read_bounded(path, 1 << 24))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"is no JSON ({error})", file=path) from error
    if not isinstance(found, dict):
        raise ModelError("is no JSON object", file=path)
    kind = found.get("model_type", "bert")
    if kind != "bert":
        raise UnsupportedError(f"a model of type {show_name(kind)} is not supported: bert is",
                               file=path, hint="export it to ONNX")  # fmt: skip
    if found.get("position_embedding_type", "absolute") != "absolute":
        raise UnsupportedError("only absolute position embeddings are supported", file=path)
    fields = dataclasses.fields(BertConfig)
    missing = [f.name for f in fields if f.default is dataclasses.MISSING and f.name not in found]
    if missing:
        raise ModelError(f"lacks {', '.join(missing)}", file=path)
    try:
        return BertConfig(**{f.name: found[f.name] for f in fields if f.name in found})
    except (ModelError, UnsupportedError) as error:
        raise error.with_context(file=path)
