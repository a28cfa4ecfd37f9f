"""`Network`: layers, and the blocks that published networks are made of."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...ir import Value, VerifyError
from .initializers import SMALL_NORMAL, glorot_uniform, he_normal, ones
from .layers import Layers, Padding, Pair
from .scopes import Init, size_of, sizes

Branch = Callable[[Value], Value]


class Network(Layers):
    """A network written layer by layer; see docs/builder.md.

        net = Network("tiny", seed=1)
        x = net.input("image", (3, 32, 32))                       # f32[batch,3,32,32]
        with net.scope("stage1"):
            x = net.conv_bn(x, 16, 3, padding="same", name="block0")   # stage1.block0.conv.weight
        graph = net.outputs(scores=net.classifier(net.global_average_pool(x), 10))

    Every layer takes its input first and returns a Value, so ops of `net.b` (an ir.Builder) mix in.
    """

    def conv_bn(
        self, x: Value, channels: int, kernel: Pair, *, stride: Pair = 1, padding: Padding = "same",
        groups: int = 1, activation: str | None = "relu", init: Init = he_normal,
        gamma: Init = ones, name: str,
    ) -> Value:  # fmt: skip
        """Convolution without bias, batch norm, activation: `name.conv`, `name.bn`, `name.relu`."""
        with self.scope(name):
            x = self.conv(x, channels, kernel, stride=stride, padding=padding, groups=groups,
                          bias=False, init=init, name="conv")  # fmt: skip
            x = self.batch_norm(x, gamma=gamma, name="bn")
            return x if activation is None else self.activation(x, activation, name=activation)

    def residual(
        self, x: Value, branch: Branch, *, shortcut: Branch | None = None,
        activation: str | None = "relu", name: str | None = None,
    ) -> Value:  # fmt: skip
        """activation(branch(x) + shortcut(x)) (He et al., 2016); the shortcut is x by default."""
        y = branch(x)
        s = x if shortcut is None else shortcut(x)
        at = self.path(name, "sum")
        if y.shape != s.shape:
            raise VerifyError(f"the branch makes {y.type}, the shortcut {s.type}", node=at,
                              hint="give a shortcut that projects or pads")  # fmt: skip
        y = self.node("add", at, y, s)
        return y if activation is None else self.activation(y, activation)

    def depthwise_separable(
        self, x: Value, channels: int, kernel: Pair = 3, *, stride: Pair = 1,
        activation: str | None = "relu", name: str,
    ) -> Value:  # fmt: skip
        """A filter for each channel, then a 1x1 convolution, each with batch norm and activation
        (Howard et al., "MobileNets", 2017).
        """
        with self.scope(name):
            c = self.size(x)
            x = self.conv_bn(x, c, kernel, stride=stride, groups=c, activation=activation,
                             name="depthwise")  # fmt: skip
            return self.conv_bn(x, channels, 1, activation=activation, name="pointwise")

    def channel_shuffle(self, x: Value, groups: int, *, name: str | None = None) -> Value:
        """Channel i * (c / groups) + j becomes channel j * groups + i (Zhang et al., "ShuffleNet",
        2018): reshape, transpose, reshape.
        """
        at = self.path(name, "shuffle")
        _, c, *space = sizes(x, 4, at)
        if not isinstance(c, int) or groups < 1 or c % groups:
            raise VerifyError(f"{c} channels do not divide into {groups} groups", node=at)
        if not all(isinstance(d, int) for d in space):
            raise VerifyError(f"the operand is {x.type}: height and width should be numbers",
                              node=at)  # fmt: skip
        wide = self.b.constant(np.array([0, groups, c // groups, *space], np.int64), f"{at}.split")
        flat = self.b.constant(np.array([0, c, *space], np.int64), f"{at}.joined")
        y = self.node("reshape", f"{at}.groups", x, wide)
        y = self.node("transpose", f"{at}.deal", y, perm=(0, 2, 1, 3, 4))
        return self.node("reshape", at, y, flat)

    def multi_head_attention(
        self, x: Value, heads: int, *, memory: Value | None = None, mask: Value | None = None,
        causal: bool = False, init: Init = glorot_uniform, name: str = "attention",
    ) -> Value:  # fmt: skip
        """Multi-head attention (Vaswani et al., 2017): f32[n,l,d] -> f32[n,l,d].

        Queries come from x, keys and values from `memory` f32[n,s,e] (x by default). `mask` is bool
        (True where a key counts) or f32 to add, and broadcasts to [n,heads,l,s]; `causal` lets no
        query see a later key. Linear layers `query`, `key`, `value` and `out` under `name`.
        """
        with self.scope(name):
            at = self.path("heads", "heads")
            width = size_of(x, 2, at)
            if heads < 1 or width % heads:
                raise VerifyError(f"a width of {width} does not divide into {heads} heads", node=at)
            memory = x if memory is None else memory
            q, k, v = (
                self.linear(source, width, init=init, name=part)
                for source, part in ((x, "query"), (memory, "key"), (memory, "value"))
            )
            y = self.node("attention", at, q, k, v, mask, q_num_heads=heads, kv_num_heads=heads,
                          is_causal=causal)  # fmt: skip
            return self.linear(y, width, init=init, name="out")

    def positions(self, ids: Value, most: int, width: int, *, name: str = "position") -> Value:
        """A learned embedding for each place: i64[n,l] -> f32[l,width], the first l rows of weight
        f32[most,width]. Requires of the graph's inputs that l is at most `most`.
        """
        at = self.path(name, "position")
        length = sizes(ids, 2, at)[1]
        table = self.parameter(at, "weight", (most, width), SMALL_NORMAL)
        end = self.node("shape", f"{at}.length", ids, start=1, end=2)
        rows = self.node("slice", f"{at}.rows", table, np.array([0]), end, np.array([0]))
        if isinstance(length, str):
            self.b.graph.require(f"{length} <= {most}")
        return self.node("reshape", at, rows, self.b.concat(end, np.array([width]), axis=0))
