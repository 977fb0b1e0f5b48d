"""LAMB and its variants, plain: the definition that every other path must equal.

Of one tensor, with weights x, gradient g (clipped, negated where maximised), moments m and v, at its own step t:

    g <- g / |g|                                            LANS only, where |g| is not 0
    m <- beta1 m + (1 - beta1) g
    v <- beta2 v + (1 - beta2) g^2
    r = m' / (sqrt(v') + eps)                               m', v': m, v after bias correction, or look-ahead
    u = r + weight_decay x
    x <- x - lr ratio(u) u                                  ratio(u) = phi(|x|) / |u|

LANS moves along two updates, c = g / (sqrt(v') + eps) being the second:

    x <- x - lr [beta1 ratio(u) u + (1 - beta1) ratio(w) w]     w = c + weight_decay x

The ratio is 1 where a tensor is not adapted, or where phi(|x|) or |u| is 0. docs/optimizers.md has each preset's.

A path is a function with the signature of `update` below, for tensors of one device and one type.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from bert_lamb.optim.rule import Rule

ROW = 4096  # numbers; 16 KiB in fp32: a row's norm has lost no digits that matter


class Readings(NamedTuple):
    """What a step saw of each tensor, [n] each, on the device. For LANS: of its first update, u."""

    trust_ratios: Tensor  # 1 where not adapted
    weight_norms: Tensor  # |x| before the step, in the rule's norm
    update_norms: Tensor  # |u|


def update(
    params: Sequence[Tensor], grads: Sequence[Tensor], exp_avgs: Sequence[Tensor], exp_avg_sqs: Sequence[Tensor],
    steps: Sequence[Tensor], lr: float | Tensor, rule: Rule, scale: Tensor, finite: Tensor,
) -> Readings:  # fmt: skip
    """Updates the tensors of one group in place, and nothing of them where `finite` is false.

    Moments are fp32 or wider, steps 0-dim fp32; scale (0-dim) is what gradients are multiplied by (clipping, loss
    scale); finite: 0-dim bool. Gradients are left as they are.
    """
    columns = zip(params, grads, exp_avgs, exp_avg_sqs, steps, strict=True)
    rows = [update_tensor(*column, lr, rule, scale, finite) for column in columns]
    return Readings(*(torch.stack(column) for column in zip(*rows, strict=True)))


def update_tensor(
    param: Tensor, grad: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, step: Tensor, lr: float | Tensor, rule: Rule,
    scale: Tensor, finite: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """`update` of one tensor. Returns its trust ratio, weight norm and update norm."""
    x = param.to(exp_avg.dtype)
    g = grad.to(exp_avg.dtype) * scale.to(exp_avg.dtype)
    if rule.variant == "lans":
        g = over_norm(g, norm_of(g, 2))
    m, v, shares = directions(x, g, exp_avg, exp_avg_sq, step + 1, rule)
    x_norm, *u_norms = (norm_of(z, rule.norm) for z in (x, *(u for _, u in shares)))
    ratios = [trust_ratio(x_norm, u_norm, rule) for u_norm in u_norms]
    lr = corrected_lr(lr, step + 1, rule)
    for (share, u), ratio in zip(shares, ratios, strict=True):
        x = x - lr * share * ratio * u
    write(finite, (param, x), (exp_avg, m), (exp_avg_sq, v), (step, step + 1))
    return ratios[0], x_norm, u_norms[0]


def norm_of(z: Tensor, norm: float, dtype: torch.dtype | None = None) -> Tensor:
    """0-dim; 0 of an empty tensor, which in torch has no Linf norm.

    On a CPU a large tensor goes by rows of ROW numbers, as they lie in memory: torch's own sum of millions takes a
    third longer, loses digits (of 23 M numbers in fp32 the third) and depends on the number of threads.
    """
    if not z.numel():
        return z.new_zeros((), dtype=dtype)
    if z.device.type != "cpu" or z.numel() <= ROW:
        return torch.linalg.vector_norm(z, norm, dtype=dtype)
    strides = z.stride()
    flat = z.permute(sorted(range(z.dim()), key=lambda d: -strides[d])).reshape(-1)
    whole = len(flat) // ROW * ROW
    of_rows = torch.linalg.vector_norm(flat[:whole].view(-1, ROW), norm, dim=1, dtype=dtype)
    if whole < len(flat):
        of_rows = torch.cat([of_rows, torch.linalg.vector_norm(flat[whole:], norm, dtype=dtype)[None]])
    return norm_of(of_rows, norm)


def directions(
    x: Tensor, g: Tensor, m: Tensor, v: Tensor, t: Tensor, rule: Rule
) -> tuple[Tensor, Tensor, list[tuple[float, Tensor]]]:  # fmt: skip
    """New moments, and the updates with their shares of the learning rate: one, or two for LANS."""
    g, m, v = moments(g, m, v, rule)
    return m, v, updates(x, g, m, v, corrections(t, m.dtype, rule), rule)


def moments(g: Tensor, m: Tensor, v: Tensor, rule: Rule) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient to descend, and the new moments."""
    beta1, beta2 = rule.betas
    if rule.maximize:
        g = -g
    m = beta1 * m + taken(rule) * g
    v = beta2 * v + (1 - beta2) * g * g
    return g, m, v


