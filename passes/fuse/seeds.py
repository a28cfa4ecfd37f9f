"""Graphs as text to which the passes of this folder apply; the fuzzer grows more around them."""

LINEAR = """
graph @linear(%x: f32[n,2]) -> (%y: f32[n,1], %z: f32[n,2], %v: f32[n,2]) {
  %a = constant [1.0, 2.0, 3.0, 4.0, 5.0, 6.0] : f32[2,3]
  %b = constant [1.0, 0.0, -1.0] : f32[3,1]
  %s = constant [1.0, 2.0, 3.0] : f32[3]
  %t = constant [7.0] : f32[1]
  %w = constant [1.0, 2.0] : f32[2,1]
  %u = constant [1.0, 2.0] : f32[1,2]
  %1 = mat_mul(%x, %a) : f32[n,3]
  %2 = add(%1, %s) : f32[n,3]
  %y = gemm(%2, %b, %t) : f32[n,1]
  %3 = mat_mul(%x, %w) : f32[n,1]
  %z = mat_mul(%3, %u) : f32[n,2]
  %c = constant [1.0, 2.0, 0.5, 1.0, 2.0, -1.0] : f32[3,2]
  %d = constant [1.0, 2.0, -1.0, 3.0, 0.5, 1.0] : f32[2,3]
  %4 = gemm(%x, %c, %s) {alpha=0.5 transB=true} : f32[n,3]
  %o = constant [1.0, -1.0] : f32[2]
  %v = fused_mat_mul(%4, %d, %o) {transB=true activation="leaky_relu" params=[0.1]} : f32[n,2]
  return %y, %z, %v
}
"""

SIBLINGS = """
graph @siblings(%x: f32[n,s,6], %i: f32[n,8,3,3]) -> (%y: f32[n,s,s], %z: f32[n,2,3,3]) {
  %q = constant [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 1.0, 2.0, -3.0, 4.0, -5.0, 6.0] : f32[6,2]
  %k = constant [5.0, 6.0, 7.0, 8.0, 5.0, 6.0, 7.0, 8.0, 9.0, 1.0, 2.0, 3.0] : f32[6,2]
  %bias = constant [1.0, 2.0] : f32[2]
  %1 = fused_mat_mul(%x, %q, %bias) : f32[n,s,2]
  %2 = fused_mat_mul(%x, %k) : f32[n,s,2]
  %y = fused_mat_mul(%1, %2) {transB=true} : f32[n,s,s]
  %a = constant [1.0, 2.0, 3.0, 4.0, -1.0, 2.0, 3.0, 4.0] : f32[1,8,1,1]
  %b = constant [5.0, 6.0, 7.0, 8.0, 5.0, -6.0, 7.0, 8.0] : f32[1,8,1,1]
  %c = constant [4.0] : f32[1]
  %3 = conv(%i, %a) : f32[n,1,3,3]
  %4 = conv(%i, %b, %c) : f32[n,1,3,3]
  %z = concat(%4, %3) {axis=1} : f32[n,2,3,3]
  return %y, %z
}
"""

MORE_SIBLINGS = """
graph @more(%x: f32[n,9]) -> (%y: f32[n,4]) {
  %q = constant [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 1.0, 2.0, -3.0, 1.0, 2.0, 0.0, 4.0, 5.0, 6.0, 1.0, 2.0, -3.0] : f32[2,9]
  %k = constant [5.0, 6.0, 7.0, 8.0, 5.0, 6.0, 7.0, 8.0, 9.0] : f32[1,9]
  %c = constant [1.0] : f32[1]
  %v = constant [2.0, 6.0, -7.0, 8.0, 1.0, 6.0, 7.0, 8.0, 9.0] : f32[1,9]
  %1 = gemm(%x, %q) {transB=true alpha=0.5} : f32[n,2]
  %2 = gemm(%x, %k, %c) {transB=true alpha=0.5} : f32[n,1]
  %3 = gemm(%x, %v) {transB=true} : f32[n,1]
  %4 = relu(%1) : f32[n,2]
  %5 = exp(%2) : f32[n,1]
  %6 = tanh(%3) : f32[n,1]
  %y = concat(%4, %5, %6) {axis=1} : f32[n,4]
  return %y
}
"""  # noqa: E501

