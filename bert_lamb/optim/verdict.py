"""Steps that are not finite: told once, or raised where that was asked for."""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bert_lamb.optim.refusals import parameter_name
from bert_lamb.optim.tensors import TensorGroup

NAMED = 3  # parameters that a message names


class NonFiniteGradientError(RuntimeError):
    """The optimizer was told to raise where a gradient is not finite."""

    for_people = True


class Verdict:
    """Looks whether a step is finite without making the host wait for the device.

    On a CPU the verdict is read at once. Elsewhere it is copied in the background and read by a later step; with
    `error_if_nonfinite` the host waits for it, as it must.
    """

    def __init__(self, error_if_nonfinite: bool) -> None:
        self.error_if_nonfinite = error_if_nonfinite
        self._told = False
        self._waiting: tuple[Tensor, Any] | None = (
            None  # a verdict on its way to the host, and the event of its arrival
        )

    def __getstate__(self) -> dict[str, Any]:
        return {"error_if_nonfinite": self.error_if_nonfinite, "_told": self._told, "_waiting": None}

    def look(self, optimizer: torch.optim.Optimizer, batches: Sequence[TensorGroup], finite: Tensor) -> None:
        """Before anything is written. Raises NonFiniteGradientError where that was asked for."""
        if torch.compiler.is_compiling() or (self._told and not self.error_if_nonfinite):
            return
        if finite.device.type == "cpu" or self.error_if_nonfinite:
            if not finite:
                self._tell(f"The gradient of this step is not finite{_where(optimizer, batches)}")
        elif not torch.cuda.is_available() or not torch.cuda.is_current_stream_capturing():
            if self._waiting is not None and self._waiting[1].query() and not self._waiting[0]:
                self._tell("The gradient of an earlier step was not finite")
            if self._waiting is None or self._waiting[1].query():
                event = torch.Event(finite.device)
                self._waiting = finite.to("cpu", non_blocking=True), event
                event.record()

    def _tell(self, what: str) -> None:
        if self.error_if_nonfinite:
            raise NonFiniteGradientError(
                f"{what}. Nothing was changed: weights and moments are as before the step (error_if_nonfinite=False "
                "would go on and count such steps)"
            )
        self._told = True
        warnings.warn(
            f"{what}. The step changed nothing and was counted in steps_not_finite; so will further ones be, without a "
            "warning. error_if_nonfinite=True raises instead",
            stacklevel=5,
        )


def _where(optimizer: torch.optim.Optimizer, batches: Sequence[TensorGroup]) -> str:
    """The parameters whose gradients are not finite; reads the device."""
    bad = {
        p for batch in batches for p, norm in zip(batch.params, batch.grad_norms.tolist(), strict=True)
        if norm != norm or norm == float("inf")
    }  # fmt: skip
    names = [
        parameter_name(group, i) for group in optimizer.param_groups for i, p in enumerate(group["params"]) if p in bad
    ]
    if not names:
        return " (all gradients together; or the loss scaler found it so)"
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f" (parameter {', '.join(names[:NAMED])}{more})"
