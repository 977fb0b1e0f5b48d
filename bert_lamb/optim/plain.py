"""LAMB and its variants, tensor by tensor: the definition that every faster path must equal.

Of one tensor, with weights x, gradient g, moments m and v, at its own step t:

    g <- factor g                                           clipped, negated where maximised; LANS: of length 1
    m <- beta1 m + (1 - beta1) g
    v <- beta2 v + (1 - beta2) g^2
    r = m' / (sqrt(v') + eps)                               m', v': m, v after bias correction, or look-ahead
    u = r + weight_decay x
    x <- x - lr ratio(u) u                                  ratio(u) = phi(|x|) / |u|

LANS moves along two updates, c = g / (sqrt(v') + eps) being the second:

    x <- x - lr [beta1 ratio(u) u + (1 - beta1) ratio(w) w]     w = c + weight_decay x

The ratio is 1 where a tensor is not adapted, or where phi(|x|) or |u| is 0. docs/optimizers.md has each preset's.

A path has two functions with the signatures of `first_pass` and `second_pass` below. Between them the norms of a
round's tensors become ratios, all at once (`update.py`), since norms of sharded tensors need a reduction over ranks.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from bert_lamb.optim.rule import Rule
from bert_lamb.optim.tensors import TensorGroup

ROW = 4096  # numbers; 16 KiB in fp32: a row's norm has lost no digits that matter
Updates = list[Tensor]  # of a tensor: one, or two for LANS


class Numbers(NamedTuple):
    """What a step multiplies a tensor by, for each of n tensors: [n], in the type of the moments."""

    factor: Tensor | None  # of the gradient: clip, loss scale, sign, for LANS 1 / |g|; 0 where not finite; None: 1
    correct_m: Tensor  # 1 / (1 - beta1^t), 1 / (1 - beta2^t), then the same at t + 1; 1 where nothing is corrected
    correct_v: Tensor
    correct_next_m: Tensor
    correct_next_v: Tensor


def first_pass(batch: TensorGroup, numbers: Numbers, finite: Tensor | None) -> tuple[Tensor, list[Updates]]:
    """Writes the moments, where `finite` (0-dim bool) is true; None: the host knows that it is. Weights stay.

    Returns norms of what this rank has of each tensor's weights and updates, [n, 1 + U], and the updates.
    """
    norms, kept = [], []
    columns = (batch.weights, batch.grads, batch.state("exp_avg"), batch.state("exp_avg_sq"))
    for i, (x, grad, m, v) in enumerate(zip(*columns, strict=True)):
        correct = [z[i] for z in numbers[1:] if z is not None]
        x, g = x.to(m.dtype), scaled(grad.to(m.dtype), numbers.factor, i)
        new_m, new_v = moments(g, m, v, batch.rule)
        directions = updates(x, g, new_m, new_v, correct, batch.rule)
        write(finite, (m, new_m), (v, new_v))
        norms.append(torch.stack([norm_of(z, batch.rule.norm) for z in (x, *directions)]))
        kept.append(directions)
    return torch.stack(norms), kept


def second_pass(batch: TensorGroup, kept: list[Updates], moves: Tensor, finite: Tensor | None) -> None:
    """Writes the weights, where `finite` is true or None. moves: what each update is multiplied by, [n, U]."""
    for x, directions, own in zip(batch.weights, kept, moves.unbind(), strict=True):
        new = x.to(moves.dtype)
        for move, u in zip(own.unbind(), directions, strict=True):
            new = new - move * u
        write(finite, (x, new))


def scaled(g: Tensor, factor: Tensor | None, place: int) -> Tensor:
    """The gradient as the moments take it."""
    return g if factor is None else g * factor[place]


def moments(g: Tensor, m: Tensor, v: Tensor, rule: Rule) -> tuple[Tensor, Tensor]:
    """The new moments."""
    beta1, beta2 = rule.betas
    return beta1 * m + taken(rule) * g, beta2 * v + (1 - beta2) * g * g


def updates(x: Tensor, g: Tensor, m: Tensor, v: Tensor, correct: Sequence[Tensor], rule: Rule) -> list[Tensor]:
    """What new moments make of a step: u, and w for LANS. correct: see `Numbers`."""
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
        return [m_hat / root + decay, g / root + decay]
    return [m_hat / root + decay]


def taken(rule: Rule) -> float:
    """The gradient's weight in the first moment: 1 - beta1, or 1 without averaging."""
    return 1 - rule.betas[0] if rule.grad_averaging else 1.0


