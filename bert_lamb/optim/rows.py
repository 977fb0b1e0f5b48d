"""LAMB in two compiled passes over rows of numbers, on a CPU: `plain`'s formulas, its temporaries compiled away.

Pass 1 reads weights, gradient and moments, writes the moments and makes the norms; pass 2 reads weights and moments
and writes the weights. That is 40 bytes a parameter in fp32, the least there is: the update cannot be applied before
its norm is known. (The variants that look ahead read the gradient twice, LANS three times.)

A tensor is a stack of rows. Small tensors of one length are copied into one stack, a row each; a large one is rows of
ROW numbers at most, and some of as many rows go together in a call. A row's norm is the work of one thread, so the
result does not depend on how many there are.
"""

from collections.abc import Callable, Sequence
from functools import cache
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bert_lamb.optim.compiler import has_compiler as has_compiler
from bert_lamb.optim.plain import (
    ROW,
    Readings,
    corrected_lr,
    corrections,
    moments,
    norm_of,
    over_norm,
    trust_ratio,
    updates,
    write,
)  # fmt: skip
from bert_lamb.optim.rule import Rule

SMALL = 1 << 16  # numbers: below, a tensor costs more in calls than in work
MANY = 8  # small tensors: from here on, stacking them saves more calls than it makes
MIN_COMPILED_ROW = 16  # numbers; one vector of the widest CPUs
TOGETHER = 4  # large tensors of one size in a call: calls are a tenth of a step, and compiling takes longer with more
WORTH_COMPILING = 1 << 22  # numbers in a parameter group: below, a compilation would take long to repay

Pass = Callable[[list[Tensor], Tensor, Tensor, Rule], list[Tensor]]


class Stack(NamedTuple):
    """Rows of one large tensor, or one row for each of several small ones."""

    members: list[int]  # places in the batch
    columns: list[Tensor]  # weights, gradient and both moments, [R, L] each
    copied: bool  # else the columns are views of the tensors

    @property
    def compilable(self) -> bool:
        """Sizes 0 and 1 would each be a compilation of their own."""
        rows, length = self.columns[0].shape
        return len(self.members) == 1 and rows > 1 and length >= MIN_COMPILED_ROW


def update(
    params: Sequence[Tensor], grads: Sequence[Tensor], exp_avgs: Sequence[Tensor], exp_avg_sqs: Sequence[Tensor],
    steps: Sequence[Tensor], lr: float | Tensor, rule: Rule, scale: Tensor, finite: Tensor,
) -> Readings:  # fmt: skip
    """`plain.update`; its first call takes seconds, where torch.compile makes a kernel of each pass."""
    groups = grouped(stacked(params, grads, exp_avgs, exp_avg_sqs))
    numbers = numbers_of(grads, steps, rule, scale.to(exp_avgs[0].dtype))
    found: dict[int, Tensor] = {}  # a tensor's place: norms of its weights and of each update
    for group in groups:
        for stack, norms in zip(group, run(first_pass, group, numbers, finite, rule), strict=True):
            if len(stack.members) == 1:
                norms = [norm_of(of_rows, rule.norm)[None] for of_rows in norms]
            found.update(zip(stack.members, torch.stack(norms, dim=1).unbind(), strict=True))
    readings, sizes = sizes_of(torch.stack([found[i] for i in range(len(params))]), steps, lr, rule)
    numbers = torch.cat([numbers, sizes], dim=1)
    for group in groups:
        run(second_pass, group, numbers, finite, rule)
        for stack in group:
            if stack.copied:
                put_back(stack, params, exp_avgs, exp_avg_sqs)
    torch._foreach_add_(list(steps), finite.to(steps[0].dtype))
    return readings


def put_back(stack: Stack, *tensors: Sequence[Tensor]) -> None:
    """New weights and moments of a stack that was copied, to where they belong."""
    x, _, m, v = stack.columns
    for olds, column in zip(tensors, (x, m, v), strict=True):
        own = [olds[place] for place in stack.members]
        each = column.view(len(own), own[0].numel())
        torch._foreach_copy_(own, [new.view_as(old) for old, new in zip(own, each, strict=True)])


def numbers_of(grads: Sequence[Tensor], steps: Sequence[Tensor], rule: Rule, scale: Tensor) -> Tensor:
    """What both passes need of each tensor, [n, 6]: the scale, LANS's norm of the gradient, four corrections."""
    t = torch.stack(list(steps)) + 1
    scales, g_norms = scale.expand(len(grads)), torch.zeros_like(t, dtype=scale.dtype)
    if rule.variant == "lans":
        g_norms = torch.stack([norm_of(g, 2, scale.dtype) for g in grads]) * scales
    correct = [torch.zeros_like(g_norms) + c for c in corrections(t, scale.dtype, rule)]
    return torch.stack([scales, g_norms, *correct], dim=1)


def sizes_of(norms: Tensor, steps: Sequence[Tensor], lr: float | Tensor, rule: Rule) -> tuple[Readings, Tensor]:
    """From norms of weights and updates, [n, 1 + U]: the readings, and what each update is multiplied by, [n, U]."""
    x_norms, *u_norms = norms.unbind(1)
    ratios = [trust_ratio(x_norms, u_norm, rule) for u_norm in u_norms]
    lr = corrected_lr(lr, torch.stack(list(steps)) + 1, rule)
    sizes = torch.stack([(lr * ratio).to(norms.dtype) for ratio in ratios], dim=1)
    return Readings(ratios[0], x_norms, u_norms[0]), sizes


