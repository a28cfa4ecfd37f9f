"""What operands and attributes an op takes, drawn so that it most often accepts them.

Each function draws the operands of a family of ops, first to last, each to fit those before it.
Ops of element-wise signature need no line here, nor do ops whose operands are all of one type.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from taut.ir import DType, Op, TautError, TensorType, Value, op_class
from taut.ir.analysis.pointwise import is_pointwise
from taut.ir.op import Abstract
from taut.passes.pattern import OpPattern

from .plants import ANY, BYTES, FLOATS, WHOLE, Plan, Unfit, Want

Operands = list["Value | None"]
TENSORS = (*FLOATS, *WHOLE)


def op_of(name: str, **attributes: Any) -> Op:
    return op_class(name)(**attributes)


def fit(plan: Plan) -> Operands:
    """Draw the operands of a planned op, and the attributes that depend on them."""
    found = FITS.get(plan.cls.name)
    if found is not None:
        return found(plan)
    return elementwise(plan) if is_pointwise(plan.cls) else alike(plan)


@functools.cache
def dtypes(cls: type[Op]) -> tuple[DType, ...]:
    """Element types that the op takes in its first operand, the usual ones more than once."""
    count = max(1, sum(not o.optional and not o.variadic for o in cls.operands))
    if any(o.variadic for o in cls.operands):
        count = 2
    taken = []
    for dtype in (*TENSORS, DType.bool):
        try:
            cls().infer(*[Abstract(TensorType(dtype, (2,)))] * count)
            taken.append(dtype)
        except (TautError, TypeError):
            continue
    return tuple(taken)


@functools.cache
def compares(cls: type[Op]) -> bool:
    """Whether the op makes truths of numbers: that its result is one says nothing of them."""
    count = max(1, len(cls.operands))
    try:
        made = cls().infer(*[Abstract(TensorType(DType.f32, (2,)))] * count)
    except (TautError, TypeError):
        return False
    return isinstance(made, TensorType) and made.dtype is DType.bool


def shape_of(value: Value) -> tuple[Any, ...]:
    return value.shape or ()


def first(plan: Plan, **changes: Any) -> Want:
    """What is wanted of the result, asked of the first operand."""
    plain = {"param": False, "array": None, "low": None, "high": None, "positive": False}
    return plan.want.of(**plain | changes)


# ---- element by element --------------------------------------------------------------------------


def elementwise(plan: Plan) -> Operands:
    cls, match = plan.cls, plan.match
    taken = dtypes(cls)
    want = first(plan, kinds=taken or plan.want.kinds)
    if want.dtype is not None and taken and (want.dtype not in taken or compares(cls)):
        want = want.of(dtype=None)
    declared = [o for o in cls.operands if not o.variadic]
    count = len(declared) if len(declared) == len(cls.operands) else \
        max(len(plan.pattern.operands), plan.plant.pick(1, 2, 2, 3))  # fmt: skip
    order = list(range(count))
    deep = [i for i in order if i < len(plan.pattern.operands)
            and isinstance(plan.pattern.operands[i], OpPattern)]  # fmt: skip
    if deep and deep[0] and not match.bound:  # the deepest operand says what the others are like
        order = [deep[0], *(i for i in order if i != deep[0])]
    made: dict[int, Value | None] = {}
    known: Value | None = None
    for i in order:
        if known is None:
            made[i] = known = plan.operand(i, want)
            continue
        like = Want(dtype=known.type.dtype, like=known.shape)
        made[i] = plan.operand(i, like)
    return [made[i] for i in range(count)]


def where(plan: Plan) -> Operands:
    x_want = first(plan)
    if plan.match.bound:
        known = [v for v in plan.match.bound.values() if isinstance(v, Value)]
        x_want = x_want.of(like=known[0].shape if known and x_want.shape is None else None)
    condition = plan.operand(0, Want(dtype=DType.bool, shape=x_want.shape, like=x_want.like))
    shape = None if condition is None else condition.shape
    a = plan.operand(1, Want(dtype=plan.want.dtype, like=shape if plan.plant.chance(0.5) else None,
                             shape=plan.want.shape))  # fmt: skip
    if a is None:
        raise Unfit("nothing to select")
    return [condition, a, plan.operand(2, Want(dtype=a.type.dtype, like=a.shape))]


def clip(plan: Plan) -> Operands:
    x = plan.need(0, first(plan, kinds=TENSORS))
    bound = Want(dtype=x.type.dtype, shape=(), param=True)
    return [x, plan.operand(1, bound), plan.operand(2, bound)]


def prelu(plan: Plan) -> Operands:
    x = plan.need(0, first(plan, kinds=FLOATS))
    shape = shape_of(x)
    channel = (shape[1], *(1,) * (len(shape) - 2)) if len(shape) > 1 else ()
    slope = Want(dtype=x.type.dtype, param=True)
    slope = slope.of(shape=channel) if plan.plant.chance(0.5) else slope.of(like=shape)
    return [x, plan.operand(1, slope)]


def cast(plan: Plan) -> Operands:
    x = plan.need(0, first(plan, dtype=None, kinds=(*TENSORS, DType.bool)))
    plan.set("to", plan.want.dtype or plan.plant.pick(
        DType.f32, DType.f32, DType.f64, DType.f16, DType.i32, DType.i64, DType.i8, DType.bool,
        x.type.dtype, DType.u8))  # fmt: skip
    return [x]


def cast_like(plan: Plan) -> Operands:
    return [plan.operand(0, first(plan, dtype=None)), plan.operand(1, Want(dtype=plan.want.dtype))]


def dropout(plan: Plan) -> Operands:
    x = plan.need(0, first(plan, kinds=FLOATS))
    ratio = plan.operand(1, Want(dtype=DType.f32, array=np.array(0.5, np.float32)))
    training = np.array(plan.plant.chance(0.25))
    return [x, ratio, plan.operand(2, Want(dtype=DType.bool, array=training))]


# ---- layers --------------------------------------------------------------------------------------


def images(plan: Plan, **changes: Any) -> Value:
    """The first operand of a layer over images."""
    want = first(plan, ranks=(4, 4, 4, 3, 5), **changes)
    want = want.of(kinds=want.kinds or FLOATS)
    if want.shape is not None:  # channels and sizes are the layer's to say
        want = want.of(shape=(want.shape[0], *(None,) * (len(want.shape) - 1)))
    x = plan.need(0, want)
    if len(shape_of(x)) < 3 or not all(isinstance(d, int) for d in shape_of(x)[1:]):
        raise Unfit("no image")
    return x


def window(plan: Plan, sizes: tuple[int, ...], kernel: list[int]) -> None:
    """Strides, pads and dilations: the plain ones half of the time."""
    plant, rank = plan.plant, len(sizes)
    if plant.chance(0.35):
        return
    if plant.chance(0.5):
        stride = plant.pick(1, 2, 2, 0)
        plan.set("strides", tuple((stride or k) if plant.chance(0.8) else plant.pick(1, 2, 3)
                                  for k in kernel))  # fmt: skip
    if plant.chance(0.2):
        plan.set("auto_pad", plant.pick("SAME_UPPER", "SAME_LOWER", "VALID"))
    elif plant.chance(0.5):
        plan.set("pads", tuple(plant.pick(*range(k)) for k in kernel * 2))
    elif plant.chance(0.4):
        plan.set("pads", tuple((k - 1) // 2 for k in kernel * 2))
    if plant.chance(0.15) and all(2 * k - 1 <= n for k, n in zip(kernel, sizes)):
        plan.set("dilations", (2,) * rank)


def conv(plan: Plan) -> Operands:
    plant, transposed = plan.plant, "transpose" in plan.cls.name
    x = images(plan)
    channels, sizes = shape_of(x)[1], tuple(shape_of(x)[2:])
    if not channels:
        raise Unfit("no channels")
    group = plan.set("group", plant.pick(1, 1, 1, channels, *(
        g for g in (2, 3) if channels % g == 0)))  # fmt: skip
    out = group * plant.pick(1, 2, 3, 1, 4)
    if plan.want.shape is not None and isinstance(plan.want.shape[1], int):
        out = plan.want.shape[1]
    small = plant.chance(0.4)
    kernel = [1 if small else max(1, min(plant.pick(1, 2, 3), n)) for n in sizes]
    rows = (channels, out // group) if transposed else (out, channels // group)
    dtype = x.type.dtype
    window(plan, sizes, kernel)
    if transposed and plant.chance(0.3):
        steps = plan.attributes.get("strides") or (1,) * len(sizes)
        plan.set("output_padding", tuple(plant.random.randrange(s) for s in steps))
    weight = plan.operand(1, Want(dtype=dtype, shape=(*rows, *kernel), param=True))
    bias = plan.operand(2, Want(dtype=dtype, shape=(out,), param=True))
    residual = plan.operand(3, Want(dtype=dtype, shape=(*shape_of(x)[:1], out, *sizes)))
    slope = plan.operand(4, Want(dtype=dtype, shape=(out,), param=True))
    return [x, weight, bias, residual, slope]


def conv_integer(plan: Plan) -> Operands:
    x = images(plan, kinds=BYTES)
    channels, sizes = shape_of(x)[1], tuple(shape_of(x)[2:])
    out = plan.plant.pick(1, 2, 3)
    kernel = [max(1, min(plan.plant.pick(1, 2, 3), n)) for n in sizes]
    window(plan, sizes, kernel)
    w = plan.operand(1, Want(dtype=DType.i8, shape=(out, channels, *kernel), param=True))
    zero = plan.plant.pick(0, 3, 7)
    return [x, w, plan.operand(2, Want(array=np.array(zero, x.type.dtype.numpy))),
            plan.operand(3, Want(array=np.array(0, np.int8))),
            plan.operand(4, Want(dtype=DType.i32, shape=(out,), param=True))]  # fmt: skip


def pool(plan: Plan) -> Operands:
    kinds = BYTES if plan.cls.name == "sum_pool_integer" else \
        (*FLOATS, DType.i8, DType.u8) if plan.cls.name == "max_pool" else FLOATS  # fmt: skip
    x = images(plan, kinds=kinds)
    sizes = tuple(shape_of(x)[2:])
    whole = plan.plant.chance(0.25)
    kernel = [n if whole else max(1, min(plan.plant.pick(1, 2, 3), n)) for n in sizes]
    window(plan, sizes, kernel)
    if not (plan.cls.name == "sum_pool_integer" and plan.plant.chance(0.3)):
        plan.set("kernel_shape", tuple(kernel))
    return [x]


def global_pool(plan: Plan) -> Operands:
    return [images(plan)]


def norm(plan: Plan) -> Operands:
    """Scales and shifts over the channels of axis 1."""
    want = first(plan, kinds=FLOATS, ranks=(4, 4, 3, 2))
    x = plan.need(0, want)
    if len(shape_of(x)) < 2 or not isinstance(shape_of(x)[1], int):
        raise Unfit("no channels")
    vector = Want(dtype=x.type.dtype, shape=(shape_of(x)[1],), param=True)
    count = len(plan.cls.operands)
    return [x, *(plan.operand(i, vector.of(positive=i == 4)) for i in range(1, count))]


def last_norm(plan: Plan) -> Operands:
    x = plan.need(0, first(plan, kinds=FLOATS, ranks=(2, 3, 4)))
    shape = shape_of(x)
    axis = plan.set("axis", plan.plant.pick(-1, -1, len(shape) - 1, -2 if len(shape) > 1 else -1))
    vector = Want(dtype=x.type.dtype, shape=shape[axis:], param=True)
    return [x, *(plan.operand(i, vector) for i in range(1, len(plan.cls.operands)))]


def mat_mul(plan: Plan) -> Operands:
    """Products of matrices, or of stacks of them."""
    plant, name = plan.plant, plan.cls.name
    whole = name in ("mat_mul_integer", "scaled_mat_mul")
    ranks = (2,) if name == "gemm" else (2, 2, 2, 3, 3, 3, 4, 4, 1)
    want = first(plan, kinds=BYTES if whole else FLOATS, ranks=ranks)
    if want.shape is not None:
        want = want.of(shape=(*want.shape[:-1], None))
    if want.dtype is not None and whole:
        want = want.of(dtype=None)
    turned = {k: plan.set(k, plant.chance(0.25)) if _has(plan.cls, k) else False
              for k in ("transA", "transB")}  # fmt: skip
    if turned["transA"] and want.shape is not None:
        want = want.of(shape=(*want.shape[:-2], None, want.shape[-2]))
    a = plan.need(0, want)
    shape = shape_of(a)
    if len(shape) < 2:
        if name != "mat_mul" or not shape:
            raise Unfit("no matrix")
        return [a, plan.operand(1, Want(dtype=a.type.dtype, shape=(shape[0], plant.pick(1, 2, 3))))]
    k = shape[-2] if turned["transA"] else shape[-1]
    rows = shape[-1] if turned["transA"] else shape[-2]
    n = plant.pick(1, 2, 3, 4, 5, *([rows] if isinstance(rows, int) else []))
    if plan.want.shape is not None and isinstance(plan.want.shape[-1], int):
        n = plan.want.shape[-1]
    lead = shape[:-2] if plant.chance(0.25) else ()
    right = (*lead, n, k) if turned["transB"] else (*lead, k, n)
    dtype = plant.pick(DType.i8, DType.i8, DType.u8) if whole else a.type.dtype
    b = plan.operand(1, Want(dtype=dtype, shape=right, param=plant.chance(0.75)))
    full = (*shape[:-2], rows, n)
    if whole:
        return [a, b, *_scales(plan, a, dtype, n, full)]
    kind = Want(dtype=a.type.dtype, param=True)
    bias = kind.of(shape=(n,))
    if name == "gemm" and plant.chance(0.35):
        bias = kind.of(shape=plant.pick((1, n), (rows, n), (), (rows, 1), (1,)),
                       param=plant.chance(0.5))  # fmt: skip
    return [a, b, plan.operand(2, bias), plan.operand(3, Want(dtype=a.type.dtype, shape=full))]


def _has(cls: type[Op], attribute: str) -> bool:
    return any(a.name == attribute for a in cls.attributes)


def _scales(plan: Plan, a: Value, dtype: DType, n: int, full: tuple[Any, ...]) -> Operands:
    """Zero points and scales of products of integers."""
    plant = plan.plant
    zero_a = Want(array=np.array(plant.pick(0, 3, 7), a.type.dtype.numpy))
    zero_b = Want(array=np.full(plant.pick((), (n,)), plant.pick(0, 2), dtype.numpy))
    if plan.cls.name == "mat_mul_integer":
        bias = Want(dtype=DType.i32, shape=(n,), param=True)
        return [plan.operand(2, zero_a), plan.operand(3, zero_b), plan.operand(4, bias)]
    real = Want(dtype=DType.f32, positive=True, param=True)
    return [
        plan.operand(2, real.of(shape=())), plan.operand(3, real.of(shape=plant.pick((), (n,)))),
        plan.operand(4, zero_a), plan.operand(5, zero_b),
        plan.operand(6, Want(dtype=DType.f32, shape=(n,), param=True)),
        plan.operand(7, Want(dtype=DType.f32, shape=full)),
    ]  # fmt: skip


def attention(plan: Plan) -> Operands:
    plant = plan.plant
    q = plan.need(0, first(plan, kinds=FLOATS[:6], ranks=(4,)))
    if len(shape_of(q)) != 4:
        raise Unfit("attention wants four axes")
    b, h, _, d = shape_of(q)
    heads = plant.pick(h, h, *(g for g in (1, 2) if isinstance(h, int) and h % g == 0))
    keys, e = plant.pick(1, 2, 3, 4), plant.pick(d, d, 2, 3)
    k = plan.operand(1, Want(dtype=q.type.dtype, shape=(b, heads, keys, d)))
    v = plan.operand(2, Want(dtype=q.type.dtype, shape=(b, heads, keys, e)))
    mask = Want(dtype=plant.pick(q.type.dtype, DType.bool), shape=(*shape_of(q)[2:3], keys))
    return [q, k, v, plan.operand(3, mask)]


# ---- movement ------------------------------------------------------------------------------------


def transpose(plan: Plan) -> Operands:
    plant, given = plan.plant, plan.attributes.get("perm")
    want = first(plan, ranks=(4, 3, 2, 4, 3))
    if given:
        want = want.of(ranks=(len(given),))
    perm = given
    if want.shape is not None and given is None:
        perm = order(plan, len(want.shape))
    if want.shape is not None:
        if perm is None or len(perm) != len(want.shape):
            raise Unfit("the order does not fit")
        want = want.of(shape=tuple(want.shape[perm.index(i)] for i in range(len(perm))))
    x = plan.need(0, want)
    if perm is None:
        perm = order(plan, len(shape_of(x)), x)
    if perm == tuple(range(len(perm)))[::-1] and plant.chance(0.4) and given is None:
        return [x]  # what is left out reverses
    plan.set("perm", perm)
    return [x]


def order(plan: Plan, rank: int, x: Value | None = None) -> tuple[int, ...]:
    """An order of axes: the inverse of one before it, the last two swapped, images turned, any."""
    plant, axes = plan.plant, list(range(rank))
    before = None if x is None else getattr(x.node.op, "perm", None)
    if before and len(before) == rank and plant.chance(0.4):
        return tuple(before.index(i) for i in axes)
    style = plant.pick("swap", "swap", "any", "image", "same", "reverse")
    if style == "swap" and rank > 1:
        return (*axes[:-2], rank - 1, rank - 2)
    if style == "image" and rank == 4:
        return plant.pick((0, 2, 3, 1), (0, 3, 1, 2), (0, 2, 1, 3))
    if style == "reverse":
        return tuple(axes[::-1])
    if style != "same" or plant.chance(0.5):
        plant.random.shuffle(axes)
    return tuple(axes)


def reshape(plan: Plan) -> Operands:
    plant = plan.plant
    want = first(plan, shape=None, ranks=plan.want.ranks or (2, 3, 4, 3))
    if plan.want.shape is not None:  # from the same shape, or two axes joined
        want = want.of(shape=plan.want.shape)
    x = plan.need(0, want)
    shape = shape_of(x)
    choices: list[tuple[Any, ...]] = [shape, (-1,), (0, -1) if shape else (-1,)]
    others = [v.shape for v in list(plant.values)[-14:] if v.shape is not None
              and plant.values[v].size == plant.values[x].size]  # fmt: skip
    choices += [s for s in others if s is not None] * 2
    if len(shape) > 1:
        choices += [(*shape[:-2], -1), (-1, shape[-1]), (*shape[:1], -1)]
    if shape and isinstance(shape[-1], int) and shape[-1] % 2 == 0 and shape[-1]:
        choices += [(*shape[:-1], 2, shape[-1] // 2)]
    if len(shape) == 2:
        choices += [(*shape, 1, 1), (shape[0], 1, -1)]
    target = plan.want.shape if plan.want.shape is not None and None not in plan.want.shape \
        else plant.pick(*choices)  # fmt: skip
    return [x, plan.operand(1, Want(array=as_target(plan, shape, target)), optional=False)]


def as_target(plan: Plan, shape: tuple[Any, ...], target: tuple[Any, ...]) -> np.ndarray[Any, Any]:
    """A shape as reshape takes it: open sizes are copied, or one is the rest."""
    numbers = []
    for i, d in enumerate(target):
        if isinstance(d, int):
            numbers.append(d)
        else:
            numbers.append(0 if i < len(shape) and shape[i] == d else -1)
    if -1 not in numbers and numbers and plan.plant.chance(0.2):
        numbers[plan.plant.random.randrange(len(numbers))] = -1
    return np.array(numbers, np.int64)


def squeeze(plan: Plan) -> Operands:
    plant = plan.plant
    shape = [plant.pick(1, 1, 2, 3) for _ in range(plant.pick(2, 3, 4))]
    x = plan.need(0, first(plan, shape=tuple(shape)))
    ones = [i for i, d in enumerate(shape_of(x)) if d == 1]
    if not ones:
        raise Unfit("nothing to squeeze")
    axes = plant.random.sample(ones, plant.pick(*range(1, len(ones) + 1)))
    return [x, plan.operand(1, Want(array=signed(plan, axes, len(shape_of(x)))))]


def unsqueeze(plan: Plan) -> Operands:
    plant = plan.plant
    x = plan.need(0, first(plan, shape=None, ranks=(1, 2, 3)))
    count = plant.pick(1, 1, 2)
    rank = len(shape_of(x)) + count
    axes = plant.random.sample(range(rank), count)
    return [x, plan.operand(1, Want(array=signed(plan, axes, rank)), optional=False)]


def signed(plan: Plan, axes: list[int], rank: int) -> np.ndarray[Any, Any]:
    """Axes as they may be written: from either end."""
    low = plan.plant.chance(0.4)
    return np.array([a - rank if low else a for a in axes], np.int64)


def flatten(plan: Plan) -> Operands:
    x = plan.need(0, first(plan, shape=None, ranks=(2, 3, 4)))
    plan.set("axis", plan.plant.pick(1, 1, *range(len(shape_of(x)))))
    return [x]


def expand(plan: Plan) -> Operands:
    x = plan.need(0, first(plan, shape=None))
    shape = [plan.plant.size(d) for d in shape_of(x)]
    grown = [plan.plant.pick(1, 2) * d if d == 1 else d for d in shape]
    lead = plan.plant.pick((), (), (), (1,), (2,))
    same = np.array((*lead, *(grown if plan.plant.chance(0.6) else shape)), np.int64)
    return [x, plan.operand(1, Want(array=same), optional=False)]


def reduction(plan: Plan) -> Operands:
    plant = plan.plant
    want = first(plan, kinds=dtypes(plan.cls) or FLOATS, ranks=(2, 3, 4, 4))
    if want.shape is not None and plant.chance(0.5):
        want = want.of(shape=None)
    x = plan.need(0, want)
    rank = len(shape_of(x))
    if not rank:
        raise Unfit("nothing to reduce")
    choices = [[rank - 1], [rank - 1], [rank - 1], [plant.random.randrange(rank)]]
    before = [plant.values[v] for op in plan.match.inner if op.op.name == plan.cls.name
              for v in plant.graph.operands(op)[1:] if v is not None]  # fmt: skip
    choices += [[int(a) for a in axes.reshape(-1)] for axes in before if axes.size] * 6
    if rank > 2:
        choices += [list(range(2, rank)), list(range(2, rank)), [rank - 2, rank - 1],
                    list(range(1, rank))]  # fmt: skip
    axes = sorted({a % rank for a in plant.pick(*choices)})
    plan.set("keepdims", plant.chance(0.85))
    at_run_time = Want(dtype=DType.i64, shape=(1,), low=-rank, high=rank - 1)
    known = Want(array=signed(plan, axes, rank))
    return [x, plan.operand(1, at_run_time if plant.nearly() else known)]


def pad(plan: Plan) -> Operands:
    plant = plan.plant
    want = first(plan, kinds=TENSORS, ranks=(4, 4, 3, 2))
    want = want if want.shape is None else want.of(shape=None, ranks=(len(want.shape),))
    x = plan.need(0, want)
    rank = len(shape_of(x))
    style = plant.pick("image", "image", "image", "any", "zero", "crop")
    begin, end = [0] * rank, [0] * rank
    for i in range(rank):
        if (style == "image" and i >= 2) or style in ("any", "crop"):
            begin[i], end[i] = plant.pick(0, 1, 1, 2), plant.pick(0, 1, 2)
        if style == "crop" and i == rank - 1:
            begin[i] = -1
    some = style == "image" and plant.chance(0.3) and rank > 2
    axes = list(range(2, rank)) if some else list(range(rank))
    amounts = np.array([begin[a] for a in axes] + [end[a] for a in axes], np.int64)
    plan.set("mode", plant.pick("constant", "constant", "constant", "edge", "reflect"))
    if plan.attributes["mode"] == "constant" and plant.chance(0.5):
        plan.attributes.pop("mode")
    n = plan.operand(1, Want(array=amounts), optional=False)
    fill = plant.pick(0.0, 0.0, 0.0, 1.0, plant.number(x.type.dtype), float("-inf"))
    value = plant.scalar_of(x.type.dtype, fill, ())
    v = plan.operand(2, Want(array=value))
    written = Want(array=signed(plan, axes, rank))
    a = plan.operand(3, written)
    if some and a is None:
        raise Unfit("the axes are left out")
    return [x, n, v, a]


def slices(plan: Plan) -> Operands:
    plant = plan.plant
    x = plan.need(0, first(plan, shape=None, ranks=(1, 2, 3)))
    rank = len(shape_of(x))
    if not rank:
        raise Unfit("nothing to slice")
    axes = plant.random.sample(range(rank), plant.pick(1, min(2, rank)))
    sizes = [plant.size(shape_of(x)[a]) for a in axes]
    starts, ends, steps = [], [], []
    for n in sizes:
        whole = plant.chance(0.65)
        starts.append(0 if whole else plant.pick(0, 1, -1))
        ends.append(plant.pick(n, n, (1 << 31) - 1, (1 << 63) - 1) if whole else
                    plant.pick(n - 1, n, -1, 1, n + 1))  # fmt: skip
        steps.append(1 if plant.chance(0.85) else plant.pick(2, -1))
    wants = [starts, ends, [int(a) for a in signed(plan, axes, rank)], steps]
    made = [plan.operand(i + 1, Want(array=np.array(w, np.int64))) for i, w in enumerate(wants)]
    return [x, *made]


def tile(plan: Plan) -> Operands:
    x = plan.need(0, first(plan, shape=None))
    rank = len(shape_of(x))
    repeats = np.array([plan.plant.pick(1, 1, 1, 2) for _ in range(rank)], np.int64)
    return [x, plan.operand(1, Want(array=repeats), optional=False)]


def concat(plan: Plan) -> Operands:
    plant = plan.plant
    x = plan.need(0, first(plan, ranks=(4, 3, 2, 1)))
    shape = shape_of(x)
    if not shape:
        raise Unfit("nothing to join along")
    axis = plan.set("axis", plant.pick(1 if len(shape) > 1 else 0, 0, len(shape) - 1, -1))
    count = max(len(plan.pattern.operands), plant.pick(2, 2, 3))
    varied = list(shape)
    varied[axis] = plant.pick(shape[axis], 1, 2)
    like = Want(dtype=x.type.dtype, shape=tuple(varied))
    return [x, *(plan.operand(i, like) for i in range(1, count))]


def gather(plan: Plan) -> Operands:
    plant = plan.plant
    x = plan.need(0, first(plan, shape=None, ranks=(1, 2, 2, 3), param=True))
    shape = shape_of(x)
    if not shape or not isinstance(shape[0], int) or not shape[0]:
        raise Unfit("nothing to look up")
    axis = plan.set("axis", plant.pick(0, 0, 0, len(shape) - 1))
    n = shape[axis] if isinstance(shape[axis], int) else 1
    index = Want(kinds=(DType.i64, DType.i32), ranks=(0, 1, 2), low=0, high=max(n - 1, 0))
    return [x, plan.operand(1, index)]


def softmax(plan: Plan) -> Operands:
    x = plan.need(0, first(plan, kinds=FLOATS, ranks=(2, 3, 4)))
    rank = len(shape_of(x))
    if rank:
        plan.set("axis", plan.plant.pick(-1, -1, rank - 1, plan.plant.random.randrange(rank)))
    return [x]


def upsample(plan: Plan) -> Operands:
    x = plan.need(0, first(plan, shape=None, dtype=DType.f32, ranks=(4, 3)))
    rank = len(shape_of(x))
    scales = [1.0, 1.0, *(plan.plant.pick(1.0, 2.0, 1.5, 3.0) for _ in range(rank - 2))][:rank]
    plan.set("mode", plan.plant.pick("nearest", "linear"))
    return [x, plan.operand(1, Want(array=np.array(scales, np.float32)), optional=False)]


# ---- quantization --------------------------------------------------------------------------------


def quantize(plan: Plan) -> Operands:
    plant, opens = plan.plant, plan.cls.name == "dequantize_linear"
    want = first(plan, dtype=None, kinds=BYTES if opens else (DType.f32,), ranks=(4, 3, 2))
    x = plan.need(0, want)
    shape = shape_of(x)
    kind = x.type.dtype if opens else plant.pick(*BYTES)
    many = plant.chance(0.25) and len(shape) > 1 and isinstance(shape[1], int)
    if many:
        plan.set("axis", 1)
    form = shape[1:2] if many else ()
    step = plant.pick(0.05, 0.1, 0.5)
    steps = np.full(form, step, np.float32) * np.float32(1)
    at_run_time = Want(dtype=DType.f32, shape=form, positive=True)
    wanted = at_run_time if plant.nearly() else Want(array=steps)
    scale = plan.operand(1, wanted, optional=False)
    zeros = np.full(form, plant.pick(0, 0, 3, 7), kind.numpy)
    zero = Want(dtype=kind, shape=form) if plant.nearly() else Want(array=zeros)
    return [x, scale, plan.operand(2, zero)]


def alike(plan: Plan) -> Operands:
    """All operands of the first one's type: what is left to try where nothing else is known."""
    x = plan.operand(0, first(plan))
    count = max(len(plan.pattern.operands), sum(not o.optional for o in plan.cls.operands))
    same = ANY if x is None else Want(dtype=x.type.dtype, shape=x.shape)
    return [x, *(plan.operand(i, same) for i in range(1, count))]


