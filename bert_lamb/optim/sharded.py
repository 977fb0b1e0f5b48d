"""Layer-wise updates where ranks hold parts of tensors (DTensor): norms are of whole tensors, by two reductions a step.

One reduction gives every gradient's norm, one every weight's and update's, however many tensors there are.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bert_lamb.optim.plain import Readings, norm_of, trust_ratio, write
from bert_lamb.optim.rule import Rule


class Part(NamedTuple):
    """What this rank holds of a tensor, and of which whole."""

    local: Tensor
    whole: Tensor  # a DTensor, or `local` itself
    norm: float  # 1, 2 or inf


class Formula(NamedTuple):
    """What an algorithm makes of one tensor before norms are known; every tensor is this rank's part."""

    moments: dict[str, Tensor]  # new ones, by their name in the state
    updates: list[tuple[float, Tensor]]  # each with its share of the learning rate
    lr: float | Tensor


def is_dtensor(t: Tensor) -> bool:
    return hasattr(t, "to_local")  # without importing torch.distributed where nothing is distributed


def local(t: Tensor) -> Tensor:
    """This rank's part; writes reach the whole."""
    return t.to_local() if is_dtensor(t) else t  # type: ignore[attr-defined]


def gradient_norms(grads: Sequence[Tensor]) -> Tensor:
    """L2 norm of each whole gradient, [n], on the first one's device."""
    return whole_norms([Part(local(g), g, 2) for g in grads])


def whole_norms(parts: Sequence[Part]) -> Tensor:
    """Norm of each whole tensor, [n], in fp32 or wider; one reduction for all that are spread alike."""
    if not parts:
        return torch.zeros(0)
    norms = [_norm(part) for part in parts]
    spread: dict[tuple, list[int]] = {}
    for i, part in enumerate(parts):
        if is_dtensor(part.whole):
            cut = tuple(not p.is_replicate() for p in part.whole.placements)  # type: ignore[attr-defined]
            spread.setdefault((part.whole.device_mesh, cut, part.norm), []).append(i)  # type: ignore[attr-defined]
    for (mesh, cut, norm), indices in spread.items():
        reduced = _reduce(torch.stack([norms[i] for i in indices]), mesh, cut, norm)
        for i, value in zip(indices, reduced.unbind(), strict=True):
            norms[i] = value
    return torch.stack([norm.to(norms[0].device) for norm in norms])


def update(
    batches: Sequence[Any], formula: Callable[..., Formula], scale: Tensor, finite: Tensor,
) -> list[Readings]:  # fmt: skip
    """Updates all batches (layerwise.Batch) in place by a formula (Layerwise.formula); nothing where not finite."""
    parts: list[Part] = []
    rows: list[tuple[Tensor, Rule, Tensor, Formula]] = []
    for batch in batches:
        rule = Rule.of(batch.group)
        columns = zip(batch.params, batch.grads, batch.states, batch.grad_norms, strict=True)
        for p, grad, state, g_norm in columns:
            wide = state["exp_avg"].dtype
            x, g = local(p), local(grad).to(wide) * scale.to(p.device, wide)
            g_norm = g_norm.to(p.device, wide) * scale.to(p.device, wide)
            own = {name: local(value) for name, value in state.items()}
            made = formula(batch.group, x.to(wide), g, g_norm, own)
            here = finite.to(p.device)
            write(here, (state["step"], state["step"] + 1), *((own[name], new) for name, new in made.moments.items()))
            parts += [Part(x.to(wide), p, rule.norm), *(Part(u, p, rule.norm) for _, u in made.updates)]
            rows.append((x, rule, here, made))
    norms, readings = iter(whole_norms(parts).unbind()), []
    for x, rule, here, made in rows:
        x_norm = next(norms).to(x.device)
        u_norms = [next(norms).to(x.device) for _ in made.updates]
        ratios = [trust_ratio(x_norm, u_norm, rule) for u_norm in u_norms]
        new = x.to(made.updates[0][1].dtype)
        for (share, u), ratio in zip(made.updates, ratios, strict=True):
            new = new - made.lr * share * ratio * u
        write(here, (x, new))
        readings.append((ratios[0], x_norm, u_norms[0]))
    taken = iter(readings)
    return [
        Readings(*(torch.stack(column) for column in zip(*(next(taken) for _ in batch.params), strict=True)))
        for batch in batches
    ]


def _norm(part: Part) -> Tensor:
    return norm_of(part.local, part.norm, torch.promote_types(part.local.dtype, torch.float32))


def _reduce(norms: Tensor, mesh: Any, cut: tuple[bool, ...], norm: float) -> Tensor:
    """Norms of wholes from those of parts: one reduction over the mesh's dimensions along which tensors are cut."""
    from torch.distributed.tensor import DTensor, Partial, Replicate

    finite_power = norm != float("inf")
    mine = norms.double() ** norm if finite_power else norms
    placements = [Partial("sum" if finite_power else "max") if is_cut else Replicate() for is_cut in cut]
    whole = DTensor.from_local(mine, mesh, placements, run_check=False).full_tensor()
    return (whole ** (1 / norm) if finite_power else whole).to(norms.dtype)
