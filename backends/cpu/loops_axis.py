"""Generated loop nests along an axis: softmax, normalization, arg max, interpolation, products.

Like `loops`, these make machine code and are part of every cached object's key.
"""

from __future__ import annotations

from typing import Any

from .loops import GONE, KEPT


def _rows(operands: int) -> tuple[list[str], list[str], int]:
    """Source that walks rows over KEPT axes: a prologue, the offsets x0, x1, ... of a row, and the
    first free byte of the record. Words: rows, per, addresses, then per axis n and strides."""
    head = ["def body(d, chunk):", "    rows, per = word(d + 24), word(d + 32)"]
    at = 40
    for j in range(operands):
        head.append(f"    b{j} = word(d + {at})")
        at += 8
    for k in range(KEPT):
        head.append(f"    n{k} = word(d + {at})")
        at += 8
        for j in range(operands):
            head.append(f"    s{j}_{k} = word(d + {at})")
            at += 8
    row = ["    row = chunk * per", "    last = smaller(row + per, rows)", "    while row < last:"]
    row += ["        r = row", *(f"        x{j} = b{j}" for j in range(operands))]
    for k in reversed(range(KEPT)):
        row += [f"        i = r % n{k}", f"        r = r // n{k}"]
        row += [f"        x{j} += i * s{j}_{k}" for j in range(operands)]
    return head, row, at


def _total(wide: str, load: str) -> list[str]:
    """Source that sums `load` (of i) over range(n) with eight partial sums, into `total`."""
    lines = [f"        t{u} = {wide}(0)" for u in range(8)]
    lines += ["        whole = n - n % 8", "        for i0 in range(0, whole, 8):"]
    for u in range(8):
        lines += [f"            i = i0 + {u}", f"            t{u} += {wide}({load})"]
    lines += ["        for i in range(whole, n):", f"            t0 += {wide}({load})"]
    lines += ["        total = ((t0 + t1) + (t2 + t3)) + ((t4 + t5) + (t6 + t7))"]
    return lines


def softmax_kernel(isa: Any, kind: str, dense: bool, log: bool):
    """Softmax along one axis (x0 to x1)."""
    from . import numeric

    head, row, at = _rows(2)
    item = numeric.size(kind)
    head.append(f"    n, p, q = word(d + {at}), word(d + {at + 8}), word(d + {at + 16})")
    p, q = (str(item), str(item)) if dense else ("p", "q")
    exp = "exp32" if kind == "f32" else "math.exp"
    lines = [*head, *row, f"        top = {kind}(-np.inf)", "        for i in range(n):"]
    lines += [f"            top = least(load_{kind}(x0, i * {p}), top)"]
    lines += ["        for i in range(n):"]
    lines += [f"            store_{kind}(x1, i * {q}, {exp}(load_{kind}(x0, i * {p}) - top))"]
    lines += _total(kind, f"load_{kind}(x1, i * {q})")
    if log:
        lines += [f"        below = {kind}(math.log(f64(total)))", "        for i in range(n):"]
        lines += [f"            v = load_{kind}(x0, i * {p}) - top - below"]
    else:
        lines += [f"        factor = {kind}(1) / total", "        for i in range(n):"]
        lines += [f"            v = load_{kind}(x1, i * {q}) * factor"]
    lines += [f"            store_{kind}(x1, i * {q}, v)", "        row += 1"]
    return numeric.chunked("\n".join(lines), numeric.scope())


def normalize_kernel(isa: Any, kind: str, centred: bool):
    """(x - mean) / sqrt(variance + epsilon) over GONE axes; uncentred: x / sqrt(mean of x^2 + e).

    Sums are in double precision."""
    from . import numeric

    head, row, at = _rows(2)
    for k in range(GONE):
        head.append(f"    m{k}, p{k}, q{k} = word(d + {at}), word(d + {at + 8}), "
                    f"word(d + {at + 16})")  # fmt: skip
        at += 24
    count = " * ".join(f"m{k}" for k in range(GONE))
    head += [f"    epsilon = load_f64(d, {at})", f"    n = f64({count})"]
    lines = [*head, *row, "        mean = 0.0"]

    def nest(body: list[str]) -> list[str]:
        made = []
        for k in range(GONE):
            made.append("    " * (2 + k) + f"for i{k} in range(m{k}):")
        pad = "    " * (2 + GONE)
        inner = "x0 + " + " + ".join(f"i{k} * p{k}" for k in range(GONE - 1))
        outer = "x1 + " + " + ".join(f"i{k} * q{k}" for k in range(GONE - 1))
        k = GONE - 1
        load = f"f64(load_{kind}({inner}, i{k} * p{k}))"
        return made + [pad + b.replace("LOAD", load).replace("OUT", f"{outer}, i{k} * q{k}")
                       for b in body]  # fmt: skip

    if centred:
        lines += [*nest(["mean += LOAD"]), "        mean = mean / n"]
    lines += ["        square = 0.0", *nest(["v = LOAD - mean", "square += v * v"])]
    lines += ["        scale = 1.0 / math.sqrt(square / n + epsilon)"]
    lines += nest([f"store_{kind}(OUT, {kind}((LOAD - mean) * scale))"])
    lines += ["        row += 1"]
    return numeric.chunked("\n".join(lines), numeric.scope())


