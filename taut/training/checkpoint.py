"""A training run on disk: one safetensors file, replaced as a whole.

Its tensors are `state:NAME` and `best:NAME`; its metadata hold one JSON text (position, history,
what the run is) and a digest of all of it. Reading unpickles nothing and takes no size on trust.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from taut.ir import DEFAULT_LIMITS, Array, FeedError, ModelError, StorageError
from taut.ir.equality import digest as graph_digest
from taut.ir.files import read_bounded, remove_drafts, write_atomic

from .history import History
from .trainer import Totals, Trainer

FILE = "checkpoint.safetensors"
VERSION = 1
STATE, BEST = "state:", "best:"
MAX_HEADER = 64 << 20


@dataclass
class Position:
    """Where a run is: the epoch (from 0), the batches of it that are done, and what was found."""

    epoch: int = 0
    batch: int = 0
    totals: Totals = field(default_factory=Totals)
    history: History = field(default_factory=History)
    best_epoch: int = 0  # from 1; 0: none yet
    best_value: float = 0.0
    best: dict[str, Array] = field(default_factory=dict)


def identity(trainer: Trainer, batch_size: int) -> dict[str, Any]:
    """What a run that goes on must have in common with the one that was saved."""
    recipe = trainer.recipe
    types = {k: f"{a.dtype}{list(a.shape)}" for k, a in trainer.parameters.items()}
    return {
        "parameters": types, "optimizer": str(recipe.update), "loss": recipe.loss,
        "masks": {k: _sum(m) for k, m in trainer.masks.items()},
        "graph": graph_digest(trainer.step_graph).hex(), "seed": trainer.seed,
        "batch size": batch_size,
    }  # fmt: skip


def prepare(folder: str | os.PathLike[str], resume: bool) -> None:
    """Make the folder, and clear away what a process left there that was killed as it wrote.

    Raises StorageError where it cannot be made, or holds a checkpoint though nothing is resumed.
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot be made ({error.strerror})", file=folder) from error
    if not resume and (path / FILE).exists():
        raise StorageError("holds a checkpoint already", file=path / FILE,
                           hint="resume it, remove it, or give another folder")  # fmt: skip
    remove_drafts(path / FILE)


def save(
    folder: str | os.PathLike[str], trainer: Trainer, position: Position, about: Mapping[str, Any]
) -> None:
    """Write the checkpoint, whole or not at all. Raises StorageError; the old one then stays."""
    tensors = {f"{STATE}{k}": _plain(a) for k, a in trainer.state.items()}
    tensors |= {f"{BEST}{k}": _plain(a) for k, a in position.best.items()}
    text = json.dumps({
        "version": VERSION, "about": about, "steps": trainer.steps, "epoch": position.epoch,
        "batch": position.batch, "totals": asdict(position.totals),
        "history": position.history.rows, "best_epoch": position.best_epoch,
        "best_value": position.best_value,
    })  # fmt: skip
    metadata = {"taut": text, "digest": _digest(text, tensors)}
    write_atomic(Path(folder) / FILE, save_tensors(tensors, metadata))


def load(
    folder: str | os.PathLike[str], trainer: Trainer, about: Mapping[str, Any]
) -> Position | None:
    """The run saved in a folder, its arrays put into the trainer; None where there is none.

    Raises StorageError, LimitError, ModelError for a damaged file, FeedError that says what differs
    for a checkpoint of another run.
    """
    path = Path(folder) / FILE
    if not path.exists():
        return None
    facts, tensors = _read(path)
    _compare(path, facts["about"], json.loads(json.dumps(about)))
    state = trainer.state
    position = Position(
        facts["epoch"], facts["batch"], Totals(**facts["totals"]), History(facts["history"]),
        facts["best_epoch"], facts["best_value"],
        _typed(tensors, BEST, state) if facts["best_epoch"] else {},
    )  # fmt: skip
    trainer.load_state(_typed(tensors, STATE, state), facts["steps"])
    return position


def _typed(
    tensors: Mapping[str, Array], prefix: str, like: Mapping[str, Array]
) -> dict[str, Array]:
    """The tensors under a prefix, in the element types of `like`."""
    found = {k.removeprefix(prefix): a for k, a in tensors.items() if k.startswith(prefix)}
    return {k: a.view(like[k].dtype) if a.dtype == np.uint16 else a for k, a in found.items()}


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Array]]:
    data = read_bounded(path, DEFAULT_LIMITS.model_bytes)
    try:
        size = int.from_bytes(data[:8], "little")
        if len(data) < 8 or size > min(len(data) - 8, MAX_HEADER):
            raise ValueError("it is cut off")
        metadata = json.loads(data[8 : 8 + size])["__metadata__"]
        tensors = load_tensors(data)
        text = metadata["taut"]
        if _digest(text, tensors) != metadata["digest"]:
            raise ValueError("its contents are not what was written")
        facts = json.loads(text)
    except (ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
        raise ModelError(f"is no sound checkpoint ({error})", file=path,
                         hint="remove it to start anew") from error  # fmt: skip
    if facts.get("version") != VERSION:
        raise ModelError(f"is a checkpoint of version {facts.get('version')!a}, not {VERSION}",
                         file=path)  # fmt: skip
    return facts, tensors


def _compare(path: Path, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    for key, value in ours.items():
        other = theirs.get(key)
        if other == value:
            continue
        if isinstance(value, dict) and isinstance(other, dict):
            name = next(k for k in {**value, **other} if value.get(k) != other.get(k))
            there, here = (d.get(name, "missing") for d in (other, value))
            what = f"{key}: {name!a} is {there} there, {here} here"
        else:
            what = f"{key}: {str(other)[:200]} there, {str(value)[:200]} here"
        raise FeedError(f"is the checkpoint of another run; it differs in {what}", file=path,
                        hint="give another folder, or train without --resume")  # fmt: skip


def _plain(array: Array) -> Array:
    """In a type that safetensors knows: bf16 as its bits."""
    made = np.ascontiguousarray(array).reshape(array.shape)
    return made if made.dtype.isbuiltin == 1 else made.view(np.uint16)


def _digest(text: str, tensors: Mapping[str, Array]) -> str:
    made = hashlib.blake2b(text.encode(), digest_size=32)
    for name in sorted(tensors):
        array = tensors[name]
        made.update(f"{name} {array.dtype} {array.shape}".encode())
        made.update(np.ascontiguousarray(array).tobytes())
    return made.hexdigest()


def _sum(array: Array) -> str:
    return hashlib.blake2b(np.packbits(array).tobytes(), digest_size=16).hexdigest()
