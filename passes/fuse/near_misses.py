"""Graphs as text to which the passes of this folder nearly apply: sizes that are not known, what
stands in the way. The fuzzer grows more around them."""

NEARLY_SIBLINGS = """
graph @nearly(%i: f32[n,16,1,2], %v: f32[1,16,1,1], %j: f32[n,8,2,2]) -> (%y: f32[n,4,1,2], %z: f32[n,2,1,2], %w: f32[n,2,1,2], %u: f32[n,3,2,2]) {
  %a = constant [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0] : f32[2,8,1,1]
  %b = constant [7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0] : f32[2,8,1,1]
  %1 = conv(%i, %a) {group=2} : f32[n,2,1,2]
  %2 = conv(%i, %b) {group=2} : f32[n,2,1,2]
  %y = concat(%1, %2) {axis=1} : f32[n,4,1,2]
  %c = constant [1.0, -2.0, 3.0, 4.0, -5.0, 6.0, -7.0, 8.0, 9.0, 1.0, -2.0, 3.0, 4.0, 5.0, 6.0, 7.0] : f32[1,16,1,1]
  %3 = conv(%i, %v) : f32[n,1,1,2]
  %4 = conv(%i, %c) : f32[n,1,1,2]
  %z = concat(%3, %4) {axis=1} : f32[n,2,1,2]
  %d = constant [1.0, -1.0, 1.0, -1.0, 1.0, -1.0, 1.0, 1.0, 1.0, -1.0, -1.0, 1.0, 1.0, 2.0, 1.0, 1.0] : f32[1,16,1,1]
  %e = constant [2.0, -1.0, 1.0, -1.0, 2.0, -1.0, 1.0, 1.0, 2.0, -1.0, -1.0, 1.0, 1.0, 1.0, 1.0, 1.0] : f32[1,16,1,1]
  %s = constant [0.5] : f32[1]
  %t = constant [2.0] : f32[1]
  %5 = fused_conv(%i, %d, none, none, %s) {activation="prelu"} : f32[n,1,1,2]
  %6 = fused_conv(%i, %e, none, none, %t) {activation="prelu"} : f32[n,1,1,2]
  %w = concat(%5, %6) {axis=1} : f32[n,2,1,2]
  %f = constant [1.0, 2.0, 3.0, 4.0, 1.0, -2.0, 3.0, 4.0] : f32[1,8,1,1]
  %g = constant [5.0, 6.0, 7.0, 8.0, -5.0, -6.0, 7.0, 8.0] : f32[1,8,1,1]
  %h = constant [5.0, 1.0, 7.0, 8.0, -5.0, 1.0, 7.0, -8.0] : f32[1,8,1,1]
  %o = constant [1.0] : f32[1]
  %7 = conv(%j, %f, %o) : f32[n,1,2,2]
  %8 = conv(%j, %g) : f32[n,1,2,2]
  %9 = conv(%j, %h) {pads=[0,0,0,0]} : f32[n,1,2,2]
  %u = concat(%7, %8, %9) {axis=1} : f32[n,3,2,2]
  return %y, %z, %w, %u
}
"""  # noqa: E501

