"""LAMB in two Triton kernels for all tensors of a group: `plain`'s formulas, 40 bytes a parameter in fp32.

Pass 1 reads weights, gradient and moments, writes the moments and, for each chunk of CHUNK numbers, partial norms in
fp32 (or wider); pass 2 reads weights and moments and writes the weights. No atomics: partial norms are added in a
fixed order, so a step repeats to the bit. Ratios are made on the device from the same lines as the plain path's.
Nothing waits for the device, so a step can be captured in a CUDA graph after steps outside one.

Departure from `plain`: in fp32, Triton's division and root may be wrong in their last bit.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from bert_lamb.optim.plain import Readings, taken
from bert_lamb.optim.rows import numbers_of, sizes_of
from bert_lamb.optim.rule import VARIANTS, Rule

CHUNK = 16384  # numbers a program handles; fixed, since it decides the order of sums
BLOCK = 1024  # numbers at a time
TYPES = {
    torch.float16: tl.float16, torch.bfloat16: tl.bfloat16, torch.float32: tl.float32, torch.float64: tl.float64,
}  # fmt: skip
LAMB, NLAMB, NNLAMB, LANS = (tl.constexpr(i) for i in range(len(VARIANTS)))  # in the order of VARIANTS
NUMBERS = tl.constexpr(6)  # of a tensor, from rows.numbers_of


def update(
    params: Sequence[Tensor], grads: Sequence[Tensor], exp_avgs: Sequence[Tensor], exp_avg_sqs: Sequence[Tensor],
    steps: Sequence[Tensor], lr: float | Tensor, rule: Rule, scale: Tensor, finite: Tensor,
) -> Readings:  # fmt: skip
    """`plain.update`, for tensors of one device."""
    device, wide = params[0].device, exp_avgs[0].dtype
    columns = (params, grads, exp_avgs, exp_avg_sqs)
    dense = [[t.contiguous() for t in column] for column in columns]  # no copy where they are
    chunks = chunks_of(tuple(p.numel() for p in params), CHUNK, device)
    addresses = addresses_of(tuple(t.data_ptr() for column in dense for t in column), device)
    numbers = numbers_of(grads, steps, rule, scale.to(wide))
    applied = finite.to(torch.int32)
    types = {"PARAM": TYPES[params[0].dtype], "GRAD": TYPES[grads[0].dtype], "WIDE": TYPES[wide]}
    settings = types | constants(rule) | {"CHUNK": CHUNK, "BLOCK": BLOCK}
    tables = (addresses, chunks.owners, chunks.starts, chunks.sizes, len(params), numbers, applied)
    updates = 2 if rule.variant == "lans" else 1
    partials = numbers.new_zeros(len(chunks.owners) + 1, 1 + updates)  # the last stays 0, for padding
    with torch.cuda.device_of(params[0]):
        if len(chunks.owners):
            first_pass[(len(chunks.owners),)](*tables, partials, **settings)
        readings, sizes = sizes_of(whole_norms(partials[chunks.of_tensor], rule), steps, lr, rule)
        if len(chunks.owners):
            second_pass[(len(chunks.owners),)](*tables, sizes, **settings)
    for kept in (0, 2, 3):
        for old, new in zip(columns[kept], dense[kept], strict=True):
            if new is not old:
                old.copy_(new)
    torch._foreach_add_(list(steps), finite.to(steps[0].dtype))
    return readings


def whole_norms(partials: Tensor, rule: Rule) -> Tensor:
    """Norms of tensors, [n, K], from those of their chunks, [n, chunks, K]: sums of squares where the norm is L2."""
    if rule.norm == float("inf"):
        return partials.amax(dim=1)
    total = partials.sum(dim=1)
    return total.sqrt() if rule.norm == 2 else total


def constants(rule: Rule) -> dict[str, Any]:
    """The rule, compiled into the kernels."""
    return {
        "BETA1": rule.betas[0], "TAKEN": taken(rule), "BETA2": rule.betas[1], "EPS": rule.eps,
        "DECAY": rule.weight_decay, "NORM": 0 if rule.norm == float("inf") else int(rule.norm),
        "VARIANT": VARIANTS.index(rule.variant), "MAXIMIZE": rule.maximize,
    }  # fmt: skip


class Chunks(NamedTuple):
    """Where each program works, and which programs' partial norms are a tensor's. On the device."""

    owners: Tensor  # [C] the tensor of each chunk
    starts: Tensor  # [C] its first number there
    sizes: Tensor  # [n] numbers of each tensor
    of_tensor: Tensor  # [n, longest] chunks of each tensor; padded with C


@lru_cache(maxsize=16)
def chunks_of(sizes: tuple[int, ...], chunk: int, device: torch.device) -> Chunks:
    owners = [i for i, size in enumerate(sizes) for _ in range(0, size, chunk)]
    starts = [start for size in sizes for start in range(0, size, chunk)]
    counts = [-(-size // chunk) for size in sizes]
    firsts = [sum(counts[:i]) for i in range(len(counts))]
    longest = max(1, *counts)
    of_tensor = [
        [first + i if i < count else len(owners) for i in range(longest)]
        for first, count in zip(firsts, counts, strict=True)
    ]
    return Chunks(*(on_device(table, device) for table in (owners, starts, list(sizes), of_tensor)))


@lru_cache(maxsize=16)
def addresses_of(pointers: tuple[int, ...], device: torch.device) -> Tensor:
    """Made anew only where a tensor moved."""
    return on_device(list(pointers), device)


CAPTURED: list[tuple[Tensor, Tensor]] = []  # a graph's replay copies these again, so they outlive every cache


def on_device(table: list, device: torch.device) -> Tensor:
    host = torch.tensor(table, dtype=torch.int64)
    if device.type != "cuda":
        return host.to(device)
    host = host.pin_memory()
    there = host.to(device, non_blocking=True)
    if torch.cuda.is_current_stream_capturing():
        CAPTURED.append((host, there))
    return there


@triton.jit
def first_pass(
    addresses, owners, starts, sizes, count, numbers, applied, partials, PARAM: tl.constexpr, GRAD: tl.constexpr,
    WIDE: tl.constexpr, BETA1: tl.constexpr, TAKEN: tl.constexpr, BETA2: tl.constexpr, EPS: tl.constexpr,
    DECAY: tl.constexpr, NORM: tl.constexpr, VARIANT: tl.constexpr, MAXIMIZE: tl.constexpr, CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    owner, start, size = place(owners, starts, sizes)
    xs, gs, ms, vs = pointers(addresses, count, owner, PARAM, GRAD, WIDE)
    own, finite = numbers + owner * NUMBERS, tl.load(applied) != 0
    x_sums, u_sums, w_sums = tl.zeros((BLOCK,), WIDE), tl.zeros((BLOCK,), WIDE), tl.zeros((BLOCK,), WIDE)
    for first in range(0, CHUNK, BLOCK):
        at = start + first + tl.arange(0, BLOCK)
        inside = at < size
        x = tl.load(xs + at, mask=inside, other=0).to(WIDE)
        g = gradient(tl.load(gs + at, mask=inside, other=0).to(WIDE), own, VARIANT, MAXIMIZE)
        m = BETA1 * tl.load(ms + at, mask=inside, other=0) + TAKEN * g
        v = BETA2 * tl.load(vs + at, mask=inside, other=0) + (1 - BETA2) * g * g
        tl.store(ms + at, m, mask=inside & finite)
        tl.store(vs + at, v, mask=inside & finite)
        u, w = updates(x, g, m, v, own, BETA1, TAKEN, BETA2, EPS, DECAY, VARIANT)
        x_sums, u_sums = added(x_sums, x, NORM), added(u_sums, u, NORM)  # beyond the tensor all three are 0
        w_sums = added(w_sums, w, NORM)
    norms: tl.constexpr = 3 if VARIANT == LANS else 2
    mine = partials + tl.program_id(0) * norms
    tl.store(mine, total(x_sums, NORM))
    tl.store(mine + 1, total(u_sums, NORM))
    if VARIANT == LANS:
        tl.store(mine + 2, total(w_sums, NORM))


@triton.jit
def second_pass(
    addresses, owners, starts, sizes, count, numbers, applied, moves, PARAM: tl.constexpr, GRAD: tl.constexpr,
    WIDE: tl.constexpr, BETA1: tl.constexpr, TAKEN: tl.constexpr, BETA2: tl.constexpr, EPS: tl.constexpr,
    DECAY: tl.constexpr, NORM: tl.constexpr, VARIANT: tl.constexpr, MAXIMIZE: tl.constexpr, CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    owner, start, size = place(owners, starts, sizes)
    xs, gs, ms, vs = pointers(addresses, count, owner, PARAM, GRAD, WIDE)
    own, finite = numbers + owner * NUMBERS, tl.load(applied) != 0
    for first in range(0, CHUNK, BLOCK):
        at = start + first + tl.arange(0, BLOCK)
        inside = at < size
        x = tl.load(xs + at, mask=inside, other=0).to(WIDE)
        m = tl.load(ms + at, mask=inside, other=0)
        v = tl.load(vs + at, mask=inside, other=0)
        g = m
        if VARIANT != LAMB:
            g = gradient(tl.load(gs + at, mask=inside, other=0).to(WIDE), own, VARIANT, MAXIMIZE)
        u, w = updates(x, g, m, v, own, BETA1, TAKEN, BETA2, EPS, DECAY, VARIANT)
        if VARIANT == LANS:
            x -= BETA1 * tl.load(moves + owner * 2) * u + (1 - BETA1) * tl.load(moves + owner * 2 + 1) * w
        else:
            x -= tl.load(moves + owner) * u
        tl.store(xs + at, x.to(PARAM), mask=inside & finite)


@triton.jit
def place(owners, starts, sizes):
    """The tensor that this program works on, the first of its numbers here, and how many it has."""
    owner = tl.load(owners + tl.program_id(0))
    return owner, tl.load(starts + tl.program_id(0)), tl.load(sizes + owner)


@triton.jit
def pointers(addresses, count, owner, PARAM: tl.constexpr, GRAD: tl.constexpr, WIDE: tl.constexpr):
    """Where a tensor's weights, gradient and moments begin."""
    xs = tl.load(addresses + owner).to(tl.pointer_type(PARAM))
    gs = tl.load(addresses + count + owner).to(tl.pointer_type(GRAD))
    ms = tl.load(addresses + 2 * count + owner).to(tl.pointer_type(WIDE))
    vs = tl.load(addresses + 3 * count + owner).to(tl.pointer_type(WIDE))
    return xs, gs, ms, vs


