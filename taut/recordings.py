"""Inputs of models that see no images: speech that we synthesise, and the bytes of real files.

Every function is deterministic for a seed (the files: for an installed onnx package).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

RATE, WINDOW, CONTEXT = 16000, 512, 64  # of silero-vad: samples a second, a window, before it
ENDS, PADDING = 1024, 256  # of magika: bytes at either end of a file, and what is not there
_KINDS = (".md", ".onnx", ".pb", ".proto", ".py", ".pyi", ".txt", ".json", ".h", ".cc")


def speech(n: int, windows: int, seed: int = 0) -> np.ndarray:
    """`n` recordings as silero-vad reads them: f32[n, windows, 576] in -1..1.

    Syllables (harmonics of a gliding pitch under three formants, or hiss) between pauses, in some
    room noise. Each window begins with the last 64 samples of the one before.
    """
    random = np.random.default_rng([seed, 6])
    length = CONTEXT + windows * WINDOW
    made = np.empty((n, windows, CONTEXT + WINDOW), np.float32)
    for k in range(n):
        sound = _voice(random, length)
        for w in range(windows):
            made[k, w] = sound[w * WINDOW : (w + 1) * WINDOW + CONTEXT]
    return made


def _voice(random: np.random.Generator, length: int) -> np.ndarray:
    """Some seconds' worth, cut to `length` from a random place on."""
    start = int(random.integers(0, RATE))
    total = start + length
    sound = random.normal(0, 10 ** random.uniform(-4, -2), total)
    at = 0
    while at < total:
        size = int(random.uniform(0.08, 0.3) * RATE)
        syllable = _syllable(random, size)[: total - at]
        sound[at : at + len(syllable)] += syllable * random.choice([0.0, 0.05, 0.2, 0.4])
        at += size + int(random.uniform(0, 0.1) * RATE)
    return np.clip(sound[start:], -1, 1)


def _syllable(random: np.random.Generator, size: int) -> np.ndarray:
    t = np.arange(size) / RATE
    shape = np.sin(np.pi * np.arange(size) / size) ** 0.5
    if random.random() < 0.25:
        return shape * np.diff(random.normal(0, 0.3, size + 1))
    pitch = random.uniform(90, 240) * (1 + random.uniform(-0.4, 0.4) * t)
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    formants = random.uniform([250, 800, 2200], [850, 2200, 3200])
    sound = np.zeros(size)
    for harmonic in range(1, 30):
        distance = (harmonic * pitch.mean() - formants) / 120
        sound += (
            (0.02 + np.exp(-np.square(distance)).sum()) / harmonic**0.5 * np.sin(harmonic * phase)
        )
    return shape * sound / max(1e-9, np.abs(sound).max())


def file_bytes(n: int, seed: int = 0) -> np.ndarray:
    """`n` files as magika reads them: i32[n, 2048], the first and the last 1024 bytes without the
    white space at the file's ends; 256 where a file is shorter.

    The files are those of the onnx package: sources, texts, models, tensors.
    """
    paths = sorted(p for p in Path(str(onnx.__file__)).parent.rglob("*") if p.suffix in _KINDS)
    chosen = np.random.default_rng([seed, 7]).choice(len(paths), n, replace=n > len(paths))
    return np.stack([_ends(paths[k].read_bytes()) for k in chosen])


def _ends(content: bytes) -> np.ndarray:
    made = np.full(2 * ENDS, PADDING, np.int32)
    first, last = content[:4096].lstrip()[:ENDS], content[-4096:].rstrip()[-ENDS:]
    made[: len(first)] = list(first)
    made[2 * ENDS - len(last) :] = list(last)
    return made
