"""Graphs as text to which the passes of this folder apply; the fuzzer grows more around them."""

BRANCH = """
graph @branch(%x: f32[n,3]) -> (%y: f32[n,3], %z: f32[n,3]) {
  %true = constant true : bool[]
  %false = constant false : bool[]
  %w = constant [1.0, 2.0, 3.0] : f32[3]
  %y = if(%true, %x, %w) {then_branch=graph @main(%a: f32[n,3], %w: f32[3]) -> (%out: f32[n,3]) {
  %r = sub(%a, %w) : f32[n,3]
  return %r
} else_branch=graph @main(%a: f32[n,3], %w: f32[3]) -> (%out: f32[n,3]) {
  %r = mul(%a, %w) : f32[n,3]
  return %r
}} : f32[n,3]
  %z = if(%false, %x, %w) {then_branch=graph @main(%a: f32[n,3], %w: f32[3]) -> (%out: f32[n,3]) {
  %r = sub(%a, %w) : f32[n,3]
  return %r
} else_branch=graph @main(%a: f32[n,3], %w: f32[3]) -> (%out: f32[n,3]) {
  %r = mul(%a, %w) : f32[n,3]
  return %r
}} : f32[n,3]
  return %y, %z
}
"""

LOOP = """
graph @loop(%x: f32[2,3]) -> (%y: f32[2,3], %z: f32[3,3]) {
  %trips = constant 3 : i64[]
  %w = constant [1.0, -2.0, 3.0] : f32[3]
  %l:2 = loop(%trips, none, %x, %w) {carried=1 body=graph @main(%i: i64[], %cond: bool[], %v: f32[2,3], %w: f32[3]) -> (%cond: bool[], %v: f32[2,3], %r: f32[3]) {
  %m = sub(%v, %w) : f32[2,3]
  %f = cast(%i) {to=f32} : f32[]
  %a = add(%m, %f) : f32[2,3]
  %axis = constant [0] : i64[1]
  %s = reduce_max(%a, %axis) {keepdims=false} : f32[3]
  %c = identity(%cond) : bool[]
  return %c, %a, %s
}} : f32[2,3], f32[3,3]
  return %l#0, %l#1
}
"""  # noqa: E501

DEAD_PARTS = """
graph @dead(%x: f32[2,3], %c: bool[], %t: i64[]) -> (%y: f32[2,3], %w: f32[2,3], %s: f32[n,3], %v: f32[2,3]) {
  %e = exp(%x) : f32[2,3]
  %never = relu(%e) : f32[2,3]
  %p:2 = if(%c, %x, %e) {then_branch=graph @main(%a: f32[2,3], %b: f32[2,3]) -> (%r: f32[2,3], %no: f32[2,3]) {
  %r = neg(%a) : f32[2,3]
  %n = abs(%b) : f32[2,3]
  return %r, %n
} else_branch=graph @main(%a: f32[2,3], %b: f32[2,3]) -> (%r: f32[2,3], %no: f32[2,3]) {
  %r = abs(%a) : f32[2,3]
  return %r, %b
}} : f32[2,3], f32[2,3]
  %d = neg(%x) : f32[2,3]
  %v = if(%c, %x, %e, %d, %never) {then_branch=graph @main(%a: f32[2,3], %b: f32[2,3], %u: f32[2,3], %n: f32[2,3]) -> (%r: f32[2,3]) {
  %r = sub(%a, %b) : f32[2,3]
  return %r
} else_branch=graph @main(%a: f32[2,3], %b: f32[2,3], %u: f32[2,3], %n: f32[2,3]) -> (%r: f32[2,3]) {
  %r = sub(%n, %a) : f32[2,3]
  return %r
}} : f32[2,3]
  %l:4 = loop(%t, none, %x, %x, %e) {carried=3 body=graph @main(%i: i64[], %cond: bool[], %v: f32[2,3], %w: f32[2,3], %d: f32[2,3]) -> (%cond: bool[], %v: f32[2,3], %w: f32[2,3], %d: f32[2,3], %s: f32[3]) {
  %axis = constant [0] : i64[1]
  %s = reduce_max(%v, %axis) {keepdims=false} : f32[3]
  %m = sub(%w, %s) : f32[2,3]
  %h = neg(%v) : f32[2,3]
  %q = abs(%d) : f32[2,3]
  return %cond, %h, %m, %q, %s
}} : f32[2,3], f32[2,3], f32[2,3], f32[n,3]
  return %p#0, %l#1, %l#3, %v
}
"""  # noqa: E501

