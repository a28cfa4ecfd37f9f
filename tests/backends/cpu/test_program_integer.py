"""Integer programs against the reference, bit for bit, on generated graphs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from taut.backends.cpu import compile
from taut.backends.cpu.codegen import isa
from taut.ir import Builder, DType, interpret

NAMES = [t.name for t in isa.available()]


class Maker:
    """Grows a random integer graph over images of one batch size."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.b = Builder()

    def pick(self, *choices):
        return choices[self.rng.integers(len(choices))]

    def weights(self, *shape):
        if self.pick(0, 0, 0, 1):
            return self.rng.choice(np.array([-128, 127], np.int8), shape)
        return self.rng.integers(-128, 128, shape, dtype=np.int8)

    def scaling(self, count: int, size: float):
        """Multipliers and a shift that bring values of about `size` into eight bits; sometimes a
        power of two, where ties are common."""
        shift = int(self.rng.integers(20, 45))
        m = np.exp2(shift) * 60 / max(size, 1) * self.rng.uniform(0.5, 2, count)
        if self.pick(0, 0, 1):
            m = np.exp2(np.rint(np.log2(m)))
        shift_down = max(0, int(np.ceil(np.log2(max(m.max(), 1) / (2**31 - 1)))))
        return np.maximum(1, np.rint(m / 2.0**shift_down)).astype(np.int32), shift - shift_down

    def limits(self, dtype=DType.u8):
        low, high = dtype.bounds
        zero = int(self.rng.integers(0, 100))
        lo = self.pick(low, zero, low + 5)
        return {"zero_point": zero, "lo": max(lo, low), "hi": self.pick(high, high - 20, None)}

    def rescale(self, acc, size: float, other=None, **kind):
        count = self.pick(1, acc.shape[kind.get("axis", 1)])
        m, shift = self.scaling(count, size)
        m = m.reshape(()) if count == 1 else m
        shift = max(shift, 0)
        operands, zeros = [acc, m], [0]
        if other is not None:
            factor = 2.0**shift * self.rng.uniform(-1.5, 1.5)
            factor = np.int32(np.clip(factor, 1 - 2**31, 2**31 - 1))
            operands += [other, factor]
            zeros.append(int(self.rng.integers(0, 256)))
            if self.pick(0, 1):
                operands, zeros = operands[2:] + operands[:2], zeros[::-1]
        options = {"dtype": DType.u8, **self.limits(), **kind}
        return self.b.requantize(*operands, shift=shift, zero_points=tuple(zeros), **options)

    def conv(self, x, out: int, kernel: int, *, stride=1, group=1, pad=None, residual=None,
             dilation=1, table=False):  # fmt: skip
        c = x.shape[1]
        if group == c > 1:
            out = c
        w = self.weights(out, c // group, kernel, kernel)
        bias = self.rng.integers(-5000, 5000, out).astype(np.int32) if self.pick(0, 1) else None
        xz = np.uint8(self.rng.integers(0, 256))
        wz = self.pick(None, np.int8(0))
        pad = (kernel - 1) * dilation // 2 if pad is None else pad
        acc = self.b.conv_integer(
            x, w, xz, wz, bias, strides=(stride,) * 2, pads=(pad,) * 4, group=group,
            dilations=(dilation,) * 2,
        )  # fmt: skip
        size = 128 * 70 * np.sqrt(np.prod(w.shape[1:]))
        if residual is not None and residual.shape != acc.shape:
            residual = None
        if table:
            made = self.rescale(acc, size / 16, residual, dtype=DType.i16, lo=-1500, hi=1700,
                                zero_point=3)  # fmt: skip
            entries = self.rng.integers(0, 256, self.pick(3201, 900), dtype=np.uint8)
            if self.pick(0, 1, 1):  # as curved activations give
                entries = hills(self.rng, self.pick(3201, 900))
            return self.b.lookup(made, entries, low=-1500)
        return self.rescale(acc, size, residual)

    def step(self, x, history):
        kind = self.pick(
            "one", "one", "three", "five", "depthwise", "grouped", "residual", "table", "add",
            "lookup", "max", "mean", "scale", "dilated", "concat", "shuffle", "spread",
        )  # fmt: skip
        c, out = x.shape[1], int(self.pick(1, 4, 7, 16, 24, 32, 40))
        small = min(x.shape[2:]) < 3
        match kind:
            case "one":
                return self.conv(x, out, 1, stride=self.pick(1, 1, 2))
            case "three":
                return self.conv(x, out, 3, stride=self.pick(1, 2))
            case "five":
                return self.conv(x, out, 5, stride=self.pick(1, 2), pad=self.pick(2, 3))
            case "dilated":
                return self.conv(x, out, 3, dilation=2)
            case "depthwise" if c > 1:
                return self.conv(x, c, self.pick(3, 5), stride=self.pick(1, 2), group=c,
                                 table=self.pick(False, True))  # fmt: skip
            case "grouped":
                groups = self.pick(*[g for g in range(1, c + 1) if c % g == 0])
                return self.conv(x, groups * self.pick(1, 5, 16), 3, group=groups)
            case "residual":
                return self.conv(x, c, self.pick(1, 3), residual=x)
            case "table":
                return self.conv(x, out, 3, table=True)
            case "add":
                match = [h for h in history if h.shape == x.shape]
                return self.rescale(x, 200.0, self.pick(*match), axis=1)
            case "lookup":
                n = self.pick(256, 100)
                entries = self.rng.integers(0, 256, n, dtype=np.uint8)
                return self.b.lookup(x, entries, low=self.pick(0, 256 - n))
            case "max" if not small:
                return self.b.max_pool(x, kernel_shape=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1))
            case "mean" if not small:
                acc = self.b.sum_pool_integer(x, kernel_shape=(2, 3), strides=(1, 2),
                                              pads=(0, 1, 1, 1), x_zero_point=9)  # fmt: skip
                if self.pick(0, 1):
                    counts = self.rng.integers(1, 9, acc.shape[2:]).astype(np.int32)
                    acc = self.b.mul(acc, self.pick(counts, counts[None, None]))
                return self.rescale(acc, 900.0)
            case "scale":
                other = self.pick(x, self.squeeze(x))
                acc = self.b.mul_integer(x, other, a_zero_point=3, b_zero_point=250)
                return self.rescale(acc, 20000.0)
            case "shuffle":
                groups = self.pick(1, 2, 4)
                y = self.conv(self.conv(x, 8 * groups, 1), groups * self.pick(3, 16, 17), 1,
                              group=groups, table=self.pick(False, True))  # fmt: skip
                n, c, *rest = y.shape
                y = self.b.reshape(y, np.array([n, groups, c // groups, *rest]))
                y = self.b.transpose(y, perm=(0, 2, 1, 3, 4))
                return self.b.reshape(y, np.array([n, c, *rest]))
            case "spread" if max(x.shape[2:]) < 20:
                y = self.conv(x, 4 * self.pick(1, 3, 16), 3, table=self.pick(False, True))
                return self.b.depth_to_space(y, blocksize=2, mode=self.pick("DCR", "CRD"))
            case "concat":
                match = [h for h in history if h.shape[2:] == x.shape[2:]]
                return self.b.concat(x, self.pick(*match), self.conv(x, out, 1), axis=1)
        return self.conv(x, out, 1)

    def squeeze(self, x):
        acc = self.b.sum_pool_integer(x, x_zero_point=7)
        mean = self.rescale(acc, 100.0 * np.prod(x.shape[2:]))
        return self.conv(mean, x.shape[1], 1)

    def build(self, steps: int):
        size = (int(self.rng.integers(5, 14)), int(self.rng.integers(5, 14)))
        n, c = int(self.pick(1, 1, 2)), int(self.pick(1, 3, 8, 16))
        x = self.b.input("x", "f32", (n, c, *size))
        q = self.b.quantize_linear(x, np.float32(0.02), np.uint8(self.rng.integers(0, 256)))
        history = [q]
        for _ in range(steps):
            history.append(self.step(history[-1], history))
        last = history[-1]
        flat = self.b.flatten(self.squeeze(last))
        k = flat.shape[1]
        acc = self.b.mat_mul_integer(
            flat, self.weights(k, 10), np.uint8(self.rng.integers(0, 256)), np.int8(0),
            self.rng.integers(-999, 999, 10).astype(np.int32),
        )  # fmt: skip
        if self.pick(0, 1):
            logits = self.b.dequantize_linear(acc, np.float32(0.01))
        else:
            factors = self.pick(np.float32(0.3), self.rng.random(10, np.float32))
            logits = self.b.mul(self.b.cast(acc, to=DType.f32), factors)
        image = self.b.dequantize_linear(last, np.float32(0.1), np.uint8(5))
        graph = self.b.outputs(logits=logits, image=image, bytes=history[len(history) // 2])
        data = self.rng.standard_normal((n, c, *size), np.float32) * 3
        data.flat[0] = self.pick(np.nan, np.inf, 0.01, 1e9)
        return graph, {"x": data}


def hills(rng, n):
    """A table that goes up and down by steps of one, seldom more than three in sixteen entries."""
    slope = 0.05 + 0.1 * np.sin(np.linspace(0, rng.uniform(2, 9), n))
    return np.clip(np.rint(40 + np.cumsum(slope)), 0, 255).astype(np.uint8)


def identical(graph, feeds, **options):
    program = compile(graph, **options)
    made, expected = program(**feeds), interpret(graph, feeds)
    for name, array in expected.items():
        assert made[name].dtype == array.dtype and made[name].shape == array.shape
        np.testing.assert_array_equal(made[name], array, err_msg=name)
    return program


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), steps=st.integers(1, 6), threads=st.integers(1, 2),
    name=st.sampled_from(NAMES),
)  # fmt: skip
def test_generated(seed, steps, threads, name):
    graph, feeds = Maker(seed).build(steps)
    program = identical(graph, feeds, threads=threads, isa=name)
    assert program.fallbacks == []


@pytest.mark.parametrize("name", NAMES[:1])
def test_every_rounding_and_type(name):
    """Ties, saturation and signs in the element-wise ops, outside groups."""
    rng = np.random.default_rng(1)
    b = Builder()
    x = b.input("x", "i32", (3, 40))
    s = b.input("s", "i8", (3, 40))
    w = b.input("w", "i16", (3, 40))
    outputs = {}
    for rounding in ("half_even", "half_up", "floor"):
        for dtype in (DType.u8, DType.i8, DType.i16, DType.u16):
            low, high = dtype.bounds
            options = {"dtype": dtype, "lo": low, "hi": high - 7, "rounding": rounding}
            outputs[f"{rounding}_{dtype.value}"] = b.requantize(
                x, np.int32(1 << 20), shift=22, zero_point=max(low, -9), **options
            )
            outputs[f"{rounding}_{dtype.value}_two"] = b.requantize(
                x, np.arange(40).astype(np.int32), s, np.int32(-77), w, np.int32(5), axis=1,
                zero_points=(0, 3, -4), shift=8, **options,
            )  # fmt: skip
    outputs["table"] = b.lookup(w, rng.integers(-9, 9, 300).astype(np.int16), low=-150)
    outputs["product"] = b.mul_integer(s, w, a_zero_point=-128, b_zero_point=32767)
    feeds = {
        "x": rng.integers(-3000, 3000, (3, 40)).astype(np.int32),
        "s": rng.integers(-128, 128, (3, 40)).astype(np.int8),
        "w": rng.integers(-200, 200, (3, 40)).astype(np.int16),
    }
    feeds["x"][0, :3] = (2**31 - 1, -(2**31), 2)
    assert identical(b.outputs(**outputs), feeds, isa=name, threads=2).fallbacks == []


@pytest.mark.parametrize("name", NAMES)
def test_signed_data_and_shifted_weights(name):
    rng = np.random.default_rng(2)
    b = Builder()
    x = b.input("x", "i8", (2, 5, 9, 8))
    w = rng.integers(60, 190, (6, 5, 3, 3)).astype(np.uint8)
    acc = b.conv_integer(x, w, np.int8(-7), np.uint8(120), pads=(1, 1, 1, 1))
    line = b.input("line", "u8", (2, 4, 30))
    one = b.conv_integer(line, rng.integers(-9, 9, (8, 2, 5)).astype(np.int8), np.uint8(3),
                         pads=(2, 2), group=2)  # fmt: skip
    m = b.input("m", "i8", (2, 3, 33))
    product = b.mat_mul_integer(m, rng.integers(-128, 128, (33, 20)).astype(np.int8), np.int8(4))
    graph = b.outputs(acc=acc, one=one, product=product)
    feeds = {
        "x": rng.integers(-128, 128, (2, 5, 9, 8)).astype(np.int8),
        "line": rng.integers(0, 256, (2, 4, 30)).astype(np.uint8),
        "m": rng.integers(-128, 128, (2, 3, 33)).astype(np.int8),
    }
    for threads in (1, 2):
        assert identical(graph, feeds, isa=name, threads=threads).fallbacks == []