ONE_HOT = """
graph @one_hot(%x: i64[n,1], %i: i32[2,3,1]) -> (%y: f32[n,2], %z: f32[2,3,3]) {
  %classes = constant [0, 1, 2] : i64[3]
  %w = constant [1.0, 2.0, 3.0, 4.0, -5.0, 6.0] : f32[3,2]
  %same = equal(%x, %classes) : bool[n,3]
  %hot = cast(%same) {to=f32} : f32[n,3]
  %y = mat_mul(%hot, %w) : f32[n,2]
  %two = constant [0, 1] : i32[2]
  %v = constant [1.0, 2.0, -1.0, 3.0, 4.0, 0.5] : f32[2,3]
  %same2 = equal(%i, %two) : bool[2,3,2]
  %hot2 = cast(%same2) {to=f32} : f32[2,3,2]
  %z = mat_mul(%hot2, %v) : f32[2,3,3]
  return %y, %z
}
"""

ROWS = """
graph @rows(%x: bool[n], %k: bool[2,3]) -> (%y: f32[n,3], %z: f32[n,3], %v: f32[n,2,3], %r: f32[2,3,3], %s: f32[2,3,3]) {
  %i = cast(%x) {to=i64} : i64[n]
  %t = constant [1.0, -2.0, 3.0, -4.0, 5.0, 6.0] : f32[2,3]
  %u = constant [0.5, 2.0, 1.0, 4.0, -1.0, 1.5] : f32[2,3]
  %c = constant [1.0, 2.0, 4.0] : f32[3]
  %1 = gather(%t, %i) : f32[n,3]
  %2 = gather(%u, %i) : f32[n,3]
  %3 = sub(%1, %c) : f32[n,3]
  %y = relu(%3) : f32[n,3]
  %z = sub(%2, %1) : f32[n,3]
  %w = constant [1.0, -2.0, 3.0, -4.0, 5.0, 6.0, 1.0, 2.0, 0.0, -1.0, 0.5, 6.0] : f32[2,2,3]
  %d = constant [1.0, 2.0, 4.0, 3.0, -1.0, 1.0] : f32[1,2,3]
  %4 = gather(%w, %i) : f32[n,2,3]
  %v = sub(%d, %4) : f32[n,2,3]
  %j = cast(%k) {to=i64} : i64[2,3]
  %e = constant [1.0, 2.0, 4.0, 3.0, -1.0, 1.0, 0.5, -2.0, 5.0] : f32[1,3,3]
  %f = constant [2.0, -1.0, 0.5] : f32[1,1,3]
  %5 = gather(%t, %j) : f32[2,3,3]
  %r = add(%5, %e) : f32[2,3,3]
  %s = sub(%f, %5) : f32[2,3,3]
  return %y, %z, %v, %r, %s
}
"""  # noqa: E501

GROUP = """
graph @group(%x: f32[n,3,4]) -> (%y: f32[n,3,4], %z: f32[n,3,4]) {
  %y:2 = fusion(%x) {body=graph @main(%x: f32[n,3,4]) -> (%y0: f32[n,3,4], %y1: f32[n,3,4]) {
  %factor = constant 0.125 : f32[]
  %scaled = mul(%x, %factor) : f32[n,3,4]
  %p = softmax(%scaled) : f32[n,3,4]
  %q = sub(%p, %scaled) : f32[n,3,4]
  return %p, %q
}} : f32[n,3,4], f32[n,3,4]
  return %y#0, %y#1
}
"""

WRITTEN_ATTENTION = """
graph @bert(%q: f32[b,s,6], %k: f32[b,s,6], %v: f32[b,s,6], %m: bool[b,1,1,s]) -> (%y: f32[b,s,6]) {
  %shape = constant [0, 0, 2, 3] : i64[4]
  %back = constant [0, 0, 6] : i64[3]
  %root = constant 1.7320508 : f32[]
  %low = constant -3e+38 : f32[]
  %1 = reshape(%q, %shape) : f32[b,s,2,3]
  %2 = transpose(%1) {perm=[0,2,1,3]} : f32[b,2,s,3]
  %3 = reshape(%k, %shape) : f32[b,s,2,3]
  %4 = transpose(%3) {perm=[0,2,3,1]} : f32[b,2,3,s]
  %5 = reshape(%v, %shape) : f32[b,s,2,3]
  %6 = transpose(%5) {perm=[0,2,1,3]} : f32[b,2,s,3]
  %7 = mat_mul(%2, %4) : f32[b,2,s,s]
  %8 = div(%7, %root) : f32[b,2,s,s]
  %9 = where(%m, %8, %low) : f32[b,2,s,s]
  %10 = softmax(%9) : f32[b,2,s,s]
  %11 = mat_mul(%10, %6) : f32[b,2,s,3]
  %12 = transpose(%11) {perm=[0,2,1,3]} : f32[b,s,2,3]
  %y = reshape(%12, %back) : f32[b,s,6]
  return %y
}
"""

