"""LAMB (arXiv 1904.00962) as a torch optimizer. The mathematics: plain.py; the switches and presets: rule.py."""

import importlib.util
import os
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor

from bert_lamb.optim import foreach as foreach_path
from bert_lamb.optim import plain, rows
from bert_lamb.optim.layerwise import Layerwise
from bert_lamb.optim.rule import PRESETS
from bert_lamb.optim.tensors import TensorGroup
from bert_lamb.optim.update import UpdatePath

PLAIN = UpdatePath(plain.first_pass, plain.second_pass)
FOREACH = UpdatePath(foreach_path.first_pass, foreach_path.second_pass)
COMPILED = UpdatePath(rows.first_pass, rows.second_pass, keeps_updates=False)


class Switches(TypedDict, total=False):
    """What may differ from the preset; rule.Rule says what each is. All may differ by group, except max_grad_norm."""

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
        fused: as torch's optimizers name it: kernels of Triton on CUDA, a loop compiled by torch.compile on a CPU,
            where the first step takes seconds. None: on a CPU where it fits (a C++ compiler and a group of 4 M
            parameters). Triton's kernels have run in its interpreter only so far, so on CUDA they are taken where
            fused=True asks for them.
        foreach: `torch._foreach_*` calls over lists of tensors, as in torch's optimizers. None: wherever nothing fused
            serves. False, without fused=True: the plain definition, tensor by tensor. All give the same update, to
            rounding.
        capturable: taken because torch's optimizers take it; every path can be captured in a CUDA graph as it is
            (give `lr` as a tensor where it changes).
        error_if_nonfinite: raise NonFiniteGradientError, before anything is written, where a gradient is not finite;
            the host then waits for the device at each step. Else the first such step warns.
        switches: what differs from the preset: betas, eps, weight_decay, bias_correction, grad_averaging, adapt, norm,
            phi_bounds, ratio_bounds, variant, maximize (see `Rule`), and max_grad_norm.

    After a step: `grad_norm`, `step_was_finite`, `steps_not_finite`, `trust_ratios`, `readings`, all on the device.

    `p.grad` is never changed. Moments are fp32, or the parameter's type where that is wider. A step whose gradient is
    not finite changes nothing and is counted. State keys are those of torch's AdamW: step, exp_avg, exp_avg_sq.
    """

    MOMENTS = ("exp_avg", "exp_avg_sq")

    def __init__(
        self, params: Iterable, lr: float | Tensor = 1e-3, preset: str = "paper", *, foreach: bool | None = None,
        fused: bool | None = None, capturable: bool = False, error_if_nonfinite: bool = False,
        **switches: Unpack[Switches],
    ) -> None:  # fmt: skip
        if preset not in PRESETS:
            raise ValueError(f"preset={preset!r}: choose one of {', '.join(PRESETS)}")
        chosen = PRESETS[preset]
        unknown = switches.keys() - Switches.__annotations__.keys()
        if unknown:
            raise TypeError(f"Lamb has no setting {min(unknown)!r}; there are {', '.join(Switches.__annotations__)}")
        defaults = {
            "lr": lr, **asdict(chosen.rule), "max_grad_norm": chosen.max_grad_norm, **switches,
            "foreach": foreach, "fused": fused, "capturable": capturable,
        }  # fmt: skip
        super().__init__(params, defaults, error_if_nonfinite)

    def check(self, group: dict[str, Any]) -> None:
        super().check(group)
        if group["foreach"] and group["fused"]:
            raise ValueError("foreach=True with fused=True: they are two ways to do one update; choose one")

    def path(self, batch: TensorGroup) -> UpdatePath:
        return choose_path(batch)


def choose_path(batch: TensorGroup) -> UpdatePath:
    """The one place where the arithmetic is chosen; `foreach` and `fused` of the group as torch means them."""
    fused, calls, kind = batch.settings["fused"], batch.settings["foreach"], batch.device.type
    if torch.compiler.is_compiling() and not fused:
        return PLAIN
    if fused is None and calls is None:
        large = sum(x.numel() for x in batch.weights) >= rows.WORTH_COMPILING
        fused = kind == "cpu" and large and rows.has_compiler()  # on CUDA once a GPU has run the kernels
    if not fused:
        return PLAIN if calls is False else FOREACH
    if kind == "cuda" or interpreted():
        from bert_lamb.optim import fused as triton_path  # triton comes with torch's CUDA builds only

        return UpdatePath(triton_path.first_pass, triton_path.second_pass, keeps_updates=False)
    if kind != "cpu" or not rows.has_compiler():
        raise RuntimeError(f"fused=True on {kind}: needs CUDA, or a CPU and a C++ compiler; leave it at None")
    return COMPILED


def has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def interpreted() -> bool:
    """Whether Triton's kernels run on CPU tensors: how they are tested without a GPU."""
    return os.environ.get("TRITON_INTERPRET") == "1" and has_triton()
