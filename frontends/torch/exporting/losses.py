"""Losses of classes."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from .table import Step, computes


@computes("negative_log_likelihood_loss")
def negative_log_likelihood(
    step: Step, x: Tensor, labels: Tensor, weight: Tensor | None = None
) -> Tensor:
    op = step.op
    ignored = -100 if op.ignore_index is None else op.ignore_index
    return F.nll_loss(x, labels.long(), weight, ignore_index=ignored, reduction=op.reduction)


@computes("softmax_cross_entropy_loss")
def softmax_cross_entropy(
    step: Step, x: Tensor, labels: Tensor, weight: Tensor | None = None
) -> Tensor | tuple[Tensor, Tensor]:
    logs = F.log_softmax(x, 1)
    loss = negative_log_likelihood(step, logs, labels, weight)
    return loss if step.op.outputs == 1 else (loss, logs)
