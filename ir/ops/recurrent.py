"""Recurrent layers: RNN, GRU and LSTM, exactly as ONNX has them.

Every direction walks over time with a hidden state (LSTM: and a cell state). A step is matrix
products of its input and of the state, summed gate by gate, then functions of one element.

What ONNX leaves open is done as onnxruntime does it: alpha and beta are taken by the functions that
use them, in order; `clip` bounds the sums that gates are functions of (not the cell, of which an
LSTM's third function is one); a sequence without steps ends in a state of zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from ..dependence import Dependences
from ..errors import FeedError, VerifyError
from ..numerics import SUMS
from ..op import Abstract, Array, Cost, Inferred, Op, Operands, Results, memory_bytes, register
from ..signature import derived, read_signature
from ..types import Dim, DType, TensorType
from .activation import sigmoid, softplus
from .common import check_choice, check_float, check_rank, check_same, check_vector, differs, wide

if TYPE_CHECKING:
    pass


class Function(NamedTuple):
    """One of ONNX's functions of a recurrent layer; alpha and beta where it has them."""

    name: str
    alpha: float = 0.0
    beta: float = 0.0

    def __call__(self, x: Array) -> Array:
        alpha, beta = x.dtype.type(self.alpha), x.dtype.type(self.beta)
        return FUNCTIONS[self.name].run(x, alpha, beta).astype(x.dtype)


class Formula(NamedTuple):
    """A function over arrays, and the values that alpha and beta have if they are not given.

    `none`: the function has no such number; `must`: it has to be given.
    """

    run: Callable[[Array, Any, Any], Array]
    alpha: float | str = "none"
    beta: float | str = "none"


FUNCTIONS: dict[str, Formula] = {
    "Sigmoid": Formula(lambda x, a, b: sigmoid(x)),
    "Tanh": Formula(lambda x, a, b: np.tanh(x)),
    "Relu": Formula(lambda x, a, b: np.maximum(x, 0)),
    "Affine": Formula(lambda x, a, b: a * x + b, "must", "must"),
    "LeakyRelu": Formula(lambda x, a, b: np.where(x >= 0, x, a * x), 0.01),
    "ThresholdedRelu": Formula(lambda x, a, b: np.where(x > a, x, 0), 1.0),
    "ScaledTanh": Formula(lambda x, a, b: a * np.tanh(b * x), "must", "must"),
    "HardSigmoid": Formula(lambda x, a, b: np.clip(a * x + b, 0, 1), 0.2, 0.5),
    "Elu": Formula(lambda x, a, b: np.where(x >= 0, x, a * np.expm1(np.minimum(x, 0))), 1.0),
    "Softsign": Formula(lambda x, a, b: x / (1 + np.abs(x))),
    "Softplus": Formula(lambda x, a, b: softplus(x)),
}


class Weights(NamedTuple):
    """One direction's weights, in the layer's arithmetic: gates x inputs, gates x hidden, the two
    biases, and the peepholes (3 x hidden)."""

    w: Array
    r: Array
    wb: Array
    rb: Array
    p: Array


State = tuple[Array, ...]  # hidden and (LSTM) cell, each [batch, hidden]