FITS: dict[str, Callable[[Plan], Operands]] = {
    **dict.fromkeys(("conv", "conv_transpose", "fused_conv", "fused_conv_transpose"), conv),
    **dict.fromkeys(("max_pool", "average_pool", "lp_pool", "sum_pool_integer"), pool),
    **dict.fromkeys(("global_average_pool", "global_max_pool", "global_lp_pool"), global_pool),
    **dict.fromkeys(("batch_normalization", "instance_normalization"), norm),
    **dict.fromkeys(("layer_normalization", "rms_normalization"), last_norm),
    **dict.fromkeys(("mat_mul", "gemm", "fused_mat_mul", "mat_mul_integer", "scaled_mat_mul"),
                    mat_mul),
    **dict.fromkeys(("reduce_mean", "reduce_max", "reduce_sum", "reduce_min", "reduce_prod",
                     "reduce_l1", "reduce_l2", "reduce_log_sum", "reduce_log_sum_exp",
                     "reduce_sum_square"), reduction),
    **dict.fromkeys(("softmax", "log_softmax", "hardmax"), softmax),
    **dict.fromkeys(("quantize_linear", "dequantize_linear"), quantize),
    "attention": attention, "cast": cast, "cast_like": cast_like, "clip": clip, "concat": concat,
    "conv_integer": conv_integer, "dropout": dropout, "expand": expand, "flatten": flatten,
    "gather": gather, "pad": pad, "prelu": prelu, "reshape": reshape, "slice": slices,
    "squeeze": squeeze, "tile": tile, "transpose": transpose, "unsqueeze": unsqueeze,
    "upsample": upsample, "where": where,
}  # fmt: skip
