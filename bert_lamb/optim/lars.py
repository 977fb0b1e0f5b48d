"""LARS as arXiv 1904.00962 states it (Algorithm 1), the baseline of its Table 1.

Of one tensor, with weights x, gradient g (clipped, negated where maximised) and momentum m:

    m <- momentum m + (1 - momentum) (g + weight_decay x)
    x <- x - lr ratio m                                     ratio = phi(|x|) / |m|

The ratio is 1 where a tensor is not adapted, or where phi(|x|) or |m| is 0.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from bert_lamb.optim.layerwise import Batch, Layerwise
from bert_lamb.optim.plain import Readings, trust_ratio, write
from bert_lamb.optim.rule import Preset, Rule

# Momentum and weight decay as the paper's LAMB has them; its LARS runs' own are not known.
LARS = Preset(Rule(betas=(0.9, 0.0), bias_correction="none"), None, "Algorithm 1 of arXiv 1904.00962v5")


class Lars(Layerwise):
    """Layer-wise adaptive rate scaling, with momentum.

    Args:
        params: tensors, or groups with their own `lr`, `weight_decay`, `adapt` and so on (see `decay_groups`).
        lr: learning rate, a number or a 0-dim tensor.
        momentum: decay of the momentum, per step.
        weight_decay: times the weights, added to the gradient.
        adapt, norm, phi_bounds, ratio_bounds, maximize: see `Rule`.
        max_grad_norm: scale gradients so that their L2 norm over all groups is at most this; None: no clipping.

    What a step leaves behind, types of state and gradients that are not finite: as in `Lamb`. State: step, exp_avg.
    """

    MOMENTS = ("exp_avg",)

    def __init__(
        self, params: Iterable, lr: float | Tensor = 1e-3, momentum: float = LARS.rule.betas[0],
        weight_decay: float = LARS.rule.weight_decay, *,
        adapt: bool | str = True, norm: float = 2, phi_bounds: tuple[float, float] | None = None,
        ratio_bounds: tuple[float, float] | None = None, maximize: bool = False, max_grad_norm: float | None = None,
    ) -> None:  # fmt: skip
        defaults = dict(lr=lr, momentum=momentum, weight_decay=weight_decay, adapt=adapt, norm=norm,
                        phi_bounds=phi_bounds, ratio_bounds=ratio_bounds, maximize=maximize)  # fmt: skip
        super().__init__(params, defaults, max_grad_norm)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        momentum = self.param_groups[-1]["momentum"]
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum={momentum}: from 0 to below 1 is expected")

    def update(self, batches: list[Batch], scale: Tensor, finite: Tensor) -> list[Readings]:
        readings = []
        for batch in batches:
            rule, device = Rule.of(batch.group), batch.params[0].device
            columns = zip(batch.params, batch.grads, batch.state("exp_avg"), batch.state("step"), strict=True)
            lr, momentum = batch.group["lr"], batch.group["momentum"]
            rows = [
                update_tensor(*column, lr, momentum, rule, scale.to(device), finite.to(device)) for column in columns
            ]
            readings.append(Readings(*(torch.stack(column) for column in zip(*rows, strict=True))))
        return readings


def update_tensor(
    param: Tensor, grad: Tensor, exp_avg: Tensor, step: Tensor, lr: float | Tensor, momentum: float, rule: Rule,
    scale: Tensor, finite: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The formula for one tensor, in place. Returns its trust ratio, weight norm and update norm."""
    x = param.to(exp_avg.dtype)
    g = grad.to(exp_avg.dtype) * scale.to(exp_avg.dtype)
    if rule.maximize:
        g = -g
    m = momentum * exp_avg + (1 - momentum) * (g + rule.weight_decay * x)
    x_norm, m_norm = (torch.linalg.vector_norm(z, rule.norm) for z in (x, m))
    ratio = trust_ratio(x_norm, m_norm, rule)
    write(finite, (param, x - lr * ratio * m), (exp_avg, m), (step, step + 1))
    return ratio, x_norm, m_norm
