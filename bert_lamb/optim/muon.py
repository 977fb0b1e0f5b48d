"""Muon for the hidden matrices, AdamW for everything else, as one optimizer.

Both are others' formulas: torch.optim.Muon orthogonalises the momentum of a matrix (Jordan 2024), and Lamb's preset
"adamw" moves embeddings, biases, norms and heads. One learning rate serves both, since Muon's update is scaled to the
root mean square of AdamW's (0.2 sqrt(max(rows, columns)), arXiv 2502.16982, section 2.2).
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from bert_lamb.optim import refusals
from bert_lamb.optim.lamb import Lamb
from bert_lamb.optim.layerwise import loss_of
from bert_lamb.optim.rule import PRESETS, Preset

# beta1 is Muon's momentum (the default of its author and of torch); everything else is AdamW's, whose beta1 is its own.
MUON = Preset(
    replace(PRESETS["adamw"].rule, betas=(0.95, PRESETS["adamw"].rule.betas[1])),
    None,
    "torch.optim.Muon, learning rates matched as in arXiv 2502.16982; AdamW as google-research/bert",
)
HIDDEN = ".encoder.layer."  # part of the names of BERT's hidden parameters
BUFFER = "momentum_buffer"  # what torch.optim.Muon keeps of a matrix, and all that it keeps


def is_hidden_matrix(name: str, shape: Sequence[int]) -> bool:
    """Whether a parameter of a BERT is moved by Muon: a matrix of its encoder's layers."""
    return HIDDEN in f".{name}" and len(shape) == 2


def hidden_matrices(model: nn.Module) -> set[Tensor]:
    """The parameters of a BERT that Muon moves."""
    return {p for name, p in model.named_parameters() if is_hidden_matrix(name, p.shape)}


class MuonAdamW(torch.optim.Optimizer):
    """torch.optim.Muon and AdamW behind one `step`.

    Args:
        groups: parameter groups with their own `weight_decay`, as `decay_groups` makes them.
        matrices: those of the parameters that Muon moves, of two dimensions each; AdamW moves the others.
        lr: learning rate of both, a number or a tensor of one.
        momentum: of Muon, per step.
        betas, eps, weight_decay, bias_correction, grad_averaging: of AdamW, as in `Lamb`; the decay is for both.
        max_grad_norm: scales `p.grad`, in place, so that their L2 norm over all groups is at most this; None: does not.

    After a step: `grad_norm` (before clipping) and `step_was_finite`, 0-dim each. A step whose gradients are not finite
    changes nothing. State of a matrix: momentum_buffer; of other tensors as in `Lamb`. ValueError: a matrix of other
    than two dimensions, and values that `Lamb` or torch.optim.Muon refuse.
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], matrices: Collection[Tensor], lr: float | Tensor = 1e-3, *,
        momentum: float = MUON.rule.betas[0], betas: tuple[float, float] = PRESETS["adamw"].rule.betas,
        weight_decay: float = PRESETS["adamw"].rule.weight_decay, max_grad_norm: float | None = None, **adamw: Any,
    ) -> None:  # fmt: skip
        refusals.refuse_clip(max_grad_norm)
        refusals.refuse_momentum(momentum)
        self.max_grad_norm = max_grad_norm
        self.grad_norm: Tensor | None = None
        self.step_was_finite: Tensor | None = None
        self.trust_ratios: dict[Tensor, Tensor] = {}  # neither formula has one
        of_muon, of_adamw = _parted(list(groups), set(matrices))
        if not of_muon or not of_adamw:
            raise ValueError(
                "Muon needs hidden matrices, and AdamW other parameters beside them; one of both is missing"
            )
        muon = dict(weight_decay=weight_decay, momentum=momentum, adjust_lr_fn="match_rms_adamw")
        self._muon = torch.optim.Muon(of_muon, lr=lr, **muon)  # type: ignore[arg-type]
        self._adamw = Lamb(
            of_adamw, lr=lr, preset="adamw", betas=betas, weight_decay=weight_decay, max_grad_norm=None, **adamw
        )
        super().__init__([*self._muon.param_groups, *self._adamw.param_groups], {})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of all parameters; none where a gradient is not finite."""
        loss = loss_of(closure)
        params = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        self.grad_norm = nn.utils.get_total_norm([p.grad for p in params if p.grad is not None])
        self.step_was_finite = torch.isfinite(self.grad_norm)
        if not self.step_was_finite:  # on a GPU the host waits here; so does a loop that looks
            return loss
        if self.max_grad_norm is not None:
            nn.utils.clip_grads_with_norm_(params, self.max_grad_norm, self.grad_norm)
        for part, groups in ((self._muon, self._of_muon()), (self._adamw, self.param_groups[len(self._of_muon()) :])):
            part.param_groups, part.state = groups, self.state  # anew, since loading replaces both
            part.step()
        return loss

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refused after the beginning: a group belongs to Muon or to AdamW."""
        if len(self.param_groups) == len(self._muon.param_groups) + len(self._adamw.param_groups):
            raise ValueError("MuonAdamW takes its parameter groups when it is made: make a new one with all of them")
        super().add_param_group(param_group)

    def _of_muon(self) -> list[dict[str, Any]]:
        return self.param_groups[: len(self._muon.param_groups)]

    def __getstate__(self) -> dict[str, Any]:
        """For copies: torch's knows nothing of what this class added."""
        return {**super().__getstate__(), **{key: vars(self)[key] for key in ADDED}}


ADDED = ("max_grad_norm", "grad_norm", "step_was_finite", "trust_ratios", "_muon", "_adamw")


def _parted(groups: list[dict[str, Any]], matrices: set[Tensor]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The groups with matrices only, and without any; what only trust ratios need is left out."""
    parts: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    for group in groups:
        params = list(group["params"])
        for part, wanted in zip(parts, (True, False), strict=True):
            places = [i for i, p in enumerate(params) if (p in matrices) == wanted]
            if places:
                own = {key: value for key, value in group.items() if key not in ("params", "param_names", "adapt")}
                names = {"param_names": [group["param_names"][i] for i in places]} if "param_names" in group else {}
                part.append({**own, "params": [params[i] for i in places], **names})
    return parts
