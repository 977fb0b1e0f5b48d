"""Norms of whole tensors where ranks hold parts of them (DTensor): one reduction for all that are spread alike."""

from collections.abc import Sequence

import torch
from torch import Tensor

from bert_lamb.optim.plain import norm_of
from bert_lamb.optim.tensors import Spread, TensorGroup


def gradient_norms(batches: Sequence[TensorGroup]) -> list[Tensor]:
    """L2 norm of each whole gradient, [n] for each group, in fp32 or wider."""
    found = []
    for batch in batches:
        dtype = torch.promote_types(batch.grads[0].dtype, torch.float32)
        if batch.device.type == "cpu" or not all(g.numel() for g in batch.grads):
            norms = torch.stack([norm_of(g, 2, dtype) for g in batch.grads])
        else:
            norms = torch.stack(torch._foreach_norm(batch.grads, 2, dtype))
        found.append(norms[:, None])
    wholes = whole_norms([(batch.spread, 2, norms) for batch, norms in zip(batches, found, strict=True)])
    return [norms[:, 0] for norms in wholes]


def whole_norms(parts: Sequence[tuple[Spread | None, float, Tensor]]) -> list[Tensor]:
    """From norms of what this rank holds, those of whole tensors. Each part: spread, kind of norm, norms [n, K]."""
    found = [norms for _, _, norms in parts]
    alike: dict[tuple[Spread, float, torch.dtype], list[int]] = {}
    for i, (spread, norm, norms) in enumerate(parts):
        if spread is not None:
            alike.setdefault((spread, norm, norms.dtype), []).append(i)
    for (spread, norm, _), places in alike.items():
        flat = [found[i].flatten() for i in places]
        reduced = _reduce(torch.cat(flat), spread, norm).split([len(part) for part in flat])
        for i, whole in zip(places, reduced, strict=True):
            found[i] = whole.view_as(found[i])
    return found


def _reduce(norms: Tensor, spread: Spread, norm: float) -> Tensor:
    """One reduction over the mesh's dimensions along which the tensors are cut."""
    from torch.distributed.tensor import DTensor, Partial, Replicate

    adds = norm != float("inf")
    mine = norms**norm if adds else norms
    placements = [Partial("sum" if adds else "max") if is_cut else Replicate() for is_cut in spread.cut]
    whole = DTensor.from_local(mine, spread.mesh, placements, run_check=False).full_tensor()
    return whole ** (1 / norm) if adds else whole
