"""LAMB in two compiled passes over rows of numbers, on a CPU with a C++ compiler: `foreach`'s lines in one loop each.

Pass 1 reads weights, gradient and moments, writes the moments and makes the norms; pass 2 reads weights and moments
and writes the weights. That is 40 bytes a parameter in fp32, the least there is: the update cannot be applied before
its norm is known. (The variants that look ahead read the gradient twice, LANS three times.)

A large tensor is rows of ROW numbers at most; tensors too small to be worth a call go as in foreach.py. A row's norm is
the work of one thread, so the result does not depend on how many there are.
"""

from collections.abc import Callable, Sequence
from functools import cache
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bert_lamb.optim import foreach
from bert_lamb.optim.compiler import has_compiler as has_compiler
from bert_lamb.optim.foreach import Scalars, scalars_of, units
from bert_lamb.optim.plain import ROW, Numbers, norm_of
from bert_lamb.optim.rule import Rule
from bert_lamb.optim.tensors import TensorGroup, flattened, put_back

SMALL = 1 << 16  # numbers: below, a compiled call costs more than it saves
MIN_COMPILED_ROW = 16  # numbers; one vector of the widest CPUs
TOGETHER = 4  # large tensors of one size in a call: calls are a tenth of a step, and compiling takes longer with more
MOMENTS = ("exp_avg", "exp_avg_sq")
WORTH_COMPILING = 1 << 22  # numbers in a parameter group: below, a compilation would take long to repay


class Group(NamedTuple):
    """Large tensors of one size, as rows, and what both compiled passes take of them."""

    places: list[int]
    stacks: list[list[Tensor]]  # weights, gradients and both moments, [R, L] each
    scalars: Scalars  # the factors as columns, [R, 1]


class Kept(NamedTuple):
    """What the second pass needs of the first: of the tensors that are not compiled, and of those that are."""

    small: list[int]  # places
    of_small: tuple[TensorGroup, foreach.Kept] | None
    groups: list[Group]
    units: Tensor  # as foreach.Kept has them
    vectors: dict[int, Tensor]  # the weights that the groups' are views of, by place


def first_pass(batch: TensorGroup, numbers: Numbers, finite: Tensor | None) -> tuple[Tensor, Kept]:
    """plain.first_pass; its first call takes seconds, where torch.compile makes the kernel."""
    lengths = [row_length(x.numel()) for x in batch.weights]
    small, large = ([i for i, length in enumerate(lengths) if bool(length) == is_large] for is_large in (False, True))
    scalars, own = scalars_of(numbers, finite, batch.rule), units(numbers, batch.rule)
    norms, of_small = torch.zeros(len(lengths), 1 + own.shape[1], dtype=batch.wide), None
    if small:
        part, of_part = batch.some(small), Numbers(*(None if z is None else z[small] for z in numbers))  # type: ignore[arg-type]
        norms[small], made = foreach.first_pass(part, of_part, finite)
        of_small = part, made
    given = [[column[i] for i in large] for column in (batch.weights, batch.grads, *map(batch.state, MOMENTS))]
    columns = flattened(*given)
    groups = []
    for some in together([len(vector) for vector in columns[0]]):
        places, length = [large[i] for i in some], lengths[large[some[0]]]
        # without a base tensor, on whose shape the compiler would make its code depend
        stacks = [[column[i].view(-1, length).detach() for i in some] for column in columns]
        groups.append(Group(places, stacks, with_columns(scalars.some(places), len(stacks[0][0]))))
        for place, of_rows in zip(places, compiled(over_rows, groups[-1], batch.rule), strict=True):
            found = torch.stack([norm_of(z, batch.rule.norm) for z in of_rows])
            norms[place] = torch.cat([found[:1], found[1:] * own[place]])
    for moments, vectors in zip(given[2:], columns[2:], strict=True):
        put_back(moments, vectors, given[0])
    return norms, Kept(small, of_small, groups, own, dict(zip(large, columns[0], strict=True)))


