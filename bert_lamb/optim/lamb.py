"""LAMB (arXiv 1904.00962) as a torch optimizer. The mathematics: plain.py; the switches and presets: rule.py."""

import importlib.util
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor

from bert_lamb.optim import plain, rows
from bert_lamb.optim.layerwise import Batch, Layerwise, lr_of
from bert_lamb.optim.plain import Readings
from bert_lamb.optim.rule import PRESETS, Rule
from bert_lamb.optim.sharded import Formula, is_dtensor

Path = Callable[..., Readings]  # with the signature of plain.update


class Switches(TypedDict, total=False):
    """What may differ from the preset; rule.Rule says what each is. All but max_grad_norm may differ by group."""

    betas: tuple[float, float]
    eps: float
    weight_decay: float
    bias_correction: str
    grad_averaging: bool
    adapt: bool | str
    norm: float
    phi_bounds: tuple[float, float] | None
    ratio_bounds: tuple[float, float] | None
    variant: str
    maximize: bool
    max_grad_norm: float | None  # scales gradients so that their L2 norm over all groups is at most this


class Lamb(Layerwise):
    """Layer-wise adaptive moments for batch training.

    Args:
        params: tensors, or groups with their own `lr`, `weight_decay`, `adapt` and so on (see `decay_groups`).
        lr: learning rate, a number or a tensor of one.
        preset: a name of PRESETS; "paper" is Algorithm 2 with bias correction.
        fused: as torch's optimizers name it: two passes over memory for all tensors, kernels of Triton on CUDA, of
            torch.compile on a CPU, where the first step takes seconds. False: the plain definition. None: fused on a
            CPU where it fits (a C++ compiler and a group of 4 M parameters), else plain. Both give the same update, to
            rounding. Triton's kernels have run in its interpreter only so far, so on CUDA they are taken where
            fused=True asks for them.
        foreach: False or None, taken because torch's optimizers take it: there is no path of torch._foreach calls,
            and True is refused. As in torch, False without fused=True is the plain definition.
        capturable: taken because torch's optimizers take it; every path can be captured in a CUDA graph as it is
            (give `lr` as a tensor where it changes).
        switches: what differs from the preset: betas, eps, weight_decay, bias_correction, grad_averaging, adapt, norm,
            phi_bounds, ratio_bounds, variant, maximize (see `Rule`), and max_grad_norm.

    After a step: `grad_norm`, `step_was_finite`, `steps_not_finite`, `trust_ratios`, `readings`, all on the device.

    `p.grad` is never changed. Moments are fp32, or the parameter's type where that is wider. A step whose gradient is
    not finite changes nothing and is counted. State keys are those of torch's AdamW: step, exp_avg, exp_avg_sq.
    """

    MOMENTS = ("exp_avg", "exp_avg_sq")

    def __init__(
        self, params: Iterable, lr: float | Tensor = 1e-3, preset: str = "paper", *, foreach: bool | None = None,
        fused: bool | None = None, capturable: bool = False, **switches: Unpack[Switches],
    ) -> None:  # fmt: skip
        if preset not in PRESETS:
            raise ValueError(f"preset={preset!r}: choose one of {', '.join(PRESETS)}")
        chosen = PRESETS[preset]
        unknown = switches.keys() - Switches.__annotations__.keys()
        if unknown:
            raise TypeError(f"Lamb has no setting {min(unknown)!r}; there are {', '.join(Switches.__annotations__)}")
        defaults = {"lr": lr, **asdict(chosen.rule), **switches}
        max_grad_norm = defaults.pop("max_grad_norm", chosen.max_grad_norm)
        super().__init__(
            params, defaults | {"foreach": foreach, "fused": fused, "capturable": capturable}, max_grad_norm
        )

    def check(self, group: dict[str, Any]) -> None:
        super().check(group)
        if group["foreach"]:
            raise ValueError(
                "foreach=True: Lamb has no path of torch._foreach calls; fused=True has two passes for all tensors, "
                "and with both at None the fastest that fits is taken"
            )

    def update(self, batches: list[Batch], scale: Tensor, finite: Tensor) -> list[Readings]:
        parted = [batch for batch in batches if is_dtensor(batch.params[0])]
        of_parts = iter(super().update(parted, scale, finite))
        return [
            next(of_parts) if is_dtensor(batch.params[0]) else self._whole(batch, scale, finite) for batch in batches
        ]

    def _whole(self, batch: Batch, scale: Tensor, finite: Tensor) -> Readings:
        device = batch.params[0].device
        return choose_path(batch)(
            batch.params, batch.grads, batch.state("exp_avg"), batch.state("exp_avg_sq"), batch.state("step"),
            lr_of(batch.group), Rule.of(batch.group), scale.to(device), finite.to(device),
        )  # fmt: skip

    def formula(
        self, group: dict[str, Any], x: Tensor, g: Tensor, g_norm: Tensor, state: dict[str, Tensor]
    ) -> Formula:  # fmt: skip
        """For tensors of which a rank holds a part; from the same lines as the plain path."""
        rule, t = Rule.of(group), state["step"] + 1
        if rule.variant == "lans":
            g = plain.over_norm(g, g_norm)
        m, v, updates = plain.directions(x, g, state["exp_avg"], state["exp_avg_sq"], t, rule)
        return Formula({"exp_avg": m, "exp_avg_sq": v}, updates, plain.corrected_lr(lr_of(group), t, rule))


def choose_path(batch: Batch) -> Path:
    """The one place where the arithmetic is chosen; `foreach` and `fused` of the group as torch means them."""
    fused, kind = batch.group["fused"], batch.params[0].device.type
    if fused is None and batch.group["foreach"] is None and not torch.compiler.is_compiling():
        sizes = [p.numel() for p in batch.params]
        if kind == "cpu" and len(sizes) >= rows.MANY and max(sizes) < rows.SMALL:
            return rows.update  # compiles nothing of these
        large = sum(sizes) >= rows.WORTH_COMPILING
        fused = kind == "cpu" and large and rows.has_compiler()  # on CUDA once a GPU has run the kernels
    if not fused:
        return plain.update
    if kind == "cuda" or interpreted():
        from bert_lamb.optim import fused as triton_path  # triton comes with torch's CUDA builds only

        return triton_path.update
    if kind != "cpu" or not rows.has_compiler():
        raise RuntimeError(f"fused=True on {kind}: needs CUDA, or a CPU and a C++ compiler; leave it at None")
    return rows.update


def has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def interpreted() -> bool:
    """Whether Triton's kernels run on CPU tensors: how they are tested without a GPU."""
    return os.environ.get("TRITON_INTERPRET") == "1" and has_triton()