UNKNOWN_WIDTHS = """
graph @widths(%x: f32[n,2,?], %z: f32[n,2,?]) -> (%y: f32[n,2,?], %v: f32[n,2,?], %u: f32[n,2,?], %t: f32[n,2,?], %s: f32[n,2,?]) {
  %a = constant [1.0, 2.0, -1.0, 0.5] : f32[2,2,1]
  %b = constant [2.0, 1.0, 3.0, -0.5] : f32[2,2,1]
  %c = constant [1.0, 2.0, -1.0, 0.5, 2.0, 1.0, 3.0, 1.0] : f32[2,2,2]
  %d = constant [2.0, 1.0, 3.0, -0.5, 1.0, 1.0, -2.0, 1.0] : f32[2,2,2]
  %e = constant [1.0, 2.0, -1.0, 0.5, 2.0, 1.0, 3.0, 1.0, -1.0, 2.0, 0.5, 1.0] : f32[2,2,3]
  %f = constant [2.0, 1.0, 3.0, -0.5, 1.0, 1.0, -2.0, 1.0, 3.0, 1.0, -1.0, 2.0] : f32[2,2,3]
  %1 = conv(%x, %a) {strides=[2]} : f32[n,2,?]
  %y = add(%1, %x) : f32[n,2,?]
  %2 = conv(%x, %e) {pads=[1,0]} : f32[n,2,?]
  %3 = conv(%x, %f) {pads=[2,1]} : f32[n,2,?]
  %v = add(%2, %3) : f32[n,2,?]
  %4 = conv(%x, %c) {pads=[1,0] dilations=[2]} : f32[n,2,?]
  %5 = conv(%x, %d) {pads=[0,1]} : f32[n,2,?]
  %u = add(%4, %5) : f32[n,2,?]
  %6 = max_pool(%z) {kernel_shape=[2] strides=[2] ceil_mode=true} : f32[n,2,?]
  %7 = conv(%z, %c) {strides=[2]} : f32[n,2,?]
  %t = add(%6, %7) : f32[n,2,?]
  %8 = conv(%x, %b) {strides=[2]} : f32[n,2,?]
  %9 = conv(%x, %a) : f32[n,2,?]
  %s = add(%8, %9) : f32[n,2,?]
  return %y, %v, %u, %t, %s
}
"""  # noqa: E501

UNKNOWN_IMAGES = """
graph @images(%x: f32[n,2,2,?], %z: f32[n,2,2,?], %w: f32[n,2,2,?], %o: f32[n,2,2,?]) -> (%y: f32[n,2,?,?], %v: f32[n,2,?,?], %u: f32[n,2,?,?], %s: f32[n,2,2,?]) {
  %a = constant [1.0, 2.0, -1.0, 0.5] : f32[2,2,1,1]
  %b = constant [2.0, 1.0, 3.0, -0.5] : f32[2,2,1,1]
  %c = constant [1.0, 2.0, -1.0, 0.5, 2.0, 1.0, 3.0, 1.0] : f32[2,2,1,2]
  %d = constant [2.0, 1.0, 3.0, -0.5, 1.0, 1.0, -2.0, 1.0] : f32[2,2,1,2]
  %1 = conv(%x, %c) : f32[n,2,2,?]
  %2 = conv(%z, %d) : f32[n,2,2,?]
  %y = add(%1, %2) : f32[n,2,2,?]
  %3 = conv(%x, %a) {auto_pad="SAME_UPPER" strides=[2,2]} : f32[n,2,1,?]
  %4 = conv(%z, %b) {auto_pad="SAME_LOWER" strides=[2,2]} : f32[n,2,1,?]
  %v = add(%3, %4) : f32[n,2,1,?]
  %5 = conv(%x, %c) {pads=[0,1,0,0]} : f32[n,2,2,?]
  %6 = conv(%w, %d) {pads=[0,0,0,1]} : f32[n,2,2,?]
  %u = add(%5, %6) : f32[n,2,2,?]
  %7 = conv(%o, %c) {pads=[0,2,0,1]} : f32[n,2,2,?]
  %s = add(%7, %o) : f32[n,2,2,?]
  return %y, %v, %u, %s
}
"""  # noqa: E501

UNKNOWN_COLUMNS = """
graph @columns(%x: f32[n,2], %w: f32[2,?], %t: f32[?], %v: f32[2,?], %r: f32[n,?], %u: f32[2,?], %c: f32[n,?]) -> (%y: f32[n,?], %z: f32[n,?], %s: f32[n,?]) {
  %1 = mat_mul(%x, %w) : f32[n,?]
  %y = add(%1, %t) : f32[n,?]
  %2 = mat_mul(%x, %v) : f32[n,?]
  %3 = add(%2, %r) : f32[n,?]
  %z = relu(%3) : f32[n,?]
  %4 = gemm(%x, %u, %c) : f32[n,?]
  %s = tanh(%4) : f32[n,?]
  return %y, %z, %s
}
"""  # noqa: E501

