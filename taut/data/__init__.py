"""Data: labelled images to train and test with, and inputs for a graph's calls."""

from .arrays import read_arrays, write_arrays
from .augment import chain, flip, shift
from .dataset import Augment, Batches, Dataset
from .feeds import FileFeeds, RandomFeeds, Sizes, bound_type, check_finite
from .folders import from_folder
from .idx import from_idx, read_idx
from .optdigits import from_optdigits
from .sources import from_npz, load_dataset, mnist, optdigits

__all__ = [
    "Augment", "Batches", "Dataset", "FileFeeds", "RandomFeeds", "Sizes", "bound_type", "chain",
    "check_finite", "flip", "from_folder", "from_idx", "from_npz", "from_optdigits",
    "load_dataset", "mnist", "optdigits", "read_arrays", "read_idx", "shift", "write_arrays",
]  # fmt: skip
