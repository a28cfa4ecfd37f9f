"""Graphs at the edge of what a rewrite may take: each once gave a wrong result or an error."""

from __future__ import annotations

import numpy as np
import pytest
from taut.ir import interpret, parse
from taut.passes import PassManager, random_feeds

from taut import testing

CASES = {
    "what a second gemm adds stays when weights are multiplied": ("fuse-linear", """
        graph @main(%x: f32[1,3], %c: f32[1,4]) -> (%y: f32[1,4]) {
          %a = constant [1.0, -1.0, 0.5, 1.0, 2.0, -2.0, -1.0, 0.0, 1.0, 2.0, -2.0, -1.0] : f32[3,4]
          %1 = gemm(%x, %a) {beta=4.0} : f32[1,4]
          %b = constant [1.0, 2.0, 0.0, 1.0, 2.0, -2.0, -1.0, 0.0,
            1.0, 2.0, 3.0, 1.0, 0.0, 1.0, 2.0, -1.0] : f32[4,4]
          %y = gemm(%1, %b, %c) : f32[1,4]
          return %y
        }"""),
    "and what the first one adds as well": ("fuse-linear", """
        graph @main(%x: f32[1,3], %c: f32[1,4]) -> (%y: f32[1,4]) {
          %a = constant [1.0, -1.0, 0.5, 1.0, 2.0, -2.0, -1.0, 0.0, 1.0, 2.0, -2.0, -1.0] : f32[3,4]
          %0 = constant [1.0, 2.0, 3.0, 5.0] : f32[4]
          %1 = gemm(%x, %a, %0) : f32[1,4]
          %b = constant [1.0, 2.0, 0.0, 1.0, 2.0, -2.0, -1.0, 0.0,
            1.0, 2.0, 3.0, 1.0, 0.0, 1.0, 2.0, -1.0] : f32[4,4]
          %y = gemm(%1, %b, %c) : f32[1,4]
          return %y
        }"""),
    "the shape of what a cast is like says nothing": ("fuse-conv", """
        graph @main(%x: f32[1], %like: f32[1,1,2]) -> (%y: f32[1]) {
          %y = cast_like(%x, %like) : f32[1]
          return %y
        }"""),
    "the absolute value of a negated unsigned number": ("simplify", """
        graph @main(%x: u8[4]) -> (%y: u8[4]) {
          %1 = neg(%x) : u8[4]
          %y = abs(%1) : u8[4]
          return %y
        }"""),
    "a product of halves is rounded before the sum": ("simplify", """
        graph @main(%x: bf16[4,4], %w: bf16[4,3], %c: bf16[4,3]) -> (%y: bf16[4,3]) {
          %1 = mat_mul(%x, %w) : bf16[4,3]
          %y = add(%1, %c) : bf16[4,3]
          return %y
        }"""),
    "windows of padding alone have no maximum": ("simplify", """
        graph @main(%x: f32[2,4,5,0]) -> (%y: f32[2,4,1,1]) {
          %1 = sigmoid(%x) : f32[2,4,5,0]
          %n = constant [0, 0, 0, 2, 0, 0, 0, 2] : i64[8]
          %v = constant 0.0 : f32[]
          %2 = pad(%1, %n, %v) : f32[2,4,5,4]
          %y = max_pool(%2) {kernel_shape=[5,4]} : f32[2,4,1,1]
          return %y
        }"""),
    "shape data that wraps": ("fold", """
        graph @main(%x: f32[2]) -> (%y: i8[], %z: u8[]) {
          %a = constant -128 : i8[]
          %b = constant 52 : i8[]
          %y = sub(%a, %b) : i8[]
          %c = constant 56 : u8[]
          %z = mul(%c, %c) : u8[]
          return %y, %z
        }"""),
    "hard swish of integers": ("recognize", """
        graph @main(%x: i8[4]) -> (%y: i8[4]) {
          %three = constant 3 : i8[]
          %zero = constant 0 : i8[]
          %six = constant 6 : i8[]
          %1 = add(%x, %three) : i8[4]
          %2 = clip(%1, %zero, %six) : i8[4]
          %3 = mul(%2, %x) : i8[4]
          %y = div(%3, %six) : i8[4]
          return %y
        }"""),
    "a mean over no axes": ("recognize", """
        graph @main(%x: f32[1,4,2], %s: f32[1,4,2]) -> (%y: f32[1,4,2]) {
          %m = reduce_mean(%x) {noop_with_empty_axes=true} : f32[1,4,2]
          %d = sub(%x, %m) : f32[1,4,2]
          %two = constant 2.0 : f32[]
          %q = pow(%d, %two) : f32[1,4,2]
          %v = reduce_mean(%q) : f32[1,1,1]
          %one = constant 1.0 : f32[]
          %e = add(%one, %v) : f32[1,1,1]
          %r = sqrt(%e) : f32[1,1,1]
          %n = div(%d, %r) : f32[1,4,2]
          %y = mul(%n, %s) : f32[1,4,2]
          return %y
        }"""),
    "classes that are one number": ("fuse-lookup", """
        graph @main(%x: i64[5,1]) -> (%y: f32[5,5]) {
          %c = constant 0 : i64[]
          %w = constant [1.0, 2.0, 3.0, 4.0, 5.0] : f32[1,5]
          %1 = equal(%c, %x) : bool[5,1]
          %2 = cast(%1) {to=f32} : f32[5,1]
          %y = mat_mul(%2, %w) : f32[5,5]
          return %y
        }"""),
    "the root of what is below zero, pooled": ("fuse-conv", """
        graph @main(%x: f32[2,1,4,4]) -> (%y: f32[2,1,2,2]) {
          %1 = sqrt(%x) : f32[2,1,4,4]
          %y = max_pool(%1) {kernel_shape=[2,2] strides=[2,2]} : f32[2,1,2,2]
          return %y
        }"""),
    "heads without elements": ("fuse-attention", """
        graph @main(%q: f32[3,2,2,0], %k: f32[3,1,1,0], %v: f32[3,1,1,2]) -> (%y: f32[3,2,4]) {
          %1 = transpose(%q) {perm=[0,2,1,3]} : f32[3,2,2,0]
          %2 = transpose(%k) {perm=[0,2,1,3]} : f32[3,1,1,0]
          %3 = transpose(%v) {perm=[0,2,1,3]} : f32[3,1,1,2]
          %4 = attention(%1, %2, %3) {scale=1.0} : f32[3,2,2,2]
          %5 = transpose(%4) {perm=[0,2,1,3]} : f32[3,2,2,2]
          %s = constant [3, 2, -1] : i64[3]
          %y = reshape(%5, %s) : f32[3,2,4]
          return %y
        }"""),
    "scores of one key that a mask makes two": ("fuse-attention", """
        graph @main(%q: f32[1,2,m,4], %v: f32[1,2,m,3], %c: bool[2,m]) -> (%y: f32[1,2,2,3]) {
          %low = constant -inf : f32[]
          %1 = fused_mat_mul(%q, %q) {transB=true} : f32[1,2,m,m]
          %2 = where(%c, %1, %low) : f32[1,2,2,m]
          %3 = softmax(%2) : f32[1,2,2,m]
          %y = mat_mul(%3, %v) : f32[1,2,2,3]
          return %y
        }"""),
    "weights of one key made two by the zeros that take the place of NaN": ("fuse-attention", """
        graph @main(%q: f32[1,2,m,4], %v: f32[1,2,m,3]) -> (%y: f32[1,2,2,3]) {
          %zero = constant [0.0, 0.0] : f32[2,1]
          %1 = fused_mat_mul(%q, %q) {transB=true} : f32[1,2,m,m]
          %2 = softmax(%1) : f32[1,2,m,m]
          %3 = is_nan(%2) : bool[1,2,m,m]
          %4 = where(%3, %zero, %2) : f32[1,2,2,m]
          %y = mat_mul(%4, %v) : f32[1,2,2,3]
          return %y
        }"""),
    "rows of which every key is masked": ("fuse-attention", """
        graph @main(%p: f64[1,2,3,4], %q: f32[1,2,3,4]) -> (%y: f64[1,2,3,4], %z: f32[1,2,3,4]) {
          %first = constant -1e+09 : f64[]
          %low = constant -1e+09 : f32[]
          %lower = constant -3e+09 : f32[]
          %c = constant [false, false, true, true, false, false, true, false, false] : bool[3,3]
          %d = constant [true, false, false, false, false, false, false, false, false] : bool[3,3]
          %1 = fused_mat_mul(%p, %p) {transB=true} : f64[1,2,3,3]
          %2 = where(%d, %1, %first) : f64[1,2,3,3]
          %3 = softmax(%2) : f64[1,2,3,3]
          %y = mat_mul(%3, %p) : f64[1,2,3,4]
          %4 = fused_mat_mul(%q, %q) {transB=true} : f32[1,2,3,3]
          %5 = where(%d, %4, %lower) : f32[1,2,3,3]
          %6 = where(%c, %low, %5) : f32[1,2,3,3]
          %7 = softmax(%6) : f32[1,2,3,3]
          %z = mat_mul(%7, %q) : f32[1,2,3,4]
          return %y, %z
        }"""),
    "scales of more axes than the product": ("fuse-scaled", """
        graph @main(%a: u8[2,4], %e: u8[5,0,1], %s: f32[]) -> (%y: f32[1,1,2,3], %z: f32[5,0,2]) {
          %w = constant [1, -2, 3, 4, 5, -6, -7, 8, 9, 1, 2, 3] : i8[4,3]
          %t = constant [0.5, 0.25, 1.0] : f32[1,1,1,3]
          %none = constant [] : f32[5,0,2]
          %1 = mat_mul_integer(%a, %w) : i32[2,3]
          %2 = cast(%1) {to=f32} : f32[2,3]
          %3 = mul(%2, %t) : f32[1,1,2,3]
          %y = mul(%3, %s) : f32[1,1,2,3]
          %b = constant [7] : i8[1,1]
          %4 = mat_mul_integer(%e, %b) : i32[5,0,1]
          %5 = cast(%4) {to=f32} : f32[5,0,1]
          %6 = mul(%5, %none) : f32[5,0,2]
          %z = mul(%6, %s) : f32[5,0,2]
          return %y, %z
        }"""),
    "the maximum of nothing": ("extremes-first", """
        graph @main(%x: f32[3,0]) -> (%y: f32[3,1], %z: f32[3,1]) {
          %axis = constant [1] : i64[1]
          %1 = mish(%x) : f32[3,0]
          %y = reduce_max(%1, %axis) : f32[3,1]
          %2 = sigmoid(%x) : f32[3,0]
          %z = reduce_max(%2, %axis) : f32[3,1]
          return %y, %z
        }"""),
    "a residual that comes last after nothing": ("fuse-conv", """
        graph @main(%x: f32[1,2,3,3], %r: f32[1,2,3,3]) -> (%y: f32[1,2,3,3], %z: f32[1,2,3,3]) {
          %w = constant [-2.0, -1.0, 0.5, 1.0] : f32[2,2,1,1]
          %s = constant [-2.0, -1.0] : f32[2,1,1]
          %1 = fused_conv(%x, %w, none, %r) {residual_last=true} : f32[1,2,3,3]
          %y = prelu(%1, %s) : f32[1,2,3,3]
          %2 = fused_conv(%r, %w, none, %x) {residual_last=true} : f32[1,2,3,3]
          %z = relu(%2) : f32[1,2,3,3]
          return %y, %z
        }"""),
    "a number that a constant makes a vector": ("extremes-first", """
        graph @main(%x: f64[]) -> (%y: f64[1]) {
          %c = constant [2.0] : f64[1]
          %axis = constant [0] : i64[1]
          %1 = add(%x, %c) : f64[1]
          %y = reduce_max(%1, %axis) : f64[1]
          return %y
        }"""),
    "deviations from two means": ("recognize", """
        graph @main(%x: f32[3,2], %s: f32[3,2]) -> (%y: f32[3,2]) {
          %axis = constant [-1] : i64[1]
          %1 = reduce_mean(%x, %axis) : f32[3,1]
          %2 = sub(%x, %1) : f32[3,2]
          %3 = reduce_mean(%x) : f32[1,1]
          %4 = sub(%x, %3) : f32[3,2]
          %5 = mul(%4, %4) : f32[3,2]
          %6 = reduce_mean(%5) : f32[1,1]
          %eps = constant 0.1 : f32[]
          %7 = add(%6, %eps) : f32[1,1]
          %8 = sqrt(%7) : f32[1,1]
          %9 = div(%2, %8) : f32[3,2]
          %y = mul(%9, %s) : f32[3,2]
          return %y
        }"""),
    "the square of two deviations": ("recognize", """
        graph @main(%x: f32[3,2], %s: f32[2]) -> (%y: f32[3,2]) {
          %axis = constant [-1] : i64[1]
          %1 = reduce_mean(%x, %axis) : f32[3,1]
          %2 = sub(%x, %1) : f32[3,2]
          %3 = reduce_mean(%x) : f32[1,1]
          %4 = sub(%x, %3) : f32[3,2]
          %5 = mul(%4, %2) : f32[3,2]
          %6 = reduce_mean(%5, %axis) : f32[3,1]
          %eps = constant 10.0 : f32[]
          %7 = add(%6, %eps) : f32[3,1]
          %8 = sqrt(%7) : f32[3,1]
          %9 = div(%2, %8) : f32[3,2]
          %y = mul(%9, %s) : f32[3,2]
          return %y
        }"""),
    "a constant that stands against one index": ("fuse-lookup", """
        graph @main(%b: bool[]) -> (%y: f32[1,2,3]) {
          %i = cast(%b) {to=i64} : i64[]
          %t = constant [-2.0, -1.0, 0.0, 1.0, 2.0, -2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0] : f32[2,2,3]
          %c = constant [-2.0, -1.0, 0.0, 1.0, 2.0, -2.0] : f32[1,2,3]
          %1 = gather(%t, %i) : f32[2,3]
          %y = sub(%c, %1) : f32[1,2,3]
          return %y
        }"""),
    "rows of unlike rank": ("fuse-lookup", """
        graph @main(%b: bool[2]) -> (%y: f32[2,2,3]) {
          %i = cast(%b) {to=i64} : i64[2]
          %t = constant [-2.0, -1.0, 0.0, 1.0, 2.0, -2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0] : f32[2,2,3]
          %u = constant [5.0, -1.0, 0.5, 1.0, 3.0, -2.0] : f32[2,3]
          %1 = gather(%t, %i) : f32[2,2,3]
          %2 = gather(%u, %i) : f32[2,3]
          %y = sub(%1, %2) : f32[2,2,3]
          return %y
        }"""),
    "one number of a class": ("fuse-lookup", """
        graph @main(%x: i32[]) -> (%y: f32[3]) {
          %two = constant [0, 1] : i32[2]
          %w = constant [-2.0, -1.0, 0.0, 1.0, 2.0, -2.0] : f32[2,3]
          %1 = equal(%x, %two) : bool[2]
          %2 = cast(%1) {to=f32} : f32[2]
          %y = mat_mul(%2, %w) : f32[3]
          return %y
        }"""),
    "sums of integers wrap": ("extremes-first", """
        graph @main(%x: i8[64,2]) -> (%y: i8[64,1]) {
          %c = constant 125 : i8[]
          %axis = constant [1] : i64[1]
          %1 = add(%x, %c) : i8[64,2]
          %y = reduce_max(%1, %axis) : i8[64,1]
          return %y
        }"""),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_corner(case: str) -> None:
    pipeline, text = CASES[case]
    graph = parse("\n".join(line.strip() for line in text.strip().splitlines()))
    after = PassManager(pipeline).run(graph).graph
    for seed in range(4):
        feeds = random_feeds(graph, np.random.default_rng(seed), {"m": 1 + seed % 2})
        want, got = interpret(graph, feeds), interpret(after, feeds)
        for name, array in want.items():
            assert testing.difference(array, got[name], rtol=1e-5, atol=1e-6) is None, name