EQUAL = """
graph @equal(%x: f32[n,4]) -> (%y: f32[n,4], %z: f32[n,4], %i: i64[n,1]) {
  %a = constant 2.0 : f32[]
  %b = constant 2.0 : f32[]
  %c = constant -0.0 : f32[]
  %d = constant 0.0 : f32[]
  %1 = mul(%x, %a) : f32[n,4]
  %2 = mul(%x, %b) : f32[n,4]
  %3 = leaky_relu(%1) {alpha=0.1} : f32[n,4]
  %4 = leaky_relu(%2) {alpha=0.1} : f32[n,4]
  %5 = leaky_relu(%2) {alpha=0.2} : f32[n,4]
  %6 = sub(%3, %5) : f32[n,4]
  %7 = sub(%5, %4) : f32[n,4]
  %8 = div(%6, %c) : f32[n,4]
  %y = div(%7, %d) : f32[n,4]
  %z = add(%8, %6) : f32[n,4]
  %one = constant [1] : i64[1]
  %t:2 = top_k(%1, %one) : f32[n,1], i64[n,1]
  %u:2 = top_k(%2, %one) : f32[n,1], i64[n,1]
  %i = add(%t#1, %u#1) : i64[n,1]
  return %y, %z, %i
}
"""

SHAPES = """
graph @shapes(%x: f32[n,3,4]) -> (%y: f32[n,12], %z: f32[9], %k: f32[2,3], %q: f32[2], %t: f32[2], %places: i64[2,?]) {
  %s = shape(%x) : i64[3]
  %one = constant [1] : i64[1]
  %two = constant [2] : i64[1]
  %c = gather(%s, %one) : i64[1]
  %d = gather(%s, %two) : i64[1]
  %p = mul(%c, %d) : i64[1]
  %rest = constant [-1] : i64[1]
  %to = concat(%rest, %p) {axis=0} : i64[2]
  %y = reshape(%x, %to) : f32[n,12]
  %nine = constant [9] : i64[1]
  %z = constant_of_shape(%nine) : f32[9]
  %w = constant [1.0, -2.0, 3.0, 0.5, 0.0, 4.0] : f32[2,3]
  %v = constant [2.0, 3.0, 5.0] : f32[3]
  %m = sub(%w, %v) : f32[2,3]
  %r = exp(%m) : f32[2,3]
  %k = div(%r, %v) : f32[2,3]
  %b = constant [3, -7] : i8[2]
  %scale = constant 0.5 : f32[]
  %q = dequantize_linear(%b, %scale) : f32[2]
  %two_of:2 = top_k(%v, %two) : f32[2], i64[2]
  %places = non_zero(%w) : i64[2,?]
  return %y, %z, %k, %q, %two_of#0, %places
}
"""  # noqa: E501

LOOSE = """
graph @loose(%x: f32[2,3], %c: bool[]) -> (%y: f32[?,3]) {
  %y = if(%c, %x) {then_branch=graph @main(%a: f32[?,3]) -> (%r: f32[?,3]) {
  %r = relu(%a) : f32[?,3]
  return %r
} else_branch=graph @main(%a: f32[?,3]) -> (%r: f32[?,3]) {
  %r = neg(%a) : f32[?,3]
  return %r
}} : f32[?,3]
  return %y
}
"""