def shares(rule: Rule) -> tuple[float, ...]:
    """Each update's share of the learning rate."""
    return (rule.betas[0], 1 - rule.betas[0]) if rule.variant == "lans" else (1.0,)


def trust_ratio(x_norm: Tensor, u_norm: Tensor, rule: Rule) -> Tensor:
    """phi(|x|) / |u| within the rule's bounds; 1 where not adapted, or where phi(|x|) or |u| is 0."""
    if not rule.adapts:
        return torch.ones_like(x_norm)
    phi = x_norm if rule.phi_bounds is None else x_norm.clamp(*rule.phi_bounds)
    ratio = torch.where((phi > 0) & (u_norm > 0), phi / u_norm, 1.0)
    return ratio if rule.ratio_bounds is None else ratio.clamp(*rule.ratio_bounds)


def numbers_of(batch: TensorGroup, scale: Tensor | None, finite: Tensor | None) -> Numbers:
    """Once a step, for all tensors of a group. scale (0-dim): of all gradients; None: 1."""
    ones = torch.ones_like(batch.grad_norms, dtype=batch.wide)
    factor = ones if scale is None else ones * scale.to(batch.wide)
    if batch.rule.variant == "lans":  # a gradient of 0 stays
        norms = batch.grad_norms.to(batch.wide)
        factor = torch.where(norms > 0, 1 / norms, factor)
    if batch.rule.maximize:
        factor = -factor
    if finite is not None:
        factor = torch.where(finite, factor, 0.0)
    correct = [ones] * 4
    if batch.rule.bias_correction == "moments":
        t = torch.stack(batch.state("step")).to(batch.wide) + 1
        correct = [correction(beta, at) for at in (t, t + 1) for beta in batch.rule.betas]
    return Numbers(None if factor is ones else factor, *correct)


def corrected_lr(batch: TensorGroup) -> float | Tensor:
    """The learning rate, or of each tensor, [n], where the rule puts the bias correction there."""
    if batch.rule.bias_correction != "learning_rate":
        return batch.lr
    t = torch.stack(batch.state("step")).to(batch.wide) + 1
    c1, c2 = (correction(beta, t) for beta in batch.rule.betas)
    return batch.lr * c1 / c2.sqrt()


def correction(beta: float, t: Tensor) -> Tensor:
    """1 / (1 - beta^t). By expm1, since in fp32 the plain difference has lost three digits at the first steps."""
    return -1 / torch.expm1(t * (math.log(beta) if beta else -math.inf))


def norm_of(z: Tensor, norm: float, dtype: torch.dtype | None = None) -> Tensor:
    """0-dim; 0 of an empty tensor, which in torch has no Linf norm.

    On a CPU a large tensor goes by rows of ROW numbers, as they lie in memory: torch's own sum of millions takes a
    third longer, loses digits (of 23 M numbers in fp32 the third) and depends on the number of threads.
    """
    if not z.numel():
        return z.new_zeros((), dtype=dtype)
    if z.device.type != "cpu":
        return torch.linalg.vector_norm(z, norm, dtype=dtype)
    strides = z.stride()
    flat = z.permute(sorted(range(z.dim()), key=lambda d: -strides[d])).reshape(-1)
    return norm_of(row_norms(flat, norm, dtype), norm) if len(flat) > ROW else row_norm(flat, norm, dtype)


def row_norms(flat: Tensor, norm: float, dtype: torch.dtype | None = None) -> Tensor:
    """Norms of a vector's rows of ROW numbers, and of what is left."""
    whole = len(flat) // ROW * ROW
    found = row_norm(flat[:whole].view(-1, ROW), norm, dtype)
    return found if whole == len(flat) else torch.cat([found, row_norm(flat[whole:], norm, dtype)[None]])


def row_norm(rows: Tensor, norm: float, dtype: torch.dtype | None = None) -> Tensor:
    """Along the last dimension. L1 by torch's sum, which adds in pairs; its norm adds one by one and is off by 1e-4."""
    if norm == 1:
        return rows.abs().sum(dim=-1, dtype=dtype)
    return torch.linalg.vector_norm(rows, norm, dim=-1, dtype=dtype)


def write(finite: Tensor | None, *pairs: tuple[Tensor, Tensor]) -> None:
    """Puts new values in place, all or none."""
    for old, new in pairs:
        old.copy_(new if finite is None else torch.where(finite, new, old))