ADDED_MASK = """
graph @added(%q: f32[2,3,4], %k: f32[2,5,4], %v: f32[2,5,2], %m: f32[2,1,5]) -> (%y: f32[2,3,2], %z: f32[2,3,2]) {
  %scale = constant 0.25 : f32[]
  %1 = mul(%q, %scale) : f32[2,3,4]
  %2 = transpose(%k) {perm=[0,2,1]} : f32[2,4,5]
  %3 = mat_mul(%1, %2) : f32[2,3,5]
  %4 = add(%3, %m) : f32[2,3,5]
  %5 = softmax(%4) {axis=2} : f32[2,3,5]
  %y = mat_mul(%5, %v) : f32[2,3,2]
  %6 = fused_mat_mul(%q, %k) {transB=true alpha=0.5} : f32[2,3,5]
  %7 = softmax(%6) : f32[2,3,5]
  %z = mat_mul(%7, %v) : f32[2,3,2]
  return %y, %z
}
"""  # noqa: E501

CAUSAL = """
graph @causal(%q: f32[1,2,3,4], %k: f32[1,2,3,4], %v: f32[1,2,3,4]) -> (%y: f32[1,2,3,4], %z: f32[1,2,3,4]) {
  %keep = constant [true, false, false, true, true, false, true, true, true] : bool[3,3]
  %low = constant -inf : f32[]
  %1 = transpose(%k) {perm=[0,1,3,2]} : f32[1,2,4,3]
  %2 = mat_mul(%q, %1) : f32[1,2,3,3]
  %3 = where(%keep, %2, %low) : f32[1,2,3,3]
  %4 = softmax(%3) : f32[1,2,3,3]
  %y = mat_mul(%4, %v) : f32[1,2,3,4]
  %some = constant [true, false, false, true, true, true, false, true, true] : bool[3,3]
  %7 = mat_mul(%q, %1) : f32[1,2,3,3]
  %5 = where(%some, %7, %low) : f32[1,2,3,3]
  %6 = softmax(%5) : f32[1,2,3,3]
  %z = mat_mul(%6, %v) : f32[1,2,3,4]
  return %y, %z
}
"""  # noqa: E501

DYNAMIC_PRODUCT = """
graph @dynamic(%x: f32[n,4]) -> (%y: f32[n,3], %z: f32[n,3]) {
  %q:3 = dynamic_quantize_linear(%x) : u8[n,4], f32[], u8[]
  %w = constant [1, -2, 3, 4, 5, -6, -7, 8, 9, 1, 2, 3] : i8[4,3]
  %wz = constant 0 : i8[]
  %ws = constant [0.5, 0.25, 1.0] : f32[3]
  %c = constant [1.0, 2.0, 3.0] : f32[3]
  %acc = mat_mul_integer(%q#0, %w, %q#2, %wz) : i32[n,3]
  %real = cast(%acc) {to=f32} : f32[n,3]
  %s = mul(%q#1, %ws) : f32[3]
  %scaled = mul(%real, %s) : f32[n,3]
  %sum = add(%scaled, %c) : f32[n,3]
  %y = relu(%sum) : f32[n,3]
  %acc2 = mat_mul_integer(%q#0, %w, %q#2) : i32[n,3]
  %real2 = cast(%acc2) {to=f32} : f32[n,3]
  %first = mul(%real2, %ws) : f32[n,3]
  %z = mul(%first, %q#1) : f32[n,3]
  return %y, %z
}
"""