@dataclass(frozen=True)
class Recurrent(Op):
    """What the three layers share. Shapes: x[t,n,i] w[d,g,i] r[d,g,h] b[d,2g]; y[t,d,n,h], states
    [d,n,h]; with layout 1 x[n,t,i], y[n,t,d,h] and states [n,d,h]."""

    numerics = SUMS
    gates: ClassVar[int]
    usual: ClassVar[tuple[str, ...]]  # functions of a direction, if none are given
    states: ClassVar[int] = 1

    activations: tuple[str, ...] = ()
    activation_alpha: tuple[float, ...] = ()
    activation_beta: tuple[float, ...] = ()
    clip: float | None = None
    direction: str = "forward"
    hidden_size: int | None = None
    layout: int = 0
    outputs: int = 1

    @property
    def backwards(self) -> tuple[bool, ...]:
        """For each direction whether it walks from the end."""
        return {"forward": (False,), "reverse": (True,)}.get(self.direction, (False, True))

    def functions(self) -> list[tuple[Function, ...]]:
        """Each direction's functions, in the order of the equations. Raises VerifyError."""
        wanted = len(self.usual) * len(self.backwards)
        names = self.activations or self.usual * len(self.backwards)
        if len(names) == 2 * len(self.usual):  # ONNX's own default has a second direction's too
            names = names[:wanted]
        if len(names) != wanted:
            raise VerifyError(f"activations has {len(names)} names, which should be {wanted}")
        alphas, betas = iter(self.activation_alpha), iter(self.activation_beta)
        made = []
        for name in names:
            check_choice(name, tuple(FUNCTIONS), "the activation")
            formula = FUNCTIONS[name]
            alpha = _next(alphas, formula.alpha, f"{name} has no alpha")
            made.append(Function(name, alpha, _next(betas, formula.beta, f"{name} has no beta")))
        each = len(self.usual)
        return [tuple(made[k : k + each]) for k in range(0, len(made), each)]

    # ---- types -------------------------------------------------------------------------------

    def layer(self, x: Abstract, w: Abstract, r: Abstract, b: Abstract | None,
              lengths: Abstract | None, *states: Abstract | None) -> Inferred:  # fmt: skip
        """The results' types; operands that do not fit are refused."""
        check_choice(self.direction, ("forward", "reverse", "bidirectional"), "the direction")
        if self.layout not in (0, 1) or not 1 <= self.outputs <= 1 + self.states:
            raise VerifyError(f"layout is 0 or 1, outputs 1 to {1 + self.states}")
        if self.clip is not None and not self.clip >= 0:
            raise VerifyError(f"clip is {self.clip}, which should not be negative")
        if self.hidden_size is not None and self.hidden_size < 1:
            raise VerifyError(f"hidden_size is {self.hidden_size}, which should be positive")
        self.functions()
        check_float(x)
        dtype = check_same(x, w, r, b, *states)
        ways = len(self.backwards)
        time, batch, _ = self._dims(x, "x")
        hidden = self._hidden(r)
        rows = hidden * self.gates if isinstance(hidden, int) else None
        self._fits(x, (time, batch, self._last(w)), "x", self.layout == 1)
        self._fits(w, (ways, rows, None), "w")
        self._fits(r, (ways, rows, hidden), "r")
        self._fits(b, (ways, None if rows is None else 2 * rows), "b")
        for state in states:
            self._fits(state, (ways, batch, hidden), "an initial state", self.layout == 1)
        if lengths is not None and lengths.dtype is not DType.i32:
            raise VerifyError(f"the lengths are {lengths.type}, which should be i32")
        check_vector(lengths, batch, "the lengths")
        first = (batch, time, ways, hidden) if self.layout else (time, ways, batch, hidden)
        last = (batch, ways, hidden) if self.layout else (ways, batch, hidden)
        y, state = TensorType(dtype, first), TensorType(dtype, last)
        return (y, *[state] * self.states)[: self.outputs]

    def _dims(self, x: Abstract, what: str) -> tuple[Dim, Dim, Dim]:
        check_rank(x, 3, what)
        if x.shape is None:
            return None, None, None
        a, b, c = x.shape
        return (b, a, c) if self.layout else (a, b, c)

    def _hidden(self, r: Abstract) -> Dim:
        check_rank(r, 3, "r")
        found = None if r.shape is None else r.shape[2]
        if self.hidden_size is None:
            return found
        if differs(found, self.hidden_size):
            raise VerifyError(f"r is {r.type}, but hidden_size is {self.hidden_size}")
        return self.hidden_size

    @staticmethod
    def _last(w: Abstract) -> Dim:
        check_rank(w, 3, "w")
        return None if w.shape is None else w.shape[2]

    @staticmethod
    def _fits(x: Abstract | None, dims: tuple[Dim, ...], what: str, swapped: bool = False) -> None:
        """Refuse a known size that is another."""
        if x is None or x.shape is None:
            return
        check_rank(x, len(dims), what)
        wanted = (dims[1], dims[0], *dims[2:]) if swapped else dims
        if any(differs(a, b) for a, b in zip(x.shape, wanted)):
            shape = ",".join("?" if d is None else str(d) for d in wanted)
            raise VerifyError(f"{what} is {x.type}, which should be [{shape}]")

    def dependence(self, operands: Operands, results: Results) -> Dependences:
        text = self.axes
        if self.layout:
            text = text.replace("t!,n", "n,t!").replace("t,d,n", "n,t,d").replace("[d,n", "[n,d")
        return derived(read_signature(text), self, operands, results)

    def cost(self, *operands: Abstract | None, results: tuple[TensorType, ...]) -> Cost:
        x, w, r = operands[:3]
        assert x is not None and w is not None and r is not None
        steps = x.type.static_shape[0] * x.type.static_shape[1]
        macs = steps * (w.type.size + r.type.size)
        return Cost(macs, memory_bytes(operands, results))

    # ---- the reference -----------------------------------------------------------------------

    def step(self, x: Array, state: State, k: Weights, f: tuple[Function, ...]) -> State:
        """The state after one step."""
        raise NotImplementedError

    def walk(self, x: Array, w: Array, r: Array, b: Array | None, lengths: Array | None,
             states: tuple[Array | None, ...], p: Array | None = None) -> Any:  # fmt: skip
        """All directions over all steps."""
        kind = x.dtype
        x = x.swapaxes(0, 1) if self.layout else x
        time, batch = x.shape[:2]
        hidden, ways = r.shape[2], len(self.backwards)
        steps = np.full(batch, time) if lengths is None else lengths.astype(np.int64)
        if np.any((steps < 0) | (steps > time)):
            raise FeedError(f"a length is not within 0 to {time}")
        bias = np.zeros((ways, 2 * self.gates * hidden)) if b is None else b
        peep = np.zeros((ways, 3 * hidden)) if p is None else p
        y = np.zeros((time, ways, batch, hidden), wide(x).dtype)
        ends = [np.zeros((ways, batch, hidden), y.dtype) for _ in states]
        for d, (back, functions) in enumerate(zip(self.backwards, self.functions())):
            wb, rb = bias[d].astype(y.dtype).reshape(2, -1)
            k = Weights(wide(w[d]), wide(r[d]), wb, rb, peep[d].astype(y.dtype).reshape(3, -1))
            state = tuple(self._start(s, d, y[0, 0] if time else ends[0][0]) for s in states)
            for live, at in _order(time, steps, back):
                new = self.step(wide(x[at, live]), tuple(s[live] for s in state), k, functions)
                for s, v in zip(state, new):
                    s[live] = v
                y[at, d, live] = new[0]
            for end, s in zip(ends, state):
                end[d] = np.where(steps[:, None] > 0, s, 0)
        if self.layout:
            y, ends = y.transpose(2, 0, 1, 3), [e.swapaxes(0, 1) for e in ends]
        return self._results([np.ascontiguousarray(v.astype(kind)) for v in (y, *ends)])

    def _start(self, state: Array | None, d: int, like: Array) -> Array:
        if state is None:
            return np.zeros_like(like)
        return np.array(state[:, d] if self.layout else state[d], like.dtype)

    def _results(self, made: list[Array]) -> Any:
        return made[0] if self.outputs == 1 else tuple(made[: self.outputs])

    def bounded(self, x: Array) -> Array:
        """Clipped, if the layer clips."""
        return x if self.clip is None else np.clip(x, -self.clip, self.clip).astype(x.dtype)


