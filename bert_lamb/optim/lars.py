"""LARS as arXiv 1904.00962 states it (Algorithm 1), the baseline of its Table 1.

Of one tensor, with weights x, gradient g (clipped, negated where maximised) and momentum m:

    m <- momentum m + (1 - momentum) (g + weight_decay x)
    x <- x - lr ratio m                                     ratio = phi(|x|) / |m|

The ratio is 1 where a tensor is not adapted, or where phi(|x|) or |m| is 0.
"""

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from bert_lamb.optim.layerwise import Layerwise, lr_of
from bert_lamb.optim.rule import Preset, Rule
from bert_lamb.optim.sharded import Formula

# Momentum and weight decay as the paper's LAMB has them; its LARS runs' own are not known.
LARS = Preset(Rule(betas=(0.9, 0.0), bias_correction="none"), None, "Algorithm 1 of arXiv 1904.00962v5")


class Lars(Layerwise):
    """Layer-wise adaptive rate scaling, with momentum.

    Args:
        params: tensors, or groups with their own `lr`, `weight_decay`, `adapt` and so on (see `decay_groups`).
        lr: learning rate, a number or a tensor of one.
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

    def check(self, group: dict[str, Any]) -> None:
        super().check(group)
        momentum = group["momentum"]
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum={momentum}: from 0 to below 1 is expected")

    def formula(
        self, group: dict[str, Any], x: Tensor, g: Tensor, g_norm: Tensor, state: dict[str, Tensor]
    ) -> Formula:  # fmt: skip
        rule, momentum = Rule.of(group), group["momentum"]
        if rule.maximize:
            g = -g
        m = momentum * state["exp_avg"] + (1 - momentum) * (g + rule.weight_decay * x)
        return Formula({"exp_avg": m}, [(1.0, m)], lr_of(group))