CONV_POOL = """
graph @pooled(%x: f32[n,2,4,4]) -> (%y: f32[n,1,2,2], %z: f32[n,2,4,4]) {
  %w = constant [1.0, -2.0] : f32[1,2,1,1]
  %c = constant [0.5] : f32[1]
  %1 = conv(%x, %w, %c) : f32[n,1,4,4]
  %2 = max_pool(%1) {kernel_shape=[2,2] strides=[2,2]} : f32[n,1,2,2]
  %y = relu(%2) : f32[n,1,2,2]
  %v = constant [3.0, -1.0] : f32[1,2,1,1]
  %3 = conv(%x, %v) : f32[n,1,4,4]
  %u = constant [2.0, 0.5] : f32[1,2,1,1]
  %6 = conv(%x, %u) : f32[n,1,4,4]
  %4 = sigmoid(%6) : f32[n,1,4,4]
  %5 = concat(%3, %4) {axis=1} : f32[n,2,4,4]
  %z = relu(%5) : f32[n,2,4,4]
  return %y, %z
}
"""

HARD = """
graph @hard(%x: f32[n,3]) -> (%y: f32[n,3], %z: f32[n,3], %v: f32[n,3], %u: f32[n,3]) {
  %zero = constant 0.0 : f32[]
  %three = constant 3.0 : f32[]
  %six = constant 6.0 : f32[]
  %sixth = constant 0.16666667 : f32[]
  %1 = add(%x, %three) : f32[n,3]
  %2 = clip(%1, %zero, %six) : f32[n,3]
  %3 = mul(%x, %2) : f32[n,3]
  %y = div(%3, %six) : f32[n,3]
  %4 = hard_sigmoid(%x) {alpha=0.16666667 beta=0.5} : f32[n,3]
  %z = mul(%x, %4) : f32[n,3]
  %slope = constant 0.3 : f32[]
  %one = constant 1.0 : f32[]
  %5 = mul(%x, %slope) : f32[n,3]
  %6 = add(%5, %one) : f32[n,3]
  %7 = clip(%6, %zero, %three) : f32[n,3]
  %v = div(%7, %three) : f32[n,3]
  %8 = mul(%x, %sixth) : f32[n,3]
  %u = mul(%8, %2) : f32[n,3]
  return %y, %z, %v, %u
}
"""

NORMS = """
graph @norms(%x: f32[n,3,4]) -> (%y: f32[n,3,4], %z: f32[n,3,4]) {
  %axis = constant [-1] : i64[1]
  %scale = constant [1.0, 2.0, -0.5, 0.25] : f32[4]
  %bias = constant [0.5, 0.0, -1.0, 2.0] : f32[4]
  %eps = constant 0.01 : f32[]
  %two = constant 2.0 : f32[]
  %m = reduce_mean(%x, %axis) : f32[n,3,1]
  %d = sub(%x, %m) : f32[n,3,4]
  %s = pow(%d, %two) : f32[n,3,4]
  %v = reduce_mean(%s, %axis) : f32[n,3,1]
  %e = add(%v, %eps) : f32[n,3,1]
  %r = sqrt(%e) : f32[n,3,1]
  %q = div(%d, %r) : f32[n,3,4]
  %g = mul(%q, %scale) : f32[n,3,4]
  %y = add(%g, %bias) : f32[n,3,4]
  %p = mul(%x, %x) : f32[n,3,4]
  %w = reduce_mean(%p, %axis) : f32[n,3,1]
  %u = add(%w, %eps) : f32[n,3,1]
  %t = sqrt(%u) : f32[n,3,1]
  %o = div(%x, %t) : f32[n,3,4]
  %z = mul(%o, %scale) : f32[n,3,4]
  return %y, %z
}
"""

