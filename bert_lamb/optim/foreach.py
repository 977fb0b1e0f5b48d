"""LAMB in `torch._foreach_*` calls over lists of tensors: `plain`'s formulas, in place where they can be.

On a GPU one call is a few kernels for all tensors of a round. On a CPU a call goes over a block of BLOCK numbers, so
that what one operation wrote is still in the cache when the next one reads it: 40 bytes a parameter of memory in fp32,
besides the gradient's norm.

Nothing reads a value on the host. A step that is not finite writes the moments' own values back: the gradient's bits
are multiplied by 0 (a product of numbers would keep NaN), the moments by 1, and the updates, then finite, by 0.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from bert_lamb.optim.plain import ROW, Numbers, norm_of, row_norms, taken
from bert_lamb.optim.rule import Rule
from bert_lamb.optim.tensors import TensorGroup, flattened, put_back

BLOCK = 1 << 17  # numbers, a multiple of plain.ROW; on a CPU: some 3 MB of weights, gradient, moments and temporaries
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes of a number

Many = Tensor | Sequence[Tensor]  # one for all tensors of a list, or one for each; 0-dim, or [R, 1] for rows
Block = list[tuple[int, int, int]]  # place of a tensor, its first number, and the one after its last
Kept = list[tuple[Block, list[list[Tensor]]]]  # the updates of each block: one list, or two for LANS


class Scalars(NamedTuple):
    """What a list's tensors are multiplied by, from `Numbers`. With c1, c2 the corrections and s = sqrt(c2),

        m c1 / (sqrt(v c2) + eps) = (c1 / s) m / (sqrt(v) + eps / s)

    so that no operation over all numbers corrects the second moment.
    """

    applied: Many  # 1, or 0 where the step is not finite, as an integer
    keep_m: Many  # beta1, or 1 where not finite
    keep_v: Many
    factor: Many
    of_m: Many  # c1 / s
    of_g: Many  # 1 / s, for LANS
    eps: Many  # eps / s, or 1 where not finite: the root is then above 0, and the update finite
    ahead_m: Many  # beta1 next1 / s, for the look-ahead of nlamb and nnlamb
    now_m: Many
    ahead_v: Many  # beta2 next2 / c2, for that of nnlamb

    def of(self, places: Sequence[int]) -> "Scalars":
        return Scalars(*(z if isinstance(z, Tensor) else [z[i] for i in places] for z in self))


def scalars_of(numbers: Numbers, finite: Tensor, rule: Rule) -> Scalars:
    (beta1, beta2), one = rule.betas, torch.ones_like(numbers.factor[0])
    s = numbers.correct_v.sqrt()
    each = (
        numbers.factor, numbers.correct_m / s, 1 / s, torch.where(finite, rule.eps / s, 1.0),
        beta1 * numbers.correct_next_m / s, taken(rule) * numbers.correct_m / s,
        beta2 * numbers.correct_next_v / numbers.correct_v,
    )  # fmt: skip
    keep = (torch.where(finite, beta * one, one) for beta in rule.betas)
    return Scalars(finite.to(BITS[one.element_size()]), *keep, *(z.unbind() for z in each))


def advance(
    x: Sequence[Tensor], g: Sequence[Tensor], m: list[Tensor], v: list[Tensor], s: Scalars, rule: Rule
) -> list[list[Tensor]]:  # fmt: skip
    """Writes the moments of a list of tensors and returns their updates: one list, or two for LANS."""
    beta2, wide = rule.betas[1], m[0].dtype
    g = torch._foreach_mul([z.to(wide).view(BITS[wide.itemsize]) for z in g], s.applied)
    g = [z.view(wide) for z in g]
    torch._foreach_mul_(g, s.factor)
    torch._foreach_mul_(m, s.keep_m)
    torch._foreach_add_(m, g, alpha=taken(rule))
    torch._foreach_mul_(v, s.keep_v)
    torch._foreach_addcmul_(v, g, g, 1 - beta2)

    if rule.variant == "nnlamb":
        root = torch._foreach_mul(v, s.ahead_v)
        torch._foreach_addcmul_(root, g, g, 1 - beta2)
        torch._foreach_sqrt_(root)
    else:
        root = torch._foreach_sqrt(v)
    torch._foreach_add_(root, s.eps)
    if rule.variant in ("nlamb", "nnlamb"):
        u = torch._foreach_mul(m, s.ahead_m)
        torch._foreach_addcmul_(u, g, s.now_m)
        torch._foreach_div_(u, root)
    else:
        u = torch._foreach_div(m, root)
        if rule.bias_correction == "moments":
            torch._foreach_mul_(u, s.of_m)
    directions = [u]
    if rule.variant == "lans":
        torch._foreach_div_(g, root)
        torch._foreach_mul_(g, s.of_g)
        directions.append(g)
    if rule.weight_decay != 0:
        for direction in directions:
            torch._foreach_add_(direction, [z.to(wide) for z in x], alpha=rule.weight_decay)
    return directions


def first_pass(batch: TensorGroup, numbers: Numbers, finite: Tensor) -> tuple[Tensor, Kept]:
    """plain.first_pass."""
    given = (batch.weights, batch.grads, batch.state("exp_avg"), batch.state("exp_avg_sq"))
    columns = flattened(*given)
    scalars = scalars_of(numbers, finite, batch.rule)
    found: list[list[list[Tensor]]] = [[] for _ in batch.weights]  # norms of each tensor's pieces: weights, updates
    kept: Kept = []
    for block in blocks(columns[0]):
        x, g, m, v = pieces(columns, block)
        directions = advance(x, g, m, v, scalars.of([place for place, _, _ in block]), batch.rule)
        kept.append((block, directions))
        of_pieces = [norms_of([z.to(batch.wide) for z in list_], batch.rule.norm) for list_ in (x, *directions)]
        for (place, _, _), *norms in zip(block, *of_pieces, strict=True):
            found[place].append(norms)
    for given_m, dense in zip(given[2:], columns[2:], strict=True):
        put_back(given_m, dense, batch.weights)
    return torch.stack([of_whole(norms, batch.rule.norm) for norms in found]), kept


def second_pass(batch: TensorGroup, kept: Kept, moves: Tensor, finite: Tensor) -> None:
    """plain.second_pass."""
    (columns,) = flattened(batch.weights)
    of_updates = [each.unbind() for each in torch.where(finite, moves, 0.0).unbind(1)]
    for block, directions in kept:
        (x,) = pieces([columns], block)
        new = [z.to(moves.dtype) for z in x]
        for each, direction in zip(of_updates, directions, strict=True):
            torch._foreach_addcmul_(new, direction, [each[place] for place, _, _ in block], -1)
        if moves.dtype != x[0].dtype:
            torch._foreach_copy_(x, new)
    put_back(batch.weights, columns, batch.weights)


def blocks(vectors: Sequence[Tensor]) -> Iterator[Block]:
    """On a CPU, BLOCK numbers or fewer at a time; elsewhere all at once."""
    most = BLOCK if vectors[0].device.type == "cpu" else max(1, *(len(vector) for vector in vectors))
    block: Block = []
    used = 0
    for place, vector in enumerate(vectors):
        for start in range(0, max(1, len(vector)), most):
            stop = min(len(vector), start + most)
            if block and vector.device.type == "cpu" and used + stop - start > most:
                yield block
                block, used = [], 0
            block.append((place, start, stop))
            used += stop - start
    yield block


def pieces(columns: Sequence[Sequence[Tensor]], block: Block) -> list[list[Tensor]]:
    """A block's numbers of each column; views."""
    return [
        [
            column[place] if stop - start == len(column[place]) else column[place][start:stop]
            for place, start, stop in block
        ]
        for column in columns
    ]


def norms_of(vectors: list[Tensor], norm: float) -> Sequence[Tensor]:
    """Of each vector: on a CPU norms of its rows, [R] (see plain.norm_of), elsewhere its norm."""
    if vectors[0].device.type == "cpu":
        return [row_norms(z, norm) if z.numel() > ROW else norm_of(z, norm)[None] for z in vectors]
    if all(z.numel() for z in vectors):
        return torch._foreach_norm(vectors, norm)
    return [norm_of(z, norm) for z in vectors]


def of_whole(pieces: list[list[Tensor]], norm: float) -> Tensor:
    """From norms of a tensor's pieces: [1 + U], of the whole."""
    return torch.stack([_together(column, norm) for column in zip(*pieces, strict=True)])


def _together(norms: Sequence[Tensor], norm: float) -> Tensor:
    rows = torch.cat(list(norms)) if len(norms) > 1 else norms[0]
    return rows.squeeze() if rows.numel() == 1 else norm_of(rows, norm)
