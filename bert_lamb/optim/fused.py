"""LAMB in two Triton kernels for all tensors of a group: `plain`'s formulas, 40 bytes a parameter in fp32.

Pass 1 reads weights, gradient and moments, writes the moments and, for each chunk of CHUNK numbers, partial norms in
fp32 (or wider); pass 2 reads weights and moments and writes the weights. No atomics: partial norms are added in a
fixed order, so a step repeats to the bit. Ratios are made on the device from the same lines as the plain path's.
Nothing waits for the device, so a step can be captured in a CUDA graph after steps outside one.

Departure from `plain`: in fp32, Triton's division and root may be wrong in their last bit.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from bert_lamb.optim.plain import Numbers, taken
from bert_lamb.optim.rule import VARIANTS, Rule
from bert_lamb.optim.tensors import TensorGroup, flattened, put_back

CHUNK = 16384  # numbers a program handles; fixed, since it decides the order of sums
BLOCK = 1024  # numbers at a time
TYPES = {
    torch.float16: tl.float16, torch.bfloat16: tl.bfloat16, torch.float32: tl.float32, torch.float64: tl.float64,
}  # fmt: skip
LAMB, NLAMB, NNLAMB, LANS = (tl.constexpr(i) for i in range(len(VARIANTS)))  # in the order of VARIANTS
NUMBERS = tl.constexpr(len(Numbers._fields))  # of a tensor


class Tables(NamedTuple):
    """What both passes are launched with, and the vectors whose addresses stand in it, which must outlive them."""

    arguments: tuple[Any, ...]
    settings: dict[str, Any]
    programs: int
    columns: list[list[Tensor]]  # weights, gradients and both moments


def first_pass(batch: TensorGroup, numbers: Numbers, finite: Tensor | None) -> tuple[Tensor, Tables]:
    """plain.first_pass; the second pass makes the updates again instead of keeping them."""
    given = (batch.weights, batch.grads, batch.state("exp_avg"), batch.state("exp_avg_sq"))
    columns = flattened(*given)
    chunks = chunks_of(tuple(len(x) for x in columns[0]), CHUNK, batch.device)
    addresses = addresses_of(tuple(t.data_ptr() for column in columns for t in column), batch.device)
    types = {"PARAM": TYPES[given[0][0].dtype], "GRAD": TYPES[given[1][0].dtype], "WIDE": TYPES[batch.wide]}
    ones = torch.ones_like(numbers.correct_m)
    table = torch.stack([ones if z is None else z for z in numbers], dim=1)
    applied = (torch.ones((), device=batch.device) if finite is None else finite).to(torch.int32)
    tables = Tables(
        (addresses, chunks.owners, chunks.starts, chunks.sizes, len(given[0]), table, applied),
        types | constants(batch.rule) | {"CHUNK": CHUNK, "BLOCK": BLOCK}, len(chunks.owners), columns,
    )  # fmt: skip
    updates = 2 if batch.rule.variant == "lans" else 1
    partials = table.new_zeros(tables.programs + 1, 1 + updates)  # the last stays 0, for padding
    if tables.programs:
        with torch.cuda.device_of(given[0][0]):
            first_kernel[(tables.programs,)](*tables.arguments, partials, **tables.settings)
    for moments, dense in zip(given[2:], columns[2:], strict=True):
        put_back(moments, dense, batch.weights)
    return whole_norms(partials[chunks.of_tensor], batch.rule), tables


def second_pass(batch: TensorGroup, kept: Tables, moves: Tensor, finite: Tensor | None) -> None:
    """plain.second_pass."""
    if kept.programs:
        with torch.cuda.device_of(batch.weights[0]):
            second_kernel[(kept.programs,)](*kept.arguments, moves.contiguous(), **kept.settings)
    put_back(batch.weights, kept.columns[0], batch.weights)


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
        "VARIANT": VARIANTS.index(rule.variant),
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
def first_kernel(
    addresses, owners, starts, sizes, count, numbers, applied, partials, PARAM: tl.constexpr, GRAD: tl.constexpr,
    WIDE: tl.constexpr, BETA1: tl.constexpr, TAKEN: tl.constexpr, BETA2: tl.constexpr, EPS: tl.constexpr,
    DECAY: tl.constexpr, NORM: tl.constexpr, VARIANT: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    owner, start, size = place(owners, starts, sizes)
    xs, gs, ms, vs = pointers(addresses, count, owner, PARAM, GRAD, WIDE)
    own, finite = numbers + owner * NUMBERS, tl.load(applied) != 0
    x_sums, u_sums, w_sums = tl.zeros((BLOCK,), WIDE), tl.zeros((BLOCK,), WIDE), tl.zeros((BLOCK,), WIDE)
    for first in range(0, CHUNK, BLOCK):
        at = start + first + tl.arange(0, BLOCK)
        inside = at < size
        x = tl.load(xs + at, mask=inside, other=0).to(WIDE)
        g = tl.load(gs + at, mask=inside, other=0).to(WIDE) * tl.load(own)
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
def second_kernel(
    addresses, owners, starts, sizes, count, numbers, applied, moves, PARAM: tl.constexpr, GRAD: tl.constexpr,
    WIDE: tl.constexpr, BETA1: tl.constexpr, TAKEN: tl.constexpr, BETA2: tl.constexpr, EPS: tl.constexpr,
    DECAY: tl.constexpr, NORM: tl.constexpr, VARIANT: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
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
            g = tl.load(gs + at, mask=inside, other=0).to(WIDE) * tl.load(own)
        u, w = updates(x, g, m, v, own, BETA1, TAKEN, BETA2, EPS, DECAY, VARIANT)
        if VARIANT == LANS:
            x -= tl.load(moves + owner * 2) * u + tl.load(moves + owner * 2 + 1) * w
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
def updates(
    x, g, m, v, own, BETA1: tl.constexpr, TAKEN: tl.constexpr, BETA2: tl.constexpr, EPS: tl.constexpr,
    DECAY: tl.constexpr, VARIANT: tl.constexpr,
):  # fmt: skip
    """plain.updates; the second is LANS's, else the first again."""
    c1, c2, next1, next2 = tl.load(own + 1), tl.load(own + 2), tl.load(own + 3), tl.load(own + 4)
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