ENDED_PRODUCTS = """
graph @ended(%x: f32[n,2], %r: f32[n,3]) -> (%y: f32[n,3], %z: f32[n,3], %v: f32[n,3], %u: f32[n,3]) {
  %a = constant [1.0, -2.0, 3.0, 0.5, 5.0, 1.0] : f32[2,3]
  %b = constant [2.0, 1.0, -1.0, 1.5, -3.0, 1.0] : f32[2,3]
  %c = constant [1.0, 2.0, -3.0] : f32[3]
  %d = constant [0.5, 1.0, -1.0] : f32[1,3]
  %two = constant 2.0 : f32[]
  %1 = fused_mat_mul(%x, %a) {activation="relu"} : f32[n,3]
  %y = add(%1, %r) : f32[n,3]
  %2 = fused_mat_mul(%x, %b) {activation="tanh"} : f32[n,3]
  %z = add(%2, %c) : f32[n,3]
  %3 = fused_mat_mul(%x, %a, none, %r) {alpha=0.5} : f32[n,3]
  %v = mul(%3, %two) : f32[n,3]
  %4 = gemm(%x, %b, %d) {beta=0.5} : f32[n,3]
  %5 = mul(%4, %two) : f32[n,3]
  %u = add(%5, %c) : f32[n,3]
  return %y, %z, %v, %u
}
"""  # noqa: E501

WIDENED_SCORES = """
graph @widened(%q: f32[n,2,m,4], %k: f32[n,2,m,4], %v: f32[n,2,m,3], %m: bool[n,1,2,m]) -> (%y: f32[n,2,2,3], %z: f32[n,2,2,3]) {
  %low = constant -3e+38 : f32[]
  %zero = constant [0.0, 0.0] : f32[2,1]
  %1 = fused_mat_mul(%q, %k) {transB=true} : f32[n,2,m,m]
  %2 = where(%m, %1, %low) : f32[n,2,2,m]
  %3 = softmax(%2) : f32[n,2,2,m]
  %y = mat_mul(%3, %v) : f32[n,2,2,3]
  %4 = fused_mat_mul(%k, %q) {transB=true} : f32[n,2,m,m]
  %5 = softmax(%4) : f32[n,2,m,m]
  %6 = is_nan(%5) : bool[n,2,m,m]
  %7 = where(%6, %zero, %5) : f32[n,2,2,m]
  %z = mat_mul(%7, %v) : f32[n,2,2,3]
  return %y, %z
}
"""  # noqa: E501

UNRANKED = """
graph @unranked(%x: f32[*], %z: f32[*], %t: f32[*], %u: f32[*]) -> (%y: f32[*], %v: f32[*], %s: f32[*], %w: f32[*]) {
  %one = constant [1.0] : f32[1,1,1,1,1]
  %three = constant [3.0] : f32[1,1,1,1,1]
  %zero = constant 0.0 : f32[]
  %six = constant 6.0 : f32[]
  %half = constant [0.5] : f32[1,1,1,1,1]
  %1 = neg(%x) : f32[*]
  %2 = exp(%1) : f32[*]
  %3 = add(%2, %one) : f32[*]
  %y = reciprocal(%3) : f32[*]
  %4 = add(%z, %three) : f32[*]
  %5 = clip(%4, %zero, %six) : f32[*]
  %v = div(%5, %six) : f32[*]
  %6 = mul(%t, %half) : f32[*]
  %s = max(%t, %6) : f32[*]
  %7 = mul(%u, %three) : f32[*]
  %8 = sigmoid(%7) : f32[*]
  %w = mul(%u, %8) : f32[*]
  return %y, %v, %s, %w
}
"""  # noqa: E501

