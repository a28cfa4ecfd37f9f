"""Branches: one of two bodies runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from ..dependence import Dependence, Dependences
from ..errors import FeedError, TautError, VerifyError
from ..op import Abstract, Array, Cost, Inferred, Operands, Results, memory_bytes, register
from ..relate import Space
from ..types import DType, Limits, TensorType
from .common import check_scalar
from .control import Call, ControlFlow, Places, body_macs, join, present

if TYPE_CHECKING:
    from ..graph import Graph


@register
@dataclass(frozen=True, kw_only=True)
class If(ControlFlow):
    """The results of `then_branch` if cond is true, else those of `else_branch`; both take the
    captures

    A branch that cannot take the operands' types is no error unless it runs.
    """

    then_branch: Graph
    else_branch: Graph
    places: ClassVar[Places] = Places(0, 1, 1)  # type: ignore[assignment]

    def settled(self, *operands: Abstract | None) -> list[Abstract]:
        return present(operands[1:])

    def infer(self, cond: Abstract, *captures: Abstract) -> Inferred:
        if cond.dtype is not DType.bool:
            raise VerifyError(f"the condition is {cond.type}, not bool")
        check_scalar(cond, "the condition")
        if cond.value is not None:
            taken = self.then_branch if cond.value.all() else self.else_branch
            return _types_only(_try_infer([taken], captures)[0])
        branches = _try_infer([self.then_branch, self.else_branch], captures)
        if len({len(b) for b in branches}) > 1:
            raise VerifyError(f"one branch has {len(branches[0])} outputs, the other "
                              f"{len(branches[1])}")  # fmt: skip
        return tuple(_either(k, *made) for k, made in enumerate(zip(*branches)))

    def dependence(self, operands: Operands, results: Results) -> Dependences:
        from ..analysis.dependence import body_dependence

        s = Space(operands, results)
        for r in range(len(results)):
            s.everything(0, r, "it chooses the branch")
        found: list[Dependence] = list(s.made())
        for body in self.bodies.values():
            made = body_dependence(body, present(operands[1:]), results)
            found += [replace(d, operand=d.operand + 1) for d in made]
        return tuple(dict.fromkeys(found))

    def execute(self, operands: Sequence[Array | None], call: Call, limits: Limits) -> Any:
        cond, *captures = present(operands)
        if cond.size != 1:
            raise FeedError(f"the condition has {cond.size} elements, not one")
        return tuple(call("then_branch" if cond.all() else "else_branch", captures))

    def cost(self, *operands: Abstract | None, results: tuple[TensorType, ...]) -> Cost:
        """Of the dearer branch."""
        inputs = present(operands[1:])
        macs = max(body_macs(b, inputs) for b in self.bodies.values())
        return Cost(macs, memory_bytes(operands, results))


def _try_infer(
    branches: Sequence[Graph], captures: Sequence[Abstract]
) -> list[tuple[Abstract, ...]]:
    """The outputs of each branch that can take the captures. Raises where none can."""
    from ..bodies import infer_body

    made: list[tuple[Abstract, ...]] = []
    failed: TautError | None = None
    for branch in branches:
        try:
            made.append(infer_body(branch, captures))
        except VerifyError as error:
            if len(branch.inputs) != len(captures):
                raise
            failed = error
    if failed is not None and not made:
        raise failed
    return made


def _types_only(outputs: Sequence[Abstract]) -> tuple[Abstract, ...]:
    return tuple(Abstract(x.type, None, x.dims) for x in outputs)


def _either(k: int, *made: Abstract) -> Abstract:
    first, *rest = made
    type, dims = first.type, first.dims
    for other in rest:
        type = join(type, other.type, f"result {k}")
        dims = dims if dims == other.dims else None
    return Abstract(type, None, dims)
