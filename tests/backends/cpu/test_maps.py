"""Element-wise, pooling, depthwise and frame kernels against NumPy, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import ISAS, Arena, accumulate, requantize, wrap
from taut.backends.cpu.kernels import depthwise, frame, grid, maps, pool, shuffle, stairs

every_isa = pytest.mark.parametrize("isa", ISAS, ids=lambda i: i.name)
few = settings(max_examples=15, deadline=None)
sizes = st.tuples(st.integers(1, 2), st.integers(1, 5), st.integers(1, 19))
seeds = st.integers(0, 2**16)
threads = st.integers(1, 2)
KINDS = {"u8": np.uint8, "s16": np.int16, "s32": np.int32}


def operand(rng, kind, shape):
    bounds = np.iinfo(KINDS[kind])
    wide = rng.integers(bounds.min, bounds.max + 1, shape)
    return np.where(rng.random(shape) < 0.2, rng.choice([bounds.min, bounds.max], shape), wide)


def strides(array, prefix):
    """The record's address and strides of an NHWC array (an arena's, or a view of one)."""
    names = ("image", "row", "pixel")
    return {prefix: array.ctypes.data} | {
        f"{prefix}_{name}": stride for name, stride in zip(names, array.strides)
    }


@every_isa
@few
@given(
    operands=st.sampled_from(["u8", "s32", "u8_u8", "s32_u8", "u8_u8_u8", "s16"]),
    mode=st.sampled_from(["fast", "even", "up", "floor"]),
    per_channel=st.booleans(),
    out=st.sampled_from(["u8", "s16", "lut"]),
    size=sizes,
    seed=seeds,
    nt=threads,
)
def test_requantize(isa, operands, mode, per_channel, out, size, seed, nt):
    rng, kinds = np.random.default_rng(seed), operands.split("_")
    channels, arena = 32, Arena(nt)
    shape = (*size, channels)
    # Doubles are exact up to shift 35 for 16 bits, and for anything with one operand.
    top = 45 if len(kinds) == 1 or out == "u8" else 36
    shift = int(rng.integers(0, top if mode == "fast" else 60))
    total, fields = np.zeros(shape, object), {}
    for name, kind in zip("abc", kinds):
        x = operand(rng, kind, shape)
        zero = 0 if kind == "s32" else int(rng.integers(0, 200))
        limit = max(2, min(2**31, 2 ** int(rng.integers(1, shift + 2))))
        m = rng.integers(0 if kind == "s32" else -limit + 1, limit, channels if per_channel else 1)
        total = total + (x.astype(object) - zero) * m.astype(object)
        factors = m * 2.0**-shift if mode == "fast" else m.astype(np.int64)
        placed = arena.empty(shape, KINDS[kind], x)
        fields |= strides(placed, name) | {
            f"{name}_zero": zero,
            f"{name}_scale": arena.place(factors),
        }
    zero, lo, hi = {"u8": (7, 3, 250), "s16": (-5, -3000, 3000), "lut": (9, -2048, 2047)}[out]
    table = rng.integers(0, 256, hi - lo + 1, dtype=np.uint8)
    target = arena.empty(shape, KINDS.get(out, np.uint8))
    record = maps.MapRecord(
        sync=arena.sync, **grid.share(size[1], size[0], nt), rows=size[1], width=size[2],
        channels=channels, **strides(target, "target"), **fields, zero=zero, lo=lo, hi=hi,
        shift=shift, table=arena.place(table),
    )  # fmt: skip
    kernel = maps.requantize_kernel(operands, per_channel=per_channel, out=out, rounding=mode)
    arena.run(isa, (kernel, record))
    if mode == "up":
        expected = np.clip(((total + ((1 << shift) >> 1)) >> shift) + zero, lo, hi)
    elif mode == "floor":
        expected = np.clip((total >> shift) + zero, lo, hi)
    else:
        expected = requantize(total, shift, zero, lo, hi)
    if out == "lut":
        expected = table[(expected - lo).astype(int)]
    np.testing.assert_array_equal(target, expected.astype(target.dtype))


@every_isa
@few
@given(size=sizes, out=st.sampled_from(["u8", "lut"]), seed=seeds, nt=threads)
def test_multiply_broadcasts(isa, size, out, seed, nt):
    rng, arena = np.random.default_rng(seed), Arena(nt)
    a = arena.empty((*size, 16), np.uint8, rng.integers(0, 256, (*size, 16)))
    b = arena.empty((size[0], 1, 1, 16), np.uint8, rng.integers(0, 256, (size[0], 1, 1, 16)))
    m, shift = int(rng.integers(1, 2**31)), int(rng.integers(25, 45))
    zero, lo, hi = (4, 0, 255) if out == "u8" else (0, -100, 100)
    table = rng.integers(0, 256, hi - lo + 1, dtype=np.uint8)
    target = arena.empty(a.shape, np.uint8)
    wide = strides(b, "b") | {"b_row": 0, "b_pixel": 0}
    record = maps.MapRecord(
        sync=arena.sync, **grid.share(size[1], size[0], nt), rows=size[1], width=size[2],
        channels=16, **strides(target, "target"), **strides(a, "a"), **wide, a_zero=128, b_zero=3,
        a_scale=arena.place(np.array([m * 2.0**-shift])), zero=zero, lo=lo, hi=hi,
        table=arena.place(table),
    )  # fmt: skip
    arena.run(isa, (maps.multiply_kernel(out), record))
    total = (a.astype(object) - 128) * (b.astype(object) - 3) * m
    expected = requantize(total, shift, zero, lo, hi)
    if out == "lut":
        expected = table[(expected - lo).astype(int)]
    np.testing.assert_array_equal(target, expected.astype(np.uint8))


@every_isa
@few
@given(size=sizes, seed=seeds, nt=threads)
def test_lookup(isa, size, seed, nt):
    rng, arena = np.random.default_rng(seed), Arena(nt)
    a = arena.empty((*size, 48), np.uint8, rng.integers(0, 256, (*size, 48)))
    table = rng.integers(0, 256, 256, dtype=np.uint8)
    target = arena.empty(a.shape, np.uint8)
    width, channels = grid.flatten(size[2], 48, [(48, 1), (48, 1)])
    record = maps.MapRecord(
        sync=arena.sync, **grid.share(size[1], size[0], nt), rows=size[1], width=width,
        channels=channels, **strides(target, "target"), **strides(a, "a"),
        table=arena.place(table),
    )  # fmt: skip
    arena.run(isa, (maps.LOOKUP, record))
    np.testing.assert_array_equal(target, table[a])


AWKWARD = np.array([np.nan, np.inf, -np.inf, 0.5, 1.5, -0.5, 1e30, -1e-30], np.float32)


def quantized(x, scale, zero, lo, hi):
    with np.errstate(all="ignore"):
        q = np.rint(x / np.float32(scale)) + np.float32(zero)
    return np.clip(np.where(np.isnan(q), zero, q), lo, hi).astype(np.uint8)


@every_isa
@few
@given(size=sizes, seed=seeds, nt=threads)
def test_quantize_and_dequantize(isa, size, seed, nt):
    rng, arena = np.random.default_rng(seed), Arena(nt)
    x = arena.empty((*size, 16), np.float32, rng.normal(0, 50, (*size, 16)))
    x.reshape(-1)[: len(AWKWARD)] = AWKWARD
    q, back = arena.empty(x.shape, np.uint8), arena.empty(x.shape, np.float32)
    scale = float(np.float32(rng.choice([1.0, 0.37, 2.5])))
    share = {
        "sync": arena.sync, **grid.share(size[1], size[0], nt), "rows": size[1], "width": size[2],
        "channels": 16, "scale": scale, "zero": 101, "lo": 2, "hi": 240,
    }  # fmt: skip
    first = maps.FloatRecord(**share, **strides(q, "target"), **strides(x, "a"))
    second = maps.FloatRecord(**share, **strides(back, "target"), **strides(q, "a"))
    arena.run(isa, (maps.QUANTIZE, first), (maps.DEQUANTIZE, second))
    np.testing.assert_array_equal(q, quantized(x, scale, 101, 2, 240))
    np.testing.assert_array_equal(back, (q.astype(np.float32) - 101) * np.float32(scale))


@every_isa
@few
@given(size=sizes, planes=st.integers(1, 9), seed=seeds, nt=threads,
       kind=st.sampled_from(["quantize", "u8", "f32"]))  # fmt: skip
def test_planes_to_pixels_and_back(isa, size, planes, seed, nt, kind):
    rng, arena = np.random.default_rng(seed), Arena(nt)
    images, rows, width = size
    item = np.uint8 if kind == "u8" else np.float32
    plane = arena.empty(
        (images, planes, rows, width), item, rng.integers(0, 256, (images, planes, rows, width))
    )
    channels = -(-planes // 4) * 4
    # A border of one pixel around the pixels, which stays as it is.
    whole = arena.empty(
        (images, rows + 2, width + 2, channels), np.float32 if kind == "f32" else np.uint8
    )
    whole[...] = 77
    pixels = whole[:, 1:-1, 1:-1]
    names = ("plane_image", "plane_channel", "plane_row")
    fields = {
        "sync": arena.sync, **grid.share(rows, images, nt), "rows": rows, "width": width,
        "channels": channels, **strides(pixels, "target"), "planes": planes, "scale": 0.5,
        "zero": 9, "flip": 128 if kind == "u8" else 0, **dict(zip(names, plane.strides)),
    }  # fmt: skip
    back = arena.empty(plane.shape, item)
    into = frame.PlanarRecord(**fields, plane=plane.ctypes.data)
    out = frame.PlanarRecord(**fields, plane=back.ctypes.data)
    reverse = {"quantize": "dequantize"}.get(kind, kind)
    arena.run(isa, (frame.from_planes_kernel(kind), into), (frame.to_planes_kernel(reverse), out))
    nhwc = plane.transpose(0, 2, 3, 1)
    expected = {"quantize": quantized(nhwc, 0.5, 9, 0, 255), "u8": nhwc.astype(np.uint8) ^ 128,
                "f32": nhwc}[kind]  # fmt: skip
    np.testing.assert_array_equal(pixels[..., :planes], expected)
    assert (pixels[..., planes:] == (0 if kind == "f32" else 9)).all()
    if kind == "quantize":
        returned = (pixels[..., :planes].astype(np.float32) - 9) * np.float32(0.5)
        np.testing.assert_array_equal(back, returned.transpose(0, 3, 1, 2))
    else:
        np.testing.assert_array_equal(back, plane)
    pixels[...] = 77
    assert (whole == 77).all()


@every_isa
@few
@given(size=sizes, window=st.sampled_from([(1, 1), (2, 3), (3, 3), (3, 1), (6, 5), (1, 30)]),
       stride=st.tuples(st.integers(1, 2), st.integers(1, 2)), seed=seeds, nt=threads)  # fmt: skip
def test_pooling(isa, size, window, stride, seed, nt):
    rng, arena = np.random.default_rng(seed), Arena(nt)
    images, rows, width = size
    height = (rows - 1) * stride[0] + window[0]
    across = (width - 1) * stride[1] + window[1]
    x = arena.empty(
        (images, height, across, 32), np.uint8, rng.integers(0, 256, (images, height, across, 32))
    )
    windows = np.stack([
        x[:, y:, z:][:, :: stride[0], :: stride[1]][:, :rows, :width]
        for y in range(window[0]) for z in range(window[1])
    ])  # fmt: skip
    largest, average = arena.empty((*size, 32), np.uint8), arena.empty((*size, 32), np.uint8)
    m = int(2**30 / windows.shape[0])
    fields = {
        "sync": arena.sync, **grid.share(rows, images, nt), "rows": rows, "width": width,
        "channels": 32, "source": x.ctypes.data, "source_image": x.strides[0],
        "source_row": x.strides[1] * stride[0], "source_pixel": x.strides[2] * stride[1],
        "height": window[0], "window": window[1], "tap_row": x.strides[1],
        "tap_pixel": x.strides[2], "a_zero": 20, "zero": 30,
        "scale": arena.place(np.array([m * 2.0**-30])),
    }  # fmt: skip
    arena.run(
        isa,
        (pool.max_kernel("u8", window), pool.PoolRecord(**fields, **strides(largest, "target"))),
        (pool.SUM, pool.PoolRecord(**fields, **strides(average, "target"))),
    )
    np.testing.assert_array_equal(largest, windows.max(0))
    total = (windows.astype(np.int64) - 20).sum(0).astype(object) * m
    np.testing.assert_array_equal(average, requantize(total, 30, 30, 0, 255).astype(np.uint8))


@every_isa
@few
@given(
    size=sizes,
    window=st.sampled_from([(3, 3), (5, 5), (1, 3), (7, 7)]),
    stride=st.integers(1, 2),
    dilation=st.integers(1, 2),
    out=st.sampled_from(["u8", "s32", "lut", "stairs"]),
    extreme=st.booleans(),
    residual=st.booleans(),
    seed=seeds,
    nt=threads,
)
def test_depthwise(isa, size, window, stride, dilation, out, extreme, residual, seed, nt):
    rng, arena = np.random.default_rng(seed), Arena(nt)
    images, rows, width = size
    channels = 32
    height = (rows - 1) * stride + (window[0] - 1) * dilation + 1
    across = (width - 1) * stride + (window[1] - 1) * dilation + 1
    x = arena.empty((images, height, across, channels), np.uint8,
                    rng.integers(0, 256, (images, height, across, channels)))  # fmt: skip
    w = rng.integers(-128, 128, (channels, *window)).astype(np.int8)
    if extreme:
        x[...] = rng.choice([0, 255], x.shape)
        w = rng.choice([-128, 127], w.shape).astype(np.int8)
    bias = rng.integers(-9999, 9999, channels).astype(np.int32)
    shift = int(rng.integers(20, 45))
    m = rng.integers(0, min(2**31, max(2, 2 ** (shift - 4))), channels)
    if out == "stairs" and not isa.vbmi:
        out = "lut"
    table = rng.integers(0, 256, 4096, dtype=np.uint8)
    zero, lo, hi = (50, 3, 250) if out in ("u8", "s32") else (0, -2048, 2047)
    given, start = table, 0
    if out == "stairs":
        shift = max(shift, 32)  # then sums are bounded
        table = (np.arange(4096) // 16).astype(np.uint8) ^ np.uint8(seed % 256)
        table[: seed % 2048] = 9
        made = stairs.staircase(table)
        if made is None:
            return
        given, start = made[0], made[1] - lo
    target = arena.empty((*size, channels), np.int32 if out == "s32" else np.uint8)
    # Two terms are exact in double precision up to this shift.
    residual = residual and out != "s32" and (out == "u8" or shift <= 35)
    other = arena.empty((*size, channels), np.uint8, rng.integers(0, 256, (*size, channels)))
    factor = int(rng.integers(-(2**20), 2**20)) if residual else 0
    record = depthwise.DepthwiseRecord(
        sync=arena.sync, **grid.share(rows, images, nt), rows=rows, width=width, channels=channels,
        **strides(target, "target"), source=x.ctypes.data, source_image=x.strides[0],
        source_row=x.strides[1] * stride, source_pixel=x.strides[2] * stride,
        tap_row=x.strides[1] * dilation, tap_pixel=x.strides[2] * dilation,
        weights=arena.place(depthwise.pack(w, isa, stride, dilation, out)),
        bias=arena.place(bias), scale=arena.place(m * 2.0**-shift), zero=zero + start,
        lo=lo + start, hi=hi + start, table=arena.place(given), **strides(other, "other"),
        other_zero=7,
        other_scale=factor * 2.0**-shift,
    )  # fmt: skip
    order, bounded = "first" if residual else "", out == "u8" and shift >= 34
    kernel = depthwise.kernel(window, stride, dilation, out, residual=order, bounded=bounded)
    arena.run(isa, (kernel, record))
    acc = accumulate(
        x, w[..., None], (rows, width), (stride, stride), (dilation, dilation), channels
    )
    acc = wrap(acc + bias)
    if out == "s32":
        expected = acc
    else:
        total = acc.astype(object) * m.astype(object) + (other.astype(object) - 7) * factor
        expected = requantize(total, shift, zero, lo, hi)
        if out in ("lut", "stairs"):
            expected = table[(expected - lo).astype(int)]
    np.testing.assert_array_equal(target, expected.astype(target.dtype))


@every_isa
def test_halo(isa):
    arena = Arena(2)
    x = arena.empty((2, 7, 9, 16), np.uint8)
    x[...] = 5
    record = frame.HaloRecord(
        sync=arena.sync, chunks=2, target=x.ctypes.data, image=x.strides[0], rows=7,
        row=x.strides[1], width=x.strides[1], top=1, bottom=2, left=16, right=32, value=200,
    )  # fmt: skip
    arena.run(isa, (frame.HALO, record))
    expected = np.full_like(x, 200)
    expected[:, 1:5, 1:7] = 5
    np.testing.assert_array_equal(x, expected)


@every_isa
@few
@given(
    size=sizes,
    groups=st.integers(2, shuffle.MOST),
    per=st.sampled_from([16, 17, 30, 48]),
    kind=st.sampled_from([np.uint8, np.float32]),
    nt=threads,
)
def test_shuffle(isa, size, groups, per, kind, nt):
    arena, channels = Arena(nt), groups * per
    shape, item = (*size, channels), np.dtype(kind).itemsize
    x = arena.empty(shape, kind, np.random.default_rng(0).integers(0, 200, shape))
    # Room for one more channel: nothing may be written to it.
    room = arena.empty((*size, channels + 1), kind)
    room[...] = 77
    record = shuffle.ShuffleRecord(
        sync=arena.sync, **grid.share(size[1], size[0], nt), rows=size[1], width=size[2],
        channels=per, **strides(room, "target"), **strides(x, "source"), group=per * item,
    )  # fmt: skip
    arena.run(isa, (shuffle.kernel(groups, item), record))
    dealt = x.reshape(*size, groups, per).swapaxes(-1, -2).reshape(shape)
    np.testing.assert_array_equal(room[..., :channels], dealt)
    assert (room[..., channels] == 77).all()


@every_isa
@few
@given(
    size=sizes,
    window=st.sampled_from([(3, 3), (5, 5), (1, 3), (7, 7)]),
    stride=st.integers(1, 2),
    dilation=st.integers(1, 2),
    activation=st.sampled_from(["clamp", "hard_swish", "prelu"]),
    residual=st.sampled_from(["", "first", "last"]),
    seed=seeds,
    nt=threads,
)
def test_float_depthwise(isa, size, window, stride, dilation, activation, residual, seed, nt):
    """Against float64, within a few units in the last place of the sum of sizes."""
    rng, arena = np.random.default_rng(seed), Arena(nt)
    images, rows, width = size
    height = (rows - 1) * stride + (window[0] - 1) * dilation + 1
    across = (width - 1) * stride + (window[1] - 1) * dilation + 1
    shape = (images, height, across, 32)
    x = arena.empty(shape, np.float32, rng.normal(size=shape))
    other = arena.empty((*size, 32), np.float32, rng.normal(size=(*size, 32)))
    w = rng.normal(size=(32, *window)).astype(np.float32)
    bias, slopes = (rng.normal(size=32).astype(np.float32) for _ in range(2))
    target = arena.empty((*size, 32), np.float32)
    record = depthwise.DepthwiseRecord(
        sync=arena.sync, **grid.share(rows, images, nt), rows=rows, width=width, channels=32,
        **strides(target, "target"), source=x.ctypes.data, source_image=x.strides[0],
        source_row=x.strides[1] * stride, source_pixel=x.strides[2] * stride,
        tap_row=x.strides[1] * dilation, tap_pixel=x.strides[2] * dilation,
        weights=arena.place(depthwise.pack(w, isa, stride, dilation, "float")),
        bias=arena.place(bias), scale=arena.place(slopes), low=0.0, high=6.0,
        **strides(other, "other"),
    )  # fmt: skip
    pixels = depthwise.tile(width, isa, "float")
    kernel = depthwise.kernel(window, stride, dilation, "float", activation, residual, pixels)
    arena.run(isa, (kernel, record))

    def sums(x, w):
        across = ((stride, stride), (dilation, dilation), 32, np.float64)
        return accumulate(x, w[..., None], (rows, width), *across)

    total = sums(x, w) + bias + (other if residual == "first" else 0)
    expected = {
        "clamp": np.clip(total, 0, 6),
        "hard_swish": total * np.clip(total / 6 + 0.5, 0, 1),
        "prelu": np.where(total >= 0, total, total * slopes),
    }[activation] + (other if residual == "last" else 0)
    room = (sums(abs(x), abs(w)) + abs(bias) + abs(other)) * np.maximum(abs(slopes), 1)
    assert (abs(target - expected) <= 1e-6 * (room + abs(expected))).all()


def climbed(made):
    """What the tables of a staircase say of each index."""
    tables, shift = made
    first, pair, last = tables.reshape(3, 256).astype(int)
    bucket, entry = np.divmod(np.arange(4096), 16)
    count = sum((entry > t[bucket]).astype(int) for t in (pair & 15, pair >> 4, last & 15))
    return (first[bucket] + np.where(last[bucket] > 127, -count, count))[shift:]


@settings(max_examples=60, deadline=None)
@given(seed=seeds, n=st.integers(1, 4096), steep=st.floats(0, 0.3))
def test_staircases(seed, n, steep):
    rng = np.random.default_rng(seed)
    slope = rng.uniform(-steep, steep) * np.sin(np.linspace(0, rng.uniform(0, 9), n))
    table = np.clip(np.rint(90 + np.cumsum(slope)), 0, 255).astype(np.uint8)
    made = stairs.staircase(table)
    if steep < 0.1:  # at most two steps in 16 entries; a turn may need another start
        assert made is not None or np.any(np.diff(np.sign(slope)))
    if made is not None:
        np.testing.assert_array_equal(climbed(made)[:n], table)
    assert stairs.staircase(rng.permutation(np.arange(4096) % 256).astype(np.uint8)) is None
    assert stairs.staircase(np.zeros(4097, np.uint8)) is None
