"""Functions and layers of PyTorch by family, with the shapes that they take."""

from __future__ import annotations

import math
from typing import Any

from bridge import Many, randn, torch

F, nn = torch.nn.functional, torch.nn


def named(module: Any, names: str) -> dict[str, Any]:
    return {name: getattr(module, name) for name in names.split()}


UNARY = {
    **named(F, """relu relu6 hardtanh hardswish hardsigmoid silu mish selu celu elu softplus
        softsign logsigmoid tanhshrink softshrink hardshrink leaky_relu gelu"""),
    **named(torch, """sigmoid tanh exp sin cos tan erf neg abs sign floor ceil round square
        reciprocal sinh cosh expm1 atan asinh isnan isinf logical_not positive clone detach"""),
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "threshold": lambda x: F.threshold(x, 0.1, 0.0),
    "softplus_beta": lambda x: F.softplus(x, beta=2.0),
    "clamp": lambda x: x.clamp(-0.5, 0.7), "clamp_min": lambda x: x.clamp_min(-0.5),
    "clamp_max": lambda x: x.clamp(max=0.25),
    "clamp_tensor": lambda x: torch.clamp(x, torch.tensor(-0.5), torch.tensor(0.5)),
    "pow2": lambda x: x**2, "pow3": lambda x: x**3, "pow-1": lambda x: x**-1,
    "two_to": lambda x: 2.0**x, "softmax": lambda x: x.softmax(-1),
    "log_softmax": lambda x: x.log_softmax(1), "glu": lambda x: F.glu(x, 1),
    "to_int": lambda x: (x * 10).to(torch.int64), "to_bool": lambda x: x.bool(),
    "double": lambda x: x.double(), "relu_": lambda x: F.relu(x + 1, inplace=True),
    "prelu": nn.PReLU(4, 0.3), "prelu1": nn.PReLU(),
}  # fmt: skip
POSITIVE = {**named(torch, "sqrt rsqrt log log2 log1p acosh"), "root": lambda x: x**0.5}
INSIDE = named(torch, "asin acos atanh log1p")

PAIRS = {
    "add": lambda a, b: a + b, "add_alpha": lambda a, b: torch.add(a, b, alpha=0.5),
    "sub": lambda a, b: a - b, "rsub": lambda a, b: 1 - a, "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b, "floor_div": lambda a, b: torch.div(a, b, rounding_mode="floor"),
    "floordiv": lambda a, b: a.detach() // b.detach(), "mod": lambda a, b: a % b,
    "fmod": lambda a, b: torch.fmod(a, b), "maximum": torch.maximum, "minimum": torch.minimum,
    "eq": lambda a, b: a == a.clone(), "ne": lambda a, b: a != b, "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b, "gt": lambda a, b: a > 0, "ge": lambda a, b: a >= b,
    "where": lambda a, b: torch.where(a > b, a, b), "where_number": lambda a, b:
    torch.where(a > b, a, 0.5), "masked_fill": lambda a, b: a.masked_fill(a > 0, -1e4),
    "and": lambda a, b: (a > 0) & (b > 0), "or": lambda a, b: torch.logical_or(a > 0, b > 0),
    "xor": lambda a, b: (a > 0) ^ (b > 0), "not": lambda a, b: ~(a > 0),
    "bool_add": lambda a, b: (a > 0) + (b > 0), "bool_mul": lambda a, b: (a > 0) * (b > 0),
    "mixed": lambda a, b: (a > 0) * b, "mixed_cmp": lambda a, b: (a * 3).long() > b,
    "pow": lambda a, b: a.abs() ** b, "int_div": lambda a, b:
    torch.div((a * 10).long(), 3, rounding_mode="floor"), "int_trunc": lambda a, b:
    torch.div((a * 10).long(), 3, rounding_mode="trunc"), "int_true": lambda a, b:
    (a * 10).long() / 4, "int_mod": lambda a, b: (a * 10).long() % 3, "int_bits": lambda a, b:
    ((a * 10).long() & 6) | 1, "int_xor": lambda a, b: (a * 10).long() ^ 5,
    "matmul": lambda a, b: a @ b.transpose(1, 2), "bmm": lambda a, b: torch.bmm(a.transpose(1, 2),
    b), "baddbmm": lambda a, b: torch.baddbmm(a.new_ones(5, 5), a.transpose(1, 2), b, beta=0.5,
    alpha=2.0), "einsum": lambda a, b: torch.einsum("bij,bkj->bik", a, b),
    "cat": lambda a, b: torch.cat([a, b, a], 1), "stack": lambda a, b: torch.stack([a, b], -1),
    "cat_types": lambda a, b: torch.cat([a, (b > 0)], 2), "expand_as": lambda a, b:
    a[:, :1].expand_as(b), "attention": lambda a, b: F.scaled_dot_product_attention(a, b, b),
}  # fmt: skip

