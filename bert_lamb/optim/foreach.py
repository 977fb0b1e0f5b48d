"""LAMB in `torch._foreach_*` calls over lists of tensors: `plain`'s formulas, in place where they can be.

On a GPU one call is a few kernels for all tensors of a round. On a CPU a call goes over some 100,000 numbers, so that
what one operation wrote is still in the cache when the next one reads it.

No value is read on the host. Where it does not know whether the step is finite, the device decides what is written:
the gradient's bits are multiplied by 1 or 0 (a product of numbers would keep NaN), the moments then by 1, and the
updates, which are finite then, by 0.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from bert_lamb.optim.plain import ROW, Numbers, norm_of, row_norms, taken
from bert_lamb.optim.rule import Rule
from bert_lamb.optim.tensors import TensorGroup, flattened, put_back

BLOCK = 1 << 16  # numbers a thread works on at a time on a CPU, a multiple of plain.ROW
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes of a number

One = float | Tensor  # for all tensors of a list
Tensors = tuple[Tensor, ...] | list[Tensor]
Each = Tensors  # for each of a list's tensors: 0-dim, or [R, 1] for rows


class Scalars(NamedTuple):
    """What a list's tensors are multiplied by. With c1, c2 the corrections of plain.Numbers and s = sqrt(c2),

        m c1 / (sqrt(v c2) + eps) + l x = (c1 / s) [m / (sqrt(v) + eps / s) + l s / c1 x]

    so an update without its unit, c1 / s, takes no operation over all numbers to be corrected: see `units`.
    """

    keep: tuple[One, One]  # the betas, or 1 where the step is not finite
    applied: Tensor | None  # 1, or 0 where it is not, as an integer; None: the host knows that it is finite
    factor: Each | None  # of the gradient; None: 1
    eps: Each  # eps / s, or 1 where not finite: the root is then above 0, and the update finite
    decays: tuple[Each, ...]  # l / unit, of each update
    ahead: tuple[Each, ...]  # of nlamb, nnlamb: beta1 next1 / s, and the gradient's weight; beta2 next2 / c2

    def some(self, places: Sequence[int]) -> "Scalars":
        """Of the tensors at these places."""

        def of(each: Each) -> Each:
            return [each[i] for i in places]

        return Scalars(
            self.keep, self.applied, None if self.factor is None else of(self.factor), of(self.eps),
            tuple(of(z) for z in self.decays), tuple(of(z) for z in self.ahead),
        )  # fmt: skip


class Block(NamedTuple):
    """Pieces of tensors that are worked on together."""

    places: list[int]  # of their tensors
    weights: list[Tensor]
    updates: list[Tensors]  # one list, or two for LANS; without their units


class Kept(NamedTuple):
    """What the second pass needs of the first."""

    blocks: list[Block]
    vectors: list[Tensor]  # the weights that the blocks are pieces of
    units: Tensor  # [n, U] what updates, and hence their norms, are still to be multiplied by


def units(numbers: Numbers, rule: Rule) -> Tensor:
    s = numbers.correct_v.sqrt()
    first = torch.ones_like(s) if rule.variant in ("nlamb", "nnlamb") else numbers.correct_m / s
    return torch.stack([first, 1 / s] if rule.variant == "lans" else [first], dim=1)


def scalars_of(numbers: Numbers, finite: Tensor | None, rule: Rule) -> Scalars:
    (beta1, beta2), s = rule.betas, numbers.correct_v.sqrt()
    eps, keep, applied = rule.eps / s, rule.betas, None
    if finite is not None:
        one = torch.ones_like(s[0])
        keep = torch.where(finite, beta1 * one, one), torch.where(finite, beta2 * one, one)  # type: ignore[assignment]
        applied = finite.to(BITS[one.element_size()])
        eps = torch.where(finite, eps, 1.0)
    ahead = []
    if rule.variant in ("nlamb", "nnlamb"):
        ahead = [beta1 * numbers.correct_next_m / s, taken(rule) * numbers.correct_m / s]
        ahead.append(beta2 * numbers.correct_next_v / numbers.correct_v)
    return Scalars(
        keep, applied, None if numbers.factor is None else numbers.factor.unbind(), eps.unbind(),
        tuple(z.unbind() for z in (rule.weight_decay / units(numbers, rule)).unbind(1)),
        tuple(z.unbind() for z in ahead),
    )  # fmt: skip


def advance(
    x: Tensors, g: Tensors, m: Tensors, v: Tensors, s: Scalars, rule: Rule
) -> list[Tensors]:  # fmt: skip
    """Writes the moments of a list of tensors and returns their updates, without their units: one list, or two."""
    g = descended(g, m[0].dtype, s)
    beta1, beta2 = rule.betas
    if s.applied is None and rule.grad_averaging:  # one write each, which the compiler puts in place
        torch._foreach_lerp_(m, g, 1 - beta1)
        torch._foreach_lerp_(v, torch._foreach_mul(g, g), 1 - beta2)
    else:
        torch._foreach_mul_(m, s.keep[0])
        torch._foreach_add_(m, g, alpha=taken(rule))
        torch._foreach_mul_(v, s.keep[1])
        torch._foreach_addcmul_(v, g, g, 1 - beta2)
    return updates_of(x, g, m, v, s, rule)


def descended(g: Tensors, wide: torch.dtype, s: Scalars) -> Tensors:
    """The gradient as the moments take it."""
    g = [z.to(wide) for z in g]
    if s.applied is not None:
        bits = torch._foreach_mul([z.view(BITS[wide.itemsize]) for z in g], s.applied)
        g = [z.view(wide) for z in bits]
    return g if s.factor is None else torch._foreach_mul(g, s.factor)


def updates_of(
    x: Tensors, g: Tensors, m: Tensors, v: Tensors, s: Scalars, rule: Rule
) -> list[Tensors]:  # fmt: skip
    """What new moments make of a step."""
    if rule.variant == "nnlamb":
        root = torch._foreach_mul(v, s.ahead[2])
        torch._foreach_addcmul_(root, g, g, 1 - rule.betas[1])
        torch._foreach_sqrt_(root)
    else:
        root = torch._foreach_sqrt(v)
    torch._foreach_add_(root, s.eps)
    if rule.variant in ("nlamb", "nnlamb"):
        u = torch._foreach_mul(m, s.ahead[0])
        torch._foreach_addcmul_(u, g, s.ahead[1])
        torch._foreach_div_(u, root)
    else:
        u = torch._foreach_div(m, root)
    updates: list[Tensors] = [u, torch._foreach_div(g, root)] if rule.variant == "lans" else [u]
    if rule.weight_decay != 0:
        x = [z.to(u[0].dtype) for z in x]
        for update, decay in zip(updates, s.decays, strict=True):
            torch._foreach_addcmul_(update, x, decay)
    return updates


def first_pass(batch: TensorGroup, numbers: Numbers, finite: Tensor | None) -> tuple[Tensor, Kept]:
    """plain.first_pass."""
    given = (batch.weights, batch.grads, batch.state("exp_avg"), batch.state("exp_avg_sq"))
    columns = flattened(*given)
    scalars, norm = scalars_of(numbers, finite, batch.rule), batch.rule.norm
    kept = Kept([], columns[0], units(numbers, batch.rule))
    found: list[list[list[Tensor]]] = [[] for _ in columns[0]]  # norms of each tensor's pieces: weights, updates
    for places, (x, g, m, v) in pieces(columns):
        updates = advance(x, g, m, v, scalars.some(places), batch.rule)
        kept.blocks.append(Block(places, x, updates))
        of_pieces = [norms_of(z, norm) for z in ([z.to(batch.wide) for z in x], *updates)]
        for place, *norms in zip(places, *of_pieces, strict=True):
            found[place].append(norms)
    for moments, vectors in zip(given[2:], columns[2:], strict=True):
        put_back(moments, vectors, batch.weights)
    whole = torch.stack([torch.stack([of_whole(z, norm) for z in zip(*norms, strict=True)]) for norms in found])
    return torch.cat([whole[:, :1], whole[:, 1:] * kept.units], dim=1), kept


def second_pass(batch: TensorGroup, kept: Kept, moves: Tensor, finite: Tensor | None) -> None:
    """plain.second_pass."""
    moves = moves * kept.units
    each = [z.unbind() for z in (moves if finite is None else torch.where(finite, moves, 0.0)).unbind(1)]
    for places, x, updates in kept.blocks:
        new = [z.to(moves.dtype) for z in x]
        for move, update in zip(each, updates, strict=True):
            torch._foreach_addcmul_(new, update, [move[i] for i in places], -1)
        if x[0].dtype != moves.dtype:
            torch._foreach_copy_(x, new)
    put_back(batch.weights, kept.vectors, batch.weights)


def pieces(columns: Sequence[Sequence[Tensor]]) -> Iterator[tuple[list[int], list[list[Tensor]]]]:
    """Pieces of the columns' vectors, BLOCK numbers a thread at a time on a CPU, elsewhere whole vectors, all at once.

    Yields places of vectors, and of each column the pieces.
    """
    vectors = columns[0]
    most = BLOCK * max(2, torch.get_num_threads())
    if vectors[0].device.type != "cpu":
        most = max(1, sum(len(vector) for vector in vectors))
    cut = [[piece for vector in column for piece in vector.split(most)] for column in columns]
    owners = [place for place, vector in enumerate(vectors) for _ in range(max(1, -(-len(vector) // most)))]
    first, used = 0, 0
    for i, piece in enumerate(cut[0]):
        if i > first and used + len(piece) > most:
            yield owners[first:i], [column[first:i] for column in cut]
            first, used = i, 0
        used += len(piece)
    yield owners[first:], [column[first:] for column in cut]


def norms_of(vectors: Tensors, norm: float) -> Sequence[Tensor]:
    """Of each vector: on a CPU norms of its rows, [R] (see plain.norm_of), elsewhere its norm."""
    if vectors[0].device.type == "cpu":
        return [row_norms(z, norm) if len(z) > ROW else norm_of(z, norm)[None] for z in vectors]
    if all(len(z) for z in vectors):
        return torch._foreach_norm(vectors, norm)
    return [norm_of(z, norm) for z in vectors]


def of_whole(norms: Sequence[Tensor], norm: float) -> Tensor:
    """From norms of a tensor's pieces, that of the whole."""
    rows = torch.cat(list(norms)) if len(norms) > 1 else norms[0]
    return rows.squeeze() if rows.numel() == 1 else norm_of(rows, norm)