WHOLE_WINDOWS = """
graph @whole(%x: f32[n,2,2,2], %z: f32[n,2,3,2], %t: f32[n,3], %s: f32[n,2,3]) -> (%y: f32[n,2,1,1], %v: f32[n,2,1,1], %w: f32[n,2,1,1], %m: f32[1,1], %a: f32[n,2,3], %b: f32[n,2,3], %e: f32[n,2,2,2], %f: f32[n,2,1,1]) {
  %f = average_pool(%x) {kernel_shape=[2,2] strides=[2,2] pads=[1,0,0,0]} : f32[n,2,1,1]
  %e = average_pool(%x) {kernel_shape=[2,2] auto_pad="SAME_UPPER"} : f32[n,2,2,2]
  %y = average_pool(%x) {kernel_shape=[2,2] strides=[2,2] dilations=[1,2] auto_pad="SAME_UPPER"} : f32[n,2,1,1]
  %v = average_pool(%z) {kernel_shape=[3,2] strides=[3,2]} : f32[n,2,1,1]
  %w = average_pool(%z) {kernel_shape=[3,2] strides=[3,3] dilations=[2,1] auto_pad="SAME_LOWER"} : f32[n,2,1,1]
  %all = constant [] : i64[0]
  %m = reduce_mean(%t, %all) : f32[1,1]
  %scale = constant [1.0, -2.0, 0.5] : f32[3]
  %shift = constant 1.5 : f32[]
  %1 = layer_normalization(%s, %scale) {axis=2} : f32[n,2,3]
  %a = add(%1, %shift) : f32[n,2,3]
  %2 = layer_normalization(%s, %scale) : f32[n,2,3]
  %b = add(%shift, %2) : f32[n,2,3]
  return %y, %v, %w, %m, %a, %b, %e, %f
}
"""  # noqa: E501

AVERAGED = """
graph @averaged(%x: f32[n,2,2,4], %w: f32[1,2,1,1], %r: f32[n,2,4,4]) -> (%y: f32[n,1,1,2], %z: f32[n,3,1,1], %v: f32[n,1,2,2]) {
  %a = constant [1.0, -2.0, 0.5, 1.0, 2.0, -1.0] : f32[3,2,1,1]
  %c = constant [0.5, -1.0, 2.0] : f32[3]
  %1 = conv(%x, %w) : f32[n,1,2,4]
  %y = average_pool(%1) {kernel_shape=[2,2] strides=[2,2]} : f32[n,1,1,2]
  %2 = conv(%x, %a, %c) : f32[n,3,2,4]
  %z = global_average_pool(%2) : f32[n,3,1,1]
  %3 = conv(%r, %w) {strides=[2,2]} : f32[n,1,2,2]
  %v = average_pool(%3) {kernel_shape=[2,2] pads=[0,0,1,1] count_include_pad=true} : f32[n,1,2,2]
  return %y, %z, %v
}
"""  # noqa: E501

NEARLY_SELECTED = """
graph @some(%q: f32[2,2,3,4], %k: f32[2,2,3,4], %v: f32[2,2,3,2], %m: bool[2,1,1,3]) -> (%y: f32[2,2,3,2], %z: f32[2,2,3,2], %w: f32[2,2,3,2], %u: f32[2,2,3,2]) {
  %some = constant -2.0 : f32[]
  %two = constant 2.0 : f32[]
  %low = constant -1e+09 : f32[]
  %1 = fused_mat_mul(%q, %k) {transB=true} : f32[2,2,3,3]
  %2 = where(%m, %1, %some) : f32[2,2,3,3]
  %3 = softmax(%2) : f32[2,2,3,3]
  %y = mat_mul(%3, %v) : f32[2,2,3,2]
  %4 = fused_mat_mul(%q, %k) {transB=true} : f32[2,2,3,3]
  %5 = div(%two, %4) : f32[2,2,3,3]
  %6 = softmax(%5) : f32[2,2,3,3]
  %z = mat_mul(%6, %v) : f32[2,2,3,2]
  %7 = fused_mat_mul(%k, %q) {transB=true} : f32[2,2,3,3]
  %8 = where(%m, %low, %7) : f32[2,2,3,3]
  %9 = mul(%8, %two) : f32[2,2,3,3]
  %10 = where(%m, %9, %low) : f32[2,2,3,3]
  %11 = softmax(%10) : f32[2,2,3,3]
  %w = mat_mul(%11, %v) : f32[2,2,3,2]
  %12 = fused_mat_mul(%k, %k) {transB=true} : f32[2,2,3,3]
  %13 = where(%m, %some, %12) : f32[2,2,3,3]
  %14 = mul(%two, %13) : f32[2,2,3,3]
  %15 = softmax(%14) : f32[2,2,3,3]
  %u = mat_mul(%15, %v) : f32[2,2,3,2]
  return %y, %z, %w, %u
}
"""  # noqa: E501