REDUCED = {
    "mean": lambda x: x.mean(), "mean_dim": lambda x: x.mean((2, 3), keepdim=True),
    "sum": lambda x: x.sum(1), "sum_all": lambda x: x.sum(), "int_sum": lambda x: (x > 0).sum(-1),
    "prod": lambda x: x.prod(2), "amax": lambda x: x.amax((1, 3)), "amin": lambda x: x.amin(2),
    "max": lambda x: x.max(), "min": lambda x: x.min(), "max_dim": lambda x: x.max(2)[0],
    "max_at": lambda x: x.max(2, keepdim=True)[1], "min_dim": lambda x: x.min(1).indices,
    "argmax": lambda x: x.argmax(3), "argmin": lambda x: x[:1].argmin(),
    "any": lambda x: (x > 1).any(), "all": lambda x: (x > -9).all(2),
    "any_dim": lambda x: (x > 1).any(1, keepdim=True), "var": lambda x: x.var((2, 3)),
    "std": lambda x: x.std(1, keepdim=True), "var_biased": lambda x: x.var(2, correction=0),
    "logsumexp": lambda x: x.logsumexp((1, 2)), "norm2": lambda x: x.norm(dim=1),
    "norm1": lambda x: torch.linalg.vector_norm(x, 1, (2, 3)), "cumsum": lambda x: x.cumsum(2),
    "normalize": lambda x: F.normalize(x, dim=1), "topk": lambda x: x.topk(2, 3)[0],
    "topk_at": lambda x: x.topk(2, 3, largest=False)[1],
}  # fmt: skip

