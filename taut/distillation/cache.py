"""What a teacher gives for every item of the data, computed once and kept on disk.

A folder holds, for each teacher, data and choice of layers, `teacher-DIGEST.safetensors` (the
arrays by `Layer.key`, first axis the items) and `teacher-DIGEST.json` (what they are), which is
written last: a recording without it is none.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from taut.data import Dataset, read_arrays, write_arrays
from taut.ir import (
    DEFAULT_LIMITS,
    Array,
    DType,
    FeedError,
    Graph,
    LimitError,
    Limits,
    ModelError,
    StorageError,
    TensorType,
)
from taut.ir.equality import digest
from taut.ir.files import read_bounded, write_atomic
from taut.passes.context import batch_feeds
from taut.passes.distill import Layer, Recorded, is_attention, with_probabilities

FORMAT = 1
MAX_INDEX = 1 << 24  # bytes

Data = Dataset | Iterable[Any]
"""A Dataset, or batches of inputs in their order (arrays, tuples or dicts by name)."""


@dataclass(frozen=True)
class Cache:
    """A recorded teacher: pass it wherever a teacher is wanted.

    `arrays` by `Layer.key`, one row an item of the data; `teacher_digest` and `data_digest` say of
    which teacher and data.
    """

    recorded: Recorded
    arrays: Mapping[str, Array]
    teacher_digest: str
    data_digest: str

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def check(self, data: Dataset) -> None:
        """Raise FeedError unless these are the data that were recorded."""
        if data_digest(data) != self.data_digest:
            raise FeedError(f"the {len(data)} images are not those {len(self)} that the teacher's "
                            "recording was made of", hint="record these too")  # fmt: skip


def cache(
    teacher: Graph, data: Data, folder: str | os.PathLike[str], layers: Sequence[str] = (), *,
    batch_size: int = 256, threads: int | None = None, limits: Limits = DEFAULT_LIMITS,
) -> Cache:  # fmt: skip
    """Run the teacher over the data and keep its outputs and `layers` (names of nodes; of attention
    its probabilities), or read them where this folder has them already.

    Raises FeedError for an unknown node, one without a batch axis or data that do not fit;
    LimitError where it would take over `limits.model_bytes`; ModelError for a file that is damaged
    or of something else; StorageError.
    """
    if isinstance(data, Iterator):
        raise FeedError("the data can be gone through only once", hint="give a list or a Dataset")
    work, found = _recording(teacher, layers)
    about = {
        "format": FORMAT, "teacher": digest(work).hex(), "data": data_digest(data),
        "layers": [_layer_json(n) for n in found],
        "inputs": {n.name: _type_json(n.type) for n in teacher.inputs},
    }  # fmt: skip
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]
    path = Path(folder) / f"teacher-{key}"
    if not path.with_suffix(".json").exists():
        arrays = _run(work, data, batch_size, threads, limits)
        _write(path, about, arrays)
    return load_cache(path.with_suffix(".json"), about)


def load_cache(path: str | os.PathLike[str], about: Mapping[str, Any] | None = None) -> Cache:
    """A recording by its `.json` file; `about` is what it has to be of.

    Raises StorageError where it cannot be read, ModelError where it is damaged or of another
    teacher, other data or other layers.
    """
    index = _read_index(path)
    if about is not None and index["about"] != about:
        raise ModelError("is a recording of something else", file=path,
                         hint="delete it")  # fmt: skip
    file = Path(path).with_suffix(".safetensors")
    arrays = read_arrays(file)
    recorded, known = _recorded(index["about"], path)
    if index["arrays"] != _digest_arrays(arrays) or set(arrays) != {n.key for n in known}:
        raise ModelError("is not what was recorded", file=file, hint="delete it and its .json file")
    for layer in known:
        made = TensorType.of(arrays[layer.key])
        if not layer.type.with_shape((None, *(layer.type.shape or ())[1:])).accepts(made):
            raise ModelError(f"{layer.key} is {made}, not {layer.type}", file=file)
    return Cache(recorded, arrays, index["about"]["teacher"], index["about"]["data"])


# ---- making one --------------------------------------------------------------------------------


def _recording(teacher: Graph, names: Sequence[str]) -> tuple[Graph, list[Layer]]:
    """A copy that gives the layers under their keys, and the layers."""
    work = teacher.copy()
    values = {Layer(k, "output", v.type): v for k, v in zip(work.output_names, work.outputs)}
    for name in dict.fromkeys(names):
        node = work.find(name)
        if node is None or not node.results:
            raise FeedError("the teacher has no such node", node=name)
        if is_attention(work, node):
            value = with_probabilities(work, node)
            values[Layer(name, "attention", value.type)] = value
        else:
            values[Layer(name, "feature", node.type)] = node[0]
    batch = work.inputs[0].type.shape
    for layer in values:
        shape = layer.type.shape
        if not layer.type.dtype.is_float or not shape or not batch or shape[0] != batch[0]:
            raise FeedError(f"{layer.kind} of the teacher is {layer.type}, whose first axis is not "
                            "its inputs' batch", node=layer.name)  # fmt: skip
    work.set_outputs({layer.key: value for layer, value in values.items()})
    return work, list(values)


def _run(
    work: Graph, data: Data, batch_size: int, threads: int | None, limits: Limits
) -> dict[str, Array]:
    from taut.backends.base import compile

    program = compile(work, threads=threads)
    made: dict[str, list[Array]] = {k: [] for k in work.output_names}
    size = 0
    for feeds in _feeds(work, data, batch_size):
        for key, array in program(*(feeds[n.name] for n in work.inputs)).items():
            made[key].append(np.array(array))  # the program's own memory comes again
            size += array.nbytes
        if size > limits.model_bytes:
            raise LimitError(f"the teacher's layers take over {limits.model_bytes} bytes",
                             hint="record fewer layers, or distil without a cache")  # fmt: skip
    if not size:
        raise FeedError("there are no data to run the teacher on")
    try:
        return {k: np.concatenate(v) for k, v in made.items()}
    except ValueError as error:
        raise FeedError(f"batches are of different shape but for their first axis ({error})",
                        hint="pad them to one length") from error  # fmt: skip


def _feeds(graph: Graph, data: Data, batch_size: int) -> Iterator[dict[str, Array]]:
    batches = data.inputs(batch_size) if isinstance(data, Dataset) else data
    return (batch_feeds(graph, batch) for batch in batches)


def data_digest(data: Data) -> str:
    """A hash of the inputs; labels of a Dataset do not count."""
    made = hashlib.sha256()
    for batch in [data.images] if isinstance(data, Dataset) else data:
        items = batch if isinstance(batch, tuple | list) else (batch,)
        named = batch if isinstance(batch, Mapping) else {str(i): a for i, a in enumerate(items)}
        _add_arrays(made, {str(k): np.asarray(a) for k, a in named.items()})
    return made.hexdigest()


# ---- on disk -----------------------------------------------------------------------------------


def _write(path: Path, about: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot be made ({error.strerror})", file=path.parent) from error
    write_arrays(arrays, path.with_suffix(".safetensors"))
    index = {"about": about, "arrays": _digest_arrays(arrays)}
    write_atomic(path.with_suffix(".json"), json.dumps(index, indent=1).encode())


def _digest_arrays(arrays: Mapping[str, Array]) -> str:
    made = hashlib.sha256()
    _add_arrays(made, arrays)
    return made.hexdigest()


def _add_arrays(made: Any, arrays: Mapping[str, Array]) -> None:
    """Feed a hash with names, types and elements."""
    for key in sorted(arrays):
        array = np.ascontiguousarray(arrays[key])
        made.update(f"{key!a} {array.dtype} {array.shape} ".encode())
        made.update(array.tobytes() if array.dtype.kind not in "fiub" else array.data)


def _read_index(path: str | os.PathLike[str]) -> dict[str, Any]:
    try:
        index = json.loads(read_bounded(path, MAX_INDEX))
        if index["about"]["format"] != FORMAT:
            raise ValueError(f"format {index['about']['format']!r}")
        if not all(isinstance(v, str) for v in (index["arrays"], index["about"]["teacher"],
                                                index["about"]["data"])):  # fmt: skip
            raise ValueError("digests")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(f"is no recording of a teacher ({error})", file=path) from error
    return index


def _recorded(about: Mapping[str, Any], path: object) -> tuple[Recorded, tuple[Layer, ...]]:
    try:
        layers = tuple(Layer(str(n["name"]), n["kind"], _type(n["type"])) for n in about["layers"])
        inputs = {str(k): _type(v) for k, v in about["inputs"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"is no recording of a teacher ({error})", file=path) from error
    return Recorded(inputs, layers), layers


def _layer_json(layer: Layer) -> dict[str, Any]:
    return {"name": layer.name, "kind": layer.kind, "type": _type_json(layer.type)}


def _type_json(type: TensorType) -> list[Any]:
    return [type.dtype.value, None if type.shape is None else list(type.shape)]


def _type(given: Any) -> TensorType:
    dtype, shape = given
    return TensorType(DType(dtype), None if shape is None else tuple(shape))
