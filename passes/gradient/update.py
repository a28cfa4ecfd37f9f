"""Optimizers as nodes: each parameter's next value and state, made of its gradient.

Every pass here takes the outputs `grad.NAME` that the pass gradient left and puts `next.NAME` in
their places, with an input and an output `optimizer.STATE.NAME`, `next.optimizer.STATE.NAME` for
each state (zeros before the first step). Inputs `learning_rate` f32[] and, where it is needed,
`step` i64[] (1 at the first step) are added.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from ...ir import Builder, DType, Graph, Node, TensorType, Value, VerifyError
from ...ir.differentiate import PREFIX
from ...ir.ops.adjoint import in_type_of, where
from ...ir.ops.scaled_gradient import ScaleGradient
from ..base import Exact, Outcome, Pass, register_pass
from ..context import Context
from .names import MASK, NEXT, RATE, STATE, STEP


@dataclass(frozen=True)
class Update(Pass):
    """What the optimizers share.

    `decay` is weight decay; without `decay_vectors` parameters of rank 0 and 1 (biases, scales of
    normalizations) go without, and what is read through `scale_gradient` (scales of quantizers)
    always does. Where an input `mask.NAME` says false (the pass hold-weights adds
    it), the parameter stays bit for bit and decay does not reach its state.
    """

    bound = Exact()  # the other outputs stay
    keeps_signature = False
    states: ClassVar[tuple[str, ...]] = ()
    decoupled: ClassVar[bool] = False
    decay: float = 0.0
    decay_vectors: bool = True

    def run(self, graph: Graph, context: Context) -> Outcome:
        outcome = Outcome()
        inputs = {n.name: n for n in graph.inputs}
        outputs: dict[str, Value] = {}
        b = Builder(graph, prefix="update.")
        rule = None
        for name, value in zip(graph.output_names, graph.outputs):
            parameter = inputs.get(name.removeprefix(PREFIX))
            if not name.startswith(PREFIX) or parameter is None:
                outputs[name] = value
                continue
            if rule is None:
                self._check()
                rule = self.rule(b, scalar(b, RATE, DType.f32))
            b.prefix = f"update.{parameter.name}."
            self._update(b, rule, parameter, value, outputs)
            outcome.count("parameters")
        graph.set_outputs(outputs)
        if not outcome.counts:
            outcome.note(f"no output is called {PREFIX}NAME after an input: run gradient first")
        return outcome

    def _update(
        self, b: Builder, rule: Rule, parameter: Node, g: Value, outputs: dict[str, Value]
    ) -> None:
        w, name = parameter[0], parameter.name
        mask = b.graph.find(f"{MASK}{name}")
        decays = self.decay_vectors or w.type.rank > 1
        scaled = any(isinstance(u.node.op, ScaleGradient) for u in b.graph.uses(w))
        factor = self.decay if decays and not scaled else 0.0
        if factor and not self.decoupled:
            g = b.add(g, b.mul(w, b.number(factor, w)))
            g = g if mask is None else where(b, mask[0], g)
        names = [f"{STATE}{s}.{name}" for s in self.states]
        olds = [b.graph.add_input(s, w.type)[0] for s in names]
        made, *states = rule(b, w, g, olds, factor if self.decoupled else 0.0)
        if mask is not None:
            made = b.where(mask[0], made, w)
        outputs.update(zip([f"{NEXT}{n}" for n in (name, *names)], [made, *states]))

    def _check(self) -> None:
        if not 0 <= self.decay < float("inf"):
            raise VerifyError(f"decay is {self.decay}, which should be 0 or more")

    def rule(self, b: Builder, rate: Value) -> Rule:
        """How one parameter is updated; what all share is made now."""
        raise NotImplementedError


class Rule:
    """One parameter's update: `rule(b, w, g, states, decay)` -> [next w, *next states]."""

    def __init__(self, rate: Value) -> None:
        self.rate = rate

    def __call__(
        self, b: Builder, w: Value, g: Value, states: list[Value], decay: float
    ) -> list[Value]:
        raise NotImplementedError


def scalar(b: Builder, name: str, dtype: DType) -> Value:
    """The scalar input of this name, added where the graph has none."""
    found = b.graph.find(name)
    node = found or b.graph.add_input(name, TensorType(dtype, ()))
    return node[0]


