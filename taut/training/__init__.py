"""Training: one compiled step, and the loop around it."""

from .aware import QuantizedTraining, quantize_aware
from .history import History
from .loop import Settings, Trained, train
from .recipe import Recipe, zero_masks
from .schedules import Schedule, schedule
from .source import Data
from .trainer import Trainer

__all__ = [
    "Data", "History", "QuantizedTraining", "Recipe", "Schedule", "Settings", "Trained", "Trainer",
    "quantize_aware", "schedule", "train", "zero_masks",
]  # fmt: skip