SCALED_CONV = """
graph @scaled(%x: f32[n,2,4,4], %r: f32[2,3]) -> (%y: f32[n,2,4,4], %z: f32[n,2,4,4], %v: f32[2,2]) {
  %s = constant [2.0, -0.5] : f32[2,1,1]
  %t = constant [1.0, 3.0] : f32[2,1,1]
  %w = constant [1.0, 2.0, 0.0, -1.0, 1.5, 2.0, 3.0, 0.5] : f32[2,2,2,1]
  %c = constant [0.5, -1.0] : f32[2]
  %1 = mul(%x, %s) : f32[n,2,4,4]
  %2 = add(%1, %t) : f32[n,2,4,4]
  %y = conv(%2, %w, %c) {pads=[1,0,0,0]} : f32[n,2,4,4]
  %u = constant [1.0, -2.0, 0.5, 1.5] : f32[2,2,1,1]
  %k = constant [2.0, 0.25] : f32[2,1,1]
  %3 = conv(%x, %u) : f32[n,2,4,4]
  %4 = leaky_relu(%3) {alpha=0.2} : f32[n,2,4,4]
  %z = mul(%4, %k) : f32[n,2,4,4]
  %a = constant [1.0, 2.0, -1.0, 3.0, 0.5, 1.0] : f32[3,2]
  %5 = mat_mul(%r, %a) : f32[2,2]
  %6 = add(%5, %c) : f32[2,2]
  %m = constant [3.0, -2.0] : f32[2]
  %v = div(%6, %m) : f32[2,2]
  return %y, %z, %v
}
"""  # noqa: E501

LINEAR_TWICE = """
graph @twice(%x: f32[n,2], %r: f32[n,1]) -> (%y: f32[n,1], %z: f32[2,n,1], %v: f32[n,1], %u: f32[n,1], %w: f32[n,1], %q: f32[n,1]) {
  %a = constant [1.0, 2.0, 3.0, 4.0, 5.0, 6.0] : f32[2,3]
  %s = constant [1.0, 2.0, 3.0] : f32[3]
  %t = constant [0.5, -1.0, 2.0] : f32[3]
  %b = constant [1.0, 0.5, -1.0] : f32[3,1]
  %1 = gemm(%x, %a, %s) : f32[n,3]
  %2 = add(%1, %t) : f32[n,3]
  %y = mat_mul(%2, %b) : f32[n,1]
  %c = constant [1.0, -2.0, 3.0, 0.5, 5.0, 1.0] : f32[2,3]
  %3 = mat_mul(%x, %c) : f32[n,3]
  %4 = add(%3, %s) : f32[n,3]
  %d = constant [1.0, 0.5, -1.0, 2.0, 3.0, -2.0] : f32[2,3,1]
  %z = mat_mul(%4, %d) : f32[2,n,1]
  %e = constant [2.0, -2.0, 3.0, 0.5, 1.0, 1.0] : f32[2,3]
  %5 = fused_mat_mul(%x, %e, %t) {alpha=0.5} : f32[n,3]
  %f = constant [1.0, 2.0, -1.0] : f32[1,3]
  %g = constant [3.0] : f32[1]
  %v = fused_mat_mul(%5, %f, %g, %r) {transB=true alpha=2.0 activation="tanh"} : f32[n,1]
  %h = constant [3.0, -2.0, 1.0, 0.5, 1.0, 2.0] : f32[2,3]
  %6 = fused_mat_mul(%x, %h) {activation="relu"} : f32[n,3]
  %i = constant [1.0, 2.0, -3.0] : f32[3,1]
  %u = mat_mul(%6, %i) : f32[n,1]
  %j = constant [1.0, -1.0, 3.0, 2.0, 1.0, 4.0] : f32[2,3]
  %k = constant [2.0, 1.0, 3.0] : f32[1,3]
  %7 = gemm(%x, %j, %k) {beta=2.0} : f32[n,3]
  %l = constant [1.0, -2.0, 1.0] : f32[3,1]
  %w = gemm(%7, %l, %r) : f32[n,1]
  %m = constant [3.0, 1.0, -3.0, 2.0, 2.0, 1.0] : f32[3,2]
  %8 = gemm(%x, %m, %s) {transB=true} : f32[n,3]
  %o = constant [2.0, -2.0, 1.0] : f32[3,1]
  %q = gemm(%8, %o, %g) {beta=0.5} : f32[n,1]
  return %y, %z, %v, %u, %w, %q
}
"""  # noqa: E501