SIZES = """
graph @sizes(%x: f32[n,3], %z: f32[n,m]) -> (%y: f32[n,3], %s: i64[2]) {
  %y = relu(%x) : f32[n,3]
  %s = shape(%z) : i64[2]
  return %y, %s
}
"""

TURNED = """
graph @turned(%x: f32[n,2,3,4], %r: f32[n,3,4,2]) -> (%y: f32[n,4,3,4]) {
  %c = constant [1.0, 2.0] : f32[2]
  %1 = transpose(%x) {perm=[0,2,3,1]} : f32[n,3,4,2]
  %2 = add(%1, %c) : f32[n,3,4,2]
  %3 = sigmoid(%2) : f32[n,3,4,2]
  %4 = sub(%2, %3) : f32[n,3,4,2]
  %5 = mul(%4, %r) : f32[n,3,4,2]
  %6 = concat(%5, %2) {axis=3} : f32[n,3,4,4]
  %y = transpose(%6) {perm=[0,3,1,2]} : f32[n,4,3,4]
  return %y
}
"""

TURNED_ROWS = """
graph @rows(%x: f32[2,3,4,3], %c: f32[3], %d: f32[4,3], %u: f32[*]) -> (%y: f32[2,3,4,3], %z: f32[2,3,4,3], %v: f32[*]) {
  %1 = transpose(%x) {perm=[0,2,3,1]} : f32[2,4,3,3]
  %2 = add(%1, %c) : f32[2,4,3,3]
  %y = transpose(%2) {perm=[0,3,1,2]} : f32[2,3,4,3]
  %3 = transpose(%x) {perm=[0,3,2,1]} : f32[2,3,4,3]
  %4 = max(%d, %3) : f32[2,3,4,3]
  %z = transpose(%4) {perm=[0,3,2,1]} : f32[2,3,4,3]
  %s = shape(%u) : i64[?]
  %5 = neg(%u) : f32[*]
  %v = reshape(%5, %s) : f32[*]
  return %y, %z, %v
}
"""  # noqa: E501

TURNED_TWICE = """
graph @twice(%x: f32[2,3,4], %w: f32[2,4,3]) -> (%y: f32[4,2,3], %z: f32[3,4,2], %v: f32[3,2,4]) {
  %1 = transpose(%x) {perm=[2,0,1]} : f32[4,2,3]
  %2 = transpose(%w) {perm=[1,0,2]} : f32[4,2,3]
  %half = constant 0.5 : f32[]
  %3 = mul(%1, %half) : f32[4,2,3]
  %4 = sub(%3, %2) : f32[4,2,3]
  %5 = abs(%4) : f32[4,2,3]
  %y = neg(%5) : f32[4,2,3]
  %z = transpose(%4) {perm=[2,0,1]} : f32[3,4,2]
  %6 = max(%5, %1) : f32[4,2,3]
  %v = transpose(%6) {perm=[2,1,0]} : f32[3,2,4]
  return %y, %z, %v
}
"""

