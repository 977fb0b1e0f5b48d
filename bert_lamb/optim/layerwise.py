"""What every layer-wise optimizer does around its formula: norms of whole tensors, clip, finite check, state, readings.

"Layer" means parameter tensor. A subclass gives the formula.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from bert_lamb.optim import sharded
from bert_lamb.optim.plain import Readings
from bert_lamb.optim.rule import Rule
from bert_lamb.optim.sharded import Formula

SPEED = ("foreach", "fused", "capturable")  # settings of the machine at hand, not of what was saved


@dataclass
class Batch:
    """Tensors of one parameter group that have gradients, all of one device and of the same types."""

    group: dict[str, Any]
    params: list[Tensor]
    grads: list[Tensor]  # spread over ranks as the parameters
    states: list[dict[str, Tensor]]
    grad_norms: list[Tensor]  # L2, of whole tensors

    def state(self, name: str) -> list[Tensor]:
        return [state[name] for state in self.states]


class Layerwise(torch.optim.Optimizer):
    """Base of Lamb and Lars. See there."""

    MOMENTS: ClassVar[tuple[str, ...]]  # names of the state's tensors that are shaped like the parameter
    _step_supports_amp_scaling = True  # GradScaler hands over its scale and its verdict: no host sync, grads untouched

    def __init__(self, params: Iterable, defaults: dict[str, Any], max_grad_norm: float | None) -> None:
        if max_grad_norm is not None and not max_grad_norm > 0:
            raise ValueError(f"max_grad_norm={max_grad_norm}: must be above 0, or None for no clipping")
        super().__init__(params, defaults)
        self.max_grad_norm = max_grad_norm
        self._seen: dict[str, Any] = {}  # what the properties below read; a dictionary, since torch.compile keeps those

    @property
    def grad_norm(self) -> Tensor | None:
        """L2, of the last step's gradients over all groups, before clipping; 0-dim, on the device."""
        return self._seen.get("grad_norm")

    @property
    def step_was_finite(self) -> Tensor | None:
        """0-dim bool, on the device: False when the last step changed nothing."""
        return self._seen.get("finite")

    @property
    def steps_not_finite(self) -> Tensor:
        """0-dim int64, on the device: how many steps changed nothing so far."""
        return self._seen.get("not_finite", torch.zeros((), dtype=torch.int64))

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """torch's; values that make no sense raise ValueError. They may still be changed in `param_groups` later."""
        self.check({**self.defaults, **param_group})
        super().add_param_group(param_group)

    def check(self, group: dict[str, Any]) -> None:
        """Raises ValueError where a group's settings make no sense."""
        lr = group["lr"]
        if isinstance(lr, Tensor) and lr.numel() != 1:
            raise ValueError(f"lr of shape {tuple(lr.shape)}: a number is expected, or a tensor of one")
        if not lr >= 0:  # NaN included
            raise ValueError(f"lr={lr}: must not be negative")
        Rule.of(group)

    def formula(
        self, group: dict[str, Any], x: Tensor, g: Tensor, g_norm: Tensor, state: dict[str, Tensor]
    ) -> Formula:  # fmt: skip
        """The algorithm for one tensor (or this rank's part of it; g_norm is of the whole). Writes nothing."""
        raise NotImplementedError

    def update(self, batches: list[Batch], scale: Tensor, finite: Tensor) -> list[Readings]:
        """The algorithm for all batches, in place; writes nothing where `finite` is false."""
        return sharded.update(batches, self.formula, scale, finite)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update. Nothing is written, on any rank, where the norm of all gradients is not finite."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        batches = list(self._batches())
        norms = sharded.gradient_norms([g for batch in batches for g in batch.grads])
        each = iter(norms.unbind())
        for batch in batches:
            batch.grad_norms = [next(each) for _ in batch.grads]
        norm = torch.linalg.vector_norm(norms)
        scale, finite = torch.ones_like(norm), torch.isfinite(norm)
        grad_scale, found_inf = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)  # of GradScaler
        if grad_scale is not None:
            scale = 1 / grad_scale.to(scale)
            norm = norm * scale
        if found_inf is not None:
            finite = finite & (found_inf.to(scale) == 0)
        if self.max_grad_norm is not None:
            scale = scale * (self.max_grad_norm / norm).clamp(max=1.0)
        readings = self.update(batches, scale, finite)
        if "not_finite" not in self._seen:
            self._seen["not_finite"] = torch.zeros_like(finite, dtype=torch.int64)
        self._seen["not_finite"].add_(~finite)  # in place, so that a captured graph counts too
        self._seen["grad_norm"], self._seen["finite"] = norm, finite
        self._seen["readings"] = [(batch.params, read) for batch, read in zip(batches, readings, strict=True)]
        return loss

    @property
    def readings(self) -> dict[Tensor, Readings]:
        """Trust ratio, weight norm and update norm (0-dim) of the last step, by parameter in their order."""
        seen = self._seen.get("readings", [])
        found = {p: Readings(*(column[i] for column in read)) for ps, read in seen for i, p in enumerate(ps)}
        return {p: found[p] for group in self.param_groups for p in group["params"] if p in found}

    @property
    def trust_ratios(self) -> dict[Tensor, Tensor]:
        """Of the last step, by parameter in their order; 1 where not adapted."""
        return {p: reading.trust_ratios for p, reading in self.readings.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads what this class or another optimizer with these state keys (torch's AdamW) saved.

        Settings of this class are taken, and missing ones keep their values here; of another optimizer's groups none
        is; what changes only speed stays too. torch's own method narrows moments to their parameter's type: here they
        stay fp32 or wider.
        """
        groups = state_dict["param_groups"]
        if len(groups) == len(self.param_groups):
            own = [{k: v for k, v in group.items() if k != "params"} for group in self.param_groups]
            speed = [{k: group[k] for k in SPEED if k in group} for group in own]
            taken = [mine | (saved if "adapt" in saved else {}) for mine, saved in zip(own, groups, strict=True)]
            groups = [
                mine | fast | {"params": saved["params"]}
                for mine, fast, saved in zip(taken, speed, groups, strict=True)
            ]
        super().load_state_dict({**state_dict, "param_groups": groups})
        for mine, saved in zip(self.param_groups, state_dict["param_groups"], strict=True):
            for p, i in zip(mine["params"], saved["params"], strict=True):
                if i in state_dict["state"]:
                    self.state[p] = self._loaded(p, {"step": saved.get("step"), **state_dict["state"][i]})

    def __getstate__(self) -> dict[str, Any]:
        """For copies: torch's knows nothing of what this class added."""
        kept = {name: value for name, value in self._seen.items() if name == "not_finite"}
        return super().__getstate__() | {"max_grad_norm": self.max_grad_norm, "_seen": kept}

    def _loaded(self, p: Tensor, saved: dict[str, Any]) -> dict[str, Tensor]:
        """A tensor's state. apex and timm keep the step in the group."""
        missing = [name for name in ("step", *self.MOMENTS) if saved.get(name) is None]
        if missing:
            raise ValueError(f"the state to be loaded has no {', '.join(missing)}: its optimizer keeps other moments")
        state = {"step": torch.as_tensor(saved["step"], dtype=torch.float32).to(p.device, copy=True)}
        for name in self.MOMENTS:
            state[name] = saved[name].detach().to(p.device, _wide(p), copy=True)
        return state

    def _batches(self) -> Iterator[Batch]:
        for group in self.param_groups:
            found: dict[tuple, Batch] = {}
            for index, p in enumerate(group["params"]):
                if p.grad is None:
                    continue
                if p.grad.is_sparse or torch.is_complex(p):
                    name = group["param_names"][index] if "param_names" in group else f"of shape {tuple(p.shape)}"
                    what = "sparse" if p.grad.is_sparse else "complex"
                    raise ValueError(
                        f"parameter {name} has a {what} gradient: {type(self).__name__} takes dense, real gradients, "
                        "since trust ratios need norms of whole tensors"
                    )
                g = p.grad
                if sharded.is_dtensor(p) and g.placements != p.placements:
                    g = g.redistribute(placements=p.placements)
                kind = p.device, p.dtype, g.dtype, sharded.is_dtensor(p)
                batch = found.setdefault(kind, Batch(group, [], [], [], []))
                batch.params.append(p)
                batch.grads.append(g)
            for batch in found.values():
                batch.states = [self._state(p) for p in batch.params]  # after all were checked
                yield batch

    def _state(self, p: Tensor) -> dict[str, Tensor]:
        state = self.state[p]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
            for name in self.MOMENTS:
                state[name] = torch.zeros_like(p, dtype=_wide(p))
        return state


def lr_of(group: dict[str, Any]) -> float | Tensor:
    """A group's learning rate: a number or 0-dim, whatever the shape of its tensor of one number."""
    lr = group["lr"]
    return lr.squeeze() if isinstance(lr, Tensor) else lr


def _wide(p: Tensor) -> torch.dtype:
    """Of a parameter's moments: fp32, or its own type where that is wider."""
    return torch.promote_types(p.dtype, torch.float32)