@register_pass
@dataclass(frozen=True)
class SGD(Update):
    """Stochastic gradient descent: g += decay * w;  v = momentum * v + g;  w -= rate * v, or
    with `nesterov` rate * (g + momentum * v).

    Momentum after B. Polyak, "Some methods of speeding up the convergence of iteration methods"
    (1964); Nesterov's as I. Sutskever and others, "On the importance of initialization and momentum
    in deep learning" (2013), in the form that PyTorch has.
    """

    name = "sgd"
    momentum: float = 0.0
    nesterov: bool = False

    @property
    def states(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("momentum",) if self.momentum else ()

    def _check(self) -> None:
        super()._check()
        if not 0 <= self.momentum < 1:
            raise VerifyError(f"momentum is {self.momentum}, which should be from 0 to below 1")
        if self.nesterov and not self.momentum:
            raise VerifyError("nesterov needs a momentum above 0")

    def rule(self, b: Builder, rate: Value) -> Rule:
        return _Descent(rate, self.momentum, self.nesterov)


class _Descent(Rule):
    def __init__(self, rate: Value, momentum: float, nesterov: bool) -> None:
        super().__init__(rate)
        self.momentum, self.nesterov = momentum, nesterov

    def __call__(
        self, b: Builder, w: Value, g: Value, states: list[Value], decay: float
    ) -> list[Value]:
        made = []
        if states:
            share = b.number(self.momentum, w)
            v = b.add(b.mul(states[0], share), g)
            g = b.add(g, b.mul(v, share)) if self.nesterov else v
            made = [v]
        return [b.sub(w, b.mul(g, in_type_of(b, self.rate, w))), *made]


@register_pass
@dataclass(frozen=True)
class Adam(Update):
    """Adam: m = beta1 * m + (1 - beta1) * g;  v = beta2 * v + (1 - beta2) * g^2;
    w -= rate * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + epsilon) at step t, where
    g += decay * w first.

    D. Kingma and J. Ba, "Adam: a method for stochastic optimization" (2015). The corrections by t
    are computed in f64.
    """

    name = "adam"
    states = ("mean", "square")
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    def _check(self) -> None:
        super()._check()
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise VerifyError(f"{name} is {getattr(self, name)}, which should be from 0 to "
                                  "below 1")  # fmt: skip
        if not 0 < self.epsilon < 1:
            raise VerifyError(f"epsilon is {self.epsilon}, which should be above 0, below 1")

    def rule(self, b: Builder, rate: Value) -> Rule:
        t = b.cast(scalar(b, STEP, DType.i64), to=DType.f64)

        def left(beta: float) -> Value:
            """1 - beta^t, as 1 - exp(t * log(beta))"""
            if not beta:
                return b.number(1, t)
            return b.sub(b.number(1, t), b.exp(b.mul(t, b.number(math.log(beta), t))))

        stride = b.div(b.cast(rate, to=DType.f64), left(self.beta1))
        root = b.reciprocal(b.sqrt(left(self.beta2)))
        stride, root = (b.cast(x, to=DType.f32) for x in (stride, root))
        return _Adam(rate, stride, root, self.beta1, self.beta2, self.epsilon)


class _Adam(Rule):
    def __init__(
        self, rate: Value, stride: Value, root: Value, beta1: float, beta2: float, epsilon: float
    ) -> None:
        super().__init__(rate)
        self.stride, self.root = stride, root
        self.beta1, self.beta2, self.epsilon = beta1, beta2, epsilon

    def __call__(
        self, b: Builder, w: Value, g: Value, states: list[Value], decay: float
    ) -> list[Value]:
        def blend(old: Value, new: Value, beta: float) -> Value:
            return b.add(b.mul(old, b.number(beta, w)), b.mul(new, b.number(1 - beta, w)))

        m, v = blend(states[0], g, self.beta1), blend(states[1], b.mul(g, g), self.beta2)
        size = b.add(b.mul(b.sqrt(v), in_type_of(b, self.root, w)), b.number(self.epsilon, w))
        if decay:
            shrink = b.mul(in_type_of(b, self.rate, w), b.number(decay, w))
            w = b.sub(w, b.mul(w, shrink))
        stride = in_type_of(b, self.stride, w)
        return [b.sub(w, b.div(b.mul(m, stride), size)), m, v]


@register_pass
@dataclass(frozen=True)
class AdamW(Adam):
    """Adam whose weight decay is decoupled: w -= rate * decay * w, apart from the gradient's part.

    I. Loshchilov and F. Hutter, "Decoupled weight decay regularization" (2019).
    """

    name = "adamw"
    decoupled = True
    decay: float = 0.01