def second_pass(batch: TensorGroup, kept: Kept, moves: Tensor, finite: Tensor | None) -> None:
    """plain.second_pass; makes the updates of large tensors again instead of keeping them."""
    if kept.of_small is not None:
        foreach.second_pass(*kept.of_small, moves[kept.small], finite)
    moves = moves * kept.units if finite is None else torch.where(finite, moves * kept.units, 0.0)
    each = [z.unbind() for z in moves.unbind(1)]
    for group in kept.groups:
        compiled(move_rows, group, batch.rule, [[of_update[i] for i in group.places] for of_update in each])
    weights = [batch.weights[place] for place in kept.vectors]
    put_back(weights, list(kept.vectors.values()), weights)


def with_columns(scalars: Scalars, rows: int) -> Scalars:
    """The factors as columns, [R, 1], from which the compiler makes one loop over moments and norms: of one number
    for all rows it makes two."""
    factor = [torch.ones_like(scalars.eps[0])] * len(scalars.eps) if scalars.factor is None else scalars.factor
    return scalars._replace(factor=[z.expand(rows, 1).contiguous() for z in factor])


def over_rows(stacks: list[list[Tensor]], scalars: Scalars, rule: Rule) -> list[list[Tensor]]:
    """foreach.advance of a group. Returns, of each tensor, norms of rows, [R]: of weights and of each update."""
    x, g, m, v = stacks
    updates = foreach.advance(x, g, m, v, scalars, rule)
    return [[norm_of_rows(z.to(m[0].dtype), rule.norm) for z in each] for each in zip(x, *updates, strict=True)]


def move_rows(stacks: list[list[Tensor]], scalars: Scalars, rule: Rule, moves: list[list[Tensor]]) -> None:
    """Writes a group's weights."""
    x, g, m, v = stacks
    updates = foreach.updates_of(x, foreach.descended(g, m[0].dtype, scalars), m, v, scalars, rule)
    new: foreach.Tensors = [z.to(m[0].dtype) for z in x]
    for move, update in zip(moves, updates, strict=True):
        new = torch._foreach_sub(new, torch._foreach_mul(update, move))
    torch._foreach_copy_(x, new)


def compiled(one_pass: Callable[..., Any], group: Group, rule: Rule, *more: Any) -> Any:
    """One of the two above, through the compiler."""
    kind = rule.variant, rule.norm, rule.grad_averaging, rule.weight_decay != 0, group.scalars.applied is None
    types = (stack[0].dtype for stack in group.stacks)
    function = through_compiler(one_pass, *kind, *types, len(group.places))
    return function(group.stacks, group.scalars, rule, *more)


def norm_of_rows(z: Tensor, norm: float) -> Tensor:
    """[R]. The literal norms are for the compiler, which else compiles powers for any norm."""
    if norm == 2:
        return torch.linalg.vector_norm(z, 2, dim=1)
    return torch.linalg.vector_norm(z, 1 if norm == 1 else float("inf"), dim=1)


def together(sizes: Sequence[int]) -> list[list[int]]:
    """Places of tensors of one size, TOGETHER at a time, and what is left one by one: two compilations, not more."""
    alike: dict[int, list[int]] = {}
    for place, size in enumerate(sizes):
        alike.setdefault(size, []).append(place)
    groups: list[list[int]] = []
    for same in alike.values():
        full = len(same) // TOGETHER * TOGETHER
        groups += [same[i : i + TOGETHER] for i in range(0, full, TOGETHER)] + [[place] for place in same[full:]]
    return groups


@cache
def through_compiler(function: Callable[..., Any], *kind: Any) -> Callable[..., Any]:
    """The one place where a pass is compiled; one compilation of a kind serves tensors of every size.

    Each kind is code of its own: torch compiles one piece of code eight times and then runs it as it stands.
    """
    own = FunctionType(function.__code__.replace(), function.__globals__, function.__name__)
    return torch.compile(own, dynamic=True)


def row_length(size: int) -> int:
    """Of a tensor's rows; 0 where it is too small to be worth a compiled call, or where its rows would be."""
    length = longest_row(size) if size >= SMALL else 0
    return length if length >= MIN_COMPILED_ROW else 0


@cache
def longest_row(size: int) -> int:
    """The largest divisor up to ROW that leaves two rows: the compiler would make one row another kind."""
    return next(length for length in range(min(ROW, size // 2), 0, -1) if size % length == 0)
