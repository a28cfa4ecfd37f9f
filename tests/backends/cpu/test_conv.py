"""The implicit-GEMM kernels against NumPy, bit for bit, on every table this machine can run."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import ISAS, Arena, accumulate, requantize, wrap
from taut.backends.cpu.codegen.isa import TABLES
from taut.backends.cpu.kernels import conv

EXAMPLES = 25


@st.composite
def problems(draw):
    kernel = draw(st.sampled_from([(1, 1), (3, 3), (1, 3), (2, 5)]))
    groups = draw(st.sampled_from([1, 1, 2]))
    return {
        "size": (draw(st.integers(1, 9)), draw(st.integers(1, 17))),
        "kernel": kernel,
        "stride": draw(st.tuples(st.integers(1, 2), st.integers(1, 3))),
        "dilation": draw(st.tuples(st.integers(1, 2), st.integers(1, 2))),
        "channels": draw(st.sampled_from([4, 16, 17] if groups > 1 else [4, 16, 32])),
        "groups": groups,
        # Groups need whole vectors no more than a vector.
        "n": groups * draw(st.sampled_from([16, 32, 48, 64] if groups == 1 else [16, 17, 48, 70])),
        "images": draw(st.integers(1, 2)),
        "out": draw(st.sampled_from(["u8", "s32", "f32", "lut"])),
        "residual": draw(st.booleans()),
        "threads": draw(st.integers(1, 2)),
        "extreme": draw(st.booleans()),
        "seed": draw(st.integers(0, 2**16)),
        "tile": draw(st.booleans()),
    }


def check(isa, p):
    rng = np.random.default_rng(p["seed"])
    (kh, kw), (sy, sx), (dy, dx) = p["kernel"], p["stride"], p["dilation"]
    height = (p["size"][0] - 1) * sy + (kh - 1) * dy + 1
    width = (p["size"][1] - 1) * sx + (kw - 1) * dx + 1
    channels, groups, n = p["channels"], p["groups"], p["n"]
    pixel = channels * groups
    if p["extreme"]:
        image = rng.choice([0, 255], (p["images"], height, width, pixel)).astype(np.uint8)
        weights = rng.choice([-128, 127], (n, kh, kw, channels)).astype(np.int8)
        bias = rng.choice([-(2**31), 2**31 - 1, 0], n).astype(np.int32)
    else:
        image = rng.integers(0, 256, (p["images"], height, width, pixel), dtype=np.uint8)
        weights = rng.integers(-128, 128, (n, kh, kw, channels), dtype=np.int8)
        bias = rng.integers(-5000, 5000, n).astype(np.int32)
    acc = wrap(accumulate(image, weights, p["size"], p["stride"], p["dilation"], groups) + bias)

    shift = int(rng.integers(0, 45))
    # Mostly sensible multipliers, some that land on ties, some that saturate.
    top = min(2**31 - 1, max(1, int(2.0**shift * rng.choice([2**-9, 2**-6, 1.0]))))
    multipliers = rng.integers(0, top + 1, n)
    multipliers[rng.random(n) < 0.3] = min(2**30, 2 ** max(shift - 1, 0))
    zero, lo, hi = 3, int(rng.integers(0, 100)), int(rng.integers(100, 256))
    out, residual = p["out"], p["residual"] and p["out"] == "u8"
    scale = multipliers * 2.0**-shift
    if out == "f32":
        scale = rng.random(n).astype(np.float32)
    if out == "lut":
        zero, lo, hi = -100, -2000, 2095
    table = rng.integers(0, 256, 4096, dtype=np.uint8)
    other = rng.integers(0, 256, acc.shape, dtype=np.uint8)
    other_multiplier = int(rng.integers(-(2**20), 2**20)) if residual else 0

    arena = Arena(p["threads"])
    source, size = arena.place(image), 4 if out in ("s32", "f32") else 1
    kind = {"s32": np.int32, "f32": np.float32}.get(out, np.uint8)
    # The target has a border, as a buffer with a halo has; nothing may be written to it.
    rows, columns = p["size"][0] + 2, p["size"][1] + 2
    target = arena.empty((p["images"], rows, columns, n), kind)
    target[...] = 77
    inner = target[:, 1:-1, 1:-1]
    parts = conv.prepare(
        weights, bias, scale, isa, row=width * pixel, pixel=pixel, size=p["size"],
        images=p["images"], dilation=p["dilation"], groups=groups, out=out,
        residual="first" if residual else "", threads=p["threads"],
        tile=isa.tiles[0] if p["tile"] else None,
        other_scale=other_multiplier * 2.0**-shift,
    )  # fmt: skip
    calls = []
    for slot, part in enumerate(parts):
        record = conv.ConvRecord(
            sync=arena.sync, slot=slot, source=source, source_row=sy * width * pixel,
            source_pixel=sx * pixel, source_image=height * width * pixel,
            taps=arena.place(part.taps), weights=arena.place(part.weights),
            bias=arena.place(part.bias), scale=arena.place(part.scale),
            target=inner.ctypes.data + size * part.channel, target_row=size * columns * n,
            target_pixel=size * n, target_image=size * rows * columns * n,
            zero=zero, lo=lo, hi=hi, other=arena.place(other) + part.channel,
            other_row=p["size"][1] * n, other_pixel=n, other_image=p["size"][0] * p["size"][1] * n,
            other_zero=7, other_scale=other_multiplier * 2.0**-shift, table=arena.place(table),
            **part.fields,
        )  # fmt: skip
        calls.append((part.kernel, record))
    arena.run(isa, *calls)

    if out == "s32":
        expected = acc
    elif out == "f32":
        expected = acc.astype(np.float32) * scale
    else:
        total = acc.astype(object) * multipliers.astype(object)
        total = total + (other.astype(object) - 7) * other_multiplier
        expected = requantize(total, shift, zero, lo, hi)
        if out == "lut":
            expected = table[(expected - lo).astype(int)]
    np.testing.assert_array_equal(inner, expected.astype(kind))
    inner[...] = 77
    assert (target == 77).all()


@pytest.mark.parametrize("isa", ISAS, ids=lambda i: i.name)
@settings(max_examples=EXAMPLES, deadline=None)
@given(p=problems())
def test_convolution(isa, p):
    check(isa, p)


@pytest.mark.parametrize("isa", ISAS, ids=lambda i: i.name)
def test_long_sum_wraps_like_int32(isa):
    """K = 100,000 of extreme products: past 2^31, modulo 2^32."""
    p = {
        "size": (1, 3), "kernel": (1, 1), "stride": (1, 1), "dilation": (1, 1), "channels": 100_000,
        "groups": 1, "n": 16, "images": 1, "residual": False, "threads": 2, "seed": 0, "tile": True,
        "extreme": True,
    }  # fmt: skip
    for out in ("s32", "u8"):
        check(isa, {**p, "out": out})


@pytest.mark.parametrize("isa", ISAS, ids=lambda i: i.name)
@settings(max_examples=12, deadline=None)
@given(
    p=problems(),
    activation=st.sampled_from(["clamp", "hard_swish", "swish", "prelu"]),
    residual=st.sampled_from(["", "first", "last"]),
)
def test_float_convolution(isa, p, activation, residual):
    """float32 against float64 sums: within a few units in the last place of the sum of sizes."""
    rng = np.random.default_rng(p["seed"])
    (kh, kw), (sy, sx), (dy, dx) = p["kernel"], p["stride"], p["dilation"]
    shape = (
        p["images"],
        (p["size"][0] - 1) * sy + (kh - 1) * dy + 1,
        (p["size"][1] - 1) * sx + (kw - 1) * dx + 1,
        p["channels"] * p["groups"],
    )
    arena, n = Arena(p["threads"]), p["n"]
    alpha = 1.5 if activation == "swish" else 0.0
    image = arena.empty(shape, np.float32, rng.normal(size=shape))
    weights = rng.normal(size=(n, kh, kw, p["channels"])).astype(np.float32)
    bias = rng.normal(size=n).astype(np.float32)
    target = arena.empty((p["images"], *p["size"], n), np.float32)
    other = arena.empty(target.shape, np.float32, rng.normal(size=target.shape))
    slopes = rng.normal(size=n).astype(np.float32)
    parts = conv.prepare(
        weights, bias, slopes, isa, row=image.strides[1], pixel=image.strides[2], size=p["size"],
        images=p["images"], dilation=p["dilation"], groups=p["groups"], out="float",
        residual=residual, threads=p["threads"], activation=activation,
    )  # fmt: skip
    calls = []
    for slot, part in enumerate(parts):
        record = conv.ConvRecord(
            sync=arena.sync, slot=slot, source=image.ctypes.data, source_row=sy * image.strides[1],
            source_pixel=sx * image.strides[2], source_image=image.strides[0],
            taps=arena.place(part.taps), weights=arena.place(part.weights),
            bias=arena.place(part.bias), scale=arena.place(part.scale),
            target=target.ctypes.data + 4 * part.channel, target_row=target.strides[1],
            target_pixel=target.strides[2],
            target_image=target.strides[0], other=other.ctypes.data + 4 * part.channel,
            other_row=other.strides[1], other_pixel=other.strides[2], other_image=other.strides[0],
            low=alpha, high=6.0, **part.fields,
        )  # fmt: skip
        calls.append((part.kernel, record))
    arena.run(isa, *calls)

    def sums(x, w):
        return accumulate(x, w, p["size"], p["stride"], p["dilation"], p["groups"], np.float64)

    total = sums(image, weights) + bias + (other if residual == "first" else 0)
    if activation == "clamp":
        expected = np.clip(total, 0, 6)
    elif activation == "prelu":
        expected = np.where(total >= 0, total, total * slopes)
    elif activation == "hard_swish":
        expected = total * np.clip(total / 6 + 0.5, 0, 1)
    else:
        expected = total / (1 + np.exp(-alpha * total))
    expected = expected + (other if residual == "last" else 0)
    room = (sums(abs(image), abs(weights)) + abs(bias) + abs(other)) * np.maximum(abs(slopes), 1)
    assert (abs(target - expected) <= 1e-6 * (room + abs(expected))).all()


def test_few_pixels_take_a_flat_tile_and_no_tile_is_wider_than_the_layer():
    tiles = TABLES["avx512vnni"].float_tiles
    chosen = {(p, v): conv.best_tile(p, v, tiles) for p in (2, 4, 5, 49, 196) for v in (1, 2, 4, 8)}
    assert chosen[5, 8] == (5, 4) and chosen[4, 4] == (4, 4) and chosen[196, 8] == (14, 2)
    assert all(wide <= max(2, vectors) for (_, vectors), (_, wide) in chosen.items())