def updates(
    x: Tensor, g: Tensor, m: Tensor, v: Tensor, correct: Sequence[Tensor | float], rule: Rule
) -> list[tuple[float, Tensor]]:  # fmt: skip
    """What new moments make of a step, each with its share of the learning rate. correct: see `corrections`."""
    (beta1, beta2), eps = rule.betas, rule.eps
    c1, c2, next1, next2 = correct
    m_hat, v_hat = m * c1, v * c2
    if rule.variant in ("nlamb", "nnlamb"):
        m_hat = beta1 * m * next1 + taken(rule) * g * c1
    if rule.variant == "nnlamb":
        v_hat = beta2 * v * next2 + (1 - beta2) * g * g * c2

    root = v_hat.sqrt() + eps
    decay = rule.weight_decay * x
    if rule.variant == "lans":
        return [(beta1, m_hat / root + decay), (1 - beta1, g / root + decay)]
    return [(1.0, m_hat / root + decay)]


def taken(rule: Rule) -> float:
    """The gradient's weight in the first moment."""
    return 1 - rule.betas[0] if rule.grad_averaging else 1.0


def trust_ratio(x_norm: Tensor, u_norm: Tensor, rule: Rule) -> Tensor:
    """phi(|x|) / |u| within the rule's bounds; 1 where not adapted, or where phi(|x|) or |u| is 0."""
    if not rule.adapts:
        return torch.ones_like(x_norm)
    phi = x_norm if rule.phi_bounds is None else x_norm.clamp(*rule.phi_bounds)
    ratio = torch.where((phi > 0) & (u_norm > 0), phi / u_norm, 1.0)
    return ratio if rule.ratio_bounds is None else ratio.clamp(*rule.ratio_bounds)


def corrected_lr(lr: float | Tensor, t: Tensor, rule: Rule) -> float | Tensor:
    """The learning rate, with bias correction where the rule puts it there."""
    if rule.bias_correction != "learning_rate":
        return lr
    c1, c2 = (correction(beta, t, torch.float64) for beta in rule.betas)
    return lr * c1 / c2.sqrt()


def corrections(t: Tensor, dtype: torch.dtype, rule: Rule) -> list[Tensor | float]:
    """What the first and second moment are multiplied by at step t, and then at t + 1; 1 where the rule corrects none.

    Factors, not divisors: on a CPU a division costs as much as all else that a pass does with a number.
    """
    if rule.bias_correction != "moments":
        return [1.0] * 4
    return [correction(beta, at, dtype) for at in (t, t + 1) for beta in rule.betas]


def correction(beta: float, t: Tensor, dtype: torch.dtype) -> Tensor:
    """1 / (1 - beta^t), in fp64 until it is rounded: in fp32 its first values have lost three digits."""
    return (1 / (1 - beta ** t.to(torch.float64))).to(dtype)


def over_norm(g: Tensor, norm: Tensor) -> Tensor:
    """g / |g|, and 0 where |g| is 0."""
    return torch.where(norm > 0, g / norm, g)


def write(finite: Tensor, *pairs: tuple[Tensor, Tensor]) -> None:
    """Puts new values in place, all or none."""
    for old, new in pairs:
        old.copy_(torch.where(finite, new, old))