PADDED = """
graph @padded(%x: f32[n,2,4,4], %u: f32[n,1,4,4], %q: u8[n,2,4], %z: u8[], %p: f32[?,2,4]) -> (%a: f32[n,2,4,4], %b: f32[n,3,5,5], %c: f32[n,32,3], %d: i32[n,1,5], %e: i32[n,1,5], %f: u8[n,2,6,6], %g: f32[n,2,6], %h: f32[n,1,5,5], %i: i32[n,1,5], %j: f32[?,1,3], %k: f32[n,2,4,4], %l: f32[n,2,4,4]) {
  %around = constant [0, 0, 1, 1, 0, 0, 1, 1] : i64[8]
  %beside = constant [0, 0, 1, 0, 0, 1] : i64[6]
  %none = constant 0.0 : f32[]
  %one = constant 1.0 : f32[]
  %three = constant 3 : u8[]
  %zero = constant 0 : u8[]
  %half = constant 0.5 : f32[]
  %r = relu(%x) : f32[n,2,4,4]
  %1 = pad(%r, %around, %one) : f32[n,2,6,6]
  %a = max_pool(%1) {kernel_shape=[3,3]} : f32[n,2,4,4]
  %2 = concat(%r, %u) {axis=1} : f32[n,3,4,4]
  %3 = pad(%2, %around, %none) : f32[n,3,6,6]
  %b = max_pool(%3) {kernel_shape=[2,2]} : f32[n,3,5,5]
  %flat = constant [0, 32, 1] : i64[3]
  %4 = reshape(%r, %flat) : f32[n,32,1]
  %wide = constant [0, 0, 2, 0, 0, 2] : i64[6]
  %5 = pad(%4, %wide, %none) : f32[n,32,5]
  %c = max_pool(%5) {kernel_shape=[3] pads=[0,0]} : f32[n,32,3]
  %w = constant [1, -2, 3, 1] : i8[1,2,2]
  %6 = pad(%q, %beside, %zero) : u8[n,2,6]
  %d = conv_integer(%6, %w, %three) : i32[n,1,5]
  %7 = pad(%q, %beside, %three) : u8[n,2,6]
  %e = conv_integer(%7, %w, %three) : i32[n,1,5]
  %8 = pad(%x, %around) : f32[n,2,6,6]
  %f = quantize_linear(%8, %half, %z) : u8[n,2,6,6]
  %g = dequantize_linear(%6, %half, %z) : f32[n,2,6]
  %v = constant [1.0, -2.0, 0.5, 3.0] : f32[1,1,2,2]
  %9 = pad(%u, %around, %one) : f32[n,1,6,6]
  %bias = constant [1.0] : f32[1]
  %h = conv(%9, %v, %bias) : f32[n,1,5,5]
  %i = conv_integer(%6, %w, %z) : i32[n,1,5]
  %behind = constant [0, 0, 0, 1, 0, 0] : i64[6]
  %10 = pad(%p, %behind) : f32[?,2,4]
  %t = constant [1.0, -2.0, 0.5, 3.0] : f32[1,2,2]
  %j = conv(%10, %t) : f32[?,1,3]
  %rows = constant [0, 0, 1, 0, 0, 0, 1, 0] : i64[8]
  %11 = pad(%x, %rows, %none) : f32[n,2,6,4]
  %k = average_pool(%11) {kernel_shape=[3,2] pads=[0,1,0,0]} : f32[n,2,4,4]
  %12 = pad(%x, %rows, %none) : f32[n,2,6,4]
  %l = average_pool(%12) {kernel_shape=[3,2] pads=[0,1,0,0] count_include_pad=true} : f32[n,2,4,4]
  return %a, %b, %c, %d, %e, %f, %g, %h, %i, %j, %k, %l
}
"""  # noqa: E501

LIMITS = """
graph @numbers(%x: f32[n,3], %i: u32[4], %j: u16[5], %k: i64[n,3]) -> (%y: f32[n,3], %z: f32[n,3], %v: f32[n,3], %a: f64[4], %b: i32[5], %c: i64[5], %d: i64[n,3], %e: i64[n,3]) {
  %high = constant inf : f32[]
  %low = constant -inf : f32[]
  %y = max(%x, %high) : f32[n,3]
  %z = min(%x, %low) : f32[n,3]
  %1 = max(%x, %low) : f32[n,3]
  %v = clip(%1, %low, %high) : f32[n,3]
  %2 = cast(%i) {to=f32} : f32[4]
  %a = cast(%2) {to=f64} : f64[4]
  %3 = cast(%j) {to=bf16} : bf16[5]
  %b = cast(%3) {to=i32} : i32[5]
  %4 = cast(%j) {to=i32} : i32[5]
  %c = cast(%4) {to=i64} : i64[5]
  %odd = constant 9007199254740993 : i64[]
  %d = max(%k, %odd) : i64[n,3]
  %zero = constant 0 : i64[]
  %e = clip(%k, %zero, %odd) : i64[n,3]
  return %y, %z, %v, %a, %b, %c, %d, %e
}
"""  # noqa: E501
