"""What a module does when it trains that its evaluation does not show, found by one run in training
mode on tensors without elements: noise that is no dropout of the graph, state that moves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from ...ir import Graph
from ...ir.ops.shape import Dropout

_SHOWN = 5
_KEPT = (nn.modules.dropout._DropoutNd, nn.RNNBase)
"""Modules whose noise the graph has as dropout."""


def lost_in_training(
    module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], graph: Graph
) -> Iterator[str]:
    """In words, what of the module's training the graph that was made of it does not have."""
    seen = _Seen(module)
    try:
        moved = seen.run(args, kwargs)
    except Exception:  # it may refuse to train on these inputs: a batch of one, for example
        seen.draws = [p for p, m in module.named_modules()
                      if isinstance(m, nn.MultiheadAttention) and m.dropout]  # fmt: skip
        moved = []
    kept = sum(_ratio(graph, n) > 0 for n in graph.of(Dropout))
    other = [p for p in seen.draws if not isinstance(module.get_submodule(p), _KEPT)]
    if len(seen.draws) > kept:
        places = dict.fromkeys(_said(module, p) for p in other or seen.draws)
        yield (f"of {len(seen.draws)} random draws in training, {kept} come along as dropout; see "
               f"{', '.join([*places][:_SHOWN])}")  # fmt: skip
    if moved:
        yield f"training moves what stays here: {', '.join(moved[:_SHOWN])}"


def _ratio(graph: Graph, node: Any) -> float:
    ratio = graph.operand(node, 1)
    return 0.5 if ratio is None or ratio.array is None else float(ratio.array)


def _said(module: nn.Module, path: str) -> str:
    return f"{path or 'the module itself'} ({type(module.get_submodule(path)).__name__})"


class _Seen(TorchDispatchMode):
    """Notes the module that runs at each draw of random numbers, by its path."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.draws: list[str] = []
        self.inside = [""]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags:
            self.draws.append(self.inside[-1])
        return func(*args, **(kwargs or {}))

    def run(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[str]:
        """Run the module; the names of buffers that it wrote to, but for batch statistics."""
        modes = {m: m.training for m in self.module.modules()}
        fake = FakeTensorMode(allow_non_fake_inputs=True)
        tensors = dict(self.module.named_parameters()) | dict(self.module.named_buffers())
        state = {k: fake.from_tensor(v.detach()) for k, v in tensors.items()}
        given = pytree.tree_map_only(torch.Tensor, fake.from_tensor, (args, dict(kwargs)))
        before = {k: v._version for k, v in state.items()}
        self.module.train()
        try:
            with ExitStack() as stack, fake, torch.no_grad(), self:
                for path, m in self.module.named_modules():
                    enter, leave = self._enter(path), self._leave
                    stack.callback(m.register_forward_pre_hook(enter).remove)
                    stack.callback(m.register_forward_hook(leave, always_call=True).remove)
                torch.func.functional_call(self.module, state, *given)
        finally:
            for m, training in modes.items():
                m.training = training
        moved = [k for k, v in state.items() if v._version != before[k]]
        return [k for k in moved if not isinstance(self._owner(k), nn.modules.batchnorm._NormBase)]

    def _owner(self, name: str) -> nn.Module:
        return self.module.get_submodule(name.rpartition(".")[0])

    def _enter(self, path: str) -> Any:
        return lambda *_: self.inside.append(path)

    def _leave(self, *_: Any) -> None:
        self.inside.pop()