def arg_kernel(isa: Any, kind: str, largest: bool, last: bool):
    """The index (i64, to x1) of the extreme element along one axis; NaN counts as extreme."""
    from . import numeric

    head, row, at = _rows(2)
    head.append(f"    n, p = word(d + {at}), word(d + {at + 8})")
    sign = {(True, False): ">", (True, True): ">=", (False, False): "<", (False, True): "<="}
    better = f"v {sign[largest, last]} best"
    nan = "(v != v)" if last else "(v != v and best == best)"
    lines = [*head, *row, f"        best = load_{kind}(x0, 0)", "        at = 0"]
    lines += ["        for i in range(1, n):", f"            v = load_{kind}(x0, i * p)"]
    lines += [f"            if ({better} and best == best) or {nan}:"]
    lines += ["                best = v", "                at = i"]
    lines += ["        store_i64(x1, 0, at)", "        row += 1"]
    return numeric.chunked("\n".join(lines), numeric.scope())


def interpolate_kernel(isa: Any, kind: str, dense: bool):
    """x1[j] = sum over t of w[j, t] * x0[o[j, t]], for blocks of `inner` elements.

    One of the rows' axes is j: its stride in x0 is 0 and the tables give the offsets."""
    from . import numeric

    head, row, at = _rows(3)  # x0 source, x1 target, x2 the row of the table
    head.append(f"    taps, inner = word(d + {at}), word(d + {at + 8})")
    head.append(f"    p, q = word(d + {at + 16}), word(d + {at + 24})")
    item = numeric.size(kind)
    p, q = (str(item), str(item)) if dense else ("p", "q")
    lines = [*head, *row]
    lines += ["        a, w = x0 + load_i64(x2, 0), " + f"{kind}(load_f64(x2, 8))"]
    lines += ["        for i in range(inner):"]
    lines += [f"            store_{kind}(x1, i * {q}, w * load_{kind}(a, i * {p}))"]
    lines += ["        for t in range(1, taps):"]
    lines += ["            a = x0 + load_i64(x2, 16 * t)"]
    lines += [f"            w = {kind}(load_f64(x2, 16 * t + 8))"]
    lines += ["            for i in range(inner):"]
    lines += [f"                v = load_{kind}(x1, i * {q}) + w * load_{kind}(a, i * {p})"]
    lines += [f"                store_{kind}(x1, i * {q}, v)"]
    lines += ["        row += 1"]
    return numeric.chunked("\n".join(lines), numeric.scope())


def product_kernel(isa: Any, kind: str):
    """x2[j] = sum over k of x0[k] * x1[k, j] for every row of every matrix; j is contiguous."""
    from . import numeric

    head, row, at = _rows(3)
    head.append(f"    depth, width = word(d + {at}), word(d + {at + 8})")
    head.append(f"    p, q = word(d + {at + 16}), word(d + {at + 24})")
    item = numeric.size(kind)
    lines = [*head, *row, "        for j in range(width):"]
    lines += [f"            store_{kind}(x2, j * {item}, {kind}(0))"]
    lines += ["        whole = depth - depth % 4", "        for k in range(0, whole, 4):"]
    lines += [f"            c{u} = load_{kind}(x0, (k + {u}) * p)" for u in range(4)]
    lines += [f"            y{u} = x1 + (k + {u}) * q" for u in range(4)]
    terms = " + ".join(f"c{u} * load_{kind}(y{u}, j * {item})" for u in range(4))
    lines += ["            for j in range(width):"]
    lines += [f"                v = {kind}(load_{kind}(x2, j * {item}) + ({terms}))"]
    lines += [f"                store_{kind}(x2, j * {item}, v)"]
    lines += ["        for k in range(whole, depth):", f"            c0 = load_{kind}(x0, k * p)"]
    lines += ["            y0 = x1 + k * q", "            for j in range(width):"]
    lines += [f"                v = {kind}(load_{kind}(x2, j * {item}) + c0 * "
              f"load_{kind}(y0, j * {item}))"]  # fmt: skip
    lines += [f"                store_{kind}(x2, j * {item}, v)", "        row += 1"]
    return numeric.chunked("\n".join(lines), numeric.scope())
