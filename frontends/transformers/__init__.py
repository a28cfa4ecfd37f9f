"""Transformers as their trainers store them: a `config.json` and a `model.safetensors`."""

from .bert import load_bert
from .config import BertConfig

__all__ = ["BertConfig", "load_bert"]