NEARLY_FOLDED = """
graph @folded(%x: f32[n,2,2,2], %u: f32[n,2,2,2], %z: f32[n,1,2,2], %v: f32[3,2], %m: f32[2,2]) -> (%y: f32[n,4,2,2], %w: f32[n,4,2,2], %s: f32[n,1,2,3], %t: f32[3], %o: f32[2], %l: f32[n,2,2,2]) {
  %a = constant [1.0, 2.0, -1.0, 0.5] : f32[2,2,1,1]
  %b = constant [2.0, 1.0, 3.0, -0.5] : f32[2,2,1,1]
  %1 = conv(%x, %a) : f32[n,2,2,2]
  %2 = concat(%1, %u) {axis=1} : f32[n,4,2,2]
  %y = relu(%2) : f32[n,4,2,2]
  %3 = conv(%u, %b) : f32[n,2,2,2]
  %4 = sigmoid(%x) : f32[n,2,2,2]
  %5 = concat(%4, %3) {axis=1} : f32[n,4,2,2]
  %w = relu(%5) : f32[n,4,2,2]
  %c = constant [1.0, -2.0] : f32[1,2,1,1]
  %factor = constant [0.5, 2.0] : f32[2,1,1]
  %term = constant 3.0 : f32[]
  %6 = mul(%z, %factor) : f32[n,2,2,2]
  %7 = add(%6, %term) : f32[n,2,2,2]
  %s = conv(%7, %c) {pads=[0,0,0,1]} : f32[n,1,2,3]
  %d = constant [1.0, -2.0] : f32[2]
  %e = constant [0.5, 2.0, -1.0] : f32[3]
  %8 = mat_mul(%v, %d) : f32[3]
  %t = mul(%8, %e) : f32[3]
  %f = constant [3.0, 0.5] : f32[2]
  %g = constant [2.0, -1.0] : f32[2]
  %9 = mat_mul(%m, %f) : f32[2]
  %o = div(%9, %g) : f32[2]
  %10 = fused_conv(%x, %a, none, %u) {residual_last=true} : f32[n,2,2,2]
  %l = relu(%10) : f32[n,2,2,2]
  return %y, %w, %s, %t, %o, %l
}
"""  # noqa: E501

NEARLY_JOINED = """
graph @joined(%q: f32[2,3,4,3], %k: f32[2,3,4,3], %v: f32[2,3,4,2]) -> (%y: f32[2,3,8], %z: f32[2,3,8], %u: f32[2,8,3], %t: f32[2,3,8]) {
  %s = constant [2, 3, 8] : i64[3]
  %r = constant [2, 8, 3] : i64[3]
  %1 = transpose(%q) {perm=[0,2,1,3]} : f32[2,4,3,3]
  %2 = transpose(%k) {perm=[0,2,1,3]} : f32[2,4,3,3]
  %3 = transpose(%v) {perm=[0,2,1,3]} : f32[2,4,3,2]
  %4 = attention(%1, %2, %3) {scale=0.5} : f32[2,4,3,2]
  %5 = transpose(%4) {perm=[0,2,3,1]} : f32[2,3,2,4]
  %y = reshape(%5, %s) : f32[2,3,8]
  %6 = attention(%2, %1, %3) {scale=0.5} : f32[2,4,3,2]
  %7 = transpose(%6) {perm=[0,1,2,3]} : f32[2,4,3,2]
  %z = reshape(%7, %s) : f32[2,3,8]
  %8 = attention(%1, %1, %3) {scale=0.5} : f32[2,4,3,2]
  %9 = transpose(%8) {perm=[0,2,1,3]} : f32[2,3,4,2]
  %u = reshape(%9, %r) : f32[2,8,3]
  %11 = transpose(%v) {perm=[0,2,1,3]} : f32[2,4,3,2]
  %12 = attention(%2, %2, %11) {scale=0.5} : f32[2,4,3,2]
  %13 = transpose(%12) {perm=[0,2,1,3]} : f32[2,3,4,2]
  %t = reshape(%13, %s) : f32[2,3,8]
  return %y, %z, %u, %t
}
"""  # noqa: E501