SHAPED = {
    "view": lambda x: x.view(x.shape[0], 2, 4, -1), "reshape": lambda x: x.reshape(-1, 6),
    "flatten": lambda x: x.flatten(1), "flatten_mid": lambda x: x.flatten(1, 2),
    "flatten_all": lambda x: x.flatten(), "unflatten": lambda x: x.unflatten(1, (4, -1)),
    "squeeze": lambda x: x[:, :1].squeeze(1), "squeeze_all": lambda x: x[:, :1].squeeze(),
    "unsqueeze": lambda x: x.unsqueeze(-1), "permute": lambda x: x.permute(0, -1, 1, 2),
    "transpose": lambda x: x.transpose(-1, 1), "movedim": lambda x: x.movedim(1, -1),
    "mT": lambda x: x.mT, "expand": lambda x: x[:, :1].expand(-1, 5, -1, -1),
    "repeat": lambda x: x.repeat(1, 2, 1, 3), "repeat_more": lambda x: x[:, 0, 0].repeat(2, 1, 1),
    "split": lambda x: x.split(3, 1)[2], "split_sizes": lambda x: x.split([1, 7], 1)[1],
    "chunk": lambda x: x.chunk(3, 1)[1], "unbind": lambda x: x.unbind(2)[1],
    "slice": lambda x: x[:, 1:-2:2, 1:], "slice_batch": lambda x: x[1:],
    "select": lambda x: x[:, -1], "ellipsis": lambda x: x[..., None, 0],
    "narrow": lambda x: x.narrow(2, 1, 2),
    "flip": lambda x: x.flip(2, 3), "roll": lambda x: x.roll((1, -2), (2, 3)),
    "pixel_shuffle": lambda x: F.pixel_shuffle(x, 2),
    "pixel_unshuffle": lambda x: F.pixel_unshuffle(x[..., :4, :6], 2),
    "channel_shuffle": lambda x: F.channel_shuffle(x, 2),
    "shuffle_by_view": lambda x: x.view(x.shape[0], 2, 4, 4, 6).transpose(1, 2).flatten(1, 2),
    "pad": lambda x: F.pad(x, (1, 2, 0, 3), value=0.5), "pad_cut": lambda x: F.pad(x, (-1, 1)),
    "reflect": lambda x: F.pad(x, (1, 2, 3, 0), mode="reflect"),
    "replicate": lambda x: F.pad(x, (1, 2, 3, 0), mode="replicate"),
    "circular": lambda x: F.pad(x, (1, 2, 3, 0), mode="circular"),
    "zeros_like": lambda x: torch.zeros_like(x) + x, "ones": lambda x: torch.ones(6) * x,
    "full_like": lambda x: torch.full_like(x, 2.5) * x, "full": lambda x:
    x + torch.full((4, 6), 2.0), "arange": lambda x: x + torch.arange(6),
    "new_zeros": lambda x: x.new_zeros(x.shape[0], 1, 1, 1) + x,
    "arange_step": lambda x: x * torch.arange(1.0, 4.0, 0.5),
    "positions": lambda x: torch.arange(x.shape[0]) * 2, "tril": lambda x: x.tril(),
    "triu": lambda x: x.triu(1), "gather": lambda x: x.gather(2, (x[:, :, :2] > 0).long()),
    "index": lambda x: x[:, [3, 0, -1]], "index_select": lambda x:
    x.index_select(3, torch.tensor([5, 0])), "index_pair": lambda x:
    x.permute(1, 2, 3, 0)[torch.tensor([0, 7]), torch.tensor([[1], [3]])],
    "index_inner": lambda x: x[:, torch.tensor([0, 7]), torch.tensor([[1], [3]])],
    "index_apart": lambda x: x[:, torch.tensor([0, 7]), :, torch.tensor([[1], [3]])],
    "embedding": lambda x: F.embedding((x[:, :, 0, 0] > 0).long(), torch.eye(3)),
    "dropout": lambda x: F.dropout(x, 0.5, False), "size_arithmetic": lambda x:
    x.reshape(x.shape[0] * 2, x.shape[1] // 2, -1), "type_as": lambda x: (x > 0).type_as(x),
}  # fmt: skip


def _resized(**how: Any) -> Any:
    return lambda x: F.interpolate(x, **how)


RESIZED = {
    "nearest": _resized(scale_factor=2), "nearest_size": _resized(size=(7, 5)),
    "nearest_exact": _resized(size=(5, 9), mode="nearest-exact"),
    "bilinear": _resized(scale_factor=1.5, mode="bilinear"),
    "bilinear_corners": _resized(size=(9, 4), mode="bilinear", align_corners=True),
    "bicubic": _resized(size=(7, 8), mode="bicubic"),
    "bicubic_corners": _resized(scale_factor=2, mode="bicubic", align_corners=True),
    "same_scale": _resized(scale_factor=0.5, mode="bilinear", recompute_scale_factor=True),
}  # fmt: skip
POOLED = {
    "max": lambda x: F.max_pool2d(x, 2), "max_pads": lambda x: F.max_pool2d(x, 3, 2, 1),
    "max_ceil": lambda x: F.max_pool2d(x, 3, 2, ceil_mode=True),
    "max_dilated": lambda x: F.max_pool2d(x, 2, 1, dilation=2),
    "avg": lambda x: F.avg_pool2d(x, (2, 3), 1), "avg_pads": lambda x: F.avg_pool2d(x, 3, 2, 1),
    "avg_inside": lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    "avg_ceil": lambda x: F.avg_pool2d(x, 2, 2, ceil_mode=True),
    "avg_ceil_pads": lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, 1),
    "adaptive_even": lambda x: F.adaptive_avg_pool2d(x, (2, 7)),
    "adaptive_odd": lambda x: F.adaptive_avg_pool2d(x, (3, 5)),
    "adaptive_max": lambda x: F.adaptive_max_pool2d(x, (3, 4)),
    "global_max": lambda x: F.adaptive_max_pool2d(x, 1),
    "unbatched": lambda x: F.max_pool2d(x[0], 2),
    "max1d": lambda x: F.max_pool1d(x.flatten(2), 3, 2, 1),
    "avg1d": lambda x: F.avg_pool1d(x.flatten(2), 3, 2, 1),
    "adaptive1d": lambda x: F.adaptive_avg_pool1d(x.flatten(2), 3),
    "max3d": lambda x: F.max_pool3d(x[:, None], (1, 2, 2)),
    "avg3d": lambda x: F.avg_pool3d(x[:, None], 2, 1, 1),
}  # fmt: skip
LAYERS = {
    "conv": nn.Conv2d(4, 6, 3, 2, 1), "same": nn.Conv2d(4, 4, (2, 5), padding="same", bias=False),
    "valid": nn.Conv2d(4, 2, 3, padding="valid"), "grouped": nn.Conv2d(4, 8, 3, groups=2),
    "depthwise": nn.Conv2d(4, 4, 3, padding=1, groups=4), "dilated": nn.Conv2d(4, 2, 3, dilation=2),
    "transposed": nn.ConvTranspose2d(4, 3, 3, 2, 1, 1),
    "transposed_groups": nn.ConvTranspose2d(4, 4, 2, 2, groups=2, bias=False),
    "batch_norm": nn.BatchNorm2d(4, eps=1e-3), "no_affine": nn.BatchNorm2d(4, affine=False),
    "group_norm": nn.GroupNorm(2, 4), "instance_norm": nn.InstanceNorm2d(4),
    "instance_affine": nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
    "layer_norm": nn.LayerNorm(7), "layer_norm2": nn.LayerNorm((6, 7)),
    "layer_plain": nn.LayerNorm(7, elementwise_affine=False), "rms": nn.RMSNorm(7),
    "linear": nn.Linear(7, 5), "linear_plain": nn.Linear(7, 3, bias=False),
    "classifier": nn.Sequential(nn.Flatten(), nn.Linear(168, 3)),
    "conv1d": nn.Sequential(nn.Flatten(2), nn.Conv1d(4, 3, 5, 2, 2)),
    "reflecting": nn.Conv2d(4, 2, 3, padding=1, padding_mode="reflect"),
    "bilinear_up": nn.Upsample(scale_factor=2, mode="bilinear"), "dropout2d": nn.Dropout2d(),
}  # fmt: skip
A = torch.ops.aten


