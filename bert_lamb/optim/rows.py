"""LAMB on a CPU with a C++ compiler: `foreach.advance`, compiled over the rows of large tensors into one loop.

The loop reads weights, gradient and moments, writes moments and updates and makes the norms of rows; a second one adds
the updates. Tensors too small to be worth it go as in foreach.py. A row's norm is the work of one thread, so the result
does not depend on how many there are.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from functools import cache
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from bert_lamb.optim import foreach
from bert_lamb.optim.foreach import Kept, Scalars, advance, scalars_of
from bert_lamb.optim.plain import ROW, Numbers, norm_of
from bert_lamb.optim.rule import Rule
from bert_lamb.optim.tensors import TensorGroup, flattened, put_back

SMALL = 1 << 16  # numbers: below, a compiled call costs more than it saves
MIN_COMPILED_ROW = 16  # numbers; one vector of the widest CPUs
TOGETHER = 4  # large tensors of one size in a call: calls are a tenth of a step, and compiling takes longer with more
WORTH_COMPILING = 1 << 22  # numbers in a parameter group: below, a compilation would take long to repay


def first_pass(batch: TensorGroup, numbers: Numbers, finite: Tensor) -> tuple[Tensor, Kept]:
    """plain.first_pass; its first call takes seconds, where torch.compile makes the kernel."""
    lengths = [row_length(x.numel()) for x in batch.weights]
    norms: dict[int, Tensor] = {}  # by place in the batch: of weights and of each update
    kept: Kept = []
    for over, compiled in ((foreach.first_pass, False), (_first_pass, True)):
        places = [place for place, length in enumerate(lengths) if bool(length) == compiled]
        if places:
            found, made = over(batch.some(places), Numbers(*(z[places] for z in numbers)), finite)
            norms |= dict(zip(places, found.unbind(), strict=True))
            kept += [([(places[i], *span) for i, *span in block], updates) for block, updates in made]  # type: ignore[misc]
    return torch.stack([norms[place] for place in range(len(lengths))]), kept


second_pass = foreach.second_pass


def _first_pass(batch: TensorGroup, numbers: Numbers, finite: Tensor) -> tuple[Tensor, Kept]:
    """Of tensors that all have a row length."""
    given = (batch.weights, batch.grads, batch.state("exp_avg"), batch.state("exp_avg_sq"))
    columns = flattened(*given)
    scalars = scalars_of(numbers, finite, batch.rule)
    table = torch.stack([torch.stack([z] * len(columns[0]) if isinstance(z, Tensor) else list(z)) for z in scalars[1:]], dim=1)
    found: list[Tensor] = [table] * len(columns[0])
    kept: Kept = []
    for places in together([len(vector) for vector in columns[0]]):
        length = row_length(len(columns[0][places[0]]))
        stacks = [[column[place].view(-1, length) for place in places] for column in columns]
        # a column instead of one number, from which the compiler makes one loop over moments and norms
        applied = scalars.applied.expand(len(stacks[0][0]), 1).contiguous()
        types = [column[0].dtype for column in stacks]
        kind = batch.rule.variant, batch.rule.norm, batch.rule.grad_averaging, batch.rule.bias_correction
        function = through_compiler(over_rows, *kind, batch.rule.weight_decay != 0, *types, len(places))
        directions, norms = function(stacks, applied, table[places], batch.rule)
        kept.append(
            ([(place, 0, len(columns[0][place])) for place in places], [[u.view(-1) for u in us] for us in directions])
        )
        for place, of_rows in zip(places, norms, strict=True):
            found[place] = torch.stack([norm_of(z, batch.rule.norm) for z in of_rows])
    for moments, dense in zip(given[2:], columns[2:], strict=True):
        put_back(moments, dense, batch.weights)
    return torch.stack(found), kept


def over_rows(
    stacks: list[list[Tensor]], applied: Tensor, table: Tensor, rule: Rule
) -> tuple[list[list[Tensor]], list[list[Tensor]]]:  # fmt: skip
    """foreach.advance of tensors of one size, [R, L] each. Returns their updates and, of each, the norms of rows, [R].

    applied: [R, 1]; table: the other scalars, [T, K].
    """
    # unbind knows that a tensor's numbers are one row; of chunk, torch 2.13 compiles reads beyond them
    numbers = [own.view(-1, 1, 1).unbind() for own in table.unbind()]
    x, g, m, v = stacks
    scalars = Scalars([applied] * len(x), *([own[k] for own in numbers] for k in range(table.shape[1])))
    directions = advance(x, g, m, v, scalars, rule)
    each = zip(x, *directions, strict=True)
    return directions, [[norm_of_rows(z.to(m[0].dtype), rule.norm) for z in tensors] for tensors in each]


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


@cache
def row_length(size: int) -> int:
    """The largest divisor up to ROW; 0 where a tensor is too small to be worth a compiled call, or has no long rows."""
    if size < SMALL:
        return 0
    length = next(length for length in range(min(ROW, size // 2), 0, -1) if size % length == 0)
    return length if length >= MIN_COMPILED_ROW else 0


@cache
def has_compiler() -> bool:
    """Whether a C++ compiler is at hand."""
    return any(shutil.which(name) for name in (os.environ.get("CXX") or "g++", "g++", "clang++"))
