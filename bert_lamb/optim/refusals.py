"""What the layer-wise optimizers refuse, with the parameter's name and the way out."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

FLAT_MARKS = {  # attributes of a parameter, and what sets them
    "_is_flat_param": "FSDP1 (torch's FullyShardedDataParallel, fairscale's)",
    "_fsdp_flattened": "FSDP1 (torch's FullyShardedDataParallel) with use_orig_params",
    "ds_id": "DeepSpeed's ZeRO stage 3",
}
# Keys of a group that the optimizer does not read itself: schedulers keep their own there, people label groups.
OF_OTHERS = {
    "params", "param_names", "name", "initial_lr", "max_lr", "min_lr", "max_momentum", "base_momentum", "swa_lr",
    "lr_scale",
}  # fmt: skip


class FlatPartitionError(ValueError):
    """The optimizer was given parts of tensors that it cannot tell from whole ones."""

    for_people = True


def parameter_name(group: dict[str, Any], index: int) -> str:
    """As the message should call a group's parameter: its name, or its place and shape."""
    names = group.get("param_names") or []
    if index < len(names):
        return str(names[index])
    return f"number {index} of its group, of shape {tuple(group['params'][index].shape)}"


def refuse_unknown_keys(group: dict[str, Any], known: Iterable[str], optimizer: str) -> None:
    """Raises ValueError for a key that would silently do nothing."""
    unknown = sorted(str(key) for key in set(group) - set(known) - OF_OTHERS)
    if "preset" in unknown:
        raise ValueError(
            f"preset={group['preset']!r} in a parameter group: a preset is the whole optimizer's, {optimizer}(..., "
            "preset=...); in a group set the switches that differ from it, for example variant or bias_correction"
        )
    if unknown:
        raise ValueError(
            f"{optimizer} has no setting {unknown[0]!r} for a parameter group; there are {', '.join(sorted(known))}"
        )


def refuse_flat_partitions(group: dict[str, Any], shapes: Sequence[torch.Size], optimizer: str) -> None:
    """Raises FlatPartitionError where a parameter is part of a tensor, or of several, flattened into a vector.

    shapes: of the tensors that the group was made with. DeepSpeed (stages 1 to 3) and others put their vectors in the
    place of these later, without a mark.
    """
    for index, p in enumerate(group["params"]):
        marks = [mark for mark in FLAT_MARKS if getattr(p, mark, None) is not None and getattr(p, mark) is not False]
        if not marks and (p.dim() != 1 or p.shape in shapes):
            continue
        what = (
            f"is flattened by {FLAT_MARKS[marks[0]]}"
            if marks
            else f"is a vector of {p.numel():,} numbers that the optimizer was not made with: a flat partition, as "
            "DeepSpeed's ZeRO stages 1 to 3 put in the place of the tensors"
        )
        raise FlatPartitionError(
            f"parameter {parameter_name(group, index)} {what}. {optimizer}'s trust ratio needs the norm of each whole "
            "tensor, which a flat partition hides, so the update would be another one on every number of ranks. Use "
            "torch's fully_shard (FSDP2), DistributedDataParallel or DeepSpeed's stage 0; a vector that is a parameter "
            "of its own goes in by add_param_group"
        )


def refuse_gradient(group: dict[str, Any], index: int, optimizer: str) -> None:
    """Raises ValueError for a gradient whose norm we cannot take."""
    p = group["params"][index]
    if p.grad.is_sparse or torch.is_complex(p):
        what = "sparse" if p.grad.is_sparse else "complex"
        raise ValueError(
            f"parameter {parameter_name(group, index)} has a {what} gradient: {optimizer} takes dense, real gradients, "
            "since trust ratios need norms of whole tensors"
        )


def refuse_moment(name: str, key: str, saved: Any, p: Tensor) -> None:
    """Raises ValueError for a moment that is another tensor's."""
    if isinstance(saved, Tensor) and saved.shape != p.shape:
        raise ValueError(
            f"the state to be loaded has {key} of shape {tuple(saved.shape)} for parameter {name}, whose shape is "
            f"{tuple(p.shape)}: it was saved by another model, or with parameters in another order"
        )


def refuse_clip(limit: float | None) -> None:
    """ValueError for a max_grad_norm that scales to nothing."""
    if limit is not None and not limit > 0:
        raise ValueError(f"max_grad_norm={limit}: must be above 0, or None for no clipping")


def refuse_momentum(momentum: float) -> None:
    """ValueError for a momentum that never forgets, or is none."""
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum={momentum}: from 0 to below 1 is expected")
