"""Training: one compiled step, and the loop around it."""

from .recipe import Recipe
from .trainer import Trainer

__all__ = ["Recipe", "Trainer"]
