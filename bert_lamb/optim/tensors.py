"""The tensors of a step: whole ones, or this rank's parts of DTensors, in groups that one call can serve."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bert_lamb.optim.rule import Rule


class Spread(NamedTuple):
    """How DTensors lie over ranks: the mesh, and along which of its dimensions they are cut."""

    mesh: Any
    cut: tuple[bool, ...]

    @property
    def ranks(self) -> int:
        """How many ranks share one tensor's numbers."""
        sizes = [self.mesh.size(dim) for dim, is_cut in enumerate(self.cut) if is_cut]
        return int(torch.Size(sizes).numel())


@dataclass
class TensorGroup:
    """Tensors of one parameter group that have gradients, alike in device, types and spread.

    `params` are as the user gave them; all other lists hold what this rank has of them.
    """

    settings: dict[str, Any]  # the optimizer's parameter group
    rule: Rule
    spread: Spread | None  # None: whole tensors
    params: list[Tensor] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)
    grads: list[Tensor] = field(default_factory=list)
    states: list[dict[str, Tensor]] = field(default_factory=list)
    grad_norms: Tensor = field(default_factory=lambda: torch.zeros(0))  # [n] L2, of whole gradients, as they came

    def state(self, name: str) -> list[Tensor]:
        return [state[name] for state in self.states]

    @property
    def wide(self) -> torch.dtype:
        """Of moments and of all arithmetic."""
        return self.states[0]["exp_avg"].dtype

    @property
    def device(self) -> torch.device:
        return self.weights[0].device

    @property
    def lr(self) -> float | Tensor:
        """A number or 0-dim, whatever the shape of a tensor of one number."""
        lr = self.settings["lr"]
        return lr.squeeze() if isinstance(lr, Tensor) else lr

    def sizes(self) -> list[int]:
        """Numbers of each tensor that a rank has at most: the same on all ranks, however uneven the parts are."""
        ranks = self.spread.ranks if self.spread else 1
        return [-(-p.numel() // ranks) for p in self.params]

    def some(self, places: Sequence[int]) -> "TensorGroup":
        """The tensors at these places."""
        return replace(
            self, params=[self.params[i] for i in places], weights=[self.weights[i] for i in places],
            grads=[self.grads[i] for i in places], states=[self.states[i] for i in places],
            grad_norms=torch.stack([self.grad_norms[i] for i in places]),
        )  # fmt: skip

    def split(self, most: int) -> "Iterator[TensorGroup]":
        """In their order, in groups of at most so many numbers, or of one tensor that has more."""
        first, used = 0, 0
        for place, size in enumerate(self.sizes()):
            if place > first and used + size > most:
                yield self.some(range(first, place))
                first, used = place, 0
            used += size
        yield self if first == 0 else self.some(range(first, len(self.params)))


def is_dtensor(t: Tensor) -> bool:
    return hasattr(t, "to_local")  # without importing torch.distributed where nothing is distributed


def local(t: Tensor) -> Tensor:
    """This rank's part; writes reach the whole."""
    return (t.to_local() if is_dtensor(t) else t).detach()  # type: ignore[attr-defined]


def spread_of(t: Tensor) -> Spread | None:
    if not is_dtensor(t):
        return None
    return Spread(t.device_mesh, tuple(not p.is_replicate() for p in t.placements))  # type: ignore[attr-defined]


def flattened(*columns: Sequence[Tensor]) -> list[list[Tensor]]:
    """Each tensor as a vector; the vectors at one place hold their numbers in one order.

    columns: lists of tensors, those at one place of one shape. A vector shares its tensor's memory where that is dense
    in the order of the first column's tensor, and is a copy elsewhere: see `put_back`.
    """
    found: list[list[Tensor]] = [[] for _ in columns]
    for tensors in zip(*columns, strict=True):
        if not all(t.is_contiguous() for t in tensors):
            strides = tensors[0].stride()
            order = sorted(range(len(strides)), key=lambda d: -strides[d])
            tensors = tuple(t.permute(order) for t in tensors)
        for vectors, t in zip(found, tensors, strict=True):
            vectors.append(t.reshape(-1))
    return found


def put_back(tensors: Sequence[Tensor], vectors: Sequence[Tensor], order_of: Sequence[Tensor]) -> None:
    """Writes vectors that `flattened` had to copy to their tensors. order_of: the first column that it was given."""
    for t, vector, first in zip(tensors, vectors, order_of, strict=True):
        if vector.numel() and vector.data_ptr() != t.data_ptr():
            strides = first.stride()
            order = sorted(range(len(strides)), key=lambda d: -strides[d])
            view = t.permute(order)
            view.copy_(vector.view(view.shape))
