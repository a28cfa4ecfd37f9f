"""Transformers: encoders as their trainers store them, decoder blocks with seeded weights."""

from .bert import load_bert
from .config import BertConfig
from .decoder import DecoderConfig, build_decoder

__all__ = ["BertConfig", "DecoderConfig", "build_decoder", "load_bert"]