def _next(values: Iterator[float], otherwise: float | str, error: str) -> float:
    if otherwise == "none":
        return 0.0
    value = next(values, otherwise)
    if isinstance(value, str):
        raise VerifyError(error)
    return value


def _order(time: int, steps: Array, back: bool) -> Iterator[tuple[Array, Array]]:
    """For each step the sequences that have one, and where in time each of them is."""
    for k in range(time):
        (live,) = np.nonzero(steps > k)
        if live.size:
            yield live, (steps[live] - 1 - k if back else np.full(live.size, k))


@register
@dataclass(frozen=True)
class RNN(Recurrent):
    """h' = f(x Wt + h Rt + wb + rb) for every step, in each direction

    Results: all hidden states and, with outputs=2, the last ones.
    """

    axes = (
        "x[t!,n,i!] w[d,g!,i!] r[d,g!,h!] b[d,b!] lengths[n] initial_h[d,n,h!]"
        " -> y[t,d,n,h] y_h[d,n,h]"
    )
    results = ("y", "y_h")
    gates = 1
    usual = ("Tanh",)

    def infer(
        self, x: Abstract, w: Abstract, r: Abstract, b: Abstract | None = None,
        lengths: Abstract | None = None, initial_h: Abstract | None = None,
    ) -> Inferred:  # fmt: skip
        return self.layer(x, w, r, b, lengths, initial_h)

    def reference(
        self, x: Array, w: Array, r: Array, b: Array | None = None,
        lengths: Array | None = None, initial_h: Array | None = None,
    ) -> Any:  # fmt: skip
        return self.walk(x, w, r, b, lengths, (initial_h,))

    def step(self, x: Array, state: State, k: Weights, f: tuple[Function, ...]) -> State:
        return (f[0](self.bounded(x @ k.w.T + state[0] @ k.r.T + k.wb + k.rb)),)


