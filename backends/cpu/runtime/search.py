"""Finding tilings by measuring: one layer at a time, on data of its own, within a budget.

For each case, heaviest first: the tiles with the heuristic's chunks, then other chunks for the best
tile. A case that the budget leaves no time for keeps the heuristic's tiling.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import numpy as np

from ...schedule.kernel import Kernel
from ...schedule.layout import SLACK
from ...schedule.memory import aligned
from ..codegen import jit, sync, syncblock
from ..codegen.isa import Isa
from ..kernels import conv
from ..kernels.tiling import HEURISTIC, Case, Tiling
from . import tuning
from .team import team

Progress = Callable[[int, int], None]
SECONDS = 0.002  # one measurement runs about this long, three times
MARGIN = 0.98  # another tiling has to be so much faster

_LOOP = """
def entry(tid, nt, base):
    for i in range(load_i64(base + 8)):
        {calls}
        barrier(tid, nt, load_i64(base))
"""


class Tuner:
    """Tilings for a program's layers: those in the cache, and others measured while `budget`
    seconds last."""

    def __init__(
        self, isa: Isa, threads: int, budget: float, progress: Progress | None = None
    ) -> None:
        self.isa, self.threads, self.left, self.progress = isa, threads, budget, progress

    def find(self, cases: Iterable[Case]) -> tuple[dict[str, Tiling], dict[str, Tiling]]:
        """(from the cache, measured now)."""
        known: dict[str, Tiling] = {}
        missing: list[Case] = []
        for case in cases:
            found = tuning.recall(case, self.isa, self.threads)
            if found is None:
                missing.append(case)
            else:
                known[case.name] = found
        return known, self._search(missing)

    def _search(self, cases: list[Case]) -> dict[str, Tiling]:
        cases.sort(key=lambda case: (-case.macs, case.name))
        start = time.perf_counter()
        found: dict[str, Tiling] = {}
        for i, case in enumerate(cases):
            if time.perf_counter() - start >= self.left:
                break
            found[case.name] = _best(case, self.isa, self.threads, start + self.left)
            if self.progress is not None:
                self.progress(i + 1, len(cases))
        self.left = max(0.0, self.left - (time.perf_counter() - start))
        return found

    def settle(self, found: dict[str, Tiling], better: bool) -> None:
        """Keep what was found; or, where the whole program was no faster for it, that the
        heuristics do as well."""
        kept = found if better else dict.fromkeys(found, HEURISTIC)
        tuning.remember(kept, self.isa, self.threads)


def is_faster(new: Callable[[], object], old: Callable[[], object], seconds: float = 0.5) -> bool:
    """Whether `new` takes less time than `old`: medians of calls in turn."""
    taken: list[list[float]] = [[], []]
    end = time.perf_counter() + seconds
    while len(taken[0]) < 10 or (time.perf_counter() < end and len(taken[0]) < 200):
        for call, times in zip((new, old), taken):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
    return float(np.median(taken[0][2:])) < float(np.median(taken[1][2:]))


def _best(case: Case, isa: Isa, threads: int, end: float) -> Tiling:
    layer = Layer(case, isa, threads)
    best = HEURISTIC
    least = layer.seconds(None) * MARGIN
    for stage in (_tiles, _chunks):
        for tiling in stage(case, isa, threads, best):
            if time.perf_counter() >= end:
                return best
            took = layer.seconds(tiling)
            if took < least:
                best, least = tiling, took
    return best


def _tiles(case: Case, isa: Isa, threads: int, _: Tiling) -> Iterator[Tiling]:
    """Each register tile, with the chunks that the heuristic gives it."""
    one = case.size == (1, 1)
    for tile in isa.float_tiles if case.out == "float" else isa.tiles:
        if one or tile[0] > 1:
            yield Tiling(tile, *default_split(case, tile, isa, threads))


def _chunks(case: Case, isa: Isa, threads: int, best: Tiling) -> Iterator[Tiling]:
    """The best tile with other chunks: by pixels, by panels, both, and all in one."""
    start = default_tiling(case, isa, threads) if best == HEURISTIC else best
    tiles, panels = extent(case, start.tile, isa)
    seen = {(start.tiles, start.panels)}
    parts = (1,) if threads == 1 else (1, threads, 2 * threads, 4 * threads)
    near = (tiles, start.tiles, max(1, start.tiles // 2))
    cuts = [(-(-tiles // p), panels) for p in parts] + [(t, -(-panels // p)) for t in near
                                                        for p in parts]  # fmt: skip
    for cut in cuts:
        if cut not in seen:
            seen.add(cut)
            yield replace(start, tiles=cut[0], panels=cut[1])


class Layer:
    """A case made real, with weights and data of no meaning."""

    def __init__(self, case: Case, isa: Isa, threads: int) -> None:
        self.case, self.isa, self.threads = case, isa, threads
        rng = np.random.default_rng(0)
        n, kh, kw, c = case.weights
        kind = np.int8 if case.item == 1 else np.float32
        self.weights = rng.integers(-99, 99, case.weights).astype(kind)
        self.bias = np.zeros(n, np.int32 if case.item == 1 else np.float32)
        # What `is_bounded` says decides which epilogue is measured.
        self.scale = np.full(n, 1e-4 if case.bounded else 1.0)
        height, width = case.size
        self.row = (width + kw * case.dilation[1]) * case.pixel
        self.image = (height + kh * case.dilation[0]) * self.row
        self.source = aligned(case.images * self.image + case.groups * c * case.item + SLACK)
        self.target_pixel = out_bytes(case) * -(-n // 16) * 16
        pixels = case.images * height * width
        self.target = aligned(pixels * self.target_pixel + SLACK)
        self.other = aligned(pixels * self.target_pixel + SLACK) if case.residual else self.target
        self.table = aligned(256)
        self.sync = aligned(syncblock.sync_bytes(threads))

    def seconds(self, tiling: Tiling | None) -> float:
        """One run of the layer, all threads together: the best of three rounds."""
        kernels, records, keep = self._records(tiling)
        calls = [f"{k.name}(tid, nt, load_i64(base + {16 + 8 * i}))" for i, k in enumerate(kernels)]
        source = _LOOP.format(calls="\n        ".join(calls))
        named = {k.name: k for k in kernels}
        entry = jit.build_entry(source, {"barrier": sync.BARRIER, **named}, self.isa)
        workers = team(self.threads)

        def clock(times: int) -> float:
            # Its own table: a thread that is late reads there how often to go round, even now.
            base = aligned(8 * (2 + len(records))).view(np.int64)
            base[:2] = self.sync.ctypes.data, times
            base[2:] = [record.ctypes.data for record in records]
            lease = workers.lend((base, keep, self))
            start = time.perf_counter()
            workers.run(entry.address, base.ctypes.data, lease)
            return (time.perf_counter() - start) / times

        clock(1)
        times = max(1, min(1000, int(SECONDS / max(clock(2), 1e-7))))
        return min(clock(times) for _ in range(3))

    def _records(
        self, tiling: Tiling | None
    ) -> tuple[list[Kernel], list[np.ndarray], list[object]]:
        case, kernels, records, keep = self.case, [], [], []
        parts = conv.prepare(
            self.weights, self.bias, None if case.out in ("s32", "float") else self.scale,
            self.isa, row=self.row, pixel=case.pixel, size=case.size, images=case.images,
            dilation=case.dilation, groups=case.groups, out=case.out, residual=case.residual,
            threads=self.threads, activation=case.activation,
            other_scale=1.0 if case.bounded else None, tiling=tiling,
        )  # fmt: skip
        for slot, part in enumerate(parts):
            arrays = {"taps": _place(part.taps), "weights": _place(part.weights),
                      "bias": _place(part.bias), "scale": _place(part.scale)}  # fmt: skip
            width = case.size[1] * self.target_pixel
            places = {"_row": width, "_pixel": self.target_pixel, "_image": width * case.size[0]}
            offset = part.channel * out_bytes(case)
            record = conv.ConvRecord(
                sync=self.sync.ctypes.data, slot=slot, **part.fields,
                source=self.source.ctypes.data, source_row=self.row, source_pixel=case.pixel,
                source_image=self.image, target=self.target.ctypes.data + offset,
                **{f"target{k}": v for k, v in places.items()},
                other=self.other.ctypes.data + offset,
                **{f"other{k}": v for k, v in places.items()},
                other_scale=1.0, table=self.table.ctypes.data,
                **{k: v.ctypes.data for k, v in arrays.items()},
            )  # fmt: skip
            kernels.append(part.kernel)
            packed = _place(record.pack())
            records.append(packed)
            keep += [arrays, packed]
        return kernels, records, keep


def _place(array: np.ndarray) -> np.ndarray:
    """A copy at a 64-byte aligned address."""
    raw = aligned(array.nbytes + SLACK)
    raw[: array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return raw


def extent(case: Case, tile: tuple[int, int], isa: Isa) -> tuple[int, int]:
    """(tiles of an image, panels) that a case has under a tile."""
    vectors = -(-case.weights[0] // case.groups // isa.lanes)
    pixels = case.size[0] * case.size[1]
    return -(-pixels // tile[0]), case.groups * max(1, vectors // tile[1])


def default_split(case: Case, tile: tuple[int, int], isa: Isa, threads: int) -> tuple[int, int]:
    """What `split` says to a case under a tile."""
    tiles, panels = extent(case, tile, isa)
    _, kh, kw, c = case.weights
    panel_bytes = tile[1] * isa.lanes * kh * kw * c * case.item
    return conv.split(tiles, case.images, panels, threads, tile[0] * case.pixel, panel_bytes)


def default_tiling(case: Case, isa: Isa, threads: int) -> Tiling:
    """What the heuristics make of a case."""
    vectors = -(-case.weights[0] // case.groups // isa.lanes)
    tiles = isa.float_tiles if case.out == "float" else isa.tiles
    tile = conv.best_tile(case.size[0] * case.size[1], vectors, tiles)
    return Tiling(tile, *default_split(case, tile, isa, threads))


def out_bytes(case: Case) -> int:
    """Bytes of one result."""
    return 1 if case.out in ("u8", "lut") else 4