@triton.jit
def gradient(g, own, VARIANT: tl.constexpr, MAXIMIZE: tl.constexpr):
    """Scaled, of length 1 where LANS wants it, and to be descended."""
    g = g * tl.load(own)
    if VARIANT == LANS:
        norm = tl.load(own + 1)
        g = tl.where(norm > 0, g / norm, g)
    if MAXIMIZE:
        g = -g
    return g


@triton.jit
def updates(
    x, g, m, v, own, BETA1: tl.constexpr, TAKEN: tl.constexpr, BETA2: tl.constexpr, EPS: tl.constexpr,
    DECAY: tl.constexpr, VARIANT: tl.constexpr,
):  # fmt: skip
    """plain.updates; the second is LANS's, else the first again."""
    c1, c2, next1, next2 = tl.load(own + 2), tl.load(own + 3), tl.load(own + 4), tl.load(own + 5)
    m_hat, v_hat = m * c1, v * c2
    if VARIANT == NLAMB or VARIANT == NNLAMB:  # noqa: SIM109 - Triton knows no `in`
        m_hat = BETA1 * m * next1 + TAKEN * g * c1
    if VARIANT == NNLAMB:
        v_hat = BETA2 * v * next2 + (1 - BETA2) * g * g * c2
    root = tl.sqrt(v_hat) + EPS
    u = m_hat / root + DECAY * x
    w = u
    if VARIANT == LANS:
        w = g / root + DECAY * x
    return u, w


@triton.jit
def added(sums, z, NORM: tl.constexpr):
    if NORM == 2:
        return sums + z * z
    elif NORM == 1:
        return sums + tl.abs(z)
    else:
        return tl.maximum(sums, tl.abs(z))


@triton.jit
def total(sums, NORM: tl.constexpr):
    if NORM == 0:
        return tl.max(sums, axis=0)
    else:
        return tl.sum(sums, axis=0)
