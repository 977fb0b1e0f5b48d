"""LAMB (Algorithm 2, arXiv 1904.00962), plain: this file is the definition that every faster path must equal.

For each parameter tensor x with gradient g, at its own step t:

    m = beta1 m + (1 - beta1) g
    v = beta2 v + (1 - beta2) g^2
    r = m' / (sqrt(v') + eps)          m' = m / (1 - beta1^t), v' = v / (1 - beta2^t) with bias correction, else m, v
    u = r + weight_decay x
    x = x - lr * ratio * u             ratio = |x| / |u| where the tensor is adapted and neither norm is 0, else 1

Without adaptation this is AdamW (Loshchilov and Hutter 2019), so the baseline shares every line.
Departures from Algorithm 2: none in the preset `paper`, which takes phi(z) = z.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

PRESETS: dict[str, dict[str, Any]] = {
    # Algorithm 2 of arXiv 1904.00962v5; eps and weight decay from the authors' code.
    "paper": dict(betas=(0.9, 0.999), eps=1e-6, weight_decay=0.01, bias_correction=True, max_grad_norm=None),
    # google-research/albert optimization.py: no bias correction, global norm clipped to 1 before LAMB.
    "google": dict(betas=(0.9, 0.999), eps=1e-6, weight_decay=0.01, bias_correction=False, max_grad_norm=1.0),
    # google-research/bert optimization.py: the paper's AdamW baseline. Adaptation off.
    "adamw": dict(betas=(0.9, 0.999), eps=1e-6, weight_decay=0.01, bias_correction=False, max_grad_norm=1.0,
                  adapt=False),
}  # fmt: skip


class Lamb(torch.optim.Optimizer):
    """Layer-wise adaptive moments for batch training.

    Args:
        params: tensors, or groups with their own `lr`, `weight_decay`, `adapt` and so on (see `decay_groups`).
        lr: learning rate.
        betas, eps, weight_decay: as above. Decay is added to the update, before the trust ratio.
        bias_correction: divide the moments by 1 - beta^t.
        max_grad_norm: scale gradients so that their norm over all groups is at most this; None: no clipping.
        adapt: multiply updates by the trust ratio.
        maximize: ascend.

    `p.grad` is never changed. Moments are fp32, or the parameter's type where that is wider. A step whose gradient is
    not finite changes nothing and is counted. State keys are those of torch's AdamW: step, exp_avg, exp_avg_sq.
    """

    def __init__(
        self, params: Iterable, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-6,
        weight_decay: float = 0.01, *, bias_correction: bool = True, max_grad_norm: float | None = None,
        adapt: bool = True, maximize: bool = False,
    ) -> None:  # fmt: skip
        if max_grad_norm is not None and not max_grad_norm > 0:
            raise ValueError(f"max_grad_norm={max_grad_norm}: must be above 0, or None for no clipping")
        if not (0 <= betas[0] < 1 and 0 <= betas[1] < 1):
            raise ValueError(f"betas={betas}: each must be in [0, 1)")
        for name, value in (("lr", lr), ("eps", eps), ("weight_decay", weight_decay)):
            if not value >= 0:  # NaN included
                raise ValueError(f"{name}={value}: must not be negative")
        self.max_grad_norm = max_grad_norm
        defaults = dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, bias_correction=bias_correction,
                        adapt=adapt, maximize=maximize)  # fmt: skip
        super().__init__(params, defaults)
        self.grad_norm: Tensor | None = None  # of the last step, before clipping, over all groups
        self.step_was_finite: Tensor | None = None  # 0-dim bool: False when the last step changed nothing
        self.trust_ratios: dict[Tensor, Tensor] = {}  # of the last step, by parameter; 1 where not adapted

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update; nothing is written where the gradient's norm is not finite."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        pairs = [(group, p) for group in self.param_groups for p in group["params"] if p.grad is not None]
        for _, p in pairs:
            if p.grad.is_sparse or torch.is_complex(p):
                raise ValueError("Lamb takes dense, real gradients: trust ratios need whole norms")
        self.grad_norm = _global_norm([p.grad for _, p in pairs])
        self.step_was_finite = torch.isfinite(self.grad_norm)
        scale = torch.ones_like(self.grad_norm)
        if self.max_grad_norm is not None:
            scale = (self.max_grad_norm / self.grad_norm).clamp(max=1.0)
        for group, p in pairs:
            self._update(group, p, scale, self.step_was_finite)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """torch's, which narrows moments to their parameter's type: here they keep their own."""
        super().load_state_dict(state_dict)
        saved = (i for group in state_dict["param_groups"] for i in group["params"])
        for p, i in zip((p for group in self.param_groups for p in group["params"]), saved, strict=True):
            for name, value in state_dict["state"].get(i, {}).items():
                self.state[p][name] = value.detach().to(p.device, copy=True)

    def __getstate__(self) -> dict[str, Any]:
        """For copies: torch's knows nothing of what this class added."""
        own: dict[str, Any] = {
            "max_grad_norm": self.max_grad_norm,
            "grad_norm": None,
            "step_was_finite": None,
            "trust_ratios": {},
        }
        return super().__getstate__() | own

    def _update(self, group: dict[str, Any], p: Tensor, scale: Tensor, finite: Tensor) -> None:
        state = self.state[p]
        wide = torch.promote_types(p.dtype, torch.float32)
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
            state["exp_avg"] = torch.zeros_like(p, dtype=wide)
            state["exp_avg_sq"] = torch.zeros_like(p, dtype=wide)
        (beta1, beta2), lr = group["betas"], group["lr"]
        assert p.grad is not None
        x = p.to(wide)
        g = p.grad.to(wide) * scale.to(wide)
        if group["maximize"]:
            g = -g

        t = state["step"] + 1
        m = torch.lerp(state["exp_avg"], g, 1 - beta1)
        v = beta2 * state["exp_avg_sq"] + (1 - beta2) * g * g
        if group["bias_correction"]:
            t64 = t.to(torch.float64)
            r = (m / (1 - beta1**t64).to(wide)) / ((v / (1 - beta2**t64).to(wide)).sqrt() + group["eps"])
        else:
            r = m / (v.sqrt() + group["eps"])
        u = r + group["weight_decay"] * x
        ratio = torch.ones((), dtype=wide, device=p.device)
        if group["adapt"]:
            x_norm, u_norm = torch.linalg.vector_norm(x), torch.linalg.vector_norm(u)
            ratio = torch.where((x_norm > 0) & (u_norm > 0), x_norm / u_norm, ratio)
        x = x - lr * ratio * u

        state["step"].copy_(torch.where(finite, t, state["step"]))
        state["exp_avg"].copy_(torch.where(finite, m, state["exp_avg"]))
        state["exp_avg_sq"].copy_(torch.where(finite, v, state["exp_avg_sq"]))
        p.copy_(torch.where(finite, x, p))
        self.trust_ratios[p] = ratio


def _global_norm(gradients: list[Tensor]) -> Tensor:
    """Norm over all gradients, in fp32 or wider; not finite exactly where a gradient is not (or overflows)."""
    norms = [torch.linalg.vector_norm(g, dtype=torch.promote_types(g.dtype, torch.float32)) for g in gradients]
    return torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros(())
