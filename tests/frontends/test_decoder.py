"""A decoder run step by step with its cache gives what one run over the whole sequence does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from taut.frontends.transformers import DecoderConfig, build_decoder
from taut.ir import FeedError, ModelError

import taut

C = DecoderConfig(vocab_size=40, hidden_size=24, heads=4, kv_heads=2, intermediate_size=32,
                  positions=32)  # fmt: skip
IDS = np.random.default_rng(0).integers(0, C.vocab_size, (2, 11))
Run = Callable[..., dict[str, Any]]


def feeds(ids: np.ndarray, cache: dict[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
    """A step's inputs: these tokens after what the cache holds."""
    empty = np.zeros((len(ids), C.kv_heads, 0, C.head_size), np.float32)
    cache = cache or {f"present_{k}_{i}": empty for k in ("key", "value") for i in range(C.layers)}
    past = cache["present_key_0"].shape[2]
    places = np.broadcast_to(np.arange(past, past + ids.shape[1]), ids.shape).copy()
    renamed = {k.replace("present", "past"): v for k, v in cache.items() if k != "logits"}
    return {"input_ids": ids, "position_ids": places, **renamed}


def stepwise(run: Run, sizes: list[int]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Logits over all of IDS, taken in pieces of these sizes, and the last cache."""
    made: dict[str, np.ndarray] = {}
    logits, start = [], 0
    for size in sizes:
        made = run(**feeds(IDS[:, start : start + size], made))
        logits.append(made["logits"])
        start += size
    return np.concatenate(logits, axis=1), made


@pytest.mark.parametrize("sizes", [[1] * 11, [5, 1, 1, 4], [3, 8]])
def test_steps_with_the_cache_are_the_whole(sizes: list[int]) -> None:
    graph = build_decoder(C)

    def run(**named: np.ndarray) -> dict[str, Any]:
        return taut.reference(graph, **named)

    want = run(**feeds(IDS))
    logits, last = stepwise(run, sizes)
    np.testing.assert_allclose(logits, want["logits"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(last["present_key_1"], want["present_key_1"], rtol=0, atol=1e-4)
    assert last["present_key_1"].shape == (2, C.kv_heads, 11, C.head_size)


def test_one_program_runs_any_past() -> None:
    """The same kernels serve every length: only plans are made."""
    graph = build_decoder(C)
    program: Any = taut.compile(taut.optimize(graph, "O2"), threads=1)
    want = taut.reference(graph, **feeds(IDS))["logits"]
    kernels: list[set[str]] = []

    def run(**named: np.ndarray) -> dict[str, Any]:
        made = program(**named)
        kernels.append({k.name for k in program._used().kernels()})
        return made

    logits, _ = stepwise(run, [1] * 11)
    np.testing.assert_allclose(logits, want, rtol=0, atol=1e-4)
    assert all(k == kernels[1] for k in kernels[1:])


def test_what_the_positions_cannot_hold_is_refused() -> None:
    graph = build_decoder(C)
    ids = np.zeros((1, C.positions + 1), np.int64)
    with pytest.raises(FeedError, match="length is 33, where the model takes 32 at most"):
        taut.reference(graph, **feeds(ids))
    last = feeds(ids[:, :1])
    last["position_ids"][:] = C.positions
    with pytest.raises(FeedError, match="a position is not below the 32"):
        taut.reference(graph, **last)


@pytest.mark.parametrize(("change", "words"), [
    ({"hidden_size": 20}, "heads of an even size"), ({"kv_heads": 3}, "share 3 key heads"),
    ({"layers": 0}, "below 1"),
])  # fmt: skip
def test_sizes_that_do_not_fit_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        DecoderConfig(**change)