@register
@dataclass(frozen=True)
class GRU(Recurrent):
    """z, r = f(x Wt + h Rt + wb + rb); n = g(x Wt + (r h) Rt + wb + rb); h' = (1 - z) n + z h

    Gates lie in the order z, r, n. With linear_before_reset n = g(x Wt + wb + r (h Rt + rb)).
    Results: all hidden states and, with outputs=2, the last ones.
    """

    axes = (
        "x[t!,n,i!] w[d,g!,i!] r[d,g!,h!] b[d,b!] lengths[n] initial_h[d,n,h!]"
        " -> y[t,d,n,h] y_h[d,n,h]"
    )
    results = ("y", "y_h")
    gates = 3
    usual = ("Sigmoid", "Tanh")
    linear_before_reset: bool = False

    def infer(
        self, x: Abstract, w: Abstract, r: Abstract, b: Abstract | None = None,
        lengths: Abstract | None = None, initial_h: Abstract | None = None,
    ) -> Inferred:  # fmt: skip
        return self.layer(x, w, r, b, lengths, initial_h)

    def reference(
        self, x: Array, w: Array, r: Array, b: Array | None = None,
        lengths: Array | None = None, initial_h: Array | None = None,
    ) -> Any:  # fmt: skip
        return self.walk(x, w, r, b, lengths, (initial_h,))

    def step(self, x: Array, state: State, k: Weights, f: tuple[Function, ...]) -> State:
        (h,) = state
        m = 2 * h.shape[1]
        wx = x @ k.w.T + k.wb
        both = f[0](self.bounded(wx[:, :m] + h @ k.r[:m].T + k.rb[:m]))
        z, reset = np.split(both, 2, axis=1)
        if self.linear_before_reset:
            rest = reset * (h @ k.r[m:].T + k.rb[m:])
        else:
            rest = (reset * h) @ k.r[m:].T + k.rb[m:]
        n = f[1](self.bounded(wx[:, m:] + rest))
        return ((1 - z) * n + z * h,)


@register
@dataclass(frozen=True)
class LSTM(Recurrent):
    """i, o, f = f(x Wt + h Rt + wb + rb + p c), n = g(x Wt + h Rt + wb + rb); c' = f c + i n;
    h' = o h(c')

    Gates lie in the order i, o, f, n; peepholes p in i, o, f, of which o's sees c'. With
    input_forget f = 1 - i. Results: all hidden states and, with outputs=2 or 3, the last hidden
    and cell states.
    """

    axes = (
        "x[t!,n,i!] w[d,g!,i!] r[d,g!,h!] b[d,b!] lengths[n] initial_h[d,n,h!] initial_c[d,n,h!]"
        " p[d,p!] -> y[t,d,n,h] y_h[d,n,h] y_c[d,n,h]"
    )
    results = ("y", "y_h", "y_c")
    gates = 4
    usual = ("Sigmoid", "Tanh", "Tanh")
    states = 2
    input_forget: bool = False

    def infer(
        self, x: Abstract, w: Abstract, r: Abstract, b: Abstract | None = None,
        lengths: Abstract | None = None, initial_h: Abstract | None = None,
        initial_c: Abstract | None = None, p: Abstract | None = None,
    ) -> Inferred:  # fmt: skip
        made = self.layer(x, w, r, b, lengths, initial_h, initial_c)
        if p is not None:
            check_same(x, p)
            hidden = self._hidden(r)
            size = 3 * hidden if isinstance(hidden, int) else None
            self._fits(p, (len(self.backwards), size), "p")
        return made

    def reference(
        self, x: Array, w: Array, r: Array, b: Array | None = None,
        lengths: Array | None = None, initial_h: Array | None = None,
        initial_c: Array | None = None, p: Array | None = None,
    ) -> Any:  # fmt: skip
        return self.walk(x, w, r, b, lengths, (initial_h, initial_c), p)

    def step(self, x: Array, state: State, k: Weights, f: tuple[Function, ...]) -> State:
        h, c = state
        i, o, forget, n = np.split(x @ k.w.T + k.wb + h @ k.r.T + k.rb, 4, axis=1)
        i = f[0](self.bounded(i + k.p[0] * c))
        forget = 1 - i if self.input_forget else f[0](self.bounded(forget + k.p[2] * c))
        c = forget * c + i * f[1](self.bounded(n))
        return f[0](self.bounded(o + k.p[1] * c)) * f[2](c), c
