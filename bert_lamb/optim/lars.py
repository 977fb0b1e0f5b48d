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

from bert_lamb.optim import plain, refusals
from bert_lamb.optim.layerwise import Layerwise
from bert_lamb.optim.plain import Numbers, Updates, norm_of, scaled, write
from bert_lamb.optim.rule import Preset, Rule
from bert_lamb.optim.tensors import TensorGroup
from bert_lamb.optim.update import UpdatePath

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
        error_if_nonfinite: as in `Lamb`.

    What a step leaves behind, types of state and gradients that are not finite: as in `Lamb`. State: step, exp_avg.
    """

    MOMENTS = ("exp_avg",)

    def __init__(
        self, params: Iterable, lr: float | Tensor = 1e-3, momentum: float = LARS.rule.betas[0],
        weight_decay: float = LARS.rule.weight_decay, *,
        adapt: bool | str = True, norm: float = 2, phi_bounds: tuple[float, float] | None = None,
        ratio_bounds: tuple[float, float] | None = None, maximize: bool = False, max_grad_norm: float | None = None,
        error_if_nonfinite: bool = False,
    ) -> None:  # fmt: skip
        defaults = dict(lr=lr, momentum=momentum, weight_decay=weight_decay, adapt=adapt, norm=norm,
                        phi_bounds=phi_bounds, ratio_bounds=ratio_bounds, maximize=maximize,
                        max_grad_norm=max_grad_norm)  # fmt: skip
        super().__init__(params, defaults, error_if_nonfinite)

    def check(self, group: dict[str, Any]) -> None:
        super().check(group)
        refusals.refuse_momentum(group["momentum"])

    def rule(self, group: dict[str, Any]) -> Rule:
        return Rule.of({"bias_correction": "none", **group})

    def path(self, batch: TensorGroup) -> UpdatePath:
        return UpdatePath(first_pass, plain.second_pass)


def first_pass(batch: TensorGroup, numbers: Numbers, finite: Tensor | None) -> tuple[Tensor, list[Updates]]:
    """As plain.first_pass; the update is the new momentum itself."""
    norms, kept = [], []
    momentum, decay = batch.settings["momentum"], batch.rule.weight_decay
    for i, (x, grad, m) in enumerate(zip(batch.weights, batch.grads, batch.state("exp_avg"), strict=True)):
        x, g = x.to(m.dtype), scaled(grad.to(m.dtype), numbers.factor, i)
        new_m = momentum * m + (1 - momentum) * (g + decay * x)
        write(finite, (m, new_m))
        norms.append(torch.stack([norm_of(z, batch.rule.norm) for z in (x, new_m)]))
        kept.append([new_m])
    return torch.stack(norms), kept