def _line(x: Any) -> Any:
    return x.flatten(2)


def _block(x: Any) -> Any:
    return x.unsqueeze(2).expand(-1, -1, 3, -1, -1)


DIRECT = {
    **{f"{op}{n}d": lambda x, op=op, n=n, form=form, size=size: getattr(A, f"{op}{n}d").default(
        form(x), size, *([False] if "linear" in op else []))
       for n, form, size in ((1, _line, [7]), (2, lambda x: x, [6, 5]), (3, _block, [2, 6, 5]))
       for op in ("upsample_nearest", "_upsample_nearest_exact")},
    "linear1d": lambda x: A.upsample_linear1d.default(_line(x), [7], False),
    "bilinear2d": lambda x: A.upsample_bilinear2d.default(x, [6, 5], True),
    "bicubic2d": lambda x: A.upsample_bicubic2d.default(x, [6, 5], False),
    "trilinear3d": lambda x: A.upsample_trilinear3d.default(_block(x), [2, 6, 5], False),
    "linear1d_up": lambda x: F.interpolate(_line(x), scale_factor=2, mode="linear"),
    "trilinear_up": lambda x: F.interpolate(_block(x), scale_factor=2, mode="trilinear"),
    "nearest1d_up": lambda x: F.interpolate(_line(x), scale_factor=2),
    "nearest3d_up": lambda x: F.interpolate(_block(x), scale_factor=2),
    "exact1d_up": lambda x: F.interpolate(_line(x), size=7, mode="nearest-exact"),
    "exact3d_up": lambda x: F.interpolate(_block(x), size=(2, 6, 5), mode="nearest-exact"),
    "adaptive3d": lambda x: F.adaptive_avg_pool3d(_block(x), (3, 2, 3)),
    "adaptive3d_": lambda x: A._adaptive_avg_pool3d(_block(x), (1, 1, 1)),
    "adaptive_max1d": lambda x: F.adaptive_max_pool1d(_line(x), 5),
    "adaptive_max3d": lambda x: F.adaptive_max_pool3d(_block(x), 2),
    "conv1d": lambda x: F.conv1d(_line(x), torch.ones(2, 3, 3), padding="same"),
    "conv3d": lambda x: F.conv3d(_block(x), torch.ones(2, 3, 2, 2, 2)),
    "conv3d_same": lambda x: F.conv3d(_block(x), torch.ones(2, 3, 3, 3, 3), padding="same"),
    "transposed1d": lambda x: F.conv_transpose1d(_line(x), torch.ones(3, 2, 3), stride=2),
    "transposed3d": lambda x: F.conv_transpose3d(_block(x), torch.ones(3, 2, 2, 2, 2)),
    **{f"{op}{n}d": lambda x, op=op, n=n, form=form: getattr(A, f"{op}{n}d")(form(x), [1] * 2 * n)
       for n, form in ((1, _line), (2, lambda x: x), (3, _block))
       for op in ("reflection_pad", "replication_pad")},
    "all": lambda x: A.all.default(x > -9),
    "all_dims": lambda x: A.all.dims(x > -1, [1, 2]),
    "any_dims": lambda x: A.any.dims(x > 1, [1, 2]),
    "prod": lambda x: A.prod.default(x / 2),
    "or": lambda x: A.bitwise_or.Tensor(x > 1, x < -1),
    "or_": lambda x: A.__or__.Tensor(x > 1, x < 0),
    "land": lambda x: A.logical_and.default(x > 1, x),
    "lxor": lambda x: A.logical_xor(x > 1, x > 0),
    "arange": lambda x: A.arange.start(1, 7) + x,
    "clamp_max": lambda x: A.clamp_max.default(x, 0.2),
    "div": lambda x: A.div.Scalar(x, 3),
    "div_mode": lambda x: A.div.Scalar_mode(x, 3, rounding_mode="floor"),
    "floor_divide": lambda x: A.floor_divide.Scalar(x.detach(), 3),
    "lt": lambda x: A.lt.Scalar(x, 0.5),
    "ne": lambda x: A.ne.Scalar(x, 0.5),
    "sub": lambda x: A.sub.Scalar(x, 0.5),
    "rsub": lambda x: A.rsub.Tensor(x, x * 3),
    "max": lambda x: A.max.other(x, -x),
    "min": lambda x: A.min.other(x, -x),
    "fill": lambda x: A.masked_fill.Tensor(x, x > 0, torch.tensor(2.0)),
    "narrow": lambda x: A.narrow.default(x, 2, 1, 2),
    "ones_like": lambda x: A.ones_like(x) * x,
    "new_full": lambda x: A.new_full(x, [1], 3.0) * x,
    "zeros": lambda x: A.zeros([6]) + x,
    "where": lambda x: A.where.Scalar(x > 0, 1.0, 2.0) * x,
    "t": lambda x: A.t.default(x[0, 0]),
    "view_copy": lambda x: A.view_copy.default(x, [-1, 12]),
    "unflatten": lambda x: A.unflatten.int(x, 3, [2, 3]),
    "scatter": lambda x: A.select_scatter(x, x[:, :, 1] * 2, 2, 0),
    "to": lambda x: A.to.other(x > 0, x),
    "type_as": lambda x: A.type_as(x > 0, x),
    "softshrink": lambda x: A.softshrink(x, 0.2),
    "hardshrink": lambda x: A.hardshrink(x, 0.2),
    "drop": lambda x: A.dropout(x, 0.5, False),
    "alpha": lambda x: A.alpha_dropout(x, 0.5, False),
    "numel": lambda x: x.flatten()[: x.numel() // 2],
    "sizes": lambda x: x.reshape(x.shape[0] * 3, (x.shape[0] + 2 - x.shape[0]), -1),
    "sizes_real": lambda x: x[: torch.sym_int(x.shape[0] / 2)] * (x.shape[0] / 4 + 0.5),
    "sizes_down": lambda x: x[-(-x.shape[0] // 2) + 1:] + math.floor(x.shape[0] * 0.7),
    "sizes_up": lambda x: x[: math.ceil(x.shape[0] * 0.7)] * math.trunc(x.shape[0] * 1.3),
    "sizes_float": lambda x: x * torch.sym_float(x.shape[0]),
    "size_add": lambda x: x.new_ones(x.shape[0] + 1, 2),
    "size_sub": lambda x: x.new_ones(x.shape[0] * 3 - 2),
    "size_mod": lambda x: x.new_ones(x.shape[0] % 2 + 1),
    "size_max": lambda x: x.new_ones(torch.sym_max(x.shape[0], 3)),
    "size_min": lambda x: x.new_ones(torch.sym_min(x.shape[0], 3)),
    "drop_": lambda x: F.dropout(x, 0.5, False, inplace=True),
    "drop2d_": lambda x: F.dropout2d(x, 0.5, False, inplace=True),
    "alpha_": lambda x: A.alpha_dropout_(x, 0.5, False),
    "drop_alpha_": lambda x: A.feature_alpha_dropout_(x, 0.5, False),
    "grid": lambda x: A.grid_sampler(x, x[:, :2].permute(0, 2, 3, 1), 0, 0, False),
    "grid2d": lambda x: A.grid_sampler_2d(x, x[:, :2].permute(0, 2, 3, 1), 0, 1, True),
    "grid3d": lambda x: A.grid_sampler_3d(_block(x), _block(x).permute(0, 2, 3, 4, 1), 0, 0, True),
    "drop_alpha": lambda x: F.feature_alpha_dropout(x, 0.5, False),
    "fresh": lambda x: A.lift_fresh_copy(x),
    "contiguous": lambda x: A.contiguous(x),
}  # fmt: skip


class First(torch.nn.Module):
    """A recurrent layer without its last states."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Any) -> Any:
        return self.layer(x)[0]


RECURRENT = {
    "lstm": First(torch.nn.LSTM(6, 4, batch_first=True)),
    "gru": First(torch.nn.GRU(6, 4, batch_first=True, bidirectional=True)),
    "rnn": First(torch.nn.RNN(6, 4, batch_first=True, num_layers=2)),
    "rnn_relu": First(torch.nn.RNN(6, 4, batch_first=True, nonlinearity="relu")),
}

FAMILIES: dict[str, tuple[dict[str, Any], tuple[tuple[int, ...], ...]]] = {
    "unary": (UNARY, ((3, 4, 6),)), "positive": (POSITIVE, ((3, 5),)),
    "inside": (INSIDE, ((3, 5),)), "pairs": (PAIRS, ((3, 4, 5), (3, 4, 5))),
    "reduced": (REDUCED, ((3, 4, 5, 6),)), "shaped": (SHAPED, ((3, 8, 4, 6),)),
    "resized": (RESIZED, ((2, 3, 6, 5),)), "pooled": (POOLED, ((2, 3, 8, 7),)),
    "layers": (LAYERS, ((2, 4, 6, 7),)), "direct": (DIRECT, ((2, 3, 4, 6),)),
    "recurrent": (RECURRENT, ((3, 5, 6),)),
}  # fmt: skip


def inputs(family: str, batch: int) -> tuple[Any, ...]:
    xs = tuple(randn(batch, *s[1:], seed=i) for i, s in enumerate(FAMILIES[family][1]))
    match family:
        case "positive":
            return tuple(x.abs() + 1 for x in xs)
        case "inside":
            return tuple(x.tanh() * 0.9 for x in xs)
    return xs


def module_of(cases: dict[str, Any]) -> Any:
    """All of a family in one module, batch norms with statistics of their own."""
    torch.manual_seed(0)
    module = Many(cases)
    for m in module.modules():
        if getattr(m, "running_var", None) is not None:
            m.running_mean.normal_()
            m.running_var.uniform_(0.5, 2)
    return module