SHORT_MASK = """
graph @short(%q: f32[2,1,4], %k: f32[2,5,4], %v: f32[2,5,2], %m: f32[2,1,1], %n: f32[5,1]) -> (%y: f32[2,1,2], %z: f32[2,5,4], %w: f32[1,1,2], %u: f32[2,5,2]) {
  %1 = transpose(%k) {perm=[0,2,1]} : f32[2,4,5]
  %2 = mat_mul(%q, %1) : f32[2,1,5]
  %3 = add(%2, %m) : f32[2,1,5]
  %4 = softmax(%3) : f32[2,1,5]
  %y = mat_mul(%4, %v) : f32[2,1,2]
  %5 = mat_mul(%k, %1) : f32[2,5,5]
  %6 = add(%5, %n) : f32[2,5,5]
  %7 = softmax(%6) : f32[2,5,5]
  %z = mat_mul(%7, %k) : f32[2,5,4]
  %o = constant [0] : i64[1]
  %e = constant [1] : i64[1]
  %8 = slice(%q, %o, %e, %o) : f32[1,1,4]
  %9 = slice(%1, %o, %e, %o) : f32[1,4,5]
  %10 = mat_mul(%8, %9) : f32[1,1,5]
  %11 = softmax(%10) {axis=0} : f32[1,1,5]
  %t = constant [1.0, 2.0, -1.0, 3.0, 0.5, 1.0, 2.0, 2.0, -3.0, 1.0] : f32[1,5,2]
  %w = mat_mul(%11, %t) : f32[1,1,2]
  %12 = mat_mul(%k, %1) : f32[2,5,5]
  %13 = softmax(%12) {axis=1} : f32[2,5,5]
  %u = mat_mul(%13, %v) : f32[2,5,2]
  return %y, %z, %w, %u
}
"""  # noqa: E501

NEARLY_ATTENTION = """
graph @nearly(%q: f32[2,3,4], %k: f32[2,5,4], %v: f32[2,5,2], %m: f32[2,1,5], %l: f32[2,3,1]) -> (%y: f32[2,3,2], %z: f32[2,3,2], %w: f32[2,3,2], %u: f32[2,3,2], %t: f32[2,3,2]) {
  %s = constant 0.5 : f32[]
  %1 = transpose(%k) {perm=[0,2,1]} : f32[2,4,5]
  %2 = mat_mul(%q, %1) : f32[2,3,5]
  %3 = add(%2, %m) : f32[2,3,5]
  %4 = mul(%3, %s) : f32[2,3,5]
  %5 = softmax(%4) : f32[2,3,5]
  %y = mat_mul(%5, %v) : f32[2,3,2]
  %6 = fused_mat_mul(%q, %k) {transB=true} : f32[2,3,5]
  %7 = softmax(%6) : f32[2,3,5]
  %z = fused_mat_mul(%7, %v) {activation="tanh"} : f32[2,3,2]
  %8 = fused_mat_mul(%q, %k) {transB=true} : f32[2,3,5]
  %9 = add(%8, %l) : f32[2,3,5]
  %10 = softmax(%9) : f32[2,3,5]
  %w = fused_mat_mul(%10, %v) : f32[2,3,2]
  %11 = fused_mat_mul(%q, %k) {transB=true activation="relu"} : f32[2,3,5]
  %12 = softmax(%11) : f32[2,3,5]
  %u = mat_mul(%12, %v) : f32[2,3,2]
  %13 = fused_mat_mul(%q, %k) {transB=true} : f32[2,3,5]
  %14 = softmax(%13) : f32[2,3,5]
  %t = fused_mat_mul(%14, %v) {alpha=2.0} : f32[2,3,2]
  return %y, %z, %w, %u, %t
}
"""  # noqa: E501

SELECTED = """
graph @selected(%q: f32[2,2,3,4], %k: f32[2,2,3,4], %v: f32[2,2,3,4], %m: bool[2,1,1,3]) -> (%y: f32[2,2,3,4], %z: f32[2,2,3,4]) {
  %low = constant -3e+38 : f32[]
  %never = constant -inf : f32[]
  %s = constant 2.0 : f32[]
  %1 = fused_mat_mul(%q, %k) {transB=true alpha=0.5} : f32[2,2,3,3]
  %2 = where(%m, %low, %1) : f32[2,2,3,3]
  %3 = softmax(%2) : f32[2,2,3,3]
  %y = mat_mul(%3, %v) : f32[2,2,3,4]
  %c = constant [false, true, false, false, false, true, true, false, false] : bool[3,3]
  %4 = fused_mat_mul(%q, %k) {transB=true} : f32[2,2,3,3]
  %5 = div(%4, %s) : f32[2,2,3,3]
  %6 = where(%c, %never, %5) : f32[2,2,3,3]
  %7 = softmax(%6) : f32[2,2,3,3]
  %z = mat_mul(%7, %v) : f32[2,2,3,4]
  return %y, %z
}
"""  # noqa: E501

