"""State dicts from files, without running anything that is in them."""

from __future__ import annotations

import io
import os
import pickle
import warnings
from pathlib import Path

import torch

from ...ir import Limits, ModelError, UnsupportedError
from ...ir.errors import show_name
from ...ir.files import read_bounded

PICKLED = (".pt", ".pth", ".bin")


def load_state(path: str | os.PathLike[str], limits: Limits) -> dict[str, torch.Tensor]:
    """See `taut.frontends.torch.load_state`."""
    suffix = Path(path).suffix.lower()
    if suffix == ".safetensors":
        return _safetensors(path, limits)
    if suffix not in PICKLED:
        raise UnsupportedError(f"the suffix {suffix!a} is none of a file of weights", file=path,
                               hint=f"use .safetensors or {', '.join(PICKLED)}")  # fmt: skip
    return _pickled(path, limits)


def _safetensors(path: str | os.PathLike[str], limits: Limits) -> dict[str, torch.Tensor]:
    from ..transformers.weights import read_safetensors
    from .tensors import to_tensor

    return {name: to_tensor(array) for name, array in read_safetensors(path, limits).items()}


def _pickled(path: str | os.PathLike[str], limits: Limits) -> dict[str, torch.Tensor]:
    """`weights_only` lets nothing be made but tensors and plain containers."""
    data = read_bounded(path, limits.model_bytes)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles that are refused a line later
            found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            "holds more than tensors, or is damaged: it is not read",
            file=path,
            hint="save model.state_dict(), best as .safetensors",
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError, IndexError,
            OverflowError) as error:  # fmt: skip
        raise ModelError(f"is damaged ({type(error).__name__})", file=path) from error
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]  # what training scripts save beside an epoch's number
    if not isinstance(found, dict):
        raise ModelError(f"holds a {type(found).__name__}, not tensors by name", file=path)
    for name, tensor in found.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise ModelError(f"holds {show_name(name)}, which is no tensor", file=path)
    return dict(found)