def first_pass(columns: list[Tensor], numbers: Tensor, finite: Tensor, rule: Rule) -> list[Tensor]:
    """Writes a stack's moments. Returns norms of each row's weights, [R], and of each of its updates.

    columns: weights, gradient and both moments, [R, L]; numbers: [1 or R, 6]; finite: [R, 1].
    """
    x, g, m, v = columns
    scale, g_norm, *correct = (numbers[:, i : i + 1] for i in range(6))
    old_m, old_v, x = m, v, x.to(m.dtype)
    g = g.to(m.dtype) * scale
    if rule.variant == "lans":
        g = over_norm(g, g_norm)
    g, m, v = moments(g, m, v, rule)
    # `finite` is used before the norms, not after: else the compiler makes two loops
    m, v = torch.where(finite, m, old_m), torch.where(finite, v, old_v)
    old_m.copy_(m)
    old_v.copy_(v)
    directions = [u for _, u in updates(x, g, m, v, correct, rule)]
    return [norm_of_rows(z, rule.norm) for z in (x, *directions)]


def norm_of_rows(z: Tensor, norm: float) -> Tensor:
    """[R]. The literal norms are for the compiler, which else compiles powers for any norm."""
    if not z.shape[1]:
        return z.new_zeros(len(z))
    if norm == 2:
        return torch.linalg.vector_norm(z, 2, dim=1)
    return torch.linalg.vector_norm(z, 1 if norm == 1 else float("inf"), dim=1)


def second_pass(columns: list[Tensor], numbers: Tensor, finite: Tensor, rule: Rule) -> list[Tensor]:
    """Writes a stack's weights; the moments are the new ones. numbers: [1 or R, 6 + U]."""
    x, g, m, v = columns
    scale, g_norm, *correct = (numbers[:, i : i + 1] for i in range(6))
    new = x.to(m.dtype)
    g = g.to(m.dtype) * scale
    if rule.variant == "lans":
        g = over_norm(g, g_norm)
    g = -g if rule.maximize else g
    for i, (share, u) in enumerate(updates(new, g, m, v, correct, rule)):
        new = new - share * numbers[:, 6 + i : 7 + i] * u
    write(finite, (x, new))
    return []


def each_of(
    one_pass: Pass, group: list[list[Tensor]], numbers: Tensor, finite: Tensor, rule: Rule
) -> list[list[Tensor]]:  # fmt: skip
    """A pass over every stack of a group; numbers: [stacks, 1 or R, K]."""
    # unbind knows that a stack's numbers are one row; of chunk, torch 2.13 compiles reads beyond them
    return [one_pass(columns, own, finite, rule) for columns, own in zip(group, numbers.unbind(), strict=True)]


def run(one_pass: Pass, group: list[Stack], numbers: Tensor, finite: Tensor, rule: Rule) -> list[list[Tensor]]:
    """A pass over a group of stacks: compiled where one kernel serves many, else as it stands.

    `finite` goes in as a column, [R, 1], from which the compiler makes one loop over moments and norms.
    """
    columns = [stack.columns for stack in group]
    own = numbers[torch.tensor([stack.members for stack in group])]
    verdict = finite.expand(len(columns[0][0]), 1).contiguous()
    function = each_of
    if group[0].compilable:
        types = [column.dtype for column in columns[0]]
        kind = one_pass, rule.variant, rule.norm, rule.maximize, rule.grad_averaging, *types, len(group)
        function = through_compiler(each_of, *kind)
    return function(one_pass, columns, own, verdict, rule)


def grouped(stacks: list[Stack]) -> list[list[Stack]]:
    """Stacks of as many rows of one length, TOGETHER in a group or alone: either is a compilation of its own."""
    groups: list[list[Stack]] = []
    alike: dict[torch.Size, list[Stack]] = {}
    for stack in stacks:
        if stack.compilable:
            alike.setdefault(stack.columns[0].shape, []).append(stack)
        else:
            groups.append([stack])
    for same in alike.values():
        full = len(same) // TOGETHER * TOGETHER
        groups += [same[i : i + TOGETHER] for i in range(0, full, TOGETHER)] + [[stack] for stack in same[full:]]
    return groups


@cache
def through_compiler(function: Callable[..., Any], *kind: Any) -> Callable[..., Any]:
    """One compilation of a kind serves tensors of every size.

    Each kind is code of its own: torch compiles one piece of code eight times and then runs it as it stands.
    """
    own = FunctionType(function.__code__.replace(), function.__globals__, function.__name__)
    return torch.compile(own, dynamic=True)


def stacked(*columns: Sequence[Tensor]) -> list[Stack]:
    """Tensors as rows; columns: weights, gradients, moments of each."""
    stacks: list[Stack] = []
    small: dict[int, list[int]] = {}
    for place, tensors in enumerate(zip(*columns, strict=True)):
        size = tensors[0].numel()
        if size < SMALL:
            small.setdefault(size, []).append(place)
        else:
            rows = [t.contiguous().view(-1, row_length(size)).detach() for t in tensors]
            stacks.append(Stack([place], rows, copied=not all(t.is_contiguous() for t in tensors)))
    for size, places in small.items():
        copies = [torch.stack([column[i].detach().reshape(size) for i in places]) for column in columns]
        stacks.append(Stack(places, copies, copied=True))
    return stacks


@cache
def row_length(size: int) -> int:
    """The largest divisor up to ROW."""
    return next(length for length in range(min(ROW, size), 0, -1) if size % length == 0)