STACKED_SIBLINGS = """
graph @stacked(%x: f32[2,3,9], %i: f32[n,9,2,2]) -> (%y: f32[2,3,1], %z: f32[n,2,2,2], %w: f32[2,3,2]) {
  %a = constant [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0] : f32[2,9,1]
  %b = constant [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 2.0, 4.0, 6.0, 1.0, 3.0, 5.0, 7.0, 9.0, 8.0] : f32[2,9,1]
  %1 = mat_mul(%x, %a) : f32[2,3,1]
  %2 = mat_mul(%x, %b) : f32[2,3,1]
  %y = sub(%1, %2) : f32[2,3,1]
  %c = constant [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0] : f32[1,9,1,1]
  %d = constant [2.0, 1.0, 4.0, 3.0, 6.0, 5.0, 8.0, 7.0, 9.0] : f32[1,9,1,1]
  %e = constant [1.0] : f32[1]
  %3 = conv(%i, %c, %e) : f32[n,1,2,2]
  %4 = conv(%i, %d) : f32[n,1,2,2]
  %z = concat(%3, %4) {axis=1} : f32[n,2,2,2]
  %f = constant [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0] : f32[9,1]
  %g = constant [2.0, 4.0, 6.0, 1.0, 3.0, 5.0, 7.0, 9.0, 8.0] : f32[9,1]
  %5 = mat_mul(%x, %f) : f32[2,3,1]
  %h = constant [5.0] : f32[1]
  %6 = fused_mat_mul(%x, %g, %h) : f32[2,3,1]
  %w = concat(%6, %5) {axis=2} : f32[2,3,2]
  return %y, %z, %w
}
"""  # noqa: E501

CONSTANT_MASKS = """
graph @masks(%q: f32[2,1,3,2], %k: f32[2,1,3,2]) -> (%y: f32[2,1,3,2], %z: f32[2,1,3,2], %w: f32[2,1,3,2], %u: f32[2,1,3,2], %v: f32[2,1,3,2]) {
  %never = constant -inf : f32[]
  %zero = constant [0.0, -inf, -inf, 0.0, 0.0, -inf, 0.0, 0.0, 0.0] : f32[1,1,3,3]
  %some = constant [0.0, -inf, -inf, 1.0, 0.0, -inf, 0.0, -2.0, 0.0] : f32[1,3,3]
  %row = constant [0.5, -inf, 1.0] : f32[3]
  %each = constant [true, false, false, true, true, false, true, true, true, true, false, true, true, true, false, true, true, true] : bool[2,1,3,3]
  %last = constant [true, true, false] : bool[3]
  %1 = fused_mat_mul(%q, %k) {transB=true} : f32[2,1,3,3]
  %2 = add(%1, %zero) : f32[2,1,3,3]
  %3 = softmax(%2) : f32[2,1,3,3]
  %y = mat_mul(%3, %k) : f32[2,1,3,2]
  %4 = fused_mat_mul(%k, %q) {transB=true} : f32[2,1,3,3]
  %5 = add(%some, %4) : f32[2,1,3,3]
  %6 = softmax(%5) : f32[2,1,3,3]
  %z = mat_mul(%6, %k) : f32[2,1,3,2]
  %7 = fused_mat_mul(%q, %q) {transB=true} : f32[2,1,3,3]
  %8 = add(%7, %row) : f32[2,1,3,3]
  %9 = softmax(%8) : f32[2,1,3,3]
  %w = mat_mul(%9, %k) : f32[2,1,3,2]
  %10 = fused_mat_mul(%k, %k) {transB=true} : f32[2,1,3,3]
  %11 = where(%each, %10, %never) : f32[2,1,3,3]
  %12 = softmax(%11) : f32[2,1,3,3]
  %u = mat_mul(%12, %k) : f32[2,1,3,2]
  %13 = fused_mat_mul(%k, %q) {transB=true alpha=0.5} : f32[2,1,3,3]
  %14 = where(%last, %13, %never) : f32[2,1,3,3]
  %15 = softmax(%14) : f32[2,1,3,3]
  %v = mat_mul(%15, %q) : f32[2,1,3,2]
  return %y, %z, %w, %u, %v
}
"""  # noqa: E501
