"""One update of all groups: a path's first pass, ratios from the norms of whole tensors, its second pass."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bert_lamb.optim.plain import Numbers, corrected_lr, numbers_of, shares, trust_ratio
from bert_lamb.optim.sharded import whole_norms
from bert_lamb.optim.tensors import TensorGroup

# Numbers of a round, whose updates wait in memory for their norms: 16 MiB in fp32 on a CPU, of which a cache may hold
# some, 128 MiB elsewhere, where each round costs launches.
KEPT = {"cpu": 1 << 22, "other": 1 << 25}


class Readings(NamedTuple):
    """What a step saw of each tensor, [n] each, on the device. For LANS: of its first update, u."""

    trust_ratios: Tensor  # 1 where not adapted
    weight_norms: Tensor  # |x| before the step, in the rule's norm
    update_norms: Tensor  # |u|


class UpdatePath(NamedTuple):
    """One way to do the arithmetic; plain.py has the definition of both passes."""

    first_pass: Callable[[TensorGroup, Numbers, Tensor | None], tuple[Tensor, Any]]
    second_pass: Callable[[TensorGroup, Any, Tensor, Tensor | None], None]
    keeps_updates: bool = True  # between the passes; else the second makes them again


Work = list[tuple[TensorGroup, UpdatePath]]


def update(work: Work, scale: Tensor | None, finite: Tensor) -> list[tuple[list[Tensor], Readings]]:
    """Updates weights, moments and steps in place, and nothing of them where `finite` (0-dim bool) is false.

    scale (0-dim): what gradients are multiplied by (clipping, loss scale); None: 1. Gradients are left as they are.
    Returns parameters with their readings.
    """
    if not known(finite):
        return [read for some in rounds(work) for read in _round(some, scale, finite)]
    if finite:
        return [read for some in rounds(work) for read in _round(some, scale, None)]
    unknown = [torch.full_like(batch.grad_norms, float("nan"), dtype=batch.wide) for batch, _ in work]
    return [(batch.params, Readings(torch.ones_like(z), z, z)) for (batch, _), z in zip(work, unknown, strict=True)]


def known(finite: Tensor) -> bool:
    """Whether reading the verdict costs nothing: then no path needs to mask what it writes."""
    return finite.device.type == "cpu" and not torch.compiler.is_compiling()


def rounds(work: Work) -> Iterator[Work]:
    """In their order, at most KEPT numbers at a time whose updates are kept, or one tensor that has more.

    The same on all ranks, since each round of sharded tensors has a reduction.
    """
    some: Work = []
    room = 0
    for batch, path in work:
        most = KEPT["cpu" if batch.device.type == "cpu" else "other"]
        for part in batch.split(most) if path.keeps_updates else [batch]:
            size = sum(part.sizes()) if path.keeps_updates else 0
            if some and size > room:
                yield some
                some = []
            room = (room if some else most) - size
            some.append((part, path))
    if some:
        yield some


def _round(work: Work, scale: Tensor | None, finite: Tensor | None) -> Iterator[tuple[list[Tensor], Readings]]:
    firsts, verdicts = [], []
    for batch, path in work:
        here = None if finite is None else finite.to(batch.device)
        numbers = numbers_of(batch, None if scale is None else scale.to(batch.device), here)
        firsts.append(path.first_pass(batch, numbers, here))
        verdicts.append(here)
    parts = [(batch.spread, batch.rule.norm, norms) for (batch, _), (norms, _) in zip(work, firsts, strict=True)]
    for (batch, path), (_, kept), norms, here in zip(work, firsts, whole_norms(parts), verdicts, strict=True):
        x_norms, *u_norms = norms.unbind(1)
        ratios = [trust_ratio(x_norms, u_norm, batch.rule) for u_norm in u_norms]
        lr = corrected_lr(batch)
        moves = [(lr * share * ratio).to(batch.wide) for share, ratio in zip(shares(batch.rule), ratios, strict=True)]
        path.second_pass(batch, kept, torch.stack(moves, dim=1), here)
        torch._foreach_add_(batch.state("step"), 1 if here is None else here.to(torch.float32))
        yield batch.params, Readings(ratios[0], x_norms, u_norms[0])