BIASED_TWICE = """
graph @biased(%x: f32[n,2], %q: u8[n,2,4], %s: f32[]) -> (%y: f32[n,3], %z: f32[n,2,3]) {
  %w = constant [1.0, -2.0, 0.5, 1.0, 2.0, -1.0] : f32[2,3]
  %c = constant [1.0, 2.0, -3.0] : f32[3]
  %d = constant [0.5, -1.0, 4.0] : f32[3]
  %1 = fused_mat_mul(%x, %w, %c) : f32[n,3]
  %y = add(%1, %d) : f32[n,3]
  %v = constant [1, -2, 3, 4, 5, -6, -7, 8, 9, 1, 2, 3] : i8[4,3]
  %t = constant [0.5, 0.25, 1.0] : f32[3]
  %rows = constant [0.5, -1.0, 4.0, 1.0, 2.0, -3.0] : f32[2,3]
  %2 = scaled_mat_mul(%q, %v, %s, %t) : f32[n,2,3]
  %z = add(%2, %rows) : f32[n,2,3]
  return %y, %z
}
"""

FALLING = """
graph @falling(%x: f32[n,2,4,4]) -> (%y: f32[n,2,2,2], %z: f32[n,2,2,2], %v: f32[n,2,2,2]) {
  %1 = leaky_relu(%x) {alpha=-0.5} : f32[n,2,4,4]
  %y = max_pool(%1) {kernel_shape=[2,2] strides=[2,2]} : f32[n,2,2,2]
  %2 = elu(%x) {alpha=-2.0} : f32[n,2,4,4]
  %z = max_pool(%2) {kernel_shape=[2,2] strides=[2,2]} : f32[n,2,2,2]
  %3 = hard_sigmoid(%x) {alpha=-0.5} : f32[n,2,4,4]
  %v = max_pool(%3) {kernel_shape=[2,2] strides=[2,2]} : f32[n,2,2,2]
  return %y, %z, %v
}
"""

HARD_MASKS = """
graph @hard(%q: f32[2,1,3,2], %k: f32[2,1,3,2], %m: bool[3,3], %r: f32[2,1,2,2]) -> (%y: f32[2,1,3,2], %z: f32[2,1,3,2], %w: f32[2,1,2,2]) {
  %low = constant -1e+09 : f32[]
  %never = constant -inf : f32[]
  %high = constant [3e+09, 0.0, 0.0] : f32[3]
  %1 = fused_mat_mul(%q, %k) {transB=true} : f32[2,1,3,3]
  %2 = where(%m, %1, %low) : f32[2,1,3,3]
  %3 = add(%2, %high) : f32[2,1,3,3]
  %4 = softmax(%3) : f32[2,1,3,3]
  %y = mat_mul(%4, %k) : f32[2,1,3,2]
  %all = constant [true, true, true, true, true, true, true, true, true] : bool[1,1,3,3]
  %5 = fused_mat_mul(%k, %q) {transB=true} : f32[2,1,3,3]
  %6 = where(%all, %5, %never) : f32[2,1,3,3]
  %7 = softmax(%6) : f32[2,1,3,3]
  %z = mat_mul(%7, %q) : f32[2,1,3,2]
  %some = constant [true, false, true, true, true, false] : bool[1,2,3]
  %8 = fused_mat_mul(%r, %q) {transB=true} : f32[2,1,2,3]
  %9 = where(%some, %8, %never) : f32[2,1,2,3]
  %10 = softmax(%9) : f32[2,1,2,3]
  %w = mat_mul(%10, %k) : f32[2,1,2,2]
  return %y, %z, %w
}
"""  # noqa: E501

TURNED_HEADS = """
graph @turned(%q: f32[2,2,2,3], %k: f32[2,2,2,3], %v: f32[2,2,2,3]) -> (%y: f32[2,2,6]) {
  %s = constant [2, 2, 6] : i64[3]
  %1 = transpose(%q) {perm=[1,2,0,3]} : f32[2,2,2,3]
  %2 = transpose(%k) {perm=[2,0,1,3]} : f32[2,2,2,3]
  %3 = transpose(%v) {perm=[1,0,2,3]} : f32[2,2,2,3]
  %4 = attention(%1, %2, %3) {scale=0.5} : f32[2,2,2,3]
  %5 = transpose(%4) {perm=[0,2,1,3]} : f32[2,2,2,3]
  %y = reshape(%5, %s) : f32[2,2,6]
  return %y
}
"""
